"""The private sum: the one mechanism through which anything leaves a site.

    site i:        R_i = Q_U(s S_i) + X_i,      S_i = sum of the site's clipped vectors, X_i a discrete Gaussian share
    coordinator:   (R_1 + ... + R_n) / s        all that anybody learns, once sums are masked

**Guarantee.** Let one unit be added or removed at one site. The integer sum before noise changes by an integer vector
of norm at most Delta(s) (1 + eta), except with probability beta over the dither (`privacy/rounding.py`). At least k
shares that the adversary does not know are in the sum, each a discrete Gaussian of deviation sigma_t >= 16. But for
`SAMPLER_DISTANCE` a sample, their sum is a post-processing of a continuous Gaussian of variance k sigma_t^2 - 4 at the
same centre (`docs/privacy-argument.md`, after Peikert 2010, "An Efficient and Parallel Gaussian Sampler for
Lattices"). With

    sqrt(k sigma_t^2 - 4) = z Delta(s) (1 + eta)

the sum is therefore as private as a Gaussian mechanism of noise multiplier z, whatever is done with it afterwards:
the accountant gets z and nothing else. Masking modulo 2^bits and division are post-processing.

Who gets less than k shares gets the guarantee of what he does get: `noise_multiplier_of(shares)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from privacy.discrete_gaussian import (
    LADDER,
    SAMPLER_DISTANCE,
    Deviation,
    sample_discrete_gaussian,
)
from privacy.errors import PrivacyError
from privacy.keystream import Keystream, repetition_distance
from privacy.rounding import FLOAT_SLACK, LARGEST, dithered_round, rounded_sensitivity

__all__ = ["SumMechanism", "answer", "design_sum", "noise", "noise_distance", "released_sum"]

_WORDS = 5
"""Words of keystreams that one number of an answer takes, at most: up to four draws of noise (ties included, which are
one in 2^48), and its dither."""

_LOST_TO_SHARES = 4  # of the variance: a continuous Gaussian rounded to the integers gains it
_POSITIVE = (
    "dimension", "clipping_norm", "sites_per_unit", "noise_multiplier", "shares", "sites", "scale",
)  # fmt: skip
_ROUNDING_LOSS = 0.01  # a wider deviation is chosen until rounding costs at most 1 % of noise


@dataclass(frozen=True, kw_only=True)
class SumMechanism:
    """Everything public about one private sum, derived from the study alone.

    Parties whose floating-point logarithms differ in the last place may derive a scale that differs as little; each
    site's own scale satisfies its own inequality, so privacy does not hang on their agreement.

    A number that must be positive and is not raises PrivacyError: with C and s both negative s C would look sound.

    Attributes:
        dimension: d, numbers in the vector.
        clipping_norm: C, the largest norm of one unit's vectors over all sites, in the vector's unit.
        sites_per_unit: M, at how many sites a unit may take part; its vector at one site has norm at most C / M.
        noise_multiplier: z.
        shares: k, independent shares of noise that the guarantee counts on.
        sites: n, answers that are added up; they bound what one answer may be.
        beta: probability that rounding exceeds its bound.
        slack: eta, relative addition to C for floating-point summation.
        deviation: sigma_t of one share.
        scale: s, integers per unit of the vector.
        bits: 32 or 64, the ring in which answers are added.
    """

    dimension: int
    clipping_norm: float
    sites_per_unit: int
    noise_multiplier: float
    shares: int
    sites: int
    beta: float
    slack: float
    deviation: Deviation
    scale: float
    bits: Literal[32, 64]

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise PrivacyError(f"Expected 0 < {name}={value} < inf")

    @property
    def sensitivity(self) -> float:
        """Delta(s) (1 + eta): how far one unit moves the integers, in L2 norm, except with probability beta."""
        reach = self.scale * self.clipping_norm
        return _sensitivity(reach, self.sites_per_unit, self.dimension, self.beta, self.slack)

    @property
    def norm_at_site(self) -> float:
        """C / M, what one site clips to."""
        return self.clipping_norm / self.sites_per_unit

    @property
    def clamp(self) -> int:
        """Largest magnitude of one coordinate of one site's rounded sum: n of them and their noise fit the ring."""
        return _clamp(self.bits, self.sites, self.deviation)

    def noise_multiplier_of(self, shares: int) -> float:
        """The z that a view with only so many unknown shares enjoys; 0 when there are none."""
        variance = shares * self.deviation.variance - _LOST_TO_SHARES
        return math.sqrt(variance) / self.sensitivity if shares else 0.0


