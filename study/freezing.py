"""A study with nothing left open, and a study as a file.

"all" columns and a default range are for simulations: real sites must agree on names, order and public bounds
before any of them looks at its data.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from privacy.errors import DataError
from study.contract import Bounds, Study
from study.parsing import study_to_values
from study.settings import ImpossibleSettingError
from study.settings_file import toml_value

__all__ = ["freeze", "to_toml"]


def freeze(study: Study, columns: Sequence[str], published: Mapping[str, Bounds]) -> Study:
    """Write out what a study leaves open: the names of its features, and the bounds of each.

    Features "all" become every column but the label and the unit, in the table's order. The bounds of a feature
    are the first of

    1. the study's own entry for its column,
    2. the range that a built-in data set publishes: it comes before `default`,
    3. the study's `default`;

    a feature that has none of them stays without. A study without privacy that declares neither scaling nor bounds
    keeps its features as they are, so published ranges are left out. Freezing a frozen study changes nothing.

    Arguments:
        columns: of the table, in order.
        published: ranges that the built-in source publishes; empty for a file.
    Raises:
        ImpossibleSettingError: bounds of a column that does not exist, such as one that is misspelt.
        DataError: no column is left that could be a feature.
    """
    data = study.data
    features = data.features
    if isinstance(features, str):
        features = tuple(each for each in columns if each not in (data.label, data.unit))
        if not features:
            raise DataError(
                "Expected columns besides the label and the unit, found none",
                hint="does the file separate its columns with commas?",
            )
    _refuse_unknown_bounds(data.bounds, [*columns, *features])
    if study.privacy.trust == "unsafe" and data.scaling is None and not data.bounds:
        published = {}
    found = {
        each: data.bounds.get(each) or published.get(each) or data.bounds_of(each)
        for each in features
    }
    stated = {name: bounds for name, bounds in found.items() if bounds is not None}
    return replace(study, data=replace(data, features=features, bounds=stated))


def _refuse_unknown_bounds(bounds: Mapping[str, Bounds], names: Sequence[str]) -> None:
    for name in bounds:
        if name != "default" and name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise ImpossibleSettingError(
                f'data.bounds."{name}"',
                expected="the name of a column",
                actual="no such column",
                hint=f'did you mean "{close[0]}"?' if close else "",
            )


def to_toml(study: Study) -> str:
    """Write a study as the text of a `study.toml`, every setting in it, in the file's order.

    **Guarantees**: `parse_study(to_toml(study)) == study`. A setting that is absent on purpose stays absent, as
    TOML has no word for nothing.
    """
    values = study_to_values(study)
    bounds = values["data"].pop("bounds")
    lines = [f"format = {values.pop('format')}"]
    for section, settings in values.items():
        lines += ["", f"[{section}]"]
        lines += [f"{name} = {toml_value(value)}" for name, value in settings.items()]
        if section == "data" and bounds:
            lines += ["", "[data.bounds]"]
            lines += [f"{toml_value(name)} = {toml_value(pair)}" for name, pair in bounds.items()]
    return "\n".join(lines) + "\n"
