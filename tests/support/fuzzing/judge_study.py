"""What a valid study is, as a table: written from the documentation of the settings, sharing no code with the reader.

It judges plain values, as TOML or JSON give them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

Holds = Callable[[Any], bool]

REQUIRED = object()


def text(value: Any) -> bool:
    return type(value) is str


def truth(value: Any) -> bool:
    return type(value) is bool


def one_of(*words: str) -> Holds:
    return lambda value: type(value) is str and value in words


def whole(low: float = -(2**53), high: float = 2**53) -> Holds:
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float, *, above: bool = False, below: bool = False) -> Holds:
    """From `low` to `high`; `above` and `below`: without these ends."""

    def holds(value: Any) -> bool:
        if type(value) not in (int, float) or (type(value) is int and abs(value) > 2**53):
            return False
        return (
            math.isfinite(value)
            and (low < value if above else low <= value)
            and (value < high if below else value <= high)
        )

    return holds


def pair(value: Any) -> bool:
    """Public bounds: two finite numbers, the lower first."""
    each = number(-1e300, 1e300, above=True, below=True)
    return (
        type(value) in (list, tuple)
        and len(value) == 2
        and each(value[0])
        and each(value[1])
        and value[0] < value[1]
    )


def listed(holds: Holds) -> Holds:
    return lambda value: type(value) in (list, tuple) and all(map(holds, value))


def names_or_all(value: Any) -> bool:
    """Names, each once, at least one."""
    return value == "all" or (listed(text)(value) and 0 < len(value) == len(set(value)))


BIG = 1.7976931348623157e308
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?")

# (what holds, the default); REQUIRED: there is none; None: absent.
SETTINGS: Mapping[str, Mapping[str, tuple[Holds, Any]]] = {
    "study": {
        "name": (lambda v: text(v) and _NAME.fullmatch(v) is not None, REQUIRED),
        "purpose": (text, ""), "version": (whole(1), 1),
    },
    "data": {
        "task": (one_of("classification", "regression"), REQUIRED), "label": (text, REQUIRED),
        "expected_records": (whole(1, 10**9), REQUIRED), "source": (text, None),
        "classes": (listed(text), []), "label_bounds": (pair, None), "features": (names_or_all, "all"),
        "test_fraction": (number(0, 1, below=True), 0.25), "split_key": (text, "1"), "unit": (text, None),
        "records_per_unit": (whole(1, 10_000), 1), "sites_per_unit": (whole(1), 1),
        "scaling": (one_of("bounds", "standard", "none"), None), "beyond_bounds": (one_of("refuse", "clamp"), "refuse"),
        "bounds": (lambda v: isinstance(v, Mapping) and all(map(text, v)) and all(map(pair, v.values())), {}),
    },
    "model": {
        "kind": (one_of("linear", "logistic", "softmax", "mlp", "cnn"), REQUIRED),
        "hidden": (listed(whole(1, 65_536)), []), "activation": (one_of("relu", "tanh"), "relu"),
        "precision": (one_of("float32", "float64"), None),
    },
    "training": {
        "rounds": (whole(1, 10**6), REQUIRED), "algorithm": (one_of("dp-fedsgd", "dp-fedavg"), "dp-fedsgd"),
        "spare_rounds": (whole(0, 10**6), 0), "sampling_rate": (number(0, 1, above=True), 1.0),
        "optimizer": (one_of("sgd", "momentum", "adam"), "adam"),
        "learning_rate": (lambda v: v == "auto" or number(0, BIG, above=True)(v), "auto"),
        "schedule": (one_of("constant", "cosine", "step"), "constant"),
        "average": (one_of("last-half", "none"), "last-half"),
        "signal": (truth, True), "stop_below": (number(0, BIG, above=True), None),
        "local_steps": (whole(1, 10_000), None), "local_learning_rate": (number(0, BIG, above=True), None),
    },
    "privacy": {
        "trust": (one_of("aggregate", "server", "local", "unsafe"), "aggregate"),
        "epsilon": (number(0, 1000, above=True), None), "noise_multiplier": (number(0, 1e6, above=True), None),
        "delta": (number(0, 1, above=True, below=True), 1e-5), "clipping": (one_of("flat", "automatic"), "flat"),
        "clipping_norm": (number(1e-6, 1e9), 1.0), "max_colluding": (whole(1), 1), "max_dropouts": (whole(0), 0),
    },
    "sites": {"minimum": (whole(1, 128), 2), "maximum_records": (whole(1, 2**20), None)},
}  # fmt: skip


def problems_of_study(document: Any) -> list[str]:
    """Everything that makes plain values no study; nothing for a study."""
    if (
        not isinstance(document, Mapping)
        or type(document.get("format")) is not int
        or document["format"] != 1
    ):
        return ["the format is not 1"]
    found = [
        f"{name} is no section" for name in document if name != "format" and name not in SETTINGS
    ]
    filled: dict[str, Any] = {}
    for section, settings in SETTINGS.items():
        given = document.get(section, {})
        if not isinstance(given, Mapping):
            return [f"{section} is no section"]
        found += problems_of_section(section, given, settings)
        filled |= {
            f"{section}.{name}": given.get(name, default) for name, (_, default) in settings.items()
        }
    return found or [said for said, wrong in _TOGETHER.items() if wrong(_Values(filled))]


def problems_of_section(
    section: str, given: Mapping[str, Any], settings: Mapping[str, tuple[Holds, Any]]
) -> list[str]:
    """Unknown, missing and impossible settings of one section."""
    found = [f"{section}.{name} is unknown" for name in given if name not in settings]
    for name, (holds, default) in settings.items():
        if name not in given:
            found += [f"{section}.{name} is missing"] * (default is REQUIRED)
        elif not holds(given[name]):
            found.append(f"{section}.{name} cannot be {given[name]!r:.60}")
    return found


class _Values:
    """Settings by their names in the file, defaults filled in."""

    def __init__(self, filled: Mapping[str, Any]) -> None:
        self._filled = filled

    def __getitem__(self, name: str) -> Any:
        return self._filled[name]

    @property
    def private(self) -> bool:
        return self["privacy.trust"] != "unsafe"

    @property
    def averages(self) -> bool:
        return self["training.algorithm"] == "dp-fedavg"

    @property
    def columns(self) -> list[str]:
        return [] if self["data.features"] == "all" else list(self["data.features"])

    @property
    def scaled(self) -> str:
        return self["data.scaling"] or ("bounds" if self["data.bounds"] else "none")


_KINDS = {"classification": ("logistic", "softmax", "mlp", "cnn"), "regression": ("linear", "mlp")}

_TOGETHER: Mapping[str, Callable[[_Values], bool]] = {
    "a classification has two classes or more": lambda v: v["data.task"] == "classification"
        and len(v["data.classes"]) < 2,
    "every class is named once": lambda v: len(set(v["data.classes"])) < len(v["data.classes"]),
    "a regression has no classes": lambda v: v["data.task"] == "regression" and bool(v["data.classes"]),
    "a classification has no bounds of its label": lambda v: v["data.task"] != "regression"
        and v["data.label_bounds"] is not None,
    "the label is no feature": lambda v: v["data.label"] in v.columns,
    "the unit is no feature": lambda v: v["data.unit"] in v.columns,
    "the unit is not the label": lambda v: v["data.unit"] == v["data.label"],
    "a record is at one site": lambda v: v["data.unit"] is None and v["data.sites_per_unit"] > 1,
    "a record is one record": lambda v: v["data.unit"] is None and v["data.records_per_unit"] > 1,
    "an mlp has hidden layers, nothing else has": lambda v: (v["model.kind"] == "mlp") != bool(v["model.hidden"]),
    "the model is of the task": lambda v: v["model.kind"] not in _KINDS[v["data.task"]],
    "logistic has two classes": lambda v: v["model.kind"] == "logistic" and len(v["data.classes"]) != 2,
    "local steps are for dp-fedavg": lambda v: v.averages != (v["training.local_steps"] is not None),
    "a local learning rate is for dp-fedavg": lambda v: v.averages != (v["training.local_learning_rate"] is not None),
    "dp-fedavg does not sample": lambda v: v.averages and v["training.sampling_rate"] != 1,
    "dp-fedavg has a learning rate": lambda v: v.averages and v["training.learning_rate"] == "auto",
    "the automatic learning rate is adam's": lambda v: v["training.learning_rate"] == "auto"
        and v["training.optimizer"] != "adam",
    "who stops needs a signal": lambda v: v["training.stop_below"] is not None and not v["training.signal"],
    "unsafe has no budget": lambda v: not v.private and _budgets(v) > 0,
    "privacy has one budget": lambda v: v.private and _budgets(v) != 1,
    "who is at several sites is not sampled": lambda v: v.private and v["data.sites_per_unit"] > 1
        and v["training.sampling_rate"] < 1,
    "a private regression has bounds of its label": lambda v: v.private and v["data.task"] == "regression"
        and v["data.label_bounds"] is None,
    "bounds are used": lambda v: v.private and v.scaled == "none" and bool(v["data.bounds"])
        and v["model.kind"] != "cnn",
    "delta is below one over the units": lambda v: v.private and v["privacy.delta"] * _units(v) >= 1,
    "there are sites enough": lambda v: v.private and v["privacy.trust"] != "local"
    and v["sites.minimum"] <= v["privacy.max_colluding"] + 2 * v["privacy.max_dropouts"],
    "some site is left": lambda v: v.private and v["privacy.max_dropouts"] >= v["sites.minimum"],
}  # fmt: skip


def _budgets(values: _Values) -> int:
    return sum(values[name] is not None for name in ("privacy.epsilon", "privacy.noise_multiplier"))


def _units(values: _Values) -> int:
    return values["sites.minimum"] if values.averages else values["data.expected_records"]


def changed_settings(document: Mapping[str, Any], read: Mapping[str, Any]) -> list[str]:
    """Settings whose value was read as another than the file gives, or that the file does not give and that differ
    from their default."""
    found = []
    for section, settings in SETTINGS.items():
        given, got = document.get(section, {}), read[section]
        for name, (_, default) in settings.items():
            expected = given.get(name, default)
            if plain(got.get(name)) != plain(expected):
                found.append(f"{section}.{name}")
    return found


def plain(value: Any) -> Any:
    """Lists and tuples alike."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def problems_of_declaration(values: Any) -> list[str]:
    """Everything that makes plain values no declaration."""
    if not isinstance(values, Mapping) or set(values) - {"noise_multiplier"} != {
        "protocol",
        "study",
        "sites",
        "nonce",
        "roster",
    }:
        return ["it has other keys"]
    study, sites, noise = values["study"], values["sites"], values.get("noise_multiplier")
    found = problems_of_study(study)
    if found:
        return found
    privacy = {
        name: study["privacy"].get(name, default)
        for name, (_, default) in SETTINGS["privacy"].items()
    }
    private = privacy["trust"] != "unsafe"
    tolerated = privacy["max_colluding"] + 2 * privacy["max_dropouts"]
    rules = {
        "the protocol is 1": type(values["protocol"]) is int and values["protocol"] == 1,
        "features are named": study["data"]["features"] != "all",
        "sites are from the minimum to 10,000": whole(study["sites"]["minimum"], 10_000)(sites),
        "the nonce has 32 hexadecimal digits": text(values["nonce"])
        and re.fullmatch("[0-9a-f]{32}", values["nonce"]),
        "the roster is a hash or none": values["roster"] is None
        or (text(values["roster"]) and re.fullmatch("[0-9a-f]{64}", values["roster"])),
        "noise goes with privacy": ("noise_multiplier" in values) == private,
        "noise is above 0 and at most 1e7": not private or number(0, 1e7, above=True)(noise),
        "noise is as the study says": privacy["noise_multiplier"] in (None, noise),
    }
    found = [said for said, holds in rules.items() if not holds]
    if found:
        return found
    if study["data"]["sites_per_unit"] > sites:
        found.append("a unit is at more sites than there are")
    if private and (
        sites <= privacy["max_dropouts"] or (privacy["trust"] != "local" and sites <= tolerated)
    ):
        found.append("there are too few sites")
    return found
