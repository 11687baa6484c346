"""An entry has one written form, says nothing impossible, and is signed for being an entry of a ledger."""

import json
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import approved, approved_masked, cap_of, hash_named, key_of, terms_of

from privacy.errors import PrivacyError, ProtocolError
from privacy.private_sum import SumMechanism
from study.canonical import canonical_json
from study.charging import declared_sums
from study.contract import Privacy, Study
from study.guarantee import Guarantee
from study.ledger_entries import (
    BODIES,
    FIRST,
    Agreed,
    Answered,
    Approved,
    Burnt,
    Charged,
    Closed,
    DataSet,
    DeclaredSum,
    Entry,
    Namespace,
    Opened,
    Refused,
    SignedEntry,
    SumTerms,
    hash_of,
)

STUDY, QUERY = hash_named("study"), hash_named("query")
UNPROTECTED = DeclaredSum(function="gradient", count=2, terms=None)
SAMPLES = [
    Opened(site="st. mary's, ward 3", key=key_of("site").public.hex()),
    Namespace(namespace="patients", cap=cap_of()),
    Namespace(namespace="patients", cap=None),
    DataSet(data_set="räcords", namespace="patients", unit="patient_id"),
    DataSet(data_set="records", namespace="patients", unit=None),
    approved(),
    approved(sums=(UNPROTECTED, DeclaredSum(function="moments", count=1, terms=terms_of()))),
    approved_masked(),
    Charged(
        salt="5a" * 16, study=STUDY, index=0, function="gradient", query=QUERY, terms=terms_of()
    ),
    Charged(
        salt="5a" * 16, study=STUDY, index=2**31 - 1, function="gradient", query=QUERY, terms=None
    ),
    Answered(study=STUDY, index=7, answer=hash_named("answer")),
    Agreed(study=STUDY, index=7, survivors=None),
    Agreed(study=STUDY, index=7, survivors=(1, 3, 1000)),
    Burnt(study=STUDY, index=7),
    Closed(study=STUDY),
    Refused(study=STUDY, reason="NOT_APPROVED"),
]
NAMES = [f"{each.KIND} {number}" for number, each in enumerate(SAMPLES)]


def entry_of(body, *, sequence=3, time=1_700_000_000):
    return Entry(sequence=sequence, previous=hash_named("before"), time=time, body=body)


def values_of(body):
    """As JSON would have it: lists for tuples."""
    return json.loads(entry_of(body).to_bytes())


def refused(values):
    with pytest.raises(ProtocolError, match="Expected"):
        Entry.from_bytes(canonical_json(values))


# Round trips


def test_every_kind_of_entry_is_sampled_here():
    assert {each.KIND for each in SAMPLES} == set(BODIES)


@pytest.mark.parametrize("body", SAMPLES, ids=NAMES)
def test_every_body_survives_its_written_form(body):
    entry = entry_of(body)
    content = entry.to_bytes()
    assert Entry.from_bytes(content) == entry
    assert Entry.from_bytes(content).to_bytes() == content
    assert entry.hash == hash_of(content)
    signed = SignedEntry.sign(entry, key_of("site"))
    line = signed.to_line()
    assert SignedEntry.from_line(line) == signed
    assert b"\n" not in line
    signed.verify(key_of("site").public)


@pytest.mark.parametrize("body", SAMPLES, ids=NAMES)
def test_a_body_cannot_be_changed_once_it_is_made(body):
    for each in fields(body):
        with pytest.raises(AttributeError, match="cannot assign"):
            setattr(body, each.name, getattr(body, each.name))


@given(st.text(min_size=1, max_size=200).filter(str.isprintable), st.integers(0, 2**31 - 1))
def test_any_printable_name_and_number_survives(name, index):
    for body in (
        Opened(site=name, key=QUERY),
        Charged(salt="5a" * 16, study=STUDY, index=index, function=name, query=QUERY, terms=None),
    ):
        assert Entry.from_bytes(entry_of(body).to_bytes()).body == body


@given(
    st.fixed_dictionaries(
        {
            "noise_multiplier": st.floats(1e-6, 1e15), "scale": st.floats(1e-9, 1e9), "beta": st.floats(1e-300, 0.9),
            "slack": st.floats(0, 1), "unlikely": st.floats(0, 0.5), "dimension": st.integers(1, 2**53),
            "sampling_rate": st.sampled_from([1.0, 0.25, 1e-9]),
        }
    )
)  # fmt: skip
def test_any_constants_survive(constants):
    terms = terms_of(**constants)
    body = Charged(
        salt="5a" * 16, study=STUDY, index=0, function="gradient", query=QUERY, terms=terms
    )
    assert Entry.from_bytes(entry_of(body).to_bytes()).body == body


