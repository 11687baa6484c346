"""Losses, gradient norms and weighted gradient sums of single units.

A unit is what privacy is granted to: a row, or all rows of one person. Its gradient is the mean
over its rows of the rows' gradients.

**Guarantees.**

* Bit for bit: a unit's loss, norm and contribution depend on that unit and on the parameters alone.
* `norms` are those of the very vectors that `weighted_sum` adds, up to 2^-17 relative, whatever the
  width of a layer (`gradients.bounds`, item 4).
* What is not finite, or whose square overflows in the dtype of the model, at any place (inputs,
  targets, sums of a layer, loss, deltas, norm), makes its unit contribute exactly zero, with loss 0
  and norm 0: without an exception, a warning, or a trace of it in any other unit.

| unit | loss | norm | contribution |
|---|---|---|---|
| empty slot | 0 | 0 | 0 |
| not finite, or a class that does not exist | 0 | 0 | 0 |
| gradient exactly zero | its loss | 0 | 0 |
"""

from math import inf
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gradients._arrays import Doubles, Flags, Integers, Reals, as_reals, every
from gradients._memory import keep_freed_memory
from gradients._products import LANE
from gradients._stages import Batch, StageGradient, Trace
from gradients.blocks import Block, Slots
from gradients.losses import CROSS_ENTROPY, row_losses, valid_classes
from gradients.models import Model, Parameters

keep_freed_memory()

SMALL_WEIGHT = 2.0**40  # times a gradient, whose norm is at most 2^64, never overflows in float32
CONVOLVED_ROWS = 32  # images per pass: their patches stay in a core's cache


# Gradients of all layers, from the first to the last, by one forward and backward pass.
Pass: TypeAlias = tuple[Slots, list[StageGradient]]


class UnitGradients:
    """Gradients of the units of one block.

    losses: (U,), norms: (U,), both float64 and finite; norms over all parameters, bias included.
    """

    def __init__(self, losses: Doubles, norms: Doubles, passes: list[Pass], model: Model) -> None:
        self.losses = losses
        self.norms = norms
        self.passes = passes
        self._model = model

    def weighted_sum(self, weights: npt.ArrayLike, *, add_to: Doubles | None = None) -> Doubles:
        """Sum over units of weights[u] * gradient_u.

        Arguments: weights (U,), finite; those of units that contribute nothing do not matter;
        add_to: a vector (size,) in float64 to which the sum is added, in place: for the sum over
        several blocks, without a vector for each.
        Returns the vector (size,) in float64, or `add_to`. May be called several times.
        Raises ValueError if the weights are not finite or an argument is of another shape.
        """
        given, size = np.asarray(weights, np.float64), self._model.size
        if given.shape != self.norms.shape:
            raise ValueError(f"Expected weights.shape={given.shape} == {self.norms.shape}")
        if add_to is not None and (add_to.shape != (size,) or add_to.dtype != np.float64):
            raise ValueError(f"Expected add_to.shape={add_to.shape} == {(size,)} in float64")
        # One product for all of them first: if it is small then they all are, and nothing overflows.
        if given.dot(given) <= SMALL_WEIGHT**2:
            return self._sum(given, add_to)
        if not (np.abs(given) <= self._model.largest_square).all():
            raise ValueError("Expected finite weights")
        with np.errstate(all="ignore"):
            return self._sum(given, add_to)

    def _sum(self, weights: Doubles, add_to: Doubles | None) -> Doubles:
        """As `weighted_sum`."""
        narrow: Reals = weights.astype(self._model.dtype)
        total = np.empty(self._model.size) if add_to is None else add_to
        first = add_to is None
        for slots, gradients in self.passes:
            mine, end = slots.padded(narrow), 0
            for gradient in gradients:
                start, overwrite = end, first
                for parts in gradient.weighted_sums(mine):
                    end = start
                    for part in parts:
                        begin, end = end, end + part.size
                        if overwrite:
                            total[begin:end] = part.reshape(-1)
                        else:
                            total[begin:end] += part.reshape(-1)
                    overwrite = False
            first = False
        return total


