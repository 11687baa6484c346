"""Masks: a vector of the ring from 32 secret bytes, added in place while it is in the cache.

Modulo 2^bits a mask that nobody knows is a one-time pad: the sum of a vector and it is uniform, whatever the vector is.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privacy.errors import ProtocolError
from privacy.secure_aggregation.messages import Numbers

__all__ = ["Seeds", "add_masks", "centred", "to_ring", "zeros"]

Seeds = Iterable[tuple[int, bytes]]
"""Signs, +1 or -1, and seeds of 32 bytes; each seed masks one vector and nothing else."""

_BLOCK = (
    1 << 17
)  # bytes: the block, its keystream and the zeros that it is made of stay in the second cache
_ZEROS = bytes(_BLOCK)


def add_masks(vector: Numbers, seeds: Seeds) -> None:
    """Add the mask of every seed to `vector`, in place, with its sign.

    A mask is the AES-256-CTR keystream of its seed from counter 0, little-endian numbers of the vector's width.
    """
    if not vector.flags.c_contiguous or vector.dtype.kind != "u":
        raise ProtocolError("Expected a contiguous vector of unsigned numbers")
    streams = [
        (sign, Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor())
        for sign, seed in seeds
    ]
    width = vector.dtype.itemsize
    keystream = bytearray(_BLOCK)
    words = np.frombuffer(keystream, f"<u{width}")
    for start in range(0, len(vector), _BLOCK // width):
        part = vector[start : start + _BLOCK // width]
        size = part.nbytes
        zeros, bytes_of_part = memoryview(_ZEROS)[:size], memoryview(keystream)[:size]
        for sign, stream in streams:
            stream.update_into(zeros, bytes_of_part)
            operation = np.add if sign > 0 else np.subtract
            operation(part, words[: len(part)], out=part)


def zeros(dimension: int, bits: int) -> Numbers:
    """The sum of nothing, modulo 2^bits."""
    return np.zeros(dimension, np.uint32) if bits == 32 else np.zeros(dimension, np.uint64)


def to_ring(integers: npt.NDArray[np.int64], bits: int) -> Numbers:
    """Integers modulo 2^bits, a new array."""
    return integers.astype(np.uint32) if bits == 32 else integers.astype(np.uint64)


def centred(vector: Numbers) -> npt.NDArray[np.int64]:
    """The integers nearest to zero of these classes: the true sum, where that fits the ring."""
    signed = np.int32 if vector.dtype.itemsize == 4 else np.int64
    return vector.view(signed).astype(np.int64)
