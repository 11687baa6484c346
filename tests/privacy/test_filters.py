"""The lifetime filter holds against the best adaptive adversary, is as tight as its proof, and never below the truth."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from adversaries import (
    Bet,
    Grid,
    best_gain,
    best_gain_of_bets,
    composed_gain,
    largest_bet,
    loss_of_gaussian,
)
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from privacy import filters
from privacy.accounting import epsilon_of
from privacy.errors import PrivacyError
from privacy.events import SumEvent
from privacy.filters import (
    MARGIN,
    MOST_ORDERS,
    Cost,
    LifetimeCap,
    Sums,
    default_orders,
    smallest_cap,
)
from privacy.renyi import renyi_divergence


def sums_of(z, q=1.0, count=1, *, part="train", rounding=0.0, unlikely=0.0):
    event = SumEvent(noise_multiplier=z, sampling_rate=q, count=count, part=part)
    return Sums(event=event, rounding=rounding, unlikely=unlikely)


def cap_of(epsilon, delta=1e-5, orders=None, kind=LifetimeCap):
    return kind(epsilon=epsilon, delta=delta, orders=orders or default_orders(epsilon, delta))


def total_of(cap, studies):
    return sum((cap.cost(each) for each in studies), cap.nothing)


# The best adversary that asks Gaussian sums, sampled and not

KINDS = ((1.0, 4), (0.2, 3), (0.02, 3))
"""(sampling rate, so many of them alone use up the budget): their divergences grow differently with the order."""


def least_noise(fits):
    low, high = 0.2, 60.0
    for _ in range(14):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def allowed_by(cap, noise):
    costs = [cap.cost([sums_of(z, q)]) for z, (q, _) in zip(noise, KINDS, strict=True)]

    def allowed(counts):
        total = cap.nothing
        for cost, count in zip(costs, counts, strict=True):
            for _ in range(count):
                total += cost
        return cap.holds(total)

    return allowed


def laws_of(noise, direction, grid):
    return [loss_of_gaussian(z, q, direction, grid) for z, (q, _) in zip(noise, KINDS, strict=True)]


def naive_noise(epsilon, delta):
    """For each kind the noise of which so many exactly use up (epsilon, delta), by exact composition."""
    grid = Grid(0.02, 10.0, upward=True)

    def fits(q, count):
        return lambda z: (
            composed_gain([loss_of_gaussian(z, q, "remove", grid)], (count,), epsilon, grid)
            <= delta
        )

    return tuple(least_noise(fits(q, count)) for q, count in KINDS)


@pytest.mark.parametrize("direction", ["remove", "add"])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-2), (1.0, 1e-3), (3.0, 1e-5)])
def test_no_adversary_gets_more_than_delta_past_the_filter(epsilon, delta, direction):
    """Losses are rounded up, so that this is an upper bound of what any adaptive choice among these sums gains.

    It is far below delta, for Gaussian losses are not those for which the conversion is tight, and eight orders share
    delta: but for a filter with no budget left to spend it would be zero.
    """
    cap, grid = cap_of(epsilon, delta), Grid(0.01, 12.0, upward=True)
    noise = tuple(
        least_noise(lambda z, q=q, count=count: cap.holds(cap.cost([sums_of(z, q, count)])))
        for q, count in KINDS
    )
    allowed = allowed_by(cap, noise)
    assert all(
        allowed(tuple(count if each == kind else 0 for each in range(3)))
        for kind, (_, count) in enumerate(KINDS)
    )
    assert allowed((2, 1, 0))
    gain = best_gain(laws_of(noise, direction, grid), allowed, epsilon, grid)
    assert 1e-3 * delta < gain <= delta - cap.extra


@pytest.mark.parametrize(("epsilon", "delta", "factor"), [(2.0, 1e-4, 1.3), (3.0, 1e-5, 1.6)])
def test_the_same_adversary_beats_a_filter_that_composes_what_was_asked(epsilon, delta, factor):
    """Power, and why there is a Renyi filter at all. Losses are rounded down here: the true gain is larger still.

    The filter that is beaten allows whatever keeps the composed privacy loss distribution of all that was asked at
    (epsilon, delta), composed with losses rounded up. Allowed by ours, the same sums gain less than delta.
    """
    upper, lower = (Grid(0.02, 10.0, upward=each) for each in (True, False))
    noise = naive_noise(epsilon, delta)
    laws = laws_of(noise, "remove", upper)

    def allowed(counts):
        return composed_gain(laws, counts, epsilon, upper) <= delta

    beaten = best_gain(laws_of(noise, "remove", lower), allowed, epsilon, lower)
    assert beaten >= factor * delta
    for counts in ((4, 0, 0), (0, 3, 0), (0, 0, 3)):  # what it allows the accountant allows
        events = [
            replace(sums_of(z, q).event, count=count)
            for z, (q, _), count in zip(noise, KINDS, counts, strict=True)
            if count
        ]
        assert epsilon_of(events, delta) <= epsilon * 1.01
    cap = cap_of(epsilon, delta)
    ours = best_gain(laws, allowed_by(cap, noise), epsilon, upper)
    assert 0 < ours <= delta - cap.extra


def test_an_adversary_without_a_choice_gains_what_the_accountant_says():
    """The solver itself: with one kind of sum its gain is the delta of their composition, from both sides."""
    for q, z, count in ((1.0, 2.0, 4), (0.2, 1.2, 3)):
        epsilon = epsilon_of([sums_of(z, q, count).event], 1e-4)
        found = []
        for upward in (True, False):
            grid = Grid(0.002, 12.0, upward=upward)
            law = loss_of_gaussian(z, q, "remove", grid)
            found.append(
                best_gain([law], lambda asked, most=count: asked[0] <= most, epsilon, grid)
            )
        assert found[1] <= 1e-4 <= found[0] * (1 + 1e-3)
        assert found[0] / found[1] < 1.1


# The formula, against mechanisms for which it is tight


@pytest.mark.parametrize(
    ("epsilon", "delta", "order"),
    [(1.0, 1e-5, 20.0), (1.0, 1e-5, 60.0), (3.0, 1e-5, 20.0), (0.5, 1e-2, 30.0), (10.0, 1e-6, 5.0)],
)
def test_the_bound_of_one_order_is_exactly_what_the_worst_mechanism_reaches(epsilon, delta, order):
    """Among all mechanisms of divergence B(a) a bet on the loss epsilon + ln(a / (a - 1)) gains most: delta' itself.

    So a bound that was larger by anything would be wrong, one smaller would be a waste; the terms ln((a - 1) / a) and
    ln a of the formula are both needed for that.
    """
    cap = cap_of(epsilon, delta, orders=(order,))
    bet = largest_bet(epsilon + math.log(order / (order - 1)), lambda bet: cap.holds(bet.cost(cap)))
    gain = best_gain_of_bets(cap, (bet,))
    assert cap.delta_per_order * (1 - 1e-4) <= gain <= cap.delta_per_order * (1 + 1e-9)
    assert best_gain_of_bets(cap, (bet,), backwards=True) <= cap.delta_per_order


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, delta: -(math.log(delta) + math.log(a)) / (a - 1) - math.log1p(-1 / a) - 0.2,
        lambda a, delta: math.log1p(-1 / a) - (math.log(delta) + 2 * math.log(a)) / (a - 1),
        lambda a, delta: 2 * math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1),
    ],
    ids=["a constant too generous", "ln a twice", "ln((a-1)/a) twice"],
)
def test_a_more_generous_conversion_would_be_found_out(monkeypatch, wrong):
    cap = cap_of(3.0, 1e-5, orders=(20.0,))
    monkeypatch.setattr(filters, "_conversion", wrong)
    bet = largest_bet(3.0 + math.log(20 / 19), lambda bet: cap.holds(bet.cost(cap)))
    assert best_gain_of_bets(cap, (bet,)) > 1.1 * cap.delta_per_order


class Undivided(LifetimeCap):
    """Every order may take all of delta."""

    @property
    def delta_per_order(self):
        return self.delta - self.extra


def branching_bets(cap):
    """A small bet first; if it is won, a bet that only the last order pays for, if it is lost, one for the first.

    The divergence of the first bet is next to nothing at a low order, and at a high one it is nearly all of the
    branch that has won: so each branch has a whole order's budget to itself.
    """
    first = Bet(0.03, 0.25 if len(cap.orders) == 2 else 0.15)
    used = first.cost(cap)

    def at(number):
        def fits(bet):
            return (used + bet.cost(cap)).renyi[number] <= cap.bounds[number]

        return fits

    low, high = cap.orders[0], cap.orders[-1]
    lost = largest_bet(cap.epsilon + math.log(low / (low - 1)), at(0))
    won = largest_bet(cap.epsilon + math.log(high / (high - 1)) - first.loss, at(-1))
    return (first, won, lost)


@pytest.mark.parametrize(
    ("epsilon", "delta", "orders"), [(2.0, 1e-3, (6.0, 30.0)), (3.0, 1e-3, (4.0, 12.0, 40.0))]
)
def test_orders_must_share_delta(epsilon, delta, orders):
    """An adversary that decides from an answer which order to use up gains nearly delta' once for each."""
    wrong = cap_of(epsilon, delta, orders, kind=Undivided)
    assert best_gain_of_bets(wrong, branching_bets(wrong)) > 1.5 * delta
    cap = cap_of(epsilon, delta, orders)
    for bets in (branching_bets(cap), branching_bets(wrong)):
        for backwards in (False, True):
            gain = best_gain_of_bets(cap, bets, backwards=backwards)
            assert gain <= delta - cap.extra
    assert best_gain_of_bets(cap, branching_bets(cap)) > 1.1 * cap.delta_per_order


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([0.5, 1.0, 3.0, 10.0]), st.sampled_from([1e-2, 1e-3, 1e-5]),
    st.lists(st.tuples(st.floats(-6, -0.1), st.floats(0.05, 8.0)), min_size=1, max_size=4), st.booleans(),
)  # fmt: skip
def test_no_game_of_bets_gains_more_than_delta(epsilon, delta, drawn, backwards):
    """With the eight orders that ship, whatever bets there are."""
    cap = cap_of(epsilon, delta)
    bets = tuple(Bet(10**exponent, loss) for exponent, loss in drawn)
    assert best_gain_of_bets(cap, bets, backwards=backwards) <= delta - cap.extra


