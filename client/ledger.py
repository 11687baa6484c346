"""A site's ledger on its own disk: what it was asked, what it answered, and what is left of every lifetime budget.

**Guarantees.**

* *Charged before computed, stored before sent.* `charge` returns when the charge is on the disk; `store` when the
answer's
  bytes are, together with the entry that names their hash. What a crash leaves in between is a charge without bytes:
  `burn_pending` closes it for good, and the query is never computed again.
* *One history.* Entries are only ever appended, each within one transaction that first reads what other processes
have
  written: two of them cannot charge the same query, nor together exceed a budget that neither would alone.
* *A failed write changes nothing.* What this object remembers is thrown away and read again from the disk.

| a crash | leaves | afterwards |
|---|---|---|
| before the charge is on the disk | nothing | the query can be asked again |
| between charge and store | a pending charge | it is burnt when the site starts again |
| between store and send | the bytes | asked again, the same bytes are sent |

The file is an SQLite database (write-ahead log, synchronous=FULL), readable by its owner alone.
`study/ledger_state.py` has the rules, `study/ledger_entries.py` the form. Next to the entries it holds the latest
answers of open studies, and keyed marks of units, neither of which are part of the chain or of an export.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from privacy.errors import LedgerError, ProtocolError, UserError
from privacy.keystream import derive_key
from privacy.signing import SigningKey, Tag
from study.files import sync_directory
from study.ledger_entries import (
    Agreed,
    Answered,
    Approved,
    Body,
    Burnt,
    Charged,
    Closed,
    DataSet,
    Entry,
    Namespace,
    Opened,
    Refused,
    SignedEntry,
    hash_of,
)
from study.ledger_state import Asked, LedgerState
from study.receipts import SignedReceipt, receipts_after

__all__ = ["KEPT_ANSWERS", "Ledger", "Witnessed", "create_ledger", "read_ledger", "require_ledger"]

KEPT_ANSWERS = 2
"""Answers of a study whose bytes are kept, the latest ones: a coordinator asks again only for the trip that is open."""

_MARK_BYTES = 8  # of a unit's HMAC: among a million, two are alike once in 10^7 data sets
_MOST_UNKNOWN_REFUSALS = 100
_APPLICATION = 0x44534C47  # "DSLG", in the file's header
_HEADER_BYTES = 100
_WAIT_SECONDS = 30.0
_HINTS = {
    "SQLITE_FULL": "make room on its disk, and do it again",
    "SQLITE_READONLY": "whoever runs the site must be able to write the ledger and its directory",
    "SQLITE_CANTOPEN": "whoever runs the site must be able to write the ledger and its directory",
    "SQLITE_PERM": "whoever runs the site must be able to write the ledger and its directory",
    "SQLITE_BUSY": "another process is writing to it; wait until it is done",
    "SQLITE_IOERR": "is its disk full, or broken? keep a copy of it before anything else",
    "SQLITE_CORRUPT": "it is damaged; keep it as it is, and never go on from an old copy: charges would be forgotten",
    "SQLITE_NOTADB": "it is damaged, or no ledger; give the ledger.sqlite that discreet ledger register made",
}
"""What to do, by the beginning of SQLite's name of an error."""

_SCHEMA = f"""
    BEGIN;
    PRAGMA application_id = {_APPLICATION};
    CREATE TABLE entries (sequence INTEGER PRIMARY KEY, content BLOB NOT NULL, signature BLOB NOT NULL);
    CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries stay as they are'); END;
    CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries stay as they are'); END;
    CREATE TABLE answers (
        place INTEGER PRIMARY KEY, study TEXT NOT NULL, number INTEGER NOT NULL, content BLOB NOT NULL
    );
    CREATE TABLE witnessed (
        site BLOB NOT NULL, study TEXT NOT NULL, number INTEGER NOT NULL, receipt BLOB,
        PRIMARY KEY (site, study)
    ) WITHOUT ROWID;
    CREATE TABLE units (mark BLOB NOT NULL, data_set TEXT NOT NULL, PRIMARY KEY (mark, data_set)) WITHOUT ROWID;
"""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Witnessed:
    """What a site knows of another's ledger, in one study.

    Attributes:
        number: of the entry that the latest receipt is of; before there is one, the highest that was known of it from
            other studies when this one began, -1 for nothing.
        receipt: the latest.
    """

    number: int
    receipt: SignedReceipt | None = None


