"""A forecast says what the study itself will: its noise, its costs, and what another study would cost."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from privacy.keystream import Keystream, derive_key
from privacy.private_sum import noise
from privacy.renyi import renyi_epsilon
from study.forecast import forecast, least_guarantee, noise_per_coordinate
from study.freezing import toml_value
from study.guarantee import Guarantee, declare

ROOT = b"tests of what is forecast, theirs"[:32]
BUDGET = {"noise_multiplier": None, "epsilon": 2.0}
AVERAGING = {
    "algorithm": "dp-fedavg", "local_steps": 3, "local_learning_rate": 0.5, "learning_rate": 1.0, "optimizer": "sgd",
}  # fmt: skip
STUDIES = {
    "budget": {"privacy": BUDGET},
    "noise": {},
    "sampled": {"privacy": BUDGET, "training": {"rounds": 20, "sampling_rate": 0.2}},
    "aggregate": {"privacy": BUDGET | {"trust": "aggregate"}, "sites": {"minimum": 4}},
    "server": {"privacy": {"trust": "server"}},
    "averaging": {"training": AVERAGING},
    "patients": {"data": {"unit": "person", "sites_per_unit": 2}},
    "one round": {"training": {"rounds": 1}},
}


@pytest.mark.parametrize("name", STUDIES)
def test_figures_are_those_of_the_guarantee(make_study, name):
    study = make_study(**STUDIES[name])
    guarantee = least_guarantee(study)
    values = forecast(guarantee)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["epsilon"] == guarantee.epsilon == values["accountants"]["PLD"]
    assert values["noise_multiplier"] == guarantee.declaration.noise_multiplier
    assert (values["mu"], values["delta"]) == (guarantee.mu, study.privacy.delta)
    assert values["epsilon_against_server"] == guarantee.epsilon_against_server
    assert len(values["epsilon_by_round"]) == study.training.rounds == values["rounds"]
    assert values["epsilon_by_round"][-1] == guarantee.epsilon
    assert values["accountants"]["RDP"] > guarantee.epsilon
    for point in values["profile"]:
        assert point["delta"] == guarantee.delta_at(point["epsilon"])
    assert any(point["epsilon"] == guarantee.epsilon for point in values["profile"])


def test_without_privacy_nothing_is_forecast(make_study):
    study = make_study(privacy={"trust": "unsafe", "noise_multiplier": None})
    values = forecast(least_guarantee(study))
    nothing = (
        "noise_multiplier", "epsilon", "delta", "mu", "epsilon_against_server", "noise_per_coordinate",
    )  # fmt: skip
    assert [values[name] for name in nothing] == [None] * len(nothing)
    empty = ("accountants", "accountants_missing", "epsilon_by_round", "profile", "what_if")
    assert not any(values[name] for name in empty)


# Accountants


def test_three_accountants_speak_of_the_same_delta(make_study):
    pytest.importorskip("opacus", reason="the torch extra is not installed")
    guarantee = least_guarantee(make_study(privacy=BUDGET))
    values = forecast(guarantee)
    assert values["accountants_missing"] == {}
    found = values["accountants"]
    assert set(found) == {"PLD", "RDP", "PRV"}
    assert found["PLD"] < found["PRV"] < found["PLD"] + 0.025
    assert found["RDP"] == renyi_epsilon(guarantee.events(), 1e-5 * (1 - 0.0011))


def test_who_gives_no_figure_is_named_with_the_reason(make_study, monkeypatch):
    """Numbers alone stand where a script looks for numbers."""
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    values = forecast(least_guarantee(make_study()))
    assert set(values["accountants"]) == {"PLD", "RDP"}
    assert all(isinstance(each, float) for each in values["accountants"].values())
    assert list(values["accountants_missing"]) == ["PRV"]
    assert "not installed" in values["accountants_missing"]["PRV"]
    assert "discreet[torch]" in values["accountants_missing"]["PRV"]


# Noise


@pytest.mark.parametrize("trust", ["local", "aggregate", "server"])
@pytest.mark.parametrize("training", [{}, {"sampling_rate": 0.25}, AVERAGING])
def test_noise_per_coordinate_is_that_of_the_shares_that_are_added(declared, trust, training):
    """20,000 sums of the shares themselves, divided as the plan divides them.

    The estimate of a deviation from N values has a relative deviation of 1 / sqrt(2 N) = 0.5 %; 4.9 of them, 2.5 %,
    are exceeded with probability 1e-6. Two thirds or three halves of the deviation would be far outside.
    """
    guarantee = Guarantee(
        declared(privacy={"trust": trust, "clipping_norm": 2.0}, training=training)
    )
    mechanism = guarantee.mechanism(guarantee.stages[-1].function)
    shares = 1 if trust == "server" else 3
    draws, dimension = 20_000, mechanism.dimension
    wide = replace(mechanism, dimension=draws)
    total = sum(noise(wide, Keystream(derive_key(ROOT, trust, index))) for index in range(shares))
    units = 3 if training is AVERAGING else 40 * training.get("sampling_rate", 1.0)
    seen = float(np.std(total)) / mechanism.scale / units / 2.0
    found = noise_per_coordinate(guarantee)
    assert found == pytest.approx(seen, rel=0.025)
    for factor in (2 / 3, 3 / 2):
        assert factor * found != pytest.approx(seen, rel=0.025)
    assert forecast(guarantee)["dimension"] == dimension


# What if


@pytest.mark.parametrize("name", STUDIES)
def test_every_change_costs_what_the_changed_study_does(make_study, name):
    study = make_study(**STUDIES[name])
    outcomes = forecast(least_guarantee(study))["what_if"]
    assert len({each["change"] for each in outcomes}) == len(outcomes)
    for outcome in outcomes:
        setting, _, value = outcome["change"].partition(" = ")
        section, _, key = setting.partition(".")
        number = type(getattr(getattr(study, section), key) or 1.0)(float(value))
        assert toml_value(number) == value
        if outcome["problem"] is not None:
            assert outcome["epsilon"] is None
            continue
        change = {key: number} | ({"noise_multiplier": None} if key == "epsilon" else {})
        other = replace(study, **{section: replace(getattr(study, section), **change)})
        guarantee = Guarantee(declare(other, sites=other.sites.minimum, nonce="a" * 32))
        figures = (
            guarantee.epsilon, guarantee.declaration.noise_multiplier, noise_per_coordinate(guarantee),
        )  # fmt: skip
        names = ("epsilon", "noise_multiplier", "noise_per_coordinate")
        assert tuple(outcome[each] for each in names) == figures


def changes(study):
    outcomes = forecast(least_guarantee(study))["what_if"]
    return {each["change"]: each for each in outcomes}


def test_changes_go_the_way_that_one_expects(make_study):
    """More budget, fewer rounds: less noise. Every site adds all of the noise: more sites, more of it."""
    study = make_study(privacy=BUDGET, training={"rounds": 10})
    here, found = noise_per_coordinate(least_guarantee(study)), changes(study)
    noises = {
        name: each["noise_per_coordinate"] for name, each in found.items() if not each["problem"]
    }
    assert noises["privacy.epsilon = 4.0"] < here < noises["privacy.epsilon = 1.0"]
    assert noises["training.rounds = 5"] < here < noises["training.rounds = 20"]
    assert noises["sites.minimum = 6"] == pytest.approx(math.sqrt(2) * here, rel=1e-3)
    assert here < noises["training.sampling_rate = 0.1"] < noises["training.sampling_rate = 0.01"]


def test_what_a_study_does_not_admit_is_not_proposed(make_study):
    for settings in (STUDIES["averaging"], STUDIES["patients"]):
        assert not any("sampling_rate" in each for each in changes(make_study(**settings)))
    one = changes(make_study(training={"rounds": 1, "sampling_rate": 0.1}))
    assert "training.rounds = 0" not in one
    assert "training.sampling_rate = 0.1" not in one


def test_a_change_that_cannot_be_is_explained(make_study):
    """Half of four sites are no more than the colluding and the missing."""
    found = changes(
        make_study(
            **STUDIES["aggregate"] | {"privacy": BUDGET | {"trust": "aggregate", "max_dropouts": 1}}
        )
    )
    assert "sites.minimum: expected at least 4" in found["sites.minimum = 2"]["problem"]
    assert found["sites.minimum = 8"]["problem"] is None
    large = changes(make_study(sites={"minimum": 100}))
    assert "sites.minimum: expected" in large["sites.minimum = 200"]["problem"]


def test_another_number_of_sites_can_be_forecast(make_study):
    study = make_study()
    assert least_guarantee(study).tolerance.sites == 3
    assert least_guarantee(study, 7).tolerance.sites == 7
