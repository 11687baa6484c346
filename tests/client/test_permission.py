"""A site obeys its policy when it approves and for every query, and what a refusal says does not depend on its data."""

import numpy as np
import pytest
from ledgers import DATA_SET, ledger_of

from client.answers import RefusedError, Site
from client.app import make_client_app
from client.policy import Ceilings, Floors, Policy, PolicyError, PolicyFile, policy_text
from client.tables import Records
from privacy.errors import DataError, PrivacyError
from privacy.keystream import derive_key
from simulations.grid import InProcessGrid
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.declaration import Declaration
from study.envelope import query_message
from study.models import model_of
from study.queries import NONCE_BYTES, Refusal, SumQuery
from study.readiness import readiness_question
from study.receipts import ReceiptedAnswer
from study.rules import Rule

STRICTER = Policy(floors=Floors(sites=4), ceilings=Ceilings(rounds=1))
BROKEN = (Rule.SITES, Rule.ROUNDS)


def declaration_of(*, number=0, rounds=2, **privacy):
    study = Study(
        name="example",
        purpose="To help",
        data=Data(
            task="classification", label="ill", classes=("no", "yes"), expected_records=40, test_fraction=0.0,
            features=("age", "height"), bounds={"default": (0.0, 10.0)},
        ),
        model=Model(kind="logistic"),
        training=Training(rounds=rounds),
        privacy=Privacy(**{"trust": "local", "noise_multiplier": 3.0} | privacy),
        sites=Sites(minimum=3),
    )  # fmt: skip
    z = study.privacy.noise_multiplier
    return Declaration(study=study, sites=3, noise_multiplier=z, nonce=f"{number:032x}")


def query_of(declaration, *, index=0):
    return SumQuery(
        study=declaration.hash, index=index, function="gradient", nonce=bytes(NONCE_BYTES),
        parameters=model_of(declaration.study).initial(bytes(32)),
    ).to_bytes()  # fmt: skip


def records_of(count=12, *, fill=None):
    generator = np.random.default_rng(count)
    features = generator.uniform(0, 10, (count, 2)) if fill is None else np.full((count, 2), fill)
    return Records(
        features, generator.integers(0, 2, count), np.arange(count), [b"%d" % each for each in range(count)],
        np.ones(count, dtype=np.bool_), "ward",
    )  # fmt: skip


def entropy(*labels):
    return derive_key(b"permission", *labels)


@pytest.fixture
def file(tmp_path):
    """A policy's file: `file(policy)` writes it whole; `file.path` is where."""

    def write(policy):
        write.path.write_text(policy_text(policy), encoding="utf-8")

    write.path = tmp_path / "policy.toml"
    write(Policy())
    return write


@pytest.fixture
def site(file):
    return Site(ledger_of(), entropy=entropy, policy=PolicyFile(file.path))


def refused(site, content):
    with pytest.raises(RefusedError, match=".") as error:
        site.answer(content)
    assert str(error.value) == error.value.refusal.explanation
    return error.value.refusal, error.value.rules


NOT_PERMITTED = (Refusal.NOT_PERMITTED, BROKEN)


