"""Ledgers that are put back between queries and between studies are found out, and no ledger that goes on is.

Every ledger here is a real one, and is put back by putting its file back.
"""

import dataclasses
import shutil
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import again, approved, hash_named, key_of, ledger_of
from masking import roster_of

from client.receipts import RolledBackError, checked_receipts
from privacy.errors import ProtocolError
from server.sums import Receipts
from study.ledger_entries import FIRST
from study.queries import Refusal
from study.receipts import MOST_RECEIPTS, SignedReceipt, chain_from_values

NAMES = ("north", "south", "west")
ROSTER = roster_of(*NAMES)
STUDY, LATER = hash_named("study"), hash_named("later")


class Party:
    """A site of the roster with a ledger of its own; it answers, looks at what it is shown, and can be put back."""

    def __init__(self, name, *, count=200):
        self.name, self.number = name, NAMES.index(name) + 1
        self.ledger = ledger_of(name)
        self.path = self.ledger._path
        for study in ("study", "later"):
            self.ledger.approve(approved(study, count=count), [])

    def checked(self, shown, study=STUDY):
        return checked_receipts(
            shown, study=study, roster=ROSTER, own=self.number, ledger=self.ledger
        )

    def asked(self, index, shown=None, study=STUDY):
        """Look at the receipts of a query, charge it and answer it; its receipt."""
        witnessed = self.checked(shown or {}, study)
        query = hash_named(f"query {index}")
        self.ledger.charge(study, index, "gradient", query, witnessed=witnessed)
        self.ledger.store(study, index, b"answer")
        return self.receipt(index, study)

    def send(self, receipts, index, shown):
        """The coordinator gets what goes with the answer: the receipts that it has not shown."""
        known = [each.receipt.head for each in shown.get(self.number, ())]
        chain = self.ledger.receipts(STUDY, index, known=known)
        receipts.require_onward(self.name, chain)
        receipts.keep(self.name, chain, index=index)

    def receipt(self, index, study=STUDY):
        return self.ledger.receipts(study, index)[-1]

    def chain(self, *indices, study=STUDY):
        return tuple(self.receipt(index, study) for index in indices)

    def backup(self, place):
        """A copy of the ledger's file as it is."""
        self.ledger.close()
        copy = shutil.copy2(self.path, place / f"{self.name}.backup")
        self._open()
        return copy

    def restore(self, copy):
        self.ledger.close()
        for leftover in self.path.parent.glob(self.path.name + "-*"):
            leftover.unlink()
        shutil.copy2(copy, self.path)
        self._open()

    def _open(self):
        self.ledger = again(self.path, key_of(self.name)).thing


@pytest.fixture
def north():
    return Party("north")


@pytest.fixture
def south():
    return Party("south")


def alarm(name):
    return pytest.raises(RolledBackError, match=f"Expected the ledger of {name} to go on")


def own_alarm():
    return pytest.raises(RolledBackError, match="of this ledger to be the one that was receipted")


class TestOwn:
    def test_the_own_receipts_of_a_ledger_that_is_whole_are_accepted(self, north):
        north.asked(0), north.asked(1)
        north.checked({1: north.chain(0, 1)})

    def test_a_later_one_than_the_ledger_holds_is_refused(self, north, tmp_path):
        north.asked(0)
        copy = north.backup(tmp_path)
        north.asked(1)
        shown = {1: north.chain(0, 1)}
        north.restore(copy)
        with own_alarm():
            north.checked(shown)

    def test_one_with_other_entries_in_its_place_is_refused(self, north, tmp_path):
        north.asked(0)
        copy = north.backup(tmp_path)
        north.asked(1)
        shown = {1: north.chain(0, 1)}
        north.restore(copy)
        north.ledger.refuse(STUDY, "something else")
        north.ledger.refuse(STUDY, "something else again")
        north.ledger.refuse(STUDY, "and again")
        with own_alarm():
            north.checked(shown)


