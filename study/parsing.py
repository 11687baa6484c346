"""`study.toml` to a `Study`: every mistake is named with its line, what was expected and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privacy.errors import ProtocolError, StudyError
from study.contract import FORMAT, Data, Model, Privacy, Sites, Study, Training
from study.settings import ImpossibleSettingError
from study.settings_file import (
    arguments_of,
    check_head,
    frozen_value,
    parse_settings,
    read_text,
    values_of,
)

__all__ = ["SECTIONS", "parse_study", "read_study", "study_from_values", "study_to_values"]

SECTIONS: Mapping[str, type] = {
    "study": Study, "data": Data, "model": Model, "training": Training, "privacy": Privacy, "sites": Sites,
}  # fmt: skip
"""The sections of the file, in its order, and the values that they become."""


def read_study(path: Path) -> Study:
    """Read a study from a file, or from its declaration. Raises StudyError naming file and line."""
    from study.declaration import Declaration  # noqa: PLC0415  which is made of studies

    text = read_text(path, kind="study", error=StudyError)
    if not text.startswith("{"):
        return parse_study(text, name=str(path))
    try:
        return Declaration.from_bytes(text.encode()).study
    except ProtocolError as error:
        raise StudyError(f"{path} is no declaration: {error.message}", hint=error.hint) from error


def parse_study(text: str, *, name: str = "study.toml") -> Study:
    """Read a study from the text of its file; `name` is how errors call it. Raises StudyError."""
    return parse_settings(text, study_from_values, name=name, error=StudyError)


def study_from_values(document: Mapping[str, Any]) -> Study:
    """A study from nested plain values, as TOML and canonical JSON give them.

    Raises:
        ImpossibleSettingError: an unknown, missing or impossible setting.
    """
    check_head(document, FORMAT, list(SECTIONS))
    parts = {each: _section(each, document.get(each, {})) for each in SECTIONS if each != "study"}
    return Study(**arguments_of("study", Study, document.get("study", {})), **parts)


def study_to_values(study: Study) -> dict[str, Any]:
    """The plain values of a study, every default filled in: the inverse of `study_from_values`."""
    values: dict[str, Any] = {"format": FORMAT, "study": values_of(study)}
    for each in SECTIONS:
        if each != "study":
            values[each] = values_of(getattr(study, each))
    values["data"]["bounds"] = {key: list(pair) for key, pair in study.data.bounds.items()}
    return values


def _section(name: str, values: Any) -> Any:
    tables = ["bounds"] * (name == "data")
    arguments = arguments_of(name, SECTIONS[name], values, tables=tables)
    if name == "data":
        bounds = values.get("bounds", {})
        if not isinstance(bounds, Mapping):
            raise ImpossibleSettingError(
                "data.bounds", expected="a table [data.bounds]", actual=bounds
            )
        arguments["bounds"] = {key: frozen_value(pair) for key, pair in bounds.items()}
    return SECTIONS[name](**arguments)
