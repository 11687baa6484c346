"""A site's ledger: each query is paid for once and has one answer, and nothing is forgotten, whatever is asked of it."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import (
    DATA_SET,
    FUNCTION,
    KEY,
    NAMESPACE,
    STUDY,
    again,
    approved,
    ask,
    cap_of,
    contents,
    hash_named,
    key_of,
    ledger_of,
    query,
    terms_of,
)

from client.ledger import KEPT_ANSWERS, Ledger, create_ledger, read_ledger
from client.registration import register
from privacy.errors import BudgetError, LedgerError, UserError
from study.ledger_entries import Charged, DataSet, DeclaredSum, Entry, Namespace
from study.ledger_state import replay

# Made once


def test_a_new_ledger_says_whose_it_is_and_nothing_else(path):
    path.parent.mkdir()
    create_ledger(path, KEY, "mercy", clock=lambda: 1234.5)
    (only,) = read_ledger(path)
    entry = Entry.from_bytes(only.content)
    assert (entry.body.site, entry.body.key, entry.time) == ("mercy", KEY.public.hex(), 1234)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_ledger_is_never_written_over(ledger, path):
    before = path.read_bytes()
    for key in (KEY, key_of("other")):
        with pytest.raises(UserError, match="exists") as error:
            create_ledger(path, key, "site")
        assert "never written over" in error.value.hint
    assert path.read_bytes() == before


def test_what_is_no_ledger_is_named(path, tmp_path):
    with pytest.raises(UserError, match="there is no such ledger") as error:
        Ledger(path, KEY)
    assert "discreet ledger register" in error.value.hint
    with pytest.raises(UserError, match="there is no such ledger"):
        read_ledger(tmp_path)
    for content in (b"", b"hello", b"SQLite format 3\0" + bytes(84), bytes(5000)):
        wrong = tmp_path / "wrong.sqlite"
        wrong.write_bytes(content)
        wrong.chmod(0o600)
        for read in (read_ledger, lambda wrong: Ledger(wrong, KEY)):
            with pytest.raises(UserError, match="is no ledger"):
                replay(read(wrong)) if read is read_ledger else read(wrong)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE entries (sequence INTEGER PRIMARY KEY, content, signature)")
    (tmp_path / "other.sqlite").chmod(0o600)
    with pytest.raises(UserError, match="is no ledger"):
        Ledger(tmp_path / "other.sqlite", KEY)


# Charge, store, send


def test_a_query_is_paid_for_once_and_its_answer_kept_byte_for_byte(ledger):
    assert ledger.find(STUDY, 7) is None
    assert ledger.sums_left(STUDY, FUNCTION) == 1000
    ledger.charge(STUDY, 7, FUNCTION, query(7))
    assert (ledger.find(STUDY, 7).status, ledger.stored(STUDY, 7)) == ("pending", None)
    with pytest.raises(LedgerError, match="number 7 again"):
        ledger.charge(STUDY, 7, FUNCTION, query(7))
    ledger.store(STUDY, 7, b"the answer")
    for other in (b"the answer", b"another"):
        with pytest.raises(LedgerError, match="found one that is answered"):
            ledger.store(STUDY, 7, other)
    assert ledger.find(STUDY, 7).status == "answered"
    assert ledger.stored(STUDY, 7) == b"the answer"
    assert ledger.sums_left(STUDY, FUNCTION) == 999


def test_what_was_never_charged_can_be_neither_stored_nor_burnt(ledger, path):
    before = contents(path)
    for settle in (lambda: ledger.store(STUDY, 1, b"x"), lambda: ledger.burn(STUDY, 1)):
        with pytest.raises(LedgerError, match="pending, found none"):
            settle()
    assert contents(path) == before
    assert ledger.stored(STUDY, 1) is None


def test_a_study_or_function_or_data_set_that_nobody_knows_is_refused(ledger):
    for call in (
        lambda: ledger.charge(hash_named("x"), 0, FUNCTION, query(0)), lambda: ledger.find(hash_named("x"), 0),
        lambda: ledger.sums_left(hash_named("x"), FUNCTION), lambda: ledger.close_study(hash_named("x")),
    ):  # fmt: skip
        with pytest.raises(LedgerError, match="a study that was approved"):
            call()
    with pytest.raises(LedgerError, match="a function that the study declares"):
        ledger.charge(STUDY, 0, "moments", query(0))
    with pytest.raises(LedgerError, match='found "nowhere"') as error:
        ledger.data_set("nowhere")
    assert "register" in error.value.hint
    assert ledger.data_set(DATA_SET).namespace == NAMESPACE
    assert not ledger.is_open(hash_named("x"))


def test_only_the_latest_answers_are_kept_and_the_hash_of_every_one(ledger):
    ask(ledger, *range(5), answer=b"bytes")
    kept = [index for index in range(5) if ledger.stored(STUDY, index) is not None]
    assert kept == list(range(5 - KEPT_ANSWERS, 5))
    assert all(ledger.find(STUDY, index).answer for index in range(5))


def test_the_latest_answers_are_those_that_were_stored_last_whatever_their_numbers(ledger):
    ask(ledger, 9, 4, 7, 1)
    assert [index for index in (9, 4, 7, 1) if ledger.stored(STUDY, index)] == [7, 1]


def test_answers_of_one_study_do_not_push_out_anothers(ledger):
    ledger.approve(approved("other", count=1000, z=40.0), [])
    ask(ledger, 0)
    for index in range(5):
        ledger.charge(hash_named("other"), index, FUNCTION, query(index))
        ledger.store(hash_named("other"), index, b"x")
    assert ledger.stored(STUDY, 0) == b"answer"


def test_a_closed_study_keeps_no_bytes_and_is_never_asked_or_approved_again(ledger, path):
    ask(ledger, 0, 1)
    before = ledger.state.budget(NAMESPACE)
    assert ledger.is_open(STUDY)
    ledger.close_study(STUDY)
    assert not ledger.is_open(STUDY)
    assert [ledger.stored(STUDY, index) for index in (0, 1)] == [None, None]
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT COUNT(*) FROM answers").fetchone() == (0,)
    with pytest.raises(LedgerError, match="closed"):
        ledger.charge(STUDY, 2, FUNCTION, query(2))
    with pytest.raises(LedgerError, match="closed"):
        ledger.approve(approved(count=1000, z=40.0), [])
    after = ledger.state.budget(NAMESPACE)
    assert after.spent == after.held == before.spent
    assert after.held.renyi < before.held.renyi
    length = len(read_ledger(path))
    ledger.close_study(STUDY)  # nothing to do
    assert len(read_ledger(path)) == length


def test_a_study_with_a_pending_query_is_not_closed(ledger):
    ledger.charge(STUDY, 0, FUNCTION, query(0))
    with pytest.raises(LedgerError, match="no pending query, found number 0"):
        ledger.close_study(STUDY)
    ledger.burn(STUDY, 0)
    ledger.close_study(STUDY)


def test_what_was_pending_is_burnt_at_the_next_start_and_never_answered(ledger):
    ask(ledger, 0)
    ledger.charge(STUDY, 1, FUNCTION, query(1))
    ledger.charge(STUDY, 5, FUNCTION, query(5))
    assert ledger.burn_pending() == 2
    assert ledger.burn_pending() == 0
    assert [ledger.find(STUDY, each).status for each in (0, 1, 5)] == ["answered", "burnt", "burnt"]
    with pytest.raises(LedgerError, match="found one that is burnt"):
        ledger.store(STUDY, 1, b"too late")
    assert ledger.sums_left(STUDY, FUNCTION) == 997


def test_approving_exactly_the_same_again_costs_nothing(ledger, path):
    before, held = contents(path), ledger.state.budget(NAMESPACE).held
    ledger.approve(approved(count=1000, z=40.0), [])
    assert contents(path) == before
    assert ledger.state.budget(NAMESPACE).held == held
    with pytest.raises(LedgerError, match="approved otherwise"):
        ledger.approve(approved(count=1001, z=40.0), [])


# Refusals


def test_a_refusal_is_logged_once_for_each_study_and_reason(ledger, path):
    length = len(read_ledger(path))
    for _ in range(3):
        for reason in ("MALFORMED", "TOO_MANY_QUERIES"):
            ledger.refuse(STUDY, reason)
    assert len(read_ledger(path)) == length + 2


def test_a_flood_of_refusals_cannot_fill_the_disk_nor_hide_what_matters(ledger, path):
    length = len(read_ledger(path))
    for number in range(250):
        ledger.refuse(hash_named(f"{number}"), "NOT_APPROVED")
    assert len(read_ledger(path)) == length + 100
    ledger.refuse(STUDY, "OTHER_QUERY_ANSWERED")  # of a study that the site knows: always
    assert len(read_ledger(path)) == length + 101
    with again(path) as other:  # the bound holds after a restart too
        other.refuse(hash_named("one more"), "NOT_APPROVED")
    assert len(read_ledger(path)) == length + 101


# Restarts and clocks


def test_nothing_is_lost_at_a_restart(ledger, path):
    """Flower forgets the epsilon that a run has spent when it is restarted."""
    ask(ledger, *range(20))
    ledger.charge(STUDY, 20, FUNCTION, query(20))
    budget, head = ledger.state.budget(NAMESPACE), ledger.state.head
    assert budget.epsilon_spent > 0
    ledger.close()
    for _ in range(2):
        with again(path) as reopened:
            assert reopened.state.budget(NAMESPACE) == budget
            assert reopened.state.head == head
            assert reopened.sums_left(STUDY, FUNCTION) == 979
            assert reopened.stored(STUDY, 19) == b"answer"
            assert reopened.find(STUDY, 20).status == "pending"


def test_a_budget_is_one_over_restarts(path):
    with closing(ledger_of(cap=cap_of(2.0), path=path)) as ledger:
        ledger.approve(approved("one", count=2), [])
    with again(path) as ledger, pytest.raises(BudgetError, match="lifetime budget"):
        ledger.approve(approved("two", count=2), [])


def test_a_clock_that_goes_back_or_stands_still_moves_no_entry(path):
    ticks = iter([5000, 4000, 10, 7000, 7000, 7000, 1])
    path.parent.mkdir()
    create_ledger(path, KEY, "site", clock=lambda: 1000)
    with again(path, clock=lambda: next(ticks)) as ledger:
        ledger.register(
            DataSet(data_set="d", namespace="n", unit=None),
            [],
            opening=Namespace(namespace="n", cap=None),
        )
        ledger.approve(approved(data_set="d"), [])
        ask(ledger, 0)
    times = [Entry.from_bytes(each).time for each in contents(path)]
    assert times == [1000, 5000, 5000, 5000, 7000, 7000]


def test_a_clock_beyond_all_calendars_is_a_failed_write_and_no_more(ledger, path):
    before = contents(path)
    with again(path, clock=lambda: 2.0**60) as other, pytest.raises(LedgerError, match="a time"):
        other.charge(STUDY, 0, FUNCTION, query(0))
    assert contents(path) == before
    ask(ledger, 0)


# Whatever is done to it


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["charge", "store", "burn", "restart", "approve", "close", "refuse", "stored"]),
        st.sampled_from(["a", "b", "c"]), st.integers(0, 3),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_no_sequence_of_calls_answers_twice_or_spends_more_than_the_budget(steps):
    """And what the file says is what the object says, at every step."""
    ledger = ledger_of(cap=cap_of(2.0))
    answers = {}
    for step, name, index in steps:
        study = hash_named(name)
        try:
            if step == "charge":
                ledger.charge(study, index, FUNCTION, query(index))
                assert (study, index) not in answers
                answers[study, index] = None
            elif step == "store":
                ledger.store(study, index, name.encode())
                assert answers[study, index] is None
                answers[study, index] = name.encode()
            elif step == "burn":
                ledger.burn(study, index)
                answers[study, index] = b"burnt"
            elif step == "restart":
                ledger.close()
                ledger = Ledger(ledger._path, KEY, durable=False)
            elif step == "approve":
                ledger.approve(approved(name, count=2, z=6.0), [])
            elif step == "close":
                ledger.close_study(study)
            elif step == "refuse":
                ledger.refuse(study, "MALFORMED")
            else:
                found = ledger.stored(study, index)
                assert found in (None, answers.get((study, index)))
        except LedgerError:
            pass
        budget = ledger.state.budget(NAMESPACE)
        assert budget.cap.holds(budget.held)
        assert budget.epsilon_spent <= budget.epsilon_held <= 2.0
    assert vars(replay(read_ledger(ledger._path))) == vars(ledger.state)
    ledger.close()


# Whom a study asks about


def test_a_study_is_approved_for_units_that_were_registered_and_no_others():
    """Whoever was never registered has no budget here, and could be given a second one elsewhere."""
    ledger = ledger_of(cap=cap_of(), unit="patient", identities=[b"anna", b"ben"])
    approval = approved(
        sums=(
            DeclaredSum(
                function="gradient", count=3, terms=terms_of(unit="a unit of column patient")
            ),
        )
    )
    with pytest.raises(LedgerError, match='registered as "records", found 1 more') as error:
        ledger.approve(approval, [b"anna", b"ben", b"cleo"])
    assert "register the data set anew" in error.value.hint
    assert ledger.state.studies == {}
    register(ledger, data_set=DATA_SET, namespace=NAMESPACE, unit="patient", identities=[b"cleo"])
    ledger.approve(approval, [b"anna", b"ben", b"cleo"])
    assert ledger.is_open(approval.study)


def test_records_are_counted_as_a_study_sees_a_part_of_each_row_alone():
    ledger = ledger_of(cap=cap_of(), identities=[b"row 1", b"row 2"])
    with pytest.raises(LedgerError, match="found 1 more"):
        ledger.approve(approved(), [b"part 1", b"part 2", b"part 3"])
    ledger.approve(approved(), [b"part 1", b"part 2", b"part 2"])
    assert ledger.is_open(approved().study)


def test_one_row_twice_is_no_new_row():
    ledger = ledger_of(cap=cap_of(), identities=[b"row 1"] * 3)
    ledger.approve(approved(), [b"part 1"] * 5)
    assert ledger.is_open(approved().study)


def test_a_charge_has_a_salt_that_nobody_can_guess(tmp_path):
    """Else its hash, which a receipt shows, would tell whether a guess of the entries before it is right."""
    salts = []
    for name in ("one", "two"):
        ledger = ledger_of(name, path=tmp_path / name / "ledger.sqlite")
        ledger.approve(approved(count=3), [])
        for index in range(3):
            ledger.charge(STUDY, index, FUNCTION, query(index))
        bodies = [
            Entry.from_bytes(each.content).body
            for each in read_ledger(tmp_path / name / "ledger.sqlite")
        ]
        salts += [each.salt for each in bodies if isinstance(each, Charged)]
        ledger.close()
    assert len(set(salts)) == 6
    assert all(len(set(each)) > 4 for each in salts)
