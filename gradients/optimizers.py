"""Optimizers as pure functions over flat float64 vectors, and learning-rate schedules."""

from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Final

import numpy as np

from gradients._arrays import Doubles

MOMENTUM: Final = 0.9
BETA_MEAN: Final = 0.9
BETA_SQUARE: Final = 0.999
EPSILON: Final = 1e-8
KINDS: Final = ("sgd", "momentum", "adam")
SCHEDULES: Final = ("constant", "cosine", "step")


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimizerState:
    """What an optimizer carries from one round to the next.

    step: rounds done so far. mean: running mean (adam) or velocity (momentum), (size,) or (0,).
    square: running mean of squares (adam), (size,) or (0,).
    """

    step: int
    mean: Doubles
    square: Doubles

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"Expected step={self.step} >= 0")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """A rule for turning gradients into steps. Made by `make_optimizer`.

    * sgd: x - rate * g.
    * momentum: v = .9 v + g, x - rate * v (the heavy ball of torch, without dampening).
    * adam: Kingma and Ba 2014, arXiv:1412.6980, algorithm 1, with bias correction, betas (.9,
      .999), epsilon 1e-8 added to the root.
    """

    kind: str
    learning_rate: float
    schedule: str
    rounds: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Expected kind={self.kind!r} in {KINDS}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"Expected schedule={self.schedule!r} in {SCHEDULES}")
        if not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"Expected learning_rate={self.learning_rate} > 0 and finite")
        if self.rounds < 1:
            raise ValueError(f"Expected rounds={self.rounds} >= 1")

    def start(self, size: int) -> OptimizerState:
        """Return the state before the first of `rounds` steps, for vectors (size,)."""
        if size < 1:
            raise ValueError(f"Expected size={size} >= 1")
        mean = np.zeros(0 if self.kind == "sgd" else size)
        square = np.zeros(size if self.kind == "adam" else 0)
        return OptimizerState(step=0, mean=mean, square=square)

    def rate(self, step: int) -> float:
        """Learning rate of the step with this number, from 0.

        * cosine: (1 + cos(pi step / rounds)) / 2: from the whole rate towards 0, which would be
          reached one step after the last (Loshchilov and Hutter 2016, arXiv:1608.03983, no
          restart).
        * step: a tenth from half of the rounds on, a hundredth from three quarters on.

        Steps beyond `rounds` keep the rate of the last one.
        """
        reached = min(step, self.rounds - 1)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + cos(pi * reached / self.rounds)) / 2
        if self.schedule == "step":
            drops = (2 * reached >= self.rounds) + (4 * reached >= 3 * self.rounds)
            return self.learning_rate * 0.1**drops
        return self.learning_rate

    def step(
        self, vector: Doubles, gradient: Doubles, state: OptimizerState
    ) -> tuple[Doubles, OptimizerState]:
        """Return the next vector and state; the arguments are left as they are.

        Arguments: vector and gradient (size,), float64, finite.
        Raises ValueError if shapes do not fit or the gradient is not finite (noise of a broken
        round must not reach a model).
        """
        point = np.asarray(vector, dtype=np.float64)
        slope = np.asarray(gradient, dtype=np.float64)
        self._require(point, slope, state)
        rate, number = self.rate(state.step), state.step + 1
        if self.kind == "sgd":
            return point - rate * slope, OptimizerState(
                step=number, mean=state.mean, square=state.square
            )
        if self.kind == "momentum":
            velocity = MOMENTUM * state.mean + slope
            return point - rate * velocity, OptimizerState(
                step=number, mean=velocity, square=state.square
            )
        mean = BETA_MEAN * state.mean + (1 - BETA_MEAN) * slope
        square = BETA_SQUARE * state.square + (1 - BETA_SQUARE) * slope * slope
        root = np.sqrt(square / (1 - BETA_SQUARE**number)) + EPSILON
        moved = point - rate * (mean / (1 - BETA_MEAN**number)) / root
        return moved, OptimizerState(step=number, mean=mean, square=square)

    def _require(self, vector: Doubles, gradient: Doubles, state: OptimizerState) -> None:
        if vector.ndim != 1 or gradient.shape != vector.shape:
            raise ValueError(f"Expected gradient.shape={gradient.shape} == {vector.shape}, flat")
        mean = 0 if self.kind == "sgd" else len(vector)
        square = len(vector) if self.kind == "adam" else 0
        if state.mean.shape != (mean,) or state.square.shape != (square,):
            raise ValueError(
                f"Expected state of shapes {state.mean.shape}, {state.square.shape} "
                f"== {(mean,)}, {(square,)}"
            )
        if not np.isfinite(gradient).all():
            raise ValueError("Expected a finite gradient")


def make_optimizer(
    *, kind: str, learning_rate: float, schedule: str = "constant", rounds: int
) -> Optimizer:
    """Make an optimizer for `rounds` steps.

    Arguments: kind "sgd", "momentum" or "adam"; learning_rate > 0; schedule "constant", "cosine" or
    "step". Raises ValueError if an argument is out of range.
    """
    return Optimizer(kind=kind, learning_rate=learning_rate, schedule=schedule, rounds=rounds)
