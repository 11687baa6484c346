"""The contract between a researcher and the sites: what `study.toml` says, as frozen values.

A `Study` can only be made valid: every setting checks its type and range (`study/settings.py`), and what several
settings say together is checked here, once. Names are those of the file. The text of every setting's
documentation stands in its declaration; `discreet study init` prints it.

What follows from a contract (shares of noise, scale, ε) is derived in `study/guarantee.py`, never stored here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from study.settings import ImpossibleSettingError, check, fits, setting

__all__ = [
    "FORMAT",
    "MASKED",
    "Bounds",
    "Data",
    "Model",
    "Privacy",
    "Sites",
    "Study",
    "Training",
    "tolerance_hint",
]

MASKED = ("aggregate", "server")
"""Levels of trust at which sums are masked."""

FORMAT = 1
"""The version of the file format; a study of another version is refused, never guessed at."""

Bounds = tuple[float, float]

_FLOAT32_RECORDS = 16_384
_MOST_RECORDS = 2**20


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the records are, and everything public about them."""

    task: Literal["classification", "regression"] = setting("What is predicted.")
    label: str = setting("The column that is predicted.")
    expected_records: int = setting(
        "Public number of training records over all sites. It divides every mean; the true number stays private.",
        at_least=1,
        at_most=10**9,
    )
    source: str | None = setting(
        "A built-in data set, used by simulations when --data is absent:\n"
        "breast_cancer, digits, diabetes, wine, house_prices.",
        default=None,
    )
    classes: tuple[str, ...] = setting(
        "Classification: every class; the last is the positive one. More than two: macro averages.",
        default=(),
    )
    label_bounds: Bounds | None = setting(
        "Regression: public bounds of the label; needed under privacy.", default=None
    )
    features: Literal["all"] | tuple[str, ...] = setting(
        'The columns that the model sees, in this order. "all" is for simulations: every column but the label\n'
        "and the unit; `discreet study freeze` writes the names for real sites.",
        default="all",
    )
    test_fraction: float = setting(
        "Part of the records kept for testing, chosen by a keyed hash of each unit, the same at every site.",
        default=0.25,
        at_least=0,
        below=1,
    )
    split_key: str = setting("Key of that hash: another key is another split.", default="1")
    unit: str | None = setting(
        "The column that names the privacy unit, e.g. a patient's number; absent: every record is one.",
        default=None,
    )
    records_per_unit: int = setting(
        "At most so many records of one unit are used at a site; the others are left out.",
        default=1,
        at_least=1,
        at_most=10_000,
    )
    sites_per_unit: int = setting(
        "At how many sites one unit may have records; the clipping norm at a site is divided by it.",
        default=1,
        at_least=1,
    )
    scaling: Literal["bounds", "standard", "none"] | None = setting(
        'How features are brought to one scale. "bounds": to [0, 1] by their public bounds. "standard": then to\n'
        'mean 0 and deviation 1, learnt by one private sum that is part of the budget. "none": as they are.\n'
        'Absent: "bounds" where bounds are given, else "none".',
        default=None,
    )
    beyond_bounds: Literal["refuse", "clamp"] = setting(
        "A value beyond its bounds, found when a data set is loaded: refuse the data set, or clamp the value.\n"
        "Inside a round values are always clamped, silently.",
        default="refuse",
    )
    bounds: Mapping[str, Bounds] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check(self, "data")
        object.__setattr__(self, "bounds", MappingProxyType(dict(self.bounds)))
        for name, bounds in self.bounds.items():
            _require_bounds(f'data.bounds."{name}"', bounds)
        if self.task == "classification":
            _require_classes(self.classes)
        else:
            _require(not self.classes, "data.classes", "nothing, for a regression", self.classes)
        if self.label_bounds is not None:
            _require(
                self.task == "regression",
                "data.label_bounds",
                "nothing, for a classification",
                self.label_bounds,
            )
            _require_bounds("data.label_bounds", self.label_bounds)
        if isinstance(self.features, tuple):
            _require_features(self)
        if self.unit is None:
            _require(
                self.sites_per_unit == 1,
                "data.sites_per_unit",
                "1 unless data.unit is named",
                self.sites_per_unit,
            )
            _require(
                self.records_per_unit == 1,
                "data.records_per_unit",
                "1 unless data.unit is named",
                self.records_per_unit,
            )
        _require(self.unit != self.label, "data.unit", "another column than the label", self.unit)

    @property
    def scaled(self) -> Literal["bounds", "standard", "none"]:
        """The scaling that applies, the default filled in."""
        return self.scaling or ("bounds" if self.bounds else "none")

    def bounds_of(self, feature: str) -> Bounds | None:
        """Public bounds of one feature: its own, or the default, or None."""
        return self.bounds.get(feature, self.bounds.get("default"))


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model that is trained."""

    kind: Literal["linear", "logistic", "softmax", "mlp", "cnn"] = setting(
        "linear (regression), logistic (two classes), softmax (any classes), mlp, or cnn (square grey images)."
    )
    hidden: tuple[int, ...] = setting(
        "mlp: width of every hidden layer.", default=(), at_least=1, at_most=65_536
    )
    activation: Literal["relu", "tanh"] = setting("mlp: between its layers.", default="relu")
    precision: Literal["float32", "float64"] | None = setting(
        "Numbers of the gradients. Absent: float32 for mlp and cnn, but float64 for every other kind, and where a\n"
        "site may hold more than 16,384 units: the rounding of float32 sums would cost more than 3 % of noise.",
        default=None,
    )

    def __post_init__(self) -> None:
        check(self, "model")
        if self.kind == "mlp":
            _require(
                len(self.hidden) > 0,
                "model.hidden",
                "at least one width, e.g. [64], for an mlp",
                self.hidden,
            )
        else:
            _require(not self.hidden, "model.hidden", f"nothing, for {self.kind}", self.hidden)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the model is trained. The number of rounds is declared beforehand and paid whole."""

    rounds: int = setting(
        "Declared maximum; the headline epsilon is that of all of them, also when training stops early.",
        at_least=1,
        at_most=1_000_000,
    )
    algorithm: Literal["dp-fedsgd", "dp-fedavg"] = setting(
        "dp-fedsgd: every round one step on the clipped gradients of all sites' records.\n"
        "dp-fedavg: every round one clipped model change a site; the privacy unit is the whole site.",
        default="dp-fedsgd",
    )
    spare_rounds: int = setting(
        "Charged as well, for rounds that have to be abandoned.",
        default=0,
        at_least=0,
        at_most=1_000_000,
    )
    sampling_rate: float = setting(
        "Every round each unit takes part with this probability, drawn in secret. 1 (everybody) is the least noisy\n"
        "for a given budget.",
        default=1.0,
        above=0,
        at_most=1,
    )
    optimizer: Literal["sgd", "momentum", "adam"] = setting(
        "What is done with a noisy gradient.", default="adam"
    )
    learning_rate: float | Literal["auto"] = setting(
        'A number; or "auto": a rule measured on tabular data, for adam.', default="auto", above=0
    )
    schedule: Literal["constant", "cosine", "step"] = setting(
        "How the learning rate goes on: cosine falls to zero, step is divided by ten at 1/2 and at 3/4 of the rounds.",
        default="constant",
    )
    average: Literal["last-half", "none"] = setting(
        "The released model: the mean of the last half of the iterates, or the last one.",
        default="last-half",
    )
    signal: bool = setting(
        "Learn the training loss too, as one more coordinate of the same clipped vector.",
        default=True,
    )
    stop_below: float | None = setting(
        "Stop when the smoothed private training loss falls below this; spends no less.",
        default=None,
        above=0,
    )
    local_steps: int | None = setting(
        "dp-fedavg: gradient steps at a site each round.", default=None, at_least=1, at_most=10_000
    )
    local_learning_rate: float | None = setting(
        "dp-fedavg: their learning rate.", default=None, above=0
    )

    def __post_init__(self) -> None:
        check(self, "training")
        averaging = self.algorithm == "dp-fedavg"
        for name in ("local_steps", "local_learning_rate"):
            value = getattr(self, name)
            expected = "a number, for dp-fedavg" if averaging else "nothing, for dp-fedsgd"
            _require((value is not None) == averaging, f"training.{name}", expected, value)
        if averaging:
            _require(
                self.sampling_rate == 1,
                "training.sampling_rate",
                "1, for dp-fedavg: the cohort is public",
                self.sampling_rate,
            )
            _require(
                self.learning_rate != "auto",
                "training.learning_rate",
                "a number, e.g. 1.0 with sgd, for dp-fedavg",
                self.learning_rate,
            )
        if self.learning_rate == "auto":
            _require(
                self.optimizer == "adam",
                "training.learning_rate",
                f"a number, for {self.optimizer}",
                "auto",
            )
        if self.stop_below is not None:
            _require(
                self.signal,
                "training.stop_below",
                "nothing without training.signal",
                self.stop_below,
            )


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What is guaranteed, and against whom."""

    trust: Literal["aggregate", "server", "local", "unsafe"] = setting(
        "aggregate: each site adds a share of the noise, and sums are masked, so that nobody sees a site's own.\n"
        "server: masked, and the coordinator adds the noise. local: no masks, every site adds all of the noise.\n"
        "unsafe: no privacy at all; simulations only.",
        default="aggregate",
    )
    epsilon: float | None = setting(
        "The privacy budget of the whole study; or give noise_multiplier: exactly one of the two.",
        default=None,
        above=0,
        at_most=1000,
    )
    noise_multiplier: float | None = setting(
        "Standard deviation of the noise over the sensitivity of one sum.",
        default=None,
        above=0,
        at_most=1e6,
    )
    delta: float = setting(
        "The probability that the guarantee does not cover.", default=1e-5, above=0, below=1
    )
    clipping: Literal["flat", "automatic"] = setting(
        "flat: g min(1, C/|g|). automatic: C g/(|g| + 0.01 C), which needs no tuning of C.",
        default="flat",
    )
    clipping_norm: float = setting(
        "C, the largest norm of one unit's part.", default=1.0, at_least=1e-6, at_most=1e9
    )
    max_colluding: int = setting(
        "c: so many sites may put together what they know; at least 1, as every site knows its own noise.",
        default=1,
        at_least=1,
    )
    max_dropouts: int = setting(
        "D: so many sites may be missing in a round; it needs sites.minimum > max_colluding + 2 max_dropouts.",
        default=0,
        at_least=0,
    )

    def __post_init__(self) -> None:
        check(self, "privacy")
        given = [
            name for name in ("epsilon", "noise_multiplier") if getattr(self, name) is not None
        ]
        if self.trust == "unsafe":
            _require(
                not given,
                "privacy",
                "neither epsilon nor noise_multiplier with unsafe",
                " and ".join(given),
            )
        else:
            found = " and ".join(given) or None
            _require(
                len(given) == 1, "privacy", "exactly one of epsilon and noise_multiplier", found
            )


@dataclass(frozen=True, kw_only=True)
class Sites:
    """Who takes part."""

    minimum: int = setting(
        "The smallest number of sites; more than max_colluding + 2 max_dropouts, with trust aggregate or server.",
        default=2,
        at_least=1,
        at_most=128,
    )
    maximum_records: int | None = setting(
        "No site holds more training records than this public number. Absent: 5/4 of data.expected_records,\n"
        "at most 1,048,576, which is the largest that the argument covers.",
        default=None,
        at_least=1,
        at_most=_MOST_RECORDS,
    )

    def __post_init__(self) -> None:
        check(self, "sites")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A whole study. Made by `study.parsing.read_study`, or in code."""

    name: str = setting("Short name: letters, digits and hyphens.")
    data: Data
    model: Model
    training: Training
    privacy: Privacy
    sites: Sites = field(default_factory=Sites)
    purpose: str = setting(
        "What the model is for, in a sentence that a patient could read.", default=""
    )
    version: int = setting("The author's own number of this study.", default=1, at_least=1)

    def __post_init__(self) -> None:
        check(self, "study")
        if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?", self.name):
            raise ImpossibleSettingError(
                "study.name", expected="1 to 64 letters, digits and inner hyphens", actual=self.name
            )
        self._check_model()
        if self.privacy.trust != "unsafe":
            self._check_private()

    @property
    def outputs(self) -> int:
        """Number of classes, or 1 for a regression."""
        return len(self.data.classes) or 1

    @property
    def numbers(self) -> Literal["float32", "float64"]:
        """The precision that applies, the default filled in."""
        if self.model.precision is not None:
            return self.model.precision
        small = self.maximum_records <= _FLOAT32_RECORDS
        return "float32" if self.model.kind in ("mlp", "cnn") and small else "float64"

    @property
    def maximum_records(self) -> int:
        """The public number that no site's training records exceed."""
        return self.sites.maximum_records or min(
            _MOST_RECORDS, -(-5 * self.data.expected_records // 4)
        )

    def _check_model(self) -> None:
        kind, task, classes = self.model.kind, self.data.task, self.data.classes
        kinds = {
            "classification": ("logistic", "softmax", "mlp", "cnn"),
            "regression": ("linear", "mlp"),
        }[task]
        _require(
            kind in kinds,
            "model.kind",
            " or ".join(f'"{each}"' for each in kinds) + f" for a {task}",
            kind,
        )
        if kind == "logistic":
            _require(
                len(classes) == 2,
                "data.classes",
                "two classes, for logistic (softmax takes more)",
                classes,
            )

    def _check_private(self) -> None:
        data = self.data
        _require(
            data.sites_per_unit == 1 or self.training.sampling_rate == 1,
            "training.sampling_rate",
            "1 where a unit may be at several sites: each of them would draw it anew",
            self.training.sampling_rate,
        )
        _require(
            data.sites_per_unit == 1 or self.training.algorithm != "dp-fedavg",
            "data.sites_per_unit",
            "1 with dp-fedavg, whose unit is a whole site: somebody at two of them is protected at each alone",
            data.sites_per_unit,
        )
        if data.task == "regression" and data.label_bounds is None:
            raise ImpossibleSettingError(
                "data.label_bounds",
                expected="public bounds such as [0.0, 50.0]",
                actual=None,
                hint="under privacy the label is scaled by bounds that everybody may know",
            )
        _require(
            data.scaled != "none" or self.model.kind == "cnn" or not data.bounds,
            "data.scaling",
            '"bounds" or "standard" where bounds are given',
            data.scaled,
        )
        units = (
            self.sites.minimum if self.training.algorithm == "dp-fedavg" else data.expected_records
        )
        if self.privacy.delta * units >= 1:
            raise ImpossibleSettingError(
                "privacy.delta",
                expected=f"less than 1 / {units}, the number of units",
                actual=self.privacy.delta,
                hint="publishing one unit outright has such a delta: take a tenth of that bound at most",
            )
        smallest = self.privacy.max_colluding + 2 * self.privacy.max_dropouts + 1
        if self.privacy.trust != "local" and self.sites.minimum < smallest:
            raise ImpossibleSettingError(
                "sites.minimum",
                expected=f"at least {smallest}, more than max_colluding + 2 max_dropouts",
                actual=self.sites.minimum,
                hint=tolerance_hint(self.privacy),
            )
        if self.privacy.max_dropouts >= self.sites.minimum:
            raise ImpossibleSettingError(
                "privacy.max_dropouts",
                expected=f"fewer than sites.minimum = {self.sites.minimum}",
                actual=self.privacy.max_dropouts,
            )


def tolerance_hint(privacy: Privacy) -> str:
    """Why a federation may be too small, said once for the file and for `--sites`."""
    return (
        f"with {privacy.max_colluding} colluding and {privacy.max_dropouts} missing sites a study needs more than "
        f"{privacy.max_colluding + 2 * privacy.max_dropouts}: invite more sites, or lower privacy.max_dropouts"
    )


def _require(holds: bool, name: str, expected: str, actual: object) -> None:
    if not holds:
        raise ImpossibleSettingError(name, expected=expected, actual=actual)


def _require_bounds(name: str, bounds: object) -> None:
    numbers = (
        isinstance(bounds, tuple) and len(bounds) == 2 and all(fits(each, float) for each in bounds)
    )
    holds = numbers and -1e300 < bounds[0] < bounds[1] < 1e300  # type: ignore[index]
    _require(
        bool(holds),
        name,
        "two numbers, the lower first (none beyond 1e300, no whole one beyond 2^53), e.g. [0.0, 1.0]",
        bounds,
    )


def _require_classes(classes: tuple[str, ...]) -> None:
    _require(len(classes) >= 2, "data.classes", "at least two classes", classes)
    _require(len(set(classes)) == len(classes), "data.classes", "every class once", classes)


def _require_features(data: Data) -> None:
    features = data.features
    _require(len(features) > 0, "data.features", 'at least one column, or "all"', features)
    _require(len(set(features)) == len(features), "data.features", "every column once", features)
    _require(
        data.label not in features, "data.features", "columns other than the label", data.label
    )
    _require(data.unit not in features, "data.features", "columns other than the unit", data.unit)
