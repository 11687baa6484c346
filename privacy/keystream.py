"""Cryptographic randomness: an AES-256-CTR keystream read as 64-bit words.

Noise, dither, sampling and (later) masks all come from here, each with a key of its own, so no generator in
Discreet can be guessed from its outputs. A keystream is never rewound, copied, pickled or carried over a fork:
reusing noise would let two answers be subtracted.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from typing import ClassVar, NoReturn

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privacy.errors import PrivacyError

__all__ = ["KEY_BYTES", "Keystream", "derive_key", "repetition_distance"]

KEY_BYTES = 32
_CHUNK = 1 << 18  # bytes encrypted at a time: input and output stay in the cache


class Keystream:
    """Words of an AES-256-CTR keystream with a fixed nonce; every key is used for one keystream only.

    Guarantees: words are handed out once, in order, whichever threads ask. A copy of the object in a forked
    process refuses to go on, since it would repeat the parent's words; it does so without waiting for a lock that
    a thread of the parent may have held. Numbers of processes are used again (by the kernel, by containers), so the
    forks on the way to this process are counted as well.

    Arguments:
        key: 32 secret bytes. A caller at a real site draws them with `secrets.token_bytes`.
    """

    _forks: ClassVar[int] = 0

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise PrivacyError(f"Expected a key of {KEY_BYTES} bytes, found {len(key)}")
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        self._lock = threading.Lock()
        self._process = self._this_process()

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """The next `count` words, uniform on 0 .. 2^64 - 1, shape (count,)."""
        if count < 0:
            raise PrivacyError(f"Expected a number of words of at least 0, found {count}")
        if self._this_process() != self._process:
            raise PrivacyError("Expected the process that made this keystream, found a fork of it")
        out = np.empty(count, dtype="<u8")
        view = memoryview(out.data).cast("B") if count else memoryview(b"")
        zeros = bytes(min(_CHUNK, len(view)))
        with self._lock:
            for start in range(0, len(view), _CHUNK):
                block = view[start : start + _CHUNK]
                self._encryptor.update_into(memoryview(zeros)[: len(block)], block)
        return out.astype(np.uint64, copy=False)

    @classmethod
    def _this_process(cls) -> tuple[int, int]:
        return os.getpid(), cls._forks

    @classmethod
    def _count_fork(cls) -> None:
        cls._forks += 1

    def __repr__(self) -> str:
        return "Keystream(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A keystream cannot be copied or pickled: it would repeat its words")


if hasattr(os, "register_at_fork"):  # where there is fork
    os.register_at_fork(after_in_child=Keystream._count_fork)


def repetition_distance(words: int) -> float:
    """Total variation distance of so many words of one keystream from independent ones, at most.

    AES is taken for a random permutation. It never gives a block of two words twice, which independent words do for
    each of the b (b - 1) / 2 pairs of blocks with a probability of 2^-128 (the PRP/PRF switching lemma).
    """
    blocks = words // 2 + 1
    return blocks * (blocks - 1) * 2.0**-129


def derive_key(root: bytes, *labels: str | int | bytes) -> bytes:
    """A 32-byte key for one purpose: HMAC-SHA-256 of the length-prefixed labels under `root`.

    HMAC is a pseudo-random function, so keys of different labels are independent to whoever does not hold `root`;
    length prefixes keep ("ab", "c") and ("a", "bc") apart.

    Raises:
        PrivacyError: the root is empty, as a file is whose writing was interrupted.
    """
    if not root:
        raise PrivacyError("Expected a secret to derive keys from, found none")
    parts = [each if isinstance(each, bytes) else str(each).encode() for each in labels]
    message = b"".join(len(each).to_bytes(8, "big") + each for each in parts)
    return hmac.new(root, message, hashlib.sha256).digest()
