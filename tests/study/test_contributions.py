"""One unit moves a site's clipped sum by at most C / M (1 + eta), whatever it is, whatever the others are, whatever
the server sends: neighbouring data sets through the code that a site runs, from raw records to rounded integers.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.clipping import MARGIN
from privacy.errors import PrivacyError, ProtocolError
from privacy.keystream import Keystream, derive_key
from privacy.private_sum import answer
from study.contributions import (
    SCALING_NAMES,
    Contributor,
    Units,
    check_parameters,
    loss_of_signal,
)
from study.guarantee import Guarantee
from study.models import model_of
from study.scaling import clamp_and_scale, scale_labels

ROOT = b"tests of contributions, here...."
NAMES = tuple(f"f{number}" for number in range(64))
REGRESSION = {"task": "regression", "classes": (), "label_bounds": (-2.0, 3.0)}
AVERAGING = {
    "algorithm": "dp-fedavg", "local_steps": 3, "local_learning_rate": 0.5, "learning_rate": 1.0,
    "optimizer": "sgd",
}  # fmt: skip
MODELS = {
    "linear": (REGRESSION, {"kind": "linear"}),
    "linear-32": (REGRESSION, {"kind": "linear", "precision": "float32"}),
    "logistic": ({}, {"kind": "logistic"}),
    "softmax": ({"classes": ("a", "b", "c")}, {"kind": "softmax"}),
    "softmax-32": ({"classes": ("a", "b", "c")}, {"kind": "softmax", "precision": "float32"}),
    "mlp": ({"classes": ("a", "b", "c")}, {"kind": "mlp", "hidden": (5,)}),
    "mlp-tanh-64": (REGRESSION, {"kind": "mlp", "hidden": (4, 3), "activation": "tanh", "precision": "float64"}),
    "cnn": ({}, {"kind": "cnn"}),
}  # fmt: skip
ODD = [
    np.nan, np.inf, -np.inf, 1e300, -1e300, 1.7e308, 1e200, 1e77, -3e38, 1e38, 1e30, 1e19, -1e17, 1e-19,
    1e-40, 5e-324, -2.0**-1022, -0.0,
]  # fmt: skip
ODD_CLASSES = [-1, 3, 99, 2**62, -(2**63)]
# The sums are compared in float64: of at most 40 numbers up to 40 C, 1e-13 of C at most.
FLOAT64 = 1e-12


def setup_of(declared, kind, *, data=None, training=None, privacy=None, seen=None):
    """The guarantee of a study with this model; `seen` features instead of three (a cnn has 64)."""
    more, model = MODELS[kind]
    features = NAMES[: seen or (64 if kind == "cnn" else 3)]
    data = {"features": features, "bounds": {"default": (-1.0, 4.0)}, **more, **(data or {})}
    return Guarantee(declared(data=data, model=model, training=training, privacy=privacy))


def rows_of(guarantee, groups, generator, spread=1.0):
    """Raw records: features around their bounds, labels around theirs."""
    study = guarantee.study
    features = generator.normal(1.0, 3.0 * spread, (len(groups), model_of(study).inputs))
    if study.data.task == "classification":
        return features, generator.integers(0, study.outputs, len(groups))
    return features, generator.normal(0, 2.0 * spread, len(groups))


def units_of(guarantee, features, labels, groups):
    """As `client.answers.scaled_units` makes them of records, units renumbered in the order of their first rows."""
    data = guarantee.study.data
    bounds = [data.bounds_of(name) for name in data.features]
    if data.task == "regression":
        labels = scale_labels(labels, data.label_bounds, data.scaled)
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    scaled = clamp_and_scale(features, bounds, data.scaled)
    return Units(scaled, labels, order[numbers].astype(np.int64), len(first))


def contributor_of(guarantee, features, labels, groups):
    return Contributor(guarantee, units_of(guarantee, features, labels, groups))


def parameters_of(guarantee, generator, spread=1.0):
    """What a server could send: random weights, and scaling where the study learns it."""
    model = model_of(guarantee.study)
    sent = {
        name: np.asarray(spread * generator.standard_normal(shape), dtype=model.dtype)
        for name, shape in model.shapes.items()
    }
    if guarantee.study.data.scaled == "standard":
        middle = generator.uniform(0, 1, (2, model.inputs))
        sent |= {SCALING_NAMES[0]: middle[0], SCALING_NAMES[1]: middle[1] / 3}
    return sent


def everybody(contributor):
    return np.ones(contributor.unit_count, dtype=np.bool_)


def whole_sum(contributor, function, sent):
    found = contributor.clipped_sum(
        function, {} if function == "moments" else sent, everybody(contributor)
    )
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    return found


def sum_of(guarantee, rows, sent, function):
    return whole_sum(contributor_of(guarantee, *rows), function, sent)


def without(rows, unit):
    """The same records but for those of one unit."""
    kept = rows[2] != unit
    return tuple(each[kept] for each in rows)


def require_neighbours(guarantee, function, one, other):
    """At most C / M (1 + eta), with the constants that the noise is scaled to."""
    mechanism = guarantee.mechanism(function)
    assert mechanism is not None
    distance = float(np.linalg.norm(one - other))
    assert distance <= mechanism.norm_at_site * (1 + mechanism.slack) * (1 + FLOAT64)
    return distance / mechanism.norm_at_site


@st.composite
def neighbours(draw, kinds=tuple(MODELS)):
    """A study, the records of one site, what the server sends, and one of the units."""
    kind = draw(st.sampled_from(kinds))
    scaling = draw(st.sampled_from(["bounds", "standard", "none"]))
    several = draw(st.booleans())
    data = {"scaling": scaling}
    if scaling == "none":
        data[
            "bounds"
        ] = {}  # a study under privacy may leave features as they are: raw, and as large as can be
    if several:
        data |= {
            "unit": "person",
            "records_per_unit": draw(st.integers(1, 3)),
            "sites_per_unit": draw(st.integers(1, 3)),
        }
    rates = [1.0, 1.0, 0.5] if data.get("sites_per_unit", 1) == 1 else [1.0]
    training = {"signal": draw(st.booleans()), "sampling_rate": draw(st.sampled_from(rates))}
    privacy = {
        "clipping": draw(st.sampled_from(["flat", "automatic"])),
        "clipping_norm": draw(st.sampled_from([1e-6, 0.1, 1.0, 30.0, 1e9])),
    }
    units = draw(st.integers(1, 9))
    groups = np.repeat(np.arange(units), draw(st.integers(1, 4)) if several else 1)
    seed = draw(st.integers(0, 2**32))
    spread = draw(st.sampled_from([1e-3, 1.0, 1.0, 1e6]))
    weights = draw(st.sampled_from([0.0, 1e-3, 1.0, 100.0, 1e10]))
    odd = draw(
        st.lists(
            st.tuples(st.integers(0, 10**6), st.integers(-1, 10**6), st.sampled_from(ODD)),
            max_size=4,
        )
    )
    sent_odd = draw(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(ODD)), max_size=2))
    unit = draw(st.integers(0, units - 1))
    return kind, data, training, privacy, groups, seed, spread, weights, odd, sent_odd, unit


def sampled(case):
    """Make a drawn case one with sampling, which a unit at several sites may not have."""
    case[2]["sampling_rate"] = 0.5
    case[1].pop("sites_per_unit", None)


def built(declared, case):
    """(guarantee, rows, what is sent, the unit) of a drawn case."""
    kind, data, training, privacy, groups, seed, spread, weights, odd, sent_odd, unit = case
    guarantee = setup_of(declared, kind, data=data, training=training, privacy=privacy)
    generator = np.random.Generator(np.random.PCG64(seed))
    features, labels = rows_of(guarantee, groups, generator, spread)
    for row, column, value in odd:
        if column >= 0:
            features[row % len(features), column % features.shape[1]] = value
        elif labels.dtype == np.int64:
            labels[row % len(labels)] = ODD_CLASSES[ODD.index(value) % len(ODD_CLASSES)]
        else:
            labels[row % len(labels)] = value
    sent = parameters_of(guarantee, generator, weights)
    names = sorted(sent)
    for place, value in sent_odd:
        array = sent[names[place % len(names)]]
        with np.errstate(over="ignore"):
            array.reshape(-1)[place % array.size] = value
    return guarantee, (features, labels, groups), sent, unit


@settings(max_examples=200, deadline=None)
@given(neighbours())
def test_one_unit_moves_a_gradient_sum_by_at_most_its_clipping_norm(declared, case):
    """Whatever is in the records of this unit or of others, or in the parameters: finite, silent, within the bound."""
    guarantee, rows, sent, unit = built(declared, case)
    one = sum_of(guarantee, rows, sent, "gradient")
    require_neighbours(
        guarantee, "gradient", one, sum_of(guarantee, without(rows, unit), sent, "gradient")
    )


@settings(max_examples=80, deadline=None)
@given(neighbours(("linear", "softmax-32", "mlp", "cnn")))
def test_one_unit_moves_a_sum_of_moments_by_at_most_its_norm(declared, case):
    case[1].update(scaling="standard", bounds={"default": (-1.0, 4.0)})
    guarantee, rows, sent, unit = built(declared, case)
    one = sum_of(guarantee, rows, sent, "moments")
    require_neighbours(
        guarantee, "moments", one, sum_of(guarantee, without(rows, unit), sent, "moments")
    )
    assert (one >= 0).all()


@settings(max_examples=60, deadline=None)
@given(neighbours(), st.binary(min_size=32, max_size=32))
def test_one_unit_moves_the_rounded_sum_by_at_most_the_sensitivity(declared, case, key):
    """With the same dither: at one of M sites a share of the sensitivity, but for one case in 4e7 (beta)."""
    guarantee, rows, sent, unit = built(declared, case)
    mechanism = guarantee.mechanism("gradient")
    sums = (sum_of(guarantee, each, sent, "gradient") for each in (rows, without(rows, unit)))
    one, other = (answer(mechanism, each, dither=Keystream(key), noise_share=None) for each in sums)
    assert mechanism.beta <= 2.6e-8
    assert (
        np.linalg.norm((one - other).astype(np.float64))
        <= mechanism.sensitivity / mechanism.sites_per_unit
    )


@settings(max_examples=80, deadline=None)
@given(neighbours(), st.binary(min_size=32, max_size=32))
def test_a_sampled_unit_is_a_unit(declared, case, key):
    """The same sample of the others, with and without one unit: as close as neighbouring data sets."""
    sampled(case)
    guarantee, rows, sent, unit = built(declared, case)
    one = contributor_of(guarantee, *rows)
    chosen = np.frombuffer(key, np.uint8)[: one.unit_count] > 100
    chosen[unit] = True
    rest = chosen.copy()
    rest[unit] = False
    others = contributor_of(guarantee, *without(rows, unit))
    sums = [
        each.clipped_sum("gradient", sent, drawn)
        for each, drawn in ((one, chosen), (one, rest), (others, np.delete(chosen, unit)))
    ]
    assert np.isfinite(sums).all()
    require_neighbours(guarantee, "gradient", sums[0], sums[1])
    require_neighbours(guarantee, "gradient", sums[0], sums[2])


@settings(max_examples=100, deadline=None)
@given(neighbours(), st.booleans())
def test_a_units_vector_depends_on_that_unit_alone_bit_for_bit(declared, case, moments):
    """Chosen alone among others, it contributes what it contributes where there is nobody else."""
    if moments:
        case[1].update(scaling="standard", bounds={"default": (-1.0, 4.0)})
    sampled(case)
    guarantee, rows, sent, unit = built(declared, case)
    one = contributor_of(guarantee, *rows)
    alone = contributor_of(guarantee, *(each[rows[2] == unit] for each in rows))
    function, given_ = ("moments", {}) if moments else ("gradient", sent)
    found = one.clipped_sum(function, given_, np.arange(one.unit_count) == unit)
    assert np.array_equal(found, alone.clipped_sum(function, given_, everybody(alone)))


@pytest.mark.parametrize("kind", MODELS)
def test_a_vector_is_the_same_among_forty_units_as_alone(declared, kind):
    """Bit for bit at every place of a block, where another shape would take another path through BLAS."""
    guarantee = setup_of(declared, kind, training={"sampling_rate": 0.5})
    generator = np.random.default_rng(5)
    groups = np.arange(40)
    rows = (*rows_of(guarantee, groups, generator), groups)
    sent = parameters_of(guarantee, generator)
    whole = contributor_of(guarantee, *rows)
    for unit in (0, 1, 16, 39):
        alone = sum_of(guarantee, tuple(each[unit : unit + 1] for each in rows), sent, "gradient")
        assert np.array_equal(alone, whole.clipped_sum("gradient", sent, groups == unit))


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
@pytest.mark.parametrize("kind", MODELS)
def test_clipping_bites_and_wastes_little(declared, kind, clipping):
    """A unit far beyond C gets C (1 - 2^-10) (automatic: 1 % less): the tests above would miss a bound that is slack."""
    privacy = {"clipping": clipping, "clipping_norm": 1e-3}
    guarantee = setup_of(declared, kind, privacy=privacy, training={"signal": False})
    generator = np.random.default_rng(1)
    groups = np.arange(12)
    rows = (*rows_of(guarantee, groups, generator), groups)
    sent = parameters_of(guarantee, generator, 0.5)
    one = sum_of(guarantee, rows, sent, "gradient")
    parts = [
        require_neighbours(
            guarantee, "gradient", one, sum_of(guarantee, without(rows, unit), sent, "gradient")
        )
        for unit in range(12)
    ]
    assert max(parts) > (1 - MARGIN) * (0.9999 if clipping == "flat" else 0.98)
    assert max(parts) < 1 - MARGIN * 0.99


@pytest.mark.parametrize("kind", MODELS)
def test_the_bound_holds_for_a_full_site(declared, kind):
    """As many units as the public capacity, all far beyond C and all alike, so that rounding errors add up."""
    guarantee = setup_of(declared, kind, privacy={"clipping_norm": 1e-2})
    generator = np.random.default_rng(2)
    groups = np.arange(40)
    features, labels = rows_of(guarantee, groups[:1], generator)
    rows = (np.repeat(features, 40, axis=0), np.repeat(labels, 40), groups)
    sent = parameters_of(guarantee, generator, 0.3)
    one = sum_of(guarantee, rows, sent, "gradient")
    require_neighbours(
        guarantee, "gradient", one, sum_of(guarantee, without(rows, 7), sent, "gradient")
    )
    single = sum_of(guarantee, tuple(each[:1] for each in rows), sent, "gradient")
    assert np.linalg.norm(single) > 0
    assert np.linalg.norm(one - 40 * single) <= 1e-5 * np.linalg.norm(one)


@pytest.mark.parametrize("kind", ["linear", "linear-32"])
@pytest.mark.parametrize("signal", [True, False])
def test_a_scalar_bias_is_part_of_the_norm(declared, kind, signal):
    """All features at their lower bound are zero once scaled: the bias, an array without axes, has the whole gradient."""
    guarantee = setup_of(declared, kind, training={"signal": signal})
    rows = (np.full((1, 3), -1.0), np.array([3.0]), np.zeros(1, np.int64))
    sent = parameters_of(guarantee, np.random.default_rng(0), 0.0)
    assert sent["bias"].shape == ()
    sent["bias"] = sent["bias"] - 1000
    found = sum_of(guarantee, rows, sent, "gradient")
    assert np.array_equal(found[:3], np.zeros(3))
    require_neighbours(guarantee, "gradient", found, np.zeros_like(found))
    assert np.linalg.norm(found) == pytest.approx(1 - MARGIN, rel=1e-6)


@pytest.mark.parametrize("places", [1, 2, 3])
def test_a_unit_at_several_sites_gets_its_part_of_the_norm_at_each(declared, places):
    data = {"unit": "person", "sites_per_unit": places, "bounds": {}, "scaling": "none"}
    for clipping in ("flat", "automatic"):
        guarantee = setup_of(declared, "linear", data=data, privacy={"clipping": clipping})
        rows = (np.full((1, 3), 1e9), np.array([1e9]), np.zeros(1, np.int64))
        sent = parameters_of(guarantee, np.random.default_rng(0))
        norm = np.linalg.norm(sum_of(guarantee, rows, sent, "gradient"))
        assert (1 - 2 * MARGIN) / places < norm < 1 / places


@pytest.mark.parametrize("places", [1, 2])
def test_the_signal_takes_a_quarter_of_the_norm_and_no_more(declared, places):
    """A loss beyond all that is told apart, where C is so large that the gradient takes nothing of it."""
    data = {"unit": "person", "sites_per_unit": places}
    guarantee = setup_of(declared, "linear", data=data, privacy={"clipping_norm": 1e6})
    rows = (np.full((1, 3), -1.0), np.array([3.0]), np.zeros(1, np.int64))
    sent = parameters_of(guarantee, np.random.default_rng(0), 0.0)
    for bias in (-1.1, -10.0, -1000.0):  # the label is 1: losses of 4.4, 121, 1e6
        sent["bias"][...] = bias
        found = sum_of(guarantee, rows, sent, "gradient")
        assert found[-1] == pytest.approx(0.25e6 / places, rel=1e-9)


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_the_signal_is_the_loss_of_units_that_are_not_clipped(declared, kind):
    """Read backwards it is the mean loss; the unsafe trust level carries the loss itself."""
    guarantee = setup_of(declared, kind, privacy={"clipping_norm": 1e6})
    unsafe = {"trust": "unsafe", "noise_multiplier": None}
    plain = setup_of(declared, kind, privacy=unsafe)
    generator = np.random.default_rng(3)
    groups = np.arange(5)
    rows = (*rows_of(guarantee, groups, generator), groups)
    sent = parameters_of(guarantee, generator, 1e-2)
    found, loss = (sum_of(each, rows, sent, "gradient")[-1] / 5 for each in (guarantee, plain))
    assert 0.01 < loss < 4
    # a signal of C / 4 is clipped by the margin of 2^-10 and no more
    assert loss_of_signal(guarantee.study, found) == pytest.approx(loss, rel=2 * MARGIN)
    assert loss_of_signal(plain.study, loss) == loss


@pytest.mark.parametrize("function", ["gradient", "moments", "delta"])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_an_empty_site_contributes_exactly_zero(declared, kind, function, rate):
    training = AVERAGING if function == "delta" else {"sampling_rate": rate}
    guarantee = setup_of(declared, kind, data={"scaling": "standard"}, training=training)
    nobody = np.arange(0)
    rows = (*rows_of(guarantee, nobody, np.random.default_rng(0)), nobody)
    sent = parameters_of(guarantee, np.random.default_rng(0))
    found = sum_of(guarantee, rows, sent, function)
    assert np.array_equal(found, np.zeros(guarantee.stage(function).dimension))


@pytest.mark.parametrize("kind", MODELS)
def test_an_empty_sample_contributes_exactly_zero(declared, kind):
    guarantee = setup_of(declared, kind, training={"sampling_rate": 0.3})
    generator = np.random.default_rng(0)
    one = contributor_of(guarantee, *rows_of(guarantee, np.arange(7), generator), np.arange(7))
    found = one.clipped_sum("gradient", parameters_of(guarantee, generator), np.zeros(7, np.bool_))
    assert not found.any()


@pytest.mark.parametrize("value", [each for each in ODD if not abs(each) < 1e78], ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_not_finite_contributes_zero_and_leaves_no_trace(declared, kind, value):
    """In a feature of one of two units, unscaled: the other's vector is the whole sum, bit for bit."""
    guarantee = setup_of(declared, kind, data={"scaling": "none", "bounds": {}})
    generator = np.random.default_rng(4)
    features, labels = rows_of(guarantee, np.arange(2), generator)
    features[0, 1] = value
    sent = parameters_of(guarantee, generator, 0.1)
    both = sum_of(guarantee, (features, labels, np.arange(2)), sent, "gradient")
    other = sum_of(guarantee, (features[1:], labels[1:], np.zeros(1, np.int64)), sent, "gradient")
    assert np.array_equal(both, other)
    assert other.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_parameters_that_are_not_finite_tell_nothing(declared, kind, value):
    """In the last bias every unit is lost: an exact zero, whatever the data."""
    guarantee = setup_of(declared, kind)
    generator = np.random.default_rng(4)
    rows = (*rows_of(guarantee, np.arange(6), generator), np.arange(6))
    sent = parameters_of(guarantee, generator)
    last = list(model_of(guarantee.study).shapes)[-1]
    sent[last] = np.full_like(sent[last], value)
    assert not sum_of(guarantee, rows, sent, "gradient").any()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("several", [False, True])
