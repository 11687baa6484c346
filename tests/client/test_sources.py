"""Built-in sets are what they were published as, within the bounds that are published here."""

import numpy as np
import pytest

from client.sources import BUILT_IN, built_in, load, published_bounds
from client.tables import check_pooled, records_of
from privacy.errors import DataError, StudyError
from study.freezing import freeze
from study.templates import TEMPLATES, template_study

SHAPES = {
    "breast_cancer": (569, 30, {"benign": 357, "malignant": 212}),
    "digits": (1797, 64, {str(each): None for each in range(10)}),
    "wine": (178, 13, {"class_0": 59, "class_1": 71, "class_2": 48}),
    "diabetes": (442, 10, None),
    "house_prices": (5, 1, None),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_set_has_the_size_and_the_classes_of_its_documentation(name):
    table, source = built_in(name), BUILT_IN[name]
    rows, features, classes = SHAPES[name]
    assert (table.rows, len(table.columns) - 1) == (rows, features)
    assert list(table.columns)[-1] == source.label
    if classes is None:
        assert table.columns[source.label].dtype == np.float64
    else:
        texts = table.texts(source.label)
        assert set(texts) == set(classes)
        assert all(count in (None, texts.count(each)) for each, count in classes.items())


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_value_lies_within_its_published_bounds_and_uses_a_good_part_of_them(name):
    table, source, bounds = built_in(name), BUILT_IN[name], published_bounds(name)
    assert set(bounds) == set(table.columns) - {source.label}
    if source.label_bounds is not None:
        bounds |= {source.label: source.label_bounds}
    for column, (low, high) in bounds.items():
        values = table.numbers(column)
        assert low <= values.min()
        assert values.max() <= high
        if name != "digits":  # some pixels at the rim are always blank
            assert np.ptp(values) > 0.4 * (high - low)


def test_house_prices_are_twice_the_area():
    table = built_in("house_prices")
    assert table.numbers("area").tolist() == [1, 2, 3, 4, 5]
    assert table.numbers("price").tolist() == [2, 4, 6, 8, 10]


def test_diabetes_is_not_scaled():
    ages = built_in("diabetes").numbers("age")
    assert (ages.min(), ages.max()) == (19, 79)


@pytest.mark.parametrize("call", [built_in, published_bounds])
def test_an_unknown_set_is_refused_with_a_proposal(call):
    with pytest.raises(DataError, match='no built-in data set "brest_cancer"') as error:
        call("brest_cancer")
    assert error.value.hint == 'did you mean "breast_cancer"?'
    with pytest.raises(DataError, match='no built-in data set "zzz"') as error:
        call("zzz")
    assert error.value.hint.startswith("one of breast_cancer, digits")


def test_published_bounds_are_a_copy():
    published_bounds("wine").clear()
    assert published_bounds("wine")


def test_a_given_file_comes_before_the_studys_own_source(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("area,price\n7,14\n")
    study = template_study("house-prices")
    assert load(study, path).texts("area") == ["7"]
    assert load(study, None).rows == 5


def test_without_a_file_and_a_source_the_fix_is_named():
    from dataclasses import replace

    study = template_study("house-prices")
    study = replace(study, data=replace(study.data, source=None))
    with pytest.raises(StudyError, match="names no built-in data set, and no file") as error:
        load(study, None)
    assert "--data FILE.csv" in error.value.hint


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_can_be_trained_on_its_own_source(name):
    study = template_study(name)
    table = load(study, None)
    study = freeze(study, list(table.columns), published_bounds(study.data.source))
    records = records_of(table, study)
    check_pooled(records, study)
    assert records.count == table.rows
    expected = study.data.expected_records
    assert abs(int(records.train.sum()) - expected) <= 0.05 * expected
