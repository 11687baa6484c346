"""Targets: the records of a site as CSV, NumPy and Parquet files."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import random
import re
import zipfile
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from client.tables import Records, read_table, records_of
from fuzzing import mutations
from fuzzing.engine import Target
from fuzzing.mutations import BYTES, LINES, Bytes
from fuzzing.places import written
from privacy.errors import DataError
from study.contract import Data, Model, Privacy, Sites, Study, Training

__all__ = ["TARGETS"]

_CANARY = "4711471"
"""Digits that every cell of a seed holds, and no message may."""


def _cells(data: bytes) -> list[str]:
    """What messages must not show; the first line holds names, which they may."""
    return [] if _CANARY.encode() in data.split(b"\n")[0] else [_CANARY]


_CLASSES = ("no", "yes")
_BOUNDS = {"age": (0.0, 110.0), "dose": (-1.0, 1.0)}


def _study(label: str, **data: object) -> Study:
    return Study(
        name="example",
        data=Data(label=label, features=tuple(_BOUNDS), bounds=_BOUNDS, expected_records=10, **data),
        model=Model(kind="logistic" if "classes" in data else "linear"), training=Training(rounds=1),
        privacy=Privacy(noise_multiplier=1.0), sites=Sites(minimum=2),
    )  # fmt: skip


CLASSIFICATION = _study(
    "ill", task="classification", classes=_CLASSES, unit="patient", records_per_unit=3
)
REGRESSION = _study("stay", task="regression", label_bounds=(0.0, 60.0), beyond_bounds="clamp")


def _csv_seeds() -> Sequence[bytes]:
    rows = [
        ",".join(
            [
                f"{20 + 7 * row}.{_CANARY}",
                f"{row / 9 - 0.5:.3f}{_CANARY}",
                _CLASSES[row % 2],
                f"p{_CANARY}-{row // 2}",
            ]
        )
        for row in range(6)
    ]
    plain = "\n".join(["age,dose,ill,patient", *rows]) + "\n"
    quoted = plain.replace("\n", "\r\n").replace(f"p{_CANARY}-0", f'"p{_CANARY}, ""0"""')
    order = "\n".join(
        ["note,patient,ill,dose,age", f"a{_CANARY},b{_CANARY},1,0.{_CANARY},3.{_CANARY}"]
    )
    return [
        plain.encode(),
        b"\xef\xbb\xbf" + quoted.encode(),
        order.replace(",1,", ",yes,").encode(),
    ]


_CELLS = (
    "", " ", "0", "-0", "110", "110.00000000000001", "1e999", "-1e999", "nan", "NaN", "inf", "-Infinity", "NA",
    "null", "None", "1_0", "0x10", "1,5", '"', '""', '"a', 'a"b', '"a\nb"', "'", "\u0661\u0662", "\uff11", "1\u00a02",
    "\x00", "\x1b[31m", "\u202e", "\u2028", "yes", "YES", " yes ", "no ", "1", "0.0", "1e308", "5e-324", "0" * 400,
    "1" * 400, "1" * 5000, "a" * 140000, "=1+1", "@sum", f"x{_CANARY}", f"{_CANARY}", f"1e{_CANARY}", f"-{_CANARY}",
    f'"{_CANARY}\n{_CANARY}"',
)  # fmt: skip


