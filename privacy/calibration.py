"""The least noise that buys a privacy target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from privacy.accounting import EXACT, epsilon_of
from privacy.errors import PrivacyError
from privacy.events import SumEvent
from privacy.loss_distributions import gaussian_delta

__all__ = ["calibrate"]


class _Stage(NamedTuple):
    """A search: how precise its accountant is, and between which log(epsilon / target) it may end."""

    precision: float
    least: float
    most: float


_STAGES = (_Stage(1e-2, -5e-3, 5e-3), _Stage(EXACT, -2e-4, 0.0))
"""First on a rough accountant, which takes a fifth of the time; then on the one whose word counts."""

_SMALLEST, _LARGEST = 1e-2, 1e6
_STEPS = 60

Events = Callable[[float], Sequence[SumEvent]]


def calibrate(events_at: Events, epsilon: float, delta: float) -> float:
    """A noise multiplier z that costs at most `epsilon`, and at least 0.9998 of it; never less noise than asked.

    With what the accountant itself is too large by, z is within a thousandth of the least that there is. A secant
    search on log epsilon over log z, from a guess.

    Arguments:
        events_at: the events of the whole study when its noise multiplier is z; epsilon falls as z grows.
    """
    z, less = (_guess(events_at, each, delta) for each in (epsilon, epsilon * math.exp(0.1)))
    slope = min(-0.05, 0.1 / math.log(less / z)) if less < z else -1.0
    for stage in _STAGES:

        def error_at(z: float, precision: float = stage.precision) -> float:
            found = epsilon_of(events_at(z), delta, precision=precision)
            return math.log(max(found, 1e-12) / epsilon)

        ended = _secant(error_at, z, slope, stage)
        if ended is None:
            raise PrivacyError(
                f"No noise multiplier between {_SMALLEST:g} and {_LARGEST:g} gives epsilon={epsilon:g}",
                hint="ask for another epsilon or delta, or for fewer rounds",
            )
        z, slope = ended
    return z


def _secant(
    error_at: Callable[[float], float], z: float, slope: float, stage: _Stage
) -> tuple[float, float] | None:
    """A z whose error is within the stage's limits, and the slope there; None if none is found."""
    aim = (stage.least + stage.most) / 2
    previous: tuple[float, float] | None = None
    for _ in range(_STEPS):
        error = error_at(z)
        if previous is not None and math.isfinite(error) and z != previous[0]:
            slope = min(-0.05, (error - previous[1]) / math.log(z / previous[0]))
        if stage.least <= error <= stage.most:
            return z, slope
        previous = (z, error) if math.isfinite(error) else None
        step = (aim - error) / slope if math.isfinite(error) else 1.0
        z *= math.exp(min(1.0, max(-1.0, step)))
        if not _SMALLEST < z < _LARGEST:
            break
    return None


def _guess(events_at: Events, epsilon: float, delta: float) -> float:
    """Where to start: the central limit of Dong, Roth, Su 2019. Only a start: it can be on the unsafe side."""

    def mu_at(z: float) -> float:
        return math.sqrt(sum(each.count * _mu_squared(each) for each in events_at(z)))

    mu = _bisect(lambda mu: bool(gaussian_delta(epsilon, mu) > delta), 1e-6, 1e3)
    return _bisect(lambda z: mu_at(z) < mu, 2 * _SMALLEST, _LARGEST / 2)


def _mu_squared(event: SumEvent) -> float:
    exponent = min(event.noise_multiplier**-2, 700.0)
    if event.sampling_rate == 1:
        return exponent
    return event.sampling_rate**2 * math.expm1(exponent)


def _bisect(holds_above: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds_above(middle) else (middle, high)
    return high
