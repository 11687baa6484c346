"""What canonical JSON and messages are, read a second time by other code: a grammar by hand, bytes by offsets."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import numpy as np

from fuzzing.mutations_json import ecmascript

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[+-][1-9][0-9]*)?")
_PLAIN = re.compile(r'(?:[^\x00-\x1f"\\\ud800-\udfff]|\\["\\bfnrt]|\\u00[01][0-9a-f])*')
_SHORT = {
    "\\u0008",
    "\\u0009",
    "\\u000a",
    "\\u000c",
    "\\u000d",
}  # these have an escape of two characters
_WORDS = {"null": None, "true": True, "false": False}
_DEEPEST = 32
_TYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U32": "<u4", "U64": "<u8"}


class NotCanonicalError(ValueError):
    """What is wrong with the bytes."""


def canonical_value(data: bytes) -> Any:
    """The value of canonical JSON (RFC 8785; whole numbers to 2^53; 32 levels). Raises NotCanonicalError."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotCanonicalError("not UTF-8") from error
    value, end = _value(text, 0, 0)
    if end != len(text):
        raise NotCanonicalError(f"something behind the value, at {end}")
    return value


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise NotCanonicalError("too deep")
    if text.startswith('"', at):
        return _string(text, at)
    if text.startswith("{", at):
        return _object(text, at, depth)
    if text.startswith("[", at):
        return _list(text, at, depth)
    for word, value in _WORDS.items():
        if text.startswith(word, at):
            return value, at + len(word)
    return _number(text, at)


def _string(text: str, at: int) -> tuple[str, int]:
    if not text.startswith('"', at):
        raise NotCanonicalError(f"no text at {at}")
    match = _PLAIN.match(text, at + 1)
    end = match.end() if match else at
    if match is None or not text.startswith('"', end):
        raise NotCanonicalError(f"a text that is not written canonically, at {at}")
    if any(each in match[0].replace("\\\\", "") for each in _SHORT):
        raise NotCanonicalError(f"a long escape for a short one, at {at}")
    return json.loads(text[at : end + 1]), end + 1


def _number(text: str, at: int) -> tuple[int | float, int]:
    match = _NUMBER.match(text, at)
    if match is None:
        raise NotCanonicalError(f"no value at {at}")
    value = float(match[0])
    if ecmascript(value) != match[0]:
        raise NotCanonicalError(f"a number that is not written canonically, at {at}")
    whole = match[0].lstrip("-").isdigit() and abs(value) <= 2**53
    return int(match[0]) if whole else value, match.end()


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found, at = [], at + 1
    while not text.startswith("]", at):
        if found:
            at = _sign(text, at, ",")
        value, at = _value(text, at, depth + 1)
        found.append(value)
    return found, at + 1


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    at += 1
    while not text.startswith("}", at):
        if found:
            at = _sign(text, at, ",")
        key, at = _string(text, at)
        if found and key.encode("utf-16-be") <= next(reversed(found)).encode("utf-16-be"):
            raise NotCanonicalError(f"keys that are not in order, or twice, at {at}")
        found[key], at = _value(text, _sign(text, at, ":"), depth + 1)
    return found, at + 1


def _sign(text: str, at: int, sign: str) -> int:
    if not text.startswith(sign, at):
        raise NotCanonicalError(f"no {sign} at {at}")
    return at + 1


def same(one: Any, two: Any) -> bool:
    """Equal values of equal types; a whole float is as good as its int, as JSON has one number."""
    if isinstance(one, bool) or isinstance(two, bool) or type(one) is not type(two):
        numbers = type(one) in (int, float) and type(two) in (int, float)
        return one == two and (numbers or type(one) is type(two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def judge_canonical(data: bytes, value: Any) -> str | None:
    """Why these bytes are not canonical JSON of this value; None if they are."""
    try:
        found = canonical_value(data)
    except NotCanonicalError as error:
        return f"it is not canonical: {error}"
    return None if same(found, value) else "its value is another"


def message_parts(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Head and arrays of a message, by its layout alone. Raises NotCanonicalError where it is not the one spelling."""
    (length,) = struct.unpack_from(">I", data)
    head, body = data[4 : 4 + length], data[4 + length :]
    values = canonical_value(head)
    if len(head) != length or not isinstance(values, dict):
        raise NotCanonicalError("no head of that length that is an object")
    (inner,) = struct.unpack_from("<Q", body)
    header, content = body[8 : 8 + inner], body[8 + inner :]
    arrays = _arrays(json.loads(header), content)
    if header != _header_of(arrays):
        raise NotCanonicalError("a body whose header has another spelling")
    return values, arrays


def _arrays(header: dict[str, Any], content: bytes) -> dict[str, np.ndarray]:
    arrays, used = {}, 0
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        kind = np.dtype(_TYPES[entry["dtype"]])
        count = (
            int(np.prod([int(each) for each in entry["shape"]], dtype=object))
            if entry["shape"]
            else 1
        )
        if start != used or stop - start != count * kind.itemsize:
            raise NotCanonicalError(f"array {name} does not lie where it should")
        arrays[name] = np.frombuffer(content[start:stop], kind).reshape(entry["shape"])
        used = stop
    if used != len(content):
        raise NotCanonicalError("bytes behind the arrays")
    return arrays


def _header_of(arrays: dict[str, np.ndarray]) -> bytes:
    """As safetensors writes it: widest types first, then by name; compact; padded to a multiple of 8."""
    codes = {np.dtype(code): name for name, code in _TYPES.items()}
    ranks = ("I32", "U32", "F32", "F64", "I64", "U64")
    order = sorted(
        arrays, key=lambda name: (-ranks.index(codes[arrays[name].dtype]), name.encode())
    )
    entries, start = [], 0
    for name in order:
        array, stop = arrays[name], start + arrays[name].nbytes
        shape = ",".join(map(str, array.shape))
        entries.append(
            f'{json.dumps(name, ensure_ascii=False)}:{{"dtype":"{codes[array.dtype]}","shape":[{shape}],'
            f'"data_offsets":[{start},{stop}]}}'
        )
        start = stop
    text = ("{" + ",".join(entries) + "}").encode()
    return text + b" " * (-len(text) % 8)


def judge_message(data: bytes, value: Any) -> str | None:
    """Why these bytes are not the message of (head, arrays); None if they are."""
    try:
        head, arrays = message_parts(data)
    except (NotCanonicalError, ValueError, KeyError, TypeError, struct.error) as error:
        return f"it is no message: {error}"
    found_head, found = value
    if not same(head, found_head) or set(arrays) != set(found):
        return "its head or its arrays are others"
    equal = all(one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
                for one, two in ((arrays[name], found[name]) for name in arrays))  # fmt: skip
    return None if equal else "its numbers are others"
