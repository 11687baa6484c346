"""What a declaration guarantees: the constants, every sum charged, and an epsilon that others find too."""

import math
import sys

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from privacy.accounting import epsilon_of
from privacy.errors import PrivacyError, StudyError
from privacy.events import SumEvent
from privacy.sampling import OVERFLOW
from study.declaration import Declaration
from study.guarantee import Guarantee, Tolerance, declare, stages_of, tolerance_of
from study.models import model_of

NONCE = "a" * 32
AVERAGING = {
    "algorithm": "dp-fedavg", "local_steps": 3, "local_learning_rate": 0.5, "learning_rate": 1.0,
    "optimizer": "sgd",
}  # fmt: skip
STANDARD = {"scaling": "standard", "bounds": {"default": (0.0, 1.0)}}
BUDGET = {"noise_multiplier": None, "epsilon": 2.0}


def gaussian_epsilon(mu, delta):
    """Balle and Wang 2018, Theorem 8, solved here; nothing of the project or of dp-accounting in it."""

    def excess(epsilon):
        tail = stats.norm.logcdf(-epsilon / mu - mu / 2)
        return stats.norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon + tail) - delta

    return optimize.brentq(excess, 0, 400, xtol=1e-12) if excess(0) > 0 else 0.0


def pld_epsilon(parts, delta):
    """dp-accounting asked directly; `parts` are (z, q, count)."""
    accountant = PLDAccountant(
        NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-4
    )
    for z, q, count in parts:
        gaussian = GaussianDpEvent(z)
        accountant.compose(gaussian if q == 1 else PoissonSampledDpEvent(q, gaussian), count)
    return float(accountant.get_epsilon(delta))


def noise_of(mechanism, shares):
    """The noise multiplier of so many shares: sqrt(k sigma^2 - 4) over what one unit moves."""
    return math.sqrt(shares * mechanism.deviation.sigma**2 - 4) / mechanism.sensitivity


def mu_with(guarantee, multiplier):
    return math.sqrt(sum(each.count / multiplier(each) ** 2 for each in guarantee.stages))


@pytest.mark.parametrize(
    ("trust", "constants"),
    [
        ("aggregate", (10, 1, 0, 10, 9)), ("aggregate", (10, 1, 1, 9, 8)), ("aggregate", (10, 2, 3, 7, 5)),
        ("aggregate", (4, 1, 1, 3, 2)), ("aggregate", (128, 3, 62, 66, 63)), ("aggregate", (2, 1, 0, 2, 1)),
        ("local", (10, 1, 0, 10, 1)), ("local", (10, 5, 4, 6, 1)), ("local", (1, 1, 0, 1, 1)),
        ("server", (10, 2, 3, 7, 1)), ("unsafe", (10, 2, 3, 7, 1)),
    ],
)  # fmt: skip
def test_the_constants_of_a_roster(make_study, declared, trust, constants):
    """n, c, D, m, k."""
    sites, colluding, missing, survivors, shares = constants
    privacy = {"trust": trust, "max_colluding": colluding, "max_dropouts": missing}
    privacy |= {"noise_multiplier": None} if trust == "unsafe" else {}
    study = make_study(privacy=privacy, sites={"minimum": sites})
    expected = Tolerance(
        sites=sites, colluding=colluding, missing=missing, survivors=survivors, shares=shares
    )
    assert tolerance_of(study, sites) == expected
    guarantee = Guarantee(declared(study, sites=sites))
    assert guarantee.tolerance == expected
    mechanism = guarantee.mechanism("gradient")
    if trust != "unsafe":
        assert (mechanism.shares, mechanism.sites) == (shares, sites)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 20))
