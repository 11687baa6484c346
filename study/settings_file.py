"""A file of settings: TOML in sections, each of them the settings of one frozen dataclass.

    text -> plain values -> arguments of the dataclasses: a mistake is named with its line
    dataclasses -> text in which every setting is explained by its own declaration

A study and a site's policy are such files (`study/parsing.py`, `client/policy.py`).
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from privacy.errors import UserError
from study.settings import ImpossibleSettingError, documentation, settings_of, type_in_words

__all__ = [
    "arguments_of",
    "check_head",
    "frozen_value",
    "parse_settings",
    "read_text",
    "section_text",
    "sections_of",
    "sections_text",
    "toml_value",
    "values_of",
]

_WIDTH = 100

Document = Mapping[str, Any]
Value = TypeVar("Value")


# Reading


def read_text(path: Path, *, kind: str, error: type[UserError]) -> str:
    """The text of a file that `discreet KIND init` writes. Raises `error` if there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error(
            f"There is no file {path}", hint=f"write one with: discreet {kind} init {path}"
        ) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(
            f"{path} cannot be read as a text file",
            hint=f"give a {kind}.toml saved as UTF-8; write one with: discreet {kind} init",
        ) from problem


def parse_settings(
    text: str, build: Callable[[Document], Value], *, name: str, error: type[UserError]
) -> Value:
    """Build what the text of a file says; `name` is how errors call the file.

    Raises:
        error: naming file and line, whatever is wrong.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:  # a number of 5,000 digits is a ValueError too
        raise error(
            f"{name} is not TOML: {problem}",
            hint="look for a missing quote or bracket, a decimal comma, or a key that is given twice",
        ) from problem
    try:
        return build(document)
    except ImpossibleSettingError as problem:
        line = _line_of(text, problem.name)
        where = f"{name}, line {line}" if line else name
        raise error(f"{where}: {problem.message}", hint=problem.hint) from problem


def check_head(document: Document, version: int, sections: Sequence[str]) -> None:
    """Raise ImpossibleSettingError unless a file has this version of its format and no section but these."""
    found = document.get("format")
    if type(found) is not int or found != version:
        raise ImpossibleSettingError("format", expected=f"format = {version}", actual=found)
    _refuse_unknown("", document, ["format", *sections])


def arguments_of(
    section: str, owner: type, values: Any, *, tables: Sequence[str] = ()
) -> dict[str, Any]:
    """The constructor's arguments from one section; unknown and missing settings are refused here.

    Arguments:
        tables: names of what may stand in the section besides settings; left to the caller.
    """
    if not isinstance(values, Mapping):
        raise ImpossibleSettingError(section, expected=f"a section [{section}]", actual=values)
    known = settings_of(owner)
    _refuse_unknown(section, values, [*known, *tables])
    hints = typing.get_type_hints(owner)
    for each in fields(owner):
        if each.name in known and each.default is MISSING and each.name not in values:
            expected = f"{type_in_words(hints[each.name])} ({each.metadata['doc'].rstrip('.')})"
            raise ImpossibleSettingError(f"{section}.{each.name}", expected=expected, actual=None)
    return {key: frozen_value(value) for key, value in values.items() if key in known}


def sections_of(document: Document, version: int, sections: Mapping[str, type]) -> dict[str, Any]:
    """The settings of every section, by its name, of a file that has no others; an absent one has its defaults.

    Raises:
        ImpossibleSettingError: another version, or an unknown, missing or impossible setting.
    """
    check_head(document, version, list(sections))
    return {
        name: owner(**arguments_of(name, owner, document.get(name, {})))
        for name, owner in sections.items()
    }


def frozen_value(value: Any) -> Any:
    """A list as a tuple, whatever it holds."""
    return tuple(map(frozen_value, value)) if isinstance(value, list) else value


def _refuse_unknown(section: str, values: Document, known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ImpossibleSettingError(
                f"{section}.{key}".lstrip("."),
                expected="one of " + ", ".join(known),
                actual="an unknown name",
                hint=f"did you mean {close[0]}?" if close else "",
            )


def _line_of(text: str, name: str) -> int | None:
    """The line (from 1) of a setting such as `privacy.delta` or `data.bounds."age"`: of its key, or else its header."""
    section, dot, key = name.partition(".")
    if key.endswith('"'):
        table, _, key = key.partition('."')
        places = [(f"{section}.{table}", key.removesuffix('"'))]
    else:
        places = [(section, key)] if dot else [(name, ""), ("", name)]
    return next((line for where, key in places if (line := _find(text, where, key))), None)


def _find(text: str, section: str, key: str) -> int | None:
    current, header = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        if match := re.match(r"\s*\[\s*([\w.\-]+)\s*\]", line):
            current = match[1]
            header = number if current == section else header
        elif current == section and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return header


# Writing


def values_of(section: Any) -> dict[str, Any]:
    """The plain values of one section, every default filled in. What is absent on purpose stays absent."""
    given = {name: getattr(section, name) for name in settings_of(type(section))}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value is not None
    }


def section_text(section: str, heading: str, owner: type, values: Document) -> str:
    """One section with every setting explained: what is given as it is, what is not behind a # with its default."""
    lines = [f"[{section}]  # {heading}"]
    defaults = {each.name: each.default for each in fields(owner)}
    for name in settings_of(owner):
        lines += [f"# {line}" for line in _wrapped(documentation(owner, name))]
        if name in values:
            lines.append(f"{name} = {toml_value(values[name])}")
        elif defaults[name] is MISSING or defaults[name] is None:
            lines.append(f"# {name} =")
        else:
            lines.append(f"# {name} = {toml_value(defaults[name])}")
    return "\n".join(lines) + "\n"


def sections_text(version: int, sections: Mapping[str, type], settings: object) -> str:
    """A whole file with every setting explained; `settings` has an attribute of each section's name."""
    texts = [
        section_text(name, (owner.__doc__ or "").rstrip("."), owner, values_of(getattr(settings, name)))
        for name, owner in sections.items()
    ]  # fmt: skip
    return f"format = {version}\n\n" + "\n".join(texts)


def toml_value(value: object) -> str:
    """Write a text, number, truth value or list; a long list takes a line for each entry."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's, but that TOML wants DEL escaped as well.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        entries = [toml_value(each) for each in value]
        line = "[" + ", ".join(entries) + "]"
        if len(line) <= _WIDTH:
            return line
        return "[\n" + "".join(f"    {each},\n" for each in entries) + "]"
    return repr(value)


def _wrapped(text: str) -> list[str]:
    return [line for paragraph in text.split("\n") for line in textwrap.wrap(paragraph, 110)]
