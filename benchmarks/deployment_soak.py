"""Kill, end or stall every process of a deployment at every trip of a masked study, and see the study to its end.

    python benchmarks/deployment_soak.py [--cases N] [--out TABLE.md]

One study for each trip: setup, A, B, and C, which there is where a site is missing. In one query after another one
process meets one fate at the beginning of that trip. What is measured is how long the query took; what is checked at
the end: the study is over, its release and every ledger verify, and no query was charged twice. A stalled network is
its gateway stopped for some seconds: connections stay open, and nothing passes.

For setup and C a bystander, another site's worker, is killed before: it has lost its keys, says so in trip A, is
missing in that query, and the next one begins with the setup of a session.
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

from deployment import Deployment, discreet  # noqa: E402
from machine import wait_for  # noqa: E402

PROCESSES = [
    ("hospital-2", "worker"), ("hospital-2", "executor"), ("hospital-2", "supernode"), ("hospital-2", "site"),
    ("coordinator", "study"), ("coordinator", "supervisor"), ("coordinator", "gateway"), ("coordinator", "superlink"),
    ("coordinator", "coordinator"),
]  # fmt: skip
FATES = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "stalled": None}
TRIPS = ("setup", "A", "B", "C")
SITES, DROPOUTS = 6, 2  # the victim and the bystander
BYSTANDER = "hospital-5"
QUERIES = 6  # a case takes no more of them
STALL = 6.0
SETTLED = 1.0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--cases", type=int, help="how many of each trip; default: all")
    arguments.add_argument("--trips", nargs="+", choices=TRIPS, default=TRIPS)
    arguments.add_argument("--seed", type=int, default=1, help="of their order")
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    order = random.Random(given.seed)  # noqa: S311  of cases
    rows = []
    for trip in given.trips:
        cases = [(*process, fate) for process in PROCESSES for fate in FATES]
        order.shuffle(cases)
        rows += soak(trip, cases[: given.cases])
    text = table(rows)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


def soak(trip, cases):
    """A study in which all of this happens at one trip; a row for each case."""
    waits = {"trip": 60.0, "again": 2.0, "unreachable": 30.0}
    with tempfile.TemporaryDirectory() as place, Deployment(
        Path(place) / "soak", sites=SITES, rounds=QUERIES * len(cases) + 5, spare=2 * len(cases), dropouts=DROPOUTS,
        waits=waits,
    ) as one:  # fmt: skip
        one.start_all()
        one.begin()
        rows = []
        try:
            for case in cases:
                rows.append(meet(one, trip, *case))
                print(rows[-1], flush=True)
            ended = wait_for(one.outcome, "the end of the study", limit=1200)
            assert "summary" in ended, ended
            verify(one)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{one.logs()}") from error
        return rows


def meet(one, trip, owner, name, fate):
    """One process meets its fate."""
    done = one.rounds_done()
    wait_for(lambda: one.rounds_done() > done, "a query in peace", limit=120)
    if trip in ("setup", "C"):
        one.kill(BYSTANDER, "worker")
    wait_for(lambda: begins(one, trip), f"trip {trip}", limit=120)
    began, index = time.monotonic(), one.rounds_done()
    strike(one, owner, name, FATES[fate])
    wait_for(lambda: len(one.progress()) > index, "the query's end", limit=180)
    line = one.progress()[index]
    return {
        "process": f"{name} of {owner}", "trip": trip, "fate": fate, "seconds": time.monotonic() - began,
        "abandoned": line["abandoned"], "missing": "hospital-2" in line["missing"],
    }  # fmt: skip


def begins(one, trip):
    """Is it under way, in this moment? The journal's state says whether its query began with a setup."""
    try:
        line, _, _ = (one.place / "open" / "state").read_bytes().partition(b"\n")
    except FileNotFoundError:
        return False
    query = json.loads(line)[0]
    session = query["state"]
    outside = len(session["members"]) < SITES and query["index"] >= session["next_setup"]
    anew = bool(not session["members"] or session["lost"] or outside)
    number = len(list(one.place.glob("open/*/trip"))) - 1
    return number == TRIPS.index(trip) - (0 if anew else 1) and number >= 0


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
        "| process | fate | trips | seconds of its query, median | longest | without that site | abandoned |",
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
        trips = ", ".join(row["trip"] for row in each)
        lines.append(f"| {process} | {fate} | {trips} | {times} | {missing} | {abandoned} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
