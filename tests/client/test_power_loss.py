"""What a power failure takes: nothing that the ledger has said is on the disk.

Shown: whatever a failure leaves of the files, at every write, sync, making and removing on the way of some queries
(`power_cuts.py`), is a ledger that verifies, is the beginning of the true history, and holds every charge and every
answer that had returned. Without a sync at every commit the same test fails.

Not shown: that the disk does what it says. Where it does not, a log that has lost its end is still a ledger, a shorter
one, and receipts tell (`TestTornLogs`).
"""

import os
import random
from contextlib import closing

import pytest
import site_worker
from disk import can_listen, listening
from ledgers import DATA_SET
from power_cuts import DECLARATION, KEY, Recorded, begin, lay, life, query, survive
from site_worker import LEDGER, SITE

from audit.verify import verify_export
from client.answers import RefusedError, Site
from client.ledger import Ledger, create_ledger, read_ledger
from privacy.errors import LedgerError
from study.files import sync_directory
from study.receipts import receipts_of

LOG = LEDGER + "-wal"
ROLLED_BACK, FORKED = "it was rolled back", "the ledger was forked"
ANSWER_LOST = "expected the answer that was receipted"

needs_listening = pytest.mark.skipif(not can_listen(), reason="sqlite3 is linked statically")


@needs_listening
class TestPowerCuts:
    def test_nothing_that_has_returned_is_lost(self, tmp_path):
        files, events, truth = life(tmp_path / "site")
        kinds = [what for what, *_ in events]
        assert {"write", "truncate", "delete", "create log", "promised"} <= set(kinds)
        assert kinds.count("sync") > 20
        counts = survive(tmp_path / "left", (files, events, truth))
        assert len(counts) > 100
        # Every length but two: a namespace and its first data set are one commit.
        assert set(counts) == {*range(1, len(truth) + 1)} - {2}

    @pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
    def test_without_a_sync_at_every_commit_something_would_be(self, tmp_path, synchronous):
        lived = life(tmp_path / "site", synchronous=synchronous)
        with pytest.raises(AssertionError, match="is lost|another history"):
            survive(tmp_path / "left", lived)


@needs_listening
def test_a_ledger_that_has_been_made_is_on_the_disk(tmp_path, monkeypatch):
    """Its bytes before it has its name, and its name before anybody is told."""
    events = []

    def heard(what, function):
        return lambda *arguments: (events.append(what), function(*arguments))[1]

    def hear(when, what, name, *_details):
        if when == "after" and name.endswith(".new"):
            events.append(what)

    monkeypatch.setattr(os, "link", heard("link", os.link))
    monkeypatch.setattr("client.ledger.sync_directory", heard("directory", sync_directory))
    with listening(hear):
        create_ledger(tmp_path / LEDGER, KEY, SITE)
    assert "write" in events
    assert events[-3:] == ["sync", "link", "directory"]


@pytest.mark.parametrize(("settings", "synchronous"), [({}, 2), ({"durable": False}, 0)])
def test_a_ledger_syncs_at_every_commit_unless_it_is_a_simulations(tmp_path, settings, synchronous):
    create_ledger(tmp_path / LEDGER, KEY, SITE)
    with closing(Ledger(tmp_path / LEDGER, KEY, **settings)) as ledger:
        for name, value in (("journal_mode", "wal"), ("synchronous", synchronous)):
            assert ledger._database.execute(f"PRAGMA {name}").fetchone() == (value,)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """(files, entries, receipts, commits) of a ledger whose entries but the first wait in its log: four queries.

    A commit is (where it ends in the log, how many entries there are then): the first registers, with two entries.
    """
    directory = tmp_path_factory.mktemp("logged")
    create_ledger(directory / LEDGER, KEY, SITE)
    with closing(Recorded(directory / LEDGER, KEY)) as ledger:
        ledger.events = []
        site = begin(ledger)
        for index in range(4):
            site.answer(query(index))
        files = {name: (directory / name).read_bytes() for name in (LEDGER, LOG)}
        lines = lines_of(directory / LEDGER)
        receipts = [each.to_line() for each in receipts_of(ledger.state, KEY)]
    commits = [(end, 3 + number) for number, end in enumerate(ends_of_commits(files[LOG]))]
    assert commits[-1] == (len(files[LOG]), len(lines))
    return files, lines, receipts, commits


def frames_of(log):
    """(start, end, is it the last of a commit?) of every frame (SQLite's documentation, "WAL-mode File Format")."""
    page = int.from_bytes(log[8:12], "big")
    size = 24 + page
    for start in range(32, len(log), size):
        yield start, start + size, log[start + 4 : start + 8] != bytes(4)


def ends_of_commits(log):
    return [end for _, end, commits in frames_of(log) if commits]


def lines_of(path):
    return [each.to_line() for each in read_ledger(path)]


class TestTornLogs:
    """A disk that has promised a sync and lost it: the log ends where it should not, or has another byte."""

    def places(self, log):
        """Every edge of a frame and the bytes beside it, the header's bytes, and fifty others."""
        edges = {end + more for _, end, _ in frames_of(log) for more in (-1, 0, 1)}
        others = set(random.Random(1).sample(range(len(log)), 50))
        return sorted(each for each in edges | others | set(range(34)) if each < len(log))

    def test_a_log_cut_off_anywhere_is_the_ledger_of_its_last_whole_commit(self, logged, tmp_path):
        files, lines, _, commits = logged
        for place in self.places(files[LOG]):
            found = lines_of(lay(tmp_path / "torn", files | {LOG: files[LOG][:place]}))
            whole = max([count for end, count in commits if end <= place], default=1)
            assert found == lines[:whole], place
            verify_export(found, KEY.public)

    def test_a_log_with_another_byte_is_the_ledger_before_that_commit(self, logged, tmp_path):
        files, lines, _, commits = logged
        for place in self.places(files[LOG]):
            log = bytearray(files[LOG])
            log[place] ^= 0x55
            found = lines_of(lay(tmp_path / "torn", files | {LOG: bytes(log)}))
            whole = max([count for end, count in commits if end <= place], default=1)
            assert found == lines[:whole], place

    def test_a_site_goes_on_from_a_torn_log_and_receipts_tell(self, logged, tmp_path):
        """It burns what is pending and answers the rest; whoever holds a receipt of what is lost can prove that it is."""
        files, _, receipts, commits = logged
        for end, count in commits[2:]:  # those of charges and answers
            path = lay(tmp_path / "torn", files | {LOG: files[LOG][: end - 1]})
            lost = ROLLED_BACK if count % 2 else ANSWER_LOST
            with pytest.raises(LedgerError, match=lost):
                verify_export(lines_of(path), KEY.public, receipts)
            with closing(Ledger(path, KEY)) as ledger:
                site = Site(ledger)
                site.approve(DECLARATION, site_worker.records(), data_set=DATA_SET)
                assert [answered(site, index) for index in range(5)][-1]  # it is a new one
            state = verify_export(lines_of(path), KEY.public).state
            statuses = {each.status for each in state.account(DECLARATION.hash).asked.values()}
            assert statuses <= {"answered", "burnt"}
            with pytest.raises(LedgerError, match=f"{FORKED}|{ANSWER_LOST}"):
                verify_export(lines_of(path), KEY.public, receipts)


def answered(site, index):
    try:
        site.answer(query(index))
    except RefusedError:
        return False
    return True
