"""A site's data set: a file becomes a table, a table becomes the records that a study asks for.

    path -> read_table -> Table (as it is in the file) -> records_of -> Records (numbers, classes, units, parts)

Everything that can be wrong with a data set is found here, once, before any round: at registration, or when a
simulation starts. A message names table, column, the first line at fault and how many more there are, and what to
do about it. It never shows what a cell holds: messages end up in logs, tickets and reports.
"""

from __future__ import annotations

import csv
import difflib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from privacy.errors import DataError
from study.contract import Bounds, Study
from study.models import feature_names
from study.split import record_identities, train_mask, unit_identity

__all__ = [
    "Records",
    "Table",
    "check_pooled",
    "check_site",
    "read_table",
    "records_of",
    "require_bounds",
    "units_of_column",
    "unlike_expected",
]

Column = npt.NDArray[np.object_] | npt.NDArray[np.float64]
Floats = npt.NDArray[np.float64]
ArrowColumn = Any  # pyarrow ships no types

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
"""What people and programs write into a cell that they leave empty, in small letters."""

_LARGEST_EXACT = 2**53
"""Whole numbers beyond it have no float64 of their own."""


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of one file, as they are.

    Arguments:
        name: what messages call it.
        columns: in the file's order: object arrays of str, or float64, all of one length.
        counted: what messages count: the lines of a text file, or rows from 1.
        lines: the number of every row in its file; None: text has a header in line 1 and one row a line.
    """

    name: str
    columns: Mapping[str, Column]
    counted: Literal["line", "row"] = "line"
    lines: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        lengths = {len(each) for each in self.columns.values()}
        if len(lengths) != 1:
            raise DataError(
                f"{self.name}: expected columns of one length, found {_listed(sorted(lengths))}",
                hint="every array needs one number a record",
            )
        object.__setattr__(self, "columns", MappingProxyType(dict(self.columns)))

    @property
    def rows(self) -> int:
        """Number of records."""
        return len(next(iter(self.columns.values())))

    def place(self, row: int) -> str:
        """Where a row stands, for a message, e.g. `line 17`."""
        first = 2 if self.counted == "line" else 1
        return f"{self.counted} {row + first if self.lines is None else self.lines[row]}"

    def texts(self, column: str) -> list[str]:
        """Return a column as text without blanks around it; "" where a cell is empty.

        A whole number is written without a point, so that 12 of a Parquet file is "12" of a CSV file.
        """
        return [_text_of(each) for each in self.columns[column].tolist()]

    def numbers(self, column: str) -> Floats:
        """Return a column as finite numbers, shape (rows,). Raises DataError for a cell that holds none."""
        values = self.columns[column]
        if values.dtype == object:
            found = [_number_of(each) for each in values.tolist()]
            self.refuse(
                column, [each is None for each in found], "holds text where a number is expected",
                "write numbers with a point and no unit, or leave the column out of data.features",
            )  # fmt: skip
            values = np.array(found, dtype=np.float64)
        numbers = values.astype(np.float64)
        self.refuse(
            column,
            ~np.isfinite(numbers),
            "is empty, NaN or infinite",
            "fill them in or drop the rows",
        )
        return numbers

    def refuse(
        self, column: str, wrong: Sequence[bool] | npt.NDArray[np.bool_], what: str, hint: str
    ) -> None:
        """Raise DataError if any row is `wrong`, naming the first one."""
        rows = np.flatnonzero(wrong)
        if len(rows):
            more = f" (the first of {len(rows):,} such cells)" if len(rows) > 1 else ""
            raise DataError(
                f'{self.name}, {self.place(int(rows[0]))}: column "{column}" {what}{more}',
                hint=hint,
            )


@dataclass(frozen=True, eq=False)
class Records:
    """The records of a site as a study wants them, in the order of their table.

    Two records that are equal are two units of equal identity, unless a column says that they are one.

    Arguments:
        features: raw, float64, shape (N, d), in the study's frozen order.
        labels: int64 numbers in `data.classes`, or float64, shape (N,).
        units: the unit of every record, int64 in 0 .. len(identities) - 1, shape (N,).
        identities: what every unit is, whatever its place (`study/split.py`).
        train: is the unit for training? shape (len(identities),).
        name: what messages call them.
    """

    features: Floats
    labels: npt.NDArray[np.int64] | Floats
    units: npt.NDArray[np.int64]
    identities: list[bytes]
    train: npt.NDArray[np.bool_]
    name: str = "the data set"

    @property
    def count(self) -> int:
        """Number of records."""
        return len(self.labels)

    def select(self, unit_indices: npt.NDArray[np.int64]) -> Records:
        """Keep the given units, each at most once, renumbered in the order given; rows keep their order."""
        if len(np.unique(unit_indices)) != len(unit_indices):
            raise ValueError("Expected every unit at most once")
        numbers = np.full(len(self.identities), -1, dtype=np.int64)
        numbers[unit_indices] = np.arange(len(unit_indices))
        units = numbers[self.units]
        rows = units >= 0
        return Records(
            features=self.features[rows],
            labels=self.labels[rows],
            units=units[rows],
            identities=[self.identities[each] for each in unit_indices],
            train=self.train[unit_indices],
            name=self.name,
        )

    def train_part(self) -> Records:
        """Keep the units for training."""
        return self.select(np.flatnonzero(self.train))

    def test_part(self) -> Records:
        """Keep the units for testing."""
        return self.select(np.flatnonzero(~self.train))


def read_table(path: Path) -> Table:
    """Read a file: .csv (UTF-8, with a header), .parquet or .npz.

    | file | columns |
    |---|---|
    | .csv | text, as it is written; blank lines are skipped |
    | .parquet | numbers as float64, anything else as text |
    | .npz | one for every array with one axis, `features` of two axes as feature_0, feature_1, ... |

    Whole numbers that float64 cannot hold exactly, such as long identifiers, stay text.

    Raises:
        DataError: what is wrong with the file, where, and what to do.
    """
    readers: Mapping[str, Callable[[Path], Table]] = {
        ".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz,
    }  # fmt: skip
    hint = "give a file that ends in " + ", ".join(readers)
    if path.is_dir():
        raise DataError(f"{path} is a directory, not a data set", hint=hint)
    if not path.exists():
        raise DataError(f"There is no file {path}", hint="check the path; or: " + hint)
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} is not of a kind that can be read", hint=hint)
    try:
        return readers[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__}", hint=hint) from error


def _read_csv(path: Path) -> Table:
    lines, rows = _csv_rows(path)
    if not rows:
        raise DataError(f"{path} is empty", hint="the first line names the columns")
    header = _checked_header(path, rows[0])
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}: expected {len(header)} cells, as in the header, found {len(row)}",
                hint="a cell that holds a comma must stand in quotes",
            )
    if len(rows) == 1:
        raise DataError(f"{path} has a header and no records", hint="add at least one record")
    cells = zip(*rows[1:], strict=True)
    columns = {name: _objects(column) for name, column in zip(header, cells, strict=True)}
    return Table(str(path), columns, "line", np.array(lines[1:], dtype=np.int64))


def _csv_rows(path: Path) -> tuple[list[int], list[list[str]]]:
    """Read every row that is not blank, and the line at which it starts (a quoted cell may span several)."""
    lines, rows, start = [], [], 1
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                if row:
                    lines.append(start)
                    rows.append(row)
                start = reader.line_num + 1
        except UnicodeDecodeError:
            raise DataError(
                f"{path} is not UTF-8 text", hint='save it again as "CSV UTF-8"'
            ) from None
        except csv.Error:
            raise DataError(
                f"{path}, line {start}: a quoted cell does not end as it should, or is far too long",
                hint='a quote within a quoted cell is written twice: ""',
            ) from None
    return lines, rows


def _checked_header(path: Path, cells: list[str]) -> list[str]:
    """Names of the columns. They are named by position here: without a header they would be a record."""
    header = [each.strip() for each in cells]
    if len(header) == 1 and any(each in header[0] for each in ";\t"):
        raise DataError(
            f"{path}: the cells are separated by semicolons or tabs",
            hint="save it with commas between cells and points in numbers",
        )
    if "" in header:
        raise DataError(
            f"{path}, line 1: column {header.index('') + 1} has no name",
            hint="name it, or leave it out (pandas: to_csv(index=False))",
        )
    _refuse_duplicates(path, header)
    return header


def _refuse_duplicates(path: Path, header: list[str]) -> None:
    first: dict[str, int] = {}
    for number, name in enumerate(header, start=1):
        if name in first:
            raise DataError(
                f"{path}: columns {first[name]} and {number} have the same name",
                hint="give every column a name of its own, in the first line",
            )
        first[name] = number


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow", hint='pip install "discreet[parquet]"'
        ) from None
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        header = [str(each) for each in table.column_names]
        columns = [_arrow_column(each) for each in table.columns]
    except OSError:
        raise
    except (
        Exception
    ) as error:  # Arrow finds some of the damage where it makes text of it, in its own ways
        raise DataError(f"{path} is not a Parquet file", hint="was it copied whole?") from error
    _refuse_duplicates(path, header)
    _require_rows(path, table.num_rows if header else 0)
    return Table(str(path), dict(zip(header, columns, strict=True)), "row")


def _arrow_column(column: ArrowColumn) -> Column:
    import pyarrow as pa  # noqa: PLC0415

    kind, types = column.type, pa.types
    try:
        if types.is_boolean(kind):
            kind, column = pa.int8(), column.cast(pa.int8())
        if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
            numbers = column.cast(pa.float64())
            return np.array(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)
    except pa.ArrowInvalid:
        pass  # a whole number that float64 does not have: the column stays text
    return _objects("" if each is None else str(each) for each in column.to_pylist())


def _read_npz(path: Path) -> Table:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = [(name, file[name]) for name in file.files]
    except OSError:
        raise
    except Exception as error:  # NumPy and zipfile raise whatever comes to hand; and MemoryError
        raise DataError(
            f"{path} is not an .npz file of plain arrays",
            hint="write it with numpy.savez; text as arrays of str, not of objects",
        ) from error
    columns = [column for name, array in arrays for column in _numpy_columns(path, name, array)]
    _refuse_duplicates(path, [name for name, _ in columns])
    _require_rows(path, min((len(column) for _, column in columns), default=0))
    return Table(str(path), dict(columns), "row")


def _numpy_columns(path: Path, name: str, array: object) -> list[tuple[str, Column]]:
    """The columns that one member of the archive holds, by name."""
    if not isinstance(array, np.ndarray):
        raise DataError(f'{path}: "{name}" is not an array', hint="write it with numpy.savez")
    if name == "features" and array.ndim == 2:
        return [(f"feature_{n}", _numpy_column(path, each)) for n, each in enumerate(array.T)]
    if array.ndim == 1:
        return [(name, _numpy_column(path, array))]
    raise DataError(
        f'{path}: array "{name}" has {array.ndim} axes, expected one',
        hint='only "features" may have two: records, and columns',
    )


def _numpy_column(path: Path, array: npt.NDArray[Any]) -> Column:
    if array.dtype.kind in "iu" and len(array):
        largest = max(int(array.max()), -int(array.min()))
        if largest > _LARGEST_EXACT:
            return _objects(str(each) for each in array.tolist())
    if array.dtype.kind in "biuf":
        with np.errstate(all="ignore"):  # what float64 cannot hold is found among the numbers
            return array.astype(np.float64)
    if array.dtype.kind == "U" and _is_unicode(array):
        return _objects(array.tolist())
    raise DataError(
        f"{path}: an array holds {array.dtype.name}, expected numbers or text",
        hint="convert it first",
    )


def _is_unicode(array: npt.NDArray[np.str_]) -> bool:
    """NumPy makes text of any 32 bits, and Python then fails wherever it is used."""
    codes = np.frombuffer(array.astype(array.dtype.newbyteorder("=")).tobytes(), np.uint32)
    return int(codes.max(initial=0)) <= sys.maxunicode


def _require_rows(path: Path, rows: int) -> None:
    if not rows:
        raise DataError(f"{path} holds no records", hint="add at least one record")


def _objects(values: Iterable[str]) -> npt.NDArray[np.object_]:
    return np.array(list(values), dtype=object)


def _text_of(cell: str | float) -> str:
    if isinstance(cell, str):
        return cell.strip()
    if math.isnan(cell):
        return ""
    return str(int(cell)) if cell.is_integer() else repr(cell)


def _number_of(cell: str) -> float | None:
    """Read the number that a text is: NaN if it stands for nothing, None if it is something else."""
    try:
        return float(cell) if "_" not in cell else None  # Python alone reads 1_000 as a number
    except ValueError:
        return math.nan if cell.strip().lower() in _MISSING else None


def records_of(table: Table, study: Study) -> Records:
    """Turn a table into the records that a study with frozen features asks for.

    Values are raw: they are clamped and scaled in `study/scaling.py`. The hash that tells training from testing is
    taken here, of raw values, so that bounds may change without moving a record to the other part.

    Raises:
        StudyError: the study's features still say "all".
        DataError: a column is missing, a cell cannot be used or lies beyond its bounds, or bounds are missing.
    """
    data, names = study.data, feature_names(study)
    _require_columns(table, study, names)
    for each in names:
        table.numbers(
            each
        )  # text first: a column of names needs no bounds, it needs to be left out
    require_bounds(study, table.name)
    features = np.stack([_feature(table, study, each) for each in names], axis=1)
    labels = _classes(table, study) if data.task == "classification" else _numbers(table, study)
    if data.unit is None:
        identities = record_identities(features, labels)
        units = np.arange(table.rows, dtype=np.int64)
    else:
        units, texts = units_of_column(table, data.unit)
        identities = [unit_identity(each) for each in texts]
    return Records(features, labels, units, identities, train_mask(data, identities), table.name)


def _require_columns(table: Table, study: Study, features: Sequence[str]) -> None:
    data = study.data
    wanted = {"data.label": [data.label], "data.features": features}
    wanted |= {"data.unit": [data.unit]} if data.unit is not None else {}
    for setting, names in wanted.items():
        missing = [each for each in names if each not in table.columns]
        if missing:
            raise _no_column(table, missing, setting)


def _no_column(table: Table, missing: Sequence[str], asking: str) -> DataError:
    close = difflib.get_close_matches(missing[0], table.columns, n=1)
    return DataError(
        f"{table.name}: there is no column {_listed(missing)}, as {asking} asks",
        hint=f'did you mean "{close[0]}"?' if close else "the first line names the columns",
    )


def require_bounds(study: Study, name: str) -> None:
    """Raise DataError where a feature of a frozen study lacks public bounds; `name` is how the table is called.

    Without them nothing can be scaled without looking at the data, which would cost privacy.
    """
    if study.privacy.trust == "unsafe" and study.data.scaled == "none":
        return
    missing = [each for each in feature_names(study) if study.data.bounds_of(each) is None]
    if missing:
        raise DataError(
            f"{name}: the study gives no public bounds for {_listed(missing)}",
            hint=f'under [data.bounds] add "{missing[0]}" = [low, high], or default = [low, high] for all',
        )


def _feature(table: Table, study: Study, name: str) -> Floats:
    hint = f'widen "{name}" under [data.bounds], or set data.beyond_bounds = "clamp"'
    return _within(table, study, name, study.data.bounds_of(name), hint)


def _numbers(table: Table, study: Study) -> Floats:
    """Labels of a regression."""
    hint = 'widen data.label_bounds, or set data.beyond_bounds = "clamp"'
    return _within(table, study, study.data.label, study.data.label_bounds, hint)


def _within(table: Table, study: Study, name: str, bounds: Bounds | None, hint: str) -> Floats:
    values = table.numbers(name)
    if bounds is not None and study.data.beyond_bounds == "refuse":
        beyond = (values < bounds[0]) | (values > bounds[1])
        table.refuse(name, beyond, f"lies beyond its bounds [{bounds[0]:g}, {bounds[1]:g}]", hint)
    return values


def _classes(table: Table, study: Study) -> npt.NDArray[np.int64]:
    """Labels of a classification as numbers in `data.classes`."""
    label, classes = study.data.label, study.data.classes
    texts = table.texts(label)
    numbers = {each: _class_of(each, classes) for each in set(texts)}
    found = np.array([numbers[each] for each in texts], dtype=np.int64)
    empty = [each == "" and numbers[each] < 0 for each in texts]
    table.refuse(label, empty, "is empty", "fill them in or drop the rows")
    table.refuse(
        label, found < 0, "holds a class that the study does not name",
        f"data.classes names {_listed(classes)}: correct the cells, or add the class to the study",
    )  # fmt: skip
    return found


def _class_of(text: str, classes: Sequence[str]) -> int:
    """Find the number of a class: by its text, or else by its value, as 1 is 1.0; -1 if it is none."""
    if text in classes:
        return classes.index(text)
    number = _number_of(text)
    if number is None or not math.isfinite(number):
        return -1
    return next((n for n, each in enumerate(classes) if _number_of(each) == number), -1)


def units_of_column(table: Table, column: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return (the unit of every row, the text of every unit), units in the order of their first rows.

    Raises:
        DataError: a cell is empty, or there is no such column. No other column is suggested: in a file without a
            header its "columns" are a record.
    """
    if column not in table.columns:
        raise DataError(
            f'{table.name}: there is no column "{column}" to name its units',
            hint="its first line must name the columns",
        )
    texts = table.texts(column)
    empty = [each.lower() in _MISSING for each in texts]
    table.refuse(
        column, empty, "is empty, so its record belongs to no unit", "fill them in or drop the rows"
    )
    numbers: dict[str, int] = {}
    units = [numbers.setdefault(each, len(numbers)) for each in texts]
    return np.array(units, dtype=np.int64), list(numbers)


