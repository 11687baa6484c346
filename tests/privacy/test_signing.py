"""What was signed for one purpose, by one key, over one message, means nothing else; and a key never shows itself."""

import copy
import pickle
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from ledgers import key_of

from privacy.errors import ProtocolError
from privacy.signing import PROTOCOL, SigningKey, Tag, fingerprint, verify

TAGS = get_args(Tag)
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def test_the_key_of_a_seed_is_that_of_rfc_8032():
    """Section 7.1, test 1."""
    assert SigningKey.from_seed(SEED).public == PUBLIC


@pytest.mark.parametrize("tag", TAGS)
def test_a_signature_is_ed25519_over_protocol_version_tag_a_zero_byte_and_the_message(tag):
    """The form, by another path than the one that signs: nobody may change it unnoticed."""
    signature = SigningKey.from_seed(SEED).sign(tag, b"message")
    expected = f"discreet/v{PROTOCOL}/{tag}".encode() + b"\0message"
    assert signature == Ed25519PrivateKey.from_private_bytes(SEED).sign(expected)
    Ed25519PublicKey.from_public_bytes(PUBLIC).verify(signature, expected)
    assert len(signature) == 64


@given(st.binary(max_size=200), st.sampled_from(TAGS))
def test_a_signature_holds_for_its_own_key_tag_and_message_alone(message, tag):
    key = key_of("site")
    signature = key.sign(tag, message)
    verify(key.public, tag, message, signature)
    others = [
        (key_of("other").public, tag, message),
        (key.public, tag, message + b"\0"),
        (key.public, tag, b"x" + message),
    ]
    others += [(key.public, each, message) for each in TAGS if each != tag]
    others += [(key.public, each, tag.encode() + b"\0" + message) for each in TAGS]
    for public, other_tag, other_message in others:
        with pytest.raises(ProtocolError, match="signature"):
            verify(public, other_tag, other_message, signature)


def test_no_tag_is_the_beginning_of_another():
    assert len(TAGS) >= 2
    for one in TAGS:
        assert "\0" not in one
        assert [each for each in TAGS if (each + "\0").startswith(one + "\0")] == [one]


@pytest.mark.parametrize("place", [0, 31, 32, 63])
def test_a_flipped_bit_is_found(place):
    key = key_of("site")
    signature = bytearray(key.sign("ledger", b"message"))
    signature[place] ^= 1
    with pytest.raises(ProtocolError, match=r"signature \(ledger\)"):
        verify(key.public, "ledger", b"message", bytes(signature))


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
@pytest.mark.parametrize("public", [key_of("site").public, b"", bytes(31), bytes(33), b"\xff" * 32])
def test_what_is_no_signature_or_no_key_is_refused_and_never_crashes(public, signature):
    with pytest.raises(ProtocolError, match="signature"):
        verify(public, "ledger", b"message", signature)


def test_a_key_shows_its_public_half_alone():
    key = SigningKey.from_seed(SEED)
    for shown in (repr(key), str(key), f"{key}", repr([key]), str(vars(key))):
        assert SEED.hex() not in shown
        assert repr(SEED)[2:-1] not in shown
    assert repr(key) == f"SigningKey({fingerprint(PUBLIC)})"


def test_a_key_cannot_be_copied_or_pickled():
    key = SigningKey.from_seed(SEED)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            pickle.dumps(key, protocol)
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copied(key)


def test_a_message_of_an_error_names_the_key_by_its_fingerprint():
    with pytest.raises(ProtocolError, match=fingerprint(PUBLIC)):
        verify(PUBLIC, "ledger", b"message", bytes(64))


def test_a_fingerprint_is_eight_groups_of_four_digits_and_of_one_key():
    assert fingerprint(PUBLIC) == "21fe-31df-a154-a261-626b-f854-046f-d227"
    assert len({fingerprint(key_of(str(each)).public) for each in range(50)}) == 50


def test_secrets_are_of_one_purpose_and_of_one_key():
    one, other = key_of("site"), key_of("other")
    found = {one.secret("units"), one.secret("units "), one.secret(""), other.secret("units")}
    assert len(found) == 4
    assert {len(each) for each in found} == {32}
    assert one.secret("units") == key_of("site").secret("units")
    assert one.public not in found


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_has_32_bytes(seed):
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey.from_seed(seed)
