"""Where records come from: a file, or one of the data sets that simulations bring along.

A built-in set has its public bounds here, as a researcher would take them from its documentation.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from client.tables import Table, read_table
from privacy.errors import DataError, StudyError
from study.contract import Bounds, Study
from study.freezing import freeze

__all__ = ["BUILT_IN", "Source", "built_in", "frozen", "load", "published_bounds"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set that needs no file.

    Attributes:
        about: one line.
        label: the column to predict.
        label_bounds: its public range, for a regression.
        bounds: public range of every feature: round numbers around the documented range.
        read: the columns in order, the label last.
    """

    about: str
    label: str
    label_bounds: Bounds | None = None
    bounds: Mapping[str, Bounds]
    read: Callable[[], dict[str, npt.NDArray[Any]]]


def built_in(name: str) -> Table:
    """Return the records of a built-in set. Raises DataError for an unknown name."""
    return Table(name=name, columns=_source(name).read(), counted="row")


def published_bounds(name: str) -> dict[str, Bounds]:
    """Return the public range of every feature of a built-in set. Raises DataError if there is none."""
    return dict(_source(name).bounds)


def frozen(study: Study, path: Path | None, table: Table, *, without: str = "") -> Study:
    """The study with the columns of its table, and the bounds that its built-in set publishes; a file publishes none.

    Arguments:
        without: a column that is no feature, whatever the study says of "all".
    """
    source = study.data.source if path is None else None
    columns = [name for name in table.columns if name != without]
    return freeze(study, columns, published_bounds(source) if source else {})


def load(study: Study, path: Path | None) -> Table:
    """Return the records of the given file, or else of the study's built-in source.

    Raises:
        StudyError: neither was given.
        DataError: the file cannot be read as a table, or there is no such source.
    """
    if path is not None:
        return read_table(path)
    if study.data.source is None:
        raise StudyError(
            "The study names no built-in data set, and no file was given",
            hint="give the records with --data FILE.csv, or name a set in data.source: "
            + ", ".join(BUILT_IN),
        )
    return built_in(study.data.source)


def _source(name: str) -> Source:
    if name not in BUILT_IN:
        close = difflib.get_close_matches(name, BUILT_IN, n=1)
        raise DataError(
            f'There is no built-in data set "{name}"',
            hint=f'did you mean "{close[0]}"?' if close else "one of " + ", ".join(BUILT_IN),
        )
    return BUILT_IN[name]


Bunch = Any  # what scikit-learn loads; it ships no types


