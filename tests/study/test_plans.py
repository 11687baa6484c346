"""A plan turns noisy sums into a model: the same sums always into the same one, and figures that are known beforehand."""

import math

import numpy as np
import pytest

from gradients import mean_loss
from privacy.errors import RoundAbandonedError
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.contributions import SCALING_NAMES, Contributor, Units
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.models import model_of
from study.plans import Received, learning_rate_of, seed_of, start_plan, training_loss
from study.scaling import moments_to_standard

AVERAGING = {
    "algorithm": "dp-fedavg", "local_steps": 3, "local_learning_rate": 0.5, "learning_rate": 1.0,
    "optimizer": "sgd",
}  # fmt: skip
SGD = {"optimizer": "sgd", "learning_rate": 0.5}
STANDARD = {"scaling": "standard", "bounds": {"default": (0.0, 1.0)}}


def houses(**training):
    """Five houses, area 1 to 5 and twice as dear, at two sites; plain gradient descent without privacy."""
    settings = {"rounds": 1000, "optimizer": "sgd", "learning_rate": 0.001, "average": "none"}
    study = Study(
        name="houses",
        data=Data(
            task="regression", label="price", expected_records=5, features=("area",), scaling="none"
        ),
        model=Model(kind="linear"),
        training=Training(**(settings | training)),
        privacy=Privacy(trust="unsafe"),
        sites=Sites(minimum=2),
    )
    guarantee = Guarantee(Declaration(study=study, sites=2, noise_multiplier=None, nonce="0" * 32))
    area = np.arange(1.0, 6.0)
    shares = [slice(0, 2), slice(2, 5)]
    sites = [
        Contributor(
            guarantee,
            Units(area[each, None], 2 * area[each], np.arange(len(area[each])), len(area[each])),
        )
        for each in shares
    ]
    return guarantee, sites


def received_of(sites, ask):
    """The sum over the sites, as it is without noise."""
    total = sum(
        each.clipped_sum(ask.function, ask.parameters, np.ones(each.unit_count, np.bool_))
        for each in sites
    )
    return Received(total=total, sites=len(sites))


def driven(guarantee, answer_to):
    """(every ask, the model at the end); `answer_to(ask)` is what the plan receives."""
    plan, asks = start_plan(guarantee), []
    ask = next(plan)
    while True:
        asks.append(ask)
        try:
            ask = plan.send(answer_to(ask))
        except StopIteration as end:
            return asks, end.value


def made_up(guarantee):
    """Sums that look random and follow from the ask alone."""

    def answer_to(ask):
        generator = np.random.Generator(np.random.PCG64(ask.round))
        return Received(
            total=generator.normal(0, 3, guarantee.stage(ask.function).dimension), sites=3
        )

    return answer_to


def constant(guarantee, value=1.0, sites=3):
    return lambda ask: Received(
        total=np.full(guarantee.stage(ask.function).dimension, value), sites=sites
    )


def flat(guarantee, parameters):
    model = model_of(guarantee.study)
    return model.flatten({name: parameters[name] for name in model.shapes}).astype(np.float64)


