"""What the layers of a model have in common.

Activations travel as (features, columns): one column per row of data. Their strides are free: a
convolution hands on a transposed view of its (columns, features) array.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gradients._arrays import Doubles, Flags, Reals


class Batch(NamedTuple):
    """Shape of the columns of one pass: `units` units of `rows` rows, column u * rows + r.

    tile: units, a divisor of `units`: what belongs to a unit has the bits that it has in a pass of
    so many.
    """

    units: int
    rows: int
    tile: int


@dataclass(kw_only=True)
class Trace:
    """What a layer keeps of a forward pass for the backward pass.

    output: (outputs, columns), after the activation.
    finite: (columns,): nothing overflowed on the way; None if it did nowhere. Asked of the sums
        *before* the activation: tanh, max and pooling would hide an infinity.
    """

    output: Reals
    finite: Flags | None


class StageGradient(Protocol):
    """Gradients of one layer, for every unit of a pass, materialised or not.

    squares: (units,) in float64, squared norms over weight and bias; not finite where anything is
        not.
    """

    squares: Doubles

    def drop(self, usable: Flags) -> None:
        """Zero everything that belongs to units which are not usable (units,)."""

    def weighted_sums(self, weights: Reals) -> Iterable[tuple[Reals, Reals]]:
        """Sums of weights[unit] * gradient over disjoint sets of units: (weight, bias).

        In each of them products are rounded no more often, in the mean, than a tile has units
        (`gradients.bounds`); over all units they are to be added in float64.
        weights: (units,), in the dtype of the model.
        """


class Stage(Protocol):
    """A layer with a weight and a bias, its activation, and its pooling if any."""

    @property
    def inputs(self) -> int:
        """Features of a column that comes in."""

    @property
    def outputs(self) -> int:
        """Features of a column that goes out."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the bias."""

    @property
    def spread(self) -> float:
        """Standard deviation of the first weights."""

    def forward(self, weight: Reals, bias: Reals, columns: Reals, tile: int) -> Trace:
        """Output for columns (inputs, n); tile: as in `column_product`."""

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
        """Gradients of all units, and the deltas of the inputs (inputs, n) if asked for.

        deltas: (outputs, n), overwritten. augmented: (n,), ||column||^2 + 1 of what came in, if
        known already.
        """
