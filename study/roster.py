"""The roster: which sites form a federation, by name and key. Membership is not the server's to decide.

    federation key (kept off the server) --signs--> version 1 --> version 2 --> ...

Every site pins the roster that it was shown by its fingerprint. A later version counts if the federation key has signed
it, or more than (n + c) / 2 of the n sites of the one before: any two such majorities share an honest site. A study is
bound to one roster by its hash, so a change of the roster is a new study.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privacy.errors import ProtocolError
from privacy.secure_aggregation.thresholds import MOST_SITES
from privacy.signing import SigningKey, fingerprint, verify
from study.canonical import canonical_json, digest, parse_canonical

__all__ = ["Roster", "RosterSite", "SignedRoster"]

ROSTER_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class RosterSite:
    """One site: its name, and the Ed25519 public key of its identity, hexadecimal."""

    name: str
    key: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ProtocolError(
                "Expected a site's name of up to 100 letters, digits, spaces, dots, lines and hyphens"
            )
        _require_key(self.key)


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The members of a federation.

    Attributes:
        federation: its name. key: its public key, hexadecimal. number: 1, 2, ... of its versions. previous: hash of
            the version before, None for the first.
        colluding: c, how many sites the federation takes to collude at most: when its sites change the roster, and in
            every study, which has to guard against as many.
        sites: n, in the order that gives each its number, from 1.
    """

    federation: str
    key: str
    number: int = 1
    previous: str | None = None
    colluding: int = 1
    sites: tuple[RosterSite, ...]

    def __post_init__(self) -> None:
        RosterSite(name=self.federation, key=self.key)  # the same rules
        if type(self.number) is not int or not 1 <= self.number < 2**31:
            raise ProtocolError("Expected a roster's number from 1")
        if (self.previous is None) != (self.number == 1):
            raise ProtocolError("Expected the hash of the version before, except for the first")
        if self.previous is not None:
            _require_key(self.previous)
        if not 1 <= len(self.sites) <= MOST_SITES:
            raise ProtocolError(f"Expected 1 to {MOST_SITES} sites, found {len(self.sites)}")
        if type(self.colluding) is not int or not 1 <= self.colluding <= len(self.sites):
            raise ProtocolError("Expected colluding from 1 to the number of sites")
        names = {each.name.casefold() for each in self.sites}
        keys = {self.key, *(each.key for each in self.sites)}
        if len(names) < len(self.sites) or len(keys) < len(self.sites) + 1:
            raise ProtocolError(
                "Expected names and keys of which no two are equal, the federation's included"
            )

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical form, hexadecimal."""
        return digest(self.to_values())

    @property
    def fingerprint(self) -> str:
        """What people compare when they pin it."""
        return fingerprint(canonical_json(self.to_values()))

    @functools.cached_property
    def identities(self) -> tuple[bytes, ...]:
        """The sites' keys, by number."""
        return tuple(bytes.fromhex(each.key) for each in self.sites)

    @functools.cached_property
    def names(self) -> Mapping[int, str]:
        """The sites' names by number, from 1."""
        return {number: each.name for number, each in enumerate(self.sites, start=1)}

    @functools.cached_property
    def numbers(self) -> Mapping[str, int]:
        """The sites' numbers by name."""
        return {name: number for number, name in self.names.items()}

    def number_of(self, public: bytes) -> int:
        """The number of the site with this key. Raises ProtocolError for a stranger."""
        if public not in self.identities:
            raise ProtocolError(
                f"Expected a site of the roster, found one that is not: its key is {fingerprint(public)}",
                hint="the federation has to sign a roster with this site on it",
            )
        return self.identities.index(public) + 1

    def to_values(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "version": ROSTER_VERSION, "federation": self.federation, "key": self.key, "number": self.number,
            "previous": self.previous, "colluding": self.colluding,
            "sites": [{"name": each.name, "key": each.key} for each in self.sites],
        }  # fmt: skip

    @staticmethod
    def from_values(values: Any) -> Roster:
        """The roster of its JSON form. Raises ProtocolError."""
        names = {"version", "federation", "key", "number", "previous", "colluding", "sites"}
        if not isinstance(values, dict) or set(values) != names:
            raise ProtocolError(f"Expected a roster with {', '.join(sorted(names))}")
        if values["version"] != ROSTER_VERSION or type(values["version"]) is not int:
            raise ProtocolError(f"Expected a roster of version {ROSTER_VERSION}")
        sites = values["sites"]
        if not isinstance(sites, list) or not all(
            isinstance(each, dict) and set(each) == {"name", "key"} for each in sites
        ):
            raise ProtocolError("Expected sites with name and key")
        rest = {name: values[name] for name in names - {"version", "sites"}}
        return Roster(**rest, sites=tuple(RosterSite(**each) for each in sites))


