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

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
def uninterrupted(*, heeded: bool = True) -> Iterator[None]:
    """Let whatever asks this process to end wait for the end of the block: Ctrl-C, `kill`, a terminal that is closed.

    A query that a site has charged and not answered would be burnt. Without `heeded` what was asked is forgotten.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def later(number: int, _frame: object) -> None:
        asked.append(number)

    before = {number: signal.signal(number, later) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked and heeded:
        signal.raise_signal(asked[0])
