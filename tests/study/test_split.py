"""A unit's part follows from the unit alone, whatever else a site holds and wherever it stands."""

import hashlib
import hmac
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.contract import Data
from study.split import part_of, record_identities, record_identity, train_mask, unit_identity

numbers = st.floats(allow_nan=False, allow_infinity=False)
identities = st.lists(st.binary(max_size=20), max_size=30)


def data_of(**settings):
    return Data(task="regression", label="price", expected_records=5, **settings)


def test_the_part_is_that_of_an_hmac_written_out_by_hand():
    """Vector: made with hmac and hashlib alone, so that other implementations can follow it."""
    identity = b"discreet record 1\x00" + struct.pack(">3d", 1.5, -2.0, 1.0)
    assert record_identity(np.array([1.5, -2.0]), 1) == identity
    code = hmac.new(b"1", b"discreet split 1\x00" + identity, hashlib.sha256).digest()
    fraction = int.from_bytes(code[:8], "big") / 2**64
    assert part_of("1", identity, math.nextafter(fraction, 1) + 1e-12) == "test"
    assert part_of("1", identity, fraction - 1e-12) == "train"


@settings(deadline=None)
@given(identities, st.floats(0, 0.99), st.text(max_size=5), st.data())
def test_removing_and_moving_units_leaves_every_other_unit_in_its_part(units, fraction, key, draw):
    data = data_of(test_fraction=fraction, split_key=key)
    kept = draw.draw(st.permutations(range(len(units))))[: len(units) // 2]
    assert list(train_mask(data, units)[kept]) == list(
        train_mask(data, [units[each] for each in kept])
    )


def test_a_fraction_of_zero_tests_nothing_and_of_one_everything():
    assert {part_of("1", bytes([each]), 0.0) for each in range(256)} == {"train"}
    assert {part_of("1", bytes([each]), 1.0) for each in range(256)} == {"test"}


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5])
def test_the_test_part_has_the_size_that_was_asked_for(fraction):
    """Deterministic; 20,000 fair hashes stray by more than 5 deviations with probability 6e-7."""
    units = [unit_identity(str(each)) for each in range(20_000)]
    found = 1 - train_mask(data_of(test_fraction=fraction), units).mean()
    assert abs(found - fraction) < 5 * math.sqrt(fraction * (1 - fraction) / 20_000)


def test_another_key_is_an_independent_split():
    units = [unit_identity(str(each)) for each in range(20_000)]
    first, second = (
        train_mask(data_of(test_fraction=0.5, split_key=key), units) for key in ("1", "2")
    )
    assert abs((first == second).mean() - 0.5) < 5 * 0.5 / math.sqrt(20_000)


@settings(deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=10), st.integers(0, 10**6)
)
def test_a_record_is_identified_by_its_values_and_not_by_its_place(rows, seed):
    values = np.array(rows)
    order = np.random.default_rng(seed).permutation(len(values))
    found = record_identities(values[:, :2], values[:, 2])
    moved = record_identities(values[order, :2], values[order, 2])
    assert moved == [found[each] for each in order]
    assert found == [record_identity(each[:2], each[2]) for each in values]


@settings(deadline=None)
@given(
    st.lists(numbers, min_size=2, max_size=4).filter(any),
    st.lists(numbers, min_size=2, max_size=4),
)
def test_two_records_share_an_identity_only_if_they_are_equal(one, other):
    same = record_identity(np.array(one[1:]), one[0]) == record_identity(
        np.array(other[1:]), other[0]
    )
    assert same == (one == other)


def test_minus_zero_is_zero():
    assert record_identity(np.array([-0.0]), -0.0) == record_identity(np.array([0.0]), 0.0)


def test_a_class_number_and_its_float_are_one_record():
    features = np.array([[1.0], [2.0]])
    whole, floating = np.array([0, 1]), np.array([0.0, 1.0])
    assert record_identities(features, whole) == record_identities(features, floating)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(numbers, min_size=1, max_size=3))
def test_a_named_unit_is_never_taken_for_a_record(text, values):
    assert unit_identity(text) != record_identity(np.array(values[1:]), values[0])
    assert unit_identity(text).endswith(text.encode())
