"""A site's masked answers: one a query, under one set of keys, unmasked for one sum, whatever the coordinator does.

Every refusal here charges nothing, unless a test says so.
"""

import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from ledgers import DATA_SET, cap_of, key_of, ledger_of
from masking import Masked, roster_of, with_roster

from client.answers import RefusedError, Site
from client.ledger import Ledger, read_ledger
from client.tables import Records
from privacy.errors import LedgerError, ProtocolError
from privacy.keystream import derive_key
from privacy.secure_aggregation.messages import OpenRequest, SetupRequest, Upload
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.ledger_state import replay
from study.models import model_of
from study.queries import NONCE_BYTES, Refusal, SumQuery
from study.receipts import ReceiptedAnswer, check_receipts

NAMES = ("site-1", "site-2", "site-3", "site-4")
ROSTER = roster_of(*NAMES)
OTHER_ROSTER = roster_of(*reversed(NAMES))


def declaration_of(*, trust="aggregate", roster=ROSTER, number=0, dropouts=1):
    study = Study(
        name="example",
        data=Data(
            task="classification", label="ill", classes=("no", "yes"), expected_records=40, test_fraction=0.0,
            features=("age", "height"), bounds={"default": (0.0, 10.0)},
        ),
        model=Model(kind="logistic"),
        training=Training(rounds=6),
        privacy=Privacy(trust=trust, noise_multiplier=30.0, max_dropouts=dropouts),
        sites=Sites(minimum=4),
    )  # fmt: skip
    declaration = Declaration(study=study, sites=4, noise_multiplier=30.0, nonce=f"{number:032x}")
    return declaration if roster is None else with_roster(declaration, roster)


def query_of(declaration, index=0, *, nonce=bytes(NONCE_BYTES), shift=0.0):
    parameters = model_of(declaration.study).initial(bytes(32))
    parameters = {name: np.asarray(value + shift) for name, value in parameters.items()}
    return SumQuery(
        study=declaration.hash, index=index, function="gradient", nonce=nonce, parameters=parameters
    ).to_bytes()  # fmt: skip


def records_of(count):
    generator = np.random.default_rng(count)
    return Records(
        generator.uniform(0, 10, (count, 2)), generator.integers(0, 2, count), np.arange(count),
        [b"%d" % each for each in range(count)], np.ones(count, dtype=np.bool_), "records",
    )  # fmt: skip


class Four:
    """Four sites with durable ledgers, of one masked study that all have approved, and a coordinator.

    Attributes:
        integers: what each site has added to a sum, by (number, index); computed: how often, in that order.
    """

    def __init__(self, directory, declaration=None):
        self.declaration = declaration or declaration_of()
        self.directory, self.integers, self.computed = directory, {}, []
        self.ledgers, self.sites = {}, {}
        for number, name in enumerate(NAMES, start=1):
            self.ledgers[number] = ledger_of(
                name, cap=cap_of(5.0), durable=True, path=self.path(number)
            )
            self.sites[number] = self.site(number)
        self.masked = Masked(
            self.declaration, ROSTER,
            {number: lambda content, number=number: self.sites[number].answer(content) for number in self.sites},
        )  # fmt: skip
        self.masked.set_up()

    def path(self, number):
        return self.directory / NAMES[number - 1] / "ledger.sqlite"

    def site(self, number):
        """A site as it is after a start, which approves again."""
        name = NAMES[number - 1]
        epoch = len(self.computed)  # a site that restarts draws other keys
        site = Site(
            self.ledgers[number],
            entropy=lambda *labels: derive_key(b"masked sums", name, epoch, *labels),
        )
        site.approve(self.declaration, records_of(4 + number), data_set=DATA_SET, roster=ROSTER)
        integers = site._integers

        def recorded(study, query, mechanism):
            self.computed.append((number, query.index))
            self.integers[number, query.index] = integers(study, query, mechanism)
            return self.integers[number, query.index]

        site._integers = recorded
        return site

    def restart(self, number, *, path=None):
        """The site's process ends, and another begins."""
        self.ledgers[number].close()
        self.ledgers[number] = Ledger(path or self.path(number), key_of(NAMES[number - 1]))
        self.sites[number] = self.site(number)

    def query(self, index, **changed):
        """The next query, with the receipts of the ones before."""
        return self.masked.with_receipts(query_of(self.declaration, index, **changed))

    def expected(self, index, *numbers):
        return np.sum([self.integers[number, index] for number in numbers or (1, 2, 3, 4)], axis=0)

    def charged(self, number=1):
        return set(self.ledgers[number].state.account(self.declaration.hash).asked)

    def refusal(self, content, number=1):
        with pytest.raises(RefusedError, match=".") as error:
            self.sites[number].answer(content)
        return error.value.refusal

    def close(self):
        for each in self.ledgers.values():
            each.close()


