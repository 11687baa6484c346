"""Scaling maps a row to a row: bit for bit the same whatever other rows there are."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from privacy.errors import StudyError
from study.scaling import (
    SMALLEST_DEVIATION,
    clamp_and_scale,
    moments_to_standard,
    scale_labels,
    standardise,
    unscale_labels,
)

anything = st.floats(allow_nan=True, allow_infinity=True)
finite = st.floats(-1e300, 1e300)
some_bounds = (
    st.tuples(finite, finite).map(sorted).filter(lambda pair: pair[0] < pair[1]).map(tuple)
)
tables = st.tuples(st.integers(0, 40), st.integers(1, 9)).flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=anything)
)
scalings = st.sampled_from(["bounds", "standard", "none"])


def same_bits(one, other):
    return one.shape == other.shape and one.tobytes() == other.tobytes()


@settings(deadline=None)
@given(tables, scalings, st.data())
def test_a_scaled_row_does_not_depend_on_the_other_rows(features, scaled, draw):
    columns = features.shape[1]
    bounds = draw.draw(st.lists(some_bounds, min_size=columns, max_size=columns))
    kept = draw.draw(st.permutations(range(len(features))))[: len(features) // 2]
    mean, deviation = (
        draw.draw(arrays.arrays(np.float64, columns, elements=anything)) for _ in range(2)
    )

    def whole(rows):
        return standardise(clamp_and_scale(rows, bounds, scaled), mean, deviation)

    assert same_bits(whole(features)[kept], whole(features[kept]))


@settings(deadline=None)
@given(arrays.arrays(np.float64, st.integers(0, 40), elements=anything), some_bounds, st.data())
def test_a_scaled_label_does_not_depend_on_the_other_labels(labels, bounds, draw):
    kept = draw.draw(st.permutations(range(len(labels))))[: len(labels) // 2]
    for function in (scale_labels, unscale_labels):
        with np.errstate(over="ignore", invalid="ignore"):
            whole, part = (function(each, bounds, "bounds") for each in (labels, labels[kept]))
        assert same_bits(whole[kept], part)


@settings(deadline=None)
@given(arrays.arrays(np.float64, (5, 1), elements=anything), some_bounds)
def test_scaled_features_lie_in_zero_to_one_and_nan_stays_nan(features, bounds):
    found = clamp_and_scale(features, [bounds], "bounds")
    assert (np.isnan(found) == np.isnan(features)).all()
    assert ((found >= 0) & (found <= 1))[~np.isnan(features)].all()


def test_values_beyond_their_bounds_become_the_nearer_bound():
    features = np.array([[-1.0, 5.0], [2.0, math.inf], [11.0, -math.inf], [math.nan, 3.0]])
    before = features.copy()
    bounds = [(0.0, 10.0), None]
    np.testing.assert_array_equal(
        clamp_and_scale(features, bounds, "none"),
        [[0, 5], [2, math.inf], [10, -math.inf], [math.nan, 3]],
    )
    np.testing.assert_array_equal(
        clamp_and_scale(features, [(0.0, 10.0), (0.0, 4.0)], "bounds"),
        [[0, 1], [0.2, 1], [1, 0], [math.nan, 0.75]],
    )
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize("scaled", ["bounds", "standard"])
def test_scaling_by_bounds_needs_bounds_of_every_feature(scaled):
    with pytest.raises(StudyError, match=r"bounds of every feature .* found none for 1 of 2"):
        clamp_and_scale(np.zeros((1, 2)), [(0.0, 1.0), None], scaled)


@settings(deadline=None)
@given(arrays.arrays(np.float64, 7, elements=st.floats(-3, 12)))
def test_labels_within_their_bounds_come_back(labels):
    scaled = scale_labels(labels, (-3.0, 12.0), "bounds")
    assert (np.abs(scaled) <= 1).all()
    np.testing.assert_allclose(unscale_labels(scaled, (-3.0, 12.0), "bounds"), labels, atol=1e-14)


def test_labels_without_bounds_or_scaling_stay_as_they_are():
    labels = np.array([5.0, 100.0])
    assert scale_labels(labels, None, "bounds") is labels
    assert scale_labels(labels, (0.0, 1.0), "none") is labels
    assert unscale_labels(labels, (0.0, 1.0), "none") is labels
    np.testing.assert_array_equal(scale_labels(labels, (0.0, 10.0), "bounds"), [0.0, 1.0])


@settings(deadline=None)
@given(tables, anything, anything)
def test_z_scores_are_clipped_whatever_mean_and_deviation_a_message_brings(scaled, mean, deviation):
    columns = scaled.shape[1]
    found = standardise(scaled, np.full(columns, mean), np.full(columns, deviation))
    assert (np.isnan(found) | (np.abs(found) <= 3)).all()


def test_z_scores_are_right():
    found = standardise(np.array([[0.4, 0.5]]), np.array([0.2, 0.5]), np.array([0.1, 0.0]))
    np.testing.assert_allclose(found, [[2.0, 0.0]])


def test_moments_without_noise_are_mean_and_deviation():
    rows = np.random.default_rng(1).uniform(size=(500, 3)) * [1.0, 0.5, 0.1]
    mean, deviation = moments_to_standard(500, rows.sum(0), np.square(rows).sum(0), 400)
    np.testing.assert_allclose(mean, rows.mean(0))
    np.testing.assert_allclose(deviation, rows.std(0))


@settings(deadline=None)
@given(
    anything,
    arrays.arrays(np.float64, 4, elements=anything),
    arrays.arrays(np.float64, 4, elements=anything),
    st.floats(1e-3, 1e9),
)
@example(-50.0, np.array([-1.0, 1e9, 0, 3]), np.array([-5.0, 0, 1e9, 3]), 100.0)
def test_no_noise_makes_moments_unusable(count, total, squares, expected):
    mean, deviation = moments_to_standard(count, total, squares, expected)
    assert ((mean >= 0) & (mean <= 1)).all()
    assert ((deviation >= SMALLEST_DEVIATION) & (deviation <= 0.5)).all()


def test_a_variance_that_is_lost_in_the_noise_does_not_blow_its_feature_up():
    squares = np.array([-5.0, 10.0 + 1e-3, 10.4, 90.0])
    _, deviation = moments_to_standard(40, np.full(4, 20.0), squares, 40)
    np.testing.assert_allclose(deviation, [0.15, 0.15, 0.1, 0.5])
