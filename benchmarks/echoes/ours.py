"""Our federation: SuperLink behind our gateway, Flower's own SuperNodes, our executors and confined workers."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace

from echoes.common import (
    BEAT,
    LIMIT,
    ONCE,
    SCRIPT,
    STARTING,
    FailedError,
    Federation,
    end,
    launched,
)


class Ours(Federation):
    """A federation of Discreet whose workers echo; a context manager."""

    name = "Discreet"

    def __init__(self, root, sites):
        from deployment import Deployment

        from server.directory import CoordinatorDirectory

        self.made = Deployment(root, sites=sites, waits=ONCE)
        self.made.make()
        self.directory = CoordinatorDirectory(self.made.coordinator)
        self.services, self.executors, self.asked = [], [], 0
        self.leaving, self.beating = threading.Event(), None
        self.open = ExitStack()

    def __exit__(self, *_error):
        self.leaving.set()
        if self.beating is not None:
            self.beating.join(LIMIT)
        end(self.services)
        self.open.close()

    def start(self):
        """The coordinator's side, up to a run whose token is ours."""
        from machine import wait_for

        from server.processes import gateway_process, superlink_process
        from server.superlink import Control

        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        self.services += [
            launched(superlink_process(self.directory), logs),
            launched(gateway_process(self.directory), logs),
        ]
        wait_for(self.answers, "SuperLink", limit=STARTING)
        with Control(self.directory) as control:
            for key in self.directory.sites().values():
                control.register_node(key)
            control.start_run("0" * 64)
        self.take_task()

    def answers(self):
        from privacy.errors import DiscreetError
        from server.superlink import Control

        try:
            with Control(self.directory) as control:
                control.nodes()
        except DiscreetError:
            return False
        return True

    def take_task(self):
        """The token of the run, as the supervisor acquires it, and what a study process makes of it."""
        from flwr.proto.runtime_pb2 import AcquireTaskRequest
        from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor

        from server import study_process, supervisor
        from server.tasks import Task

        taker = supervisor.Supervisor(self.directory, self.leaving)
        self.open.callback(taker._client.close)
        found = taker._client.AcquireTask(
            AcquireTaskRequest(supported_task_types=[supervisor._SERVER_APP])
        )
        task = Task(token=found.token, task=found.task.task_id, run=found.task.run_id)
        client = taker._connected(RuntimeTokenHttpInterceptor(task.token))
        self.open.callback(client.close)
        task = supervisor._with_input(task, client)
        self.grid = study_process._grid(self.directory, task)
        self.open.callback(self.grid.close)
        place = self.directory.study(self.made.study)
        # Without a roster there are no identities: the desk echoes what is not signed.
        self.way = replace(study_process._way(self.directory, self.grid, place), key=None)
        self.beating = threading.Thread(target=self.beat, args=(client,), daemon=True)
        self.beating.start()

    def beat(self, client):
        import httpx
        from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

        while not self.leaving.wait(BEAT):
            with suppress(httpx.HTTPError):
                client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    def have(self, sites):
        """So many sites are there."""
        from machine import wait_for

        from client.directory import SiteDirectory
        from client.processes import executor_process, supernode_process

        for name in self.made.names[len(self.executors) : sites]:
            place = SiteDirectory(self.made.site(name))
            (place / "logs").mkdir(exist_ok=True)
            program = (sys.executable, "-P", str(SCRIPT), "--executor", str(place.path))
            executor = launched(
                replace(executor_process(place), command=program), place / "logs", 12.0
            )
            self.services += [launched(supernode_process(place), place / "logs"), executor]
            self.executors.append(executor)
        wait_for(lambda: len(self.way.nodes()) >= sites, f"{sites} of our sites", limit=STARTING)

    def idlers(self):
        """Who asks for work all the time."""
        return [each.pid for each in self.executors]

    def trip(self, sites, size):
        """Seconds of one trip. Raises FailedError."""
        from server.journal import Journal
        from server.trips import Trips

        names = self.made.names[:sites]
        contents = {name: secrets.token_bytes(size) for name in names}
        journal = Journal(self.directory / "open")
        journal.begin(self.asked, {})
        trips = Trips(self.grid, names, self.way, journal=journal)
        began = time.monotonic()
        replies = trips.ask(contents, index=self.asked, trip="A")
        seconds = time.monotonic() - began
        journal.end()
        self.asked += 1
        for name, reply in replies.items():
            if reply.problem is not None:
                raise FailedError(reply.problem)
            assert reply.content == inverted(contents[name]), "other bytes"
        return seconds


def inverted(content):
    import numpy as np

    return (~np.frombuffer(content, np.uint8)).tobytes()


class EchoDesk:
    """What the worker of an echo has in the place of a ledger."""

    def refresh(self):
        pass

    def answer(self, content):
        from client.parcels import Request
        from client.worker.answering import answered

        try:
            return answered(self.reply, Request.from_bytes(content)).to_bytes()
        except Exception as error:  # noqa: BLE001  as the desk does
            print(f"{type(error).__name__}: {error}", flush=True)  # into the worker's log
            return b""

    @staticmethod
    def reply(*, message, context):  # noqa: ARG004  as a ClientApp is called
        from study.envelope import answer_message, content_of

        return answer_message(inverted(content_of(message)), to=message)


def be_executor(place):
    import client.executor.__main__
    import client.executor.tending

    client.executor.tending._COMMAND = ("-P", str(SCRIPT), "--worker")
    return client.executor.__main__.main([place])


def be_worker(place):
    import client.worker.__main__

    client.worker.__main__._desk = lambda _directory: EchoDesk()
    return client.worker.__main__.main([place])
