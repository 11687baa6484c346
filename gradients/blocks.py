"""Blocks: the data of a site in zero-padded tiles of one public shape.

The work done for a block depends on its shape alone, never on how many of its slots are filled.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from gradients._arrays import (
    Doubles,
    Flags,
    Integers,
    Reals,
    as_reals,
    every,
    largest_square,
    real_type,
)
from gradients._products import padded_units


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """U units of up to R rows each.

    Arguments:
        inputs: (U, R, features), float32 or float64; converted to float64 if neither.
        targets: (U, R), class indices (integers) or numbers (floats).
        rows: (U, R), bool: which rows are real. Slots of rows that are not are ignored.

    Derived from the data once, when the block is made (the class copies what it is given):
        usable: (U,), bool: false for a unit with a number that is not finite or whose square
            overflows. Its rows are zero here, so that no product ever meets them (0 * NaN is NaN).

    Raises ValueError if shapes do not fit or `rows` is not boolean.
    """

    inputs: Reals
    targets: Reals | Integers
    rows: Flags
    usable: Flags = field(init=False)
    flat_inputs: Reals = field(init=False, repr=False)
    flat_targets: Reals | Integers = field(init=False, repr=False)
    flat_usable: Flags = field(init=False, repr=False)
    row_weights: Doubles = field(init=False, repr=False)
    row_factors: Reals = field(init=False, repr=False)
    augmented: Doubles = field(init=False, repr=False)

    def __post_init__(self) -> None:
        inputs, targets = _as_inputs(self.inputs), _as_targets(self.targets)
        rows = np.array(self.rows)
        _require_shapes(inputs, targets, rows)
        _freeze(self, _prepared(inputs, targets, rows))

    @property
    def units(self) -> int:
        """Number of slots for units, U."""
        return int(self.inputs.shape[0])

    @property
    def rows_per_unit(self) -> int:
        """Number of slots for rows of one unit, R."""
        return int(self.inputs.shape[1])

    @cached_property
    def largest_class(self) -> float:
        """The largest target if all targets are classes (integers from 0), else infinity."""
        fine = self.flat_targets.dtype == np.int64 and self.flat_targets.min() >= 0
        return float(self.flat_targets.max()) if fine else np.inf

    @cached_property
    def all_usable(self) -> bool:
        """Whether no unit is unusable."""
        return bool(self.usable.all())

    @property
    def features(self) -> int:
        """Number of features of a row."""
        return int(self.inputs.shape[2])


def _freeze(block: Block, values: dict[str, npt.NDArray[np.generic]]) -> None:
    """Set the fields of a frozen block, as arrays that cannot be written to."""
    for name, value in values.items():
        value.flags.writeable = False
        object.__setattr__(block, name, value)


def _prepared(
    inputs: Reals, targets: Reals | Integers, rows: Flags
) -> dict[str, npt.NDArray[np.generic]]:
    """Derive the fields of a block: those per unit with U units, the others with a multiple of 16.

    `flat_usable` is per unit, true where there is none; `flat_*`, `row_*` and `augmented` (the
    squared norm, plus 1 for the bias) are per row.
    """
    units, _, features = inputs.shape
    padding = ((0, padded_units(units) - units), (0, 0))
    inputs[~rows] = 0
    targets[~rows] = 0
    squares = _squared_norms(inputs)
    fine = (squares <= largest_square(inputs.dtype)) & np.isfinite(targets)
    usable = every(fine, 1)
    inputs[~usable] = 0
    squares[~usable] = 0
    weights = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)
    flat_inputs = inputs
    if padding[0][1]:
        flat_inputs = np.pad(inputs, (*padding, (0, 0)))
    return {
        "inputs": inputs,
        "targets": targets,
        "rows": rows,
        "usable": usable,
        "flat_inputs": flat_inputs.reshape(-1, features),
        "flat_targets": np.pad(targets, padding).reshape(-1),
        "flat_usable": np.pad(usable, padding[0], constant_values=True),
        "row_weights": np.pad(weights, padding).reshape(-1),
        "row_factors": np.pad(weights, padding).reshape(-1).astype(inputs.dtype),
        "augmented": np.pad(squares, padding).reshape(-1) + 1,
    }


def _squared_norms(inputs: Reals) -> Doubles:
    """Squared L2 norms (U, R) in float64; NaN or infinite where a number is not finite."""
    with np.errstate(all="ignore"):
        units, rows, _ = inputs.shape
        norms = np.empty((units, rows))
        for unit in range(units):  # one at a time: a float64 copy of all would triple the memory
            wide = inputs[unit].astype(np.float64)
            norms[unit] = np.einsum("rf,rf->r", wide, wide)
    return norms


def _as_inputs(values: npt.ArrayLike) -> Reals:
    array = np.asarray(values)
    kept = array.dtype if array.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    return as_reals(array.copy(order="C"), kept)


def _as_targets(values: npt.ArrayLike) -> Reals | Integers:
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        return np.array(array, dtype=np.int64)
    return as_reals(array.copy(), array.dtype if array.dtype == np.float32 else np.float64)


def _require_shapes(inputs: Reals, targets: Reals | Integers, rows: Flags) -> None:
    if inputs.ndim != 3 or min(inputs.shape) < 1:
        raise ValueError(f"Expected inputs of shape (units, rows, features), not {inputs.shape}")
    if targets.shape != inputs.shape[:2]:
        raise ValueError(f"Expected targets.shape={targets.shape} == {inputs.shape[:2]}")
    if rows.shape != inputs.shape[:2] or rows.dtype != np.bool_:
        raise ValueError(
            f"Expected boolean rows of shape {inputs.shape[:2]}, not {rows.dtype.name} {rows.shape}"
        )


def make_blocks(
    inputs: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    units: npt.ArrayLike | None = None,
    block_units: int,
    rows_per_unit: int = 1,
    dtype: npt.DTypeLike = np.float32,
    minimum_blocks: int = 0,
) -> list[Block]:
    """Put rows into blocks of one shape: `block_units` units of `rows_per_unit` rows.

    Arguments:
        inputs: (rows, features), numbers. What overflows in `dtype` makes its unit unusable.
        targets: (rows,), class indices (integers) or numbers (floats, converted to `dtype`).
        units: (rows,), integers: the unit that a row belongs to; without it every row is a unit.
            Units keep the order of their first rows.
        block_units: units of a block; see `tile_units`.
        rows_per_unit: rows of a unit beyond this number are dropped, the first ones are kept.
        dtype: float32 or float64, that of the model.
        minimum_blocks: empty blocks are added up to this number, so that the work of a round does
            not tell how many units were drawn.

    Returns the blocks, in order; none for zero rows and `minimum_blocks=0`.
    Raises ValueError if shapes do not fit or a count is not positive.
    """
    real = real_type(dtype)
    features, wanted = as_reals(inputs, real), _as_targets(targets)
    wanted = wanted if wanted.dtype == np.int64 else as_reals(wanted, real)
    _require_rows(features, wanted, block_units, rows_per_unit, minimum_blocks)
    slots = _slots(len(wanted), units, rows_per_unit)
    count = max(minimum_blocks, -(-_unit_count(slots) // block_units))
    shape = (block_units, rows_per_unit)
    return list(_filled_blocks(features, wanted, slots, shape, count))


def _filled_blocks(
    inputs: Reals,
    targets: Reals | Integers,
    slots: tuple[Integers, Integers, Integers],
    shape: tuple[int, int],
    count: int,
) -> Iterator[Block]:
    """Yield the blocks; `slots` are (source row, unit, row within the unit), by unit."""
    source, unit, position = slots
    edges = np.searchsorted(unit, np.arange(count + 1) * shape[0])
    for index in range(count):
        part = slice(edges[index], edges[index + 1])
        place = (unit[part] - index * shape[0], position[part])
        filled = np.zeros((*shape, inputs.shape[1]), inputs.dtype)
        wanted = cast("Reals | Integers", np.zeros_like(targets, shape=shape))
        rows = np.zeros(shape, np.bool_)
        filled[place] = inputs[source[part]]
        wanted[place] = targets[source[part]]
        rows[place] = True
        yield Block(inputs=filled, targets=wanted, rows=rows)


def _slots(
    rows: int, units: npt.ArrayLike | None, rows_per_unit: int
) -> tuple[Integers, Integers, Integers]:
    """Where rows go: (source row, index of the unit, row within the unit), ordered by unit."""
    source = np.arange(rows)
    if units is None:
        return source, source, np.zeros(rows, np.int64)
    labels = np.asarray(units)
    if labels.shape != (rows,) or labels.dtype.kind not in "iu":
        raise ValueError(f"Expected integer units of shape {(rows,)}, not {labels.shape}")
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    ranks = np.empty(len(first), np.int64)
    ranks[np.argsort(first)] = np.arange(len(first))
    unit = ranks[inverse]
    source = np.argsort(unit, kind="stable")
    unit = unit[source]
    position = np.arange(rows) - np.searchsorted(unit, unit)
    kept = position < rows_per_unit
    return source[kept], unit[kept], position[kept]


def _unit_count(slots: tuple[Integers, Integers, Integers]) -> int:
    return int(slots[1][-1]) + 1 if len(slots[1]) else 0


def _require_rows(
    inputs: Reals,
    targets: Reals | Integers,
    block_units: int,
    rows_per_unit: int,
    minimum_blocks: int,
) -> None:
    if inputs.ndim != 2 or inputs.shape[1] < 1:
        raise ValueError(f"Expected inputs of shape (rows, features), not {inputs.shape}")
    if targets.shape != inputs.shape[:1]:
        raise ValueError(f"Expected targets.shape={targets.shape} == {inputs.shape[:1]}")
    if block_units < 1:
        raise ValueError(f"Expected block_units={block_units} >= 1")
    if rows_per_unit < 1:
        raise ValueError(f"Expected rows_per_unit={rows_per_unit} >= 1")
    if minimum_blocks < 0:
        raise ValueError(f"Expected minimum_blocks={minimum_blocks} >= 0")
