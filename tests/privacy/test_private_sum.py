"""One private sum: its noise is what the accountant is told, for every view that the argument names."""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.discrete_gaussian import LADDER, Deviation
from privacy.errors import PrivacyError
from privacy.keystream import Keystream, derive_key
from privacy.private_sum import answer, design_sum, noise, released_sum
from privacy.rounding import FLOAT_SLACK, rounded_sensitivity

ROOT = b"tests of the private sum, here.."[:32]


def mechanism(**changed):
    settings_ = {
        "dimension": 20,
        "clipping_norm": 1.0,
        "noise_multiplier": 5.0,
        "shares": 4,
        "sites": 5,
        "beta": 1e-9,
        "slack": 0.0,
        "largest_sum": 100.0,
    }
    return design_sum(**(settings_ | changed))


def easily_wide_enough(*, dimension, noise_multiplier, shares, sites_per_unit, beta, slack):
    """The domain that `design_sum` states: the widest rung of the ladder rounds with a loss of less than 1 %."""
    needed = 3.6 * math.sqrt(dimension) + 54 * math.sqrt(2 * math.log(1 / beta))
    needed *= noise_multiplier * sites_per_unit * (1 + slack + FLOAT_SLACK)
    return needed <= math.sqrt(shares) * LADDER[-1].sigma


def require_enough_noise(one, z, norm):
    """sqrt(k sigma^2 - 4) >= z Delta(s) (1 + eta) in rational arithmetic but for the roots, at most 1 % above z s C, and
    the rung below would have lost more.
    """
    with mpmath.workprec(200):
        deviation = mpmath.sqrt(one.shares * one.deviation.variance - 4)
        places, reach = one.sites_per_unit, mpmath.mpf(one.scale) * mpmath.mpf(norm)
        at_one = reach / places
        likely = mpmath.sqrt(2 * mpmath.log(1 / mpmath.mpf(one.beta)))
        root = mpmath.sqrt(one.dimension)
        delta = min(
            at_one + root,
            mpmath.sqrt(at_one**2 + root**2 / 4 + likely * (at_one + root / 2)),
        )
        assert one.slack >= 2**-30
        # what float64 loses while the scale is found, of which the slack has 3/8 of 2^-30 to spare
        assert deviation * (1 + mpmath.mpf(2) ** -40) >= z * places * delta * (1 + one.slack)
        assert deviation <= z * reach * (1 + one.slack) * (1.01 + 1e-9)
        assert at_one >= 1
    assert one.noise_multiplier_of(one.shares) >= z * (1 - 1e-12)


DESIGNS = {
    "dimension": st.integers(1, 10**6) | st.integers(1, 10**10),
    "noise_multiplier": st.floats(0.05, 300) | st.floats(1e-3, 1e7),
    "shares": st.integers(1, 100),
    "clipping_norm": st.floats(1e-3, 1e3) | st.floats(1e-6, 1e9),
    "sites_per_unit": st.integers(1, 5) | st.integers(1, 10_000),
    "beta": st.sampled_from([1e-7, 1e-12, 1e-40]),
    "slack": st.sampled_from([0.0, 1e-9, 1 / 32, 2.0]),
}


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries(DESIGNS))
@example(
    {
        "dimension": 535_526, "noise_multiplier": 300.0, "shares": 1, "clipping_norm": 1.0, "sites_per_unit": 5,
        "beta": 1e-9, "slack": 0.0,
    }
)  # fmt: skip
def test_k_shares_are_the_noise_that_the_accountant_is_told(drawn):
    """For whatever a contract allows and more: enough noise at a loss of 1 %, or a refusal where the domain ends."""
    drawn = dict(drawn)
    norm = drawn.pop("clipping_norm")
    more = {
        "clipping_norm": norm, "sites": max(drawn["sites_per_unit"], drawn["shares"] + 1),
        "largest_sum": norm / drawn["sites_per_unit"],
    }  # fmt: skip
    try:
        one = mechanism(**drawn, **more)
    except PrivacyError as error:
        if easily_wide_enough(**drawn) or "No deviation" not in error.message:
            raise
        return
    require_enough_noise(one, drawn["noise_multiplier"], norm)
    for narrower in LADDER[: LADDER.index(one.deviation)][-1:]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("privacy.private_sum.LADDER", (narrower,))
            with pytest.raises(PrivacyError, match="No deviation"):
                mechanism(**drawn, **more)


@pytest.mark.parametrize(
    ("dimension", "z", "shares", "places"),
    [(10**6, 1e6, 1, 5), (10**9, 1e6, 1, 30), (10**7, 1e4, 100, 1000), (1, 1e7, 1, 1000)],
)
def test_whatever_a_contract_allows_of_models_that_exist_finds_a_deviation(
    dimension, z, shares, places
):
    """A thousand million numbers, the largest noise multiplier, many sites a unit: inside the domain that is stated."""
    drawn = {
        "dimension": dimension, "noise_multiplier": z, "shares": shares, "sites_per_unit": places, "beta": 1e-12,
        "slack": 0.0,
    }  # fmt: skip
    assert easily_wide_enough(**drawn)
    one = mechanism(**drawn, sites=max(places, shares + 1), largest_sum=2.0**20 / places)
    require_enough_noise(one, z, 1.0)
    assert one.sites * (one.clamp + one.deviation.largest + 1) < 2**63
    assert one.clamp > one.scale * 2**20 / places


