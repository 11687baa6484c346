"""Mutations of files of settings: values, keys, sections, lines."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from fuzzing.mutations import BYTES, LINES, Bytes

VALUES = tuple(
    each.encode("utf-8", "surrogatepass")
    for each in (
        "0", "-0", "+1", "-1", "1", "2", "3", "0.0", "-0.0", "1.0", "0.5", "1e-5", "1e5", "128", "129", "1000",
        "10000", "10001", "65536", "65537", "1048576", "1048577", "2147483648", "9007199254740992",
        "9007199254740993", "9223372036854775807", "9223372036854775808", "1e308", "1e309", "-1e300", "5e-324",
        "0.9999999999999999", "nan", "inf", "-inf", "true", "false", "1_000", "0x10", "0o7", "0b1", "0x" + "f" * 4000,
        "9" * 4000, "9" * 5000, "1" + "0" * 400, "01", "1.", ".5", "1e", "1979-05-27", "1979-05-27T07:32:00Z",
        "1979-02-31", "07:32:00", '""', '"1"', '"true"', "''", "'a'", '"""\na"""', "'''b'''", '"\\u0000"',
        '"\\ud800"', '"\\u202E"', '"\u202e"', '"\u2028"', '"\\u001b[31m"', '"\x7f"', '"a\\nb"', '"' + "a" * 64 + '"',
        '"' + "a" * 65 + '"', '"' + "a" * 50000 + '"', "[]", "[[]]", "[1]", "[1, 2]", "[2, 1]", "[0, 1]",
        "[0.0, 1.0]", "[1, 1]", "[0.0, nan]", "[-inf, inf]", "[0, 1, 2]", "[true, false]", '["a"]', '["a", "a"]',
        '["a", "b"]', '["a", 1]', "[-1e300, 1e300]", "[-1e299, 1e299]", "[0, 9007199254740993]", "[64]", "[0]",
        "[65537]", "[64, 64]", "[" * 200 + "]" * 200, "[" * 5000, "{}", "{a = 1}", "{a = " * 3000, "[{}]", "#", "",
        '"unsafe"', '"server"', '"local"', '"aggregate"', '"all"', '"none"', '"auto"', '"standard"', '"bounds"',
        '"mlp"', '"cnn"', '"linear"', '"logistic"', '"softmax"', '"regression"', '"classification"', '"dp-fedavg"',
        '"dp-fedsgd"', '"sgd"', '"adam"', '"float32"', '"clamp"', '"Local"', '"local "', '"age"', '"label"',
    )
)  # fmt: skip
"""Values at the edge of what settings allow, and of what TOML does."""

_NUMBERS = tuple(
    each for each in VALUES if re.match(rb"[+-]?([0-9.]|inf|nan)", each) and len(each) < 500
)
_IS_NUMBER = re.compile(rb"[+-]?[0-9][0-9.eE+-]*")
_NUMBER = re.compile(rb"(?<![\w.\"-])" + _IS_NUMBER.pattern + rb"(?![\w\"])")

_KEYS = (
    b"a" * 50_000, b"format", b"extra", b"__class__", b'""', b'"a.b"', b"a.b", b"bounds", b"default", b"epsilon",
    b"noise_multiplier", b"unit", b"source", b"hidden", b"sites_per_unit", b"max_dropouts", b"sampling_rate",
    b"stop_below",
)  # fmt: skip
_SECTIONS = (
    b"[study]", b"[data]", b"[model]", b"[training]", b"[privacy]", b"[sites]", b"[data.bounds]", b"[[data]]",
    b"[extra]", b"[studies]", b"[floors]", b"[ceilings]", b"[columns]", b"[]", b"[a.b.c]", b"[Data]",
)  # fmt: skip
_SETTING = re.compile(rb"^(\s*#?\s*)([^\s=#\[\]]+)(\s*=\s*)([^\n]*)$", re.MULTILINE)
_HEADER = re.compile(rb"^\[[^\n]*\]", re.MULTILINE)


def change_value(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One setting has a value at the edge; one that stood behind a # is set."""
    return _on_setting(draw, data, lambda key, old: (key, _edge(draw, old)))


def _edge(draw: random.Random, old: bytes) -> bytes:
    """A number mostly becomes a number."""
    return draw.choice(_NUMBERS if _IS_NUMBER.fullmatch(old) and draw.random() < 0.7 else VALUES)


