"""The best adversary against a privacy filter, found exactly: what it can gain by choosing each mechanism from the
answers of the ones before.

An adversary is a rule that looks at what was answered and picks a mechanism that the filter still allows, or stops.
What it gains is the hockey-stick divergence of its whole transcript, E (1 - e^(epsilon - L))_+ over the loss L =
log P / Q that has added up. The loss is all that a transcript is good for, so the best rule follows by dynamic
programming over (what was asked, loss):

    value(asked, loss) = max( (1 - e^(epsilon - loss))_+ ,  max over allowed mechanisms m of
                              E value(asked + m, loss + loss of m) )

The value grows with the loss. So rounding every loss up to a grid gives an upper bound of the gain, rounding down a
lower bound: the one is for showing that a filter holds, the other that one does not.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve
from scipy.stats import norm

from privacy.filters import Cost


@dataclass(frozen=True)
class Grid:
    """Losses -reach .. reach in steps; `upward` says which way they are rounded. Beyond it is as good as infinite."""

    step: float
    reach: float
    upward: bool

    @property
    def points(self):
        count = round(self.reach / self.step)
        return np.arange(-count, count + 1) * self.step

    def gained(self, epsilon):
        return np.maximum(0.0, -np.expm1(epsilon - self.points))


@dataclass(frozen=True)
class Law:
    """How the loss of one mechanism is distributed under the first data set: mass by whole steps, and beyond."""

    mass: np.ndarray
    below: float
    above: float


def loss_of_gaussian(z, q, direction, grid):
    """The loss of a Gaussian sum over a Poisson sample; `remove`: the first data set is the one with the unit.

    With output x it is l(x) = log(1 - q + q exp((2x - 1) / (2 z^2))), which grows with x, or -l(x).
    """
    edges = np.concatenate([[grid.points[0] - grid.step], grid.points])
    if direction == "add":
        edges = -edges
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        odds = (np.exp(edges) - (1 - q)) / q
        x = np.where(odds > 0, z**2 * np.log(np.maximum(odds, 1e-300)) + 0.5, -np.inf)
    with_unit = (1 - q) * norm.cdf(x / z) + q * norm.cdf((x - 1) / z)
    at_most = with_unit if direction == "remove" else norm.sf(x / z)
    return Law(np.diff(at_most), at_most[0], 1 - at_most[-1])


def expected(value, law, grid):
    """E value(loss + loss of the mechanism), at every point of the grid."""
    count = len(value)
    if grid.upward:  # a mass between two points belongs to the upper one; what lies beyond has won
        wide = np.concatenate([np.full(count // 2, value[0]), value, np.ones(count // 2)])
        return np.minimum(1.0, _sums(wide, law) + law.below * value[0] + law.above)
    wide = np.concatenate([np.zeros(count // 2 + 1), value, np.full(count // 2 - 1, value[-1])])
    best = np.concatenate([value[count // 2 :], np.full(count // 2, value[-1])])
    return np.maximum(0.0, _sums(wide, law) + law.above * best)


def _sums(wide, law):
    return fftconvolve(wide, law.mass[::-1], mode="valid")


def best_gain(laws, allowed, epsilon, grid):
    """The largest gain of an adversary that may ask each mechanism as often as `allowed`, told of counts, lets it."""

    @functools.cache
    def value(asked):
        best = grid.gained(epsilon)
        for kind, law in enumerate(laws):
            more = (*asked[:kind], asked[kind] + 1, *asked[kind + 1 :])
            if allowed(more):
                best = np.maximum(best, expected(value(more), law, grid))
        return best

    return float(value((0,) * len(laws))[len(grid.points) // 2])


def composed_gain(laws, counts, epsilon, grid):
    """The gain of whoever asks so many of each, whatever is answered: the composed mechanism's delta."""
    value = grid.gained(epsilon)
    for law, count in zip(laws, counts, strict=True):
        for _ in range(count):
            value = expected(value, law, grid)
    return float(value[len(grid.points) // 2])


@dataclass(frozen=True)
class Bet:
    """A mechanism of two outcomes: with probability `chance` the loss is `loss`, else as little as that leaves.

    Of all mechanisms of one Renyi divergence such a bet gains the most, so the conversion of a filter is as good as
    it can be if and only if the best bet gains exactly delta.
    """

    chance: float
    loss: float

    @property
    def outcomes(self):
        """(probability, loss) under the first data set."""
        rest = math.log1p(-self.chance) - math.log1p(-self.chance * math.exp(-self.loss))
        return ((self.chance, self.loss), (1 - self.chance, rest))

    def reversed_outcomes(self):
        """The same for the other direction of neighbours."""
        return tuple((chance * math.exp(-loss), -loss) for chance, loss in self.outcomes)

    def divergence(self, order):
        """The larger of both directions."""
        directions = np.array([self.outcomes, self.reversed_outcomes()])
        moments = np.log(directions[..., 0]) + (order - 1) * directions[..., 1]
        return float(np.logaddexp.reduce(moments, axis=1).max()) / (order - 1)

    def cost(self, cap):
        return Cost(tuple(self.divergence(order) for order in cap.orders), 0.0)


def largest_bet(loss, fits):
    """The bet of this loss with the largest chance for which `fits` holds."""
    low, high = 0.0, 0.999
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(Bet(middle, loss)) else (low, middle)
    return Bet(low, loss)


def best_gain_of_bets(cap, bets, *, backwards=False, total=None, loss=0.0):
    """The largest gain of an adversary that may place each bet once, in any order, as the cap allows; exact."""
    total = cap.nothing if total is None else total
    best = max(0.0, -math.expm1(cap.epsilon - loss))
    for place, bet in enumerate(bets):
        after = total + bet.cost(cap)
        if not cap.holds(after):
            continue
        rest = bets[:place] + bets[place + 1 :]
        outcomes = bet.reversed_outcomes() if backwards else bet.outcomes
        gains = (
            chance * best_gain_of_bets(cap, rest, backwards=backwards, total=after, loss=loss + one)
            for chance, one in outcomes
        )
        best = max(best, sum(gains))
    return best
