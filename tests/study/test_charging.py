"""What an answer costs the site that gives it: what the coordinator sees of it, for a unit of the ledger's namespace."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import DATA_SET, ledger_of

from client.answers import Site
from client.tables import Records
from privacy.errors import PrivacyError
from privacy.filters import LifetimeCap
from privacy.keystream import derive_key
from privacy.rounding import rounded_sensitivity
from study.charging import declared_sums
from study.contributions import Contributor, Units
from study.guarantee import Guarantee
from study.ledger_entries import DISTANCE
from study.models import model_of
from study.queries import NONCE_BYTES, SumAnswer, SumQuery
from study.receipts import ReceiptedAnswer

AVERAGING = {
    "algorithm": "dp-fedavg", "local_steps": 1, "local_learning_rate": 100.0, "learning_rate": 1.0, "optimizer": "sgd",
}  # fmt: skip
BOUNDS = {"default": (0.0, 10.0)}


@pytest.fixture
def terms(make_study, declared):
    """Sums by function of a study, and its guarantee."""

    def terms_of(*, count=3, data=None, **settings):
        study = make_study(data={"bounds": BOUNDS} | (data or {}), **settings)
        guarantee = Guarantee(declared(study, sites=count))
        return {each.function: each for each in declared_sums(guarantee)}, guarantee

    return terms_of


# What is seen


@pytest.mark.parametrize("trust", ["local", "server"])
def test_where_the_coordinator_sees_one_share_of_noise_one_is_charged(terms, trust):
    """With trust `local` each answer alone; with `server` sites add none, and all that others see has one."""
    sums, guarantee = terms(privacy={"trust": trust, "noise_multiplier": 30.0}, count=4)
    mechanism, found = guarantee.mechanism("gradient"), sums["gradient"].terms
    assert found.shares == 1
    assert found.noise_multiplier == mechanism.noise_multiplier_of(1)
    assert found.noise_multiplier >= guarantee.declaration.noise_multiplier


@pytest.mark.parametrize(
    ("count", "colluding", "missing", "shares"), [(4, 1, 0, 3), (4, 1, 1, 2), (9, 2, 3, 4), (2, 1, 0, 1)]
)  # fmt: skip
def test_a_masked_sum_is_charged_with_the_k_shares_that_every_sum_holds(
    terms, count, colluding, missing, shares
):
    """Of n sites D are missing and c tell the coordinator their noise: n - D - c shares it does not know."""
    privacy = {
        "trust": "aggregate",
        "noise_multiplier": 30.0,
        "max_colluding": colluding,
        "max_dropouts": missing,
    }
    sums, guarantee = terms(privacy=privacy, sites={"minimum": count}, count=count)
    mechanism, found = guarantee.mechanism("gradient"), sums["gradient"].terms
    assert found.shares == guarantee.tolerance.shares == shares
    noise = math.sqrt(shares * mechanism.deviation.sigma**2 - 4) / mechanism.sensitivity
    assert found.noise_multiplier == pytest.approx(noise, rel=1e-12)
    assert 30.0 * (1 - 1e-9) <= found.noise_multiplier < 30.0 * 1.02
    assert (found.sites, found.colluding) == (count, colluding)
    assert found.survivors == found.threshold == found.quorum == count - missing
    found.check_noise()
    found.check_thresholds()
    with pytest.raises(PrivacyError, match="noise_multiplier"):
        replace(found, shares=max(1, shares - 1), noise_multiplier=1.1 * noise).check_noise()


def test_the_whole_study_is_declared_spares_and_moments_included(terms):
    sums, guarantee = terms(
        data={"scaling": "standard"}, training={"rounds": 5, "spare_rounds": 2}, privacy={"noise_multiplier": 20.0}
    )  # fmt: skip
    assert {name: each.count for name, each in sums.items()} == {"moments": 1, "gradient": 7}
    for stage in guarantee.stages:
        found, mechanism = sums[stage.function].terms, guarantee.mechanism(stage.function)
        assert (found.dimension, found.sampling_rate) == (stage.dimension, stage.sampling_rate)
        assert (found.clipping_norm, found.scale) == (mechanism.clipping_norm, mechanism.scale)
        assert (found.beta, found.slack) == (mechanism.beta, mechanism.slack)
        assert found.unlikely == guarantee.unlikely(stage)
        assert found.part == "train"
        found.check_noise()


def test_a_sampled_study_is_charged_as_one_and_pays_for_draws_beyond_capacity(terms):
    sums, _ = terms(training={"sampling_rate": 0.25})
    full, _ = terms()
    assert sums["gradient"].terms.sampling_rate == 0.25
    assert sums["gradient"].terms.unlikely > full["gradient"].terms.unlikely
    sums["gradient"].terms.check_noise()


def test_a_unit_at_several_sites_is_charged_at_each_as_if_all_of_it_were_there(terms):
    sums, _ = terms(data={"unit": "patient", "sites_per_unit": 2})
    found = sums["gradient"].terms
    assert (found.unit, found.sites_per_unit) == ("a unit of column patient", 2)
    assert found.sums(1).rounding == 2 * found.beta
    found.check_noise()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"data": {"scaling": "standard"}},
        {"data": {"unit": "patient", "sites_per_unit": 3}},
        {"training": {"sampling_rate": 0.25}},
        {"training": {"rounds": 1}},
        {"training": {"rounds": 10_000, "spare_rounds": 500}},
        {"training": AVERAGING},
    ],
)
def test_a_lifetime_of_the_studys_own_delta_has_room_for_the_rounding_of_a_thousand(
    terms, settings
):
    """Divergences may run out before; what no divergence covers does not."""
    sums, guarantee = terms(**{"privacy": {"noise_multiplier": 100.0}} | settings)
    cap = LifetimeCap(epsilon=1.0, delta=guarantee.delta, orders=(8.0,))
    extra = cap.cost([each.terms.sums(each.count) for each in sums.values()]).extra
    assert 999 < cap.extra / extra <= 1000 * (1 + 1e-9)


def test_a_study_without_privacy_has_no_terms(terms):
    sums, _ = terms(privacy={"trust": "unsafe", "noise_multiplier": None})
    assert [each.terms for each in sums.values()] == [None]


# A record of a site that is itself the unit


@given(st.floats(1e-3, 1e9), st.integers(1, 10**7), st.floats(1e-30, 0.5))
def test_twice_the_distance_moves_the_integers_at_most_twice_as_far(reach, dimension, beta):
    """Delta(2 r) <= 2 Delta(r): both terms of the minimum grow less than in proportion (`study/charging.py`)."""
    twice = rounded_sensitivity(2 * reach, dimension, beta)
    assert twice <= 2 * rounded_sensitivity(reach, dimension, beta) * (1 + 1e-12)


def test_a_study_of_sites_is_charged_with_half_the_noise_multiplier(terms):
    sums, guarantee = terms(training=AVERAGING, data={"scaling": "standard"})
    for name, each in sums.items():
        full = guarantee.mechanism(name).noise_multiplier_of(1)
        assert each.terms.adjacency == "replace-one"
        assert each.terms.noise_multiplier == full / 2 == full / DISTANCE["replace-one"]
        each.terms.check_noise()
    ordinary, guarantee = terms(data={"scaling": "standard"})
    assert {each.terms.adjacency for each in ordinary.values()} == {"add-or-remove-one"}


HEALTHY, ILL = (4.0, 4.0, 4.0), (10.0, 10.0, 10.0)


def site_with(guarantee, rows, labels):
    """A site of these records, as a real one: its ledger, its noise; the coordinator's own doing is left out."""
    records = Records(
        np.array(rows).reshape(-1, 3), np.array(labels, dtype=np.int64), np.arange(len(rows)),
        [b"%d" % each for each in range(len(rows))], np.ones(len(rows), dtype=np.bool_),
    )  # fmt: skip
    site = Site(ledger_of(), entropy=lambda *labels: derive_key(b"charging", *labels))
    site.approve(guarantee.declaration, records, data_set=DATA_SET)
    return site