def test_aggregate_trust_counts_on_no_share_that_may_be_missing_or_known(
    make_study, colluding, missing, more
):
    """k honest shares survive whichever D drop out and whichever c collude; every admitted roster has one at least."""
    sites = colluding + 2 * missing + 1 + more
    privacy = {"trust": "aggregate", "max_colluding": colluding, "max_dropouts": missing}
    found = tolerance_of(make_study(privacy=privacy, sites={"minimum": sites}), sites)
    assert 1 <= found.shares == sites - missing - colluding
    assert found.survivors > sites / 2  # two disjoint sets of survivors cannot both be enough


CALIBRATED = {
    "plain": {},
    "spares": {"training": {"rounds": 50, "spare_rounds": 7}},
    "standard": {"data": STANDARD, "training": {"rounds": 100}},
    "sampled": {"training": {"rounds": 60, "sampling_rate": 0.1}},
    "sampled, standard": {"data": STANDARD, "training": {"rounds": 30, "sampling_rate": 0.2}},
    "aggregate": {"privacy": {"trust": "aggregate"}},
    "server": {"privacy": {"trust": "server"}},
    "small": {"privacy": {"epsilon": 0.05, "delta": 1e-7}},
    "large": {"privacy": {"epsilon": 20.0}},
    "averaging": {"training": AVERAGING, "data": STANDARD},
    "patients": {"data": STANDARD | {"unit": "person", "sites_per_unit": 3, "records_per_unit": 4}},
}


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_declared_budget_is_kept_and_used(make_study, name):
    """At most the promised epsilon, and at least 99.9 % of it: by the accountant, and by another computation of it."""
    settings_ = CALIBRATED[name] | {"privacy": BUDGET | CALIBRATED[name].get("privacy", {})}
    study = make_study(**settings_)
    guarantee = Guarantee(declare(study, sites=3, nonce=NONCE))
    promised, delta = study.privacy.epsilon, study.privacy.delta
    assert 0.999 * promised <= guarantee.epsilon <= promised
    guarantee.check()
    # Independently, from what the mechanisms really do: noise of k shares over the sensitivity of a sum, and the delta
    # that is left when rounding (beta for each sum and site) and draws beyond the capacity have been paid.
    mechanisms = {each.function: guarantee.mechanism(each.function) for each in guarantee.stages}
    sums = sum(each.count for each in guarantee.stages)
    rounding = sum(
        each.count * mechanisms[each.function].beta * mechanisms[each.function].sites_per_unit
        for each in guarantee.stages
    )
    left = delta - rounding - sums * OVERFLOW * (1 + math.exp(promised))
    assert 0.9989 * delta < left < 0.99991 * delta

    def real(stage):
        one = mechanisms[stage.function]
        return math.sqrt(one.shares * one.deviation.sigma**2 - 4) / one.sensitivity

    if all(each.sampling_rate == 1 for each in guarantee.stages):
        independent = gaussian_epsilon(mu_with(guarantee, real), left)
        assert guarantee.mu == pytest.approx(mu_with(guarantee, real), rel=1e-9)
        slack = 1e-6
    else:
        independent = pld_epsilon(
            [(real(each), each.sampling_rate, each.count) for each in guarantee.stages], left
        )
        assert guarantee.mu is None
        slack = 1e-4  # the discretisation of both
    # not below what is true at the delta that is left; the 0.1 % of delta kept for overflow makes it a little more
    assert independent * (1 - 1e-9) - (slack if guarantee.mu is None else 0) <= guarantee.epsilon
    assert guarantee.epsilon <= independent * 1.001 + slack


def test_a_declaration_is_the_same_whoever_makes_it(make_study):
    study = make_study(privacy=BUDGET)
    one, other = (declare(study, sites=3, nonce=NONCE) for _ in range(2))
    assert one.hash == other.hash
    assert declare(study, sites=4, nonce=NONCE).noise_multiplier == one.noise_multiplier


