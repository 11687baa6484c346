"""Sums of clipped gradients move by at most C (1 + eta) between neighbouring data sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradients import make_blocks, make_model, summation_slack, tile_units, unit_gradients
from gradients._products import summed_width
from gradients.bounds import mean_roundings
from gradients.dense import _augmented_squares, _square_columns

MARGIN = 1 - 2**-10


def clipped_sum(model, parameters, blocks, bound):
    total = np.zeros(model.size)
    for block in blocks:
        found = unit_gradients(model, parameters, block)
        # min(1, C / norm), without a division by zero
        total += found.weighted_sum(bound * MARGIN / np.maximum(found.norms, bound * MARGIN))
    return total


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["linear", "softmax", "mlp", "cnn"]),
    rows_per_unit=st.integers(1, 3),
    units=st.integers(2, 70),
    shape=st.sampled_from([(16, 16), (32, 32), (64, 16), (64, 32)]),
    bound=st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_removing_a_unit_moves_the_sum_by_at_most_the_sensitivity(
    *, kind, rows_per_unit, units, shape, bound, scale, seed
):
    block_units, tile = shape
    extra = {"softmax": {"classes": 3}, "mlp": {"hidden": (8,), "classes": 3},
             "cnn": {"classes": 3, "filters": (2,), "hidden": (4,)}}.get(kind, {})  # fmt: skip
    model = make_model(kind=kind, inputs=36, **extra)
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(units), rows_per_unit)
    inputs = scale * generator.standard_normal((len(labels), 36))
    targets = generator.integers(0, 3, len(labels))
    parameters = model.unflatten(0.2 * generator.standard_normal(model.size))
    sums = []
    for kept in (labels >= 0, labels != generator.integers(units)):
        blocks = make_blocks(
            inputs[kept], targets[kept], units=labels[kept],
            block_units=block_units, tile_units=tile, rows_per_unit=rows_per_unit,
        )  # fmt: skip
        sums.append(clipped_sum(model, parameters, blocks, bound))
    distance = np.linalg.norm(sums[0] - sums[1])
    assert distance <= bound * (1 + summation_slack(units, tile, np.float32))


def test_mean_roundings_are_those_of_the_worst_order():
    """Of all orders, by exhausting where the last addition splits the terms, for up to 60 terms."""
    first, second = {1: 1}, {1: 1}  # the greatest sum of a term's roundings, and of their squares
    for terms in range(2, 61):
        splits = [(left, terms - left) for left in range(1, terms)]
        first[terms] = max(first[a] + first[b] for a, b in splits) + terms
        second[terms] = terms + max(
            second[a] + second[b] + 2 * (first[a] + first[b]) for a, b in splits
        )
    for terms, squares in second.items():
        assert mean_roundings(terms) == pytest.approx(np.sqrt(squares / terms), rel=1e-14)
        # So a tile that is one sum is within its bound, and adding one term at a time is the worst.
        assert 1 <= mean_roundings(terms) <= terms
        one_at_a_time = [terms, *range(terms, 1, -1)][:terms] if terms > 1 else [1]
        assert squares == sum(number**2 for number in one_at_a_time)


def test_mean_roundings_bound_the_error_of_sums_in_the_worst_order():
    """Each coordinate adds in an order of its own, in float32, terms whose rounding errors agree in sign."""
    terms, coordinates = 64, 200
    generator = np.random.default_rng(0)
    worst = 0.0
    for spread in (0.0, 0.5, 3.0):
        vectors = np.exp(spread * generator.standard_normal((terms, coordinates)))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        narrow = np.sort(vectors, axis=0)[::-1].astype(np.float32)  # the largest is rounded most
        total = np.zeros(coordinates, np.float32)
        for term in narrow:
            total += term
        error = np.linalg.norm(total - narrow.astype(np.float64).sum(axis=0))
        assert error <= mean_roundings(terms) * 2**-24 * terms
        worst = max(worst, error / (2**-24 * terms))
    assert worst > 1  # what a correctly rounded sum of such numbers could not reach


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    area=st.integers(1, 10**6),
    tiles=st.integers(1, 64),
    tile=st.integers(1, 64).map(lambda lanes: 16 * lanes),
    quick=st.booleans(),
)
def test_terms_of_a_sum_are_rounded_no_more_often_than_a_tile_has_units(area, tiles, tile, quick):
    width = summed_width(area, tiles * tile, tile, quick=quick)
    portions = np.diff([*range(0, tiles * tile, width), tiles * tile]) if width else []
    assert not width or mean_roundings(max(portions)) + len(portions) - 1 <= tile
    # No single term goes through more than the derivation allows for.
    assert not width or max(portions) + len(portions) - 1 <= np.sqrt(3) * tile
    # One tile is always one sum, and so are as many as there is room for.
    assert width or tiles > 4 or tile < 32


@pytest.mark.parametrize("width", [1, 63, 64, 65, 1000, 100_000])
@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("scale", [1e-42, 1e-22, 1.0, 1e15])
def test_squares_of_what_comes_into_a_hidden_layer_are_right_up_to_the_bound(width, layout, scale):
    """Equal numbers whose square is rounded up or down are the worst: all errors agree in sign."""
    generator = np.random.default_rng(width)
    columns = np.tile(scale * (1 + generator.random(16)), (width, 1))
    columns[:, ::2] *= generator.standard_normal((width, 8))
    narrow = np.asarray(columns, np.float32, order=layout)
    exact = 1 + np.square(narrow.astype(np.float64)).sum(axis=0)
    assert np.abs(_augmented_squares(narrow) / exact - 1).max() <= 2**-17.9


@pytest.mark.parametrize("width", [1, 64, 65, 1000])
@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-22, 1e-10, 1.0, 1e15])
def test_squares_of_deltas_are_right_up_to_the_bound_and_know_nothing_of_their_neighbours(
    width, layout, scale
):
    generator = np.random.default_rng(width)
    columns = np.tile(scale * (1 + generator.random(16)), (width, 1))
    columns[:, ::2] *= generator.standard_normal((width, 8))
    narrow = np.asarray(columns, np.float32, order=layout)
    exact = np.square(narrow.astype(np.float64)).sum(axis=0)
    found = _square_columns(narrow)
    assert (np.abs(found - exact) <= 2**-17.9 * exact).all()
    for neighbour in (0.0, 1e-30, 1.0, np.nan, np.inf):
        others = narrow.copy(order="K")
        others[:, 1::2] = neighbour
        assert (_square_columns(others)[::2] == found[::2]).all()


@pytest.mark.parametrize("width", [1, 100, 10_000])
@pytest.mark.parametrize("rows_per_unit", [1, 2])
def test_a_clipped_contribution_stays_within_the_bound_at_any_width(width, rows_per_unit):
    model = make_model(kind="softmax", inputs=width, classes=5)
    generator = np.random.default_rng(width)
    for scale in (1e-20, 1.0, 1e12):
        inputs = scale * generator.standard_normal((4 * rows_per_unit, width))
        (block,) = make_blocks(
            inputs, np.arange(len(inputs)) % 5, units=np.arange(len(inputs)) // rows_per_unit,
            rows_per_unit=rows_per_unit, block_units=4,
        )  # fmt: skip
        found = unit_gradients(model, model.initial(bytes(32)), block)
        for bound in (1e-9, 1e-3, 1.0):
            weights = np.minimum(1, bound * MARGIN / found.norms)
            for unit in range(4):
                alone = found.weighted_sum(weights * (np.arange(4) == unit))
                assert np.linalg.norm(alone) <= bound * MARGIN * (1 + 2**-22)


@pytest.mark.parametrize("hidden", [3, 64, 1000])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_clipped_contribution_of_a_deep_model_stays_within_the_bound(hidden, activation):
    """Squares of a hidden layer, inputs and deltas, are rounded in float32: 2^-17 in the place of 2^-22."""
    model = make_model(kind="mlp", inputs=5, classes=3, hidden=(hidden, 4), activation=activation)
    generator = np.random.default_rng(hidden)
    for scale in (1e-20, 1.0, 1e6):  # where 1e6 saturates, a gradient may be exactly zero
        (block,) = make_blocks(
            scale * generator.standard_normal((4, 5)), np.arange(4) % 3, block_units=4
        )
        found = unit_gradients(model, model.initial(bytes(32)), block)
        for bound in (1e-9, 1.0):
            weights = bound * MARGIN / np.maximum(found.norms, bound * MARGIN)
            for unit in range(4):
                alone = found.weighted_sum(weights * (np.arange(4) == unit))
                assert np.linalg.norm(alone) <= bound * MARGIN * (1 + 2**-17)


def test_slack_is_twice_units_times_block_times_roundoff():
    assert summation_slack(1000, 64, np.float32) == 2 * 1000 * 64 * 2**-24
    assert summation_slack(1000, 64, np.float64) == 2 * 1000 * 64 * 2**-53


@pytest.mark.parametrize(
    ("max_units", "expected"),
    [(1, 256), (1024, 256), (1025, 128), (2048, 128), (16_384, 16), (1_000_000, 16)],
)
def test_blocks_are_as_large_as_the_slack_allows(max_units, expected):
    assert tile_units(max_units, np.float32) == expected
    assert tile_units(max_units, np.float32, positions=576) == expected
    assert tile_units(max_units, np.float64) == 256


def test_counts_out_of_range_are_refused():
    with pytest.raises(ValueError, match="Expected max_units=0 >= 1"):
        summation_slack(0, 16, np.float32)
    with pytest.raises(ValueError, match="block_units=0 >= 1"):
        summation_slack(1, 0, np.float32)
    with pytest.raises(ValueError, match="Expected positions=0 >= 1"):
        tile_units(1, np.float32, positions=0)
    with pytest.raises(ValueError, match="Expected dtype=int64"):
        summation_slack(1, 1, np.int64)
    with pytest.raises(ValueError, match=r"<= 2\^20 sqrt"):
        summation_slack(2**23, 16, np.float32)
