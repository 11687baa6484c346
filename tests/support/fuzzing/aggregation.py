"""Targets: messages of secure aggregation, and answers with their receipts."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

import numpy as np

from fuzzing import mutations
from fuzzing.engine import Target
from fuzzing.judge_aggregation import Walk, problem_of_answer, problem_of_message
from fuzzing.mutations import BYTES
from fuzzing.mutations_json import JSON
from privacy.errors import ProtocolError
from privacy.secure_aggregation.messages import (
    Message,
    OpenReply,
    OpenRequest,
    RevealReply,
    RevealRequest,
    RoundRequest,
    SetupKey,
    SetupRequest,
    SurvivorsReply,
    SurvivorsRequest,
    Upload,
    message_of,
)
from privacy.signing import SigningKey
from study.receipts import Receipt, ReceiptedAnswer, SignedReceipt

__all__ = ["TARGETS", "other_number"]

KEY = SigningKey.from_seed(b"a key of tests, nothing secret!!")


# Messages


def _some(width: int, *labels: int) -> bytes:
    """Bytes that look random and are the same every time."""
    return hashlib.shake_256(repr(labels).encode()).digest(width)


def _members() -> tuple[SetupKey, ...]:
    return tuple(
        SetupKey(
            study=_some(32, 1), roster=_some(32, 2), site=site, epoch=_some(16, 3, site), public=_some(32, 4, site),
            signature=_some(64, 5, site),
        )
        for site in (1, 2, 4)
    )  # fmt: skip


def _messages() -> Sequence[bytes]:
    """Of every kind, long and short."""
    hash_, members = _some(32, 6), _members()
    hashes, sealed, shares, seeds = (
        tuple(_some(width, width, each) for each in range(3)) for width in (32, 49, 33, 32)
    )
    found: list[Message] = [
        SetupRequest(study=hash_, roster=hash_, nonce=bytes(16)), members[0],
        RoundRequest(round=7, payload=b"a query", members=members), RoundRequest(round=0, payload=b"", members=()),
        Upload(transcript=hash_, site=2, vector=np.array([0, 1, 2**32 - 1], np.uint32), self_mask=hash_,
               shares=hashes, pair_masks=hashes[:2], ciphertexts=sealed[:2]),
        Upload(transcript=hash_, site=65_535, vector=np.array([2**64 - 1], np.uint64), self_mask=hash_, shares=(),
               pair_masks=(), ciphertexts=()),
        OpenRequest(transcript=hash_, ciphertexts=sealed), OpenReply(transcript=hash_, site=1, shares=shares),
        SurvivorsRequest(transcript=hash_, survivors=(1, 2, 1000)),
        SurvivorsReply(transcript=hash_, site=1, signature=_some(64, 7)),
        RevealRequest(transcript=hash_, survivors=(1, 2), signatures=((1, _some(64, 8)), (2, _some(64, 9))),
                      ciphertexts=sealed[:1]),
        RevealReply(transcript=hash_, site=1, shares=shares, seeds=seeds),
    ]  # fmt: skip
    return [each.to_bytes() for each in found]


def other_number(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A kind, a site, a count or a length is another; what follows stays as it is."""
    walk = Walk(data)
    try:
        walk.message()
    except ValueError:
        if not walk.numbers:
            return data
    place, width = draw.choice(walk.numbers)
    most = 256**width
    old = int.from_bytes(data[place : place + width], "big")
    new = (
        draw.choice([0, 1, 2, old + 1, old - 1, 2 * old, 31, 32, 64, most - 1, most // 2, 2**24])
        % most
    )
    return data[:place] + new.to_bytes(width, "big") + data[place + width :]


def other_items(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Bytes of an item more or fewer, and a count that says so, wherever such a count stands."""
    walk = Walk(data)
    try:
        walk.message()
    except ValueError:
        return data
    places = [place for place, width in walk.numbers if width == 4]
    if not places:
        return data
    place, width = draw.choice(places), draw.choice([1, 2, 4, 8, 32, 33, 49, 66, 64])
    count, rest = int.from_bytes(data[place : place + 4], "big"), data[place + 4 :]
    more = draw.choice([1, -1])
    if not 0 <= count + more < 2**32:
        return data
    rest = draw.randbytes(width) + rest if more == 1 else rest[width:]
    return data[:place] + (count + more).to_bytes(4, "big") + rest


AGGREGATION = Target(
    name="aggregation", seeds=_messages, mutations=(*(other_number, other_items) * 4, *BYTES),
    garbage=lambda draw: b"DSA\x01" + mutations.garbage(draw), read=message_of, errors=(ProtocolError,),
    judge=problem_of_message, write=Message.to_bytes, weight=2,
)  # fmt: skip


# Answers with receipts


def _receipted(answer: bytes) -> bytes:
    """With one receipt that was lost before it, for an answer that is not empty."""
    lost = Receipt(
        study="01" * 32,
        index=2,
        transcript="22" * 32,
        sequence=7,
        head="44" * 32,
        previous="0" * 64,
        answer="66" * 32,
    )
    receipt = Receipt(
        study="01" * 32, index=3, transcript="23" * 32, sequence=9, head="45" * 32, previous="44" * 32,
        answer=hashlib.sha256(answer).hexdigest(),
    )  # fmt: skip
    chain = [SignedReceipt.sign(each, KEY) for each in ([lost] if answer else []) + [receipt]]
    return ReceiptedAnswer(chain=tuple(chain), answer=answer).to_bytes()


def _split(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:4], "big")
    return data[4 : 4 + length], data[4 + length :]


def _join(line: bytes, answer: bytes) -> bytes:
    return len(line).to_bytes(4, "big") + line + answer


def _other_answer(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """Another answer, mostly with a receipt that is of it."""
    line, answer = _split(data)
    changed = draw.choice(BYTES)(draw, answer, pool)
    if draw.random() < 0.7:
        old, new = (hashlib.sha256(each).hexdigest().encode() for each in (answer, changed))
        line = line.replace(old, new)
    return _join(line, changed)


def _other_line(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """Another receipt, its length as it should be."""
    line, answer = _split(data)
    return _join(draw.choice(JSON)(draw, line, [_split(draw.choice(pool))[0]]), answer)


def _other_value(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A receipt of something else, spelled as it should be."""
    line, answer = _split(data)
    try:
        values = json.loads(line)
        inner = draw.choice(values)["receipt"]
        name = draw.choice(sorted(set(inner) - {"answer"}))
        inner[name] = draw.choice(["67" * 32, 0, 1, 2**31 - 1, 2**31])
    except (ValueError, TypeError, LookupError, RecursionError):
        return data
    return _join(json.dumps(values, separators=(",", ":"), sort_keys=True).encode(), answer)


def _other_length(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    old = int.from_bytes(data[:4], "big")
    new = draw.choice([0, 1, old - 1, old + 1, len(data) - 4, len(data), 2**31, 2**32 - 1]) % 2**32
    return new.to_bytes(4, "big") + data[4:]


def _read_receipted(data: bytes) -> ReceiptedAnswer:
    return ReceiptedAnswer.from_bytes(data)


RECEIPTED = Target(
    name="receipted-answer", seeds=lambda: [_receipted(each) for each in (b"", b"answer", bytes(range(256)))],
    mutations=(*(_other_answer, _other_line, _other_value, _other_length) * 3, *BYTES),
    garbage=lambda draw: _join(draw.choice([b"{}", b"null", b""]), mutations.garbage(draw)),
    read=_read_receipted, errors=(ProtocolError,),
    judge=lambda data, found: problem_of_answer(data, found.answer), write=ReceiptedAnswer.to_bytes,
)  # fmt: skip

TARGETS = (AGGREGATION, RECEIPTED)
