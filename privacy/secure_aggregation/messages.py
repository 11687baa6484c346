"""What sites and coordinator say to each other, and the one written form of it.

| trip | coordinator to site | site to coordinator |
|---|---|---|
| setup | `SetupRequest` | `SetupKey`, signed |
| A | `RoundRequest` | `Upload`: the masked vector, and shares of this round's self-mask for every other site |
| B, all are there | `OpenRequest`: the shares meant for this site | `OpenReply`: its share of every self-mask |
| B, some are missing | `SurvivorsRequest`: one set of them | `SurvivorsReply`, signed |
| C | `RevealRequest`: tau signatures of that set, and the shares | `RevealReply`: shares, and seeds of pairs |

    magic | kind, 1 byte | the fields in order, each of a fixed width or behind its length

Integers are big-endian, numbers of a vector little-endian. Every value has one form: what `to_bytes` does not write is
refused. Sites are numbered from 1 by their place on the roster; lists of sites ascend.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from privacy.errors import ProtocolError
from privacy.secure_aggregation.shamir import SHARE_BYTES
from privacy.secure_aggregation.thresholds import MOST_SITES
from privacy.signing import PROTOCOL

__all__ = [
    "CIPHERTEXT_BYTES", "HASH_BYTES", "MESSAGES", "Message", "Numbers", "OpenReply", "OpenRequest", "RevealReply",
    "RevealRequest", "RoundRequest", "SetupKey", "SetupRequest", "SurvivorsReply", "SurvivorsRequest", "Upload",
    "is_message", "message_of",
]  # fmt: skip

HASH_BYTES = 32
CIPHERTEXT_BYTES = SHARE_BYTES + 16
"""A share under ChaCha20-Poly1305."""

Numbers = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
"""A vector of the ring of integers modulo 2^32 or 2^64."""

_MAGIC = b"DSA" + bytes([PROTOCOL])


class _Reader:
    """Bytes of a message, taken from the front; a view, so that a vector is not copied."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def take(self, count: int) -> memoryview:
        if len(self._rest) < count:
            raise ProtocolError(
                f"Expected {count} more bytes of a message, found {len(self._rest)}"
            )
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def end(self) -> None:
        if len(self._rest):
            raise ProtocolError(
                f"Expected the end of a message, found {len(self._rest)} more bytes"
            )


_Pieces = list[bytes | memoryview]
"""A message while it is written: what is long is copied once, when they are joined."""


@dataclass(frozen=True)
class _Field:
    """How one kind of value is written and read."""

    write: Callable[[_Pieces, Any], None]
    read: Callable[[_Reader], Any]


def _fixed(width: int) -> _Field:
    def write(pieces: _Pieces, value: bytes) -> None:
        if len(value) != width:
            raise ProtocolError(f"Expected {width} bytes, found {len(value)}")
        pieces.append(value)

    return _Field(write, lambda reader: bytes(reader.take(width)))


def _number(width: int) -> _Field:
    def write(pieces: _Pieces, value: int) -> None:
        if not 0 <= value < 1 << (8 * width):
            raise ProtocolError(f"Expected a number of {width} bytes, found {value}")
        pieces.append(value.to_bytes(width, "big"))

    return _Field(write, lambda reader: reader.number(width))


def _list(item: _Field) -> _Field:
    def write(pieces: _Pieces, values: tuple[Any, ...]) -> None:
        pieces.append(struct.pack(">I", len(values)))
        for value in values:
            item.write(pieces, value)

    def read(reader: _Reader) -> tuple[Any, ...]:
        count = reader.number(4)
        if count > MOST_SITES:
            raise ProtocolError(f"Expected a list of at most {MOST_SITES}, found {count}")
        return tuple(item.read(reader) for _ in range(count))

    return _Field(write, read)


def _pair(first: _Field, second: _Field) -> _Field:
    def write(pieces: _Pieces, values: tuple[Any, Any]) -> None:
        first.write(pieces, values[0])
        second.write(pieces, values[1])

    return _Field(write, lambda reader: (first.read(reader), second.read(reader)))


