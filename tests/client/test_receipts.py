"""What a site makes of other sites' receipts: a chain that goes on is taken, a ledger that went back is found out."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import approved_masked, cap_of, hash_named, key_of, ledger_of
from masking import roster_of

from client.ledger import Witnessed
from client.receipts import RolledBackError, checked_receipts
from privacy.errors import ProtocolError
from server.sums import Receipts
from study.queries import Refusal
from study.receipts import MOST_RECEIPTS, Receipt, SignedReceipt

NAMES = ("site-1", "site-2", "site-3")
ROSTER = roster_of(*NAMES)
OWN, OTHER, THIRD = 1, 2, 3
STUDY = hash_named("study")


def head(*what):
    return hashlib.sha256(repr(what).encode()).hexdigest()


def chain(*places, name="site-2", study=STUDY, start=None, branch="", first=None):
    """Receipts of entries with these numbers; `start` is the head before, `branch` tells one history from another."""
    found, previous = [], start or "0" * 64
    for index, sequence in enumerate(places, start=len(found) if first is None else first):
        receipt = Receipt(
            study=study, index=index, transcript="ab" * 32, sequence=sequence, head=head(name, sequence, branch),
            previous=previous, answer="cd" * 32,
        )  # fmt: skip
        found.append(SignedReceipt.sign(receipt, key_of(name)))
        previous = receipt.head
    return tuple(found)


@pytest.fixture
def ledger():
    opened = ledger_of("site-1", cap=cap_of(40.0))
    opened.approve(approved_masked(count=200), [])
    yield opened
    opened.close()


def look(ledger, receipts, *, study=STUDY):
    return checked_receipts(receipts, study=study, roster=ROSTER, own=OWN, ledger=ledger)


def charge(ledger, index, receipts, *, study=STUDY):
    """Look at what a query shows, and charge it."""
    found = look(ledger, receipts, study=study)
    ledger.charge(study, index, "gradient", head("query", index), witnessed=found)
    return found


REFUSED = "Expected the ledger of site-2 to go on from where this site has seen it"


def test_what_was_seen_is_remembered_by_key_and_is_proof(ledger):
    charge(ledger, 0, {OTHER: chain(5)})
    known = ledger.witnessed(key_of("site-2").public)[STUDY]
    assert known == Witnessed(5, chain(5)[0])
    known.receipt.verify(key_of("site-2").public)
    assert ledger.witnessed(key_of("site-3").public)[STUDY] == Witnessed(-1)


@pytest.mark.parametrize("shown", [chain(5), chain(5, 8), chain(5, 8, 11)[1:], chain(5, 8, 11)])
def test_a_chain_that_holds_or_follows_what_is_known_goes_on(ledger, shown):
    charge(ledger, 0, {OTHER: chain(5)})
    assert look(ledger, {OTHER: shown})[key_of("site-2").public].receipt == shown[-1]


@pytest.mark.parametrize(
    "shown",
    [
        (), chain(4), chain(5, branch="fork"), chain(6), chain(5, 8, 11)[2:], chain(8, start=head("elsewhere")),
        chain(4, 9, 12, 15, branch="fattened"), chain(5, 8, branch="fork"),
    ],
)  # fmt: skip
def test_one_that_went_back_forked_or_was_left_out_does_not(ledger, shown):
    charge(ledger, 0, {OTHER: chain(5)})
    with pytest.raises(RolledBackError, match=REFUSED):
        look(ledger, {OTHER: shown} if shown else {})


def test_whoever_comes_late_takes_any_chain(ledger):
    late = chain(5, 8, 11)[1:]
    assert charge(ledger, 4, {OTHER: late})[key_of("site-2").public].receipt == late[-1]


def test_a_site_that_was_away_for_longer_than_a_query_tells_takes_a_full_chain_of_that_time(ledger):
    charge(ledger, 0, {OTHER: chain(5)})
    places = range(10, 10 + MOST_RECEIPTS)
    away = chain(*places, start=head("unknown"), first=1)
    assert look(ledger, {OTHER: away})
    for wrong in (
        away[1:],
        chain(*places, start=head("unknown"), first=0),
    ):  # shorter; or of a query that it has seen
        with pytest.raises(RolledBackError, match=REFUSED):
            look(ledger, {OTHER: wrong})


def test_its_own_receipts_are_held_against_its_ledger(ledger):
    charge(ledger, 0, {})
    ledger.store(STUDY, 0, b"answer")
    (own,) = ledger.receipts(STUDY, 0)
    assert look(ledger, {OWN: (own,)})
    ahead = chain(own.receipt.sequence, own.receipt.sequence + 5, name="site-1")
    with pytest.raises(RolledBackError, match="found none or another"):
        look(ledger, {OWN: ahead})


@pytest.mark.parametrize(
    "shown",
    [
        {OTHER: chain(5, name="site-3")}, {4: chain(5)}, {0: chain(5)}, {OTHER: chain(5, study=hash_named("other"))},
    ],
)  # fmt: skip
def test_receipts_of_another_site_or_study_are_malformed(ledger, shown):
    with pytest.raises(ProtocolError, match="Expected"):
        look(ledger, shown)


class TestBetweenStudies:
    """A backup is mostly restored between two studies."""

    NEXT = hash_named("next")

    @pytest.fixture
    def after(self, ledger):
        """Site 2 was seen at entry 20 of its ledger in the first study; the next one has begun."""
        charge(ledger, 0, {OTHER: chain(20)})
        ledger.store(STUDY, 0, b"answer")
        ledger.close_study(STUDY)
        ledger.approve(approved_masked("next", count=200), [])
        charge(ledger, 0, {}, study=self.NEXT)
        return ledger

    @pytest.mark.parametrize("sequence", [3, 19, 20])
    def test_a_first_entry_that_is_not_later_is_of_a_ledger_that_went_back(self, after, sequence):
        with pytest.raises(RolledBackError, match=REFUSED):
            look(after, {OTHER: chain(sequence, study=self.NEXT)}, study=self.NEXT)

    def test_a_later_one_goes_on(self, after):
        assert look(after, {OTHER: chain(22, study=self.NEXT)}, study=self.NEXT)

    def test_two_studies_at_a_time_are_no_alarm(self, ledger):
        """Each goes on from where it was, whatever the other has shown meanwhile."""
        ledger.approve(approved_masked("next", count=200), [])
        charge(ledger, 0, {})
        charge(ledger, 0, {}, study=self.NEXT)
        one, two = chain(5, 9, 13), chain(7, 11, 15, study=self.NEXT)
        for index in (1, 2, 3):
            charge(ledger, index, {OTHER: two[:index]}, study=self.NEXT)
            charge(ledger, index, {OTHER: one[:index]})

    def test_what_was_seen_is_kept_when_a_study_is_closed(self, after):
        assert after.witnessed(key_of("site-2").public)[STUDY].receipt == chain(20)[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(1, 3), min_size=1), min_size=1, max_size=20),
    st.integers(0, 2 * MOST_RECEIPTS),
    st.lists(st.sets(st.integers(1, 3), min_size=1), min_size=1, max_size=10),
)
def test_an_honest_coordinator_shows_every_member_enough_however_often_it_is_away(
    before, gap, after
):
    """Members answer some queries, one is away for long, and some replies are lost: they come with the next answer.

    A member may be refused what it needs once after such an absence; the next query shows it all.
    """
    ledgers = {number: ledger_of(name, cap=cap_of(40.0)) for number, name in ROSTER.names.items()}
    for each in ledgers.values():
        each.approve(approved_masked(count=200), [])
    receipts, heard, refused = Receipts(ROSTER), dict.fromkeys(ledgers, -1), set()
    for index, there in enumerate([*before, *[{1, 2}] * gap, *after]):
        shown = receipts.for_query(index)
        came = {}
        for number in sorted(there):
            site = ledgers[number]
            try:
                found = checked_receipts(shown, study=STUDY, roster=ROSTER, own=number, ledger=site)
            except RolledBackError:
                assert index - heard[number] > MOST_RECEIPTS
                assert number not in refused
                refused.add(number)
                receipts.heard({ROSTER.names[number]: Refusal.LEDGER_BEHIND.explanation})
                continue
            site.charge(STUDY, index, "gradient", head("query", index), witnessed=found)
            site.store(STUDY, index, b"answer")
            known = [each.receipt.head for each in shown.get(number, ())]
            if (index + number) % 3:  # else its reply is lost
                came[ROSTER.names[number]] = site.receipts(STUDY, index, known=known)
                heard[number] = index
                refused.discard(number)
        for name, each in came.items():
            receipts.require_onward(name, each)
            receipts.keep(name, each, index=index)
    for each in ledgers.values():
        each.close()
