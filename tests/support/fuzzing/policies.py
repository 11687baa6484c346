"""Target: a site's policy."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from client.policy import (
    Ceilings,
    Columns,
    Floors,
    Policy,
    PolicyError,
    Studies,
    parse_policy,
    policy_text,
    policy_to_values,
)
from fuzzing import mutations_toml
from fuzzing.engine import Target
from fuzzing.judge_study import (
    Holds,
    listed,
    number,
    one_of,
    plain,
    problems_of_section,
    text,
    truth,
    whole,
)
from fuzzing.mutations_toml import TOML

__all__ = ["TARGETS"]


def some(holds: Holds) -> Holds:
    """A list of at least one."""
    return lambda value: listed(holds)(value) and len(value) > 0


_TRUST, _TASKS = ("local", "aggregate", "server"), ("classification", "regression")
_MODELS, _ALGORITHMS = ("linear", "logistic", "softmax", "mlp", "cnn"), ("dp-fedsgd", "dp-fedavg")
_names, _sites = some(text), whole(1, 10_000)

SETTINGS: Mapping[str, Mapping[str, tuple[Holds, Any]]] = {
    "studies": {
        "trust": (some(one_of(*_TRUST)), ["aggregate", "local"]), "tasks": (some(one_of(*_TASKS)), list(_TASKS)),
        "models": (some(one_of(*_MODELS)), list(_MODELS)),
        "algorithms": (some(one_of(*_ALGORITHMS)), list(_ALGORITHMS)),
        "clamping": (truth, True), "purpose": (truth, True),
    },
    "columns": {
        "features": (_names, None), "labels": (_names, None), "unit": (lambda value: text(value) and value != "", None),
    },
    "floors": {
        "sites": (_sites, 3), "survivors": (_sites, 2), "shares": (_sites, 2), "colluding": (_sites, 1),
        "noise_multiplier": (number(0, 1e6, above=True), None), "sites_per_unit": (_sites, 1), "units": (whole(0), 10),
    },
    "ceilings": {
        "epsilon": (number(0, 1000, above=True), 8.0), "delta": (number(0, 1, above=True, below=True), 1e-5),
        "epsilon_against_server": (number(0, 1000, above=True), 8.0), "rounds": (whole(1), 1000),
        "dimension": (whole(1), 1_000_000),
    },
}  # fmt: skip


def _seeds() -> Sequence[bytes]:
    policies = [
        Policy(),
        Policy(
            studies=Studies(trust=("server",), models=("mlp", "cnn"), clamping=False, purpose=False),
            columns=Columns(features=("age", "blood pressure"), labels=("ill",), unit="patient"),
            floors=Floors(sites=5, survivors=4, noise_multiplier=0.5, units=0),
            ceilings=Ceilings(epsilon=1.5, rounds=60),
        ),
        Policy(columns=Columns(unit="\u00e9 \"x\" \\"), ceilings=Ceilings(delta=1e-300, dimension=2**53)),
    ]  # fmt: skip
    return [policy_text(each).encode() for each in policies]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise PolicyError("Expected text") from error


def _judge(data: bytes, policy: Policy) -> str | None:
    document = tomllib.loads(_text(data))
    if (
        type(document.get("format")) is not int
        or document["format"] != 1
        or set(document) - {"format", *SETTINGS}
    ):
        return "its format or a section is unknown"
    read, found = policy_to_values(policy), []
    for section, settings in SETTINGS.items():
        given = document.get(section, {})
        found += problems_of_section(section, given, settings)
        for name, (_, default) in settings.items():
            if plain(given.get(name, default)) != plain(read[section].get(name)):
                found.append(f"{section}.{name} changed")
    return "; ".join(found) or None


POLICY = Target(
    name="policy", seeds=_seeds, mutations=TOML, garbage=mutations_toml.garbage,
    read=lambda data: parse_policy(_text(data)),
    errors=(PolicyError,), judge=_judge, settle=lambda policy: parse_policy(policy_text(policy)), weight=2,
)  # fmt: skip

TARGETS = (POLICY,)
