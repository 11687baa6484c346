"""A unit's budget is spent once: whatever a data set is called, wherever it lies, whoever asks."""

import contextlib
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DATA_SET, NAMESPACE, cap_of, key_of, ledger_of

from client.answers import RefusedError, Site
from client.ledger import Ledger, read_ledger
from client.registration import identities_of, register
from client.tables import Records, read_table
from privacy.errors import BudgetError, DataError, LedgerError, PrivacyError
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.declaration import Declaration
from study.models import model_of
from study.queries import NONCE_BYTES, Refusal, SumQuery

KEY = key_of("site")
ROWS = ["patient,age,ill", "7,50,yes", "8,61,no", "7,51,yes", "9,30,no"]


@pytest.fixture
def ledger(tmp_path):
    """Two namespaces are there: `people`, of DATA_SET with the units a and b, and `others`, which is empty."""
    with closing(
        ledger_of(cap=cap_of(), identities=[b"a", b"b"], path=tmp_path / "ledger.sqlite")
    ) as made:
        enrol(made, "empty", "others", [])
        yield made


def enrol(ledger, data_set, namespace, identities, *, unit=None, cap=None, distinct=False):
    register(
        ledger, data_set=data_set, namespace=namespace, unit=unit, identities=identities, cap=cap or cap_of(),
        distinct=distinct,
    )  # fmt: skip


def table_of(tmp_path, lines, name="records.csv"):
    path = tmp_path / name
    path.write_text("".join(f"{each}\n" for each in lines), encoding="utf-8")
    return read_table(path)


def marks_in(ledger):
    with closing(sqlite3.connect(ledger._path)) as database:
        return set(database.execute("SELECT mark, data_set FROM units"))


# Who is who


def test_units_are_a_columns_texts_or_else_rows(tmp_path):
    table = table_of(tmp_path, ROWS)
    by_patient, by_row = identities_of(table, "patient"), identities_of(table, None)
    assert len(by_patient) == 3
    assert len(by_row) == 4
    assert not set(by_patient) & set(by_row)
    with pytest.raises(DataError, match='no column "person"'):
        identities_of(table, "person")


def test_a_row_is_what_its_cells_say_wherever_it_and_they_stand(tmp_path):
    rows = set(identities_of(table_of(tmp_path, ROWS), None))
    turned = [",".join(reversed(each.split(","))) for each in (ROWS[0], *reversed(ROWS[1:]))]
    assert set(identities_of(table_of(tmp_path, turned, "turned.csv"), None)) == rows
    spaced = [each.replace(",", " , ") for each in ROWS]
    assert set(identities_of(table_of(tmp_path, spaced, "spaced.csv"), None)) == rows
    np.savez(
        tmp_path / "records.npz",
        patient=np.array([7, 8, 7, 9]),
        age=np.array([50, 61, 51, 30]),
        ill=np.array(["yes", "no", "yes", "no"]),
    )
    assert set(identities_of(read_table(tmp_path / "records.npz"), None)) == rows
    for other in (
        [each.replace("61", "62") for each in ROWS], [ROWS[0].replace("age", "years"), *ROWS[1:]],
        [f"{each},1" for each in ROWS],
    ):  # fmt: skip
        assert set(identities_of(table_of(tmp_path, other, "other.csv"), None)) != rows


def test_cells_are_not_confused_with_one_another(tmp_path):
    one = identities_of(table_of(tmp_path, ["a,b", "1,23"]), None)
    two = identities_of(table_of(tmp_path, ["a,b", "12,3"]), None)
    assert one != two


# One budget


def test_a_unit_with_a_budget_is_refused_in_another_namespace_whatever_the_file_is_called(ledger):
    before = (marks_in(ledger), ledger.state.entries)
    for name in ("copy", "records-2024", "empty"):
        for identities in ([b"a", b"b"], [b"b", b"new"], [b"new", b"a", b"newer"]):
            count = len({b"a", b"b"} & set(identities))
            with pytest.raises(
                LedgerError, match=rf'units or rows \({count}\) that "records" has in "people"'
            ) as error:
                enrol(ledger, name, "others", identities)
            assert "register it in the namespace people" in error.value.hint
            assert "--distinct" in error.value.hint
            assert (marks_in(ledger), ledger.state.entries) == before