def nest(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One setting is a list within lists, or a table within tables: about as deep as readers can go."""
    depth = draw.randint(1, 1000)
    value = draw.choice([b"[" * depth + b"]" * depth, b"{a = " * depth + b"1" + b"}" * depth])
    return _on_setting(draw, data, lambda key, _old: (key, value))


def near_value(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One setting has a value next to its own."""
    return _on_setting(draw, data, lambda key, old: (key, _near(draw, old)))


def edge_number(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One number, wherever it stands, becomes one at the edge."""
    found = [
        each
        for each in _NUMBER.finditer(data)
        if not data[: each.start()].rpartition(b"\n")[2].lstrip().startswith(b"#")
    ]
    if not found:
        return data
    place = draw.choice(found)
    return data[: place.start()] + draw.choice(_NUMBERS) + data[place.end() :]


def change_key(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """One setting has another name."""

    def change(key: bytes, old: bytes) -> tuple[bytes, bytes]:
        return draw.choice(
            [key.upper(), key + b"s", key[:-1], b'"' + key + b'"', key + b".a", *_KEYS]
        ), old

    return _on_setting(draw, data, change)


def borrow_value(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """A setting has the value that it, or another one, has elsewhere."""
    others = list(_SETTING.finditer(draw.choice(pool)))
    if not others:
        return data
    same = draw.random() < 0.5

    def change(key: bytes, old: bytes) -> tuple[bytes, bytes]:
        found = [each for each in others if each[2] == key] if same else others
        return key, draw.choice(found or others)[4]

    return _on_setting(draw, data, change)


def add_setting(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A setting more, somewhere."""
    lines = data.split(b"\n")
    lines.insert(draw.randint(0, len(lines)), draw.choice(_KEYS) + b" = " + draw.choice(VALUES))
    return b"\n".join(lines)


def change_section(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A section has another name, or there is one more."""
    found = list(_HEADER.finditer(data))
    if not found:
        return data
    header, new = draw.choice(found), draw.choice(_SECTIONS)
    stop = header.end() if draw.random() < 0.6 else header.start()
    return data[: header.start()] + new + b"\n" + data[stop:]


def _on_setting(draw: random.Random, data: bytes, change) -> bytes:
    found = list(_SETTING.finditer(data))
    if not found:
        return data
    given = [each for each in found if not each[1].strip()]
    place = draw.choice(given if given and draw.random() < 0.8 else found)
    key, value = change(place[2], place[4])
    return data[: place.start()] + key + b" = " + value + data[place.end() :]


def _near(draw: random.Random, old: bytes) -> bytes:
    choices = [
        b'"' + old + b'"',
        b"[" + old + b"]",
        b"-" + old,
        old + b"0",
        old[:-1],
        old.strip(b'"'),
        b"{a = " + old + b"}",
    ]
    if old.startswith(b"["):
        inner = old.strip(b"[]").split(b", ")
        place = draw.randrange(len(inner))
        edge = [*inner[:place], _edge(draw, inner[place]), *inner[place + 1 :]]
        others = (
            inner[::-1],
            inner[1:],
            inner * 2,
            [*inner, b"1"],
            inner * 200,
            edge,
            edge,
            edge,
            edge,
        )
        choices += [b"[" + b", ".join(each) + b"]" for each in others]
    try:
        number = float(old)
        choices += [
            str(each).encode()
            for each in (number * 2, number / 2, number + 1, number - 1, int(number), number)
        ]
    except (ValueError, OverflowError):
        choices += [old.upper(), old[:-1] + b' "', old[:-1] + b'\\n"', old[:-1] + old[1:]]
    return draw.choice(choices)


TOML: tuple[Bytes, ...] = (
    *(change_value, near_value, edge_number, borrow_value) * 4, *(change_key, add_setting, change_section) * 2, nest, *LINES, *BYTES,
)  # fmt: skip
"""Half of them change settings so that the file stays TOML."""


def garbage(draw: random.Random) -> bytes:
    """A file of settings that belong nowhere."""
    lines = [
        draw.choice(
            [
                draw.choice(_SECTIONS),
                draw.choice(_KEYS) + b" = " + draw.choice(VALUES),
                b"format = 1",
                b"# a",
            ]
        )
        for _ in range(draw.randrange(20))
    ]
    return b"\n".join(lines)
