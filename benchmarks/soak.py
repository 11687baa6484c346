"""Kill sites' workers and simulations for as long as it takes, and write down what was killed and what held.

    python benchmarks/soak.py [--kills 300] [--out FILE.md]

Every kill, crash and power cut is judged at once (`tests/support/witness.py`); the first contradiction ends the soak.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.remove(
    str(Path(__file__).parent)
)  # or gradients.py beside this file would hide the package
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from killed_runs import kill_after, ledgers_of, resumed, started, study_of
from kills import (
    ELSEWHERE,
    WINDOWS,
    Race,
    crashed_everywhere,
    kill_over_and_over,
    two_queries,
    two_queries_and_a_kill,
)
from power_cuts import life, survive
from workers import Workers

POINTS = ("sync", "fsync", "link", "send", "write", "truncate", "delete")
KILLS_A_LEDGER, ROUNDS_A_RACE = 30, 30  # a ledger is replayed after every kill, so none grows long
LEAST_A_WINDOW = 30


class Places:
    """New empty directories."""

    def __init__(self, root):
        self._root, self._numbers = root, itertools.count()

    def __call__(self, _name=""):
        place = self._root / str(next(self._numbers))
        place.mkdir()
        return place


def tally(campaigns):
    """One row's figures: kills by window, and what went on around them."""
    kills, counts = Counter(), Counter()
    for each in campaigns:
        kills += each.kills
        counts += each.counts
        counts["vectors"] += len(each.witness.vectors)
        counts["burnt"] += len(each.witness.burnt)
        counts["charges"] += each.witness.charges
    columns = ["starts", "queries", "charges", "vectors", "answers", "burnt"]
    return [
        kills.total(),
        *(kills[window] for window in WINDOWS),
        kills[ELSEWHERE],
        *(counts[each] for each in columns),
    ]


def one_worker(workers, places, wanted):
    """Until so many workers were killed, and enough of them in every window."""
    campaigns = []
    while True:
        seed = len(campaigns)
        campaigns.append(
            kill_over_and_over(workers, places(), KILLS_A_LEDGER, seed=seed, checkpoint=20)
        )
        kills = sum((each.kills for each in campaigns), Counter())
        say(f"one worker: {kills.total()} kills")
        if kills.total() >= wanted and min(kills[window] for window in WINDOWS) >= LEAST_A_WINDOW:
            return tally(campaigns)


def two_workers(workers, places, wanted):
    """Both on one ledger, asked the same at once."""
    races = []
    while sum(each.kills.total() for each in races) < wanted:
        races.append(Race(workers, places(), seed=len(races), chance=0.1))
        for _ in range(ROUNDS_A_RACE):
            races[-1].round()
        races[-1].leave()
        say(f"two workers: {sum(each.kills.total() for each in races)} kills")
    return tally(races)


def crashes(workers, places):
    """(what, points) of a crash at every point of two queries, and of every sync failing."""
    for when in ("before", "after"):
        found = crashed_everywhere(workers, places, two_queries, kinds=POINTS, when=when)
        say(f"crashes {when}: {len(found)}")
        yield (
            f"crash {when} every write, truncation, removal, sync, fsync, link and send",
            len(found),
        )
    found = crashed_everywhere(
        workers, places, two_queries_and_a_kill, kinds=("sync",), when="fail"
    )
    yield "every sync fails once, and a kill two queries later", len(found)


def power_cuts(places, tries):
    lived = life(places() / "site")
    return len(survive(places() / "left", lived, tries=tries))


def simulations(places, wanted):
    """Kills of whole simulations: [killed, ended when resumed, said which query is lost]."""
    generator, counts = random.Random(1), Counter()  # noqa: S311  it draws when to kill
    for number in range(wanted):
        out = places() / "out"
        study = study_of(rounds=40, spare_rounds=number % 2)
        killed = kill_after(
            started(study, out), out, generator.randrange(35), linger=generator.uniform(0, 0.03)
        )
        ledgers_of(out.with_name("out.partial"))
        error = resumed(study, out) if killed else None
        if error is not None and "never computed again" not in error.message:
            raise error
        counts["killed"] += killed
        counts["burnt" if error else "ended"] += killed
        say(f"simulations: {number + 1}")
    return [counts[each] for each in ("killed", "ended", "burnt")]


def say(text):
    print(text, file=sys.stderr, flush=True)


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(each) for each in line) + " |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kills", type=int, default=300, help="of single workers; the others follow"
    )
    parser.add_argument("--out", type=Path, help="write the tables here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, Workers() as workers:
        places = Places(Path(root))
        kills = table(
            ["killed", "kills", *WINDOWS, ELSEWHERE, "starts", "queries", "charges", "vectors", "times sent", "burnt"],
            [
                ["one worker", *one_worker(workers, places, options.kills)],
                ["two workers on one ledger", *two_workers(workers, places, options.kills // 3)],
            ],
        )  # fmt: skip
        points = table(
            ["crash or cut", "times"],
            [
                *crashes(workers, places),
                ["power cut, everything that may be left of the files", power_cuts(places, options.kills // 10)],
            ],
        )  # fmt: skip
        runs = table(
            ["simulations killed", "ended when resumed", "refused to, for a burnt or masked query"],
            [simulations(places, options.kills // 10)],
        )
    text = HEAD + "\n\n".join([kills, points, runs, VERDICT]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


HEAD = """# Soak: kills, crashes, power cuts

Written by `make soak`. A site's worker without Flower, with a durable ledger and keys from the operating system, is
killed with `kill -9` in every window of a query's way, half of the time where it waits and half while it runs; then the
open query is asked again in the same bytes, and others that no honest coordinator would ask. After every kill the
ledger's file is held to everything that ever came over the wire (`tests/support/witness.py`). *Vectors* are different
ones, *times sent* counts repetitions; *burnt* queries were charged and not answered.

"""

VERDICT = """**No contradiction.** Every export verified and kept every receipt. No vector, nor a part of one, left
uncharged or before its bytes were stored; no query was charged twice, none was computed twice, none has two vectors;
what was pending at a kill stayed burnt. What a power cut left was the beginning of the true history, with every charge
and every answer that had returned."""


if __name__ == "__main__":
    main()
