"""An export is believed only as far as it can be checked: the first contradiction is named by its number."""

import json
from dataclasses import replace

import numpy as np
import pytest
from ledgers import DATA_SET, NAMESPACE, cap_of, key_of, ledger_of

from audit.summary import budget_summary, study_summary
from audit.verify import verify_export
from client.answers import Site
from client.ledger import read_ledger
from client.tables import Records
from privacy.errors import LedgerError
from study.canonical import canonical_json
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.declaration import Declaration
from study.ledger_entries import Answered, Approved, Burnt, Charged, Entry, SignedEntry, hash_of
from study.ledger_state import replay
from study.models import model_of
from study.queries import NONCE_BYTES, SumQuery
from study.receipts import Receipt, SignedReceipt, receipts_of

KEY = key_of("site")


def declaration_of(number=0, *, rounds=3, noise=2.0):
    study = Study(
        name="example",
        data=Data(
            task="classification", label="ill", classes=("no", "yes"), expected_records=40, test_fraction=0.0,
            features=("age", "height"), bounds={"default": (0.0, 10.0)},
        ),
        model=Model(kind="logistic"), training=Training(rounds=rounds),
        privacy=Privacy(noise_multiplier=noise), sites=Sites(minimum=3),
    )  # fmt: skip
    return Declaration(study=study, sites=3, noise_multiplier=noise, nonce=f"{number:032x}")


def records():
    generator = np.random.default_rng(1)
    return Records(
        generator.uniform(0, 10, (12, 2)), generator.integers(0, 2, 12), np.arange(12),
        [b"%d" % each for each in range(12)], np.ones(12, dtype=np.bool_), "records",
    )  # fmt: skip


def query_of(declaration, index):
    parameters = model_of(declaration.study).initial(bytes(32))
    return SumQuery(
        declaration=declaration, index=index, function="gradient", parameters=parameters, nonce=bytes(NONCE_BYTES)
    ).to_bytes()  # fmt: skip


@pytest.fixture(scope="module")
def history():
    """(entries, receipts) of a site that has answered two queries of three of one study, and has approved another."""
    ledger = ledger_of(cap=cap_of())
    site = Site(ledger)
    one, other = declaration_of(), declaration_of(1)
    for each in (one, other):
        site.approve(each, records(), data_set=DATA_SET)
    for index in (0, 4):
        site.answer(query_of(one, index))
    site.close_study(one.hash)
    return read_ledger(ledger._path), receipts_of(ledger.state, KEY)


def lines_of(entries):
    return [each.to_line() for each in entries]


def resigned(bodies_of, entries, key=KEY):
    """The history that a dishonest site writes with its own key: every body changed, chained and signed anew."""
    state_head, found = "0" * 64, []
    for number, each in enumerate(entries):
        entry = Entry.from_bytes(each.content)
        body = bodies_of(number, entry.body)
        if body is None:
            continue
        made = Entry(sequence=len(found), previous=state_head, time=entry.time, body=body)
        found.append(SignedEntry.sign(made, key))
        state_head = hash_of(found[-1].content)
    return found


def place_of(entries, kind):
    return next(
        number
        for number, each in enumerate(entries)
        if isinstance(Entry.from_bytes(each.content).body, kind)
    )


class TestAnHonestLedger:
    def test_it_verifies_with_its_receipts(self, history):
        entries, receipts = history
        verdict = verify_export(
            lines_of(entries), KEY.public, [each.to_line() for each in receipts]
        )
        assert (verdict.state.entries, verdict.receipts) == (len(entries), 2)

    def test_its_summaries_say_what_happened(self, history):
        state = verify_export(lines_of(history[0]), KEY.public).state
        budget = budget_summary(state, NAMESPACE)
        assert (
            0 < budget["epsilon_spent"] < budget["epsilon_spent_and_reserved"] < budget["epsilon"]
        )
        assert budget["remaining_mu"] > 0
        closed, still_open = (study_summary(state, each) for each in state.studies.values())
        assert (closed["status"], closed["declared"], closed["answered"], closed["burnt"]) == (
            "closed",
            3,
            2,
            0,
        )
        assert (still_open["status"], still_open["charged"]) == ("open", 0)
        json.dumps([budget, closed, still_open], allow_nan=False)