def test_a_given_noise_multiplier_is_declared_as_it_is(make_study):
    study = make_study(privacy={"noise_multiplier": 1.25})
    assert declare(study, sites=3, nonce=NONCE).noise_multiplier == 1.25


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"training": {"rounds": 20}}, {"training": {"rounds": 20, "spare_rounds": 5}}),
        ({"training": {"rounds": 20}}, {"training": {"rounds": 25}}),
        ({}, {"data": STANDARD}),
        ({"training": AVERAGING}, {"training": AVERAGING, "data": STANDARD}),
        ({}, {"privacy": {"delta": 1e-7}}),
    ],
)
def test_every_sum_that_may_be_asked_is_charged(declared, before, after):
    """The same noise buys less where more may be asked; spares count like rounds."""
    one, other = (Guarantee(declared(**each)) for each in (before, after))
    assert one.epsilon < other.epsilon


def test_spares_cost_exactly_what_rounds_cost(declared):
    spare = Guarantee(declared(training={"rounds": 20, "spare_rounds": 5}))
    assert spare.epsilon == Guarantee(declared(training={"rounds": 25})).epsilon
    assert [each.count for each in spare.stages] == [25]


def test_moments_take_a_tenth_of_the_budget_and_come_first(declared):
    """mu^2 of the moments is a tenth of the whole, by the events that the accountant is told."""
    guarantee = Guarantee(declared(data=STANDARD, training={"rounds": 40, "spare_rounds": 4}))
    assert [each.function for each in guarantee.stages] == ["moments", "gradient"]
    moments, gradient = (each.count / each.noise_multiplier**2 for each in guarantee.events())
    assert moments / (moments + gradient) == pytest.approx(0.1)
    assert gradient == pytest.approx(44 / 9)
    assert guarantee.stage("moments").count == 1
    assert guarantee.stage("moments").clipping_norm == pytest.approx(math.sqrt(7))


def test_the_dimension_of_every_sum(declared):
    for signal in (True, False):
        guarantee = Guarantee(declared(data=STANDARD, training={"signal": signal}))
        assert [each.dimension for each in guarantee.stages] == [
            7,
            model_of(guarantee.study).size + signal,
        ]
        assert [guarantee.mechanism(each.function).dimension for each in guarantee.stages] == [
            7,
            4 + signal,
        ]


@pytest.mark.parametrize("training", [{}, AVERAGING])
@pytest.mark.parametrize("trust", ["local", "aggregate", "server"])
@pytest.mark.parametrize("places", [1, 3])
def test_the_noise_covers_a_unit_at_all_its_sites(declared, training, trust, places):
    """sqrt(k sigma^2 - 4) >= z M Delta(sC/M): a unit is clipped to C / M at each of M sites; a site is at one."""
    data = STANDARD | {"unit": "person", "sites_per_unit": 1 if training else places}
    guarantee = Guarantee(
        declared(data=data, training=training, privacy={"trust": trust, "clipping_norm": 2.0})
    )
    for stage in guarantee.stages:
        one = guarantee.mechanism(stage.function)
        expected = 1 if training else places
        assert one.sites_per_unit == expected
        assert one.norm_at_site == pytest.approx(stage.clipping_norm / expected)
        assert one.sensitivity >= one.scale * stage.clipping_norm
        noise = math.sqrt(one.shares * one.deviation.sigma**2 - 4)
        assert noise >= one.noise_multiplier * one.sensitivity * (1 - 1e-12)
        assert one.noise_multiplier == pytest.approx(
            guarantee.declaration.noise_multiplier * stage.noise_ratio
        )


def test_a_site_as_the_unit_has_capacity_one(declared):
    guarantee = Guarantee(declared(data=STANDARD, training=AVERAGING))
    assert [each.capacity for each in guarantee.stages] == [1, 1]
    assert [each.function for each in guarantee.stages] == ["moments", "delta"]
    assert guarantee.to_values()["unit"] == "site"


