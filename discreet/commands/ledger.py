"""`discreet ledger`: a site's lifetime budget, what was charged to it, and the proof of both."""

from __future__ import annotations

import codecs
import fcntl
import json as json_module
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from discreet.commands.shared import require_replaceable
from discreet.console import errors_explained, print_json, print_table, results, say
from privacy.errors import LedgerError, PrivacyError, ProtocolError, UserError
from server.card import rounded_up

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

_NOTE = (
    "Epsilons do not add up: what is spent, what is reserved and what remains are bounds of their own, and a budget is "
    "kept as long as one order is within its bound."
)
_LONGEST_LINE = 10_000  # bytes, of the first: a receipt, or the entry that says whose ledger it is
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

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
            max=50.0,
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
        _require_names(
            {"--name": data_set, "--namespace": namespace, "--unit": unit, "--site": site}
        )
        table, cap = read_table(data), _cap_of(epsilon, delta)
        identities, rows = identities_of(table, unit), identities_of(table, None)
        with _opened(ledger, key, make=True, site=site) as (opened, _):
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
        entries = [Entry.from_bytes(each.content) for each in read_ledger(_file(ledger))]
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
        if not re.fullmatch("[0-9a-f]{4,64}", study):
            raise UserError(
                f"Expected at least 4 hexadecimal digits of a study's hash, found {study!r}",
                hint="discreet ledger list shows them",
            )
        with _opened(ledger, key) as (opened, _):
            found = [each for each in opened.state.studies if each.startswith(study)]
            if len(found) != 1:
                raise UserError(
                    f"Expected one study whose hash begins with {study}, found {len(found)}",
                    hint="discreet ledger list shows them",
                )
            was_open = opened.is_open(found[0])
            opened.close_study(found[0])
            summary = study_summary(opened.state, opened.state.account(found[0]))
        say(f"Closed study {found[0]}." if was_open else f"Study {found[0]} was closed already.")
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
        entries = read_ledger(_file(ledger))
        _write_lines(out, [each.to_line() for each in entries], force=force)
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
        with _opened(ledger, key) as (opened, secret):
            receipts = receipts_of(opened.state, secret)
        _write_lines(out, [each.to_line() for each in receipts], force=force)
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
    from study.signing import fingerprint

    with errors_explained():
        public = read_public_key(key)
        kept = _lines(receipts, "receipt") if receipts is not None else []
        verdict = verify(_lines(file, "entry"), public, kept)
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


def _file(ledger: Path) -> Path:
    """A directory, or a name without an ending that is not there yet, is the site's directory."""
    directory = ledger.is_dir() or not (ledger.suffix or ledger.exists())
    return ledger / "ledger.sqlite" if directory else ledger


def _key_of(path: Path) -> Path:
    """A key belongs to one ledger: two histories under one key would be a fork."""
    return path.with_name("site.key") if path.name == "ledger.sqlite" else path.with_suffix(".key")


def _replayed(ledger: Path) -> LedgerState:
    from client.ledger import read_ledger
    from study.ledger_state import replay

    return replay(read_ledger(_file(ledger)))


@contextmanager
def _opened(
    ledger: Path, key: Path | None, *, make: bool = False, site: str | None = None
) -> Iterator[tuple[Ledger, SigningKey]]:
    """The ledger and its key, to be written to; `make`: what is not there yet is made, under the name `site`.

    What was made is said when the work is done: nobody who stops listening may stop it half way.
    """
    from client.ledger import Ledger, require_ledger
    from study.keyfiles import read_key

    path = _file(ledger)
    key_path = key or _key_of(path)
    notes = _made(path, key_path, site, given=key is not None) if make else []
    require_ledger(path)
    if not key_path.exists():
        raise UserError(
            f"There is no key {key_path}",
            hint="name the ledger's key with --key; simulated sites have no key file, as their keys follow from a seed",
        )
    secret = read_key(key_path)
    opened = Ledger(path, secret)
    try:
        notes += _public_made(key_path, secret) if make else []
        yield opened, secret
    finally:
        opened.close()
        for each in notes:
            say(each)


