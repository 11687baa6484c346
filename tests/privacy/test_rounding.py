"""Rounding is dithered floor, and one unit moves it by no more than the bound says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import PrivacyError
from privacy.keystream import Keystream, derive_key
from privacy.rounding import dithered_round, rounded_sensitivity

ROOT = b"tests of dithered rounding, here"[:32]


class Fixed:
    """A keystream that hands out the same words again."""

    def __init__(self, words):
        self._words = np.array(words, dtype=np.uint64)

    def words(self, count):
        assert count == len(self._words)
        return self._words


@given(
    st.floats(-1e6, 1e6, allow_nan=False),
    st.integers(0, 2**64 - 1),
)
def test_rounding_is_the_floor_of_the_value_plus_the_dither(value, word):
    from fractions import Fraction

    exact = math.floor(Fraction(value) + Fraction(word, 2**64))
    found = int(dithered_round(np.array([value]), 2**40, Fixed([word]))[0])
    if (
        found != exact
    ):  # only where the value lies within 2^-64 of a step, which the argument grants
        step = Fraction(value) + Fraction(word, 2**64)
        assert abs(step - round(step)) <= Fraction(1, 2**64)
        assert abs(found - exact) == 1


@settings(max_examples=200)
@given(st.integers(1, 64), st.floats(0.1, 50), st.integers(0, 2**32))
def test_one_unit_moves_the_rounded_sum_by_at_most_the_bound(dimension, reach, seed):
    """Same dither, any sum before, any vector of norm `reach`: the unconditional part of the bound always holds."""
    generator = np.random.Generator(np.random.PCG64(seed))
    before = generator.normal(size=dimension) * 10 ** generator.uniform(-3, 5)
    unit = generator.normal(size=dimension)
    unit *= reach / np.linalg.norm(unit)
    words = generator.integers(0, 2**64, dimension, dtype=np.uint64)
    moved = dithered_round(before + unit, 2**40, Fixed(words)) - dithered_round(
        before, 2**40, Fixed(words)
    )
    assert np.linalg.norm(moved) <= (reach + math.sqrt(dimension)) * (1 + 1e-9)


def test_the_likely_bound_fails_no_more_often_than_beta():
    """beta = 0.01, 20,000 draws: more than 300 failures (mean at most 200) have probability below 1e-10."""
    dimension, reach, beta = 40, 3.0, 0.01
    bound = rounded_sensitivity(reach, dimension, beta)
    assert bound < reach + math.sqrt(dimension)
    unit = np.full(dimension, reach / math.sqrt(dimension))
    stream = Keystream(derive_key(ROOT, "likely"))
    before, failures = np.linspace(-5, 5, dimension), 0
    for _ in range(20_000):
        words = stream.words(dimension)
        moved = dithered_round(before + unit, 100, Fixed(words)) - dithered_round(
            before, 100, Fixed(words)
        )
        failures += np.linalg.norm(moved) > bound
    assert failures <= 300


def test_rounding_is_unbiased():
    """Mean of 40,000 roundings of each value: standard error at most 0.5 / 200, six of them allowed."""
    values = np.array([0.25, -0.25, 3.0, -3.0, 0.0, 0.999, -0.999])
    stream = Keystream(derive_key(ROOT, "mean"))
    many = dithered_round(np.tile(values, 40_000), 100, stream).reshape(40_000, -1)
    assert np.abs(many.mean(axis=0) - values).max() < 6 * 0.5 / 200
    assert (many[:, [2, 3, 4]] == [3, -3, 0]).all()


def test_values_beyond_the_clamp_are_clamped():
    rounded = dithered_round(
        np.array([1e300, -1e300, 7.0]), 7, Keystream(derive_key(ROOT, "clamp"))
    )
    assert rounded.tolist() == [7, -7, 7]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_sum_that_is_not_finite_is_refused(bad):
    with pytest.raises(PrivacyError, match="finite"):
        dithered_round(np.array([0.0, bad]), 7, Keystream(derive_key(ROOT, "bad")))


@pytest.mark.parametrize("clamp", [0, -1, 2**53])
def test_an_impossible_clamp_is_refused(clamp):
    with pytest.raises(PrivacyError, match="clamp"):
        dithered_round(np.zeros(1), clamp, Keystream(derive_key(ROOT, "clamp")))
