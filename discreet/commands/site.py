"""`discreet site`: a data-holding site, connected. It dials out, and runs only what is installed here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from discreet.commands.shared import Json, read_as
from discreet.console import errors_explained, print_json, say
from privacy.errors import UserError

if TYPE_CHECKING:
    from study.declaration import Declaration
    from study.invitation import Invitation

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="A data-holding site, connected to its federation. It opens no port to the outside, and runs no code that the "
    "server ships.\n\n"
    "Its directory is that of its ledger: discreet ledger register makes it. "
    "Then: discreet site init DIR --invitation invitation.json --fingerprint ...",
)  # fmt: skip

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="The site's directory, with its ledger.")
]


@app.command()
def init(
    directory: Directory,
    invitation: Annotated[
        Path, typer.Option(help="What the coordinator has sent: invitation.json.")
    ],
    fingerprint: Annotated[
        str, typer.Option(help="Of the invitation, as the coordinator says it by telephone.")
    ],
    port: Annotated[
        int,
        typer.Option(min=1, max=65535, help="Port of the site's own parts, on the loopback alone."),
    ] = 9094,
    json: Json = False,
) -> None:
    """Prepare a site to connect: pin its coordinator, and make the key of its node.

    Given once more, it puts back what is missing, and changes nothing else.

    node.pub goes to the coordinator, which lets the node connect. The key that counts, the site's identity, stays here.

    Example: discreet site init site --invitation invitation.json --fingerprint 1a2b-3c4d-5e6f-7890-1a2b-3c4d-5e6f-7890
    """
    from client.preparation import prepare

    with errors_explained():
        if not (directory / "ledger.sqlite").is_file():
            raise UserError(
                f"{directory} has no ledger",
                hint=f"discreet ledger register DATA --ledger {directory}",
            )
        found = _invitation(invitation)
        if found.fingerprint != fingerprint.strip().lower():
            raise UserError(
                f"The invitation's fingerprint is {found.fingerprint}, not {fingerprint}",
                hint="ask the coordinator by telephone; if it is another there too, somebody has replaced the file",
            )
        missing = prepare(directory, found, port=port)
        if not missing:
            raise UserError(
                f"{directory} was prepared already",
                hint="nothing of it is missing: discreet site check",
            )
        if "node.key" in missing:
            say(
                f"{directory} is prepared for {found.address}. "
                f"Send {directory / 'node.pub'} to the coordinator."
            )
        else:
            say(f"Put back {', '.join(missing)}; the rest of {directory} is as it was.")
            if "site.toml" in missing:
                say("What was set in site.toml has to be set again: it has the defaults.")
        if json:
            print_json(
                {
                    "directory": str(directory),
                    "coordinator": found.address,
                    "node": str(directory / "node.pub"),
                }
            )


def _invitation(path: Path) -> Invitation:
    from study.invitation import Invitation

    return read_as(
        path, "invitation", Invitation.from_bytes, hint="discreet coordinator init makes one"
    )


@app.command()
def approve(
    directory: Directory,
    declaration: Annotated[
        Path,
        typer.Argument(metavar="DECLARATION", help="The study, as its researcher has declared it."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The records: .csv, .parquet or .npz. Default: the study's built-in set.",
        ),
    ] = None,
    data_set: Annotated[
        str | None,
        typer.Option(help="Their name in the ledger. Default: the file's without its ending."),
    ] = None,
    json: Json = False,
) -> None:
    """Take part in a study: its whole cost is reserved now, and the site answers it from now on, running or not.

    Read it first: discreet study show, and discreet policy check.

    Example: discreet site approve site declaration.json --data records.csv
    """
    from client.approvals import approve as approve_study
    from client.directory import SiteDirectory
    from study.declaration import Declaration

    with errors_explained():
        opened = SiteDirectory(directory)
        name = data_set or (data.stem if data is not None else None)
        if name is None:
            raise UserError("Which data set?", hint="give --data, or --data-set for a built-in one")
        declared = read_as(
            declaration,
            "declaration",
            Declaration.from_bytes,
            hint="discreet study declare writes one",
        )
        approval = approve_study(opened, declared, data=data, data_set=name)
        study = approval.declaration
        say(f"{directory} takes part in {study.study.name}, {study.hash[:12]}, with {name}:")
        _say_terms(study)
        if json:
            print_json({"study": study.hash, "name": study.study.name, "data_set": name})


def _say_terms(declaration: Declaration) -> None:
    """What was agreed to, where somebody has not read it before."""
    study = declaration.study
    privacy, training, columns = study.privacy, study.training, study.data.features
    spare = f" and {training.spare_rounds} spare" if training.spare_rounds else ""
    shown = columns if isinstance(columns, str) else ", ".join(columns)
    say(
        f"  asks for   {training.rounds} rounds{spare}, {training.algorithm}, over {declaration.sites} sites"
    )
    say(f"  reads      {study.data.label or 'no label'} and {shown}")
    say(f"  promises   epsilon {privacy.epsilon} at delta {privacy.delta}, trust {privacy.trust}")
    say("All of it: discreet study show DECLARATION. What is left: discreet ledger budget SITE.")


@app.command()
def check(directory: Directory, json: Json = False) -> None:
    """Say what would keep the site from taking part, each with what to do about it; exit code 1 if there is anything.

    Example: discreet site check site
    """
    from client.directory import SiteDirectory
    from client.doctor import problems

    with errors_explained():
        found = problems(SiteDirectory(directory))
        for each in found:
            say(f"- {each}")
        if not found:
            say("Nothing is in the way.")
        if json:
            print_json({"problems": found})
        if found:
            raise typer.Exit(1)


@app.command()
def start(directory: Directory) -> None:
    """Run the site until Ctrl-C: a SuperNode that dials the coordinator, and the executor that answers for it.

    Whatever dies is started again. Logs are in DIR/logs.

    Example: discreet site start site
    """
    from client.directory import SiteDirectory
    from discreet.keeper import command_of

    with errors_explained():
        opened = SiteDirectory(directory)
        address = opened.settings().network.coordinator
        # A process of its own: what it needs to look at a ledger would stay in this one. Ctrl-C is for this one alone.
        look = [sys.executable, "-P", "-m", "client.doctor", str(directory)]
        subprocess.run(look, check=False, start_new_session=True)  # noqa: S603
        say(f"Connecting to {address}. Stop with Ctrl-C.")
        command = command_of("site", directory)
        os.execv(command[0], command)  # noqa: S606  the same process, without what the commands are made of
