"""What several sub-commands take and do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.contract import Study

if TYPE_CHECKING:
    from client.tables import Table

__all__ = ["File", "Json", "with_table"]

File = Annotated[Path, typer.Argument(metavar="FILE", help="A study, such as study.toml.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")
]


def with_table(study: Study, data: Path | None) -> tuple[Study, Table]:
    """The study frozen to the columns of its table, and that table, read once."""
    from client.sources import frozen, load

    table = load(study, data)
    return frozen(study, data, table), table
