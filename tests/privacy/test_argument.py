"""The argument of `docs/privacy-argument.md` in numbers: exact distributions against the delta(epsilon) that is claimed.

Noise: masses of a sum of k discrete Gaussian shares, by convolution of positive numbers, so with a relative error of
some 1e-13. Claim: a continuous Gaussian of variance k sigma^2 - 4, in closed form. Compared are hockey-stick divergences
in both directions at epsilon >= 0, which together are those at every epsilon: H_e(P, Q) = 1 - e + e H_(1/e)(Q, P).
"""

import itertools
import math

import mpmath
import numpy as np
import pytest

from privacy.discrete_gaussian import Deviation
from privacy.private_sum import design_sum
from privacy.rounding import dithered_round, rounded_sensitivity

EPSILONS = (0.0, 0.05, 0.3, 1.0, 2.0, 4.0, 7.0)
RATES = (1.0, 0.1, 0.01)
BITS = 6  # dithers are all multiples of 2^-6, and so are sums


def noise_masses(sigma, shares):
    """Of a sum of shares: position 0 is the value -reach; 14 deviations, beyond which are 1e-43."""
    reach = math.ceil(14 * sigma * math.sqrt(shares))
    values = np.arange(-reach, reach + 1)
    one = np.exp(-(values**2) / (2.0 * sigma**2))
    total = one / one.sum()
    for _ in range(shares - 1):
        total = np.convolve(total, one / one.sum(), mode="same")
    return total / total.sum()


def hockey_stick(first, second, epsilon):
    return float(np.maximum(first - math.exp(epsilon) * second, 0).sum())


def mixtures(noise, shift, rate):
    """(with the unit, without): (1 - q) N + q (N + shift) and N, on the smallest common grid; any dimension."""
    still = np.pad(noise, [(max(-each, 0), max(each, 0)) for each in shift])
    moved = np.pad(noise, [(max(each, 0), max(-each, 0)) for each in shift])
    return (1 - rate) * still + rate * moved, still


def claimed(epsilon, rate, z):
    """delta of removing and of adding, for N(0, 1) and (1 - q) N(0, 1) + q N(1 / z, 1): the likelihood ratio grows with x."""
    with mpmath.workdps(40):
        e, mu, q = mpmath.exp(mpmath.mpf(epsilon)), 1 / mpmath.mpf(z), mpmath.mpf(rate)

        def place(ratio):
            return mpmath.log((ratio - (1 - q)) / q) / mu + mu / 2

        t = place(e)
        removed = (1 - q) * mpmath.ncdf(-t) + q * mpmath.ncdf(mu - t) - e * mpmath.ncdf(-t)
        if 1 / e <= 1 - q:
            return float(removed), 0.0
        t = place(1 / e)
        added = mpmath.ncdf(t) - e * ((1 - q) * mpmath.ncdf(t) + q * mpmath.ncdf(t - mu))
        return float(removed), float(added)


def excess(noise, shift, z):
    """The largest factor by which an exact delta exceeds the claimed one, over all epsilons, rates and directions."""
    worst = 0.0
    for rate, epsilon in itertools.product(RATES, EPSILONS):
        present, absent = mixtures(noise, shift, rate)
        exact = hockey_stick(present, absent, epsilon), hockey_stick(absent, present, epsilon)
        for found, claim in zip(exact, claimed(epsilon, rate, z), strict=True):
            if max(found, claim) > 1e-25:  # below, the tails that are left out could matter
                worst = max(worst, found / max(claim, 1e-300))
    return worst


def multiplier(sigma, shares, shift, lost=4):
    return math.sqrt(shares * sigma**2 - lost) / math.sqrt(sum(each**2 for each in shift))


def vectors(largest):
    """Integer vectors of the plane up to a norm, one for each of its eight symmetries."""
    span = range(int(largest) + 1)
    return [(x, y) for x in span for y in span if x >= y and 0 < x**2 + y**2 <= largest**2]


HOLDS = 1 + 1e-9  # floating point