def query_of(guarantee):
    parameters = {name: np.zeros(shape) for name, shape in model_of(guarantee.study).shapes.items()}
    return SumQuery(
        study=guarantee.declaration.hash, index=0, function="delta", parameters=parameters, nonce=bytes(NONCE_BYTES)
    ).to_bytes()  # fmt: skip


def test_one_record_more_moves_a_sites_change_of_the_model_further_than_c(terms):
    """Why the multiplier is halved. The record turns the mean gradient round, and both vectors are clipped to C.

    Through all that a site runs, with the same noise and dither at both sites: their answers differ by more than the
    sensitivity of one site replaced by none, and by no more than twice that, which is what is charged.
    """
    _, guarantee = terms(training=AVERAGING, data={"test_fraction": 0.0})
    mechanism = guarantee.mechanism("delta")
    one = site_with(guarantee, [HEALTHY], [1]).answer(query_of(guarantee))
    two = site_with(guarantee, [HEALTHY, ILL], [1, 0]).answer(query_of(guarantee))
    none = site_with(guarantee, [], []).answer(query_of(guarantee))
    answers = [ReceiptedAnswer.from_bytes(each).answer for each in (one, two, none)]
    vectors = [SumAnswer.from_bytes(each).vector.astype(np.float64) for each in answers]
    moved = np.linalg.norm(vectors[1] - vectors[0])
    assert 1.5 * mechanism.sensitivity < moved <= 2 * mechanism.sensitivity
    for each in vectors[:2]:  # the site as a whole stays within what the study promises
        assert np.linalg.norm(each - vectors[2]) <= mechanism.sensitivity