def _change_cell(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    place = draw.randrange(len(lines))
    cells = lines[place].split(b",")
    cells[draw.randrange(len(cells))] = draw.choice(_CELLS).encode()
    return b"\n".join([*lines[:place], b",".join(cells), *lines[place + 1 :]])


def _change_row(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A cell more or fewer, others swapped; or the same in every row."""
    lines = data.split(b"\n")
    place, change = draw.randrange(len(lines)), draw.randrange(4)
    one, two = draw.randrange(4), draw.randrange(4)

    def changed(line: bytes) -> bytes:
        cells = line.split(b",")
        if change == 0:
            del cells[one % len(cells)]
        elif change == 1:
            cells.insert(one, cells[two % len(cells)])
        else:
            cells[one % len(cells)], cells[two % len(cells)] = (
                cells[two % len(cells)],
                cells[one % len(cells)],
            )
        return b",".join(cells)

    everywhere = draw.random() < 0.5
    return b"\n".join(
        changed(line) if everywhere or number == place else line
        for number, line in enumerate(lines)
    )


def _other_dialect(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    return draw.choice(
        [data.replace(b",", b";"), data.replace(b",", b"\t"), data.replace(b"\n", b"\r"), data.replace(b"\n", b"\n\n"),
         data.replace(b",", b", "), data.replace(b".", b","), data.decode("utf-8", "replace").encode("utf-16"),
         b"\n" + data,
         data.replace(b",", b'","').replace(b"\n", b'"\n"')]
    )  # fmt: skip


_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


def _number(cell: str) -> float:
    return float(cell) if _NUMBER.fullmatch(cell) else math.nan


def _judge_csv(data: bytes, records: Records) -> str | None:
    text = data.decode("utf-8-sig")
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    header = [each.strip() for each in rows[0]]
    if len(set(header)) < len(header) or any(len(row) != len(header) for row in rows):
        return "it is no table"
    table = [dict(zip(header, row, strict=True)) for row in rows[1:]]
    return _judge_records(table, CLASSIFICATION, records)


def _judge_records(table: list[dict[str, str]], study: Study, records: Records) -> str | None:
    if records.count != len(table) or not table:
        return "records are lost or invented"
    for place, row in enumerate(table):
        problem = _problem_of_record(row, study, records, place)
        if problem is not None:
            return problem
    units = {row[study.data.unit].strip() for row in table} if study.data.unit else None
    if units is not None and (len(units) != len(records.identities) or "" in units):
        return "units are lost or invented"
    return None


def _problem_of_record(
    row: dict[str, str], study: Study, records: Records, place: int
) -> str | None:
    data, label, written_label = study.data, records.labels[place], row[study.data.label].strip()
    numbers = {name: _number(row[name]) for name in _BOUNDS}
    within = all(_BOUNDS[name][0] <= each <= _BOUNDS[name][1] for name, each in numbers.items())
    if list(numbers.values()) != records.features[place].tolist() or not all(
        map(math.isfinite, numbers.values())
    ):
        return "a feature is no number, or another"
    if data.beyond_bounds == "refuse" and not within:
        return "a feature lies beyond its bounds"
    if data.task == "regression":
        same = math.isfinite(label) and _number(written_label) == label
    else:
        same = written_label == data.classes[int(label)]
    if not same:
        return "a label is none, or another"
    unit = None if data.unit is None else row[data.unit].strip().encode()
    lost = unit is not None and unit not in records.identities[records.units[place]]
    return "a record belongs to another unit" if lost else None


CSV = Target(
    name="csv", seeds=_csv_seeds, mutations=(*(_change_cell,) * 8, *(_change_row,) * 3, _other_dialect, *LINES, *BYTES),
    garbage=mutations.garbage, read=lambda data: records_of(read_table(written("data.csv", data)), CLASSIFICATION),
    errors=(DataError,), judge=_judge_csv, secrets=_cells, weight=2,
)  # fmt: skip


# NumPy files


def _npz(members: dict[str, bytes]) -> bytes:
    """As numpy.savez writes, but with one date, so that equal arrays give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _npz_seeds() -> Sequence[bytes]:
    arrays = {
        "age": np.array([20.5, 47.0 + float(f"0.{_CANARY}"), 80]),
        "dose": np.array([-0.5, 0.0, 1.0]),
        "stay": np.array([1, 2, 3]),
    }
    texts = {
        name: np.array([repr(float(each)) for each in array]) for name, array in arrays.items()
    }
    narrow = {name: array.astype(np.float32) for name, array in arrays.items()} | {
        "note": np.array([True, False, True])
    }
    return [
        _npz({f"{name}.npy": _npy(array) for name, array in each.items()})
        for each in (arrays, texts, narrow)
    ]


_SHAPES = (
    b"(1000000000000,)", b"(-1,)", b"(3, 1)", b"()", b"(0,)", b"(3.0,)", b"('a',)", b"(3,", b"(True,)",
    b"(9223372036854775808,)", b"(0, 9223372036854775807)", b"(4294967296, 4294967296)", b"((3,),)", b"[3]", b"None",
    b"(" + b"1," * 100 + b")", b"(2,)", b"(4,)",
)  # fmt: skip
_DTYPES = (
    b"'<f8'", b"'>f8'", b"'|O'", b"'<U5'", b"'|S5'", b"'<M8[D]'", b"[('a', '<f8')]", b"'<f2'", b"'<c16'", b"'|V8'",
    b"'<i8'", b"'<u8'", b"'<f16'", b"'|b1'", b"5", b"'x'", b"'" + b"a" * 5000 + b"'", b"'<U0'", b"'<U9999999999'",
    b"__import__('os')", b"'<m8'",
)  # fmt: skip
_NAMES = (
    "age", "", "../age.npy", "AGE.npy", "file.npy", "features.npy", "\x1b[31m.npy", "a\nb.npy", "x", "x.npy",
)  # fmt: skip
_ARRAYS = (
    [np.nan, 1, 2], [np.inf, 0, 0], [1e308, 5e-324, -0.0], [2**60, 2**53 + 1, 0], [111.0, 0, 0], [0.0, 1.0],
    [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [], 7.0, [True, False, True], ["a", "b", "c"],
)  # fmt: skip


def _change_array(draw: random.Random, content: bytes, _pool: Sequence[bytes]) -> bytes:
    """What a member says of its array: shape, type, length, version; or another array."""
    shape, dtype = draw.choice(_SHAPES), draw.choice(_DTYPES)
    return draw.choice(
        [
            re.sub(rb"'shape': *\([^)]*\)", b"'shape': " + shape, content),
            re.sub(rb"'descr': *'[^']*'", b"'descr': " + dtype, content),
            content[:8] + draw.choice([b"\0\0", b"\xff\xff", b"\1\0"]) + content[10:],
            content.replace(b"\x93NUMPY\x01", b"\x93NUMPY" + bytes([draw.randrange(6)]), 1),
            _npy(np.array(draw.choice(_ARRAYS))),
            b"text",
        ]
    )


def _on_member(change: Bytes) -> Bytes:
    """A mutation of one member of the archive."""

    def mutate(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
        members = _members(data)
        if not members:
            return data
        name = draw.choice(list(members))
        members[name] = change(draw, members[name], list(members.values()))
        return _npz(members)

    mutate.__name__ = f"{change.__name__}_in_a_member"
    return mutate


def _change_archive(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A member is dropped, or has another name, or there is one more."""
    members = _members(data)
    if not members:
        return data
    name, change = draw.choice(list(members)), draw.randrange(3)
    content = members[name]
    if change < 2:
        del members[name]
    if change > 0:
        members[draw.choice(_NAMES)] = content
    return _npz(members)


def _members(data: bytes) -> dict[str, bytes]:
    """What is in an archive; nothing, if earlier mutations have broken it."""
    with (
        contextlib.suppress(
            zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError, KeyError
        ),
        zipfile.ZipFile(io.BytesIO(data)) as file,
    ):
        return {name: file.read(name) for name in file.namelist()}
    return {}


def _judge_npz(data: bytes, records: Records) -> str | None:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        arrays = {
            name.removesuffix(".npy"): np.load(io.BytesIO(file.read(name)), allow_pickle=False)
            for name in file.namelist()
        }
    columns = {name: array.tolist() for name, array in arrays.items() if array.ndim == 1}
    if "features" in arrays and arrays["features"].ndim == 2:
        columns |= {f"feature_{n}": each.tolist() for n, each in enumerate(arrays["features"].T)}
    if len({len(each) for each in columns.values()}) != 1:
        return "its columns are of several lengths"
    table = [dict(zip(columns, (each if isinstance(each, str) else repr(float(each)) for each in row), strict=True))
             for row in zip(*columns.values(), strict=True)]  # fmt: skip
    return _judge_records(table, REGRESSION, records)


NPZ = Target(
    name="npz", seeds=_npz_seeds, mutations=(*(_on_member(_change_array),) * 8, *map(_on_member, BYTES),
    *(_change_archive,) * 4, *BYTES), garbage=mutations.garbage,
    read=lambda data: records_of(read_table(written("data.npz", data)), REGRESSION), errors=(DataError,),
    judge=_judge_npz,
    secrets=lambda _data: (_CANARY, "47.0"),
)  # fmt: skip

# Parquet


def _parquet_seeds() -> Sequence[bytes]:
    texts = [f"a{_CANARY}", None, "b"]
    table = pa.table(
        {
            "age": [20.5, float(f"47.{_CANARY}"), 80.0],
            "dose": [-0.5, 0.0, 1.0],
            "stay": [1, 2, 3],
            "note": texts,
        }
    )
    found = []
    for options in (
        {},
        {"compression": "NONE", "use_dictionary": False, "write_statistics": False},
    ):
        out = io.BytesIO()
        parquet.write_table(table, out, **options)
        found.append(out.getvalue())
    return found


def _judge_parquet(data: bytes, records: Records) -> str | None:
    columns = parquet.read_table(io.BytesIO(data)).to_pydict()
    names = [*_BOUNDS, REGRESSION.data.label]
    if set(names) - set(columns) or not all(
        isinstance(cell, int | float | str) for name in names for cell in columns[name]
    ):
        return "it is no table of numbers"
    table = [
        dict(zip(names, map(str, row), strict=True))
        for row in zip(*(columns[name] for name in names), strict=True)
    ]
    return _judge_records(table, REGRESSION, records)


PARQUET = Target(
    name="parquet", seeds=_parquet_seeds, mutations=BYTES, garbage=mutations.garbage,
    read=lambda data: records_of(read_table(written("data.parquet", data)), REGRESSION), errors=(DataError,),
    judge=_judge_parquet, secrets=lambda _data: (_CANARY, "47.4"), weight=0.5,
)  # fmt: skip

TARGETS = (CSV, NPZ, PARQUET)