def _write_bytes(pieces: _Pieces, value: bytes) -> None:
    pieces += [struct.pack(">I", len(value)), value]


def _write_vector(pieces: _Pieces, vector: Numbers) -> None:
    width = vector.dtype.itemsize
    little: Numbers = np.ascontiguousarray(vector, f"<u{width}")
    pieces += [bytes([8 * width]), struct.pack(">I", little.nbytes), little.data]


def _read_vector(reader: _Reader) -> Numbers:
    bits = reader.number(1)
    if bits not in (32, 64):
        raise ProtocolError(f"Expected numbers of 32 or 64 bits, found {bits}")
    content = reader.take(reader.number(4))
    if len(content) % (bits // 8):
        raise ProtocolError("Expected whole numbers of a vector")
    vector: Numbers = np.frombuffer(content, f"<u{bits // 8}").astype(f"u{bits // 8}", copy=False)
    return vector


_SITE, _HASH, _SIGNATURE, _SEED = _number(2), _fixed(HASH_BYTES), _fixed(64), _fixed(32)
_SHARE, _CIPHERTEXT = _fixed(SHARE_BYTES), _fixed(CIPHERTEXT_BYTES)
_BYTES = _Field(_write_bytes, lambda reader: bytes(reader.take(reader.number(4))))
_VECTOR = _Field(_write_vector, _read_vector)


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message; `KIND` and `FIELDS` are its written form."""

    KIND: ClassVar[int]
    FIELDS: ClassVar[dict[str, _Field]]

    def to_bytes(self) -> bytes:
        """The written form. Raises ProtocolError for a value that has none."""
        pieces: _Pieces = [_MAGIC, bytes([self.KIND])]
        for name, each in self.FIELDS.items():
            each.write(pieces, getattr(self, name))
        return b"".join(pieces)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The message of these bytes. Raises ProtocolError for any that `to_bytes` does not write."""
        message = message_of(data)
        if not isinstance(message, cls):
            raise ProtocolError(f"Expected a {cls.__name__}, found a {type(message).__name__}")
        return message


@dataclass(frozen=True, kw_only=True)
class SetupRequest(Message):
    """Asks a site for a fresh key. One that is asked again with this nonce, before its key was used, repeats itself."""

    KIND = 1
    FIELDS = {"study": _HASH, "roster": _HASH, "nonce": _fixed(16)}  # noqa: RUF012
    study: bytes
    roster: bytes
    nonce: bytes


@dataclass(frozen=True, kw_only=True)
class SetupKey(Message):
    """A site's X25519 key for one session of one study, signed by its identity.

    Attributes:
        site: its number. epoch: 16 fresh random bytes, so that no two keys are taken for each other.
        public: 32 bytes. signature: of everything before it, tag "setup".
    """

    KIND = 2
    FIELDS = {  # noqa: RUF012
        "study": _HASH, "roster": _HASH, "site": _SITE, "epoch": _fixed(16), "public": _fixed(32),
        "signature": _SIGNATURE,
    }  # fmt: skip
    study: bytes
    roster: bytes
    site: int
    epoch: bytes
    public: bytes
    signature: bytes

    @property
    def signed(self) -> bytes:
        """What the signature is of."""
        return self.to_bytes()[:-64]


_SETUP_KEY = _Field(
    lambda pieces, key: pieces.append(key.to_bytes()), lambda reader: _read(reader, SetupKey)
)


@dataclass(frozen=True, kw_only=True)
class RoundRequest(Message):
    """Asks every member of a session for its masked vector.

    Attributes:
        round: number of the query within the study, from 0. payload: what is asked, model and all.
        members: keys of the whole session, by site.
    """

    KIND = 3
    FIELDS = {"round": _number(4), "payload": _BYTES, "members": _list(_SETUP_KEY)}  # noqa: RUF012
    round: int
    payload: bytes
    members: tuple[SetupKey, ...]


@dataclass(frozen=True, kw_only=True)
class Upload(Message):
    """A masked vector, and all that undoes its self-mask once enough sites agree.

    Attributes:
        transcript: of the round, as this site saw it. vector: uint32 or uint64, shape (d,).
        self_mask: hash of the self-mask's seed. shares: hash of every member's share of it, by site.
        pair_masks: hash of the seed shared with every other member. ciphertexts: for every other member, its share.
    """

    KIND = 4
    FIELDS = {  # noqa: RUF012
        "transcript": _HASH, "site": _SITE, "vector": _VECTOR, "self_mask": _HASH, "shares": _list(_HASH),
        "pair_masks": _list(_HASH), "ciphertexts": _list(_CIPHERTEXT),
    }  # fmt: skip
    transcript: bytes
    site: int
    vector: Numbers
    self_mask: bytes
    shares: tuple[bytes, ...]
    pair_masks: tuple[bytes, ...]
    ciphertexts: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class OpenRequest(Message):
    """Everybody has uploaded: `ciphertexts` are what every other member has sealed for this site, by site."""

    KIND = 5
    FIELDS = {"transcript": _HASH, "ciphertexts": _list(_CIPHERTEXT)}  # noqa: RUF012
    transcript: bytes
    ciphertexts: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class OpenReply(Message):
    """This site's share of every member's self-mask, its own included, by site."""

    KIND = 6
    FIELDS = {"transcript": _HASH, "site": _SITE, "shares": _list(_SHARE)}  # noqa: RUF012
    transcript: bytes
    site: int
    shares: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class SurvivorsRequest(Message):
    """Some are missing: who is not."""

    KIND = 7
    FIELDS = {"transcript": _HASH, "survivors": _list(_SITE)}  # noqa: RUF012
    transcript: bytes
    survivors: tuple[int, ...]

    @property
    def signed(self) -> bytes:
        """What a site signs, tag "survivors"."""
        return self.to_bytes()


@dataclass(frozen=True, kw_only=True)
class SurvivorsReply(Message):
    """A signature of that set."""

    KIND = 8
    FIELDS = {"transcript": _HASH, "site": _SITE, "signature": _SIGNATURE}  # noqa: RUF012
    transcript: bytes
    site: int
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class RevealRequest(Message):
    """Enough have signed: `signatures` by site, and what every other survivor has sealed for this site."""

    KIND = 9
    FIELDS = {  # noqa: RUF012
        "transcript": _HASH, "survivors": _list(_SITE), "signatures": _list(_pair(_SITE, _SIGNATURE)),
        "ciphertexts": _list(_CIPHERTEXT),
    }  # fmt: skip
    transcript: bytes
    survivors: tuple[int, ...]
    signatures: tuple[tuple[int, bytes], ...]
    ciphertexts: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class RevealReply(Message):
    """This site's share of every survivor's self-mask, and its pair seed with every member that is missing."""

    KIND = 10
    FIELDS = {  # noqa: RUF012
        "transcript": _HASH, "site": _SITE, "shares": _list(_SHARE), "seeds": _list(_SEED),
    }  # fmt: skip
    transcript: bytes
    site: int
    shares: tuple[bytes, ...]
    seeds: tuple[bytes, ...]


MESSAGES: dict[int, type[Message]] = {
    each.KIND: each
    for each in (
        SetupRequest, SetupKey, RoundRequest, Upload, OpenRequest, OpenReply, SurvivorsRequest, SurvivorsReply,
        RevealRequest, RevealReply,
    )
}  # fmt: skip


def is_message(data: bytes) -> bool:
    """Do these bytes begin as messages of secure aggregation do?"""
    return data.startswith(_MAGIC[:3])


def message_of(data: bytes) -> Message:
    """The message of these bytes, whatever its kind. Raises ProtocolError for any that is not written so."""
    reader = _Reader(data)
    message = _read(reader, None)
    reader.end()
    return message


def _read(reader: _Reader, expected: type[Message] | None) -> Message:
    if bytes(reader.take(len(_MAGIC))) != _MAGIC:
        raise ProtocolError(f"Expected a message of secure aggregation, version {PROTOCOL}")
    kind = MESSAGES.get(reader.number(1))
    if kind is None or expected not in (None, kind):
        raise ProtocolError("Expected another kind of message")
    return kind(**{name: each.read(reader) for name, each in kind.FIELDS.items()})
