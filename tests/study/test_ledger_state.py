"""What a ledger allows next, and what that costs: an illegal entry raises and changes nothing."""

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from ledgers import cap_of, key_of

from privacy.accounting import epsilon_of
from privacy.discrete_gaussian import Deviation
from privacy.errors import BudgetError, LedgerError
from privacy.private_sum import SumMechanism
from study.ledger_entries import (
    Answered,
    Approved,
    Burnt,
    Charged,
    Closed,
    DataSet,
    DeclaredSum,
    Namespace,
    Opened,
    Refused,
    SignedEntry,
    SumTerms,
)
from study.ledger_state import LedgerState, replay

KEY = key_of("site")
BYTES = "ab" * 32
SLACK = 2.0**-30


def terms_of(scale=1.0, *, part="train", rate=1.0):
    """Terms whose noise multiplier is what they yield: about 4 / scale."""
    mechanism = SumMechanism(
        dimension=3, clipping_norm=1.0, sites_per_unit=1, noise_multiplier=1.0, shares=1, sites=3, beta=1e-12,
        slack=SLACK, deviation=Deviation(64), scale=16 * scale, bits=64,
    )  # fmt: skip
    return SumTerms(
        adjacency="add-or-remove-one", unit="record", part=part, dimension=3, clipping_norm=1.0, sites_per_unit=1,
        sampling_rate=rate, sites=3, colluding=1, survivors=3, threshold=3, shares=1,
        noise_multiplier=mechanism.noise_multiplier_of(1), base=64, stretch=0, scale=16 * scale, beta=1e-12, slack=SLACK,
        unlikely=1e-28, bits=64,
    )  # fmt: skip


def study_of(number):
    return f"{number:064x}"


def approval(number=1, *, data_set="records", sums=None):
    sums = sums or (DeclaredSum(function="gradient", count=3, terms=terms_of()),)
    return Approved(
        study=study_of(number), name="study", data_set=data_set, trust="local", sums=sums
    )


def charge(index=0, *, number=1, function="gradient", terms=None):
    return Charged(
        study=study_of(number),
        index=index,
        function=function,
        query=BYTES,
        terms=terms or terms_of(),
    )


def apply(state, *bodies):
    for body in bodies:
        state.apply(state.next_entry(body, time=1))
    return state


def opened(*more, cap=None):
    return apply(
        LedgerState(),
        Opened(site="site", key=KEY.public.hex()),
        Namespace(namespace="people", cap=cap or cap_of()),
        DataSet(data_set="records", namespace="people", unit=None),
        *more,
    )


def answered(index=0, *, number=1):
    return Answered(study=study_of(number), index=index, answer=BYTES)


def burnt(index=0, *, number=1):
    return Burnt(study=study_of(number), index=index)


def closed(number=1):
    return Closed(study=study_of(number))


STATES = {
    "empty": LedgerState,
    "opened": opened,
    "approved": lambda: opened(approval()),
    "charged": lambda: opened(approval(), charge()),
    "answered": lambda: opened(approval(), charge(), answered()),
    "burnt": lambda: opened(approval(), charge(), burnt()),
    "closed": lambda: opened(approval(), charge(), answered(), closed()),
    "all asked": lambda: opened(approval(), *(charge(index) for index in range(3))),
}

BODIES = {
    "opened": Opened(site="site", key=KEY.public.hex()),
    "a new namespace": Namespace(namespace="others", cap=None),
    "the old namespace": Namespace(namespace="people", cap=None),
    "a data set": DataSet(data_set="more", namespace="people", unit=None),
    "a data set of nobody": DataSet(data_set="more", namespace="nobody", unit=None),
    "a data set that moves": DataSet(data_set="records", namespace="people", unit="patient"),
    "approved": approval(),
    "approved with too much": approval(
        2, sums=(DeclaredSum(function="gradient", count=3, terms=terms_of(8.0)),)
    ),
    "approved with false terms": approval(
        2,
        sums=(
            DeclaredSum(
                function="gradient",
                count=1,
                terms=SumTerms(
                    **{**vars(terms_of()), "noise_multiplier": 1.01 * terms_of().noise_multiplier}
                ),
            ),
        ),
    ),
    "approved without privacy": approval(
        2, sums=(DeclaredSum(function="gradient", count=1, terms=None),)
    ),
    "approved of no data set": approval(2, data_set="none"),
    "charged": charge(),
    "charged next": charge(1),
    "charged beyond": charge(3),
    "charged for another function": charge(1, function="moments"),
    "charged at other terms": charge(1, terms=terms_of(0.5)),
    "charged for another study": charge(0, number=9),
    "answered": answered(),
    "answered another": answered(1),
    "burnt": burnt(),
    "closed": closed(),
    "refused": Refused(study=study_of(5), reason="MALFORMED"),
}