def test_house_prices_come_out_as_gradient_descent_by_hand_says():
    """Loss 44 at zero; the figures after 100 and 1000 steps of 0.001 are those of the textbook recursion."""
    guarantee, sites = houses()
    losses = []

    def answer_to(ask):
        received = received_of(sites, ask)
        losses.append(training_loss(guarantee, ask.function, received))
        return received

    asks, model = driven(guarantee, answer_to)
    assert [each.round for each in asks] == list(range(1, 1001))
    assert losses[0] == pytest.approx(44.0, rel=1e-12)
    assert losses[100] == pytest.approx(0.4106452974, abs=1e-9)
    area = np.arange(1.0, 6.0)
    assert mean_loss(model_of(guarantee.study), model, area[:, None], 2 * area) == pytest.approx(
        0.0244996813, abs=1e-9
    )
    assert float(model["bias"]) == pytest.approx(0.3668797, abs=1e-7)
    assert float(model["weight"][0]) == pytest.approx(1.8983802, abs=1e-7)
    weight = bias = 0.0
    for _ in range(1000):
        residual = weight * area + bias - 2 * area
        weight, bias = weight - 0.002 * np.mean(residual * area), bias - 0.002 * np.mean(residual)
    assert float(model["weight"][0]) == pytest.approx(weight, rel=1e-9)
    assert float(model["bias"]) == pytest.approx(bias, rel=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"data": STANDARD},
        {"training": AVERAGING, "data": STANDARD},
        {"model": {"kind": "mlp", "hidden": (4,)}},
    ],
)
def test_the_same_sums_give_the_same_asks_and_the_same_model_bit_for_bit(declared, settings):
    guarantee = Guarantee(declared(**settings))
    (one, first), (other, second) = (driven(guarantee, made_up(guarantee)) for _ in range(2))
    assert [(each.function, each.round) for each in one] == [
        (each.function, each.round) for each in other
    ]
    for ours, theirs in [
        *((a.parameters, b.parameters) for a, b in zip(one, other, strict=True)),
        (first, second),
    ]:
        assert ours.keys() == theirs.keys()
        assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)
    stages = [each.function for each in guarantee.stages]
    assert [each.function for each in one] == stages[:-1] + [stages[-1]] * 4


def test_first_weights_follow_from_the_studys_hash(declared):
    settings = {"model": {"kind": "mlp", "hidden": (4,)}}
    starts = [
        next(start_plan(Guarantee(declared(nonce=nonce, **settings)))).parameters["layer1.weight"]
        for nonce in ("1" * 32, "1" * 32, "2" * 32)
    ]
    assert np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])
    one = declared(nonce="1" * 32, **settings)
    assert seed_of(Guarantee(one)).hex() == one.hash


def test_a_plan_does_not_change_what_it_is_given(declared):
    guarantee = Guarantee(declared(data=STANDARD))
    kept = []

    def answer_to(ask):
        kept.append(made_up(guarantee)(ask).total)
        kept[-1].flags.writeable = False
        for each in (ask.parameters, ask.candidate):
            for array in each.values():
                if array.ndim:
                    array[...] = np.nan  # what a caller does with an ask is no matter to the plan
        return Received(total=kept[-1], sites=3)

    plain = driven(guarantee, made_up(guarantee))[1]
    spoilt = driven(guarantee, answer_to)[1]
    names = list(model_of(guarantee.study).shapes)
    assert all(np.array_equal(plain[name], spoilt[name]) for name in names)


@pytest.mark.parametrize("training", [{}, AVERAGING])
@pytest.mark.parametrize("last", [1, 3])
def test_a_round_that_could_not_be_had_ends_the_run(declared, training, last):
    guarantee = Guarantee(declared(training=training))

    def answer_to(ask):
        return None if ask.round == last else made_up(guarantee)(ask)

    with pytest.raises(RoundAbandonedError, match=f"Round {last} of 4 was abandoned") as error:
        driven(guarantee, answer_to)
    assert "spare_rounds" in error.value.hint


@pytest.mark.parametrize("training", [{}, AVERAGING])
def test_without_moments_features_are_taken_in_the_middle_of_their_bounds(declared, training):
    """No noise can be worse than an answer that never came: the run goes on with public figures."""
    guarantee = Guarantee(declared(data=STANDARD, training=training))

    def answer_to(ask):
        return None if ask.function == "moments" else made_up(guarantee)(ask)

    asks, model = driven(guarantee, answer_to)
    assert asks[0].parameters == {}
    assert (asks[0].round, asks[0].candidate) == (0, {})
    for each in [
        *(ask.parameters for ask in asks[1:]),
        *(ask.candidate for ask in asks[1:]),
        model,
    ]:
        assert np.array_equal(each[SCALING_NAMES[0]], np.full(3, 0.5))
        deviation = each[SCALING_NAMES[1]]
        assert ((deviation >= 0.1) & (deviation <= math.sqrt(1 / 12))).all()


