"""Epsilon and the time it takes by every accountant, and what calibrating noise to a budget takes and wastes.

PLD is ours; library is dp-accounting's own PLD accountant at a discretisation of 1e-4; RDP is ours; PRV is the upper
bound of Opacus, whose own error is 0.01, and its time is that of both bounds that it is asked for.

Calibration is to the epsilon of the case. *waste*: how much more noise it gives than the least that suffices, found by
bisection on an accountant twenty times finer. *spent*: that accountant's epsilon over the one asked for, never above 1.

One process; all in turn, several times over, nothing kept in between; medians of CPU milliseconds.

    python benchmarks/accounting.py [--quick] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.remove(
    str(Path(__file__).parent)
)  # or gradients.py beside this file would hide the package

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

import privacy.accounting
import privacy.loss_distributions
import privacy.renyi
from privacy.accounting import EXACT, epsilon_of
from privacy.calibration import calibrate
from privacy.errors import PrivacyError
from privacy.events import SumEvent
from privacy.renyi import renyi_epsilon
from privacy.second_opinion import second_opinion

CASES = [
    ("(.01, 1, 1000, 1e-5)", [(1.0, 0.01, 1000)], 1e-5, 1.8282),
    ("(.001, .8, 10000, 1e-6)", [(0.8, 0.001, 10_000)], 1e-6, 0.9473),
    ("(.1, 2, 100, 1e-5)", [(2.0, 0.1, 100)], 1e-5, 2.3374),
    ("(1, 5, 50, 1e-5)", [(5.0, 1.0, 50)], 1e-5, 6.5730),
    ("(256/60000, 1.1, 14062, 1e-5)", [(1.1, 256 / 60_000, 14_062)], 1e-5, 2.3817),
]
"""(q, z, T, delta); sums as (z, q, count); the published epsilon."""

BUDGETS = [
    *CASES,
    ("moments (q = 1, 3 z) and 1000 rounds at .01", [(3.0, 1.0, 1), (1.0, 0.01, 1000)], 1e-5, 1.0),
    ("10,000 rounds at .001, small budget", [(1.0, 0.001, 10_000)], 1e-6, 0.1),
    ("1000 rounds at .001, large budget", [(1.0, 0.001, 1000)], 1e-6, 8.0),
    ("100,000 rounds at .0001", [(1.0, 1e-4, 100_000)], 1e-8, 0.5),
]
"""Studies whose noise multipliers are multiples of the one that is looked for."""


def events(sums, factor=1.0):
    return [SumEvent(noise_multiplier=factor * z, sampling_rate=q, count=n) for z, q, n in sums]


def library(sums, delta):
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-4)
    for z, q, count in sums:
        gaussian = GaussianDpEvent(z)
        accountant.compose(gaussian if q == 1 else PoissonSampledDpEvent(q, gaussian), count)
    return accountant.get_epsilon(delta)


def opacus(sums, delta):
    try:
        return second_opinion(events(sums), delta).upper
    except PrivacyError:
        return None


ACCOUNTANTS = {
    "PLD": lambda sums, delta: epsilon_of(events(sums), delta),
    "library": library,
    "RDP": lambda sums, delta: renyi_epsilon(events(sums), delta),
    "PRV": opacus,
}


def forget():
    """So that nothing is fast because it was asked before."""
    for cached in (
        privacy.accounting._epsilon, privacy.accounting._losses, privacy.loss_distributions.loss_distribution,
        privacy.renyi.renyi_divergence,
    ):  # fmt: skip
        cached.cache_clear()


def timed(work):
    """(result, CPU milliseconds)."""
    forget()
    start = time.process_time()
    result = work()
    return result, 1e3 * (time.process_time() - start)


def measure(works, rounds):
    """{name: (result, median ms)} of all works in turn; the first time is to warm up."""
    found = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            pair = timed(work)
            if number:
                found[name].append(pair)
    return {
        name: (pairs[0][0], statistics.median(ms for _, ms in pairs))
        for name, pairs in found.items()
    }


def least_noise(sums, delta, epsilon, start):
    """The factor at which the finer accountant finds `epsilon`, to 1e-6."""
    low, high = start * 0.99, start * 1.01
    while high / low > 1 + 1e-6:
        middle = (low * high) ** 0.5
        enough = epsilon_of(events(sums, middle), delta, precision=EXACT / 20) <= epsilon
        low, high = (low, middle) if enough else (middle, high)
    return high


def accountants_table(rounds):
    lines = [
        "| (q, z, T, δ) | published | " + " | ".join(f"{name} | ms" for name in ACCOUNTANTS) + " |"
    ]
    lines.append("|---" * (2 + 2 * len(ACCOUNTANTS)) + "|")
    for name, sums, delta, published in CASES:
        works = {
            each: (lambda s=sums, d=delta, f=found: f(s, d)) for each, found in ACCOUNTANTS.items()
        }
        cells = [
            "not installed | " if epsilon is None else f"{epsilon:.4f} | {ms:.3g}"
            for epsilon, ms in measure(works, rounds).values()
        ]
        lines.append(f"| {name} | {published:.4f} | " + " | ".join(cells) + " |")
    return lines


def calibration_table(rounds, budgets):
    lines = ["| study | ε | δ | z | ms | waste | spent |", "|---|---|---|---|---|---|---|"]
    for name, sums, delta, epsilon in budgets:

        def search(sums=sums, delta=delta, epsilon=epsilon):
            return calibrate(lambda z, sums=sums: events(sums, z), epsilon, delta)

        factor, ms = measure({"": search}, rounds)[""]
        waste = factor / least_noise(sums, delta, epsilon, factor) - 1
        spent = epsilon_of(events(sums, factor), delta, precision=EXACT / 20) / epsilon
        lines.append(
            f"| {name} | {epsilon:g} | {delta:g} | {factor * sums[-1][0]:.4f} | {ms:.3g} "
            f"| {waste:.1e} | {spent:.5f} |"
        )
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, and the five cases alone")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/accounting.md"))
    options = parser.parse_args()
    rounds = 1 if options.quick else 7
    _, accountants, calibration, how = __doc__.split("\n\n")[:4]
    lines = [
        "# Accounting: what each accountant says and takes",
        "",
        f"Written by `python benchmarks/accounting.py`. {' '.join(how.split())}",
        "",
        *accountants_table(rounds),
        "",
        accountants,
        "",
        "## Calibration",
        "",
        *calibration_table(rounds, BUDGETS[: len(CASES)] if options.quick else BUDGETS),
        "",
        calibration,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if not options.quick:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
