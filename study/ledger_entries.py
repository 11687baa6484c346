"""What a site's ledger says: entries, each chained to the one before and signed; their one written form.

    entry 0 <- entry 1 <- entry 2 ...     each holds the SHA-256 of the one before; the site signs each one's own

| kind | says |
|---|---|
| opened | whose ledger this is, and the key that signs it |
| namespace | a set of people (or other units) and their lifetime budget |
| data-set | a data set whose units belong to a namespace |
| approved | a study, all the sums that it may ask, and which data set answers: its whole cost is reserved |
| charged | one query is about to be computed: it is paid for, come what may |
| answered | the bytes of its answer are on the disk, and may be sent |
| agreed | whose vectors are to be unmasked together: once a query, and never otherwise |
| burnt | it was charged and never answered; it will not be |
| closed | the study is over: what it never asked is free again |
| refused | something was asked that this site does not do |

What may follow what, and what everything costs, is in `study/ledger_state.py`. An entry's bytes are RFC 8785 JSON,
and reading refuses any others. A line of an export is `{"entry": ..., "signature": ...}`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args, get_origin

from privacy.discrete_gaussian import Deviation
from privacy.errors import PrivacyError, ProtocolError
from privacy.events import Part, SumEvent
from privacy.filters import LifetimeCap, Sums
from privacy.private_sum import SumMechanism, noise_distance
from privacy.rounding import FLOAT_SLACK
from privacy.sampling import OVERFLOW
from privacy.secure_aggregation.thresholds import MOST_SITES, Thresholds
from privacy.signing import SigningKey, verify
from study.canonical import canonical_json, parse_canonical
from study.settings import fits

__all__ = [
    "BODIES",
    "DISTANCE",
    "FIRST",
    "Adjacency",
    "Agreed",
    "Answered",
    "Approved",
    "Body",
    "Burnt",
    "Charged",
    "Closed",
    "DataSet",
    "DeclaredSum",
    "Entry",
    "Namespace",
    "Opened",
    "Refused",
    "SignedEntry",
    "SumTerms",
    "hash_of",
]

LEDGER_VERSION = 1
FIRST = "0" * 64
"""What entry 0 holds in the place of a hash."""

Adjacency = Literal["add-or-remove-one", "replace-one"]

DISTANCE: Mapping[Adjacency, int] = MappingProxyType({"add-or-remove-one": 1, "replace-one": 2})
"""How many times Delta(s) (1 + eta) a neighbour is away at most: two vectors of norm C differ by 2 C, and
Delta(2 r) <= 2 Delta(r)."""

_LONGEST_NAME = 200
_LATEST = 2**37  # Unix seconds, in the year 6325: calendars end not long after
_NOISE = (1e-6, 1e15)  # the noise multipliers whose squares no arithmetic of an accountant loses


@dataclass(frozen=True, kw_only=True)
class SumTerms:
    """Every constant behind one private sum, so that any accountant can compute anew what it cost.

    Attributes:
        version: of this form and of the mechanism's meaning. adjacency, unit: whose presence is hidden, e.g.
        "add-or-remove-one", "record". part: which units the sum is of. dimension: d. clipping_norm: C, over all
        sites; sites_per_unit: M. sampling_rate: q. sites, colluding, survivors, threshold, quorum: n, c, m, t, tau.
        shares: k, the shares of noise that whoever sees the sum does not know: m - c at most where sums are masked and
            every site adds a share, otherwise 1.
        noise_multiplier: z of what is seen with so many shares; `base` and `stretch` give sigma_t, `scale` is s.
        beta, slack: what rounding exceeds its bound with, and eta.
        unlikely: probability of a draw beyond capacity, or of a sample off its exact distribution.
        bits: of the ring.
    """

    version: int = LEDGER_VERSION
    adjacency: Adjacency
    unit: str
    part: Part
    dimension: int
    clipping_norm: float
    sites_per_unit: int
    sampling_rate: float
    sites: int
    colluding: int
    survivors: int
    threshold: int
    quorum: int
    shares: int
    noise_multiplier: float
    base: int
    stretch: int
    scale: float
    beta: float
    slack: float
    unlikely: float
    bits: int

    def __post_init__(self) -> None:
        _check(self)
        if self.version != LEDGER_VERSION:
            raise ProtocolError(f"Expected terms of version {LEDGER_VERSION}")
        _require_name(self.unit)
        least, most = min(self.threshold, self.quorum), max(self.threshold, self.quorum)
        if not (self.colluding >= 0 and 1 <= least <= most <= self.survivors <= self.sites):
            raise ProtocolError(
                "Expected threshold, quorum <= survivors <= sites, from 1, and colluding from 0"
            )
        if not 1 <= self.shares <= max(1, self.survivors - self.colluding):
            raise ProtocolError("Expected shares from 1 to the survivors that do not collude")
        if not 1 <= self.sites_per_unit <= self.sites:
            raise ProtocolError("Expected sites_per_unit from 1 to the number of sites")
        if not _NOISE[0] <= self.noise_multiplier <= _NOISE[1]:
            raise ProtocolError(f"Expected a noise multiplier from {_NOISE[0]:g} to {_NOISE[1]:g}")
        self.sums(1)  # raises for what no accountant knows

    def sums(self, count: int) -> Sums:
        """What an accountant is told of `count` of these sums."""
        event = SumEvent(
            noise_multiplier=self.noise_multiplier, sampling_rate=self.sampling_rate, count=count, part=self.part
        )  # fmt: skip
        return Sums(event=event, rounding=self.beta * self.sites_per_unit, unlikely=self.unlikely)

    def check_noise(self) -> None:
        """Raise PrivacyError unless the other constants yield the noise multiplier that is charged, to nine digits.

        Slack and unlikely events must be at least what every private sum of this dimension has. A rate below 1 goes
        with one unit added or removed at one site: for nothing else is the accountant's sampling proved.
        """
        if self.bits not in (32, 64):
            raise PrivacyError(f"Expected bits={self.bits} in (32, 64)")
        if self.slack < FLOAT_SLACK or self.unlikely < self._least_unlikely * (1 - 1e-9):
            raise PrivacyError("Expected slack and unlikely of at least what every sum has")
        one_unit_at_one_site = self.adjacency == "add-or-remove-one" and self.sites_per_unit == 1
        if self.sampling_rate < 1 and not one_unit_at_one_site:
            raise PrivacyError(
                "Expected sampling_rate=1 where a neighbour is not one unit more or less at one site"
            )
        mechanism = SumMechanism(
            dimension=self.dimension, clipping_norm=self.clipping_norm, sites_per_unit=self.sites_per_unit,
            noise_multiplier=self.noise_multiplier, shares=self.shares, sites=self.sites, beta=self.beta,
            slack=self.slack, deviation=Deviation(self.base, self.stretch), scale=self.scale,
            bits=32 if self.bits == 32 else 64,
        )  # fmt: skip
        found = mechanism.noise_multiplier_of(self.shares) / DISTANCE[self.adjacency]
        if not self.noise_multiplier <= found * (1 + 1e-9):
            raise PrivacyError(
                f"Expected noise_multiplier={self.noise_multiplier:.9g} of at most {found:.9g}, as its terms yield"
            )

    def check_thresholds(self) -> None:
        """Raise PrivacyError unless n, c, m, t and tau bear out that every masked sum holds k honest shares."""
        Thresholds(
            sites=self.sites, colluding=self.colluding, survivors=self.survivors, threshold=self.threshold,
            quorum=self.quorum, shares=self.shares,
        )  # fmt: skip

    @property
    def _least_unlikely(self) -> float:
        overflow = OVERFLOW if self.sampling_rate < 1 else 0.0
        return overflow + self.sites * noise_distance(self.dimension)


@dataclass(frozen=True, kw_only=True)
class DeclaredSum:
    """One kind of sum of a study: its name, how many may be asked, and its terms (None: nothing is protected)."""

    function: str
    count: int
    terms: SumTerms | None

    def __post_init__(self) -> None:
        _check(self)
        _require_name(self.function)
        if not 1 <= self.count <= 2**31:
            raise ProtocolError("Expected a count from 1 to 2^31")


class Body:
    """What an entry says."""

    KIND: ClassVar[str]

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class Opened(Body):
    """Whose ledger this is: the site's name, and its public key, hexadecimal."""

    KIND = "opened"
    site: str
    key: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_name(self.site)
        _require_hash(self.key)


