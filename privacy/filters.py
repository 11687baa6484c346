"""A lifetime budget over studies that are chosen one after the other, each after seeing what the ones before gave.

**Guarantee.** Fix (epsilon, delta) and at most eight Renyi orders beforehand. If, whatever is asked, the sums that
were ever charged satisfy

    for some order a:  sum of R(a) <= B(a) = epsilon - ln((a-1)/a) + (ln delta' + ln a) / (a-1),
    sum of the terms that no divergence covers <= delta_x = delta / 10,      delta' = (delta - delta_x) / L,

then everything that was released is (epsilon, delta)-differentially private, jointly.

**Why.** *One order.* A sequence that stops before its divergences of order a exceed B(a) has a divergence of at most
B(a) as a whole, also when each mechanism is chosen from the answers before it (Feldman, Zrnic 2021, arXiv:2008.11193,
Theorem 4.3), hence is (epsilon, delta')-private (Canonne, Kamath, Steinke 2020, arXiv:2004.00010, Proposition 12,
solved for R).

*Several orders.* Which orders still hold can be read off the transcript, since what a sum costs does not depend on
data. Split the transcripts by the first order that holds at the end: S = S_1 + ... + S_L. On S_a the sequence is, sum
by sum, the one that would have stopped at order a alone; so P(S_a) <= e^epsilon P'(S_a) + delta', and adding up, P(S)
<= e^epsilon P'(S) + L delta'.

*What no divergence covers* (`Sums.rounding`, `Sums.unlikely`). Let a sum whose dither falls into its exceptional set,
of probability beta, give nothing: the argument above holds for that sequence, and P(S) exceeds its value by at most
the sum of all beta, with no factor e^epsilon, as the set depends on the unit and on the query, not on which of the
two data sets it is. The draws beyond capacity and the sampler's distance change both P and P' and count (1 +
e^epsilon) times.

Discussion. A filter over privacy loss distributions ("compose what was asked, and stop at epsilon") is invalid when
studies are chosen adaptively (arXiv:2602.06756, arXiv:2602.15815); a test plays the best such adversary against both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privacy.errors import PrivacyError
from privacy.events import SumEvent
from privacy.renyi import renyi_divergence

__all__ = [
    "MARGIN",
    "MOST_ORDERS",
    "Cost",
    "LifetimeCap",
    "Sums",
    "default_orders",
    "smallest_cap",
]

MARGIN = 1e-6
"""What a site leaves of a budget, relatively: an auditor's machine takes logarithms of its own, and must not find that
what fitted there does not fit here."""

MOST_ORDERS = 8
_EXTRA_SHARE = 0.1  # of delta, for what no divergence covers
_ROUNDING = 1e-8  # of a bound: more than divergences and their sums can be off by, and noise multipliers of terms
_LARGEST_EPSILON = 700.0  # e^epsilon is a number
_LARGEST_ORDER = (
    30_000.0  # an integral takes longer the larger the order, and an auditor is given the orders
)
_SPREAD = tuple(2 ** (step / 3) for step in range(-3, 5))
"""Orders around the best one for Gaussian sums: half of it (below, no budget is left) to two and a half times."""


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What an event costs besides its divergence.

    Attributes:
        event: what the accountant is told.
        rounding: probability, for each of the `event.count` sums, that rounding exceeds its bound (M beta).
        unlikely: probability, for each sum, of a draw beyond capacity or of a sample off its exact distribution.
    """

    event: SumEvent
    rounding: float
    unlikely: float

    def __post_init__(self) -> None:
        for name in ("rounding", "unlikely"):
            if not 0 <= getattr(self, name) < 1:
                raise PrivacyError(f"Expected 0 <= {name}={getattr(self, name)} < 1")


@dataclass(frozen=True)
class Cost:
    """What some sums cost at the orders of a cap: divergences, nats, one an order; and a part of delta."""

    renyi: tuple[float, ...]
    extra: float

    def __add__(self, other: Cost) -> Cost:
        together = zip(self.renyi, other.renyi, strict=True)
        return Cost(tuple(one + two for one, two in together), self.extra + other.extra)


