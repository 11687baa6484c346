"""Epsilon of a sequence of private sums, declared beforehand, by privacy loss distributions.

dp-accounting's PLD (Koskela et al. 2020, arXiv:1906.03049) is pessimistic: discretised upwards, never below the true
epsilon (`privacy/loss_distributions.py`). Sums without sampling are first merged exactly: Gaussians of multipliers z_i
compose to one of multiplier 1 / sqrt(sum 1 / z_i^2) (Dong, Roth, Su 2019, arXiv:1905.02383, Corollary 3.3), so they
cost nothing in precision; where nothing at all is sampled, epsilon is that Gaussian's own, by the exact formula
(Balle, Wang 2018, arXiv:1805.06530, Theorem 8). The relation is always add-or-remove one.

**Train and test.** Every unit is in one part or the other, by a keyed hash of the unit itself (`study/split.py`). So a
neighbouring data set differs in the train part or in the test part, never in both, and only the sums of that part and
those of all units are distributed differently: what is lost about a unit of the train part is the loss of {train, all},
about one of the test part that of {test, all}. Both hold at the same delta with the larger epsilon of the two. Delta is
not doubled, for the part is a fact about the unit and not an event to be bounded. This needs the hash: were the parts
cut by position or by a draw over the rows, removing one row would move others across, and both parts would differ.

Not used, on purpose: the replace-one mode of dp-accounting (0.6), whose RDP accountant gives a Gaussian sum the same
figure as add-or-remove (4.73) and whose PLD accountant gives it more than twice that (10.0);
`pessimistic_estimate=False`; the central limit of Gaussian differential privacy for sampled sums, which lies on the
unsafe side (1.62 where the truth is 1.83).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version

import numpy as np
from dp_accounting import get_epsilon_gaussian
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

from privacy.errors import PrivacyError
from privacy.events import SumEvent, by_part
from privacy.loss_distributions import gaussian_delta, losses_of, mean_loss, rounding_of
from privacy.renyi import renyi_epsilon

__all__ = ["ACCOUNTANT", "EXACT", "QUICK", "delta_of", "epsilon_of", "gaussian_epsilon", "mu_of"]

ACCOUNTANT = f"dp-accounting {version('dp-accounting')} PLD, add or remove one"

EXACT = 2e-4
QUICK = 1e-3
"""How much too large epsilon may come out by discretisation, relatively; the quicker takes half of the time."""

_LARGEST_EPSILON = 1e4
_LARGEST_LOSS = (
    5000.0  # on average; so is epsilon then: no bound worth a name, nor one that fits in memory
)
_LEAST_NOISE = 0.1  # of a sampled sum: no epsilon worth a name, and minutes of work to say which
_TOLERANCE = 1e-9  # of the exact formula's root finding and logarithms; added, never taken off

Events = tuple[SumEvent, ...]


def epsilon_of(events: Iterable[SumEvent], delta: float, *, precision: float = EXACT) -> float:
    """The least epsilon >= 0 that the accountant proves at `delta` for all `events` together; may be infinite.

    Arguments:
        precision: of the discretisation; larger is faster and more pessimistic.
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"Expected 0 < delta={delta} < 1")
    return max((_epsilon(part, delta, precision) for part in by_part(events)), default=0.0)


def delta_of(events: Iterable[SumEvent], epsilon: float, *, precision: float = EXACT) -> float:
    """The least delta that the accountant proves at `epsilon` >= 0: with `epsilon_of`, the whole privacy profile.

    Never below what floating point can tell from zero, about 1e-15 for every sampled sum.
    """
    if not 0 <= epsilon < math.inf:
        raise PrivacyError(f"Expected 0 <= epsilon={epsilon} < infinity")
    return max((_delta(part, epsilon, precision) for part in by_part(events)), default=0.0)


def mu_of(events: Iterable[SumEvent]) -> float | None:
    """Mu of Gaussian differential privacy: exact without sampling, None with it (there is no exact one)."""
    parts = by_part(events)
    if any(_sampled(part) for part in parts):
        return None
    return max((_gaussian_mu(part) for part in parts), default=0.0)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of mu-GDP at `delta`, exact to 1e-9 and never below it (Balle, Wang 2018, Theorem 8); 0 for mu of 0."""
    if mu == 0:
        return 0.0
    with np.errstate(divide="ignore"):  # where it looks so far out that its delta is zero
        return float(get_epsilon_gaussian(1 / mu, delta)) + _TOLERANCE


@functools.lru_cache(maxsize=1024)
def _epsilon(events: Events, delta: float, precision: float) -> float:
    """Kept, since every party of a simulation asks the same of its own accountant."""
    if _is_hopeless(events):
        return math.inf
    if not _sampled(events):
        return gaussian_epsilon(_gaussian_mu(events), delta)
    rounding = rounding_of(_sampled(events))
    epsilon = math.inf
    if delta > rounding:
        epsilon = float(_losses(events, precision).get_epsilon_for_delta(delta - rounding))
    if delta < 10 * rounding:  # Renyi divergences are summed in logarithms, where nothing is lost
        epsilon = min(epsilon, renyi_epsilon(events, delta))
    return epsilon if epsilon < _LARGEST_EPSILON else math.inf


@functools.lru_cache(maxsize=1024)
def _delta(events: Events, epsilon: float, precision: float) -> float:
    if _is_hopeless(events):
        return 1.0
    if not _sampled(events):
        return min(1.0, float(gaussian_delta(epsilon, _gaussian_mu(events))) * (1 + _TOLERANCE))
    found = float(_losses(events, precision).get_delta_for_epsilon(epsilon))
    return min(1.0, found + rounding_of(_sampled(events)))


@functools.lru_cache(maxsize=2)
def _losses(events: Events, precision: float) -> PrivacyLossDistribution:
    """Kept for the next point of the same profile."""
    return losses_of(_gaussian_mu(events), _sampled(events), precision)


def _sampled(events: Events) -> Events:
    return tuple(each for each in events if each.sampling_rate < 1)


def _gaussian_mu(events: Sequence[SumEvent]) -> float:
    """Mu of everything that is not sampled."""
    return math.sqrt(
        sum(each.count / each.noise_multiplier**2 for each in events if each.sampling_rate == 1)
    )


def _is_hopeless(events: Events) -> bool:
    """Is the whole loss so large that nobody asks for its epsilon? The mean of a Gaussian's is mu^2 / 2."""
    sampled, mu = _sampled(events), _gaussian_mu(events)
    if min((each.noise_multiplier for each in sampled), default=math.inf) < _LEAST_NOISE:
        return True
    means = (each.count * mean_loss(each.noise_multiplier, each.sampling_rate) for each in sampled)
    return mu**2 / 2 + sum(means) > _LARGEST_LOSS
