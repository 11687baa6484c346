"""What several sub-commands take and do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from privacy.errors import ProtocolError, UserError
from study.contract import Study

if TYPE_CHECKING:
    from client.tables import Table
    from study.guarantee import Guarantee

__all__ = [
    "File",
    "Json",
    "guarantee_of",
    "read_as",
    "require_digits",
    "require_replaceable",
    "study_beginning_with",
    "with_table",
]

Read = TypeVar("Read")

_BESIDE_A_LEDGER = ("-wal", "-shm", "-journal")  # SQLite's, which may be empty

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


def require_digits(digits: str, *, least: int, hint: str) -> None:
    """Raise UserError unless these may be the first digits of a study's hash, and so many at least."""
    if not re.fullmatch(f"[0-9a-f]{{{least},64}}", digits):
        raise UserError(
            f"Expected at least {least} hexadecimal digits of a study's hash, found {digits!r}",
            hint=hint,
        )


def study_beginning_with(digits: str, studies: Iterable[str], *, hint: str) -> str:
    """The one study whose hash begins so. Raises UserError: there is none, or several."""
    found = [each for each in studies if each.startswith(digits)]
    if len(found) != 1:
        raise UserError(
            f"Expected one study whose hash begins with {digits}, found {len(found)}", hint=hint
        )
    return found[0]


def read_as(path: Path, kind: str, parse: Callable[[bytes], Read], *, hint: str) -> Read:
    """What a file holds. hint: where one comes from. Raises UserError: it cannot be read, or is of another kind."""
    from study.files import read_whole

    try:
        return parse(read_whole(path, hint=hint))
    except ProtocolError as error:
        raise UserError(f"{path} is no {kind}: {error.message}", hint=hint) from error


def require_replaceable(
    path: Path, is_such: Callable[[Path], bool], what: str, *, force: bool
) -> None:
    """May a command write there? `force` replaces a file of the kind that it writes, and never another.

    Arguments:
        is_such: is the file of that kind? what: the kind, in words.
    Raises:
        UserError: it may not.
    """
    if path.name.endswith(_BESIDE_A_LEDGER):
        raise UserError(f"{path} has the name of a part of a ledger", hint="choose another name")
    if not path.exists():
        return
    if not force:
        raise UserError(f"{path} exists", hint="choose another name, or replace it with --force")
    if not path.is_file() or not is_such(path):
        raise UserError(
            f"{path} is not {what}, so --force does not replace it",
            hint="choose another name",
        )