@dataclass(frozen=True, kw_only=True)
class Namespace(Body):
    """A set of units and the lifetime budget that all studies of them share; without a cap nothing is protected."""

    KIND = "namespace"
    namespace: str
    cap: LifetimeCap | None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_name(self.namespace)


@dataclass(frozen=True, kw_only=True)
class DataSet(Body):
    """A data set of that namespace, and the column that names its units (None: every record is one).

    Nothing of the data is in it, not even a keyed hash: two equal ones would tell that nobody had joined or left.
    """

    KIND = "data-set"
    data_set: str
    namespace: str
    unit: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_name(self.data_set, self.namespace, *([] if self.unit is None else [self.unit]))


@dataclass(frozen=True, kw_only=True)
class Approved(Body):
    """A study, by the hash of its declaration, that this data set answers; `roster` is whose sums it is masked with."""

    KIND = "approved"
    study: str
    name: str
    data_set: str
    trust: str
    roster: str | None
    sums: tuple[DeclaredSum, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_hash(self.study, *([] if self.roster is None else [self.roster]))
        _require_name(self.name, self.data_set, self.trust)
        if not self.sums or len({each.function for each in self.sums}) < len(self.sums):
            raise ProtocolError("Expected at least one sum, and each function once")


@dataclass(frozen=True, kw_only=True)
class Charged(Body):
    """Query number `index` of the study, with this SHA-256, is paid for; `terms` repeats what it costs.

    `salt` is 16 bytes that nobody can guess: receipts show this entry's hash to everybody, and without it whoever
    guesses the entries in between (another study's name, say) could test the guess.
    """

    KIND = "charged"
    study: str
    index: int
    function: str
    query: str
    salt: str
    terms: SumTerms | None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_hash(self.study, self.query)
        _require_name(self.function)
        _require_index(self.index)
        if not re.fullmatch("[0-9a-f]{32}", self.salt):
            raise ProtocolError("Expected a salt of 32 hexadecimal digits")


@dataclass(frozen=True, kw_only=True)
class Answered(Body):
    """The bytes with this SHA-256 answer that query; no others ever will."""

    KIND = "answered"
    study: str
    index: int
    answer: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_hash(self.study, self.answer)
        _require_index(self.index)


@dataclass(frozen=True, kw_only=True)
class Agreed(Body):
    """Of that query this site helps to unmask the sum over these sites of the roster, by number, and no other sum.

    None: over all that were asked, as all have uploaded (the fast path).
    """

    KIND = "agreed"
    study: str
    index: int
    survivors: tuple[int, ...] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_hash(self.study)
        _require_index(self.index)
        if self.survivors is not None and (
            not self.survivors
            or list(self.survivors) != sorted(set(self.survivors))
            or not 1 <= self.survivors[0] <= self.survivors[-1] <= MOST_SITES
        ):
            raise ProtocolError("Expected survivors in ascending order, each once, from 1")


@dataclass(frozen=True, kw_only=True)
class Burnt(Body):
    """That query was charged, and will never be answered."""

    KIND = "burnt"
    study: str
    index: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_hash(self.study)
        _require_index(self.index)


@dataclass(frozen=True, kw_only=True)
class Closed(Body):
    """The study is over."""

    KIND = "closed"
    study: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_hash(self.study)


@dataclass(frozen=True, kw_only=True)
class Refused(Body):
    """A query or a study was refused, for this reason; logged once for each study and reason."""

    KIND = "refused"
    study: str
    reason: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_hash(self.study)
        _require_name(self.reason)


BODIES: dict[str, type[Body]] = {
    each.KIND: each
    for each in (
        Opened, Namespace, DataSet, Approved, Charged, Answered, Agreed, Burnt, Closed, Refused,
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry: its number from 0, the hash of the one before, when it was written (Unix seconds), what it says."""

    sequence: int
    previous: str
    time: int
    body: Body

    def __post_init__(self) -> None:
        if not isinstance(self.previous, str) or type(self.body) not in BODIES.values():
            raise ProtocolError("Expected an entry that follows a hash and says something")
        for number, largest in ((self.sequence, 2**31), (self.time, _LATEST)):
            if type(number) is not int or not 0 <= number < largest:
                raise ProtocolError("Expected a sequence and a time of at least 0")
        _require_hash(self.previous)

    def to_values(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "version": LEDGER_VERSION, "sequence": self.sequence, "previous": self.previous, "time": self.time,
            "kind": self.body.KIND, "body": _written(self.body),
        }  # fmt: skip

    def to_bytes(self) -> bytes:
        """The bytes that are hashed, signed and chained."""
        return self._content

    @functools.cached_property
    def _content(self) -> bytes:
        return canonical_json(self.to_values())

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of these bytes: how the next entry and receipts name this one."""
        return hash_of(self._content)

    @staticmethod
    def from_bytes(content: bytes) -> Entry:
        """The entry of these bytes. Raises ProtocolError for any that `to_bytes` does not write."""
        entry = Entry.from_values(parse_canonical(content))
        if entry.to_bytes() != content:
            raise ProtocolError("Expected an entry as it would be written, found another spelling")
        return entry

    @staticmethod
    def from_values(values: Any) -> Entry:
        """The entry of a JSON form. Raises ProtocolError."""
        keys = {"version", "sequence", "previous", "time", "kind", "body"}
        if not isinstance(values, dict) or set(values) != keys:
            raise ProtocolError(f"Expected an entry with {', '.join(sorted(keys))}")
        if type(values["version"]) is not int or values["version"] != LEDGER_VERSION:
            raise ProtocolError(f"Expected an entry of version {LEDGER_VERSION}")
        kind = values["kind"]
        if not isinstance(kind, str) or kind not in BODIES:
            raise ProtocolError(f"Expected a kind of entry: {', '.join(BODIES)}")
        body = _read(BODIES[kind], values["body"])
        return Entry(
            sequence=values["sequence"], previous=values["previous"], time=values["time"], body=body
        )


@dataclass(frozen=True, kw_only=True)
class SignedEntry:
    """An entry's bytes and the site's signature of their hash, 64 bytes."""

    content: bytes
    signature: bytes

    @staticmethod
    def sign(entry: Entry, key: SigningKey) -> SignedEntry:
        """Sign it."""
        signature = key.sign("ledger", bytes.fromhex(entry.hash))
        return SignedEntry(content=entry.to_bytes(), signature=signature)

    def verify(self, public: bytes) -> None:
        """Raise ProtocolError unless the key of these 32 bytes signed it."""
        verify(public, "ledger", bytes.fromhex(hash_of(self.content)), self.signature)

    def to_line(self) -> bytes:
        """One line of an export, without its end."""
        return canonical_json(
            {"entry": parse_canonical(self.content), "signature": self.signature.hex()}
        )

    @staticmethod
    def from_line(line: bytes) -> SignedEntry:
        """The entry of a line of an export. Raises ProtocolError for any line that `to_line` does not write."""
        values = parse_canonical(line)
        if not isinstance(values, dict) or set(values) != {"entry", "signature"}:
            raise ProtocolError("Expected a line with entry and signature")
        signature = values["signature"]
        if not isinstance(signature, str) or not re.fullmatch("[0-9a-f]{128}", signature):
            raise ProtocolError("Expected a signature of 64 bytes, hexadecimal")
        content = Entry.from_values(values["entry"]).to_bytes()
        found = SignedEntry(content=content, signature=bytes.fromhex(signature))
        if found.to_line() != line:
            raise ProtocolError("Expected a line as it would be written, found another spelling")
        return found


def hash_of(content: bytes) -> str:
    """SHA-256, 64 hexadecimal digits: how an entry's bytes are named by the next one, and by receipts."""
    return hashlib.sha256(content).hexdigest()


# One written form for all bodies: a dataclass is an object, a tuple an array.


def _written(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _written(getattr(value, each.name)) for each in fields(value)}
    return [_written(each) for each in value] if isinstance(value, tuple) else value


def _read(kind: Any, values: Any) -> Any:
    hints = _fields(kind)
    if not isinstance(values, Mapping) or set(values) != set(hints):
        raise ProtocolError(f"Expected {', '.join(sorted(hints))}")
    try:
        return kind(**{name: _value(hint, values[name]) for name, hint in hints.items()})
    except PrivacyError as error:
        raise ProtocolError(error.message) from error


def _value(hint: Any, raw: Any) -> Any:
    """`raw` of JSON as `hint` wants it, as far as their forms differ; the dataclass checks the rest."""
    if get_origin(hint) is types.UnionType:
        return None if raw is None else _value(get_args(hint)[0], raw)
    if get_origin(hint) is tuple:
        if not isinstance(raw, list):
            raise ProtocolError("Expected an array")
        return tuple(_value(get_args(hint)[0], each) for each in raw)
    if is_dataclass(hint):
        return _read(hint, raw)
    return float(raw) if hint is float and type(raw) is int else raw


def _check(owner: Any) -> None:
    """Raise ProtocolError unless every field has its declared type."""
    for name, hint in _fields(owner.__class__).items():
        if not fits(getattr(owner, name), hint):
            raise ProtocolError(f"Expected another type of {name}")


@functools.cache
def _fields(kind: type[Any]) -> dict[str, Any]:
    """Fields by name and type; kept, as evaluating annotations takes longer than all else that an entry needs."""
    hints = typing.get_type_hints(kind)
    return {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}


def _require_name(*names: str) -> None:
    for name in names:
        if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
            raise ProtocolError(f"Expected a printable name of 1 to {_LONGEST_NAME} characters")


def _require_hash(*names: str) -> None:
    for name in names:
        if not re.fullmatch("[0-9a-f]{64}", name):
            raise ProtocolError("Expected 64 hexadecimal digits")


def _require_index(index: int) -> None:
    if not 0 <= index < 2**31:
        raise ProtocolError(f"Expected a number from 0 to 2^31, found {index}")