@np.errstate(all="ignore")
def unit_gradients(model: Model, parameters: Parameters, block: Block) -> UnitGradients:
    """Losses, norms and (implicitly) gradients of all units of a block.

    Arguments: parameters as in `model.shapes`; a block of `model.inputs` features. A block of
    another dtype is converted.
    Raises ValueError if shapes do not fit; never because of the values of data or parameters.
    """
    arrays = model.checked(parameters)
    seen_by, passes = block.seen
    if seen_by is not model:
        passes = _passes(model, block)
        block.keep(model, passes)
    if len(passes) == 1:
        return _run(model, arrays, passes[0])
    parts = [_run(model, arrays, slots) for slots in passes]
    losses = np.concatenate([part.losses for part in parts])
    norms = np.concatenate([part.norms for part in parts])
    return UnitGradients(losses, norms, [pair for part in parts for pair in part.passes], model)


def _passes(model: Model, block: Block) -> list[Slots]:
    """Return what the passes of a model see of a block: the same in every step.

    Raises ValueError if shapes do not fit.
    """
    if block.features != model.inputs:
        raise ValueError(f"Expected block.features={block.features} == {model.inputs}")
    if block.flat_inputs.dtype != model.dtype:
        narrow = as_reals(block.inputs, model.dtype)
        block = Block(inputs=narrow, targets=block.targets, rows=block.rows, tile=block.tile)
    targets, valid = _targets(model, block)
    batch = _portion(block.batch) if model.convolves else block.batch
    firsts = range(0, block.batch.units, batch.units)
    return [block.slots(first, batch, targets, valid) for first in firsts]


def _targets(model: Model, block: Block) -> tuple[Reals | Integers, Flags | None]:
    """Targets per row, and whether they are usable, (rows,) each; None: no more to know than the block does."""
    if model.loss == CROSS_ENTROPY:
        if block.largest_class < model.classes:
            return block.flat_targets, None
        return valid_classes(block.flat_targets, model.classes)
    if block.flat_targets.dtype == model.dtype:
        return block.flat_targets, None
    narrow = as_reals(block.flat_targets, model.dtype)
    return narrow, np.isfinite(narrow)


def _portion(batch: Batch) -> Batch:
    """Shape of the passes over a batch for convolutions: by public sizes alone."""
    step = max(LANE, CONVOLVED_ROWS // batch.rows // LANE * LANE)
    # All passes of one shape: a shorter last one would take another path through BLAS.
    step = step if batch.tile % step == 0 else LANE
    return Batch(units=step, rows=batch.rows, tile=step)


def _run(model: Model, arrays: list[Reals], slots: Slots) -> UnitGradients:
    """One forward and backward pass."""
    batch, columns, fine = slots.batch, slots.columns, slots.all_usable
    width = batch.tile * batch.rows
    traces, gradients = [], []
    for index, stage in enumerate(model.stages):
        trace = stage.forward(arrays[2 * index], arrays[2 * index + 1], columns, width)
        traces.append(trace)
        columns = trace.output
        if trace.finite is not None:
            fine = False
    losses, deltas = row_losses(model.loss, columns, slots.targets)
    deltas *= slots.factors
    losses *= slots.weights
    if batch.rows > 1:
        losses = losses.reshape(batch.units, batch.rows).sum(axis=1)
    below: Reals | None = deltas
    for index in range(len(traces) - 1, -1, -1):
        assert below is not None  # noqa: S101 (cannot happen: asked for above layer 0)
        gradient, below = model.stages[index].backward(
            arrays[2 * index], traces[index], below, batch,
            augmented=None if index else slots.augmented, with_inputs=index > 0,
        )  # fmt: skip
        gradients.append(gradient)
    squares = gradients[0].squares
    for gradient in gradients[1:]:
        squares = squares + gradient.squares
    gradients.reverse()
    # One number for all units first: if it is fine, all of them are.
    limit = model.largest_square
    if not (fine and squares.dot(squares) <= limit**2 and losses.dot(losses) < inf):
        usable = _usable(slots, traces) & np.isfinite(losses) & (squares <= limit)
        losses, squares = np.where(usable, losses, 0), np.where(usable, squares, 0)
        if not usable.all():
            for gradient in gradients:
                gradient.drop(usable)
    norms = np.sqrt(squares)
    if slots.units < batch.units:
        losses, norms = losses[: slots.units], norms[: slots.units]
    return UnitGradients(losses, norms, [(slots, gradients)], model)


def _usable(slots: Slots, traces: list[Trace]) -> Flags:
    """Which units (units,) have inputs and targets to use, and sums that are finite in all layers."""
    usable = slots.usable.copy()
    for flags in [slots.valid, *(trace.finite for trace in traces)]:
        if flags is not None:
            usable &= every(flags.reshape(slots.batch.units, slots.batch.rows), 1)
    return usable
