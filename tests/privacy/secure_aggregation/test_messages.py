"""Every message has one written form, and bytes that nobody writes are refused before anything is made of them."""

import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ProtocolError
from privacy.secure_aggregation.messages import (
    CIPHERTEXT_BYTES,
    MESSAGES,
    Message,
    OpenReply,
    OpenRequest,
    RevealReply,
    RevealRequest,
    RoundRequest,
    SetupKey,
    SetupRequest,
    SurvivorsReply,
    SurvivorsRequest,
    Upload,
    is_message,
    message_of,
)
from privacy.secure_aggregation.shamir import SHARE_BYTES

HEAD = b"DSA\x01"


def text(width, letter="x"):
    return (letter * width).encode()


def setup_key(site):
    return SetupKey(
        study=text(32, "s"), roster=text(32, "r"), site=site, epoch=text(16, "e"), public=text(32, "p"),
        signature=text(64, "g"),
    )  # fmt: skip


SMALL = [
    SetupRequest(study=text(32, "s"), roster=text(32, "r"), nonce=text(16, "n")),
    setup_key(3),
    RoundRequest(round=7, payload=b"model", members=(setup_key(1), setup_key(2))),
    Upload(
        transcript=text(32, "t"), site=2, vector=np.arange(3, dtype=np.uint32), self_mask=text(32, "m"),
        shares=(text(32, "a"), text(32, "b")), pair_masks=(text(32, "c"),), ciphertexts=(text(CIPHERTEXT_BYTES),),
    ),
    OpenRequest(transcript=text(32, "t"), ciphertexts=(text(CIPHERTEXT_BYTES),)),
    OpenReply(transcript=text(32, "t"), site=2, shares=(text(SHARE_BYTES), text(SHARE_BYTES, "y"))),
    SurvivorsRequest(transcript=text(32, "t"), survivors=(1, 2, 900)),
    SurvivorsReply(transcript=text(32, "t"), site=2, signature=text(64, "g")),
    RevealRequest(
        transcript=text(32, "t"), survivors=(1, 2), signatures=((1, text(64, "g")), (2, text(64, "h"))),
        ciphertexts=(text(CIPHERTEXT_BYTES),),
    ),
    RevealReply(transcript=text(32, "t"), site=2, shares=(text(SHARE_BYTES),), seeds=(text(32),)),
]  # fmt: skip
EVERY = pytest.mark.parametrize("message", SMALL, ids=lambda each: type(each).__name__)


def equal(one, other):
    """Equality of values, vectors included."""
    return type(one) is type(other) and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(getattr(one, name), "dtype", None) == getattr(getattr(other, name), "dtype", None)
        if name == "vector"
        else getattr(one, name) == getattr(other, name)
        for name in one.FIELDS
    )  # fmt: skip


def test_there_is_an_example_of_every_message():
    assert [type(each) for each in SMALL] == list(MESSAGES.values())
    assert [each.KIND for each in SMALL] == list(MESSAGES) == list(range(1, 11))


@EVERY
def test_what_is_written_is_read_back(message):
    data = message.to_bytes()
    assert data.startswith(HEAD + bytes([message.KIND]))
    assert is_message(data)
    assert equal(message_of(data), message)
    assert equal(type(message).from_bytes(data), message)


def test_the_form_is_the_documented_one():
    """By hand, for one message of numbers, lists and pairs, and for one with a vector."""
    reveal, upload = SMALL[8], SMALL[3]
    assert reveal.to_bytes() == b"".join(
        [
            HEAD, b"\x09", b"t" * 32, b"\0\0\0\x02", b"\0\x01", b"\0\x02", b"\0\0\0\x02", b"\0\x01", b"g" * 64,
            b"\0\x02", b"h" * 64, b"\0\0\0\x01", b"x" * CIPHERTEXT_BYTES,
        ]
    )  # fmt: skip
    numbers = b"\0\0\0\0\x01\0\0\0\x02\0\0\0"
    assert upload.to_bytes()[: 5 + 32 + 2 + 17] == (
        HEAD + b"\x04" + b"t" * 32 + b"\0\x02" + b"\x20" + b"\0\0\0\x0c" + numbers
    )


