"""The coordinator's own executor: takes ServerApp tasks from SuperLink, and sees to the processes that run them.

    SuperLink --task--> supervisor: token, heartbeat --> study process (`server/study_process.py`)

    python -m server.supervisor DIR

What a run ships is never unpacked: the installed ServerApp runs, and of the run's settings counts the study's hash.

| dies | goes on |
|---|---|
| a study process | with the same task, at once |
| this process, or all of the coordinator, for less than a minute | with the same tasks: their tokens are on the disk |
| for longer: SuperLink has given the task up | as a new run of the same study, from its checkpoint |
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient

from privacy.errors import DiscreetError
from server.directory import CoordinatorDirectory
from server.superlink import Control
from server.tasks import FAILED, Task
from study.notes import note
from study.processes import Process, end, environment_of, stop_on_signals

__all__ = ["Supervisor"]

_LOOPBACK = "127.0.0.1"
_SERVER_APP = "flwr-serverapp"
_POLL = 0.2  # seconds between two looks at processes,
_BEAT = 10.0  # two heartbeats,
_LOOK = 5.0  # and two looks for lost runs
_LONGEST_PAUSE = 30.0
_STOPPING = 5.0
_STOPPED = {
    "failed": "it was stopped by its coordinator",
    "hint": "sites keep what they have charged; each closes the study: discreet ledger close",
}


class Supervisor:
    """Takes tasks and keeps their processes going, until it is told to stop.

    Arguments:
        stop: set from outside, when it is to end. What it has not finished it takes up when it is started again.
    """

    def __init__(self, directory: CoordinatorDirectory, stop: threading.Event) -> None:
        self._directory, self._stop = directory, stop
        self._tasks = directory / "tasks"
        self._running: dict[int, _Running] = {}
        self._said = ""
        self._client = self._connected(
            SuperExecAuthHttpInterceptor(
                master_secret=(directory / "superexec.secret").read_bytes(),
                protected_methods=["/flwr.proto.Runtime/AcquireTask"],
            )
        )

    def run(self) -> None:
        """Work until told to stop."""
        self._tasks.mkdir(exist_ok=True, mode=0o700)
        for path in sorted(self._tasks.glob("*.json")):
            with self._others_go_on(path.name):
                self._take(Task.read(path))
        looked = 0.0
        while not self._stop.wait(_POLL):
            # SuperLink may be away; it comes back with its database.
            with self._others_go_on("taking a task"), suppress(httpx.HTTPError):
                self._acquire()
            for each in list(self._running.values()):
                with self._others_go_on(f"run {each.task.run}"):
                    if each.tend():
                        self._drop(each.task)
            if time.monotonic() - looked > _LOOK:
                looked = time.monotonic()
                with (
                    self._others_go_on("looking for lost runs"),
                    suppress(DiscreetError),
                    Control(self._directory) as control,
                ):
                    self._register_nodes(control)
                    self._start_lost_runs(control)
        for each in self._running.values():
            each.stop()

    @contextmanager
    def _others_go_on(self, what: str) -> Iterator[None]:
        """A disk that is full, a directory that is somebody else's: no reason to end the other studies. Said once."""
        try:
            yield
        except OSError as error:
            said = f"{what} is tried again: {error.strerror}: {error.filename}"
            if said != self._said:
                note(said)
            self._said = said

    def _connected(self, interceptor: object) -> RuntimeHttpClient:
        port = self._directory.settings().network.superlink_port
        certificate = (self._directory / "ca.pem").read_bytes()
        return RuntimeHttpClient.from_server_address(
            f"{_LOOPBACK}:{port}", False, certificate,
            [RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"), interceptor],  # type: ignore[list-item]
        )  # fmt: skip

    def _acquire(self) -> None:
        found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[_SERVER_APP]))
        if found.HasField("task") and found.token:
            task = Task(token=found.token, task=found.task.task_id, run=found.task.run_id)
            task.write(self._path(task))  # before anything else is done with it
            self._take(task)

    def _path(self, task: Task) -> Path:
        return self._tasks / f"{task.task}.json"

    def _take(self, task: Task) -> None:
        client = self._connected(RuntimeTokenHttpInterceptor(task.token))
        try:
            if not task.study:
                task = _with_input(task, client)
                task.write(self._path(task))
            self._require_open(task)
            self._directory.study(task.study).begin(task.run)
            self._running[task.task] = _Running(self._directory, task, self._path(task), client)
            note(f"run {task.run}: study {task.study[:12]}")
        except _TaskLostError as lost:
            note(f"run {task.run} is lost: {lost}")
            self._drop(task)
        except DiscreetError as error:
            note(f"run {task.run} is refused: {error.message}")
            _finish(client, "failed", error.message)
            self._drop(task)

    def _require_open(self, task: Task) -> None:
        """Raise DiscreetError unless this is a study that was submitted here, is not over, and not running."""
        place = self._directory.study(task.study)
        if not (task.study.isalnum() and place.is_submitted):
            raise DiscreetError(
                "Expected the hash of a study that was submitted to this coordinator"
            )
        if place.is_over:
            raise DiscreetError("Expected a study that is not over")
        if any(each.task.study == task.study for each in self._running.values()):
            raise DiscreetError("Expected a study that is not running already")

    def _drop(self, task: Task) -> None:
        self._running.pop(task.task, None)
        self._path(task).unlink(missing_ok=True)

    def _register_nodes(self, control: Control) -> None:
        """SuperLink knows the nodes of `sites.json`.

        Those that are no longer there the gateway refuses. SuperLink keeps them: it would never take their keys again.
        """
        known = control.nodes()
        for key in self._directory.sites().values():
            if key not in known:
                control.register_node(key)

    def _start_lost_runs(self, control: Control) -> None:
        """A study that has begun, is not over, and whose run SuperLink has given up: as a new run, where it was.

        One that nobody runs, and that is to stop, is over.
        """
        running = {each.task.run for each in self._running.values()}
        for place in self._directory.studies():
            run = place.run
            if run in running or place.is_over:
                continue
            lost = run is None or control.run_status(run).is_finished
            if lost and place.is_to_stop:
                place.give_up(_STOPPED)
            elif lost and run is not None:
                study = place.path.name
                started = control.start_run(study)
                place.begin(started)
                note(f"run {run} was given up; run {started} goes on with study {study[:12]}")


