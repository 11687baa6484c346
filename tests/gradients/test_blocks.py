"""Blocks keep the order of units and rows, pad with zeros, and never look at values to refuse."""

import numpy as np
import pytest

from gradients import Block, make_blocks


def test_rows_fill_blocks_in_order():
    inputs = np.arange(10.0).reshape(5, 2)
    blocks = make_blocks(inputs, np.arange(5), block_units=3)
    assert [block.inputs.shape for block in blocks] == [(3, 1, 2)] * 2
    assert (blocks[0].inputs[:, 0] == inputs[:3]).all()
    assert (blocks[1].inputs[:2, 0] == inputs[3:]).all()
    assert (blocks[1].inputs[2] == 0).all()
    assert blocks[1].rows.tolist() == [[True], [True], [False]]
    assert blocks[1].targets.dtype == np.int64
    assert blocks[0].inputs.dtype == np.float32


def test_units_keep_their_first_rows_in_the_order_given():
    inputs = np.arange(6.0)[:, None]
    (block,) = make_blocks(
        inputs, np.zeros(6), units=[9, 4, 9, 9, 4, 7], block_units=4, rows_per_unit=2
    )
    assert block.inputs[:, :, 0].tolist() == [[0, 2], [1, 4], [5, 0], [0, 0]]
    assert block.rows.tolist() == [[True, True], [True, True], [True, False], [False, False]]
    assert block.targets.dtype == np.float32


def test_blocks_are_padded_to_a_public_number():
    assert make_blocks(np.zeros((0, 2)), np.zeros(0), block_units=4) == []
    blocks = make_blocks(np.ones((5, 2)), np.zeros(5), block_units=4, minimum_units=20)
    assert [int(block.rows.sum()) for block in blocks] == [4, 1, 0, 0, 0]
    assert {block.inputs.shape for block in blocks} == {(4, 1, 2)}


def test_the_last_block_has_no_more_tiles_than_it_needs():
    inputs = np.arange(1.0, 84.0)[:, None]
    blocks = make_blocks(inputs, np.zeros(83), block_units=64, tile_units=16)
    assert [(block.units, block.tile) for block in blocks] == [(64, 16), (32, 16)]
    assert (
        np.concatenate([block.inputs.reshape(-1) for block in blocks])[:83].tolist()
        == inputs.reshape(-1).tolist()
    )
    padded = make_blocks(inputs, np.zeros(83), block_units=64, tile_units=16, minimum_units=130)
    assert [block.units for block in padded] == [64, 64, 16]


def test_blocks_start_on_a_line_of_the_cache():
    for units in (5, 16):
        (block,) = make_blocks(np.ones((5, 3)), np.zeros(5), block_units=units)
        assert block.flat_inputs.ctypes.data % 64 == 0


def test_what_a_block_was_made_of_can_change_afterwards():
    inputs, rows = np.ones((2, 1, 3)), np.ones((2, 1), bool)
    block = Block(inputs=inputs, targets=np.zeros((2, 1)), rows=rows)
    inputs[:], rows[:] = 5, False
    assert (block.inputs == 1).all()
    assert block.rows.all()
    with pytest.raises(ValueError, match="read-only"):
        block.inputs[0] = 1


def test_values_never_raise_or_warn():
    inputs = [[1e300, 0], [np.nan, 1], [np.inf, 2], [1, 1]]
    (block,) = make_blocks(inputs, [0.0, 0.0, 0.0, np.nan], block_units=4)
    assert block.usable.tolist() == [False] * 4
    assert (block.inputs == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_units": 0}, "Expected block_units=0 >= 1"),
        ({"tile_units": 0}, "Expected tile=0 == 4 units"),
        ({"tile_units": 3}, "Expected tile=3 == 4 units"),
        ({"tile_units": 2}, "or a multiple of 16 that divides them"),
        ({"block_units": 48, "tile_units": 32}, "Expected tile=32 == 48 units"),
        ({"rows_per_unit": 0}, "Expected rows_per_unit=0 >= 1"),
        ({"minimum_units": -1}, "Expected minimum_units=-1 >= 0"),
        ({"targets": np.zeros(2)}, r"Expected targets.shape=\(2,\) == \(3,\)"),
        ({"inputs": np.zeros(3)}, r"Expected inputs of shape \(rows, features\)"),
        ({"units": [0, 1]}, "Expected integer units"),
        ({"units": [0.0, 1.0, 2.0]}, "Expected integer units"),
        ({"dtype": np.float16}, "Expected dtype=float16"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    good = {"inputs": np.zeros((3, 2)), "targets": np.zeros(3), "block_units": 4}
    with pytest.raises(ValueError, match=message):
        make_blocks(**(good | change))


def test_a_block_refuses_shapes_that_do_not_fit():
    good = {
        "inputs": np.zeros((2, 1, 3)), "targets": np.zeros((2, 1)), "rows": np.ones((2, 1), bool)
    }  # fmt: skip
    for change, message in (
        ({"inputs": np.zeros((2, 3))}, r"Expected inputs of shape \(units, rows, features\)"),
        ({"targets": np.zeros(2)}, r"Expected targets.shape=\(2,\)"),
        ({"rows": np.ones((2, 1))}, "Expected boolean rows"),
    ):
        with pytest.raises(ValueError, match=message):
            Block(**(good | change))
