"""A partition puts every unit at exactly one site, and follows from its seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.tables import Records, Table
from privacy.errors import DataError, UserError
from simulations.partitions import Partition, parse_partition, split_units

DRAWN = ["iid", "dirichlet:0.1", "dirichlet:100", "quantity:0.1", "quantity:100"]


def data_of(labels, *, units=None, **columns):
    labels = np.asarray(labels)
    units = np.arange(len(labels)) if units is None else np.asarray(units)
    count = int(units.max()) + 1 if len(units) else 0
    table = {name: np.array(cells, dtype=object) for name, cells in columns.items()}
    records = Records(
        features=np.zeros((len(labels), 1)),
        labels=labels,
        units=units.astype(np.int64),
        identities=[b""] * count,
        train=np.ones(count, dtype=np.bool_),
        name="data.csv",
    )
    return {
        "records": records,
        "table": Table("data.csv", table | {"label": labels.astype(np.float64)}),
    }


def split(text, data, *, sites=None, seed=1):
    return split_units(parse_partition(text), **data, sites=sites, simulation_seed=seed)


def test_every_form_is_read():
    assert parse_partition("iid") == Partition(kind="iid")
    assert parse_partition("dirichlet:0.5") == Partition(kind="dirichlet", alpha=0.5)
    assert parse_partition("quantity:1e2") == Partition(kind="quantity", alpha=100.0)
    assert parse_partition("column:a: b") == Partition(kind="column", column="a: b")


@pytest.mark.parametrize(
    "text",
    ["", "iid:1", "IID", "dirichlet", "dirichlet:", "dirichlet:x", "dirichlet:0", "dirichlet:-1",
     "dirichlet:nan", "dirichlet:inf", "quantity", "quantity:0", "column", "column:", "even"],
)  # fmt: skip
def test_anything_else_is_refused_with_the_forms(text):
    with pytest.raises(
        UserError, match=r"iid, dirichlet:ALPHA, quantity:ALPHA or column:NAME"
    ) as e:
        parse_partition(text)
    assert e.value.hint


def test_a_misspelt_form_is_recognised():
    with pytest.raises(UserError, match='found "dirichet:1"') as error:
        parse_partition("dirichet:1")
    assert error.value.hint == "did you mean dirichlet?"


@settings(deadline=None)
@given(
    st.sampled_from(DRAWN),
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=60),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_every_unit_is_at_exactly_one_site_and_the_seed_decides(
    text, sites, rows, regression, seed
):
    labels = np.array([label for label, _ in rows], dtype=np.float64 if regression else np.int64)
    units = np.unique([unit for _, unit in rows], return_inverse=True)[1] if rows else []
    data = data_of(labels, units=units)
    count = len(data["records"].identities)
    if text == "iid" and count < sites:
        with pytest.raises(DataError, match="at least one unit for each of"):
            split(text, data, sites=sites, seed=seed)
        return
    found = split(text, data, sites=sites, seed=seed)
    assert len(found) == sites
    assert all(each.dtype == np.int64 and (np.diff(each) > 0).all() for each in found)
    assert sorted(np.concatenate(found)) == list(range(count))
    again = split(text, data, sites=sites, seed=seed)
    assert all(map(np.array_equal, found, again))
    if text == "iid":
        sizes = [len(each) for each in found]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", DRAWN)
def test_another_seed_is_another_partition(text):
    data = data_of(np.arange(200) % 4)
    first, second = (split(text, data, sites=5, seed=seed) for seed in (1, 2))
    assert not all(map(np.array_equal, first, second))


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_a_small_alpha_skews_labels_and_a_large_one_does_not(kind):
    """Distance of the sites' label shares from the pool's: fixed seed, far from the threshold on either side."""
    labels = np.random.default_rng(1).permutation(np.arange(1000) % 5).astype(kind)

    def skew(text):
        sites = [each for each in split(text, data_of(labels), sites=5) if len(each)]
        shares = [np.bincount(labels[each].astype(int), minlength=5) / len(each) for each in sites]
        return np.mean(np.abs(np.array(shares) - 0.2).sum(axis=1))

    assert skew("dirichlet:0.1") > 0.8
    assert skew("dirichlet:1000") < 0.15
    assert skew("iid") < 0.25
    assert skew("quantity:1000") < 0.25


def test_a_small_alpha_skews_sizes_and_a_large_one_does_not():
    data = data_of(np.zeros(1000, dtype=np.int64))

    def largest(text):
        return max(len(each) for each in split(text, data, sites=5))

    assert largest("quantity:0.1") > 500
    assert largest("quantity:1000") < 260
    assert min(len(each) for each in split("quantity:0.01", data, sites=50)) == 0


def test_a_column_makes_one_site_of_each_value_in_order():
    data = data_of(np.zeros(5), ward=["10", "9", "b", " 10", "9"])
    found = split("column:ward", data)
    assert [each.tolist() for each in found] == [[1, 4], [0, 3], [2]]
    assert len(split("column:ward", data, sites=3)) == 3


def test_a_unit_goes_by_its_first_record():
    data = data_of(np.zeros(4), units=[0, 1, 0, 1], ward=["b", "a", "a", "a"])
    assert [each.tolist() for each in split("column:ward", data)] == [[1], [0]]


def test_a_column_of_numbers_makes_sites_too():
    assert [each.tolist() for each in split("column:label", data_of([2, 1, 2]))] == [[1], [0, 2]]


@pytest.mark.parametrize(
    ("text", "sites", "error", "match"),
    [
        ("column:ward", 3, UserError, "as many sites as column .ward. has values, 2, found 3"),
        ("column:wart", None, UserError, 'data.csv: there is no column "wart"'),
        ("column:gap", None, DataError, r'data.csv, line 3: column "gap" is empty'),
        ("column:many", None, UserError, r'a column of at most 128 values .* "many" has 200'),
        ("iid", None, UserError, "Expected a number of sites"),
        ("quantity:1", 0, UserError, "Expected a number of sites"),
        ("iid", 201, DataError, "at least one unit for each of 201 sites, found 200"),
    ],
)
def test_what_cannot_be_split_is_refused(text, sites, error, match):
    data = data_of(
        np.zeros(200), ward=["a", "b"] * 100, gap=["a", ""] * 100, many=list(map(str, range(200)))
    )
    with pytest.raises(error, match=match) as raised:
        split(text, data, sites=sites)
    assert raised.value.hint
