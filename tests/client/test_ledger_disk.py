"""A ledger on the disk: private, durable, whole after every failed write, and one history whoever writes at once."""

import os
import signal
import sqlite3
import stat
import threading
from contextlib import closing

import pytest
from ledger_processes import approve_rivals, at_once, charge_all, charge_the_same
from ledgers import (
    DATA_SET,
    FUNCTION,
    KEY,
    NAMESPACE,
    STUDY,
    again,
    approved,
    ask,
    cap_of,
    contents,
    hash_named,
    ledger_of,
    query,
)

from audit.verify import verify_export
from client import ledger as module
from client.ledger import Ledger, read_ledger
from privacy.errors import LedgerError, UserError
from study.ledger_entries import DataSet, Entry, Namespace
from study.ledger_state import replay

# Private and durable


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_every_file_is_its_owners_alone_while_it_is_open_too(path, umask):
    before = os.umask(umask)
    try:
        with closing(ledger_of(path=path)) as ledger:
            ledger.approve(approved(), [])
            ask(ledger, 0)
            found = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    names = {path.name, f"{path.name}-wal", f"{path.name}-shm"}
    assert found == dict.fromkeys(names, 0o600)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666])
def test_a_ledger_that_others_can_read_is_not_opened(ledger, path, mode):
    path.chmod(mode)
    with pytest.raises(UserError, match="can be read by others") as error:
        Ledger(path, KEY)
    assert error.value.hint == f"chmod 600 {path}"


def test_every_entry_waits_for_the_disk_but_in_simulations(path):
    with closing(ledger_of(path=path)):
        pass
    for durable, level in ((True, 2), (False, 0)):  # 2: FULL
        with again(path, durable=durable) as ledger:
            assert ledger._database.execute("PRAGMA synchronous").fetchone() == (level,)
            assert ledger._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with closing(Ledger(path, KEY)) as ledger:  # what a site gets if nobody says anything
        assert ledger._database.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET signature = x'00'", "UPDATE entries SET sequence = sequence + 100 WHERE sequence > 2",
        "DELETE FROM entries WHERE sequence = 3", "DELETE FROM entries", "REPLACE INTO entries VALUES (2, x'00', x'00')",
        "INSERT INTO entries VALUES (2, x'00', x'00')", "INSERT INTO entries VALUES (NULL, NULL, x'00')",
    ],
)  # fmt: skip
def test_the_file_itself_refuses_changes_to_what_was_written(ledger, path, statement):
    """No protection from whoever can write the file, who may drop the triggers first: from mistakes."""
    before = contents(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA recursive_triggers = ON")  # else REPLACE deletes without asking them
        with pytest.raises(sqlite3.IntegrityError, match="."):
            other.execute(statement)
    assert contents(path) == before


# Failed writes


def broken_insert(monkeypatch, error):
    def failing(*_arguments):
        raise error

    monkeypatch.setattr(module, "_insert", failing)


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("disk I/O error"), KeyboardInterrupt(), MemoryError()]
)
def test_a_write_that_fails_changes_nothing_and_the_ledger_goes_on(
    ledger, path, monkeypatch, error
):
    ask(ledger, 0)
    ledger.charge(STUDY, 1, FUNCTION, query(1))
    before, state = contents(path), ledger.state.head
    with monkeypatch.context() as patch:
        broken_insert(patch, error)
        for write in (
            lambda: ledger.charge(STUDY, 2, FUNCTION, query(2)), lambda: ledger.store(STUDY, 1, b"x"),
            lambda: ledger.burn(STUDY, 1), lambda: ledger.approve(approved("other", count=1), []),
            lambda: ledger.refuse(STUDY, "MALFORMED"), ledger.burn_pending,
        ):  # fmt: skip
            expected = LedgerError if isinstance(error, sqlite3.Error) else type(error)
            with pytest.raises(expected, match="disk I/O error|^$"):
                write()
            assert (contents(path), ledger.state.head) == (before, state)
    assert ledger.find(STUDY, 2) is None
    ledger.store(STUDY, 1, b"the answer after all")
    ask(ledger, 2)
    ledger.approve(approved("other", count=1, z=40.0), [])
    assert len(contents(path)) == len(before) + 4
    replay(read_ledger(path))


