"""The limit: as many keystreams as there are masks, added up, and nothing else."""

from __future__ import annotations

import os
import time


class Limit:
    """Nothing but keystreams and their addition, in the best of three sizes of block."""

    setup = {}  # noqa: RUF012

    def __init__(self, sites):
        self.sites = sites

    def run(self, dimension, missing, *, memory):
        """CPU seconds for the masks of a site, and of the coordinator."""
        if memory:
            return {}
        present = self.sites - len(missing)
        streams = {"site": self.sites, "coordinator": present * (1 + len(missing))}
        return {
            name: min(self.added(dimension, count, 1 << power) for power in (16, 17, 18))
            for name, count in streams.items()
        }

    @staticmethod
    def added(dimension, count, block):
        import numpy as np
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        vector, zeros, keystream = np.zeros(dimension, np.uint32), bytes(block), bytearray(block)
        words, seeds = np.frombuffer(keystream, np.uint32), [os.urandom(32) for _ in range(count)]
        start = time.process_time()
        streams = [
            Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor() for seed in seeds
        ]
        for first in range(0, dimension, block // 4):
            part = vector[first : first + block // 4]
            source, target = memoryview(zeros)[: part.nbytes], memoryview(keystream)[: part.nbytes]
            for stream in streams:
                stream.update_into(source, target)
                np.add(part, words[: len(part)], out=part)
        return time.process_time() - start
