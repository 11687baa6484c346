"""Whoever attacks a running deployment: an app that tries every way to be run, a coordinator that pushes an agent's
messages, a thief with a node's key.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from fleet import Site, announced, me, until
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import run_from_proto
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.interceptors.http.runtime_token import RuntimeTokenHttpInterceptor
from flwr.supercore.interceptors.http.superexec_auth import SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid

from client.directory import SiteDirectory
from privacy.signing import SigningKey
from server.directory import CoordinatorDirectory
from study.envelope import answer_message, content_of
from study.instructions import signed_instruction, signed_reply
from study.keyfiles import read_key
from study.readiness import readiness_question

# An app that tries every way to be run

PROJECT = """\
[project]
name = "discreet"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[build-system]
requires = []
build-backend = "setup"
backend-path = ["."]

[tool.flwr.app]
publisher = "discreet"
fab-include = ["**/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
study = ""
"""
"""What Discreet's own run says of itself, so that nothing but the code in it is odd."""

TOUCH = """\
import os
def touch(what):
    with open(os.path.join({marker!r}, what + "-" + str(os.getpid())), "w"):
        pass
"""
CLIENT = """\
touch("client-imported")
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.query("sum")
def answer(message, context):
    touch("client-run")
    return Message(RecordDict({"r": ConfigRecord({"x": 1})}), reply_to=message)
"""
SERVER = """\
touch("server-imported")
import time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    touch("server-run")
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    content = RecordDict({"r": ConfigRecord({"x": 1})})
    list(grid.send_and_receive([Message(content, dst_node_id=nodes[0], message_type="query.sum")], timeout=60))
"""
BY_ITSELF = ("conftest", "sitecustomize", "usercustomize", "setup")
"""Modules that Python or a tool imports unasked where they lie on its path."""
SHADOWED = (
    "client.worker.desk",
    "client.worker.installed",
    "server.study_process",
    "server.trips",
    "study.codec",
)
"""Modules of Discreet's own, by whose names an unpacked app could take their place."""


def tricky_files(marker):
    """By path: client, server and shadows of installed modules; each leaves a file in `marker` when imported or run."""
    begin = TOUCH.format(marker=str(marker))
    files = {
        "client/__init__.py": "", "server/__init__.py": "", "study/__init__.py": "",
        "client/app.py": begin + CLIENT, "server/app.py": begin + SERVER,
        "trick.pth": f"import os; open(os.path.join({str(marker)!r}, 'pth'), 'w')\n",
    }  # fmt: skip
    files |= {f"{name}.py": f"{begin}touch({name!r})\n" for name in BY_ITSELF}
    files |= {f"{name.replace('.', '/')}.py": f"{begin}touch({name!r})\n" for name in SHADOWED}
    return {"pyproject.toml": PROJECT, **files}


def tricky_fab(marker):
    """The archive, made by hand: Flower's own builder leaves a .pth out."""
    content, lines = io.BytesIO(), []
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in tricky_files(marker).items():
            archive.writestr(name, text)
            lines.append(f"{name},{hashlib.sha256(text.encode()).hexdigest()},{len(text) * 8}")
        archive.writestr(".info/CONTENT", "\n".join(lines))
    return Fab(hash_str=hashlib.sha256(content.getvalue()).hexdigest(), content=content.getvalue())


def tricky_project(directory, marker):
    """The same as a project on the disk, for `flwr run`."""
    for name, text in tricky_files(marker).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def traces(marker):
    """What has run: names of markers, without process ids."""
    return {path.name.rsplit("-", 1)[0] for path in Path(marker).iterdir()}


def unpacked(root, marker):
    """Files under `root` that can only come out of the archive: by their name, or by what is in them. No databases."""
    names = {Path(each).name for each in tricky_files(marker)}
    word = str(marker).encode()
    return [
        path
        for path in root.rglob("*")
        if path.is_file()
        and ".db" not in path.name  # SuperLink's, which keeps the archive as it is
        and (path.name in names or word in path.read_bytes())
    ]


# A coordinator that pushes an agent's messages


def taken(address, secret, kind, *, certificate=None):
    """A token of a pending task of that kind, for whoever knows the secret; None if there is none."""
    client = RuntimeHttpClient.from_server_address(
        address, certificate is None, certificate,
        interceptors=[SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods=["/flwr.proto.Runtime/AcquireTask"]
        )],
    )  # fmt: skip
    try:
        found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
        return found.token if found.HasField("task") else None
    finally:
        client.close()


