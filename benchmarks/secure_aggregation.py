"""Measure secure aggregation against Flower's SecAgg+, on the same vectors and without a network.

Every competitor is a process of its own, on one core. All are asked in turn, several times over; what is printed are
medians of CPU seconds of one round.

* discreet: `privacy/secure_aggregation` on a complete graph, with the receipts that go with it. A site decodes the
  request, scales, rounds, adds noise, masks, deals shares, encodes, hashes and signs; the coordinator decodes and
  checks every message, adds the uploads, recovers the masks and takes them off. All uploads are real, and the sum is
  checked.
* flower: the functions of Flower's own mod, in the order in which it calls them, and the sum and unmasking of its
  workflow by its own primitives. Keys are agreed on in every round, as it does. Its graph is sparse where n is large:
  7, 20 and 30 neighbours for 8, 32 and 100 sites. A first round is all its own, and the sum is checked; later only
  the measured uploads are, and the others are random numbers of the same form, which take the server as long.
* keystream: the limit. As many AES-256-CTR streams as masks have to be made, added in blocks that fit the cache, and
  nothing else: no keys are agreed on or derived, nothing is dealt, sealed, encoded or checked.

    python benchmarks/secure_aggregation.py [--quick] [--out FILE.md]
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))

from masked_sums.common import medians  # noqa: E402
from masked_sums.flower import Flower  # noqa: E402
from masked_sums.limit import Limit  # noqa: E402
from masked_sums.ours import Discreet  # noqa: E402
from tables import goals_table, lines_of  # noqa: E402

COMPETITORS = ("discreet", "flower", "keystream")


def missing_of(sites, share):
    """The sites that do not upload, spread over the roster: a share of all, at least one if there is any."""
    count = max(1, int(sites * share)) if share else 0
    return tuple(range(sites // count, sites + 1, sites // count))[:count] if count else ()


def serve(competitor, sites):
    """Child: what setup took, then for every case that comes in the figures of one round."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rounds = {"discreet": Discreet, "flower": Flower, "keystream": Limit}[competitor](sites)
    print(json.dumps(rounds.setup), flush=True)
    for line in sys.stdin:
        print(json.dumps(rounds.run(**json.loads(line))), flush=True)


class Child:
    """A competitor in a process of its own."""

    def __init__(self, competitor, sites):
        environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve", competitor, str(sites)], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.setup = json.loads(self.process.stdout.readline())

    def ask(self, **case):
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(sites, dimensions, rounds):
    """{(n, d, missing): {competitor: figures}} of interleaved rounds, and what our setup took."""
    children = {name: Child(name, sites) for name in COMPETITORS}
    found = {}
    for dimension, share in itertools.product(dimensions, (0, 0.1)):
        missing = missing_of(sites, share)
        case = {"dimension": dimension, "missing": missing}
        turns = [
            {name: child.ask(**case, memory=False) for name, child in children.items()}
            for _ in range(rounds)
        ]
        figures = {name: medians([turn[name] for turn in turns]) for name in COMPETITORS}
        if missing and dimension == max(dimensions):  # with few numbers it is the rest that counts
            for name, child in children.items():
                figures[name] |= child.ask(**case, memory=True)
        found[sites, dimension, len(missing)] = figures
        print(f"n={sites}, d={dimension}, {len(missing)} missing: done", file=sys.stderr)
    setup = children["discreet"].setup
    for child in children.values():
        child.end()
    return found, setup


def number(value):
    """Three digits, or nothing."""
    return "" if value is None else f"{value:.3g}"


def table(found):
    """CPU seconds of a round, and bytes and memory as multiples of a vector of d numbers of 4 bytes."""
    heads = [
        "n", "d", "missing", "site", "of it masking", "of it trips B, C", "masking / keystream", "Flower site",
        "coordinator", "coordinator / keystream", "Flower server", "Flower / coordinator", "upload / plain",
        "Flower upload / plain", "memory", "Flower memory",
    ]  # fmt: skip
    rows = []
    for (sites, dimension, missing), figures in found.items():
        ours, flower, limit = (figures[name] for name in COMPETITORS)
        values = [
            ours["site"], ours["masking"], ours["site B, C"], ours["masking"] / limit["site"], flower["site"],
            ours["coordinator"], ours["coordinator"] / limit["coordinator"], flower["coordinator"],
            flower["coordinator"] / ours["coordinator"], ours["upload"], flower["upload"], ours.get("vectors"),
            flower.get("vectors"),
        ]  # fmt: skip
        rows.append([str(sites), f"{dimension:,}", str(missing), *map(number, values)])
    return lines_of(heads, rows)


def setup_table(setups):
    """CPU seconds of a session, which lasts as long as its sites do."""
    rows = [[str(sites), *map(number, setup.values())] for sites, setup in setups.items()]
    return lines_of(["n", "setup at a site", "setup at the coordinator"], rows)


def goals(figures):
    """The goals, for the largest case with sites missing; memory to a tenth of a vector, as hashes are inputs too."""
    ours, flower, limit = (figures[name] for name in COMPETITORS)
    checks = [
        ("a site's whole work, s", ours["site"], "at most", 0.25),
        ("masking / keystream", ours["masking"] / limit["site"], "at most", 1.5),
        ("coordinator, s", ours["coordinator"], "at most", 1.5),
        ("upload / plain", ours["upload"], "at most", 1.02),
        ("Flower's server / coordinator", flower["coordinator"] / ours["coordinator"], "at least", 10),
        ("memory at the coordinator, vectors", round(ours["vectors"], 1), "at most", 3),
    ]  # fmt: skip
    return goals_table(checks)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument("--quick", action="store_true", help="fewer sites, numbers and rounds")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]))
        return
    sizes = (
        ((8,), (10_000, 100_000), 2)
        if options.quick
        else ((8, 32, 100), (10_000, 100_000, 1_000_000), 3)
    )
    found, setups = {}, {}
    for sites in sizes[0]:
        results, setups[sites] = measure(sites, sizes[1], sizes[2])
        found |= results
    largest = max(found)
    parts = [
        table(found), setup_table(setups), "n={}, d={:,}, {} missing:".format(*largest), goals(found[largest])
    ]  # fmt: skip
    result = "\n\n".join(parts)
    print(f"CPU seconds, one core, medians of interleaved rounds.\n\n{result}")
    if options.out:
        options.out.write_text(result + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