def test_the_order_of_units_moves_a_sum_by_rounding_alone(declared, kind, several):
    data = {"unit": "person", "records_per_unit": 2} if several else {}
    guarantee = setup_of(declared, kind, data=data)
    generator = np.random.default_rng(6)
    groups = np.repeat(np.arange(20), 2) if several else np.arange(20)
    rows = (*rows_of(guarantee, groups, generator), groups)
    sent = parameters_of(guarantee, generator)
    order = np.argsort(generator.permutation(20)[groups], kind="stable")
    one, other = (
        sum_of(guarantee, each, sent, "gradient")
        for each in (rows, tuple(each[order] for each in rows))
    )
    # each of the two sums is within B_t u (sum of norms) of the exact one: together eta C at most
    mechanism = guarantee.mechanism("gradient")
    assert np.linalg.norm(one - other) <= mechanism.slack * mechanism.norm_at_site
    assert np.linalg.norm(one) > 0


def test_rows_beyond_the_public_number_per_unit_are_left_out(declared):
    data = {"unit": "person", "records_per_unit": 2, "scaling": "standard"}
    guarantee = setup_of(declared, "softmax", data=data)
    generator = np.random.default_rng(7)
    groups = np.array([0, 1, 0, 0, 1, 0])
    features, labels = rows_of(guarantee, groups, generator)
    sent = parameters_of(guarantee, generator)
    kept = [0, 1, 2, 4]
    for function in ("gradient", "moments"):
        whole = sum_of(guarantee, (features, labels, groups), sent, function)
        part = sum_of(guarantee, (features[kept], labels[kept], groups[kept]), sent, function)
        assert np.array_equal(whole, part)
    features[3] = features[5] = np.nan
    assert np.array_equal(part, sum_of(guarantee, (features, labels, groups), sent, "moments"))


