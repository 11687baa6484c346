"""Measure a deployment on the loopback: seconds a trip, MB/s of an echo, and memory, beside Flower as it comes.

    python benchmarks/deployment.py [--quick] [--out FILE.md]

Both federations are up at the same time and are asked in turn; while one is asked, what the other would do when idle
is stopped: our executors, which look for work every .1 s, and Flower's SuperExecs. Printed are medians, and the range.

* echo: our SuperLink behind our gateway, Flower's own SuperNodes, our executors. Their confined workers have a desk
  that inverts every byte of a message, so that no part of a reply is spared for being known already. The coordinator's
  side is that of a study process (`server/study_process.py`): its Grid, its trips, its journal on the disk. Nobody
  is asked twice, however long it takes.
* masked study: the same with everything, started by `discreet`: ledgers, signatures, masks, noise, checkpoints. The
  seconds of a query, divided by its two trips; the first query, which sets up the session, is left out.
* Flower: `flower-superlink`, `flower-supernode`s and `flwr run` with their defaults: subprocess isolation, a database
  in memory; without TLS, node authentication and a gateway, all of which we have. The ServerApp times
  `grid.send_and_receive` of an ArrayRecord of as many bytes, other ones for every site, and the ClientApp inverts them.

Memory is the proportional set size (PSS) at its highest: pages that several processes have count in parts. As all
sites of this machine share the pages of their libraries, what one site would take on a machine of its own stands
beside it: its private pages, and each file's pages once. Ours is measured in the masked study, Flower's in the echo.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

sys.path = [each for each in sys.path if Path(each).resolve() != Path(__file__).parent]

SCRIPT = Path(__file__).resolve()
SUPPORT = SCRIPT.parents[1] / "tests" / "support"
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

FLOWER_PROJECT = """\
[project]
name = "echo"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "echo"
fab-include = ["pyproject.toml", "**/*.py"]

[tool.flwr.app.components]
serverapp = "echo.server:app"
clientapp = "echo.client:app"

[tool.flwr.app.config]
place = ""
"""

FLOWER_CLIENT = """\
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def echo(message, context):
    (values,) = message.content["echo"].to_numpy_ndarrays()
    return Message(RecordDict({"echo": ArrayRecord([~values])}), reply_to=message)
"""

FLOWER_SERVER = """\
import json
import secrets
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    place, number = Path(context.run_config["place"]), 0
    while place.is_dir():
        path = place / f"{number}.case"
        if not path.exists():
            time.sleep(0.05)
            continue
        case = json.loads(path.read_text())
        if not case["sites"]:
            return
        try:
            outcome = {"seconds": asked(grid, **case)}
        except Exception as error:
            outcome = {"problem": f"{type(error).__name__}: {error}"}
        written = place / f"{number}.writing"
        written.write_text(json.dumps(outcome))
        written.rename(place / f"{number}.outcome")
        number += 1


def asked(grid, sites, size, limit):
    nodes = sorted(grid.get_node_ids())[:sites]
    assert len(nodes) == sites, f"{len(nodes)} nodes"
    values = {each: np.frombuffer(secrets.token_bytes(size), np.uint8) for each in nodes}
    messages = [
        Message(RecordDict({"echo": ArrayRecord([each])}), dst_node_id=node, message_type="query")
        for node, each in values.items()
    ]
    began = time.monotonic()
    replies = list(grid.send_and_receive(messages, timeout=limit))
    seconds = time.monotonic() - began
    assert len(replies) == sites, f"{len(replies)} of {sites} replies within {limit:.0f} s"
    for each in replies:
        assert not each.has_error(), f"error {each.error.code}"
        (found,) = each.content["echo"].to_numpy_ndarrays()
        assert np.array_equal(found, ~values[each.metadata.src_node_id]), "other bytes"
    return seconds
"""


class FailedError(Exception):
    """A trip that did not come to its end, and why."""


def say(line):
    print(f"{time.monotonic() - BEGAN:4.0f} s  {line}", file=sys.stderr, flush=True)


# Processes


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


# Ours


class Ours:
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

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error):
        self.leaving.set()
        if self.beating is not None:
            self.beating.join(LIMIT)
        end(self.services)
        self.open.close()

    def start(self):
        """The coordinator's side, up to a run whose token is ours."""
        from deployment import wait_for

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
        # Without a roster there are no identities: the desk echoes what is not signed.
        self.way = replace(study_process._way(self.directory, self.grid), key=None)
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
        from deployment import wait_for

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


# Flower's


