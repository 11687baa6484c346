"""Messages have one form, and nothing else is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy.errors import ProtocolError
from study.codec import decode, encode

ARRAYS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
        lambda name: name != "__metadata__"
    ),
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint32, np.uint64]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
    max_size=3,
)
GOOD = encode(
    {"kind": "example", "index": 7}, {"a": np.arange(3.0), "b": np.array(2, dtype=np.int32)}
)


@settings(max_examples=200)
@given(ARRAYS)
def test_what_is_written_is_read(arrays):
    head, found = decode(encode({"kind": "x"}, arrays))
    assert head == {"kind": "x"}
    assert set(found) == set(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert found[name].tobytes() == np.ascontiguousarray(value).tobytes()


def test_equal_messages_have_equal_bytes():
    arrays = {"b": np.ones(2), "a": np.zeros((1, 2), dtype=np.float32)}
    assert encode({"x": 1, "y": 2}, arrays) == encode(
        {"y": 2, "x": 1}, dict(reversed(arrays.items()))
    )


@pytest.mark.parametrize("cut", range(0, len(GOOD), 7))
def test_a_truncated_message_is_refused(cut):
    with pytest.raises(ProtocolError, match="Expected"):
        decode(GOOD[:cut])


def test_trailing_bytes_are_refused():
    with pytest.raises(ProtocolError, match="Expected"):
        decode(GOOD + b"\0")


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(1, dtype=np.float16),
        np.array(["text"]),
        np.zeros(1, dtype=bool),
        np.zeros(1, dtype=complex),
    ],
)
def test_other_kinds_of_arrays_are_not_written(value):
    with pytest.raises(ProtocolError, match="Expected an array"):
        encode({}, {"a": value})


@settings(max_examples=500)
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_no_flipped_bit_crashes_the_reader(bit):
    """It is refused, or read as another message with exactly these bytes."""
    data = bytearray(GOOD)
    data[bit // 8] ^= 1 << bit % 8
    try:
        head, arrays = decode(bytes(data))
    except ProtocolError:
        return
    assert encode(head, arrays) == bytes(data)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data):
    with pytest.raises(ProtocolError, match="Expected"):
        decode(data)