# Against the truth

TEN = [[sums_of(1.0 + 0.1 * each, 0.002 + 0.001 * each, 100 * (each + 1))] for each in range(10)]
MIXED = [
    [sums_of(20.0), sums_of(1.1, 0.01, 500)],  # moments, then sampled gradients
    [sums_of(12.0, count=50)],
    [sums_of(0.9, 0.002, 2000)],
    [sums_of(30.0), sums_of(2.0, 0.1, 40)],
    [sums_of(2.5, 0.25, 20)],
    [sums_of(15.0, count=3), sums_of(25.0, count=60)],
]


@pytest.mark.parametrize("delta", [1e-5, 1e-6])
@pytest.mark.parametrize(
    ("studies", "factor"),
    [
        (TEN, 1.25), (MIXED, 1.25), ([TEN[9]], 1.5), ([MIXED[0]], 1.5), ([MIXED[1]], 1.5), ([MIXED[3]], 1.5),
        ([MIXED[4]], 1.5), ([MIXED[5]], 1.5), ([TEN[3]], 3.0), ([MIXED[2]], 3.0),
    ],
    ids=["ten small rates", "mixed", *(f"alone {each}" for each in range(8))],
)  # fmt: skip
def test_the_filter_is_never_below_the_truth_and_not_far_above(studies, factor, delta):
    """The truth is that of all events composed at once, by privacy loss distributions.

    The least cap that holds everything is at most 1.25 times as large for several studies. For a single one it is up
    to 1.5 times, and 3 times if its epsilon is below 1 at a rate below 0.01: there Renyi divergences are a poor
    measure at any order. Adding up the studies' own epsilons gives 2.1 times the truth, and 2.7 for the ten.
    """
    truth = epsilon_of([each.event for study in studies for each in study], delta)
    low, high = truth / 2, truth * 4
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        cap = cap_of(middle, delta)
        holds = cap.holds(total_of(cap, studies))
        low, high = (low, middle) if holds else (middle, high)
    assert truth <= high <= factor * truth
    for lifetime in (1.0, 3.0, 10.0, 50.0):  # whatever the cap, what it says was spent
        cap = cap_of(lifetime, delta)
        assert cap.epsilon_of(total_of(cap, studies)) >= truth
    if len(studies) > 1:
        alone = sum(epsilon_of([each.event for each in study], delta) for study in studies)
        assert alone > 1.5 * high


