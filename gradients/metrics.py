"""Metrics of predictions, in float64."""

import numpy as np
import numpy.typing as npt

from gradients._arrays import Doubles, Integers
from gradients.losses import CROSS_ENTROPY, row_losses, valid_classes
from gradients.models import Model, Parameters


def classification_metrics(
    predicted: npt.ArrayLike, actual: npt.ArrayLike, classes: int
) -> dict[str, float]:
    """Accuracy, precision, recall and F1.

    With two classes those of class 1, the last; with more the plain mean over all classes, also
    over classes that do not occur (macro average). 0/0 counts as 0, also the accuracy of no rows.

    Arguments: predicted and actual (rows,), integers in 0..classes-1.
    Raises ValueError if shapes differ or a class is out of range.
    """
    if classes < 2:
        raise ValueError(f"Expected classes={classes} >= 2")
    guesses, truth = _classes("predicted", predicted, classes), _classes("actual", actual, classes)
    if guesses.shape != truth.shape:
        raise ValueError(f"Expected predicted.shape={guesses.shape} == {truth.shape}")
    table = np.bincount(truth * classes + guesses, minlength=classes**2).reshape(classes, classes)
    hits = table.diagonal().astype(np.float64)
    precision = _ratio(hits, table.sum(axis=0))
    recall = _ratio(hits, table.sum(axis=1))
    f1 = _ratio(2 * hits, table.sum(axis=0) + table.sum(axis=1))
    chosen = slice(1, 2) if classes == 2 else slice(None)
    return {
        "accuracy": float(_ratio(hits.sum(keepdims=True), np.array([table.sum()]))[0]),
        "precision": float(precision[chosen].mean()),
        "recall": float(recall[chosen].mean()),
        "f1": float(f1[chosen].mean()),
    }


def regression_metrics(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> dict[str, float]:
    """Mean squared error, mean absolute error and R^2.

    R^2 is 1 - mse / variance of the target; where the target does not vary it is 1 for predictions
    that are exact and 0 otherwise (as in scikit-learn).

    Arguments: predicted and actual (rows,), at least one row.
    Raises ValueError if shapes differ or there is no row.
    """
    guesses = np.asarray(predicted, dtype=np.float64)
    truth = np.asarray(actual, dtype=np.float64)
    if guesses.ndim != 1 or guesses.shape != truth.shape or not len(truth):
        raise ValueError(f"Expected predicted.shape={guesses.shape} == {truth.shape}, not empty")
    errors = guesses - truth
    squared = float(np.mean(errors**2))
    variance = float(np.mean((truth - truth.mean()) ** 2))
    constant = 1.0 if squared == 0 else 0.0
    return {
        "mse": squared,
        "mae": float(np.mean(np.abs(errors))),
        "r2": 1 - squared / variance if variance > 0 else constant,
    }


def mean_loss(
    model: Model, parameters: Parameters, inputs: npt.ArrayLike, targets: npt.ArrayLike
) -> float:
    """Mean loss over rows, in float64: scores in the dtype of the model, the rest in float64.

    Arguments: inputs (rows, inputs), targets (rows,), at least one row. Not private: every row has
    its full weight, and what is not finite makes the result not finite.
    Raises ValueError if shapes do not fit, there is no row, or a class does not exist.
    """
    scores = model.scores(parameters, inputs).astype(np.float64)
    wanted = np.asarray(targets)
    if wanted.shape != (len(scores),) or not len(scores):
        raise ValueError(f"Expected targets.shape={wanted.shape} == {(len(scores),)}, not empty")
    if model.loss == CROSS_ENTROPY:
        wanted, valid = valid_classes(wanted, model.classes)
        if not valid.all():
            raise ValueError(f"Expected targets in 0..{model.classes - 1}")
    with np.errstate(all="ignore"):
        losses, _ = row_losses(model.loss, scores.T, wanted)
    return float(losses.mean())


def _ratio(part: Doubles, whole: Integers) -> Doubles:
    """Divide part by whole, 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _classes(name: str, values: npt.ArrayLike, classes: int) -> Integers:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        raise ValueError(f"Expected integers {name} of shape (rows,), not {array.dtype.name}")
    if array.size and not (array.min() >= 0 and array.max() < classes):
        raise ValueError(f"Expected {name} in 0..{classes - 1}")
    return array.astype(np.int64)