def test_no_record_moves_a_sites_change_of_the_model_further_than_twice_c(terms):
    """Over many pairs of data sets, of one record up to five, at several local learning rates."""
    generator = np.random.default_rng(7)
    for rate in (0.01, 1.0, 1000.0):
        _, guarantee = terms(training=AVERAGING | {"local_learning_rate": rate, "local_steps": 3})
        clipping_norm = guarantee.mechanism("delta").clipping_norm
        parameters = {
            name: generator.normal(size=shape)
            for name, shape in model_of(guarantee.study).shapes.items()
        }
        for count in (1, 2, 5):
            features, labels = (
                generator.uniform(size=(count + 1, 3)),
                generator.integers(0, 2, count + 1),
            )
            sums = []
            for rows in (count, count + 1):
                units = Units(features[:rows], labels[:rows], np.arange(rows), rows)
                contributor = Contributor(guarantee, units)
                sums.append(
                    contributor.clipped_sum("delta", parameters, np.ones(1, dtype=np.bool_))
                )
            assert max(map(np.linalg.norm, sums)) <= clipping_norm
            assert np.linalg.norm(sums[1] - sums[0]) <= 2 * clipping_norm


def test_the_noise_covers_the_farther_neighbour(terms):
    """z / 2 is what a Gaussian of one share buys at a distance of 2 Delta (1 + eta)."""
    sums, guarantee = terms(training=AVERAGING)
    mechanism, found = guarantee.mechanism("delta"), sums["delta"].terms
    reach = 2 * mechanism.scale * mechanism.clipping_norm
    farther = rounded_sensitivity(reach, mechanism.dimension, mechanism.beta) * (
        1 + mechanism.slack
    )
    assert found.noise_multiplier <= math.sqrt(mechanism.deviation.variance - 4) / farther


@pytest.mark.parametrize("trust", ["local", "server", "aggregate"])
@pytest.mark.parametrize(
    "changed", [{}, AVERAGING, {"sampling_rate": 0.5}], ids=["gradient", "delta", "sampled"]
)
@pytest.mark.parametrize("scaling", ["bounds", "standard"])
def test_terms_hold_every_constant_that_a_change_of_the_study_moves(terms, trust, changed, scaling):
    """Two declarations that differ in what a sum costs never have equal terms."""
    base = {
        "training": changed, "data": {"scaling": scaling}, "count": 5,
        "privacy": {"trust": trust, "noise_multiplier": 30.0, "max_colluding": 1},
    }  # fmt: skip
    found = {}
    for section, name, value in (
        ("privacy", "noise_multiplier", 31.0), ("privacy", "clipping_norm", 1.5), ("privacy", "delta", 1e-6),
        ("training", "rounds", 9), ("training", "rounds", 4),
    ):  # fmt: skip
        settings = base | {section: base[section] | {name: value}}
        sums, _ = terms(**settings)
        found[name, value] = tuple(replace(each, count=1) for each in sums.values())
    assert all(one != two for one, two in itertools.combinations(found.values(), 2))