def test_equal_records_are_units_of_their_own(declared):
    guarantee = setup_of(declared, "logistic", data={"scaling": "standard"})
    features, labels = rows_of(guarantee, np.arange(1), np.random.default_rng(8))
    sent = parameters_of(guarantee, np.random.default_rng(8))
    for function in ("gradient", "moments"):
        one = sum_of(guarantee, (features, labels, np.arange(1)), sent, function)
        rows = (np.repeat(features, 7, axis=0), np.repeat(labels, 7), np.arange(7))
        assert sum_of(guarantee, rows, sent, function) == pytest.approx(7 * one, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    neighbours(("linear", "logistic", "softmax-32", "mlp", "mlp-tanh-64")),
    st.sampled_from([0.5, 1e4, 1e300]),
)
def test_a_whole_site_moves_a_sum_of_changes_by_at_most_the_norm(declared, case, rate):
    """dp-fedavg: whatever a site holds and is sent, its vector has norm C at most; an empty site's is zero."""
    if case[1].get("sites_per_unit", 1) > 1:
        case[1]["sites_per_unit"] = 1
    case[2].pop("sampling_rate")
    case[2].update(AVERAGING, local_learning_rate=rate)
    guarantee, rows, sent, _ = built(declared, case)
    with np.errstate(all="ignore"):  # that it is silent too has a test of its own, below
        found = sum_of(guarantee, rows, sent, "delta")
    require_neighbours(guarantee, "delta", found, np.zeros_like(found))