def test_a_full_disk_refuses_an_answer_and_takes_it_when_there_is_room(ledger, path):
    large = bytes(200_000)
    ledger.charge(STUDY, 0, FUNCTION, query(0))
    pages = ledger._database.execute("PRAGMA page_count").fetchone()[0]
    ledger._database.execute(f"PRAGMA max_page_count = {pages + 2}")
    before = contents(path)
    for _ in range(3):
        with pytest.raises(
            LedgerError, match="the ledger cannot be used: database or disk is full"
        ):
            ledger.store(STUDY, 0, large)
        assert contents(path) == before
        assert (ledger.find(STUDY, 0).status, ledger.stored(STUDY, 0)) == ("pending", None)
    ledger._database.execute("PRAGMA max_page_count = 1000000")
    ledger.store(STUDY, 0, large)
    assert ledger.stored(STUDY, 0) == large


def test_a_file_that_may_not_be_written_is_still_read(ledger, path):
    ask(ledger, 0)
    ledger._database.execute("PRAGMA query_only = ON")
    with pytest.raises(LedgerError, match="readonly"):
        ledger.charge(STUDY, 1, FUNCTION, query(1))
    assert ledger.stored(STUDY, 0) == b"answer"
    assert ledger.find(STUDY, 1) is None
    ledger._database.execute("PRAGMA query_only = OFF")
    ask(ledger, 1)


def test_a_transaction_of_several_entries_is_written_whole_or_not_at_all(ledger, path, monkeypatch):
    before, written = contents(path), []
    original = module._insert

    def second_fails(*arguments):
        written.append(1)
        if len(written) == 2:
            raise sqlite3.OperationalError("disk I/O error")
        original(*arguments)

    body = DataSet(data_set="more", namespace="new", unit=None)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_insert", second_fails)
        with pytest.raises(LedgerError, match="disk I/O error"):
            ledger.register(body, [b"12345678"], opening=Namespace(namespace="new", cap=cap_of()))
    assert contents(path) == before
    assert "new" not in ledger.state.namespaces
    ledger.register(body, [b"12345678"], opening=Namespace(namespace="new", cap=cap_of()))
    assert len(contents(path)) == len(before) + 2


def test_an_illegal_entry_after_a_legal_one_takes_both_back(ledger, path):
    before = contents(path)
    body = DataSet(data_set=DATA_SET, namespace="new", unit=None)
    with pytest.raises(LedgerError, match="keep its namespace"):
        ledger.register(body, [], opening=Namespace(namespace="new", cap=cap_of()))
    assert contents(path) == before
    assert "new" not in ledger.state.namespaces
    ask(ledger, 0)


def test_a_refused_entry_does_not_make_the_site_read_its_whole_ledger_again(ledger, monkeypatch):
    """A server could provoke that with every query."""
    ask(ledger, *range(10))
    read = []
    original = Entry.from_bytes

    def counted(content):
        read.append(1)
        return original(content)

    monkeypatch.setattr(module.Entry, "from_bytes", staticmethod(counted))
    for _ in range(5):
        for illegal in (
            lambda: ledger.charge(STUDY, 3, FUNCTION, query(3)), lambda: ledger.store(STUDY, 3, b"x"),
            lambda: ledger.burn(STUDY, 50), lambda: ledger.approve(approved(count=1), []),
        ):  # fmt: skip
            with pytest.raises(LedgerError, match="."):
                illegal()
        ledger.refuse(STUDY, "MALFORMED")
    assert read == []


# Several at once


def test_what_another_process_has_written_is_read_before_anything_is_decided(ledger, path):
    with again(path) as other:
        ask(other, 0)
        assert ledger.find(STUDY, 0).status == "answered"
        assert ledger.stored(STUDY, 0) == b"answer"
        ledger.charge(STUDY, 1, FUNCTION, query(1))
        for both in (ledger, other):
            with pytest.raises(LedgerError, match="number 1 again"):
                both.charge(STUDY, 1, FUNCTION, query(1))
        assert other.burn_pending() == 1  # it has started, and takes the other for dead
        with pytest.raises(LedgerError, match="found one that is burnt"):
            ledger.store(STUDY, 1, b"computed in the meantime")
        assert ledger.stored(STUDY, 1) is None
        other.close_study(STUDY)
        assert not ledger.is_open(STUDY)
        with pytest.raises(LedgerError, match="closed"):
            ledger.charge(STUDY, 2, FUNCTION, query(2))


