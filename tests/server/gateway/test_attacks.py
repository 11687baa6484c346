"""What strangers and neighbours try, against a real SuperLink behind a real gateway.

Every attempt is refused and leaves a line in the log, and just before and just after it an honest call succeeds. The
attempts are those that succeed against stock SuperLink, and the ways around a gateway.
"""

import contextlib
import math
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fleet import Coordinator, Site, Started, announced, asks, make_directory, me, until
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
)
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushAppMessagesRequest

from server.authority import read_authority
from server.processes import gateway_process
from server.superlink import Control

STRANGER = "stranger"
TYPE = {"content-type": "application/protobuf"}


@pytest.fixture
def refused(fleet, site, neighbour, coordinator):
    """A context in which everything is refused: honest calls around it succeed, and the log has these reasons."""

    @contextlib.contextmanager
    def check(*reasons, caller=None, full=False):
        if full:
            asks(coordinator, site)
            asks(coordinator, neighbour)
        assert site.heartbeat()
        before = len(fleet.refusals())
        yield
        lines = until(lambda: fleet.refusals()[before:])
        assert [line[1] for line in lines] == list(reasons)
        for status, _, who, _ in lines:
            assert status in {
                "400",
                "401",
                "403",
                "404",
                "405",
                "408",
                "411",
                "413",
                "415",
                "431",
                "503",
                "505",
            }
            assert who == (caller.fingerprint if caller else STRANGER)
        assert site.heartbeat()
        if full:
            asks(coordinator, site)
            asks(coordinator, neighbour)

    return check


# Strangers


def test_without_a_key(fleet, refused):
    stranger = fleet.stranger()
    with refused("no-signature"):
        response = stranger.raw("/v1/fleet/pull-messages", b"", {})
        assert (response.status_code, response.content) == (401, b"refused\n")
        assert set(response.headers) <= {"content-type", "content-length", "connection"}


def test_with_a_key_that_nobody_registered(fleet, refused):
    stranger = fleet.stranger()
    with refused("unknown-key", "unknown-key"):
        request = ActivateNodeRequest(public_key=stranger.key, heartbeat_interval=30)
        assert stranger.status("activate-node", request) == 401
        assert stranger.status("pull-messages", PullMessagesRequest(node=Node(node_id=1))) == 401


def test_with_a_sites_public_key_and_ones_own_signature(fleet, site, refused):
    stranger = fleet.stranger()
    with refused("bad-signature"):
        headers = stranger.signature(key=site.key)
        assert stranger.status("pull-messages", PullMessagesRequest(node=site.who), headers) == 401


def test_with_a_signature_of_another_time(site, refused):
    with refused("wrong-time", "wrong-time"):
        for seconds in (-400, 60):
            headers = site.signature(at=datetime.now(UTC) + timedelta(seconds=seconds))
            assert site.status("pull-messages", PullMessagesRequest(node=site.who), headers) == 401


def test_a_site_that_was_removed(fleet, site):
    """Struck out of `sites.json`, or unregistered with SuperLink: each is enough, at once."""
    gone, unregistered = fleet.site("gone"), fleet.site("unregistered")
    assert gone.heartbeat()
    assert unregistered.heartbeat()
    fleet.remove("gone")
    with Control(fleet.directory) as control:
        control.unregister_node(unregistered.node)
    before = len(fleet.refusals())
    for each in (gone, unregistered):
        request = SendNodeHeartbeatRequest(node=each.who, heartbeat_interval=30)
        assert each.status("send-node-heartbeat", request) == 401
    assert [line[1] for line in fleet.refusals()[before:]] == ["unknown-key", "superlink-401"]
    assert site.heartbeat()


def test_a_site_believes_no_other_authority(fleet, tmp_path):
    other = make_directory(tmp_path / "other")
    context = ssl.create_default_context(cafile=other / "ca.pem")
    with (
        httpx.Client(verify=context) as client,
        pytest.raises(httpx.ConnectError, match="certificate verify failed"),
    ):
        client.post(f"{fleet.address}/v1/fleet/pull-messages")


