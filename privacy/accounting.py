"""Epsilon of a sequence of private sums, declared beforehand, by privacy loss distributions.

dp-accounting's PLD (Koskela et al. 2020, arXiv:1906.03049; connect-the-dots, Doroshenko et al. 2022,
arXiv:2207.04380) is pessimistic: discretised upwards, never below the true epsilon. Sums without sampling are first
merged exactly: Gaussians of multipliers z_i compose to one of multiplier 1 / sqrt(sum 1 / z_i^2) (Dong, Roth, Su
2019, arXiv:1905.02383, Corollary 3.3), so they cost nothing in precision; where nothing at all is sampled, epsilon is
that Gaussian's own, by the exact formula (Balle, Wang 2018, arXiv:1805.06530, Theorem 8). The relation is always
add-or-remove one: the replace-one mode of the library gives the same figures as add-or-remove and is not used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from dp_accounting import (
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    get_epsilon_gaussian,
)
from dp_accounting.pld import PLDAccountant

from privacy.errors import PrivacyError
from privacy.events import SumEvent

__all__ = ["ACCOUNTANT", "EXACT", "QUICK", "epsilon_of", "gaussian_epsilon", "mu_of"]

ACCOUNTANT = f"dp-accounting {version('dp-accounting')} PLD, add or remove one"

EXACT = 1e-4
QUICK = 1e-3
"""Discretisation of privacy losses: truth to about 1e-4, and a tenth of the time."""

_LARGEST_EPSILON = 1e4
_LEAST_NOISE = 0.1
_TOLERANCE = 1e-9  # of the exact formula's root finding; added, never taken off


def epsilon_of(events: Iterable[SumEvent], delta: float, *, precision: float = EXACT) -> float:
    """The least epsilon that the accountant proves at `delta` for all `events` together.

    Arguments:
        precision: discretisation of the privacy loss; larger is faster and more pessimistic.
    """
    return _epsilon(tuple(events), delta, precision)


@functools.lru_cache(maxsize=1024)
def _epsilon(events: tuple[SumEvent, ...], delta: float, precision: float) -> float:
    """Kept, since every party of a simulation asks the same of its own accountant."""
    if not 0 < delta < 1:
        raise PrivacyError(f"Expected 0 < delta={delta} < 1")
    if not events:
        return 0.0
    mu = _gaussian_part(events)
    if mu > 100:
        return (
            math.inf
        )  # epsilon would be in the thousands: no bound worth a name, nor one that fits in memory
    if all(event.sampling_rate == 1 for event in events):
        return gaussian_epsilon(mu, delta)
    if min(event.noise_multiplier for event in events) < _LEAST_NOISE:
        return math.inf  # no epsilon worth a name, and minutes of work to say which
    accountant = PLDAccountant(
        NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=_interval(events, precision),
    )
    for z, q, count in _merged(events):
        gaussian = GaussianDpEvent(z)
        accountant.compose(gaussian if q == 1 else PoissonSampledDpEvent(q, gaussian), count)
    epsilon = float(accountant.get_epsilon(delta))
    return epsilon if epsilon < _LARGEST_EPSILON else math.inf


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of mu-GDP at `delta`, exact to 1e-9 and never below it (Balle, Wang 2018, Theorem 8); 0 for mu of 0."""
    return float(get_epsilon_gaussian(1 / mu, delta)) + _TOLERANCE if mu > 0 else 0.0


def mu_of(events: Sequence[SumEvent]) -> float | None:
    """Mu of Gaussian differential privacy: exact without sampling, None with it (there is no exact one)."""
    if any(event.sampling_rate < 1 for event in events):
        return None
    return _gaussian_part(events)


def _gaussian_part(events: Sequence[SumEvent]) -> float:
    return math.sqrt(
        sum(each.count / each.noise_multiplier**2 for each in events if each.sampling_rate == 1)
    )


def _merged(events: Sequence[SumEvent]) -> list[tuple[float, float, int]]:
    """(z, q, count), with everything unsampled as one Gaussian; z rounded down by an ulp, never up."""
    mu = _gaussian_part(events)
    merged = [(math.nextafter(1 / mu, 0), 1.0, 1)] if mu else []
    return merged + [
        (each.noise_multiplier, each.sampling_rate, each.count)
        for each in events
        if each.sampling_rate < 1
    ]


def _interval(events: Sequence[SumEvent], precision: float) -> float:
    """Coarser steps for losses so large that `precision` would make millions of them; still pessimistic."""
    widest = max(1 / z**2 + 20 / z for z, _, _ in _merged(events))
    return max(precision, widest / 2_000_000)
