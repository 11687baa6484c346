"""What is done to a ledger's file is found: at the next opening, by replaying it, or else by receipts."""

import os
import shutil
import sqlite3
from contextlib import closing

import pytest
from ledgers import (
    FUNCTION,
    KEY,
    NAMESPACE,
    STUDY,
    again,
    approved,
    ask,
    chained,
    contents,
    key_of,
    opening,
    query,
)

from audit.verify import verify_export
from client.ledger import Ledger, read_ledger
from privacy.errors import LedgerError
from study.canonical import canonical_json, parse_canonical
from study.ledger_state import replay
from study.receipts import check_receipts, receipts_of

# Edits


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
        with pytest.raises(LedgerError, match="a ledger with an entry, found none"):
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
    with pytest.raises(LedgerError, match="another key|signature"):
        Ledger(path, key_of("other"))
    foreign = chained(opening("site", key=key_of("other")), key=key_of("other"))

    def replace_all(db):
        db.execute("DELETE FROM entries")
        for number, each in enumerate(foreign):
            db.execute(
                "INSERT INTO entries VALUES (?, ?, ?)", (number, each.content, each.signature)
            )

    tampered(path, replace_all)
    with pytest.raises(LedgerError, match="another key|signature"):
        Ledger(path, KEY)
    with again(path, key_of("other")):
        pass


def test_a_ledger_that_cannot_be_used_lets_go_of_the_file(written):
    """Else the next one to try would wait for a connection that nobody can close."""
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0  # noqa: PTH110, PTH208
    for _ in range(20):
        with pytest.raises(LedgerError, match="another key|signature"):
            Ledger(written, key_of("other"))
    after = len(os.listdir("/proc/self/fd")) if before else 0  # noqa: PTH208
    assert after <= before + 1


# An old copy


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