class TestAgainstTheServer:
    """With trust `aggregate` it sees sums alone, with k honest shares; with `local` each answer, with all the noise."""

    @pytest.mark.parametrize("training", [{}, AVERAGING, {"sampling_rate": 0.2}])
    @pytest.mark.parametrize("trust", ["local", "aggregate"])
    def test_it_is_as_much_as_against_everybody(self, declared, training, trust):
        guarantee = Guarantee(declared(data=STANDARD, training=training, privacy={"trust": trust}))
        assert guarantee.epsilon_against_server == guarantee.epsilon is not None

    @pytest.mark.parametrize(("sites", "missing"), [(3, 0), (5, 1), (10, 2)])
    @pytest.mark.parametrize("data", [{}, STANDARD])
    def test_with_aggregate_trust_it_is_that_of_k_shares(
        self, make_study, declared, sites, missing, data
    ):
        """The survivors' less the colluding one's: what one share buys would be a good deal more."""
        privacy = {"trust": "aggregate", "max_dropouts": missing, "noise_multiplier": 8.0}
        study = make_study(data=data, privacy=privacy, sites={"minimum": sites})
        guarantee = Guarantee(declared(study, sites=sites))
        honest, delta = sites - missing - 1, 1e-5 * (1 - 0.0011)

        def epsilon_with(shares):
            noise = lambda stage: noise_of(guarantee.mechanism(stage.function), shares)  # noqa: E731
            return gaussian_epsilon(mu_with(guarantee, noise), delta)

        assert guarantee.epsilon_against_server == pytest.approx(epsilon_with(honest), rel=1e-6)
        assert epsilon_with(1) > 1.2 * guarantee.epsilon_against_server

    def test_with_sampling_the_accountant_says_the_same_asked_directly(self, declared):
        privacy = {"trust": "aggregate", "noise_multiplier": 2.0}
        guarantee = Guarantee(
            declared(privacy=privacy, training={"rounds": 20, "sampling_rate": 0.2})
        )
        z = noise_of(guarantee.mechanism("gradient"), 2)
        expected = pld_epsilon([(z, 0.2, 20)], 1e-5 * (1 - 0.0011))
        # each has an error of discretisation of its own, upwards
        assert expected * (1 - 2e-5) <= guarantee.epsilon_against_server <= expected * (1 + 2e-4)

    def test_there_is_no_bound_where_answers_carry_no_noise(self, declared):
        assert Guarantee(declared(privacy={"trust": "server"})).epsilon_against_server is None
        assert Guarantee(declared(privacy={"trust": "server"})).epsilon is not None


def test_without_privacy_nothing_is_claimed(declared):
    guarantee = Guarantee(declared(privacy={"trust": "unsafe", "noise_multiplier": None}))
    guarantee.check()
    assert guarantee.events() == []
    assert guarantee.mechanism("gradient") is None
    claims = (guarantee.epsilon, guarantee.epsilon_against_server, guarantee.mu)
    assert claims == (None, None, None)
    assert guarantee.epsilon_by_round == ()
    assert guarantee.delta_at(1.0) is None
    assert guarantee.to_values()["epsilon"] is None


@pytest.mark.parametrize("trust", ["local", "aggregate", "server"])
@pytest.mark.parametrize("training", [{}, {"sampling_rate": 0.3}])
def test_noise_that_does_not_buy_the_promise_is_refused(make_study, trust, training):
    study = make_study(privacy=BUDGET | {"trust": trust}, training=training)
    enough = declare(study, sites=3, nonce=NONCE)
    Guarantee(enough).check()
    for factor in (0.999, 0.5):
        less = Declaration(
            study=study, sites=3, noise_multiplier=factor * enough.noise_multiplier, nonce=NONCE
        )
        with pytest.raises(PrivacyError, match=r"Expected noise for epsilon=2.*found noise for"):
            Guarantee(less).check()
    more = Declaration(
        study=study, sites=3, noise_multiplier=1.5 * enough.noise_multiplier, nonce=NONCE
    )
    Guarantee(more).check()


