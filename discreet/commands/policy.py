"""`discreet policy`: write a site's policy, check it, and hold a study against it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.policy import Policy, policy_text, policy_to_values, read_policy
from discreet.commands.shared import guarantee_of, require_replaceable
from discreet.console import FAILED, errors_explained, print_json, print_table, results, say
from privacy.errors import UserError
from study.parsing import read_study

if TYPE_CHECKING:
    from client.policy import Finding

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Write and check a site's policy: what it allows to be asked of its data, whoever asks.",
)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")
]


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy to write.")] = Path(
        "policy.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Json = False,
) -> None:
    """Write a policy with every rule explained: what it is for, its default and why.

    All rules are at their defaults, which are in force: change what your data need, a line each.

    Example: discreet policy init policy.toml
    """
    from study.files import write_whole

    with errors_explained():
        require_replaceable(file, _is_policy, "a policy", force=force)
        write_whole(file, policy_text(Policy()).encode())
        say(f"Wrote {file}. Hold a study against it: discreet policy check {file} --study FILE")
        if json:
            print_json({"file": str(file)})


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy, such as policy.toml.")],
    study: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Say which rules this study would meet, and which break."
        ),
    ] = None,
    sites: Annotated[
        int | None,
        typer.Option(
            min=1, max=128, help="Number of sites of the study. Default: its sites.minimum."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say whether a policy is sound; with --study, whether it allows that study.

    Exit code 0 if so, 1 if the study breaks a rule, 2 with one sentence and the fix if a file cannot be used.
    What a policy says of the records (floors.units) is checked when a study is approved, not here.

    Example: discreet policy check policy.toml --study study.toml --sites 8
    """
    with errors_explained():
        policy = read_policy(file)
        if study is None:
            if sites is not None:
                raise UserError("--sites is about a study", hint="name one with --study FILE")
            say(f"{file} is sound.")
            if json:
                print_json(policy_to_values(policy) | {"sound": True})
            return
        guarantee = guarantee_of(read_study(study), sites=sites)
        findings = policy.findings(guarantee)
        allowed = all(each.holds for each in findings)
        if json:
            about = {"study": guarantee.study.name, "sites": guarantee.declaration.sites}
            print_json(about | {"allowed": allowed, "rules": [_values(each) for each in findings]})
        else:
            rows = {str(each.rule): _in_words(each) for each in findings}
            print_table(
                f"{guarantee.study.name}, {guarantee.declaration.sites} sites", rows, to=results
            )
        say(f"{file} {'allows' if allowed else 'does not allow'} {study}.")
        if not allowed:
            raise typer.Exit(FAILED)


def _is_policy(path: Path) -> bool:
    with suppress(UserError):
        read_policy(path)
        return True
    return path.stat().st_size == 0


def _values(finding: Finding) -> dict[str, Any]:
    return {
        "rule": str(finding.rule), "holds": finding.holds, "expected": finding.expected, "found": finding.found,
    }  # fmt: skip


def _in_words(finding: Finding) -> str:
    verdict = "meets" if finding.holds else "BREAKS"
    return f"{verdict}: expected {finding.expected}, found {finding.found}"
