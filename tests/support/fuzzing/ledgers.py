"""Targets: entries, exports, receipts and files of a site's ledger, and a site that is asked anything."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from audit.verify import Verdict, verify_export
from client.ledger import Ledger, create_ledger, read_ledger
from client.registration import register
from fuzzing import mutations, mutations_json
from fuzzing.engine import Target
from fuzzing.judge_json import NotCanonicalError, canonical_value
from fuzzing.judge_ledger import (
    problem_of_entry,
    problem_of_export,
    problem_of_line,
    problem_of_receipt,
)
from fuzzing.mutations import BYTES, LINES, Bytes
from fuzzing.mutations_json import JSON, TREES, Pairs, parse, spell
from fuzzing.places import new_directory
from fuzzing.studies import declarations
from privacy.errors import LedgerError, ProtocolError, UserError
from privacy.filters import LifetimeCap, default_orders
from privacy.signing import SigningKey
from study.charging import declared_sums
from study.guarantee import Guarantee
from study.ledger_entries import Approved, Entry, SignedEntry
from study.ledger_state import replay
from study.receipts import SignedReceipt, receipts_of

__all__ = ["KEY", "TARGETS"]

KEY = SigningKey.from_seed(b"a key of tests, nothing secret!!")
_TIME = 1_700_000_000
_CAP = LifetimeCap(epsilon=40.0, delta=1e-5, orders=default_orders(40.0, 1e-5))


class Kept(NamedTuple):
    """A ledger with entries of every kind."""

    path: Path
    lines: list[bytes]
    receipts: list[bytes]


@functools.cache
def ledger() -> Kept:
    """Written by the real ledger, as a site would have."""
    path = new_directory() / "ledger.sqlite"
    create_ledger(path, KEY, "hospital-a", clock=lambda: _TIME)
    opened = Ledger(path, KEY, clock=lambda: _TIME, durable=False)
    data_sets = {
        "first": "records", "second": "records", "third": "free", "fourth": "visits", "fifth": "visits",
    }  # fmt: skip
    for data_set, cap in (("records", _CAP), ("free", None), ("visits", _CAP)):
        register(
            opened, data_set=data_set, namespace=f"people of {data_set}",
            unit="patient" if data_set == "visits" else None,
            identities=[data_set.encode()], cap=cap,
        )  # fmt: skip
    hashes = {}
    for (name, data_set), place in zip(data_sets.items(), (0, 5, 6, 4, 1), strict=True):
        guarantee = Guarantee(declarations()[place])
        hashes[name] = guarantee.declaration.hash
        approval = Approved(
            study=hashes[name], name=name, data_set=data_set, trust=guarantee.study.privacy.trust,
            roster=guarantee.declaration.roster, sums=declared_sums(guarantee),
        )  # fmt: skip
        opened.approve(approval, [data_set.encode()])
    for index in range(3):
        opened.charge(hashes["first"], index, "gradient", f"{index:064x}")
        if index == 1:
            opened.burn(hashes["first"], index)
        else:
            opened.store(hashes["first"], index, b"answer %d" % index)
    for index, survivors in enumerate(((1, 2, 3), None)):
        opened.charge(hashes["fifth"], index, "gradient", f"{index:064x}")
        opened.store(hashes["fifth"], index, b"masked %d" % index)
        opened.agree(hashes["fifth"], index, survivors)
    opened.refuse("ab" * 32, "NOT_APPROVED")
    opened.close_study(hashes["first"])
    opened.charge(hashes["third"], 7, "gradient", "cd" * 32)
    receipts = [each.to_line() for each in receipts_of(opened.state, KEY)]
    opened.close()
    return Kept(path, [each.to_line() for each in read_ledger(path)], receipts)


def _entries() -> list[bytes]:
    return [SignedEntry.from_line(each).content for each in ledger().lines]


# One entry


def _judge_entry(data: bytes, entry: Entry) -> str | None:
    try:
        values = canonical_value(data)
    except NotCanonicalError as error:
        return f"it is not canonical: {error}"
    problem = problem_of_entry(values)
    return problem or (None if entry.to_values() == values else "it is read as another entry")


ENTRY = Target(
    name="entry", seeds=_entries, mutations=JSON, garbage=mutations_json.garbage, read=Entry.from_bytes,
    errors=(ProtocolError,), judge=_judge_entry, write=Entry.to_bytes, weight=3,
)  # fmt: skip


# Signed lines


def _read_line(data: bytes) -> SignedEntry:
    signed = SignedEntry.from_line(data)
    signed.verify(KEY.public)
    return signed


LINE = Target(
    name="signed-entry", seeds=lambda: ledger().lines, mutations=JSON, garbage=mutations_json.garbage, read=_read_line,
    errors=(ProtocolError,), judge=lambda data, _: problem_of_line(data, KEY.public), write=SignedEntry.to_line,
)  # fmt: skip


def _read_receipt(data: bytes) -> SignedReceipt:
    signed = SignedReceipt.from_line(data)
    signed.verify(KEY.public)
    return signed


RECEIPT = Target(
    name="receipt", seeds=lambda: ledger().receipts, mutations=JSON, garbage=mutations_json.garbage, read=_read_receipt,
    errors=(ProtocolError,), judge=lambda data, _: problem_of_receipt(data, KEY.public), write=SignedReceipt.to_line,
)  # fmt: skip


# Exports


def _on_line(change: Bytes) -> Bytes:
    """A mutation of one line."""

    def mutate(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
        lines = data.split(b"\n")
        place, others = draw.randrange(len(lines)), draw.choice(pool).split(b"\n")
        lines[place] = change(draw, lines[place], others)
        return b"\n".join(lines)

    mutate.__name__ = f"{change.__name__}_in_a_line"
    return mutate


def _lines(data: bytes) -> list[bytes]:
    """As the command reads them: a last line that is cut is no line."""
    if data and not data.endswith(b"\n"):
        raise LedgerError("Expected a file whose last line is whole")
    return data.split(b"\n")[:-1]


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"".join(each + b"\n" for each in lines)


def _exports() -> Sequence[bytes]:
    """Of the same ledger at several times, all after its last receipt."""
    lines = ledger().lines
    return [_joined(lines[:count]) for count in range(len(lines) - 3, len(lines) + 1)]


def _judge_export(data: bytes, verdict: Verdict) -> str | None:
    lines, original = data.split(b"\n")[:-1], ledger().lines
    if lines != original[: len(lines)]:
        return "it is another history than the site signed"
    last = max(canonical_value(each)["receipt"]["sequence"] for each in ledger().receipts)
    if len(lines) <= last:
        return "it ends before an entry that was receipted"
    heads = hashlib.sha256(SignedEntry.from_line(lines[-1]).content).hexdigest()
    same = (verdict.state.entries, verdict.state.head, verdict.receipts) == (
        len(lines),
        heads,
        len(ledger().receipts),
    )
    return None if same else "the verdict is about something else"


EXPORT = Target(
    name="export", seeds=_exports, mutations=(*map(_on_line, JSON), *LINES * 3, *BYTES), garbage=mutations.garbage,
    read=lambda data: verify_export(_lines(data), KEY.public, ledger().receipts), errors=(LedgerError,),
    judge=_judge_export, work=(100_000, 20),
)  # fmt: skip


def _judge_receipts(data: bytes, _verdict: Verdict) -> str | None:
    lines = data.split(b"\n")[:-1]
    return None if set(lines) <= set(ledger().receipts) else "the site signed no such receipt"


RECEIPTS = Target(
    name="receipts", seeds=lambda: [_joined(ledger().receipts)], mutations=(*map(_on_line, JSON), *LINES, *BYTES),
    garbage=mutations.garbage, read=lambda data: verify_export(ledger().lines, KEY.public, _lines(data)),
    errors=(LedgerError,), judge=_judge_receipts, work=(100_000, 20), weight=0.5,
)  # fmt: skip


# Exports that their own site forges: whatever it signs has to be a history that may be


def _signed_again(entries: Sequence[Any]) -> bytes:
    """An export of these entries, chained and signed."""
    lines, previous = [], "0" * 64
    for number, entry in enumerate(entries):
        chained = {"sequence": number, "previous": previous}
        pairs = (
            [(key, chained.get(key, value)) for key, value in entry]
            if isinstance(entry, Pairs)
            else None
        )
        content = spell(entry if pairs is None else Pairs(pairs))
        digest = hashlib.sha256(content)
        signature = KEY.sign("ledger", digest.digest()).hex()
        lines.append(b'{"entry":' + content + b',"signature":"' + signature.encode() + b'"}')
        previous = digest.hexdigest()
    return _joined(lines)


def _on_entries(change: Callable[[random.Random, list[Any], list[Any]], list[Any]]) -> Bytes:
    """A mutation of the entries as a mutation of the export that says them, signed."""

    def mutate(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
        return _signed_again(change(draw, _entries_of(data), _entries_of(draw.choice(pool))))

    mutate.__name__ = change.__name__
    return mutate


def _entries_of(data: bytes) -> list[Any]:
    found = (parse(each) for each in data.split(b"\n")[:-1])
    return [
        dict(each)["entry"] for each in found if isinstance(each, Pairs) and "entry" in dict(each)
    ]


def _forge_entry(draw: random.Random, entries: list[Any], others: list[Any]) -> list[Any]:
    if not entries or not others:
        return entries
    place = draw.randrange(len(entries))
    changed = draw.choice(TREES)(draw, entries[place], draw.choice(others))
    return [*entries[:place], changed, *entries[place + 1 :]]


def _forge_order(draw: random.Random, entries: list[Any], others: list[Any]) -> list[Any]:
    if not entries or not others:
        return entries
    copy, place = list(entries), draw.randrange(len(entries))
    change = draw.randrange(4)
    if change == 0:
        copy.insert(draw.randint(0, len(copy)), copy.pop(place))
    elif change == 1:
        del copy[place]
    elif change == 2:
        copy.insert(draw.randint(0, len(copy)), copy[place])
    else:
        copy.insert(draw.randint(0, len(copy)), draw.choice(others))
    return copy


def _on_plain(
    change: Callable[[random.Random, list[dict[str, Any]]], None],
) -> Callable[[random.Random, list[Any], list[Any]], list[Any]]:
    """A change of the entries as plain values, made in place; none, where earlier mutations have left too little."""

    def mutate(draw: random.Random, entries: list[Any], _others: list[Any]) -> list[Any]:
        try:
            plain = [json.loads(spell(each)) for each in entries]
            change(draw, plain)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            return entries
        return [parse(json.dumps(each).encode()) for each in plain]

    mutate.__name__ = change.__name__
    return mutate


def _forge_constants(draw: random.Random, plain: list[dict[str, Any]]) -> None:
    """One constant of a study is another, in its approval and in every charge."""
    approved = draw.choice(_bodies(plain, "approved"))
    declared = draw.choice(approved["sums"])
    where = draw.choice([declared, declared["terms"], declared["terms"]])
    name = draw.choice(sorted(where))
    where[name] = _other_constant(draw, where[name])
    _charge_as_approved(plain, approved)


def _forge_masks(draw: random.Random, plain: list[dict[str, Any]]) -> None:
    """Another trust, roster or threshold of a study, or another sum that is agreed on."""
    every, change = _bodies(plain, "approved"), draw.randrange(5)
    masked = [each for each in every if each["roster"] is not None]
    approved = draw.choice(masked if masked and draw.random() < 0.8 else every)
    if change == 0:
        approved["trust"] = draw.choice(["aggregate", "server", "local", "unsafe", "Server"])
    elif change == 1:
        approved["roster"] = draw.choice([None, None, "00" * 32])
    elif change == 2:
        few = [
            "threshold",
            "quorum",
            "threshold",
            "quorum",
            "colluding",
            "survivors",
            "sites",
            "shares",
        ]
        name, new = draw.choice(few), draw.randrange(5)
        for declared in approved["sums"]:
            declared["terms"][name] = new
        _charge_as_approved(plain, approved)
    elif change == 3:
        survivors = [None, [1, 2], [1, 2, 3], [1, 2, 3, 4], [2, 3, 4]]
        draw.choice(_bodies(plain, "agreed"))["survivors"] = draw.choice(survivors)
    else:
        other = json.loads(
            json.dumps(draw.choice([each for each in plain if each["kind"] == "agreed"]))
        )
        other["body"]["index"] = draw.randrange(4)
        other["body"]["study"] = draw.choice(_bodies(plain, "approved"))["study"]
        plain.insert(draw.randrange(4, len(plain) + 1), other)


def _bodies(plain: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each["body"] for each in plain if each["kind"] == kind]


def _charge_as_approved(plain: list[dict[str, Any]], approved: dict[str, Any]) -> None:
    terms = {declared["function"]: declared["terms"] for declared in approved["sums"]}
    for body in _bodies(plain, "charged"):
        if body["study"] == approved["study"] and body["function"] in terms:
            body["terms"] = terms[body["function"]]


def _other_constant(draw: random.Random, old: Any) -> Any:
    if isinstance(old, bool) or not isinstance(old, int | float):
        return draw.choice(
            ["test", "all", "site", "record", "replace-one", "add-or-remove-one", "gradient", None]
        )
    wide = [0, 1, 2, 3, 32, 64, 1000, 2**31, 2**53, 1e-6, 1e-300, 0.5, 1e15, 1e300, -old]
    return draw.choice([old * 2, old / 2, old + 1, old - 1, old * (1 + 1e-6), *wide])


def _histories() -> Sequence[bytes]:
    """Of the same ledger at any time from its first data set on: short ones too, which are judged faster."""
    lines = ledger().lines
    return [_joined(lines[:count]) for count in range(3, len(lines) + 1, 2)]


FORGED_EXPORT = Target(
    name="forged-export", seeds=_histories,
    mutations=tuple(map(
        _on_entries,
        (_forge_entry, _forge_entry, _on_plain(_forge_constants), _on_plain(_forge_masks), _forge_order),
    )),
    garbage=mutations.garbage, read=lambda data: verify_export(_lines(data), KEY.public), errors=(LedgerError,),
    judge=lambda data, _: problem_of_export(data.split(b"\n")[:-1], KEY.public), work=(100_000, 20),
)  # fmt: skip


# The file


@functools.cache
def _place() -> Path:
    return new_directory() / "ledger.sqlite"


def _read_file(data: bytes) -> tuple[list[bytes], bytes | None]:
    """Read and replayed, then opened by its site: the entries, and the latest answer's bytes."""
    for left in _place().parent.iterdir():
        left.unlink()
    _place().write_bytes(data)
    _place().chmod(0o600)
    entries = read_ledger(_place())
    replay(entries, KEY.public)
    opened = Ledger(_place(), KEY, durable=False)
    try:
        study = declarations()[0].hash
        answer = opened.stored(study, 2) if study in opened.state.studies else None
        return [each.to_line() for each in entries], answer
    finally:
        opened.close()


def _judge_file(_data: bytes, found: tuple[list[bytes], bytes | None]) -> str | None:
    lines, answer = found
    if lines != ledger().lines[: len(lines)]:
        return "it is another history than the site signed"
    return None if answer in (None, b"answer 2") else "it holds another answer than the site gave"


LEDGER_FILE = Target(
    name="ledger-file", seeds=lambda: [ledger().path.read_bytes()], mutations=BYTES, garbage=mutations.garbage,
    read=_read_file, errors=(LedgerError, UserError), judge=_judge_file, work=(100_000, 20), weight=0.5,
)  # fmt: skip

TARGETS = (ENTRY, LINE, RECEIPT, EXPORT, RECEIPTS, FORGED_EXPORT, LEDGER_FILE)
