"""Divergences are the integrals that define them, in both directions; the epsilon from them lies above the truth."""

import math
from itertools import pairwise

import numpy as np
import pytest
from dp_accounting.rdp import compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from privacy.accounting import epsilon_of
from privacy.errors import PrivacyError
from privacy.events import SumEvent
from privacy.renyi import renyi_divergence, renyi_epsilon

ORDERS = [1.01, 1.3, 2.0, 3.5, 8.0, 20.5, 64.0]
SUMS = [
    (1.0, 0.01), (0.8, 0.001), (20.0, 0.5), (0.3, 0.3), (2.0, 0.9), (5.0, 1e-4), (0.5, 0.99), (0.15, 1e-3), (3.0, 1.0),
]  # fmt: skip


def event(z, q=1.0, count=1, part="train"):
    return SumEvent(noise_multiplier=z, sampling_rate=q, count=count, part=part)


def divergence_by_integration(order, z, q, *, removed):
    """log(integral of first^order second^(1 - order)) / (order - 1), piece by piece, from the densities' logarithms."""

    def logarithm(x):
        without = stats.norm.logpdf(x, 0, z)
        with_it = np.logaddexp(
            math.log1p(-q) + without if q < 1 else -np.inf,
            math.log(q) + stats.norm.logpdf(x, 1, z),
        )
        first, second = (with_it, without) if removed else (without, with_it)
        return order * first + (1 - order) * second

    edges = np.linspace(-order - 12 * z, order + 12 * z, 160)
    top = float(np.max(logarithm(np.linspace(edges[0], edges[-1], 100_001))))
    total = sum(
        integrate.fixed_quad(lambda x: np.exp(logarithm(x) - top), low, high, n=40)[0]
        for low, high in pairwise(edges)
    )
    return (math.log(total) + top) / (order - 1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("z", "q"), SUMS)
def test_the_divergence_is_the_larger_of_both_integrals(z, q, order):
    """Logarithms of about 0 keep 14 digits after the point: 1e-13 / (order - 1)."""
    removed = divergence_by_integration(order, z, q, removed=True)
    added = divergence_by_integration(order, z, q, removed=False)
    slack = 1e-13 / (order - 1)
    assert added <= removed * (1 + 1e-12) + slack
    assert renyi_divergence(event(z, q), order) == pytest.approx(removed, rel=1e-9, abs=slack)


@pytest.mark.parametrize("order", [2, 3, 16, 100])
@pytest.mark.parametrize(("z", "q"), SUMS[:8])
def test_at_whole_orders_it_is_the_binomial_sum(z, q, order):
    """Mironov, Talwar, Zhang 2019, section 3.3."""
    terms = [
        math.log(special.comb(order, k)) + k * math.log(q) + (order - k) * math.log1p(-q) + k * (k - 1) / (2 * z**2)
        for k in range(order + 1)
    ]  # fmt: skip
    expected = special.logsumexp(terms) / (order - 1)
    assert renyi_divergence(event(z, q), order) == pytest.approx(expected, rel=1e-9, abs=1e-13)


@settings(max_examples=100, deadline=None)
@given(st.floats(0.15, 100), st.floats(1e-6, 1), st.floats(1.01, 200), st.integers(1, 10**6))
def test_it_adds_up_grows_with_the_order_and_is_at_most_that_without_sampling(z, q, order, count):
    one = renyi_divergence(event(z, q), order)
    assert renyi_divergence(event(z, q, count), order) == pytest.approx(count * one, rel=1e-12)
    slack = 2e-14 / (order - 1)
    assert renyi_divergence(event(z, q), 1.1 * order) >= one * (1 - 1e-9) - slack
    assert 0 < one <= order / (2 * z**2) * (1 + 1e-9) + slack


def test_with_next_to_no_noise_sampling_is_given_no_credit():
    assert renyi_divergence(event(0.05, 0.01), 2.0) == 2.0 / (2 * 0.05**2)
    assert renyi_divergence(event(0.1, 0.01), 2.0) < 2.0 / (2 * 0.1**2)


@pytest.mark.parametrize("order", [1.0, 0.5, 0.0, -1.0, math.inf, math.nan])
def test_an_impossible_order_is_refused(order):
    with pytest.raises(PrivacyError, match="order"):
        renyi_divergence(event(1.0), order)


# Epsilon

# (q, z, T, delta), epsilon by dp-accounting's RDP with its own orders, and the true epsilon.
CASES = [
    (0.01, 1.0, 1000, 1e-5, 2.1014, 1.8282),
    (0.001, 0.8, 10_000, 1e-6, 1.7036, 0.9473),
    (0.1, 2.0, 100, 1e-5, 2.5806, 2.3374),
    (1.0, 5.0, 50, 1e-5, 7.0774, 6.5730),
    (256 / 60_000, 1.1, 14_062, 1e-5, 2.5966, 2.3817),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_epsilon_is_the_published_one_or_a_little_less(case):
    """The best of all orders is at most 1e-3 below the best of a grid."""
    q, z, count, delta, published, truth = case
    found = renyi_epsilon([event(z, q, count)], delta)
    assert published - 1e-3 <= found <= published + 1e-4
    assert found > 1.05 * truth


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_order_of_a_fine_grid_is_better(case):
    """And the conversion is dp-accounting's, Proposition 12 of Canonne, Kamath, Steinke 2020."""
    q, z, count, delta, _, _ = case
    sums = [event(z, q, count), event(30.0)]
    orders = 1 + np.geomspace(0.01, 1000, 2000)
    divergences = [sum(renyi_divergence(each, order) for each in sums) for order in orders]
    best, _ = compute_epsilon(orders, divergences, delta)
    assert best * (1 - 1e-3) <= renyi_epsilon(sums, delta) <= best * (1 + 1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 20), st.sampled_from([1e-3, 1e-5, 1e-10, 1e-20]))
def test_without_sampling_it_lies_above_the_exact_epsilon(mu, delta):
    exact = epsilon_of([event(1 / mu)], delta)
    found = renyi_epsilon([event(1 / mu)], delta)
    assert exact - 1e-8 <= found <= exact * 1.3 + 0.5 * mu


def test_nothing_costs_nothing_and_no_noise_costs_more_than_anything():
    assert renyi_epsilon([], 1e-5) == 0.0
    assert renyi_epsilon([event(1e-3)], 1e-5) > 1e5


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_an_impossible_delta_is_refused(delta):
    with pytest.raises(PrivacyError, match="delta"):
        renyi_epsilon([event(1.0)], delta)