def test_two_thirds_of_the_deviation_are_not_the_noise_that_the_accountant_is_told():
    """Power of the inequality that is tested above."""
    one = mechanism()
    require_enough_noise(one, 5.0, 1.0)
    for wrong in (
        replace(one, deviation=Deviation(one.deviation.base * 2 // 3)),
        replace(one, shares=3), replace(one, scale=one.scale * 1.001), replace(one, dimension=200),
        replace(one, sites_per_unit=2), replace(one, beta=1e-12), replace(one, slack=1e-3),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match="."):
            require_enough_noise(wrong, 5.0, 1.0)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize(
    "name",
    [
        "dimension",
        "clipping_norm",
        "sites_per_unit",
        "noise_multiplier",
        "shares",
        "sites",
        "scale",
    ],
)
def test_a_number_that_must_be_positive_is(name, wrong):
    one = mechanism()
    with pytest.raises(PrivacyError, match=f"0 < {name}={wrong}"):
        replace(one, **{name: wrong})


def test_a_negative_scale_does_not_make_up_for_a_negative_norm():
    """Their product, which is all that the sensitivity is of, would be that of a sound sum."""
    one = mechanism()
    with pytest.raises(PrivacyError, match=r"0 < clipping_norm=-1\.0"):
        replace(one, clipping_norm=-one.clipping_norm, scale=-one.scale)


def test_fewer_shares_are_worth_less():
    one = mechanism()
    assert one.noise_multiplier_of(4) == pytest.approx(5.0, rel=1e-9)
    assert one.noise_multiplier_of(1) == pytest.approx(2.5, rel=1e-2)
    assert one.noise_multiplier_of(0) == 0.0


def test_a_unit_at_several_sites_is_rounded_at_each():
    several = mechanism(sites_per_unit=3)
    assert several.norm_at_site == pytest.approx(1 / 3)
    at_one_site = rounded_sensitivity(several.scale / 3, 20, 1e-9)
    assert several.sensitivity == pytest.approx(3 * at_one_site, rel=1e-6)


def answers(one, total, count, *, with_noise=True):
    for index in range(count):
        share = Keystream(derive_key(ROOT, "noise", index)) if with_noise else None
        yield answer(
            one, total, dither=Keystream(derive_key(ROOT, "dither", index)), noise_share=share
        )


def test_an_answer_has_the_declared_noise_around_the_sum():
    """2,000 answers of 20 numbers: chi-square of their deviation at 1e-6, power at 2/3 and 3/2."""
    one, total = mechanism(), np.linspace(-3, 3, 20)
    errors = np.array(
        [released_sum(one, each) - total for each in answers(one, total, 2000)]
    ).ravel()
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], errors.size)
    # the dither adds between 0 and 1/4 to a variance of at least 256
    statistic = float(np.square(errors * one.scale).sum() / (one.deviation.variance + 1 / 8))
    assert low < statistic < high
    for wrong in (2 / 3, 3 / 2):
        assert not low < statistic / wrong**2 < high


def test_without_a_share_only_rounding_is_left():
    one, total = mechanism(), np.linspace(-3, 3, 20)
    for each in answers(one, total, 50, with_noise=False):
        assert np.abs(each - total * one.scale).max() < 1


def test_an_answer_never_leaves_its_part_of_the_ring():
    one = mechanism(largest_sum=1e4)
    for total in (np.full(20, 1e300), np.full(20, -1e300), np.full(20, 1e9)):
        integers = next(iter(answers(one, total, 1)))
        assert np.abs(integers).max() <= one.clamp + one.deviation.largest + 1
        assert one.sites * (one.clamp + one.deviation.largest + 1) < 2 ** (one.bits - 1)


def test_the_ring_is_as_narrow_as_the_largest_sum_allows():
    assert mechanism(largest_sum=100.0).bits == 32
    assert mechanism(largest_sum=1e12).bits == 64


def test_noise_of_different_keys_is_independent_and_of_one_key_equal():
    one = mechanism(dimension=5000)
    first = noise(one, Keystream(derive_key(ROOT, 1)))
    assert np.array_equal(first, noise(one, Keystream(derive_key(ROOT, 1))))
    second = noise(one, Keystream(derive_key(ROOT, 2)))
    correlation = float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    assert abs(correlation) < 5 / math.sqrt(5000)


@pytest.mark.parametrize(
    "bad",
    [
        {"noise_multiplier": 0.0},
        {"shares": 0},
        {"sites": 0},
        {"clipping_norm": 0.0},
        {"slack": -1.0},
    ],
)
def test_impossible_constants_are_refused(bad):
    with pytest.raises(PrivacyError, match="Expected z, k, n, C > 0"):
        mechanism(**bad)


def test_more_numbers_than_any_deviation_can_round_are_refused():
    with pytest.raises(
        PrivacyError, match=r"No deviation up to 4.4e\+12 is wide enough for 1000000000000 numbers"
    ):
        mechanism(dimension=10**12, noise_multiplier=2e6, shares=1)


def test_sums_that_no_ring_holds_are_refused():
    """Beyond 2^52 float64 knows no fractions: such a sum would be clamped without a word."""
    scale = mechanism().scale
    assert mechanism(largest_sum=2.0**51 / scale).bits == 64
    with pytest.raises(PrivacyError, match="Expected scaled sums of at most 4503599627370496"):
        mechanism(largest_sum=2.0**53 / scale)


def test_a_sum_of_another_shape_is_refused():
    with pytest.raises(PrivacyError, match="shape"):
        answer(mechanism(), np.zeros(19), dither=Keystream(derive_key(ROOT, 3)), noise_share=None)
