"""Calibrated noise buys what was asked, and a thousandth less would not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import EXACT, epsilon_of
from privacy.calibration import calibrate
from privacy.errors import PrivacyError
from privacy.events import SumEvent


def event(z, q=1.0, count=1, part="train"):
    return SumEvent(noise_multiplier=z, sampling_rate=q, count=count, part=part)


STUDIES = {
    "one sum": lambda z: [event(z)],
    "a hundred": lambda z: [event(z, count=100)],
    "sampled": lambda z: [event(z, 0.1, 200)],
    "small rate": lambda z: [event(z, 0.01, 1000)],
    "smaller rate": lambda z: [event(z, 0.001, 10_000)],
    "mixed": lambda z: [event(30 * z), event(z, 0.01, 1000)],
    "mixed, few": lambda z: [event(z), event(z, 0.01, 10)],
    "moments first": lambda z: [event(z * 0.95), event(z, 0.1, 10)],
    "both parts": lambda z: [event(z, 0.1, 100), event(2 * z, count=5, part="test"), event(9 * z, part="all")],
}  # fmt: skip


@pytest.mark.parametrize("delta", [1e-5, 1e-8])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("name", STUDIES)
def test_calibrated_noise_buys_the_target_and_wastes_no_thousandth(name, epsilon, delta):
    """By the accountant; and by a twenty times finer one, so that its discretisation wastes none either."""
    events_at = STUDIES[name]
    z = calibrate(events_at, epsilon, delta)
    assert epsilon * (1 - 2e-4) <= epsilon_of(events_at(z), delta) <= epsilon
    assert epsilon_of(events_at(z * (1 - 1e-3)), delta, precision=EXACT / 20) > epsilon


@settings(max_examples=25, deadline=None)
@given(st.floats(0.02, 20), st.floats(0.005, 1), st.integers(1, 300), st.sampled_from([1e-4, 1e-6]))
def test_it_finds_noise_for_whatever_a_study_asks(epsilon, rate, count, delta):
    def events_at(z):
        return [event(z, rate, count), event(2 * z)]

    z = calibrate(events_at, epsilon, delta)
    assert epsilon * (1 - 2e-4) <= epsilon_of(events_at(z), delta) <= epsilon


def test_more_is_asked_of_noise_by_more_privacy():
    noises = [calibrate(STUDIES["small rate"], epsilon, 1e-5) for epsilon in (8.0, 2.0, 0.5, 0.1)]
    assert noises == sorted(noises)


@pytest.mark.parametrize(
    ("count", "epsilon", "delta"), [(10**9, 1e-3, 1e-12), (1, 1e-9, 1e-15), (1, 5000.0, 1e-5)]
)
def test_it_says_when_no_noise_will_do(count, epsilon, delta):
    with pytest.raises(PrivacyError, match="No noise multiplier between") as caught:
        calibrate(lambda z: [event(z, count=count)], epsilon, delta)
    assert caught.value.hint
