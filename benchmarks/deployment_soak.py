"""Kill, end or stall every process of a deployment at every trip of a masked study, and see the study to its end.

    python benchmarks/deployment_soak.py [--cases N] [--out TABLE.md]

One study; in each of its queries one process meets one fate at the beginning of one trip. What is measured is how long
that query took; what is checked at the end: the study is over, its release and every ledger verify, and no query was
charged twice. A stalled network is its gateway stopped for some seconds: connections stay open, and nothing passes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path = [each for each in sys.path if Path(each).resolve() != Path(__file__).parent]
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from deployment import Deployment, discreet, wait_for  # noqa: E402

PROCESSES = [
    ("hospital-2", "worker"), ("hospital-2", "executor"), ("hospital-2", "supernode"), ("hospital-2", "site"),
    ("coordinator", "study"), ("coordinator", "supervisor"), ("coordinator", "gateway"), ("coordinator", "superlink"),
    ("coordinator", "coordinator"),
]  # fmt: skip
FATES = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "stalled": None}
TRIPS = {
    "A": 0,
    "B": 1,
}  # of a query in whose session everybody is; where somebody is missing B is followed by C
STALL = 6.0
SETTLED = 1.0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "--cases", type=int, default=len(PROCESSES) * len(TRIPS) * len(FATES), help="how many"
    )
    arguments.add_argument("--seed", type=int, default=1, help="of their order")
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    cases = [(*process, trip, fate) for process in PROCESSES for trip in TRIPS for fate in FATES]
    random.Random(given.seed).shuffle(cases)  # noqa: S311  of an order
    cases = cases[: given.cases]
    rows = soak(cases)
    text = table(rows)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


def soak(cases):
    waits = {"trip": 60.0, "again": 2.0, "unreachable": 30.0}
    with tempfile.TemporaryDirectory() as place, Deployment(
        Path(place) / "soak", rounds=5 * len(cases) // 2 + 5, spare=len(cases), dropouts=1, waits=waits
    ) as one:  # fmt: skip
        one.start_all()
        one.begin()
        rows = []
        for owner, name, trip, fate in cases:
            done = one.rounds_done()
            wait_for(lambda done=done: one.rounds_done() > done, "a query in peace", limit=120)
            began = at_trip(one, TRIPS[trip])
            index = one.rounds_done()
            strike(one, owner, name, FATES[fate])
            wait_for(
                lambda index=index: len(one.progress()) > index,
                "the query's end",
                limit=180,
            )
            line = one.progress()[index]
            rows.append({
                "process": f"{name} of {owner}", "trip": trip, "fate": fate, "seconds": time.monotonic() - began,
                "abandoned": line["abandoned"], "missing": line["missing"],
            })  # fmt: skip
            print(rows[-1], flush=True)
        ended = wait_for(one.outcome, "the end of the study", limit=600)
        assert "summary" in ended, ended
        verify(one)
        return rows


def at_trip(one, number):
    """Wait until a trip of the query that is under way begins; when that was."""
    wait_for(
        (one.place / "open" / f"{number:04d}" / "trip").exists,
        f"trip {number}",
        limit=120,
    )
    return time.monotonic()


def strike(one, owner, name, number):
    if name in ("site", "coordinator"):
        pid = one.running[owner].pid
    else:
        pid = wait_for(lambda: one.process(owner, name), f"{name} of {owner}")
    if number is None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STALL)
        os.kill(pid, signal.SIGCONT)
        return
    os.kill(pid, number)
    if name in ("site", "coordinator"):  # nobody starts that again but its operator
        one.running[owner].wait()
        one.start(owner)


def verify(one):
    discreet("release", "verify", one.place / "release")
    for name in one.names:
        export = one.root / f"{name}.jsonl"
        discreet("ledger", "export", one.site(name), "--out", export)
        receipts = one.place / "release" / "receipts" / f"{name}.jsonl"
        discreet(
            "ledger", "verify", export, "--key", one.site(name) / "site.pub", "--receipts", receipts
        )
        bodies = [json.loads(line)["entry"] for line in export.read_bytes().splitlines()]
        charged = [each["body"]["index"] for each in bodies if each["kind"] == "charged"]
        assert charged, "somebody has paid"
        assert len(charged) == len(set(charged)), f"{name} was charged twice"


def table(rows):
    lines = [
        "| process | fate | cases | seconds of its query, median | longest | without that site | abandoned |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = {}
    for row in rows:
        groups.setdefault((row["process"], row["fate"]), []).append(row)
    for (process, fate), each in sorted(groups.items()):
        seconds = [row["seconds"] for row in each]
        missing, abandoned = (
            sum(bool(row[name]) for row in each) for name in ("missing", "abandoned")
        )
        times = f"{statistics.median(seconds):.1f} | {max(seconds):.1f}"
        lines.append(f"| {process} | {fate} | {len(each)} | {times} | {missing} | {abandoned} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