def test_of_two_processes_that_charge_the_same_query_exactly_one_wins(ledger, path):
    won = at_once(charge_the_same, path, 60)
    assert sorted(won[0] + won[1]) == list(range(60))
    assert ledger.sums_left(STUDY, FUNCTION) == 940
    replay(read_ledger(path))


def test_two_processes_that_work_through_a_study_leave_one_intact_chain(ledger, path):
    won = at_once(charge_all, path, 150)
    assert sorted(won[0] + won[1]) == list(range(150))
    assert min(map(len, won)) > 0
    state = verify_export([each.to_line() for each in read_ledger(path)], KEY.public).state
    assert state.entries == 4 + 2 * 150
    assert {each.status for each in state.account(STUDY).asked.values()} == {"answered"}
    assert [len(state.account(STUDY).asked), ledger.sums_left(STUDY, FUNCTION)] == [150, 850]


def test_of_two_studies_that_fit_alone_but_not_together_two_processes_approve_exactly_one(tmp_path):
    paths = [tmp_path / f"{number}" / "ledger.sqlite" for number in range(12)]
    for path in paths:
        ledger_of(cap=cap_of(2.0), path=path).close()
    refused = at_once(approve_rivals, paths)
    assert sorted(refused[0] + refused[1]) == sorted(paths)
    for path in paths:
        state = replay(read_ledger(path))
        assert len(state.studies) == 1
        assert state.budget(NAMESPACE).cap.holds(state.budget(NAMESPACE).held)


def test_threads_share_one_ledger(ledger, path):
    """Each query once, every refusal once, whatever the order; nothing but LedgerError ever comes of it."""
    won, problems, start = [], [], threading.Barrier(8)

    def work(number):
        start.wait()
        for index in range(40):
            try:
                ledger.charge(STUDY, index, FUNCTION, query(index))
                won.append(index)
                ledger.store(STUDY, index, b"%d" % number)
                ledger.find(STUDY, index)
                ledger.refuse(hash_named(f"{index % 7}"), "NOT_APPROVED")
            except LedgerError:
                continue
            except BaseException as error:  # noqa: BLE001
                problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert problems == []
    assert sorted(won) == list(range(40))
    state = replay(read_ledger(path))
    assert state.entries == 4 + 2 * 40 + 7
    assert len(state.refusals) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_is_refused_and_does_no_harm_when_it_ends(ledger, path):
    """It holds the same connection: SQLite would let both write into each other's transactions."""
    ask(ledger, 0)
    child = os.fork()
    if not child:
        code = 1
        try:
            for call in (
                lambda: ledger.charge(STUDY, 1, FUNCTION, query(1)), lambda: ledger.state,
                lambda: ledger.stored(STUDY, 0), ledger.burn_pending, lambda: ledger.refuse(STUDY, "x"),
            ):  # fmt: skip
                try:
                    call()
                except LedgerError as error:
                    assert "found a fork of it" in error.message  # noqa: PT017
                else:
                    os._exit(2)
            ledger.close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    ask(ledger, 1, 2)
    with again(path) as other:
        assert other.sums_left(STUDY, FUNCTION) == 997
    assert signal.getsignal(signal.SIGINT) is not None
    replay(read_ledger(path))


# Reading without a key


def test_a_ledger_is_read_while_a_site_writes_it_and_where_nothing_may_be_written(ledger, path):
    ask(ledger, 0)
    while_open = contents(path)
    ledger.close()
    assert contents(path) == while_open
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        assert contents(path) == while_open
        assert [each.name for each in path.parent.iterdir()] == [path.name]
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize("name", ["a b", "50%", "what?", "a#b", "ümlaut", "'quote'", "mode=memory"])
def test_a_path_is_a_path_whatever_is_in_it(tmp_path, name):
    path = tmp_path / name / f"{name}.sqlite"
    with closing(ledger_of(path=path)) as ledger:
        ledger.approve(approved(), [])
        ask(ledger, 0)
    assert len(read_ledger(path)) == 6
