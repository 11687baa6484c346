"""A declaration has one form, refuses every other, and every one of its fields is part of its hash."""

import copy
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ProtocolError, StudyError
from privacy.signing import PROTOCOL
from study.canonical import canonical_json
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.declaration import Declaration
from study.settings import ImpossibleSettingError, settings_of
from study.templates import TEMPLATES, template_study

NONCE = "f" * 32
AVERAGING = {
    "algorithm": "dp-fedavg",
    "local_steps": 3,
    "local_learning_rate": 0.1,
    "learning_rate": 1.0,
}
REGRESSION = {"task": "regression", "classes": (), "label_bounds": (0.0, 1.0)}

# What differs from the fixture's study before and after one setting is changed, e.g. what the setting needs.
CHANGES = {
    "study.name": ({}, {"name": "other"}),
    "study.purpose": ({}, {"purpose": "another"}),
    "study.version": ({}, {"version": 2}),
    "data.task": (
        {"model": {"kind": "mlp", "hidden": (2,)}},
        {"model": {"kind": "mlp", "hidden": (2,)}, "data": REGRESSION},
    ),
    "data.label": ({}, {"data": {"label": "sick"}}),
    "data.expected_records": ({}, {"data": {"expected_records": 41}}),
    "data.source": ({}, {"data": {"source": "wine"}}),
    "data.classes": ({}, {"data": {"classes": ("yes", "no")}}),
    "data.label_bounds": (
        {"data": REGRESSION, "model": {"kind": "linear"}},
        {"data": REGRESSION | {"label_bounds": (0.0, 2.0)}, "model": {"kind": "linear"}},
    ),
    "data.features": ({}, {"data": {"features": ("age", "weight", "height")}}),
    "data.test_fraction": ({}, {"data": {"test_fraction": 0.26}}),
    "data.split_key": ({}, {"data": {"split_key": "2"}}),
    "data.unit": ({}, {"data": {"unit": "person"}}),
    "data.records_per_unit": (
        {"data": {"unit": "person"}},
        {"data": {"unit": "person", "records_per_unit": 2}},
    ),
    "data.sites_per_unit": (
        {"data": {"unit": "person"}},
        {"data": {"unit": "person", "sites_per_unit": 2}},
    ),
    "data.scaling": ({}, {"data": {"scaling": "standard"}}),
    "data.beyond_bounds": ({}, {"data": {"beyond_bounds": "clamp"}}),
    "data.bounds": (
        {"data": {"bounds": {"age": (0.0, 100.0)}}},
        {"data": {"bounds": {"age": (0.0, 101.0)}}},
    ),
    "model.kind": ({}, {"model": {"kind": "softmax"}}),
    "model.hidden": (
        {"model": {"kind": "mlp", "hidden": (2, 3)}},
        {"model": {"kind": "mlp", "hidden": (3, 2)}},
    ),
    "model.activation": ({}, {"model": {"activation": "tanh"}}),
    "model.precision": ({}, {"model": {"precision": "float32"}}),
    "training.rounds": ({}, {"training": {"rounds": 5}}),
    "training.algorithm": ({"training": {"learning_rate": 1.0}}, {"training": AVERAGING}),
    "training.spare_rounds": ({}, {"training": {"spare_rounds": 1}}),
    "training.sampling_rate": ({}, {"training": {"sampling_rate": 0.5}}),
    "training.optimizer": (
        {"training": {"learning_rate": 1.0}},
        {"training": {"learning_rate": 1.0, "optimizer": "sgd"}},
    ),
    "training.learning_rate": ({}, {"training": {"learning_rate": 0.1}}),
    "training.schedule": ({}, {"training": {"schedule": "cosine"}}),
    "training.average": ({}, {"training": {"average": "none"}}),
    "training.signal": ({}, {"training": {"signal": False}}),
    "training.stop_below": ({}, {"training": {"stop_below": 0.1}}),
    "training.local_steps": (
        {"training": AVERAGING},
        {"training": AVERAGING | {"local_steps": 4}},
    ),
    "training.local_learning_rate": (
        {"training": AVERAGING},
        {"training": AVERAGING | {"local_learning_rate": 0.2}},
    ),
    "privacy.trust": ({}, {"privacy": {"trust": "aggregate"}}),
    "privacy.epsilon": (
        {"privacy": {"noise_multiplier": None, "epsilon": 3.0}},
        {"privacy": {"noise_multiplier": None, "epsilon": 3.5}},
    ),
    "privacy.noise_multiplier": ({}, {"privacy": {"noise_multiplier": 3.0000000000000004}}),
    "privacy.delta": ({}, {"privacy": {"delta": 1e-6}}),
    "privacy.clipping": ({}, {"privacy": {"clipping": "automatic"}}),
    "privacy.clipping_norm": ({}, {"privacy": {"clipping_norm": 0.5}}),
    "privacy.max_colluding": ({}, {"privacy": {"max_colluding": 2}}),
    "privacy.max_dropouts": ({}, {"privacy": {"max_dropouts": 1}}),
    "sites.minimum": ({}, {"sites": {"minimum": 2}}),
    "sites.maximum_records": ({}, {"sites": {"maximum_records": 40}}),
}
SECTIONS = {
    "study": Study,
    "data": Data,
    "model": Model,
    "training": Training,
    "privacy": Privacy,
    "sites": Sites,
}


