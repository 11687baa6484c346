"""Which entry may come next, what everything adds up to, and that a refused entry changes nothing."""

import copy
import math
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ledgers import (
    DATA_SET,
    NAMESPACE,
    approved,
    approved_masked,
    cap_of,
    chained,
    charged,
    hash_named,
    key_of,
    opening,
    terms_of,
)

from privacy.errors import BudgetError, LedgerError
from privacy.filters import Cost
from study.ledger_entries import (
    BODIES,
    Agreed,
    Answered,
    Burnt,
    Closed,
    DataSet,
    DeclaredSum,
    Namespace,
    Opened,
    Refused,
    SignedEntry,
)
from study.ledger_state import LedgerState, replay

STUDY = hash_named("study")


def answered(index=0, *, study="study", answer="answer"):
    return Answered(study=hash_named(study), index=index, answer=hash_named(answer))


def agreed(index=0, survivors=None, *, study="study"):
    return Agreed(study=hash_named(study), index=index, survivors=survivors)


def burnt(index=0, *, study="study"):
    return Burnt(study=hash_named(study), index=index)


def closed(study="study"):
    return Closed(study=hash_named(study))


def say(state, *bodies):
    for body in bodies:
        state.apply(state.next_entry(body, time=1_000))
    return state


def state_of(*bodies, cap=None):
    return say(LedgerState(), *opening(cap=cap), *bodies)


def everything(state):
    return copy.deepcopy(vars(state))


def refused(state, body, match, error=LedgerError):
    """The entry may not come next, and the whole state is as it was."""
    before = everything(state)
    with pytest.raises(error, match=match) as raised:
        say(state, body)
    assert type(raised.value) is error
    assert everything(state) == before
    return raised.value


# Each row of the table


def test_a_ledger_is_opened_once_and_first():
    for body in (*opening()[1:], approved(), charged(), closed(), Refused(study=STUDY, reason="x")):
        refused(LedgerState(), body, "opens the ledger")
    refused(state_of(), opening()[0], "opens the ledger")
    refused(state_of(), Opened(site="other", key=key_of("other").public.hex()), "opens the ledger")


def test_a_namespace_is_opened_once_so_its_budget_never_changes():
    state = state_of(cap=cap_of(3.0))
    for cap in (cap_of(3.0), cap_of(5.0), None):
        refused(state, Namespace(namespace=NAMESPACE, cap=cap), "new namespace")
    say(state, Namespace(namespace="others", cap=cap_of(5.0)))
    assert state.namespaces == {NAMESPACE: cap_of(3.0), "others": cap_of(5.0)}


def test_a_data_set_keeps_its_namespace_and_unit_and_may_grow():
    state = state_of(Namespace(namespace="others", cap=cap_of()))
    one = state.data_sets[DATA_SET]
    refused(state, replace(one, namespace="nowhere"), "a namespace of this ledger")
    refused(state, replace(one, namespace="others"), "keep its namespace and unit")
    refused(state, replace(one, unit="patient"), "keep its namespace and unit")
    say(state, one)
    assert state.data_sets == {DATA_SET: one}


def test_a_namespace_is_of_records_or_of_units_that_columns_name_and_never_of_both():
    """Or a patient's budget would be spent once for each record that he has."""
    state = state_of()
    one = state.data_sets[DATA_SET]
    refused(
        state, replace(one, data_set="second", unit="patient"), "all of records, or all of units"
    )
    say(state, Namespace(namespace="others", cap=cap_of()))
    say(state, replace(one, data_set="second", namespace="others", unit="patient"))
    say(state, replace(one, data_set="third", namespace="others", unit="pid"))
    refused(
        state,
        replace(one, data_set="fourth", namespace="others"),
        "all of records, or all of units",
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"part": "test"},
        {"unit": "site"},
        {"unit": "a unit of column patient"},
        {"adjacency": "replace-one"},
    ],
)
def test_terms_mean_what_this_version_has_for_units_of_this_data_set(changed):
    """No answer is of test units or seen with more than one share, and none protects less than the budget's units."""
    cheaper = DeclaredSum(function="gradient", count=1, terms=terms_of(**changed))
    refused(state_of(cap=cap_of()), approved(sums=(cheaper,)), "for training units, and record")


