"""What is charged is what the coordinator can see of one unit, never less."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.filters import LifetimeCap, default_orders
from privacy.rounding import rounded_sensitivity
from study.charging import declared_sums
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.contributions import Contributor, Units
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.models import model_of

AVERAGING = {
    "algorithm": "dp-fedavg", "local_steps": 3, "local_learning_rate": 5.0, "learning_rate": 1.0, "optimizer": "sgd",
}  # fmt: skip


def guarantee_of(*, sites=6, noise=4.0, data=None, training=None, privacy=None):
    study = Study(
        name="example",
        data=Data(**{
            "task": "classification", "label": "ill", "classes": ("no", "yes"), "expected_records": 40,
            "features": ("age", "height"), "bounds": {"default": (0.0, 1.0)}, "test_fraction": 0.0,
        } | (data or {})),
        model=Model(kind="logistic"),
        training=Training(**{"rounds": 4, "spare_rounds": 1} | (training or {})),
        privacy=Privacy(**{"noise_multiplier": noise} | (privacy or {})),
        sites=Sites(minimum=sites),
    )  # fmt: skip
    unsafe = study.privacy.trust == "unsafe"
    return Guarantee(
        Declaration(
            study=study, sites=sites, noise_multiplier=None if unsafe else noise, nonce="0" * 32
        )
    )


def terms_of(guarantee):
    return {each.function: each.terms for each in declared_sums(guarantee)}


def test_every_sum_that_may_be_asked_is_declared_with_spares():
    declared = declared_sums(guarantee_of(data={"scaling": "standard"}))
    assert {each.function: each.count for each in declared} == {"moments": 1, "gradient": 5}


@pytest.mark.parametrize("trust", ["local", "server"])
def test_one_share_is_all_of_the_noise_where_the_study_says_so(trust):
    guarantee = guarantee_of(privacy={"trust": trust})
    found = terms_of(guarantee)["gradient"].noise_multiplier
    assert 4.0 * (1 - 1e-9) <= found <= 4.0 * 1.011


def test_while_nothing_is_masked_an_answer_costs_what_one_share_of_noise_hides():
    """With k = 5 shares the released model has z = 4, and the coordinator sees each answer with z / sqrt(5)."""
    guarantee = guarantee_of(privacy={"trust": "aggregate"})
    terms = terms_of(guarantee)["gradient"]
    assert guarantee.tolerance.shares == 5
    assert terms.shares == 1
    assert terms.noise_multiplier == pytest.approx(4.0 / np.sqrt(5), rel=0.02)
    assert terms.noise_multiplier == guarantee.mechanism("gradient").noise_multiplier_of(1)


def test_the_cost_is_that_of_the_epsilon_against_the_server():
    """A lifetime bound by divergences is above the tight epsilon of the same sums, and not by much."""
    guarantee = guarantee_of(privacy={"trust": "aggregate"})
    cap = LifetimeCap(epsilon=30.0, delta=1e-5, orders=default_orders(30.0, 1e-5))
    sums = [each.terms.sums(each.count) for each in declared_sums(guarantee)]
    found = cap.epsilon_of(cap.cost(sums))
    assert guarantee.epsilon_against_server <= found <= 1.6 * guarantee.epsilon_against_server
    assert found > 2 * guarantee.epsilon


def test_a_study_without_privacy_has_no_terms():
    declared = declared_sums(guarantee_of(privacy={"trust": "unsafe", "noise_multiplier": None}))
    assert [each.terms for each in declared] == [None]


def test_the_terms_yield_the_noise_that_is_charged():
    for guarantee in (
        guarantee_of(), guarantee_of(privacy={"trust": "aggregate"}), guarantee_of(data={"scaling": "standard"}),
        guarantee_of(training={"sampling_rate": 0.2}), guarantee_of(training=AVERAGING),
        guarantee_of(data={"unit": "person", "sites_per_unit": 2}),
    ):  # fmt: skip
        for terms in terms_of(guarantee).values():
            terms.check_noise()


@given(st.floats(1e-6, 1e9), st.integers(1, 10**7), st.floats(1e-15, 0.1))
def test_twice_as_far_is_at_most_twice_the_sensitivity(reach, dimension, beta):
    """Delta(2 r) <= 2 Delta(r), both branches: r + sqrt(d), and the root of r^2 + d/4 + c (r + sqrt(d)/2)."""
    once, twice = (rounded_sensitivity(each, dimension, beta) for each in (reach, 2 * reach))
    assert twice <= 2 * once * (1 + 1e-12)


def test_one_record_more_moves_a_sites_vector_further_than_c_and_is_charged_so():
    """A site of one small and one large record: without the large one its clipped change points the other way.

    So a study that protects whole sites with z has to be charged to records at z / 2.
    """
    guarantee = guarantee_of(training=AVERAGING, privacy={"clipping_norm": 0.05})
    model = model_of(guarantee.study)

    def vector(features, labels):
        count = len(labels)
        units = Units(np.array(features), np.array(labels), np.arange(count), count)
        contributor = Contributor(guarantee, units)
        found = contributor.clipped_sum(
            "delta", model.initial(bytes(32)), np.ones(1, dtype=np.bool_)
        )
        return found[: model.size]

    without = vector([[0.1, 0.1]], [0])
    beside = vector([[0.1, 0.1], [1.0, 1.0]], [0, 1])
    assert np.linalg.norm(without - beside) > guarantee.mechanism("delta").norm_at_site
    terms = terms_of(guarantee)["delta"]
    assert terms.adjacency == "replace-one"
    assert terms.noise_multiplier == pytest.approx(4.0 / 2, rel=0.011)
