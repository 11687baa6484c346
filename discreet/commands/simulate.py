"""`discreet simulate`: a study over simulated sites, in this process."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from discreet.console import (
    errors_explained,
    people,
    print_json,
    print_table,
    progress_of_rounds,
    say,
)
from privacy.errors import UserError
from server.card import rounded_up
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.parsing import read_study

__all__ = ["release_directory", "run_and_show", "simulate"]


def simulate(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY.toml", help="The study; write one with: discreet study init."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Where the release goes: model, report, figures."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Records of all sites: .csv, .parquet or .npz. Default: the study's built-in set.",
        ),
    ] = None,
    sites: Annotated[
        int | None,
        typer.Option(min=1, max=128, help="Number of sites. Default: the study's minimum."),
    ] = None,
    partition: Annotated[
        str,
        typer.Option(
            help="How records are spread: iid, dirichlet:ALPHA (label skew), quantity:ALPHA, column:NAME."
        ),
    ] = "iid",
    trust: Annotated[
        Literal["aggregate", "server", "local", "unsafe"] | None,
        typer.Option(help="Try another trust level than the study's."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Let every site obey this policy. Default: sites do whatever the study asks.",
        ),
    ] = None,
    drop: Annotated[
        float, typer.Option(metavar="RATE", help="Probability that a site misses a query.")
    ] = 0.0,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Everything random follows from it; exists in simulations alone."),
    ] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on after an interruption, with the same options and policy."
        ),
    ] = False,
    trace: Annotated[
        bool,
        typer.Option("--trace", help="Say who sent what in each trip, a line a message."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace an existing --out, once the new one is complete."),
    ] = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print summary.json on standard output, and nothing else."),
    ] = False,
) -> None:
    """Rehearse a study: real ServerApp and ClientApps, simulated sites, one process, no network.

    Writes a release directory: report.html (open it first), model.safetensors, summary.json, privacy.json and more.

    Example: discreet simulate study.toml --out results --sites 5 --partition dirichlet:0.5
    """
    from simulations.run import Options

    with errors_explained(interrupted="Go on with the same command and --resume."):
        path = release_directory(out, force=force)
        parsed = read_study(study)
        options = Options(
            out=path,
            data=data,
            sites=sites,
            partition=partition,
            trust=trust,
            policy=policy,
            drop=drop,
            seed=seed,
            resume=resume,
        )
        run_and_show(parsed, options, as_json=json, trace=trace)


def release_directory(out: Path, *, force: bool) -> Path:
    """The absolute path of a release to be written.

    Raises:
        UserError: something is there already, and it is not a release that `force` may replace.
    """
    from server.release import is_release

    hint = "choose another --out"
    path = Path(os.path.abspath(out))  # noqa: PTH100  not `resolve`: a link stays the link that was named
    if path == Path.cwd() or path.parent == path:
        raise UserError(f"{out} cannot be a release directory", hint=hint)
    if not os.path.lexists(path):
        return path
    if path.is_symlink() or not path.is_dir():
        raise UserError(f"{out} exists, and is not a directory", hint=hint)
    if not is_release(path):
        raise UserError(
            f"{out} exists, and holds other files than a release, so --force does not replace it",
            hint=hint,
        )
    if not force:
        raise UserError(f"{out} exists", hint="choose another --out, or replace it with --force")
    return path


def run_and_show(study: Any, options: Any, *, as_json: bool, trace: bool = False) -> None:
    """Run a simulation under a progress bar, or a trace of its messages, and show its result."""
    from dataclasses import replace

    from simulations.run import simulate as run

    started: list[Guarantee] = []

    def on_start(declaration: Declaration) -> None:
        started.append(Guarantee(declaration))
        people.print(_headline(started[0]), soft_wrap=True)

    quiet = as_json or trace or not people.is_terminal
    with progress_of_rounds(study.training.rounds, quiet=quiet) as show:
        options = replace(
            options, on_start=on_start, on_round=_shown_round(started, show), on_note=say
        )
        summary = run(study, replace(options, on_message=_say_message) if trace else options)
    if as_json:
        print_json(summary)
    _show_result(summary, options.out)


def _say_message(line: dict[str, Any]) -> None:
    """One line of a trace: the message to a site, and what came back."""
    came = line["problem"] or f"{line['received']}, {line['received_bytes']:,} bytes"
    said = f"{line['sent']}, {line['sent_bytes']:,} bytes"
    say(
        f"query {line['query']:>3}  trip {line['trip']:<7}  {line['site']:<10} <- {said:<32} -> {came}"
    )


def _headline(guarantee: Guarantee) -> str:
    study, tolerance = guarantee.study, guarantee.tolerance
    privacy = (
        "[bold red]no privacy[/]"
        if guarantee.epsilon is None
        else f"ε = {rounded_up(guarantee.epsilon)}"
    )
    rounds, trust = study.training.rounds, study.privacy.trust
    return (
        f"[bold]{study.name}[/]: {tolerance.sites} sites, {rounds} rounds, {trust} trust, {privacy}"
    )


def _shown_round(
    started: list[Guarantee], show: Callable[[int, str], None]
) -> Callable[[dict[str, Any]], None]:
    """Round, what so many declared rounds would cost, and loss (the mean of the last ten, where noisy)."""
    losses: deque[float] = deque(maxlen=10)  # one alone is mostly noise

    def on_round(line: dict[str, Any]) -> None:
        guarantee, number = started[0], line["round"]
        costs = guarantee.epsilon_by_round
        cost = costs[number - 1] if costs and number else None
        said = [] if cost is None else [f"ε {rounded_up(cost)}"]
        if line["loss"] is not None:
            losses.append(line["loss"])
            recent = list(losses)[-1:] if guarantee.epsilon is None else losses
            said.append(f"loss {sum(recent) / len(recent):.3f}")
        if line["missing"]:
            said.append(f"missing {len(line['missing'])}")
        show(number, "  ".join(said))

    return on_round


def _show_result(summary: dict[str, Any], out: Path) -> None:
    rows = {
        name: "none: the model has left all bounds" if value is None else f"{value:.4g}"
        for name, value in summary["metrics"].items()
    }
    if summary["epsilon"] is not None:
        server = summary["epsilon_against_server"]
        rows["ε"] = f"{rounded_up(summary['epsilon'])} at δ = {summary['delta']:g}"
        rows["ε against the server"] = (
            "no bound: it sees each site's sum" if server is None else rounded_up(server)
        )
    else:
        rows["ε"] = "none: this run has no privacy"
    rows["rounds"] = (
        f"{summary['rounds']} of {summary['rounds_declared']}, {summary['rounds_abandoned']} abandoned"
    )
    rows["seconds"] = f"{summary['seconds']:.1f}"
    rows["report"] = str(out / "report.html")
    print_table(f"Result on {summary['metrics_on']}", rows)
    for site, reasons in summary["refusals"].items():
        for reason, count in reasons.items():
            say(f"{site} did not answer {count} queries: {reason}")
