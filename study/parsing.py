"""`study.toml` to a `Study`: every mistake is named with its line, what was expected and what was found."""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from privacy.errors import StudyError
from study.contract import FORMAT, Data, Model, Privacy, Sites, Study, Training, settings_of
from study.settings import ImpossibleSettingError, type_in_words

__all__ = ["SECTIONS", "parse_study", "read_study", "study_from_values", "study_to_values"]

SECTIONS: Mapping[str, type] = {
    "study": Study, "data": Data, "model": Model, "training": Training, "privacy": Privacy, "sites": Sites,
}  # fmt: skip
"""The sections of the file, in its order, and the values that they become."""


def read_study(path: Path) -> Study:
    """Read a study from a file. Raises StudyError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise StudyError(
            f"There is no file {path}", hint=f"write one with: discreet study init {path}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{path} cannot be read as a text file",
            hint="give a study.toml saved as UTF-8; write one with: discreet study init",
        ) from error
    return parse_study(text, name=str(path))


def parse_study(text: str, *, name: str = "study.toml") -> Study:
    """Read a study from the text of its file; `name` is how errors call it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(
            f"{name} is not TOML: {error}",
            hint="look for a missing quote or bracket, a decimal comma, or a key that is given twice",
        ) from error
    try:
        return study_from_values(document)
    except ImpossibleSettingError as error:
        line = _line_of(text, error.name)
        where = f"{name}, line {line}" if line else name
        raise StudyError(f"{where}: {error.message}", hint=error.hint) from error


def study_from_values(document: Mapping[str, Any]) -> Study:
    """A study from nested plain values, as TOML and canonical JSON give them.

    Raises:
        ImpossibleSettingError: an unknown, missing or impossible setting.
    """
    version = document.get("format")
    if type(version) is not int or version != FORMAT:
        raise ImpossibleSettingError("format", expected=f"format = {FORMAT}", actual=version)
    _refuse_unknown("", document, ["format", *SECTIONS])
    parts = {each: _section(each, document.get(each, {})) for each in SECTIONS if each != "study"}
    return Study(**_arguments("study", Study, document.get("study", {})), **parts)


def study_to_values(study: Study) -> dict[str, Any]:
    """The plain values of a study, every default filled in: the inverse of `study_from_values`."""
    values: dict[str, Any] = {"format": FORMAT, "study": _values(study)}
    for each in SECTIONS:
        if each != "study":
            values[each] = _values(getattr(study, each))
    values["data"]["bounds"] = {key: list(pair) for key, pair in study.data.bounds.items()}
    return values


def _values(section: Any) -> dict[str, Any]:
    given = {name: getattr(section, name) for name in settings_of(type(section))}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value is not None
    }


def _section(name: str, values: Any) -> Any:
    arguments = _arguments(name, SECTIONS[name], values)
    if name == "data":
        bounds = values.get("bounds", {})
        if not isinstance(bounds, Mapping):
            raise ImpossibleSettingError(
                "data.bounds", expected="a table [data.bounds]", actual=bounds
            )
        arguments["bounds"] = {key: _frozen(pair) for key, pair in bounds.items()}
    return SECTIONS[name](**arguments)


def _arguments(name: str, owner: type, values: Any) -> dict[str, Any]:
    """The constructor's arguments from one section; unknown and missing settings are refused here."""
    if not isinstance(values, Mapping):
        raise ImpossibleSettingError(name, expected=f"a section [{name}]", actual=values)
    known = settings_of(owner)
    _refuse_unknown(name, values, known + ["bounds"] * (name == "data"))
    hints = typing.get_type_hints(owner)
    for each in fields(owner):
        if each.name in known and each.default is MISSING and each.name not in values:
            expected = f"{type_in_words(hints[each.name])} ({each.metadata['doc'].rstrip('.')})"
            raise ImpossibleSettingError(f"{name}.{each.name}", expected=expected, actual=None)
    return {key: _frozen(value) for key, value in values.items() if key in known}


def _refuse_unknown(section: str, values: Mapping[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ImpossibleSettingError(
                f"{section}.{key}".lstrip("."),
                expected="one of " + ", ".join(known),
                actual="an unknown name",
                hint=f"did you mean {close[0]}?" if close else "",
            )


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _line_of(text: str, name: str) -> int | None:
    """The line (from 1) of a setting such as `privacy.delta`: of its key, or else of its section's header."""
    if name.startswith("data.bounds."):
        places = [("data.bounds", name.removeprefix("data.bounds.").strip('"'))]
    elif "." in name:
        section, _, key = name.partition(".")
        places = [(section, key)]
    else:
        places = [(name, ""), ("", name)]
    return next((line for section, key in places if (line := _find(text, section, key))), None)


def _find(text: str, section: str, key: str) -> int | None:
    current, header = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        if match := re.match(r"\s*\[\s*([\w.\-]+)\s*\]", line):
            current = match[1]
            header = number if current == section else header
        elif current == section and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return header
