"""The losses of sampled sums are those of their densities, alone and composed, in both directions."""

import math
from itertools import pairwise

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from privacy.accounting import delta_of, epsilon_of
from privacy.events import SumEvent
from privacy.loss_distributions import (
    _added_delta,
    _removed_delta,
    gaussian_delta,
    loss_distribution,
    rounding_of,
)

SUMS = [(1.0, 0.3), (0.5, 0.01), (3.0, 0.001), (20.0, 0.5), (0.8, 0.9), (2.0, 1.0)]


def event(z, q=1.0, count=1):
    return SumEvent(noise_multiplier=z, sampling_rate=q, count=count)


def densities(x, z, q):
    """With the unit, and without it."""
    without = stats.norm.pdf(x, 0, z)
    return (1 - q) * without + q * stats.norm.pdf(x, 1, z), without


def divergence_by_integration(epsilon, z, q, *, removed):
    """The integral of max(P - e^epsilon Q, 0), or of max(Q - e^epsilon P, 0), piece by piece."""

    def integrand(x):
        first, second = densities(x, z, q) if removed else densities(x, z, q)[::-1]
        return max(0.0, first - math.exp(epsilon) * second)

    def log_ratio(x):
        return math.log((1 - q) + q * math.exp((x - 0.5) / z**2)) - (
            epsilon if removed else -epsilon
        )

    ends = (-12 * z, 12 * z + 1)
    edges = np.linspace(*ends, 12).tolist()
    if log_ratio(ends[0]) < 0 < log_ratio(ends[1]):
        edges.append(optimize.brentq(log_ratio, *ends, xtol=1e-14))
    return sum(
        integrate.quad(integrand, *each, epsabs=1e-17)[0] for each in pairwise(sorted(edges))
    )


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize(("z", "q"), SUMS)
def test_the_curves_are_the_integrals_of_the_densities(z, q, removed):
    curve = _removed_delta if removed else _added_delta
    for epsilon in (-0.7, -0.05, -1e-3, 0.0, 1e-3, 0.05, 0.3, 1.0):
        exact = divergence_by_integration(epsilon, z, q, removed=removed)
        found = float(curve(np.array([epsilon]), z, q)[0])
        assert found == pytest.approx(exact, rel=1e-6, abs=1e-12)


def single_delta(epsilon, z, q, *, removed):
    """From tails of the normal distribution, on the side of the point where the likelihood ratio is e^epsilon."""
    ratio = np.exp(epsilon if removed else -epsilon)
    with np.errstate(divide="ignore", invalid="ignore"):
        point = z**2 * np.log(np.maximum((ratio - 1 + q) / q, 0)) + 0.5
    tails = stats.norm.sf if removed else stats.norm.cdf
    without = tails(point / z)
    with_it = (1 - q) * without + q * tails((point - 1) / z)
    first, second = (with_it, without) if removed else (without, with_it)
    return np.maximum(first - np.exp(epsilon) * second, 0)


def composed_delta(epsilon, sums, *, removed):
    """The mean over the losses of all sums but the last of the last one's divergence: no distribution of losses."""
    *outer, (z, q) = sums
    points = 6000 if len(outer) == 1 else 1200  # right to 1e-6; to 5e-6
    losses, weights = np.zeros(1), np.ones(1)
    for noise, rate in outer:
        x = np.linspace(-11 * noise, 11 * noise + 1, points)
        with_it, without = densities(x, noise, rate)
        loss = np.log(with_it / without) * (1 if removed else -1)
        weight = (with_it if removed else without) * (x[1] - x[0])
        losses = np.add.outer(losses, loss).ravel()
        weights = np.multiply.outer(weights, weight).ravel()
    return float(weights @ single_delta(epsilon - losses, z, q, removed=removed))


COMPOSED = [
    [(1.0, 0.3)], [(0.7, 0.05)], [(1.0, 0.3)] * 2, [(0.7, 0.05)] * 2, [(5.0, 0.5)] * 2, [(1.0, 0.3), (2.0, 0.8)],
    [(0.6, 0.02), (4.0, 1.0)], [(1.0, 0.3)] * 3, [(1.0, 0.3), (2.0, 0.8), (3.0, 1.0)],
    [(0.6, 0.01), (0.9, 0.02), (1.5, 0.3)],
]  # fmt: skip