def design_sum(
    *,
    dimension: int,
    clipping_norm: float,
    sites_per_unit: int = 1,
    noise_multiplier: float,
    shares: int,
    sites: int,
    beta: float,
    slack: float,
    largest_sum: float,
) -> SumMechanism:
    """The private sum for these constants: the least deviation of the ladder whose rounding costs at most 1 %.

    There is one whenever z M (1 + eta) (3.6 sqrt(d) + 54 sqrt(2 ln(1/beta))) <= sqrt(k) 2^42: with r = s C / M, a loss
    of 1 % needs Delta(r) <= 1.01 r, and that holds for r >= 3.53 sqrt(d) + 53.3 sqrt(2 ln(1/beta)).

    Arguments:
        largest_sum: the norm that the sum of one site can have, in the vector's unit (capacity times C / M); the
            32-bit ring is taken where that fits, so that nothing is clamped in practice.
    Raises:
        PrivacyError: the constants are out of range, no deviation is wide enough, or no ring holds the sums.
    """
    if not (
        noise_multiplier > 0 and shares >= 1 and sites >= 1 and slack >= 0 and clipping_norm > 0
    ):
        raise PrivacyError(
            f"Expected z, k, n, C > 0, found {noise_multiplier}, {shares}, {sites}, {clipping_norm}"
        )
    eta = slack + FLOAT_SLACK
    for deviation in LADDER:
        target = math.sqrt(shares * deviation.variance - _LOST_TO_SHARES) / noise_multiplier
        reach = _largest_reach(target, sites_per_unit, dimension, beta, eta)
        if reach >= sites_per_unit and reach * (1 + eta) * (1 + _ROUNDING_LOSS) >= target:
            return SumMechanism(
                dimension=dimension, clipping_norm=clipping_norm, sites_per_unit=sites_per_unit,
                noise_multiplier=noise_multiplier, shares=shares, sites=sites, beta=beta, slack=eta,
                deviation=deviation, scale=reach / clipping_norm,
                bits=_ring(reach / clipping_norm * largest_sum, sites, deviation),
            )  # fmt: skip
    raise PrivacyError(
        f"No deviation up to {LADDER[-1].sigma:.2g} is wide enough for {dimension} numbers of units at up to "
        f"{sites_per_unit} sites, at noise multiplier {noise_multiplier:g} from {shares} shares",
        hint="lower the noise (a larger epsilon, fewer rounds, a larger sampling rate) or use a smaller model",
    )


def answer(
    mechanism: SumMechanism,
    total: npt.NDArray[np.float64],
    *,
    dither: Keystream,
    noise_share: Keystream | None,
) -> npt.NDArray[np.int64]:
    """One site's answer: its sum scaled, clamped, rounded and noised; int64, shape (d,).

    Arguments:
        total: the sum of the site's clipped vectors, float64, shape (d,), finite.
        dither, noise_share: fresh keystreams; `noise_share` is None only where the coordinator adds the noise.
    """
    if total.shape != (mechanism.dimension,):
        raise PrivacyError(f"Expected a sum of shape ({mechanism.dimension},), found {total.shape}")
    with np.errstate(over="ignore"):  # an overflow to infinity is clamped like any large value
        scaled = np.clip(total * mechanism.scale, -float(LARGEST), float(LARGEST))
    rounded = dithered_round(scaled, mechanism.clamp, dither)
    return rounded if noise_share is None else rounded + noise(mechanism, noise_share)


def noise(mechanism: SumMechanism, keystream: Keystream) -> npt.NDArray[np.int64]:
    """One share of noise, int64, shape (d,)."""
    return sample_discrete_gaussian(mechanism.deviation, mechanism.dimension, keystream)


def noise_distance(dimension: int) -> float:
    """Total variation distance of a site's noise and dither from the argument's, at most: tables, and AES for coins."""
    return dimension * SAMPLER_DISTANCE + repetition_distance(_WORDS * dimension)


def released_sum(
    mechanism: SumMechanism, integers: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The noisy sum in the vector's unit, from the sum of the answers, shape (d,)."""
    return integers / mechanism.scale


def _sensitivity(reach: float, sites: int, dimension: int, beta: float, eta: float) -> float:
    """At each of M sites the unit's vector of norm `reach` / M is rounded: the M changes add up at worst."""
    return sites * rounded_sensitivity(reach / sites, dimension, beta) * (1 + eta)


def _largest_reach(target: float, sites: int, dimension: int, beta: float, eta: float) -> float:
    """The largest s C with sensitivity at most `target`, or 0: it grows with s, so bisection finds it.

    The lower end of the last interval is returned: what remains is the rounding of one evaluation of the sensitivity,
    a few ulps, and `FLOAT_SLACK` has room for it.
    """
    low, high = 0.0, target
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if _sensitivity(middle, sites, dimension, beta, eta) <= target:
            low = middle
        else:
            high = middle
    return low


def _clamp(bits: int, sites: int, deviation: Deviation) -> int:
    return min(((1 << (bits - 1)) - 1) // sites - deviation.largest - 1, LARGEST)


def _ring(largest: float, sites: int, deviation: Deviation) -> Literal[32, 64]:
    """The narrower ring that holds sums of `largest` in magnitude without clamping them."""
    rings: tuple[Literal[32, 64], ...] = (32, 64)
    for bits in rings:
        if largest + 1 <= _clamp(bits, sites, deviation):
            return bits
    raise PrivacyError(
        f"Expected scaled sums of at most {_clamp(64, sites, deviation)}, found up to {largest:.3g}",
        hint="declare fewer records or sites, or more noise",
    )
