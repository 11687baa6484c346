"""Measure what masks cost: the demo as it is, and the same with its masks taken out.

Both have the same noise, so their sums, and their models, must be equal bit for bit; the run fails if they are not.
What differs is time. Other levels of trust stand beside it for accuracy: `local` has all the noise at every site.

    python benchmarks/masks.py [--seeds 5] [--out FILE.md]
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from unittest import mock

from safetensors.numpy import load_file

sys.path.remove(
    str(Path(__file__).parent)
)  # or gradients.py beside this file would hide the package

from simulations.run import Options, simulate
from study.guarantee import Guarantee
from study.templates import template_study

VARIANTS = (
    ("aggregate", True),
    ("aggregate", False),
    ("local", False),
    ("server", True),
    ("unsafe", False),
)


def run(trust, seed, masked):
    """One simulated study: its summary, and its model."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "release"
        options = Options(out=out, seed=seed, trust=trust)
        if masked:
            summary = simulate(template_study("breast-cancer"), options)
        else:
            with mock.patch.object(Guarantee, "masked", False):  # what no real site can be told
                summary = simulate(template_study("breast-cancer"), options)
        return summary, load_file(out / "model.safetensors")


def measure(seeds):
    """{variant: summaries}, interleaved by seed."""
    found = {variant: [] for variant in VARIANTS}
    for seed in seeds:
        models = {}
        for variant in VARIANTS:
            summary, models[variant] = run(variant[0], seed, variant[1])
            found[variant].append(summary)
        with_masks, without = models["aggregate", True], models["aggregate", False]
        for name, value in with_masks.items():
            if value.tobytes() != without[name].tobytes():
                sys.exit(f"seed {seed}: {name} differs with masks and without")
        print(f"seed {seed}: done", file=sys.stderr)
    return found


def table(found):
    """The table in Markdown."""
    lines = [
        "| trust | masks | accuracy | recall | F1 | ε against the coordinator | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for (trust, masked), summaries in found.items():
        metrics = [
            f"{statistics.mean(each['metrics'][name] for each in summaries):.3f}".lstrip("0")
            for name in ("accuracy", "recall", "f1")
        ]
        against = summaries[0]["epsilon_against_server"]
        shown = (
            "no bound"
            if against is None or (trust == "aggregate" and not masked)
            else f"{against:.1f}"
        )
        seconds = statistics.median(each["seconds"] for each in summaries)
        name = f"`{trust}`" + (" (the demo)" if trust == "aggregate" and masked else "")
        masks = "yes" if masked else "taken out" if trust == "aggregate" else "none"
        lines.append("| " + " | ".join([name, masks, *metrics, shown, f"{seconds:.1f}"]) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    result = table(measure(range(1, options.seeds + 1)))
    print(result)
    if options.out:
        options.out.write_text(result + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