class TestWhatOthersCanDoToAnExport:
    def test_any_entry_removed_is_missed_at_its_place(self, history):
        lines = lines_of(history[0])
        for number in range(len(lines) - 1):
            with pytest.raises(LedgerError, match=f"Entry {number}: Expected"):
                verify_export(lines[:number] + lines[number + 1 :], KEY.public)

    def test_a_removed_end_is_found_by_receipts_alone(self, history):
        entries, receipts = history
        shorter = lines_of(entries[: receipts[-1].receipt.sequence])
        assert verify_export(shorter, KEY.public).state.entries == len(shorter)
        with pytest.raises(LedgerError, match="it was rolled back"):
            verify_export(shorter, KEY.public, [each.to_line() for each in receipts])

    def test_any_two_entries_exchanged_are_found(self, history):
        lines = lines_of(history[0])
        for number in range(len(lines) - 1):
            swapped = [*lines]
            swapped[number], swapped[number + 1] = swapped[number + 1], swapped[number]
            with pytest.raises(LedgerError, match=f"Entry {number}: Expected"):
                verify_export(swapped, KEY.public)

    def test_any_entry_twice_is_found(self, history):
        lines = lines_of(history[0])
        for number in range(len(lines)):
            with pytest.raises(LedgerError, match=f"Entry {number + 1}: Expected"):
                verify_export(lines[: number + 1] + lines[number:], KEY.public)

    def test_any_number_changed_is_found_at_its_entry(self, history):
        lines = lines_of(history[0])
        for number, line in enumerate(lines):
            values = json.loads(line)
            values["entry"]["time"] += 1
            changed = canonical_json(values)
            with pytest.raises(LedgerError, match=f"Entry {number}: Expected a signature"):
                verify_export([*lines[:number], changed, *lines[number + 1 :]], KEY.public)

    def test_any_bit_of_a_signature_changed_is_found(self, history):
        line = lines_of(history[0])[3]
        values = json.loads(line)
        signature = bytearray(bytes.fromhex(values["signature"]))
        for bit in range(0, 512, 37):
            signature[bit // 8] ^= 1 << bit % 8
            values["signature"] = signature.hex()
            changed = canonical_json(values)
            lines = lines_of(history[0])
            lines[3] = changed
            with pytest.raises(LedgerError, match="Entry 3: Expected a signature"):
                verify_export(lines, KEY.public)
            signature[bit // 8] ^= 1 << bit % 8

    def test_another_sites_key_verifies_nothing(self, history):
        with pytest.raises(LedgerError, match="Entry 0: Expected the ledger of the given key"):
            verify_export(lines_of(history[0]), key_of("another").public)
        forged = resigned(lambda _number, body: body, history[0], key_of("another"))
        with pytest.raises(LedgerError, match="Entry 0: Expected a signature"):
            verify_export(lines_of(forged), KEY.public)

    @pytest.mark.parametrize("lines", [[], [b""], [b"{}"], [b"\xff"], [b"null"], [b"[" * 3000]])
    def test_what_is_no_export_is_said_to_be_none(self, lines):
        with pytest.raises(LedgerError, match="Expected"):
            verify_export(lines, KEY.public)


class TestWhatADishonestSiteCannotSay:
    """It has its key, and may sign any history; these contradict themselves all the same."""

    def test_more_noise_than_its_terms_yield(self, history):
        def louder(_number, body):
            if not isinstance(body, Approved | Charged):
                return body
            if isinstance(body, Charged):
                return replace(body, terms=replace(body.terms, noise_multiplier=60.0))
            sums = [
                replace(each, terms=replace(each.terms, noise_multiplier=60.0))
                for each in body.sums
            ]
            return replace(body, sums=tuple(sums))

        number = place_of(history[0], Approved)
        with pytest.raises(LedgerError, match=f"Entry {number}: Expected sound terms"):
            verify_export(lines_of(resigned(louder, history[0])), KEY.public)

    def test_a_study_beyond_its_budget(self, history):
        def longer(_number, body):
            if not isinstance(body, Approved):
                return body
            return replace(body, sums=tuple(replace(each, count=29) for each in body.sums))

        number = place_of(history[0], Approved)
        with pytest.raises(
            LedgerError, match=f"Entry {number}: Expected a study within the lifetime"
        ):
            verify_export(lines_of(resigned(longer, history[0])), KEY.public)

    def test_an_answer_without_its_charge(self, history):
        def free(_number, body):
            return None if isinstance(body, Charged) else body

        with pytest.raises(LedgerError, match="to be charged and pending, found none"):
            verify_export(lines_of(resigned(free, history[0])), KEY.public)

    def test_a_second_answer_to_one_query(self, history):
        entries = history[0]
        number = place_of(entries, Answered)
        twice = entries[: number + 1] + entries[number:]
        with pytest.raises(LedgerError, match="pending, found one that is answered"):
            verify_export(lines_of(resigned(lambda _number, body: body, twice)), KEY.public)

    def test_a_charge_at_other_terms_than_approved(self, history):
        def cheaper(_number, body):
            if not isinstance(body, Charged):
                return body
            return replace(body, terms=replace(body.terms, sampling_rate=0.5))

        with pytest.raises(LedgerError, match="Expected the terms that were approved"):
            verify_export(lines_of(resigned(cheaper, history[0])), KEY.public)

    def test_an_answer_to_a_burnt_query(self, history):
        entries = history[0]

        def burnt(number, body):
            first = number == place_of(entries, Answered)
            return Burnt(study=body.study, index=body.index) if first else body

        number = place_of(entries, Answered)
        both = entries[: number + 1] + entries[number:]
        with pytest.raises(LedgerError, match="pending, found one that is burnt"):
            verify_export(lines_of(resigned(burnt, both)), KEY.public)

    def test_what_it_can_say_alone_is_another_history_and_receipts_contradict_it(self, history):
        """It may leave a whole query out, if nobody has kept a receipt."""
        entries, receipts = history
        last = receipts[-1].receipt.index

        def forgetful(_number, body):
            named = getattr(body, "index", None) == last
            return None if named else body

        forged = resigned(forgetful, entries)
        state = verify_export(lines_of(forged), KEY.public).state
        assert sum(len(each.asked) for each in state.studies.values()) == 1
        with pytest.raises(LedgerError, match=r"(rolled back|forked)"):
            verify_export(lines_of(forged), KEY.public, [each.to_line() for each in receipts])


class TestReceipts:
    def test_one_of_another_history_is_a_fork(self, history):
        entries, receipts = history
        other = resigned(lambda _number, body: body, entries)
        moved = [Entry.from_bytes(each.content) for each in entries]
        later = [SignedEntry.sign(moved[0], KEY)]
        for each in moved[1:]:
            made = replace(each, previous=hash_of(later[-1].content), time=each.time + 5)
            later.append(SignedEntry.sign(made, KEY))
        assert replay(later, KEY.public).entries == len(other)
        with pytest.raises(LedgerError, match="the ledger was forked"):
            verify_export(lines_of(later), KEY.public, [each.to_line() for each in receipts])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"answer": "0" * 64}, "the answer that was receipted"),
            ({"transcript": "0" * 64}, "the entry that charged it"),
            ({"index": 9}, "the entry that charged it"),
            ({"study": "0" * 64}, "the entry that charged it"),
            ({"sequence": 0}, "the ledger was forked"),
            ({"head": "0" * 64}, "the ledger was forked"),
            ({"sequence": 10_000}, "it was rolled back"),
        ],
    )
    def test_one_that_the_site_signed_falsely_is_contradicted(self, history, change, message):
        entries, receipts = history
        false = SignedReceipt.sign(replace(receipts[0].receipt, **change), KEY)
        with pytest.raises(LedgerError, match=message):
            verify_export(lines_of(entries), KEY.public, [false.to_line()])

    def test_one_by_another_key_or_of_another_form_is_none(self, history):
        entries, receipts = history
        stranger = SignedReceipt.sign(receipts[0].receipt, key_of("another"))
        with pytest.raises(LedgerError, match="Receipts: Expected a signature"):
            verify_export(lines_of(entries), KEY.public, [stranger.to_line()])
        with pytest.raises(LedgerError, match="Receipt 2: Expected"):
            verify_export(lines_of(entries), KEY.public, [receipts[0].to_line(), b"{}"])

    def test_a_receipt_names_what_it_is_of(self, history):
        entries, receipts = history
        for each in receipts:
            assert isinstance(each.receipt, Receipt)
            entry = Entry.from_bytes(entries[each.receipt.sequence].content)
            assert isinstance(entry.body, Charged)
            assert entry.body.query == each.receipt.transcript