def with_token(address, token, *, certificate=None):
    """A client that speaks for a task."""
    return RuntimeHttpClient.from_server_address(
        address, certificate is None, certificate, interceptors=[RuntimeTokenHttpInterceptor(token=token)]
    )  # fmt: skip


class AgentsCoordinator:
    """Has taken the task of a run that is an agent's, and pushes what it likes to sites."""

    def __init__(self, directory):
        directory = CoordinatorDirectory(directory)
        address = f"127.0.0.1:{directory.settings().network.superlink_port}"
        certificate = (directory / "ca.pem").read_bytes()
        secret = (directory / "superexec.secret").read_bytes()
        token = taken(address, secret, "flwr-agentapp", certificate=certificate)
        assert token, "there is no task of an agent"
        self._client = with_token(address, token, certificate=certificate)
        self.run = run_from_proto(self._client.PullTaskInput(PullTaskInputRequest()).run)
        self._grid = HttpGrid(address, False, certificate, token=token)
        self._grid.set_run(self.run)

    def push(self, node, kind="query.sum"):
        """Send a message to a node; its id."""
        me(self.run.run_id, SUPERLINK_NODE_ID)
        content = RecordDict({"discreet": ConfigRecord({"content": b"do it"})})
        (number,) = self._grid.push_messages(
            [Message(content, dst_node_id=node, message_type=kind, ttl=600)]
        )
        assert number
        return number

    def replies(self, number):
        """What has come back for a message. (The run's prompt comes along, as an instruction to the agent.)"""
        me(self.run.run_id, SUPERLINK_NODE_ID)
        found = self._grid.pull_messages([number])
        return [each for each in found if each.metadata.reply_to_message_id == number]

    def close(self):
        self._grid._disconnect()
        self._client.close()


def runtime_of(site):
    """(address, secret) of the runtime of a site's SuperNode."""
    directory = SiteDirectory(site)
    port = directory.settings().network.runtime_port
    return f"127.0.0.1:{port}", (directory / "superexec.secret").read_bytes()


# A thief with a node's key


class Thief(Site):
    """Whoever has node.key and ca.pem of a site, and not its identity; speaks through the gateway."""

    def __init__(self, coordinator, site):
        network = CoordinatorDirectory(coordinator).settings().network
        private = load_ssh_private_key((site / "node.key").read_bytes(), None)
        super().__init__(f"https://127.0.0.1:{network.port}", coordinator / "ca.pem", private)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.http.close()

    def pull_of(self, index):
        """The next message about the query of this number."""
        while True:
            message, _tree = until(self.pull)
            if message.metadata.group_id == str(index):
                return message

    def receive_query(self, study):
        """The next message that is not the question whether the site takes part, which is let pass."""
        while True:
            message = self.receive()
            if readiness_question(study) not in content_of(message):
                return message

    def lie(self, message, lie):
        """Reply to a message with what `lie` makes of it; the status of the announcement, 200 if it was taken."""
        me(message.metadata.run_id, self.node)
        request, contents = announced(lie(message), self.who)
        found = self.raw("/v1/fleet/push-messages", request.SerializeToString())
        if found.status_code == 200:
            taken_up = PushMessagesResponse.FromString(found.content)
            for each in taken_up.objects_to_push:
                pushed = PushObjectRequest(
                    node=self.who, run_id=message.metadata.run_id, object_id=each, object_content=contents[each],
                    session_id=taken_up.session_id,
                )  # fmt: skip
                assert self.call("push-object", pushed).stored
        return found.status_code


def unsigned(message):
    """A reply that nobody has signed; another one each time, as an honest one is."""
    return answer_message(b"mine" + os.urandom(16), to=message)


def by_another_key(message):
    """A reply that the thief has signed with a key of its own."""
    return _signed(message, SigningKey.from_seed(b"x" * 32), content_of(message))


def an_error(message):
    """An error with a code of Discreet's and a text of the thief's."""
    return Message(Error(code=1006, reason="'; DROP TABLE"), reply_to=message)


def replay(coordinator, site):
    """What the site has said earlier: signed by its identity, in reply to another instruction of the coordinator's."""
    key, other = read_key(site / "site.key"), read_key(coordinator / "coordinator.key")

    def lie(message):
        earlier = signed_instruction(
            content_of(message)[-100:], to=key.public, key=other, nonce=os.urandom(16)
        )
        return _signed(message, key, earlier)

    return lie


def _signed(message, key, instruction):
    said = signed_reply(b"mine", instruction=instruction, sign=key.sign, nonce=bytes(16))
    return answer_message(said, to=message)