# Malformed

WRONG = {
    "hash": [None, True, 5, 5.5, "", "g" * 64, "A" * 64, "0" * 63, "0" * 65, "0" * 63 + "\n", [], {}],
    "salt": [None, True, 5, 5.5, "", "g" * 32, "A" * 32, "0" * 31, "0" * 33, "0" * 31 + "\n", [], {}],
    "name": [None, True, 5, 5.5, "", "a" * 201, "line\nbreak", "\x00", "\x7f", "\u2028", [], {}, ["a"]],
    "index": [None, True, -1, 2**31, 0.5, 1e300, "0", [], {}],
    "count": [None, True, 0, -1, 2**31 + 1, 0.5, "1", [], {}],
    "cap": [True, 5, "", [], {}, {"epsilon": 1, "delta": 0.1}],
    "sums": [None, True, 5, "", {}, [], [None], [{}], "gradient"],
    "terms": [True, 5, "", [], {}],
    "survivors": [True, 5, "", "12", {}, [], [0], [1001], [2, 1], [1, 1], [1, None], [True], [1.5], ["1"], [[1]]],
}  # fmt: skip
FIELDS = {
    "opened": {"site": "name", "key": "hash"},
    "namespace": {"namespace": "name", "cap": "cap"},
    "data-set": {"data_set": "name", "namespace": "name", "unit": "name"},
    "approved": {"study": "hash", "name": "name", "data_set": "name", "trust": "name", "roster": "hash",
                 "sums": "sums"},
    "charged": {"study": "hash", "index": "index", "function": "name", "query": "hash", "salt": "salt",
                "terms": "terms"},
    "answered": {"study": "hash", "index": "index", "answer": "hash"},
    "agreed": {"study": "hash", "index": "index", "survivors": "survivors"},
    "burnt": {"study": "hash", "index": "index"},
    "closed": {"study": "hash"},
    "refused": {"study": "hash", "reason": "name"},
}  # fmt: skip
MAY_BE_NONE = {("data-set", "unit"), ("approved", "roster")}


def test_every_field_of_every_body_is_malformed_below():
    for kind, body in BODIES.items():
        assert set(FIELDS[kind]) == {each.name for each in fields(body)}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in FIELDS.items() for name in names]
)
def test_every_malformed_field_is_refused(kind, name):
    values = values_of(next(each for each in SAMPLES if kind == each.KIND))
    for wrong in WRONG[FIELDS[kind][name]]:
        if wrong is not None or (kind, name) not in MAY_BE_NONE:
            refused(values | {"body": values["body"] | {name: wrong}})


@pytest.mark.parametrize("body", SAMPLES, ids=NAMES)
def test_fields_that_are_missing_too_many_or_in_another_kind_are_refused(body):
    values = values_of(body)
    for name in values["body"]:
        refused(values | {"body": {k: v for k, v in values["body"].items() if k != name}})
        refused(values | {"body": values["body"] | {name.upper(): values["body"][name]}})
    refused(values | {"body": values["body"] | {"more": 1}})
    for kind in BODIES:
        if set(FIELDS[kind]) != set(FIELDS[body.KIND]):
            refused(values | {"kind": kind})
    for wrong in (None, [], "x", 5, [values["body"]]):
        refused(values | {"body": wrong})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("version", [0, 2, True, None, "1", 1.5]), ("kind", ["", "Opened", "spent", None, 5, [], ["opened"], {}]),
        ("sequence", [-1, 2**31, True, None, 0.5, "1"]), ("time", [-1, 2**37, True, None, 0.5, "1"]),
        ("previous", [None, 5, "", "0" * 63, "G" * 64, [], True]),
    ],
)  # fmt: skip
def test_every_malformed_part_of_an_entry_is_refused(name, wrong):
    values = values_of(SAMPLES[0])
    for each in wrong:
        refused(values | {name: each})
    refused({key: value for key, value in values.items() if key != name})
    refused(values | {"more": 1})


@pytest.mark.parametrize("values", [None, 5, "x", [], {}, True])
def test_what_is_no_entry_at_all_is_refused(values):
    refused(values)


