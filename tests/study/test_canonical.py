"""One value has one form: RFC 8785."""

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ProtocolError
from study.canonical import canonical_json, digest, parse_canonical

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("bits", "text"),
    [  # RFC 8785, appendix B: IEEE doubles and their forms
        ("0000000000000000", "0"), ("8000000000000000", "0"), ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"), ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"), ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"), ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"), ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef50", "1e+21"), ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"), ("41b3de4355555553", "333333333.3333332"),
        ("becbf647612f3696", "-0.0000033333333333333333"), ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)  # fmt: skip
def test_numbers_have_the_forms_of_the_rfc(bits, text):
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(value).decode() == text


def test_keys_are_sorted_by_utf_16_as_in_the_rfc():
    """Section 3.2.3."""
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    found = list(json.loads(canonical_json(dict.fromkeys(keys, 0))))
    assert found == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@given(VALUES)
def test_what_is_written_is_read_and_written_the_same(value):
    text = canonical_json(value)
    assert parse_canonical(text) == value
    assert canonical_json(parse_canonical(text)) == text


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b' {"a":1}', b'{"a": 1}', b'{"b":1,"a":1}', b'{"a":1,"a":1}', b"1.0", b"1e0", b"-0", b"NaN", b"Infinity",
     b"1e400", b'"\\u0041"', b"\xff", b'"\\ud800"', b"9007199254740993", b"[" * 100_000],
)  # fmt: skip
def test_any_other_spelling_is_refused(text):
    with pytest.raises(ProtocolError, match="canonical JSON"):
        parse_canonical(text)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**53 + 1, {1: 2}, b"bytes", {"a": object()}, "\ud800"]
)
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(ValueError, match="Expected|surrogates"):
        canonical_json(value)


def test_equal_values_have_equal_hashes_and_others_do_not():
    assert digest({"a": 1, "b": [1.0]}) == digest({"b": [1], "a": 1.0})
    assert digest({"a": 1}) != digest({"a": 2})