ALLOWED = {
    "empty": {"opened"},
    "opened": {"a new namespace", "a data set", "approved", "refused"},
    "approved": {"a new namespace", "a data set", "charged", "charged next", "charged beyond", "closed", "refused"},
    "charged": {
        "a new namespace", "a data set", "charged next", "charged beyond", "answered", "burnt", "refused",
    },
    "answered": {"a new namespace", "a data set", "charged next", "charged beyond", "closed", "refused"},
    "burnt": {"a new namespace", "a data set", "charged next", "charged beyond", "closed", "refused"},
    "closed": {"a new namespace", "a data set", "refused"},
    "all asked": {"a new namespace", "a data set", "answered", "answered another", "burnt", "refused"},
}  # fmt: skip


def snapshot(state):
    return copy.deepcopy({name: value for name, value in vars(state).items() if name != "opened"})


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("place", STATES)
def test_an_entry_is_allowed_exactly_where_the_table_says_so(place, name):
    """Charged beyond: index 3 is a number like any other while sums are left."""
    state = STATES[place]()
    before, entry = snapshot(state), state.next_entry(BODIES[name], time=1)
    if name in ALLOWED[place]:
        state.apply(entry)
        assert (state.entries, state.head) == (before["entries"] + 1, entry.hash)
        return
    with pytest.raises(LedgerError, match="Expected"):
        state.apply(entry)
    assert snapshot(state) == before


def test_an_entry_that_does_not_follow_the_last_one_is_refused():
    state = opened()
    entry = state.next_entry(approval(), time=1)
    apply(state, Refused(study=study_of(5), reason="MALFORMED"))
    before = snapshot(state)
    with pytest.raises(LedgerError, match="the entry that follows"):
        state.apply(entry)
    assert snapshot(state) == before


def test_no_more_sums_than_declared_are_charged():
    state = opened(approval(), *(charge(index) for index in range(3)))
    with pytest.raises(LedgerError, match="at most 3 queries of gradient"):
        apply(state, charge(3))


def test_a_study_is_reserved_whole_and_gives_back_what_it_never_asked():
    state = opened(approval())
    whole = state.budget("people")
    assert whole.spent == whole.cap.nothing
    assert whole.held == whole.cap.cost([terms_of().sums(3)])
    apply(state, charge(), answered())
    assert state.budget("people").held == whole.held
    assert state.budget("people").spent == whole.cap.cost([terms_of().sums(1)])
    apply(state, closed())
    assert state.budget("people").held == whole.cap.cost([terms_of().sums(1)])


def test_a_burnt_query_stays_paid_for():
    burned = opened(approval(), charge(), burnt(), closed()).budget("people")
    done = opened(approval(), charge(), answered(), closed()).budget("people")
    assert burned.held == done.held != burned.cap.nothing


def test_every_namespace_has_a_budget_of_its_own():
    """What one spends is not missing in the other, and what the other has left is no help to the one."""
    costly = (DeclaredSum(function="gradient", count=3, terms=terms_of(2.0)),)
    state = opened(
        Namespace(namespace="others", cap=cap_of()),
        DataSet(data_set="theirs", namespace="others", unit=None),
    )
    number = 0
    with pytest.raises(BudgetError, match="lifetime budget of epsilon 10"):  # noqa: PT012  up to the first that is too much
        for number in range(1, 100):
            apply(state, approval(number, sums=costly))
    assert number > 1
    assert state.budget("others").held == state.budget("others").cap.nothing
    for other in range(1, number):
        apply(state, approval(1000 + other, data_set="theirs", sums=costly))
    with pytest.raises(BudgetError, match="lifetime budget of epsilon 10"):
        apply(state, approval(2000, data_set="theirs", sums=costly))
    assert state.budget("others").held == state.budget("people").held