def test_noise_for_no_epsilon_at_all_is_refused_where_one_is_promised(make_study):
    study = make_study(privacy=BUDGET)
    with pytest.raises(PrivacyError, match="Expected noise for .*None"):
        Guarantee(Declaration(study=study, sites=3, noise_multiplier=1e-3, nonce=NONCE)).check()


@pytest.mark.parametrize("privacy", [{"epsilon": 80.0}, {"epsilon": 60.0}, {"delta": 1e-31}])
def test_what_cannot_be_proved_is_not_promised(make_study, privacy):
    """Each share of each number is granted 2^-109 from the exact discrete Gaussian (privacy/discrete_gaussian.py): over
    the whole study n d T 2^-109 (1 + e^epsilon), which a thousandth of delta must hold.
    """
    study = make_study(privacy=BUDGET | privacy)
    samples = sum(each.count * each.dimension for each in stages_of(study))
    distance = 3 * samples * 2.0**-109 * (1 + math.exp(study.privacy.epsilon))
    assert distance > 0.001 * study.privacy.delta
    with pytest.raises((PrivacyError, StudyError), match="that can be proved"):
        Guarantee(declare(study, sites=3, nonce=NONCE)).check()


def test_more_numbers_than_noise_can_be_sampled_for_are_refused(declared):
    """Four thousand million numbers of people who are at up to 200 sites; at one site there is noise for them."""
    settings_ = {
        "model": {"kind": "mlp", "hidden": (65_536, 65_536)},
        "privacy": {"noise_multiplier": 1e5, "delta": 1e-12},
    }
    Guarantee(declared(sites=200, **settings_)).check()
    data = {"unit": "person", "sites_per_unit": 200}
    with pytest.raises(PrivacyError, match="No deviation up to .* is wide enough for 4295"):
        Guarantee(declared(sites=200, data=data, **settings_)).check()


def test_a_large_model_pays_for_the_blocks_that_aes_never_repeats(declared):
    """Five words a number: b = 5 d / 2 blocks a site and sum, b^2 2^-129 each; beyond d = 2^18 that is more than the
    samples' own distance. Here it is more than 0.1 % of delta, at an epsilon that a small model may have.
    """
    privacy = {"noise_multiplier": 0.7, "delta": 1e-9}
    small = Guarantee(declared(privacy=privacy))
    small.check()
    large = Guarantee(declared(privacy=privacy, model={"kind": "mlp", "hidden": (65_536, 65_536)}))
    size = large.stages[-1].dimension
    repeated = 3 * 4 * (2.5 * size) ** 2 * 2.0**-129
    samples = 3 * 4 * size * 2.0**-109
    assert samples * math.exp(large.epsilon) < 0.1 * 1e-12
    assert repeated * math.exp(large.epsilon) > 10 * 1e-12
    with pytest.raises(PrivacyError, match="Expected an epsilon that can be proved"):
        large.check()


@pytest.mark.parametrize(
    "settings_",
    [
        {"privacy": {"noise_multiplier": 1e-200}},
        {"data": STANDARD, "training": {"sampling_rate": 1e-200}},
    ],
    ids=["noise", "rate-moments"],
)
def test_extreme_constants_are_refused_like_others(declared, settings_):
    """The contract admits them; whoever reads them from a message expects one of two exceptions."""
    with pytest.raises((PrivacyError, StudyError), match="."):
        Guarantee(declared(**settings_)).check()


def widest(declared, delta, rounds):
    """As many sums, at as many sites, as share what rounding may have of delta."""
    data = {"unit": "person", "sites_per_unit": 128}
    privacy = {"delta": delta, "noise_multiplier": 3e5}
    return Guarantee(declared(sites=128, data=data, training={"rounds": rounds}, privacy=privacy))


