"""Neighbouring data sets through everything that a site runs, from records and a query's bytes to integers.

Trust `server` leaves the noise off at the site, the other sites add nothing to the masked sum, and both sites get the
same dither and the same coins: what is left of
the difference of two answers is what one unit does to them. It must be within the very sensitivity that the noise is
scaled to, whatever the records hold and whatever a hostile coordinator sends; and a planted bug must be found out.
(The float sums before rounding are held to C (1 + eta) in tests/study/test_contributions.py.)
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DATA_SET, ledger_of
from masking import roster_of, seen_alone, with_roster

from client.answers import RefusedError, Site
from client.tables import Records
from gradients import unit_gradients
from privacy.keystream import Keystream, derive_key
from privacy.private_sum import SumMechanism
from privacy.sampling import poisson_sample
from study import guarantee as guarantee_module
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.contributions import SCALING_NAMES, Contributor
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.models import model_of
from study.queries import NONCE_BYTES, SumQuery

NONCE = "0123456789abcdef" * 2
ROSTER = roster_of("site", *(f"other {number}" for number in range(4)))
REGRESSION = {"task": "regression", "classes": (), "label_bounds": (-5.0, 5.0)}
THREE = {"classes": ("a", "b", "c")}
MODELS = {
    "linear": (REGRESSION, {"kind": "linear"}),
    "linear-32": (REGRESSION, {"kind": "linear", "precision": "float32"}),
    "logistic": ({}, {"kind": "logistic"}),
    "softmax-32": (THREE, {"kind": "softmax", "precision": "float32"}),
    "mlp": (THREE, {"kind": "mlp", "hidden": (6,)}),
    "mlp-tanh-64": (REGRESSION, {"kind": "mlp", "hidden": (4, 3), "activation": "tanh", "precision": "float64"}),
    "cnn": ({}, {"kind": "cnn"}),
}  # fmt: skip
AVERAGING = {
    "algorithm": "dp-fedavg", "local_steps": 2, "local_learning_rate": 0.5, "learning_rate": 1.0, "optimizer": "sgd",
}  # fmt: skip
ODD = [np.nan, np.inf, -np.inf, 1e300, -1e200, 1e77, 3e38, -1e19, 1e-30, -1e-45, 5e-324, -0.0]


def declaration_of(kind, *, data=None, training=None, privacy=None):
    more, model = MODELS[kind]
    features = tuple(f"f{number}" for number in range(64 if kind == "cnn" else 5))
    data = {
        "task": "classification", "label": "ill", "classes": ("no", "yes"), "expected_records": 30,
        "features": features, "bounds": {"default": (-5.0, 5.0)}, "test_fraction": 0.0, **more, **(data or {}),
    }  # fmt: skip
    study = Study(
        name="neighbours", data=Data(**data), model=Model(**model),
        training=Training(**{"rounds": 4} | (training or {})),
        privacy=Privacy(**{"trust": "server", "noise_multiplier": 2.0} | (privacy or {})), sites=Sites(minimum=5),
    )  # fmt: skip
    declaration = Declaration(study=study, sites=5, noise_multiplier=2.0, nonce=NONCE)
    return with_roster(declaration, ROSTER)


def query_of(declaration, function, parameters):
    parameters = {} if function == "moments" else parameters
    return SumQuery(
        study=declaration.hash, index=0, function=function, parameters=parameters, nonce=bytes(NONCE_BYTES)
    ).to_bytes()  # fmt: skip


def records_of(features, labels, groups):
    """Records whose units are numbered in the order of their first rows, all of them in the training part."""
    names, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    identities = [b"%d" % each for each in names[np.argsort(first)]]
    train = np.ones(len(names), dtype=np.bool_)
    return Records(features, labels, order[numbers].astype(np.int64), identities, train, "records")


def answer_of(declaration, rows, content, key):
    """The integers that a site adds to a masked sum, with these records, dither and coins; all others add zero."""
    site = Site(
        ledger_of(unit=declaration.study.data.unit),
        entropy=lambda *labels: derive_key(key, *labels),
    )
    site.approve(declaration, records_of(*rows), data_set=DATA_SET, roster=ROSTER)
    integers = seen_alone(site, declaration, ROSTER, content)
    assert site.problems == []
    return integers


def without(rows, unit):
    kept = rows[2] != unit
    return tuple(each[kept] for each in rows)


def moved(case, function):
    """How far one unit (with `delta`, the whole site) moves the answer, over what it may at one of M sites."""
    declaration, rows, parameters, unit, key = case
    mechanism = Guarantee(declaration).mechanism(function)
    averaging = declaration.study.training.algorithm == "dp-fedavg"
    others = without(rows, unit) if not averaging else tuple(each[:0] for each in rows)
    content = query_of(declaration, function, parameters)
    one, other = (answer_of(declaration, each, content, key) for each in (rows, others))
    assert np.abs(one).max(initial=0) <= mechanism.clamp
    distance = float(np.linalg.norm((one - other).astype(np.float64)))
    return distance / (mechanism.sensitivity / mechanism.sites_per_unit)


def cancelling(features, groups):
    """Every second row of a unit is the opposite of the row before it: gradients of a unit cancel, their terms do not."""
    for row in range(1, len(groups)):
        if groups[row] == groups[row - 1] and row % 2:
            features[row] = -features[row - 1]


def hostile(parameters, generator, kind):
    """What a coordinator could send to make a unit count for more, in place."""
    for name, array in parameters.items():
        flat = array.reshape(-1)
        if kind == "huge":
            flat[...] = generator.choice([-1e15, 1e15], flat.size)
        elif kind == "opposite":  # large terms of a layer's sums cancel
            flat[...] = (
                1e6 * (-1.0) ** np.arange(flat.size) * (1 + 1e-7 * generator.random(flat.size))
            )
        elif kind == "vanishing":
            flat[...] = generator.choice([1e-38, -1e-38, 0.0], flat.size)
        elif kind == "odd":
            place = generator.integers(flat.size)
            with np.errstate(over="ignore"):
                flat[place] = generator.choice(ODD)
        elif kind == "bias only" and "bias" not in name:
            flat[...] = 0


@st.composite
def cases(draw, kinds=tuple(MODELS), **fixed):
    """(declaration, rows, parameters, the unit, the key of dither and coins)."""
    kind = draw(st.sampled_from(kinds))
    several = draw(st.booleans()) and "algorithm" not in fixed.get("training", {})
    scaling = fixed.get("scaling") or draw(st.sampled_from(["bounds", "standard", "none"]))
    data = {"scaling": scaling} | ({"bounds": {}} if scaling == "none" else {})
    if several:
        data |= {"unit": "person", "records_per_unit": draw(st.integers(1, 4))}
        data |= {"sites_per_unit": draw(st.integers(1, 5)) if "training" not in fixed else 1}
    training = {"signal": draw(st.booleans())} | fixed.get("training", {})
    privacy = {
        "clipping": draw(st.sampled_from(["flat", "automatic"])),
        "clipping_norm": draw(st.sampled_from([1e-6, 0.3, 1.0, 1e4])),
    }
    declaration = declaration_of(kind, data=data, training=training, privacy=privacy)
    generator = np.random.Generator(np.random.PCG64(draw(st.integers(0, 2**32))))
    units = draw(st.integers(1, 12))
    groups = np.repeat(np.arange(units), draw(st.integers(1, 4)) if several else 1)
    features = generator.normal(
        0,
        draw(st.sampled_from([1e-3, 1.0, 1e6])),
        (len(groups), model_of(declaration.study).inputs),
    )
    if draw(st.booleans()):
        cancelling(features, groups)
    for place, value in draw(
        st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(ODD)), max_size=3)
    ):
        features.reshape(-1)[place % features.size] = value
    if declaration.study.data.task == "regression":
        labels = generator.normal(0, 3, len(groups))
    else:
        labels = generator.integers(0, declaration.study.outputs, len(groups))
    parameters = parameters_of(declaration, generator)
    hostile(
        parameters, generator,
        draw(st.sampled_from(["", "", "huge", "opposite", "vanishing", "odd", "bias only"])),
    )  # fmt: skip
    unit = draw(st.integers(0, units - 1))
    return (
        declaration,
        (features, labels, groups),
        parameters,
        unit,
        draw(st.binary(min_size=32, max_size=32)),
    )


def parameters_of(declaration, generator, spread=1.0):
    model = model_of(declaration.study)
    sent = {
        name: np.asarray(spread * generator.standard_normal(shape), dtype=model.dtype)
        for name, shape in model.shapes.items()
    }
    if declaration.study.data.scaled == "standard":
        sent |= {name: generator.uniform(0.01, 1, model.inputs) for name in SCALING_NAMES}
    return sent


@settings(max_examples=250, deadline=None)
@given(cases())
def test_one_unit_moves_an_answer_by_at_most_what_the_noise_is_scaled_to(case):
    """But for beta, which is at most 2.5e-10 here: once in 16 million runs of this test."""
    assert Guarantee(case[0]).mechanism("gradient").beta < 2.6e-10
    assert moved(case, "gradient") <= 1


@settings(max_examples=60, deadline=None)
@given(cases(("linear", "softmax-32", "mlp"), scaling="standard"))
def test_one_unit_moves_an_answer_of_moments_by_at_most_what_the_noise_is_scaled_to(case):
    assert moved(case, "moments") <= 1


@settings(max_examples=60, deadline=None)
@given(cases(("linear", "logistic", "softmax-32", "mlp", "cnn"), training=AVERAGING), st.booleans())
def test_one_site_moves_an_answer_by_at_most_what_the_noise_is_scaled_to(case, moments):
    if moments and case[0].study.data.scaled == "standard":
        assert moved(case, "moments") <= 1
    assert moved(case, "delta") <= 1


@settings(max_examples=40, deadline=None)
@given(cases(("linear", "logistic", "mlp", "cnn"), training={"sampling_rate": 0.4}))
def test_a_unit_that_is_not_drawn_leaves_every_bit_as_it_is_without_it(case):
    """The premise of the accountant's mixture (1 - q) N + q (N + shift): not drawn is as not there, exactly.

    The unit is the last one, so that the others have the same coins with and without it.
    """
    declaration, rows, parameters, _, key = case
    last = int(rows[2].max())
    coins = Keystream(derive_key(key, "sample", declaration.hash, 0))
    drawn = poisson_sample(last + 1, declaration.study.training.sampling_rate, coins)
    found = moved((declaration, rows, parameters, last, key), "gradient")
    assert found <= (1 if drawn[-1] else 0)


# Planted bugs: the comparison above finds each of them out.


class Altered:
    """Gradients of a block whose norms, or whose sum, are taken wrongly: every unit's vector is formed and handed over."""

    def __init__(self, right, block, *, norms=None, vectors=None):
        identity = np.eye(block.units)
        formed = np.array([right.weighted_sum(each) for each in identity])
        self.losses = right.losses
        self.norms = right.norms if norms is None else norms(formed, right)
        self._vectors = formed if vectors is None else vectors(formed)

    def weighted_sum(self, weights, *, add_to=None):
        with np.errstate(all="ignore"):
            total = weights @ self._vectors
        return total if add_to is None else np.add(add_to, total, out=add_to)