@pytest.mark.parametrize("order", [1.05, 1.5, 2.0, 2.7, 4.321, 8.0, 17.3, 40.2, 200.5])
@pytest.mark.parametrize(
    ("q", "z"), [(1.0, 2.0), (0.01, 1.0), (0.001, 0.8), (0.1, 2.0), (0.5, 0.6), (0.9, 3.0)]
)
def test_divergences_are_those_of_direct_integration_and_never_below(q, z, order):
    """Both directions on a fine grid. Below order 4 the value may be an upper bound, above it is exact."""
    x = np.linspace(-45 * z, order + 45 * z, 400_001)
    first = -(x**2) / (2 * z**2) - math.log(z * math.sqrt(2 * math.pi))
    with np.errstate(divide="ignore"):
        ratio = np.logaddexp(np.log1p(-q), math.log(q) + (2 * x - 1) / (2 * z**2))

    def integral(exponent):
        values = first + exponent * ratio
        top = values.max()
        return (top + math.log(np.exp(values - top).sum() * (x[1] - x[0]))) / (order - 1)

    exact = max(integral(order), integral(1 - order))
    found = renyi_divergence(sums_of(z, q).event, order)
    assert found >= exact * (1 - 1e-5) - 1e-11 / (
        order - 1
    )  # the sum over the grid rounds a logarithm of nearly 0
    if order > 4:
        assert found <= exact * (1 + 1e-4)
    assert renyi_divergence(sums_of(z, q, 7).event, order) == pytest.approx(7 * found)