@EVERY
def test_every_flipped_bit_is_refused_or_another_message(message):
    data = message.to_bytes()
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << (place % 8)
        try:
            read = message_of(bytes(flipped))
        except ProtocolError:
            continue
        assert not equal(read, message)
        assert read.to_bytes() == bytes(flipped)


@EVERY
def test_every_truncation_and_extension_is_refused(message):
    data = message.to_bytes()
    for length in range(len(data)):
        with pytest.raises(ProtocolError, match=r"^Expected"):
            message_of(data[:length])
    for more in (b"\0", b"\xff", data):
        with pytest.raises(ProtocolError, match="the end of a message"):
            message_of(data + more)


@EVERY
def test_another_magic_version_or_kind_is_refused(message):
    data = message.to_bytes()
    for head in (b"DSB\x01", b"dsa\x01", b"DSA\x00", b"DSA\x02"):
        with pytest.raises(ProtocolError, match="a message of secure aggregation, version 1"):
            message_of(head + data[4:])
    for kind in (0, 11, 255):
        with pytest.raises(ProtocolError, match="another kind of message"):
            message_of(HEAD + bytes([kind]) + data[5:])
    for other in MESSAGES.values():
        if other is not type(message):
            with pytest.raises(ProtocolError, match=f"Expected a {other.__name__}"):
                other.from_bytes(data)


def test_only_a_setup_key_is_a_member():
    inner = SMALL[7].to_bytes()
    data = HEAD + b"\x03" + bytes(4) + bytes(4) + struct.pack(">I", 1) + inner
    with pytest.raises(ProtocolError, match="another kind of message"):
        message_of(data)


def beginnings_of_lists():
    """Messages that end with the length of a list, which claims 2^32 - 1 items, or one byte more than there is."""
    hashed, site = b"t" * 32, b"\0\x02"
    empty = bytes(4)
    upload = b"\x04" + hashed + site + b"\x20" + empty + hashed
    return {
        "payload": b"\x03" + bytes(4),
        "members": b"\x03" + bytes(4) + empty,
        "vector": b"\x04" + hashed + site + b"\x20",
        "upload shares": upload,
        "pair masks": upload + empty,
        "upload ciphertexts": upload + empty + empty,
        "ciphertexts": b"\x05" + hashed,
        "shares": b"\x06" + hashed + site,
        "survivors": b"\x07" + hashed,
        "signers": b"\x09" + hashed,
        "signatures": b"\x09" + hashed + empty,
        "relayed": b"\x09" + hashed + empty + empty,
        "revealed": b"\x0a" + hashed + site,
        "seeds": b"\x0a" + hashed + site + empty,
    }


@pytest.mark.parametrize("beginning", beginnings_of_lists().values(), ids=beginnings_of_lists())
@pytest.mark.parametrize("claimed", [1, 2**31, 2**32 - 4, 2**32 - 1])
def test_a_length_beyond_the_data_is_refused_before_memory_is_taken(beginning, claimed):
    data = HEAD + beginning + struct.pack(">I", claimed)
    tracemalloc.start()
    try:
        with pytest.raises(
            ProtocolError, match=r"^Expected (\d+ more bytes of a message|a list of at most 1000)"
        ):
            message_of(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bits", [0, 1, 2, 8, 16, 31, 33, 128, 255])
def test_a_ring_of_another_width_is_refused(bits):
    data = bytearray(SMALL[3].to_bytes())
    data[5 + 32 + 2] = bits
    with pytest.raises(ProtocolError, match=f"32 or 64 bits, found {bits}"):
        message_of(bytes(data))


def test_part_of_a_number_is_refused():
    data = HEAD + b"\x04" + b"t" * 32 + b"\0\x02" + b"\x40" + struct.pack(">I", 12) + bytes(12)
    with pytest.raises(ProtocolError, match="whole numbers of a vector"):
        message_of(data)


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (SMALL[6], {"transcript": b"short"}),
        (SMALL[6], {"survivors": (1 << 16,)}),
        (SMALL[6], {"survivors": (-1,)}),
        (SMALL[2], {"round": 1 << 32}),
        (SMALL[7], {"signature": bytes(63)}),
        (SMALL[4], {"ciphertexts": (bytes(CIPHERTEXT_BYTES + 1),)}),
    ],
)
def test_a_value_without_a_form_is_not_written(message, changed):
    with pytest.raises(ProtocolError, match=r"^Expected"):
        replace(message, **changed).to_bytes()


