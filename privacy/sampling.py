"""Poisson sampling: every unit takes part with probability q, independently, drawn in secret.

This is the sampling that the accountant assumes. A batch of fixed size, or a shuffled pass over the data, is another
mechanism with another epsilon.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from privacy.errors import PrivacyError
from privacy.keystream import Keystream

__all__ = ["OVERFLOW", "batch_capacity", "poisson_sample"]

OVERFLOW = 2.0**-128
"""Largest probability that one draw exceeds `batch_capacity`; it is part of delta."""


def poisson_sample(count: int, rate: float, keystream: Keystream) -> npt.NDArray[np.bool_]:
    """Which of `count` units take part, shape (count,).

    The rate is rounded down to a multiple of 2^-64, never up: epsilon grows with it. At rate 1 everybody takes
    part and nothing is drawn.
    """
    if not 0 < rate <= 1:
        raise PrivacyError(f"Expected 0 < sampling rate <= 1, found {rate}")
    if rate == 1:
        return np.ones(count, dtype=np.bool_)
    return keystream.words(count) < np.uint64(math.floor(rate * 2.0**64))


def batch_capacity(units: int, rate: float) -> int:
    """A number of units that one draw exceeds with probability at most 2^-128; public, so work can be padded to it.

    From the Chernoff bound P(Binomial(n, q) >= a) <= exp(-n KL(a/n || q)); the least a that it allows.

    Arguments:
        units: a public bound of the number of units at a site.
    """
    if rate == 1:
        return units
    low, high = math.ceil(units * rate), units
    while low < high:
        middle = (low + high) // 2
        if _log_tail(units, rate, middle + 1) <= math.log(OVERFLOW):
            high = middle
        else:
            low = middle + 1
    return low


def _log_tail(units: int, rate: float, count: int) -> float:
    share = count / units
    if share > 1:
        return -math.inf
    if share <= rate:
        return 0.0
    rest = (1 - share) * math.log((1 - share) / (1 - rate)) if share < 1 else 0.0
    return -units * (share * math.log(share / rate) + rest)
