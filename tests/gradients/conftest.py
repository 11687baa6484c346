"""Models and data that the tests of `gradients` share."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gradients import Block, Model, make_blocks, make_model

SETTINGS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear", "inputs": 5},
    "logistic": {"kind": "logistic", "inputs": 7},
    "softmax-3": {"kind": "softmax", "inputs": 6, "classes": 3},
    "softmax-10": {"kind": "softmax", "inputs": 33, "classes": 10},
    "mlp-regression": {"kind": "mlp", "inputs": 4, "hidden": (9,)},
    "mlp-tanh": {"kind": "mlp", "inputs": 6, "classes": 3, "hidden": (7, 5), "activation": "tanh"},
    "mlp-relu": {"kind": "mlp", "inputs": 20, "classes": 10, "hidden": (40, 17)},
    "cnn-digits": {"kind": "cnn", "inputs": 64, "classes": 10},
    "cnn-colour": {
        "kind": "cnn", "inputs": 9 * 8 * 2, "classes": 3, "image": (9, 8, 2), "kernel": 3,
        "filters": (4,), "hidden": (6,), "activation": "tanh",
    },
}  # fmt: skip


@dataclass
class Problem:
    """A model, parameters that are not zero, and rows of units of up to `rows_per_unit` rows."""

    model: Model
    vector: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray
    units: np.ndarray
    rows_per_unit: int

    @property
    def parameters(self):
        return self.model.unflatten(self.vector)

    def block(self, block_units: int | None = None) -> Block:
        (block,) = make_blocks(
            self.inputs, self.targets, units=self.units, rows_per_unit=self.rows_per_unit,
            block_units=block_units or len(np.unique(self.units)), dtype=self.model.dtype,
        )  # fmt: skip
        return block


def problem(name, *, units, rows_per_unit=1, dtype=np.float32, seed=0, scale=0.3):
    """Units 0..units-1; with more than one row per unit they have 1, 2, ..., R, 1, 2, ... rows."""
    generator = np.random.default_rng(seed)
    model = make_model(**SETTINGS[name], dtype=dtype)
    labels = np.repeat(np.arange(units), 1 + np.arange(units) % rows_per_unit)
    inputs = generator.standard_normal((len(labels), model.inputs))
    if model.classes:
        targets = generator.integers(0, model.classes, len(labels))
    else:
        targets = generator.standard_normal(len(labels))
    vector = scale * generator.standard_normal(model.size)
    return Problem(model, vector, inputs, targets, labels, rows_per_unit)


@pytest.fixture(params=list(SETTINGS))
def name(request):
    """The name of a model; every test that asks for it runs for each."""
    return request.param


@pytest.fixture
def make_problem():
    return problem
