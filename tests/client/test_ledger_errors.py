"""What keeps a ledger from being read or written is said in one sentence, with what to do; nothing changes by it."""

import sqlite3
from contextlib import closing

import pytest
from ledgers import cap_of, key_of, ledger_of

from client.ledger import Ledger, read_ledger, require_ledger
from privacy.errors import LedgerError, UserError
from study.ledger_entries import DataSet, Namespace


@pytest.fixture
def ledger(tmp_path):
    with closing(ledger_of(path=tmp_path / "ledger.sqlite", identities=[])) as made:
        yield made


def register(ledger, identities=()):
    body = DataSet(data_set="more", namespace="people", unit=None)
    ledger.register(body, identities)


def test_a_full_disk_asks_for_room_and_changes_nothing(ledger):
    database = ledger._database
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match="full") as error:
        register(ledger, [b"%d" % each for each in range(5000)])
    assert error.value.hint.startswith("make room on its disk")
    database.execute("PRAGMA max_page_count = 100000")
    assert list(ledger.state.data_sets) == ["records"]
    register(ledger)
    assert list(ledger.state.data_sets) == ["records", "more"]


def test_a_ledger_that_cannot_be_written_says_who_must_be_able_to(ledger):
    ledger._database.execute("PRAGMA query_only = ON")
    with pytest.raises(LedgerError, match="readonly") as error:
        register(ledger)
    assert "must be able to write the ledger and its directory" in error.value.hint


def test_one_that_another_process_holds_says_to_wait(ledger, tmp_path):
    ledger._database.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked") as error:
            register(ledger)
    assert "wait until it is done" in error.value.hint


def test_a_damaged_one_is_not_to_be_replaced_by_an_old_copy(ledger, tmp_path):
    ledger.close()
    content = bytearray((tmp_path / "ledger.sqlite").read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    (tmp_path / "ledger.sqlite").write_bytes(content)
    with pytest.raises(LedgerError, match="cannot be used") as error:
        read_ledger(tmp_path / "ledger.sqlite")
    assert "never go on from an old copy" in error.value.hint


@pytest.mark.parametrize("content", [b"", b"text", b"SQLite format 3\0" + bytes(200)])
def test_another_kind_of_file_is_said_to_be_none_before_its_mode_is(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    path.chmod(0o644)
    for use in (require_ledger, read_ledger, lambda path: Ledger(path, key_of("site"))):
        with pytest.raises(UserError, match="is no ledger"):
            use(path)


def test_one_of_another_key_is_said_to_be_that(ledger, tmp_path):
    with pytest.raises(LedgerError, match="is the ledger of another key"):
        Ledger(tmp_path / "ledger.sqlite", key_of("another"))
    assert ledger.state.opened.site == "site"


def test_a_namespace_that_another_process_opened_meanwhile_is_gone_on_with(ledger):
    """At the budget that was asked for; at another one it is refused, and nothing is registered."""
    for name in ("one", "two"):
        ledger.register(
            DataSet(data_set=name, namespace="new", unit=None), [],
            opening=Namespace(namespace="new", cap=cap_of(epsilon=8.0)),
        )  # fmt: skip
    with pytest.raises(LedgerError, match="Expected a new namespace"):
        ledger.register(
            DataSet(data_set="three", namespace="new", unit=None), [],
            opening=Namespace(namespace="new", cap=cap_of(epsilon=9.0)),
        )  # fmt: skip
    assert list(ledger.state.data_sets) == ["records", "one", "two"]
    assert ledger.state.namespaces["new"].epsilon == 8.0