class TestApproval:
    def test_a_study_that_the_policy_allows_is_answered_as_without_one(self, site):
        one = declaration_of()
        plain = Site(ledger_of(), entropy=entropy)
        for each in (site, plain):
            each.approve(one, records_of(), data_set=DATA_SET)
        first, second = (
            ReceiptedAnswer.from_bytes(each.answer(query_of(one))).answer for each in (site, plain)
        )
        assert first == second

    def test_a_study_that_it_does_not_allow_is_not_approved_and_the_coordinator_learns_the_rules(
        self, site, file
    ):
        file(STRICTER)
        one = declaration_of()
        with pytest.raises(PolicyError, match="floors.sites: expected at least 4, found 3; ceil"):
            site.approve(one, records_of(), data_set=DATA_SET)
        for _ in range(2):
            assert refused(site, query_of(one)) == NOT_PERMITTED
        file(Policy())  # what was not approved is not approved by a policy that has become milder
        assert refused(site, query_of(one)) == (Refusal.NOT_APPROVED, ())
        site.approve(one, records_of(), data_set=DATA_SET)
        site.answer(query_of(one))

    def test_nobody_can_sound_out_a_policy_with_studies_that_its_operator_never_saw(
        self, site, file
    ):
        file(STRICTER)
        assert refused(site, query_of(declaration_of())) == (Refusal.NOT_APPROVED, ())

    @pytest.mark.parametrize("content", [None, b"", b"\xff", b"format = 1\n[floors]\nsites = no\n"])
    def test_without_a_policy_that_can_be_read_nothing_is_approved(self, site, file, content):
        file.path.unlink()
        if content is not None:
            file.path.write_bytes(content)
        with pytest.raises(PolicyError, match="policy.toml"):
            site.approve(declaration_of(), records_of(), data_set=DATA_SET)
        assert refused(site, query_of(declaration_of())) == (Refusal.NOT_PERMITTED, ())

    def test_a_study_without_privacy_is_allowed_by_no_policy_even_in_a_simulation(self, file):
        site = Site(ledger_of(), policy=PolicyFile(file.path), allow_unsafe=True)
        unsafe = declaration_of(trust="unsafe", noise_multiplier=None)
        with pytest.raises(PolicyError, match='studies.trust: .* found "unsafe"'):
            site.approve(unsafe, records_of(), data_set=DATA_SET)
        with pytest.raises(PrivacyError, match="unsafe"):
            Site(ledger_of()).approve(unsafe, records_of(), data_set=DATA_SET)


class TestRecords:
    def test_too_few_units_are_said_to_the_operator_and_nothing_of_it_leaves_the_site(self, site):
        one = declaration_of()
        with pytest.raises(DataError, match="ward: expected at least 10 units, found 9"):
            site.approve(one, records_of(9), data_set=DATA_SET)
        assert refused(site, query_of(one)) == (Refusal.NOT_APPROVED, ())
        site.approve(one, records_of(10), data_set=DATA_SET)
        site.answer(query_of(one))

    def test_a_floor_of_units_that_was_raised_is_no_refusal_in_a_round(self, site, file):
        """It would depend on the data: whoever watches would learn the number of units from the day's refusals."""
        one = declaration_of()
        site.approve(one, records_of(10), data_set=DATA_SET)
        file(Policy(floors=Floors(units=1_000)))
        site.answer(query_of(one))


class TestQueries:
    def test_a_policy_made_stricter_refuses_the_next_query_and_charges_nothing(self, site, file):
        one = declaration_of(rounds=2)
        site.approve(one, records_of(), data_set=DATA_SET)
        first = site.answer(query_of(one, index=0))
        file(STRICTER)
        for index in (0, 1, 2, 3):  # the first was answered before: that does not matter
            assert refused(site, query_of(one, index=index)) == NOT_PERMITTED
        file(Policy())
        assert site.answer(query_of(one, index=0)) == first
        site.answer(query_of(one, index=1))
        assert refused(site, query_of(one, index=2)) == (Refusal.TOO_MANY_QUERIES, ())

    def test_nothing_is_drawn_or_computed_for_a_study_that_is_not_allowed(self, file):
        drawn = []

        def noting(*labels):
            drawn.append(labels)
            return entropy(*labels)

        one = declaration_of()
        site = Site(ledger_of(), entropy=noting, policy=PolicyFile(file.path))
        site.approve(one, records_of(), data_set=DATA_SET)
        file(STRICTER)
        assert refused(site, query_of(one)) == NOT_PERMITTED
        assert drawn == []

    def test_the_change_is_about_each_study_of_its_own(self, site, file):
        short, long = declaration_of(rounds=1), declaration_of(rounds=2)
        for each in (short, long):
            site.approve(each, records_of(), data_set=DATA_SET)
        file(Policy(ceilings=Ceilings(rounds=1)))
        site.answer(query_of(short))
        assert refused(site, query_of(long)) == (Refusal.NOT_PERMITTED, (Rule.ROUNDS,))

    @pytest.mark.parametrize(
        "content",
        [
            None,
            b"",
            b"\xff\x00",
            b"format = 1\n[floors]\nsites",
            b"format = 2\n",
            b"format = 1\n[x]",
        ],
    )
    def test_a_policy_that_cannot_be_read_any_more_refuses_everything(self, site, file, content):
        one = declaration_of()
        site.approve(one, records_of(), data_set=DATA_SET)
        file.path.unlink()
        if content is not None:
            file.path.write_bytes(content)
        for _ in range(3):
            assert refused(site, query_of(one)) == (Refusal.NOT_PERMITTED, ())
        (problem,) = site.problems
        assert str(file.path) in problem
        file(Policy())
        site.answer(query_of(one))

    @pytest.mark.parametrize("failure", [OSError(), MemoryError(), ValueError("x"), KeyError("y")])
    def test_whatever_keeps_a_policy_from_being_read_refuses(self, failure):
        policies = [Policy()]

        def policy():
            if policies:
                return policies.pop()
            raise failure

        site, one = Site(ledger_of(), entropy=entropy, policy=policy), declaration_of()
        site.approve(one, records_of(), data_set=DATA_SET)
        assert refused(site, query_of(one)) == (Refusal.NOT_PERMITTED, ())

    def test_the_operator_reads_once_why_however_often_it_is_asked(self, site, file):
        one = declaration_of()
        site.approve(one, records_of(), data_set=DATA_SET)
        file(STRICTER)
        for _ in range(5):
            refused(site, query_of(one))
        assert len(site.problems) == 1
        assert "floors.sites: expected at least 4, found 3" in site.problems[0]