@pytest.fixture
def four(tmp_path):
    with closing(Four(tmp_path)) as made:
        yield made


class TestSums:
    @pytest.mark.parametrize("trust", ["aggregate", "server"])
    def test_the_masked_sum_is_the_sum_of_what_the_sites_would_have_answered(self, tmp_path, trust):
        with closing(Four(tmp_path, declaration_of(trust=trust))) as four:
            for index in range(3):
                total = four.masked.sum(four.query(index))
                assert total.tolist() == four.expected(index).tolist()

    @pytest.mark.parametrize("missing", [1, 3, 4])
    def test_without_one_it_is_the_sum_of_the_others_and_next_time_of_all(self, four, missing):
        others = [each for each in (1, 2, 3, 4) if each != missing]
        total = four.masked.sum(four.query(0), without=(missing,))
        assert total.tolist() == four.expected(0, *others).tolist()
        assert four.charged(missing) == set()
        total = four.masked.sum(four.query(1))
        assert total.tolist() == four.expected(1).tolist()

    def test_no_upload_is_an_answer(self, four):
        """Masked numbers are spread over the ring: of 3 x 4 sites, hardly one is as small as an answer.

        An answer is below 2^20 here, and a number of the ring is with probability 2^-11 = 5e-4: two of the 16 with
        at most 3e-5 (and the keys are fixed, so what holds once holds always).
        """
        mechanism = Guarantee(four.declaration).mechanism("gradient")
        assert mechanism.bits == 32
        sent = four.masked.upload(four.masked.begin(four.query(0)))
        vectors = [
            Upload.from_bytes(ReceiptedAnswer.from_bytes(each).answer).vector
            for each in sent.values()
        ]
        small = sum(int((np.abs(each.astype(np.int32)) < 2**20).sum()) for each in vectors)
        assert small < 2
        answers = np.array([four.integers[number, 0] for number in sent])
        assert (np.abs(answers) < 2**20).all()

    def test_what_was_agreed_to_stands_in_every_ledger(self, four):
        four.masked.sum(four.query(0))
        four.masked.sum(four.query(1), without=(2,))
        for number, survivors in ((1, (1, 3, 4)), (3, (1, 3, 4))):
            asked = four.ledgers[number].state.account(four.declaration.hash).asked
            assert asked[0].agreed.survivors is None
            assert asked[1].agreed.survivors == survivors


class TestApproval:
    @pytest.mark.parametrize("roster", [None, OTHER_ROSTER])
    def test_a_study_of_another_roster_is_not_approved(self, roster):
        with closing(ledger_of("site-1")) as ledger:
            site = Site(ledger)
            with pytest.raises(ProtocolError, match="Expected a study that was declared for the"):
                site.approve(declaration_of(), records_of(5), data_set=DATA_SET, roster=roster)
            assert ledger.state.studies == {}

    def test_a_masked_study_that_was_declared_for_nobody_is_not_approved(self):
        with closing(ledger_of("site-1")) as ledger:
            site, one = Site(ledger), declaration_of(roster=None)
            with pytest.raises(ProtocolError, match="Expected a roster: sums of this study are"):
                site.approve(one, records_of(5), data_set=DATA_SET)
            with pytest.raises(ProtocolError, match="declared for the roster of this site"):
                site.approve(one, records_of(5), data_set=DATA_SET, roster=ROSTER)
            assert ledger.state.studies == {}

    def test_a_site_that_is_not_on_the_roster_does_not_approve(self):
        with closing(ledger_of("a stranger")) as ledger:
            with pytest.raises(
                ProtocolError, match="Expected a site of the roster, found one that"
            ):
                Site(ledger).approve(
                    declaration_of(), records_of(5), data_set=DATA_SET, roster=ROSTER
                )
            assert ledger.state.studies == {}


