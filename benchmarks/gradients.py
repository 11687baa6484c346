"""Measure clip-and-sum of single gradients against Opacus and torch.

Every competitor is a process of its own, with one thread, on one core, started several times. All
are asked in turn, several times over, so that the noise of a machine hits them alike; what is
printed are medians of the CPU time of one step in milliseconds, and the largest resident memory.

* plain: our own model, not private: mean of the gradients, in the same style and by the same
  products.
* private: forward, backward, norms, clipping weights, weighted sum, as a vector in float64.
* hooks, ghost: Opacus, `GradSampleModule` and `GradSampleModuleFastGradientClipping`.
* torch: forward and backward, not private.

Without torch or Opacus their columns stay empty.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPETITORS = ("plain", "private", "hooks", "ghost", "torch")
MLP = {"kind": "mlp", "inputs": 784, "classes": 10}
CASES = [
    ("linear 20", {"kind": "linear", "inputs": 20}, [256]),
    ("softmax 784-10", {"kind": "softmax", "inputs": 784, "classes": 10}, [64, 256, 1024]),
    ("MLP 784-256-10", MLP | {"hidden": [256]}, [64, 256, 1024]),
    ("MLP 784-512-512-10", MLP | {"hidden": [512, 512]}, [256]),
    ("CNN 28x28", {"kind": "cnn", "inputs": 784, "classes": 10}, [64, 256, 1024]),
]
QUICK = [(name, settings, batches[:2]) for name, settings, batches in CASES if "512" not in name]
BOUND = 1.0  # the clipping norm


def plain_step(settings, batch):
    """Gradient of the mean loss with the model's own layers, without anything per unit."""
    import numpy as np

    from gradients._products import column_product, sum_of_outer_products
    from gradients._stages import Batch
    from gradients.activations import through_activation
    from gradients.dense import Dense
    from gradients.losses import row_losses

    model, parameters, blocks = numpy_problem(settings, batch)

    def layer(stage, weight, trace, deltas, below):
        """As `Dense.backward` and `Convolution.backward`, but summed over the batch at once."""
        if isinstance(stage, Dense):
            deltas = through_activation(stage.activation, deltas, trace.output)
            under = None
            if below:
                under = column_product(
                    weight.reshape(stage.outputs, stage.inputs).T, deltas, deltas.shape[1]
                )
            ((weight, bias),) = sum_of_outer_products(deltas, trace.columns, deltas.shape[1])
            return weight, bias, under
        batch = Batch(units=deltas.shape[1], rows=1, tile=deltas.shape[1])
        # Products of single images, then their sum: in NumPy no other way was found to be faster.
        formed, under = stage.backward(
            weight, trace, deltas, batch, augmented=None, with_inputs=below
        )
        ((weight, bias),) = formed.weighted_sums(np.ones(batch.units, model.dtype))
        return weight, bias, under

    def portion(arrays, block, rows, scale):
        columns, traces = block.flat_inputs[rows].T, []
        for index, stage in enumerate(model.stages):
            trace = stage.forward(
                arrays[2 * index], arrays[2 * index + 1], columns, columns.shape[1]
            )
            traces.append(trace)
            columns = trace.output
        _, deltas = row_losses(model.loss, columns, block.flat_targets[rows])
        deltas *= scale
        parts = []
        for index in reversed(range(len(traces))):
            weight, bias, deltas = layer(
                model.stages[index], arrays[2 * index], traces[index], deltas, index > 0
            )
            parts[:0] = [weight.reshape(-1), bias.reshape(-1)]
        return np.concatenate(parts)

    def step():
        arrays = model.checked(parameters)
        total = np.zeros(model.size)
        for block in blocks:
            count = len(block.flat_targets)
            size = min(count, 32) if settings["kind"] == "cnn" else count
            for start in range(0, count, size):
                rows = slice(start, start + size)
                total += portion(arrays, block, rows, model.dtype(1 / batch))
        return total

    return step


def private_step(settings, batch):
    import numpy as np

    from gradients import unit_gradients

    model, parameters, blocks = numpy_problem(settings, batch)

    def step():
        total = None
        for block in blocks:
            found = unit_gradients(model, parameters, block)
            weights = BOUND / np.maximum(found.norms, BOUND)
            total = found.weighted_sum(weights, add_to=total)
        return total

    return step


def numpy_problem(settings, batch):
    """Model, parameters and blocks as in a study of at most `batch` units."""
    import numpy as np

    from gradients import make_blocks, make_model, tile_units

    model = make_model(**settings)
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((batch, model.inputs)).astype(np.float32)
    classes = model.classes
    targets = generator.integers(0, classes, batch) if classes else inputs[:, 0].copy()
    size = min(batch, tile_units(batch, np.float32))
    vector = 0.05 * generator.standard_normal(model.size)
    return (
        model,
        model.unflatten(vector),
        make_blocks(inputs, targets, block_units=model.block_units(size), tile_units=size),
    )