class TestOthers:
    """South knows of north's ledger what the query before has shown it: query 0's receipt, or 0's and 1's."""

    @pytest.fixture
    def seen(self, north, south):
        for index in range(4):
            north.asked(index)
        south.asked(1, {1: north.chain(0)})
        south.asked(2, {1: north.chain(0, 1)})
        return south

    def test_the_same_again_and_what_goes_on_by_one_or_several_links_is_accepted(self, seen, north):
        for chain in ((0, 1), (1,), (0, 1, 2), (1, 2), (2,), (1, 2, 3), (2, 3), (0, 1, 2, 3)):
            found = seen.checked({1: north.chain(*chain)})
            assert found[key_of("north").public].receipt == north.receipt(chain[-1])

    def test_one_that_is_left_out_is_missed(self, seen):
        with alarm("north"):
            seen.checked({})

    def test_an_older_one_is_refused(self, seen, north):
        with alarm("north"):
            seen.checked({1: north.chain(0)})

    def test_a_gap_is_refused(self, seen, north):
        """The receipt of query 2, which nobody has seen, is withheld."""
        with alarm("north"):
            seen.checked({1: north.chain(3)})

    def test_a_fork_is_refused_though_it_is_as_long_or_longer(self, seen):
        twin = Party("north")
        for index in (0, 2, 3, 4, 5):
            twin.asked(index)
            with alarm("north"):
                seen.checked({1: (twin.receipt(index),)})

    def test_a_ledger_that_was_put_back_does_not_catch_up_whatever_is_written_to_it(
        self, south, north, tmp_path
    ):
        north.asked(0)
        copy = north.backup(tmp_path)
        north.asked(1)
        south.asked(2, {1: north.chain(0, 1)})
        north.restore(copy)
        for number in range(8):
            north.ledger.refuse(STUDY, f"reason {number}")  # so its numbers are beyond all seen
        for index in (2, 3, 4):
            north.asked(index)
            assert north.receipt(index).receipt.sequence > south_knows(south)
            with alarm("north"):
                south.checked({1: north.chain(0, *range(2, index + 1))})

    def test_one_that_is_false_or_of_a_stranger_or_of_another_study_is_no_receipt(
        self, seen, north
    ):
        signed = north.receipt(1)
        changed = SignedReceipt(
            receipt=dataclasses.replace(signed.receipt, answer="0" * 64), signature=signed.signature
        )
        with pytest.raises(ProtocolError, match=r"Expected a signature \(receipt\)"):
            seen.checked({1: (changed,)})
        with pytest.raises(ProtocolError, match=r"Expected a signature \(receipt\)"):
            seen.checked({1: north.chain(1), 3: (signed,)})
        for shown, study in (({4: (signed,)}, STUDY), ({1: (signed,)}, LATER)):
            with pytest.raises(ProtocolError, match="of this study, of sites of the roster"):
                seen.checked(shown, study)

    def test_a_late_comer_accepts_any_chain_but_remembers_it(self, north):
        for index in range(5):
            north.asked(index)
        late = Party("west")
        late.asked(4, {1: north.chain(2, 3)})
        late.checked({1: north.chain(3, 4)})
        with alarm("north"):
            late.checked({1: north.chain(2)})


def south_knows(south):
    return south.ledger.witnessed(key_of("north").public)[STUDY].number