@pytest.mark.parametrize("shares", [1, 2, 3, 8])
@pytest.mark.parametrize("shift", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("sigma", [3, 16])
def test_in_one_dimension_shares_are_as_private_as_the_claimed_gaussian(sigma, shares, shift):
    """sigma = 3 is far below what is sampled (16), where 4 is nearly half of the variance."""
    noise = noise_masses(sigma, shares)
    assert excess(noise, (shift,), multiplier(sigma, shares, (shift,))) <= HOLDS


@pytest.mark.parametrize(("sigma", "shares"), [(3, 1), (3, 2), (3, 4), (6, 1)])
def test_in_two_dimensions_shares_are_as_private_as_the_claimed_gaussian(sigma, shares):
    """For every integer vector of norm at most 4: the plane's lattice is not round, the claim is."""
    line = noise_masses(sigma, shares)
    noise = np.outer(line, line)
    for shift in vectors(4):
        assert excess(noise, shift, multiplier(sigma, shares, shift)) <= HOLDS


@pytest.mark.parametrize("shares", [1, 2, 5])
@pytest.mark.parametrize("z", [0.5, 1.0, 2.0])
def test_a_mechanism_that_is_used_is_as_private_as_its_noise_multiplier(shares, z):
    """One dimension, constants from `design_sum`; the unit moves the sum by the largest whole number that it may."""
    one = design_sum(
        dimension=1, clipping_norm=1.0, noise_multiplier=z, shares=shares, sites=shares + 1, beta=1e-9, slack=0.0,
        largest_sum=100.0,
    )  # fmt: skip
    noise = noise_masses(one.deviation.sigma, shares)
    shift = math.floor(one.sensitivity)
    assert shift > 10
    assert excess(noise, (shift,), z) <= HOLDS
    assert excess(noise_masses(one.deviation.sigma * 2 / 3, shares), (shift,), z) > 1.01


@pytest.mark.parametrize("sigma", [3, 16])
@pytest.mark.parametrize("shares", [1, 2, 3, 8])
def test_claims_of_more_noise_than_there_is_fail(sigma, shares):
    """Power of the comparison: two thirds of the deviation; a share too many; 4 added, not taken off; half the rate.

    The 4 matters at the deviations that are sampled too: a share of 16 would have 1.6 % more deviation with 4 added.
    """
    shift = (2,)
    noise, z = noise_masses(sigma, shares), multiplier(sigma, shares, shift)
    assert excess(noise_masses(2 * sigma / 3, shares), shift, z) > 1.1
    assert excess(noise, shift, multiplier(sigma, shares + 1, shift)) > 1.1
    assert excess(noise, shift, multiplier(sigma, shares, shift, lost=-4)) > 1.01
    present, absent = mixtures(noise, shift, 0.1)
    assert hockey_stick(present, absent, 0.0) > 1.1 * claimed(0.0, 0.05, z)[0]


def test_in_two_dimensions_claims_of_more_noise_than_there_is_fail():
    line = noise_masses(3, 2)
    noise, shift = np.outer(line, line), (2, 1)
    thin = noise_masses(2, 2)
    assert excess(np.outer(thin, thin), shift, multiplier(3, 2, shift)) > 1.1
    assert excess(noise, shift, multiplier(3, 3, shift)) > 1.1
    assert excess(noise, shift, multiplier(3, 2, shift, lost=-4)) > 1.01
    assert excess(noise, (2, 2), multiplier(3, 2, (2, 0))) > 1.1


def test_something_has_to_be_taken_off_the_variance():
    """A discrete Gaussian is not as private as the continuous one of its own variance at every epsilon: with nothing
    taken off, small deviations exceed the claim. What the argument needs is 4.
    """
    noise = noise_masses(3, 1)
    worst = max(excess(noise, (shift,), multiplier(3, 1, (shift,), lost=0)) for shift in (1, 2, 3))
    assert worst > HOLDS


class Words:
    """A keystream of given dithers, as multiples of 2^-BITS."""

    def __init__(self, *dithers):
        self._dithers = dithers

    def words(self, count):
        assert count == len(self._dithers)
        return np.array(self._dithers, dtype=np.uint64) << np.uint64(64 - BITS)


def differences(before, unit):
    """Q_U(S + g) - Q_U(S) for every U of the grid, from the function that sites call."""
    levels = itertools.product(range(2**BITS), repeat=len(before))
    before, after = np.array(before), np.array(before) + np.array(unit)
    return np.array(
        [
            dithered_round(after, 1000, Words(*each)) - dithered_round(before, 1000, Words(*each))
            for each in levels
        ]
    )


def on_the_grid(*values):
    return tuple(round(each * 2**BITS) / 2**BITS for each in values)


UNITS = [
    on_the_grid(*each) for each in [(0.5, 0.5), (0.3, -0.4), (1.25, 0.0), (-2.1, 1.4), (0.02, 3.99)]
]
BEFORE = [on_the_grid(*each) for each in [(0.0, 0.0), (0.3, -7.6), (-0.5, 99.99)]]


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_moves_the_rounded_sum_by_the_rounding_of_its_own_vector(unit):
    """Over all 4,096 dithers, whatever the sum was before: floor(g) + independent coins of probability g - floor(g)."""
    floors = np.floor(unit)
    for before in BEFORE:
        coins = differences(before, unit) - floors
        assert set(np.unique(coins)) <= {0.0, 1.0}
        for pattern in itertools.product((0, 1), repeat=2):
            likely = np.where(pattern, np.array(unit) - floors, 1 - (np.array(unit) - floors))
            assert (coins == pattern).all(axis=1).mean() == likely.prod()


@pytest.mark.parametrize("beta", [0.5, 0.1, 0.02, 1e-3])
@pytest.mark.parametrize("unit", UNITS)
def test_its_norm_is_within_the_sensitivity_but_for_beta(unit, beta):
    """And a bound without the term for rounding fails: half the dithers move (1/2, 1/2) further than its own norm."""
    norm = np.linalg.norm(unit)
    bound = rounded_sensitivity(norm, 2, beta)
    for before in BEFORE:
        norms = np.linalg.norm(differences(before, unit), axis=1)
        assert (norms > bound).mean() <= beta
        assert norms.max() <= norm + math.sqrt(2)
    if unit == (0.5, 0.5):
        assert (norms > norm).mean() > 0.5


def test_in_many_dimensions_the_likely_bound_holds_with_its_probability():
    """Exact distribution of |Q(S + g) - Q(S)|^2 where all g are equal: a binomial. From 4 to 400 dimensions, against beta
    down to 1e-9; and the mean term alone, without the deviation, fails.
    """
    for dimension, part in itertools.product((4, 40, 400), (0.03, 0.25, 0.5, 0.9, 1.5, 7.25)):
        norm, whole = part * math.sqrt(dimension), math.floor(part)
        up = part - whole
        with mpmath.workdps(30):
            masses = [
                mpmath.binomial(dimension, count)
                * up**count
                * mpmath.mpf(1 - up) ** (dimension - count)
                for count in range(dimension + 1)
            ]
        norms = [
            math.sqrt(count * (whole + 1) ** 2 + (dimension - count) * whole**2)
            for count in range(dimension + 1)
        ]
        for beta in (0.1, 1e-3, 1e-9):
            bound = rounded_sensitivity(norm, dimension, beta)
            beyond = sum(mass for mass, each in zip(masses, norms, strict=True) if each > bound)
            assert beyond <= beta
        mean = math.sqrt(norm**2 + dimension * up * (1 - up))
        assert sum(mass for mass, each in zip(masses, norms, strict=True) if each > mean) > 0.1


def whole_mechanism(unit, sensitivity, rate, epsilons):
    """(delta at each epsilon and direction, a mean over the dithers that keep within the sensitivity; the part of the
    others). One share of deviation 3; the dither may be published with the sum.

    The other units' sum does not matter: what moves the sum is the rounding of the unit's own vector (the test above).
    """
    line = noise_masses(3, 1)
    noise, found, beyond = np.outer(line, line), np.zeros((len(epsilons), 2)), 0.0
    moves, counts = np.unique(differences((0.0, 0.0), unit), axis=0, return_counts=True)
    for move, part in zip(moves.tolist(), counts / counts.sum(), strict=True):
        if math.hypot(*move) > sensitivity:
            beyond += part
            continue
        present, absent = mixtures(noise, move, rate)
        for index, epsilon in enumerate(epsilons):
            removed, added = (present, absent), (absent, present)
            found[index] += [part * hockey_stick(*each, epsilon) for each in (removed, added)]
    return found, beyond


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("beta", [0.3, 1e-3])
def test_dither_rounding_and_noise_together_are_as_private_as_claimed(unit, rate, beta):
    """delta(epsilon) of the Gaussian of multiplier z, plus beta, without a factor e^epsilon; z is for the norm of g."""
    epsilons, norm = EPSILONS[::2], float(np.linalg.norm(unit))

    def claims(sensitivity):
        z = math.sqrt(3**2 - 4) / sensitivity
        return np.array([claimed(each, rate, z) for each in epsilons]) * HOLDS + 1e-25

    sensitivity = rounded_sensitivity(norm, 2, beta)
    exact, beyond = whole_mechanism(unit, sensitivity, rate, epsilons)
    assert beyond <= beta
    assert (exact <= claims(sensitivity)).all()
    if unit == (
        0.5,
        0.5,
    ):  # power: with the sensitivity before rounding, the quarter at (1, 1) is enough to exceed
        exact, _ = whole_mechanism(unit, math.inf, rate, epsilons)
        assert (exact > claims(norm)).any()


def test_the_rounded_continuous_gaussian_is_the_discrete_one():
    """Section 4: N(c, V) rounded to a discrete Gaussian of variance 4 around it is the discrete Gaussian of variance
    V + 4 around c. By quadrature for V = 5 and 12, to 1e-30 a value: the argument has 2^-112 in all.
    """
    for variance, centre in ((5, 0), (12, 3)):
        with mpmath.workdps(45):

            def rounded(value, variance=variance, centre=centre):
                def integrand(y):
                    around = mpmath.nint(y)
                    total = sum(mpmath.exp(-((around + w - y) ** 2) / 8) for w in range(-25, 26))
                    return (
                        mpmath.npdf(y, centre, mpmath.sqrt(variance))
                        * mpmath.exp(-((value - y) ** 2) / 8)
                        / total
                    )

                # a trapezium rule converges geometrically for what is analytic and vanishes at both ends
                step = mpmath.mpf(1) / 6
                return step * sum(integrand(centre + step * place) for place in range(-250, 251))

            total = mpmath.sqrt(2 * mpmath.pi * (variance + 4))
            for value in (centre, centre + 1, centre + 5):
                exact = (
                    mpmath.exp(-mpmath.mpf((value - centre) ** 2) / (2 * (variance + 4))) / total
                )
                assert abs(rounded(value) / exact - 1) < 1e-20


def test_four_is_what_the_argument_can_take_off_at_a_cost_of_one_in_fifty():
    assert Deviation(16).variance - 4 > 0.98 * Deviation(16).variance