@pytest.mark.parametrize("trust", ["local", "server", "unsafe", "Aggregate"])
def test_terms_are_for_one_share_of_noise_where_no_more_is_in_what_is_seen(trust):
    """A site's own answer has one; with trust `server` sites add none, and the coordinator's is one."""
    many = DeclaredSum(
        function="gradient", count=1,
        terms=terms_of(sites=9, survivors=9, threshold=9, quorum=9, shares=5),
    )  # fmt: skip
    study = approved_masked(trust=trust, sums=(many,))
    for cap in (None, cap_of()):
        refused(state_of(cap=cap), study, "for one share of noise")
        few = DeclaredSum(function="gradient", count=1, terms=terms_of())
        assert say(state_of(cap=cap), replace(study, sums=(few,))).studies


def test_a_masked_study_is_charged_with_every_share_that_is_sure_to_be_in_a_sum_and_no_more():
    """Two of three sites are honest: two shares buy more than one does, and three are refused before."""
    state = state_of(approved_masked(), cap=cap_of())
    assert state.account(STUDY).approval.sums[0].terms.shares == 2
    louder = DeclaredSum(function="gradient", count=1, terms=terms_of(made_of=2, shares=1))
    refused(
        state_of(cap=cap_of()), approved_masked(sums=(louder,)), "sound terms of gradient.*noise"
    )


@pytest.mark.parametrize("trust", ["aggregate", "server"])
@pytest.mark.parametrize("changed", [{"quorum": 2}, {"threshold": 1}, {"colluding": 0}])
def test_a_masked_study_is_approved_only_with_thresholds_that_carry_it(trust, changed):
    weak = DeclaredSum(function="gradient", count=1, terms=terms_of(**changed))
    for cap in (None, cap_of()):
        refused(
            state_of(cap=cap), approved_masked(trust=trust, sums=(weak,)), "sound terms of gradient"
        )
    say(state_of(cap=cap_of()), approved(sums=(weak,)))  # what nobody masks needs none


@pytest.mark.parametrize("trust", ["aggregate", "server"])
def test_a_masked_study_names_its_roster(trust):
    bare = DeclaredSum(function="gradient", count=1, terms=None)
    for cap, study in (
        (cap_of(), approved_masked(trust=trust)), (None, approved_masked(trust=trust)),
        (None, approved_masked(trust=trust, sums=(bare,))),
    ):  # fmt: skip
        refused(state_of(cap=cap), replace(study, roster=None), "the roster of a study whose sums")
        say(state_of(cap=cap), study)
    for roster in (None, hash_named("roster")):
        say(state_of(cap=cap_of()), replace(approved(), roster=roster))


def test_a_study_is_approved_once_for_a_data_set_that_is_there():
    state = state_of(approved())
    refused(state, approved(), "new to this ledger, found one that was approved otherwise")
    refused(state, approved(count=1), "approved otherwise")
    refused(state, approved("other", data_set="nowhere"), "a data set of this ledger")
    say(state, closed())
    refused(state, approved(), "found one that is closed")


def test_terms_that_are_not_sound_are_not_approved():
    liar = DeclaredSum(function="gradient", count=1, terms=terms_of(noise_multiplier=5.0))
    for cap in (None, cap_of()):
        refused(
            state_of(cap=cap), approved(sums=(liar,)), "sound terms of gradient.*noise_multiplier"
        )


def test_a_study_without_privacy_is_approved_only_where_nothing_is_protected():
    bare = (DeclaredSum(function="gradient", count=1, terms=None),)
    half = (*bare, DeclaredSum(function="moments", count=1, terms=terms_of()))
    for sums in (bare, half):
        refused(state_of(cap=cap_of()), approved(sums=sums), "with privacy, found one without")
        assert state_of(approved(sums=sums)).account(STUDY).closed is False


