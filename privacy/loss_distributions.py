"""Privacy loss distributions of sampled Gaussian sums, discretised upwards: what `privacy/accounting.py` reads.

    P = (1 - q) N(0, z^2) + q N(1, z^2)    the noisy sum with the unit
    Q =             N(0, z^2)              without it

The hockey-stick divergences of P from Q (the unit is removed) and of Q from P (it is added) have closed forms:
sampling turns the loss e into 1 + (e^e - 1) / q (Balle, Barthe, Gaboardi 2018, arXiv:1807.01647, Theorem 2), and the
Gaussian's own divergence is known (Balle, Wang 2018, arXiv:1805.06530, Theorem 8). dp-accounting connects the dots on
their curve (Doroshenko et al. 2022, arXiv:2207.04380): every chord of a convex curve lies above it, so what follows is
never below the truth. Both directions are composed, since for a sum of losses neither need dominate the other. The
curves are its own to ten digits, ten times faster than its loop over every point.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from dp_accounting.pld.pld_pmf import PLDPmf, create_pmf_pessimistic_connect_dots_fixed_gap
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from scipy.special import log_ndtr, ndtr, ndtri

from privacy.events import SumEvent

__all__ = ["gaussian_delta", "loss_distribution", "losses_of", "mean_loss", "rounding_of"]

Floats = npt.NDArray[np.float64]

_REACH = -float(ndtri(math.exp(-50) / 2))  # in deviations: of the noise, e^-50 lies beyond
_FINEST_INTERVAL, _WIDEST_INTERVAL = 1e-8, 1e-3
_MOST_POINTS, _FEW_POINTS = (
    40_000,
    8_000,
)  # of one sum's distribution, by precision: no study takes minutes
_ROUGH = 5e-3  # a precision from which few points will do
_LARGEST = 1e300
_ROUNDING = 2.0**-50  # of delta for each sum; the Fourier transform was seen to lose up to 2^-53


def gaussian_delta(epsilon: npt.ArrayLike, mu: float) -> Floats:
    """delta(epsilon) between N(0, 1) and N(mu, 1), at any real epsilon (Balle and Wang 2018, Theorem 8)."""
    loss = np.asarray(epsilon, dtype=np.float64)
    first, second = mu / 2 - loss / mu, -mu / 2 - loss / mu
    with np.errstate(over="ignore", invalid="ignore"):
        found: Floats = ndtr(first) - np.exp(loss + log_ndtr(second))
    return np.maximum(found, 0.0)


def losses_of(
    gaussian_mu: float, sampled: Sequence[SumEvent], precision: float
) -> PrivacyLossDistribution:
    """The distribution of the whole loss of one Gaussian of multiplier 1 / mu and of all sampled sums.

    Arguments:
        gaussian_mu: of everything that is not sampled, together; 0 for nothing.
        precision: how much larger than the truth epsilon may come out, relatively.
    """
    interval = _interval(gaussian_mu, sampled, precision)
    parts = [
        loss_distribution(each.noise_multiplier, each.sampling_rate, interval).self_compose(
            each.count
        )
        for each in sampled
    ]
    if gaussian_mu:
        parts.append(loss_distribution(math.nextafter(1 / gaussian_mu, 0), 1.0, interval))
    return functools.reduce(lambda one, other: one.compose(other), parts)


def rounding_of(sampled: Sequence[SumEvent]) -> float:
    """How far off delta can be by the rounding of floating-point Fourier transforms.

    Raising a transform to the power of `count` multiplies its relative error by `count`. Seen, over 10^6 sums and all
    widths: at most 2^-53 for each; what is set aside is eight times that.
    """
    return _ROUNDING * (1 + sum(each.count for each in sampled))


def mean_loss(z: float, q: float) -> float:
    """The mean of one sum's loss where the unit is there, KL(P, Q) in nats, to a few digits (trapezoidal rule)."""
    x, step = np.linspace(-_REACH * z, 1 + _REACH * z, 10_000, retstep=True)
    unsampled = math.log(q) + (x - 0.5) / z**2
    losses = unsampled if q == 1 else np.logaddexp(math.log1p(-q), unsampled)
    density = np.exp(losses - x**2 / (2 * z**2)) * step / (z * math.sqrt(2 * math.pi))
    return float(density @ losses)


