"""How one setting of a study or a policy is declared, so that parser, template and documentation read the same line.

A setting is a field of a frozen dataclass whose metadata carries its documentation and the values it allows;
`check` enforces them whenever the dataclass is made, whoever makes it.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from typing import Any, Literal, get_args, get_origin

from privacy.errors import StudyError

__all__ = [
    "ImpossibleSettingError",
    "check",
    "documentation",
    "fits",
    "setting",
    "settings_of",
    "type_in_words",
]


class ImpossibleSettingError(StudyError):
    """A setting has a value that it cannot have.

    Arguments:
        name: the setting as it is written in the file, e.g. `privacy.delta`.
        expected: in words, e.g. `a number above 0 and below 1`.
        actual: the value that was found.
    """

    def __init__(self, name: str, *, expected: str, actual: object, hint: str = "") -> None:
        super().__init__(f"{_cut(name)}: expected {expected}, found {_shown(actual)}", hint=hint)
        self.name = name


def setting(
    doc: str,
    *,
    default: Any = MISSING,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declare a setting: its documentation, its default (none: it must be given) and its range."""
    limits = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    return field(
        default=default,
        metadata={"doc": doc, "limits": {k: v for k, v in limits.items() if v is not None}},
    )


def documentation(owner: type, name: str) -> str:
    """The documentation of one setting of `owner`, one line."""
    return str(owner.__dataclass_fields__[name].metadata["doc"])  # type: ignore[attr-defined]


def settings_of(section: type) -> list[str]:
    """Names of the settings of one section, in the order of the file."""
    return [each.name for each in fields(section) if "doc" in each.metadata]


def check(owner: Any, section: str) -> None:
    """Raise `ImpossibleSettingError` unless every setting of `owner` has its type and lies in its range."""
    hints = typing.get_type_hints(type(owner))
    for each in fields(owner):
        if "doc" not in each.metadata:
            continue  # a section or a table, which checks itself
        value, name = getattr(owner, each.name), f"{section}.{each.name}"
        limits = each.metadata.get("limits", {})
        if not fits(value, hints[each.name]) or not _within(value, limits):
            raise ImpossibleSettingError(
                name, expected=_in_words(hints[each.name], limits), actual=value
            )


def type_in_words(hint: Any) -> str:
    """A type as a person would say it, e.g. `a list of text`."""
    return _in_words(hint, {})


def fits(value: Any, hint: Any) -> bool:  # noqa: PLR0911  one return a kind of type
    """Is `value` of type `hint`? An int is a float, a bool is neither; a float is finite, an int at most 2^53."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, each) for each in arguments)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(fits(each, arguments[0]) for each in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if type(value) is int and abs(value) > _LARGEST:
        return False  # it has no canonical form
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def _within(value: Any, limits: Mapping[str, float]) -> bool:
    numbers = value if isinstance(value, tuple) else (value,)
    return all(
        number > limits.get("above", -math.inf)
        and number >= limits.get("at_least", -math.inf)
        and number < limits.get("below", math.inf)
        and number <= limits.get("at_most", math.inf)
        for number in numbers
        if isinstance(number, int | float) and not isinstance(number, bool)
    )


_LARGEST = 2**53
_LONGEST_SHOWN = 200
_SIMPLE = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _in_words(hint: Any, limits: Mapping[str, float]) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_in_words(each, limits) for each in arguments if each is not type(None))
    if origin is Literal:
        return " or ".join(f'"{each}"' for each in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list of {_plural(arguments[0])}" + _limits_in_words(limits)
    if origin is tuple:
        return f"a list of {len(arguments)} {_plural(arguments[0])}"
    words = _SIMPLE.get(hint, "a table")
    return words + (_limits_in_words(limits) if hint in (int, float) else "")


def _plural(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return _in_words(hint, {})
    return {str: "texts", int: "whole numbers", float: "numbers"}.get(hint, "values")


def _limits_in_words(limits: Mapping[str, float]) -> str:
    names = {"above": "above", "at_least": "of at least", "below": "below", "at_most": "at most"}
    said = [f"{names[each]} {value:g}" for each, value in limits.items()]
    return " " + " and ".join(said) if said else ""


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def _shown(value: object) -> str:
    try:
        return _cut(_in_full(value))
    except (ValueError, RecursionError):  # thousands of digits, or of brackets
        return f"a value too large to show ({type(value).__name__})"


def _in_full(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_in_full, value)) + "]"
    return "nothing" if value is None else str(value)