def torch_problem(settings, batch):
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    if settings["kind"] == "cnn":
        module = nn.Sequential(
            nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        inputs = torch.randn(batch, 1, 28, 28)
    else:
        widths = [settings["inputs"], *settings.get("hidden", []), settings.get("classes", 1)]
        layers = []
        for below, above in pairwise(widths):
            layers += [nn.Linear(below, above), nn.ReLU()]
        module = nn.Sequential(*layers[:-1])
        inputs = torch.randn(batch, settings["inputs"])
    if settings["kind"] == "linear":
        return module, inputs, torch.randn(batch, 1), nn.functional.mse_loss
    return module, inputs, torch.randint(0, 10, (batch,)), nn.functional.cross_entropy


def torch_step(settings, batch):
    module, inputs, targets, loss = torch_problem(settings, batch)

    def step():
        module.zero_grad(set_to_none=True)
        loss(module(inputs), targets).backward()

    return step


def hooks_step(settings, batch):
    import torch
    from opacus import GradSampleModule

    module, inputs, targets, loss = torch_problem(settings, batch)
    wrapped = GradSampleModule(module, loss_reduction="sum")

    def step():
        for parameter in wrapped.parameters():
            parameter.grad = parameter.grad_sample = None
        loss(wrapped(inputs), targets, reduction="sum").backward()
        grads = [parameter.grad_sample for parameter in wrapped.parameters()]
        norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)
        factors = torch.clamp(BOUND / norms, max=1.0)
        return [torch.einsum("i,i...", factors, grad) for grad in grads]

    return step


def ghost_step(settings, batch):
    import torch
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    module, inputs, targets, loss = torch_problem(settings, batch)
    wrapped = GradSampleModuleFastGradientClipping(
        module, max_grad_norm=BOUND, use_ghost_clipping=True, loss_reduction="sum"
    )

    def step():
        wrapped.zero_grad(set_to_none=True)
        wrapped.enable_hooks()
        losses = loss(wrapped(inputs), targets, reduction="none").reshape(batch, -1).mean(dim=1)
        losses.sum().backward(retain_graph=True)
        factors = torch.clamp(BOUND / wrapped.get_norm_sample().detach(), max=1.0)
        wrapped.zero_grad(set_to_none=True)
        wrapped.disable_hooks()
        (losses * factors).sum().backward()

    return step


STEPS = {
    "plain": plain_step, "private": private_step, "hooks": hooks_step, "ghost": ghost_step,
    "torch": torch_step,
}  # fmt: skip


def serve(competitor, settings, batch):
    """Child: for every line that comes in, time as many steps as it says."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    step = STEPS[competitor](settings, batch)
    step()
    for line in sys.stdin:
        count = int(line)
        start = time.process_time()
        for _ in range(count):
            step()
        spent = (time.process_time() - start) / count
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([1e3 * spent, memory]), flush=True)


def start(competitor, settings, batch):
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [
        sys.executable,
        "-P",
        __file__,
        "--serve",
        competitor,
        json.dumps(settings),
        str(batch),
    ]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def ask(process, count):
    """[CPU ms, MB], or None if the process could not start (no torch)."""
    try:
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        return None
    return json.loads(line) if line else None


def measure(settings, batch, launches, rounds, seconds):
    """Medians {competitor: (ms, MB)} over interleaved rounds of about `seconds` each.

    Competitors are started anew several times: by where its memory lies, a process is up to a
    twentieth faster or slower for all of its life.
    """
    found = {}
    for _ in range(launches):
        children = {name: start(name, settings, batch) for name in COMPETITORS}
        first = {name: ask(child, 1) for name, child in children.items()}
        ready = {name: child for name, child in children.items() if first[name]}
        counts = {name: max(1, int(1e3 * seconds / max(first[name][0], 0.01))) for name in ready}
        for _ in range(rounds):
            for name, child in ready.items():
                found.setdefault(name, []).append(ask(child, counts[name]))
        for child in children.values():
            with contextlib.suppress(BrokenPipeError):  # it never started: there is no torch
                child.stdin.close()
            child.wait()
    return {
        name: (statistics.median(ms for ms, _ in values), max(mb for _, mb in values))
        for name, values in found.items()
    }


def table(rows):
    """The table in Markdown; ratios above one speak for `private`."""
    lines = [
        (
            "| model, batch | plain | private | hooks | ghost | torch | private / plain "
            "| ghost / private | best Opacus / private | MB private | MB ghost |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def number(value, digits=3):
        return "" if value is None else f"{value:.{digits}g}"

    def ratio(above, below):
        return number(above / below) if above and below else ""

    for name, batch, found in rows:
        ms = {key: found[key][0] if key in found else None for key in COMPETITORS}
        opacus = [ms[key] for key in ("hooks", "ghost") if ms[key]]
        cells = [number(ms[key]) for key in COMPETITORS]
        cells += [ratio(ms["private"], ms["plain"]), ratio(ms["ghost"], ms["private"])]
        cells += [ratio(min(opacus, default=None), ms["private"])]
        cells += [number(found[key][1]) if key in found else "" for key in ("private", "ghost")]
        lines.append(f"| {name}, {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--quick", action="store_true", help="fewer cases, rounds and steps")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        competitor, settings, batch = options.serve
        serve(competitor, json.loads(settings), int(batch))
        return
    rows = []
    for name, settings, batches in QUICK if options.quick else CASES:
        for batch in batches if options.only in name else ():
            found = measure(settings, batch, *((1, 5, 0.05) if options.quick else (3, 5, 0.1)))
            rows.append((name, batch, found))
            print(f"{name}, {batch}: done", file=sys.stderr)
    result = table(rows)
    print("CPU milliseconds of one step, one thread, float32, medians of interleaved rounds.\n")
    print(result)
    if options.out:
        options.out.write_text(result + "\n")


if __name__ == "__main__":
    main()
