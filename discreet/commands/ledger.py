"""`discreet ledger`: a site's lifetime budget, what was charged to it, and the proof of both."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from discreet.commands.ledger_files import (
    ledger_file,
    opened_ledger,
    read_lines,
    require_names,
    write_lines,
)
from discreet.commands.shared import require_digits, study_beginning_with
from discreet.console import errors_explained, print_json, print_table, results, say
from privacy.errors import PrivacyError, UserError
from server.card import rounded_up

if TYPE_CHECKING:
    from client.ledger import Ledger
    from privacy.filters import LifetimeCap
    from study.ledger_entries import Body
    from study.ledger_state import LedgerState

__all__ = ["app"]

app = typer.Typer(
    name="ledger", no_args_is_help=True,
    help="What a site was asked, what it paid, and what is left of its lifetime budget.\n\n"
    "A ledger belongs to one site. It is append-only, hash-chained and signed; every query is charged before it is "
    "computed. Start with: discreet ledger register records.csv --ledger site/ledger.sqlite",
)  # fmt: skip

_EPSILON, _DELTA = (
    10.0,
    1e-5,
)  # of a new namespace: what a study's own delta is, unless it says otherwise

_NOTE = (
    "Epsilons do not add up: what is spent, what is reserved and what remains are bounds of their own, and a budget is "
    "kept as long as one order is within its bound."
)

LedgerPath = Annotated[
    Path, typer.Argument(metavar="LEDGER", help="The ledger, or the directory of its site.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")
]
KeyPath = Annotated[
    Path | None,
    typer.Option(
        "--key", metavar="FILE", help="The site's key. Default: site.key beside the ledger."
    ),
]


@app.command("register")
def register_data_set(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="The records: .csv, .parquet or .npz.")
    ],
    ledger: Annotated[
        Path,
        typer.Option(
            "--ledger", metavar="LEDGER", help="Made, with a key, if it is not there yet."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="What the data set is called. Default: the file's name without its ending."
        ),
    ] = None,
    namespace: Annotated[
        str,
        typer.Option(
            help="Whose budget it shares: all data sets about these people have the same."
        ),
    ] = "patients",
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The column that says whose record it is. Default: every record is one person's.",
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            max=40.0,
            help="A new namespace: epsilon of everything that will ever be asked. Default: 10.",
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(min=1e-20, max=0.1, help="A new namespace: its delta. Default: 1e-5."),
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="A new ledger: the site's name. Default: its directory's.")
    ] = None,
    distinct: Annotated[
        bool,
        typer.Option(
            "--distinct",
            help="These are other people than those of other namespaces, whatever they look like.",
        ),
    ] = False,
    key: KeyPath = None,
    json: AsJson = False,
) -> None:
    """Register a data set: from now on its units have one lifetime budget, whatever studies come.

    The budget is fixed when a namespace is first used and can never be raised. A person who is in two data sets has one
    budget: register both in one namespace. In another namespace the same unit names or the same rows are refused; a
    file with other columns, or with other names for the same people, is not recognised.

    The names of site, data set, namespace and unit column go into the ledger, and stay there for ever; no record does.

    Example: discreet ledger register records.csv --ledger site/ledger.sqlite --unit patient_id --epsilon 8
    """
    from audit.summary import budget_summary
    from client.registration import identities_of, register
    from client.tables import read_table

    with errors_explained():
        data_set = data.stem if name is None else name
        require_names(
            {"--name": data_set, "--namespace": namespace, "--unit": unit, "--site": site}
        )
        table, cap = read_table(data), _cap_of(epsilon, delta)
        identities, rows = identities_of(table, unit), identities_of(table, None)
        with opened_ledger(ledger, key, make=True, site=site) as (opened, _):
            _require_same_budget(opened, namespace, epsilon, delta)
            register(
                opened, data_set=data_set, namespace=namespace, unit=unit,
                identities=[*identities, *rows], cap=cap, distinct=distinct,
            )  # fmt: skip
            summary = budget_summary(opened.state, namespace)
        units = len(set(identities))
        what = f"{units} units" if unit else f"{table.rows} records, {units} of them different,"
        say(f'Registered "{data_set}": {what} in namespace "{namespace}".')
        if json:
            counts = {"records": table.rows, "units": units}
            print_json({"data_set": data_set, **counts, **summary, "note": _NOTE})
        else:
            _print_budgets("Lifetime budget", [summary])


@app.command("list")
def list_all(ledger: LedgerPath, json: AsJson = False) -> None:
    """List data sets and studies: who answers what, and how far each study has come.

    Example: discreet ledger list site/ledger.sqlite
    """
    from audit.summary import study_summary

    with errors_explained():
        state = _replayed(ledger)
        listed: dict[str, Any] = {
            "site": state.opened.site if state.opened else "",
            "data_sets": [
                {"data_set": name, "namespace": each.namespace, "unit": each.unit or "record"}
                for name, each in state.data_sets.items()
            ],
            "studies": [study_summary(state, account) for account in state.studies.values()],
        }
        if json:
            print_json(listed)
            return
        for each in listed["data_sets"]:
            print_table(f"Data set {each['data_set']}", _in_words(each), to=results)
        for each in listed["studies"]:
            print_table(f"Study {each['name']}", _in_words(each), to=results)
        if not listed["studies"]:
            say("No study has been approved yet.")


@app.command("budget")
def show_budget(ledger: LedgerPath, json: AsJson = False) -> None:
    """Show every namespace's lifetime budget: what is spent, what is reserved, and what still fits.

    Example: discreet ledger budget site/ledger.sqlite
    """
    from audit.summary import budget_summary

    with errors_explained():
        state = _replayed(ledger)
        budgets = [budget_summary(state, each) for each in state.namespaces]
        if json:
            print_json({"namespaces": budgets, "note": _NOTE})
        else:
            _print_budgets("Namespace {namespace}", budgets)


@app.command("show")
def show_entries(
    ledger: LedgerPath,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="HASH", help="Only entries of this study; its first digits are enough."
        ),
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="So many entries, the latest.")] = 50,
    json: AsJson = False,
) -> None:
    """Show the entries themselves, the latest ones, in order.

    Example: discreet ledger show site/ledger.sqlite --last 10
    """
    from client.ledger import read_ledger
    from study.ledger_entries import Entry

    with errors_explained():
        entries = [Entry.from_bytes(each.content) for each in read_ledger(ledger_file(ledger))]
        if study is not None:
            entries = [
                each for each in entries if getattr(each.body, "study", "").startswith(study)
            ]
            if not study or not entries:
                raise UserError(
                    f"There is no study whose hash begins with {study!r}",
                    hint="discreet ledger list shows them",
                )
        if json:
            print_json({"entries": [each.to_values() for each in entries[-last:]]})
            return
        for each in entries[-last:]:
            said = f"{each.sequence:6}  {_when(each.time)}  {each.body.KIND:9}  {_gist(each.body)}"
            results.print(said, markup=False, soft_wrap=True)


@app.command("close")
def close_study(
    ledger: LedgerPath,
    study: Annotated[
        str, typer.Argument(metavar="HASH", help="The study; its first digits are enough.")
    ],
    key: KeyPath = None,
    json: AsJson = False,
) -> None:
    """Close a study that is over: what it never asked can be used again. What it asked stays charged.

    Example: discreet ledger close site/ledger.sqlite 3f2a91
    """
    from audit.summary import study_summary

    with errors_explained():
        hint = "discreet ledger list shows them"
        require_digits(study, least=4, hint=hint)
        with opened_ledger(ledger, key) as (opened, _):
            found = study_beginning_with(study, opened.state.studies, hint=hint)
            was_open = opened.is_open(found)
            opened.close_study(found)
            summary = study_summary(opened.state, opened.state.account(found))
        say(f"Closed study {found}." if was_open else f"Study {found} was closed already.")
        if json:
            print_json(summary)


@app.command("export")
def export_ledger(
    ledger: LedgerPath,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.jsonl", help="Where the export goes.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --out.")] = False,
    json: AsJson = False,
) -> None:
    """Write the whole ledger as JSON Lines, for an auditor: no record and no secret is in it.

    It names the site, its data sets, the studies, and column names where a column is the unit.

    Example: discreet ledger export site/ledger.sqlite --out ledger.jsonl
    """
    from client.ledger import read_ledger

    with errors_explained():
        entries = read_ledger(ledger_file(ledger))
        write_lines(out, [each.to_line() for each in entries], force=force)
        say(f"Wrote {len(entries)} entries to {out}.")
        if json:
            print_json({"out": str(out), "entries": len(entries)})


@app.command("receipts")
def export_receipts(
    ledger: LedgerPath,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.jsonl", help="Where the receipts go.")
    ],
    key: KeyPath = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --out.")] = False,
    json: AsJson = False,
) -> None:
    """Sign a receipt for every answered query, for others to keep: it proves later that no charge was taken back.

    Example: discreet ledger receipts site/ledger.sqlite --out receipts.jsonl
    """
    from study.receipts import receipts_of

    with errors_explained():
        with opened_ledger(ledger, key) as (opened, secret):
            receipts = receipts_of(opened.state, secret)
        write_lines(out, [each.to_line() for each in receipts], force=force)
        say(f"Wrote {len(receipts)} receipts to {out}.")
        if json:
            print_json({"out": str(out), "receipts": len(receipts)})


@app.command("verify")
def verify_export(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="An exported ledger.")],
    key: Annotated[
        Path, typer.Option("--key", metavar="PUBLIC_KEY", help="The site's public key: site.pub.")
    ],
    receipts: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Receipts of this site that were kept elsewhere."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Verify an exported ledger offline: chain, signatures, order, terms and budgets; exit 1 names the contradiction.

    Example: discreet ledger verify ledger.jsonl --key site.pub
    """
    from audit.summary import budget_summary, study_summary
    from audit.verify import verify_export as verify
    from privacy.signing import fingerprint
    from study.keyfiles import read_public_key

    with errors_explained():
        public = read_public_key(key)
        kept = read_lines(receipts, "receipt") if receipts is not None else []
        verdict = verify(read_lines(file, "entry"), public, kept)
        state = verdict.state
        mark, when = fingerprint(public), _when(state.time)
        budgets = [budget_summary(state, each) for each in state.namespaces]
        if json:
            print_json(
                {
                    "site": state.opened.site if state.opened else "", "entries": state.entries,
                    "last_entry": state.entries - 1, "last_time": state.time, "fingerprint": mark,
                    "receipts": verdict.receipts, "head": state.head, "namespaces": budgets, "note": _NOTE,
                    "complete": "as far as the receipts go" if verdict.receipts else "unknown without receipts",
                    "studies": [study_summary(state, each) for each in state.studies.values()],
                }
            )  # fmt: skip
            return
        say(
            f"{file}: {state.entries} entries, {verdict.receipts} receipts, no contradiction. The last entry is number "
            f"{state.entries - 1}, {when.strip()}. Fingerprint of the key: {mark}"
        )
        if not verdict.receipts:
            say("Without receipts a ledger whose end was left out cannot be told from a whole one.")
        _print_budgets("Namespace {namespace}", budgets)