def test_a_sites_change_is_silent_whatever_it_is_sent(declared):
    """A warning is an exception where the operator's Python says so, and then it tells of the data."""
    for rate, value in ((0.5, np.inf), (0.5, 1e300), (1e308, 0.0), (1e200, 1e200)):
        guarantee = setup_of(declared, "linear", training=AVERAGING | {"local_learning_rate": rate})
        generator = np.random.default_rng(14)
        rows = (*rows_of(guarantee, np.arange(3), generator), np.arange(3))
        sent = parameters_of(guarantee, generator)
        sent["weight"][0] = value
        found = sum_of(guarantee, rows, sent, "delta")
        require_neighbours(guarantee, "delta", found, np.zeros_like(found))


@pytest.mark.parametrize("signal", [True, False])
def test_a_sites_change_is_that_of_gradient_descent_clipped_once(declared, signal):
    guarantee = setup_of(
        declared, "linear", training=AVERAGING | {"signal": signal}, privacy={"clipping_norm": 1e6}
    )
    generator = np.random.default_rng(9)
    rows = (*rows_of(guarantee, np.arange(6), generator), np.arange(6))
    sent = parameters_of(guarantee, generator)
    units = units_of(guarantee, *rows)
    design = np.concatenate([units.features, np.ones((6, 1))], axis=1)
    start = point = np.append(sent["weight"], sent["bias"])
    for _ in range(3):
        point = point - 0.5 * 2 * design.T @ (design @ point - units.labels) / 6
    change = sum_of(guarantee, rows, sent, "delta")
    # unclipped but for the margin, which only takes effect beyond C: weights are exactly 1 here
    assert change[:4] == pytest.approx(point - start, rel=1e-9)
    assert len(change) == 4 + signal
    tight = setup_of(
        declared, "linear", training=AVERAGING | {"signal": signal}, privacy={"clipping_norm": 1e-3}
    )
    assert np.linalg.norm(sum_of(tight, rows, sent, "delta")) == pytest.approx(
        1e-3 * (1 - MARGIN), rel=1e-9
    )


