"""Measure a deployment on the loopback: seconds a trip, MB/s of an echo, and memory, beside Flower as it comes.

    python benchmarks/deployment.py [--quick] [--out FILE.md]

Both federations are up at the same time and are asked in turn; while one is asked, what the other would do when idle
is stopped: our executors, which look for work every .1 s, and Flower's SuperExecs. Printed are medians, and the range.

* echo: our SuperLink behind our gateway, Flower's own SuperNodes, our executors. Their confined workers have a desk
  that inverts every byte of a message, so that no part of a reply is spared for being known already. The coordinator's
  side is that of a study process (`server/study_process.py`): its Grid, its trips, its journal on the disk. Nobody
  is asked twice, however long it takes.
* masked study: the same with everything, started by `discreet`: ledgers, signatures, masks, noise, checkpoints. The
  seconds of a query, divided by its two trips; the first query, which sets up the session, is left out.
* Flower: `flower-superlink`, `flower-supernode`s and `flwr run` with their defaults: subprocess isolation, a database
  in memory; without TLS, node authentication and a gateway, all of which we have. The ServerApp times
  `grid.send_and_receive` of an ArrayRecord of as many bytes, other ones for every site, and the ClientApp inverts them.

Memory is the proportional set size (PSS) at its highest: pages that several processes have count in parts. As all
sites of this machine share the pages of their libraries, what one site would take on a machine of its own stands
beside it: its private pages, and each file's pages once. Ours is measured in the masked study, Flower's in the echo.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This directory last: `deployment` is that of the tests.
sys.path = [
    str(HERE.parent / "tests" / "support"),
    *(each for each in sys.path if Path(each).resolve() != HERE),
    str(HERE),
]

from echoes.common import MB, SMALL, STARTING, WAITS, FailedError, say, stopped  # noqa: E402
from echoes.memory import COORDINATOR_PARTS, FLOWER_PARTS, SITE_PARTS, Memory  # noqa: E402
from echoes.ours import Ours, be_executor, be_worker  # noqa: E402
from echoes.stock import Stock  # noqa: E402
from tables import goals_table, lines_of  # noqa: E402

# What is measured


def in_turn(federations, sites, size, times):
    """Seconds of some trips of every federation, or the reason why there are none."""
    found = {each.name: [] for each in federations}
    for _ in range(times):
        for each in federations:
            if isinstance(found[each.name], str):
                continue
            idle = [pid for other in federations if other is not each for pid in other.idlers()]
            with stopped(idle):
                try:
                    found[each.name].append(each.trip(sites, size))
                except FailedError as error:
                    found[each.name] = str(error)
                    say(f"{each.name}, {size:,} bytes: {error}")
    return found


def measure_echoes(sizes, trips, megabytes):
    """({sites: seconds}, {MB: seconds}, Flower's memory): trips, and echoes with one site."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(Ours(place / "ours", max(sizes)))
        stock = stack.enter_context(Stock(place / "flower"))
        say("both federations are up")
        of_trips, of_echoes = {}, {}
        for sites in sizes:
            for each in (ours, stock):
                each.have(sites)
            in_turn([ours, stock], sites, SMALL, 1)  # the first one brings the app along
            of_trips[sites] = in_turn([ours, stock], sites, SMALL, trips)
            say(f"trips to {sites}: {shown_all(of_trips[sites])}")
            for size, times in megabytes.items() if sites == 1 else ():
                of_echoes[size] = in_turn([ours, stock], 1, size * MB, times)
                say(f"echo of {size} MB: {shown_all(of_echoes[size])}")
        roots = {"Flower": stock.nodes[0].pid}
        with stopped(ours.idlers()), Memory(roots, FLOWER_PARTS, 0.2) as memory:
            stock.trip(max(sizes), SMALL)
        say("Flower's memory is measured")
        of_flower = memory.found["Flower"]
    say("both are ended")
    return of_trips, of_echoes, of_flower


def measure_study(sites, rounds):
    """Seconds a trip of every query but the first, and the memory of a site and of the coordinator."""
    from deployment import Deployment
    from machine import wait_for

    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = Deployment(place / "study", sites=sites, rounds=rounds, waits=WAITS)
        one = stack.enter_context(made)
        one.start_all()
        say("the study's federation is up")
        roots = {
            "site": one.running[one.names[0]].pid,
            "coordinator": one.running["coordinator"].pid,
        }
        with Memory(roots, SITE_PARTS | COORDINATOR_PARTS, 1.0) as memory:
            one.begin()
            limit = STARTING + 20.0 * rounds
            outcome = wait_for(one.outcome, "the end of the study", limit=limit)
        assert "summary" in outcome, outcome
        lines = one.progress()
    assert not any(each["abandoned"] or each["missing"] for each in lines), "somebody was missing"
    seconds = [each["seconds"] / 2 for each in lines[1:]]
    say(f"masked study of {sites} sites: {shown(seconds)}")
    return seconds, memory.found


# What is printed


def middle(values):
    """The median; None of what was not measured."""
    return statistics.median(values) if values and not isinstance(values, str) else None


def shown(values):
    """Median and range of seconds, or why there are none."""
    if isinstance(values, str):
        return f"none: {values}"
    if not values:
        return ""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def shown_all(found):
    return ", ".join(f"{name} {shown(values)}" for name, values in found.items())


def ratio(above, below):
    """As a number with two digits, or nothing."""
    return f"{middle(above) / middle(below):.1f}" if middle(above) and middle(below) else ""


def trips_table(of_trips, of_studies):
    """Seconds of a trip."""
    heads = ["sites", "echo, s", "masked study, s", "Flower, s", "Flower / echo"]
    rows = [
        [
            str(sites), shown(found["Discreet"]), shown(of_studies.get(sites)) or "masks need two",
            shown(found["Flower"]), ratio(found["Flower"], found["Discreet"]),
        ] for sites, found in of_trips.items()
    ]  # fmt: skip
    return lines_of(heads, rows)


def echoes_table(of_echoes):
    """MB/s, both ways together."""
    heads = ["MB each way", "echo, s", "MB/s", "Flower, s", "MB/s", "Flower / echo"]
    rows = []
    for size, found in of_echoes.items():
        speeds = {
            name: f"{2 * size / middle(values):.1f}" if middle(values) else "0"
            for name, values in found.items()
        }
        rows.append([
            str(size), shown(found["Discreet"]), speeds["Discreet"], shown(found["Flower"]), speeds["Flower"],
            ratio(found["Flower"], found["Discreet"]),
        ])  # fmt: skip
    return lines_of(heads, rows)


def memory_table(site, coordinator, flower):
    """MB of PSS at the highest."""

    def megabytes(value):
        return "not readable by this user" if value is None else f"{value / MB:.0f}"

    rows = []
    for owner, parts, found in (
        ("a site", SITE_PARTS, site), ("Flower's site", FLOWER_PARTS, flower),
        ("the coordinator", COORDINATOR_PARTS, coordinator),
    ):  # fmt: skip
        rows += [[owner, part, megabytes(found.get(part)), ""] for part in parts]
        together = megabytes(found.get("together"))
        rows.append([owner, "**together**", together, megabytes(found.get("alone"))])
    return lines_of(["", "process", "MB of PSS", "on a machine of its own"], rows)


def goals(sites, found, study, site):
    """The goals, at the largest number of sites."""
    echo, flower = middle(found["Discreet"]), middle(found["Flower"])
    memory = site.get("together")
    checks = [
        (f"a trip to {sites} sites, s", echo, "at most", 2.5),
        (f"a trip of a masked study of {sites} sites, s", middle(study), "at most", 2.5),
        (
            "the same as a part of Flower's",
            echo / flower if echo and flower else None,
            "at most",
            1 / 3,
        ),
        ("a site's processes together, MB of PSS", memory / MB if memory else None, "at most", 300),
    ]
    return goals_table(checks)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 and 2 sites, 2 trips, 1 MB")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument("--executor", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.executor or options.worker:
        sys.exit(be_executor(options.executor) if options.executor else be_worker(options.worker))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # whatever runs is ended first
    sizes, trips, megabytes, rounds = (
        ((1, 2), 2, {1: 2}, 3) if options.quick else ((1, 2, 4), 5, {1: 3, 10: 3, 100: 2}, 6)
    )
    of_trips, of_echoes, flower = measure_echoes(sizes, trips, megabytes)
    of_studies = {}
    for sites in sizes[1:]:
        of_studies[sites], memory = measure_study(sites, rounds)
    largest = max(sizes)
    result = "\n\n".join([
        trips_table(of_trips, of_studies), echoes_table(of_echoes),
        memory_table(memory["site"], memory["coordinator"], flower),
        goals(largest, of_trips[largest], of_studies[largest], memory["site"]),
    ])  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, medians and ranges of interleaved trips.\n\n{result}")
    if options.out:
        options.out.write_text(result + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
