"""Sums of clipped gradients move by at most C (1 + eta) between neighbouring data sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradients import make_blocks, make_model, summation_slack, tile_units, unit_gradients
from gradients._products import summed_width

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


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    area=st.integers(1, 10**6),
    tiles=st.integers(1, 64),
    tile=st.integers(1, 64).map(lambda lanes: 16 * lanes),
)
def test_no_term_of_a_sum_is_rounded_more_often_than_a_tile_has_units(area, tiles, tile):
    width = summed_width(area, tiles * tile, tile)
    portions = np.diff([*range(0, tiles * tile, width), tiles * tile]) if width else []
    assert not width or max(portions) + len(portions) - 1 <= tile
    # One tile is always one sum, and so are as many as there is room for.
    assert width or tiles > 4 or tile < 32


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
