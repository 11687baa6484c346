"""A site's policy: the standing rules of one data set, in a file of the site's own.

    policy.toml -> Policy;   Policy and a study's guarantee -> findings, one for every rule -> approved or not

A policy never changes a study: it refuses. So whichever of the two is tighter holds. Every rule but one is decided
from the declaration alone, which everybody knows, so that a refusal tells nothing of the data; the one that looks at
the data, `floors.units`, is checked once, when a study is approved, and is said to the operator alone.

What a policy says of one study, "this one may", is an approval, and stands in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from privacy.errors import DataError, UserError
from study.rules import Rule
from study.settings import ImpossibleSettingError, check, setting
from study.settings_file import (
    parse_settings,
    read_text,
    section_text,
    sections_of,
    toml_value,
    values_of,
)

if TYPE_CHECKING:
    from study.guarantee import Guarantee  # the accountant takes a second to import

__all__ = [
    "FORMAT",
    "SECTIONS",
    "Ceilings",
    "Columns",
    "Finding",
    "Floors",
    "Policy",
    "PolicyError",
    "PolicyFile",
    "Studies",
    "parse_policy",
    "policy_from_values",
    "policy_text",
    "policy_to_values",
    "read_policy",
]

FORMAT = 1
"""The version of the file format; a policy of another version is refused, never guessed at."""


class PolicyError(UserError):
    """A policy cannot be read, or does not allow a study; `rules` are those that the study breaks."""

    def __init__(self, message: str, *, hint: str = "", rules: Sequence[Rule] = ()) -> None:
        super().__init__(message, hint=hint)
        self.rules = tuple(rules)


@dataclass(frozen=True, kw_only=True)
class Studies:
    """Which kinds of studies are allowed."""

    trust: tuple[Literal["local", "aggregate", "server"], ...] = setting(
        'Levels of trust. "aggregate": this site adds a share of the noise, under masks that only the sum over the\n'
        'sites takes off. "local": it adds all of the noise that protects it. "server": it adds none, and the\n'
        "coordinator sees the sum over the sites as it is; left out, because nobody should have to trust the\n"
        "coordinator. A study without privacy is never allowed.",
        default=("aggregate", "local"),
    )
    tasks: tuple[Literal["classification", "regression"], ...] = setting(
        "What may be predicted: classes, or numbers. Both, since either is protected alike.",
        default=("classification", "regression"),
    )
    models: tuple[Literal["linear", "logistic", "softmax", "mlp", "cnn"], ...] = setting(
        "Kinds of model. All, since what protects a record does not depend on the model.",
        default=("linear", "logistic", "softmax", "mlp", "cnn"),
    )
    algorithms: tuple[Literal["dp-fedsgd", "dp-fedavg"], ...] = setting(
        "How models are trained. Both, since either sends private sums and nothing else.",
        default=("dp-fedsgd", "dp-fedavg"),
    )
    clamping: bool = setting(
        'May a study ask for data.beyond_bounds = "clamp"? It may, since privacy is the same; false insists that all\n'
        "values lie within their bounds, because one that does not is mostly in another unit of measurement.",
        default=True,
    )
    purpose: bool = setting(
        "Must a study say what it is for (study.purpose)? Yes: data protection law asks it of all processing.",
        default=True,
    )

    def __post_init__(self) -> None:
        _check(self, "studies")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of the data set a study may use."""

    features: tuple[str, ...] | None = setting(
        'The columns that may be features, e.g. ["age", "sex"]. Absent: every column, if its study is approved.',
        default=None,
    )
    labels: tuple[str, ...] | None = setting(
        'The columns that may be predicted, e.g. ["diagnosis"]. Absent: every column, if its study is approved.',
        default=None,
    )
    unit: str | None = setting(
        'The column that has to be the privacy unit (data.unit), e.g. "patient_id". Name it if anybody may have more\n'
        "than one record: a study that protects single records protects nobody who has many. A study whose unit is\n"
        "the whole site protects everybody in it, and meets this rule too. Absent: whatever the study says.",
        default=None,
    )

    def __post_init__(self) -> None:
        _check(self, "columns")


