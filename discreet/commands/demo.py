"""`discreet demo`: five hospitals, one diagnosis model, real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from discreet.commands.simulate import release_directory, run_and_show
from discreet.console import errors_explained
from study.templates import template_study

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the release goes.")
    ] = Path("discreet-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another run.")] = 1,
    trace: Annotated[
        bool, typer.Option("--trace", help="Say who sent what in each trip, a line a message.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --out.")] = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print summary.json on standard output, and nothing else."),
    ] = False,
) -> None:
    """Watch five simulated hospitals train a breast-cancer model under differential privacy.

    569 real tumours, from scikit-learn's copy of the Wisconsin diagnostic data set, are spread over five sites.

    No server has to be started and nothing is left running. Ends with the figures and the path of the report.

    Example: discreet demo --out my-demo
    """
    from simulations.run import Options

    with errors_explained():
        path = release_directory(out, force=force)
        options = Options(out=path, seed=seed)
        run_and_show(template_study("breast-cancer"), options, as_json=json, trace=trace)
