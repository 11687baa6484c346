"""The model that a study declares, as the gradient core knows it; its first weights follow from the study's hash."""

from __future__ import annotations

import math

import numpy as np

from gradients import Model, make_model
from study.contract import Study
from study.settings import ImpossibleSettingError

__all__ = ["feature_names", "model_of"]


def feature_names(study: Study) -> tuple[str, ...]:
    """The columns of a frozen study, in order. Raises where they still say "all"."""
    if isinstance(study.data.features, str):
        raise ImpossibleSettingError(
            "data.features",
            expected="the names of columns",
            actual="all",
            hint="run: discreet study freeze FILE",
        )
    return study.data.features


def model_of(study: Study) -> Model:
    """The study's model, with its declared precision."""
    inputs = len(feature_names(study))
    return make_model(
        kind=study.model.kind,
        inputs=inputs,
        classes=len(study.data.classes),
        hidden=study.model.hidden,
        activation=study.model.activation,
        image=_image(inputs) if study.model.kind == "cnn" else None,
        dtype=np.dtype(study.numbers).type,
    )


def _image(inputs: int) -> tuple[int, int, int]:
    side = math.isqrt(inputs)
    if side * side != inputs or side < 8:
        raise ImpossibleSettingError(
            "model.kind",
            expected="a square grey image of at least 8 x 8 features for a cnn",
            actual=f"{inputs} features",
        )
    return side, side, 1