@dataclass(frozen=True, kw_only=True)
class Floors:
    """What must not be less."""

    sites: int = setting(
        "Sites that take part. Three: of two, each can take its own part off a sum and is left with the other's.",
        default=3,
        at_least=1,
        at_most=10_000,
    )
    survivors: int = setting(
        "Sites that have to answer before a sum is used: sites less privacy.max_dropouts. Two, since with one a sum\n"
        "is a single site's.",
        default=2,
        at_least=1,
        at_most=10_000,
    )
    shares: int = setting(
        "Masked sums: honest sites whose answers, and noise, are in every one, whoever drops out:\n"
        "survivors less privacy.max_colluding. Two, so that no site stands alone among colluding ones.",
        default=2,
        at_least=1,
        at_most=10_000,
    )
    colluding: int = setting(
        "Masked sums: colluding sites that a study guards against (privacy.max_colluding). One, which is the\n"
        "least. With trust local all others may collude.",
        default=1,
        at_least=1,
        at_most=10_000,
    )
    noise_multiplier: float | None = setting(
        "Standard deviation of the noise over the sensitivity, in every single sum. Absent: the ceiling of epsilon,\n"
        "which is about all sums together, decides alone.",
        default=None,
        above=0,
        at_most=1e6,
    )
    sites_per_unit: int = setting(
        "Sites at which one unit may have records and is still protected as promised (data.sites_per_unit). One, for\n"
        "people who are known at this site alone; say more where patients are seen at several hospitals.",
        default=1,
        at_least=1,
        at_most=10_000,
    )
    units: int = setting(
        "Units (patients, say; records where no unit is named) in this data set. Checked once, when a study is\n"
        "approved, and said to you alone. Ten, since fewer add more noise to a sum than they tell.",
        default=10,
        at_least=0,
    )

    def __post_init__(self) -> None:
        _check(self, "floors")


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What must not be more."""

    epsilon: float = setting(
        "Privacy cost of one whole study, of the released model, for one record or unit more or less (also where the\n"
        "study itself protects whole sites). Below 1 is strong, above 10 is hardly a promise; 8 lets a first study\n"
        "learn something. What all studies together may cost is the ledger's to say.",
        default=8.0,
        above=0,
        at_most=1000,
    )
    delta: float = setting(
        "The probability that the promise does not cover. It should be far below 1 over the number of patients.",
        default=1e-5,
        above=0,
        below=1,
    )
    epsilon_against_server: float = setting(
        "The same cost towards the coordinator and the sites that collude with it. As for epsilon, since the\n"
        "coordinator is as much a stranger as anybody. With trust server, which studies.trust has to name, there is\n"
        "no bound, and this rule does not apply.",
        default=8.0,
        above=0,
        at_most=1000,
    )
    rounds: int = setting(
        "Sums that one study may ask for: its rounds, its spare rounds, and one for scaling. Epsilon covers them all;\n"
        "this bounds the work and how often the site is asked.",
        default=1000,
        at_least=1,
    )
    dimension: int = setting(
        "Numbers in one answer. Privacy is the same for any; this bounds memory and traffic (4 or 8 bytes each).",
        default=1_000_000,
        at_least=1,
    )

    def __post_init__(self) -> None:
        _check(self, "ceilings")


SECTIONS: Mapping[str, type] = {
    "studies": Studies, "columns": Columns, "floors": Floors, "ceilings": Ceilings,
}  # fmt: skip
"""The sections of the file, in its order, and the values that they become."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rule finds in one study.

    Attributes:
        rule: its name.
        expected, found: in words; of public values alone.
        holds: does the study meet it?
    """

    rule: Rule
    expected: str
    found: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.rule}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The standing rules of one data set. `Policy()` is the policy of all defaults."""

    studies: Studies = field(default_factory=Studies)
    columns: Columns = field(default_factory=Columns)
    floors: Floors = field(default_factory=Floors)
    ceilings: Ceilings = field(default_factory=Ceilings)

    def findings(self, guarantee: Guarantee) -> list[Finding]:
        """What every rule that applies finds in a study: from its declaration alone."""
        rules = (
            *_kinds(self.studies, guarantee), *_columns(self.columns, guarantee),
            *_floors(self.floors, guarantee), *_ceilings(self.ceilings, guarantee),
        )  # fmt: skip
        return [each for each in rules if each is not None]

    def problems(self, guarantee: Guarantee) -> list[Finding]:
        """The rules that a study breaks."""
        return [each for each in self.findings(guarantee) if not each.holds]

    def require(self, guarantee: Guarantee) -> None:
        """Raise PolicyError unless a study breaks no rule."""
        if problems := self.problems(guarantee):
            raise PolicyError(
                f"The policy does not allow {guarantee.study.name}: "
                + "; ".join(map(str, problems)),
                hint="the study has to change; or the policy, if whoever answers for the data agrees",
                rules=[each.rule for each in problems],
            )

    def require_units(self, count: int, name: str) -> None:
        """Raise DataError, for the operator alone, unless the data set holds enough units.

        Only ever when a study is approved: in a round it would be a refusal that depends on the data.

        Arguments:
            count: of units, for training and for testing.
            name: what messages call the data set.
        """
        if count < self.floors.units:
            raise DataError(
                f"{name}: expected at least {self.floors.units:,} units, found {count:,}",
                hint="that is floors.units of the policy: with so few, wait until there are more",
            )


