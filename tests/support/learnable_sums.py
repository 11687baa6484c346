"""Look for sums that a cheating coordinator may not learn, for as long as it takes.

    PYTHONPATH=tests/support python -m learnable_sums [--strategies 30000] [--seed 1]

All strategies of one round first, those also that are others renamed; then so many over two and three rounds, at
random, on rosters of up to 8 sites. The first strategy that finds something is printed, as short as it can be, and ends it.
"""

import argparse
import sys
import time

from cheating_server import in_words, shortest
from random_strategies import Search
from server_strategies import OneRound, least_constants, rosters


def several_rounds(strategies, *, seed, larger=False):
    """Strategies over two and three rounds, of every roster on which one site may be missing, or two."""
    chosen = [each for each in rosters() if each[0].survivors < each[0].sites]
    chosen += [(each, 1) for each in least_constants(6, 1, 4)]
    if larger:
        chosen += [(each, 1) for each in least_constants(7, 1, 5)]
        chosen += [(each, 2) for each in least_constants(8, 2, 6)]
    return Search(chosen, seed=seed).run(strategies)


def named(constants, corrupt):
    at = constants
    return (
        f"n={at.sites} c={at.colluding} m={at.survivors} t={at.threshold} tau={at.quorum} k={at.shares}, "
        f"{corrupt} corrupt"
    )


def report(found):
    """What broke, if anything did; then it is over."""
    if found.findings:
        sys.exit(f"FOUND: {found.findings}\n{in_words(shortest(found.sites, found.moves))}")


def say(line, began):
    sys.stdout.write(f"{line}, {time.process_time() - began:.1f} s\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--strategies", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    for constants, corrupt in rosters():
        began = time.process_time()
        found = OneRound(constants, corrupt=corrupt).explore(names_matter=True)
        say(f"{named(constants, corrupt)}: {found.driven} driven for {found.stands_for}", began)
        report(found)
    began = time.process_time()
    found = several_rounds(chosen.strategies, seed=chosen.seed, larger=True)
    say(f"{found.driven} over several rounds, {dict(found.counts)}", began)
    report(found)


if __name__ == "__main__":
    main()