def spellings():
    """Other bytes that any reader of JSON would take for the same entry."""
    content = entry_of(SAMPLES[0]).to_bytes()
    text = content.decode()
    yield "a blank", content.replace(b",", b", ", 1)
    yield "a line's end", content + b"\n"
    yield "a mark of byte order", b"\xef\xbb\xbf" + content
    yield "an escape", content.replace(b"opened", b"\\u006fpened")
    yield "a float", content.replace(b'"sequence":3', b'"sequence":3.0')
    yield "an exponent", content.replace(b'"sequence":3', b'"sequence":3e0')
    yield "a sign", content.replace(b'"sequence":3', b'"sequence":+3')
    yield "a key twice", content.replace(b'"sequence":3', b'"sequence":3,"sequence":3')
    backwards = dict(reversed(json.loads(text).items()))
    yield "another order", json.dumps(backwards, separators=(",", ":")).encode()
    yield "not a number", content.replace(b'"sequence":3', b'"sequence":NaN')
    yield "UTF-16", text.encode("utf-16")
    yield "half of it", content[: len(content) // 2]
    yield "nothing", b""
    yield "other bytes", bytes(range(256))
    yield "nesting", b"[" * 10_000
    yield "a lone surrogate", content.replace(b"mary", b"\\ud800")
    yield "many digits", content.replace(b'"sequence":3', b'"sequence":' + b"3" * 5000)


@pytest.mark.parametrize("content", [pytest.param(each, id=name) for name, each in spellings()])
def test_any_other_spelling_of_an_entry_is_refused(content):
    with pytest.raises(ProtocolError, match="Expected"):
        Entry.from_bytes(content)
    line = b'{"entry":' + content + b',"signature":"' + b"0" * 128 + b'"}'
    with pytest.raises(ProtocolError, match="Expected"):
        SignedEntry.from_line(line)


@pytest.mark.parametrize(
    "changed",
    [
        {"signature": "0" * 127}, {"signature": "0" * 130}, {"signature": "G" * 128}, {"signature": "A" * 128},
        {"signature": None}, {"signature": 5}, {"signature": "0" * 127 + "\n"}, {"entry": None}, {"entry": []},
        {"entry": "x"}, {"more": 1},
    ],
)  # fmt: skip
def test_every_malformed_line_of_an_export_is_refused(changed):
    line = SignedEntry.sign(entry_of(SAMPLES[0]), key_of("site")).to_line()
    values = json.loads(line)
    with pytest.raises(ProtocolError, match="Expected"):
        SignedEntry.from_line(canonical_json(values | changed))
    for name in values:
        with pytest.raises(ProtocolError, match="Expected a line"):
            SignedEntry.from_line(canonical_json({k: v for k, v in values.items() if k != name}))


# What cannot be said


@pytest.mark.parametrize("body", SAMPLES, ids=NAMES)
def test_what_cannot_be_read_cannot_be_made_either(body):
    for each in fields(body):
        kind = FIELDS[body.KIND][each.name]
        for wrong in WRONG[kind]:
            if isinstance(wrong, list | dict) or (wrong is None and kind in ("cap", "terms")):
                continue
            if wrong is not None or (body.KIND, each.name) not in MAY_BE_NONE:
                with pytest.raises(ProtocolError, match="Expected"):
                    replace(body, **{each.name: wrong})


def test_a_study_names_each_function_once_and_at_least_one():
    for sums in ((), (UNPROTECTED, UNPROTECTED), (UNPROTECTED, replace(UNPROTECTED, count=1))):
        with pytest.raises(ProtocolError, match="at least one sum, and each function once"):
            approved_with(sums)


def approved_with(sums):
    return Approved(study=STUDY, name="x", data_set="x", trust="local", roster=None, sums=sums)


@pytest.mark.parametrize(
    "wrong", [(), (0,), (0, 1), (-1, 1), (2, 1), (1, 1), (1, 2, 2), (1, 1001), (1, 2**31)]
)
def test_survivors_are_numbers_of_a_roster_ascending_and_each_once(wrong):
    with pytest.raises(ProtocolError, match="survivors in ascending order, each once, from 1"):
        Agreed(study=STUDY, index=0, survivors=wrong)


@pytest.mark.parametrize("wrong", [(True,), (1, 2.0), (1, "2"), [1, 2], "12", 5])
def test_survivors_are_a_tuple_of_whole_numbers(wrong):
    with pytest.raises(ProtocolError, match="type of survivors"):
        Agreed(study=STUDY, index=0, survivors=wrong)


@given(st.sets(st.integers(1, 1000), min_size=1))
def test_any_survivors_survive(survivors):
    body = Agreed(study=STUDY, index=0, survivors=tuple(sorted(survivors)))
    assert Entry.from_bytes(entry_of(body).to_bytes()).body == body


def test_an_entry_says_one_of_the_known_things():
    class Other(Closed):
        KIND = "other"

    for body in (Other(study=STUDY), None, "closed", Closed):
        with pytest.raises(ProtocolError, match="says something"):
            entry_of(body)


def test_the_first_entry_holds_zeros_in_the_place_of_a_hash():
    first = Entry(sequence=0, previous=FIRST, time=0, body=SAMPLES[0])
    assert json.loads(first.to_bytes())["previous"] == "0" * 64


# Terms of a sum


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"version": 2}, "version 1"), ({"version": True}, "type of version"), ({"adjacency": "other"}, "adjacency"),
        ({"part": "half"}, "part"), ({"unit": ""}, "printable"), ({"unit": "a\nb"}, "printable"), ({"unit": 5}, "unit"),
        ({"dimension": 1.0}, "dimension"), ({"clipping_norm": math.nan}, "clipping_norm"),
        ({"scale": math.inf}, "scale"), ({"beta": "0"}, "beta"), ({"bits": 32.0}, "bits"),
        ({"sites_per_unit": 0}, "sites_per_unit"), ({"sites_per_unit": 4}, "sites_per_unit"),
        ({"shares": 0}, "shares"), ({"shares": 3}, "shares"), ({"shares": 4}, "shares"),
        ({"survivors": 0}, "survivors"), ({"survivors": 4}, "survivors"), ({"survivors": 2}, "survivors"),
        ({"threshold": 0}, "threshold"), ({"threshold": 4}, "threshold"), ({"quorum": 0}, "quorum"),
        ({"quorum": 4}, "quorum"), ({"colluding": -1}, "colluding"),
        ({"noise_multiplier": 0.0}, "noise multiplier"), ({"noise_multiplier": 1e-200}, "noise multiplier"),
        ({"noise_multiplier": 1e300}, "noise multiplier"), ({"noise_multiplier": -4.0}, "noise multiplier"),
    ],
)  # fmt: skip
def test_impossible_terms_cannot_be_made(changed, expected):
    with pytest.raises(ProtocolError, match=expected):
        terms_of(**changed)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"sampling_rate": 0.0}, "sampling_rate"), ({"sampling_rate": 1.5}, "sampling_rate"),
        ({"beta": -1e-9}, "rounding"), ({"beta": 0.5, "sites_per_unit": 2}, "rounding"),
        ({"unlikely": -1e-9}, "unlikely"), ({"unlikely": 1.0}, "unlikely"),
    ],
)  # fmt: skip
def test_what_no_accountant_knows_is_refused_too(changed, expected):
    with pytest.raises(PrivacyError, match=expected):
        terms_of(**changed)
    body = values_of(
        Charged(
            salt="5a" * 16, study=STUDY, index=0, function="gradient", query=QUERY, terms=terms_of()
        )
    )
    body["body"]["terms"] |= changed
    refused(body)


