"""Targets: messages between a site and the coordinator, and the sums that a coordinator keeps."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fuzzing import mutations, mutations_messages
from fuzzing.engine import Target
from fuzzing.judge_json import judge_message, message_parts
from fuzzing.judge_ledger import hexadecimal, index, kept_sum, receipts_by_site, shaped
from fuzzing.judge_study import text
from fuzzing.mutations import BYTES, LINES
from fuzzing.mutations_messages import MESSAGES
from fuzzing.places import new_directory
from fuzzing.studies import declarations
from privacy.errors import ProtocolError
from privacy.signing import SigningKey
from server.checkpoint import Checkpoint, KeptSum
from study.codec import decode, encode
from study.envelope import content_of, query_message, refusal_of
from study.models import model_of
from study.queries import Refusal, SumAnswer, SumQuery
from study.receipts import Receipt, SignedReceipt
from study.rules import Rule, reason_of

__all__ = ["TARGETS"]

HASH = "ab" * 32


# Frames


def _frames() -> Sequence[bytes]:
    kinds = ("float32", "float64", "int32", "int64", "uint32", "uint64")
    return [
        encode({}, {}), encode({"kind": "example", "index": 7}, {"a": np.arange(3.0), "b": np.array(2, np.int32)}),
        encode({"a": [1, None, {"b": "é"}]}, {kind: np.arange(2).astype(kind) for kind in kinds}),
        encode({}, {"": np.zeros((0, 5)), "\u2028\x01": np.full((2, 1, 2), np.nan), "z": np.zeros((), np.float32)}),
    ]  # fmt: skip


MESSAGE = Target(
    name="message", seeds=_frames, mutations=MESSAGES, garbage=mutations_messages.garbage, read=decode,
    errors=(ProtocolError,), judge=judge_message, write=lambda found: encode(*found), weight=2,
)  # fmt: skip


# Queries


@functools.cache
def _chains() -> Sequence[tuple[SignedReceipt, ...]]:
    """Of three sites, of one, two and three receipts."""
    found = []
    for site in range(3):
        key, chain = SigningKey.from_seed(bytes([site]) * 32), []
        for number in range(site + 1):
            receipt = Receipt(
                study=HASH, index=number, transcript="01" * 32, sequence=2**30 + number, head=f"{number + 1:064x}",
                previous=f"{number:064x}", answer="45" * 32,
            )  # fmt: skip
            chain.append(SignedReceipt.sign(receipt, key))
        found.append(tuple(chain))
    return found


@functools.cache
def _queries() -> Sequence[bytes]:
    found = []
    for number, each in enumerate(declarations()):
        parameters = model_of(each.study).initial(bytes(32)) if number < 5 else {}
        query = SumQuery(
            study=each.hash, index=number, function="gradient", parameters=parameters, nonce=bytes(range(16)),
            receipts=dict(zip((1, 2, 99_999)[: number % 4], _chains(), strict=False)),
        )  # fmt: skip
        found.append(query.to_bytes())
    return found


def _judge_query(data: bytes, query: SumQuery) -> str | None:
    head, arrays = message_parts(data)
    fields = {
        "kind": lambda value: value == "sum-query", "study": hexadecimal(64),
        "index": index, "function": text, "nonce": hexadecimal(32), "receipts": receipts_by_site,
    }  # fmt: skip
    if not shaped(fields)(head):
        return "it is no query"
    shown = {
        str(site): [each.to_values() for each in chain] for site, chain in query.receipts.items()
    }
    if shown != head["receipts"] or len(shown) > 1000:
        return "receipts are lost"
    return (
        judge_message(data, (head, query.parameters))
        if arrays.keys() == query.parameters.keys()
        else "arrays are lost"
    )


QUERY = Target(
    name="query", seeds=_queries, mutations=MESSAGES, garbage=mutations_messages.garbage,
    read=SumQuery.from_bytes, errors=(ProtocolError,), judge=_judge_query, write=SumQuery.to_bytes, weight=2,
)  # fmt: skip


# Answers

_LARGEST = 1000
_DIMENSION = 5


def _answers() -> Sequence[bytes]:
    vectors = [np.arange(_DIMENSION, dtype=np.int32), np.full(_DIMENSION, -_LARGEST, np.int32)]
    return [SumAnswer(query_hash=HASH, vector=each, nonce=bytes(16)).to_bytes() for each in vectors]


def _read_answer(data: bytes) -> SumAnswer:
    """As the coordinator reads an answer to the query that it has just asked."""
    answer = SumAnswer.from_bytes(data)
    answer.checked(HASH, _DIMENSION, np.int32, _LARGEST)
    return answer


def _judge_answer(data: bytes, answer: SumAnswer) -> str | None:
    head, arrays = message_parts(data)
    fields = {
        "kind": lambda value: value == "sum-answer",
        "query": lambda value: value == HASH,
        "nonce": hexadecimal(32),
    }
    if not shaped(fields)(head) or list(arrays) != ["vector"]:
        return "it is no answer to this query"
    vector = arrays["vector"]
    if (
        vector.shape != (_DIMENSION,)
        or vector.dtype != np.int32
        or max(map(abs, vector.tolist())) > _LARGEST
    ):
        return "no honest site could have sent it"
    return judge_message(data, (head, {"vector": answer.vector}))


ANSWER = Target(
    name="answer", seeds=_answers, mutations=MESSAGES, garbage=mutations_messages.garbage,
    read=_read_answer, errors=(ProtocolError,), judge=_judge_answer, write=SumAnswer.to_bytes, weight=2,
)  # fmt: skip


def _answers_in_the_clear() -> Sequence[bytes]:
    vector = np.array([0.5, -0.0, 1e308, 5e-324, 0.0])
    return [SumAnswer(query_hash=HASH, vector=vector, nonce=bytes(16)).to_bytes()]


def _read_answer_in_the_clear(data: bytes) -> SumAnswer:
    answer = SumAnswer.from_bytes(data)
    answer.checked(HASH, _DIMENSION, np.float64, np.inf)
    return answer


def _judge_answer_in_the_clear(data: bytes, answer: SumAnswer) -> str | None:
    vector = message_parts(data)[1]["vector"]
    fits = vector.dtype == np.float64 and vector.shape == (_DIMENSION,)
    return (
        None
        if fits and all(abs(each) < float("inf") for each in vector.tolist())
        else "it is not finite"
    )


UNSAFE_ANSWER = Target(
    name="unsafe-answer", seeds=_answers_in_the_clear, mutations=MESSAGES, garbage=mutations_messages.garbage,
    read=_read_answer_in_the_clear, errors=(ProtocolError,), judge=_judge_answer_in_the_clear, write=SumAnswer.to_bytes,
)  # fmt: skip


# Sums of a checkpoint


def _kept(**changed: Any) -> KeptSum:
    values = {
        "index": 1, "function": "gradient", "round": 1, "query_hash": HASH, "survivors": ("site-1", "site-3"),
        "missing": ("site-2",), "total": np.array([1, -2, 2**40, 0]), "seconds": 1.0, "refusals": {"site-2": "asleep"},
    }  # fmt: skip
    return KeptSum(**(values | changed))


@functools.cache
def _directory() -> Path:
    """A checkpoint that holds its first sum; the second is the input."""
    path = new_directory()
    Checkpoint(path, declarations()[0], durable=False).keep(_kept(index=0))
    return path


def _read_kept(data: bytes) -> KeptSum:
    (_directory() / "000001.sum").write_bytes(data)
    return list(Checkpoint(_directory(), declarations()[0], durable=False).kept())[1]


def _written(kept: KeptSum) -> bytes:
    Checkpoint(_directory(), declarations()[0], durable=False).keep(kept)
    return (_directory() / "000001.sum").read_bytes()


def _kept_seeds() -> Sequence[bytes]:
    sums = [
        _kept(),
        _kept(total=None, survivors=(), seconds=0.125),
        _kept(total=np.array([0.5, -0.0]), refusals={}, round=0),
        _kept(
            transcript="67" * 32,
            cohort=("site-1", "site-2", "site-3"),
            signatures={"site-1": "89" * 64},
            nonce="00" * 16,
            members=("0a" * 20, "0b" * 20),
            receipts=dict(zip(("site-1", "site-3"), _chains(), strict=False)),
        ),
        _kept(total=None, survivors=(), lack="too few sites answered"),
    ]
    return [_written(each) for each in sums]


def _judge_kept(data: bytes, kept: KeptSum) -> str | None:
    head, arrays = message_parts(data)
    if not kept_sum(head) or head["index"] != 1:
        return "it is no sum"
    if list(arrays) != [] if head["abandoned"] else list(arrays) != ["total"]:
        return "it has other arrays"
    total = arrays.get("total")
    if total is not None and (total.ndim != 1 or total.dtype.name not in ("int64", "float64")):
        return "its total is no sum of answers"
    return judge_message(data, (head, {} if kept.total is None else {"total": kept.total}))


KEPT_SUM = Target(
    name="kept-sum", seeds=_kept_seeds, mutations=MESSAGES, garbage=mutations_messages.garbage,
    read=_read_kept, errors=(ProtocolError,), judge=_judge_kept, write=_written,
)  # fmt: skip


# Envelopes

Envelope = tuple[str, Any]
"""What a message holds, as plain values, since its bytes are Flower's: ("content", {record: (kind, {field: value})})
or ("error", (code, reason))."""

_VALUES = (b"content", b"", "content", 1, 1.0, True, [b"a"], [1], ["a"], [True])
_CODES = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    999,
    1000,
    1001,
    1005,
    1006,
    1007,
    1008,
    1009,
    1010,
    2**31 - 1,
    -(2**31),
    -1,
)


def _envelopes() -> Sequence[Envelope]:
    refusals = [("error", (int(each), "")) for each in Refusal]
    broken = [tuple(Rule), (Rule.EPSILON, Rule.SITES), (Rule.NOISE,)]
    refusals += [("error", (int(Refusal.NOT_PERMITTED), reason_of(each))) for each in broken]
    return [("content", {"discreet": ("config", {"content": b"bytes"})}), *refusals]


def _change_envelope(draw: random.Random, data: Envelope, pool: Sequence[Envelope]) -> Envelope:
    kind, held = data
    if kind == "content":
        return kind, _change_records(draw, held)
    code, reason = held
    if draw.random() < 0.4:
        return kind, (draw.choice([*_CODES, code + 1, -code]), reason)
    changed = draw.choice((*BYTES, *LINES))(
        draw, reason.replace(",", "\n").encode(), [b"floors.sites\nstudies.trust"]
    )
    return kind, (code, changed.decode("utf-8", "replace").replace("\n", ","))


def _change_records(draw: random.Random, held: Any) -> Any:
    records = dict(held) or {"discreet": ("config", {})}
    name = draw.choice(list(records))
    record, values = records[name][0], dict(records[name][1])
    change = draw.randrange(6)
    if change == 0:
        records[draw.choice(["Discreet", "discreet ", "", "other"])] = records.pop(name)
    elif change == 1:
        records["other"] = (record, values)
    elif change == 2:
        records[name] = (draw.choice(["metric", "array"]), values)
    elif change == 3:
        values[draw.choice(["content", "Content", "", "other"])] = draw.choice(_VALUES)
        records[name] = (record, values)
    elif change == 4:
        records[name] = (record, {})
    else:
        del records[name]
    return records


def _any_error(draw: random.Random) -> Envelope:
    reason = draw.choice(
        [
            "",
            "a" * 5000,
            "\x1b[31mred",
            "floors.sites",
            reason_of(Rule),
            "\u202e",
            mutations.garbage(draw).hex(),
        ]
    )
    return "error", (draw.choice([draw.randrange(-(2**31), 2**31), *Refusal]), reason)


def _read_envelope(data: Envelope) -> tuple[bytes | None, str | None]:
    message = _message_of(data)
    refusal = refusal_of(message)
    return (None, refusal) if refusal is not None else (content_of(message), None)


def _asked() -> Message:
    """A query that is on its way; Flower takes the sender from a global."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return query_message(b"query", index=0, node_id=7, seconds=60.0)


