"""The discrete Gaussian on the integers, sampled from a keystream by exact tables.

P(X = x) is proportional to exp(-x^2 / (2 sigma^2)) for whole x (Canonne, Kamath, Steinke 2020, arXiv:2004.00010).
Floating-point normal noise leaks (Mironov 2012): integers with known probabilities do not.

**How.** A draw is a sign bit and 127 uniform bits u; the magnitude is the number of table entries F(0) <= F(1) <= ...
that are at most u, where F(m) = floor(2^127 P(|X| <= m)). The entries' upper 63 bits are searched with one word of the
keystream; on a tie (once in about 2^48 draws) a second word decides with the lower 64 bits, so the comparison is with
all 127 bits.

**Distance.** Entries are computed in integers with 256 fractional bits. Flooring moves each of the N <= 13 sigma + 2
probabilities by at most 2^-127, and the tail beyond 13 sigma that the last entry absorbs is below 2^-120, so the
total variation distance of one sample from the exact distribution is below 2^-111 for tables (sigma <= 2^12).
A test recomputes it from the table itself.

**Wider deviations** are a X + Y of two independent table samples of deviation sigma_0. With v = a x + y,

    sum_x rho(x) rho(v - a x) = exp(-v^2 / (2 sigma_0^2 (a^2 + 1))) * sum_x exp(-(x - c)^2 / (2 tau^2)),

where tau^2 = sigma_0^2 / (a^2 + 1) and c = a v / (a^2 + 1). By Poisson summation the last sum is the same for every
real c up to a factor 1 +- 2 exp(-2 pi^2 tau^2) (and smaller terms); tau >= 3 makes that 1 +- 2^-255. So a X + Y is a
discrete Gaussian of deviation sigma_0 sqrt(a^2 + 1) up to that factor (Peikert 2010; Micciancio and Walter 2017).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from privacy.errors import PrivacyError
from privacy.keystream import Keystream

__all__ = ["LADDER", "SAMPLER_DISTANCE", "Deviation", "sample_discrete_gaussian"]

SAMPLER_DISTANCE = 2.0**-110
"""Total variation distance of one sample from the exact discrete Gaussian, at most; two tables' where it is wide."""

_TABLE_SIGMA = 1 << 12
_TAIL = 13  # in deviations: exp(-13^2 / 2) < 2^-121
_BITS = 256  # fractional bits while a table is computed
_BLOCK = 1 << 16  # samples at a time: words, indices and table stay in the cache
_SMOOTH = 3  # tau, the least deviation at which a sum over the integers hides its centre


@dataclass(frozen=True, order=True)
class Deviation:
    """A standard deviation that can be sampled: `base` * sqrt(`stretch`^2 + 1), or `base` if `stretch` is 0.

    Both are whole numbers, so that a deviation has an exact, canonical form.
    """

    base: int
    stretch: int = 0

    def __post_init__(self) -> None:
        if not (_SMOOTH <= self.base <= _TABLE_SIGMA and self.stretch >= 0):
            raise PrivacyError(f"Expected {_SMOOTH} <= base <= {_TABLE_SIGMA}, found {self.base}")
        if self.stretch and self.base**2 < _SMOOTH**2 * (self.stretch**2 + 1):
            raise PrivacyError(f"Expected tau >= {_SMOOTH}, found a stretch of {self.stretch}")

    @property
    def variance(self) -> int:
        """sigma^2, exact."""
        return self.base**2 * (self.stretch**2 + 1)

    @property
    def sigma(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.variance)

    @property
    def largest(self) -> int:
        """No sample is larger than this in magnitude."""
        return (1 + self.stretch) * (_TAIL * self.base + 1)


LADDER: tuple[Deviation, ...] = tuple(
    [Deviation(1 << power) for power in range(4, 13)]
    + [Deviation(_TABLE_SIGMA, 1 << power) for power in range(1, 11)]
)
"""Deviations 16, 32, ..., 4096 by tables, then wider ones by convolution, each about double the one before."""


def sample_discrete_gaussian(
    deviation: Deviation, count: int, keystream: Keystream
) -> npt.NDArray[np.int64]:
    """Draw `count` independent samples, int64, shape (count,), each at most `deviation.largest` in magnitude."""
    out = np.empty(count, dtype=np.int64)
    for start in range(0, count, _BLOCK):
        block = out[start : start + _BLOCK]
        block[:] = _sample_table(deviation.base, block.size, keystream)
        if deviation.stretch:
            block += deviation.stretch * _sample_table(deviation.base, block.size, keystream)
    return out


def _sample_table(sigma: int, count: int, keystream: Keystream) -> npt.NDArray[np.int64]:
    upper, lower = cumulative_table(sigma)
    words = keystream.words(count)
    halves = words >> np.uint64(1)
    magnitude = np.searchsorted(upper, halves, side="right").astype(np.int64)
    _decide_ties(halves, magnitude, upper, lower, keystream)
    sign = 1 - 2 * (words & np.uint64(1)).astype(np.int64)
    return magnitude * sign


def _decide_ties(
    halves: npt.NDArray[np.uint64],
    magnitude: npt.NDArray[np.int64],
    upper: npt.NDArray[np.uint64],
    lower: npt.NDArray[np.uint64],
    keystream: Keystream,
) -> None:
    """Where the first word equals an entry's upper half, a second word is compared with the lower half.

    `side="right"` has counted every tied entry as at most u; those whose lower half is above the second word
    are taken back. Several entries can share an upper half in the far tail.
    """
    tied = np.flatnonzero(upper[np.maximum(magnitude - 1, 0)] == halves)
    for index in tied:
        second = keystream.words(1)[0]
        first = np.searchsorted(upper, halves[index], side="left")
        group = lower[first : magnitude[index]]
        magnitude[index] = first + np.searchsorted(group, second, side="right")


@functools.lru_cache(maxsize=32)
def cumulative_table(
    sigma: int,
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Upper 63 and lower 64 bits of F(m) = floor(2^127 P(|X| <= m)), m = 0, 1, ...; the last magnitude has no entry.

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
    upper.flags.writeable = lower.flags.writeable = False
    return upper, lower


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
