"""The unmasked sum is the integer sum, bit for bit, up to the last integer that the ring holds."""

import numpy as np
import pytest
from aggregations import Site, begun, run_round
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.discrete_gaussian import LADDER
from privacy.keystream import Keystream, derive_key
from privacy.private_sum import answer, design_sum
from privacy.secure_aggregation.coordinator import CoordinatorRound

PATHS = pytest.mark.parametrize("lost", [(), (2,)], ids=["fast", "survivors"])
RINGS = pytest.mark.parametrize("bits", [32, 64])


class Given(Site):
    """A site with this input."""

    def __init__(self, site, vector, bits):
        super().__init__(site.federation, site.number, site.state)
        self.vector, self.bits, self.dimension = np.array(vector, np.int64), bits, len(vector)

    def input(self, _round):
        return self.vector


def summed(vectors, bits, lost=()):
    """The sum that the coordinator unmasks of one vector a site."""
    federation, sites, members = begun(len(vectors), 1, 1)
    those = {
        number: Given(site, vector, bits)
        for (number, site), vector in zip(sites.items(), vectors, strict=True)
    }
    coordinator = CoordinatorRound(
        federation, members, round=0, payload=b"model", bits=bits, dimension=len(vectors[0])
    )
    assert run_round(coordinator, those, lost=(lost, (), ())) == []
    return coordinator.total()


def integer_sum(vectors, lost=()):
    """In Python integers."""
    present = [each for place, each in enumerate(vectors, 1) if place not in lost]
    return [sum(map(int, each)) for each in zip(*present, strict=True)]


def mechanism_of(bits, sites):
    """A private sum whose largest sums need a ring of so many bits."""
    found = design_sum(
        dimension=6, clipping_norm=1.0, noise_multiplier=1.0, shares=sites - 2, sites=sites, beta=1e-9, slack=0.0,
        largest_sum=100.0 if bits == 32 else 1e7,
    )  # fmt: skip
    assert found.bits == bits
    return found


@PATHS
@RINGS
@pytest.mark.parametrize("sites", [4, 5, 8])
def test_all_sites_at_the_clamp_with_the_largest_noise(sites, bits, lost):
    """What `SumMechanism.clamp` promises: n of them and their noise fit the ring, and come back as they are."""
    one = mechanism_of(bits, sites)
    most = one.clamp + one.deviation.largest
    vectors = [[most, -most, one.clamp, -one.clamp, most - place, place - most] for place in range(sites)]  # fmt: skip
    found = summed(vectors, bits, lost)
    assert found.tolist() == integer_sum(vectors, lost)
    assert sites * most < 2 ** (bits - 1)


@pytest.mark.parametrize("sites", [4, 5, 8])
def test_in_the_narrow_ring_the_clamp_is_the_largest_that_fits(sites):
    """One more at every site, rounding up included, and the largest noise: the sum would not fit."""
    one = mechanism_of(32, sites)
    assert sites * (one.clamp + one.deviation.largest + 2) > 2**31 - 1


@PATHS
@pytest.mark.parametrize("bits", [32, 64])
def test_the_ring_wraps_exactly_beyond_its_largest_integer(bits, lost):
    """2^(b-1) - 1 is a sum, and one more is the least integer, as in all arithmetic modulo 2^b."""
    largest = 2 ** (bits - 1) - 1
    share = largest // 4
    rest = largest - 3 * share if lost else largest - 4 * share
    present = [[share, -share], [0, 0], [share, -share], [share, -share], [rest, -rest - 1]]
    if not lost:
        present[1] = [share, -share]
    assert integer_sum(present, lost) == [largest, -largest - 1]
    assert summed(present, bits, lost).tolist() == [largest, -largest - 1]
    present[0] = [share + 1, -share - 1]
    assert summed(present, bits, lost).tolist() == [-largest - 1, largest]


@PATHS
@RINGS
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_vectors_whose_sums_fit(bits, lost, data):
    sites = data.draw(st.integers(4, 6))
    bound = (2 ** (bits - 1) - 1) // sites
    numbers = st.one_of(
        st.integers(-bound, bound), st.sampled_from([bound, -bound, 0, 1, -1, bound - 1])
    )
    length = data.draw(st.integers(1, 12))
    row = st.lists(numbers, min_size=length, max_size=length)
    vectors = data.draw(st.lists(row, min_size=sites, max_size=sites))
    assert summed(vectors, bits, lost).tolist() == integer_sum(vectors, lost)


@PATHS
@RINGS
def test_any_vectors_at_all_modulo_the_ring(bits, lost):
    """Whatever 64 bits a site answers: the sum modulo 2^b, in the least residues by magnitude."""
    vectors = [
        np.frombuffer(derive_key(b"any vector", place) * 20, "<i8").tolist() for place in range(5)
    ]
    half = 2 ** (bits - 1)
    expected = [(each + half) % (2 * half) - half for each in integer_sum(vectors, lost)]
    assert summed(vectors, bits, lost).tolist() == expected


@PATHS
@RINGS
@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, (1 << 15) - 1, (1 << 15) + 1])
def test_lengths_around_the_block_of_masks(dimension, bits, lost):
    words = np.arange(4 * dimension, dtype=np.int64).reshape(4, dimension) * 12_345 % 100_003
    vectors = list(words - 50_000)
    expected = sum(each for place, each in enumerate(vectors, 1) if place not in lost)
    assert np.array_equal(summed(vectors, bits, lost), expected)


@PATHS
def test_answers_with_noise_are_added_as_they_are(lost):
    """What the sites would have sent without masks, through the mechanism itself."""
    one = mechanism_of(32, 5)
    answers = [
        answer(
            one, np.linspace(-1, 1, 6) * place, dither=Keystream(derive_key(b"dither", place)),
            noise_share=Keystream(derive_key(b"noise", place)),
        ).tolist()
        for place in range(5)
    ]  # fmt: skip
    assert len({tuple(each) for each in answers}) == 5
    assert summed(answers, 32, lost).tolist() == integer_sum(answers, lost)
    assert one.deviation in LADDER


@PATHS
def test_all_rounds_of_a_session_are_exact(lost):
    federation, sites, members = begun(4, 1, 1, rounds=12)
    for round_ in range(12):
        coordinator = CoordinatorRound(
            federation, members, round=round_, payload=b"model %d" % round_, bits=32, dimension=5
        )
        assert run_round(coordinator, sites, lost=(lost if round_ % 3 else (), (), ())) == []
        expected = sum(sites[each].input(round_) for each in coordinator.survivors)
        assert np.array_equal(coordinator.total(), expected)