@dataclass(frozen=True, kw_only=True)
class LifetimeCap:
    """A lifetime budget, fixed when a unit namespace is opened.

    Attributes:
        epsilon, delta: the guarantee of everything together, for one unit.
        orders: of the Renyi divergences that are added up; at most eight, increasing.
    """

    epsilon: float
    delta: float
    orders: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (_is_number(self.epsilon) and 0 < self.epsilon <= _LARGEST_EPSILON):
            raise PrivacyError(f"Expected 0 < epsilon={self.epsilon!r:.40} <= {_LARGEST_EPSILON:g}")
        if not (_is_number(self.delta) and 0 < self.delta < 1):
            raise PrivacyError(f"Expected 0 < delta={self.delta!r:.40} < 1")
        if not 1 <= len(self.orders) <= MOST_ORDERS:
            raise PrivacyError(f"Expected 1 to {MOST_ORDERS} orders, found {len(self.orders)}")
        if not all(_is_number(each) and 1 < each <= _LARGEST_ORDER for each in self.orders):
            raise PrivacyError(f"Expected orders above 1 and at most {_LARGEST_ORDER:g}")
        if list(self.orders) != sorted(set(self.orders)):
            raise PrivacyError("Expected orders that increase")

    @property
    def extra(self) -> float:
        """What is kept for the terms that no divergence covers, delta_x."""
        return self.delta * _EXTRA_SHARE

    @property
    def delta_per_order(self) -> float:
        """What each order may take of delta."""
        return (self.delta - self.extra) / len(self.orders)

    @property
    def bounds(self) -> tuple[float, ...]:
        """B(a) of every order, nats, less what floating point may be off by; below 0 where an order is of no use."""
        bounds = (self.epsilon - _conversion(a, self.delta_per_order) for a in self.orders)
        return tuple(bound - _ROUNDING * max(1.0, abs(bound)) for bound in bounds)

    @property
    def nothing(self) -> Cost:
        """The cost of no sums at all."""
        return Cost((0.0,) * len(self.orders), 0.0)

    def cost(self, sums: Iterable[Sums]) -> Cost:
        """What these sums of one study cost. Of its train and test parts the dearer counts, order by order.

        Every unit is in one of the two parts, by a hash of its own that no data of others can move; studies add up,
        as it may be in the one part here and in the other there.
        """
        sums = list(sums)
        sides = [
            [each for each in sums if each.event.part in (part, "all")]
            for part in ("train", "test")
        ]
        renyi = tuple(
            max(_total(renyi_divergence(each.event, a) for each in side) for side in sides)
            for a in self.orders
        )
        unlikely = 1 + math.exp(self.epsilon)
        extra = _total(
            each.event.count * (each.rounding + unlikely * each.unlikely) for each in sums
        )
        return Cost(renyi, extra)

    def holds(self, total: Cost, *, margin: float = 0.0) -> bool:
        """Is a history of this cost within the budget, also if it were larger by the relative `margin`?"""
        used = zip(total.renyi, self.bounds, strict=True)
        within = (one * (1 + margin) <= bound for one, bound in used)
        return total.extra * (1 + margin) <= self.extra and any(within)

    def epsilon_of(self, total: Cost) -> float:
        """The least lifetime epsilon, at this delta and these orders, that a history of these divergences fits in.

        No guarantee for a history that was still free to go on: that is the epsilon which was fixed beforehand.
        """
        if total == self.nothing:
            return 0.0
        needed = (used + 2 * _ROUNDING * max(1.0, used) for used in total.renyi)
        conversions = (_conversion(a, self.delta_per_order) for a in self.orders)
        return max(0.0, min(map(sum, zip(needed, conversions, strict=True))))

    def remaining_mu(self, total: Cost) -> float:
        """Mu of the largest unsampled Gaussian study that still fits: its divergence of order a is a mu^2 / 2."""
        most = (bound / (1 + MARGIN) for bound in self.bounds)
        rooms = zip(self.orders, most, total.renyi, strict=True)
        return math.sqrt(max(0.0, *(2 * (bound - used) / a for a, bound, used in rooms)))


def default_orders(epsilon: float, delta: float) -> tuple[float, ...]:
    """Eight orders around the one that Gaussian sums of this budget do best with, to three digits."""
    share = delta * (1 - _EXTRA_SHARE) / MOST_ORDERS
    grid = [1 + 10 ** (step / 100) for step in range(-300, 408)]  # times 2.5: the largest order
    best = max(grid, key=lambda a: (epsilon - _conversion(a, share)) / a)
    orders = {float(f"{1 + (best - 1) * factor:.4g}") for factor in _SPREAD}
    return tuple(sorted(each for each in orders if each > 1))


def smallest_cap(sums: Sequence[Sums], delta: float) -> LifetimeCap:
    """The least lifetime budget, to 1 % and three digits, that one study fits in: what a simulated site registers.

    Its delta is the given one, or ten, a hundred, ... times as large where epsilon is so large that unlikely events,
    which cost 1 + e^epsilon times their probability, need more of it.

    Raises:
        PrivacyError: there is none.
    """
    while delta < 1:
        cap = _smallest_at(sums, delta)
        if cap.holds(cap.cost(sums), margin=MARGIN):
            return cap
        delta *= 10
    raise PrivacyError(
        "Expected a study that fits in some lifetime budget, found one that costs more than any",
        hint="ask for a smaller epsilon",
    )


def _smallest_at(sums: Sequence[Sums], delta: float) -> LifetimeCap:
    low, high = 1e-3, _LARGEST_EPSILON
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _fits(sums, _default_cap(middle, delta)) else (middle, high)
    digit = 10.0 ** (math.floor(math.log10(high)) - 2)
    return _default_cap(float(f"{math.ceil(high / digit) * digit:.3g}"), delta)


def _default_cap(epsilon: float, delta: float) -> LifetimeCap:
    return LifetimeCap(epsilon=epsilon, delta=delta, orders=default_orders(epsilon, delta))


def _fits(sums: Sequence[Sums], cap: LifetimeCap) -> bool:
    """As far as divergences go: they cost the less the larger epsilon is, and all else the more."""
    return cap.holds(Cost(cap.cost(sums).renyi, 0.0), margin=MARGIN)


def _conversion(order: float, delta: float) -> float:
    """What epsilon exceeds the divergence by (Canonne, Kamath, Steinke 2020, Proposition 12)."""
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def _total(values: Iterable[float]) -> float:
    """Added with one rounding: the order of the terms does not matter."""
    return math.fsum(values)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf  # type: ignore[arg-type]
