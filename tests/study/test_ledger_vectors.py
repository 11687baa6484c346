"""A ledger that was written once reads the same for ever, and what was refused once stays refused."""

import json
from pathlib import Path

import pytest

from audit.verify import verify_export
from privacy.errors import LedgerError
from privacy.signing import SigningKey
from study.ledger_entries import BODIES, Entry, SignedEntry
from study.receipts import SignedReceipt, receipts_of

PLACE = Path(__file__).parents[1] / "vectors"
VECTORS = json.loads((PLACE / "ledger.json").read_text(encoding="utf-8"))
LINES = [each.encode() for each in VECTORS["lines"]]
RECEIPTS = [each.encode() for each in VECTORS["receipts"]]
KEY = SigningKey.from_seed(bytes.fromhex(VECTORS["seed"]))
PUBLIC = bytes.fromhex(VECTORS["public"])


def test_the_key_is_the_one_of_rfc_8032():
    assert KEY.public == PUBLIC
    assert VECTORS["public"].startswith("d75a980182b10ab7d54bfed3c964073a")


def test_the_command_that_is_written_there_is_the_one_that_made_them():
    script = VECTORS["command"].split()[-1]
    assert (PLACE.parents[1] / script).is_file()
    assert VECTORS["command"] in (PLACE.parents[1] / script).read_text(encoding="utf-8")


def test_the_export_verifies_with_its_receipts():
    verdict = verify_export(LINES, PUBLIC, RECEIPTS)
    assert verdict.state.head == VECTORS["head"]
    assert (verdict.state.entries, verdict.receipts) == (len(LINES), len(RECEIPTS)) == (20, 4)
    assert 0 < verdict.state.budget("people").epsilon_spent < 3


def test_every_byte_of_it_is_written_again_from_what_it_says():
    """Ed25519 is deterministic: the same entries under the same key are the same lines."""
    kinds = set()
    for line in LINES:
        signed = SignedEntry.from_line(line)
        entry = Entry.from_bytes(signed.content)
        kinds.add(type(entry.body))
        assert SignedEntry.sign(entry, KEY).to_line() == line
    assert kinds == set(BODIES.values())
    state = verify_export(LINES, PUBLIC).state
    assert [each.to_line() for each in receipts_of(state, KEY)] == RECEIPTS
    for line in RECEIPTS:
        receipt = SignedReceipt.from_line(line).receipt
        assert SignedReceipt.sign(receipt, KEY).to_line() == line


@pytest.mark.parametrize(
    "wrong", [pytest.param(each, id=each["name"]) for each in VECTORS["refused"]]
)
def test_every_export_that_was_refused_is_refused_for_the_same_reason(wrong):
    lines = [LINES[each] if isinstance(each, int) else each.encode() for each in wrong["lines"]]
    with pytest.raises(LedgerError, match=".") as error:
        verify_export(lines, PUBLIC)
    assert error.value.message.startswith(wrong["expected"])
