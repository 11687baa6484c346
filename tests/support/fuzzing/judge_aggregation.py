"""What messages of secure aggregation, and answers with receipts, are by their layout: read a second time by a table."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np

from fuzzing.judge_json import NotCanonicalError, canonical_value
from fuzzing.judge_ledger import receipt_chain

MAGIC = b"DSA\x01"

# A number of so many bytes; so many bytes as they are; bytes or items behind a length of 4; a vector; a whole message.
U1, U2, U4 = ("number", 1), ("number", 2), ("number", 4)
HASH, SEED, PUBLIC, SIGNATURE, EPOCH = (("bytes", width) for width in (32, 32, 32, 64, 16))
SHARE, SEALED = ("bytes", 33), ("bytes", 49)

LAYOUT: dict[int, dict[str, Any]] = {
    1: {"study": HASH, "roster": HASH, "nonce": EPOCH},
    2: {"study": HASH, "roster": HASH, "site": U2, "epoch": EPOCH, "public": PUBLIC, "signature": SIGNATURE},
    3: {"round": U4, "payload": ("counted",), "members": ("list", ("message", 2))},
    4: {"transcript": HASH, "site": U2, "vector": ("vector",), "self_mask": HASH, "shares": ("list", HASH),
        "pair_masks": ("list", HASH), "ciphertexts": ("list", SEALED)},
    5: {"transcript": HASH, "ciphertexts": ("list", SEALED)},
    6: {"transcript": HASH, "site": U2, "shares": ("list", SHARE)},
    7: {"transcript": HASH, "survivors": ("list", U2)},
    8: {"transcript": HASH, "site": U2, "signature": SIGNATURE},
    9: {"transcript": HASH, "survivors": ("list", U2), "signatures": ("list", ("pair", U2, SIGNATURE)),
        "ciphertexts": ("list", SEALED)},
    10: {"transcript": HASH, "site": U2, "shares": ("list", SHARE), "seeds": ("list", SEED)},
}  # fmt: skip


class Vector(NamedTuple):
    """Numbers of a ring of so many bits."""

    bits: int
    numbers: list[int]


class Walk:
    """Reads a message from its front, and remembers where its numbers, counts and lengths stand: (place, width)."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.numbers: list[tuple[int, int]] = []

    def message(self, only: int | None = None) -> tuple[int, dict[str, Any]]:
        """Kind, and fields by name. Raises ValueError where there is none."""
        if self._bytes(4) != MAGIC:
            raise ValueError("no message of this version")
        kind = self._number(1)
        if kind not in LAYOUT or only not in (None, kind):
            raise ValueError("no such kind")
        return kind, {name: self._value(form) for name, form in LAYOUT[kind].items()}

    def _value(self, form: Any) -> Any:  # noqa: PLR0911  one line for each form
        kind, *rest = form
        if kind == "number":
            return self._number(rest[0])
        if kind == "bytes":
            return self._bytes(rest[0])
        if kind == "counted":
            return self._bytes(self._number(4))
        if kind == "pair":
            return tuple(self._value(each) for each in rest)
        if kind == "message":
            return self.message(rest[0])
        if kind == "list":
            return [self._value(rest[0]) for _ in range(self._number(4))]
        bits = self._number(1)
        content = self._bytes(self._number(4))
        if bits not in (32, 64) or len(content) % (bits // 8):
            raise ValueError("no vector")
        return Vector(bits, np.frombuffer(content, {32: "<u4", 64: "<u8"}[bits]).tolist())

    def _number(self, width: int) -> int:
        self.numbers.append((self.at, width))
        return int.from_bytes(self._bytes(width), "big")

    def _bytes(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) < count:
            raise ValueError("it ends too early")
        self.at += count
        return found


def message_parts(data: bytes) -> tuple[int, dict[str, Any]]:
    """Kind and fields of a message that ends where the bytes end. Raises ValueError."""
    walk = Walk(data)
    found = walk.message()
    if walk.at != len(data):
        raise ValueError("bytes behind it")
    return found


def _plain(value: Any) -> Any:
    """A field of a message that was read, as the table has it."""
    if isinstance(value, np.ndarray):
        return Vector(8 * value.dtype.itemsize, value.tolist())
    if isinstance(value, tuple) and value and not isinstance(value[0], int):
        return [_plain(each) for each in value]
    if isinstance(value, tuple):
        return list(value) if all(isinstance(each, int) for each in value) else value
    kind = getattr(value, "KIND", None)
    return (
        value
        if kind is None
        else (kind, {name: _plain(getattr(value, name)) for name in LAYOUT[kind]})
    )


def problem_of_message(data: bytes, message: Any) -> str | None:
    """Why these bytes are not this message; None if they are."""
    try:
        kind, fields = message_parts(data)
    except ValueError as error:
        return f"it is no message: {error}"
    if kind != message.KIND or set(fields) != set(type(message).FIELDS):
        return "it is another kind"
    others = [name for name in fields if _plain(getattr(message, name)) != fields[name]]
    return f"{', '.join(others)} are others" if others else None


def problem_of_answer(data: bytes, answer: bytes) -> str | None:
    """Why these bytes are no answer with its receipt; None if they are."""
    length = int.from_bytes(data[:4], "big")
    line, rest = data[4 : 4 + length], data[4 + length :]
    try:
        values = canonical_value(line)
    except NotCanonicalError as error:
        return f"the receipt is not canonical: {error}"
    if len(data) < 4 or len(line) != length or not receipt_chain(values):
        return "it has no receipt"
    if values[-1]["receipt"]["answer"] != hashlib.sha256(rest).hexdigest():
        return "the receipt is of another answer"
    return None if rest == answer else "it is read as another answer"
