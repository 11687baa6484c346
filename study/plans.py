"""Algorithms as plans: generators that ask for private sums and learn from their noisy answers.

A plan never sees a record, a site or noise; it cannot weaken privacy, since everything it may ask is declared in
`study/guarantee.py` and enforced at every site. It is deterministic: fed with the same sums it asks the same
questions and ends with the same model, which is how a run resumes from its checkpoint, and how anybody replays a
release.

    plan = start_plan(guarantee)
    ask = next(plan)
    while True: ask = plan.send(received)      # StopIteration.value is the released model
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradients import Model, Optimizer, Parameters, make_optimizer
from privacy.errors import RoundAbandonedError, StudyError
from study.contract import Study
from study.contributions import SCALING_NAMES, loss_of_signal
from study.guarantee import Guarantee, Stage
from study.models import model_of
from study.scaling import moments_to_standard

__all__ = [
    "Ask",
    "Plan",
    "Received",
    "expected_units",
    "learning_rate_of",
    "seed_of",
    "start_plan",
    "training_loss",
]

Floats = npt.NDArray[np.float64]

_SMOOTHING = 10  # rounds over which the noisy loss is averaged before it may stop training


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A plan's next question.

    Attributes:
        function: a stage of the study.
        round: number of this step, from 1; 0 for what comes before training.
        parameters: what the sites need to know.
        candidate: the model that would be released if training ended here.
    """

    function: str
    round: int
    parameters: Parameters
    candidate: Parameters


@dataclass(frozen=True, kw_only=True)
class Received:
    """The answer to a question: a noisy sum over the sites that survived.

    Attributes:
        total: float64, shape (d,).
        sites: how many sites it is over.
    """

    total: Floats
    sites: int


Plan = Generator[Ask, Received | None, Parameters]
"""Receives None where a sum could not be had: its round was abandoned and no spare is left."""


def start_plan(guarantee: Guarantee) -> Plan:
    """The plan of a declaration."""
    return _train(guarantee)


def _train(guarantee: Guarantee) -> Plan:
    """dp-fedsgd: a step along the mean clipped gradient. dp-fedavg: a step along the mean clipped change."""
    study, model = guarantee.study, model_of(guarantee.study)
    scaling = yield from _learn_scaling(guarantee)
    stage = guarantee.stages[-1]
    vector = model.flatten(model.initial(seed_of(guarantee))).astype(np.float64)
    optimizer = _optimizer(guarantee, model)
    state, average = optimizer.start(model.size), _LastHalf(study)
    losses: list[float | None] = []
    for number in range(1, study.training.rounds + 1):
        candidate = model.unflatten(average.or_else(vector)) | _copied(scaling)
        received = yield Ask(
            function=stage.function, round=number, parameters=model.unflatten(vector) | _copied(scaling),
            candidate=candidate,
        )  # fmt: skip
        if received is None:
            raise RoundAbandonedError(
                f"Round {number} of {study.training.rounds} was abandoned and no spare round is left",
                hint="see which sites were missing; with training.spare_rounds or privacy.max_dropouts a study "
                "bears more of this",
            )
        mean = received.total / expected_units(guarantee, stage, received.sites)
        gradient = mean[: model.size] if stage.function == "gradient" else -mean[: model.size]
        if not np.isfinite(gradient).all():
            raise StudyError("Training has left all bounds", hint="lower training.learning_rate")
        vector, state = optimizer.step(vector, gradient, state)
        average.add(number, vector)
        losses.append(training_loss(guarantee, stage.function, received))
        if _may_stop(study, losses):
            break
    return model.unflatten(average.or_else(vector)) | scaling


def _copied(arrays: Parameters) -> Parameters:
    """What is given away may be written to."""
    return {name: value.copy() for name, value in arrays.items()}


