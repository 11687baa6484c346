"""The discrete Gaussian on the integers, sampled from a keystream by exact tables.

P(X = x) is proportional to exp(-x^2 / (2 sigma^2)) for whole x (Canonne, Kamath, Steinke 2020, arXiv:2004.00010).
Floating-point normal noise leaks (Mironov 2012): integers with known probabilities do not.

**How.** A draw is a sign bit and 127 uniform bits u; the magnitude is the number of table entries F(0) <= F(1) <= ...
that are at most u, where F(m) = floor(2^127 P(|X| <= m)). One word of the keystream gives the sign and the upper 63
bits. Its leading 18 bits alone settle most draws: no entry lies among the words that share them. The others are
searched, and on a tie with an entry's upper half (once in about 2^48 draws) a second word decides with the lower 64
bits. So every draw is a comparison with all 127 bits, whatever is looked up to get there.

**Distance.** Entries are computed in integers with 256 fractional bits. Flooring moves each of the N <= 13 sigma + 2
probabilities by less than 2^-127, and the tail beyond 13 sigma that the last magnitude absorbs is below 2^-120, so the
total variation distance of one draw from the exact distribution is below N / 2 * 2^-127 + 2^-120 <= 2^-112
(sigma <= 2^12). A test recomputes it for every table, from the values that the sampler gives for the words around
every entry.

**Wider deviations** are sums Y_0 + a_1 Y_1 + a_2 Y_2 + ... of independent draws from one table of deviation b. Adding
a Y to a discrete Gaussian W on the integers, of variance w^2: with v = W + a Y,

    sum_y rho_b(y) rho_w(v - a y) = exp(-v^2 / (2 (w^2 + a^2 b^2))) * sum_y exp(-(y - c)^2 / (2 tau^2)),

where tau^2 = b^2 w^2 / (w^2 + a^2 b^2) and c = a b^2 v / (w^2 + a^2 b^2) is real. By Poisson summation the last sum
is the same for every real c up to a factor 1 +- 2 exp(-2 pi^2 tau^2) (and smaller terms); tau >= 3 makes that
1 +- 2^-255. So W + a Y is a discrete Gaussian of variance w^2 + a^2 b^2 up to that factor (Peikert 2010; Micciancio
and Walter 2017), and by induction the whole sum is one of variance b^2 (1 + a_1^2 + a_2^2 + ...).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from privacy.errors import PrivacyError
from privacy.keystream import Keystream

__all__ = ["LADDER", "SAMPLER_DISTANCE", "Deviation", "sample_discrete_gaussian"]

SAMPLER_DISTANCE = 2.0**-109
"""What one sample costs in total variation, at most: up to four draws from a table at 2^-112 each, and 2^-112 for what
makes a sum of samples a discrete Gaussian, and that a rounded continuous one (section 4 of `docs/privacy-argument.md`).
"""

_TABLE_SIGMA = 1 << 12
_TAIL = 13  # in deviations: exp(-13^2 / 2) < 2^-121
_BITS = 256  # fractional bits while a table is computed
_BLOCK = 1 << 14  # samples at a time: words, indices and table stay in the cache
_SMOOTH = 3  # tau, the least deviation at which a sum over the integers hides its centre
_WIDEST = 1 << 30
_LEADING = 18  # bits of a word that settle most draws; half a megabyte a table
_OPEN = np.iinfo(np.uint16).max


@dataclass(frozen=True, order=True)
class Deviation:
    """A standard deviation that can be sampled: of a draw from the table of `base`, plus stretched ones.

    `stretch` is that of the last and widest draw, 0 for the table alone. One that is too wide for the sum to be smooth
    at once has narrower ones before it (`stretches`): each is base / 4 times the one before.

    Two whole numbers, so that a deviation has an exact, canonical form.

    Raises:
        PrivacyError: there is no such table, or the sum would not be smooth (tau < 3).
    """

    base: int
    stretch: int = 0

    def __post_init__(self) -> None:
        if not _SMOOTH <= self.base <= _TABLE_SIGMA:
            raise PrivacyError(f"Expected {_SMOOTH} <= base <= {_TABLE_SIGMA}, found {self.base}")
        if not 0 <= self.stretch <= _WIDEST:
            raise PrivacyError(f"Expected 0 <= stretch <= {_WIDEST}, found {self.stretch}")
        narrow = 1  # variance of what a stretched draw is added to, in units of base^2
        for stretch in self.stretches:
            wide = narrow + stretch**2
            if self.base**2 * narrow < _SMOOTH**2 * wide:
                raise PrivacyError(f"Expected tau >= {_SMOOTH}, found a stretch of {stretch}")
            narrow = wide

    @property
    def stretches(self) -> tuple[int, ...]:
        """What draws are multiplied by, after the first one; up to three where the base is 2^12."""
        step = max(2, self.base // 4)
        between = (step**fold for fold in range(1, 31) if step**fold < self.stretch)
        return (*between, self.stretch) if self.stretch else ()

    @property
    def variance(self) -> int:
        """sigma^2, exact."""
        return self.base**2 * (1 + sum(stretch**2 for stretch in self.stretches))

    @property
    def sigma(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.variance)

    @property
    def largest(self) -> int:
        """No sample is larger than this in magnitude."""
        return (1 + sum(self.stretches)) * (_TAIL * self.base + 1)


LADDER: tuple[Deviation, ...] = tuple(
    [Deviation(1 << power) for power in range(4, 13)]
    + [Deviation(_TABLE_SIGMA, 1 << power) for power in range(1, 31)]
)
"""Deviations 16, 32, ..., 4096 by tables, then wider ones up to 2^42, each about double the one before."""


def sample_discrete_gaussian(
    deviation: Deviation, count: int, keystream: Keystream
) -> npt.NDArray[np.int64]:
    """Draw `count` independent samples, int64, shape (count,), each at most `deviation.largest` in magnitude."""
    out = np.empty(count, dtype=np.int64)
    for start in range(0, count, _BLOCK):
        block = out[start : start + _BLOCK]
        block[:] = _sample_table(deviation.base, block.size, keystream)
        for stretch in deviation.stretches:
            block += stretch * _sample_table(deviation.base, block.size, keystream)
    return out


def _sample_table(sigma: int, count: int, keystream: Keystream) -> npt.NDArray[np.int64]:
    table = cumulative_table(sigma)
    words = keystream.words(count)
    leading = table.settled[words >> np.uint64(64 - _LEADING)]
    magnitude = leading.astype(np.int64)
    unsettled = np.flatnonzero(leading == _OPEN)
    magnitude[unsettled] = _searched(words[unsettled] >> np.uint64(1), table, keystream)
    negative = -(words & np.uint64(1)).astype(np.int64)
    signed: npt.NDArray[np.int64] = (
        magnitude ^ negative
    ) - negative  # two's complement: -m is ~m + 1
    return signed


def _searched(
    halves: npt.NDArray[np.uint64], table: Table, keystream: Keystream
) -> npt.NDArray[np.int64]:
    """Number of entries that are at most u, for draws of which `halves` are the upper 63 bits, shape (N,).

    Where they equal an entry's upper half, a second word is compared with the lower half. Several entries can share
    an upper half in the far tail.
    """
    magnitude = np.searchsorted(table.upper, halves, side="right").astype(np.int64)
    # Every tied entry has been counted as at most u; those whose lower half is above the second word are taken back.
    for index in np.flatnonzero(table.upper[np.maximum(magnitude - 1, 0)] == halves):
        second = keystream.words(1)[0]
        first = np.searchsorted(table.upper, halves[index], side="left")
        group = table.lower[first : magnitude[index]]
        magnitude[index] = first + np.searchsorted(group, second, side="right")
    return magnitude


class Table(NamedTuple):
    """The entries F(m) = floor(2^127 P(|X| <= m)), m = 0, 1, ...; the last magnitude has none.

    Attributes:
        upper, lower: their upper 63 and lower 64 bits, uint64, shape (N,).
        settled: by the leading 18 bits of a word: its magnitude, or 65535 where an entry lies among the words that
            begin so; uint16, shape (2^18,).
    """

    upper: npt.NDArray[np.uint64]
    lower: npt.NDArray[np.uint64]
    settled: npt.NDArray[np.uint16]


@functools.lru_cache(maxsize=32)
def cumulative_table(sigma: int) -> Table:
    """The table of one deviation, computed in integers.

    exp(-(2m + 1) / (2 sigma^2)) is the ratio of neighbouring probabilities; it falls by exp(-1 / sigma^2) a step, so
    two products in 256-bit fixed point give each weight, with an error of at most 2 units a step.
    """
    one = 1 << _BITS
    ratio, fall = _fixed_exp(Fraction(-1, 2 * sigma**2)), _fixed_exp(Fraction(-1, sigma**2))
    weights, weight = [one], one
    for _ in range(_TAIL * sigma + 1):
        weight = weight * ratio >> _BITS
        ratio = ratio * fall >> _BITS
        weights.append(2 * weight)
    total, running, entries = sum(weights), 0, []
    for each in weights[:-1]:
        running += each
        entries.append((running << 127) // total)
    upper = np.array([entry >> 64 for entry in entries], dtype=np.uint64)
    lower = np.array([entry & (2**64 - 1) for entry in entries], dtype=np.uint64)
    settled = _settled(upper)
    upper.flags.writeable = lower.flags.writeable = settled.flags.writeable = False
    return Table(upper, lower, settled)


def _settled(upper: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    leading = upper >> np.uint64(63 - _LEADING)
    before = np.searchsorted(leading, np.arange(1 << _LEADING, dtype=np.uint64))
    settled = before.astype(np.uint16)  # at most 13 * 2^12 + 2 < 65535
    settled[leading] = _OPEN
    return settled


def _fixed_exp(exponent: Fraction) -> int:
    """Exp of a small negative fraction in fixed point, by its Taylor series in exact integers."""
    one, term, total, order = 1 << (_BITS + 32), 1 << (_BITS + 32), 0, 0
    while term:
        total += term
        order += 1
        term = term * exponent.numerator // (exponent.denominator * order)
        if abs(term) <= 1:
            break
    assert 0 < total < one  # noqa: S101  exp of a negative number
    return total >> 32
