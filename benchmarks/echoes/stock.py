"""Flower as it comes, with an app that inverts what it is sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from echoes.common import LIMIT, STARTING, FailedError, Federation, end, launched

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


class Stock(Federation):
    """Flower as it comes; a context manager."""

    name = "Flower"

    def __init__(self, root):
        from machine import free_ports

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
        from machine import wait_for

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
        from machine import free_ports, wait_for

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
        from machine import wait_for

        self.tell({"sites": sites, "size": size, "limit": LIMIT})
        path = self.cases / f"{self.asked}.outcome"
        self.asked += 1
        wait_for(path.exists, "Flower's ServerApp", limit=LIMIT + STARTING)
        outcome = json.loads(path.read_text())
        if "problem" in outcome:
            raise FailedError(outcome["problem"])
        return outcome["seconds"]
