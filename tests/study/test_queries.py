"""A query and an answer have one form each; what is not one of them is refused, by the server and by the site."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ledgers import key_of

from privacy.errors import ProtocolError
from study.codec import decode, encode
from study.queries import NONCE_BYTES, Refusal, SumAnswer, SumQuery, query_hash
from study.receipts import MOST_RECEIPTS, Receipt, SignedReceipt

NONCE = bytes(range(NONCE_BYTES))
HASH = query_hash(b"a query")


def receipt_of(site):
    """Of the site with this number, whatever it says."""
    names = ("study", "transcript", "head", "answer")
    hashes = {name: query_hash(f"{name} {site}".encode()) for name in names}
    receipt = Receipt(previous="0" * 64, index=site % 7, sequence=100 + site, **hashes)
    return SignedReceipt.sign(receipt, key_of(f"site {site}"))


RECEIPTS = {site: receipt_of(site) for site in (1, 2, 10, 1000, 99_999)}
DTYPES = st.sampled_from([np.float32, np.float64, np.int32, np.int64])


@pytest.fixture(scope="session")
def query(declared):
    def make(**changed):
        given_ = {
            "study": declared().hash, "index": 3, "function": "gradient",
            "parameters": {"weight": np.array([1.0, -0.0, np.nan]), "bias": np.array(2.5)}, "nonce": NONCE,
        }  # fmt: skip
        return SumQuery(**(given_ | changed))

    return make


def answer(**changed):
    given_ = {"query_hash": HASH, "vector": np.array([1, -2, 3], np.int32), "nonce": NONCE}
    return SumAnswer(**(given_ | changed))


def head_changed(content, **changed):
    head, arrays = decode(content)
    return encode(
        {key: value for key, value in (head | changed).items() if value != "gone"}, arrays
    )


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(
        st.integers(0, 2**31 - 1), st.sampled_from(["gradient", "moments", "delta", "anything"])
    ),
    st.dictionaries(
        st.sampled_from(["weight", "bias", "layer1.weight"]),
        DTYPES.flatmap(lambda each: hnp.arrays(each, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))),
    ),
    st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES),
    st.sets(st.sampled_from(list(RECEIPTS))),
)  # fmt: skip
def test_a_query_is_read_as_it_was_written(query, asked, parameters, nonce, sites):
    index, function = asked
    receipts = {site: (RECEIPTS[site],) for site in sites}
    one = query(
        index=index, function=function, parameters=parameters, nonce=nonce, receipts=receipts
    )
    found = SumQuery.from_bytes(one.to_bytes())
    assert found.to_bytes() == one.to_bytes()
    assert (found.study, found.index) == (one.study, index)
    assert (found.function, found.nonce, found.receipts) == (function, nonce, receipts)
    assert found.parameters.keys() == parameters.keys()
    for name, value in parameters.items():
        assert found.parameters[name].dtype == value.dtype
        assert found.parameters[name].shape == value.shape
        assert found.parameters[name].tobytes() == value.tobytes()


@settings(max_examples=50, deadline=None)
@given(
    DTYPES.flatmap(lambda each: hnp.arrays(each, st.integers(0, 9))),
    st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES),
)
def test_an_answer_is_read_as_it_was_written(vector, nonce):
    found = SumAnswer.from_bytes(answer(vector=vector, nonce=nonce).to_bytes())
    assert (found.query_hash, found.nonce) == (HASH, nonce)
    assert found.vector.dtype == vector.dtype
    assert found.vector.tobytes() == vector.tobytes()


def test_an_answer_holds_a_hash_a_nonce_and_a_vector_and_nothing_else():
    head, arrays = decode(answer().to_bytes())
    assert set(head) == {"kind", "query", "nonce"}
    assert set(arrays) == {"vector"}


def test_answers_of_one_shape_have_one_length_whatever_they_say():
    lengths = {
        len(answer(vector=np.full(7, value, np.int64), nonce=nonce, query_hash=name).to_bytes())
        for value in (0, -1, 2**62)
        for nonce in (bytes(NONCE_BYTES), b"\xff" * NONCE_BYTES)
        for name in (HASH, query_hash(b""))
    }
    assert len(lengths) == 1


def test_every_part_of_a_query_is_part_of_its_hash(query, declared):
    others = [
        query(),
        query(index=4),
        query(function="moments"),
        query(nonce=NONCE[::-1]),
        query(study=declared(nonce="0" * 32).hash),
        query(receipts={1: (RECEIPTS[1],)}),
        query(receipts={2: (RECEIPTS[1],)}),
        query(receipts={1: (RECEIPTS[2],)}),
        query(receipts={1: (RECEIPTS[1],), 2: (RECEIPTS[2],)}),
        query(parameters={"weight": np.array([1.0, 0.0, np.nan]), "bias": np.array(2.5)}),
        query(parameters={"weight": np.array([1.0, -0.0, np.nan]), "bias": np.array([2.5])}),
    ]
    assert len({query_hash(each.to_bytes()) for each in others}) == len(others)


def test_no_truncated_query_is_read(query):
    content = query().to_bytes()
    for cut in range(0, len(content), 11):
        with pytest.raises(ProtocolError, match="Expected"):
            SumQuery.from_bytes(content[:cut])


@pytest.mark.parametrize("kind", ["query", "answer"])
def test_no_flipped_bit_crashes_a_reader_or_goes_unnoticed(query, kind):
    """Every 13th bit of a query (from each of the 8 places of a byte), every bit of an answer: refused, or read as
    another message that is written in exactly this way.
    """
    reader, one, step = (
        (SumQuery.from_bytes, query(), 13)
        if kind == "query"
        else (SumAnswer.from_bytes, answer(), 1)
    )
    content = one.to_bytes()
    for bit in range(0, 8 * len(content), step):
        data = bytearray(content)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = reader(bytes(data))
        except ProtocolError:
            continue
        assert found.to_bytes() == bytes(data)
        assert found.to_bytes() != content


@given(st.binary(max_size=64))
def test_no_bytes_are_read_as_a_message_by_chance(data):
    for reader in (SumQuery.from_bytes, SumAnswer.from_bytes):
        with pytest.raises(ProtocolError, match="Expected"):
            reader(data)


def test_one_kind_of_message_is_never_read_as_the_other(query):
    with pytest.raises(ProtocolError, match="Expected a sum-query"):
        SumQuery.from_bytes(answer().to_bytes())
    with pytest.raises(ProtocolError, match="Expected a sum-answer"):
        SumAnswer.from_bytes(query().to_bytes())
    with pytest.raises(ProtocolError, match="Expected a sum-query"):
        SumQuery.from_bytes(head_changed(query().to_bytes(), kind="sum-queri"))


@pytest.mark.parametrize(
    "nonce", ["", "00" * 15, "00" * 17, "0G" * 16, "AB" * 16, "ab " * 16, 7, None, ["00"]]
)
def test_a_nonce_is_sixteen_bytes_in_small_hexadecimal(query, nonce):
    for content, reader in (
        (query().to_bytes(), SumQuery.from_bytes),
        (answer().to_bytes(), SumAnswer.from_bytes),
    ):
        with pytest.raises(ProtocolError, match="Expected a nonce"):
            reader(head_changed(content, nonce=nonce))


@pytest.mark.parametrize(
    "changed",
    [
        {"index": -1}, {"index": 2**31}, {"index": 1.5}, {"index": True}, {"index": "0"}, {"index": None},
        {"function": 1}, {"function": None}, {"function": ["gradient"]},
        {"study": None}, {"study": {}}, {"study": "x"}, {"study": []}, {"study": "A" * 64}, {"study": "0" * 63},
        {"study": "0" * 64 + "\n"}, {"extra": 1}, {"index": "gone"}, {"function": "gone"}, {"study": "gone"},
        {"nonce": "gone"},
        {"kind": "gone"}, {"kind": None},
    ],
    ids=repr,
)  # fmt: skip
def test_a_query_with_a_head_of_another_form_is_refused(query, changed):
    with pytest.raises(ProtocolError, match="Expected"):
        SumQuery.from_bytes(head_changed(query().to_bytes(), **changed))


RECEIPT = receipt_of(1).to_values()
INNER = RECEIPT["receipt"]


@pytest.mark.parametrize(
    "receipts",
    [
        None, [], "x", 5, [RECEIPT], "gone", {"0": RECEIPT}, {"-1": RECEIPT}, {"01": RECEIPT}, {"1.0": RECEIPT},
        {"": RECEIPT}, {"100000": RECEIPT}, {"1 ": RECEIPT}, {"1\n": RECEIPT}, {"\uff11": RECEIPT}, {"site 1": RECEIPT},
    ],
    ids=repr,
)  # fmt: skip
def test_receipts_are_by_number_of_a_site(query, receipts):
    with pytest.raises(ProtocolError, match="receipts( by number of a site)?"):
        SumQuery.from_bytes(head_changed(query().to_bytes(), receipts=receipts))


@pytest.mark.parametrize(
    "wrong",
    [
        None, {}, [], "x", INNER, {"receipt": INNER}, RECEIPT | {"more": 1}, RECEIPT | {"receipt": None},
        RECEIPT | {"signature": "0" * 127}, RECEIPT | {"signature": None}, RECEIPT | {"receipt": INNER | {"index": -1}},
        RECEIPT | {"receipt": INNER | {"sequence": True}}, RECEIPT | {"receipt": INNER | {"version": 2}},
        RECEIPT | {"receipt": INNER | {"head": "A" * 64}}, RECEIPT | {"receipt": INNER | {"more": 1}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_receipt_in_a_query_has_its_one_form(query, wrong):
    with pytest.raises(ProtocolError, match="Expected"):
        SumQuery.from_bytes(head_changed(query().to_bytes(), receipts={"1": RECEIPT, "2": wrong}))


@pytest.mark.parametrize(
    "changed", [{"query": 1}, {"query": None}, {"extra": 1}, {"query": "gone"}, {"nonce": "gone"}]
)
def test_an_answer_with_a_head_of_another_form_is_refused(changed):
    with pytest.raises(ProtocolError, match="Expected"):
        SumAnswer.from_bytes(head_changed(answer().to_bytes(), **changed))


@pytest.mark.parametrize(
    "arrays",
    [{}, {"other": np.zeros(3)}, {"vector": np.zeros(3), "more": np.zeros(1)}, {"vector": np.zeros((1, 3))}, {"vector": np.array(1.0)}],
)  # fmt: skip
def test_an_answer_without_exactly_one_vector_is_refused(arrays):
    head, _ = decode(answer().to_bytes())
    with pytest.raises(ProtocolError, match="Expected an answer with one vector"):
        SumAnswer.from_bytes(encode(head, arrays))


def test_a_query_says_nothing_of_its_study_but_the_hash(query, declared):
    """What passes a server, and lies in its database, names no column, class, site or purpose."""
    content, study = query(parameters={}).to_bytes(), declared().study
    for word in (study.name, study.data.label, *study.data.features, *map(str, study.data.classes)):
        assert len(word) < 3 or word.encode() not in content


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_an_answer_within_the_range_of_one_site_is_taken(dtype):
    vector = np.array([5, -5, 0], dtype)
    assert answer(vector=vector).checked(HASH, 3, dtype, 5) is vector
    unsafe = np.array([1e300, -5.5, 0.0])
    assert answer(vector=unsafe).checked(HASH, 3, np.float64, np.inf) is unsafe


@pytest.mark.parametrize(
    ("vector", "expected", "match"),
    [
        (np.zeros(3, np.int32), (HASH[::-1], 3, np.int32, 5), "one to another"),
        (np.zeros(3, np.int32), (HASH.upper(), 3, np.int32, 5), "one to another"),
        (np.zeros(3, np.int32), (HASH, 2, np.int32, 5), "Expected 2 numbers of int32"),
        (np.zeros(3, np.int32), (HASH, 4, np.int32, 5), "Expected 4 numbers"),
        (np.zeros(0, np.int32), (HASH, 1, np.int32, 5), "Expected 1 numbers"),
        (np.zeros(3, np.int32), (HASH, 3, np.int64, 5), "numbers of int64"),
        (np.zeros(3, np.int64), (HASH, 3, np.int32, 5), "numbers of int32"),
        (np.zeros(3, np.uint32), (HASH, 3, np.int32, 5), "numbers of int32"),
        (np.zeros(3, np.float64), (HASH, 3, np.int64, 5), "numbers of int64"),
        (np.zeros(3, np.float32), (HASH, 3, np.float64, np.inf), "numbers of float64"),
        (np.array([0, 0, 6], np.int32), (HASH, 3, np.int32, 5), "within the range"),
        (np.array([0, 0, -6], np.int32), (HASH, 3, np.int32, 5), "within the range"),
        (np.array([0, -(2**31), 0], np.int32), (HASH, 3, np.int32, 2**31 - 1), "within the range"),
        # |-2^63| is -2^63 in int64: it would pass any comparison
        (np.array([0, -(2**63), 0], np.int64), (HASH, 3, np.int64, 5), "within the range"),
        (np.array([0, -(2**63), 0], np.int64), (HASH, 3, np.int64, 2**52), "within the range"),
        (np.array([0, 2**63 - 1, 0], np.int64), (HASH, 3, np.int64, 2**52), "within the range"),
        (np.array([0.0, np.nan, 0.0]), (HASH, 3, np.float64, np.inf), "within the range"),
        (np.array([0.0, np.inf, 0.0]), (HASH, 3, np.float64, np.inf), "within the range"),
        (np.array([0.0, -np.inf, 0.0]), (HASH, 3, np.float64, np.inf), "within the range"),
    ],
)  # fmt: skip
def test_an_answer_that_no_honest_site_could_send_is_refused(vector, expected, match):
    with pytest.raises(ProtocolError, match=match):
        answer(vector=vector).checked(*expected)


def test_refusals_have_fixed_codes_and_say_nothing_of_data():
    """The codes are part of the protocol: the wire carries the number, and names of rules with NOT_PERMITTED alone."""
    codes = {
        1001: "MALFORMED",
        1002: "NOT_APPROVED",
        1003: "TOO_MANY_QUERIES",
        1004: "OTHER_QUERY_ANSWERED",
        1005: "UNAVAILABLE",
        1006: "NOT_PERMITTED",
        1007: "NO_SESSION",
        1008: "OUT_OF_PROTOCOL",
        1009: "LEDGER_BEHIND",
    }
    assert {int(each): each.name for each in Refusal} == codes
    assert len({each.explanation for each in Refusal}) == len(Refusal)


def test_receipts_are_chains(query):
    one, other = RECEIPTS[1], RECEIPTS[2]
    for chain in ((), (one, one), (one, other), (one,) * (MOST_RECEIPTS + 1)):
        with pytest.raises(ProtocolError, match="receipts"):
            SumQuery.from_bytes(query(receipts={1: chain}).to_bytes())