@dataclass(frozen=True, kw_only=True)
class SignedRoster:
    """A roster, and signatures of it by public key, hexadecimal both."""

    roster: Roster
    signatures: Mapping[str, str]

    def signed_by(self, key: SigningKey) -> SignedRoster:
        """The same with one more signature."""
        signature = key.sign("roster", canonical_json(self.roster.to_values()))
        return SignedRoster(
            roster=self.roster, signatures={**self.signatures, key.public.hex(): signature.hex()}
        )

    def check_first(self) -> None:
        """Raise ProtocolError unless the federation's own key has signed it."""
        if not self._is_signed(self.roster.key):
            raise ProtocolError("Expected a roster that the federation's key has signed")

    def check_signed(self) -> None:
        """Raise ProtocolError for what can be told to be wrong without the version before.

        A first version has to be signed by the federation's key; of any version no signature is false.
        """
        false = [key for key in self.signatures if not self._is_signed(key)]
        if false:
            raise ProtocolError(
                f"Expected a signature (roster) by {fingerprint(bytes.fromhex(false[0]))}"
            )
        if self.roster.number == 1:
            self.check_first()

    def check_change(self, before: Roster) -> None:
        """Raise ProtocolError unless this follows `before`, as its federation's key or its sites have signed."""
        after = self.roster
        if (after.number, after.previous, after.federation) != (
            before.number + 1,
            before.hash,
            before.federation,
        ):
            raise ProtocolError(
                f"Expected version {before.number + 1} of this federation, after the version at hand"
            )
        if self._is_signed(before.key):
            return
        if (after.key, after.colluding) != (before.key, before.colluding):
            raise ProtocolError(
                "Expected the federation's key on a change of that key, or of colluding"
            )
        signers = sum(self._is_signed(each.key) for each in before.sites)
        if 2 * signers <= len(before.sites) + before.colluding:
            least = (len(before.sites) + before.colluding) // 2 + 1
            raise ProtocolError(
                f"Expected signatures of the federation's key or of {least} sites, found {signers}"
            )

    def _is_signed(self, key: str) -> bool:
        """Is there a signature of this key? A false one counts for nothing: anybody could add it."""
        if key not in self.signatures:
            return False
        content = canonical_json(self.roster.to_values())
        try:
            verify(bytes.fromhex(key), "roster", content, bytes.fromhex(self.signatures[key]))
        except ProtocolError:
            return False
        return True

    def to_bytes(self) -> bytes:
        """The content of a roster's file."""
        return canonical_json(
            {"roster": self.roster.to_values(), "signatures": dict(self.signatures)}
        )

    @staticmethod
    def from_bytes(content: bytes) -> SignedRoster:
        """The roster of a file; nothing is verified yet. Raises ProtocolError for what `to_bytes` does not write."""
        values = parse_canonical(content)
        if not isinstance(values, dict) or set(values) != {"roster", "signatures"}:
            raise ProtocolError("Expected a roster and signatures")
        signatures = values["signatures"]
        if not isinstance(signatures, dict) or not all(
            _is_hex(key, 64) and _is_hex(each, 128) for key, each in signatures.items()
        ):
            raise ProtocolError("Expected signatures of 64 bytes by key, hexadecimal")
        return SignedRoster(roster=Roster.from_values(values["roster"]), signatures=signatures)


def _require_key(value: object) -> None:
    if not _is_hex(value, 64):
        raise ProtocolError("Expected a key or hash of 64 hexadecimal digits")


def _is_hex(value: object, digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None