@pytest.mark.parametrize("delta", [1e-5, 1e-15, 1e-20])
@pytest.mark.parametrize("rounds", [1, 10**6])
def test_what_one_rounding_may_have_of_a_tiny_delta_is_a_sound_number(declared, delta, rounds):
    guarantee = widest(declared, delta, rounds)
    guarantee.check()
    mechanism = guarantee.mechanism("gradient")
    assert mechanism.beta * rounds * 128 == pytest.approx(1e-4 * delta, rel=1e-12)
    assert mechanism.beta > 1e100 * sys.float_info.min
    assert mechanism.noise_multiplier_of(1) >= 3e5 * (1 - 1e-12)


@pytest.mark.parametrize("delta", [1e-100, 1e-300, 1e-310, 5e-324])
@pytest.mark.parametrize("rounds", [1, 10**6])
def test_a_delta_of_which_rounding_could_have_nothing_is_refused(declared, delta, rounds):
    with pytest.raises(PrivacyError, match="proved at delta|0 < beta < 1"):
        widest(declared, delta, rounds).check()


@pytest.mark.parametrize("rate", [5e-324, 1e-200, 1e-20])
def test_a_rate_at_which_nobody_is_ever_drawn_costs_next_to_nothing(declared, rate):
    """Numbers too small for logarithms of quotients; 1e-6 is far above what floating point leaves."""
    guarantee = Guarantee(declared(training={"sampling_rate": rate}))
    guarantee.check()
    assert 0 <= guarantee.epsilon < 1e-6


FEWER = {
    "plain": {},
    "standard": {"data": STANDARD},
    "sampled": {"training": {"rounds": 9, "sampling_rate": 0.3}},
    "sampled, standard, spares": {
        "data": STANDARD,
        "training": {"rounds": 7, "sampling_rate": 0.3, "spare_rounds": 2},
    },
}


@pytest.mark.parametrize("name", FEWER)
def test_a_number_of_rounds_costs_what_the_accountant_says_of_so_many_declared(declared, name):
    """Sum for scaling with the declared noise, spares and rounds; asked directly, with the moments merged in."""
    guarantee = Guarantee(declared(**FEWER[name]))
    training, costs = guarantee.study.training, guarantee.epsilon_by_round
    assert len(costs) == training.rounds
    assert costs[-1] == guarantee.epsilon
    for rounds, cost in enumerate(costs, start=1):
        parts = [
            (each.noise_multiplier, each.sampling_rate, each.count)
            for each in guarantee.events()[:-1]
        ]
        parts.append((3.0, training.sampling_rate, rounds + training.spare_rounds))
        if training.sampling_rate == 1:
            mu = math.sqrt(sum(count / z**2 for z, _, count in parts))
            assert cost == pytest.approx(gaussian_epsilon(mu, guarantee.accounted_delta), rel=1e-6)
        else:
            truth = pld_epsilon(parts, guarantee.accounted_delta)
            # the quick accountant is a thousandth too large by discretisation, the one in this test 1e-5
            assert truth * (1 - 2e-5) <= cost <= truth * (1 + 1e-3)


