"""How features and labels are brought to one scale: by public bounds, and by what a private sum has learnt.

Every function maps one row to one row by public numbers, so a unit's vector depends on that unit alone. NaN stays
NaN: such a unit contributes zero later, silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from study.contract import Bounds

__all__ = ["clamp_and_scale", "moments_to_standard", "scale_labels", "standardise", "unscale_labels"]

Floats = npt.NDArray[np.float64]
Scaling = Literal["bounds", "standard", "none"]

_LEAST_DEVIATION = 0.01  # of a feature on [0, 1]


def clamp_and_scale(features: Floats, bounds: Sequence[Bounds | None], scaled: Scaling) -> Floats:
    """Features within their bounds, and on [0, 1] unless `scaled` is "none"; float64, shape (rows, features)."""
    low = np.array([-np.inf if each is None else each[0] for each in bounds])
    high = np.array([np.inf if each is None else each[1] for each in bounds])
    clamped = np.clip(features, low, high)
    return clamped if scaled == "none" else (clamped - low) / (high - low)


def scale_labels(labels: Floats, bounds: Bounds | None, scaled: Scaling) -> Floats:
    """Labels of a regression on [-1, 1], by their public bounds."""
    if bounds is None or scaled == "none":
        return labels
    return 2 * (np.clip(labels, *bounds) - bounds[0]) / (bounds[1] - bounds[0]) - 1


def unscale_labels(scaled_labels: Floats, bounds: Bounds | None, scaled: Scaling) -> Floats:
    """The inverse of `scale_labels`, but for clamping."""
    if bounds is None or scaled == "none":
        return scaled_labels
    return (scaled_labels + 1) / 2 * (bounds[1] - bounds[0]) + bounds[0]


def standardise(features: Floats, mean: Floats, deviation: Floats, limit: float = 3.0) -> Floats:
    """z-scores clipped to +- `limit`, shape (rows, features)."""
    with np.errstate(all="ignore"):
        return np.clip((features - mean) / deviation, -limit, limit)


def moments_to_standard(count: float, total: Floats, squares: Floats, expected: float) -> tuple[Floats, Floats]:
    """Means and deviations of features on [0, 1] from a noisy count, sum and sum of squares; never NaN."""
    records = max(count, expected / 2, 1.0)
    mean = np.clip(total / records, 0.0, 1.0)
    variance = squares / records - np.square(mean)
    return mean, np.sqrt(np.maximum(variance, _LEAST_DEVIATION**2))
