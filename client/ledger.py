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
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from privacy.errors import LedgerError, ProtocolError, UserError
from study.keyfiles import sync_directory
from study.ledger_entries import (
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
)
from study.ledger_state import Asked, LedgerState
from study.signing import SigningKey

__all__ = ["KEPT_ANSWERS", "Ledger", "create_ledger", "read_ledger"]

KEPT_ANSWERS = 2
"""Answers of a study whose bytes are kept, the latest ones: a coordinator asks again only for the trip that is open."""

_MOST_UNKNOWN_REFUSALS = 100
_APPLICATION = 0x44534C47  # "DSLG", in the file's header
_WAIT_SECONDS = 30.0
_SCHEMA = f"""
    PRAGMA application_id = {_APPLICATION};
    CREATE TABLE entries (sequence INTEGER PRIMARY KEY, content BLOB NOT NULL, signature BLOB NOT NULL);
    CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries stay as they are'); END;
    CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries stay as they are'); END;
    CREATE TABLE answers (
        place INTEGER PRIMARY KEY, study TEXT NOT NULL, number INTEGER NOT NULL, content BLOB NOT NULL
    );
    CREATE TABLE units (mark BLOB NOT NULL, data_set TEXT NOT NULL, PRIMARY KEY (mark, data_set)) WITHOUT ROWID;
"""

Clock = Callable[[], float]


def create_ledger(path: Path, key: SigningKey, site: str, *, clock: Clock = time.time) -> None:
    """Make a new ledger, whole or not at all; mode 0600. Raises UserError if there is one already."""
    path = path.resolve()
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    first = LedgerState().next_entry(Opened(site=site, key=key.public.hex()), time=int(clock()))
    with closing(sqlite3.connect(new, isolation_level=None)) as database:
        database.executescript(_SCHEMA)
        _insert(database, first, key)
    try:
        os.link(new, path)
    except FileExistsError:
        raise UserError(f"{path} exists", hint="a ledger is never written over") from None
    finally:
        new.unlink()
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
        UserError: there is none, or others can read it.
    """

    def __init__(
        self, path: Path, key: SigningKey, *, clock: Clock = time.time, durable: bool = True
    ) -> None:
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
                raise LedgerError(f"{path}: expected a ledger, found no entry that opens it")
        except BaseException:
            self.close()
            raise

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
        """A data set, and its units' marks, 8 bytes each; marks that it had before stay.

        Arguments:
            opening: of its namespace, with the lifetime budget, if it is not there yet. Without a cap nothing is
                protected: only simulations may do that.
            distinct: these are other units than those of other namespaces, although some marks are the same.
        Raises:
            LedgerError: some of its units belong to another namespace already; nothing was opened or registered.
        """
        with self._transaction() as state:
            if opening is not None:
                self._write(state, opening)
            self._write(state, data_set)
            self._database.executemany(
                "INSERT OR IGNORE INTO units VALUES (?, ?)", ((each, data_set.data_set) for each in units)
            )  # fmt: skip
            if not distinct:
                self._require_unlinked(state, data_set)

    def approve(self, approval: Approved) -> None:
        """Take part in a study and reserve its whole cost. Nothing to do if exactly this is approved already.

        Raises:
            BudgetError: it does not fit; the message says what remains.
            LedgerError: the study was approved otherwise, or is closed.
        """
        with self._transaction() as state:
            account = state.studies.get(approval.study)
            if account is None or account.closed or account.approval != approval:
                self._write(state, approval)

    def is_open(self, study: str) -> bool:
        """Was the study approved, and not closed since, by whichever process?"""
        account = self.state.studies.get(study)
        return account is not None and not account.closed

    def find(self, study: str, index: int) -> Asked | None:
        """What became of a query of an approved study; None if it was never charged."""
        return self.state.account(study).asked.get(index)

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

    def charge(self, study: str, index: int, function: str, query: str) -> None:
        """Pay for a query. When this returns the charge is on the disk, and the answer may be computed.

        Raises:
            LedgerError: the number was charged before, or no sums of the function are left.
        """
        with self._transaction() as state:
            terms = state.account(study).declared(function).terms
            self._write(
                state,
                Charged(study=study, index=index, function=function, query=query, terms=terms),
            )

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
            if state.opened is None or state.opened.key != self._key.public.hex():
                raise LedgerError(
                    f"{self._path}: expected the ledger of this key, found another site's"
                )
            last.verify(self._key.public)
        self._kept = state
        return state

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
                    f'Expected units that have no budget yet, found {count} that "{other}" has in "{namespace}"',
                    hint=f"register it in the namespace {namespace}, so that both share one budget; or, "
                    "if these are different people all the same, say so with --distinct",
                )


def read_ledger(path: Path) -> list[SignedEntry]:
    """All entries of a ledger, as they are; nothing is checked or written, no key is needed.

    Raises:
        UserError: there is none.
        LedgerError: it cannot be read.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such ledger", hint="discreet ledger register makes one"
        )
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
    except (sqlite3.Error, ProtocolError) as error:
        raise LedgerError(f"{path}: the ledger cannot be used: {error}") from error


def _require_private(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such ledger", hint="discreet ledger register makes one"
        )
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(f"{path} can be read by others", hint=f"chmod 600 {path}")