# Parts of a study


@given(
    st.lists(
        st.tuples(st.floats(1, 50), st.sampled_from(["train", "test", "all"])),
        min_size=1,
        max_size=6,
    )
)
def test_of_the_two_parts_of_a_study_the_dearer_counts_order_by_order(drawn):
    cap = cap_of(10.0)
    study = [sums_of(z, part=part) for z, part in drawn]
    found = cap.cost(study)
    for number, order in enumerate(cap.orders):
        spent = {"train": 0.0, "test": 0.0, "all": 0.0}
        for each in study:
            spent[each.event.part] += renyi_divergence(each.event, order)
        dearer = max(spent["train"], spent["test"]) + spent["all"]
        assert found.renyi[number] == pytest.approx(dearer)


def test_parts_are_the_maximum_within_a_study_and_a_sum_over_studies():
    """Another study's hash puts a unit into another part, so two studies may both have it in their dearer one."""
    cap = cap_of(10.0)
    train, test = [sums_of(3.0, part="train")], [sums_of(3.0, part="test")]
    assert cap.cost(train + test) == cap.cost(train) == cap.cost(test)
    assert total_of(cap, [train, test]) == total_of(cap, [train, train])
    assert total_of(cap, [train + test, train]).renyi == total_of(cap, [train, train]).renyi
    everybody = [sums_of(3.0, part="all")]
    assert cap.cost(train + everybody).renyi == pytest.approx(total_of(cap, [train, train]).renyi)