def test_scaling_is_learnt_from_the_moments_and_sent_with_every_query(declared):
    guarantee = Guarantee(declared(data=STANDARD))
    total = np.array([41.0, 8.0, 20.0, 30.0, 4.0, 12.0, 25.0])

    def answer_to(ask):
        return (
            Received(total=total, sites=3) if ask.function == "moments" else made_up(guarantee)(ask)
        )

    asks, model = driven(guarantee, answer_to)
    mean, deviation = moments_to_standard(41.0, total[1:4], total[4:], 40.0)
    for each in [
        *(ask.parameters for ask in asks[1:]),
        *(ask.candidate for ask in asks[1:]),
        model,
    ]:
        assert np.array_equal(each[SCALING_NAMES[0]], mean)
        assert np.array_equal(each[SCALING_NAMES[1]], deviation)


def test_the_released_model_is_the_mean_of_the_last_half(declared):
    """Of 5 rounds the iterates after the 2nd: 3, 4, 5."""
    guarantee = Guarantee(declared(training=SGD | {"rounds": 5, "average": "last-half"}))
    asks, model = driven(guarantee, made_up(guarantee))
    plain = Guarantee(declared(training=SGD | {"rounds": 5, "average": "none"}))
    iterates, last = driven(plain, made_up(plain))
    points = [flat(plain, each.parameters) for each in iterates[1:]] + [flat(plain, last)]
    assert flat(guarantee, model) == pytest.approx(np.mean(points[2:], axis=0), rel=1e-12)
    # what is asked is always the last iterate, what would be released is the mean so far
    for number in range(5):
        expected = points[number - 1] if number else np.zeros(4)
        assert flat(guarantee, asks[number].parameters) == pytest.approx(expected, rel=1e-12)
        so_far = np.mean(points[2:number], axis=0) if number > 2 else expected
        assert flat(guarantee, asks[number].candidate) == pytest.approx(so_far, rel=1e-12)
    assert np.array_equal(flat(plain, last), points[-1])


def test_one_round_is_its_own_last_half(declared):
    guarantee = Guarantee(declared(training=SGD | {"rounds": 1}))
    _, model = driven(guarantee, constant(guarantee))
    assert flat(guarantee, model) == pytest.approx(-0.5 * np.full(4, 1 / 40), rel=1e-12)


class TestStopping:
    def losses(self, declared, values, **training):
        """How many sums a plan asks for whose mean signals stand for these losses."""
        guarantee = Guarantee(declared(training=SGD | {"rounds": 40, "stop_below": 0.3} | training))
        largest = 2 * math.log(2)

        def answer_to(ask):
            total = np.zeros(5)
            total[-1] = values(ask.round) / largest * 0.25 * 40
            received = Received(total=total, sites=3)
            assert training_loss(guarantee, "gradient", received) == pytest.approx(
                values(ask.round)
            )
            return received

        return len(driven(guarantee, answer_to)[0])

    def test_training_stops_once_the_mean_of_ten_losses_is_below(self, declared):
        assert self.losses(declared, lambda _number: 0.2) == 10
        # at the end of round 14 the last ten are 0.6 (4 times) and 0.1 (6 times): 0.3, not below; a round later 0.25
        assert self.losses(declared, lambda number: 0.6 if number <= 8 else 0.1) == 15
        assert self.losses(declared, lambda _number: 0.31) == 40

    def test_it_never_stops_where_no_threshold_is_declared(self, declared):
        assert self.losses(declared, lambda _number: 0.0, stop_below=None) == 40

    def test_the_epsilon_is_that_of_all_declared_rounds_all_the_same(self, declared):
        stopping, going = (
            Guarantee(declared(training=SGD | {"rounds": 40, "stop_below": each}))
            for each in (0.3, None)
        )
        assert stopping.epsilon == going.epsilon


