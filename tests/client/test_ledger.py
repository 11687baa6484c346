"""A site's ledger on the disk: private, append-only, one history whoever writes, and whole after every failure."""

import os
import shutil
import signal
import sqlite3
import stat
import threading
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_processes import approve_rivals, at_once, charge_all, charge_the_same
from ledgers import (
    DATA_SET,
    NAMESPACE,
    approved,
    cap_of,
    chained,
    hash_named,
    key_of,
    ledger_of,
    opening,
)

from audit.verify import verify_export
from client import ledger as module
from client.ledger import KEPT_ANSWERS, Ledger, create_ledger, read_ledger
from privacy.errors import BudgetError, LedgerError, UserError
from study.canonical import canonical_json, parse_canonical
from study.ledger_entries import DataSet, Entry, Namespace
from study.ledger_state import replay
from study.receipts import check_receipts, receipts_of

KEY, STUDY = key_of("site"), hash_named("study")
FUNCTION = "gradient"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "site" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    """A ledger with a budget and a study that may ask a thousand queries."""
    with closing(ledger_of(cap=cap_of(20.0), path=path)) as made:
        made.approve(approved(count=1000, z=40.0))
        yield made


def query(index):
    return hash_named(f"query {index}")


def ask(ledger, *indices, answer=b"answer"):
    for index in indices:
        ledger.charge(STUDY, index, FUNCTION, query(index))
        ledger.store(STUDY, index, answer)


def again(path, key=KEY, **settings_):
    return closing(Ledger(path, key, **({"durable": False} | settings_)))


def contents(path):
    return [each.content for each in read_ledger(path)]


# Made once


def test_a_new_ledger_says_whose_it_is_and_nothing_else(path):
    path.parent.mkdir()
    create_ledger(path, KEY, "mercy", clock=lambda: 1234.5)
    (only,) = read_ledger(path)
    entry = Entry.from_bytes(only.content)
    assert (entry.body.site, entry.body.key, entry.time) == ("mercy", KEY.public.hex(), 1234)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_ledger_is_never_written_over(ledger, path):
    before = path.read_bytes()
    for key in (KEY, key_of("other")):
        with pytest.raises(UserError, match="exists") as error:
            create_ledger(path, key, "site")
        assert "never written over" in error.value.hint
    assert path.read_bytes() == before


def test_what_is_no_ledger_is_named(path, tmp_path):
    with pytest.raises(UserError, match="there is no such ledger") as error:
        Ledger(path, KEY)
    assert "discreet ledger register" in error.value.hint
    with pytest.raises(UserError, match="there is no such ledger"):
        read_ledger(tmp_path)
    for content in (b"", b"hello", b"SQLite format 3\0" + bytes(84), bytes(5000)):
        wrong = tmp_path / "wrong.sqlite"
        wrong.write_bytes(content)
        wrong.chmod(0o600)
        for read in (read_ledger, lambda wrong: Ledger(wrong, KEY)):
            with pytest.raises(LedgerError, match="cannot be used|at least|no entry"):
                replay(read(wrong)) if read is read_ledger else read(wrong)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE entries (sequence INTEGER PRIMARY KEY, content, signature)")
    (tmp_path / "other.sqlite").chmod(0o600)
    with pytest.raises(LedgerError, match="no entry that opens it"):
        Ledger(tmp_path / "other.sqlite", KEY)


# Private and durable


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_every_file_is_its_owners_alone_while_it_is_open_too(path, umask):
    before = os.umask(umask)
    try:
        with closing(ledger_of(path=path)) as ledger:
            ledger.approve(approved())
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


# Charge, store, send


def test_a_query_is_paid_for_once_and_its_answer_kept_byte_for_byte(ledger):
    assert ledger.find(STUDY, 7) is None
    assert ledger.sums_left(STUDY, FUNCTION) == 1000
    ledger.charge(STUDY, 7, FUNCTION, query(7))
    assert (ledger.find(STUDY, 7).status, ledger.stored(STUDY, 7)) == ("pending", None)
    with pytest.raises(LedgerError, match="number 7 again"):
        ledger.charge(STUDY, 7, FUNCTION, query(7))
    ledger.store(STUDY, 7, b"the answer")
    for other in (b"the answer", b"another"):
        with pytest.raises(LedgerError, match="found one that is answered"):
            ledger.store(STUDY, 7, other)
    assert ledger.find(STUDY, 7).status == "answered"
    assert ledger.stored(STUDY, 7) == b"the answer"
    assert ledger.sums_left(STUDY, FUNCTION) == 999


