"""What a power failure takes: nothing that the ledger has said is on the disk.

Shown: for everything that SQLite writes, syncs, makes and removes on the way of some queries, whatever the failure leaves
(`platter.py`) is a ledger that verifies, is the beginning of the true history, and holds every charge and every answer
that had returned. Without a sync at every commit the same tests fail.

Not shown: that the disk does what it says. Where it does not, a log that has lost its end is still a ledger, a shorter
one, and receipts tell (`TestTornLogs`).
"""

import random
import shutil

import pytest
import site_worker
from disk import can_listen, listening
from ledgers import DATA_SET, NAMESPACE, cap_of, key_of
from platter import Platter
from site_worker import LEDGER, SITE

from audit.verify import verify_export
from client.answers import RefusedError, Site
from client.ledger import Ledger, create_ledger, read_ledger
from client.registration import register
from privacy.errors import LedgerError
from study.receipts import receipts_of

KEY = key_of(SITE)
DECLARATION = site_worker.declaration_of(0)
LOG = LEDGER + "-wal"

ROLLED_BACK, FORKED = "it was rolled back", "the ledger was forked"
ANSWER_LOST = "expected the answer that was receipted"

needs_listening = pytest.mark.skipif(not can_listen(), reason="sqlite3 is linked statically")


def query(index):
    return site_worker.query_of(DECLARATION, index, nonce=bytes(16))


def pragma(ledger, name):
    return ledger._database.execute(f"PRAGMA {name}").fetchone()[0]


class Recorded(Ledger):
    """A ledger that notes what it has promised when a charge or an answer has returned."""

    def charge(self, *arguments):
        super().charge(*arguments)
        self.promise()

    def store(self, study, index, answer):
        super().store(study, index, answer)
        self.promise((study, index), answer)

    def promise(self, place=None, answer=b""):
        self.events.append(("promised", self.state.entries, place, answer))


def history(directory, *, synchronous=""):
    """Four queries and what belongs to them: everything that was heard and promised, and the entries at the end.

    The second is charged and never answered; the ledger is closed and opened again, which burns it.
    """
    directory.mkdir()
    events = []
    create_ledger(directory / LEDGER, KEY, SITE)
    files = {LEDGER: (directory / LEDGER).read_bytes()}
    with listening(lambda when, *told: events.append(told) if when == "after" else None):
        for number, indices in enumerate([(0, 1), (2, 3)]):
            ledger = Recorded(directory / LEDGER, KEY)
            ledger.events = events
            ledger._database.execute("PRAGMA wal_autocheckpoint = 8")
            if synchronous:
                ledger._database.execute(f"PRAGMA synchronous = {synchronous}")
            work(ledger, indices, last=number == 1)
            ledger.close()
    return files, events, [each.content for each in read_ledger(directory / LEDGER)]


def work(ledger, indices, *, last):
    if not last:
        register(
            ledger, KEY, data_set=DATA_SET, namespace=NAMESPACE, unit=None, identities=[b"a"],
            cap=cap_of(30.0, 1e-3),
        )  # fmt: skip
    site = Site(ledger)
    ledger.promise()
    site.approve(DECLARATION, site_worker.records(), data_set=DATA_SET)
    ledger.promise()
    for index in indices:
        if index == 1:
            ledger.charge(DECLARATION.hash, index, "gradient", "0" * 64)
        else:
            site.answer(query(index))
    if last:
        ledger.promise()  # from here on no bytes are kept
        site.close_study(DECLARATION.hash)
        ledger.promise()


def failures(files, events, generator):
    """(what was promised, files that a power failure may leave) after every event: four tries, each result once."""
    platter, promised, seen = Platter(files), (1, None, b""), set()
    for what, *told in events:
        if what == "promised":
            promised = tuple(told)
        else:
            platter.hear(what, *told)
        for share in (0.0, 1.0, generator.random(), generator.random()):
            left = platter.left(lambda share=share: generator.random() < share)
            key = promised, *sorted(left.items())
            if key not in seen:
                seen.add(key)
                yield promised, left