def altered_gradients(patch, **changes):
    def planted(model, parameters, block):
        return Altered(unit_gradients(model, parameters, block), block, **changes)

    patch.setattr("study.contributions.unit_gradients", planted)


def clipped_by_layer(patch):
    """Each array to C by its own norm, as where every record of arrays is clipped for itself."""

    def vectors(formed):
        parts = np.split(formed, [30, 36, 54], axis=1)  # 6 x 5, 6, 3 x 6, 3: the mlp of these tests
        return np.hstack(
            [each / np.maximum(np.linalg.norm(each, axis=1), 1)[:, None] for each in parts]
        )

    altered_gradients(patch, norms=lambda formed, _: np.zeros(len(formed)), vectors=vectors)


def scalars_unclipped(patch):
    altered_gradients(patch, norms=lambda formed, _: np.linalg.norm(formed[:, :-1], axis=1))


def norm_of_the_first_row_alone(patch):
    altered_gradients(patch, norms=lambda formed, _: np.linalg.norm(formed, axis=1) / 3)


def clipped_after_summing(patch):
    right = Contributor.clipped_sum

    def planted(self, function, parameters, chosen):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(
                "study.contributions.clipping_weights", lambda norms, *_: np.ones_like(norms)
            )
            total = right(self, function, parameters, chosen)
        return total / max(1.0, float(np.linalg.norm(total)))

    patch.setattr(Contributor, "clipped_sum", planted)


