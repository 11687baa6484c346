"""A coordinator's SuperLink and gateway as real processes on the loopback, and a site that can misbehave."""

import base64
import contextlib
import os
import signal
import socket
import ssl
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fab_pb2 import GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import (
    SendNodeHeartbeatRequest,
    SendNodeHeartbeatResponse,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_token import RuntimeTokenHttpInterceptor
from flwr.supercore.interceptors.http.superexec_auth import SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from machine import free_ports, wait_for

from server.authority import create_authority
from server.directory import CoordinatorDirectory, Limits, Network, Settings, settings_text
from server.processes import gateway_process, superlink_process
from server.superlink import Control
from study.keyfiles import write_new
from study.processes import environment_of

ROOT = Path(__file__).parents[2]
SECONDS = 20
RESPONSES = {
    "activate-node": ActivateNodeResponse,
    "deactivate-node": DeactivateNodeResponse,
    "send-node-heartbeat": SendNodeHeartbeatResponse,
    "pull-messages": PullMessagesResponse,
    "push-messages": PushMessagesResponse,
    "get-run": GetRunResponse,
    "get-fab": GetFabResponse,
    "pull-object": PullObjectResponse,
    "push-object": PushObjectResponse,
    "confirm-message-received": ConfirmMessageReceivedResponse,
}


def until(condition):
    """Wait until a condition holds; what it gave."""
    return wait_for(condition, condition, limit=SECONDS)


def make_directory(path, **limits):
    """A coordinator's directory with everything that SuperLink and the gateway need."""
    port, superlink_port = free_ports(2)
    network = Network(
        host="localhost", port=port, listen="127.0.0.1", superlink_port=superlink_port
    )
    path.mkdir(parents=True, exist_ok=True)
    settings = Settings(network=network, limits=Limits(**limits))
    (path / "coordinator.toml").write_text(settings_text(settings), encoding="utf-8")
    (path / "flower").mkdir(mode=0o700)
    write_new(path / "superexec.secret", os.urandom(32), 0o600)
    create_authority(path, "localhost")
    (path / "sites.json").write_text("{}", encoding="utf-8")
    return CoordinatorDirectory(path)


class Started:
    """A process of a deployment; a context manager that ends it by its own id."""

    def __init__(self, process, log, *, port):
        self.process, self.log, self._port = process, Path(log), port
        self._child = None

    def __enter__(self):
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                self.process.command,
                env={**environment_of(self.process), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            until(self._listens)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def pid(self):
        return self._child.pid

    @property
    def output(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def memory(self):
        """Resident bytes at the highest."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line)

    def stop(self, signal_number=signal.SIGTERM, seconds=SECONDS):
        """Ask it to end, and wait; its status."""
        if self._child.poll() is None:
            self._child.send_signal(signal_number)
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self):
        """End it at once."""
        self._child.kill()
        self._child.wait(SECONDS)

    def _listens(self):
        assert self._child.poll() is None, f"{self.process.name} ended: {self.output[-2000:]}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
            return True
        return False


@dataclass
class Site:
    """A raw client of the Fleet API with a key of its own, which says whatever it is told to."""

    address: str
    authority: Path
    private: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )
    node: int = 0

    def __post_init__(self):
        verify = ssl.create_default_context(cafile=self.authority)
        self.http = httpx.Client(base_url=self.address, verify=verify, timeout=30, trust_env=False)

    @property
    def key(self):
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def fingerprint(self):
        return sha256(self.key).hexdigest()[:16]

    def signature(self, *, at=None, key=None):
        """Headers of a fresh signature, or one of another time, or that claims another key."""
        stamp = (at or datetime.now(UTC)).isoformat()
        signed = self.private.sign(stamp.encode(), ec.ECDSA(SHA256()))
        return {
            "flwr-public-key": base64.b64encode(key or self.key).decode(),
            "flwr-timestamp": stamp,
            "flwr-signature": base64.b64encode(signed).decode(),
        }

    def raw(self, path, body, headers=None, **options):
        """A response, whatever it is."""
        headers = self.signature() if headers is None else headers
        return self.http.post(
            path,
            content=body,
            headers={"content-type": "application/protobuf", **headers},
            **options,
        )

    def status(self, name, request, headers=None):
        """The status of a call."""
        return self.raw(f"/v1/fleet/{name}", request.SerializeToString(), headers).status_code

    def call(self, name, request):
        """The answer to a call that must succeed."""
        response = self.raw(f"/v1/fleet/{name}", request.SerializeToString())
        assert response.status_code == 200, (name, response.status_code, response.text)
        return RESPONSES[name].FromString(response.content)

    # What an honest SuperNode does

    @property
    def who(self):
        return Node(node_id=self.node)

    def activate(self, seconds=30):
        request = ActivateNodeRequest(public_key=self.key, heartbeat_interval=seconds)
        self.node = self.call("activate-node", request).node_id
        return self.node

    def heartbeat(self, seconds=30):
        request = SendNodeHeartbeatRequest(node=self.who, heartbeat_interval=seconds)
        return self.call("send-node-heartbeat", request).success

    def pull(self):
        """(message, tree), or None."""
        response = self.call("pull-messages", PullMessagesRequest(node=self.who))
        if not response.messages_list:
            return None
        return message_from_proto(response.messages_list[0]), response.message_object_trees[0]

    def objects(self, message, tree):
        """The contents of all objects of a message."""
        contents = {}
        waiting = [tree]
        while waiting:
            each = waiting.pop()
            waiting.extend(each.children)
            request = PullObjectRequest(
                node=self.who, run_id=message.metadata.run_id, object_id=each.object_id
            )
            answer = self.call("pull-object", request)
            assert answer.object_available
            contents[each.object_id] = answer.object_content
        return contents

    def receive(self):
        """A whole message, confirmed."""
        message, tree = until(self.pull)
        run = message.metadata.run_id
        self.call("get-run", GetRunRequest(node=self.who, run_id=run))
        contents = self.objects(message, tree)
        self.call(
            "confirm-message-received",
            ConfirmMessageReceivedRequest(
                node=self.who, run_id=run, message_object_id=message.metadata.message_id
            ),
        )
        whole = inflate_object_from_contents(message.metadata.message_id, contents)
        whole.metadata.__dict__["_message_id"] = message.metadata.message_id
        return whole

    def reply_to(self, message, content=b"answer", *, node=None):
        """(PushMessagesRequest, contents by object id) of a reply."""
        me(message.metadata.run_id, node or self.node)
        record = ConfigRecord({"content": content, "nonce": os.urandom(16)})
        reply = Message(RecordDict({"discreet": record}), reply_to=message)
        return announced(reply, self.who)

    def answer(self, message, content=b"answer"):
        """Reply as a SuperNode does."""
        request, contents = self.reply_to(message, content)
        return self.push(request, contents)

    def push(self, request, contents):
        response = self.call("push-messages", request)
        for each in response.objects_to_push:
            pushed = PushObjectRequest(
                node=self.who,
                run_id=request.messages_list[0].metadata.run_id,
                object_id=each,
                object_content=contents[each],
                session_id=response.session_id,
            )
            assert self.call("push-object", pushed).stored
        return response


def me(run, node):
    """Whom Flower takes this process for when it makes messages."""
    TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = run, node, 1


def announced(message, node):
    """A message without its content, as SuperNodes announce it, and the contents of its objects."""
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id
        tree = get_object_tree(message)
        contents = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
    proto = message_to_proto(remove_content_from_message(message))
    request = PushMessagesRequest(
        node=node, messages_list=[proto], message_object_trees=[tree], clientapp_runtime_list=[0.5]
    )
    return request, contents


class Fleet:
    """A SuperLink and a gateway, and sites that are registered with both; a context manager."""

    def __init__(self, path, **limits):
        self.directory = make_directory(path, **limits)
        network = self.directory.settings().network
        self.address = f"https://localhost:{network.port}"
        self.superlink = Started(
            superlink_process(self.directory), path / "superlink.log", port=network.superlink_port
        )
        self.gateway = Started(
            gateway_process(self.directory), path / "gateway.log", port=network.port
        )

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.superlink)
            stack.enter_context(self.gateway)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        with self._stack:
            self.gateway.stop()
            self.superlink.kill()  # it waits 30 s for idle connections when asked

    def stranger(self):
        site = Site(self.address, self.directory / "ca.pem")
        self._stack.callback(site.http.close)
        return site

    def site(self, name):
        """A site that may come, and has."""
        site = self.stranger()
        with Control(self.directory) as control:
            control.register_node(site.key)
        self.directory.write_sites(self.directory.sites() | {name: site.key})
        site.activate()
        return site

    def remove(self, name):
        kept = {each: key for each, key in self.directory.sites().items() if each != name}
        self.directory.write_sites(kept)

    def refusals(self):
        """Lines of the gateway's log: (status, reason, caller, path); not of strangers that were idle for long."""
        lines = [each.split() for each in self.gateway.output.splitlines()]
        found = [tuple(each[2:6]) for each in lines if each[1:2] == ["refused"]]
        return [each for each in found if each[1] != "no-request"]


class Coordinator:
    """The coordinator's side of a run: what a ServerApp does, over the loopback."""

    def __init__(self, directory, study="ab" * 32):
        self.directory = directory
        with Control(directory) as control:
            self.run_id = control.start_run(study)
        self._address = f"127.0.0.1:{directory.settings().network.superlink_port}"
        self._certificate = (directory / "ca.pem").read_bytes()
        secret = (directory / "superexec.secret").read_bytes()
        interceptor = SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods=["/flwr.proto.Runtime/AcquireTask"]
        )
        with self._client(interceptor) as client:
            request = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
            token = client.AcquireTask(request).token
        self.client = self._client(RuntimeTokenHttpInterceptor(token=token))
        self.run = run_from_proto(self.client.PullTaskInput(PullTaskInputRequest()).run)
        self.grid = HttpGrid(self._address, False, self._certificate, token=token)
        self.grid.set_run(self.run)

    def _client(self, interceptor):
        return RuntimeHttpClient.from_server_address(
            self._address, False, self._certificate, interceptors=[interceptor]
        )

    def instruction(self, node, content=b"instruction", ttl=60.0):
        me(self.run_id, SUPERLINK_NODE_ID)
        record = ConfigRecord({"content": content, "nonce": os.urandom(16)})
        return Message(
            RecordDict({"discreet": record}), dst_node_id=node, message_type="query.sum", ttl=ttl
        )

    def instruct(self, node, content=b"instruction", ttl=60.0):
        """Send an instruction; its id."""
        self.client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        (message,) = self.grid.push_messages([self.instruction(node, content, ttl)])
        return message

    def reply(self, message):
        """The content of the reply to an instruction."""

        def pulled():
            me(self.run_id, SUPERLINK_NODE_ID)
            return list(self.grid.pull_messages([message]))

        (reply,) = until(pulled)
        assert not reply.has_error(), reply.error
        return reply.content["discreet"]["content"]

    def close(self):
        self.grid._disconnect()
        self.client.close()


def asks(coordinator, site, content=b"instruction", answer=b"answer"):
    """One honest instruction to a site and its reply arrive: everything works."""
    message = coordinator.instruct(site.node, content)
    whole = site.receive()
    assert whole.metadata.message_id == message
    assert whole.content["discreet"]["content"] == content
    site.answer(whole, answer)
    assert coordinator.reply(message) == answer