def declaration_of(study, **changed):
    noise = study.privacy.noise_multiplier or (None if study.privacy.trust == "unsafe" else 3.0)
    given_ = {"sites": 10, "noise_multiplier": noise, "nonce": NONCE} | changed
    return Declaration(study=study, **given_)


def every_leaf(values, path=()):
    if isinstance(values, dict):
        for key, value in values.items():
            yield from every_leaf(value, (*path, key))
        yield path
    else:
        yield path


def replaced(values, path, value):
    if not path:
        return value
    values = copy.deepcopy(values)
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return values


def test_every_setting_has_a_case_here():
    known = {f"{name}.{each}" for name, owner in SECTIONS.items() for each in settings_of(owner)}
    assert known | {"data.bounds"} == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_is_part_of_the_hash_and_survives_the_wire(make_study, name):
    before, after = (declaration_of(make_study(**each)) for each in CHANGES[name])
    assert before.hash != after.hash
    for each in (before, after):
        assert Declaration.from_bytes(each.content) == each
        assert Declaration.from_bytes(each.content).hash == each.hash


@pytest.mark.parametrize(
    "changed",
    [
        {"sites": 11},
        {"roster": "0" * 64},
        {"nonce": "f" * 31 + "e"},
        {"noise_multiplier": 3.5, "epsilon": True},
        {"noise_multiplier": 3.0000000000000004, "epsilon": True},
    ],
)
def test_sites_nonce_roster_and_noise_are_part_of_the_hash(make_study, changed):
    privacy = {"noise_multiplier": None, "epsilon": 5.0} if changed.pop("epsilon", 0) else {}
    study = make_study(privacy=privacy)
    assert declaration_of(study).hash != declaration_of(study, **changed).hash


def test_the_protocol_version_is_part_of_the_hash(make_study, monkeypatch):
    one = declaration_of(make_study(name="of-this-version"))
    content, name = one.content, one.hash
    monkeypatch.setattr("study.declaration.PROTOCOL", PROTOCOL + 1)
    assert declaration_of(make_study(name="of-this-version")).hash != name
    with pytest.raises(ProtocolError, match=f"Expected protocol {PROTOCOL + 1}"):
        Declaration.from_bytes(content)  # never read before, so not from its cache


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("features", [("one",), ("b", "a", "ä", "\U0001f600")])
def test_every_template_survives_the_wire(name, features):
    study = template_study(name)
    study = dataclasses.replace(study, data=dataclasses.replace(study.data, features=features))
    one = declaration_of(study)
    assert Declaration.from_bytes(one.content) == one
    assert Declaration.from_bytes(one.content).content == one.content


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0, 1e6, exclude_min=True).filter(lambda z: z > 0),
    st.integers(3, 128),
    st.text("0123456789abcdef", min_size=32, max_size=32),
)
def test_any_noise_and_nonce_survive_the_wire(make_study, z, sites, nonce):
    study = make_study(privacy={"noise_multiplier": z})
    one = Declaration(study=study, sites=sites, noise_multiplier=z, nonce=nonce)
    assert Declaration.from_bytes(one.content) == one


@pytest.mark.parametrize("roster", [None, "0" * 64, "0123456789abcdef" * 4])
def test_any_roster_or_none_survives_the_wire(make_study, roster):
    one = declaration_of(make_study(), roster=roster)
    assert Declaration.from_bytes(one.content) == one
    assert Declaration.from_bytes(one.content).roster == roster