class TestReadiness:
    """Whether a site would answer is asked at no cost, and answered with what a query would be answered with."""

    def said(self, site, declaration):
        try:
            return site.answer(readiness_question(declaration.hash))
        except RefusedError as refused:
            return refused.refusal, refused.rules

    def test_a_site_that_takes_part_says_so_and_charges_nothing(self, file):
        ledger, one = ledger_of(), declaration_of()
        site = Site(ledger, entropy=entropy, policy=PolicyFile(file.path))
        site.approve(one, records_of(), data_set=DATA_SET)
        before = ledger.state.entries
        for _ in range(3):
            assert self.said(site, one) == readiness_question(one.hash)
        assert ledger.state.entries == before

    def test_one_that_does_not_says_why(self, file):
        one, other = declaration_of(), declaration_of(number=1)
        site = Site(ledger_of(), entropy=entropy, policy=PolicyFile(file.path))
        site.approve(one, records_of(), data_set=DATA_SET)
        assert self.said(site, other) == (Refusal.NOT_APPROVED, ())
        file(STRICTER)
        assert self.said(site, one) == (Refusal.NOT_PERMITTED, BROKEN)
        assert self.said(site, other) == (Refusal.NOT_APPROVED, ()), "nobody sounds the policy out"
        file(Policy())
        site.close_study(one.hash)
        assert self.said(site, one) == (Refusal.NOT_APPROVED, ())

    def test_what_is_no_question_is_malformed(self, file):
        site = Site(ledger_of(), entropy=entropy, policy=PolicyFile(file.path))
        question = readiness_question(declaration_of().hash)
        for broken in (question[:-1], question + b"\0", question[:3] + b"\xff" + question[4:]):
            with pytest.raises(RefusedError) as refused:
                site.answer(broken)
            assert refused.value.refusal == Refusal.MALFORMED


def test_a_refusal_is_the_same_whatever_a_site_holds(file):
    """Code and reason, as they cross the wire: of a normal site, an empty one, and ones whose records break everything."""
    one = declaration_of()
    held = [records_of(12), records_of(40), records_of(12, fill=np.nan), records_of(12, fill=1e300)]
    replies = []
    for records in held:
        file(Policy(floors=Floors(units=0)))
        site = Site(ledger_of(), policy=PolicyFile(file.path))
        site.approve(one, records, data_set=DATA_SET)
        file(STRICTER)
        grid = InProcessGrid({7: make_client_app(site)})
        message = query_message(query_of(one), index=0, node_id=7, seconds=60.0)
        replies += list(grid.send_and_receive([message]))
    assert [(each.error.code, each.error.reason) for each in replies] == [
        (1006, "floors.sites,ceilings.rounds")
    ] * len(held)