def test_the_order_that_is_dearer_for_one_part_may_be_cheaper_for_the_other():
    """At some orders the one, at some the other: the maximum is taken at each, which neither part alone reaches."""
    cap = cap_of(10.0, orders=(2.0, 30.0))
    rare, steady = sums_of(0.6, 0.003, 100, part="train"), sums_of(25.0, part="test", count=10)
    one, two, both = (cap.cost(each).renyi for each in ([rare], [steady], [rare, steady]))
    assert one[0] < two[0]
    assert one[1] > two[1]
    assert both == (two[0], one[1])


def test_what_no_divergence_covers_adds_up_over_all_parts():
    cap = cap_of(3.0, 1e-5)
    study = [
        sums_of(9.0, count=10, part="train", rounding=1e-9, unlikely=1e-12),
        sums_of(9.0, count=5, part="test", rounding=2e-9),
    ]
    found = cap.cost(study).extra
    assert found == pytest.approx(10 * 1e-9 + 5 * 2e-9 + (1 + math.exp(3.0)) * 10 * 1e-12)


def test_rounding_alone_can_use_a_budget_up():
    cap = cap_of(10.0, 1e-5)
    fits, too_much = (sums_of(1e6, rounding=each) for each in (1e-6, 1.001e-6))
    assert cap.holds(cap.cost([fits]))
    assert not cap.holds(cap.cost([too_much]))
    assert not cap.holds(cap.cost([fits]) + cap.cost([fits]))


# Properties

NOISE = st.floats(0.5, 200)
STUDY = st.lists(
    st.builds(
        sums_of, NOISE, st.sampled_from([1.0, 1.0, 0.1, 0.01]), st.integers(1, 50),
        part=st.sampled_from(["train", "test", "all"]), rounding=st.sampled_from([0.0, 1e-12]),
    ),
    min_size=1, max_size=3,
)  # fmt: skip
CAPS = st.sampled_from(
    [cap_of(*each) for each in ((0.1, 1e-5), (1.0, 1e-5), (3.0, 1e-6), (10.0, 1e-5), (40.0, 1e-3))]
)


@settings(deadline=None)
@given(CAPS, STUDY, STUDY)
def test_cost_is_additive_over_studies_whatever_their_order(cap, one, two):
    there, back = total_of(cap, [one, two]), total_of(cap, [two, one])
    assert there.renyi == pytest.approx(back.renyi)
    assert there.extra == pytest.approx(back.extra)
    assert cap.nothing + cap.cost(one) == cap.cost(one)


@settings(deadline=None)
@given(CAPS, STUDY, STUDY)
def test_more_is_never_cheaper(cap, one, two):
    alone, together, apart = cap.cost(one), cap.cost(one + two), total_of(cap, [one, two])
    assert all(a <= b for a, b in zip(alone.renyi, together.renyi, strict=True))
    assert all(a <= b * (1 + 1e-12) for a, b in zip(together.renyi, apart.renyi, strict=True))
    assert alone.extra <= together.extra <= apart.extra * (1 + 1e-12)
    assert cap.epsilon_of(alone) <= cap.epsilon_of(apart)
    assert not cap.holds(apart) or cap.holds(alone)


@settings(deadline=None)
@given(CAPS, STUDY)
def test_the_epsilon_of_a_history_is_the_least_cap_that_it_fits_in(cap, study):
    total = replace_extra(cap.cost(study))
    epsilon = cap.epsilon_of(total)
    assume(1e-3 < epsilon < 690)
    assert replace(cap, epsilon=epsilon * (1 + 1e-9)).holds(total)
    assert not replace(cap, epsilon=epsilon * (1 - 1e-6)).holds(total)
    assert cap.holds(total) == (epsilon <= cap.epsilon)