def check_site(records: Records, study: Study) -> None:
    """Raise DataError if a site holds more training units than the study's public capacity.

    Checked once, when a data set is registered or loaded, never in a round. Within a round there would be only two
    ways out, and both tell something: a refusal that depends on the data, or leaving units out. Which units are left
    out depends on the others, so that one more unit changes what another contributes, and the sum's sensitivity is
    no longer the norm of one unit.
    """
    found, most = int(records.train.sum()), study.maximum_records
    if found > most:
        raise DataError(
            f"{records.name}: expected at most {most:,} training units at one site, found {found:,}",
            hint="raise sites.maximum_records, or data.expected_records, from which it follows if it is not set (both "
            "are public); or register fewer records",
        )


def check_pooled(records: Records, study: Study, *, sites: int | None = None) -> None:
    """Raise DataError unless the records of all sites together can train and test a model.

    For simulations, which see all records: a real site may well hold one class, or nothing at all.

    Arguments:
        sites: how many; None for the study's minimum.
    """
    data, sites = study.data, sites or study.sites.minimum
    train, test = records.train_part(), records.test_part()
    if not train.count:
        raise DataError(
            f"{records.name}: no record is for training",
            hint="use more data, a smaller data.test_fraction or another data.split_key",
        )
    if data.test_fraction and not test.count:
        raise DataError(
            f"{records.name}: no record is for testing",
            hint="use more data, a larger data.test_fraction (0: none) or another data.split_key",
        )
    if len(records.identities) < sites:
        raise DataError(
            f"{records.name}: expected at least one unit for each of {sites} sites, "
            f"found {len(records.identities)}",
            hint="use more data, or fewer sites",
        )
    if data.task == "classification" and len(np.unique(train.labels)) < 2:
        raise DataError(
            f'{records.name}: column "{data.label}" holds one class only in all training records',
            hint="a model needs records of at least two classes",
        )


def unlike_expected(records: Records, study: Study) -> str | None:
    """What to say if `data.expected_records` is less than half, or more than twice, of what is there; else None.

    For whoever sees the records of all sites: no mistake, as it is public and must not be computed from them.
    """
    found, expected = int(records.train.sum()), study.data.expected_records
    if study.training.algorithm != "dp-fedsgd" or found / 2 <= expected <= found * 2:
        return None
    return (
        f"Note: {found:,} units are for training and data.expected_records is {expected:,}, by which every sum is "
        "divided: steps are as much too long or too short."
    )


def _listed(values: Iterable[object]) -> str:
    """At most three of the values, quoted where they are text, and how many more there are."""
    said = [f'"{each}"' if isinstance(each, str) else f"{each:,}" for each in values]
    return ", ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "")