def _message_of(data: Envelope) -> Message:
    kind, held = data
    if kind == "error":
        return Message(Error(code=held[0], reason=held[1] or None), reply_to=_asked())
    make = {
        "config": ConfigRecord,
        "metric": lambda _: MetricRecord({"content": 1}),
        "array": lambda _: ArrayRecord([np.zeros(2)]),
    }
    return Message(
        RecordDict({name: make[record](values) for name, (record, values) in held.items()}),
        reply_to=_asked(),
    )


def _judge_envelope(data: Envelope, found: tuple[bytes | None, str | None]) -> str | None:
    kind, held = data
    content, said = found
    if kind == "content":
        same = (
            held == {"discreet": ("config", {"content": content})}
            and type(content) is bytes
            and said is None
        )
        return None if same else "it does not hold one value of bytes"
    if content is not None or said not in _said(*held):
        return "it is not explained in words of our own"
    return None


def _said(code: int, reason: str) -> list[str]:
    """What may be said of an error."""
    expired = "it had not answered when the message expired"
    known = {int(each): each.explanation for each in Refusal} | {
        3: expired, 4: expired, 5: "it could not be reached",
    }  # fmt: skip
    if code not in known:
        return [f"Flower's error {code}"]
    names, order = reason.split(","), [str(each) for each in Rule]
    places = [order.index(name) if name in order else -1 for name in names]
    sound = code == Refusal.NOT_PERMITTED and -1 not in places and places == sorted(set(places))
    return [
        known[code] + (": " + ", ".join(Rule(name).explanation for name in names) if sound else "")
    ]


ENVELOPE = Target(
    name="envelope", seeds=_envelopes, mutations=(_change_envelope,), garbage=_any_error, read=_read_envelope,
    errors=(ProtocolError,), judge=_judge_envelope,
)  # fmt: skip

TARGETS = (MESSAGE, QUERY, ANSWER, UNSAFE_ANSWER, KEPT_SUM, ENVELOPE)
