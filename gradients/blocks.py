"""Blocks: the data of a site in zero-padded tiles of one public shape, several of them at once.

The work done for a block depends on its shape alone, never on how many of its slots are filled.
Tiles are what the guarantees speak of: a unit's numbers are, bit for bit, those that it has in a
tile alone, and no sum in the dtype of the model rounds its terms more often, in the mean of
`gradients.bounds`, than a tile has units. That a block has several tiles saves time, nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from gradients._arrays import (
    Doubles,
    Flags,
    Integers,
    Reals,
    aligned_copy,
    as_reals,
    every,
    largest_square,
    real_type,
)
from gradients._products import LANE, padded_units
from gradients._stages import Batch


class Slots(NamedTuple):
    """What one pass of a model sees of a block: views of the units from number `first` on.

    units: how many of the block's they are; batch: with those that fill it up. columns: (features,
    rows). targets, valid: per row, and whether they are usable; None: all are as far as the block
    knows. factors, weights: what a row's delta and loss count in its unit. augmented: squared norm
    of a row, plus 1. usable: per unit; all_usable: no unit of the block and no target is unusable.
    """

    first: int
    units: int
    batch: Batch
    columns: Reals
    targets: Reals | Integers
    valid: Flags | None
    factors: Reals
    weights: Doubles
    augmented: Doubles
    usable: Flags
    all_usable: bool

    def padded(self, values: Reals) -> Reals:
        """Return the values (U,) of these units, and zeros for those that fill the batch up."""
        if len(values) == self.batch.units:
            return values
        mine = values[self.first : self.first + self.units]
        return np.pad(mine, (0, self.batch.units - self.units))


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """U units of up to R rows each.

    Arguments:
        inputs: (U, R, features), float32 or float64; converted to float64 if neither.
        targets: (U, R), class indices (integers) or numbers (floats).
        rows: (U, R), bool: which rows are real. Slots of rows that are not are ignored.
        tile: units of a tile (B_t of `gradients.bounds`). It divides U, and is a multiple of 16
            unless it is U; 0, the default, stands for U.

    Derived from the data once, when the block is made (the class copies what it is given):
        usable: (U,), bool: false for a unit with a number that is not finite or whose square
            overflows. Its rows are zero here, so that no product ever meets them (0 * NaN is NaN).

    Raises ValueError if shapes or `tile` do not fit or `rows` is not boolean.
    """

    inputs: Reals
    targets: Reals | Integers
    rows: Flags
    tile: int = 0
    usable: Flags = field(init=False)
    flat_inputs: Reals = field(init=False, repr=False)
    flat_targets: Reals | Integers = field(init=False, repr=False)
    flat_usable: Flags = field(init=False, repr=False)
    row_weights: Doubles = field(init=False, repr=False)
    row_factors: Reals = field(init=False, repr=False)
    augmented: Doubles = field(init=False, repr=False)
    seen: tuple[object, list[Slots]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        inputs, targets = _as_inputs(self.inputs), _as_targets(self.targets)
        rows = np.array(self.rows)
        _require_shapes(inputs, targets, rows)
        object.__setattr__(self, "tile", self.tile or len(inputs))
        _require_tile(self.tile, len(inputs))
        _freeze(self, _prepared(inputs, targets, rows))
        self.keep(None, [])

    def keep(self, model: object, passes: list[Slots]) -> None:
        """Keep what a model sees of this block, as `seen`, until another model looks at it."""
        object.__setattr__(self, "seen", (model, passes))

    @cached_property
    def units(self) -> int:
        """Number of slots for units, U."""
        return int(self.inputs.shape[0])

    @cached_property
    def rows_per_unit(self) -> int:
        """Number of slots for rows of one unit, R."""
        return int(self.inputs.shape[1])

    @cached_property
    def batch(self) -> Batch:
        """Shape of one pass over the whole block, padded to a multiple of 16 units."""
        return Batch(
            units=len(self.flat_usable), rows=self.rows_per_unit, tile=padded_units(self.tile)
        )

    def slots(
        self, first: int, batch: Batch, targets: Reals | Integers, valid: Flags | None
    ) -> Slots:
        """Return the slots of the units first .. first + batch.units - 1; targets, valid: (rows,)."""
        units = slice(first, first + batch.units)
        rows = slice(first * batch.rows, (first + batch.units) * batch.rows)
        return Slots(
            first=first,
            units=min(batch.units, self.units - first),
            batch=batch,
            columns=self.flat_inputs[rows].T,
            targets=targets[rows],
            valid=None if valid is None else valid[rows],
            factors=self.row_factors[rows],
            weights=self.row_weights[rows],
            augmented=self.augmented[rows],
            usable=self.flat_usable[units],
            all_usable=self.all_usable and valid is None,
        )

    @cached_property
    def largest_class(self) -> float:
        """The largest target if all targets are classes (integers from 0), else infinity."""
        fine = self.flat_targets.dtype == np.int64 and self.flat_targets.min() >= 0
        return float(self.flat_targets.max()) if fine else np.inf

    @cached_property
    def all_usable(self) -> bool:
        """Whether no unit is unusable."""
        return bool(self.usable.all())

    @cached_property
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
        flat_inputs = aligned_copy(np.pad(inputs, (*padding, (0, 0))))
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
    return aligned_copy(as_reals(array, kept))


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


def _require_tile(tile: int, units: int) -> None:
    if tile < 1 or units % tile or (tile < units and tile % LANE):
        raise ValueError(
            f"Expected tile={tile} == {units} units, or a multiple of {LANE} that divides them"
        )


def make_blocks(
    inputs: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    units: npt.ArrayLike | None = None,
    block_units: int,
    tile_units: int | None = None,
    rows_per_unit: int = 1,
    dtype: npt.DTypeLike = np.float32,
    minimum_units: int = 0,
) -> list[Block]:
    """Put rows into blocks of whole tiles: `block_units` units of `rows_per_unit` rows, but for the last.

    The last block has no more tiles than it needs, so that few units do not pay for a large block.

    Arguments:
        inputs: (rows, features), numbers. What overflows in `dtype` makes its unit unusable.
        targets: (rows,), class indices (integers) or numbers (floats, converted to `dtype`).
        units: (rows,), integers: the unit that a row belongs to; without it every row is a unit.
            Units keep the order of their first rows.
        block_units: most units of a block, a multiple of `tile_units`; see `Model.block_units`.
        tile_units: units of a tile, see the function `tile_units`; by default the whole block.
        rows_per_unit: rows of a unit beyond this number are dropped, the first ones are kept.
        dtype: float32 or float64, that of the model.
        minimum_units: empty tiles are added until there are so many slots, so that the work of a
            round does not tell how many units were drawn.

    Returns the blocks, in order; none for zero rows and `minimum_units=0`.
    Raises ValueError if shapes do not fit or a count is not positive.
    """
    real = real_type(dtype)
    features, wanted = as_reals(inputs, real), _as_targets(targets)
    wanted = wanted if wanted.dtype == np.int64 else as_reals(wanted, real)
    tile = block_units if tile_units is None else tile_units
    _require_rows(features, wanted)
    _require_counts(block_units, tile, rows_per_unit, minimum_units)
    slots = _slots(len(wanted), units, rows_per_unit)
    count = -(-max(minimum_units, _unit_count(slots)) // tile) * tile
    edges = [*range(0, count, block_units), count]
    return list(_filled_blocks(features, wanted, slots, edges, (tile, rows_per_unit)))


def _filled_blocks(
    inputs: Reals,
    targets: Reals | Integers,
    slots: tuple[Integers, Integers, Integers],
    edges: list[int],
    shape: tuple[int, int],
) -> Iterator[Block]:
    """Yield the blocks between units edges[i] and edges[i + 1].

    `slots` are (source row, unit, row within the unit), by unit; `shape` is that of a tile.
    """
    source, unit, position = slots
    starts = np.searchsorted(unit, edges)
    for index, (first, end) in enumerate(pairwise(edges)):
        slots_of_block = (end - first, shape[1])
        part = slice(starts[index], starts[index + 1])
        place = (unit[part] - first, position[part])
        filled = np.zeros((*slots_of_block, inputs.shape[1]), inputs.dtype)
        wanted = cast("Reals | Integers", np.zeros_like(targets, shape=slots_of_block))
        rows = np.zeros(slots_of_block, np.bool_)
        filled[place] = inputs[source[part]]
        wanted[place] = targets[source[part]]
        rows[place] = True
        yield Block(inputs=filled, targets=wanted, rows=rows, tile=shape[0])


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


def _require_rows(inputs: Reals, targets: Reals | Integers) -> None:
    if inputs.ndim != 2 or inputs.shape[1] < 1:
        raise ValueError(f"Expected inputs of shape (rows, features), not {inputs.shape}")
    if targets.shape != inputs.shape[:1]:
        raise ValueError(f"Expected targets.shape={targets.shape} == {inputs.shape[:1]}")


def _require_counts(
    block_units: int, tile_units: int, rows_per_unit: int, minimum_units: int
) -> None:
    if block_units < 1:
        raise ValueError(f"Expected block_units={block_units} >= 1")
    _require_tile(tile_units, block_units)
    if rows_per_unit < 1:
        raise ValueError(f"Expected rows_per_unit={rows_per_unit} >= 1")
    if minimum_units < 0:
        raise ValueError(f"Expected minimum_units={minimum_units} >= 0")