def test_a_charge_needs_an_open_study_a_new_number_a_sum_that_is_left_and_the_approved_terms():
    state = state_of(approved(count=2))
    refused(state, charged(study="unknown"), "a study that was approved")
    refused(state, charged(function="moments"), "a function that the study declares")
    refused(state, charged(terms=terms_of(noise_multiplier=3.9)), "the terms that were approved")
    refused(state, charged(terms=terms_of(unit="patient")), "the terms that were approved")
    say(state, charged(5))
    refused(state, charged(5), "found number 5 again")
    refused(state, charged(5, query="other"), "found number 5 again")
    say(state, charged(0))
    refused(state, charged(1), "at most 2 queries of gradient")
    say(state, answered(5), burnt(0))
    refused(state, charged(5), "found number 5 again")
    refused(state, charged(0), "found number 0 again")
    refused(state, charged(1), "at most 2 queries of gradient")
    say(state, closed())
    refused(state, charged(1), "an open study, found one that is closed")


def test_only_what_is_pending_can_be_answered_or_burnt_and_once():
    state = state_of(approved(count=3))
    for settle in (answered, burnt):
        refused(state, settle(study="unknown"), "a study that was approved")
        refused(state, settle(), "to be charged and pending, found none")
    say(state, charged(0), charged(1), answered(0), burnt(1))
    for settle in (answered, burnt):
        refused(state, settle(0), "pending, found one that is answered")
        refused(state, settle(1), "pending, found one that is burnt")
        refused(state, settle(2), "pending, found none")
    refused(state, answered(0, answer="another"), "pending, found one that is answered")
    say(state, closed())
    for settle in (answered, burnt):
        refused(state, settle(0), "found one that is closed")


@pytest.mark.parametrize("trust", ["aggregate", "server"])
@pytest.mark.parametrize("survivors", [None, (1, 2, 3)])
def test_a_sum_is_agreed_on_once_for_a_query_that_was_answered(trust, survivors):
    state = state_of(approved_masked(trust=trust, count=4), cap=cap_of())
    terms = state.account(STUDY).approval.sums[0].terms
    refused(state, agreed(study="unknown"), "a study that was approved")
    refused(state, agreed(0, survivors), "query 0 to be answered, and its answer masked")
    say(state, charged(0, terms=terms), charged(1, terms=terms))
    refused(state, agreed(0, survivors), "query 0 to be answered")
    say(state, burnt(1), answered(0))
    refused(state, agreed(1, survivors), "query 1 to be answered")
    say(state, agreed(0, survivors))
    assert state.account(STUDY).asked[0].agreed == agreed(0, survivors)
    assert state.account(STUDY).asked[0].status == "answered"
    for other in (None, (1, 2, 3)):
        refused(state, agreed(0, other), "query 0 to be agreed on once")
    refused(state, answered(0), "pending, found one that is answered")
    refused(state, burnt(0), "pending, found one that is answered")
    say(state, charged(2, terms=terms), answered(2), closed())
    refused(state, agreed(2, survivors), "an open study, found one that is closed")


def test_nothing_is_agreed_on_where_nothing_is_masked():
    state = state_of(replace(approved(), roster=hash_named("roster")), charged(), answered())
    for survivors in (None, (1, 2, 3)):
        refused(state, agreed(0, survivors), "answered, and its answer masked")


@pytest.mark.parametrize(
    "survivors", [(1,), (1, 2, 3), (1, 2, 3, 4, 6), (2, 3, 4, 5, 6, 7, 10), tuple(range(1, 11))]
)
def test_survivors_are_m_sites_of_the_roster_at_least(survivors):
    wide = terms_of(sites=9, survivors=7, threshold=7, quorum=7)
    study = approved_masked(
        trust="server", sums=(DeclaredSum(function="gradient", count=1, terms=wide),)
    )
    state = state_of(study, charged(terms=wide), answered(), cap=cap_of())
    refused(state, agreed(0, survivors), "at least 7 survivors of 9 sites")
    for enough in ((1, 2, 3, 4, 5, 6, 7), (2, 4, 5, 6, 7, 8, 9), tuple(range(1, 10)), None):
        say(copy.deepcopy(state), agreed(0, enough))


