"""Dense layers: per-unit gradients that are never formed.

With one row per unit the gradient of a dense layer is an outer product, delta (a, 1)^T, so that its
squared norm is (||a||^2 + 1) ||delta||^2 (Goodfellow 2015, arXiv:1510.01799; for clipping: Li et
al. 2021, arXiv:2110.05679) and the weighted sum over units is one matrix product.

With several rows per unit the gradients are formed, a few units at a time. Discussion: their norm
could be had from Gram matrices (Bu et al. 2022, arXiv:2205.10683), but rows may cancel: in float32
that gave negative squares, and the product over all rows has a rounding error in proportion to the
*uncancelled* terms, which no clipping bounds. What is summed here is the very array whose norm was
taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradients._arrays import Doubles, Flags, Reals, every, largest_square, surely_finite
from gradients._products import column_product, sum_of_outer_products
from gradients._stages import Batch, StageGradient, Trace
from gradients.activations import apply_activation, require_activation, through_activation

FORMED_BYTES = 2**20  # gradients of a few units at a time: what fits into a core's cache
WIDENED = 64  # features whose squares are added at a time: likewise, whatever the number of columns
SHORT = 2.0**-64  # squared norms below it are taken in float64: in float32 some would vanish


@dataclass(frozen=True, kw_only=True)
class Dense:
    """outputs = activation(weight @ inputs + bias).

    `scalar` layers have one output, a weight of shape (inputs,) and a bias of shape ().
    """

    inputs: int
    outputs: int
    activation: str = "identity"
    scalar: bool = False

    def __post_init__(self) -> None:
        require_activation(self.activation)
        if self.inputs < 1 or self.outputs < 1:
            raise ValueError(f"Expected inputs={self.inputs} >= 1, outputs={self.outputs} >= 1")
        if self.scalar and self.outputs != 1:
            raise ValueError(f"Expected outputs={self.outputs} == 1 for a scalar layer")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (self.inputs,) if self.scalar else (self.outputs, self.inputs)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the bias."""
        return () if self.scalar else (self.outputs,)

    @property
    def spread(self) -> float:
        """He et al. 2015 before a ReLU, Glorot and Bengio 2010 otherwise."""
        if self.activation == "relu":
            return float(np.sqrt(2 / self.inputs))
        return float(np.sqrt(2 / (self.inputs + self.outputs)))

    def forward(self, weight: Reals, bias: Reals, columns: Reals, tile: int) -> Trace:
        """Output for columns (inputs, n); tile: as in `column_product`."""
        sums = column_product(weight.reshape(self.outputs, self.inputs), columns, tile)
        sums += bias.reshape(self.outputs, 1)
        finite = None if surely_finite(sums) else every(np.isfinite(sums), 0)
        if self.activation != "identity":
            apply_activation(self.activation, sums)
        return DenseTrace(output=sums, finite=finite, columns=columns)

    def backward(
        self,
        weight: Reals,
        trace: Trace,
        deltas: Reals,
        batch: Batch,
        *,
        augmented: Doubles | None,
        with_inputs: bool,
    ) -> tuple[StageGradient, Reals | None]:
        """Gradients of all units, and the deltas of the inputs if asked for."""
        assert isinstance(trace, DenseTrace)  # noqa: S101 (cannot happen: own trace)
        if self.activation != "identity":
            deltas = through_activation(self.activation, deltas, trace.output)
        below = None
        if with_inputs:
            transposed = weight.reshape(self.outputs, self.inputs).T
            below = column_product(transposed, deltas, batch.tile * batch.rows)
        if batch.rows > 1:
            return FormedGradient(trace.columns, deltas, batch), below
        if augmented is None:
            augmented = _augmented_squares(trace.columns)
        return OuterGradient(trace.columns, deltas, augmented, batch.tile), below


@dataclass(kw_only=True)
class DenseTrace(Trace):
    """columns: (inputs, n), what came in."""

    columns: Reals


def _square_columns(array: Reals) -> Doubles:
    """Squared norms of the columns (features, n).

    Those of many features are taken in the array's dtype, in a fifth of the time, but for columns
    that are short: there squares of float32 vanish below 2^-75, and with them the norm of a small
    delta under a large input. Which of the two a column has depends on that column alone.
    """
    if len(array) <= WIDENED:
        return _wide_squares(array)
    squares = _narrow_squares(array)
    short = squares < SHORT
    return np.where(short, _wide_squares(array), squares) if short.any() else squares


