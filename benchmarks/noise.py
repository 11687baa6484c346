"""Measure the discrete Gaussian sampler against OpenDP's, NumPy's normal and the keystream that it reads.

Every competitor is a process of its own, on one core. All are asked in turn, several times over, so that the noise of a
machine hits them alike; what is printed are medians of million samples per second of CPU time.

* discreet: `privacy.discrete_gaussian`, by deviation: tables up to 2^12, sums of two to four stretched draws beyond.
* opendp: its discrete Gaussian on vectors of integers, exact by rejection; empty where it is not installed.
* numpy: PCG64 `standard_normal` times the deviation. Not safe: it is floating-point, and its generator can be guessed.
* keystream: AES-256-CTR words alone, the limit for one word a sample.

    python benchmarks/noise.py [--quick] [--out FILE.md]
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPETITORS = ("discreet", "opendp", "numpy", "keystream")
POWERS = (4, 8, 12, 13, 22, 23, 32, 42)  # of two; both sides of each step from one draw to four


def discreet_sampler(power):
    from privacy.discrete_gaussian import LADDER, sample_discrete_gaussian
    from privacy.keystream import Keystream

    stream = Keystream(os.urandom(32))
    rung = min(LADDER, key=lambda each: abs(math.log2(each.sigma) - power))
    return lambda count: sample_discrete_gaussian(rung, count, stream)


def opendp_sampler(power):
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    measurement = dp.m.make_gaussian(*space, scale=2.0**power)
    return lambda count: measurement([0] * count)


def numpy_sampler(power):
    import numpy as np

    generator = np.random.default_rng()
    return lambda count: generator.standard_normal(count) * 2.0**power


def keystream_sampler(_power):
    from privacy.keystream import Keystream

    return Keystream(os.urandom(32)).words


SAMPLERS = {
    "discreet": discreet_sampler, "opendp": opendp_sampler, "numpy": numpy_sampler,
    "keystream": keystream_sampler,
}  # fmt: skip


def serve(competitor, power):
    """Child: for every line that comes in, draw as many samples as it says, and tell the CPU seconds."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sampler = SAMPLERS[competitor](power)
    sampler(1000)
    for line in sys.stdin:
        start = time.process_time()
        sampler(int(line))
        print(json.dumps(time.process_time() - start), flush=True)


def start(competitor, power):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-P", __file__, "--serve", competitor, str(power)], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def ask(process, count):
    """CPU seconds, or None if the process could not start (no opendp)."""
    try:
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        return None
    return json.loads(line) if line else None


def measure(power, rounds, seconds):
    """Medians {competitor: million samples a second} over interleaved rounds of about `seconds` each."""
    children = {name: start(name, power) for name in COMPETITORS}
    trial = 20_000
    first = {name: ask(child, trial) for name, child in children.items()}
    ready = {name: child for name, child in children.items() if first[name] is not None}
    counts = {name: int(trial * max(1, seconds / max(first[name], 1e-4))) for name in ready}
    found = {name: [] for name in ready}
    for _ in range(rounds):
        for name, child in ready.items():
            found[name].append(ask(child, counts[name]))
    for child in children.values():
        with contextlib.suppress(BrokenPipeError):  # it never started: there is no opendp
            child.stdin.close()
        child.wait()
    return {name: counts[name] / statistics.median(values) / 1e6 for name, values in found.items()}


def table(rows):
    """The table in Markdown."""
    lines = [
        f"| deviation | {' | '.join(COMPETITORS)} | discreet / opendp | discreet / keystream |",
        "|---|" + "---|" * (len(COMPETITORS) + 2),
    ]

    def number(value):
        return "" if value is None else f"{value:.3g}"

    for power, found in rows:
        cells = [number(found.get(name)) for name in COMPETITORS]
        ours = found["discreet"]
        cells += [
            number(ours / found[name] if name in found else None)
            for name in ("opendp", "keystream")
        ]
        lines.append(f"| 2^{power} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--quick", action="store_true", help="fewer deviations, rounds and samples")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]))
        return
    rows = []
    for power in POWERS[2:5:2] if options.quick else POWERS:
        rows.append((power, measure(power, *((5, 0.05) if options.quick else (15, 0.2)))))
        print(f"2^{power}: done", file=sys.stderr)
    result = table(rows)
    print("Million samples a second of CPU time, one core, medians of interleaved rounds.\n")
    print(result)
    if options.out:
        options.out.write_text(result + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
