"""A frozen study leaves nothing open, and a study written to a file is the same study when it is read."""

import dataclasses
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import DataError
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.freezing import freeze, to_toml
from study.parsing import parse_study
from study.settings import ImpossibleSettingError
from study.settings_file import toml_value
from study.templates import TEMPLATES, template_study

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
finite = st.floats(-1e200, 1e200)
bounds = st.tuples(finite, finite).filter(lambda pair: pair[0] < pair[1])
COLUMNS = ["id", "age", "weight", "ill"]


def study_of(**data):
    settings = {"task": "classification", "label": "ill", "classes": ("0", "1")}
    return Study(
        name="example",
        data=Data(expected_records=10, **(settings | data)),
        model=Model(kind="logistic"),
        training=Training(rounds=3),
        privacy=Privacy(epsilon=1.0),
    )


def test_all_features_are_every_column_but_label_and_unit_in_the_tables_order():
    assert freeze(study_of(unit="id"), COLUMNS, {}).data.features == ("age", "weight")
    assert freeze(study_of(), COLUMNS, {}).data.features == ("id", "age", "weight")


def test_named_features_keep_their_names_and_order():
    assert freeze(study_of(features=("weight", "age")), COLUMNS, {}).data.features == (
        "weight",
        "age",
    )


def test_bounds_are_the_studys_own_then_published_then_default():
    study = study_of(bounds={"age": (0.0, 120.0), "default": (0.0, 1.0)})
    published = {"age": (1.0, 2.0), "weight": (3.0, 4.0)}
    frozen = freeze(study, COLUMNS, published)
    assert dict(frozen.data.bounds) == {
        "id": (0.0, 1.0),
        "age": (0.0, 120.0),
        "weight": (3.0, 4.0),
    }


def test_a_feature_for_which_nothing_is_stated_stays_without_bounds():
    frozen = freeze(study_of(bounds={"age": (0.0, 120.0)}), COLUMNS, {})
    assert dict(frozen.data.bounds) == {"age": (0.0, 120.0)}
    assert frozen.data.bounds_of("weight") is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_freezing_twice_changes_nothing(name):
    study = template_study(name)
    columns = ["one", "two", study.data.label, *(set(study.data.bounds) - {"default"})]
    once = freeze(study, columns, {"one": (0.0, 2.0)})
    assert freeze(once, columns, {"one": (0.0, 2.0)}) == once


def test_bounds_of_a_column_that_does_not_exist_are_refused():
    with pytest.raises(
        ImpossibleSettingError, match=r'data.bounds."wieght": expected the name of a column'
    ) as error:
        freeze(study_of(bounds={"wieght": (0.0, 1.0)}), COLUMNS, {})
    assert error.value.hint == 'did you mean "weight"?'


def test_a_table_without_features_is_refused():
    with pytest.raises(DataError, match="columns besides the label and the unit, found none"):
        freeze(study_of(), ["ill"], {})


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_survives_being_written_and_read(name):
    study = template_study(name)
    assert parse_study(to_toml(study)) == study


@settings(deadline=None)
@given(
    st.lists(texts, min_size=4, max_size=30, unique=True),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.data(),
)
def test_a_written_study_is_the_same_study_when_it_is_read(names, purpose, draw):
    label, unit, *features = names
    trust = draw.draw(st.sampled_from(["aggregate", "local"]))
    study = Study(
        name="example",
        purpose=purpose,
        version=draw.draw(st.integers(1, 2**53)),
        data=Data(
            task="regression",
            label=label,
            unit=draw.draw(st.none() | st.just(unit)),
            features=draw.draw(st.just("all") | st.just(tuple(features))),
            expected_records=draw.draw(st.integers(1, 10**9)),
            label_bounds=draw.draw(bounds),
            test_fraction=draw.draw(st.floats(0, 1, exclude_max=True)),
            split_key=draw.draw(texts),
            bounds=draw.draw(st.dictionaries(st.sampled_from([*features, "default"]), bounds)),
        ),
        model=Model(kind="mlp", hidden=draw.draw(st.tuples(st.integers(1, 65_536)))),
        training=Training(
            rounds=draw.draw(st.integers(1, 10**6)),
            sampling_rate=draw.draw(st.floats(0, 1, exclude_min=True)),
            learning_rate=draw.draw(st.just("auto") | st.floats(1e-300, 1e300)),
            signal=draw.draw(st.booleans()),
        ),
        privacy=Privacy(
            trust=trust,
            epsilon=draw.draw(st.integers(1, 9) | st.floats(1e-9, 1000)),
            delta=1e-10,
        ),
        sites=Sites(minimum=draw.draw(st.integers(1 if trust == "local" else 2, 128))),
    )
    read = parse_study(to_toml(study))
    assert read == study
    assert to_toml(read) == to_toml(study)


def test_every_setting_stands_in_the_file_in_its_order():
    study = study_of(bounds={"default": (0.0, 1.0), "age": (0.0, 120.0)})
    document = tomllib.loads(to_toml(study))
    assert list(document) == ["format", "study", "data", "model", "training", "privacy", "sites"]
    settings = [each.name for each in dataclasses.fields(Training)]
    assert list(document["training"]) == [each for each in settings if each in document["training"]]
    assert document["training"]["sampling_rate"] == 1.0
    assert document["data"]["bounds"] == {"default": [0.0, 1.0], "age": [0.0, 120.0]}


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_is_escaped_as_toml_wants_it(text):
    assert tomllib.loads(f"{toml_value(text)} = {toml_value([text, text])}") == {text: [text, text]}
