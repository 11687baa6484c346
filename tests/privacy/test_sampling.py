"""Sampling is Poisson with the declared rate, and padding covers it."""

import math

import numpy as np
import pytest
from scipy import stats

from privacy.errors import PrivacyError
from privacy.keystream import Keystream, derive_key
from privacy.sampling import OVERFLOW, batch_capacity, poisson_sample

ROOT = b"tests of poisson sampling, these"[:32]


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_the_number_drawn_is_binomial(rate):
    """200,000 coins; the count lies within its 1e-6 range, and would not at 2/3 of the rate."""
    count = int(poisson_sample(200_000, rate, Keystream(derive_key(ROOT, int(100 * rate)))).sum())
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 200_000, rate)
    assert low <= count <= high
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 200_000, rate * 2 / 3)
    assert not low <= count <= high


def test_units_are_drawn_independently():
    """Neighbouring coins agree as often as independent ones: within the 1e-6 range of Binomial(n, 1/2)."""
    drawn = poisson_sample(100_001, 0.5, Keystream(derive_key(ROOT, "pairs")))
    agreements = int((drawn[1:] == drawn[:-1]).sum())
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 100_000, 0.5)
    assert low <= agreements <= high


def test_at_rate_one_everybody_takes_part_and_nothing_is_drawn():
    stream = Keystream(derive_key(ROOT, "all"))
    assert poisson_sample(10, 1.0, stream).all()
    assert stream.words(1) == Keystream(derive_key(ROOT, "all")).words(1)


@pytest.mark.parametrize(
    ("units", "rate"), [(1, 0.5), (10, 0.5), (1000, 0.1), (100_000, 0.01), (50, 0.999)]
)
def test_a_draw_exceeds_the_capacity_hardly_ever(units, rate):
    capacity = batch_capacity(units, rate)
    assert units * rate <= capacity <= units
    assert stats.binom.logsf(capacity, units, rate) <= math.log(OVERFLOW)


def test_the_capacity_at_rate_one_is_everybody():
    assert batch_capacity(123, 1.0) == 123


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(PrivacyError, match="sampling rate"):
        poisson_sample(1, rate, Keystream(derive_key(ROOT, "bad")))


def test_the_rate_is_never_rounded_up():
    assert not poisson_sample(1000, 2.0**-65, Keystream(derive_key(ROOT, "tiny"))).any()
    assert np.array_equal(
        poisson_sample(0, 0.5, Keystream(derive_key(ROOT, "none"))), np.zeros(0, dtype=bool)
    )
