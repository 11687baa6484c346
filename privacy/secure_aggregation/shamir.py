"""Shamir's secret sharing of 32 bytes over the prime field of p = 2^256 + 297, in Python integers.

Source: Shamir 1979, "How to share a secret". Fewer than t shares say nothing about the secret; any t give it back. The
point of a share is the number of its site, so none is at 0, where the secret is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from privacy.errors import ProtocolError
from privacy.keystream import Keystream

__all__ = ["PRIME", "SECRET_BYTES", "SHARE_BYTES", "combine", "split"]

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33

_WORDS = 6  # 384 bits modulo p: at most 2^-127 from uniform


def split(
    secret: bytes, *, threshold: int, points: Sequence[int], coins: Keystream
) -> dict[int, bytes]:
    """A share of `SHARE_BYTES` for every point, any `threshold` of which give the secret.

    Arguments:
        secret: 32 bytes. points: different and from 1. coins: a keystream of this sharing alone.
    """
    if len(secret) != SECRET_BYTES:
        raise ProtocolError(f"Expected a secret of {SECRET_BYTES} bytes, found {len(secret)}")
    if not 1 <= threshold <= len(points) == len(set(points)) or min(points) < 1:
        raise ProtocolError(
            "Expected a threshold of at most the number of points, each once, from 1"
        )
    words = coins.words(_WORDS * (threshold - 1)).astype("<u8").tobytes()
    width = 8 * _WORDS
    coefficients = [
        int.from_bytes(words[place : place + width], "little") % PRIME
        for place in range(0, len(words), width)
    ]
    coefficients.append(int.from_bytes(secret, "big"))
    return {point: _value(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret of these shares, by point: the value at 0 of the polynomial through them.

    Raises:
        ProtocolError: they are not shares, or not of one secret of 32 bytes.
    """
    points = {point: int.from_bytes(share, "big") for point, share in shares.items()}
    if not points or min(points) < 1 or max(points.values()) >= PRIME:
        raise ProtocolError("Expected shares below the prime, at points from 1")
    weights = _weights(tuple(points))
    total = sum(weight * value for weight, value in zip(weights, points.values(), strict=True))
    secret = total % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ProtocolError("Expected shares of one secret")
    return secret.to_bytes(SECRET_BYTES, "big")


@functools.lru_cache(maxsize=4)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Of the values at these points in the value at 0 (Lagrange). One round asks for the same ones for every dealer."""
    weights = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)


def _value(coefficients: Sequence[int], point: int) -> int:
    """Horner's rule, the constant term last."""
    value = 0
    for each in coefficients:
        value = (value * point + each) % PRIME
    return value
