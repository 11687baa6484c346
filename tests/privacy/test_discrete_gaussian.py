"""The sampler draws from the distribution that the argument is about."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from privacy import discrete_gaussian
from privacy.discrete_gaussian import LADDER, Deviation, cumulative_table, sample_discrete_gaussian
from privacy.errors import PrivacyError
from privacy.keystream import Keystream, derive_key

ROOT = b"tests of the discrete Gaussian..."[:32]
TABLES = [each.base for each in LADDER if not each.stretch]
WIDE = [each for each in LADDER if each.stretch]
DRAW = (
    2**-112
)  # what the argument grants to a draw from one table, a quarter of what a sample may cost


class Scripted:
    """A keystream that hands out given words, and none besides."""

    def __init__(self, *words):
        self._words = np.asarray(words, dtype=np.uint64)

    def words(self, count):
        assert count <= len(self._words)
        taken, self._words = self._words[:count], self._words[count:]
        return taken

    @property
    def left(self):
        return len(self._words)


def values_of(sigma, uniforms, sign):
    """What the sampler makes of 127 uniform bits each: 63 in a word, 64 in a second one where it asks for that.

    It asks for one exactly where the first 63 bits tie with an entry; were it to ask elsewhere, or not there, words
    would be left over or missing.
    """
    uppers = set(cumulative_table(sigma).upper.tolist())
    firsts = [each >> 64 << 1 | sign for each in uniforms]
    values, block = [], discrete_gaussian._BLOCK
    for start in range(0, len(uniforms), block):
        part = uniforms[start : start + block]
        seconds = [each & 2**64 - 1 for each in part if each >> 64 in uppers]
        stream = Scripted(*firsts[start : start + block], *seconds)
        values.append(sample_discrete_gaussian(Deviation(sigma), len(part), stream))
        assert stream.left == 0
    return np.concatenate(values)


def entries_of(sigma):
    """The entries that the sampler loads, as whole numbers."""
    table = cumulative_table(sigma)
    return [
        high << 64 | low
        for high, low in zip(table.upper.tolist(), table.lower.tolist(), strict=True)
    ]


def turning_points(sigma, sign):
    """u at which the magnitude first exceeds m, m = 0, 1, ...: read off the sampler, not off its table.

    The sampler is tried just below, at and just above every entry, in 127 bits and in 63, and at the first and the last
    word of every range of words with equal leading bits. A draw is settled for a whole range or searched among the
    entries, so between two neighbouring places the map cannot turn; where their values differ there is no u between.
    """
    places = {0, 2**127 - 1}
    for entry in entries_of(sigma):
        half = entry >> 64
        places |= {entry - 1, entry, (half << 64) - 1, half << 64, (half + 1) << 64}
    places = sorted(each for each in places if 0 <= each < 2**127)
    values = values_of(sigma, places, sign)
    magnitudes = np.abs(values)
    assert (np.sign(values) == np.where(magnitudes > 0, 1 - 2 * sign, 0)).all()
    assert magnitudes[0] == 0
    turns = []
    for index in np.flatnonzero(np.diff(magnitudes)).tolist():
        step = int(magnitudes[index + 1] - magnitudes[index])
        assert step > 0
        assert places[index + 1] == places[index] + 1
        turns += [places[index + 1]] * step
    require_turns_alone(sigma, sign, turns)
    return turns


def require_turns_alone(sigma, sign, turns):
    """Nothing turns anywhere else: at both ends of every range of leading bits the value is the number of turns so far."""
    starts = np.arange(1 << discrete_gaussian._LEADING, dtype=np.uint64) << np.uint64(
        63 - discrete_gaussian._LEADING
    )
    halves = np.concatenate([starts, starts[1:] - np.uint64(1)])
    uppers = np.array([each >> 64 for each in turns], dtype=np.uint64)
    halves = halves[~np.isin(halves, uppers)]  # ties have been tried
    expected = np.searchsorted(uppers, halves) * (1 - 2 * sign)
    block = discrete_gaussian._BLOCK
    for start in range(0, len(halves), block):
        part = slice(start, start + block)
        stream = Scripted(*(halves[part] << np.uint64(1) | np.uint64(sign)))
        found = sample_discrete_gaussian(Deviation(sigma), len(halves[part]), stream)
        assert np.array_equal(found, expected[part])


def distance(sigma, turns):
    """Total variation between the magnitudes that turn there and the exact |X|; signs are exact (u does not see them).

    The normaliser is sigma sqrt(2 pi) up to a factor 1 + 2 exp(-2 pi^2 sigma^2) (Poisson summation): 2^-7290 for 16.
    """
    with mpmath.workprec(400):
        total = sigma * mpmath.sqrt(2 * mpmath.pi)
        apart, covered = mpmath.mpf(0), mpmath.mpf(0)
        for m, (before, after) in enumerate(itertools.pairwise([0, *turns, 2**127])):
            exact = (1 if m == 0 else 2) * mpmath.exp(-mpmath.mpf(m * m) / (2 * sigma**2)) / total
            apart += abs(mpmath.mpf(after - before) / 2**127 - exact)
            covered += exact
        return (apart + (1 - covered)) / 2


@pytest.mark.parametrize("sigma", TABLES)
def test_a_draw_is_within_2_to_the_minus_112_of_the_exact_distribution(sigma):
    """Every boundary of the map from words to values, ties included, gives the exact probability of every value."""
    turns = turning_points(sigma, 0)
    assert turns == turning_points(sigma, 1) == entries_of(sigma)
    assert distance(sigma, turns) < DRAW
    assert 4 * DRAW < 2**-100


def test_the_distance_tells_a_table_that_is_good_to_a_second_word_from_one_that_is_not(monkeypatch):
    """Power: without lower halves, with a tail cut short, or with another deviation the very same measure fails."""
    turns = entries_of(64)
    assert distance(64, [each >> 64 << 64 for each in turns]) > 2**-70
    assert distance(64, turns[: 11 * 64]) > 2**-100
    assert distance(64, [each + (1 << 30) for each in turns]) > 2**-100
    assert distance(63, turns) > 2**-10

    def settles_too_much(upper):
        settled = settles(upper)
        place = np.flatnonzero(settled == discrete_gaussian._OPEN)[7]
        settled[place] = settled[place - 1]
        return settled

    def never_ties(halves, table, keystream):
        return np.searchsorted(table.upper, halves, side="right").astype(np.int64)

    settles = discrete_gaussian._settled
    for name, planted in (("_settled", settles_too_much), ("_searched", never_ties)):
        cumulative_table.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(discrete_gaussian, name, planted)
            with pytest.raises(AssertionError, match="."):
                assert turning_points(64, 0) == turns
    cumulative_table.cache_clear()


def test_a_second_word_is_asked_for_on_a_tie_alone():
    upper, lower, _ = cumulative_table(16)
    for magnitude in (0, 1, 5, 17, 60):
        high, low = int(upper[magnitude]), int(lower[magnitude])
        for sign in (0, 1):
            tied = [
                sample_discrete_gaussian(Deviation(16), 1, Scripted(high << 1 | sign, each))[0]
                for each in (0, low - 1, low, 2**64 - 1)
            ]
            expected = [magnitude, magnitude, magnitude + 1, magnitude + 1]
            assert tied == [(-1) ** sign * each for each in expected]
            for other, found in ((high - 1, magnitude), (high + 1, magnitude + 1)):
                stream = Scripted(other << 1 | sign)
                assert sample_discrete_gaussian(Deviation(16), 1, stream)[0] == (-1) ** sign * found


def test_entries_that_share_an_upper_half_are_told_apart_by_the_second_word():
    """Far out in the tail, where the sum of all that is left is below 2^-63."""
    upper, lower, _ = cumulative_table(16)
    first = int(np.searchsorted(upper, upper[-1]))
    assert len(upper) - first > 40
    word = int(upper[-1]) << 1
    for place in range(first, len(upper)):
        for second, found in ((int(lower[place]) - 1, place), (int(lower[place]), place + 1)):
            stream = Scripted(word, second)
            assert sample_discrete_gaussian(Deviation(16), 1, stream)[0] == found


@pytest.mark.parametrize("deviation", [WIDE[0], WIDE[9], WIDE[10], WIDE[20], WIDE[-1]], ids=str)
def test_a_wide_sample_is_a_sum_of_stretched_draws(deviation):
    """Words of the tables one after the other: 5,000 samples, one block."""
    stream = Keystream(derive_key(ROOT, "wide"))
    found = sample_discrete_gaussian(deviation, 5_000, stream)
    again = Keystream(derive_key(ROOT, "wide"))
    parts = [sample_discrete_gaussian(Deviation(deviation.base), 5_000, again) for _ in range(4)]
    stretches = (1, *deviation.stretches)
    expected = sum(each * part for each, part in zip(stretches, parts, strict=False))
    assert np.array_equal(found, expected)


def narrower(deviation):
    """What the last stretched draw of a rung is added to: another rung, or a table."""
    before = Deviation(deviation.base, (0, *deviation.stretches)[-2])
    assert (*before.stretches, deviation.stretch) == deviation.stretches
    assert before in LADDER
    return before


def tau_of(deviation):
    return deviation.base * narrower(deviation).sigma / deviation.sigma


def test_every_rung_is_smooth():
    assert all(tau_of(each) >= 3.99 for each in WIDE)
    assert LADDER[-1].stretches == (2**10, 2**20, 2**30)
    assert Deviation(4096, 1024).stretches == (1024,)
    assert Deviation(4096, 1025).stretches == (1024, 1025)
    assert Deviation(4096).stretches == ()


@pytest.mark.parametrize("deviation", [each for each in WIDE if tau_of(each) < 40], ids=str)
def test_a_wide_rung_is_a_discrete_gaussian_to_2_to_the_minus_250(deviation):
    """The masses of W + a Y, W and Y exact discrete Gaussians, against exp(-v^2 / (2 (w^2 + a^2 b^2))): the quotient
    is a sum over the integers that depends on v by its centre alone. Summed here for values over 10 deviations.

    The other rungs are smoother still. The bound is 2^-255 for tau = 3, once for each of two values.
    """
    stretch, base = deviation.stretch, deviation.base
    narrow = narrower(deviation).variance
    sigma, width = math.isqrt(deviation.variance), math.ceil(25 * tau_of(deviation))

    def quotient(value):
        middle = stretch * base**2 * value // deviation.variance
        total = mpmath.mpf(0)
        for y in range(middle - width, middle + width + 1):
            rest = value - stretch * y
            total += mpmath.exp(
                -mpmath.mpf(y * y) / (2 * base**2) - mpmath.mpf(rest * rest) / (2 * narrow)
            )
        return total * mpmath.exp(mpmath.mpf(value * value) / (2 * deviation.variance))

    with mpmath.workprec(600):
        values = [0, 1, stretch // 2, stretch // 3, sigma, 10 * sigma + stretch // 2]
        quotients = [quotient(value) for value in values]
        assert max(quotients) / min(quotients) - 1 < mpmath.mpf(2) ** -250


def test_a_stretch_that_is_not_smooth_is_no_discrete_gaussian():
    """Power of the test above: at tau = 1/2 masses are off by 1 %, and such a deviation cannot be made."""
    base, stretch = 16, 32
    rho = {x: math.exp(-(x**2) / (2 * base**2)) for x in range(-200, 201)}

    def mass(value):
        return sum(rho[y] * rho.get(value - stretch * y, 0.0) for y in rho)

    variance = base**2 * (1 + stretch**2)
    assert mass(16) / mass(0) / math.exp(-(16**2) / (2 * variance)) < 0.99
    with pytest.raises(PrivacyError, match="tau >= 3, found a stretch of 2"):
        Deviation(4, 3)
    assert Deviation(16, stretch).stretches == (4, 16, 32)  # so it is never drawn at once
    for base in (2, 4097):
        with pytest.raises(PrivacyError, match="base"):
            Deviation(base)
    for wrong in (-1, 2**30 + 1):
        with pytest.raises(PrivacyError, match="stretch <= 1073741824"):
            Deviation(4096, wrong)


@pytest.mark.parametrize(
    "deviation", [*LADDER[:9:4], LADDER[9], LADDER[18], LADDER[20], LADDER[-1]], ids=str
)
def test_samples_have_the_deviation_that_they_say(deviation):
    """n (s / sigma)^2 is chi-square with n degrees (mean known to be 0; the fourth moment of a discrete Gaussian of
    sigma >= 16 is that of a normal to 1e-12). Two-sided at 1e-6; at 2/3 and 3/2 of sigma the same bound must fail.
    """
    count = 50_000
    key = derive_key(ROOT, deviation.base, deviation.stretch)
    samples = sample_discrete_gaussian(deviation, count, Keystream(key))
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], count)
    statistic = float(np.square(samples / deviation.sigma).sum())
    assert low < statistic < high
    for wrong in (2 / 3, 3 / 2):
        assert not low < statistic / wrong**2 < high
    assert abs(samples).max() <= deviation.largest


def test_samples_fit_the_exact_masses():
    """Chi-square of 200,000 samples of sigma 16 against exact masses, bins of at least 50; fails at 1e-6, and always
    for masses of 2/3 or 3/2 of sigma.
    """
    count = 200_000
    samples = sample_discrete_gaussian(Deviation(16), count, Keystream(derive_key(ROOT, "fit")))
    values = np.arange(-80, 81)
    observed = np.array([(samples == value).sum() for value in values])

    def fits(sigma):
        expected = count * np.exp(-(values**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
        kept = expected >= 50
        rest, rest_expected = count - observed[kept].sum(), count - expected[kept].sum()
        statistic = float((np.square(observed - expected) / expected)[kept].sum())
        statistic += (rest - rest_expected) ** 2 / rest_expected
        return statistic < stats.chi2.ppf(1 - 1e-6, kept.sum())

    assert fits(16)
    assert not fits(16 * 2 / 3)
    assert not fits(16 * 3 / 2)


def test_a_sample_does_not_depend_on_how_many_are_drawn_with_it():
    """Blocks are an affair of speed: any count at any time takes the next words."""
    block = discrete_gaussian._BLOCK
    whole = sample_discrete_gaussian(
        Deviation(64), 3 * block, Keystream(derive_key(ROOT, "blocks"))
    )
    stream = Keystream(derive_key(ROOT, "blocks"))
    parts = [sample_discrete_gaussian(Deviation(64), each, stream) for each in (0, 1, block, block)]
    assert np.array_equal(np.concatenate(parts), whole[: 2 * block + 1])


def test_the_ladder_climbs_in_steps_of_about_two():
    sigmas = [each.sigma for each in LADDER]
    assert all(1.8 < after / before < 2.3 for before, after in itertools.pairwise(sigmas))
    assert sigmas[0] == 16
    assert 2**42 < sigmas[-1] < 2**42.01
    assert max(len(each.stretches) for each in LADDER) == 3


def test_nothing_that_the_sampler_adds_up_leaves_64_bits():
    assert LADDER[-1].largest == (1 + 2**10 + 2**20 + 2**30) * (13 * 4096 + 1)
    assert 10_000 * LADDER[-1].largest < 2**60


def test_tables_cannot_be_written_to():
    for each in cumulative_table(16):
        with pytest.raises(ValueError, match="read-only"):
            each[0] = 0
