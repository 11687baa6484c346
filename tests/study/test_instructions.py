"""An instruction is the coordinator's, to one site; a reply is that site's, to that very instruction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ProtocolError
from privacy.signing import SigningKey
from study.instructions import opened_instruction, opened_reply, signed_instruction, signed_reply

COORDINATOR, SITE, OTHER = (SigningKey.from_seed(bytes([each]) * 32) for each in (1, 2, 3))
NONCE = bytes(range(16))


def instruction(payload=b"question", *, to=SITE, key=COORDINATOR, nonce=NONCE):
    return signed_instruction(payload, to=to.public, key=key, nonce=nonce)


def reply(payload=b"answer", *, to=None, key=SITE):
    return signed_reply(payload, instruction=to or instruction(), sign=key.sign, nonce=NONCE)


def read(content, *, to=SITE, coordinator=COORDINATOR):
    return opened_instruction(content, to=to.public, coordinator=coordinator.public)


def heard(content, *, to=None, site=SITE):
    return opened_reply(content, instruction=to or instruction(), site=site.public)


@given(st.binary(max_size=300))
def test_what_was_signed_is_read(payload):
    assert read(instruction(payload)) == payload
    assert heard(reply(payload)) == payload


def test_only_the_coordinator_instructs_and_only_the_site_it_means():
    for content, why in (
        (instruction(key=OTHER), r"signature \(instruction\)"),
        (instruction(key=SITE), r"signature \(instruction\)"),
        (instruction(to=OTHER), "this site"),
        (reply(), "signed instruction"),
        (b"question", "signed instruction"),
        (b"", "signed instruction"),
    ):
        with pytest.raises(ProtocolError, match=why):
            read(content)


def test_only_the_site_replies_and_only_to_what_it_was_asked():
    again = instruction(nonce=NONCE[::-1])
    for content, why in (
        (reply(key=OTHER), r"signature \(reply\)"),
        (reply(key=COORDINATOR), r"signature \(reply\)"),
        (reply(to=instruction(b"another question")), "this instruction"),
        (reply(to=again), "this instruction"),
        (reply(to=instruction(to=OTHER)), "this instruction"),
        (instruction(), "signed reply"),
        (b"answer", "signed reply"),
    ):
        with pytest.raises(ProtocolError, match=why):
            heard(content)


@pytest.mark.parametrize(("made", "opened"), [(instruction, read), (reply, heard)])
def test_no_byte_can_be_altered_cut_or_added(made, opened):
    content = made()
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1
        for wrong in (bytes(altered), content[:place], content + b"\0"):
            with pytest.raises(ProtocolError, match="Expected"):
                opened(wrong)


@pytest.mark.parametrize("nonce", [b"", NONCE[:-1], NONCE + b"\0"])
def test_a_nonce_has_its_length(nonce):
    """Else a longer one could move the border between nonce and recipient."""
    with pytest.raises(ProtocolError, match="nonce of 16 bytes"):
        instruction(nonce=nonce)


def test_a_signature_for_one_purpose_is_none_for_another():
    """The site signs receipts and keys too: none of what it signs can be passed off as a reply."""
    content = bytearray(reply())
    head, payload = bytes(content[:52]), bytes(content[116:])
    for tag in ("instruction", "ledger", "receipt", "roster", "setup", "survivors"):
        content[52:116] = SITE.sign(tag, head + payload)
        with pytest.raises(ProtocolError, match=r"signature \(reply\)"):
            heard(bytes(content))