@functools.lru_cache(maxsize=8)
def loss_distribution(z: float, q: float, interval: float) -> PrivacyLossDistribution:
    """The distribution of one sum's loss on multiples of `interval`, rounded upwards; both directions.

    Kept, since it is the same for every number of rounds.
    """
    low, high = _loss(-_REACH * z, z, q), _loss(1 + _REACH * z, z, q)
    removed = _on_grid(lambda losses: _removed_delta(losses, z, q), low, high, interval)
    if q == 1:
        return PrivacyLossDistribution(removed)
    added = _on_grid(lambda losses: _added_delta(losses, z, q), -high, -low, interval)
    return PrivacyLossDistribution(removed, added)


def _on_grid(curve: Callable[[Floats], Floats], low: float, high: float, interval: float) -> PLDPmf:
    first, last = math.floor(low / interval), math.ceil(high / interval)
    losses = np.arange(first, last + 1, dtype=np.float64) * interval
    deltas = np.clip(curve(losses), 0, 1)
    return create_pmf_pessimistic_connect_dots_fixed_gap(interval, first, last, deltas)


def _loss(x: float, z: float, q: float) -> float:
    """The loss at x, log P(x) / Q(x)."""
    unsampled = math.log(q) + (x - 0.5) / z**2
    return unsampled if q == 1 else float(np.logaddexp(math.log1p(-q), unsampled))


def _removed_delta(losses: Floats, z: float, q: float) -> Floats:
    """Hockey-stick divergence of P from Q."""
    inner = _unsampled(losses, q)
    return np.where(np.isfinite(inner), q * gaussian_delta(inner, 1 / z), -np.expm1(losses))


def _added_delta(losses: Floats, z: float, q: float) -> Floats:
    """Hockey-stick divergence of Q from P: 1 - e^e + e^e times that of P from Q at -e, without its cancellation."""
    inner = _unsampled(-losses, q)
    share = np.exp(losses) * (q + np.expm1(-losses))
    return np.where(np.isfinite(inner), share * gaussian_delta(-inner, 1 / z), 0.0)


def _unsampled(losses: Floats, q: float) -> Floats:
    """log(1 + (e^e - 1) / q), the Gaussian's loss where the sampled sum's is e; -infinity where there is none."""
    with np.errstate(divide="ignore", over="ignore"):
        found: Floats = np.log1p(np.clip(np.expm1(losses) / q, -1, _LARGEST))
    return found


def _interval(gaussian_mu: float, sampled: Sequence[SumEvent], precision: float) -> float:
    """Steps so fine that epsilon grows by `precision`, relatively.

    A loss that is moved to the two points beside it gains a variance of at most interval^2 / 4 and of
    interval^2 / 6 on average; n of them gain n times that, which is a part of the variance V that they have. Epsilon
    grows like the deviation: by n interval^2 / (12 V). The variance of one loss is at most about q^2 (e^(1/z^2) - 1).
    """
    steps = bool(gaussian_mu) + sum(each.count for each in sampled)
    variance = gaussian_mu**2 + sum(
        each.count * each.sampling_rate**2 * math.expm1(each.noise_multiplier**-2)
        for each in sampled
    )
    reach = max(
        [_reach(each.noise_multiplier, each.sampling_rate) for each in sampled]
        + ([_reach(1 / gaussian_mu, 1.0)] if gaussian_mu else [])
    )
    fine = min(_WIDEST_INTERVAL, math.sqrt(12 * precision * variance / steps))
    points = _MOST_POINTS if precision < _ROUGH else _FEW_POINTS
    interval = max(fine, reach / points, _FINEST_INTERVAL)
    # Down to a quarter of an octave, so that all numbers of rounds of one study share their sums' distributions.
    return float(2 ** (math.floor(4 * math.log2(interval)) / 4))


def _reach(z: float, q: float) -> float:
    return _loss(1 + _REACH * z, z, q) - _loss(-_REACH * z, z, q)
