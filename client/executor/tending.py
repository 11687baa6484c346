"""The worker, as the executor sees it: started, asked, killed where it takes too long, and started again.

| the worker | the message | the next worker |
|---|---|---|
| dies, or is killed for its time, while it answers | has no reply from it | at once |
| does so again before it has answered any | the same, as long as there is no worker | after 1, 2, 4, ... 30 s |
| dies while there is nothing to do | - | the same |
| cannot work, and says why, the first time | - | none: the executor does not start |
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from client.directory import SiteDirectory
from client.parcels import Pipe, unpack, until
from privacy.errors import ProtocolError, UserError
from study.notes import bound_log, note, open_log
from study.processes import Process, environment_of

__all__ = ["Worker"]

_LONGEST_PAUSE = 30.0
_LEAVE_SECONDS = 5.0
_COMMAND = (
    "-P",
    "-m",
    "client.worker",
)  # -P: nothing is imported from wherever the site was started


class Worker:
    """The one worker of a directory."""

    def __init__(self, directory: SiteDirectory) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe | None = None
        self._ready = False
        self._failures, self._not_before = 0, 0.0

    @property
    def pid(self) -> int | None:
        """Of its process; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self, waiting: Callable[[], bool]) -> None:
        """The first worker. Raises UserError if it cannot work, with its reason."""
        self._launch()
        problem = self._until_ready(waiting)
        if problem is not None:
            self._end()
            raise problem

    def tend(self) -> None:
        """While there is nothing to do: see that there is a worker, as soon as there may be one."""
        bound_log(self._directory / "logs" / "worker.log")
        if self._process is not None and self._process.poll() is not None:
            self._failed("has died")
        if self._process is None and time.monotonic() >= self._not_before:
            self._launch()
        if self._pipe is not None and not self._ready and not self._pipe.is_silent(0.0):
            self._become_ready(until(_LEAVE_SECONDS))

    def ask(self, content: bytes, waiting: Callable[[], bool]) -> bytes | None:
        """What the worker replies to a request; None: nothing, it has died or was killed as `waiting` had said no."""
        self.tend()
        if self._process is None or not self._become_ready(waiting):
            return None
        pipe = self._pipe
        assert pipe is not None  # noqa: S101  there is one as long as there is a process
        try:
            reply = pipe.receive(waiting) if pipe.send(content, waiting) else None
        except (
            MemoryError
        ):  # in the middle of a frame: what follows could not be told from the next
            reply = None
        if reply is None:
            self._failed("has died" if waiting() else "took too long")
            return None
        self._failures = 0
        return reply or None

    def stop(self) -> None:
        """No more messages: it ends by itself, or is killed."""
        if self._process is not None and self._pipe is not None:
            self._pipe.close()
            self._pipe = None
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVE_SECONDS)
        self._end()

    def _launch(self) -> None:
        requests, ours = os.pipe()
        theirs, replies = os.pipe()
        home = self._directory / "flower"
        kind = Process(name="worker", command=(), flower_home=home)
        with self._log() as log:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, *_COMMAND, str(self._directory.path)],
                stdin=requests, stdout=replies, stderr=log, env=environment_of(kind), start_new_session=True,
            )  # fmt: skip
        os.close(requests)
        os.close(replies)
        self._pipe, self._ready = Pipe(theirs, ours), False

    def _log(self) -> BinaryIO:
        """What the worker says, and its libraries."""
        path = self._directory / "logs" / "worker.log"
        path.parent.mkdir(exist_ok=True)
        return open_log(path)

    def _become_ready(self, waiting: Callable[[], bool]) -> bool:
        """Can it be asked? Waits for a worker that is starting; one that takes too long is given up."""
        problem = self._until_ready(waiting)
        if problem is not None:
            self._failed(f"cannot work: {problem.message}")
        return self._ready

    def _until_ready(self, waiting: Callable[[], bool]) -> UserError | None:
        """Wait for the worker's first frame; why there is none."""
        if self._ready or self._pipe is None:
            return None
        content = self._pipe.receive(waiting)
        if content is None:
            return UserError("The worker did not start", hint="logs/worker.log says why")
        try:
            head, _ = unpack(content)
        except ProtocolError as error:
            return UserError(error.message)
        if "problem" in head:
            return UserError(str(head["problem"]), hint=str(head.get("hint", "")))
        self._ready = True
        held = head.get("held")
        if isinstance(held, dict):
            note("The worker is ready. " + "; ".join(f"{what}: {held[what]}" for what in held))
        return None

    def _failed(self, how: str) -> None:
        self._end()
        self._failures += 1
        pause = 0.0 if self._failures == 1 else min(2.0 ** (self._failures - 2), _LONGEST_PAUSE)
        self._not_before = time.monotonic() + pause
        note(f"The worker {how}; the next one starts" + (f" in {pause:g} s" if pause else ""))

    def _end(self) -> None:
        """Whatever it is doing."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process, self._pipe, self._ready = None, None, False
