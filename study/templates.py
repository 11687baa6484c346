"""Studies to start from, each written out with every setting explained by its own declaration."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from privacy.errors import UserError
from study.contract import FORMAT, Study
from study.parsing import SECTIONS, study_from_values
from study.settings_file import section_text, toml_value

__all__ = ["TEMPLATES", "template_study", "template_text"]

_PREFACE = """\
# A Discreet study: the contract between a researcher and the sites.
# A setting behind a # has its default; take the # away to change it."""

_HEADINGS = {
    "study": "What it is",
    "data": "What the records are, and everything public about them",
    "model": "What is trained",
    "training": "How",
    "privacy": "What is guaranteed, and against whom",
    "sites": "Who takes part",
}

TEMPLATES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "breast-cancer": {
        "study": {
            "name": "breast-cancer-diagnosis",
            "purpose": "Tell malignant from benign masses from digitised images of cell nuclei",
        },
        "data": {
            "source": "breast_cancer", "task": "classification", "label": "diagnosis",
            "classes": ["benign", "malignant"], "expected_records": 426, "scaling": "standard",
        },
        "model": {"kind": "logistic"},
        "training": {"rounds": 100},
        "privacy": {"epsilon": 3.0, "clipping": "automatic"},
        "sites": {"minimum": 5},
    },
    "digits": {
        "study": {"name": "handwritten-digits", "purpose": "Read handwritten digits"},
        "data": {
            "source": "digits", "task": "classification", "label": "digit",
            "classes": [str(digit) for digit in range(10)], "expected_records": 1347,
            "bounds": {"default": [0.0, 16.0]},
        },
        "model": {"kind": "softmax"},
        "training": {"rounds": 100},
        "privacy": {"epsilon": 8.0, "clipping": "automatic"},
        "sites": {"minimum": 10},
    },
    "diabetes": {
        "study": {
            "name": "diabetes-progression",
            "purpose": "Foretell the progression of diabetes within a year from ten measurements",
        },
        "data": {
            "source": "diabetes", "task": "regression", "label": "progression", "expected_records": 331,
            "label_bounds": [0.0, 400.0],
        },
        "model": {"kind": "linear"},
        "training": {"rounds": 100},
        "privacy": {"epsilon": 8.0, "clipping_norm": 0.5},
        "sites": {"minimum": 3},
    },
    "house-prices": {
        "study": {"name": "house-prices", "purpose": "Five houses and no privacy: plain gradient descent, to compare"},
        "data": {
            "source": "house_prices", "task": "regression", "label": "price", "expected_records": 5,
            "test_fraction": 0.0, "scaling": "none",
        },
        "model": {"kind": "linear"},
        "training": {"rounds": 1000, "optimizer": "sgd", "learning_rate": 0.001, "average": "none"},
        "privacy": {"trust": "unsafe"},
        "sites": {"minimum": 2},
    },
    "house-prices-private": {
        "study": {"name": "house-prices-private", "purpose": "The same five houses: what privacy costs so few records"},
        "data": {
            "source": "house_prices", "task": "regression", "label": "price", "expected_records": 5,
            "test_fraction": 0.0, "label_bounds": [0.0, 12.0], "bounds": {"area": [0.0, 6.0]},
        },
        "model": {"kind": "linear"},
        "training": {"rounds": 100, "learning_rate": 0.05},
        "privacy": {"epsilon": 8.0, "clipping_norm": 0.5},
        "sites": {"minimum": 2},
    },
}  # fmt: skip
"""What each template sets; everything else keeps its default, which the written file shows too."""


def template_study(name: str) -> Study:
    """The study of a template."""
    return study_from_values({"format": FORMAT, **_values(name)})


def template_text(name: str) -> str:
    """The study of a template as a file in which every setting is explained."""
    values = _values(name)
    parts = [f"{_PREFACE}\n\nformat = {FORMAT}  # of this file\n"]
    for section, owner in SECTIONS.items():
        parts.append(_section_text(section, owner, values.get(section, {})))
    return "\n".join(parts)


def _values(name: str) -> Mapping[str, Mapping[str, Any]]:
    if name not in TEMPLATES:
        close = difflib.get_close_matches(name, TEMPLATES, n=1)
        hint = f"did you mean {close[0]}?" if close else "one of " + ", ".join(TEMPLATES)
        raise UserError(f"There is no template {name!r}", hint=hint)
    return TEMPLATES[name]


def _section_text(section: str, owner: type, values: Mapping[str, Any]) -> str:
    text = section_text(section, _HEADINGS[section], owner, values)
    if section == "data":
        text += "\n" + "\n".join(_bounds_text(values.get("bounds", {}))) + "\n"
    return text


def _bounds_text(bounds: Mapping[str, Any]) -> list[str]:
    lines = [
        "[data.bounds]  # public range of every feature, never learnt from the data; `default` is for the rest",
        "# A built-in set brings its published ranges, which come before `default`.",
    ]
    return lines + [f"{toml_value(name)} = {toml_value(pair)}" for name, pair in bounds.items()]