@pytest.mark.parametrize(
    ("survivors", "rate"), [(3, 1.0), (2, 1.0), (1, 1.0), (3, 0.25), (2, 0.25)]
)
def test_the_denominator_is_public_and_shrinks_with_the_survivors(declared, survivors, rate):
    """expected records, times the sampling rate, times the part of the sites that answered; never a true count."""
    privacy = {"max_dropouts": 2}
    guarantee = Guarantee(
        declared(training=SGD | {"rounds": 1, "sampling_rate": rate}, privacy=privacy)
    )
    _, model = driven(guarantee, constant(guarantee, 6.0, survivors))
    expected = -0.5 * 6.0 / (40 * rate * survivors / 3)
    assert flat(guarantee, model) == pytest.approx(np.full(4, expected), rel=1e-12)


def test_a_loss_is_read_with_the_same_denominator(declared):
    guarantee = Guarantee(declared(privacy={"max_dropouts": 2, "clipping_norm": 8.0}))
    total = np.zeros(5)
    total[-1] = 2.0 * 20  # half of the height of 2 that stands for a loss of 2 ln 2, for 40 records
    assert training_loss(guarantee, "gradient", Received(total=total, sites=3)) == pytest.approx(
        math.log(2)
    )
    assert training_loss(guarantee, "gradient", Received(total=total, sites=1)) == pytest.approx(
        3 * math.log(2)
    )
    silent = Guarantee(declared(training={"signal": False}))
    assert training_loss(silent, "gradient", Received(total=np.zeros(4), sites=3)) is None
    standard = Guarantee(declared(data=STANDARD))
    assert training_loss(standard, "moments", Received(total=np.zeros(7), sites=3)) is None


@pytest.mark.parametrize("survivors", [1, 2, 3])
def test_averaging_steps_along_the_mean_change_of_the_sites_that_answered(declared, survivors):
    training = AVERAGING | {"rounds": 1, "average": "none"}
    guarantee = Guarantee(declared(training=training, privacy={"max_dropouts": 2}))
    start = flat(guarantee, next(start_plan(guarantee)).parameters)
    change = np.array([0.5, -1.0, 2.0, 0.25, 0.1])
    _, model = driven(guarantee, lambda _ask: Received(total=survivors * change, sites=survivors))
    assert flat(guarantee, model) == pytest.approx(start + change[:4], rel=1e-12)


class TestAutomaticLearningRate:
    def rate(self, declared, *, records=1000, regression=False, rounds=100, trust="local", **more):
        data = {"expected_records": records}
        if regression:
            data |= {"task": "regression", "classes": (), "label_bounds": (0.0, 1.0)}
        privacy = {"trust": trust, "delta": 1e-9} | (
            {"noise_multiplier": None} if trust == "unsafe" else {}
        )
        guarantee = Guarantee(
            declared(
                data=data, model={"kind": "linear"} if regression else {}, training={"rounds": rounds} | more,
                privacy=privacy,
            )
        )  # fmt: skip
        return learning_rate_of(guarantee, 4), guarantee

    def test_it_stays_within_its_limits(self, declared):
        assert self.rate(declared, records=1)[0] == 0.04
        assert self.rate(declared, records=10**7)[0] == 1.0
        assert self.rate(declared, records=1, regression=True)[0] == 0.008
        assert self.rate(declared, records=10**7, regression=True)[0] == 0.1

    def test_it_is_the_rule_between_them(self, declared):
        """0.02 sqrt(kappa 100 / T), kappa = n mu / sqrt(d); with local trust three shares are in the sum."""
        found, guarantee = self.rate(declared)
        mu = math.sqrt(100 / (3 * 9))
        assert found == pytest.approx(0.02 * math.sqrt(1000 * mu / 2), rel=2e-2)
        assert 0.04 < found < 1
        assert self.rate(declared, trust="server")[0] == pytest.approx(found * 3**0.25, rel=1e-2)
        assert guarantee.mechanism("gradient").noise_multiplier_of(3) == pytest.approx(
            3 * math.sqrt(3), rel=1e-2
        )

    def test_without_noise_it_is_between_its_limits(self, declared):
        assert self.rate(declared, trust="unsafe")[0] == pytest.approx(0.1)
        assert self.rate(declared, trust="unsafe", regression=True)[0] == pytest.approx(0.02)

    def test_a_given_rate_is_taken_as_it_is(self, declared):
        assert self.rate(declared, learning_rate=7)[0] == 7.0
