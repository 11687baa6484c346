"""`discreet ledger`: a site's lifetime budget, what was charged to it, and the proof of both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from discreet.console import errors_explained, print_json, print_table, results, say
from privacy.errors import LedgerError, PrivacyError, UserError

if TYPE_CHECKING:
    from client.ledger import Ledger
    from privacy.filters import LifetimeCap
    from study.ledger_entries import Body
    from study.ledger_state import LedgerState
    from study.signing import SigningKey

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
            min=0.01,
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
    budget: register both in one namespace. Registering the same people in another namespace is refused.

    Example: discreet ledger register records.csv --ledger site/ledger.sqlite --unit patient_id --epsilon 8
    """
    from audit.summary import budget_summary
    from client.registration import identities_of, register
    from client.tables import read_table

    with errors_explained():
        table, cap = read_table(data), _cap_of(epsilon, delta)
        name = data.stem if name is None else name
        identities, rows = identities_of(table, unit), identities_of(table, None)
        with _opened(ledger, key, make=site or "") as (opened, secret):
            _require_same_budget(opened, namespace, epsilon, delta)
            register(
                opened, secret, data_set=name, namespace=namespace, unit=unit,
                identities=[*identities, *rows], cap=cap, distinct=distinct,
            )  # fmt: skip
            state = opened.state
            people = len(set(identities))
            say(f'Registered "{name}": {people} units in namespace "{namespace}".')
            if json:
                print_json(
                    {
                        "data_set": name,
                        "units": people,
                        **budget_summary(state, namespace),
                    }
                )
            else:
                print_table(
                    "Lifetime budget", _in_words(budget_summary(state, namespace)), to=results
                )


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
            print_json({"namespaces": budgets})
            return
        for each in budgets:
            print_table(f"Namespace {each['namespace']}", _in_words(each), to=results)


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
        entries = [Entry.from_bytes(each.content) for each in read_ledger(_file(ledger))]
        if study is not None:
            entries = [
                each for each in entries if getattr(each.body, "study", "").startswith(study)
            ]
        if json:
            print_json({"entries": [each.to_values() for each in entries[-last:]]})
            return
        for each in entries[-last:]:
            when = datetime.fromtimestamp(each.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
            when = when if each.time else "(simulated)".ljust(len(when))
            results.print(
                f"{each.sequence:6}  {when}  {each.body.KIND:9}  {_gist(each.body)}", markup=False, soft_wrap=True
            )  # fmt: skip


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

    with errors_explained(), _opened(ledger, key) as (opened, _):
        found = [each for each in opened.state.studies if each.startswith(study)]
        if len(found) != 1:
            raise UserError(
                f"Expected one study whose hash begins with {study}, found {len(found)}",
                hint="discreet ledger list shows them",
            )
        opened.close_study(found[0])
        say(f"Closed study {found[0]}.")
        if json:
            print_json(study_summary(opened.state, opened.state.account(found[0])))


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
        entries = read_ledger(_file(ledger))
        _write_lines(out, [each.to_line() for each in entries], force=force, ledger=ledger)
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

    with errors_explained(), _opened(ledger, key) as (opened, secret):
        receipts = receipts_of(opened.state, secret)
        _write_lines(out, [each.to_line() for each in receipts], force=force, ledger=ledger)
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
    from study.keyfiles import read_public_key

    with errors_explained():
        public = read_public_key(key)
        kept = _lines(receipts) if receipts is not None else []
        verdict = verify(_lines(file), public, kept)
        state = verdict.state
        budgets = [budget_summary(state, each) for each in state.namespaces]
        if json:
            print_json(
                {
                    "site": state.opened.site if state.opened else "", "entries": state.entries,
                    "receipts": verdict.receipts, "head": state.head, "namespaces": budgets,
                    "studies": [study_summary(state, each) for each in state.studies.values()],
                }
            )  # fmt: skip
            return
        say(f"{file}: {state.entries} entries, {verdict.receipts} receipts, no contradiction.")
        for each in budgets:
            print_table(f"Namespace {each['namespace']}", _in_words(each), to=results)


def _file(ledger: Path) -> Path:
    return ledger / "ledger.sqlite" if ledger.is_dir() else ledger


def _replayed(ledger: Path) -> LedgerState:
    from client.ledger import read_ledger
    from study.ledger_state import replay

    return replay(read_ledger(_file(ledger)))


@contextmanager
def _opened(
    ledger: Path, key: Path | None, *, make: str | None = None
) -> Iterator[tuple[Ledger, SigningKey]]:
    """The ledger and its key, to be written to; where neither is there yet they are made, under the name `make`."""
    from client.ledger import Ledger
    from study.keyfiles import read_key

    path = _file(ledger)
    key_path = key or path.with_name("site.key")
    if not path.exists() and make is not None:
        _make(path, key_path, make)
    secret = read_key(key_path)
    opened = Ledger(path, secret)
    try:
        yield opened, secret
    finally:
        opened.close()


def _make(path: Path, key_path: Path, site: str) -> None:
    from client.ledger import create_ledger
    from study.keyfiles import create_key, read_key, read_public_key, write_public_key
    from study.signing import fingerprint

    path.parent.mkdir(parents=True, exist_ok=True)
    secret = read_key(key_path) if key_path.exists() else create_key(key_path)
    public = key_path.with_suffix(".pub")
    if not public.exists():
        write_public_key(public, secret)
    elif read_public_key(public) != secret.public:
        raise UserError(
            f"{public} is not the public half of {key_path}", hint="move it; it is made anew"
        )
    create_ledger(path, secret, site or path.resolve().parent.name)
    say(
        f"Made {path} and {key_path}. Public key {public}, fingerprint {fingerprint(secret.public)}"
    )


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


def _in_words(values: dict[str, Any]) -> dict[str, str]:
    """Figures for people; orders and parts of delta are for --json."""
    said = {}
    for name, value in values.items():
        if isinstance(value, list | dict):
            continue
        text = f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)
        said[name.replace("_", " ")] = text
    return said


def _gist(body: Body) -> str:
    """What an entry says, in a line: hashes shortened, terms left out."""
    said = {name: value for name, value in vars(body).items() if isinstance(value, str | int)}
    return ", ".join(
        f"{name} {value[:12] if isinstance(value, str) and len(value) == 64 else value}"
        for name, value in said.items()
    )


def _write_lines(out: Path, lines: list[bytes], *, force: bool, ledger: Path) -> None:
    from server.checkpoint import write_whole

    if out.exists() and out.samefile(_file(ledger)):
        raise UserError(f"{out} is the ledger itself", hint="choose another --out")
    if out.exists() and not force:
        raise UserError(f"{out} exists", hint="choose another --out, or replace it with --force")
    write_whole(out, b"".join(line + b"\n" for line in lines))


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a file, without their ends. Raises UserError if it cannot be read, LedgerError if its last is cut."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if content and not content.endswith(b"\n"):
        raise LedgerError(f"{path}: expected a file whose last line is whole")
    return iter(content.split(b"\n")[:-1])