class TestAbsence:
    @pytest.fixture
    def busy(self, north):
        for index in range(MOST_RECEIPTS + 3):
            north.asked(index)
        return north

    def test_who_missed_fewer_queries_than_a_message_tells_needs_every_link(self, busy, south):
        south.asked(1, {1: busy.chain(0)})
        last = MOST_RECEIPTS - 1
        south.checked({1: busy.chain(*range(1, last + 1))})
        with alarm("north"):
            south.checked({1: busy.chain(*range(2, last + 1))})

    def test_who_missed_more_takes_a_full_message_and_no_shorter_one(self, busy, south):
        south.asked(1, {1: busy.chain(0)})
        full = busy.chain(*range(3, MOST_RECEIPTS + 3))
        assert len(full) == MOST_RECEIPTS
        south.checked({1: full})
        with alarm("north"):
            south.checked({1: full[1:]})

    def test_a_full_message_does_not_make_up_for_queries_that_were_not_missed(self, busy, south):
        south.asked(1, {1: busy.chain(0)})
        south.asked(5, {1: busy.chain(0, 1, 2, 3, 4)})
        with alarm("north"):
            south.checked({1: busy.chain(*range(6, MOST_RECEIPTS + 3))})
        twin = Party("north")
        for index in range(4, MOST_RECEIPTS + 4):
            twin.asked(index)
        with alarm("north"):
            south.checked({1: twin.chain(*range(4, MOST_RECEIPTS + 4))})


class TestBetweenStudies:
    def test_a_backup_restored_between_two_studies_is_found_out_in_the_second(
        self, north, south, tmp_path
    ):
        copy = north.backup(tmp_path)
        for index in range(3):
            north.asked(index)
        south.asked(3, {1: north.chain(0, 1, 2)})
        south.ledger.close_study(STUDY)
        north.restore(copy)
        south.asked(0, study=LATER)
        first = north.asked(0, study=LATER)
        assert first.receipt.sequence <= south_knows(south)
        with alarm("north"):
            south.checked({1: (first,)}, LATER)

    def test_a_ledger_that_has_gone_on_between_them_is_accepted(self, north, south):
        north.asked(0)
        south.asked(1, {1: north.chain(0)})
        south.ledger.close_study(STUDY)
        north.ledger.close_study(STUDY)
        south.asked(0, study=LATER)
        south.checked({1: (north.asked(0, study=LATER),)}, LATER)

    def test_the_first_receipt_of_a_study_names_none_before(self, north, south):
        south.asked(0)
        north.asked(0), north.asked(1)
        assert north.receipt(0).receipt.previous == FIRST
        with alarm("north"):
            south.checked({1: north.chain(1)})
        south.checked({1: north.chain(0, 1)})

    def test_two_studies_that_run_at_the_same_time_are_no_false_alarm(self, north, south):
        shown = {STUDY: [], LATER: []}
        for index in range(5):
            for study in (STUDY, LATER):
                sent = {1: tuple(shown[study])} if shown[study] else {}
                shown[study].append(north.asked(index, study=study))
                south.asked(index, sent, study=study)

    def test_what_another_study_shows_later_does_not_count_against_a_first_receipt(
        self, north, south
    ):
        """North answers its first query of the later study, and then the other's, of which south hears first."""
        north.asked(0)
        south.asked(0)
        south.asked(0, study=LATER)
        north.asked(1)  # south is asked query 1 of LATER after it has heard of this
        first = north.asked(1, study=LATER)
        north.asked(2)
        south.asked(1, {1: north.chain(0)})
        south.asked(3, {1: north.chain(0, 1, 2)})
        assert south_knows(south) > first.receipt.sequence
        south.asked(1, study=LATER)
        south.checked({1: (first,)}, LATER)

    def test_what_was_seen_is_kept_when_the_study_is_closed_and_convicts_by_itself(
        self, north, south
    ):
        north.asked(0)
        south.asked(1, {1: north.chain(0)})
        south.ledger.close_study(STUDY)
        path = south.path
        south.ledger.close()
        with again(path, key_of("south")) as ledger:
            witnessed = ledger.witnessed(key_of("north").public)[STUDY]
        witnessed.receipt.verify(key_of("north").public)
        assert witnessed.receipt == north.receipt(0)
        assert witnessed.number == witnessed.receipt.receipt.sequence


