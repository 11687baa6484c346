"""What both federations need: limits, processes that are started, stopped and ended."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "deployment.py"
SMALL = 2_000  # bytes of a message of a trip
LIMIT = 120.0  # seconds that a trip may take
WAITS = {"trip": LIMIT, "again": 20.0, "unreachable": 20.0}  # of the coordinator
ONCE = WAITS | {
    "again": LIMIT
}  # or what is under way to a slow site twice would be in the way of the next trip
STARTING = 60.0
BEAT = 10.0
MB = 1_000_000
BEGAN = time.monotonic()


class FailedError(Exception):
    """A trip that did not come to its end, and why."""


class Federation:
    """A context manager: `start` begins it, and `__exit__` ends it, also where it could not be begun."""

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self


def say(line):
    print(f"{time.monotonic() - BEGAN:4.0f} s  {line}", file=sys.stderr, flush=True)


def started_at(pid):
    """What tells a process from a later one of the same id; None: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def end(services):
    """End services, the last one first, and what they have started and left behind, each by its own id."""
    from deployment import _descendants

    left = []
    for each in services:
        left += [(pid, started_at(pid)) for pid in _descendants(each.pid)]
        with suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGCONT)
            os.kill(each.pid, signal.SIGTERM)
    for each in reversed(services):
        each.stop()
    for pid, start in left:
        if start is not None and started_at(pid) == start:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def launched(process, logs, ending=3.0):
    """A service that runs. It is not started again: whoever waits for it fails."""
    from discreet.processes import Service

    service = Service(process, ending=ending)
    service.tend(logs, say)
    return service


@contextmanager
def stopped(pids):
    """These processes wait."""
    try:
        for each in pids:
            os.kill(each, signal.SIGSTOP)
        yield
    finally:
        for each in pids:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)
