"""The sampler draws from the distribution that the argument is about."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from privacy.discrete_gaussian import LADDER, Deviation, cumulative_table, sample_discrete_gaussian
from privacy.errors import PrivacyError
from privacy.keystream import Keystream, derive_key

ROOT = b"tests of the discrete Gaussian..."[:32]


def exact_masses(sigma, count):
    """P(|X| = m), m = 0 .. count - 1, to 300 bits; the normaliser sums until terms vanish."""
    with mpmath.workprec(400):
        weights = [mpmath.exp(-mpmath.mpf(m * m) / (2 * sigma**2)) for m in range(40 * sigma)]
        total = weights[0] + 2 * sum(weights[1:])
        return [(1 if m == 0 else 2) * weights[m] / total for m in range(count)]


@pytest.mark.parametrize("sigma", [16, 32, 64])
def test_the_table_is_within_2_to_the_minus_100_of_the_exact_distribution(sigma):
    """Total variation, from the very numbers that the sampler compares with: masses are differences of entries."""
    upper, lower = cumulative_table(sigma)
    entries = [int(high) << 64 | int(low) for high, low in zip(upper, lower, strict=True)]
    assert all(before <= after for before, after in itertools.pairwise(entries))
    assert entries[-1] < 2**127
    edges = [0, *entries, 2**127]
    with mpmath.workprec(400):
        masses = [
            mpmath.mpf(after - before) / 2**127 for before, after in itertools.pairwise(edges)
        ]
        exact = exact_masses(sigma, len(masses))
        distance = sum(abs(mine - true) for mine, true in zip(masses, exact, strict=True)) / 2
        distance += (1 - sum(exact)) / 2
        assert distance < mpmath.mpf(2) ** -100


def test_the_widest_table_agrees_with_the_exact_distribution_at_sampled_places():
    upper, lower = cumulative_table(4096)
    with mpmath.workprec(300):
        # The normaliser of a wide discrete Gaussian is sigma sqrt(2 pi) up to exp(-2 pi^2 sigma^2).
        total = 4096 * mpmath.sqrt(2 * mpmath.pi)
        entry = [int(upper[m]) << 64 | int(lower[m]) for m in range(6)]
        running = mpmath.mpf(0)
        for m in range(6):
            running += (1 if m == 0 else 2) * mpmath.exp(-mpmath.mpf(m * m) / (2 * 4096**2)) / total
            assert abs(mpmath.mpf(entry[m]) / 2**127 - running) < mpmath.mpf(2) ** -120


class Scripted:
    """A keystream that hands out given words."""

    def __init__(self, *words):
        self._words = list(words)

    def words(self, count):
        taken, self._words = self._words[:count], self._words[count:]
        return np.array(taken, dtype=np.uint64)


@pytest.mark.parametrize("magnitude", [0, 1, 5, 17, 60])
@pytest.mark.parametrize("sign", [0, 1])
def test_every_boundary_of_the_table_falls_on_the_right_side(magnitude, sign):
    """127 bits u just below the entry F(m) mean a magnitude of at most m; u = F(m) means more."""
    upper, lower = cumulative_table(16)
    high, low = int(upper[magnitude]), int(lower[magnitude])
    word = high << 1 | sign
    expected = (-1) ** sign
    above = sample_discrete_gaussian(Deviation(16), 1, Scripted(word, low))[0]
    below = sample_discrete_gaussian(Deviation(16), 1, Scripted(word, low - 1))[0]
    assert above == expected * (magnitude + 1)
    assert below == expected * magnitude
    assert (
        sample_discrete_gaussian(Deviation(16), 1, Scripted((high - 1) << 1 | sign))[0]
        == expected * magnitude
    )
    assert sample_discrete_gaussian(Deviation(16), 1, Scripted((high + 1) << 1 | sign))[
        0
    ] == expected * (magnitude + 1)


@pytest.mark.parametrize(
    "deviation", [Deviation(16), Deviation(4096), Deviation(4096, 2), Deviation(4096, 1024)]
)
def test_samples_have_the_deviation_that_they_say(deviation):
    """n (s / sigma)^2 is chi-square with n degrees (mean known to be 0; the fourth moment of a discrete Gaussian of
    sigma >= 16 is that of a normal to 1e-12). Two-sided at 1e-6; at 2/3 and 3/2 of sigma the same bound must fail.
    """
    count = 50_000
    samples = sample_discrete_gaussian(
        deviation, count, Keystream(derive_key(ROOT, deviation.base, deviation.stretch))
    )
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], count)
    statistic = float(np.square(samples / deviation.sigma).sum())
    assert low < statistic < high
    for wrong in (2 / 3, 3 / 2):
        assert not low < statistic / wrong**2 < high
    assert abs(samples).max() <= deviation.largest


def test_samples_fit_the_exact_masses():
    """Chi-square of 200,000 samples of sigma 16 against exact masses, bins of at least 50; fails at 1e-6."""
    count = 200_000
    samples = sample_discrete_gaussian(Deviation(16), count, Keystream(derive_key(ROOT, "fit")))
    masses = [float(mass) / (1 if m == 0 else 2) for m, mass in enumerate(exact_masses(16, 50))]
    values = np.arange(-49, 50)
    expected = count * np.array([masses[abs(value)] for value in values])
    kept = expected >= 50
    observed = np.array([(samples == value).sum() for value in values])
    rest, rest_expected = count - observed[kept].sum(), count - expected[kept].sum()
    statistic = float(
        (np.square(observed - expected) / expected)[kept].sum()
        + (rest - rest_expected) ** 2 / rest_expected
    )
    assert statistic < stats.chi2.ppf(1 - 1e-6, kept.sum())


def test_the_ladder_climbs_in_steps_of_about_two():
    sigmas = [each.sigma for each in LADDER]
    assert all(1.8 < after / before < 2.3 for before, after in itertools.pairwise(sigmas))
    assert sigmas[0] == 16
    assert sigmas[-1] > 4e6


def test_a_stretch_too_wide_to_be_smooth_is_refused():
    assert math.isclose(Deviation(4096, 1024).sigma, 4096 * math.sqrt(1024**2 + 1))
    with pytest.raises(PrivacyError, match="tau >= 3"):
        Deviation(16, 8)
    with pytest.raises(PrivacyError, match="base"):
        Deviation(2)


def test_a_stretched_sum_is_a_discrete_gaussian():
    """The convolution's masses, computed exactly for a small case (tau = 3.02), against the discrete Gaussian."""
    base, stretch = 16, 5
    deviation = Deviation(base, stretch)
    reach = 13 * base
    with mpmath.workprec(300):
        rho = {x: mpmath.exp(-mpmath.mpf(x * x) / (2 * base**2)) for x in range(-reach, reach + 1)}
        for value in (0, 1, 7, 40, 81, 200):
            mass = sum(
                rho[x] * rho[value - stretch * x] for x in rho if abs(value - stretch * x) <= reach
            )
            mass0 = sum(rho[x] * rho[-stretch * x] for x in rho if abs(stretch * x) <= reach)
            ratio = mass / mass0 / mpmath.exp(-mpmath.mpf(value**2) / (2 * deviation.variance))
            assert abs(ratio - 1) < mpmath.mpf(2) ** -100