def _replayed(ledger: Path) -> LedgerState:
    from client.ledger import read_ledger
    from study.ledger_state import replay

    return replay(read_ledger(ledger_file(ledger)))


def _cap_of(epsilon: float | None, delta: float | None) -> LifetimeCap:
    """The budget of a new namespace."""
    from privacy.filters import LifetimeCap, default_orders

    epsilon = _EPSILON if epsilon is None else epsilon
    delta = _DELTA if delta is None else delta
    try:
        return LifetimeCap(epsilon=epsilon, delta=delta, orders=default_orders(epsilon, delta))
    except PrivacyError as error:  # not a number
        raise UserError(error.message) from error


def _require_same_budget(
    ledger: Ledger, namespace: str, epsilon: float | None, delta: float | None
) -> None:
    """What is asked for a namespace that is there must be what it has: a budget never changes."""
    if namespace not in ledger.state.namespaces:
        return
    found = ledger.state.namespaces[namespace]
    if found is None or epsilon not in (None, found.epsilon) or delta not in (None, found.delta):
        budget = "none" if found is None else f"epsilon {found.epsilon:g} at delta {found.delta:g}"
        raise UserError(
            f'The namespace "{namespace}" has a lifetime budget already: {budget}',
            hint="a budget is fixed once; leave --epsilon and --delta out to share it",
        )