def test_the_sites_unit_of_moments_is_the_whole_site_too(declared):
    """dp-fedavg: the mean over the site's units, so that one more site adds one vector of norm C at most."""
    guarantee = setup_of(declared, "linear", data={"scaling": "standard"}, training=AVERAGING)
    generator = np.random.default_rng(10)
    for count in (1, 2, 30):
        rows = (*rows_of(guarantee, np.arange(count), generator), np.arange(count))
        found = sum_of(guarantee, rows, {}, "moments")
        require_neighbours(guarantee, "moments", found, np.zeros_like(found))
        assert found[0] == pytest.approx(1.0, rel=2 * MARGIN)


def test_moments_are_counts_sums_and_squares_of_scaled_features(declared):
    guarantee = setup_of(declared, "linear", data={"scaling": "standard"})
    generator = np.random.default_rng(11)
    rows = (*rows_of(guarantee, np.arange(30), generator), np.arange(30))
    units = units_of(guarantee, *rows)
    exact = np.concatenate(
        [[30], units.features.sum(axis=0), np.square(units.features).sum(axis=0)]
    )
    assert sum_of(guarantee, rows, {}, "moments") == pytest.approx(exact, rel=1.01 * MARGIN)


def test_without_privacy_nothing_is_clipped(declared):
    guarantee = setup_of(declared, "linear", privacy={"trust": "unsafe", "noise_multiplier": None})
    rows = (np.full((2, 3), 4.0), np.array([3.0, 3.0]), np.arange(2))
    sent = parameters_of(guarantee, np.random.default_rng(0), 0.0)
    sent["bias"] = (
        sent["bias"] + 1001
    )  # residual 1000, features 1: a gradient of 2000 for each number
    found = sum_of(guarantee, rows, sent, "gradient")
    assert found == pytest.approx([4000.0] * 4 + [2e6], rel=1e-12)