def replace_extra(cost):
    return Cost(cost.renyi, 0.0)


def test_a_margin_is_a_share_of_all_that_is_used():
    cap = cap_of(3.0, orders=(6.0, 9.0))
    full = Cost(cap.bounds, cap.extra)
    assert cap.holds(full)
    assert not cap.holds(full, margin=1e-9)
    for renyi, extra in ((1 - 2e-6, 1 - 2e-6), (1 - 5e-7, 0.5), (0.5, 1 - 5e-7)):
        cost = Cost(tuple(each * renyi for each in full.renyi), full.extra * extra)
        assert cap.holds(cost)
        assert cap.holds(cost, margin=MARGIN) is (max(renyi, extra) < 1 - 1e-6)


def test_nothing_costs_nothing_and_the_least_sum_costs_what_the_conversion_does():
    cap = cap_of(3.0)
    assert cap.epsilon_of(cap.nothing) == 0
    assert cap.holds(cap.nothing)
    least = cap.epsilon_of(cap.cost([sums_of(1e7)]))
    assert least == pytest.approx(3.0 - max(cap.bounds), rel=1e-6)


@settings(deadline=None)
@given(CAPS, STUDY)
@example(cap_of(0.1), [sums_of(1.0)])
def test_what_remains_fits_and_a_bit_more_does_not(cap, study):
    total = replace_extra(cap.cost(study))
    mu = cap.remaining_mu(total)
    if mu == 0:
        assert not cap.holds(total + cap.cost([sums_of(1e7)]), margin=MARGIN)
        return
    assert cap.holds(total, margin=MARGIN)
    for factor, fits in ((1 - 1e-9, True), (1 + 1e-6, False)):
        more = total + cap.cost([sums_of(1 / (mu * factor))])
        assert cap.holds(more, margin=MARGIN) is fits


@pytest.mark.parametrize(
    "study",
    [[sums_of(5.0, count=50)], [sums_of(1.0, 0.01, 300)], [sums_of(20.0), sums_of(2.0, 0.1, 40)], [sums_of(0.2)]],
    ids=["Gaussian", "sampled", "mixed", "little noise"],
)  # fmt: skip
def test_the_smallest_cap_is_tight(study):
    cap = smallest_cap(study, 1e-5)
    assert cap.delta == 1e-5
    assert cap.epsilon == float(f"{cap.epsilon:.3g}")
    assert cap.holds(cap.cost(study))
    tighter = cap_of(cap.epsilon * 0.97, 1e-5)
    assert not tighter.holds(tighter.cost(study))
    assert cap.epsilon >= epsilon_of([each.event for each in study], 1e-5)


def test_where_unlikely_events_cost_much_the_smallest_cap_has_a_larger_delta():
    study = [sums_of(0.155, unlikely=1e-28)]
    cap = smallest_cap(study, 1e-5)
    assert cap.delta > 1e-5
    assert cap.holds(cap.cost(study))


def test_some_studies_fit_in_no_cap():
    with pytest.raises(PrivacyError, match="fits in some lifetime budget") as error:
        smallest_cap([sums_of(0.05, unlikely=1e-30)], 1e-5)
    assert "smaller epsilon" in error.value.hint


