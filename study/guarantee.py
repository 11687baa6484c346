"""What a declaration guarantees, derived from it alone: constants, stages, mechanisms, epsilon.

Every party computes this for itself from the same bytes; nothing in here is ever taken from a message.

    n sites, c of them colluding, D missing:   m = n - D must answer,   k = m - c shares of noise are sure to be
    there.

With trust `local` (each site adds all of the noise) and `server` (the coordinator adds it) a single share is enough:
k = 1. Delta pays for three things: the accountant's (all but 0.11 %), rounding (0.01 %, beta for each sum and each
site that a unit may be at), and draws that exceed a public capacity or differ from the exact ones (0.1 %).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from gradients import summation_slack, tile_units
from privacy.accounting import ACCOUNTANT, EXACT, QUICK, delta_of, epsilon_of, mu_of
from privacy.calibration import calibrate
from privacy.errors import PrivacyError, StudyError
from privacy.events import SumEvent
from privacy.keystream import repetition_distance
from privacy.private_sum import SumMechanism, design_sum, noise_distance
from privacy.sampling import OVERFLOW, batch_capacity
from privacy.secure_aggregation.thresholds import Thresholds
from study.contract import MASKED, Study
from study.declaration import Declaration
from study.models import feature_names, model_of

__all__ = ["Function", "Guarantee", "Stage", "Tolerance", "declare", "stages_of", "tolerance_of"]

Function = Literal["moments", "gradient", "delta"]

_MECHANISM = "dithered rounding and discrete Gaussian shares of noise on every private sum"

_FOR_ROUNDING = (
    1e-4  # a lifetime keeps a tenth of its delta for this: enough for 1,000 studies of that delta
)
_FOR_UNLIKELY = 0.001
_FARTHEST = 700.0  # e^epsilon is a number
_MOMENTS_SHARE = 0.1  # of mu^2: measured on tabular data, where it costs no accuracy
_EXACT_ROUNDS = 50
_MOST_MASKED_SUMS = 20_000  # a hostile first query for the last one costs a site seconds, no more


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The constants of a roster: sites n, colluding c, missing D, survivors m, shares of noise k."""

    sites: int
    colluding: int
    missing: int
    survivors: int
    shares: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One kind of private sum of a study.

    Attributes:
        function: what each unit contributes (`study/contributions.py`).
        count: how many of these sums the study may ask, spares included.
        sampling_rate: q of the Poisson sample.
        noise_ratio: this stage's noise multiplier over the study's.
        dimension: d.
        clipping_norm: C, largest norm of one unit's vectors over all sites.
        capacity: no site's sample has more units (except with the probability paid for in delta).
        block_units: units in a tile of fixed shape (`gradients.tile_units`); 0 where the function has none.
        slack: eta of the summation.
    """

    function: Function
    count: int
    sampling_rate: float
    noise_ratio: float
    dimension: int
    clipping_norm: float
    capacity: int
    block_units: int
    slack: float


def tolerance_of(study: Study, sites: int) -> Tolerance:
    """The constants for `sites` sites."""
    privacy = study.privacy
    survivors = sites - privacy.max_dropouts
    shares = survivors - privacy.max_colluding if privacy.trust == "aggregate" else 1
    return Tolerance(
        sites=sites,
        colluding=privacy.max_colluding,
        missing=privacy.max_dropouts,
        survivors=survivors,
        shares=shares,
    )


def stages_of(study: Study) -> tuple[Stage, ...]:
    """Every kind of sum that a frozen study may ask, in the order in which its plan asks them."""
    training = study.training
    rounds = training.rounds + training.spare_rounds
    if training.algorithm == "dp-fedavg":
        return (*_moments(study, rounds), _delta_stage(study, rounds))
    return (*_moments(study, rounds), _gradient_stage(study, rounds))


def _gradient_stage(study: Study, rounds: int) -> Stage:
    model, rate = model_of(study), study.training.sampling_rate
    capacity = batch_capacity(study.maximum_records, rate)
    block = tile_units(capacity, np.dtype(model.dtype))
    return Stage(
        function="gradient", count=rounds, sampling_rate=rate, noise_ratio=1.0,
        dimension=model.size + study.training.signal, clipping_norm=study.privacy.clipping_norm, capacity=capacity,
        block_units=block, slack=summation_slack(capacity, block, np.dtype(model.dtype)),
    )  # fmt: skip


def _delta_stage(study: Study, rounds: int) -> Stage:
    return Stage(
        function="delta", count=rounds, sampling_rate=1.0, noise_ratio=1.0,
        dimension=model_of(study).size + study.training.signal, clipping_norm=study.privacy.clipping_norm, capacity=1,
        block_units=tile_units(study.maximum_records, np.dtype(model_of(study).dtype)), slack=0.0,
    )  # fmt: skip


def _moments(study: Study, rounds: int) -> tuple[Stage, ...]:
    """The sum behind standard scaling: 10 % of mu^2 when nothing is sampled, so z_0 = z sqrt(9 / rounds).

    A unit's vector (1, x, x^2) of scaled features has norm at most sqrt(1 + 2 f): nothing is lost to clipping. Where
    the unit is a site, its vector is the mean over its records.
    """
    if study.data.scaled != "standard":
        return ()
    features = len(feature_names(study))
    capacity = 1 if study.training.algorithm == "dp-fedavg" else study.maximum_records
    stage = Stage(
        function="moments", count=1, sampling_rate=1.0,
        noise_ratio=math.sqrt((1 / _MOMENTS_SHARE - 1) / rounds) / study.training.sampling_rate,
        dimension=1 + 2 * features, clipping_norm=math.sqrt(1 + 2 * features), capacity=capacity, block_units=0,
        slack=summation_slack(capacity, 256, np.dtype(np.float64)),
    )  # fmt: skip
    return (stage,)


def declare(study: Study, *, sites: int, nonce: str, roster: str | None = None) -> Declaration:
    """The declaration of a frozen study for `sites` sites: its noise multiplier calibrated, if it gives epsilon.

    Arguments:
        roster: hash of the roster whose sites they are; a study whose sums are masked cannot run without.

    Raises:
        StudyError: no noise gives that guarantee, or not that many sites can.
    """
    try:
        declaration = Declaration(
            study=study, sites=sites, noise_multiplier=_noise(study), nonce=nonce, roster=roster
        )
        Guarantee(declaration).check()
    except PrivacyError as error:
        raise StudyError(error.message, hint=error.hint) from error
    except (ArithmeticError, ValueError) as error:
        raise StudyError("Expected constants for which a guarantee can be computed") from error
    return declaration


def _noise(study: Study) -> float | None:
    if study.privacy.epsilon is None:
        return study.privacy.noise_multiplier
    stages, delta = stages_of(study), _accounted_delta(study)
    return calibrate(lambda z: _events(stages, z), study.privacy.epsilon, delta)


@dataclass(frozen=True)
class Guarantee:
    """The guarantee of one declaration.

    Arguments:
        declaration: taken as it is; `check` says whether its noise buys the epsilon that it promises.
    """

    declaration: Declaration

    @property
    def study(self) -> Study:
        """The declared study."""
        return self.declaration.study

    @functools.cached_property
    def tolerance(self) -> Tolerance:
        """n, c, D, m, k."""
        return tolerance_of(self.study, self.declaration.sites)

    @property
    def masked(self) -> bool:
        """Are sites' sums added up under masks, so that nobody sees one of them alone?"""
        return self.study.privacy.trust in MASKED

    @functools.cached_property
    def thresholds(self) -> Thresholds:
        """The constants of secure aggregation: t = tau = m, so a study is sound if and only if n > c + 2 D.

        Raises:
            PrivacyError: it is not, or there are more sites than can be masked.
        """
        at = self.tolerance
        return Thresholds(
            sites=at.sites, colluding=at.colluding, survivors=at.survivors, threshold=at.survivors, quorum=at.survivors,
            shares=at.shares,
        )  # fmt: skip

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Every kind of sum that may be asked."""
        return stages_of(self.study)

    def stage(self, function: str) -> Stage:
        """The stage of one function. Raises PrivacyError where the study has none."""
        for stage in self.stages:
            if stage.function == function:
                return stage
        raise PrivacyError(f"Expected a function that the study declares, found {function!r}")

    def mechanism(self, function: str) -> SumMechanism | None:
        """The private sum of one stage; None with trust `unsafe`."""
        z = self.declaration.noise_multiplier
        return (
            None if z is None else _mechanism(self.study, self.tolerance, self.stage(function), z)
        )

    def events(self) -> list[SumEvent]:
        """What the accountant is told of the whole study, spares included."""
        z = self.declaration.noise_multiplier
        return [] if z is None else _events(self.stages, z)

    @functools.cached_property
    def epsilon(self) -> float | None:
        """Against everybody who sees what the trust level says is seen; None where there is no bound."""
        return self._epsilon(self.events())

    @property
    def epsilon_against_server(self) -> float | None:
        """What the coordinator can learn of a unit, with c colluding sites; None where there is no bound.

        With trust `aggregate` it sees sums that hold at least k honest shares of noise (`secure_aggregation`), with
        trust `local` each site's own sum with all of its noise: the study's own epsilon, both times.
        """
        return None if self.study.privacy.trust == "server" else self.epsilon

    @functools.cached_property
    def epsilon_of_a_record(self) -> float | None:
        """For one record more or less, also where the unit is the whole site; None where there is no bound.

        With `dp-fedavg` a record does not remove its site's vector, it replaces it by another, up to 2 C away: that has
        half the noise multiplier (`study/charging.py`).
        """
        distance = 2 if self.study.training.algorithm == "dp-fedavg" else 1
        events = self.events()
        return self._proved(
            [replace(e, noise_multiplier=e.noise_multiplier / distance) for e in events]
        )

    def _proved(self, events: Sequence[SumEvent]) -> float | None:
        """Epsilon of these events, or None where the argument does not reach so far."""
        epsilon = self._epsilon(events)
        return epsilon if epsilon is not None and self._reaches(epsilon) else None

    def _reaches(self, epsilon: float) -> bool:
        """Do unlikely events, at (1 + e^epsilon) times their probability, fit into what is reserved for them?"""
        allowed = _FOR_UNLIKELY * self.study.privacy.delta
        return epsilon < _FARTHEST and self._unlikely * (1 + math.exp(epsilon)) <= allowed

    @functools.cached_property
    def epsilon_by_round(self) -> tuple[float | None, ...]:
        """What 1, 2, ... rounds would cost *had so many been declared*; the last of them is `epsilon`.

        With the same noise, spares and sum for scaling. Computed for 50 numbers of rounds at most; any other is given
        the next of them, which is no less. None where there is no bound; empty without privacy.

        Never a guarantee for a study that stops early. When it stops depends on noisy data, and over all the rounds at
        which it might have stopped the chance of a large loss adds up: the true delta at the epsilon of the round
        where a study chose to stop was seen to be 5.6 to 8.9 times the claimed one. What holds then is `epsilon`.
        """
        rounds = self.study.training.rounds
        if not self.events():
            return ()
        exact = np.unique(np.linspace(1, rounds, _EXACT_ROUNDS).round().astype(int))
        costs = [self._epsilon(self._events_of(int(each)), QUICK) for each in exact[:-1]]
        found = np.array([math.inf if each is None else each for each in [*costs, self.epsilon]])
        # The quick accountant may exceed the exact one, or itself, by its own error; more rounds never cost less.
        upper = np.minimum.accumulate(found[::-1])[::-1]
        steps = upper[np.searchsorted(exact, np.arange(1, rounds + 1))]
        return tuple(float(each) if math.isfinite(each) else None for each in steps)

    def _events_of(self, rounds: int) -> list[SumEvent]:
        """What the accountant would be told, had so many rounds been declared."""
        *before, last = self.events()
        fewer = self.study.training.rounds - rounds
        return [*before, replace(last, count=last.count - fewer)]

    @property
    def accounted_delta(self) -> float:
        """What of delta the accountant has, when rounding and rare events have been paid for."""
        return _accounted_delta(self.study)

    def delta_at(self, epsilon: float) -> float | None:
        """The whole privacy profile: delta at another epsilon, everything included; None without privacy.

        What rounding may cost is fixed by the declaration, so this does not fall below 0.01 % of `delta`.
        """
        if self.study.privacy.trust == "unsafe":
            return None
        rare = _FOR_ROUNDING * self.study.privacy.delta + self._unlikely * (1 + math.exp(epsilon))
        return min(1.0, delta_of(self.events(), epsilon) + rare)

    @property
    def unit(self) -> str:
        """What is protected, in words."""
        if self.study.training.algorithm == "dp-fedavg":
            return "site"
        return f"a unit of column {self.study.data.unit}" if self.study.data.unit else "record"

    @property
    def delta(self) -> float | None:
        """The declared delta; None with trust `unsafe`."""
        return None if self.study.privacy.trust == "unsafe" else self.study.privacy.delta

    @property
    def mu(self) -> float | None:
        """Mu of Gaussian differential privacy, where it is exact."""
        return None if self.declaration.noise_multiplier is None else mu_of(self.events())

    def check(self) -> None:
        """Raise PrivacyError unless the declared noise buys the epsilon that the study promises, provably."""
        try:
            self._check()
        except (ArithmeticError, ValueError) as error:
            raise PrivacyError(
                "Expected constants for which a guarantee can be computed"
            ) from error

    def _check(self) -> None:
        promised, found = self.study.privacy.epsilon, self.epsilon
        if self.study.privacy.trust == "unsafe":
            return
        if promised is not None and (found is None or found > promised):
            raise PrivacyError(f"Expected noise for epsilon={promised:g}, found noise for {found}")
        if found is None:
            raise PrivacyError(
                "Expected noise that gives some epsilon, found so little that it gives none",
                hint="raise privacy.noise_multiplier, or give privacy.epsilon in its place",
            )
        for stage in self.stages:
            self.mechanism(stage.function)  # raises where no noise is wide enough
        if self.masked:
            self.thresholds  # noqa: B018  raises where secure aggregation would not hold
            if sum(stage.count for stage in self.stages) > _MOST_MASKED_SUMS:
                raise PrivacyError(
                    f"Expected at most {_MOST_MASKED_SUMS} masked sums, spares included, found more",
                    hint="fewer rounds, or trust = local: keys go on once for every query up to the asked one",
                )
        if not self._reaches(found):
            raise PrivacyError(
                f"Expected an epsilon that can be proved at delta={self.study.privacy.delta:g}, found {found:.4g}",
                hint="an epsilon above 25 to 50, by the size of the study, or a delta below 1e-20, cannot be proved",
            )

    @property
    def _unlikely(self) -> float:
        """How far all sums are from those of the argument."""
        return sum(stage.count * self.unlikely(stage) for stage in self.stages)

    def unlikely(self, stage: Stage) -> float:
        """How far one sum is from that of the argument: sampled tables, draws beyond capacity, AES for coins."""
        distance = self.tolerance.sites * noise_distance(stage.dimension)
        if stage.sampling_rate < 1:
            distance += OVERFLOW + repetition_distance(self.study.maximum_records)
        return distance

    def to_values(self) -> dict[str, Any]:
        """The guarantee as plain values, for `privacy.json`."""
        privacy = self.study.privacy
        return {
            "unit": self.unit,
            "relation": _relation_in_words(self.study),
            "epsilon": self.epsilon, "delta": self.delta, "epsilon_against_server": self.epsilon_against_server,
            "epsilon_of_a_record": self.epsilon_of_a_record,
            "mu": self.mu, "mechanism": _MECHANISM if self.events() else "none",
            "accountant": ACCOUNTANT, "sampling_rate": self.study.training.sampling_rate,
            "clipping": privacy.clipping, "clipping_norm": privacy.clipping_norm,
            "colluding": self.tolerance.colluding, "dropouts": self.tolerance.missing, "shares": self.tolerance.shares,
            "trust": privacy.trust, "masked": self.masked,
            "queries": [self._query_values(stage) for stage in self.stages],
        }  # fmt: skip

    def _query_values(self, stage: Stage) -> dict[str, Any]:
        values: dict[str, Any] = {
            "function": stage.function, "count": stage.count, "sampling_rate": stage.sampling_rate,
            "dimension": stage.dimension, "clipping_norm": stage.clipping_norm,
        }  # fmt: skip
        mechanism = self.mechanism(stage.function)
        if mechanism is not None:
            values |= {
                "noise_multiplier": mechanism.noise_multiplier, "scale": mechanism.scale,
                "share_deviation": mechanism.deviation.sigma, "beta": mechanism.beta, "slack": mechanism.slack,
                "bits": mechanism.bits,
            }  # fmt: skip
        return values

    def _epsilon(self, events: Sequence[SumEvent], precision: float = EXACT) -> float | None:
        if self.study.privacy.trust == "unsafe":
            return None
        epsilon = epsilon_of(events, self.accounted_delta, precision=precision)
        return epsilon if math.isfinite(epsilon) else None


def _accounted_delta(study: Study) -> float:
    return study.privacy.delta * (1 - _FOR_ROUNDING - _FOR_UNLIKELY)


def _events(stages: Sequence[Stage], z: float) -> list[SumEvent]:
    return [
        SumEvent(
            noise_multiplier=z * each.noise_ratio,
            sampling_rate=each.sampling_rate,
            count=each.count,
        )
        for each in stages
    ]


@functools.lru_cache(maxsize=64)
def _mechanism(study: Study, tolerance: Tolerance, stage: Stage, z: float) -> SumMechanism:
    sums = sum(each.count for each in stages_of(study))
    places = 1 if stage.function == "delta" else study.data.sites_per_unit
    return design_sum(
        dimension=stage.dimension, clipping_norm=stage.clipping_norm, sites_per_unit=places,
        noise_multiplier=z * stage.noise_ratio, shares=tolerance.shares, sites=tolerance.sites,
        beta=_FOR_ROUNDING * study.privacy.delta / (sums * places), slack=stage.slack,
        largest_sum=stage.capacity * stage.clipping_norm / places,
    )  # fmt: skip


def _relation_in_words(study: Study) -> str:
    if study.training.algorithm == "dp-fedavg":
        return "replace the records of one site by none"
    places = study.data.sites_per_unit
    return "add or remove one unit at " + ("one site" if places == 1 else f"up to {places} sites")