def test_what_was_never_charged_can_be_neither_stored_nor_burnt(ledger, path):
    before = contents(path)
    for settle in (lambda: ledger.store(STUDY, 1, b"x"), lambda: ledger.burn(STUDY, 1)):
        with pytest.raises(LedgerError, match="pending, found none"):
            settle()
    assert contents(path) == before
    assert ledger.stored(STUDY, 1) is None


def test_a_study_or_function_or_data_set_that_nobody_knows_is_refused(ledger):
    for call in (
        lambda: ledger.charge(hash_named("x"), 0, FUNCTION, query(0)), lambda: ledger.find(hash_named("x"), 0),
        lambda: ledger.sums_left(hash_named("x"), FUNCTION), lambda: ledger.close_study(hash_named("x")),
    ):  # fmt: skip
        with pytest.raises(LedgerError, match="a study that was approved"):
            call()
    with pytest.raises(LedgerError, match="a function that the study declares"):
        ledger.charge(STUDY, 0, "moments", query(0))
    with pytest.raises(LedgerError, match='found "nowhere"') as error:
        ledger.data_set("nowhere")
    assert "register" in error.value.hint
    assert ledger.data_set(DATA_SET).namespace == NAMESPACE
    assert not ledger.is_open(hash_named("x"))


def test_only_the_latest_answers_are_kept_and_the_hash_of_every_one(ledger):
    ask(ledger, *range(5), answer=b"bytes")
    kept = [index for index in range(5) if ledger.stored(STUDY, index) is not None]
    assert kept == list(range(5 - KEPT_ANSWERS, 5))
    assert all(ledger.find(STUDY, index).answer for index in range(5))


def test_the_latest_answers_are_those_that_were_stored_last_whatever_their_numbers(ledger):
    ask(ledger, 9, 4, 7, 1)
    assert [index for index in (9, 4, 7, 1) if ledger.stored(STUDY, index)] == [7, 1]


def test_answers_of_one_study_do_not_push_out_anothers(ledger):
    ledger.approve(approved("other", count=1000, z=40.0))
    ask(ledger, 0)
    for index in range(5):
        ledger.charge(hash_named("other"), index, FUNCTION, query(index))
        ledger.store(hash_named("other"), index, b"x")
    assert ledger.stored(STUDY, 0) == b"answer"


def test_a_closed_study_keeps_no_bytes_and_is_never_asked_or_approved_again(ledger, path):
    ask(ledger, 0, 1)
    before = ledger.state.budget(NAMESPACE)
    assert ledger.is_open(STUDY)
    ledger.close_study(STUDY)
    assert not ledger.is_open(STUDY)
    assert [ledger.stored(STUDY, index) for index in (0, 1)] == [None, None]
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT COUNT(*) FROM answers").fetchone() == (0,)
    with pytest.raises(LedgerError, match="closed"):
        ledger.charge(STUDY, 2, FUNCTION, query(2))
    with pytest.raises(LedgerError, match="closed"):
        ledger.approve(approved(count=1000, z=40.0))
    after = ledger.state.budget(NAMESPACE)
    assert after.spent == after.held == before.spent
    assert after.held.renyi < before.held.renyi
    length = len(read_ledger(path))
    ledger.close_study(STUDY)  # nothing to do
    assert len(read_ledger(path)) == length


def test_a_study_with_a_pending_query_is_not_closed(ledger):
    ledger.charge(STUDY, 0, FUNCTION, query(0))
    with pytest.raises(LedgerError, match="no pending query, found number 0"):
        ledger.close_study(STUDY)
    ledger.burn(STUDY, 0)
    ledger.close_study(STUDY)


def test_what_was_pending_is_burnt_at_the_next_start_and_never_answered(ledger):
    ask(ledger, 0)
    ledger.charge(STUDY, 1, FUNCTION, query(1))
    ledger.charge(STUDY, 5, FUNCTION, query(5))
    assert ledger.burn_pending() == 2
    assert ledger.burn_pending() == 0
    assert [ledger.find(STUDY, each).status for each in (0, 1, 5)] == ["answered", "burnt", "burnt"]
    with pytest.raises(LedgerError, match="found one that is burnt"):
        ledger.store(STUDY, 1, b"too late")
    assert ledger.sums_left(STUDY, FUNCTION) == 997