def test_prepared_blocks_do_not_outlive_the_scaling_they_were_made_with(declared):
    """One contributor asked again with another scaling answers like a fresh one."""
    guarantee = setup_of(declared, "logistic", data={"scaling": "standard"})
    generator = np.random.default_rng(12)
    rows = (*rows_of(guarantee, np.arange(9), generator), np.arange(9))
    kept = contributor_of(guarantee, *rows)
    sent = parameters_of(guarantee, generator)
    for number in range(3):
        sent[SCALING_NAMES[number % 2]] = generator.uniform(0, 1, 3)
        fresh = sum_of(guarantee, rows, sent, "gradient")
        assert np.array_equal(whole_sum(kept, "gradient", sent), fresh)
        assert np.array_equal(whole_sum(kept, "gradient", sent), fresh)


def altered(sent, name, value):
    return {key: each for key, each in (sent | {name: value}).items() if each is not None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", None), ("bias", None), ("scaling.mean", None), ("scaling.deviation", None),
        ("extra", np.zeros(1)), ("Weight", np.zeros(3)), ("layer1.weight", np.zeros(3)),
        ("weight", np.zeros(2)), ("weight", np.zeros(4)), ("weight", np.zeros((3, 1))), ("weight", np.array(0.0)),
        ("bias", np.zeros(1)), ("bias", np.zeros(0)), ("scaling.mean", np.zeros(2)), ("scaling.deviation", np.array(1.0)),
        ("weight", np.zeros(3, np.float32)), ("weight", np.zeros(3, np.int64)), ("weight", np.zeros(3, np.uint64)),
        ("bias", np.array(0.0, np.float32)), ("scaling.mean", np.zeros(3, np.float32)),
    ],
    ids=lambda value: value if isinstance(value, str) else "gone" if value is None else f"{value.dtype}{value.shape}",
)  # fmt: skip
def test_parameters_of_another_name_shape_or_type_are_refused(declared, name, value):
    guarantee = setup_of(declared, "linear", data={"scaling": "standard"})
    sent = parameters_of(guarantee, np.random.default_rng(0))
    check_parameters(guarantee.study, "gradient", sent)
    one = contributor_of(
        guarantee, *rows_of(guarantee, np.arange(2), np.random.default_rng(0)), np.arange(2)
    )
    wrong = altered(sent, name, value)
    with pytest.raises(ProtocolError, match="Expected"):
        check_parameters(guarantee.study, "gradient", wrong)
    with pytest.raises(ProtocolError, match="Expected"):
        one.clipped_sum("gradient", wrong, everybody(one))


