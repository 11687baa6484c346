"""Targets: a roster's file, and a change of the roster that anybody forges who has some of the keys."""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Sequence
from typing import Any

from fuzzing import mutations_json
from fuzzing.engine import Target
from fuzzing.judge_json import NotCanonicalError, canonical_value
from fuzzing.judge_ledger import by_name, hash_, hexadecimal, listed, optional, shaped, signed_by
from fuzzing.judge_study import text, whole
from fuzzing.mutations_json import JSON, TREES, Pairs, parse, spell
from privacy.errors import ProtocolError
from privacy.signing import SigningKey
from study.roster import Roster, RosterSite, SignedRoster

__all__ = ["TARGETS"]

_NAMES = ("Mercy", "st. luke", "Ward_3", "north-4")
_FEDERATION, _STRANGER = (SigningKey.from_seed(bytes([each]) * 32) for each in (100, 101))
_SITES = tuple(
    SigningKey.from_seed(bytes([each]) * 32) for each in range(5)
)  # the fifth is to join
_KEYS = (_FEDERATION, *_SITES, _STRANGER)


def _members(count: int) -> tuple[RosterSite, ...]:
    names = (*_NAMES, "fifth")
    return tuple(
        RosterSite(name=name, key=key.public.hex())
        for name, key in zip(names[:count], _SITES, strict=False)
    )


@functools.cache
def _before() -> Roster:
    """Four sites of which one may collude: three together change the roster."""
    return Roster(federation="hearts", key=_FEDERATION.public.hex(), sites=_members(4))


def _signed(roster: Roster, *keys: SigningKey) -> bytes:
    found = SignedRoster(roster=roster, signatures={})
    for key in keys:
        found = found.signed_by(key)
    return found.to_bytes()


@functools.cache
def _changes() -> Sequence[bytes]:
    """What may follow: another member, one less, another key of the federation."""
    before = _before()
    following = {"federation": "hearts", "key": before.key, "number": 2, "previous": before.hash}
    return [
        _signed(Roster(**following, sites=_members(5)), *_SITES[1:4]),
        _signed(Roster(**following, sites=_members(3)), _FEDERATION, _STRANGER),
        _signed(Roster(**following | {"key": _STRANGER.public.hex()}, colluding=2, sites=_members(4)), _FEDERATION),
    ]  # fmt: skip


# What a roster is


def _name(value: Any) -> bool:
    """Up to 100 letters and digits of ASCII, and a few signs, which it does not begin with."""
    signs = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._-"
    return (
        text(value)
        and 0 < len(value) <= 100
        and set(value) <= set(signs)
        and value[0] not in " ._-"
    )


def _whole_roster(value: Any) -> bool:
    sites = value["sites"]
    names, keys = [each["name"].lower() for each in sites], [each["key"] for each in sites]
    different = len(set(names)) == len(names) and len({*keys, value["key"]}) == len(keys) + 1
    return (
        different
        and (value["number"] == 1) == (value["previous"] is None)
        and value["colluding"] <= len(sites)
    )


_roster = shaped(
    {
        "version": whole(1, 1), "federation": _name, "key": hash_, "number": whole(1, 2**31 - 1),
        "previous": optional(hash_), "colluding": whole(1),
        "sites": listed(shaped({"name": _name, "key": hash_}), least=1, most=1000),
    },
    also=_whole_roster,
)  # fmt: skip
_file = shaped({"roster": _roster, "signatures": by_name(hexadecimal(128), hexadecimal(64))})


def _problem_of_file(data: bytes, found: SignedRoster) -> str | None:
    try:
        values = canonical_value(data)
    except NotCanonicalError as error:
        return f"it is not canonical: {error}"
    if not _file(values):
        return "it is no roster with signatures"
    same = (
        found.roster.to_values() == values["roster"]
        and dict(found.signatures) == values["signatures"]
    )
    return None if same else "it is read as another roster"


ROSTER = Target(
    name="roster", seeds=lambda: [_signed(_before(), _FEDERATION), *_changes()], mutations=JSON,
    garbage=mutations_json.garbage, read=SignedRoster.from_bytes, errors=(ProtocolError,), judge=_problem_of_file,
    write=SignedRoster.to_bytes,
)  # fmt: skip


# What may follow


def _forge(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """Another roster, signed by any of those who have keys; some signatures are left, or are nobody's."""
    value, other = (dict(_pairs(parse(each))) for each in (data, draw.choice(pool)))
    if "roster" not in value or "roster" not in other:
        return data
    roster = value["roster"]
    if draw.random() < 0.6:
        roster = draw.choice(TREES)(draw, roster, other["roster"])
    content = spell(roster)
    signers = draw.sample(_KEYS, draw.choice((0, 1, 2, 2, 3, 3, 4, 5)))
    signatures = {each.public.hex(): each.sign("roster", content).hex() for each in signers}
    if draw.random() < 0.2:
        old = dict(_pairs(value.get("signatures")))
        signatures |= {key: each for key, each in old.items() if isinstance(each, str)}
    if draw.random() < 0.2 and signatures:
        signatures[draw.choice(sorted(signatures))] = draw.choice(["0" * 128, "0" * 127, 5])
    written = json.dumps(signatures, sort_keys=True, separators=(",", ":")).encode()
    return b'{"roster":' + content + b',"signatures":' + written + b"}"


def _pairs(value: Any) -> Pairs:
    return value if isinstance(value, Pairs) else Pairs()


def _read_change(data: bytes) -> SignedRoster:
    found = SignedRoster.from_bytes(data)
    found.check_change(_before())
    return found


def _problem_of_change(data: bytes, found: SignedRoster) -> str | None:
    """The members before are counted one by one, by the bytes that stand in the file."""
    problem = _problem_of_file(data, found)
    if problem is not None:
        return problem
    values, before = canonical_value(data), _before().to_values()
    roster, signatures = values["roster"], values["signatures"]
    if (roster["number"], roster["previous"], roster["federation"]) != (
        2,
        _before().hash,
        "hearts",
    ):
        return "it does not follow"
    content = re.sub(rb',"signatures":\{[^{}]*\}\}$', b"", data)[len(b'{"roster":') :]
    signers = [
        key
        for key, each in signatures.items()
        if signed_by(bytes.fromhex(key), "roster", content, each)
    ]
    if before["key"] in signers:
        return None
    if (roster["key"], roster["colluding"]) != (before["key"], before["colluding"]):
        return "sites have changed what is the federation's"
    votes = len({each["key"] for each in before["sites"]} & set(signers))
    return (
        None if votes >= 3 else f"{votes} of four sites have changed it, of which one may collude"
    )


CHANGE = Target(
    name="roster-change", seeds=_changes, mutations=(*(_forge,) * 8, *JSON), garbage=mutations_json.garbage,
    read=_read_change, errors=(ProtocolError,), judge=_problem_of_change, write=SignedRoster.to_bytes,
)  # fmt: skip

TARGETS = (ROSTER, CHANGE)