def test_a_refused_registration_opens_no_namespace_either(ledger):
    with pytest.raises(LedgerError, match='has in "people"'):
        enrol(ledger, "copy", "third", [b"a"])
    assert set(ledger.state.namespaces) == {NAMESPACE, "others"}
    enrol(ledger, "copy", "third", [b"new"])


def test_data_sets_of_one_namespace_may_share_units_and_share_their_budget(ledger):
    enrol(ledger, "second", NAMESPACE, [b"a", b"c"])
    assert ledger.state.data_sets["second"].namespace == NAMESPACE
    with pytest.raises(LedgerError, match=r'units or rows \(1\) that "second" has in "people"'):
        enrol(ledger, "third", "others", [b"c"])


def test_the_message_counts_units_and_shows_none(ledger):
    enrol(ledger, "second", NAMESPACE, [b"patient 17"])
    with pytest.raises(LedgerError, match=r"units or rows \(1\) that") as error:
        enrol(ledger, "third", "others", [b"patient 17", b"patient 18"])
    assert "patient" not in error.value.message + error.value.hint


def test_distinct_says_that_they_are_others_all_the_same(ledger):
    enrol(ledger, "lookalikes", "others", [b"a", b"z"], distinct=True)
    with pytest.raises(
        LedgerError, match=r"units or rows \(1\)"
    ):  # said of that registration, not for ever
        enrol(ledger, "lookalikes", "others", [b"a", b"z"])
    with pytest.raises(LedgerError, match="has in"):
        enrol(ledger, DATA_SET, NAMESPACE, [b"a", b"b", b"z"])
    enrol(ledger, DATA_SET, NAMESPACE, [b"a", b"b", b"z"], distinct=True)


def test_registering_anew_keeps_the_marks_of_units_that_have_left(ledger):
    """Their budget was spent, and stays spent, also when a data set no longer holds them."""
    enrol(ledger, DATA_SET, NAMESPACE, [b"c"])
    assert len(marks_in(ledger)) == 3
    for left in (b"a", b"b", b"c"):
        with pytest.raises(LedgerError, match=r"units or rows \(1\)"):
            enrol(ledger, "copy", "others", [left])


def test_a_data_set_keeps_its_namespace_and_its_unit(ledger):
    before = (marks_in(ledger), ledger.state.entries)
    with pytest.raises(LedgerError, match="keep its namespace and unit"):
        enrol(ledger, DATA_SET, "others", [b"new"])
    with pytest.raises(LedgerError, match="keep its namespace and unit"):
        enrol(ledger, DATA_SET, NAMESPACE, [b"a"], unit="patient")
    assert (marks_in(ledger), ledger.state.entries) == before


@pytest.mark.parametrize(
    "names",
    [
        {"data_set": ""},
        {"data_set": "a\nb"},
        {"namespace": "x" * 201},
        {"unit": "\x07"},
        {"unit": ""},
    ],
)
def test_a_name_that_no_entry_can_hold_registers_nothing(ledger, names):
    before = (marks_in(ledger), ledger.state.entries)
    settings_ = {"data_set": "d", "namespace": NAMESPACE, "unit": None} | names
    with pytest.raises(Exception, match="a printable name"):
        register(ledger, identities=[b"x"], cap=cap_of(), **settings_)
    assert (marks_in(ledger), ledger.state.entries) == before


def test_marks_survive_a_restart(ledger):
    ledger.close()
    with (
        closing(Ledger(ledger._path, KEY, durable=False)) as reopened,
        pytest.raises(LedgerError, match=r"units or rows \(2\)"),
    ):
        enrol(reopened, "copy", "others", [b"a", b"b"])


# Marks tell nothing


def test_marks_are_of_one_site_and_leave_it_in_no_export(ledger, tmp_path):
    marks = {mark for mark, _ in marks_in(ledger)}
    assert {len(each) for each in marks} == {8}
    with closing(
        ledger_of("other", identities=[b"a", b"b"], path=tmp_path / "other" / "ledger.sqlite")
    ) as other:
        assert not marks & {mark for mark, _ in marks_in(other)}
    export = b"".join(each.to_line() for each in read_ledger(ledger._path))
    for each in marks:
        assert each.hex().encode() not in export
        assert each not in export


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 8), max_size=4), min_size=1, max_size=6),
    st.lists(st.integers(0, 1), min_size=6, max_size=6),
)
def test_no_unit_ever_has_a_budget_in_two_namespaces(people, where):
    ledger = ledger_of(identities=())
    homes = {}
    for number, (members, place) in enumerate(zip(people, where, strict=False)):
        namespace = ("people", "others")[place]
        allowed = all(homes.get(each, namespace) == namespace for each in members)
        identities = [b"%d" % each for each in members]
        try:
            enrol(ledger, f"{number}", namespace, identities)
            assert allowed
            homes |= dict.fromkeys(members, namespace)
        except LedgerError:
            assert not allowed
    ledger.close()