def test_a_masked_study_without_privacy_agrees_too():
    """It has no terms, so no bounds of its survivors either; the sums that it asks protect nobody."""
    bare = DeclaredSum(function="gradient", count=1, terms=None)
    bodies = (approved_masked(sums=(bare,)), charged(), answered())
    state = say(LedgerState(), *opening(), bodies[0], replace(bodies[1], terms=None), bodies[2])
    say(state, agreed(0, (5,)))
    assert state.account(STUDY).asked[0].agreed == agreed(0, (5,))


def test_what_was_agreed_on_costs_nothing():
    """The charge has paid for the sum, whichever it is."""
    body = approved_masked(count=2)
    terms = body.sums[0].terms
    state = state_of(body, charged(terms=terms), answered(), cap=cap_of())
    before = state.budget(NAMESPACE)
    assert say(state, agreed()).budget(NAMESPACE) == before
    assert say(state, closed()).budget(NAMESPACE).held == cap_of().cost([terms.sums(1)])


def test_a_study_is_closed_once_when_nothing_is_pending():
    state = state_of(approved(count=2), charged(0), charged(1), answered(0))
    refused(state, closed("unknown"), "a study that was approved")
    refused(state, closed(), "no pending query, found number 1")
    say(state, burnt(1), closed())
    refused(state, closed(), "found one that is closed")


def test_a_refusal_may_be_logged_at_any_time():
    state = state_of(approved())
    for study in ("study", "unknown"):
        say(state, Refused(study=hash_named(study), reason="NOT_APPROVED"))
    say(state, closed(), Refused(study=STUDY, reason="NOT_APPROVED"))
    assert state.refusals == {(hash_named(each), "NOT_APPROVED") for each in ("study", "unknown")}


@pytest.mark.parametrize(
    "changed", [{"sequence": 4}, {"sequence": 2}, {"previous": "0" * 64}, {"previous": STUDY}]
)
def test_an_entry_follows_the_one_before(changed):
    state = state_of()
    before, entry = everything(state), state.next_entry(approved(), time=1_000)
    with pytest.raises(LedgerError, match="follows the one before"):
        state.apply(replace(entry, **changed))
    assert everything(state) == before
    state.apply(entry)
    with pytest.raises(LedgerError, match="follows the one before"):
        state.apply(entry)
    assert (state.entries, state.head) == (4, entry.hash)


def test_every_kind_of_entry_has_been_applied_here():
    study = approved_masked(count=3)
    terms = study.sums[0].terms
    state = state_of(study, charged(0, terms=terms), charged(1, terms=terms), answered(0))
    say(state, agreed(0), burnt(1), closed(), Refused(study=STUDY, reason="x"))
    assert state.entries == 3 + 8
    assert len(BODIES) == 10


def test_what_became_of_a_query_is_kept_with_the_entry_that_charged_it():
    state = state_of(approved(count=3), charged(4))
    head, asked = state.head, state.account(STUDY).asked[4]
    assert (asked.sequence, asked.head, asked.status, asked.answer) == (4, head, "pending", None)
    say(state, answered(4))
    asked = state.account(STUDY).asked[4]
    assert (asked.sequence, asked.head, asked.status) == (4, head, "answered")
    assert asked.answer == hash_named("answer")
    say(state, charged(5), burnt(5))
    assert (state.account(STUDY).asked[5].status, state.account(STUDY).asked[5].answer) == (
        "burnt",
        None,
    )


# Budgets


def test_a_study_is_reserved_whole_and_gives_back_what_it_never_asked_and_nothing_else():
    cap = cap_of(10.0)
    state = state_of(cap=cap)
    whole, one, two = (cap.cost([terms_of().sums(count)]) for count in (20, 1, 2))

    def stands(spent, held):
        budget = state.budget(NAMESPACE)
        assert budget.cap == cap
        for found, expected in ((budget.spent, spent), (budget.held, held)):
            assert found.renyi == pytest.approx(expected.renyi)
            assert found.extra == pytest.approx(expected.extra)

    stands(cap.nothing, cap.nothing)
    say(state, approved(count=20))
    stands(cap.nothing, whole)
    say(state, charged(0))
    stands(one, whole)
    say(state, answered(0), charged(1))
    stands(two, whole)
    say(state, burnt(1))
    stands(two, whole)
    say(state, closed())
    stands(two, two)
    say(state, approved("other", count=1))
    stands(two, two + one)