class _TaskLostError(Exception):
    """SuperLink has given a task up."""


class _Running:
    """A task and the process that runs it."""

    def __init__(
        self, directory: CoordinatorDirectory, task: Task, path: Path, client: RuntimeHttpClient
    ) -> None:
        self.task = task
        self._directory, self._path, self._client = directory, path, client
        self._study = directory.study(task.study)
        self._process: subprocess.Popen[bytes] | None = None
        self._beaten = self._due = 0.0
        self._pause = 0.5

    def tend(self) -> bool:
        """Beat, look after the process; is the task over?"""
        if not self._beat():
            note(f"run {self.task.run}: SuperLink has given it up")
            self.stop()
            return True
        if self._study.is_to_stop:
            return self._end()
        if self._process is None:
            if time.monotonic() >= self._due:
                self._start()
            return False
        code = self._process.poll()
        if code is None:
            return False
        self._process = None
        if code in (0, FAILED):
            note(f"run {self.task.run}: {'finished' if code == 0 else 'failed'}")
            return _finish(self._client, "completed" if code == 0 else "failed", "")
        self._due = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        note(f"run {self.task.run}: its process ended with {code}, and is begun again")
        return False

    def _end(self) -> bool:
        """Somebody has asked for it. A study that has come to its own end in the meantime keeps that."""
        self.stop()
        if self._study.give_up(_STOPPED):
            note(f"run {self.task.run}: stopped, as was asked")
        return _finish(self._client, "failed", "stopped")

    def _beat(self) -> bool:
        """False once SuperLink says that the token is not valid any more."""
        now = time.monotonic()
        if now - self._beaten < _BEAT:
            return True
        try:
            alive = self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
        except httpx.HTTPStatusError as error:
            alive = error.response.status_code not in (401, 403)
        except httpx.HTTPError:
            return True  # SuperLink is away: ask again at once when it is back
        self._beaten = now
        return alive

    def _start(self) -> None:
        process = Process(
            name=f"study-{self.task.study[:12]}", flower_home=self._directory / "flower",
            command=(
                sys.executable, "-P", "-m", "server.study_process", str(self._directory.path), str(self._path),
            ),
        )  # fmt: skip
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            process.command, env=environment_of(process), stdin=subprocess.DEVNULL
        )

    def stop(self) -> None:
        """End the process; it can be begun again."""
        if self._process is not None:
            end(self._process, _STOPPING)
            self._process = None


def _with_input(task: Task, client: RuntimeHttpClient) -> Task:
    try:
        found = client.PullTaskInput(PullTaskInputRequest())
    except httpx.HTTPStatusError as error:
        raise _TaskLostError(f"its input was refused with {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise _TaskLostError("its input did not come") from error
    study = (
        found.run.override_config["study"].string if "study" in found.run.override_config else ""
    )
    return replace(task, node=found.context.node_id, study=study or "unknown")


def _finish(client: RuntimeHttpClient, status: str, details: str) -> bool:
    """Tell SuperLink how a task has ended; was it told?"""
    request = PushTaskOutputRequest(sub_status=status, details=details)
    try:
        client.PushTaskOutput(request)
    except httpx.HTTPStatusError:
        return True  # it has given the task up itself
    except httpx.HTTPError:
        return False
    return True


def main(directory: CoordinatorDirectory) -> None:
    """Run the supervisor until a signal stops it."""
    os.umask(0o077)
    Supervisor(directory, stop_on_signals()).run()


if __name__ == "__main__":
    main(CoordinatorDirectory(Path(sys.argv[1])))