def test_terms_are_told_to_the_accountant_as_they_are():
    told = terms_of(sites_per_unit=2).sums(7)
    assert (told.event.noise_multiplier, told.event.sampling_rate, told.event.count) == (
        4.0,
        1.0,
        7,
    )
    assert told.event.part == "train"
    assert (told.rounding, told.unlikely) == (2e-12, 1e-28)


def test_sound_terms_yield_the_noise_that_they_charge():
    terms_of().check_noise()
    terms_of(2.5).check_noise()
    terms_of(noise_multiplier=3.9).check_noise()  # charging more than is due is no lie


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"noise_multiplier": 4.1}, "noise_multiplier"), ({"scale": 1e3}, "noise_multiplier"),
        ({"clipping_norm": 1.1}, "noise_multiplier"), ({"dimension": 5_000, "unlikely": 1e-20}, "noise_multiplier"),
        ({"base": 16, "stretch": 0}, "noise_multiplier"), ({"beta": 1e-300}, "noise_multiplier"),
        ({"slack": 0.1}, "noise_multiplier"), ({"adjacency": "replace-one"}, "noise_multiplier"),
        ({"sites_per_unit": 3}, "noise_multiplier"), ({"slack": 0.0}, "slack"), ({"slack": -0.9}, "slack"),
        ({"unlikely": 0.0}, "unlikely"), ({"unlikely": 1e-33, "dimension": 10**6}, "unlikely"),
        ({"unlikely": 3 * 10**6 * 2.0**-109, "dimension": 10**6}, "unlikely"),  # without AES for coins
        ({"sampling_rate": 0.5, "unlikely": 1e-39}, "unlikely"), ({"bits": 16}, "bits"),
        ({"sampling_rate": 0.5, "sites_per_unit": 2}, "sampling_rate"),
        ({"sampling_rate": 0.5, "adjacency": "replace-one"}, "sampling_rate"), ({"base": 1}, "base"),
        ({"base": 10**9}, "base"), ({"stretch": -1}, "stretch"), ({"stretch": 10**15}, "stretch"), ({"scale": 0.0}, "scale"),
        ({"scale": -1.0}, "scale"), ({"clipping_norm": -1.0}, "clipping_norm"), ({"dimension": 0}, "dimension"),
        ({"clipping_norm": -1.0, "scale": -1.0}, "0 < clipping_norm=-1.0"), ({"clipping_norm": 0.0}, "clipping_norm"),
        ({"dimension": -3}, "dimension"), ({"beta": 0.0}, "0 < beta < 1"), ({"scale": 5e-324, "clipping_norm": 0.1}, "reach"),
    ],
)  # fmt: skip
def test_terms_that_do_not_yield_the_noise_that_they_charge_are_found(changed, expected):
    with pytest.raises(PrivacyError, match=expected):
        terms_of(**changed).check_noise()


