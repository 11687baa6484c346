"""Any t shares give the secret, and fewer say nothing about it."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ProtocolError
from privacy.keystream import Keystream, derive_key
from privacy.secure_aggregation import shamir
from privacy.secure_aggregation.shamir import PRIME, SHARE_BYTES, combine, split

SECRETS = [bytes(32), b"\xff" * 32, (1).to_bytes(32, "big"), derive_key(b"a secret", "of 32 bytes")]


def dealt(secret, threshold, points, label="coins"):
    coins = Keystream(derive_key(b"coins", label))
    return split(secret, threshold=threshold, points=points, coins=coins)


def value_at(shares, place):
    """The polynomial through these shares, at any place: Lagrange by the book, in rational steps modulo p."""
    total = 0
    for one, value in shares.items():
        term = value
        for other in shares:
            if other != one:
                term = term * (place - other) * pow(one - other, -1, PRIME) % PRIME
        total = (total + term) % PRIME
    return total


def numbers(shares):
    return {point: int.from_bytes(share, "big") for point, share in shares.items()}


def test_the_modulus_is_a_prime():
    """Strong pseudo-prime to 40 bases, none of them chosen by whoever chose p: composite with at most 4^-40."""
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for place in range(40):
        base = int.from_bytes(derive_key(b"base", place), "big") + 2
        power = pow(base, odd, PRIME)
        squares = [pow(power, 1 << each, PRIME) for each in range(twos)]
        assert power == 1 or PRIME - 1 in squares
    assert PRIME > 2**256  # every 32 bytes are an element


@pytest.mark.parametrize("secret", SECRETS, ids=lambda each: each[:2].hex())
@pytest.mark.parametrize("sites", range(1, 7))
def test_the_secret_is_given_by_every_set_of_t_and_by_none_of_fewer(secret, sites):
    points = [2 * each + 1 for each in range(sites)]
    for threshold in range(1, sites + 1):
        shares = dealt(secret, threshold, points)
        assert list(shares) == points
        assert {len(each) for each in shares.values()} == {SHARE_BYTES}
        for size in range(1, sites + 1):
            for chosen in itertools.combinations(points, size):
                part = {each: shares[each] for each in chosen}
                if size >= threshold:
                    assert combine(part) == secret
                else:
                    assert value_at(numbers(part), 0) != int.from_bytes(secret, "big")


class EveryCoin:
    """The coins of one outcome: `words` gives each coefficient in turn, as the lowest of its six words."""

    def __init__(self, coefficients):
        self._coefficients = coefficients

    def words(self, count):
        assert count == 6 * len(self._coefficients)
        return np.array([[each, 0, 0, 0, 0, 0] for each in self._coefficients], np.uint64).ravel()


@pytest.mark.parametrize("threshold", [2, 3])
def test_over_all_coins_fewer_than_t_shares_are_the_same_for_every_secret(monkeypatch, threshold):
    """Exactly, in the field of 11 elements: all coins, all secrets, all t - 1 of four points; and t shares tell."""
    monkeypatch.setattr(shamir, "PRIME", 11)
    points = [1, 2, 5, 9]
    seen = {}
    for secret in range(11):
        outcomes = [
            split(
                secret.to_bytes(32, "big"), threshold=threshold, points=points, coins=EveryCoin(coins)
            )
            for coins in itertools.product(range(11), repeat=threshold - 1)
        ]  # fmt: skip
        for size in (threshold - 1, threshold):
            for chosen in itertools.combinations(points, size):
                tally = Counter(tuple(each[place] for place in chosen) for each in outcomes)
                seen.setdefault(chosen, []).append(tally)
    for chosen, tallies in seen.items():
        if len(chosen) < threshold:
            assert all(each == tallies[0] for each in tallies)
            assert set(tallies[0].values()) == {1}
            assert len(tallies[0]) == 11 ** (threshold - 1)
        else:
            assert all(not set(one) & set(other) for one, other in itertools.combinations(tallies, 2))  # fmt: skip


def test_a_coefficient_is_384_bits_modulo_p():
    """The sixth of six words counts: without it a coefficient would be far from uniform, and so would a share."""
    coins = type("Coins", (), {"words": lambda *_: np.array([0, 0, 0, 0, 0, 1], np.uint64)})
    shares = split(bytes(32), threshold=2, points=[1, 2], coins=coins())
    assert numbers(shares) == {1: 2**320 % PRIME, 2: 2**321 % PRIME}


@pytest.mark.parametrize("point", range(1, 6))
def test_a_wrong_share_gives_another_secret_or_none(point):
    shares = dealt(SECRETS[3], 5, range(1, 6))
    for bit in range(256):
        wrong = bytearray(shares[point])
        wrong[-1 - bit // 8] ^= 1 << bit % 8
        try:
            found = combine(shares | {point: bytes(wrong)})
        except ProtocolError:
            continue
        assert found != SECRETS[3]


def test_a_share_at_another_point_gives_another_secret():
    shares = dealt(SECRETS[3], 3, range(1, 4))
    assert combine({1: shares[1], 2: shares[2], 4: shares[3]}) != SECRETS[3]
    assert combine({1: shares[2], 2: shares[1], 3: shares[3]}) != SECRETS[3]


def test_what_is_beyond_32_bytes_is_no_secret():
    for value in (2**256, PRIME - 1):
        with pytest.raises(ProtocolError, match="shares of one secret"):
            combine({1: value.to_bytes(SHARE_BYTES, "big")})
    assert combine({1: (2**256 - 1).to_bytes(SHARE_BYTES, "big")}) == b"\xff" * 32


@pytest.mark.parametrize(
    "shares",
    [{}, {0: bytes(33)}, {-1: bytes(33)}, {1: bytes(33), 2: PRIME.to_bytes(33, "big")}, {1: b"\xff" * 33}],
    ids=["none", "the secret itself", "before it", "the prime", "more"],
)  # fmt: skip
def test_what_is_no_share_is_refused(shares):
    with pytest.raises(ProtocolError, match="shares below the prime, at points from 1"):
        combine(shares)


@pytest.mark.parametrize(
    ("threshold", "points"),
    [(0, [1, 2]), (3, [1, 2]), (1, []), (2, [1, 1, 2]), (1, [0, 1]), (1, [-1, 1])],
)
def test_thresholds_and_points_out_of_range_are_refused(threshold, points):
    """A share at 0 would be the secret."""
    with pytest.raises(ProtocolError, match="a threshold of at most the number of points"):
        dealt(SECRETS[3], threshold, points)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_only_32_bytes_are_shared(length):
    with pytest.raises(ProtocolError, match=f"a secret of 32 bytes, found {length}"):
        dealt(bytes(length), 1, [1])


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 20), st.integers(0, 20), st.randoms())
def test_any_t_of_many_give_it(secret, threshold, more, order):
    points = order.sample(range(1, 1001), threshold + more)
    shares = dealt(secret, threshold, points)
    chosen = order.sample(points, threshold)
    assert combine({each: shares[each] for each in chosen}) == secret


def test_other_coins_are_other_shares():
    one, other = (dealt(SECRETS[3], 3, range(1, 6), label=each) for each in ("one", "other"))
    assert all(one[each] != other[each] for each in one)
