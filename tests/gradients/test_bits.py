"""A unit's numbers do not depend on its neighbours, nor on where it stands: not in a single bit."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradients import Block, make_blocks, make_model, unit_gradients
from gradients._products import column_product, safe_width, wide_width


def shuffled(block, order, kept):
    """The block with its units in another order, and only those that are kept."""
    rows = block.rows[order] & kept[order][:, None]
    return Block(
        inputs=block.inputs[order], targets=block.targets[order], rows=rows, tile=block.tile
    )


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
    shape=st.sampled_from([1, 3, 5, 16, 31, 32, 64, 100, 128]).map(lambda n: (n, n))
    | st.sampled_from([(32, 16), (48, 16), (128, 16), (192, 64), (160, 80)]),
    rows_per_unit=st.integers(1, 4),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_dense_models_do_not_see_position_or_company(
    *, kind, inputs, classes, hidden, shape, rows_per_unit, dtype, seed
):
    generator = np.random.default_rng(seed)
    units, tile = shape
    extra = {"softmax": {"classes": classes}, "mlp": {"classes": classes, "hidden": hidden},
             "mlp-regression": {"hidden": hidden}}.get(kind, {})  # fmt: skip
    model = make_model(kind=kind.split("-")[0], inputs=inputs, dtype=dtype, **extra)
    block = Block(
        inputs=generator.standard_normal((units, rows_per_unit, inputs)).astype(dtype),
        targets=generator.integers(0, max(2, model.classes), (units, rows_per_unit)),
        rows=generator.random((units, rows_per_unit)) < 0.8,
        tile=tile,
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


def require_same_bits_as_alone(model, parameters, wide):
    """Every tile of a block has the losses, norms and contributions that it has as a block of its own."""
    found = unit_gradients(model, parameters, wide)
    for start in range(0, wide.units, wide.tile):
        part = slice(start, start + wide.tile)
        alone = Block(inputs=wide.inputs[part], targets=wide.targets[part], rows=wide.rows[part])
        expected = unit_gradients(model, parameters, alone)
        assert (found.norms[part] == expected.norms).all()
        assert (found.losses[part] == expected.losses).all()
        for unit in (0, wide.tile - 1):
            mine, theirs = np.zeros(wide.units), np.zeros(wide.tile)
            mine[start + unit] = theirs[unit] = 0.7
            assert (found.weighted_sum(mine) == expected.weighted_sum(theirs)).all()


@pytest.mark.parametrize("rows_per_unit", [1, 2])
@pytest.mark.parametrize(("tile", "tiles"), [(16, 3), (32, 4), (80, 2)])
def test_models_do_not_see_how_many_tiles_there_are(name, make_problem, tile, tiles, rows_per_unit):
    case = make_problem(name, units=tile * tiles - 3, rows_per_unit=rows_per_unit, seed=tile)
    (wide,) = make_blocks(
        case.inputs, case.targets, units=case.units, rows_per_unit=rows_per_unit,
        block_units=tile * tiles, tile_units=tile, dtype=case.model.dtype,
    )  # fmt: skip
    require_same_bits_as_alone(case.model, case.parameters, wide)


@pytest.mark.parametrize("tiles", [2, 4])
def test_models_do_not_see_that_large_products_are_wide(tiles):
    """Large enough that a wide product takes the place of one product per tile, where that is safe."""
    model = make_model(kind="mlp", inputs=130, classes=3, hidden=(70, 40))
    generator = np.random.default_rng(tiles)
    (wide,) = make_blocks(
        generator.standard_normal((256 * tiles, 130)), generator.integers(0, 3, 256 * tiles),
        block_units=256 * tiles, tile_units=256,
    )  # fmt: skip
    parameters = model.unflatten(0.1 * generator.standard_normal(model.size))
    require_same_bits_as_alone(model, parameters, wide)


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
@pytest.mark.parametrize("tiles", [1, 3])
def test_equal_columns_have_equal_products(inputs, outputs, count, tiles, dtype):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((outputs, inputs)).astype(dtype)
    rows = generator.standard_normal((tiles * count, inputs)).astype(dtype)
    order = generator.permutation(tiles * count)
    straight = column_product(weight, rows.T, count)
    permuted = column_product(weight, rows[order].T, count)
    assert (straight[:, order] == permuted).all()
    assert (straight[:, :count] == column_product(weight, rows[:count].T, count)).all()
    assert straight == pytest.approx(weight @ rows.T, rel=1e-3, abs=1e-3)


@pytest.fixture
def forget_widths():
    """What is measured of a machine is kept: forget it before and after a test that feigns another."""
    for function in (safe_width, wide_width):
        function.cache_clear()
    yield
    for function in (safe_width, wide_width):
        function.cache_clear()


@pytest.mark.usefixtures("forget_widths")
@pytest.mark.parametrize("tiles", [1, 3])
@pytest.mark.parametrize(
    ("alike", "width", "wide"),
    [
        (lambda *_, **__: False, 0, 0),
        (lambda *shape, **_: shape[2] == 16, 16, 16),
        (lambda *_, tile=0: not tile, 48, 0),
    ],
    ids=["nowhere", "narrow products only", "tiles that are alone only"],
)
def test_products_work_where_few_are_safe(alike, width, wide, tiles, monkeypatch):
    monkeypatch.setattr("gradients._products._columns_alike", alike)
    test_equal_columns_have_equal_products(20, 7, 48, tiles, np.float32)
    assert safe_width(20, 7, 48, "f") == width
    assert wide_width(20, 7, 48, 144, "f") == wide


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
