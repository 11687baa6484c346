"""Registering a data set: which namespace's lifetime budget its units share, and what tells them apart from others'.

Every unit has a mark of eight bytes, an HMAC of its identity under a secret of the site, kept beside the ledger. A
unit that has a budget in one namespace is refused in another, whatever the file is called: a person's budget is spent
once. Rows are marked too, so that a copy is known whichever column is said to name its units. Marks never leave the
site, and tell nothing to whoever lacks its key.

This keeps an operator from a mistake, not from fraud: a row of which one cell is written otherwise is another row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from client.ledger import Ledger
from client.tables import Table, units_of_column
from privacy.filters import LifetimeCap
from study.ledger_entries import DataSet, Namespace
from study.split import unit_identity

__all__ = ["identities_of", "register"]

_ROW = b"discreet row\0"


def register(
    ledger: Ledger,
    *,
    data_set: str,
    namespace: str,
    unit: str | None,
    identities: Iterable[bytes],
    cap: LifetimeCap | None = None,
    distinct: bool = False,
) -> None:
    """Register a data set, or anew one that has grown.

    Arguments:
        namespace: whose budget its units share; opened with `cap` if it is not there yet.
        unit: the column that names its units; None: every record is one.
        identities: of its units, and of its rows where a column names the units.
        distinct: they are other units than those of other namespaces, although some look the same.
    Raises:
        LedgerError: units of it have a budget in another namespace, or its namespace or unit changed.
    """
    known = namespace in ledger.state.namespaces
    opening = None if known else Namespace(namespace=namespace, cap=cap)
    body = DataSet(data_set=data_set, namespace=namespace, unit=unit)
    ledger.register(body, identities, opening=opening, distinct=distinct)


def identities_of(table: Table, unit: str | None) -> list[bytes]:
    """What every unit of a table is: the text of its column, or all that its row says.

    Raises:
        DataError: there is no such column.
    """
    if unit is not None:
        _, texts = units_of_column(table, unit)
        return [unit_identity(each) for each in texts]
    columns: Sequence[list[str]] = [table.texts(name) for name in sorted(table.columns)]
    names = "\0".join(sorted(table.columns)).encode()
    rows = (
        "\0".join(cells).encode("utf-8", "surrogatepass") for cells in zip(*columns, strict=True)
    )
    return [_ROW + names + b"\0" + row for row in rows]
