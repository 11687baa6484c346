"""Dithered rounding of a scaled sum to integers, and its sensitivity.

    Q_U(S) = floor(s S + U),  U uniform on [0, 1), one per coordinate, fresh for each answer, independent of the data.

**Sensitivity.** Let S' = S + g for one unit's vector g with |g| <= C. For every S the difference Q_U(S') - Q_U(S) is
distributed, over U, as floor(s g + V) with V uniform: the stochastic rounding of the unit's own vector. (The fraction
of s S + U is uniform.) Its norm is at most

    Delta = min{ sC + sqrt(d), sqrt( (sC)^2 + d/4 + sqrt(2 ln(1/beta)) (sC + sqrt(d)/2) ) },

the first always, the second except with probability beta over U (Kairouz, Liu, Steinke 2021, arXiv:2102.06387,
Proposition 22). U does not depend on the data, so the exceptional set adds beta to delta, with no factor e^epsilon.
U need not be secret: it is averaged over only to bound that probability.

The clamp comes first and is part of S: it is 1-Lipschitz in every coordinate, so g only becomes shorter.

**Floating point.** s S is split exactly into its whole part and a fraction (truncation and subtraction are exact in
IEEE arithmetic), and the fraction, cut to 64 bits, is compared with 64 random bits. So what is rounded is exactly
floor(x + U) for x, U multiples of 2^-64 and U uniform on them, for which the claim above holds as it stands; and x is
s S but for an error of 2^-53 of itself and one below 2^-64. Both are part of `FLOAT_SLACK`.
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

Let C be the norm at one site and s C >= 1. At most 2^20 units a site (the contract's limit), and summation that is off
by at most as much again (eta <= 2), make the norm of s S at most 2^21 s C, so the product is off by at most 2^-32 s C,
twice for two data sets; cutting to 64 bits adds 2 sqrt(d) 2^-64, below 2^-33 s C for d <= 2^60. Together 5/8 of 2^-30.
The rest is for the arithmetic by which the scale is found (`privacy/private_sum.py`), some 2^-48.
"""

LARGEST = 2**52
"""No scaled coordinate may be larger: float64 must still tell fractions from whole numbers."""


def rounded_sensitivity(reach: float, dimension: int, beta: float) -> float:
    """Delta above, for `reach` = s C > 0 and `dimension` = d, except with probability `beta`."""
    if not (reach > 0 and dimension > 0 and 0 < beta < 1):
        raise PrivacyError(
            f"Expected reach, dimension > 0 and 0 < beta < 1, found {reach}, {dimension}, {beta}"
        )
    root = math.sqrt(dimension)
    likely = reach**2 + dimension / 4 + math.sqrt(-2 * math.log(beta)) * (reach + root / 2)
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
