"""Apps that a hostile coordinator ships, and a stock Flower on which they do what they are for."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

from flwr.cli.build import build_fab_from_files
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient

from study.processes import FLOWER, console_script

SETTINGS = """\
[project]
name = "evil"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "evil"
fab-include = ["**/*.py"]

[tool.flwr.app.components]
{components}

[tool.flwr.app.config]
study = ""
"""
APPS = 'serverapp = "evil.server:app"\nclientapp = "evil.client:app"'
AGENT = 'agentapp = "evil.agent:app"'

CLIENT = """\
from pathlib import Path
Path({marker!r}).joinpath("client-imported").touch()
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.query("sum")
def answer(message, context):
    Path({marker!r}).joinpath("client-run").touch()
    return Message(RecordDict({{"r": ConfigRecord({{"x": 1}})}}), reply_to=message)
"""

SERVER = """\
from pathlib import Path
Path({marker!r}).joinpath("server-imported").touch()
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    Path({marker!r}).joinpath("server-run").touch()
    import time
    while not list(grid.get_node_ids()):
        time.sleep(0.2)
    nodes = list(grid.get_node_ids())
    content = RecordDict({{"r": ConfigRecord({{"x": 1}})}})
    list(grid.send_and_receive([Message(content, dst_node_id=nodes[0], message_type="query.sum")], timeout=60))
"""

AGENT_CODE = """\
from pathlib import Path
Path({marker!r}).joinpath("agent-imported").touch()
from flwr.agentapp import AgentApp
app = AgentApp()
"""


def hostile_fab(marker, components=APPS):
    """An archive whose code leaves files in the directory `marker` when it is imported, and when it is run."""
    files = {
        "pyproject.toml": SETTINGS.format(components=components).encode(),
        "evil/__init__.py": b"",
        "evil/client.py": CLIENT.format(marker=str(marker)).encode(),
        "evil/server.py": SERVER.format(marker=str(marker)).encode(),
        "evil/agent.py": AGENT_CODE.format(marker=str(marker)).encode(),
    }
    with warnings.catch_warnings(action="ignore"):  # of a library of Flower's
        content, _ = build_fab_from_files(files)
    return Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)


def start_run(address, certificate, fab, *, study="", prompt=""):
    """A run of that archive; its number."""
    client = ControlHttpClient.from_server_address(address, certificate is None, certificate, [])
    request = StartRunRequest(
        fab=fab, override_config=user_config_to_proto({"study": study}), user_prompt=prompt
    )
    try:
        return client.StartRun(request).run_id
    finally:
        client.close()


@contextmanager
def stock_flower(place, port, runtime_port):
    """Flower's own SuperLink and one SuperNode, with their defaults, on the loopback."""
    place.mkdir()
    programs = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it starts others by name
    )
    environment = {**os.environ, **FLOWER, "FLWR_HOME": str(place), "PATH": programs}
    commands = (
        ("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)),
        (
            "flower-supernode",
            "--insecure",
            "--superlink",
            f"127.0.0.1:{port}",
            "--port",
            str(runtime_port),
        ),
    )
    running = []
    try:
        for command, *options in commands:
            with (place / f"{command}.log").open("ab") as log:
                running.append(
                    subprocess.Popen(
                        [console_script(command), *options],
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        yield
    finally:
        for (
            each
        ) in running:  # with the programs that they have started: they lead a session of their own
            with suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()