def create_ledger(path: Path, key: SigningKey, site: str, *, clock: Clock = time.time) -> None:
    """Make a new ledger, whole or not at all; mode 0600. Raises UserError if there is one already."""
    path = path.resolve()
    # A name of its own: two processes that made one ledger at once would write into each other's half of it.
    handle, name = tempfile.mkstemp(prefix=path.name + ".", suffix=".new", dir=path.parent)
    os.close(handle)
    first = LedgerState().next_entry(Opened(site=site, key=key.public.hex()), time=int(clock()))
    try:
        with _explained(path), closing(sqlite3.connect(name, isolation_level=None)) as database:
            database.executescript(_SCHEMA)
            _insert(database, first, key)
            database.execute("COMMIT")
        os.link(name, path)
    except FileExistsError:
        raise UserError(f"{path} exists", hint="a ledger is never written over") from None
    finally:
        Path(name).unlink()
    sync_directory(path.parent)


class Ledger:
    """The ledger of one site, to be read and continued.

    Arguments:
        path: of a file that `create_ledger` made.
        key: the site's; entries are signed with it.
        clock: Unix seconds; what entries say of time is for people, and nothing depends on it.
        durable: wait for the disk at every entry; a simulation need not.
    Raises:
        LedgerError: it is damaged, or of another key.
        UserError: there is none, it is another kind of file, or others can read it.
    """

    def __init__(
        self, path: Path, key: SigningKey, *, clock: Clock = time.time, durable: bool = True
    ) -> None:
        require_ledger(path)
        _require_private(path)
        self._path, self._key, self._clock = path, key, clock
        self._lock, self._process = threading.RLock(), os.getpid()
        self._kept: LedgerState | None = None
        self._database = _connect(path, "rw")
        try:
            with _explained(path):
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
            if self.state.opened is None:
                raise LedgerError(f"{path}: expected a ledger with an entry, found none")
        except BaseException:
            self.close()
            raise

    @property
    def public(self) -> bytes:
        """The site's public key, 32 bytes."""
        return self._key.public

    @property
    def state(self) -> LedgerState:
        """What all entries add up to, those of other processes included. To be read, not changed."""
        with self._transaction("DEFERRED") as state:
            return state

    def register(
        self,
        data_set: DataSet,
        units: Iterable[bytes],
        *,
        opening: Namespace | None = None,
        distinct: bool = False,
    ) -> None:
        """A data set, and the marks of its units' identities; marks that it had before stay.

        Arguments:
            opening: of its namespace, with the lifetime budget, if it is not there yet. Without a cap nothing is
                protected: only simulations may do that.
            distinct: these are other units than those of other namespaces, although some marks are the same.
        Raises:
            LedgerError: some of its units belong to another namespace already; nothing was opened or registered.
        """
        with self._transaction() as state:
            # Another process may have opened it since the caller looked; at another budget it is not the same.
            if opening is not None and not _is_opened(state, opening):
                self._write(state, opening)
            self._write(state, data_set)
            self._database.executemany(
                "INSERT OR IGNORE INTO units VALUES (?, ?)", ((each, data_set.data_set) for each in self._marks(units))
            )  # fmt: skip
            if not distinct:
                self._require_unlinked(state, data_set)

    def approve(self, approval: Approved, units: Collection[bytes]) -> None:
        """Take part in a study and reserve its whole cost. Nothing to do if exactly this is approved already.

        Arguments:
            units: identities of the units that it will be answered with. Those that a column names must have been
                registered, all of them. A record is known by its whole row, of which a study sees a part: of records
                there may be no more than were registered.
        Raises:
            BudgetError: it does not fit; the message says what remains.
            LedgerError: the study was approved otherwise, or is closed, or units of it were never registered.
        """
        with self._transaction() as state:
            self._require_registered(state, approval.data_set, set(self._marks(units)))
            account = state.studies.get(approval.study)
            if account is None:
                state.require_room(approval)
            if account is None or account.closed or account.approval != approval:
                self._write(state, approval)

    def is_open(self, study: str) -> bool:
        """Was the study approved, and not closed since, by whichever process?"""
        account = self.state.studies.get(study)
        return account is not None and not account.closed

    def find(self, study: str, index: int) -> Asked | None:
        """What became of a query of an approved study; None if it was never charged."""
        return self.state.account(study).asked.get(index)

    def last_index(self, study: str) -> int:
        """The highest number of a query that an approved study has charged, -1 for none."""
        return max(self.state.account(study).asked, default=-1)

    def sums_left(self, study: str, function: str) -> int:
        """How many queries of a function an approved study may still ask."""
        account = self.state.account(study)
        return account.declared(function).count - account.charged[function]

    def data_set(self, name: str) -> DataSet:
        """A registered data set. Raises LedgerError where there is none."""
        found = self.state.data_sets.get(name)
        if found is None:
            raise LedgerError(
                f'Expected a registered data set, found "{name}"', hint="discreet ledger register makes one"
            )  # fmt: skip
        return found

    def charge(
        self,
        study: str,
        index: int,
        function: str,
        query: str,
        *,
        witnessed: Mapping[bytes, Witnessed] = MappingProxyType({}),
    ) -> None:
        """Pay for a query. When this returns the charge is on the disk, and the answer may be computed.

        Arguments:
            query: SHA-256 of what is asked, hexadecimal. witnessed: what is known of other sites' ledgers now, by
                public key, to be remembered.
        Raises:
            LedgerError: the number was charged before, or no sums of the function are left.
        """
        with self._transaction() as state:
            terms = state.account(study).declared(function).terms
            self._write(
                state,
                Charged(
                    study=study, index=index, function=function, query=query, terms=terms, salt=self._salt(state)
                ),
            )  # fmt: skip
            self._database.executemany(
                "INSERT OR REPLACE INTO witnessed VALUES (?, ?, ?, ?)",
                (
                    (
                        site,
                        study,
                        each.number,
                        None if each.receipt is None else each.receipt.to_line(),
                    )
                    for site, each in witnessed.items()
                ),
            )

    def witnessed(self, site: bytes) -> dict[str, Witnessed]:
        """What is known of the ledger of the site with that public key, by study.

        It is kept when a study is closed: it is proof, should that ledger go back.
        """
        with self._transaction("DEFERRED"):
            rows = self._database.execute(
                "SELECT study, number, receipt FROM witnessed WHERE site = ?", (site,)
            ).fetchall()
        return {
            study: Witnessed(number, None if line is None else SignedReceipt.from_line(line))
            for study, number, line in rows
        }

    def head_at(self, sequence: int) -> str | None:
        """Hash of an entry, hexadecimal; None if there are not so many."""
        with self._transaction("DEFERRED"):
            row = self._database.execute(
                "SELECT content FROM entries WHERE sequence = ?", (sequence,)
            ).fetchone()
        return None if row is None else hash_of(row[0])

    def store(self, study: str, index: int, answer: bytes) -> None:
        """Keep the bytes of an answer. When this returns they are on the disk, and may be sent.

        Raises:
            LedgerError: the query is not pending any more; the bytes must not be sent.
        """
        digest = hashlib.sha256(answer).hexdigest()
        with self._transaction() as state:
            self._write(state, Answered(study=study, index=index, answer=digest))
            self._database.execute(
                "INSERT INTO answers (study, number, content) VALUES (?, ?, ?)", (study, index, answer)
            )  # fmt: skip
            self._database.execute(
                "DELETE FROM answers WHERE study = ?1 AND place NOT IN "
                "(SELECT place FROM answers WHERE study = ?1 ORDER BY place DESC LIMIT ?2)",
                (study, KEPT_ANSWERS),
            )

    def stored(self, study: str, index: int) -> bytes | None:
        """The very bytes that were stored; None if they are not kept any more.

        Raises:
            LedgerError: they are not the bytes that the ledger names; they must not be sent.
        """
        with self._transaction("DEFERRED") as state:
            row = self._database.execute(
                "SELECT content FROM answers WHERE study = ? AND number = ?", (study, index)
            ).fetchone()
            asked = state.account(study).asked.get(index)
        if row is None:
            return None
        if asked is None or hashlib.sha256(row[0]).hexdigest() != asked.answer:
            raise LedgerError("Expected the bytes that were answered, found others")
        return bytes(row[0])

    def receipts(
        self, study: str, index: int, *, known: Collection[str] = ()
    ) -> tuple[SignedReceipt, ...]:
        """The receipt of an answered query, always the same, and before it those up to a known head, oldest first.

        Raises:
            LedgerError: it was not answered.
        """
        return receipts_after(self.state.account(study), index, known, self._key)

    def sign(self, tag: Tag, message: bytes) -> bytes:
        """A signature of this site, for one purpose."""
        return self._key.sign(tag, message)

    def agree(self, study: str, index: int, survivors: tuple[int, ...] | None) -> None:
        """Of which sum an answer may be unmasked. When this returns it is on the disk, and no other ever will be.

        Raises:
            LedgerError: another sum was agreed on, or the query is not answered.
        """
        with self._transaction() as state:
            body = Agreed(study=study, index=index, survivors=survivors)
            asked = state.account(study).asked.get(index)
            if asked is None or asked.agreed != body:
                self._write(state, body)

    def burn(self, study: str, index: int) -> None:
        """A charged query that will never be answered."""
        with self._transaction() as state:
            self._write(state, Burnt(study=study, index=index))

    def burn_pending(self) -> int:
        """Burn every charge that has no answer, and say how many: what a site does when it starts.

        Whatever another process was computing then can no longer be stored, so it is never sent.
        """
        with self._transaction() as state:
            pending = [
                Burnt(study=study, index=index)
                for study, account in state.studies.items()
                for index, asked in account.asked.items()
                if asked.status == "pending"
            ]
            for each in pending:
                self._write(state, each)
        return len(pending)

    def close_study(self, study: str) -> None:
        """The study is over: what it never asked is free again, and no bytes of it are kept. Nothing, if it was."""
        with self._transaction() as state:
            if not state.account(study).closed:
                self._write(state, Closed(study=study))
            self._database.execute("DELETE FROM answers WHERE study = ?", (study,))

    def refuse(self, study: str, reason: str) -> None:
        """Log a refusal, once for each study and reason; of studies that this site does not know, a hundred."""
        with self._transaction() as state:
            if (study, reason) in state.refusals:
                return
            unknown = sum(each not in state.studies for each, _ in state.refusals)
            if study in state.studies or unknown < _MOST_UNKNOWN_REFUSALS:
                self._write(state, Refused(study=study, reason=reason))

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[LedgerState]:
        """The state as of now, within a transaction that is committed at the end, or not at all."""
        if os.getpid() != self._process:
            raise LedgerError("Expected the process that opened this ledger, found a fork of it")
        with self._lock, _explained(self._path):
            self._database.execute(f"BEGIN {kind}")
            try:
                state = self._caught_up()
                yield state
                self._database.execute("COMMIT")
                self._kept = state
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _caught_up(self) -> LedgerState:
        """Fold in what this process has not read yet; the last signature covers the whole chain before it."""
        state, self._kept = self._kept or LedgerState(), None
        last = None
        for last in _rows(self._database, state.entries):
            number = state.entries
            try:
                state.apply(Entry.from_bytes(last.content))
            except (LedgerError, ProtocolError) as error:
                raise LedgerError(f"{self._path}: entry {number}: {error.message}") from error
        if last is not None:
            self._require_own(state)
            last.verify(self._key.public)
        self._kept = state
        return state

    def _require_own(self, state: LedgerState) -> None:
        if state.opened is not None and state.opened.key != self._key.public.hex():
            raise LedgerError(
                f"{self._path} is the ledger of another key",
                hint="give the key that it was made with: it lies beside it, unless it was moved",
            )

    def _write(self, state: LedgerState, body: Body) -> None:
        entry = state.next_entry(body, time=max(state.time, int(self._clock())))
        # From here on the state is ahead of the disk: until that is committed, or read again, it is not to be kept.
        kept, self._kept = self._kept, None
        try:
            state.apply(entry)
        except LedgerError:
            self._kept = kept  # an entry that may not come next has changed nothing
            raise
        _insert(self._database, entry, self._key)

    def _salt(self, state: LedgerState) -> str:
        """16 bytes for the next charge that this site alone can compute, hexadecimal."""
        return derive_key(self._key.secret("salts"), state.entries, state.head).hex()[:32]

    def _marks(self, identities: Iterable[bytes]) -> Iterator[bytes]:
        """HMACs of identities, cut to eight bytes, under a secret of this site."""
        secret = self._key.secret("units")
        return (hmac.digest(secret, each, "sha256")[:_MARK_BYTES] for each in identities)

    def _require_registered(self, state: LedgerState, name: str, marks: set[bytes]) -> None:
        """Everybody who is asked about has a budget, and it is this one."""
        rows = self._database.execute("SELECT mark FROM units WHERE data_set = ?", (name,))
        known = {bytes(mark) for (mark,) in rows}
        by_column = name in state.data_sets and state.data_sets[name].unit is not None
        strangers = len(marks - known) if by_column else max(0, len(marks) - len(known))
        if strangers:
            raise LedgerError(
                f'Expected units that were registered as "{name}", found {strangers} more',
                hint="register the data set anew, under the same name: its budget stays what it is",
            )

    def _require_unlinked(self, state: LedgerState, data_set: DataSet) -> None:
        """No unit of a data set may have a budget in two namespaces."""
        found = self._database.execute(
            "SELECT theirs.data_set, COUNT(*) FROM units AS ours JOIN units AS theirs USING (mark) "
            "WHERE ours.data_set = ?1 AND theirs.data_set != ?1 GROUP BY theirs.data_set",
            (data_set.data_set,),
        )
        for other, count in found:
            namespace = state.data_sets[other].namespace
            if namespace != data_set.namespace:
                raise LedgerError(
                    f'Expected units that have no budget yet, found units or rows ({count}) that "{other}" has in '
                    f'"{namespace}" already',
                    hint=f"register it in the namespace {namespace}, so that both share one budget; or, "
                    "if these are different people all the same, say so with --distinct",
                )


