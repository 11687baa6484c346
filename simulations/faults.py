"""Faults: those that a simulation injects, reproducible from its seed, and one that it holds off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from flwr.app import Message

from privacy.errors import UserError

__all__ = ["random_drops", "uninterrupted"]


def random_drops(rate: float, *, simulation_seed: int) -> Callable[[Message], bool]:
    """Every site misses each query with probability `rate`, independently.

    Whether a node misses a query follows from the seed, the node and the query's number alone, so a resumed run sees
    the same faults.
    """
    if not 0 <= rate < 1:
        raise UserError(f"--drop: expected a rate of at least 0 and below 1, found {rate:g}")

    def drops(message: Message) -> bool:
        place = [simulation_seed, message.metadata.dst_node_id, int(message.metadata.group_id)]
        return bool(np.random.Generator(np.random.PCG64(place)).random() < rate)

    return drops


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: a query that a site has charged and not answered would be burnt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        signal.raise_signal(signal.SIGINT)
