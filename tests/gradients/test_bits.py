"""A unit's numbers do not depend on its neighbours, nor on where it stands: not in a single bit."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradients import Block, make_blocks, make_model, unit_gradients
from gradients._products import column_product, safe_width


def shuffled(block, order, kept):
    """The block with its units in another order, and only those that are kept."""
    rows = block.rows[order] & kept[order][:, None]
    return Block(inputs=block.inputs[order], targets=block.targets[order], rows=rows)


def require_same_bits(model, parameters, block, order, kept, *, slots):
    before = unit_gradients(model, parameters, block)
    after = unit_gradients(model, parameters, shuffled(block, order, kept))
    stays = kept[order]
    assert (after.norms[stays] == before.norms[order][stays]).all()
    assert (after.losses[stays] == before.losses[order][stays]).all()
    assert (after.norms[~stays] == 0).all()
    assert (after.losses[~stays] == 0).all()
    for slot in slots:
        mine = np.zeros(len(order))
        mine[slot] = 0.7
        theirs = np.zeros(len(order))
        theirs[order[slot]] = 0.7 if stays[slot] else 0.0
        assert (after.weighted_sum(mine) == before.weighted_sum(theirs)).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["linear", "logistic", "softmax", "mlp", "mlp-regression"]),
    inputs=st.integers(1, 70),
    classes=st.integers(2, 12),
    hidden=st.lists(st.integers(1, 40), min_size=1, max_size=2),
    units=st.sampled_from([1, 3, 5, 16, 31, 32, 64, 100, 128]),
    rows_per_unit=st.integers(1, 4),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_dense_models_do_not_see_position_or_company(
    *, kind, inputs, classes, hidden, units, rows_per_unit, dtype, seed
):
    generator = np.random.default_rng(seed)
    extra = {"softmax": {"classes": classes}, "mlp": {"classes": classes, "hidden": hidden},
             "mlp-regression": {"hidden": hidden}}.get(kind, {})  # fmt: skip
    model = make_model(kind=kind.split("-")[0], inputs=inputs, dtype=dtype, **extra)
    block = Block(
        inputs=generator.standard_normal((units, rows_per_unit, inputs)).astype(dtype),
        targets=generator.integers(0, max(2, model.classes), (units, rows_per_unit)),
        rows=generator.random((units, rows_per_unit)) < 0.8,
    )
    parameters = model.unflatten(generator.standard_normal(model.size))
    order, kept = generator.permutation(units), generator.random(units) < 0.6
    slots = generator.permutation(units)[:4]
    require_same_bits(model, parameters, block, order, kept, slots=slots)


@pytest.mark.parametrize("rows_per_unit", [1, 2])
@pytest.mark.parametrize("units", [5, 32, 80])
def test_models_do_not_see_position_or_company(name, make_problem, units, rows_per_unit):
    case = make_problem(name, units=units, rows_per_unit=rows_per_unit, seed=units)
    generator = np.random.default_rng(units)
    order, kept = generator.permutation(units), generator.random(units) < 0.5
    slots = generator.permutation(units)[:5]
    require_same_bits(case.model, case.parameters, case.block(), order, kept, slots=slots)


@pytest.mark.parametrize("rows_per_unit", [1, 2])
def test_a_unit_that_is_dropped_does_not_show_in_the_others(name, make_problem, rows_per_unit):
    """Not even in which path through BLAS the others take."""
    case = make_problem(name, units=32, rows_per_unit=rows_per_unit)
    before = unit_gradients(case.model, case.parameters, case.block())
    case.inputs[case.units == 3] = np.nan
    case.inputs[case.units == 9] = 1e30  # its square overflows
    after = unit_gradients(case.model, case.parameters, case.block())
    others = np.setdiff1d(np.arange(32), [3, 9])
    assert (after.norms[others] == before.norms[others]).all()
    assert (after.norms[[3, 9]] == 0).all()
    for unit in (0, 4, 31):
        weights = np.eye(32)[unit]
        assert (after.weighted_sum(weights) == before.weighted_sum(weights)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (20, 1), (784, 10), (64, 16), (257, 100)])
@pytest.mark.parametrize("count", [16, 48, 256])
def test_equal_columns_have_equal_products(inputs, outputs, count, dtype):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((outputs, inputs)).astype(dtype)
    rows = generator.standard_normal((count, inputs)).astype(dtype)
    order = generator.permutation(count)
    straight, permuted = column_product(weight, rows.T), column_product(weight, rows[order].T)
    assert (straight[:, order] == permuted).all()
    assert straight == pytest.approx(weight @ rows.T, rel=1e-3, abs=1e-3)


def test_products_work_where_no_blas_tile_is_safe(monkeypatch):
    monkeypatch.setattr("gradients._products._columns_alike", lambda *_: False)
    safe_width.cache_clear()
    try:
        test_equal_columns_have_equal_products(20, 7, 48, np.float32)
    finally:
        safe_width.cache_clear()


def test_products_work_where_only_narrow_tiles_are_safe(monkeypatch):
    monkeypatch.setattr("gradients._products._columns_alike", lambda *shape: shape[2] == 16)
    safe_width.cache_clear()
    try:
        test_equal_columns_have_equal_products(20, 7, 48, np.float32)
        assert safe_width(20, 7, 48, "f") == 16
    finally:
        safe_width.cache_clear()


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("core", ["Haswell", "SandyBridge", "Prescott"])
def test_other_processors_do_not_see_position_either(core, threads):
    """OpenBLAS has other kernels for other processors; AVX2's (Haswell, Zen) are the worst.

    Where NumPy does not use OpenBLAS the variable has no effect, and this repeats the test above.
    """
    program = (
        "import pytest, sys; sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', "
        f"{__file__!r}, '-k', 'test_models_do_not_see or test_equal_columns']))"
    )
    environment = os.environ | {"OPENBLAS_CORETYPE": core, "OPENBLAS_NUM_THREADS": threads}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_permuting_units_permutes_norms(make_problem):
    case = make_problem("mlp-relu", units=64)
    block = case.block()
    order = np.random.default_rng(3).permutation(64)
    (moved,) = make_blocks(case.inputs[order], case.targets[order], block_units=64)
    before = unit_gradients(case.model, case.parameters, block)
    after = unit_gradients(case.model, case.parameters, moved)
    assert (before.norms[order] == after.norms).all()