def test_approving_exactly_the_same_again_costs_nothing(ledger, path):
    before, held = contents(path), ledger.state.budget(NAMESPACE).held
    ledger.approve(approved(count=1000, z=40.0))
    assert contents(path) == before
    assert ledger.state.budget(NAMESPACE).held == held
    with pytest.raises(LedgerError, match="approved otherwise"):
        ledger.approve(approved(count=1001, z=40.0))


# Refusals


def test_a_refusal_is_logged_once_for_each_study_and_reason(ledger, path):
    length = len(read_ledger(path))
    for _ in range(3):
        for reason in ("MALFORMED", "TOO_MANY_QUERIES"):
            ledger.refuse(STUDY, reason)
    assert len(read_ledger(path)) == length + 2


def test_a_flood_of_refusals_cannot_fill_the_disk_nor_hide_what_matters(ledger, path):
    length = len(read_ledger(path))
    for number in range(250):
        ledger.refuse(hash_named(f"{number}"), "NOT_APPROVED")
    assert len(read_ledger(path)) == length + 100
    ledger.refuse(STUDY, "OTHER_QUERY_ANSWERED")  # of a study that the site knows: always
    assert len(read_ledger(path)) == length + 101
    with again(path) as other:  # the bound holds after a restart too
        other.refuse(hash_named("one more"), "NOT_APPROVED")
    assert len(read_ledger(path)) == length + 101


# Restarts, clocks, backups


def test_nothing_is_lost_at_a_restart(ledger, path):
    """Flower forgets the epsilon that a run has spent when it is restarted."""
    ask(ledger, *range(20))
    ledger.charge(STUDY, 20, FUNCTION, query(20))
    budget, head = ledger.state.budget(NAMESPACE), ledger.state.head
    assert budget.epsilon_spent > 0
    ledger.close()
    for _ in range(2):
        with again(path) as reopened:
            assert reopened.state.budget(NAMESPACE) == budget
            assert reopened.state.head == head
            assert reopened.sums_left(STUDY, FUNCTION) == 979
            assert reopened.stored(STUDY, 19) == b"answer"
            assert reopened.find(STUDY, 20).status == "pending"


def test_a_budget_is_one_over_restarts(path):
    with closing(ledger_of(cap=cap_of(2.0), path=path)) as ledger:
        ledger.approve(approved("one", count=2))
    with again(path) as ledger, pytest.raises(BudgetError, match="lifetime budget"):
        ledger.approve(approved("two", count=2))


def test_a_clock_that_goes_back_or_stands_still_moves_no_entry(path):
    ticks = iter([5000, 4000, 10, 7000, 7000, 7000, 1])
    path.parent.mkdir()
    create_ledger(path, KEY, "site", clock=lambda: 1000)
    with again(path, clock=lambda: next(ticks)) as ledger:
        ledger.register(
            DataSet(data_set="d", namespace="n", unit=None, mark=STUDY),
            [],
            opening=Namespace(namespace="n", cap=None),
        )
        ledger.approve(approved(data_set="d"))
        ask(ledger, 0)
    times = [Entry.from_bytes(each).time for each in contents(path)]
    assert times == [1000, 5000, 5000, 5000, 7000, 7000]


def test_a_clock_beyond_all_calendars_is_a_failed_write_and_no_more(ledger, path):
    before = contents(path)
    with again(path, clock=lambda: 2.0**60) as other, pytest.raises(LedgerError, match="a time"):
        other.charge(STUDY, 0, FUNCTION, query(0))
    assert contents(path) == before
    ask(ledger, 0)


def test_an_old_copy_put_back_is_found_by_receipts_and_by_nothing_else(ledger, path, tmp_path):
    """The site itself cannot tell: an old copy is a flawless ledger. So a ledger is never restored from a backup."""
    ask(ledger, 0)
    ledger.close()
    shutil.copy(path, tmp_path / "backup")
    with again(path) as continued:
        ask(continued, 1, 2)
        receipts = receipts_of(continued.state, KEY)
        spent = continued.state.budget(NAMESPACE).epsilon_spent
    shutil.copy(tmp_path / "backup", path)
    with again(path) as restored:
        assert restored.state.budget(NAMESPACE).epsilon_spent < spent
        assert restored.sums_left(STUDY, FUNCTION) == 999
        lines = [each.to_line() for each in read_ledger(path)]
        assert verify_export(lines, KEY.public).receipts == 0
        kept = [each.to_line() for each in receipts]
        with pytest.raises(LedgerError, match="query 1 .*rolled back"):
            verify_export(lines, KEY.public, kept)
        ask(restored, 1, 2, answer=b"the same query with other noise")  # it would even answer again
        lines = [each.to_line() for each in read_ledger(path)]
        with pytest.raises(LedgerError, match="forked|the answer that was receipted"):
            verify_export(lines, KEY.public, kept)