def _columns(bunch: Bunch, label: str, labels: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    features = np.asarray(bunch.data, dtype=np.float64)
    names = [str(each) for each in bunch.feature_names]
    return dict(zip(names, features.T, strict=True)) | {label: labels}


def _named(bunch: Bunch) -> npt.NDArray[np.object_]:
    return np.array([str(bunch.target_names[each]) for each in bunch.target], dtype=object)


# scikit-learn takes seconds to import, so each set imports it when it is read.


def _breast_cancer() -> dict[str, npt.NDArray[Any]]:
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415

    bunch = load_breast_cancer()
    return _columns(bunch, "diagnosis", _named(bunch))


def _digits() -> dict[str, npt.NDArray[Any]]:
    from sklearn.datasets import load_digits  # noqa: PLC0415

    bunch = load_digits()
    return _columns(bunch, "digit", _named(bunch))


def _wine() -> dict[str, npt.NDArray[Any]]:
    from sklearn.datasets import load_wine  # noqa: PLC0415

    bunch = load_wine()
    return _columns(bunch, "cultivar", _named(bunch))


def _diabetes() -> dict[str, npt.NDArray[Any]]:
    from sklearn.datasets import load_diabetes  # noqa: PLC0415

    bunch = load_diabetes(scaled=False)
    return _columns(bunch, "progression", np.asarray(bunch.target, dtype=np.float64))


def _house_prices() -> dict[str, npt.NDArray[Any]]:
    area = np.arange(1.0, 6.0)
    return {"area": area, "price": 2.0 * area}


_NUCLEI: Mapping[str, tuple[Bounds, Bounds, Bounds]] = {
    "radius": ((5.0, 30.0), (0.0, 3.0), (5.0, 40.0)),
    "texture": ((5.0, 40.0), (0.0, 5.0), (10.0, 50.0)),
    "perimeter": ((40.0, 200.0), (0.0, 25.0), (50.0, 260.0)),
    "area": ((100.0, 2600.0), (0.0, 600.0), (100.0, 4500.0)),
    "smoothness": ((0.05, 0.2), (0.0, 0.04), (0.05, 0.25)),
    "compactness": ((0.0, 0.4), (0.0, 0.15), (0.0, 1.1)),
    "concavity": ((0.0, 0.5), (0.0, 0.4), (0.0, 1.3)),
    "concave points": ((0.0, 0.25), (0.0, 0.06), (0.0, 0.3)),
    "symmetry": ((0.1, 0.35), (0.0, 0.1), (0.1, 0.7)),
    "fractal dimension": ((0.04, 0.1), (0.0, 0.04), (0.05, 0.25)),
}
"""Each trait's mean over the nuclei of an image, its standard error, and the mean of the three largest.

Rounded outwards from the minima and maxima that scikit-learn's description lists.
"""


def _breast_cancer_bounds() -> dict[str, Bounds]:
    forms = ("mean {}", "{} error", "worst {}")
    return {
        form.format(trait): bounds
        for number, form in enumerate(forms)
        for trait, each in _NUCLEI.items()
        for bounds in [each[number]]
    }


BUILT_IN: Mapping[str, Source] = MappingProxyType(
    {
        "breast_cancer": Source(
            about="569 images of cell nuclei, benign or malignant (Wisconsin, 1995)",
            label="diagnosis",
            bounds=_breast_cancer_bounds(),
            read=_breast_cancer,
        ),
        "digits": Source(
            about="1,797 handwritten digits of 8 x 8 pixels (UCI, 1998)",
            label="digit",
            bounds={
                f"pixel_{row}_{column}": (0.0, 16.0) for row in range(8) for column in range(8)
            },
            read=_digits,
        ),
        "wine": Source(
            about="178 chemical analyses of wines from three cultivars (UCI, 1988)",
            label="cultivar",
            bounds={
                "alcohol": (10.0, 16.0),
                "malic_acid": (0.0, 7.0),
                "ash": (1.0, 4.0),
                "alcalinity_of_ash": (10.0, 35.0),
                "magnesium": (50.0, 200.0),
                "total_phenols": (0.0, 5.0),
                "flavanoids": (0.0, 6.0),
                "nonflavanoid_phenols": (0.0, 1.0),
                "proanthocyanins": (0.0, 4.0),
                "color_intensity": (0.0, 15.0),
                "hue": (0.0, 2.0),
                "od280/od315_of_diluted_wines": (1.0, 5.0),
                "proline": (200.0, 2000.0),
            },
            read=_wine,
        ),
        # Its description lists no ranges: these are what medicine finds in adults. Here sex is 1 or 2, bp a mean
        # blood pressure in mmHg, s1-s3 cholesterols and s6 glucose in mg/dl, s4 a ratio and s5 a logarithm.
        "diabetes": Source(
            about="442 patients, and how far their diabetes had come a year later (Efron et al. 2004)",
            label="progression",
            label_bounds=(0.0, 400.0),
            bounds={
                "age": (0.0, 100.0),
                "sex": (1.0, 2.0),
                "bmi": (15.0, 50.0),
                "bp": (50.0, 150.0),
                "s1": (50.0, 350.0),
                "s2": (0.0, 250.0),
                "s3": (0.0, 120.0),
                "s4": (0.0, 12.0),
                "s5": (2.0, 7.0),
                "s6": (40.0, 160.0),
            },
            read=_diabetes,
        ),
        "house_prices": Source(
            about="five houses: a price of twice the area, to check by hand",
            label="price",
            label_bounds=(0.0, 12.0),
            bounds={"area": (0.0, 6.0)},
            read=_house_prices,
        ),
    }
)
"""Every built-in set by the name that `data.source` gives it."""