@pytest.mark.parametrize("wrong", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n"])
def test_a_roster_is_named_by_64_hexadecimal_digits(make_study, wrong):
    with pytest.raises(StudyError, match="the hash of a roster"):
        declaration_of(make_study(), roster=wrong)
    values = declaration_of(make_study()).to_values() | {"roster": wrong}
    with pytest.raises(ProtocolError, match="the hash of a roster"):
        Declaration.from_bytes(canonical_json(values))


@pytest.mark.parametrize("wrong", [5, True, 0.5, [], {}, ["0" * 64]])
def test_a_roster_of_another_type_is_refused(make_study, wrong):
    values = declaration_of(make_study()).to_values() | {"roster": wrong}
    with pytest.raises(ProtocolError, match="Expected the hash of a roster, or none"):
        Declaration.from_bytes(canonical_json(values))


def test_a_whole_number_and_the_equal_float_are_one_study(make_study):
    whole = make_study(privacy={"noise_multiplier": 3})
    assert declaration_of(whole).hash == declaration_of(make_study()).hash


@pytest.mark.parametrize(
    "path", ["protocol", "study", "sites", "nonce", "roster", "noise_multiplier"]
)
def test_a_declaration_without_one_of_its_keys_is_refused(make_study, path):
    values = declaration_of(make_study()).to_values()
    del values[path]
    with pytest.raises(ProtocolError, match="Expected"):
        Declaration.from_bytes(canonical_json(values))


def test_a_study_without_any_one_of_its_settings_is_refused_even_where_there_is_a_default(
    make_study,
):
    whole = declaration_of(
        make_study(data={"bounds": {"age": (0.0, 1.0)}, "unit": "person"})
    ).to_values()
    for path in every_leaf(whole["study"]):
        if path:
            values = copy.deepcopy(whole)
            place = values["study"]
            for key in path[:-1]:
                place = place[key]
            del place[path[-1]]
            if path in {("data", "bounds", "age"), ("data", "unit")}:
                continue  # another study, just as complete
            with pytest.raises(ProtocolError, match="Expected"):
                Declaration.from_bytes(canonical_json(values))


@pytest.mark.parametrize(
    "path",
    [(), ("study",), *[("study", name) for name in SECTIONS]],
    ids=lambda path: ".".join(path) or "top",
)
@pytest.mark.parametrize("name", ["x", "", "seed", "epsilon ", "study.name"])
def test_an_unknown_key_is_refused_at_every_level(make_study, path, name):
    values = declaration_of(make_study()).to_values()
    with pytest.raises(ProtocolError, match="Expected"):
        Declaration.from_bytes(canonical_json(replaced(values, (*path, name), 1)))


def test_every_value_of_another_type_or_range_is_refused_or_means_exactly_itself(make_study):
    """All leaves and sections against junk of every JSON type: nothing but ProtocolError comes out."""
    whole = declaration_of(make_study(data={"bounds": {"age": (0.0, 1.0)}})).to_values()
    junk = [None, True, False, 0, -1, 2**53, 0.5, -1e308, 5e-324, "", "x", "é" * 70, [], {}]
    junk += [[1.0, 0.0], [["x"]], {"x": {}}, ["x", 1], "all", "auto", "unsafe"]
    taken = 0
    for path in every_leaf(whole):
        for each in junk:
            content = canonical_json(replaced(whole, path, each))
            try:
                found = Declaration.from_bytes(content)
            except ProtocolError:
                continue
            taken += 1
            assert found.content == content
    assert taken < 100  # texts and free numbers alone: of about 900


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", "1e999", "1E5", "1.0", "01", "+1"])
def test_numbers_that_have_no_canonical_form_are_refused(make_study, bad):
    content = declaration_of(make_study()).content
    assert b'"noise_multiplier":3,' in content
    with pytest.raises(ProtocolError, match="canonical JSON"):
        Declaration.from_bytes(
            content.replace(b'"noise_multiplier":3,', b'"noise_multiplier":%s,' % bad.encode())
        )


def test_any_other_spelling_is_refused(make_study):
    one = declaration_of(make_study())
    values = one.to_values()
    for other in (
        json.dumps(values).encode(),
        json.dumps(values, indent=1).encode(),
        json.dumps(dict(reversed(values.items())), separators=(",", ":")).encode(),
        one.content + b"\n",
        b" " + one.content,
        b"\xef\xbb\xbf" + one.content,
        one.content.replace(b'"sites":10', b'"sites":10,"sites":10'),
        one.content.replace(b'"example"', b'"ex\\u0061mple"'),
        one.content.decode().encode("utf-16"),
        one.content[:-1],
        b"",
        b"null",
        b"[]",
    ):
        with pytest.raises(ProtocolError, match="Expected"):
            Declaration.from_bytes(other)


def test_no_flipped_bit_crashes_the_reader(make_study):
    """Every 7th bit of the whole form: refused, or another declaration that is spelt just so."""
    content = declaration_of(make_study()).content
    for bit in range(0, 8 * len(content), 7):
        data = bytearray(content)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = Declaration.from_bytes(bytes(data))
        except ProtocolError:
            continue
        assert found.content == data
        assert found.hash != declaration_of(make_study()).hash


def test_lists_within_lists_are_refused_however_deep(make_study):
    """Of all depths: reading, checking and describing a value run out of stack at different ones."""
    whole = declaration_of(make_study()).content
    assert whole.count(b'["no","yes"]') == 1
    for depth in range(20, 1100, 20):
        nested = b"[" * depth + b'"no"' + b"]" * depth
        with pytest.raises(ProtocolError, match="Expected"):
            Declaration.from_bytes(whole.replace(b'["no","yes"]', b"[" + nested + b',"yes"]'))


@pytest.mark.parametrize(
    ("settings_", "changed", "match"),
    [
        ({}, {"sites": 2}, "at least sites.minimum = 3 sites, found 2"),
        ({}, {"sites": 0}, "Expected .*sites"),
        ({}, {"sites": -1}, "Expected .*sites"),
        ({}, {"sites": 10_001}, "at most 10000 sites, found 10001"),
        ({"data": {"unit": "person", "sites_per_unit": 4}}, {"sites": 3}, "data.sites_per_unit at most 3"),
        ({}, {"noise_multiplier": 2.999}, "the noise multiplier that the study itself gives"),
        ({}, {"noise_multiplier": 3.001}, "the noise multiplier that the study itself gives"),
        ({}, {"noise_multiplier": None}, "Expected a noise multiplier"),
        ({"privacy": {"trust": "unsafe", "noise_multiplier": None}}, {"noise_multiplier": 1.0}, "except for a study"),
        ({}, {"nonce": ""}, "a nonce of 32"),
        ({}, {"nonce": "F" * 32}, "a nonce of 32"),
        ({}, {"nonce": "f" * 33}, "a nonce of 32"),
        ({}, {"nonce": "f" * 32 + "\n"}, "a nonce of 32"),
    ],
)  # fmt: skip
def test_an_impossible_declaration_is_refused(make_study, settings_, changed, match):
    with pytest.raises(StudyError, match=match):
        declaration_of(make_study(**settings_), **changed)


@pytest.mark.parametrize(
    "noise", [0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1.1e7, 1e308]
)
def test_noise_out_of_range_is_refused(make_study, noise):
    study = make_study(privacy={"noise_multiplier": None, "epsilon": 1.0})
    with pytest.raises(StudyError, match="Expected noise_multiplier="):
        declaration_of(study, noise_multiplier=noise)


@pytest.mark.parametrize("trust", ["aggregate", "server"])
def test_a_roster_must_outnumber_the_colluding_and_twice_the_missing(make_study, trust):
    """n > c + 2 D, also where sites.minimum has been lowered behind the contract's back."""
    privacy = {"trust": trust, "max_colluding": 2, "max_dropouts": 1}
    study = make_study(privacy=privacy, sites={"minimum": 5})
    assert declaration_of(study, sites=5).sites == 5
    lowered = copy.copy(study.sites)
    object.__setattr__(lowered, "minimum", 1)
    object.__setattr__(study, "sites", lowered)
    with pytest.raises(StudyError, match="more than 4 sites, found 4"):
        declaration_of(study, sites=4)


def test_features_must_be_named(make_study):
    with pytest.raises(ImpossibleSettingError, match="data.features: expected names of columns"):
        declaration_of(make_study(data={"features": "all"}))


def test_with_study_is_the_same_run_of_another_study(make_study):
    one = declaration_of(make_study())
    other = one.with_study(make_study(version=2))
    assert (other.sites, other.nonce) == (one.sites, one.nonce)
    assert other.hash != one.hash
    with pytest.raises(StudyError, match="the noise multiplier that the study itself gives"):
        one.with_study(make_study(privacy={"noise_multiplier": 1.0}))