def lists_of(item):
    return st.lists(item, max_size=4).map(tuple)


NUMBERS, HASHES, SIGNATURES = st.integers(0, 2**16 - 1), st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64)  # fmt: skip
NONCES = st.binary(min_size=16, max_size=16)
SHARES = lists_of(st.binary(min_size=SHARE_BYTES, max_size=SHARE_BYTES))
SEALED = lists_of(st.binary(min_size=CIPHERTEXT_BYTES, max_size=CIPHERTEXT_BYTES))
VECTORS = st.sampled_from([np.uint32, np.uint64]).flatmap(
    lambda kind: st.lists(st.integers(0, np.iinfo(kind).max), max_size=5).map(
        lambda values: np.array(values, kind)
    )
)
KEYS = st.builds(
    SetupKey, study=HASHES, roster=HASHES, site=NUMBERS, epoch=NONCES, public=HASHES, signature=SIGNATURES
)  # fmt: skip
ANY = st.one_of(
    st.builds(SetupRequest, study=HASHES, roster=HASHES, nonce=NONCES),
    KEYS,
    st.builds(RoundRequest, round=st.integers(0, 2**32 - 1), payload=st.binary(max_size=50), members=lists_of(KEYS)),
    st.builds(
        Upload, transcript=HASHES, site=NUMBERS, vector=VECTORS, self_mask=HASHES, shares=lists_of(HASHES),
        pair_masks=lists_of(HASHES), ciphertexts=SEALED,
    ),
    st.builds(OpenRequest, transcript=HASHES, ciphertexts=SEALED),
    st.builds(OpenReply, transcript=HASHES, site=NUMBERS, shares=SHARES),
    st.builds(SurvivorsRequest, transcript=HASHES, survivors=lists_of(NUMBERS)),
    st.builds(SurvivorsReply, transcript=HASHES, site=NUMBERS, signature=SIGNATURES),
    st.builds(
        RevealRequest, transcript=HASHES, survivors=lists_of(NUMBERS),
        signatures=lists_of(st.tuples(NUMBERS, SIGNATURES)), ciphertexts=SEALED,
    ),
    st.builds(RevealReply, transcript=HASHES, site=NUMBERS, shares=SHARES, seeds=lists_of(HASHES)),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_every_message_has_a_form_of_its_own(message):
    data = message.to_bytes()
    read = message_of(data)
    assert equal(read, message)
    assert read.to_bytes() == data


@settings(max_examples=200, deadline=None)
@given(ANY, st.data())
def test_changed_bytes_are_refused_or_say_what_they_write(message, drawn):
    data = bytearray(message.to_bytes())
    for _ in range(drawn.draw(st.integers(1, 3))):
        data[drawn.draw(st.integers(0, len(data) - 1))] = drawn.draw(st.integers(0, 255))
    try:
        read = message_of(bytes(data))
    except ProtocolError:
        return
    assert isinstance(read, Message)
    assert read.to_bytes() == bytes(data)


@given(st.binary(max_size=300))
def test_noise_is_refused(noise):
    for data in (noise, HEAD + noise[:1]):
        if not noise.startswith(HEAD):
            with pytest.raises(ProtocolError, match=r"^Expected"):
                message_of(data)
