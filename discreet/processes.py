"""Keeps the processes of a deployment going: each has a log, one that dies is started again, all end together.

Processes are ended by their own process id, and die with this one, so that what is started after a crash finds no
half of what was before in its way.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from study.notes import bound_log, last_line, open_log
from study.processes import Process, end, environment_of

__all__ = ["Service", "keep_going"]

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_SETTLED = 30.0  # seconds that a process has to live, for its next death to be its first again
_POLL = 0.1
_PR_SET_PDEATHSIG = 1


@dataclass
class Service:
    """A process to be kept going.

    Attributes:
        process: what is started.
        ending: seconds that it has after SIGTERM.
    """

    process: Process
    ending: float = 10.0
    _running: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _began: float = 0.0
    _due: float = 0.0
    _pause: float = _SHORTEST_PAUSE

    @property
    def pid(self) -> int | None:
        """Of its process, while there is one."""
        return None if self._running is None else self._running.pid

    def tend(self, logs: Path, say: Callable[[str], None]) -> None:
        """Start it if it does not run and its pause is over."""
        now = time.monotonic()
        if self._running is not None:
            code = self._running.poll()
            if code is None:
                return
            if now - self._began > _SETTLED:
                self._pause = _SHORTEST_PAUSE
            log = logs / f"{self.process.name}.log"
            why = f"{log} ends with: {last_line(log)}" if code >= 0 else f"See {log}"
            say(f"{self.process.name} has ended ({_in_words(code)}); it is started again. {why}")
            self._running = None
            self._wait(now)
        if now >= self._due:
            try:
                self._start(logs)
            except OSError as error:
                # No memory for it, no room for its log: no reason to end the others.
                say(f"{self.process.name} cannot be started ({error.strerror}); it is tried again")
                self._wait(now)

    def _wait(self, now: float) -> None:
        """The next start is later, and the one after it later still."""
        self._due = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _start(self, logs: Path) -> None:
        with open_log(logs / f"{self.process.name}.log") as log:
            self._running = subprocess.Popen(  # noqa: S603  a fixed command
                self.process.command, env=environment_of(self.process), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, preexec_fn=_die_with_parent, start_new_session=True,  # noqa: PLW1509  no threads here
            )  # fmt: skip
        self._began = time.monotonic()
        _bound(self._running.pid, self.process.memory)

    def stop(self) -> None:
        """Ask it to end, wait, and make an end of it."""
        if self._running is not None:
            end(self._running, self.ending)
            self._running = None


def keep_going(
    services: Sequence[Service], logs: Path, stop: threading.Event, say: Callable[[str], None]
) -> None:
    """Start all, start again what dies, until `stop`; then end them, the last one first.

    Arguments:
        logs: a directory; each has its file there. say: told what the operator should know.
    """
    logs.mkdir(parents=True, exist_ok=True)
    try:
        while not stop.is_set():
            for each in services:
                each.tend(logs, say)
                bound_log(logs / f"{each.process.name}.log")
            stop.wait(_POLL)
    finally:
        for each in reversed(
            services
        ):  # one after the other: the last one may need the others to finish
            each.stop()


def _in_words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _bound(pid: int, memory: int | None) -> None:
    """At most so many bytes of address space, where the system can bound another process."""
    if memory is not None and sys.platform == "linux":
        with suppress(ProcessLookupError, PermissionError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_AS, (memory, memory))