# What a cap may be


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0, 10.0, 50.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_default_orders_are_eight_and_lose_little_for_gaussian_sums(epsilon, delta):
    orders = default_orders(epsilon, delta)
    cap = cap_of(epsilon, delta)
    assert len(orders) == MOST_ORDERS
    best = cap.remaining_mu(cap.nothing)
    for order in np.geomspace(1.01, 1e5, 400):  # any one order, with the same share of delta
        room = epsilon - filters._conversion(order, cap.delta_per_order)
        assert math.sqrt(max(0.0, 2 * room / order)) <= best * 1.01 + 1e-9


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"epsilon": 0.0}, "epsilon"), ({"epsilon": -1.0}, "epsilon"), ({"epsilon": 701.0}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"), ({"epsilon": math.nan}, "epsilon"), ({"epsilon": True}, "epsilon"),
        ({"epsilon": "1"}, "epsilon"), ({"epsilon": None}, "epsilon"), ({"epsilon": 10**400}, "epsilon"),
        ({"delta": 0.0}, "delta"), ({"delta": 1.0}, "delta"), ({"delta": math.nan}, "delta"), ({"delta": -1e-5}, "delta"),
        ({"orders": ()}, "1 to 8 orders"), ({"orders": tuple(range(2, 11))}, "1 to 8 orders"),
        ({"orders": (1.0, 2.0)}, "above 1"), ({"orders": (0.5,)}, "above 1"), ({"orders": (math.inf,)}, "above 1"),
        ({"orders": (math.nan,)}, "above 1"), ({"orders": (True,)}, "above 1"), ({"orders": (30_001.0,)}, "at most 30000"),
        ({"orders": (3.0, 2.0)}, "increase"), ({"orders": (2.0, 2.0)}, "increase"),
    ],
)  # fmt: skip
def test_an_impossible_cap_cannot_be_made(changed, expected):
    with pytest.raises(PrivacyError, match=expected):
        LifetimeCap(**({"epsilon": 1.0, "delta": 1e-5, "orders": (2.0, 8.0)} | changed))


@pytest.mark.parametrize(
    "changed", [{"rounding": -1e-9}, {"rounding": 1.0}, {"unlikely": math.nan}]
)
def test_impossible_chances_are_refused(changed):
    with pytest.raises(PrivacyError, match=next(iter(changed))):
        sums_of(1.0, **changed)


def test_the_largest_epsilon_overflows_nothing_and_still_counts_unlikely_events():
    cap = cap_of(700.0, 0.5)
    assert math.isfinite(cap.cost([sums_of(1.0, unlikely=1e-300)]).extra)
    assert not cap.holds(cap.cost([sums_of(1.0, unlikely=1e-300)]))
    assert cap.holds(cap.cost([sums_of(1.0)]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_cost_that_is_no_number_fits_in_nothing(bad):
    cap = cap_of(10.0)
    for place in range(len(cap.orders)):
        renyi = tuple(bad if each == place else 0.0 for each in range(len(cap.orders)))
        assert cap.holds(Cost(renyi, 0.0))  # the other orders still hold
    assert not cap.holds(Cost((bad,) * len(cap.orders), 0.0))
    assert not cap.holds(Cost((0.0,) * len(cap.orders), bad))


def test_costs_of_other_orders_do_not_add_up():
    one, two = cap_of(1.0, orders=(2.0,)), cap_of(1.0, orders=(2.0, 3.0))
    with pytest.raises(ValueError, match="shorter|longer"):
        one.cost([sums_of(1.0)]) + two.cost([sums_of(1.0)])


@pytest.mark.parametrize("epsilon", [1e-9, 1e-3, 700.0])
@pytest.mark.parametrize("delta", [1e-300, 1e-20, 0.9])
def test_any_epsilon_and_delta_has_orders_that_a_cap_may_have(epsilon, delta):
    cap = cap_of(epsilon, delta)
    assert 1 < cap.orders[0] < cap.orders[-1] <= 30_000
    assert cap.holds(cap.nothing) is any(each >= 0 for each in cap.bounds)


def test_every_order_may_decide_but_one_must_hold():
    cap = cap_of(10.0)
    for held in itertools.product((False, True), repeat=3):
        share = [0.99 if each else 1.01 for each in held] + [1.01] * (len(cap.orders) - 3)
        cost = Cost(tuple(bound * each for bound, each in zip(cap.bounds, share, strict=True)), 0.0)
        assert cap.holds(cost) is any(held)
