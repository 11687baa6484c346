"""What is not finite contributes exactly nothing, silently, and disturbs nobody."""

import numpy as np
import pytest

from gradients import Block, make_blocks, make_model, unit_gradients

BAD = [np.nan, np.inf, -np.inf, 3e38]


def require_only_dropped(found, expected, dropped):
    """`dropped` contribute zero, all the others the very same bits as before."""
    others = np.ones(len(found.norms), bool)
    others[dropped] = False
    assert (found.norms[others] == expected.norms[others]).all()
    assert (found.losses[others] == expected.losses[others]).all()
    assert (found.norms[~others] == 0).all()
    assert (found.losses[~others] == 0).all()
    assert (found.weighted_sum(~others) == 0).all()
    assert (found.weighted_sum(others) == expected.weighted_sum(others)).all()
    assert np.isfinite(found.weighted_sum(np.ones(len(others)))).all()


@pytest.mark.parametrize("rows_per_unit", [1, 3])
@pytest.mark.parametrize("bad", BAD)
def test_a_unit_with_a_bad_input_is_dropped_whole(name, make_problem, bad, rows_per_unit):
    case = make_problem(name, units=9, rows_per_unit=rows_per_unit)
    expected = unit_gradients(case.model, case.parameters, case.block())
    case.inputs[np.flatnonzero(case.units == 5)[-1], 2] = bad
    found = unit_gradients(case.model, case.parameters, case.block())
    require_only_dropped(found, expected, [5])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1.0, 99.0, 0.5])
def test_a_unit_with_a_bad_target_is_dropped(name, make_problem, bad):
    case = make_problem(name, units=9)
    if not case.model.classes and abs(bad) < 100:
        pytest.skip("a number like any other to a regression")
    expected = unit_gradients(case.model, case.parameters, case.block())
    case.targets = case.targets.astype(np.float64)
    case.targets[4] = bad
    found = unit_gradients(case.model, case.parameters, case.block())
    require_only_dropped(found, expected, [4])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_parameters_that_overflow_everywhere_give_zeros(name, make_problem, value):
    case = make_problem(name, units=9)
    case.inputs *= 1e6
    found = unit_gradients(
        case.model, case.model.unflatten(np.full(case.model.size, value)), case.block()
    )
    assert (found.norms == 0).all()
    assert (found.losses == 0).all()
    assert (found.weighted_sum(np.ones(9)) == 0).all()


