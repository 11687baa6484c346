"""Mutations of bytes and of text: whatever the format."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Bytes = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

_LONGEST = 1 << 17  # bytes; more tell nothing new, and cost time
_TELLING = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF, *b'\n\r\t "\\{}[],:.-+eE_0123456789abcdefghNI')
_CHUNKS = (
    b"\0", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf",
    b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\x1b[31m", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"0.0",
    b'"', b"'", b"\\u0000", b"\\ud800", b"__proto__", b"[" * 40, b"{" * 40, b"9" * 400, b"%s%n", b"$(id)",
)  # fmt: skip


def flip(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One bit."""
    if not data:
        return data
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def put(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One byte becomes one that formats care about, or any."""
    if not data:
        return data
    place = draw.randrange(len(data))
    new = draw.choice(_TELLING) if draw.random() < 0.7 else draw.randrange(256)
    return data[:place] + bytes([new]) + data[place + 1 :]


def insert(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A few bytes somewhere."""
    place = draw.randint(0, len(data))
    new = draw.choice(_CHUNKS) if draw.random() < 0.5 else bytes([draw.choice(_TELLING)])
    return data[:place] + new + data[place:]


def append(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A few bytes behind everything."""
    return data + (draw.choice(_CHUNKS) if draw.random() < 0.7 else b" ")


def delete(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A slice, mostly a short one."""
    start, stop = _slice(draw, data)
    return data[:start] + data[stop:]


def duplicate(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A slice twice."""
    start, stop = _slice(draw, data)
    return (data[:stop] + data[start:])[:_LONGEST]


def truncate(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """The end is missing."""
    return data[: draw.randint(0, len(data))]


def swap(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Two neighbouring slices."""
    places = sorted(draw.randint(0, len(data)) for _ in range(3))
    one, two, three = places
    return data[:one] + data[two:three] + data[one:two] + data[three:]


def splice(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """The beginning of this and the end of another valid input."""
    other = draw.choice(pool)
    return (data[: draw.randint(0, len(data))] + other[draw.randint(0, len(other)) :])[:_LONGEST]


def replace_number(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A run of digits by another."""
    places = [place for place, byte in enumerate(data) if 48 <= byte < 58]
    if not places:
        return data
    start = stop = draw.choice(places)
    while start and 48 <= data[start - 1] < 58:
        start -= 1
    while stop < len(data) and 48 <= data[stop] < 58:
        stop += 1
    number = int(data[start : min(stop, start + 1000)])
    new = draw.choice(
        [number + 1, number - 1, number * 2, -number, 0, 2**31, 2**53, 2**53 + 1, 2**64, 10**400]
    )
    return data[:start] + str(new).encode() + data[stop:]


BYTES: tuple[Bytes, ...] = (
    flip, put, insert, append, delete, duplicate, truncate, swap, splice, replace_number,
)  # fmt: skip


def garbage(draw: random.Random) -> bytes:
    """Bytes of any kind."""
    length = draw.choice((0, 1, 2, 3, 4, 7, 8, 12, 16, 64, 300, 2000))
    if draw.random() < 0.5:
        return draw.randbytes(length)
    return b"".join(draw.choice(_CHUNKS) for _ in range(length // 8))


def _slice(draw: random.Random, data: bytes) -> tuple[int, int]:
    start = draw.randint(0, len(data))
    longest = 8 if draw.random() < 0.7 else len(data)
    return start, min(len(data), start + draw.randint(1, max(1, longest)))


# Lines


def drop_line(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One line, or a few."""
    lines = data.split(b"\n")
    place = draw.randrange(len(lines))
    del lines[place : place + draw.choice((1, 1, 1, 2, 5))]
    return b"\n".join(lines)


def duplicate_line(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One line again, here or elsewhere."""
    lines = data.split(b"\n")
    line = draw.choice(lines)
    lines.insert(draw.randint(0, len(lines)), line)
    return b"\n".join(lines)[:_LONGEST]


def move_line(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One line to another place."""
    lines = data.split(b"\n")
    line = lines.pop(draw.randrange(len(lines)))
    lines.insert(draw.randint(0, len(lines)), line)
    return b"\n".join(lines)


def borrow_line(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """A line of another valid input, in the place of one or before it."""
    lines, others = data.split(b"\n"), draw.choice(pool).split(b"\n")
    place = draw.randrange(len(lines))
    lines[place : place + draw.randint(0, 1)] = [draw.choice(others)]
    return b"\n".join(lines)[:_LONGEST]


def join_lines(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Two lines become one."""
    lines = data.split(b"\n")
    place = draw.randrange(len(lines))
    lines[place : place + 2] = [b"".join(lines[place : place + 2])]
    return b"\n".join(lines)


LINES: tuple[Bytes, ...] = (drop_line, duplicate_line, move_line, borrow_line, join_lines)