def test_sound_thresholds_bear_out_the_shares_that_are_charged():
    for constants in (
        {}, {"shares": 2},
        {"sites": 9, "colluding": 2, "survivors": 6, "threshold": 6, "quorum": 6, "shares": 4},
        {"sites": 9, "colluding": 2, "survivors": 7, "threshold": 5, "quorum": 7, "shares": 5},
    ):  # fmt: skip
        terms_of(**constants).check_thresholds()


@pytest.mark.parametrize(
    "constants",
    [
        {"colluding": 0}, {"quorum": 2}, {"threshold": 1}, {"sites": 4, "survivors": 3, "threshold": 2},
        {"sites": 4, "survivors": 3, "threshold": 3, "quorum": 2}, {"colluding": 3},
        {"sites": 6, "colluding": 2, "survivors": 4, "threshold": 4, "quorum": 4},  # n = c + 2 D
        {"sites": 1001, "survivors": 1001, "threshold": 1001, "quorum": 1001},
    ],
)  # fmt: skip
def test_thresholds_that_bear_out_nothing_are_found(constants):
    """2 tau > n + c, t + m > n + c, tau + t > n + c, c >= 1, and no more sites than are ever masked."""
    with pytest.raises(PrivacyError, match="Expected (2 tau|t, tau)"):
        terms_of(**constants).check_thresholds()


def test_two_vectors_of_norm_c_are_twice_as_far_apart_as_one_is_from_none():
    halved = terms_of(noise_multiplier=2.0, adjacency="replace-one")
    halved.check_noise()
    with pytest.raises(PrivacyError, match="noise_multiplier"):
        replace(halved, noise_multiplier=2.001).check_noise()


def test_every_constant_that_moves_the_noise_is_part_of_the_terms():
    """So that any accountant can compute the charge anew: what a mechanism has the terms have, under the same name."""
    named = {each.name for each in fields(SumMechanism)} - {"deviation"}
    assert named <= {each.name for each in fields(SumTerms)}


def test_terms_of_real_studies_are_sound(declared, make_study):
    for privacy in ({"trust": "local"}, {"trust": "aggregate"}, {"trust": "server"}):
        study = make_study(
            privacy=privacy | {"noise_multiplier": 30.0}, data={"bounds": {"default": (0.0, 1.0)}}
        )
        assert isinstance(study, Study)
        assert isinstance(study.privacy, Privacy)
        for each in declared_sums(Guarantee(declared(study))):
            assert each.terms is not None
            each.terms.check_noise()


# Signatures


def test_an_entry_is_signed_as_an_entry_of_a_ledger_by_one_key():
    key, entry = key_of("site"), entry_of(SAMPLES[0])
    signed = SignedEntry.sign(entry, key)
    signed.verify(key.public)
    digest = bytes.fromhex(entry.hash)
    for forged in (
        key_of("other").sign("ledger", digest), key.sign("receipt", digest), key.sign("ledger", entry.to_bytes()),
        key.private.sign(digest), bytes(64), signed.signature[:-1], b"",
        SignedEntry.sign(replace(entry, time=1), key).signature,
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="signature"):
            replace(signed, signature=forged).verify(key.public)
    with pytest.raises(ProtocolError, match="signature"):
        signed.verify(key_of("other").public)
    with pytest.raises(ProtocolError, match="signature"):
        replace(signed, content=replace(entry, time=1).to_bytes()).verify(key.public)
