"""Mutations of binary messages: length, head, and the safetensors body with its own length, header and data."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

from fuzzing.mutations import BYTES, Bytes, flip, put
from fuzzing.mutations_json import JSON, Pairs, Token, parse, spell

Parts = tuple[bytes, bytes, bytes]
"""Head, header of the body, data of the body."""

_LENGTHS = (0, 1, 3, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_LONG_LENGTHS = (0, 1, 2, 100_000_000, 100_000_001, 2**31, 2**63 - 1, 2**63, 2**64 - 1)
_DTYPES = (
    "F32",
    "F64",
    "I32",
    "I64",
    "U32",
    "U64",
    "BF16",
    "F16",
    "BOOL",
    "U8",
    "F8_E4M3",
    "C64",
    "F4",
    "",
    "f32",
)
_SIZES = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    2**16,
    2**31,
    2**32,
    2**40,
    2**53,
    2**62,
    2**63,
    2**64 - 1,
    2**64,
)


def split(data: bytes) -> Parts | None:
    """The parts of a message whose lengths are right."""
    if len(data) < 12:
        return None
    length = struct.unpack_from(">I", data)[0]
    head, body = data[4 : 4 + length], data[4 + length :]
    if len(body) < 8:
        return None
    (inner,) = struct.unpack_from("<Q", body)
    return head, body[8 : 8 + inner], body[8 + inner :]


def join(parts: Parts) -> bytes:
    """A message, its lengths as they should be; the header padded to a multiple of 8, as safetensors does."""
    head, header, data = parts
    padded = header + b" " * (-len(header) % 8)
    return struct.pack(">I", len(head)) + head + struct.pack("<Q", len(padded)) + padded + data


def _on(place: int, change: Bytes) -> Bytes:
    """A mutation of one part; the lengths follow."""

    def mutate(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
        parts, other = split(data), split(draw.choice(pool))
        if parts is None or other is None:
            return data
        changed = list(parts)
        changed[place] = change(
            draw, parts[place].rstrip(b" ") if place == 1 else parts[place], [other[place]]
        )
        return join((changed[0], changed[1], changed[2]))

    mutate.__name__ = f"{change.__name__}_{('head', 'header', 'data')[place]}"
    return mutate


def length_of_head(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Another length of the head."""
    if len(data) < 4:
        return data
    length = struct.unpack_from(">I", data)[0]
    new = draw.choice(
        [
            *_LENGTHS,
            (length + 1) % 2**32,
            (length - 1) % 2**32,
            length ^ 1 << draw.randrange(32),
            len(data),
        ]
    )
    return struct.pack(">I", new) + data[4:]


