"""Mutations of JSON values, and JSON as it can be spelled: duplicate keys, NaN, 1.0 for 1 and everything else."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fuzzing.mutations import BYTES, Bytes

_LARGEST = 1 << 17


@dataclass(frozen=True)
class Token:
    """A value that is written as this text, whatever it is."""

    text: str


class Pairs(list):
    """An object: its keys in their order, each as often as it is there."""


_SPELLED = (
    "0", "-0", "-1", "1", "2", "127", "128", "10000", "10001", "65536", "2147483647", "2147483648", "4294967296",
    "9007199254740992", "9007199254740993", "-9007199254740992", "-9007199254740993", "9223372036854775808",
    "18446744073709551616", "1e21", "1e308", "1e309", "1e400", "-1e308", "5e-324", "1e-400",
    "2.2250738585072014e-308", "0.1", "0.5", "1.5", "0.9999999999999999", "1.0", "1e0", "1E1", "01", "+1", ".5", "1.",
    "NaN", "Infinity", "-Infinity", "nan", "true", "false", "null", "True", "None", '""', '"1"', '"0"', '"true"',
    '"null"', "[]", "{}", "[[]]", "[null]", '{"a":1}', "9" * 400, "0." + "3" * 400, "1" + "0" * 5000,
    "[" * 20 + "]" * 20, "[" * 31 + "]" * 31, "[" * 33 + "]" * 33, "[" * 3000 + "]" * 3000, "[" * 3000,
    '{"a":' * 40 + "1" + "}" * 40, '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\u001b[31m"', '"\\u202e"',
    '"\\/"', '"\\u0061"', '"\n"', '"\t"', '"\u2028"', '"\U0001f642"', '"\\ud83d\\ude42"', '"' + "a" * 201 + '"',
    '"' + "a" * 70000 + '"', '"' + "0" * 64 + '"', '"' + "0" * 63 + '"', '"' + "0" * 65 + '"', '"' + "A" * 64 + '"',
    '"' + "0" * 64 + '\\n"', '"' + "0" * 32 + '"', '"' + "0" * 128 + '"', '"' + "\uff10" * 64 + '"',
    '"' + "g" * 64 + '"', '"unsafe"', '"server"', '"aggregate"', '"local"', '"train"', '"all"', '"replace-one"',
    '"default"', '"__class__"',
)  # fmt: skip
TOKENS = tuple(map(Token, _SPELLED))
"""Values at the edge of what readers expect, as they are spelled."""

_NUMBERS = tuple(
    each for each in TOKENS if each.text[0] in "-+.0123456789NI" and len(each.text) < 500
)
_TEXTS = tuple(each for each in TOKENS if each.text[0] == '"')


def parse(data: bytes) -> Any:
    """A JSON text as values, objects as `Pairs`; the text itself as a token if it is none."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        return json.loads(
            text,
            object_pairs_hook=Pairs,
            parse_constant=Token,
            parse_float=_number(float),
            parse_int=_number(int),
        )
    except (ValueError, RecursionError):
        return Token(text)


def _number(kind: type[int] | type[float]) -> Callable[[str], Any]:
    """What a mutation cannot calculate with stays as it is spelled."""
    return lambda text: kind(text) if len(text) < 30 and abs(float(text)) < 1e300 else Token(text)


def spell(value: Any, *, sort: bool = True) -> bytes:
    """Compact, keys sorted as RFC 8785 sorts them: what is valid is canonical."""
    text = _spelled(value, sort)[:_LARGEST]
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _spelled(value: Any, sort: bool) -> str:
    if isinstance(value, Token):
        return value.text
    if isinstance(value, Pairs):
        keys = sorted(value, key=lambda pair: _order(pair[0])) if sort else value
        return "{" + ",".join(f"{_text(key)}:{_spelled(each, sort)}" for key, each in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_spelled(each, sort) for each in value) + "]"
    if isinstance(value, float):
        return ecmascript(value)
    return _text(value) if isinstance(value, str) else json.dumps(value)


def ecmascript(value: float) -> str:
    """As RFC 8785 section 3.2.2.3 writes a number: the shortest digits, an exponent below 1e-6 and from 1e21 on."""
    if not math.isfinite(value):
        return json.dumps(value)
    if value == 0:
        return "0"
    sign, numbers, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits, point = "".join(map(str, numbers)), len(numbers) + int(exponent)
    if len(digits) <= point <= 21:
        text = digits.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}.{digits[1:]}".rstrip(".") + f"e{point - 1:+d}"
    return "-" * sign + text


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _order(text: str) -> bytes:
    return text.encode("utf-16-be", "surrogatepass")