# Tampering


def tampered(path, change):
    """Change the rows as whoever may write the file can; the site is not running."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for each in ("no_update", "no_delete"):
            database.execute(f"DROP TRIGGER {each}")
        change(database)


def edited(content):
    """The same entry with another time, in its canonical form."""
    values = parse_canonical(content)
    return canonical_json(values | {"time": values["time"] + 1})


@pytest.fixture
def written(ledger, path):
    """A closed ledger of nine entries."""
    ask(ledger, 0, 1)
    ledger.charge(STUDY, 2, FUNCTION, query(2))
    ledger.close()
    assert len(contents(path)) == 9
    return path


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("how", ["edit", "rubbish", "empty", "text", "nothing"])
def test_an_edited_entry_is_found_at_the_next_opening(written, number, how):
    content = contents(written)[number]
    new = {
        "edit": edited(content), "rubbish": b"\xff\x00", "empty": b"", "text": content.decode(),
        "nothing": content[:-1],
    }[how]  # fmt: skip
    tampered(
        written,
        lambda db: db.execute("UPDATE entries SET content = ? WHERE sequence = ?", (new, number)),
    )
    with pytest.raises(LedgerError, match=r"ledger.sqlite: (entry \d: )?"):
        Ledger(written, KEY)
    with pytest.raises(LedgerError, match="."):
        replay(read_ledger(written))


@pytest.mark.parametrize("number", range(9))
def test_a_removed_entry_is_found_at_the_next_opening_unless_it_was_the_last(written, number):
    tampered(written, lambda db: db.execute("DELETE FROM entries WHERE sequence = ?", (number,)))
    if number == 8:
        with again(written) as ledger:
            assert ledger.find(STUDY, 2) is None
        return
    with pytest.raises(LedgerError, match=rf"entry {number}: Expected the entry that follows"):
        Ledger(written, KEY)


@pytest.mark.parametrize("kept", [0, 1, 5, 7])
def test_a_tail_that_was_cut_off_is_found_by_receipts_alone(written, kept):
    receipts = receipts_of(replay(read_ledger(written)), KEY)
    tampered(written, lambda db: db.execute("DELETE FROM entries WHERE sequence >= ?", (kept,)))
    if kept == 0:
        with pytest.raises(LedgerError, match="no entry that opens it"):
            Ledger(written, KEY)
        return
    with again(written) as ledger:
        assert ledger.state.entries == kept
    entries = read_ledger(written)
    with pytest.raises(
        LedgerError, match="rolled back|the answer that was receipted, found .* none"
    ):
        check_receipts(entries, replay(entries), receipts, KEY.public)


def test_swapped_and_doubled_entries_are_found_at_the_next_opening(written):
    first, second = contents(written)[5:7]

    def swap(db):
        db.execute("UPDATE entries SET content = ? WHERE sequence = 5", (second,))
        db.execute("UPDATE entries SET content = ? WHERE sequence = 6", (first,))

    tampered(written, swap)
    with pytest.raises(LedgerError, match="entry 5: Expected the entry that follows"):
        Ledger(written, KEY)


def test_an_appended_entry_that_the_site_did_not_sign_is_found_at_the_next_opening(written):
    state = replay(read_ledger(written))
    entry = state.next_entry(approved("more", count=1, z=40.0), time=10**9)
    for signature in (bytes(64), key_of("other").sign("ledger", bytes.fromhex(entry.hash)), b""):
        row = (entry.sequence, entry.to_bytes(), signature)
        with closing(sqlite3.connect(written, isolation_level=None)) as database:
            database.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", row)
        with pytest.raises(LedgerError, match="signature"):
            Ledger(written, KEY)


@pytest.mark.parametrize("number", [0, 4, 8])
def test_a_changed_signature_is_found_of_the_last_entry_at_opening_of_any_by_replaying(
    written, number
):
    """The last signature covers all entries before it, so that the others need no check to be believed."""
    tampered(
        written,
        lambda db: db.execute("UPDATE entries SET signature = x'00' WHERE sequence = ?", (number,)),
    )
    if number == 8:
        with pytest.raises(LedgerError, match="signature"):
            Ledger(written, KEY)
    else:
        with again(written):
            pass
    with pytest.raises(LedgerError, match=f"Entry {number}: .*signature"):
        replay(read_ledger(written))


def test_a_tampered_answer_is_never_sent(ledger, path):
    ask(ledger, 0, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE answers SET content = ? WHERE number = 0", (b"other bytes",))
        other.execute("UPDATE answers SET number = 7 WHERE number = 1")
    for number in (0, 7):
        with pytest.raises(LedgerError, match="the bytes that were answered, found others"):
            ledger.stored(STUDY, number)
    assert ledger.stored(STUDY, 1) is None


def test_another_keys_ledger_is_refused_and_so_is_one_of_which_the_first_entry_was_replaced(
    written, path
):
    with pytest.raises(LedgerError, match="another site's"):
        Ledger(path, key_of("other"))
    foreign = chained(opening("site", key=key_of("other")), key=key_of("other"))

    def replace_all(db):
        db.execute("DELETE FROM entries")
        for number, each in enumerate(foreign):
            db.execute(
                "INSERT INTO entries VALUES (?, ?, ?)", (number, each.content, each.signature)
            )

    tampered(path, replace_all)
    with pytest.raises(LedgerError, match="another site's"):
        Ledger(path, KEY)
    with again(path, key_of("other")):
        pass


def test_a_ledger_that_cannot_be_used_lets_go_of_the_file(written):
    """Else the next one to try would wait for a connection that nobody can close."""
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0  # noqa: PTH110, PTH208
    for _ in range(20):
        with pytest.raises(LedgerError, match="another site's"):
            Ledger(written, key_of("other"))
    after = len(os.listdir("/proc/self/fd")) if before else 0  # noqa: PTH208
    assert after <= before + 1


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
            lambda: ledger.burn(STUDY, 1), lambda: ledger.approve(approved("other", count=1)),
            lambda: ledger.refuse(STUDY, "MALFORMED"), ledger.burn_pending,
        ):  # fmt: skip
            expected = LedgerError if isinstance(error, sqlite3.Error) else type(error)
            with pytest.raises(expected, match="disk I/O error|^$"):
                write()
            assert (contents(path), ledger.state.head) == (before, state)
    assert ledger.find(STUDY, 2) is None
    ledger.store(STUDY, 1, b"the answer after all")
    ask(ledger, 2)
    ledger.approve(approved("other", count=1, z=40.0))
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

    body = DataSet(data_set="more", namespace="new", unit=None, mark=STUDY)
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
    body = DataSet(data_set=DATA_SET, namespace="new", unit=None, mark=STUDY)
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
            lambda: ledger.burn(STUDY, 50), lambda: ledger.approve(approved(count=1)),
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
        ledger.approve(approved())
        ask(ledger, 0)
    assert len(read_ledger(path)) == 6


# Whatever is done to it


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["charge", "store", "burn", "restart", "approve", "close", "refuse", "stored"]),
        st.sampled_from(["a", "b", "c"]), st.integers(0, 3),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_no_sequence_of_calls_answers_twice_or_spends_more_than_the_budget(steps):
    """And what the file says is what the object says, at every step."""
    ledger = ledger_of(cap=cap_of(2.0))
    answers = {}
    for step, name, index in steps:
        study = hash_named(name)
        try:
            if step == "charge":
                ledger.charge(study, index, FUNCTION, query(index))
                assert (study, index) not in answers
                answers[study, index] = None
            elif step == "store":
                ledger.store(study, index, name.encode())
                assert answers[study, index] is None
                answers[study, index] = name.encode()
            elif step == "burn":
                ledger.burn(study, index)
                answers[study, index] = b"burnt"
            elif step == "restart":
                ledger.close()
                ledger = Ledger(ledger._path, KEY, durable=False)
            elif step == "approve":
                ledger.approve(approved(name, count=2, z=6.0))
            elif step == "close":
                ledger.close_study(study)
            elif step == "refuse":
                ledger.refuse(study, "MALFORMED")
            else:
                found = ledger.stored(study, index)
                assert found in (None, answers.get((study, index)))
        except LedgerError:
            pass
        budget = ledger.state.budget(NAMESPACE)
        assert budget.cap.holds(budget.held)
        assert budget.epsilon_spent <= budget.epsilon_held <= 2.0
    assert vars(replay(read_ledger(ledger._path))) == vars(ledger.state)
    ledger.close()