def _print_budgets(title: str, budgets: list[dict[str, Any]]) -> None:
    for each in budgets:
        print_table(title.format(**each), _in_words(each), to=results)
    if budgets:
        results.print(_NOTE, markup=False, soft_wrap=True)


def _in_words(values: dict[str, Any]) -> dict[str, str]:
    """Figures for people; orders and parts of delta are for --json."""
    return {
        name.replace("_", " "): _figure(name, value) if isinstance(value, float) else str(value)
        for name, value in values.items()
        if not isinstance(value, list | dict)
    }


def _figure(name: str, value: float) -> str:
    """An epsilon is never shown below its value, and what remains never above it."""
    if not math.isfinite(value) or name == "delta":
        return f"{value:g}"
    if name.startswith("remaining"):
        return f"{Context(prec=3, rounding=ROUND_FLOOR).create_decimal(value):f}"
    return rounded_up(value)


def _when(time: int) -> str:
    """An entry's time, for people."""
    text = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return text if time else "(simulated)".ljust(len(text))


def _gist(body: Body) -> str:
    """What an entry says, in a line: hashes shortened, terms left out."""
    from study.ledger_entries import Agreed

    said = {name: value for name, value in vars(body).items() if isinstance(value, str | int)}
    if isinstance(body, Agreed):
        said["sum of"] = "all" if body.survivors is None else " ".join(map(str, body.survivors))
    said.pop("salt", None)
    return ", ".join(
        f"{name} {value[:12] if isinstance(value, str) and len(value) == 64 else value}"
        for name, value in said.items()
    )