class TestOtherForms:
    def test_a_plain_query_to_a_masked_study_is_refused_and_charges_nothing(self, four):
        for _ in range(2):
            assert four.refusal(query_of(four.declaration)) == Refusal.OUT_OF_PROTOCOL
        assert four.computed == []
        assert four.charged() == set()

    def test_a_masked_request_to_a_local_study_is_refused_and_charges_nothing(self, four):
        local = declaration_of(trust="local")
        site = four.sites[1]
        site.approve(local, records_of(5), data_set=DATA_SET, roster=ROSTER)
        federation = four.masked.federation
        setup = SetupRequest(
            study=bytes.fromhex(local.hash), roster=federation.roster, nonce=bytes(16)
        )
        assert four.refusal(setup.to_bytes()) == Refusal.OUT_OF_PROTOCOL
        current = four.masked.begin(query_of(local))
        assert four.refusal(current.request.to_bytes()) == Refusal.OUT_OF_PROTOCOL
        assert four.ledgers[1].state.account(local.hash).asked == {}
        site.answer(query_of(local))

    def test_an_unknown_transcript_is_malformed(self, four):
        request = OpenRequest(transcript=bytes(32), ciphertexts=())
        assert four.refusal(request.to_bytes()) == Refusal.MALFORMED

    def test_a_round_of_another_number_than_its_query_is_refused(self, four):
        current = four.masked.begin(four.query(0))
        request = type(current.request)(
            round=1, payload=current.request.payload, members=four.masked.members
        )
        assert four.refusal(request.to_bytes()) == Refusal.OUT_OF_PROTOCOL
        assert four.charged() == set()


class TestOnce:
    def test_the_same_round_is_answered_with_the_same_bytes_and_computed_once(self, four):
        current = four.masked.begin(four.query(0))
        first = four.sites[1].answer(current.request.to_bytes())
        assert [four.sites[1].answer(current.request.to_bytes()) for _ in range(2)] == [first] * 2
        assert four.computed == [(1, 0)]

    def test_the_same_number_with_another_model_is_refused(self, four):
        four.masked.upload(four.masked.begin(four.query(0)), 1)
        for changed in ({"shift": 1.0}, {"nonce": b"\1" * NONCE_BYTES}):
            other = four.masked.begin(query_of(four.declaration, 0, **changed))
            assert four.refusal(other.request.to_bytes()) == Refusal.OTHER_QUERY_ANSWERED
        assert four.computed == [(1, 0)]

    def test_the_same_number_in_another_session_is_refused(self, four):
        content = four.query(0)
        four.masked.upload(four.masked.begin(content), 1)
        four.masked.set_up(b"\1" * 16)
        other = four.masked.begin(content)
        assert four.refusal(other.request.to_bytes()) == Refusal.OTHER_QUERY_ANSWERED
        assert four.computed == [(1, 0)]

    def test_a_second_set_of_survivors_is_not_agreed_to(self, four):
        """By the ledger, whatever became of the site's memory."""
        four.masked.sum(four.query(0), without=(2,))
        ledger, study = four.ledgers[1], four.declaration.hash
        ledger.agree(study, 0, (1, 3, 4))  # the same again
        for other in ((1, 2, 3), (1, 2, 4), (1, 2, 3, 4), None):
            with pytest.raises(LedgerError, match="agreed on once"):
                ledger.agree(study, 0, other)

    def test_an_answer_that_was_opened_for_all_is_not_opened_for_some(self, four):
        current = four.masked.begin(four.query(0))
        four.masked.upload(current)
        requests = current.close()
        reply = four.sites[1].answer(requests[1].to_bytes())
        assert four.sites[1].answer(requests[1].to_bytes()) == reply
        with pytest.raises(LedgerError, match="agreed on once"):
            four.ledgers[1].agree(four.declaration.hash, 0, (1, 2, 3))