def test_a_site_believes_no_certificate_that_has_run_out(fleet, tmp_path):
    directory = make_directory(tmp_path / "old")
    now = datetime.now(UTC)
    key, certificate = read_authority(directory.path).issue(
        "localhost", not_before=now - timedelta(days=2), not_after=now - timedelta(minutes=1)
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "gateway.key").write_bytes(pem)
    (directory / "gateway.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    port = directory.settings().network.port
    with Started(gateway_process(directory), tmp_path / "log", port=port):
        context = ssl.create_default_context(cafile=directory / "ca.pem")
        with (
            httpx.Client(verify=context) as client,
            pytest.raises(httpx.ConnectError, match="certificate has expired"),
        ):
            client.post(f"https://localhost:{port}/v1/fleet/pull-messages")


OTHER_CALLS = {
    "control/register-node": RegisterNodeRequest(public_key=b"key"),
    "control/start-run": StartRunRequest(),
    "control/list-runs": ListRunsRequest(),
    "control/stop-run": StopRunRequest(run_id=1),
    "control/list-nodes": ListNodesRequest(),
    "control/stream-logs": ListRunsRequest(),
    "runtime/acquire-task": AcquireTaskRequest(supported_task_types=["flwr-serverapp"]),
    "runtime/push-messages": PushAppMessagesRequest(),
    "fleet/register-node": RegisterNodeFleetRequest(public_key=b"key"),
    "fleet/unregister-node": UnregisterNodeFleetRequest(node_id=1),
}


@pytest.mark.parametrize("name", OTHER_CALLS)
def test_no_call_but_the_ten_exists(site, refused, name):
    """Nodes, runs, tasks: neither a stranger nor a site registers, submits, lists or stops any."""
    body = OTHER_CALLS[name].SerializeToString()
    with refused("no-such-path", "no-such-path"):
        for headers in ({}, None):
            response = site.raw(f"/v1/{name}", body, headers)
            assert (response.status_code, response.content) == (404, b"refused\n")


# Ways around


def raw_exchange(fleet, head, body=b""):
    """The status of what these very bytes get, and whether the connection is open after it."""
    network = fleet.directory.settings().network
    context = ssl.create_default_context(cafile=fleet.directory / "ca.pem")
    with (
        socket.create_connection(("127.0.0.1", network.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(head + b"\r\n\r\n" + body)
        received = b""
        while piece := connection.recv(65_536):
            received += piece
            if b"\r\n\r\n" in received and received.endswith((b"refused\n", b"received.")):
                break
        return [int(each.split(b" ", 1)[0]) for each in received.split(b"HTTP/1.1 ")[1:]]


def head(site, target=b"/v1/fleet/pull-messages", *lines, version=b"HTTP/1.1", method=b"POST"):
    signed = [f"{name}: {value}".encode() for name, value in site.signature().items()]
    return b"\r\n".join(
        [
            method + b" " + target + b" " + version, b"Host: localhost",
            b"Content-Type: application/protobuf", *signed, *lines,
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/fleet/%2e%2e/control/list-runs", b"/v1/fleet/../control/list-runs", b"/v1/fleet/..%2fcontrol/list-runs",
        b"//v1/control/list-runs", b"/v1//control/list-runs", b"/V1/CONTROL/LIST-RUNS", b"/v1/control/list-runs?x",
        b"/v1/fleet/pull-messages?x=1", b"/v1/fleet/pull-messages/", b"/v1/fleet/%70ull-messages",
        b"/v1%2ffleet%2fpull-messages", b"/v1/fleet/pull-messages;x", b"/v1/fleet/pull-messages%20", b"/./v1/fleet/pull-messages",
        b"https://localhost/v1/fleet/pull-messages", b"http://127.0.0.1/v1/control/list-runs", b"*", b"localhost:443",
        b"\\v1\\fleet\\pull-messages", b"/v1/fleet/pull-messages#x",
    ],
)  # fmt: skip
def test_a_path_is_taken_byte_for_byte(fleet, site, refused, target):
    with refused("no-such-path"):
        assert raw_exchange(fleet, head(site, target, b"Content-Length: 0")) == [404]


PULL_LENGTH = b"Content-Length: 3"
SECOND = b"POST /v1/control/list-runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("lines", "status", "reason"),
    [
        ([PULL_LENGTH, b"Content-Length: 4"], 400, "no-http"),
        ([PULL_LENGTH, b"Transfer-Encoding: chunked"], 400, "no-http"),
        ([b"Transfer-Encoding: chunked"], 400, "no-http"),
        ([b"Transfer-Encoding: gzip, chunked", PULL_LENGTH], 501, "no-http"),
        ([b"Transfer-Encoding : chunked", PULL_LENGTH], 400, "no-http"),
        ([b"Transfer-Encoding:\x0bchunked", PULL_LENGTH], 400, "no-http"),
        ([b"Content-Length: +3"], 400, "no-http"),
        ([b"Content-Length: 3, 4"], 400, "no-http"),
        ([b"Content-Length: -1"], 400, "no-http"),
        ([b"Content-Length: 99999999999999999999"], 413, "too-large"),
        ([PULL_LENGTH, b" folded: x"], 400, "no-http"),
        ([PULL_LENGTH, b"Host: other"], 400, "no-http"),
        ([], 411, "no-length"),
        ([PULL_LENGTH, *[b"a: b"] * 100], 431, "many-headers"),
        ([PULL_LENGTH, b"a: " + b"b" * 12_000, b"c: " + b"d" * 12_000], 431, "many-headers"),
        (
            [PULL_LENGTH, b"Expect: 100-continue", b"Content-Encoding: gzip"],
            415,
            "no-protobuf-type",
        ),
    ],
)
def test_a_body_has_one_end(fleet, site, *, lines, status, reason):
    """And what comes after it is no second request."""
    before = len(fleet.refusals())
    statuses = raw_exchange(fleet, head(site, b"/v1/fleet/pull-messages", *lines), b"abc" + SECOND)
    assert statuses in ([status], [400])
    reasons = {line[1] for line in until(lambda: fleet.refusals()[before:])}
    assert reasons <= {reason, "no-http"}, (
        "both, where the body of a refused request is no HTTP either"
    )
    assert site.heartbeat()


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ({"method": b"GET"}, 405, "no-such-method"),
        ({"method": b"PUT"}, 405, "no-such-method"),
        ({"method": b"post"}, 405, "no-such-method"),
        ({"version": b"HTTP/1.0"}, 505, "no-such-version"),
        ({"version": b"HTTP/2.0"}, 505, "no-such-version"),
        ({"version": b"HTTP/0.9"}, 505, "no-such-version"),
        ({"version": b""}, 400, "no-http"),
    ],
)
def test_only_post_over_http_1_1(fleet, site, refused, *, options, status, reason):
    with refused(reason):
        target = b"/v1/fleet/pull-messages"
        assert raw_exchange(fleet, head(site, target, b"Content-Length: 0", **options)) == [status]


def test_what_is_no_http_and_no_tls(fleet, site, refused):
    with refused("no-http"):
        assert raw_exchange(fleet, b"\x16\x03\x01\x00" + os.urandom(50)) == [400]
    port = fleet.directory.settings().network.port
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        plain.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in plain.recv(1000)
    assert site.heartbeat()


def test_old_tls_is_refused(fleet, site):
    context = ssl.create_default_context(cafile=fleet.directory / "ca.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    port = fleet.directory.settings().network.port
    with socket.create_connection(("127.0.0.1", port), 10) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")
    assert site.heartbeat()


def test_a_signature_in_another_call(site, refused):
    """The signature says only when: what one call has used is of no use in any other."""
    headers = site.signature()
    request = SendNodeHeartbeatRequest(node=site.who, heartbeat_interval=30)
    assert site.status("send-node-heartbeat", request, headers) == 200
    with refused("used-signature", "used-signature", "used-signature", caller=site):
        assert site.status("send-node-heartbeat", request, headers) == 503
        assert site.status("pull-messages", PullMessagesRequest(node=site.who), headers) == 503
        deactivate = DeactivateNodeRequest(node_id=site.node)
        assert site.status("deactivate-node", deactivate, headers) == 503


# Neighbours: in another's name


def test_a_call_of_another_node(site, neighbour, refused):
    victim = neighbour.who
    calls = {
        "pull-messages": PullMessagesRequest(node=victim),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=victim, heartbeat_interval=30),
        "deactivate-node": DeactivateNodeRequest(node_id=neighbour.node),
        "get-run": GetRunRequest(node=victim, run_id=1),
        "get-fab": GetFabRequest(node=victim, run_id=1, hash_str="ab"),
        "push-messages": PushMessagesRequest(node=victim),
        "pull-object": PullObjectRequest(node=victim, run_id=1, object_id="ab"),
        "push-object": PushObjectRequest(
            node=victim, run_id=1, object_id="ab", object_content=b"x"
        ),
        "confirm-message-received": ConfirmMessageReceivedRequest(node=victim, run_id=1),
        "activate-node": ActivateNodeRequest(public_key=neighbour.key, heartbeat_interval=30),
    }
    with refused(*["other-node"] * len(calls), caller=site, full=True):
        for name, request in calls.items():
            assert site.status(name, request) == 401, name


def test_an_instruction_to_another_site(coordinator, site, neighbour, refused):
    """Stock SuperLink takes it for the coordinator's: src = 1, dst = the victim."""
    record = RecordDict({"discreet": ConfigRecord({"content": b"obey"})})
    me(coordinator.run_id, 1)
    message = Message(record, dst_node_id=neighbour.node, message_type="query.sum", ttl=60.0)
    request, _ = announced(message, site.who)
    with refused("wrong-direction", caller=site, full=True):
        assert site.status("push-messages", request) == 400
        assert neighbour.pull() is None


def test_a_message_to_itself_or_without_end(coordinator, site, refused):
    me(coordinator.run_id, site.node)
    record = RecordDict({"discreet": ConfigRecord({"content": b"store this"})})
    message = Message(record, dst_node_id=site.node, message_type="query.sum", ttl=1e7)
    request, _ = announced(message, site.who)
    with refused("wrong-direction", caller=site):
        assert site.status("push-messages", request) == 400
    request.messages_list[0].metadata.dst_node_id = 1
    with refused("no-reply", caller=site):
        assert site.status("push-messages", request) == 400


def instructed(coordinator, site):
    """A message that a site has received, and its honest reply."""
    message = coordinator.instruct(site.node)
    whole = site.receive()
    assert whole.metadata.message_id == message
    return whole, *site.reply_to(whole)


def test_a_reply_in_a_victims_name(coordinator, site, neighbour, refused):
    """Forged by a neighbour that knows the id of the victim's message."""
    asks(coordinator, neighbour)
    whole, honest, contents = instructed(coordinator, neighbour)
    for forger_says, reason in ((site.node, "not-yours"), (neighbour.node, "wrong-direction")):
        request, _ = site.reply_to(whole, b"forged", node=neighbour.node)
        request.messages_list[0].metadata.src_node_id = forger_says
        with refused(reason, caller=site):
            assert site.status("push-messages", request) in {400, 403}
    neighbour.push(honest, contents)
    assert coordinator.reply(whole.metadata.message_id) == b"answer"


def test_a_second_reply_and_one_to_nothing(coordinator, site, refused):
    whole, honest, contents = instructed(coordinator, site)
    site.push(honest, contents)
    second, _ = site.reply_to(whole, b"another")
    with refused("second-reply", caller=site):
        assert site.status("push-messages", second) == 403
    site.call("push-messages", honest)  # word for word: the answer may have been lost
    second.messages_list[0].metadata.reply_to_message_id = "ab" * 32
    with refused("not-yours", caller=site):
        assert site.status("push-messages", second) == 403
    assert coordinator.reply(whole.metadata.message_id) == b"answer"


def test_a_reply_that_outlives_its_instruction(coordinator, site, refused):
    whole, honest, contents = instructed(coordinator, site)
    life = honest.messages_list[0].metadata.ttl
    for ttl, reason in ((life + 5, "not-yours"), (1e7, "long-life"), (math.nan, "long-life")):
        honest.messages_list[0].metadata.ttl = ttl
        with refused(reason, caller=site):
            assert site.status("push-messages", honest) in {400, 403}
    honest.messages_list[0].metadata.ttl = life
    site.push(honest, contents)
    assert coordinator.reply(whole.metadata.message_id) == b"answer"


# Neighbours: others' objects


def test_a_hash_that_was_guessed(coordinator, site, neighbour, refused):
    """A neighbour guesses what the victim was told or has answered, and asks whether SuperLink knows its hash."""
    message = coordinator.instruct(neighbour.node)
    pulled, tree = until(neighbour.pull)
    guesses = [tree.object_id, tree.children[0].object_id, sha256(b"guess").hexdigest()]
    with refused(*["not-yours"] * 4, caller=site):
        for guess in guesses:
            request = PullObjectRequest(node=site.who, run_id=coordinator.run_id, object_id=guess)
            assert site.status("pull-object", request) == 403
        confirm = ConfirmMessageReceivedRequest(
            node=site.who, run_id=coordinator.run_id, message_object_id=message
        )
        assert site.status("confirm-message-received", confirm) == 403
    whole = neighbour.receive()  # it did not confirm, so it is given the message again
    assert whole.metadata.message_id == pulled.metadata.message_id == message
    request, contents = neighbour.reply_to(whole)
    neighbour.call("push-messages", request)
    (answer,) = [name for name in contents if contents[name].startswith(b"ConfigRecord")]
    with refused("not-yours", caller=site):
        request = PullObjectRequest(node=site.who, run_id=coordinator.run_id, object_id=answer)
        assert site.status("pull-object", request) == 403


def test_an_object_that_is_a_victims(coordinator, site, neighbour, refused):
    """Announced with other children it would make the victim's own announcement fail."""
    whole, _, _ = instructed(coordinator, site)
    victims, honest, contents = instructed(coordinator, neighbour)
    neighbour.push(honest, contents)
    (answer,) = [name for name in contents if contents[name].startswith(b"ConfigRecord")]
    poison, _ = site.reply_to(whole)
    (tree,) = poison.message_object_trees
    del tree.children[:]
    tree.children.append(ObjectTree(object_id=answer, children=[ObjectTree(object_id="ab" * 32)]))
    with refused("others-object", "second-reply", "wrong-tree", caller=site):
        assert site.status("push-messages", poison) == 403
        tree.children[0].CopyFrom(ObjectTree(object_id="cd" * 32))  # not another guess
        assert site.status("push-messages", poison) == 403
        for number in range(3):  # nor several
            tree.children.add(object_id=sha256(b"%d" % number).hexdigest())
        assert site.status("push-messages", poison) == 400
    assert coordinator.reply(victims.metadata.message_id) == b"answer"


def test_an_instruction_is_sent_again_whatever_its_site_has_announced(
    coordinator, site, neighbour, refused
):
    """Its own instruction's dictionary, as if it had no record: SuperLink would refuse the instruction ever after."""

    def instruction(node, content):
        me(coordinator.run_id, SUPERLINK_NODE_ID)
        return Message(
            RecordDict({"discreet": ConfigRecord({"content": content})}),
            dst_node_id=node, message_type="query.sum", ttl=60.0,
        )  # fmt: skip

    coordinator.grid.push_messages([instruction(site.node, b"to the first")])
    _, tree = until(site.pull)
    poison, _ = site.reply_to(site.receive())
    (reply,) = poison.message_object_trees
    del reply.children[:]
    reply.children.append(ObjectTree(object_id=tree.children[0].object_id))
    with refused("others-object", caller=site):
        assert site.status("push-messages", poison) == 403
    again = [instruction(site.node, b"to the first"), instruction(neighbour.node, b"to the other")]
    assert all(coordinator.grid.push_messages(again))
    for each in (site, neighbour):
        each.answer(each.receive())


def test_an_object_that_was_not_announced_or_is_another(coordinator, site, refused):
    whole, honest, contents = instructed(coordinator, site)
    response = site.call("push-messages", honest)
    name, other, *_ = response.objects_to_push

    def pushed(name, content):
        return PushObjectRequest(
            node=site.who, run_id=coordinator.run_id, object_id=name, object_content=content,
            session_id=response.session_id,
        )  # fmt: skip

    with refused("wrong-digest", "wrong-digest", "not-yours", caller=site):
        assert site.status("push-object", pushed(name, contents[name] + b"x")) == 400
        assert site.status("push-object", pushed(name, contents[other])) == 400
        stranger = b"ConfigRecord  1\x00x"
        assert site.status("push-object", pushed(sha256(stranger).hexdigest(), stranger)) == 403
    for each in response.objects_to_push:
        for _ in range(2):  # the answer to the first may have been lost
            assert site.call("push-object", pushed(each, contents[each])).stored
    assert coordinator.reply(whole.metadata.message_id) == b"answer"


# Neighbours: too much


@pytest.mark.parametrize("seconds", [1800, 61, 5, math.nan, math.inf])
def test_a_heartbeat_that_hides_a_death(site, refused, seconds):
    with refused("heartbeat", "heartbeat", caller=site):
        beat = SendNodeHeartbeatRequest(node=site.who, heartbeat_interval=seconds)
        assert site.status("send-node-heartbeat", beat) == 400
        activate = ActivateNodeRequest(public_key=site.key, heartbeat_interval=seconds)
        assert site.status("activate-node", activate) == 400


def test_many_objects_and_many_messages(coordinator, site, refused):
    whole, honest, contents = instructed(coordinator, site)
    many = PushMessagesRequest()
    many.CopyFrom(honest)
    for number in range(600):
        many.message_object_trees[0].children.add(object_id=sha256(b"%d" % number).hexdigest())
    with refused("large-tree", caller=site):
        assert site.status("push-messages", many) == 400
    several = PushMessagesRequest()
    several.CopyFrom(honest)
    several.messages_list.append(honest.messages_list[0])
    with refused("not-one-message", caller=site):
        assert site.status("push-messages", several) == 400
    for number in range(600, 2000):
        many.message_object_trees[0].children.add(object_id=sha256(b"%d" % number).hexdigest())
    with refused("too-large", caller=None):
        assert site.status("push-messages", many) == 413
    site.push(honest, contents)
    assert coordinator.reply(whole.metadata.message_id) == b"answer"


def upload(fleet, site, path, megabytes, headers):
    """Announce and send a body of so many megabytes; how many were taken before an answer or the end came."""
    network = fleet.directory.settings().network
    context = ssl.create_default_context(cafile=fleet.directory / "ca.pem")
    lines = [f"{name}: {value}".encode() for name, value in (headers | TYPE).items()]
    length = b"Content-Length: %d" % (megabytes * 1_000_000)
    start = b"\r\n".join(
        [b"POST /v1/fleet/" + path + b" HTTP/1.1", b"Host: localhost", *lines, length]
    )
    taken = 0
    with (
        socket.create_connection(("127.0.0.1", network.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        try:
            connection.sendall(start + b"\r\n\r\n")
            for _ in range(megabytes):
                connection.sendall(b"x" * 1_000_000)
                taken += 1
        except OSError:
            pass
    return taken


@pytest.mark.parametrize(
    "sent",
    [
        (b"push-object", 200, "no-signature"), (b"push-object", 300, "too-large"), (b"push-messages", 300, "too-large"),
        (b"pull-messages", 300, "too-large"),
    ],
)  # fmt: skip
def test_a_strangers_large_body_fills_nobodys_memory(fleet, site, refused, sent):
    name, megabytes, reason = sent
    before = [each.memory() for each in (fleet.gateway, fleet.superlink)]
    with refused(reason):
        assert upload(fleet, site, name, megabytes, {}) < 20
    after = [each.memory() for each in (fleet.gateway, fleet.superlink)]
    assert all(new - old < 20_000_000 for old, new in zip(before, after, strict=True))


def test_a_large_body_of_a_site_that_was_asked_nothing(fleet, refused):
    fresh = fleet.site("fresh")
    before = fleet.gateway.memory()
    with refused("nothing-announced", caller=fresh):
        assert upload(fleet, fresh, b"push-object", 200, fresh.signature()) < 20
    with refused("too-large"):
        assert upload(fleet, fresh, b"push-object", 300, fresh.signature()) < 20
    assert fleet.gateway.memory() - before < 20_000_000
    fleet.remove("fresh")


def test_many_connections_of_strangers_keep_no_site_out(tmp_path, fleet, site):
    """When all places are taken, the stranger that has waited longest makes room."""
    directory = make_directory(tmp_path / "small", connections=16)
    port = directory.settings().network.port
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    with Started(gateway_process(directory), tmp_path / "log", port=port) as gateway:
        idle = []
        for _ in range(40):
            plain = socket.create_connection(("127.0.0.1", port), 10)
            idle.append(context.wrap_socket(plain, server_hostname="localhost"))
        with httpx.Client(verify=context) as client:
            response = client.post(f"https://localhost:{port}/v1/fleet/pull-messages")
            assert response.status_code == 415
        for each in idle:
            each.close()
        assert gateway.output.count("no-place") >= 20
    assert site.heartbeat()


def connected(fleet, source="127.0.0.1"):
    """A connection from this address, on which nothing was said yet."""
    network = fleet.directory.settings().network
    return socket.create_connection(("127.0.0.1", network.port), 10, source_address=(source, 0))


def test_many_connections_of_one_address_keep_no_other_address_out(fleet, site):
    """However slowly the other begins: who fills all places makes room for himself."""
    context = ssl.create_default_context(cafile=fleet.directory / "ca.pem")
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(connected(fleet))
        for _ in range(300):
            stack.enter_context(connected(fleet, "127.0.0.2"))
        connection = stack.enter_context(context.wrap_socket(slow, server_hostname="localhost"))
        connection.sendall(head(site, b"/v1/fleet/nothing", b"Content-Length: 0") + b"\r\n\r\n")
        assert b"404" in connection.recv(1000)


@pytest.mark.parametrize("behind", [b"", b"Transfer-Encoding: chunked\r\n\r\n0\r\n"])
def test_a_head_of_spaces_takes_nobodys_time(fleet, site, behind):
    """Half a second each for h11: these fifty would hold up all sites for half a minute."""
    context = ssl.create_default_context(cafile=fleet.directory / "ca.pem")
    said = b"POST /v1/fleet/x HTTP/1.1\r\nHost: localhost\r\n" + behind
    for _ in range(50):
        with context.wrap_socket(connected(fleet), server_hostname="localhost") as connection:
            connection.sendall(said + b"a:" + b" \t" * 8_000 + b"\0\r\n\r\n")
            assert b"400" in connection.recv(1000)
    assert site.heartbeat()


def test_one_sites_connections_keep_no_other_out(fleet, site, neighbour):
    """It has twelve at most; its own oldest make room."""
    context = ssl.create_default_context(cafile=fleet.directory / "ca.pem")
    port = fleet.directory.settings().network.port
    before = len(fleet.refusals())
    held = []
    for _ in range(30):
        plain = socket.create_connection(("127.0.0.1", port), 10)
        connection = context.wrap_socket(plain, server_hostname="localhost")
        request = head(neighbour, b"/v1/fleet/deactivate-node", b"Content-Length: 3")
        connection.sendall(request + b"\r\n\r\n\x08\x80\x00")
        assert b"400" in connection.recv(1000)
        held.append(connection)
    for each in held:
        each.close()
    dropped = [line for line in fleet.refusals()[before:] if line[1] == "many-connections"]
    assert len(dropped) >= 30 - 12
    assert site.heartbeat()
    assert neighbour.heartbeat()


def test_connections_that_never_begin_keep_no_site_out(fleet, site):
    """Of handshakes that do not end the oldest is given up, and its memory with it."""
    network = fleet.directory.settings().network
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(socket.create_connection(("127.0.0.1", network.port), 10))
        fresh = Site(fleet.address, site.authority, site.private, site.node)
        stack.callback(fresh.http.close)
        assert fresh.heartbeat()
        assert len(list(Path(f"/proc/{fleet.gateway.pid}/fd").iterdir())) < 200


def test_a_message_of_a_run_that_is_over_holds_up_none_of_the_next(fleet):
    """SuperLink has deleted its objects, and the gateway would have given it again, and waited for them, four times."""
    fresh = fleet.site("late")
    first = Coordinator(fleet.directory)
    first.instruct(fresh.node)
    until(fresh.pull)
    with Control(fleet.directory) as control:
        control.stop_run(first.run_id)
    first.close()
    second = Coordinator(fleet.directory)
    asks(second, fresh)
    second.close()
    with Control(fleet.directory) as control:
        control.stop_run(second.run_id)
    fleet.remove("late")
