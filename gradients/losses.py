"""Losses of single rows and their derivatives with respect to the scores.

Scores have one column per row of data: (outputs, n). Reductions run over the first axis, so that a
row's result does not depend on its column. No factor 1/2 in the squared error, hence a 2 in its
derivative.
"""

from typing import Final

import numpy as np

from gradients._arrays import Doubles, Flags, Integers, Reals

SQUARED_ERROR: Final = "mean-squared-error"
CROSS_ENTROPY: Final = "cross-entropy"


def squared_error(scores: Reals, targets: Reals) -> tuple[Doubles, Reals]:
    """(prediction - target)^2 and 2 (prediction - target).

    Arguments: scores (1, n), targets (n,) of the dtype of the scores.
    Returns the losses (n,) in float64 and the deltas (1, n).
    """
    residuals = scores - targets
    wide = residuals[0].astype(np.float64)
    return wide * wide, 2 * residuals


def binary_cross_entropy(scores: Reals, classes: Integers) -> tuple[Doubles, Reals]:
    """-log sigmoid(z) for class 1, -log sigmoid(-z) for class 0; derivative sigmoid(z) - class.

    Arguments: scores (1, n), classes (n,) in {0, 1}.
    Returns the losses (n,) in float64 and the deltas (1, n).
    """
    decay = np.exp(-np.abs(scores))  # in (0, 1]: neither form below can overflow
    wide = scores[0].astype(np.float64)
    losses = np.maximum(wide, 0) - wide * classes + np.log1p(decay[0].astype(np.float64))
    return losses, sigmoid(scores) - classes.astype(scores.dtype)


def sigmoid(scores: Reals) -> Reals:
    """1 / (1 + exp(-z)), without overflow."""
    decay = np.exp(-np.abs(scores))
    likely = 1 / (1 + decay)
    return np.where(scores >= 0, likely, decay * likely)


def softmax_cross_entropy(scores: Reals, classes: Integers) -> tuple[Doubles, Reals]:
    """-log softmax(z)[class]; derivative softmax(z) - one-hot(class).

    Arguments: scores (outputs, n), classes (n,) in 0..outputs-1.
    Returns the losses (n,) in float64 and the deltas (outputs, n).
    """
    count = scores.shape[1]
    shifted = np.empty(scores.shape, scores.dtype)  # C-contiguous: its entries have flat places
    np.subtract(scores, np.maximum.reduce(scores, axis=0), out=shifted)
    flat, places = shifted.reshape(-1), classes * count
    places += np.arange(count)
    chosen = flat[places]
    np.exp(shifted, out=shifted)
    totals = np.add.reduce(shifted, axis=0)
    losses = np.log(totals, dtype=np.float64)
    losses -= chosen
    shifted /= totals
    flat[places] -= 1
    return losses, shifted


def row_losses(loss: str, scores: Reals, targets: Reals | Integers) -> tuple[Doubles, Reals]:
    """Losses (n,) in float64 and deltas (outputs, n) of all columns.

    Targets of a cross-entropy are int64 and in range (see `valid_classes`).
    """
    if loss == SQUARED_ERROR:
        return squared_error(scores, targets.astype(scores.dtype))
    classes = targets.astype(np.int64, copy=False)
    if scores.shape[0] == 1:
        return binary_cross_entropy(scores, classes)
    return softmax_cross_entropy(scores, classes)


def valid_classes(targets: Reals | Integers, classes: int) -> tuple[Integers, Flags]:
    """Targets as class indices, and which of them are one.

    What is no class (NaN, a fraction, out of range) becomes class 0, so that the arithmetic goes
    on; the caller drops its unit.
    """
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(targets) & (targets >= 0) & (targets < classes)
        valid &= targets == np.floor(targets)
    return np.where(valid, targets, 0).astype(np.int64), valid