# Mutations of a tree. A path is a sequence of places; the root's is empty.

Tree = Callable[[random.Random, Any, Any], Any]


def _paths(draw: random.Random, value: Any, here: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Every place of a tree, but of a list one entry, or long lists would be all that is ever changed."""
    found = [here]
    if isinstance(value, Pairs):
        for place, (_, each) in enumerate(value):
            found += _paths(draw, each, (*here, place))
    elif isinstance(value, list) and value:
        place = draw.randrange(len(value))
        found += _paths(draw, value[place], (*here, place))
    return found


def _at(value: Any, path: Sequence[int]) -> Any:
    for place in path:
        value = value[place][1] if isinstance(value, Pairs) else value[place]
    return value


def _with(value: Any, path: Sequence[int], change: Callable[[Any], Any]) -> Any:
    """A copy in which the value at that path is another."""
    if not path:
        return change(value)
    place, rest = path[0], path[1:]
    copy = type(value)(value)
    if isinstance(value, Pairs):
        key, old = copy[place]
        copy[place] = (key, _with(old, rest, change))
    else:
        copy[place] = _with(copy[place], rest, change)
    return copy


def _anywhere(draw: random.Random, value: Any, change: Callable[[Any], Any]) -> Any:
    return _with(value, draw.choice(_paths(draw, value)), change)


def _in_object(draw: random.Random, value: Any, change: Callable[[Pairs], Pairs]) -> Any:
    paths = [
        each
        for each in _paths(draw, value)
        if isinstance(_at(value, each), Pairs) and _at(value, each)
    ]
    return _with(value, draw.choice(paths), change) if paths else value


def edge_value(draw: random.Random, value: Any, _other: Any) -> Any:
    """Any value becomes one at the edge."""
    return _anywhere(draw, value, lambda old: _edge(draw, old))


def _edge(draw: random.Random, old: Any) -> Token:
    """Mostly one of the same type, which gets further."""
    if draw.random() < 0.6 and isinstance(old, int | float | str):
        return draw.choice(_TEXTS if isinstance(old, str) else _NUMBERS)
    return draw.choice(TOKENS)


def other_type(draw: random.Random, value: Any, _other: Any) -> Any:
    """Any value becomes a small one of another type."""
    small = [0, 7, 1.5, True, None, "a", [], ["a"], [1], Pairs(), Pairs([("a", 1)])]
    return _anywhere(
        draw,
        value,
        lambda old: draw.choice([each for each in small if type(each) is not type(old)]),
    )


def near_value(draw: random.Random, value: Any, _other: Any) -> Any:
    """A value becomes one next to it."""
    paths = [each for each in _paths(draw, value) if not isinstance(_at(value, each), list)]
    return _with(value, draw.choice(paths), lambda old: _near(draw, old)) if paths else value


def _near(draw: random.Random, old: Any) -> Any:
    if isinstance(old, bool):
        return draw.choice([not old, Token(str(int(old))), Token(f'"{old}"')])
    if isinstance(old, int | float):
        up, down = (
            (old + 1, old - 1) if isinstance(old, int) else (math.nextafter(old, math.inf), old / 2)
        )
        return draw.choice(
            [
                up,
                down,
                -old,
                old * 2,
                Token(f'"{old}"'),
                Token(f"{float(old)!r}"),
                Token(f"[{old}]"),
                Token("true"),
            ]
        )
    if isinstance(old, str):
        place = draw.randint(0, len(old))
        return draw.choice(
            [old.upper(), old + "\n", old + " ", old[:-1], old + old[:1], old[:place] + "\0" + old[place:], old[::-1],
             old[:place] + "\u202e" + old[place:], [old], old.replace("-", "_"), old * 50, ""]
        )  # fmt: skip
    return draw.choice(TOKENS)


def drop_key(draw: random.Random, value: Any, _other: Any) -> Any:
    """An object loses a key."""

    def change(old: Pairs) -> Pairs:
        place = draw.randrange(len(old))
        return Pairs(old[:place] + old[place + 1 :])

    return _in_object(draw, value, change)


def rename_key(draw: random.Random, value: Any, _other: Any) -> Any:
    """A key becomes another."""

    def change(old: Pairs) -> Pairs:
        copy, place = Pairs(old), draw.randrange(len(old))
        key, each = copy[place]
        new = draw.choice(
            [
                key.upper(),
                key + " ",
                key[:-1],
                "",
                key + "\0",
                "\ud800",
                "\U0001f642" + key,
                draw.choice(old)[0],
            ]
        )
        copy[place] = (new, each)
        return copy

    return _in_object(draw, value, change)


def duplicate_key(draw: random.Random, value: Any, _other: Any) -> Any:
    """A key twice, with the same value or another."""

    def change(old: Pairs) -> Pairs:
        key, each = draw.choice(old)
        new = draw.choice([each, draw.choice(TOKENS), draw.choice(old)[1]])
        copy = Pairs(old)
        copy.insert(draw.randint(0, len(copy)), (key, new))
        return copy

    return _in_object(draw, value, change)


def add_key(draw: random.Random, value: Any, _other: Any) -> Any:
    """A key that nobody knows."""
    key = draw.choice(
        ["", "extra", "version", "kind", "__class__", "\u0000", "constructor", "noise_multiplier"]
    )
    return _in_object(draw, value, lambda old: Pairs([*old, (key, draw.choice(TOKENS))]))


def exchange_values(draw: random.Random, value: Any, _other: Any) -> Any:
    """The values of two keys."""

    def change(old: Pairs) -> Pairs:
        copy, one, two = Pairs(old), draw.randrange(len(old)), draw.randrange(len(old))
        (key_one, first), (key_two, second) = copy[one], copy[two]
        copy[one], copy[two] = (key_one, second), (key_two, first)
        return copy

    return _in_object(draw, value, change)


def change_list(draw: random.Random, value: Any, _other: Any) -> Any:
    """A list loses, repeats or swaps an entry."""
    paths = [
        each for each in _paths(draw, value) if type(_at(value, each)) is list and _at(value, each)
    ]
    if not paths:
        return value

    def change(old: list[Any]) -> list[Any]:
        place = draw.randrange(len(old))
        return draw.choice(
            [
                old[:place] + old[place + 1 :],
                [*old, old[place]],
                old[::-1],
                [*old, draw.choice(TOKENS)],
                old * 300,
            ]
        )

    return _with(value, draw.choice(paths), change)


def nest(draw: random.Random, value: Any, _other: Any) -> Any:
    """A value within a list or an object of its own."""
    return _anywhere(draw, value, lambda old: draw.choice([[old], Pairs([("a", old)]), [old, old]]))


def borrow_value(draw: random.Random, value: Any, other: Any) -> Any:
    """A value of another valid input."""
    return _anywhere(draw, value, lambda _old: _at(other, draw.choice(_paths(draw, other))))


TREES: tuple[Tree, ...] = (
    other_type, other_type, edge_value, edge_value, near_value, near_value, near_value, drop_key, rename_key,
    duplicate_key, add_key,
    exchange_values, change_list, nest, borrow_value,
)  # fmt: skip


def on_json(change: Tree) -> Bytes:
    """The mutation of a tree as one of the JSON text."""

    def mutate(draw: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
        value, other = parse(data), parse(draw.choice(pool))
        return spell(change(draw, value, other))

    mutate.__name__ = change.__name__
    return mutate


def respell(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """The same values in other words: blanks, order, escapes."""
    value = parse(data)
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return draw.choice(
        [
            lambda: json.dumps(plain).encode(), lambda: json.dumps(plain, indent=1).encode(),
            lambda: b" " + data, lambda: data + b"\n", lambda: spell(Pairs(value[::-1]), sort=False)
            if isinstance(value, Pairs) else data,
            lambda: b"\xef\xbb\xbf" + data, lambda: json.dumps(plain).encode("utf-16"),
            lambda: data.replace(b'"', b'"\\u0061', 1), lambda: data.replace(b"/", b"\\/"),
        ]
    )()  # fmt: skip


JSON: tuple[Bytes, ...] = (*map(on_json, TREES), *map(on_json, TREES), respell, *BYTES)
"""Two in three change a value, the others bytes."""


def garbage(draw: random.Random) -> bytes:
    """Any small tree."""
    return spell(_any_tree(draw, 4), sort=draw.random() < 0.8)


def _any_tree(draw: random.Random, depth: int) -> Any:
    kind = draw.randrange(4) if depth else 3
    if kind == 0:
        return Pairs(
            (draw.choice("abcd\u00e9\U0001f642"), _any_tree(draw, depth - 1))
            for _ in range(draw.randrange(4))
        )
    if kind == 1:
        return [_any_tree(draw, depth - 1) for _ in range(draw.randrange(4))]
    if kind == 2:
        return draw.choice(
            [
                draw.randrange(-(2**54), 2**54),
                draw.uniform(-1, 1) * 10.0 ** draw.randrange(-330, 308),
            ]
        )
    return draw.choice(TOKENS)
