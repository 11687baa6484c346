"""Models: shapes, first weights, scores and predictions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import isqrt, prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gradients._arrays import (
    Doubles,
    Integers,
    Reals,
    RealType,
    aligned_copy,
    as_reals,
    largest_square,
    real_type,
)
from gradients._products import LANE
from gradients._stages import Stage
from gradients.activations import require_activation
from gradients.convolution import Convolution
from gradients.dense import Dense
from gradients.losses import CROSS_ENTROPY, SQUARED_ERROR, sigmoid

Parameters: TypeAlias = dict[str, Reals]

KINDS = ("linear", "logistic", "softmax", "mlp", "cnn")
SEED_BYTES = 32
WIDE_UNITS = 1024  # of a block: more gained nothing
WIDE_NUMBERS = 2**19  # of an activation: what a core's cache can hold
SCORED_ROWS = 256  # rows scored at a time: bounds the memory of a convolution


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model: its layers in order, its loss and its dtype. Made by `make_model`."""

    kind: str
    stages: tuple[Stage, ...]
    loss: str
    dtype: RealType

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", real_type(self.dtype))
        if self.loss not in (SQUARED_ERROR, CROSS_ENTROPY):
            raise ValueError(f"Expected loss={self.loss!r} in {(SQUARED_ERROR, CROSS_ENTROPY)}")
        if not self.stages:
            raise ValueError("Expected at least one layer")
        for below, above in pairwise(self.stages):
            if below.outputs != above.inputs:
                raise ValueError(f"Expected layers that fit: {below.outputs} == {above.inputs}")

    @cached_property
    def inputs(self) -> int:
        """Features of a row."""
        return self.stages[0].inputs

    @cached_property
    def outputs(self) -> int:
        """Scores of a row."""
        return self.stages[-1].outputs

    @cached_property
    def classes(self) -> int:
        """Number of classes; 0 for a regression."""
        return 0 if self.loss == SQUARED_ERROR else max(2, self.outputs)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, in order."""
        names = {}
        for index, stage in enumerate(self.stages, start=1):
            prefix = f"layer{index}." if len(self.stages) > 1 else ""
            names[f"{prefix}weight"] = stage.weight_shape
            names[f"{prefix}bias"] = stage.bias_shape
        return names

    @cached_property
    def size(self) -> int:
        """How many numbers the parameters have in all."""
        return sum(prod(shape) for shape in self.shapes.values())

    def block_units(self, tile_units: int, rows_per_unit: int = 1) -> int:
        """Return how many units a block is best made of: whole tiles, by public numbers alone.

        Up to 1,024 units whose activations are at most 2^19 numbers a layer, for what is done once
        per block takes as long for few units as for many; but at least one tile. One tile for a
        model that convolves, whose blocks keep the gradient of every unit.
        """
        if self.convolves:
            return tile_units
        widest = rows_per_unit * max(stage.outputs for stage in self.stages)
        return max(1, min(WIDE_UNITS, WIDE_NUMBERS // widest) // tile_units) * tile_units

    @cached_property
    def largest_square(self) -> float:
        """What a squared norm may be at most in the dtype of the model."""
        return largest_square(self.dtype)

    @cached_property
    def convolves(self) -> bool:
        """Whether any layer is a convolution."""
        return any(isinstance(stage, Convolution) for stage in self.stages)

    def initial(self, seed: bytes) -> Parameters:
        """Make the first parameters: zeros for a single layer; else scaled weights and zero biases.

        Weights are sums of twelve uniform 16-bit integers of SHAKE-256(seed, name), scaled to the
        deviation of He or Glorot. Every step is exact or correctly rounded, so that all platforms
        and all versions of NumPy agree bit for bit; a logarithm or cosine of libm, or NumPy's
        generators (NEP 19), would not promise that.

        Arguments: seed, 32 bytes, not secret. Raises ValueError for another length.
        """
        if len(seed) != SEED_BYTES:
            raise ValueError(f"Expected len(seed)={len(seed)} == {SEED_BYTES}")
        parameters = {name: np.zeros(shape, self.dtype) for name, shape in self.shapes.items()}
        if len(self.stages) > 1:
            for index, stage in enumerate(self.stages, start=1):
                name = f"layer{index}.weight"
                normals = _normals(seed, name, prod(stage.weight_shape))
                parameters[name] = (stage.spread * normals).astype(self.dtype)
                parameters[name] = parameters[name].reshape(stage.weight_shape)
        return parameters

    def flatten(self, parameters: Parameters) -> Reals:
        """All parameters as one vector (size,), in order, in the dtype of the model.

        Raises ValueError if a name is missing or unknown, or a shape does not fit.
        """
        arrays = self.checked(parameters)
        return np.concatenate([array.reshape(-1) for array in arrays])

    def unflatten(self, vector: npt.ArrayLike) -> Parameters:
        """Parameters from a vector (size,), copied. Raises ValueError for another shape."""
        flat = aligned_copy(as_reals(vector, self.dtype))
        if flat.shape != (self.size,):
            raise ValueError(f"Expected vector.shape={flat.shape} == {(self.size,)}")
        parameters, start = {}, 0
        for name, shape in self.shapes.items():
            end = start + prod(shape)
            parameters[name] = flat[start:end].reshape(shape)
            start = end
        return parameters

    def checked(self, parameters: Parameters) -> list[Reals]:
        """Return the parameters in order and in the dtype of the model. Raises ValueError if they do not fit."""
        shapes = self.shapes
        if parameters.keys() != shapes.keys():
            raise ValueError(f"Expected parameters={sorted(parameters)} == {sorted(shapes)}")
        arrays = []
        for name, shape in shapes.items():
            array = as_reals(parameters[name], self.dtype)
            if array.shape != shape:
                raise ValueError(f"Expected parameters[{name!r}].shape={array.shape} == {shape}")
            arrays.append(array)
        return arrays

    def scores(self, parameters: Parameters, inputs: npt.ArrayLike) -> Reals:
        """Raw outputs (rows, outputs): predictions of a regression, logits otherwise.

        Arguments: inputs (rows, inputs). Numbers that are not finite are passed on, silently.
        Raises ValueError if shapes do not fit.
        """
        arrays = self.checked(parameters)
        with np.errstate(all="ignore"):
            rows = as_reals(inputs, self.dtype)
            if rows.ndim != 2 or rows.shape[1] != self.inputs:
                raise ValueError(f"Expected inputs.shape={rows.shape} == (rows, {self.inputs})")
            result = np.empty((len(rows), self.outputs), self.dtype)
            for start in range(0, len(rows), SCORED_ROWS):
                part = rows[start : start + SCORED_ROWS]
                result[start : start + SCORED_ROWS] = self._scored(arrays, part)
        return result

    def _scored(self, arrays: list[Reals], rows: Reals) -> Reals:
        """Scores of a few rows: padded to a whole number of lanes, forward, cut."""
        columns: Reals = np.pad(rows, ((0, -len(rows) % LANE), (0, 0))).T
        for index, stage in enumerate(self.stages):
            trace = stage.forward(
                arrays[2 * index], arrays[2 * index + 1], columns, columns.shape[1]
            )
            columns = trace.output
        return columns.T[: len(rows)]

    def predict(self, parameters: Parameters, inputs: npt.ArrayLike) -> Integers | Reals:
        """Classes (rows,) in int64, the first of equals; for a regression numbers (rows,)."""
        scores = self.scores(parameters, inputs)
        if self.loss == SQUARED_ERROR:
            predicted: Reals = scores[:, 0]
            return predicted
        if self.outputs == 1:
            return (scores[:, 0] > 0).astype(np.int64)
        classes: Integers = scores.argmax(axis=1).astype(np.int64)
        return classes

    def probabilities(self, parameters: Parameters, inputs: npt.ArrayLike) -> Reals:
        """Probabilities of the classes (rows, classes). Raises ValueError for a regression."""
        if self.loss == SQUARED_ERROR:
            raise ValueError(f"Expected loss={self.loss!r} == {CROSS_ENTROPY!r}")
        scores = self.scores(parameters, inputs)
        with np.errstate(all="ignore"):
            if self.outputs == 1:
                return np.concatenate([sigmoid(-scores), sigmoid(scores)], axis=1)
            powers: Reals = np.exp(scores - scores.max(axis=1, keepdims=True))
            powers /= powers.sum(axis=1, keepdims=True)
        return powers


def _normals(seed: bytes, name: str, count: int) -> Doubles:
    """Derive `count` numbers, near to normal (Irwin-Hall), mean 0, variance 1."""
    label = b"discreet/initial/v1/" + name.encode()
    stream = hashlib.shake_256(seed + label).digest(24 * count)
    integers = np.frombuffer(stream, dtype="<u2").reshape(count, 12).sum(axis=1, dtype=np.int64)
    normals: Doubles = (integers - 6 * 65535) / np.sqrt(65536.0**2 - 1)
    return normals


def make_model(
    *,
    kind: str,
    inputs: int,
    classes: int = 0,
    hidden: Sequence[int] = (),
    activation: str = "relu",
    image: tuple[int, int, int] | None = None,
    dtype: npt.DTypeLike = np.float32,
    kernel: int | None = None,
    filters: Sequence[int] = (8, 16),
) -> Model:
    """Make a model of one of five kinds.

    Arguments:
        kind: "linear" (regression), "logistic" (two classes, one output), "softmax", "mlp"
            (regression with classes=0, else softmax), "cnn" (softmax).
        inputs: features of a row.
        classes: classes, at least 2; 0 for a regression. For "logistic" 0 or 2.
        hidden: widths of the hidden layers of an "mlp" (at least one), or of the dense layers of a
            "cnn" (default 64).
        activation: "relu" or "tanh", of all layers but the last.
        image: (height, width, channels) of a "cnn", its rows being in that order; default: square,
            one channel.
        dtype: float32 or float64.
        kernel: side of the kernels of a "cnn"; default: 5 without padding if the smaller side of
        the
            image is at least 16, else 3 with a padding of 1.
        filters: filters of the convolutions of a "cnn"; each is followed by 2x2 max pooling.

    Raises ValueError if an argument is out of range or has no meaning for the kind.
    """
    if kind not in KINDS:
        raise ValueError(f"Expected kind={kind!r} in {KINDS}")
    require_activation(activation)
    _require_counts(kind, inputs, classes, hidden)
    if kind != "cnn" and (image is not None or kernel is not None):
        raise ValueError(f"Expected no image and no kernel for kind={kind!r}")
    if kind == "cnn":
        shape = _image_shape(inputs, image)
        stages = _cnn(
            shape, classes, hidden=hidden or (64,), activation=activation,
            kernel=kernel, filters=filters,
        )  # fmt: skip
    elif kind == "mlp":
        stages = _mlp(inputs, max(1, classes), hidden, activation)
    else:
        stages = _single(kind, inputs, classes)
    loss = SQUARED_ERROR if kind == "linear" or (kind == "mlp" and not classes) else CROSS_ENTROPY
    return Model(kind=kind, stages=stages, loss=loss, dtype=real_type(dtype))


def _single(kind: str, inputs: int, classes: int) -> tuple[Stage, ...]:
    if kind == "softmax":
        return (Dense(inputs=inputs, outputs=classes),)
    return (Dense(inputs=inputs, outputs=1, scalar=True),)


def _mlp(inputs: int, outputs: int, hidden: Sequence[int], activation: str) -> tuple[Stage, ...]:
    widths = (inputs, *hidden)
    layers = [Dense(inputs=a, outputs=b, activation=activation) for a, b in pairwise(widths)]
    return (*layers, Dense(inputs=widths[-1], outputs=outputs))


def _cnn(
    image: tuple[int, int, int],
    classes: int,
    *,
    hidden: Sequence[int],
    activation: str,
    kernel: int | None,
    filters: Sequence[int],
) -> tuple[Stage, ...]:
    height, width, channels = image
    small = kernel is None and min(height, width) < 16
    side, padding = (3, 1) if small else (kernel or 5, 0)
    layers: list[Stage] = []
    for count in filters:
        layer = Convolution(
            height=height, width=width, channels=channels, filters=count, kernel=side,
            padding=padding, activation=activation, channels_last=not layers,
        )  # fmt: skip
        layers.append(layer)
        (height, width), channels = layer.pooled, count
    return (*layers, *_mlp(height * width * channels, classes, hidden, activation))


def _image_shape(inputs: int, image: tuple[int, int, int] | None) -> tuple[int, int, int]:
    shape = image or (isqrt(inputs), isqrt(inputs), 1)
    if len(shape) != 3 or prod(shape) != inputs:
        raise ValueError(
            f"Expected image={shape} (height, width, channels) to have {inputs} pixels"
        )
    return shape


def _require_counts(kind: str, inputs: int, classes: int, hidden: Sequence[int]) -> None:
    if inputs < 1:
        raise ValueError(f"Expected inputs={inputs} >= 1")
    if hidden and kind not in ("mlp", "cnn"):
        raise ValueError(f"Expected hidden={tuple(hidden)} == () for kind={kind!r}")
    if kind == "mlp" and not hidden:
        raise ValueError("Expected hidden=() to name at least one width for kind='mlp'")
    if any(width < 1 for width in hidden):
        raise ValueError(f"Expected hidden={tuple(hidden)} >= 1")
    if kind == "linear" and classes:
        raise ValueError(f"Expected classes={classes} == 0 for kind='linear'")
    if kind == "logistic" and classes not in (0, 2):
        raise ValueError(f"Expected classes={classes} == 2 for kind='logistic'")
    if kind in ("softmax", "cnn") and classes < 2:
        raise ValueError(f"Expected classes={classes} >= 2 for kind={kind!r}")
    if kind == "mlp" and (classes == 1 or classes < 0):
        raise ValueError(f"Expected classes={classes} == 0 or >= 2 for kind='mlp'")