def test_a_study_that_never_asked_anything_costs_nothing_when_it_is_closed():
    state = state_of(approved(count=20), closed(), cap=cap_of())
    assert state.budget(NAMESPACE).held == cap_of().nothing
    assert state.budget(NAMESPACE).epsilon_held == 0


def test_what_does_not_fit_is_refused_and_the_refusal_says_what_remains():
    cap = cap_of(2.0)
    state = state_of(approved(count=2), cap=cap)
    error = refused(state, approved("other", count=40), "lifetime budget of epsilon 2", BudgetError)
    mu = cap.remaining_mu(state.budget(NAMESPACE).held)
    assert f"mu = {mu:.3g}" in error.hint
    assert "closed" in error.hint
    assert f"{state.budget(NAMESPACE).epsilon_held:.3g} of it is spent or reserved" in error.message
    fits = terms_of(math.nextafter(1 / (mu * (1 - 1e-9)), math.inf))
    say(state, approved("other", sums=(DeclaredSum(function="gradient", count=1, terms=fits),)))
    assert state.budget(NAMESPACE).epsilon_held == pytest.approx(2.0, rel=1e-6)
    refused(state, approved("third", count=1), "lifetime budget", BudgetError)


def test_a_lack_of_delta_is_not_called_a_lack_of_epsilon():
    cap = cap_of(10.0, 1e-5)
    greedy = terms_of(1000.0, beta=6e-7)
    sums = (DeclaredSum(function="gradient", count=1, terms=greedy),)
    state = state_of(approved(sums=sums), cap=cap)
    error = refused(
        state,
        approved("other", sums=sums),
        "rounding and unlikely events fit in 1e-06",
        BudgetError,
    )
    assert "epsilon" not in error.message
    assert (
        "6e-07 of it is spent or reserved, and with this study it would be 1.2e-06" in error.message
    )
    assert "at most 4e-07 of delta" in error.hint
    say(state, approved("other", count=1))


def test_no_namespace_pays_for_another():
    state = state_of(
        Namespace(namespace="others", cap=cap_of(1.0)),
        DataSet(data_set="theirs", namespace="others", unit=None),
        cap=cap_of(2.0),
    )  # fmt: skip
    say(state, approved(count=2))
    before = state.budget(NAMESPACE)
    refused(state, approved("other", count=2, data_set="theirs"), "epsilon 1", BudgetError)
    few = terms_of(9.0)
    say(
        state,
        approved("other", count=2, z=9.0, data_set="theirs"),
        charged(0, study="other", terms=few),
    )
    assert state.budget(NAMESPACE) == before
    assert state.budget("others").spent == cap_of(1.0).cost([few.sums(1)])
    say(state, burnt(0, study="other"), closed("other"), closed())
    assert state.budget(NAMESPACE).held == cap_of(2.0).nothing
    assert state.budget("others").held.renyi[0] > 0


def test_where_nothing_is_protected_there_is_no_budget():
    state = state_of(approved(count=10**6, z=0.5))
    assert state.budget(NAMESPACE) is None
    with pytest.raises(LedgerError, match='found "nowhere"'):
        state.budget("nowhere")


def test_a_thousand_closed_studies_are_added_up_once():
    """Each approval used to add all earlier studies up again; what is kept is the same sum."""
    cap, bodies = cap_of(10.0), []
    for number in range(1000):
        bodies += [
            approved(f"{number}", count=2, z=300.0),
            charged(0, study=f"{number}", terms=terms_of(300.0)),
        ]
        bodies += [burnt(0, study=f"{number}"), closed(f"{number}")]
    calls = []
    kind = type(cap)
    original = kind.cost

    def counted(self, sums):
        calls.append(1)
        return original(self, sums)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "cost", counted)
        state = state_of(*bodies, cap=cap)
    assert len(calls) <= 2 * 1000
    one = cap.cost([terms_of(300.0).sums(1)])
    assert state.budget(NAMESPACE).spent.renyi == pytest.approx([1000 * each for each in one.renyi])


