"""Masks as symbols, and what linear algebra says of masked vectors: which combinations of them nobody can hide.

A site's vector has one number for its own input, and one for every seed that it may mask with. `masks.add_masks` is all
that is replaced, and only in what it expands a seed to: not to a keystream, but to the unit vector of that seed. So an
upload is, in clear, an integer combination of symbols: a `row`, from seeds (their own 32 bytes) to coefficients.

Modulo 2^bits the mask of an unknown seed is a one-time pad. So the uploads, as random variables, say about the inputs
what those combinations say in which every unknown seed has cancelled, and nothing else.
"""

import itertools
from collections import Counter
from contextlib import contextmanager
from fractions import Fraction

import numpy as np

from privacy.secure_aggregation import masks

BITS = 64


class Expansion:
    """Stands in for the keystream: slot 0 of a vector is the input, the others are seeds as they come."""

    def __init__(self):
        self._slots = {}

    def add_masks(self, vector, seeds):
        for sign, seed in seeds:
            slot = self._slots.setdefault(seed, 1 + len(self._slots))
            vector[slot : slot + 1] += np.uint64(sign % 2**BITS)  # an array wraps around in silence

    def row_of(self, masked):
        """{seed: coefficient} of the upload that was just made, and an empty page for the next one."""
        numbers = masks.centred(masked)
        assert numbers[0] == 1, "an input goes in once, and comes out once"
        row = {seed: int(numbers[slot]) for seed, slot in self._slots.items() if numbers[slot]}
        self._slots = {}
        return row


def unit_input(dimension):
    """What the site answers: its own symbol."""
    return np.eye(1, dimension, dtype=np.int64)[0]


@contextmanager
def symbolic(expansion):
    """The shipped code, with masks that can be read."""
    keystream = masks.add_masks
    masks.add_masks = expansion.add_masks
    try:
        yield
    finally:
        masks.add_masks = keystream


def circuits(rows, known):
    """The learnable combinations of `rows` that have no learnable part, as sorted tuples of places.

    Every learnable combination is a sum of multiples of these (circuits span the kernel), so one that breaks a rule for
    its support means that one of these does.
    """
    unknown = [{seed: factor for seed, factor in row.items() if seed not in known} for row in rows]
    found = []
    for part in _connected(_with_partners(unknown)):
        found += [part] if _is_graph(part, unknown) else dependent_sets(part, unknown)
    return found


def _with_partners(unknown):
    """Leave out rows that hold an unknown seed which no other row has: nothing can cancel it, again and again."""
    left = set(range(len(unknown)))
    while True:
        held = Counter(seed for place in left for seed in unknown[place])
        alone = {place for place in left if any(held[seed] == 1 for seed in unknown[place])}
        if not alone:
            return {place: unknown[place] for place in sorted(left)}
        left -= alone


def _connected(rows):
    """Sorted tuples of places, of which no two share a seed."""
    parts = []
    for place, row in rows.items():
        near = [part for part in parts if not part[1].isdisjoint(row)]
        for each in near:
            parts.remove(each)
        places = itertools.chain([place], *(part[0] for part in near))
        parts.append((tuple(sorted(places)), set(row).union(*(part[1] for part in near))))
    return [places for places, _ in parts]


def _is_graph(part, rows):
    """Has every seed one +1 and one -1? Then a combination that cancels all is constant on a connected part.

    This holds over every ring (the matrix is the incidence matrix of a graph, which is totally unimodular), so what the
    integers modulo 2^bits can say is what the rationals can.
    """
    factors = {}
    for place in part:
        for seed, factor in rows[place].items():
            factors.setdefault(seed, []).append(factor)
    return all(sorted(each) == [-1, 1] for each in factors.values())


def dependent_sets(part, rows):
    """By elimination over the rationals: every minimal set of these rows of which some combination is zero."""
    found = []
    for size in range(1, len(part) + 1):
        for places in itertools.combinations(part, size):
            if any(set(smaller) <= set(places) for smaller in found):
                continue
            if _rank([rows[place] for place in places]) < size:
                found.append(places)
    return found


def _rank(rows):
    rank, left = 0, [{seed: Fraction(factor) for seed, factor in row.items()} for row in rows]
    while left:
        pivot = left.pop()
        if not pivot:
            continue
        rank += 1
        seed, head = next(iter(pivot.items()))
        left = [_without(row, seed, pivot, head) for row in left]
    return rank


def _without(row, seed, pivot, head):
    times = row.get(seed, 0) / head
    if not times:
        return row
    found = {
        each: row.get(each, 0) - times * pivot.get(each, 0) for each in row.keys() | pivot.keys()
    }
    return {each: factor for each, factor in found.items() if factor}