def read_ledger(path: Path) -> list[SignedEntry]:
    """All entries of a ledger, as they are; nothing is checked or written, no key is needed.

    Raises:
        UserError: there is none, or it is another kind of file.
        LedgerError: it cannot be read.
    """
    require_ledger(path)
    # Where nothing waits in a log the file alone is the ledger, and can be read where nothing may be written.
    log = path.with_name(path.name + "-wal")
    if not log.exists():
        entries = _all_rows(path, "ro&immutable=1")
        if not log.exists():
            return entries  # else a site has begun to write in the meantime
    return _all_rows(path, "ro")


def _all_rows(path: Path, mode: str) -> list[SignedEntry]:
    with closing(_connect(path, mode)) as database, _explained(path):
        return list(_rows(database, 0))


def _is_opened(state: LedgerState, opening: Namespace) -> bool:
    known = opening.namespace in state.namespaces
    return known and state.namespaces[opening.namespace] == opening.cap


def _rows(database: sqlite3.Connection, start: int) -> Iterator[SignedEntry]:
    found = database.execute(
        "SELECT content, signature FROM entries WHERE sequence >= ? ORDER BY sequence", (start,)
    )
    for content, signature in found:
        if not isinstance(content, bytes) or not isinstance(signature, bytes):
            raise ProtocolError("Expected entries in bytes")
        yield SignedEntry(content=content, signature=signature)


