"""A coordinator that dies anywhere in a query goes on where it was, and asks nobody twice with different content."""

import numpy as np
import pytest

from privacy.errors import ProtocolError
from server import journal
from server.journal import Heard, Journal, Pushed
from server.rounds import run_study


class DeathError(BaseException):
    """The process has been killed."""


class Mortal:
    """`write_whole` of a process that dies at its n-th write: before it, or after it."""

    def __init__(self, write, number, *, after):
        self.write, self.left, self.after, self.count = write, number, after, 0

    def __call__(self, path, content, **options):
        self.count += 1
        self.left -= 1
        if self.left == 0 and not self.after:
            raise DeathError
        self.write(path, content, **options)
        if self.left == 0:
            raise DeathError


@pytest.fixture
def masked(make_federation):
    def make(directory, **changed):
        return make_federation(
            sites=4, directory=directory, privacy={"trust": "aggregate", "max_dropouts": 1},
            training={"rounds": 2, "spare_rounds": 1} | changed,
        )  # fmt: skip

    return make


def contents_of(federation):
    """Every message that each site was sent, by what it is about: a set, so that a repetition counts once."""
    asked = {}
    for name, queries in federation.asked.items():
        for content in queries:
            asked.setdefault((name, content[:400]), set()).add(content)
    return asked


def charges_of(federation):
    """Which queries each site has charged, and how many entries of its ledger do."""
    return {
        name: (set(ledger.state.account(federation.declaration.hash).asked), ledger.state.entries)
        for name, ledger in federation.ledgers.items()
    }


def drop_once(index, node):
    """A node that misses the first message of a query."""
    missed = []

    def drops(message):
        first = (message.metadata.dst_node_id, message.metadata.group_id) == (node, str(index))
        if first and not missed:
            missed.append(True)
            return True
        return False

    return drops


def drops_of(dropping):
    return drop_once(1, 3) if dropping else lambda _message: False


def reference(masked, tmp_path):
    federation = masked(tmp_path / "whole")
    outcome = run_study(federation.grid(), federation.job(journal=tmp_path / "whole" / "open"))
    return federation, [kept.total.tolist() for kept in outcome.sums]


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("dropping", [False, True], ids=["all there", "one missing"])
def test_a_coordinator_that_dies_at_any_write_of_its_journal_ends_with_the_same_sums(
    masked, tmp_path, monkeypatch, after, dropping
):
    """The sites live on, as in a deployment; each death is followed by a new coordinator over the same directory."""
    undisturbed, whole = reference(masked, tmp_path)
    write = journal.write_whole
    number = 0
    while True:
        number += 1
        place = tmp_path / f"{number}"
        federation = masked(place / "run")
        grid = federation.grid(drops=drops_of(dropping))
        mortal = Mortal(write, number, after=after)
        monkeypatch.setattr(journal, "write_whole", mortal)
        try:
            run_study(grid, federation.job(journal=place / "open"))
        except DeathError:
            monkeypatch.setattr(journal, "write_whole", write)
            outcome = run_study(grid, federation.job(journal=place / "open"))
        else:
            break
        assert len(outcome.sums) == 2, number
        for kept in outcome.sums:
            parts = [federation.answered[name][kept.index] for name in kept.survivors]
            assert kept.total.tolist() == np.sum(parts, axis=0).tolist(), number
            assert len(kept.survivors) >= 3
        assert all(len(each) == 1 for each in contents_of(federation).values()), number
        if not dropping:  # who was missing may have come back meanwhile
            assert [kept.total.tolist() for kept in outcome.sums] == whole
            assert charges_of(federation) == charges_of(undisturbed), number
        assert not (place / "open").exists()
    assert number > 15  # there were that many places to die at


def test_what_was_heard_is_read_again(tmp_path):
    one = Journal(tmp_path / "open")
    assert one.begin(3, {"members": ["ab"]}) is None
    trip = one.trip({"a": b"question", "b": b"other"}, {"a": b"1" * 16, "b": b"2" * 16})
    trip.push(
        [Pushed(run=7, site="a", node=5, created=1.5), Pushed(run=7, site="b", node=6, created=2.5)]
    )
    trip.hear({"a": Heard(content=b"\x00answer\n")})
    trip.hear({"b": Heard(problem="it did not answer in time")})
    again = Journal(tmp_path / "open")
    assert again.begin(3, {"members": []}) == {"members": ["ab"]}
    found = again.trip({"a": b"question", "b": b"other"}, {"a": b"3" * 16, "b": b"4" * 16})
    assert found.nonces == {"a": b"1" * 16, "b": b"2" * 16}, "those that were used"
    assert (found.pushed, found.heard, found.parts) == (trip.pushed, trip.heard, 3)
    second = again.trip({"a": b"next"}, {"a": b"5" * 16})
    assert (second.pushed, second.heard) == ([], {})


def test_a_site_is_not_asked_something_else_than_before(tmp_path):
    one = Journal(tmp_path / "open")
    one.begin(0, {})
    one.trip({"a": b"question"}, {"a": bytes(16)})
    again = Journal(tmp_path / "open")
    again.begin(0, {})
    with pytest.raises(ProtocolError, match="what was asked before the interruption"):
        again.trip({"a": b"another question"}, {"a": bytes(16)})


def test_another_query_begins_anew(tmp_path):
    one = Journal(tmp_path / "open")
    one.begin(0, {"wait": 1})
    one.trip({"a": b"question"}, {"a": bytes(16)})
    assert Journal(tmp_path / "open").begin(1, {"wait": 2}) is None
    assert Journal(tmp_path / "open").begin(1, {}) == {"wait": 2}
    one.end()
    assert not (tmp_path / "open").exists()


def test_without_a_directory_nothing_is_kept(tmp_path):
    one = Journal(None)
    assert one.begin(0, {}) is None
    trip = one.trip({"a": b"question"}, {"a": bytes(16)})
    trip.push([Pushed(run=1, site="a", node=2, created=0.0)])
    trip.hear({"a": Heard(content=b"answer")})
    one.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["Path.rename", "shutil.rmtree"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_coordinator_that_dies_while_a_query_is_put_away_goes_on(
    masked, tmp_path, monkeypatch, place, after
):
    """What is left of the last query's journal is not taken for the next one's."""
    federation = masked(tmp_path / "run")
    grid, job = federation.grid(), federation.job(journal=tmp_path / "open")
    owner, name = (journal.Path, "rename") if place == "Path.rename" else (journal.shutil, "rmtree")
    real = getattr(owner, name)

    def dying(*arguments, **options):
        if str(arguments[0]).startswith(str(tmp_path / "open")) and not killed:
            killed.append(True)
            if after:
                real(*arguments, **options)
            raise DeathError
        return real(*arguments, **options)

    killed = []
    monkeypatch.setattr(owner, name, dying)
    with pytest.raises(DeathError):
        run_study(grid, job)
    outcome = run_study(grid, job)
    assert len(outcome.sums) == 2
    assert not (tmp_path / "open").exists()


def test_what_an_earlier_version_may_have_left_of_a_query_is_cleared_away(tmp_path):
    (tmp_path / "open" / "0000").mkdir(parents=True)
    (tmp_path / "open" / "0000" / "trip").write_bytes(b"of another query")
    one = Journal(tmp_path / "open")
    assert one.begin(1, {}) is None
    assert one.trip({"a": b"question"}, {"a": bytes(16)}).heard == {}
