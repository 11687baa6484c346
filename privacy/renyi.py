"""Renyi divergence of private sums: what a lifetime filter adds up, and an upper bound of epsilon beside the PLD's.

Epsilon from Renyi divergences is 7 to 80 % above the truth (`privacy/accounting.py` has the tight one), but
divergences of one order add up also when every mechanism is chosen after seeing the answers of the ones before
(Feldman, Zrnic 2021, arXiv:2008.11193, Theorem 3.1), which privacy loss distributions do not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from privacy.errors import PrivacyError
from privacy.events import SumEvent, by_part

__all__ = ["renyi_divergence", "renyi_epsilon"]

_ORDERS = (1.001, 10_000.0)  # from epsilons in the hundreds down to 1e-3
_REACH = 9.0  # deviations beyond the outermost peaks: e^(-81 / 2) of the integral lies there
_ROUNDING = (
    1e-14  # what floating point may take from a logarithm of about 0; added, never taken off
)
_MOST_POINTS = 1_000_000
_LEAST_NOISE = 0.1  # below, sampling is given no credit: there is no privacy left to speak of


def renyi_epsilon(events: Iterable[SumEvent], delta: float) -> float:
    """Epsilon at `delta` from the divergences of all `events` together, at the best order. Parts compose in parallel.

    Converted by Proposition 12 of Canonne, Kamath, Steinke 2020 (arXiv:2004.00010v4).
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"Expected 0 < delta={delta} < 1")
    return max((_epsilon(part, delta) for part in by_part(events)), default=0.0)


@functools.lru_cache(maxsize=4096)
def renyi_divergence(event: SumEvent, order: float) -> float:
    """Divergence of `order` > 1 between neighbours, the larger of both directions, of all `event.count` sums; in nats.

    Without sampling it is exactly count * order / (2 z^2) (Mironov 2017, arXiv:1702.07476, Proposition 7). With
    Poisson sampling, removing the unit is the larger direction (Mironov, Talwar, Zhang 2019, arXiv:1908.10530,
    Theorem 5), and its divergence is log(A) / (order - 1), where with noise N(0, z^2)

        A = E (1 - q + q exp((2 X - 1) / (2 z^2)))^order,    X ~ N(0, z^2)

    By the trapezoidal rule, whose error falls exponentially for a function that is analytic around the real axis, here
    up to a distance of pi z^2: below 1e-15 of A with the step that is taken. It holds for every order; the series of
    the same paper, which dp-accounting adds up, does not converge in time for some whose order is no whole number.
    """
    if not 1 < order < math.inf:
        raise PrivacyError(f"Expected 1 < order={order} < infinity")
    z, q = event.noise_multiplier, event.sampling_rate
    if q == 1 or z < _LEAST_NOISE:
        return event.count * order / (2 * z**2)
    step = min(z / 4, z**2 / 2)
    if order + 2 * _REACH * z > _MOST_POINTS * step:
        return event.count * order / (2 * z**2)  # sampling is given no credit; memory stays bounded
    # The integrand's peaks lie between 0 and `order`; outside it falls at least like the noise.
    x = np.arange(-_REACH * z, order + _REACH * z, step)
    likelihood = np.logaddexp(math.log1p(-q), math.log(q) + (x - 0.5) / z**2)
    density = -(x**2) / (2 * z**2) - math.log(z * math.sqrt(2 * math.pi) / step)
    log_a = max(0.0, float(logsumexp(order * likelihood + density))) + _ROUNDING
    return event.count * log_a / (order - 1)


def _epsilon(events: Sequence[SumEvent], delta: float) -> float:
    """At the order where it is least: every order gives a bound, and there is one valley.

    For epsilon (a - 1) = (a - 1) D_a + (a - 1) log(a - 1) - a log(a) - log(delta) is convex in the order a.
    """

    def at(logarithm: float) -> float:
        order = 1 + math.exp(logarithm)
        divergence = sum(renyi_divergence(event, order) for event in events)
        return divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)

    least, most = (math.log(order - 1) for order in _ORDERS)
    found = minimize_scalar(at, bounds=(least, most), method="bounded", options={"xatol": 1e-4})
    return max(0.0, float(found.fun))
