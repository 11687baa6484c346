"""The files of `discreet ledger`: a ledger with its keys, found or made; exports and receipts, written and read."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from discreet.commands.shared import require_replaceable
from discreet.console import say
from privacy.errors import LedgerError, ProtocolError, UserError

if TYPE_CHECKING:
    from client.ledger import Ledger
    from privacy.signing import SigningKey

__all__ = ["ledger_file", "opened_ledger", "read_lines", "require_names", "write_lines"]

_LONGEST_LINE = 10_000  # bytes, of the first: a receipt, or the entry that says whose ledger it is
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def ledger_file(ledger: Path) -> Path:
    """A directory, or a name without an ending that is not there yet, is the site's directory."""
    directory = ledger.is_dir() or not (ledger.suffix or ledger.exists())
    return ledger / "ledger.sqlite" if directory else ledger


def _key_of(path: Path) -> Path:
    """A key belongs to one ledger: two histories under one key would be a fork."""
    return path.with_name("site.key") if path.name == "ledger.sqlite" else path.with_suffix(".key")


@contextmanager
def opened_ledger(
    ledger: Path, key: Path | None, *, make: bool = False, site: str | None = None
) -> Iterator[tuple[Ledger, SigningKey]]:
    """The ledger and its key, to be written to; `make`: what is not there yet is made, under the name `site`.

    What was made is said when the work is done: nobody who stops listening may stop it half way.
    """
    from client.ledger import Ledger, require_ledger
    from study.keyfiles import read_key

    path = ledger_file(ledger)
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
    require_names({"--site": site})
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
    from privacy.signing import fingerprint
    from study.keyfiles import create_key, read_key

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


def require_names(options: dict[str, str | None]) -> None:
    """Raise UserError for the first option that is no name, before anything is made."""
    from study.ledger_entries import Namespace

    for option, value in options.items():
        try:
            if value is not None:
                Namespace(namespace=value, cap=None)  # every name of an entry obeys the same rule
        except ProtocolError as error:
            raise UserError(f"{option}: {error.message}", hint=f"give another {option}") from error


def write_lines(out: Path, lines: list[bytes], *, force: bool) -> None:
    """Write an export or receipts, whole or not at all; `force` replaces such a file alone. Raises UserError."""
    from study.files import write_whole

    require_replaceable(out, _has_lines, "an export or receipts of a ledger", force=force)
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


def read_lines(path: Path, kind: str) -> Iterator[bytes]:
    """Lines of an export (kind "entry") or of receipts, without their ends.

    Raises:
        UserError: it cannot be read, is another kind of file, or a program has changed its lines' ends.
        LedgerError: its last line is cut.
    """
    from study.files import read_whole

    content = read_whole(path)
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
        values = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and set(values) == {kind, "signature"}
