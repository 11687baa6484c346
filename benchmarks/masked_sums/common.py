"""What all are given, and how they are timed."""

from __future__ import annotations

import contextlib
import statistics
import time

MEASURED = 3  # sites whose work is measured in a round
NOISE, CLIPPING_NORM, CAPACITY = 2.0, 1.0, 1000  # z, C, and the units of a site


def vector_of(site, dimension):
    """The clipped sum of one site, float64, shape (d,)."""
    import numpy as np

    values = np.random.default_rng(site).standard_normal(dimension)
    return values * (CAPACITY * CLIPPING_NORM / 10 / np.linalg.norm(values))


class Stopwatch:
    """CPU seconds by name."""

    def __init__(self):
        self.spent = {}

    @contextlib.contextmanager
    def __call__(self, name):
        start = time.process_time()
        yield
        self.spent[name] = self.spent.get(name, 0) + time.process_time() - start


def medians(results):
    """The medians of dictionaries of numbers, name by name."""
    names = results[0]
    return {name: statistics.median(each[name] for each in results) for name in names}