@pytest.mark.parametrize("sums", COMPOSED, ids=str)
def test_composition_is_what_brute_force_finds(sums):
    """Up to three sums by nested integration. One more or one less of them, or the gaussian limit, are not near it."""
    events = [event(z, q) for z, q in sums]
    epsilons = [0.05, 0.3, 1.0, 2.5]
    for epsilon in epsilons:
        truth = max(composed_delta(epsilon, sums, removed=each) for each in (True, False))
        if truth < 1e-9:
            continue
        assert truth * (1 - 1e-5) <= delta_of(events, epsilon) <= truth * (1 + 5e-3)
        assert epsilon * (1 - 1e-5) <= epsilon_of(events, truth) <= epsilon * (1 + 1e-3) + 1e-5
        fewer, more = events[:-1], [*events, events[-1]]
        assert not truth * (1 - 1e-2) <= delta_of(more, epsilon) <= truth * (1 + 1e-2)
        if fewer:
            assert not truth * (1 - 1e-2) <= delta_of(fewer, epsilon) <= truth * (1 + 1e-2)


def test_a_count_is_so_many_sums():
    apart = epsilon_of([event(1.0, 0.3)] * 7, 1e-5)
    assert epsilon_of([event(1.0, 0.3, 7)], 1e-5) == pytest.approx(apart, rel=1e-4)


def test_both_directions_count():
    """Adding a unit can be the dearer one, though hardly: at epsilon 0 they are equal, and no part of one is lost."""
    distribution = loss_distribution(1.0, 0.3, 1e-3)
    for epsilon in (0.0, 0.1, 0.5):
        truth = [composed_delta(epsilon, [(1.0, 0.3)], removed=each) for each in (True, False)]
        assert distribution.get_delta_for_epsilon(epsilon) == pytest.approx(max(truth), rel=1e-6)
        assert distribution._pmf_add.get_delta_for_epsilon(epsilon) == pytest.approx(
            truth[1], rel=1e-6
        )


@pytest.mark.parametrize(("z", "q"), SUMS)
@pytest.mark.parametrize("interval", [1e-2, 1e-3])
def test_dp_accounting_discretises_to_the_same(z, q, interval):
    ours = loss_distribution(z, q, interval)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, interval)
    gaussian = GaussianDpEvent(z)
    accountant.compose(gaussian if q == 1 else PoissonSampledDpEvent(q, gaussian))
    for epsilon in (0.0, 0.0123, 0.3, 1.7):
        expected = accountant.get_delta(epsilon)
        assert ours.get_delta_for_epsilon(epsilon) == pytest.approx(expected, rel=1e-6, abs=1e-14)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0.15, 100), st.floats(1e-4, 1), st.sampled_from([1e-3, 1e-2, 0.1]), st.floats(0, 5)
)
def test_discretisation_never_lowers_delta(z, q, interval, epsilon):
    """At any epsilon, also between two points of the grid."""
    truth = max(single_delta(np.array([epsilon]), z, q, removed=each)[0] for each in (True, False))
    found = loss_distribution(z, q, interval).get_delta_for_epsilon(epsilon)
    assert found >= truth * (1 - 1e-9) - 1e-15


@pytest.mark.parametrize("mu", [1e-3, 0.1, 1.0, 5.0])
def test_the_gaussian_curve_holds_at_every_real_loss(mu):
    """From -3 to 3, by tails of the normal distribution."""
    losses = np.linspace(-3, 3, 61)
    exact = stats.norm.cdf(mu / 2 - losses / mu) - np.exp(losses) * stats.norm.cdf(
        -mu / 2 - losses / mu
    )
    assert gaussian_delta(losses, mu) == pytest.approx(exact, rel=1e-9, abs=1e-15)
    assert gaussian_delta(np.array([-800.0, 800.0]), mu) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("count", [1, 100, 10_000, 1_000_000])
@pytest.mark.parametrize("mu", [0.3, 2.0, 6.0])
def test_what_floating_point_loses_is_set_aside(count, mu):
    """Against the exact Gaussian, far out where delta is nothing but rounding. Twice as much is set aside, and more."""
    z = math.sqrt(count) / mu
    distribution = loss_distribution(z, 1.0, min(1e-3, 0.3 / z)).self_compose(count)
    epsilons = np.linspace(0, 3 * mu * (mu + 8), 40)
    lost = gaussian_delta(epsilons, mu) - [
        distribution.get_delta_for_epsilon(each) for each in epsilons
    ]
    assert lost.max() < rounding_of([event(z, count=count)]) / 2