@pytest.mark.parametrize("training", [{}, {"sampling_rate": 0.05}])
@pytest.mark.parametrize("rounds", [1, 2, 49, 50, 51, 1000])
def test_costs_are_exact_at_fifty_points_at_most_and_upper_steps_between(
    declared, monkeypatch, rounds, training
):
    """Never below what the round itself costs, never above what the next exact one does."""
    import study.guarantee

    guarantee = Guarantee(declared(training={"rounds": rounds} | training))
    asked = []

    def counted(events, delta, *, precision):
        asked.append(sum(each.count for each in events))
        return epsilon_of(events, delta, precision=precision)

    monkeypatch.setattr(study.guarantee, "epsilon_of", counted)
    costs = guarantee.epsilon_by_round
    assert len(costs) == rounds
    assert len(set(asked)) <= 50
    assert len(set(costs)) == len(set(asked)) == min(rounds, 50)
    assert list(costs) == sorted(costs)
    last = 0
    for count in sorted(set(asked)):  # every step has the cost of its right end
        assert set(costs[last:count]) == {costs[count - 1]}
        last = count
    assert last == rounds
    for count in {1, rounds // 3, rounds - 1} - {0}:
        event = SumEvent(noise_multiplier=3.0, count=count, **training)
        truth = epsilon_of([event], guarantee.accounted_delta, precision=1e-5)
        assert truth * (1 - 1e-5) <= costs[count - 1]


def test_a_million_rounds_are_forecast_like_others(declared):
    costs = Guarantee(
        declared(training={"rounds": 10**6}, privacy={"noise_multiplier": 3000.0})
    ).epsilon_by_round
    assert len(costs) == 10**6
    assert costs[0] < costs[-1]


class TestProfile:
    """Delta at other epsilons: what the accountant says, what rounding costs, and what is unlikely."""

    @pytest.mark.parametrize("training", [{}, {"sampling_rate": 0.3}])
    @pytest.mark.parametrize("data", [{}, STANDARD])
    def test_it_goes_through_what_is_promised(self, make_study, training, data):
        study = make_study(privacy=BUDGET, training=training, data=data)
        guarantee = Guarantee(declare(study, sites=3, nonce=NONCE))
        assert guarantee.delta_at(guarantee.epsilon) <= guarantee.delta
        assert guarantee.delta_at(guarantee.epsilon) >= 0.9985 * guarantee.delta
        deltas = [guarantee.delta_at(each) for each in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)]
        assert deltas == sorted(deltas, reverse=True)
        assert deltas[0] < 1

    def test_rounding_is_never_forgotten(self, declared):
        """However large epsilon is, 0.01 % of the declared delta is gone; the rest is what a Gaussian has."""
        guarantee = Guarantee(declared())
        mu = 2 / 3  # four sums at z = 3
        for epsilon in (0.5, 2.0, 20.0):
            tail = stats.norm.logcdf(-epsilon / mu - mu / 2)
            exact = stats.norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon + tail)
            assert guarantee.delta_at(epsilon) == pytest.approx(exact + 1e-9, rel=1e-6)


def test_epsilon_is_in_the_declaration_and_not_in_anybodys_memory(declared):
    """A restart forgets nothing: whoever reads the same bytes finds the same figures."""
    import privacy.accounting

    settings_ = {"data": STANDARD, "training": {"sampling_rate": 0.3}}
    before = Guarantee(declared(**settings_))
    figures = (before.epsilon, before.mu, before.epsilon_by_round, before.delta_at(1.0))
    for cache in (
        privacy.accounting._epsilon,
        privacy.accounting._delta,
        privacy.accounting._losses,
    ):
        cache.cache_clear()
    after = Guarantee(Declaration.from_bytes(before.declaration.content))
    assert (after.epsilon, after.mu, after.epsilon_by_round, after.delta_at(1.0)) == figures


@pytest.mark.parametrize("training", [{}, {"sampling_rate": 0.3}])
def test_the_sum_for_scaling_is_in_every_figure(declared, training):
    """Left out of any of them, a tenth of the budget would be spent for nothing."""
    without, charged = (
        Guarantee(declared(training=training, data=data)) for data in ({}, STANDARD)
    )
    assert charged.epsilon > 1.02 * without.epsilon
    assert charged.epsilon_against_server > 1.02 * without.epsilon_against_server
    assert charged.delta_at(1.0) > 1.02 * without.delta_at(1.0)
    for with_it, bare in zip(charged.epsilon_by_round, without.epsilon_by_round, strict=True):
        assert with_it > 1.02 * bare


def test_a_smaller_sample_is_more_private(declared):
    costs = [
        Guarantee(declared(training={"sampling_rate": rate, "rounds": 10})).epsilon
        for rate in (0.05, 0.3, 1.0)
    ]
    assert costs == sorted(costs)
    assert costs[0] < costs[1] / 2 < costs[2] / 2