def _kinds(studies: Studies, guarantee: Guarantee) -> list[Finding | None]:
    study = guarantee.study
    return [
        _among(Rule.TRUST, study.privacy.trust, studies.trust),
        _among(Rule.TASK, study.data.task, studies.tasks),
        _among(Rule.MODEL, study.model.kind, studies.models),
        _among(Rule.ALGORITHM, study.training.algorithm, studies.algorithms),
        None if studies.clamping else _among(Rule.CLAMPING, study.data.beyond_bounds, ("refuse",)),
        _says_what_for(study.purpose) if studies.purpose else None,
    ]  # fmt: skip


def _columns(columns: Columns, guarantee: Guarantee) -> list[Finding | None]:
    data = guarantee.study.data
    whole_site = guarantee.study.training.algorithm == "dp-fedavg"
    return [
        None if columns.features is None else _all_among(data.features, columns.features),
        None if columns.labels is None else _among(Rule.LABEL, data.label, columns.labels),
        None if columns.unit is None or whole_site else _among(Rule.UNIT, data.unit, (columns.unit,)),
    ]  # fmt: skip


def _floors(floors: Floors, guarantee: Guarantee) -> list[Finding | None]:
    tolerance, study = guarantee.tolerance, guarantee.study
    masked = guarantee.masked
    honest = (
        tolerance.survivors - tolerance.colluding
    )  # whose answers are in every sum that is unmasked
    z = guarantee.declaration.noise_multiplier
    least = None if z is None else z * min(each.noise_ratio for each in guarantee.stages)
    # Where the unit is a site, somebody at two of them is protected at each alone.
    places = 1 if study.training.algorithm == "dp-fedavg" else study.data.sites_per_unit
    return [
        _at_least(Rule.SITES, tolerance.sites, floors.sites),
        _at_least(Rule.SURVIVORS, tolerance.survivors, floors.survivors),
        _at_least(Rule.SHARES, honest, floors.shares) if masked else None,
        _at_least(Rule.COLLUDING, tolerance.colluding, floors.colluding) if masked else None,
        _at_least(Rule.NOISE, least, floors.noise_multiplier),
        _at_least(Rule.SITES_PER_UNIT, places, floors.sites_per_unit),
    ]


def _ceilings(ceilings: Ceilings, guarantee: Guarantee) -> list[Finding | None]:
    against, by_server = ceilings.epsilon_against_server, guarantee.study.privacy.trust == "server"
    return [
        _at_most(Rule.EPSILON, guarantee.epsilon_of_a_record, ceilings.epsilon),
        _at_most(Rule.DELTA, guarantee.delta, ceilings.delta),
        None if by_server
        else _at_most(Rule.EPSILON_AGAINST_SERVER, guarantee.epsilon_of_a_record, against),
        _at_most(Rule.ROUNDS, sum(each.count for each in guarantee.stages), ceilings.rounds),
        _at_most(Rule.DIMENSION, max(each.dimension for each in guarantee.stages), ceilings.dimension),
    ]  # fmt: skip