def length_of_header(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Another length of the body's header."""
    parts = split(data)
    if parts is None:
        return data
    head, header, body = parts
    new = (
        draw.choice([*_LONG_LENGTHS, len(header) + 8, len(header) - 1, len(header) + 1, len(data)])
        % 2**64
    )
    return struct.pack(">I", len(head)) + head + struct.pack("<Q", new) + header + body


def _on_entry(change: Callable[[random.Random, Pairs], Pairs]) -> Bytes:
    """A mutation of what the header says of one array."""

    def mutate(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
        parts = split(data)
        header = None if parts is None else parse(parts[1].strip())
        if parts is None or not isinstance(header, Pairs) or not header:
            return data
        place = draw.randrange(len(header))
        name, entry = header[place]
        if not isinstance(entry, Pairs):
            return data
        copy = Pairs(header)
        copy[place] = (name, change(draw, entry))
        return join((parts[0], spell(copy, sort=False), parts[2]))

    mutate.__name__ = change.__name__
    return mutate


def _set(entry: Pairs, key: str, value: object) -> Pairs:
    return Pairs((name, value if name == key else each) for name, each in entry)


def _get(entry: Pairs, key: str) -> list[object]:
    found = dict(entry).get(key)
    return list(found) if isinstance(found, list) else []


def other_dtype(draw: random.Random, entry: Pairs) -> Pairs:
    """An array of another type."""
    return _set(entry, "dtype", draw.choice(_DTYPES))


def other_shape(draw: random.Random, entry: Pairs) -> Pairs:
    """An array of another shape: huge, negative, of many axes, or of the same size."""
    shape = _get(entry, "shape")
    size = draw.choice(_SIZES)
    return _set(
        entry, "shape",
        draw.choice([[size], [0, size], [size, size], [2**32, 2**32], [*shape, 1], [1, *shape], shape[::-1], [1] * 100,
                     [0] * 100, [*shape, size], [-1], [Token("1.0")], [Token("true")], [], shape[1:], [0, 2**62]]),
    )  # fmt: skip


def other_offsets(draw: random.Random, entry: Pairs) -> Pairs:
    """An array that lies elsewhere: over others, beyond the end, backwards."""
    offsets = [each for each in _get(entry, "data_offsets") if isinstance(each, int)] or [0, 0]
    first, last = offsets[0], offsets[-1]
    new = draw.choice([[last, first], [first, last + 8], [first + 8, last + 8], [0, last], [0, 0], [first, 2**63],
                       [2**64 - 8, 2**64 - 1], [first], [first, last, last], [-8, last], [first - 4, last]])  # fmt: skip
    return _set(entry, "data_offsets", new)


def huge_and_empty(draw: random.Random, entry: Pairs) -> Pairs:
    """An array of no bytes whose other axes are as large as can be."""
    shape = [0] + [draw.choice(_SIZES) for _ in range(draw.randint(1, 3))]
    draw.shuffle(shape)
    return _set(_set(entry, "shape", shape), "data_offsets", [0, 0])


def add_array(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One array more, with data or without, or metadata."""
    parts = split(data)
    header = None if parts is None else parse(parts[1].strip())
    if parts is None or not isinstance(header, Pairs):
        return data
    name, size = (
        draw.choice(["", "extra", "vector", "total", "weight", "__metadata__", "\u0000"]),
        len(parts[2]),
    )
    new = draw.choice([
        (name, Pairs([("dtype", "F64"), ("shape", [1]), ("data_offsets", [size, size + 8])])),
        (name, Pairs([("dtype", "F64"), ("shape", [0]), ("data_offsets", [size, size])])),
        ("__metadata__", Pairs([("a", "b")])), ("__metadata__", Pairs()),
    ])  # fmt: skip
    return join((parts[0], spell(Pairs([*header, new]), sort=False), parts[2] + bytes(8)))


def other_numbers(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One element becomes NaN, infinite, -0, the largest or the least."""
    parts = split(data)
    if parts is None or len(parts[2]) < 8:
        return data
    place = draw.randrange(len(parts[2]) // 4) * 4
    new = draw.choice([struct.pack("<d", float("nan")), struct.pack("<d", float("inf")), struct.pack("<d", -0.0),
                       struct.pack("<d", 1e308), b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f", b"\0" * 7 + b"\x80",
                       struct.pack("<f", float("nan")), struct.pack("<i", -(2**31)),
                       struct.pack("<i", 2**31 - 1)])  # fmt: skip
    return join(
        (
            parts[0],
            parts[1].rstrip(b" "),
            (parts[2][:place] + new + parts[2][place + len(new) :])[: len(parts[2])],
        )
    )


_ENTRIES = tuple(map(_on_entry, (other_dtype, other_shape, other_offsets, huge_and_empty)))

MESSAGES: tuple[Bytes, ...] = (
    *(_on(0, each) for each in JSON), *(_on(1, each) for each in JSON[::2]), _on(2, flip), _on(2, put),
    *(length_of_head, length_of_header, add_array, other_numbers) * 3, *_ENTRIES * 2, *BYTES,
)  # fmt: skip


def garbage(draw: random.Random) -> bytes:
    """A frame around anything."""
    head, header = (draw.choice([b"{}", b"[]", b"", b"null", draw.randbytes(9)]) for _ in range(2))
    return join((head, header, draw.randbytes(draw.choice((0, 1, 8)))))