def weighted_by_the_number_of_units(patch):
    right = Contributor.clipped_sum
    patch.setattr(
        Contributor, "clipped_sum",
        lambda self, *given_: right(self, *given_) * self.unit_count / 4,
    )  # fmt: skip


def averaged_over_the_true_number(patch):
    right = Contributor.clipped_sum
    patch.setattr(
        Contributor, "clipped_sum",
        lambda self, *given_: right(self, *given_) * 30 / max(1, self.unit_count),
    )  # fmt: skip


def weights_of(minimum):
    return lambda norms, norm, _method: np.array([minimum(1.0, norm, each) for each in norms])


def norms_that_are_not_a_number_pass(patch):
    """Python's min(1, nan) is 1."""
    weights = weights_of(lambda one, norm, each: min(one, norm / each) if each else one)
    patch.setattr("study.contributions.clipping_weights", weights)
    altered_gradients(patch, norms=lambda formed, _: np.where(formed[:, 0] > 0, np.nan, 0.5))


def a_norm_of_zero_divides(patch):
    def divides(norms, norm, _method):
        with np.errstate(all="ignore"):
            return norm / norms

    patch.setattr("study.contributions.clipping_weights", divides)


def infinite_norms_are_left_alone(patch):
    """Of numbers whose squares overflow."""
    right = weights_of(
        lambda one, norm, each: one if each in (0, np.inf) else min(one, norm / each)
    )
    patch.setattr("study.contributions.clipping_weights", right)