@pytest.mark.parametrize("position", [0, -1, "middle"])
def test_one_parameter_that_is_no_number_gives_zeros(name, make_problem, position):
    case = make_problem(name, units=9, rows_per_unit=2)
    case.vector[case.model.size // 2 if position == "middle" else position] = np.nan
    found = unit_gradients(case.model, case.parameters, case.block())
    assert (found.weighted_sum(np.ones(9)) == 0).all()
    assert (found.norms == 0).all()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_an_activation_does_not_hide_an_overflow(activation):
    """relu(-inf) = 0 and tanh(inf) = 1 are finite, the unit is dropped all the same."""
    model = make_model(kind="mlp", inputs=1, hidden=(2,), activation=activation)
    parameters = model.initial(bytes(32))
    parameters["layer1.weight"][:] = -3e38
    (block,) = make_blocks([[100.0], [0.0]], [1.0, 1.0], block_units=2)
    found = unit_gradients(model, parameters, block)
    assert found.losses[0] == 0
    assert found.norms[0] == 0
    assert found.losses[1] == 1
    assert found.norms[1] > 0


def test_a_norm_that_is_no_number_is_not_compared():
    """Inputs, sums and loss are finite; the deltas below are inf - inf."""
    model = make_model(kind="mlp", inputs=1, hidden=(2, 2), activation="tanh")
    parameters = model.initial(bytes(32))
    parameters["layer2.weight"][:] = 1
    parameters["layer3.weight"][:] = [[3e38, -3e38]]
    (block,) = make_blocks([[0.0], [0.0]], [1.0, 0.0], block_units=2)
    found = unit_gradients(model, parameters, block)
    assert list(found.norms) == list(found.losses) == [0, 0]
    assert (found.weighted_sum([1.0, 1.0]) == 0).all()


def test_an_overflow_of_one_unit_in_the_forward_pass_drops_that_unit(make_problem):
    case = make_problem("mlp-relu", units=9)
    case.vector *= 1e6
    case.inputs *= 1e-6
    expected = unit_gradients(case.model, case.parameters, case.block())
    case.inputs[2] = 1e18
    found = unit_gradients(case.model, case.parameters, case.block())
    assert (expected.norms > 0).all()
    require_only_dropped(found, expected, [2])


def test_a_unit_whose_norm_overflows_is_dropped():
    """Inputs and deltas are finite, their product is not."""
    model = make_model(kind="linear", inputs=1)
    (block,) = make_blocks([[1e15], [1.0]], [1e15, 1.0], block_units=2)
    found = unit_gradients(model, model.initial(bytes(32)), block)
    assert list(found.norms) == [0, pytest.approx(np.sqrt(8))]
    assert list(found.losses) == [0, 1]


def test_slots_without_rows_contribute_nothing(name, make_problem):
    case = make_problem(name, units=3)
    found = unit_gradients(case.model, case.parameters, case.block(block_units=8))
    assert (found.norms[3:] == 0).all()
    assert (found.losses[3:] == 0).all()
    assert (found.weighted_sum([0, 0, 0, 1, 1, 1, 1, 1]) == 0).all()
    assert found.norms.shape == found.losses.shape == (8,)


def test_an_empty_block_gives_zeros(name, make_problem):
    model = make_problem(name, units=1).model
    (block,) = make_blocks(
        np.zeros((0, model.inputs)), np.zeros(0, np.int64), block_units=4, minimum_units=1
    )
    found = unit_gradients(model, model.initial(bytes(32)), block)
    assert (found.norms == 0).all()
    assert (found.weighted_sum(np.ones(4)) == 0).all()


def test_what_stands_in_empty_slots_is_ignored(make_problem):
    case = make_problem("softmax-3", units=4, rows_per_unit=2)
    block = case.block()
    inputs, targets = block.inputs.copy(), block.targets.copy()
    inputs[~block.rows], targets[~block.rows] = np.nan, 77
    same = Block(inputs=inputs, targets=targets, rows=block.rows)
    expected = unit_gradients(case.model, case.parameters, block)
    found = unit_gradients(case.model, case.parameters, same)
    assert (found.norms == expected.norms).all()
    assert (found.norms > 0).all()


def test_rows_of_zeros_have_the_gradient_of_the_bias():
    model = make_model(kind="linear", inputs=3)
    (block,) = make_blocks(np.zeros((2, 3)), [1.0, 0.0], block_units=2)
    found = unit_gradients(model, model.initial(bytes(32)), block)
    assert list(found.norms) == [2, 0]
    assert list(found.weighted_sum([1, 1])) == [0, 0, 0, -2]


def test_small_deltas_under_large_inputs_keep_their_norm():
    """Their squares vanish in float32, the norm of the gradient does not."""
    model = make_model(kind="linear", inputs=1)
    for target in (1e-24, 1e-30, 1e-41):
        (block,) = make_blocks([[1e15]], [target], block_units=1)
        found = unit_gradients(model, model.initial(bytes(32)), block)
        exact = 2 * float(np.float32(target)) * float(np.float32(1e15))
        assert found.norms[0] == pytest.approx(exact, rel=1e-6)


def test_denormal_inputs_do_no_harm(make_problem):
    case = make_problem("softmax-3", units=4)
    case.inputs[:] = 1e-42
    found = unit_gradients(case.model, case.parameters, case.block())
    assert (found.norms > 0).all()
    assert np.isfinite(found.weighted_sum(np.ones(4))).all()


def test_rows_that_cancel_have_the_norm_of_their_sum():
    """Rows x and -x with equal deltas: the gradient of the weight is zero, never a negative square."""
    model = make_model(kind="linear", inputs=50)
    row = 1e6 * np.random.default_rng(0).standard_normal(50)
    (block,) = make_blocks(
        np.stack([row, -row]), [1.0, 1.0], units=[7, 7], rows_per_unit=2, block_units=1
    )
    found = unit_gradients(model, model.initial(bytes(32)), block)
    assert list(found.norms) == [2]
    assert np.linalg.norm(found.weighted_sum([1.0])) == 2


@pytest.mark.parametrize("weights", [np.array([np.nan, 0]), np.array([1e39, 0])])
def test_weights_must_be_finite(weights):
    model = make_model(kind="linear", inputs=1)
    (block,) = make_blocks([[1.0], [2.0]], [1.0, 2.0], block_units=2)
    found = unit_gradients(model, model.initial(bytes(32)), block)
    with pytest.raises(ValueError, match="Expected finite weights"):
        found.weighted_sum(weights)
    with pytest.raises(ValueError, match=r"Expected weights.shape=\(3,\) == \(2,\)"):
        found.weighted_sum(np.zeros(3))


@pytest.mark.parametrize("rows_per_unit", [1, 2])
def test_a_sum_overflows_silently_and_only_under_huge_weights(rows_per_unit):
    """Warnings are errors here: at the largest of gradients, weights of 2^40 are silent by themselves."""
    model = make_model(kind="linear", inputs=1)
    count = 2 * rows_per_unit
    (block,) = make_blocks(
        np.full((count, 1), 1.0e9), np.full(count, -4.0e9), units=np.arange(count) // rows_per_unit,
        rows_per_unit=rows_per_unit, block_units=2,
    )  # fmt: skip
    found = unit_gradients(model, model.initial(bytes(32)), block)
    assert found.norms == pytest.approx(8e18, rel=1e-6)  # of 2^64, the most there is
    assert found.weighted_sum([2.0**40, 0.0]) == pytest.approx([2.0**40 * 8e18, 2.0**40 * 8e9])
    assert np.isinf(found.weighted_sum([1e38, 1e38])).any()
