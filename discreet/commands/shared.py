"""What several sub-commands take and do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.contract import Study

if TYPE_CHECKING:
    from client.tables import Table
    from study.guarantee import Guarantee

__all__ = ["File", "Json", "guarantee_of", "with_table"]

File = Annotated[Path, typer.Argument(metavar="FILE", help="A study, such as study.toml.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")
]


def with_table(study: Study, data: Path | None) -> tuple[Study, Table]:
    """The study frozen to the columns of its table, and that table, read once."""
    from client.sources import frozen, load

    table = load(study, data)
    return frozen(study, data, table), table


def guarantee_of(study: Study, *, sites: int | None = None) -> Guarantee:
    """What a study guarantees with so many sites, or its least number; "all" columns are those of its built-in set."""
    from study.forecast import least_guarantee
    from study.models import feature_names

    if isinstance(study.data.features, str) and study.data.source is not None:
        study, _ = with_table(study, None)
    feature_names(study)  # raises where they are not known, and says what to do
    return least_guarantee(study, sites)
