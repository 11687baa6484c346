"""A receipt holds a ledger to what it once said: rolled back, forked, or with another answer it is found out."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import (
    approved,
    approved_masked,
    cap_of,
    chained,
    charged,
    hash_named,
    key_of,
    opening,
)

from privacy.errors import LedgerError, ProtocolError
from study.canonical import canonical_json
from study.ledger_entries import Agreed, Answered, Burnt, Closed, Refused, hash_of
from study.ledger_state import replay
from study.receipts import (
    Receipt,
    ReceiptedAnswer,
    SignedReceipt,
    check_receipts,
    receipt_of,
    receipts_of,
)

KEY = key_of("site")
STUDY = hash_named("study")
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)


def answered(index, answer="answer"):
    return Answered(study=STUDY, index=index, answer=hash_named(f"{answer} {index}"))


BODIES = [
    *opening(cap=cap_of(10.0)), approved(count=5),
    charged(1), answered(1), charged(0), Burnt(study=STUDY, index=0), charged(2), answered(2),
]  # fmt: skip
ENTRIES = chained(BODIES, key=KEY)
STATE = replay(ENTRIES, KEY.public)
RECEIPTS = receipts_of(STATE, KEY)


def receipt_with(**changed):
    return replace(RECEIPTS[0].receipt, **changed)


def check(bodies=None, receipts=RECEIPTS, *, time=1_000):
    entries = ENTRIES if bodies is None else chained(bodies, key=KEY, time=time)
    return check_receipts(entries, replay(entries), receipts, KEY.public)


# What is receipted


def test_every_answered_query_has_a_receipt_and_no_other():
    assert [each.receipt.index for each in RECEIPTS] == [1, 2]
    for signed, sequence in zip(RECEIPTS, (4, 8), strict=True):
        receipt = signed.receipt
        signed.verify(KEY.public)
        assert (receipt.study, receipt.sequence) == (STUDY, sequence)
        assert receipt.head == hash_of(ENTRIES[sequence].content)
        assert receipt.transcript == hash_named(f"query {receipt.index}")
        assert receipt.answer == hash_named(f"answer {receipt.index}")


def test_a_ledger_stands_by_its_own_receipts_and_goes_on():
    assert check() == 2
    assert check([*BODIES, charged(3), answered(3), Closed(study=STUDY)]) == 2
    assert check(receipts=[]) == 0
    assert check(receipts=RECEIPTS[1:] * 3) == 3


def test_one_receipt_is_the_one_among_all_and_says_so_whenever_it_is_asked_for():
    for signed in RECEIPTS:
        index, account = signed.receipt.index, STATE.account(STUDY)
        assert receipt_of(account, index, KEY) == signed
        assert receipt_of(account, index, KEY).to_line() == signed.to_line()


def test_what_was_not_answered_has_no_receipt():
    state = replay(chained([*BODIES, charged(3)], key=KEY))
    for index in (0, 3):  # burnt, and pending
        with pytest.raises(LedgerError, match=f"Expected query {index} to be answered"):
            receipt_of(state.account(STUDY), index, KEY)


def test_what_is_agreed_on_later_changes_no_receipt():
    """It was sent before; and it is the answer's, not the sum's."""
    study = approved_masked(count=5)
    bodies = [
        *opening(cap=cap_of(10.0)),
        study,
        replace(charged(1), terms=study.sums[0].terms),
        answered(1),
    ]
    before = receipts_of(replay(chained(bodies, key=KEY)), KEY)
    bodies.append(Agreed(study=STUDY, index=1, survivors=(1, 2, 3)))
    assert receipts_of(replay(chained(bodies, key=KEY)), KEY) == before
    assert check(bodies, before) == 1


# What a site sends


def with_answer(answer):
    """An answer and its receipt."""
    receipt = receipt_with(answer=hashlib.sha256(answer).hexdigest())
    return ReceiptedAnswer(chain=(SignedReceipt.sign(receipt, KEY),), answer=answer)


@given(st.binary(max_size=300))
def test_an_answer_and_its_receipt_are_read_as_they_were_written(answer):
    one = with_answer(answer)
    found = ReceiptedAnswer.from_bytes(one.to_bytes())
    assert found == one
    assert found.to_bytes() == one.to_bytes()
    receipts = b"[" + one.signed.to_line() + b"]"
    assert one.to_bytes() == len(receipts).to_bytes(4, "big") + receipts + answer


def test_a_receipt_of_another_answer_is_refused():
    content = with_answer(b"answer").to_bytes()
    for wrong in (content + b"\0", content[:-1], content[:-1] + b"R"):
        with pytest.raises(ProtocolError, match="a receipt of this answer, found one of another"):
            ReceiptedAnswer.from_bytes(wrong)
    other = replace(with_answer(b"answer"), answer=b"another")
    with pytest.raises(ProtocolError, match="found one of another"):
        ReceiptedAnswer.from_bytes(other.to_bytes())


def test_nothing_that_is_cut_short_flipped_or_declared_longer_is_read():
    content = with_answer(b"answer").to_bytes()
    for cut in range(len(content)):
        with pytest.raises(ProtocolError, match="Expected"):
            ReceiptedAnswer.from_bytes(content[:cut])
    for length in (0, 1, len(content) - 5, len(content) - 3, 2**31, 2**32 - 1):
        with pytest.raises(ProtocolError, match="Expected"):
            ReceiptedAnswer.from_bytes(length.to_bytes(4, "big") + content[4:])
    for bit in range(8 * len(content)):
        data = bytearray(content)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = ReceiptedAnswer.from_bytes(bytes(data))
        except ProtocolError:
            continue
        assert found.to_bytes() == bytes(
            data
        )  # a receipt of something else, which its signature tells
        with pytest.raises(ProtocolError, match="signature"):
            found.signed.verify(KEY.public)


@given(st.binary(max_size=64))
def test_no_bytes_are_read_as_an_answer_by_chance(data):
    with pytest.raises(ProtocolError, match="Expected"):
        ReceiptedAnswer.from_bytes(data)


# What they find


@pytest.mark.parametrize("kept", [4, 6, 8])
def test_a_ledger_that_was_put_back_is_found(kept):
    """The export alone is flawless: only whoever has kept a receipt knows that something is missing."""
    assert replay(ENTRIES[:kept], KEY.public).entries == kept
    with pytest.raises(
        LedgerError, match=f"found a ledger of {kept} entries: it was rolled back"
    ) as error:
        check(BODIES[:kept])
    assert "put back an old copy" in error.value.hint


def test_putting_back_what_came_after_the_last_receipt_is_not_found():
    """A receipt covers what stands before its own charge, and nothing after it."""
    assert check([*BODIES[:9], answered(2)]) == 2
    with pytest.raises(
        LedgerError, match="expected the answer that was receipted, found another or none"
    ):
        check(BODIES[:9])


def test_a_ledger_that_was_put_back_and_went_on_is_a_fork():
    for bodies in (
        [*BODIES[:4], charged(0), answered(0), charged(3), answered(3), charged(4)],
        [*BODIES[:4], Refused(study=STUDY, reason="x"), *BODIES[4:]],
    ):
        assert replay(chained(bodies, key=KEY)).entries >= 9
        with pytest.raises(
            LedgerError, match="query 1.*at entry 4, found another: the ledger was forked"
        ) as error:
            check(bodies)
        assert "two histories" in error.value.hint
    with pytest.raises(LedgerError, match="forked"):  # the same again at another time
        check(BODIES, time=1_001)


def test_the_same_query_answered_otherwise_is_found_although_every_head_agrees():
    """Put back to just before the answer, in the same second: the charge is byte for byte the same, the noise is not."""
    again = [*BODIES[:5], answered(1, "other"), *BODIES[6:]]
    assert chained(again, key=KEY)[4] == ENTRIES[4]
    with pytest.raises(LedgerError, match="the answer that was receipted, found another"):
        check(again, RECEIPTS[:1])
    burnt = [*BODIES[:5], Burnt(study=STUDY, index=1)]
    with pytest.raises(LedgerError, match="the answer that was receipted, found another or none"):
        check(burnt, RECEIPTS[:1])


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"sequence": 5}, "its head at entry 5, found another"), ({"sequence": 2**31 - 1}, "rolled back"),
        ({"head": hash_named("x")}, "its head at entry 4"), ({"index": 2}, "the entry that charged it"),
        ({"index": 7}, "the entry that charged it"), ({"study": hash_named("x")}, "the entry that charged it"),
        ({"transcript": hash_named("x")}, "the entry that charged it"), ({"answer": hash_named("x")}, "the answer"),
        ({"sequence": 5, "head": hash_of(ENTRIES[5].content)}, "the entry that charged it"),
        ({"sequence": 0, "head": hash_of(ENTRIES[0].content)}, "the entry that charged it"),
    ],
)  # fmt: skip
def test_whatever_a_signed_receipt_says_otherwise_is_a_contradiction(changed, match):
    signed = SignedReceipt.sign(receipt_with(**changed), KEY)
    with pytest.raises(LedgerError, match=match):
        check(receipts=[RECEIPTS[1], signed])


def test_two_receipts_of_one_number_cannot_both_stand():
    """Whichever history the site shows."""
    other = chained([*BODIES[:4], charged(1, query="other"), answered(1)], key=KEY)
    receipts = [*RECEIPTS[:1], *receipts_of(replay(other), KEY)]
    assert receipts[0].receipt.sequence == receipts[1].receipt.sequence
    for entries in (ENTRIES, other):
        with pytest.raises(LedgerError, match="forked"):
            check_receipts(entries, replay(entries), receipts, KEY.public)


def test_a_receipt_that_the_site_did_not_sign_accuses_nobody():
    for forged in (
        SignedReceipt.sign(receipt_with(sequence=100), key_of("other")),
        replace(RECEIPTS[0], receipt=receipt_with(sequence=100)),
        replace(RECEIPTS[0], signature=KEY.sign("ledger", canonical_json(receipt_with().to_values()))),
        replace(RECEIPTS[0], signature=bytes(64)), replace(RECEIPTS[0], signature=b""),
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="signature"):
            check(receipts=[forged])


# Its one form


@given(HASHES, HASHES, HASHES, HASHES, st.integers(0, 2**31 - 1))
def test_every_receipt_survives_its_line(study, transcript, head, answer, number):
    receipt = Receipt(
        previous="0" * 64, study=study, index=number, transcript=transcript, sequence=2**31 - 1 - number, head=head, answer=answer
    )  # fmt: skip
    signed = SignedReceipt.sign(receipt, KEY)
    assert SignedReceipt.from_line(signed.to_line()) == signed
    assert b"\n" not in signed.to_line()


@pytest.mark.parametrize("name", ["study", "transcript", "head", "answer"])
@pytest.mark.parametrize(
    "wrong", [None, 5, int("1" * 64), "", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 63 + "\n"]
)
def test_a_malformed_hash_is_refused(name, wrong):
    with pytest.raises(ProtocolError, match=f"Expected {name} of 64"):
        receipt_with(**{name: wrong})


@pytest.mark.parametrize("name", ["index", "sequence"])
@pytest.mark.parametrize("wrong", [None, True, -1, 2**31, 1.0, "1", 10**400])
def test_a_malformed_number_is_refused(name, wrong):
    with pytest.raises(ProtocolError, match=f"Expected {name} from 0"):
        receipt_with(**{name: wrong})


def malformed_lines():
    line = RECEIPTS[0].to_line()
    values = json.loads(line)
    inner = values["receipt"]
    for name in inner:
        yield canonical_json(values | {"receipt": {k: v for k, v in inner.items() if k != name}})
    for changed in (
        {"more": 1},
        {"version": 2},
        {"version": True},
        {"index": "1"},
        {"head": None},
        {"study": 5},
    ):
        yield canonical_json(values | {"receipt": inner | changed})
    for changed in (
        {"receipt": None}, {"receipt": []}, {"signature": None}, {"signature": "0" * 127}, {"signature": "G" * 128},
        {"signature": values["signature"].upper()}, {"more": 1},
    ):  # fmt: skip
        yield canonical_json(values | changed)
    yield from (
        canonical_json({"receipt": inner}),
        b"",
        b"{}",
        b"[]",
        b"5",
        b"null",
        b"\xff\x00",
        line[:-1],
    )
    yield from (
        line + b"\n",
        line.replace(b",", b", ", 1),
        line.replace(b'"version":1', b'"version":1.0'),
    )


@pytest.mark.parametrize("line", list(malformed_lines()))
def test_every_malformed_line_is_refused(line):
    with pytest.raises(ProtocolError, match="Expected"):
        SignedReceipt.from_line(line)
