"""The `discreet` command: every sub-command is a module of `discreet.commands`."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

import typer

# Flower asks its makers for news and reports usage unless told otherwise; nothing leaves a site unasked.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from discreet.commands import (
    coordinator,
    demo,
    federation,
    ledger,
    policy,
    release,
    simulate,
    site,
    study,
)

__all__ = ["app"]

app = typer.Typer(
    name="discreet", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Federated learning whose privacy each site enforces and anyone can check.\n\n"
    "Start with: discreet demo. Then: discreet study init study.toml, and discreet simulate study.toml --out DIR.",
)  # fmt: skip
app.add_typer(study.app, name="study")
app.add_typer(ledger.app, name="ledger")
app.add_typer(policy.app, name="policy")
app.add_typer(federation.app, name="federation")
app.add_typer(release.app, name="release")
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(site.app, name="site")
app.command("simulate")(simulate.simulate)
app.command("demo")(demo.demo)


def print_version(asked: bool) -> None:
    """Print the version and leave, if asked."""
    if asked:
        typer.echo(f"discreet {version('discreet')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=print_version,
        ),
    ] = False,
) -> None:
    """Options before any sub-command."""