def test_a_refusal_for_want_of_budget_says_what_remains():
    with pytest.raises(BudgetError, match="lifetime budget of epsilon 10") as error:
        opened(approval(1, sums=(DeclaredSum(function="gradient", count=3, terms=terms_of(8.0)),)))
    assert "what remains" in error.value.hint or "nothing remains" in error.value.hint


class Histories(RuleBasedStateMachine):
    """Any sequence of what a site may be asked, legal or not, against a model that only counts.

    Whatever is accepted: no query is charged twice, none answered unpaid, and the epsilon of all that was charged, by the
    tight accountant, is within the lifetime budget.
    """

    studies = Bundle("studies")

    def __init__(self):
        super().__init__()
        self.state = opened(cap=cap_of(3.0))
        self.signed = []
        self.charged, self.settled, self.count, self.over = {}, set(), {}, set()
        self.numbers = 0

    def attempt(self, body):
        before = snapshot(self.state)
        try:
            apply(self.state, body)
        except LedgerError:
            assert snapshot(self.state) == before
            return False
        return True

    @rule(target=studies, scale=st.sampled_from([0.02, 0.1, 0.5, 1.0]), count=st.integers(1, 4))
    def approve(self, scale, count):
        self.numbers += 1
        sums = (DeclaredSum(function="gradient", count=count, terms=terms_of(scale)),)
        if self.attempt(approval(self.numbers, sums=sums)):
            self.count[self.numbers] = (scale, count)
        return self.numbers

    @rule(number=studies, index=st.integers(0, 5))
    def charge(self, number, index):
        scale, count = self.count.get(number, (1.0, 0))
        asked = [key for key in self.charged if key[0] == number]
        legal = (
            number not in self.over and (number, index) not in self.charged and len(asked) < count
        )
        assert self.attempt(charge(index, number=number, terms=terms_of(scale))) == legal
        if legal:
            self.charged[number, index] = scale

    @rule(number=studies, index=st.integers(0, 5), burn=st.booleans())
    def settle(self, number, index, burn):
        body = burnt(index, number=number) if burn else answered(index, number=number)
        legal = (number, index) in self.charged and (number, index) not in self.settled
        assert self.attempt(body) == legal
        if legal:
            self.settled.add((number, index))

    @rule(number=studies)
    def close(self, number):
        pending = {key for key in self.charged if key[0] == number} - self.settled
        legal = number in self.count and number not in self.over and not pending
        assert self.attempt(closed(number)) == legal
        if legal:
            self.over.add(number)

    @invariant()
    def what_was_charged_is_within_the_budget(self):
        events = [terms_of(scale).sums(1).event for scale in self.charged.values()]
        budget = self.state.budget("people")
        assert budget.cap.holds(budget.held)
        assert all(
            one <= two + 1e-12
            for one, two in zip(budget.spent.renyi, budget.held.renyi, strict=True)
        )
        if events:
            assert epsilon_of(events, budget.cap.delta) <= budget.cap.epsilon


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_replay_of_signed_entries_is_the_state_that_wrote_them():
    state, signed = LedgerState(), []
    for body in (
        Opened(site="site", key=KEY.public.hex()), Namespace(namespace="people", cap=cap_of()),
        DataSet(data_set="records", namespace="people", unit=None), approval(), charge(), answered(),
    ):  # fmt: skip
        entry = state.next_entry(body, time=7)
        state.apply(entry)
        signed.append(SignedEntry.sign(entry, KEY))
    assert snapshot(replay(signed, KEY.public)) == snapshot(state)
    with pytest.raises(
        LedgerError, match="Expected a ledger with at least the entry that opens it"
    ):
        replay([])