class TestRestarts:
    def test_between_upload_and_unmasking_it_resends_the_bytes_and_unmasks_nothing(self, four):
        current = four.masked.begin(four.query(0))
        sent = four.masked.upload(current)
        requests = current.close()
        four.restart(1)
        assert four.sites[1].answer(current.request.to_bytes()) == sent[1]
        assert four.refusal(requests[1].to_bytes()) == Refusal.MALFORMED  # of no round that is open
        assert four.computed == [(number, 0) for number in (1, 2, 3, 4)]
        later = four.masked.begin(four.query(1))
        assert four.refusal(later.request.to_bytes()) == Refusal.NO_SESSION
        assert four.charged() == {0}
        four.masked.set_up(b"\1" * 16)
        assert four.masked.sum(four.query(1)).tolist() == four.expected(1).tolist()

    def test_the_others_go_on_without_it_until_then(self, four):
        four.masked.sum(four.query(0))
        four.restart(4)
        total = four.masked.sum(four.query(1), without=(4,))
        assert total.tolist() == four.expected(1, 1, 2, 3).tolist()
        assert four.charged(4) == {0}

    def test_the_same_query_with_another_cohort_is_refused(self, four):
        content = four.query(0)
        four.masked.upload(four.masked.begin(content))
        four.restart(1)
        four.masked.set_up(b"\1" * 16, only=(1, 2, 3))
        other = four.masked.begin(content)
        assert four.refusal(other.request.to_bytes()) == Refusal.OTHER_QUERY_ANSWERED
        assert four.computed == [(number, 0) for number in (1, 2, 3, 4)]

    def test_a_crash_after_an_agreement_leaves_it_on_the_disk_and_unmasks_nothing(
        self, four, monkeypatch
    ):
        current = four.masked.begin(four.query(0))
        four.masked.upload(current, 1, 2, 3)
        requests, agree = current.close(), Ledger.agree

        def crash(self, *arguments):
            agree(self, *arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "agree", crash)
            with pytest.raises(KeyboardInterrupt):
                four.sites[1].answer(requests[1].to_bytes())
        four.restart(1)
        asked = four.ledgers[1].state.account(four.declaration.hash).asked[0]
        assert asked.agreed.survivors == (1, 2, 3)
        assert four.refusal(requests[1].to_bytes()) == Refusal.MALFORMED
        with pytest.raises(LedgerError, match="agreed on once"):
            four.ledgers[1].agree(four.declaration.hash, 0, (1, 2, 4))

    def test_where_the_disk_fails_nothing_is_unmasked(self, four, monkeypatch):
        current = four.masked.begin(four.query(0))
        four.masked.upload(current)
        requests = current.close()

        def failing(*_arguments):
            raise LedgerError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "agree", failing)
            assert four.refusal(requests[1].to_bytes()) == Refusal.UNAVAILABLE
        four.sites[1].answer(requests[1].to_bytes())  # nothing had changed

    def test_an_upload_that_could_not_be_stored_joins_no_round(self, four, monkeypatch):
        current = four.masked.begin(four.query(0))

        def failing(*_arguments):
            raise LedgerError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "store", failing)
            assert four.refusal(current.request.to_bytes()) == Refusal.UNAVAILABLE
        assert four.refusal(current.request.to_bytes()) == Refusal.UNAVAILABLE
        asked = four.ledgers[1].state.account(four.declaration.hash).asked[0]
        assert asked.status == "burnt"
        assert four.masked.sum(four.query(1)).tolist() == four.expected(1).tolist()


