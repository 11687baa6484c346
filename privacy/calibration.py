"""The least noise that buys a privacy target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from privacy.accounting import EXACT, QUICK, epsilon_of
from privacy.errors import PrivacyError
from privacy.events import SumEvent

__all__ = ["calibrate"]

_TOLERANCE = 2e-4
"""How far below the target epsilon the result may stay, relatively."""
_SMALLEST, _LARGEST = 1e-2, 1e6

Events = Callable[[float], Sequence[SumEvent]]


def calibrate(events_at: Events, epsilon: float, delta: float) -> float:
    """A noise multiplier z that costs at most `epsilon`, and at least 0.9998 of it; never less noise than asked.

    A secant search on log epsilon over log z, from a guess: first on the quick accountant, then on the exact one,
    whose word is the one that counts.

    Arguments:
        events_at: the events of the whole study when its noise multiplier is z; epsilon falls as z grows.
    """
    z = _guess(events_at, epsilon, delta)
    for precision in (QUICK, EXACT):
        z = _secant(lambda z, p=precision: epsilon_of(events_at(z), delta, precision=p), z, epsilon)  # type: ignore[misc]
    return z


def _secant(epsilon_at: Callable[[float], float], z: float, target: float) -> float:
    aim = -_TOLERANCE / 2  # in the middle of what is accepted
    slope, previous = -1.0, None
    for _ in range(60):
        error = math.log(max(epsilon_at(z), 1e-12) / target)
        if -_TOLERANCE <= error <= 0:
            return z
        if previous is not None and math.isfinite(error) and z != previous[0]:
            slope = min(-0.05, (error - previous[1]) / math.log(z / previous[0]))
        previous = (z, error) if math.isfinite(error) else None
        step = (aim - error) / slope if math.isfinite(error) else 1.0
        z = z * math.exp(min(1.0, max(-1.0, step)))
        if not _SMALLEST < z < _LARGEST:
            break
    raise PrivacyError(
        f"No noise multiplier between {_SMALLEST:g} and {_LARGEST:g} gives epsilon={target:g}",
        hint="ask for another epsilon or delta, or for fewer rounds",
    )


def _guess(events_at: Events, epsilon: float, delta: float) -> float:
    """Where to start: the central limit of Dong, Roth, Su 2019. Only a start: it can be on the unsafe side."""

    def mu_at(z: float) -> float:
        return math.sqrt(sum(each.count * _mu_squared(each) for each in events_at(z)))

    mu = _bisect(lambda mu: _gaussian_delta(epsilon, mu) > delta, 1e-6, 1e3)
    return _bisect(lambda z: mu_at(z) < mu, 2 * _SMALLEST, _LARGEST / 2)


def _mu_squared(event: SumEvent) -> float:
    exponent = min(event.noise_multiplier**-2, 700.0)
    if event.sampling_rate == 1:
        return exponent
    return event.sampling_rate**2 * math.expm1(exponent)


def _gaussian_delta(epsilon: float, mu: float) -> float:
    """delta(epsilon) of the Gaussian mechanism (Balle and Wang 2018, arXiv:1805.06530, Theorem 8)."""

    def tail(x: float) -> float:
        return math.erfc(x / math.sqrt(2)) / 2

    second = tail(epsilon / mu + mu / 2)
    return tail(epsilon / mu - mu / 2) - (math.exp(epsilon + math.log(second)) if second else 0.0)


def _bisect(holds_above: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds_above(middle) else (middle, high)
    return high