def _made(path: Path, key_path: Path, site: str | None, *, given: bool) -> list[str]:
    """Make a ledger and its key where there is none; what was made, in words."""
    if path.exists():
        return []
    site = path.resolve().parent.name if site is None else site
    _require_names({"--site": site})
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        if path.exists():  # another process was faster
            return []
        return _make(path, key_path, site, given=given)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """No other process is making a ledger there: of two, each would find the other's key without its ledger."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make(path: Path, key_path: Path, site: str, *, given: bool) -> list[str]:
    from client.ledger import create_ledger
    from study.keyfiles import create_key, read_key
    from study.signing import fingerprint

    if key_path.exists() and not given:
        raise UserError(
            f"{key_path} is there, and the ledger that it signs is not: {path}",
            hint="find the ledger, as what was charged stays charged; or move the key away: a new ledger has a new one",
        )
    secret = read_key(key_path) if key_path.exists() else create_key(key_path)
    _public_made(key_path, secret)
    create_ledger(path, secret, site)
    public = key_path.with_suffix(".pub")
    return [
        f"Made {path} and {key_path}. Public key {public}, fingerprint {fingerprint(secret.public)}"
    ]


def _public_made(key_path: Path, secret: SigningKey) -> list[str]:
    """Write the public half beside a key, where it is missing; what was made, in words."""
    from study.keyfiles import read_public_key, write_public_key

    public = key_path.with_suffix(".pub")
    if not public.exists():
        write_public_key(public, secret)
        return [f"Made {public}."]
    if read_public_key(public) != secret.public:
        raise UserError(
            f"{public} is not the public half of {key_path}", hint="move it; it is made anew"
        )
    return []


def _require_names(options: dict[str, str | None]) -> None:
    """Raise UserError for the first option that is no name, before anything is made."""
    from study.ledger_entries import Namespace

    for option, value in options.items():
        try:
            if value is not None:
                Namespace(namespace=value, cap=None)  # every name of an entry obeys the same rule
        except ProtocolError as error:
            raise UserError(f"{option}: {error.message}", hint=f"give another {option}") from error


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
    said = {name: value for name, value in vars(body).items() if isinstance(value, str | int)}
    return ", ".join(
        f"{name} {value[:12] if isinstance(value, str) and len(value) == 64 else value}"
        for name, value in said.items()
    )


def _write_lines(out: Path, lines: list[bytes], *, force: bool) -> None:
    from server.checkpoint import write_whole

    what = "an export or receipts of a ledger"
    require_replaceable(out, _has_lines, what, force=force)
    write_whole(out, b"".join(line + b"\n" for line in lines))


def _has_lines(path: Path) -> bool:
    """Was it written by `export` or `receipts`? Its first line says so; without an answer receipts are empty."""
    from study.ledger_entries import SignedEntry
    from study.receipts import SignedReceipt

    with path.open("rb") as file:
        line = file.readline(_LONGEST_LINE)
    for kind in (SignedEntry, SignedReceipt):
        with suppress(ProtocolError):
            kind.from_line(line.removesuffix(b"\n"))
            return True
    return not line


def _lines(path: Path, kind: str) -> Iterator[bytes]:
    """Lines of an export (kind "entry") or of receipts, without their ends.

    Raises:
        UserError: it cannot be read, is another kind of file, or a program has changed its lines' ends.
        LedgerError: its last line is cut.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if b"\r\n" in content or content.startswith(_BYTE_ORDER_MARKS):
        raise UserError(
            f"{path}: expected the bytes that were written, found other ends of lines, or a mark before the first",
            hint="was it changed by an editor or a mail program? ask for it again, as an archive",
        )
    first, *others = content.split(b"\n")
    if content and not _has_form(first, kind):
        command = {"entry": "export", "receipt": "receipts"}[kind]
        raise UserError(
            f"{path}: expected lines with {kind} and signature, found another kind of file",
            hint=f"give the file that discreet ledger {command} wrote",
        )
    if content and not content.endswith(b"\n"):
        raise LedgerError(f"{path}: expected a file whose last line is whole")
    return iter([first, *others][:-1])


def _has_form(line: bytes, kind: str) -> bool:
    """Is it such a line, whatever it says? An entry that contradicts itself is one all the same."""
    try:
        values = json_module.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and set(values) == {kind, "signature"}
