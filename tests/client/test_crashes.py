"""Kill a site's worker wherever one can, and nothing that left it is uncharged, charged twice, or of two vectors.

A `kill -9` leaves whatever was written, synced or not: what a power failure takes besides is `test_power_loss.py`'s.
"""

import os
import sqlite3
from collections import Counter

import pytest
from disk import can_listen
from kills import (
    WINDOWS,
    Campaign,
    Kill,
    Race,
    crashed_everywhere,
    kill_over_and_over,
    two_queries,
    two_queries_and_a_kill,
)
from ledgers import key_of
from planted_bugs import PLANTED
from site_worker import LEDGER, ROUNDS, SITE
from witness import ContradictionError
from workers import Workers

from client.ledger import create_ledger, read_ledger
from privacy.errors import UserError
from study.ledger_state import replay

POINTS = ("sync", "fsync", "link", "send")
WAITS = [
    ("before", 0), ("charged", 0), *(("drawing", skip) for skip in range(4)), ("computed", 0), ("stored", 0),
    ("sending", 0), ("half", 0), ("sent", 0),
]  # fmt: skip
"""Everywhere a worker waits on its way from a query to its answer; keys are drawn for four purposes."""

FOUND = {
    "charged after it was computed": "a query was computed and is not charged",
    "charged after it was sent": "a vector was sent and its query is not charged|another receipt was sent",
    "stored after it was sent": "a vector was sent and its bytes are not stored",
    "charge held back until the answer is stored": "a charge that was on the disk is not there",
    "charge rolled back": "the export does not verify|a query was charged twice",
    "burnt and computed again": "a vector was sent and its bytes are not stored",
    "pending and computed again": "what was pending at a kill was answered afterwards",
    "answered anew when asked again": "two vectors were sent for one query",
}
"""Planted bugs, and what they are found by. `synchronous = OFF` is not among them: no kill can find it."""

UNSTORED = "sent although it could not be stored"

needs_listening = pytest.mark.skipif(not can_listen(), reason="sqlite3 is linked statically")


@pytest.fixture(scope="module")
def workers():
    with Workers() as started:
        yield started


@pytest.fixture
def place(places):
    """An empty directory for one ledger."""
    return places("site")


@pytest.fixture
def places(tmp_path):
    """Empty directories, by name."""

    def make(name):
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


def swept(workers, directory, **settings):
    """Kill a worker at every wait once; after each kill the open query is asked again, and another on top."""
    campaign = Campaign(workers, directory, **settings)
    for at, skip in WAITS:
        assert campaign.start()
        campaign.step()
        campaign.provoke()
        campaign.step_until(Kill((at,), skip))
    campaign.start()
    campaign.finish()
    return campaign


class TestKills:
    def test_forty_kills_leave_no_contradiction(self, workers, places):
        """Ten in every window: six while the worker waits there, four while it runs on, maybe into the next."""
        campaigns = [
            kill_over_and_over(workers, places(str(seed)), 20, seed=seed, checkpoint=20)
            for seed in range(2)
        ]
        kills = sum((each.kills for each in campaigns), Counter())
        assert kills.total() == 40
        assert all(kills[window] >= 5 for window in WINDOWS), kills
        assert sum(len(each.witness.vectors) for each in campaigns) >= 5
        assert sum(len(each.witness.burnt) for each in campaigns) >= 5

    def test_two_workers_on_one_ledger_pay_once_and_answer_once(self, workers, place):
        """Who is faster is not ours to say. Without a kill there are 12 waits a round at least, so at a chance of a tenth
        there is one in 14 rounds, except with 0.9^168 = 2e-8; the first and the last round have none, and a vector each.
        """
        race = Race(workers, place, seed=2, chance=0.1)
        race.round(chance=0.0)
        for _ in range(2 * ROUNDS - 2):
            race.round()
        race.round(chance=0.0)
        race.leave()
        assert race.kills.total() >= 1
        assert len(race.witness.vectors) >= 2


@needs_listening
class TestPoints:
    """A worker that kills itself at one point of its way, and another that takes over: at every point there is.

    Points are every sync that SQLite makes, every fsync and link of Python's, and every answer that leaves; the way goes
    from no ledger at all to a study that is closed.
    """

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_crash_at_any_sync_or_send_leaves_no_contradiction(self, workers, places, when):
        campaigns = crashed_everywhere(workers, places, two_queries, kinds=POINTS, when=when)
        assert len(campaigns) >= 20
        assert all(each.counts["crashes"] == 1 for each in campaigns)

    def test_a_sync_that_fails_costs_an_answer_at_most(self, workers, places):
        """The disk says no, once, at every sync: what the site could not write down it does not send."""
        campaigns = crashed_everywhere(
            workers, places, two_queries_and_a_kill, kinds=("sync",), when="fail"
        )
        assert len(campaigns) >= 12
        assert any(each.counts["UNAVAILABLE"] for each in campaigns)

    def test_a_site_that_sends_what_it_could_not_store_would_be_found(self, workers, places):
        before = Campaign(workers, places("before"))
        before.start(kinds=("sync",))
        before.step_until(Kill(("computed",)))
        fail = {"kinds": ("sync",), "crash": [before.points + 1, "fail"], "bug": UNSTORED}
        with pytest.raises(ContradictionError, match="a vector was sent and its bytes are not"):
            two_queries_and_a_kill(Campaign(workers, places("after")), fail)


class TestMaking:
    """Two that make one ledger at once: one of them has made it, whole, whatever becomes of the other."""

    def test_the_second_has_made_it_before_the_first_writes(self, place, monkeypatch):
        connect = sqlite3.connect

        def second(*arguments, **settings):
            monkeypatch.setattr(sqlite3, "connect", connect)
            create_ledger(place / LEDGER, key_of(SITE), SITE)
            return connect(*arguments, **settings)

        monkeypatch.setattr(sqlite3, "connect", second)
        with pytest.raises(UserError, match="exists"):
            create_ledger(place / LEDGER, key_of(SITE), SITE)
        assert [each.name for each in place.iterdir()] == [LEDGER]
        assert replay(read_ledger(place / LEDGER), key_of(SITE).public).entries == 1

    def test_the_second_dies_over_it_when_the_first_has_written(self, place, monkeypatch):
        link = os.link

        def second(*arguments):
            with monkeypatch.context() as patch:
                patch.setattr(sqlite3, "connect", killed)
                with pytest.raises(KeyboardInterrupt, match="killed"):
                    create_ledger(place / LEDGER, key_of(SITE), SITE)
            return link(*arguments)

        def killed(*_arguments, **_settings):
            raise KeyboardInterrupt("killed")

        monkeypatch.setattr(os, "link", second)
        create_ledger(place / LEDGER, key_of(SITE), SITE)
        assert replay(read_ledger(place / LEDGER), key_of(SITE).public).entries == 1


class TestPower:
    """The same kills find the bugs that they are there to find."""

    def test_a_sweep_of_kills_leaves_no_contradiction(self, workers, place):
        campaign = swept(workers, place)
        assert campaign.kills.total() == len(WAITS)

    def test_every_planted_bug_has_a_contradiction_to_be_found_by(self):
        assert {*FOUND, UNSTORED} == set(PLANTED)

    @pytest.mark.parametrize("bug", FOUND)
    def test_a_planted_bug_is_found(self, workers, place, bug):
        with pytest.raises(ContradictionError, match=FOUND[bug]):
            swept(workers, place, bug=bug)