def _insert(database: sqlite3.Connection, entry: Entry, key: SigningKey) -> None:
    signed = SignedEntry.sign(entry, key)
    row = (entry.sequence, signed.content, signed.signature)
    database.execute("INSERT INTO entries VALUES (?, ?, ?)", row)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    with _explained(path):
        return sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=_WAIT_SECONDS,
            check_same_thread=False,
        )  # fmt: skip


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, ProtocolError) as error:  # SQLite quotes a damaged file
        raise LedgerError(f"{path}: the ledger cannot be used: {error}") from error
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")  # errors of the module itself have none
        hint = next((text for start, text in _HINTS.items() if name.startswith(start)), "")
        raise LedgerError(f"{path}: the ledger cannot be used: {error}", hint=hint) from error


def require_ledger(path: Path) -> None:
    """Is it a file that `create_ledger` made, as far as its first bytes say? What is in it is another question.

    Raises:
        UserError: there is none, or it is another kind of file.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such ledger", hint="discreet ledger register makes one"
        )
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header.startswith(b"SQLite format 3\0") or header[68:72] != _APPLICATION.to_bytes(4):
        raise UserError(
            f"{path} is no ledger, or its first bytes were overwritten",
            hint="give the ledger.sqlite that discreet ledger register made, or its directory",
        )


def _require_private(path: Path) -> None:
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(f"{path} can be read by others", hint=f"chmod 600 {path}")