def test_the_moments_take_no_parameters_and_others_need_theirs(declared):
    guarantee = setup_of(declared, "linear", data={"scaling": "standard"})
    sent = parameters_of(guarantee, np.random.default_rng(0))
    check_parameters(guarantee.study, "moments", {})
    with pytest.raises(ProtocolError, match="Expected parameters none"):
        check_parameters(guarantee.study, "moments", sent)
    with pytest.raises(ProtocolError, match="Expected parameters weight, bias, scaling.mean"):
        check_parameters(guarantee.study, "gradient", {})


def test_a_function_that_the_study_does_not_declare_is_refused(declared):
    guarantee = setup_of(declared, "linear")
    one = contributor_of(
        guarantee, *rows_of(guarantee, np.arange(2), np.random.default_rng(0)), np.arange(2)
    )
    for function in ("moments", "delta", "", "Gradient"):
        with pytest.raises(PrivacyError, match="a function that the study declares"):
            one.clipped_sum(function, {}, everybody(one))


def test_a_site_is_one_unit_of_model_changes(declared):
    for training, count in ((AVERAGING, 1), ({}, 4)):
        guarantee = setup_of(declared, "linear", training=training)
        rows = (*rows_of(guarantee, np.arange(4), np.random.default_rng(0)), np.arange(4))
        assert contributor_of(guarantee, *rows).unit_count == count