def _learn_scaling(guarantee: Guarantee) -> Generator[Ask, Received | None, Parameters]:
    """Means and deviations from one private sum; without an answer, those of features spread over their bounds."""
    if guarantee.study.data.scaled != "standard":
        return {}
    stage = guarantee.stage("moments")
    received = yield Ask(function="moments", round=0, parameters={}, candidate={})
    features = (stage.dimension - 1) // 2
    if received is None:
        mean, deviation = np.full(features, 0.5), np.full(features, math.sqrt(1 / 12))
    else:
        mean, deviation = moments_to_standard(
            float(received.total[0]), received.total[1 : 1 + features], received.total[1 + features :],
            expected_units(guarantee, stage, received.sites),
        )  # fmt: skip
    return dict(zip(SCALING_NAMES, (mean, deviation), strict=True))


def expected_units(guarantee: Guarantee, stage: Stage, survivors: int) -> float:
    """The public denominator of a mean: never a true count.

    The declared number of records, times the rate, times the part of the sites that answered.
    """
    if guarantee.study.training.algorithm == "dp-fedavg":
        return float(survivors)
    records = guarantee.study.data.expected_records * stage.sampling_rate
    return records * survivors / guarantee.tolerance.sites


def training_loss(guarantee: Guarantee, function: str, received: Received) -> float | None:
    """The noisy mean training loss that a sum tells; None if it tells none."""
    if function == "moments" or not guarantee.study.training.signal:
        return None
    units = expected_units(guarantee, guarantee.stage(function), received.sites)
    return loss_of_signal(guarantee.study, float(received.total[-1]) / units)


def seed_of(guarantee: Guarantee) -> bytes:
    """32 bytes from which the first weights follow: the study's hash."""
    return bytes.fromhex(guarantee.declaration.hash)


def _optimizer(guarantee: Guarantee, model: Model) -> Optimizer:
    training = guarantee.study.training
    return make_optimizer(
        kind=training.optimizer, learning_rate=learning_rate_of(guarantee, model.size),
        schedule=training.schedule, rounds=training.rounds,
    )  # fmt: skip


def learning_rate_of(guarantee: Guarantee, size: int) -> float:
    """The learning rate; "auto" is a rule for Adam, fitted once on 17 public tabular data sets.

    With kappa = records * mu / sqrt(size), the signal over the noise of a whole study:
    0.02 sqrt(kappa) sqrt(100 / rounds) within [0.04, 1] for classes, an eighth of it for numbers. mu is that of the
    noise actually in the released sum, when nobody is missing.
    """
    training = guarantee.study.training
    if training.learning_rate != "auto":
        return float(training.learning_rate)
    factor, least, most = (0.02, 0.04, 1.0)
    if guarantee.study.data.task == "regression":
        factor, least, most = (0.0025, 0.008, 0.1)
    mechanism = guarantee.mechanism(guarantee.stages[-1].function)
    if mechanism is None:
        return 2.5 * least  # no noise to weigh the step against
    everybody = 1 if guarantee.study.privacy.trust == "server" else guarantee.tolerance.sites
    steps = training.rounds * training.sampling_rate**2
    mu = math.sqrt(steps) / mechanism.noise_multiplier_of(everybody)
    kappa = guarantee.study.data.expected_records * mu / math.sqrt(size)
    return min(most, max(least, factor * math.sqrt(kappa * 100 / training.rounds)))


class _LastHalf:
    """The mean of the last half of the iterates, where the study asks for it."""

    def __init__(self, study: Study) -> None:
        self._after = (
            study.training.rounds // 2 if study.training.average == "last-half" else math.inf
        )
        self._total: Floats | None = None
        self._count = 0

    def add(self, number: int, vector: Floats) -> None:
        if number > self._after:
            self._total = vector.copy() if self._total is None else self._total + vector
            self._count += 1

    def or_else(self, vector: Floats) -> Floats:
        return vector if self._total is None else self._total / self._count


def _may_stop(study: Study, losses: list[float | None]) -> bool:
    threshold = study.training.stop_below
    recent = [loss for loss in losses[-_SMOOTHING:] if loss is not None]
    return (
        threshold is not None and len(recent) == _SMOOTHING and sum(recent) / _SMOOTHING < threshold
    )