def the_loss_is_not_part_of_the_norm(patch):
    patch.setattr("study.contributions.np.hypot", lambda norms, _signal: norms)
    patch.setattr(Contributor, "_signal", lambda _self, losses: losses)


def the_whole_norm_at_every_site(patch):
    patch.setattr(SumMechanism, "norm_at_site", property(lambda self: self.clipping_norm))


def a_sensitivity_before_rounding(patch):
    patch.setattr("privacy.private_sum.rounded_sensitivity", lambda reach, _dimension, _beta: reach)


def rounding_to_the_nearest_even_of_a_coarse_grid(patch):
    patch.setattr(
        "client.answers.answer",
        lambda mechanism, total, **_: 512 * np.rint(total * mechanism.scale / 512).astype(np.int64),
    )


def a_dither_that_depends_on_the_data(patch):
    """Drawn, but added to what the sum says: two data sets have two dithers."""
    patch.setattr(
        "privacy.private_sum.dithered_round",
        lambda scaled, _clamp, _words: np.floor(scaled + 300 * np.sin(1e3 * scaled)).astype(
            np.int64
        ),
    )


def local_training_is_not_clipped(patch):
    patch.setattr(Contributor, "_one_vector", lambda _self, _stage, vector: vector)


def plain_case(
    kind, *, unit=1, features=None, groups=None, parameters=None, spread=3.0, **settings_
):
    """Six units (or as told) far beyond C = 1, of a mechanism with a scale of a few hundred."""
    declaration = declaration_of(kind, **settings_)
    generator = np.random.default_rng(3)
    groups = np.arange(6) if groups is None else groups
    inputs = model_of(declaration.study).inputs
    features = generator.normal(0, 3, (len(groups), inputs)) if features is None else features
    labels = generator.integers(0, declaration.study.outputs, len(groups))
    if declaration.study.data.task == "regression":
        labels = np.full(len(groups), 4.0)
    sent = parameters_of(declaration, generator, spread)
    for name, change in (parameters or {}).items():
        sent[name] = np.asarray(change(sent[name]), dtype=sent[name].dtype)
    return declaration, (features, labels, groups), sent, unit, b"planted bugs".ljust(32)


