"""Dithered rounding of a scaled sum to integers, and its sensitivity.

    Q_U(S) = floor(s S + U),  U uniform on [0, 1), one per coordinate, fresh for each answer, independent of the data.

**Sensitivity.** Let S' = S + g for one unit's vector g with |g| <= C. For every S the difference Q_U(S') - Q_U(S) is
distributed, over U, as floor(s g + V) with V uniform: the stochastic rounding of the unit's own vector. (The fraction
of s S + U is uniform.) Its norm is at most

    Delta = min{ sC + sqrt(d), sqrt( (sC)^2 + d/4 + sqrt(2 ln(1/beta)) (sC + sqrt(d)/2) ) },

the first always, the second except with probability beta over U (Kairouz, Liu, Steinke 2021, arXiv:2102.06387,
Proposition 22). U does not depend on the data, so the exceptional set adds beta to delta, with no factor e^epsilon.
U need not be secret: it is averaged over only to bound that probability.

**Floating point.** s S is split exactly into its whole part and a fraction (truncation and subtraction are exact in
IEEE arithmetic), and the fraction is compared with 64 random bits: the product s S is off by 2^-53 of itself and the
comparison quantises s S to multiples of 2^-64. Both are part of `FLOAT_SLACK`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from privacy.errors import PrivacyError
from privacy.keystream import Keystream

__all__ = ["FLOAT_SLACK", "LARGEST", "dithered_round", "rounded_sensitivity"]

FLOAT_SLACK = 2.0**-30
"""Relative addition to the sensitivity for the float64 arithmetic of this module.

With at most 2^20 units a site (the contract's limit) the norm of s S is at most 2^20 s C, so its product is off by at
most 2^-33 s C, twice for two data sets; quantisation adds 2 sqrt(d) 2^-64, below 2^-33 s C whenever s C >= 1 and
d <= 2^60.
"""

LARGEST = 2**52
"""No scaled coordinate may be larger: float64 must still tell fractions from whole numbers."""


def rounded_sensitivity(reach: float, dimension: int, beta: float) -> float:
    """Delta above, for `reach` = s C > 0 and `dimension` = d, except with probability `beta`."""
    if not (reach > 0 and dimension > 0 and 0 < beta < 1):
        raise PrivacyError(f"Expected reach, dimension > 0, found {reach}, {dimension}")
    root = math.sqrt(dimension)
    likely = reach**2 + dimension / 4 + math.sqrt(2 * math.log(1 / beta)) * (reach + root / 2)
    return min(reach + root, math.sqrt(likely))


def dithered_round(
    scaled: npt.NDArray[np.float64], clamp: int, keystream: Keystream
) -> npt.NDArray[np.int64]:
    """floor(clip(scaled, -clamp, clamp) + U), int64, same shape (d,).

    Clamping each coordinate is 1-Lipschitz, so it cannot increase the sensitivity. It happens in float64, before
    the conversion, so that nothing overflows. `scaled` must be finite: contributions are, by construction.
    """
    if not 0 < clamp <= LARGEST:
        raise PrivacyError(f"Expected 0 < clamp <= 2^52, found {clamp}")
    if not np.isfinite(scaled).all():
        raise PrivacyError("Expected a finite sum: every unit's part is finite by construction")
    clamped = np.clip(scaled, -float(clamp), float(clamp))
    whole = np.trunc(clamped)
    fraction = clamped - whole  # exact, in (-1, 1), of the sign of `clamped`
    share = np.floor(np.abs(fraction) * 2.0**64).astype(np.uint64)
    dither = keystream.words(scaled.size)
    # U = dither / 2^64. Above zero, U + f >= 1 carries; below zero, U < |f| borrows.
    carry = (fraction > 0) & (dither >= np.uint64(0) - share) & (share > 0)
    borrow = (fraction < 0) & (dither < share)
    return whole.astype(np.int64) + carry.astype(np.int64) - borrow.astype(np.int64)