class Stock:
    """Flower as it comes; a context manager."""

    name = "Flower"

    def __init__(self, root):
        from deployment import free_ports

        self.root, self.cases = root, root / "cases"
        self.app = root / "echo"
        for each in (self.cases, self.app / "echo", root / "cli", root / "logs"):
            each.mkdir(parents=True)
        (self.app / "pyproject.toml").write_text(FLOWER_PROJECT)
        for name, text in (
            ("__init__", ""),
            ("client", FLOWER_CLIENT),
            ("server", FLOWER_SERVER),
        ):
            (self.app / "echo" / f"{name}.py").write_text(text)
        self.services, self.nodes, self.asked = [], [], 0
        (self.port,) = free_ports(1)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error):
        self.tell({"sites": 0})
        end(self.services)

    def process(self, name, *command):
        """A program of Flower's, with a home of its own."""
        from study.processes import Process, console_script

        home = self.root / name
        home.mkdir(exist_ok=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # it starts more of its own
        program = (console_script(command[0]), *command[1:])
        return Process(name=name, command=program, flower_home=home, environment={"PATH": path})

    def start(self):
        """SuperLink. The app is run once there is a node."""
        from deployment import wait_for

        command = ("flower-superlink", "--insecure", "--port", str(self.port))
        self.services.append(launched(self.process("superlink", *command), self.root / "logs"))
        wait_for(self.listens, "Flower's SuperLink", limit=STARTING)
        (self.root / "cli" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n'
            "insecure = true\n"
        )
        self.run()

    def listens(self):
        import socket

        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def run(self):
        from study.processes import environment_of

        setting = f'place="{self.cases}"'
        command = ("flwr", "run", str(self.app), "here", "--run-config", setting)
        process = self.process("cli", *command)
        done = subprocess.run(
            process.command, env=environment_of(process), capture_output=True, text=True, timeout=STARTING,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def have(self, sites):
        """So many sites are there."""
        from deployment import free_ports, wait_for

        while len(self.nodes) < sites:
            name, (port,) = f"node-{len(self.nodes) + 1}", free_ports(1)
            command = (
                "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}", "--port", str(port),
            )  # fmt: skip
            node = launched(self.process(name, *command), self.root / "logs")
            self.services.append(node)
            self.nodes.append(node)
        logs = [self.root / "logs" / f"node-{each + 1}.log" for each in range(sites)]
        wait_for(
            lambda: all("SuperNode ID" in each.read_text() for each in logs),
            f"{sites} of Flower's sites",
            limit=STARTING,
        )
        wait_for(lambda: len(self.idlers()) == sites, "Flower's SuperExecs", limit=STARTING)

    def idlers(self):
        """Who asks for work all the time."""
        from deployment import _command, _descendants

        return [
            pid for node in self.nodes for pid in _descendants(node.pid)
            if any("flower-superexec" in each for each in _command(pid))
        ]  # fmt: skip

    def tell(self, case):
        written = self.cases / f"{self.asked}.writing"
        written.write_text(json.dumps(case))
        written.rename(self.cases / f"{self.asked}.case")

    def trip(self, sites, size):
        """Seconds of one trip. Raises FailedError."""
        from deployment import wait_for

        self.tell({"sites": sites, "size": size, "limit": LIMIT})
        path = self.cases / f"{self.asked}.outcome"
        self.asked += 1
        wait_for(path.exists, "Flower's ServerApp", limit=LIMIT + STARTING)
        outcome = json.loads(path.read_text())
        if "problem" in outcome:
            raise FailedError(outcome["problem"])
        return outcome["seconds"]


# Memory


class UnreadableError(Exception):
    """Only root may see the memory of a process that forbids dumps."""


def memory_of(pid):
    """(PSS, private bytes, bytes of every file that is mapped) of a process; nothing of one that has ended."""
    total, private, files, name = 0, 0, {}, ""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except PermissionError as error:
        raise UnreadableError from error
    except OSError:
        return 0, 0, {}
    for line in lines:
        head, *rest = line.split(maxsplit=5)
        if not head.endswith(":"):
            name = rest[4] if len(rest) > 4 else ""
        elif head == "Pss:":
            total += int(rest[0]) * 1024
        elif head == "Rss:":
            files[name] = files.get(name, 0) + int(rest[0]) * 1024
        elif head == "Anonymous:":
            private += int(rest[0]) * 1024
            files[name] -= int(rest[0]) * 1024
    return total, private, files


class Memory:
    """Looks at the processes below some, every so often, while its block runs.

    Attributes:
        found: {root: {part: highest PSS}}, with the parts "together" and "alone".
    """

    def __init__(self, roots, parts, every):
        self.roots, self.parts, self.every = roots, parts, every
        self.found = {name: {} for name in roots}
        self.ending = threading.Event()
        self.looking = threading.Thread(target=self.look, daemon=True)

    def __enter__(self):
        self.looking.start()
        return self

    def __exit__(self, *_error):
        self.ending.set()
        self.looking.join(LIMIT)

    def look(self):
        while not self.ending.wait(self.every):
            for name, pid in self.roots.items():
                try:
                    self.look_at(self.found[name], pid)
                except UnreadableError:
                    self.found[name] = {}
                    return

    def look_at(self, highest, root):
        from deployment import _command, _descendants

        now, private, files = {"together": 0}, 0, {}
        for pid in [root, *_descendants(root)]:
            command = " ".join(_command(pid))
            part = next((part for part, word in self.parts.items() if word in command), None)
            total, own, mapped = memory_of(pid)
            if part is not None:
                now[part] = now.get(part, 0) + total
            now["together"] += total
            private += own
            for each, size in mapped.items():
                files[each] = max(files.get(each, 0), size)
        now["alone"] = private + sum(files.values())
        for part, value in now.items():
            highest[part] = max(highest.get(part, 0), value)


SITE_PARTS = {
    "SuperNode": "client.supernode", "executor": "client.executor", "worker": "client.worker",
    "`discreet site start`": "discreet site",
}  # fmt: skip
COORDINATOR_PARTS = {
    "SuperLink": "flower-superlink", "gateway": "server.gateway", "supervisor": "server.supervisor",
    "study process": "server.study_process", "`discreet coordinator start`": "discreet coordinator",
}  # fmt: skip
FLOWER_PARTS = {
    "SuperNode": "flower-supernode", "SuperExec": "flower-superexec", "ClientApp": "flwr-clientapp",
}  # fmt: skip


# What is measured


def in_turn(federations, sites, size, times):
    """Seconds of some trips of every federation, or the reason why there are none."""
    found = {each.name: [] for each in federations}
    for _ in range(times):
        for each in federations:
            if isinstance(found[each.name], str):
                continue
            idle = [pid for other in federations if other is not each for pid in other.idlers()]
            with stopped(idle):
                try:
                    found[each.name].append(each.trip(sites, size))
                except FailedError as error:
                    found[each.name] = str(error)
                    say(f"{each.name}, {size:,} bytes: {error}")
    return found


def measure_echoes(sizes, trips, megabytes):
    """({sites: seconds}, {MB: seconds}, Flower's memory): trips, and echoes with one site."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(Ours(place / "ours", max(sizes)))
        stock = stack.enter_context(Stock(place / "flower"))
        say("both federations are up")
        of_trips, of_echoes = {}, {}
        for sites in sizes:
            for each in (ours, stock):
                each.have(sites)
            in_turn([ours, stock], sites, SMALL, 1)  # the first one brings the app along
            of_trips[sites] = in_turn([ours, stock], sites, SMALL, trips)
            say(f"trips to {sites}: {shown_all(of_trips[sites])}")
            for size, times in megabytes.items() if sites == 1 else ():
                of_echoes[size] = in_turn([ours, stock], 1, size * MB, times)
                say(f"echo of {size} MB: {shown_all(of_echoes[size])}")
        roots = {"Flower": stock.nodes[0].pid}
        with stopped(ours.idlers()), Memory(roots, FLOWER_PARTS, 0.2) as memory:
            stock.trip(max(sizes), SMALL)
        say("Flower's memory is measured")
        of_flower = memory.found["Flower"]
    say("both are ended")
    return of_trips, of_echoes, of_flower


def measure_study(sites, rounds):
    """Seconds a trip of every query but the first, and the memory of a site and of the coordinator."""
    from deployment import Deployment, wait_for

    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = Deployment(place / "study", sites=sites, rounds=rounds, waits=WAITS)
        one = stack.enter_context(made)
        one.start_all()
        say("the study's federation is up")
        roots = {
            "site": one.running[one.names[0]].pid,
            "coordinator": one.running["coordinator"].pid,
        }
        with Memory(roots, SITE_PARTS | COORDINATOR_PARTS, 1.0) as memory:
            one.begin()
            limit = STARTING + 20.0 * rounds
            outcome = wait_for(one.outcome, "the end of the study", limit=limit)
        assert "summary" in outcome, outcome
        lines = one.progress()
    assert not any(each["abandoned"] or each["missing"] for each in lines), "somebody was missing"
    seconds = [each["seconds"] / 2 for each in lines[1:]]
    say(f"masked study of {sites} sites: {shown(seconds)}")
    return seconds, memory.found


# What is printed


def lines_of(heads, rows):
    """A table in Markdown."""
    return "\n".join(
        [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        + [f"| {' | '.join(row)} |" for row in rows]
    )


def middle(values):
    """The median; None of what was not measured."""
    return statistics.median(values) if values and not isinstance(values, str) else None


def shown(values):
    """Median and range of seconds, or why there are none."""
    if isinstance(values, str):
        return f"none: {values}"
    if not values:
        return ""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def shown_all(found):
    return ", ".join(f"{name} {shown(values)}" for name, values in found.items())


def ratio(above, below):
    """As a number with two digits, or nothing."""
    return f"{middle(above) / middle(below):.1f}" if middle(above) and middle(below) else ""


def trips_table(of_trips, of_studies):
    """Seconds of a trip."""
    heads = ["sites", "echo, s", "masked study, s", "Flower, s", "Flower / echo"]
    rows = [
        [
            str(sites), shown(found["Discreet"]), shown(of_studies.get(sites)) or "masks need two",
            shown(found["Flower"]), ratio(found["Flower"], found["Discreet"]),
        ] for sites, found in of_trips.items()
    ]  # fmt: skip
    return lines_of(heads, rows)


def echoes_table(of_echoes):
    """MB/s, both ways together."""
    heads = ["MB each way", "echo, s", "MB/s", "Flower, s", "MB/s", "Flower / echo"]
    rows = []
    for size, found in of_echoes.items():
        speeds = {
            name: f"{2 * size / middle(values):.1f}" if middle(values) else "0"
            for name, values in found.items()
        }
        rows.append([
            str(size), shown(found["Discreet"]), speeds["Discreet"], shown(found["Flower"]), speeds["Flower"],
            ratio(found["Flower"], found["Discreet"]),
        ])  # fmt: skip
    return lines_of(heads, rows)


def memory_table(site, coordinator, flower):
    """MB of PSS at the highest."""

    def megabytes(value):
        return "not readable by this user" if value is None else f"{value / MB:.0f}"

    rows = []
    for owner, parts, found in (
        ("a site", SITE_PARTS, site), ("Flower's site", FLOWER_PARTS, flower),
        ("the coordinator", COORDINATOR_PARTS, coordinator),
    ):  # fmt: skip
        rows += [[owner, part, megabytes(found.get(part)), ""] for part in parts]
        together = megabytes(found.get("together"))
        rows.append([owner, "**together**", together, megabytes(found.get("alone"))])
    return lines_of(["", "process", "MB of PSS", "on a machine of its own"], rows)


def goals(sites, found, study, site):
    """The goals, at the largest number of sites."""
    echo, flower = middle(found["Discreet"]), middle(found["Flower"])
    memory = site.get("together")
    checks = [
        (f"a trip to {sites} sites, s", echo, 2.5),
        (f"a trip of a masked study of {sites} sites, s", middle(study), 2.5),
        ("the same as a part of Flower's", echo / flower if echo and flower else None, 1 / 3),
        ("a site's processes together, MB of PSS", memory / MB if memory else None, 300),
    ]
    rows = []
    for name, value, goal in checks:
        verdict = "not measured" if value is None else "met" if value <= goal else "**missed**"
        rows.append([name, f"at most {goal:.3g}", "" if value is None else f"{value:.4g}", verdict])
    return lines_of(["", "goal", "measured", ""], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 and 2 sites, 2 trips, 1 MB")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument("--executor", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.executor or options.worker:
        sys.exit(be_executor(options.executor) if options.executor else be_worker(options.worker))
    sys.path.insert(0, str(SUPPORT))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # whatever runs is ended first
    sizes, trips, megabytes, rounds = (
        ((1, 2), 2, {1: 2}, 3) if options.quick else ((1, 2, 4), 5, {1: 3, 10: 3, 100: 2}, 6)
    )
    of_trips, of_echoes, flower = measure_echoes(sizes, trips, megabytes)
    of_studies = {}
    for sites in sizes[1:]:
        of_studies[sites], memory = measure_study(sites, rounds)
    largest = max(sizes)
    result = "\n\n".join([
        trips_table(of_trips, of_studies), echoes_table(of_echoes),
        memory_table(memory["site"], memory["coordinator"], flower),
        goals(largest, of_trips[largest], of_studies[largest], memory["site"]),
    ])  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, medians and ranges of interleaved trips.\n\n{result}")
    if options.out:
        options.out.write_text(result + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