class TestChains:
    def test_a_receipt_names_the_one_before_and_always_the_same(self, north):
        for index in (0, 1, 2):
            north.asked(index)
        chain = north.chain(0, 1, 2)
        for before, after in pairwise(chain):
            assert after.receipt.previous == before.receipt.head
        with again(north.path, key_of("north")) as ledger:
            assert tuple(ledger.receipts(STUDY, index)[-1] for index in (0, 1, 2)) == chain

    def test_a_charge_that_waits_or_was_burnt_is_no_link(self, north):
        north.asked(0)
        north.ledger.charge(STUDY, 1, "gradient", hash_named("query 1"))
        second = north.asked(2)
        north.ledger.burn(STUDY, 1)
        third = north.asked(3)
        assert second.receipt.previous == north.receipt(0).receipt.head
        assert third.receipt.previous == second.receipt.head

    def test_a_query_that_is_answered_late_by_another_process_changes_no_receipt(self, north):
        """It was charged first: the receipts given in the meantime do not name it, nor does any later one."""
        north.ledger.charge(STUDY, 0, "gradient", hash_named("query 0"))
        with again(north.path, key_of("north")) as other:
            other.charge(STUDY, 1, "gradient", hash_named("query 1"))
            other.store(STUDY, 1, b"faster")
            given = other.receipts(STUDY, 1)[-1]
            north.ledger.store(STUDY, 0, b"slower")
            assert other.receipts(STUDY, 1)[-1] == given == north.receipt(1)
        assert given.receipt.previous == FIRST
        assert north.asked(2).receipt.previous == given.receipt.head
        assert chain_from_values([each.to_values() for each in north.chain(1, 2)])

    def test_a_broken_chain_cannot_even_be_read(self, north):
        for index in range(3):
            north.asked(index)
        values = [each.to_values() for each in north.chain(0, 1, 2)]
        assert chain_from_values(values) == north.chain(0, 1, 2)
        for broken in (values[::2], values[::-1], [values[0], values[0]]):
            with pytest.raises(ProtocolError, match="each goes on from the one before"):
                chain_from_values(broken)

    @settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_honest_sites_that_come_and_go_are_never_an_alarm(self, data):
        """Whatever replies are lost and whoever is away, up to half of `MOST_RECEIPTS` queries on end.

        So no more than `MOST_RECEIPTS` receipts are new to anybody at once.
        """
        sites, receipts = {name: Party(name) for name in NAMES}, Receipts(ROSTER)
        gone = dict.fromkeys(NAMES, 0)
        for index in range(data.draw(st.integers(1, 45))):
            shown = receipts.for_query(index)
            for name, site in sites.items():
                fates = ["away", "away", "reply lost"] if gone[name] < MOST_RECEIPTS // 2 else []
                fate = data.draw(st.sampled_from(["there", *fates]))
                gone[name] = 0 if fate == "there" else gone[name] + 1
                if fate != "away":
                    site.asked(index, shown)
                if fate == "there":
                    site.send(receipts, index, shown)
        for site in sites.values():
            site.ledger.close()

    @pytest.mark.parametrize("queries", [MOST_RECEIPTS - 1, MOST_RECEIPTS, MOST_RECEIPTS + 8])
    @pytest.mark.parametrize("heard", [True, False])
    def test_who_was_away_for_long_comes_back(self, north, south, queries, heard):
        """Whether its last answer has come in before or was lost; at once, or with the query after its alarm."""
        receipts = Receipts(ROSTER)
        for site in (north, south):
            site.asked(0)
        north.send(receipts, 0, {})
        if heard:
            south.send(receipts, 0, {})
        for index in range(1, queries):
            shown = receipts.for_query(index)
            north.asked(index, shown)
            north.send(receipts, index, shown)
        index, shown = queries, receipts.for_query(queries)
        try:
            south.checked(shown)
        except RolledBackError:  # it was shown no more than those need that are not away
            assert queries >= MOST_RECEIPTS
            receipts.heard({"south": Refusal.LEDGER_BEHIND.explanation})
            index, shown = queries + 1, receipts.for_query(queries + 1)
        south.asked(index, shown)
        south.send(receipts, index, shown)
        north.asked(index + 1, receipts.for_query(index + 1))