def check(directory, promised, left, history):
    """What is left is the beginning of the true history, and holds what was promised."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    for name, content in left.items():
        (directory / name).touch(mode=0o600)
        (directory / name).write_bytes(content)
    ledger = Ledger(directory / LEDGER, KEY, durable=False)
    found = [each.content for each in read_ledger(directory / LEDGER)]
    count, place, answer = promised
    assert found == history[: len(found)], "another history"
    assert len(found) >= count, "an entry that had returned is lost"
    if place is not None:
        assert ledger.stored(*place) == answer, "an answer that had returned is lost"
    ledger.close()
    return len(found)


def check_all(directory, files, events, truth):
    """How many entries there may be after a power failure."""
    tried = failures(files, events, random.Random(1))
    return {check(directory, promised, left, truth) for promised, left in tried}


class TestPowerFailures:
    @needs_listening
    def test_nothing_that_has_returned_is_lost(self, tmp_path):
        files, events, truth = history(tmp_path / "site")
        assert sum(what == "sync" for what, *_ in events) > 20
        assert {"write", "truncate", "delete", "create log", "promised"} <= {
            each[0] for each in events
        }
        lengths = check_all(tmp_path / "left", files, events, truth)
        # Every length but two: a namespace and its first data set are one commit.
        assert lengths == {*range(1, len(truth) + 1)} - {2}

    @needs_listening
    @pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
    def test_without_a_sync_at_every_commit_something_would_be(self, tmp_path, synchronous):
        files, events, truth = history(tmp_path / "site", synchronous=synchronous)
        with pytest.raises(AssertionError, match="is lost|another history"):
            check_all(tmp_path / "left", files, events, truth)

    def test_a_ledger_syncs_at_every_commit_unless_it_is_a_simulations(self, tmp_path):
        create_ledger(tmp_path / LEDGER, KEY, SITE)
        for settings, synchronous in (({}, 2), ({"durable": False}, 0)):
            ledger = Ledger(tmp_path / LEDGER, KEY, **settings)
            assert pragma(ledger, "journal_mode") == "wal"
            assert pragma(ledger, "synchronous") == synchronous
            ledger.close()


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """(files, entries, receipts, commits) of a ledger whose entries but the first wait in its log: four queries.

    A commit is (where it ends in the log, how many entries there are then): the first registers, with two entries.
    """
    directory = tmp_path_factory.mktemp("logged")
    create_ledger(directory / LEDGER, KEY, SITE)
    ledger = Recorded(directory / LEDGER, KEY)
    ledger.events = []
    work(ledger, range(2, 6), last=False)
    files = {name: (directory / name).read_bytes() for name in (LEDGER, LOG)}
    lines = [each.to_line() for each in read_ledger(directory / LEDGER)]
    receipts = [each.to_line() for each in receipts_of(ledger.state, KEY)]
    ledger.close()
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


def laid(directory, files, log):
    """The ledger with this log, in a new directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in (files | {LOG: log}).items():
        (directory / name).touch(mode=0o600)
        (directory / name).write_bytes(content)
    return directory / LEDGER


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
            found = lines_of(laid(tmp_path / "torn", files, files[LOG][:place]))
            whole = max([count for end, count in commits if end <= place], default=1)
            assert found == lines[:whole], place
            verify_export(found, KEY.public)

    def test_a_log_with_another_byte_is_the_ledger_before_that_commit(self, logged, tmp_path):
        files, lines, _, commits = logged
        for place in self.places(files[LOG]):
            log = bytearray(files[LOG])
            log[place] ^= 0x55
            found = lines_of(laid(tmp_path / "torn", files, bytes(log)))
            whole = max([count for end, count in commits if end <= place], default=1)
            assert found in (lines[: whole if place >= 32 else 1], lines), place
            assert found != lines or place < 32, place

    def test_a_site_goes_on_from_a_torn_log_and_receipts_tell(self, logged, tmp_path):
        """It burns what is pending and answers the rest; whoever holds a receipt of what is lost can prove that it is."""
        files, _, receipts, commits = logged
        for end, count in commits[2:]:  # those of charges and answers
            path = laid(tmp_path / "torn", files, files[LOG][: end - 1])
            lost = ROLLED_BACK if count % 2 else ANSWER_LOST
            with pytest.raises(LedgerError, match=lost):
                verify_export(lines_of(path), KEY.public, receipts)
            ledger = Ledger(path, KEY)
            site = Site(ledger)
            site.approve(DECLARATION, site_worker.records(), data_set=DATA_SET)
            assert [answered(site, index) for index in range(2, 7)][-1]
            state = verify_export(lines_of(path), KEY.public).state
            ledger.close()
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