# Replaying what is signed


def test_replaying_signed_entries_gives_the_same_state():
    bodies = [*opening(cap=cap_of()), approved(), charged(0), answered(0), charged(1), burnt(1)]
    entries = chained(bodies)
    state = say(LedgerState(), *bodies)
    assert everything(replay(entries)) == everything(state)
    assert everything(replay(entries, key_of("site").public)) == everything(state)


def test_the_first_entry_that_contradicts_is_named():
    bodies = [*opening(cap=cap_of()), approved(), charged(0), answered(0)]
    entries, other = chained(bodies), key_of("other")
    forged = SignedEntry.sign(LedgerState().next_entry(bodies[0], time=1_000), other)
    for number, wrong, match in (
        (5, [*entries[:5], *chained([*bodies[:5], burnt(1)])[5:]], "found none"),
        (3, [*entries[:3], *entries[4:]], "follows the one before"),
        (2, [*entries[:2], replace(entries[2], signature=entries[1].signature), *entries[3:]], "signature"),
        (0, [forged, *entries[1:]], "signature"), (0, entries[1:], "follows the one before"),
        (1, [entries[0], replace(entries[1], content=b"{}"), *entries[2:]], "an entry with"),
        (1, [entries[0], replace(entries[1], content=b"\xff"), *entries[2:]], "canonical"),
    ):  # fmt: skip
        with pytest.raises(LedgerError, match=rf"^Entry {number}: .*{match}"):
            replay(wrong)
    with pytest.raises(LedgerError, match="^Entry 0: .*found another's"):
        replay(entries, other.public)
    with pytest.raises(LedgerError, match="found nothing"):
        replay([])


# Any sequence of entries, against a model of a few lines

NOISE = (3.0, 5.0, 9.0)
NAMES = st.sampled_from(["a", "b", "c", "d"])
INDICES = st.integers(0, 5)
CAPS = {"one": 2.5, "two": 4.0}
HOME = {"one-1": "one", "one-2": "one", "two-1": "two"}