# Studies and the units whose budget they spend


def declaration_of(number=0, *, unit=None, rounds=2, noise=6.0, **training):
    study = Study(
        name="example",
        data=Data(
            task="classification", label="ill", classes=("no", "yes"), expected_records=40, features=("age",),
            bounds={"default": (0.0, 100.0)}, test_fraction=0.0, unit=unit,
        ),
        model=Model(kind="logistic"), training=Training(rounds=rounds, **training),
        privacy=Privacy(trust="local", noise_multiplier=noise), sites=Sites(minimum=3),
    )  # fmt: skip
    return Declaration(study=study, sites=3, noise_multiplier=noise, nonce=f"{number:032x}")


AVERAGING = {
    "algorithm": "dp-fedavg", "local_steps": 1, "local_learning_rate": 0.1, "learning_rate": 1.0, "optimizer": "sgd",
}  # fmt: skip
RECORDS = Records(
    np.array([[20.0], [30.0], [40.0]]), np.array([0, 1, 0]), np.arange(3), [b"1", b"2", b"3"], np.ones(3, dtype=np.bool_)
)  # fmt: skip


def query_of(
    declaration, *, index=0, function="gradient", nonce=bytes(NONCE_BYTES), parameters=None
):
    if parameters is None:
        parameters = model_of(declaration.study).initial(bytes(32))
    return SumQuery(
        study=declaration.hash, index=index, function=function, parameters=parameters, nonce=nonce
    ).to_bytes()


def refusal_of(site, content):
    with pytest.raises(RefusedError, match=".") as error:
        site.answer(content)
    return error.value.refusal


@pytest.mark.parametrize(
    ("registered", "asked", "words"),
    [
        (
            None,
            "patient",
            'protects records, as records was registered, found one of units of column "patient"',
        ),
        (
            "patient",
            None,
            'protects units of column "patient", as records was registered, found one of records',
        ),
        ("patient", "person", 'units of column "patient".*found one of units of column "person"'),
    ],
)
def test_a_study_that_protects_another_unit_than_the_registered_one_is_refused(
    registered, asked, words
):
    """A patient's budget would be spent once for each of his records, and be counted once."""
    ledger = ledger_of(unit=registered, cap=cap_of())
    with pytest.raises(PrivacyError, match=words) as error:
        Site(ledger).approve(declaration_of(unit=asked), RECORDS, data_set=DATA_SET)
    assert "data.unit" in error.value.hint
    assert ledger.state.studies == {}
    Site(ledger).approve(declaration_of(unit=registered), RECORDS, data_set=DATA_SET)


def test_a_study_of_whole_sites_spends_any_units_budget(tmp_path):
    """One unit more or less, whatever it is, moves the site's vector by 2 C at most: that is what is charged."""
    for unit in (None, "patient"):
        ledger = ledger_of(unit=unit, cap=cap_of())
        Site(ledger).approve(declaration_of(**AVERAGING), RECORDS, data_set=DATA_SET)
        (account,) = ledger.state.studies.values()
        assert account.approval.sums[0].terms.adjacency == "replace-one"


def test_a_data_set_that_was_not_registered_answers_nothing():
    ledger = ledger_of(cap=cap_of())
    with pytest.raises(LedgerError, match='Expected a registered data set, found "other"'):
        Site(ledger).approve(declaration_of(), RECORDS, data_set="other")


def test_studies_share_a_budget_and_what_one_does_not_ask_another_may():
    site = Site(ledger_of(cap=cap_of(3.0)))
    first, second = declaration_of(0, rounds=12), declaration_of(1, rounds=12)
    site.approve(first, RECORDS, data_set=DATA_SET)
    with pytest.raises(BudgetError, match="lifetime budget of epsilon 3") as error:
        site.approve(second, RECORDS, data_set=DATA_SET)
    assert "mu = " in error.value.hint
    assert refusal_of(site, query_of(second)) == Refusal.NOT_APPROVED
    site.answer(query_of(first))
    site.close_study(first.hash)
    site.approve(second, RECORDS, data_set=DATA_SET)
    site.answer(query_of(second))
    assert refusal_of(site, query_of(first, index=1)) == Refusal.NOT_APPROVED


