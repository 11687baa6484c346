"""`discreet study`: write, check, show and freeze a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from discreet.commands.forecast import forecast
from discreet.commands.shared import File, Json, guarantee_of, read_as, with_table
from discreet.console import errors_explained, print_json, print_table, results, say
from privacy.errors import UserError
from study.contract import Study
from study.parsing import read_study, study_to_values
from study.templates import TEMPLATES, template_text

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Write, check, show and freeze a study: the contract with the sites."
)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study to write.")] = Path(
        "study.toml"
    ),
    template: Annotated[
        str, typer.Option(help="One of: " + ", ".join(TEMPLATES) + ".")
    ] = "breast-cancer",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Json = False,
) -> None:
    """Write a study with every setting explained, ready to be simulated and changed.

    Example: discreet study init my-study.toml --template digits
    """
    with errors_explained():
        text = template_text(template)
        if file.exists() and not force:
            raise UserError(
                f"{file} exists", hint="choose another name, or replace it with --force"
            )
        file.write_text(text, encoding="utf-8")
        say(f"Wrote {file}. Try it: discreet simulate {file} --out results")
        if json:
            print_json({"file": str(file), "template": template})


@app.command()
def check(
    file: File,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check these records against the study too.")
    ] = None,
    json: Json = False,
) -> None:
    """Say whether a study is sound, and if its data are at hand, whether they fit it.

    Exit code 0 if so, 2 with one sentence and the fix if not.

    Example: discreet study check study.toml --data records.csv
    """
    with errors_explained():
        study = read_study(file)
        checked = _check_data(study, data)
        say(f"{file} is sound{', and so are its records' if checked else ''}.")
        if json:
            print_json({"study": study.name, "sound": True, "records_checked": checked})


@app.command()
def show(file: File, json: Json = False) -> None:
    """Show a study with every default filled in, and what it guarantees.

    What is guaranteed depends on the columns: they are known of a frozen study, or of a built-in data set.

    Example: discreet study show study.toml
    """
    with errors_explained():
        study = read_study(file)
        values = study_to_values(study)
        if not isinstance(study.data.features, str) or study.data.source is not None:
            guarantee = guarantee_of(study)
            values["guarantee"] = guarantee.to_values() | {"sites": study.sites.minimum}
        if json:
            print_json(values)
            return
        for section, settings in values.items():
            if isinstance(settings, dict):
                _print_settings(f"[{section}]", settings)
        for query in values.get("guarantee", {}).get("queries", []):
            _print_settings(f"Sums: {query['function']}", query)


@app.command()
def freeze(
    file: File,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the columns from this file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write here. Default: over FILE.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --out.")] = False,
    json: Json = False,
) -> None:
    """Write the names, order and bounds of all columns into a study, as real sites need it.

    "all" columns is for simulations: sites must agree on names, order and public bounds before they take part.

    Example: discreet study freeze study.toml --data records.csv --out frozen.toml
    """
    from client.tables import require_bounds
    from study.files import write_whole
    from study.freezing import to_toml

    with errors_explained():
        frozen, _ = with_table(read_study(file), data)
        if data is not None:
            frozen = replace(frozen, data=replace(frozen.data, source=None))
        require_bounds(frozen, str(data or file))
        if out is not None and out.exists() and not force:
            raise UserError(f"{out} exists", hint="choose another name, or replace it with --force")
        target = out or file
        write_whole(target, to_toml(frozen).encode())
        say(f"Wrote {target} with {len(frozen.data.features)} columns.")
        if json:
            print_json(study_to_values(frozen))


@app.command("declare")
def declare_study(
    file: File,
    roster: Annotated[
        Path, typer.Option(help="The signed roster of the sites that are to take part.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="Where the declaration goes; never written over."
        ),
    ] = Path("declaration.json"),
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Take the columns from this file, if the study does not name them."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Declare one run of a study for the sites of a roster: nothing is left open, and its hash is its identity.

    The declaration goes to every site, whose operator approves this very run, and to the coordinator. Declared again,
    it is another run, with a budget of its own.

    Example: discreet study declare frozen.toml --roster lab/roster.json --out declaration.json
    """
    import secrets

    from privacy.errors import ProtocolError
    from study.files import write_new
    from study.guarantee import declare
    from study.roster import SignedRoster

    with errors_explained():
        study = read_study(file)
        if isinstance(study.data.features, str):
            study, _ = with_table(study, data)
        signed = read_as(
            roster, "roster", SignedRoster.from_bytes, hint="discreet federation init makes one"
        )
        try:
            signed.check_signed()
        except ProtocolError as error:
            raise UserError(f"{roster}: {error.message}") from error
        declaration = declare(
            study, sites=len(signed.roster.sites), nonce=secrets.token_hex(16), roster=signed.roster.hash
        )  # fmt: skip
        write_new(out, declaration.content, 0o644)
        say(
            f"Wrote {out}: {study.name} for {declaration.sites} sites, study {declaration.hash[:12]}."
        )
        if json:
            print_json({"file": str(out), "study": declaration.hash, "sites": declaration.sites})


app.command()(forecast)


def _check_data(study: Study, data: Path | None) -> bool:
    """Check the guarantee, and the records if there are any: a file, or a built-in set; were there any?"""
    from client.tables import check_pooled, records_of, unlike_expected

    if data is None and study.data.source is None:
        if not isinstance(study.data.features, str):
            guarantee_of(study)
        return False
    frozen, table = with_table(study, data)
    guarantee_of(frozen)
    records = records_of(table, frozen)
    check_pooled(records, frozen, sites=study.sites.minimum)
    if note := unlike_expected(records, frozen):
        say(note)
    return True


def _print_settings(title: str, settings: dict[str, Any]) -> None:
    rows = {name: _in_words(value) for name, value in settings.items() if name != "queries"}
    print_table(title, rows, to=results)
    results.print()


def _in_words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list) and len(value) > 8:
        return f"{', '.join(map(str, value[:6]))}, ... ({len(value)} in all)"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_in_words(each)}" for key, each in list(value.items())[:6]) + (
            f", ... ({len(value)} in all)" if len(value) > 6 else ""
        )
    if isinstance(value, list):
        return ", ".join(_in_words(each) for each in value)
    return str(value)
