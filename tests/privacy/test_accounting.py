"""Epsilon is the truth to 1e-3 and never below it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import QUICK, epsilon_of, mu_of
from privacy.calibration import calibrate
from privacy.errors import PrivacyError
from privacy.events import SumEvent

# (q, z, T, delta) and the true epsilon to 1e-4, by PLD at a discretisation of 1e-4.
CASES = [
    (0.01, 1.0, 1000, 1e-5, 1.8282),
    (0.001, 0.8, 10_000, 1e-6, 0.9473),
    (0.1, 2.0, 100, 1e-5, 2.3374),
    (1.0, 5.0, 50, 1e-5, 6.5730),
    (256 / 60_000, 1.1, 14_062, 1e-5, 2.3817),
]


def event(z, q=1.0, count=1):
    return SumEvent(noise_multiplier=z, sampling_rate=q, count=count)


@pytest.mark.parametrize(("q", "z", "count", "delta", "truth"), CASES)
def test_epsilon_is_within_a_thousandth_of_the_truth_and_not_below(q, z, count, delta, truth):
    assert truth - 1e-4 <= epsilon_of([event(z, q, count)], delta) <= truth + 1e-3


@pytest.mark.parametrize(("rho", "epsilon"), [(0.81, 8.549), (0.15, 3.416), (0.0144, 0.996)])
def test_gaussians_of_a_given_concentration_have_the_published_epsilon(rho, epsilon):
    """rho-zCDP of a Gaussian is 1 / (2 z^2); delta 1e-10."""
    assert epsilon_of([event(math.sqrt(1 / (2 * rho)))], 1e-10) == pytest.approx(epsilon, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 50), st.integers(1, 500))
def test_many_unsampled_sums_cost_what_one_of_their_joint_mu_costs(z, count):
    together = epsilon_of([event(z, count=count)], 1e-5)
    one = epsilon_of([event(z / math.sqrt(count))], 1e-5)
    apart = epsilon_of([event(z)] * count, 1e-5)
    assert together == pytest.approx(one, rel=1e-6, abs=1e-6)
    assert together == pytest.approx(apart, rel=1e-6, abs=1e-6)


def test_more_sums_less_noise_and_a_higher_rate_all_cost_more():
    base = epsilon_of([event(1.0, 0.01, 1000)], 1e-5)
    assert epsilon_of([event(1.0, 0.01, 1100)], 1e-5) > base
    assert epsilon_of([event(0.9, 0.01, 1000)], 1e-5) > base
    assert epsilon_of([event(1.0, 0.011, 1000)], 1e-5) > base
    assert epsilon_of([event(1.0, 0.01, 1000), event(20.0)], 1e-5) > base


def test_the_quick_accountant_errs_on_the_safe_side():
    events = [event(1.0, 0.01, 1000)]
    assert epsilon_of(events, 1e-5) <= epsilon_of(events, 1e-5, precision=QUICK) <= 1.8282 + 2e-3


def test_the_exact_formula_is_what_pld_would_say():
    """A rate just below 1 takes the other path through the accountant."""
    exact = epsilon_of([event(5.0, count=50)], 1e-5)
    assert epsilon_of([event(5.0, 1 - 1e-12, 50)], 1e-5) == pytest.approx(exact, abs=1e-3)


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert epsilon_of([], 1e-5) == 0.0
    assert epsilon_of([event(1e-4)], 1e-5) == math.inf


def test_mu_is_exact_without_sampling_and_absent_with_it():
    assert mu_of([event(5.0, count=50), event(3.0)]) == pytest.approx(math.sqrt(50 / 25 + 1 / 9))
    assert mu_of([event(5.0, 0.5, 50)]) is None


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_an_impossible_delta_is_refused(delta):
    with pytest.raises(PrivacyError, match="delta"):
        epsilon_of([event(1.0)], delta)


@pytest.mark.parametrize(
    "bad",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"count": 0},
    ],
)
def test_an_impossible_event_cannot_be_made(bad):
    with pytest.raises(PrivacyError, match=next(iter(bad))):
        SumEvent(**({"noise_multiplier": 1.0} | bad))


def test_events_have_one_json_form():
    one = event(1.5, 0.25, 7)
    assert SumEvent.from_values(one.to_values()) == one
    with pytest.raises(PrivacyError, match="version"):
        SumEvent.from_values(one.to_values() | {"version": 2})
    with pytest.raises(PrivacyError, match="sum event"):
        SumEvent.from_values(one.to_values() | {"more": 1})


@pytest.mark.parametrize(
    ("epsilon", "q", "count"),
    [(0.1, 1.0, 1), (1.0, 1.0, 60), (3.0, 1.0, 100), (8.0, 0.1, 200), (1.0, 0.01, 1000)],
)
def test_calibrated_noise_buys_the_target_and_wastes_no_thousandth(epsilon, q, count):
    z = calibrate(lambda z: [event(z, q, count)], epsilon, 1e-5)
    assert epsilon * (1 - 1e-3) <= epsilon_of([event(z, q, count)], 1e-5) <= epsilon
    assert epsilon_of([event(z * (1 - 1e-3), q, count)], 1e-5) > epsilon


def test_calibration_says_when_no_noise_is_enough():
    with pytest.raises(PrivacyError, match="No noise multiplier"):
        calibrate(lambda z: [event(z, count=10**9)], 1e-3, 1e-12)
