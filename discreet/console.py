"""What a person sees: progress, results, and each error once, with its hint.

With --json, standard output carries one JSON object and nothing else; everything for people goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from privacy.errors import DiscreetError, UserError

__all__ = [
    "FAILED",
    "WRONG_USE",
    "errors_explained",
    "people",
    "print_bars",
    "print_json",
    "print_table",
    "progress_of_rounds",
    "results",
    "say",
]

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130

people = Console(stderr=True, highlight=False)
"""Progress, notes and errors: what is for people, and not the result that was asked for."""

results = Console(highlight=False)
"""Results, where no --json is asked for."""


def say(text: str) -> None:
    """A note for people: names in it are printed as they are, and a terminal wraps it."""
    people.print(text, markup=False, soft_wrap=True)


def print_json(value: Mapping[str, Any]) -> None:
    """The one machine-readable object on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_table(title: str, rows: Mapping[str, str], *, to: Console = people) -> None:
    """Names and values, under a title that may be longer than both."""
    to.print(f"[italic]{escape(title)}[/]", soft_wrap=True)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    to.print(table)


def print_bars(
    title: str, values: Sequence[float], *, to: Console = people, width: int = 60, height: int = 8
) -> None:
    """A plot of non-negative values from the left to the right, each column the largest of those that it stands for."""
    columns = min(width, len(values))
    edges = [len(values) * each // columns for each in range(columns + 1)]
    tops = [max(values[low:high]) for low, high in pairwise(edges)]
    most = max(tops) or 1.0
    eighths = [round(8 * height * each / most) for each in tops]
    to.print(title, markup=False, soft_wrap=True)
    for row in reversed(range(height)):
        label = f"{most:.3g}" if row == height - 1 else "0" if row == 0 else ""
        line = "".join(" ▁▂▃▄▅▆▇█"[min(8, max(0, each - 8 * row))] for each in eighths)
        to.print(f"{label:>8} {line}".rstrip(), markup=False, soft_wrap=True)
    last = f"{len(values):,}" if columns > 1 else ""
    to.print(f"{1:>10}{last:>{columns - 1}}", markup=False, soft_wrap=True)


@contextmanager
def errors_explained(*, interrupted: str = "") -> Iterator[None]:
    """Turn every error that Discreet can explain into one sentence, its hint and an exit code.

    Arguments:
        interrupted: what to say after Ctrl-C, e.g. how to go on.
    """
    try:
        yield
    except UserError as error:
        _leave(error, WRONG_USE)
    except DiscreetError as error:
        _leave(error, FAILED)
    except KeyboardInterrupt:
        say(f"\nStopped. {interrupted}".rstrip())
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read our output has gone: nothing more to say, and nothing to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        said = (error.strerror or "the system refused to read or write") + where
        _leave(DiscreetError(said, hint="choose a place that can be written to, with room"), FAILED)


def _leave(error: DiscreetError, code: int) -> NoReturn:
    people.print(f"[bold red]Error:[/] {escape(error.message)}", soft_wrap=True)
    if error.hint:
        people.print(f"[bold]Hint:[/] {escape(error.hint)}", soft_wrap=True)
    raise typer.Exit(code) from None


@contextmanager
def progress_of_rounds(total: int, *, quiet: bool) -> Iterator[Callable[[int, str], None]]:
    """A progress bar of rounds; yields `show(done, text)`."""
    columns = (
        TextColumn("[bold]round"), MofNCompleteColumn(), BarColumn(bar_width=28),
        TextColumn("{task.fields[text]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=people, disable=quiet) as progress:
        task = progress.add_task("rounds", total=total, text="")
        yield lambda done, text: progress.update(task, completed=done, text=text)