def test_the_capacity_of_a_sample_is_public_and_below_that_of_a_site(make_study, declared):
    data = {"expected_records": 2000}
    whole = Guarantee(declared(data=data)).stage("gradient")
    part = Guarantee(declared(data=data, training={"sampling_rate": 0.1})).stage("gradient")
    assert whole.capacity == 2500  # five quarters, unless the study says how many
    assert 200 < part.capacity < 600
    most = make_study(
        data={"expected_records": 10**9}, privacy={"noise_multiplier": 3.0, "delta": 1e-10}
    )
    Guarantee(declared(most)).check()
    assert Guarantee(declared(most)).stage("gradient").capacity == 2**20  # more is not argued for
    small = make_study(data=data, sites={"maximum_records": 500})
    assert Guarantee(declared(small)).stage("gradient").capacity == 500
    # mean 250, deviation 15: the Chernoff bound of 2^-128 lies within 12 to 16 deviations
    assert 12 < (part.capacity - 250) / math.sqrt(225) < 20
    assert stats.binom.logsf(part.capacity, 2500, 0.1) < math.log(OVERFLOW)


def test_the_mechanism_is_one_object_whoever_read_the_declaration(make_study):
    """Every party derives it from the same bytes; equal declarations share it."""
    one = declare(make_study(privacy=BUDGET, data=STANDARD), sites=3, nonce=NONCE)
    read = [Declaration.from_bytes(bytes(one.content)), Declaration.from_bytes(one.content)]
    other = declare(
        make_study(privacy=BUDGET | {"epsilon": 2}, data=STANDARD), sites=3, nonce="b" * 32
    )
    for function in ("moments", "gradient"):
        mechanism = Guarantee(one).mechanism(function)
        for each in (*read, other):
            assert Guarantee(each).mechanism(function) is mechanism


def test_mechanisms_of_studies_that_differ_in_bounds_alone_are_equal(declared):
    """Bounds are left out of a study's Python hash, not out of its equality: no cache may mix them up."""
    one, other = (
        Guarantee(declared(data={"bounds": {"default": (0.0, high)}})) for high in (1.0, 2.0)
    )
    assert one.study != other.study
    assert one.declaration.hash != other.declaration.hash
    assert one.mechanism("gradient") == other.mechanism("gradient")


def test_a_stage_that_is_not_declared_is_refused(declared):
    guarantee = Guarantee(declared())
    for function in ("moments", "delta", "", "GRADIENT"):
        with pytest.raises(PrivacyError, match="a function that the study declares"):
            guarantee.stage(function)
        with pytest.raises(PrivacyError, match="a function that the study declares"):
            guarantee.mechanism(function)


@pytest.mark.parametrize("trust", ["local", "aggregate", "server", "unsafe"])
@pytest.mark.parametrize("training", [{}, AVERAGING, {"sampling_rate": 0.5}])
@pytest.mark.parametrize("data", [{}, STANDARD | {"unit": "person", "records_per_unit": 2}])
def test_the_card_says_what_is_guaranteed(declared, trust, training, data):
    privacy = {"trust": trust} | ({"noise_multiplier": None} if trust == "unsafe" else {})
    guarantee = Guarantee(declared(data=data, training=training, privacy=privacy))
    guarantee.check()
    values = guarantee.to_values()
    assert values["epsilon"] == guarantee.epsilon
    assert values["epsilon_against_server"] == guarantee.epsilon_against_server
    assert (values["trust"], values["masked"]) == (trust, trust in ("aggregate", "server"))
    assert guarantee.masked is values["masked"]
    assert values["epsilon_of_a_record"] == guarantee.epsilon_of_a_record
    assert [each["count"] for each in values["queries"]] == [
        each.count for each in guarantee.stages
    ]
    assert (trust == "unsafe") == ("noise_multiplier" not in values["queries"][0])
    expected = "site" if training is AVERAGING else "a unit of column person" if data else "record"
    assert values["unit"] == expected
    assert stages_of(guarantee.study) == guarantee.stages