def _wide_squares(array: Reals) -> Doubles:
    """Squared norms of the columns, taken and added in float64."""
    wide = array[:WIDENED].astype(np.float64)
    wide *= wide
    squares: Doubles = np.add.reduce(wide, axis=0)
    if len(array) > WIDENED:
        squares += _wide_squares(array[WIDENED:])
    return squares


def _narrow_squares(array: Reals) -> Doubles:
    """Squared norms of the columns, taken and added in the array's dtype by `WIDENED` features.

    Infinite or NaN where they overflow in that dtype. `gradients.bounds` pays for the rounding
    (item 4).
    """
    squares = np.zeros(array.shape[1])
    for start in range(0, len(array), WIDENED):
        part = array[start : start + WIDENED]
        squares += np.einsum("fn,fn->n", part, part)
    return squares


def _augmented_squares(columns: Reals) -> Doubles:
    """||a||^2 + 1 of the columns (features, n); infinite where ||a||^2 overflows in the dtype of the model.

    Squares that vanish are nothing beside the 1.
    """
    squares = _narrow_squares(columns)
    limit = largest_square(columns.dtype)
    if not squares.dot(squares) <= limit**2:
        squares[~(squares <= limit)] = np.inf
    squares += 1
    return squares


def _zeroed(array: Reals, dropped: Flags) -> Reals:
    """Return a copy with columns of zeros, in the *same layout*.

    Another layout would take another path through BLAS, and one unit's being dropped would show in
    the last bits of all others.
    """
    copy = array.copy(order="K")
    copy[:, dropped] = 0
    return copy


class OuterGradient:
    """One row per unit: gradients delta (a, 1)^T, never formed."""

    def __init__(self, columns: Reals, deltas: Reals, augmented: Doubles, tile: int) -> None:
        self._columns = columns
        self._deltas = deltas
        self._tile = tile
        # (||a||^2 + 1) ||delta||^2; infinite where ||a||^2 overflows in the dtype of the model.
        self.squares = _square_columns(deltas)
        self.squares *= augmented

    def drop(self, usable: Flags) -> None:
        """Zero everything that belongs to units which are not usable (units,)."""
        self._columns = _zeroed(self._columns, ~usable)
        self._deltas = _zeroed(self._deltas, ~usable)

    def weighted_sums(self, weights: Reals) -> Iterator[tuple[Reals, Reals]]:
        """Sums of weights[unit] * gradient over disjoint sets of units: (weight, bias)."""
        return sum_of_outer_products(self._deltas, self._columns, self._tile, weights)


class FormedGradient:
    """Several rows per unit: gradients (units, outputs, inputs + 1), formed a few units at a time."""

    def __init__(self, columns: Reals, deltas: Reals, batch: Batch) -> None:
        self._columns = columns
        self._deltas = deltas
        self._batch = batch
        self.squares = np.empty(batch.units)
        for part, weights, biases in self._gradients():
            wide = weights.reshape(len(weights), -1).astype(np.float64)
            narrow = biases.astype(np.float64)
            self.squares[part] = np.einsum("up,up->u", wide, wide)
            self.squares[part] += np.einsum("up,up->u", narrow, narrow)

    def drop(self, usable: Flags) -> None:
        """Zero everything that belongs to units which are not usable (units,)."""
        dropped = np.repeat(~usable, self._batch.rows)
        self._columns = _zeroed(self._columns, dropped)
        self._deltas = _zeroed(self._deltas, dropped)

    def weighted_sums(self, weights: Reals) -> Iterator[tuple[Reals, Reals]]:
        """Yield the sum over units of weights[unit] * gradient: (weight, bias), in float64."""
        # No part has more units than a tile, and parts are added in float64.
        weight = np.zeros(len(self._deltas) * len(self._columns))
        bias = np.zeros(len(self._deltas))
        for part, formed, biases in self._gradients():
            weight += weights[part] @ formed.reshape(len(formed), -1)
            bias += weights[part] @ biases
        yield weight, bias

    def _gradients(self) -> Iterator[tuple[slice, Reals, Reals]]:
        """(units, gradients of the weight, of the bias): every unit by a product of its own."""
        units, rows, tile = self._batch
        inputs = self._columns.reshape(-1, units, rows).transpose(1, 2, 0)  # (units, rows, inputs)
        deltas = self._deltas.reshape(-1, units, rows).transpose(1, 0, 2)  # (units, outputs, rows)
        size = inputs.shape[2] * deltas.shape[1] * inputs.itemsize
        step = min(max(1, FORMED_BYTES // size), tile)
        for start in range(0, units, step):
            part = slice(start, min(start + step, units))
            yield part, deltas[part] @ inputs[part], deltas[part].sum(axis=2)