def test_after_a_restart_a_study_goes_on_where_it_was():
    ledger, one = ledger_of(cap=cap_of()), declaration_of(rounds=3)
    site = Site(ledger)
    site.approve(one, RECORDS, data_set=DATA_SET)
    first = site.answer(query_of(one))
    ledger.charge(one.hash, 1, "gradient", "0" * 64)  # and there the site was killed
    held = ledger.state.budget(NAMESPACE).held
    ledger.close()
    ledger = Ledger(ledger._path, KEY, durable=False)
    restarted = Site(ledger)
    assert refusal_of(restarted, query_of(one)) == Refusal.NOT_APPROVED  # it lacks the records
    restarted.approve(one, RECORDS, data_set=DATA_SET)
    assert ledger.state.budget(NAMESPACE).held == held
    assert restarted.answer(query_of(one)) == first
    assert refusal_of(restarted, query_of(one, index=1)) == Refusal.OTHER_QUERY_ANSWERED
    restarted.answer(query_of(one, index=2))
    assert refusal_of(restarted, query_of(one, index=3)) == Refusal.TOO_MANY_QUERIES
    statuses = [each.status for each in ledger.state.account(one.hash).asked.values()]
    assert statuses == ["answered", "burnt", "answered"]


def test_a_study_that_another_process_has_closed_is_over_here_too():
    ledger, one = ledger_of(cap=cap_of()), declaration_of()
    site = Site(ledger)
    site.approve(one, RECORDS, data_set=DATA_SET)
    site.answer(query_of(one))
    with closing(Ledger(ledger._path, KEY, durable=False)) as other:
        other.close_study(one.hash)
    for index in (0, 1):
        assert refusal_of(site, query_of(one, index=index)) == Refusal.NOT_APPROVED
    assert site.problems == []
    with pytest.raises(LedgerError, match="found one that is closed"):
        site.approve(one, RECORDS, data_set=DATA_SET)


def test_a_disk_that_fails_again_and_again_fills_no_memory():
    ledger, one = ledger_of(cap=cap_of()), declaration_of()
    site = Site(ledger)
    site.approve(one, RECORDS, data_set=DATA_SET)
    ledger._database.execute("PRAGMA query_only = ON")
    for _ in range(150):
        assert refusal_of(site, query_of(one)) == Refusal.UNAVAILABLE
    assert site.problems == ["LedgerError"]
    ledger._database.execute("PRAGMA query_only = OFF")
    site.answer(query_of(one))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from([0, 1, 2, 3, 2**31 - 1]), st.sampled_from(["gradient", "delta", "moments", "x"]),
            st.booleans(), st.integers(0, 1),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_a_hostile_server_spends_no_more_than_what_was_approved_and_burns_nothing_else(queries):
    """Any queries, in any order, of studies that are approved and that are not, well formed and not."""
    ledger = ledger_of(cap=cap_of(3.0))
    site = Site(ledger)
    declarations = [declaration_of(number, rounds=3, noise=9.0) for number in range(3)]
    for each in declarations[:2]:
        site.approve(each, RECORDS, data_set=DATA_SET)
    held = ledger.state.budget(NAMESPACE).held
    answers = {}
    for which, index, function, right, nonce in queries:
        content = query_of(
            declarations[which], index=index, function=function, nonce=bytes([nonce]) * NONCE_BYTES,
            parameters=None if right else {"weight": np.ones(7)},
        )  # fmt: skip
        with contextlib.suppress(RefusedError):
            answer = site.answer(content)
            assert answers.setdefault((which, index), (content, answer)) == (content, answer)
            assert which < 2
    budget = ledger.state.budget(NAMESPACE)
    assert budget.held == held
    assert all(spent <= most for spent, most in zip(budget.spent.renyi, held.renyi, strict=True))
    for which, each in enumerate(declarations[:2]):
        asked = ledger.state.account(each.hash).asked
        assert set(asked) == {index for one, index in answers if one == which}
        assert len(asked) <= 3
        assert {one.status for one in asked.values()} <= {"answered"}
    assert declarations[2].hash not in ledger.state.studies
    ledger.close()
