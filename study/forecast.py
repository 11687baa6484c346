"""What a study will cost and what noise it will live with, before anything is run and before any record is used.

Everything here follows from the contract alone, so a forecast spends no budget.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

from privacy.errors import DiscreetError, PrivacyError
from privacy.renyi import renyi_epsilon
from privacy.second_opinion import second_opinion
from study.charging import least_budget
from study.contract import Study
from study.guarantee import Guarantee, declare
from study.plans import expected_units
from study.settings_file import toml_value

__all__ = ["forecast", "least_guarantee", "noise_per_coordinate"]

_NONCE = "0" * 32  # no figure depends on it
_PROFILE = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the study's epsilon
_RATES = (0.1, 0.01)


def least_guarantee(study: Study, sites: int | None = None) -> Guarantee:
    """What a frozen study guarantees with so many sites, or with the least number that it admits.

    Raises:
        StudyError: no noise gives that guarantee, or not that many sites can.
    """
    return Guarantee(declare(study, sites=sites or study.sites.minimum, nonce=_NONCE))


def forecast(guarantee: Guarantee) -> dict[str, Any]:
    """All figures as plain values; null where there is none, empty where there is no privacy.

    `accountants` holds numbers alone, all at the same delta; who gives none stands in `accountants_missing` with the
    reason. PLD is the one that counts, RDP lies above it, PRV is the upper bound of Opacus. `epsilon_by_round[n - 1]`
    is what n rounds would cost, had they been declared. `lifetime_epsilon` and `lifetime_delta` are the least lifetime
    budget of a site that the study fits in (`privacy/filters.py`).
    """
    study, epsilons = guarantee.study, _by_accountant(guarantee)
    budget = least_budget(guarantee)
    return {
        "study": study.name, "trust": study.privacy.trust, "sites": guarantee.tolerance.sites,
        "rounds": study.training.rounds, "sampling_rate": study.training.sampling_rate,
        "noise_multiplier": guarantee.declaration.noise_multiplier,
        "epsilon": guarantee.epsilon, "delta": guarantee.delta, "mu": guarantee.mu,
        "epsilon_against_server": guarantee.epsilon_against_server,
        "epsilon_of_a_record": guarantee.epsilon_of_a_record,
        "lifetime_epsilon": budget and budget.epsilon, "lifetime_delta": budget and budget.delta,
        "noise_per_coordinate": noise_per_coordinate(guarantee), "dimension": guarantee.stages[-1].dimension,
        "accountants": {name: each for name, each in epsilons.items() if isinstance(each, float)},
        "accountants_missing": {name: each for name, each in epsilons.items() if isinstance(each, str)},
        "epsilon_by_round": list(guarantee.epsilon_by_round),
        "profile": _profile(guarantee),
        "what_if": [_outcome(guarantee, change) for change in _changes(guarantee)],
    }  # fmt: skip


def noise_per_coordinate(guarantee: Guarantee) -> float | None:
    """Deviation of the noise on each coordinate of the mean vector of a round, over C; None without noise.

    C is the largest norm that a mean of clipped vectors can have: at 1, noise is as large on every coordinate as the
    whole signal can be at most. With everybody answering; an average over rounds has less.
    """
    stage, sites = guarantee.stages[-1], guarantee.tolerance.sites
    mechanism = guarantee.mechanism(stage.function)
    if mechanism is None:
        return None
    shares = 1 if guarantee.study.privacy.trust == "server" else sites
    noise = math.sqrt(shares * mechanism.deviation.variance) / mechanism.scale
    return noise / expected_units(guarantee, stage, sites) / mechanism.clipping_norm


def _by_accountant(guarantee: Guarantee) -> dict[str, float | str]:
    """Epsilon by every accountant, or why it gives none."""
    events, delta = guarantee.events(), guarantee.accounted_delta
    if not events:
        return {}
    found = {
        "PLD": guarantee.epsilon,
        "RDP": renyi_epsilon(events, delta),
        "PRV": _second_opinion(guarantee),
    }
    return {
        name: "it finds no bound" if each is None or each == math.inf else each
        for name, each in found.items()
    }


def _second_opinion(guarantee: Guarantee) -> float | str:
    try:
        return second_opinion(guarantee.events(), guarantee.accounted_delta).upper
    except PrivacyError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message


def _profile(guarantee: Guarantee) -> list[dict[str, float | None]]:
    """Delta at other epsilons than the study's."""
    if guarantee.epsilon is None:
        return []
    epsilons = [part * guarantee.epsilon for part in _PROFILE]
    return [{"epsilon": each, "delta": guarantee.delta_at(each)} for each in epsilons]


class _Change(NamedTuple):
    """One setting with another value."""

    section: str
    name: str
    value: float


def _changes(guarantee: Guarantee) -> list[_Change]:
    """Half and double of what a study asks for, and sampled rounds where it admits them."""
    study, sites, epsilon = guarantee.study, guarantee.tolerance.sites, guarantee.epsilon
    if epsilon is None:
        return []
    training, asked = study.training, study.privacy.epsilon or float(f"{epsilon:.3g}")
    found = [_Change("privacy", "epsilon", each) for each in (asked / 2, asked * 2)]
    found += [
        _Change("training", "rounds", each) for each in (training.rounds // 2, training.rounds * 2)
    ]
    if training.algorithm != "dp-fedavg" and study.data.sites_per_unit == 1:
        rates = [each for each in _RATES if each != training.sampling_rate]
        found += [_Change("training", "sampling_rate", each) for each in rates]
    found += [_Change("sites", "minimum", each) for each in (sites // 2, sites * 2)]
    return [each for each in found if each.value > 0]


def _outcome(guarantee: Guarantee, change: _Change) -> dict[str, Any]:
    """What a change would cost, or why it cannot be."""
    other: Guarantee | None = None
    problem: str | None = None
    try:
        other = _with(guarantee, change)
    except DiscreetError as error:
        problem = error.message
    return {
        "change": f"{change.section}.{change.name} = {toml_value(change.value)}",
        "epsilon": other and other.epsilon,
        "noise_multiplier": other and other.declaration.noise_multiplier,
        "noise_per_coordinate": other and noise_per_coordinate(other),
        "problem": problem,
    }


def _with(guarantee: Guarantee, change: _Change) -> Guarantee:
    """The guarantee of the changed study. Raises DiscreetError where it is impossible."""
    study, sites = guarantee.study, guarantee.tolerance.sites
    settings: dict[str, Any] = {change.name: change.value}
    if change.section == "privacy":
        settings["noise_multiplier"] = None  # a study gives epsilon or noise, not both
    section = replace(getattr(study, change.section), **settings)
    changed = replace(study, **{change.section: section})
    return least_guarantee(changed, changed.sites.minimum if change.section == "sites" else sites)