def test_only_keeps_the_rows_of_the_chosen_units_in_order():
    groups = np.array([0, 1, 0, 2, 3, 2])
    units = Units(np.arange(6.0)[:, None], np.arange(6), groups, 4)
    found = units.only(np.array([True, False, True, False]))
    assert found.features.ravel().tolist() == [0, 2, 3, 5]
    assert found.labels.tolist() == [0, 2, 3, 5]
    assert (found.groups.tolist(), found.count) == ([0, 0, 1, 1], 2)


def test_rounding_moves_as_far_as_the_sensitivity_says_and_not_much_less(declared):
    """Over 300 dithers the worst change of a unit at C comes to 80 % of the sensitivity: the bound is not empty."""
    guarantee = setup_of(declared, "logistic", privacy={"clipping_norm": 1e-2})
    generator = np.random.default_rng(13)
    rows = (*rows_of(guarantee, np.arange(8), generator), np.arange(8))
    sent = parameters_of(guarantee, generator, 10.0)
    mechanism = guarantee.mechanism("gradient")
    sums = [sum_of(guarantee, each, sent, "gradient") for each in (rows, without(rows, 3))]
    moved = []
    for index in range(300):
        key = derive_key(ROOT, index)
        one, other = (
            answer(mechanism, each, dither=Keystream(key), noise_share=None) for each in sums
        )
        moved.append(float(np.linalg.norm(one - other)))
    assert 0.8 * mechanism.sensitivity < max(moved) <= mechanism.sensitivity
