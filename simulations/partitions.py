"""How a simulation spreads the units of one table over its sites.

A unit goes to exactly one site as a whole, and no unit is left out. Everything follows from the simulation's seed:
nothing here is secret, and nothing of it exists at a real site.

| form | every site gets |
|---|---|
| iid | the same number of units, give or take one |
| dirichlet:ALPHA | another mix of labels, the more so the smaller ALPHA is |
| quantity:ALPHA | another number of units, the more so the smaller ALPHA is |
| column:NAME | the units of one value of a column, such as a hospital's name |
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from client.tables import Records, Table
from privacy.errors import DataError, UserError

__all__ = ["FORMS", "Partition", "parse_partition", "split_units"]

Indices = npt.NDArray[np.int64]

FORMS = "iid, dirichlet:ALPHA, quantity:ALPHA or column:NAME"

_MOST_SITES = 128  # of a roster
_BINS = 5  # of the labels of a regression


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One way to spread units over sites.

    Attributes:
        kind: as in the module's table.
        alpha: concentration of the Dirichlet distribution; 0 for the kinds that have none.
        column: the column whose values are the sites; empty for the other kinds.
    """

    kind: Literal["iid", "dirichlet", "quantity", "column"]
    alpha: float = 0.0
    column: str = ""


def parse_partition(text: str) -> Partition:
    """Read a partition as it is written on the command line. Raises UserError naming the forms."""
    kind, separator, argument = text.partition(":")
    if text == "iid":
        return Partition(kind="iid")
    if kind == "column" and argument:
        return Partition(kind="column", column=argument)
    if kind in ("dirichlet", "quantity") and separator:
        return Partition(
            kind="dirichlet" if kind == "dirichlet" else "quantity", alpha=_alpha(text, argument)
        )
    close = difflib.get_close_matches(kind, ["iid", "dirichlet", "quantity", "column"], n=1)
    raise UserError(
        f'Expected a partition of the form {FORMS}, found "{text}"',
        hint=f"did you mean {close[0]}?" if close and close[0] != kind else "e.g. dirichlet:0.5",
    )


def _alpha(text: str, argument: str) -> float:
    try:
        alpha = float(argument)
    except ValueError:
        alpha = math.nan
    if not 0 < alpha < math.inf:
        raise UserError(
            f'Expected a number ALPHA above 0 in a partition of the form {FORMS}, found "{text}"',
            hint="0.1 is far from even, 100 nearly even: e.g. dirichlet:0.5",
        )
    return alpha


def split_units(
    partition: Partition,
    *,
    records: Records,
    table: Table,
    sites: int | None,
    simulation_seed: int,
) -> list[Indices]:
    """Spread the units over the sites: sorted indices into `records.identities`.

    **Guarantees**: every unit is at exactly one site; the same arguments give the same sites. A site may be empty
    with `dirichlet` and `quantity` alone.

    A unit with several records goes by its first one: where a patient was seen at two hospitals, `column:hospital`
    puts the patient as a whole at the first.

    Arguments:
        records: of the whole table, in its order.
        sites: how many; None lets `column` find out, which is the only kind that can.
        simulation_seed: of everything random.
    Raises:
        UserError: no number of sites, or another than the column has values; no such column.
        DataError: fewer units than sites; a column with empty cells.
    """
    if partition.kind == "column":
        return _by_column(partition.column, records, table, sites)
    if sites is None or sites < 1:
        raise UserError("Expected a number of sites", hint="give --sites, or use column:NAME")
    generator = np.random.Generator(np.random.PCG64(simulation_seed))
    units = len(records.identities)
    if partition.kind == "dirichlet":
        return _by_label(records, sites, partition.alpha, generator)
    if partition.kind == "quantity":
        return _cut(np.arange(units), sites, partition.alpha, generator)
    if units < sites:
        raise DataError(
            f"{records.name}: expected at least one unit for each of {sites} sites, found {units}",
            hint="use more data, or fewer sites",
        )
    return [np.sort(each) for each in np.array_split(generator.permutation(units), sites)]


def _by_label(
    records: Records, sites: int, alpha: float, generator: np.random.Generator
) -> list[Indices]:
    """Label skew: the units of each label are spread over the sites by a Dirichlet draw of their own.

    The symmetric Dirichlet skew of Hsu et al. 2019 (arXiv:1909.06335), drawn for each label over the sites instead
    of for each site over the labels, so that every unit is used.
    """
    labels = _label_bins(records.labels[_first_rows(records)])
    parts: list[list[Indices]] = [[] for _ in range(sites)]
    for label in np.unique(labels):
        for part, share in zip(
            parts, _cut(np.flatnonzero(labels == label), sites, alpha, generator), strict=True
        ):
            part.append(share)
    return [np.sort(np.concatenate([*part, np.zeros(0, dtype=np.int64)])) for part in parts]


def _label_bins(labels: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> Indices:
    """Classes as they are; the labels of a regression by the fifth of them in which they lie."""
    if np.issubdtype(labels.dtype, np.integer) or not len(labels):
        return labels.astype(np.int64)
    inner = np.quantile(labels, np.arange(1, _BINS) / _BINS)
    return np.searchsorted(inner, labels, side="right").astype(np.int64)


def _cut(units: Indices, sites: int, alpha: float, generator: np.random.Generator) -> list[Indices]:
    """Spread `units` in random order by one draw of sizes from a symmetric Dirichlet distribution."""
    shares = generator.dirichlet(np.full(sites, alpha))
    ends = np.rint(np.cumsum(shares)[:-1] * len(units)).astype(np.int64)
    return [np.sort(each) for each in np.split(generator.permutation(units), ends)]


def _by_column(name: str, records: Records, table: Table, sites: int | None) -> list[Indices]:
    if name not in table.columns:
        close = difflib.get_close_matches(name, table.columns, n=1)
        raise UserError(
            f'{table.name}: there is no column "{name}" to make sites of',
            hint=f'did you mean "{close[0]}"?' if close else "column:NAME wants a column's name",
        )
    texts = table.texts(name)
    values = [texts[row] for row in _first_rows(records)]
    if "" in texts:
        raise DataError(
            f'{table.name}, {table.place(texts.index(""))}: column "{name}" is empty, '
            "so its record belongs to no site",
            hint="fill it in or drop the row",
        )
    names = sorted(set(values), key=_sorting_key)
    if sites is not None and sites != len(names):
        raise UserError(
            f'Expected as many sites as column "{name}" has values, {len(names)}, found {sites}',
            hint="leave --sites out",
        )
    if len(names) > _MOST_SITES:
        raise UserError(
            f'Expected a column of at most {_MOST_SITES} values to make sites of, "{name}" has {len(names)}',
            hint="name a column such as a hospital's",
        )
    numbers = {value: number for number, value in enumerate(names)}
    site_of = np.array([numbers[value] for value in values], dtype=np.int64)
    return [np.flatnonzero(site_of == number) for number in range(len(names))]


def _sorting_key(value: str) -> tuple[bool, float, str]:
    """Numbers by their size, before all texts: site 10 comes after site 9."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    return (False, number, value) if math.isfinite(number) else (True, 0.0, value)


def _first_rows(records: Records) -> Indices:
    """Find the row of the first record of every unit, shape (units,)."""
    return np.unique(records.units, return_index=True)[1].astype(np.int64)
