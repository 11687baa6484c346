"""One task after another: taken from the SuperNode, answered by the worker, replied to.

    SuperNode's runtime --task, message--> executor --objects--> worker (confined)
                        <-----reply------          <--objects---

It carries bytes. What it understands of a message is whom to reply to: a worker that dies, is taken over, takes too
long or too much memory has its message answered with a fixed code, at once and without a reason. What a worker replies
is passed on if it is a reply to that very message, and nothing else.

Killed itself, it goes on where it was when it is started again: the task in hand is on the disk
(`client/executor/assignment.py`), and the worker, asked once more, has the same bytes in its ledger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from client.directory import SiteDirectory
from client.executor.assignment import Assignment, AssignmentFile
from client.executor.replies import asked_by, checked_reply, error_reply
from client.executor.runtime import (
    NoMessageError,
    Runtime,
    RuntimeGoneError,
    TaskLostError,
    TaskRuntime,
)
from client.executor.tending import Worker
from client.parcels import Reply, Request
from privacy.errors import ProtocolError, UserError
from study.files import read_whole
from study.notes import note, note_error

__all__ = ["Executor"]

_STOP_SECONDS = 10.0
_START_SECONDS = 60.0
_GONE_PAUSE = 1.0


class Executor:
    """Answers messages, one after another, until it is stopped."""

    def __init__(self, directory: SiteDirectory) -> None:
        settings = directory.settings()
        self._seconds, self._poll = settings.limits.seconds, settings.limits.poll_seconds
        self._runtime = Runtime(settings.network.runtime_port, _secret_of(directory))
        self._file = AssignmentFile(directory / "task")
        self._worker = Worker(directory)
        self._stopping, self._end = threading.Event(), float("inf")
        self._silent = False

    def stop(self) -> None:
        """Finish the message in hand, if that does not take long, and leave."""
        if not self._stopping.is_set():
            self._end = time.monotonic() + _STOP_SECONDS
            self._stopping.set()

    def run(self) -> None:
        """Work. Raises UserError if the worker cannot."""
        try:
            if (
                self._file.read() is None
            ):  # else it is asked as soon as it can be: a token waits for no one
                self._start()
            while not self._stopping.is_set():
                self._worker.tend()
                if not self._step():
                    self._stopping.wait(self._poll)
        finally:
            self._worker.stop()
            self._runtime.close()

    def _start(self) -> None:
        """The first worker, which waits for the last one of a killed executor to finish what it has begun."""
        end = time.monotonic() + self._seconds + _START_SECONDS
        try:
            self._worker.start(lambda: time.monotonic() < end and not self._stopping.is_set())
        except UserError:
            if not self._stopping.is_set():
                raise

    def _step(self) -> bool:
        """Work on the task in hand, or else on the next one; False if there is none."""
        try:
            assignment = self._file.read() or self._runtime.acquire()
            self._silent = False
        except RuntimeGoneError as error:
            if not self._silent:
                note(f"{error.message}; asking again")
            self._silent = True
            self._stopping.wait(_GONE_PAUSE)
            return False
        if assignment is None:
            return False
        try:
            self._work_on(self._file.write(assignment))
        except (TaskLostError, NoMessageError, RuntimeGoneError) as error:
            note(f"A task is given up, and the SuperNode replies for it: {error.message}")
        except Exception as error:  # noqa: BLE001  or it would come back with every start
            note_error("A task is given up, and the SuperNode replies for it", error)
        self._file.clear()
        return True

    def _work_on(self, assignment: Assignment) -> None:
        """Message -> answer -> reply, each on the disk before the next."""
        with self._runtime.task(assignment.token) as task:
            if assignment.message is None:
                task.begin()
                message, tree = task.message(self._waiting(self._seconds))
                assignment = self._file.write(replace(assignment, message=message, tree=tree))
            if assignment.reply is None:
                reply = self._answer(task, assignment)
                assignment = self._file.write(replace(assignment, reply=reply))
            self._push(task, assignment)
            task.done(assignment.run, assignment.tree)

    def _push(self, task: TaskRuntime, assignment: Assignment) -> None:
        reply = assignment.reply
        if reply is None or (assignment.registered and not task.has(reply)):
            return  # it was sent, and forgotten: once more would be another message
        session, wanted = task.register(reply)
        self._file.write(replace(assignment, registered=True))
        task.upload(assignment.run, reply, session, wanted)

    def _answer(self, task: TaskRuntime, assignment: Assignment) -> Reply:
        """The worker's reply, or the fixed code."""
        message = assignment.message or b""
        waiting = self._waiting(self._seconds)
        try:
            asked = asked_by(message, run=assignment.run)
            objects = task.objects(assignment.tree, waiting)
            request = Request(
                run=assignment.run, node=asked.node, task=assignment.task, message=asked.message, objects=objects
            )  # fmt: skip
            del objects
            content = self._worker.ask(request.to_bytes(), waiting)
            if content is not None:
                return checked_reply(content, to=asked)
            note("A message has no answer; why stands in the worker's log")
        except (NoMessageError, ProtocolError) as error:
            note(f"A message has no answer: {error.message}")
        except MemoryError:
            note("A message has no answer: it is too large for the executor's memory")
        return error_reply(message, task=assignment.task)

    def _waiting(self, seconds: float) -> Callable[[], bool]:
        """Is there still time? That ends sooner once the executor is to stop."""
        end = time.monotonic() + seconds
        return lambda: time.monotonic() < min(end, self._end)


def _secret_of(directory: SiteDirectory) -> bytes:
    hint = "discreet site init, given once more, makes another"
    secret = read_whole(directory / "superexec.secret", hint=hint)
    if not secret:
        raise UserError("superexec.secret is empty", hint=f"remove it; {hint}")
    return secret
