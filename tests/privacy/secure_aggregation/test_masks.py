"""A mask is the keystream of its seed, added modulo 2^32 or 2^64, and what is added and subtracted is gone."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ProtocolError
from privacy.keystream import derive_key
from privacy.secure_aggregation import masks
from privacy.secure_aggregation.masks import add_masks, centred, to_ring

RINGS = pytest.mark.parametrize("bits", [32, 64])
SEED = derive_key(b"masks", "seed")
BLOCK = 1 << 17  # bytes at a time


def naive_mask(seed, length, bits):
    """AES-256 of the counter, block by block, as a list of Python integers."""
    width = bits // 8
    encryptor = Cipher(algorithms.AES256(seed), modes.ECB()).encryptor()  # noqa: S305
    blocks = -(-length * width // 16)
    stream = encryptor.update(b"".join(each.to_bytes(16, "big") for each in range(blocks)))
    return [
        int.from_bytes(stream[place : place + width], "little")
        for place in range(0, length * width, width)
    ]


def lengths(bits):
    """Around the block in which masks are added, and around that of AES."""
    block = BLOCK // (bits // 8)
    return [0, 1, 2, 3, 4, 5, 17, block - 1, block, block + 1, 2 * block + 3]


def test_the_lengths_are_around_the_block():
    assert masks._BLOCK == BLOCK


@RINGS
def test_a_mask_is_the_naive_keystream(bits):
    for length in lengths(bits):
        expected = naive_mask(SEED, length, bits)
        for sign in (1, -1):
            vector = to_ring(np.zeros(length, np.int64), bits)
            add_masks(vector, [(sign, SEED)])
            assert vector.tolist() == [sign * each % 2**bits for each in expected]


@RINGS
def test_masks_of_several_seeds_add_up_whatever_the_vector(bits):
    length = BLOCK // (bits // 8) + 5
    seeds = [(1, derive_key(SEED, 0)), (-1, derive_key(SEED, 1)), (1, derive_key(SEED, 2))]
    values = np.frombuffer(derive_key(SEED, 3) * (length // 4 + 1), "<i8")[:length]
    vector = to_ring(values, bits)
    add_masks(vector, iter(seeds))
    streams = [[sign * each for each in naive_mask(seed, length, bits)] for sign, seed in seeds]
    expected = [sum(each) % 2**bits for each in zip(values.tolist(), *streams, strict=True)]
    assert vector.tolist() == expected


@RINGS
@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40),
    st.lists(st.binary(min_size=32, max_size=32), max_size=5),
    st.randoms(),
)
def test_masks_that_are_added_and_subtracted_cancel(bits, values, seeds, order):
    """In any order, as those of the survivors do in the sum."""
    vector = to_ring(np.array(values, np.int64), bits)
    before = vector.copy()
    both = [(sign, seed) for seed in seeds for sign in (1, -1)]
    order.shuffle(both)
    half = len(both) // 2
    add_masks(vector, both[:half])
    add_masks(vector, both[half:])
    assert np.array_equal(vector, before)


def test_one_bit_of_a_seed_changes_half_of_a_mask():
    """4096 words: the number of bits that differ is binomial(131072, 1/2), 10 deviations are beyond 1e-22."""
    one, other = (to_ring(np.zeros(4096, np.int64), 32) for _ in range(2))
    add_masks(one, [(1, SEED)])
    add_masks(other, [(1, bytes([SEED[0] ^ 1]) + SEED[1:])])
    differing = sum(int(each).bit_count() for each in one ^ other)
    assert abs(differing - 65536) < 10 * (131072 / 4) ** 0.5


@pytest.mark.parametrize(
    ("bits", "values", "ring"),
    [
        (32, [0, 1, -1], [0, 1, 2**32 - 1]),
        (32, [2**31 - 1, -(2**31)], [2**31 - 1, 2**31]),
        (32, [2**31, 2**32 - 1, 2**32, -(2**31) - 1], [2**31, 2**32 - 1, 0, 2**31 - 1]),
        (32, [2**63 - 1, -(2**63)], [2**32 - 1, 0]),
        (64, [0, 1, -1], [0, 1, 2**64 - 1]),
        (64, [2**63 - 1, -(2**63)], [2**63 - 1, 2**63]),
    ],
)
def test_the_ring_at_its_limits(bits, values, ring):
    found = to_ring(np.array(values, np.int64), bits)
    assert found.dtype == np.dtype(f"u{bits // 8}")
    assert found.tolist() == ring


@pytest.mark.parametrize(
    ("bits", "ring", "values"),
    [
        (32, [0, 1, 2**31 - 1, 2**31, 2**32 - 1], [0, 1, 2**31 - 1, -(2**31), -1]),
        (64, [0, 1, 2**63 - 1, 2**63, 2**64 - 1], [0, 1, 2**63 - 1, -(2**63), -1]),
    ],
)
def test_centred_is_the_nearest_to_zero(bits, ring, values):
    found = centred(np.array(ring, f"u{bits // 8}"))
    assert found.dtype == np.int64
    assert found.tolist() == values


@RINGS
@given(st.data())
def test_what_fits_comes_back(bits, data):
    half = 2 ** (bits - 1)
    values = data.draw(st.lists(st.integers(-half, half - 1), max_size=20))
    assert centred(to_ring(np.array(values, np.int64), bits)).tolist() == values


def test_to_ring_makes_a_new_array():
    """The unmasked vector of a site must not become the masked one."""
    for bits in (32, 64):
        values = np.arange(10, dtype=np.int64)
        add_masks(to_ring(values, bits), [(1, SEED)])
        assert values.tolist() == list(range(10))


@pytest.mark.parametrize(
    "vector",
    [np.zeros(10, np.int64), np.zeros(10), np.zeros(10, np.uint32)[::2]],
    ids=["signed", "float", "not contiguous"],
)
def test_any_other_vector_is_refused_as_it_is(vector):
    before = vector.copy()
    with pytest.raises(ProtocolError, match="a contiguous vector of unsigned numbers"):
        add_masks(vector, [(1, SEED)])
    assert np.array_equal(vector, before)