def copied(ledger_path, copy):
    """A whole copy of a ledger at this moment, as of a backup."""
    with closing(sqlite3.connect(ledger_path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.chmod(0o600)
    return copy


class TestRestoredBackups:
    """A ledger that was put back has forgotten charges; what it receipted since then tells."""

    @pytest.fixture
    def restored(self, four, tmp_path):
        """Site 1 goes on from a copy that was made after query 0; there were two more."""
        four.masked.sum(four.query(0))
        self.early = dict(four.masked.receipts)
        copy = copied(four.path(1), tmp_path / "backup.sqlite")
        for index in (1, 2):
            four.masked.sum(four.query(index))
        self.late = four.masked.receipts[1][-1]
        four.ledgers[1].close()
        for each in four.path(1).parent.iterdir():
            each.unlink()
        shutil.move(copy, four.path(1))
        four.restart(1)
        four.masked.set_up(b"\1" * 16)
        return four

    def test_the_site_refuses_when_its_own_later_receipt_is_shown(self, restored):
        assert restored.charged() == {0}
        current = restored.masked.begin(restored.query(3))
        for _ in range(2):
            assert restored.refusal(current.request.to_bytes()) == Refusal.LEDGER_BEHIND
        assert restored.charged() == {0}
        assert "the one that was receipted, found none or another" in restored.sites[1].problems[0]

    def test_the_others_refuse_when_it_is_left_out(self, restored):
        del restored.masked.receipts[1]
        self.nobody_else_goes_on(restored)

    def test_the_others_refuse_when_an_older_one_is_shown(self, restored):
        restored.masked.receipts[1] = self.early[1]
        self.nobody_else_goes_on(restored)

    def forked(self, restored, *indices):
        """Receipts of the restored ledger's last entry, after it was asked these, which it was asked before."""
        alone = Masked(restored.declaration, ROSTER, {1: restored.sites[1].answer})
        alone.set_up(b"\2" * 16)
        for index in indices:
            alone.upload(alone.begin(query_of(restored.declaration, index, shift=2.0)), 1)
        return alone.receipts[1]

    def test_the_others_refuse_when_a_fork_is_shown(self, restored):
        """Another entry in the place of one that they know."""
        forked = self.forked(restored, 1)
        known = restored.ledgers[2].witnessed(key_of(NAMES[0]).public)[restored.declaration.hash]
        assert forked[-1].receipt.sequence == known.number
        assert forked[-1].receipt.head != known.receipt.receipt.head
        restored.masked.receipts[1] = forked
        self.nobody_else_goes_on(restored)

    def test_the_others_refuse_a_fork_that_has_gone_further(self, restored):
        """Whatever is written to a ledger that went back: its receipts do not go on from those that are known."""
        forked = self.forked(restored, 1, 2, 4)
        known = restored.ledgers[2].witnessed(key_of(NAMES[0]).public)[restored.declaration.hash]
        assert forked[-1].receipt.sequence > known.number
        restored.masked.receipts[1] = forked
        self.nobody_else_goes_on(restored)

    def test_a_fork_that_has_gone_further_is_found_by_whoever_keeps_receipts(self, restored):
        self.forked(restored, 1, 2, 4)
        entries, key = read_ledger(restored.path(1)), key_of(NAMES[0]).public
        with pytest.raises(
            LedgerError, match="expected its head at entry .* the ledger was forked"
        ):
            check_receipts(entries, replay(entries, key), [self.late], key)

    def nobody_else_goes_on(self, restored):
        content = query_of(restored.declaration, 3)
        shown = {**self.latest_of_the_others(restored), **{
            number: each for number, each in restored.masked.receipts.items() if number == 1
        }}  # fmt: skip
        restored.masked.receipts = shown
        current = restored.masked.begin(restored.masked.with_receipts(content))
        for number in (2, 3, 4):
            assert restored.refusal(current.request.to_bytes(), number) == Refusal.LEDGER_BEHIND
            assert restored.charged(number) == {0, 1, 2}
            assert (
                "Expected the ledger of site-1 to go on from where this site has seen it"
                in restored.sites[number].problems[0]
            )

    def latest_of_the_others(self, restored):
        return {
            number: restored.ledgers[number].receipts(restored.declaration.hash, 2) for number in (2, 3, 4)
        }  # fmt: skip


class TestReceipts:
    def test_a_receipt_of_another_site_or_study_is_malformed(self, four):
        four.masked.sum(four.query(0))
        right = dict(four.masked.receipts)
        for wrong in ({2: right[3]}, {5: right[1]}):
            four.masked.receipts = right | wrong
            current = four.masked.begin(four.query(1))
            assert four.refusal(current.request.to_bytes()) == Refusal.MALFORMED
        assert four.charged() == {0}

    def test_a_copy_that_missed_nothing_goes_on(self, four, tmp_path):
        """A restored ledger is not refused for being one, but for what it has forgotten."""
        four.masked.sum(four.query(0))
        copy = copied(four.path(1), tmp_path / "backup.sqlite")
        four.restart(1, path=copy)
        four.masked.set_up(b"\1" * 16)
        assert four.masked.sum(four.query(1)).tolist() == four.expected(1).tolist()
