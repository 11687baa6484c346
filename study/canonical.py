"""Canonical form: RFC 8785 JSON (JCS) and its SHA-256, so that two parties mean the same bytes by one study.

Only what a study needs is accepted: objects with text keys, arrays, text, booleans, null, whole numbers up to
2^53 and finite floats, 32 levels deep at most. Everything else raises, so that nothing has two forms.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from privacy.errors import ProtocolError

__all__ = ["canonical_json", "digest", "parse_canonical"]

_LARGEST = 2**53
_quoted = json.JSONEncoder(ensure_ascii=False).encode
_DEEPEST = 32  # no message needs more, and no reader may run out of stack


def canonical_json(value: Any) -> bytes:
    """RFC 8785 form of `value`, UTF-8. Raises ValueError for what has no canonical form."""
    return _text(value, 0).encode("utf-8")


def digest(value: Any) -> str:
    """SHA-256 of the canonical form, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def parse_canonical(data: bytes) -> Any:
    """Read canonical JSON, refusing any other spelling of the same value. Raises ProtocolError."""
    try:
        value = json.loads(data.decode("utf-8"), parse_int=_whole)
        if canonical_json(value) == data:
            return value
    except (ValueError, RecursionError) as error:
        raise ProtocolError("Expected canonical JSON, found other bytes") from error
    raise ProtocolError("Expected canonical JSON (RFC 8785), found another spelling")


def _whole(text: str) -> int | float:
    """Beyond 2^53 only a double can have been meant."""
    return int(text) if len(text) < 17 and abs(int(text)) <= _LARGEST else float(text)


def _text(value: Any, depth: int) -> str:
    if depth > _DEEPEST:
        raise ValueError(f"Expected at most {_DEEPEST} levels of nesting")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        if abs(value) > _LARGEST:
            raise ValueError(f"Expected a whole number of at most 2^53, found {value}")
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        value.encode(
            "utf-8"
        )  # a lone surrogate has no canonical form: UnicodeEncodeError is a ValueError
        return _quoted(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("Expected keys that are text")
        # RFC 8785 section 3.2.3 sorts keys by their UTF-16 code units.
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return (
            "{"
            + ",".join(f"{_text(key, depth)}:{_text(value[key], depth + 1)}" for key in keys)
            + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(each, depth + 1) for each in value) + "]"
    raise ValueError(f"Expected a JSON value, found {type(value).__name__}")


def _number(value: float) -> str:
    """ECMAScript's Number.toString, as RFC 8785 section 3.2.2.3 asks; -0 is 0."""
    if not math.isfinite(value):
        raise ValueError(f"Expected a finite number, found {value}")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return sign + _placed(digits, point)


def _placed(digits: str, point: int) -> str:
    """Put the decimal point behind the first `point` digits, or use an exponent where ECMAScript does."""
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    tail = digits[:1] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{tail}e{'+' if point > 0 else '-'}{abs(point - 1)}"