class Sequences(RuleBasedStateMachine):
    """The model knows studies, queries and the sum of 1 / z^2 of each namespace; it knows no entries and no orders."""

    @initialize()
    def open(self):
        self.state, self.bodies = LedgerState(), []
        self.studies, self.largest = {}, {}
        opened, *_ = opening()
        self.tell(opened, allowed=True)
        for name, epsilon in CAPS.items():
            cap = cap_of(epsilon)
            self.largest[name] = cap.remaining_mu(cap.nothing) ** 2
            self.tell(Namespace(namespace=name, cap=cap), allowed=True)
        for data_set, name in HOME.items():
            body = DataSet(data_set=data_set, namespace=name, unit=None)
            self.tell(body, allowed=True)

    def tell(self, body, *, allowed):
        before = everything(self.state)
        try:
            say(self.state, body)
        except LedgerError:
            assert not allowed, body
            assert everything(self.state) == before
            return
        assert allowed, body
        self.bodies.append(body)

    def held(self, namespace):
        return sum(
            (len(each["asked"]) if each["closed"] else each["count"]) / each["z"] ** 2
            for each in self.studies.values()
            if each["namespace"] == namespace
        )

    @rule(
        name=NAMES,
        count=st.integers(1, 4),
        z=st.sampled_from(NOISE),
        data_set=st.sampled_from([*HOME, "nowhere"]),
        masked=st.booleans(),
    )
    def approve(self, name, count, z, data_set, masked):
        namespace = HOME.get(data_set)
        fits = namespace and self.held(namespace) + count / z**2 <= self.largest[namespace]
        allowed = bool(name not in self.studies and fits)
        make = approved_masked if masked else approved
        self.tell(make(name, count=count, z=z, data_set=data_set), allowed=allowed)
        if allowed:
            new = {"namespace": namespace, "count": count, "z": z, "asked": {}, "closed": False}
            new |= {"masked": masked, "agreed": {}}
            self.studies[name] = new

    @rule(
        name=NAMES,
        index=INDICES,
        right=st.booleans(),
        function=st.sampled_from(["gradient", "gradient", "delta"]),
    )
    def charge(self, name, index, right, function):
        study = self.studies.get(name)
        z, made_of = study["z"] if study and right else 50.0, 2 if study and study["masked"] else 1
        allowed = bool(
            study and right and function == "gradient" and not study["closed"]
            and index not in study["asked"] and len(study["asked"]) < study["count"]
        )  # fmt: skip
        terms = terms_of(z, made_of=made_of)
        self.tell(charged(index, study=name, function=function, terms=terms), allowed=allowed)
        if allowed:
            study["asked"][index] = "pending"

    @rule(name=NAMES, index=INDICES, answer=st.booleans())
    def settle(self, name, index, answer):
        study = self.studies.get(name)
        allowed = bool(study and not study["closed"] and study["asked"].get(index) == "pending")
        self.tell((answered if answer else burnt)(index, study=name), allowed=allowed)
        if allowed:
            study["asked"][index] = "answered" if answer else "burnt"

    @rule(
        name=NAMES,
        index=INDICES,
        survivors=st.sampled_from([None, (1, 2, 3), (1, 2), (1, 2, 4)]),
    )
    def agree(self, name, index, survivors):
        study = self.studies.get(name)
        allowed = bool(
            study and study["masked"] and not study["closed"] and study["asked"].get(index) == "answered"
            and index not in study["agreed"] and survivors in (None, (1, 2, 3))
        )  # fmt: skip
        self.tell(agreed(index, survivors, study=name), allowed=allowed)
        if allowed:
            study["agreed"][index] = survivors

    @rule(name=NAMES)
    def close(self, name):
        study = self.studies.get(name)
        allowed = bool(study and not study["closed"] and "pending" not in study["asked"].values())
        self.tell(closed(name), allowed=allowed)
        if allowed:
            study["closed"] = True

    @rule(name=NAMES)
    def refuse(self, name):
        self.tell(Refused(study=hash_named(name), reason="MALFORMED"), allowed=True)

    @rule(
        data_set=st.sampled_from([*HOME]),
        namespace=st.sampled_from([*CAPS, "nowhere"]),
        unit=st.sampled_from([None, "x"]),
    )
    def register(self, data_set, namespace, unit):
        body = DataSet(data_set=data_set, namespace=namespace, unit=unit)
        self.tell(body, allowed=HOME[data_set] == namespace and unit is None)

    @rule(name=st.sampled_from([*CAPS]))
    def raise_the_budget(self, name):
        self.tell(Namespace(namespace=name, cap=cap_of(40.0)), allowed=False)

    @invariant()
    def everything_is_as_the_model_says(self):
        assert set(self.state.studies) == {hash_named(each) for each in self.studies}
        for name, study in self.studies.items():
            account = self.state.account(hash_named(name))
            assert {index: each.status for index, each in account.asked.items()} == study["asked"]
            agreed_on = {index: each.agreed for index, each in account.asked.items() if each.agreed}
            assert {index: each.survivors for index, each in agreed_on.items()} == study["agreed"]
            assert account.closed is study["closed"]
            assert account.charged["gradient"] == len(study["asked"])
            for each in account.asked.values():
                assert (each.answer is not None) is (each.status == "answered")

    @invariant()
    def no_budget_is_exceeded_and_all_that_was_charged_is_counted(self):
        for name in CAPS:
            budget = self.state.budget(name)
            spent = sum(
                len(each["asked"]) / each["z"] ** 2
                for each in self.studies.values()
                if each["namespace"] == name
            )
            for order, one, all_of_it in zip(
                budget.cap.orders, budget.spent.renyi, budget.held.renyi, strict=True
            ):
                assert one == pytest.approx(order * spent / 2)
                assert all_of_it == pytest.approx(order * self.held(name) / 2)
            assert budget.cap.holds(budget.held)
            assert budget.cap.holds(Cost(budget.spent.renyi, budget.spent.extra))
            assert budget.epsilon_spent <= budget.epsilon_held <= budget.cap.epsilon

    def teardown(self):
        if self.bodies:
            assert everything(replay(chained(self.bodies))) == everything(self.state)


Sequences.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnySequenceOfEntries = Sequences.TestCase