def _among(rule: Rule, found: str | None, allowed: Sequence[str]) -> Finding:
    return Finding(
        rule=rule, expected=" or ".join(map(toml_value, allowed)),
        found="none" if found is None else toml_value(found), holds=found in allowed,
    )  # fmt: skip


def _all_among(found: Sequence[str], allowed: Sequence[str]) -> Finding:
    """Only the columns of the policy; those that are not among them are named, the first few."""
    others = [each for each in found if each not in allowed]
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return Finding(
        rule=Rule.FEATURES, expected="columns that the policy names", holds=not others,
        found=", ".join(map(toml_value, others[:3])) + more if others else "these alone",
    )  # fmt: skip


def _says_what_for(purpose: str) -> Finding:
    said = bool(purpose.strip())
    return Finding(
        rule=Rule.PURPOSE, expected="a purpose", found="one" if said else "none", holds=said
    )


def _at_least(rule: Rule, found: float | None, floor: float | None) -> Finding | None:
    if floor is None:
        return None
    return Finding(
        rule=rule, expected=f"at least {_number(floor)}",
        found="none" if found is None else _number(found), holds=found is not None and found >= floor,
    )  # fmt: skip


def _at_most(rule: Rule, found: float | None, ceiling: float) -> Finding:
    """A figure that is None has no bound."""
    return Finding(
        rule=rule, expected=f"at most {_number(ceiling)}",
        found="no bound" if found is None else _number(found), holds=found is not None and found <= ceiling,
    )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _check(section: Any, name: str) -> None:
    """Types and ranges; and nothing empty, which could be meant for "none" as well as for "any"."""
    check(section, name)
    for each in fields(section):
        if getattr(section, each.name) in ((), ""):
            raise ImpossibleSettingError(
                f"{name}.{each.name}", expected="at least one name", actual=None
            )


# The file

_PREFACE = f"""\
# The policy of a data set: the rules of this site for whoever asks. A study that breaks one of them is refused.
# A setting behind a # has its default; take the # away to change it.

format = {FORMAT}  # of this file
"""


def read_policy(path: Path) -> Policy:
    """Read a policy from a file. Raises PolicyError naming file and line."""
    return parse_policy(read_text(path, kind="policy", error=PolicyError), name=str(path))


def parse_policy(text: str, *, name: str = "policy.toml") -> Policy:
    """Read a policy from the text of its file; `name` is how errors call it. Raises PolicyError."""
    return parse_settings(text, policy_from_values, name=name, error=PolicyError)


def policy_from_values(document: Mapping[str, Any]) -> Policy:
    """A policy from nested plain values, as TOML gives them.

    Raises:
        ImpossibleSettingError: an unknown or impossible setting.
    """
    return Policy(**sections_of(document, FORMAT, SECTIONS))


def policy_to_values(policy: Policy) -> dict[str, Any]:
    """The plain values of a policy, every default filled in: the inverse of `policy_from_values`."""
    return {"format": FORMAT} | {name: values_of(getattr(policy, name)) for name in SECTIONS}


def policy_text(policy: Policy) -> str:
    """A policy as a file in which every setting is explained.

    **Guarantees**: `parse_policy(policy_text(policy)) == policy`.
    """
    values, defaults = policy_to_values(policy), policy_to_values(Policy())
    parts = [_PREFACE]
    for name, owner in SECTIONS.items():
        given = {
            key: value for key, value in values[name].items() if value != defaults[name].get(key)
        }
        parts.append(section_text(name, str(owner.__doc__).rstrip("."), owner, given))
    return "\n".join(parts)


class PolicyFile:
    """The policy that a file holds at this moment: read at every call, and understood anew if it has changed.

    Texts are compared, not times: a change within the clock's resolution is a change.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._understood: tuple[str, Policy] | None = None

    def __call__(self) -> Policy:
        """The policy. Raises PolicyError if there is none that can be read."""
        text = read_text(self._path, kind="policy", error=PolicyError)
        known = self._understood
        if known is None or known[0] != text:
            known = self._understood = (text, parse_policy(text, name=str(self._path)))
        return known[1]
