"""What one unit contributes to each kind of sum: the only place where clipping is composed.

Every function here maps one unit to one vector, clips it to C / M by its own norm, and adds up. A unit's vector
depends, bit for bit, on that unit and on the query alone: rows are scaled one by one, gradients are taken in tiles
of one fixed shape, and nothing counts, averages or normalises over a site's units (but for `delta`, where the unit
is the whole site).

| function | a unit's vector | unit |
|---|---|---|
| gradient | (gradient of its loss, its loss as a signal) | record, or a column's unit |
| delta | (change of the model by local training, mean loss as a signal) | the site |
| moments | (1, x, x^2) of its scaled features | record, or a column's unit; or the site |

A unit that is not finite anywhere contributes zero. With trust `unsafe` nothing is clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradients import Block, Parameters, make_blocks, unit_gradients
from privacy.clipping import clipping_weights
from privacy.errors import PrivacyError, ProtocolError
from study.codec import Arrays
from study.contract import Study
from study.guarantee import Guarantee, Stage
from study.models import model_of
from study.scaling import standardise

__all__ = ["SCALING_NAMES", "Contributor", "Units", "check_parameters", "loss_of_signal"]

Floats = npt.NDArray[np.float64]

SCALING_NAMES = ("scaling.mean", "scaling.deviation")
"""Arrays of a query that standard scaling has learnt."""

_SIGNAL_SHARE = (
    0.25  # of C: what the loss may take of a unit's norm, 3 % of the gradient's where both are full
)
_MOMENTS_TILE = 256


@dataclass(frozen=True)
class Units:
    """The units of one site that may be trained on, scaled by their public bounds.

    Arguments:
        features: float64, shape (rows, features).
        labels: int64 classes or float64, shape (rows,).
        groups: which unit a row belongs to, int64 in 0 .. count - 1, shape (rows,).
        count: number of units.
    """

    features: Floats
    labels: npt.NDArray[np.int64] | Floats
    groups: npt.NDArray[np.int64]
    count: int

    def only(self, chosen: npt.NDArray[np.bool_]) -> Units:
        """The chosen units, renumbered in order."""
        rows = chosen[self.groups]
        numbers = np.cumsum(chosen) - 1
        return Units(
            self.features[rows], self.labels[rows], numbers[self.groups[rows]], int(chosen.sum())
        )


class Contributor:
    """Clipped sums over the units of one site, for one study.

    Prepared blocks are kept between rounds while neither the sample nor the scaling changes.
    """

    def __init__(self, guarantee: Guarantee, units: Units) -> None:
        self._guarantee = guarantee
        self._study = guarantee.study
        self._units = units
        self._model = model_of(guarantee.study)
        self._kept: tuple[object, list[Block]] | None = None

    @property
    def unit_count(self) -> int:
        """Units of this site that sampling draws from; a site that is itself the unit is one."""
        return 1 if self._study.training.algorithm == "dp-fedavg" else self._units.count

    def clipped_sum(
        self, function: str, parameters: Arrays, chosen: npt.NDArray[np.bool_]
    ) -> Floats:
        """Sum of the chosen units' clipped vectors, float64, shape (d,).

        Arguments:
            parameters: of the query: the model's by name, and `SCALING_NAMES` where the study scales so.
            chosen: which units take part, shape (unit_count,).
        Raises:
            ProtocolError: as `check_parameters`.
        """
        stage = self._guarantee.stage(function)
        check_parameters(self._study, function, parameters)
        if stage.function == "moments":
            return self._moments(stage, chosen)
        sent = {name: parameters[name] for name in self._model.shapes}
        # As one vector that starts on a line of the cache: small products are faster so.
        model = self._model.unflatten(self._model.flatten(sent))
        if stage.function == "delta":
            return self._delta(stage, model, parameters)
        return self._gradient(stage, model, parameters, chosen)

    def _gradient(
        self, stage: Stage, model: Parameters, sent: Arrays, chosen: npt.NDArray[np.bool_]
    ) -> Floats:
        total = np.zeros(stage.dimension)
        for block in self._blocks(stage, sent, chosen):
            gradients = unit_gradients(self._model, model, block)
            signal = self._signal(gradients.losses)
            weights = self._weights(np.hypot(gradients.norms, signal), stage)
            gradients.weighted_sum(weights, add_to=total[: self._model.size])
            if self._study.training.signal:
                total[-1] += weights @ signal
        return total

    def _delta(self, stage: Stage, start: Parameters, sent: Arrays) -> Floats:
        """The site trains on all of its records; how it does so needs no care, as one vector is clipped at the end."""
        blocks = self._blocks(stage, sent, np.ones(self._units.count, dtype=np.bool_))
        # What overflows ends as a vector that is not finite, and contributes zero.
        with np.errstate(all="ignore"):
            change, loss = self._trained(start, blocks)
        signal = self._signal(np.array([loss])) if self._study.training.signal else np.zeros(0)
        return self._one_vector(stage, np.concatenate([change, signal]))

    def _trained(self, start: Parameters, blocks: list[Block]) -> tuple[Floats, float]:
        """How local gradient descent changes the model, shape (size,), and the mean loss that it started from."""
        training = self._study.training
        share = 1 / max(1, self._units.count)
        first = point = self._model.flatten(start).astype(np.float64)
        loss = 0.0
        for step in range(training.local_steps or 0):
            gradient = np.zeros_like(point)
            for block in blocks:
                gradients = unit_gradients(self._model, self._model.unflatten(point), block)
                gradient += gradients.weighted_sum(np.full(block.units, share))
                loss += float(gradients.losses.sum()) * share if step == 0 else 0.0
            point = point - (training.local_learning_rate or 0.0) * gradient
        return point - first, loss

    def _moments(self, stage: Stage, chosen: npt.NDArray[np.bool_]) -> Floats:
        means = self._unit_means()
        if self._study.training.algorithm == "dp-fedavg":
            mean = means.mean(axis=0) if len(means) else np.zeros(stage.dimension)
            return self._one_vector(stage, mean)
        total = np.zeros(stage.dimension)
        for start in range(0, len(means), _MOMENTS_TILE):
            tile = np.zeros((_MOMENTS_TILE, stage.dimension))
            part = means[start : start + _MOMENTS_TILE]
            tile[: len(part)] = np.where(chosen[start : start + _MOMENTS_TILE, None], part, 0.0)
            norms = np.sqrt(np.square(tile).sum(axis=1))
            weights = self._weights(norms, stage)
            total += np.where(np.isfinite(tile), tile, 0.0).T @ weights
        return total

    def _unit_means(self) -> Floats:
        """(1, x, x^2) of every unit, the mean over the rows that count; shape (units, 1 + 2 features)."""
        features, groups = self._units.features, self._units.groups
        rows = np.concatenate([np.ones((len(features), 1)), features, np.square(features)], axis=1)
        position = _position_in_group(groups, self._units.count)
        used = position < self._study.data.records_per_unit
        sums = np.zeros((self._units.count, rows.shape[1]))
        np.add.at(sums, groups[used], rows[used])
        return sums / np.bincount(groups[used], minlength=self._units.count)[:, None]

    def _one_vector(self, stage: Stage, vector: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            norm = np.sqrt(np.square(vector).sum(keepdims=True))
        weight = float(self._weights(norm, stage)[0])
        return vector * weight if weight else np.zeros_like(vector)

    def _weights(self, norms: Floats, stage: Stage) -> Floats:
        if self._study.privacy.trust == "unsafe":
            return np.isfinite(norms).astype(np.float64)
        mechanism = self._guarantee.mechanism(stage.function)
        if mechanism is None:
            raise PrivacyError("Expected a mechanism for a study with privacy")
        method = self._study.privacy.clipping if stage.function == "gradient" else "flat"
        return clipping_weights(norms, mechanism.norm_at_site, method)

    def _signal(self, losses: Floats) -> Floats:
        """The loss of each unit as a coordinate of its vector, shape (U,), in 0 .. a quarter of C / M."""
        if not self._study.training.signal:
            return np.zeros_like(losses)
        if self._study.privacy.trust == "unsafe":
            return losses
        largest, height = _signal_range(self._study)
        return np.minimum(np.maximum(losses, 0.0), largest) * (height / largest)

    def _blocks(self, stage: Stage, sent: Arrays, chosen: npt.NDArray[np.bool_]) -> list[Block]:
        key = tuple(np.asarray(sent[name]).tobytes() for name in SCALING_NAMES if name in sent)
        if stage.sampling_rate == 1 and chosen.all():
            if self._kept is None or self._kept[0] != key:
                self._kept = (key, self._made_blocks(stage, sent, self._units, 0))
            return self._kept[1]
        # A sample is padded to the public capacity: how long the work takes does not tell how many were drawn.
        # So this asks for the declared rate first: at rate 1 nothing is drawn (some are left out by audits alone).
        capacity = stage.capacity if stage.sampling_rate < 1 else 0
        return self._made_blocks(stage, sent, self._units.only(chosen), capacity)

    def _made_blocks(self, stage: Stage, sent: Arrays, units: Units, minimum: int) -> list[Block]:
        features, rows = units.features, self._study.data.records_per_unit
        if SCALING_NAMES[0] in sent:
            mean, deviation = (sent[name] for name in SCALING_NAMES)
            features = standardise(features, mean, deviation)
        return make_blocks(
            features, units.labels, units=units.groups, tile_units=stage.block_units, rows_per_unit=rows,
            block_units=self._model.block_units(stage.block_units, rows), dtype=np.dtype(self._model.dtype),
            minimum_units=minimum,
        )  # fmt: skip


def check_parameters(study: Study, function: str, sent: Arrays) -> None:
    """Raise ProtocolError unless a query brings what its function needs: names, shapes and types, public all."""
    expected: dict[str, tuple[tuple[int, ...], type]] = {}
    if function != "moments":
        model = model_of(study)
        expected = {name: (shape, model.dtype) for name, shape in model.shapes.items()}
        if study.data.scaled == "standard":
            expected |= dict.fromkeys(SCALING_NAMES, ((model.inputs,), np.float64))
    if set(sent) != set(expected):
        raise ProtocolError(f"Expected parameters {', '.join(expected) or 'none'}")
    for name, (shape, dtype) in expected.items():
        if sent[name].shape != shape or sent[name].dtype != np.dtype(dtype):
            raise ProtocolError(f"Expected {name} of shape {shape} and type {np.dtype(dtype).name}")


def loss_of_signal(study: Study, mean_signal: float) -> float:
    """The mean training loss that a mean signal stands for (`Contributor._signal` read backwards)."""
    if study.privacy.trust == "unsafe":
        return mean_signal
    largest, height = _signal_range(study)
    return mean_signal * largest / height


def _signal_range(study: Study) -> tuple[float, float]:
    """(the largest loss that is told apart, the signal that stands for it).

    A guess at random has a loss of ln(classes); squared errors of labels in [-1, 1] are at most 4 for guesses in it.
    """
    largest = 2 * math.log(study.outputs) if study.data.task == "classification" else 4.0
    return largest, _SIGNAL_SHARE * study.privacy.clipping_norm / study.data.sites_per_unit


def _position_in_group(groups: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """0 for the first row of its unit, 1 for the second, ..., in the order of the rows; shape (rows,)."""
    order = np.argsort(groups, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(groups, minlength=count))])
    position = np.empty(len(groups), dtype=np.int64)
    position[order] = np.arange(len(groups)) - starts[groups[order]]
    return position
