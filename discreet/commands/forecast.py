"""`discreet study forecast`: what a study costs, and what it would cost otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from discreet.commands.shared import File, Json, with_table
from discreet.console import (
    errors_explained,
    print_bars,
    print_json,
    print_table,
    results,
    say,
)
from privacy.errors import UserError
from study.parsing import read_study

__all__ = ["forecast"]

_FORMATS = (".svg", ".png")


def forecast(
    file: File,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take the columns from this file. No record is used."),
    ] = None,
    sites: Annotated[
        int | None,
        typer.Option(min=1, max=128, help="Number of sites. Default: the study's minimum."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw ε by number of rounds: an .svg or .png file."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --plot.")] = False,
    json: Json = False,
) -> None:
    """Say what a study will cost before it is run: ε by every accountant, noise, and what a change would cost.

    No record is used, no budget spent. Noise per coordinate is that of one mean gradient, over its largest norm.

    ε by number of rounds is what so many would cost had they been declared: who stops early still pays for all of them.

    Example: discreet study forecast study.toml --plot cost.svg
    """
    with errors_explained():
        if plot is not None:
            _check_plot(plot, force=force)
        values = _forecast(file, data, sites)
        if plot is not None:
            _draw(values, plot)
        if json:
            print_json(values)
        elif values["epsilon"] is None:
            say(
                "There is no privacy to forecast: with trust unsafe, nothing is clipped and no noise is added."
            )
        else:
            _show(values)


def _check_plot(plot: Path, *, force: bool) -> None:
    if plot.suffix.lower() not in _FORMATS:
        raise UserError(
            f"{plot} is not the name of a picture", hint="let it end in " + " or ".join(_FORMATS)
        )
    if plot.exists() and not force:
        raise UserError(f"{plot} exists", hint="choose another name, or replace it with --force")


def _forecast(file: Path, data: Path | None, sites: int | None) -> dict[str, Any]:
    from study.forecast import forecast as figures
    from study.forecast import least_guarantee

    study = read_study(file)
    if data is not None or isinstance(study.data.features, str):
        study, _ = with_table(study, data)
    return figures(least_guarantee(study, sites))


def _draw(values: dict[str, Any], plot: Path) -> None:
    from server.plots import draw_costs

    if values["epsilon"] is None:
        say(f"{plot} was not drawn: there is no ε.")
        return
    draw_costs(values["epsilon_by_round"], values["epsilon"], plot)
    say(f"Drew {plot}.")


def _show(values: dict[str, Any]) -> None:
    title = f"{values['study']}: {values['sites']} sites, {values['rounds']} rounds, {values['trust']} trust"
    print_table(title, _rows(values), to=results)
    results.print()
    costs = [each for each in values["epsilon_by_round"] if each is not None]
    print_bars("ε by number of rounds, had so many been declared", costs, to=results)
    results.print()
    results.print(_what_if(values))
    for each in values["what_if"]:
        if each["problem"] is not None:
            say(f"Not possible: {each['change']}. {each['problem']}")


def _rows(values: dict[str, Any]) -> dict[str, str]:
    from server.card import rounded_up

    server, mu = values["epsilon_against_server"], values["mu"]
    noise, dimension = values["noise_per_coordinate"], values["dimension"]
    rows = {
        "ε": f"{rounded_up(values['epsilon'])} at δ = {values['delta']:g}",
        "ε against the server": rounded_up(server) if server else "no bound: it sees each site's sum",
        "μ": f"{mu:.4g}" if mu else "none: it is exact only where nothing is sampled",
        "noise multiplier": f"{values['noise_multiplier']:.4g}",
        "noise per coordinate": f"{noise:.3g} of C, in a vector of {dimension}",
    }  # fmt: skip
    rows |= {f"ε by {name}": f"{each:.4g}" for name, each in values["accountants"].items()}
    missing = values["accountants_missing"].items()
    rows |= {f"ε by {name}": f"none: {reason}" for name, reason in missing}
    profile = values["profile"]
    return rows | {f"δ at ε = {each['epsilon']:.3g}": f"{each['delta']:.2g}" for each in profile}


def _what_if(values: dict[str, Any]) -> Table:
    """The study as it is and what each possible change would make of it."""
    table = Table(title="What a change would cost", title_justify="left", box=None, pad_edge=False)
    names = ("epsilon", "noise_multiplier", "noise_per_coordinate")
    for heading in ("", "ε", "noise multiplier", "noise per coordinate"):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for each in [{"change": "as it is", "problem": None} | values, *values["what_if"]]:
        if each["problem"] is None:
            table.add_row(each["change"], *(f"{each[name]:.3g}" for name in names))
    return table