RAW = {"scaling": "none", "bounds": {}}
PEOPLE = {"unit": "person", "records_per_unit": 3}
BUGS = [
    (clipped_by_layer, "gradient", lambda: plain_case("mlp", data=RAW)),
    (scalars_unclipped, "gradient", lambda: plain_case("linear", parameters={"bias": lambda old: old + 1000})),
    (norm_of_the_first_row_alone, "gradient", lambda: plain_case("linear", data=PEOPLE, groups=np.repeat(np.arange(6), 3))),
    (clipped_after_summing, "gradient", lambda: plain_case(
        "linear", data=RAW, unit=0, features=np.outer([3e3, -1e3], np.ones(5)), groups=np.arange(2),
        parameters={"weight": np.zeros_like}, training={"signal": False})),
    (weighted_by_the_number_of_units, "gradient", lambda: plain_case("linear")),
    (averaged_over_the_true_number, "gradient", lambda: plain_case("linear", groups=np.arange(2))),
    (norms_that_are_not_a_number_pass, "gradient", lambda: plain_case("linear", data=RAW, features=np.full((6, 5), 1e4))),
    (a_norm_of_zero_divides, "gradient", lambda: plain_case(
        "linear", features=np.zeros((6, 5)), parameters={"weight": np.zeros_like, "bias": lambda _: 0.8},
        training={"signal": False})),
    (infinite_norms_are_left_alone, "delta", lambda: plain_case(
        "linear", training=AVERAGING | {"local_learning_rate": 1e200})),
    (the_loss_is_not_part_of_the_norm, "gradient", lambda: plain_case("linear", parameters={"bias": lambda old: old + 50})),
    (the_whole_norm_at_every_site, "gradient", lambda: plain_case(
        "linear", data=PEOPLE | {"sites_per_unit": 3})),
    (a_sensitivity_before_rounding, "gradient", lambda: plain_case("cnn", data=RAW)),
    (rounding_to_the_nearest_even_of_a_coarse_grid, "gradient", lambda: plain_case("linear")),
    (a_dither_that_depends_on_the_data, "gradient", lambda: plain_case("linear")),
    (local_training_is_not_clipped, "delta", lambda: plain_case(
        "linear", training=AVERAGING | {"local_learning_rate": 5.0})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("plant", "function", "make"), BUGS, ids=[each[0].__name__ for each in BUGS]
)
def test_a_planted_bug_moves_an_answer_too_far_or_ends_it(monkeypatch, plant, function, make):
    """Without it the same case is within the bound, and not far below it where clipping bites."""
    assert moved(make(), function) <= 1
    guarantee_module._mechanism.cache_clear()
    try:
        with monkeypatch.context() as patch:
            plant(patch)
            try:
                found = moved(make(), function)
            except (RefusedError, AssertionError):  # a sum that is not finite, or none at all
                found = np.inf
            assert found > 1.15
    finally:
        guarantee_module._mechanism.cache_clear()


def test_the_bound_is_not_empty():
    """A unit beyond C moves an answer by nearly all that it may."""
    for kind in MODELS:
        case = plain_case(kind, spread=0.05, data=RAW, privacy={"clipping_norm": 1e-6})
        assert moved(case, "gradient") > 0.95
