"""What a site may say, byte by byte: each honest message passes, each one that is bent by one thing does not."""

import math
from hashlib import sha256

import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from hypothesis import given
from hypothesis import strategies as st

from server.directory import Limits
from server.gateway import checks
from server.gateway.checks import (
    PATHS,
    announcement_of,
    check_heartbeat,
    check_object,
    length_of,
    node_of,
    object_in,
    objects_of,
    parsed,
    path_of,
)
from server.gateway.refusals import Refused

LIMITS = Limits()
NODE = 2**63 + 5
MESSAGE = "ab" * 32
TYPE = (b"content-type", b"application/protobuf")


def digest(number):
    return sha256(b"%d" % number).hexdigest()


def refused(reason):
    return pytest.raises(Refused, match=f"^{reason}$")


# Paths


def test_there_are_ten_paths_and_none_that_registers():
    assert sorted(PATHS) == sorted(
        b"/v1/fleet/" + name
        for name in (
            b"activate-node", b"deactivate-node", b"send-node-heartbeat", b"pull-messages",
            b"push-messages", b"get-run", b"get-fab", b"pull-object", b"push-object",
            b"confirm-message-received",
        )
    )  # fmt: skip


@pytest.mark.parametrize("raw", PATHS)
def test_an_exact_path_is_found(raw):
    assert path_of("POST", raw, b"", "1.1") is PATHS[raw]


@pytest.mark.parametrize(
    "raw",
    [
        b"/", b"", b"*", b"/v1/fleet", b"/v1/fleet/", b"/v1/fleet/register-node", b"/v1/fleet/unregister-node",
        b"/v1/control/start-run", b"/v1/control/list-nodes", b"/v1/runtime/acquire-task", b"/docs", b"/openapi.json",
        b"/v1/fleet/pull-messages/", b"//v1/fleet/pull-messages", b"/v1//fleet/pull-messages",
        b"/v1/fleet/./pull-messages", b"/v1/fleet/../fleet/pull-messages", b"/v1/fleet/../control/start-run",
        b"/v1/fleet/%70ull-messages", b"/v1%2ffleet/pull-messages", b"/v1/fleet%2Fpull-messages",
        b"/V1/fleet/pull-messages", b"/v1/fleet/Pull-Messages", b"/v1/fleet/pull-messages;a", b"/v1/fleet/pull-messages%00",
        b"https://localhost/v1/fleet/pull-messages", b"localhost:9443", b"\\v1\\fleet\\pull-messages",
    ],
)  # fmt: skip
def test_any_other_path_is_not(raw):
    with refused("no-such-path"):
        path_of("POST", raw, b"", "1.1")


@given(st.binary(max_size=40))
def test_no_other_bytes_are_a_path(raw):
    if raw not in PATHS:
        with refused("no-such-path"):
            path_of("POST", raw, b"", "1.1")


def test_queries_methods_and_versions_are_refused():
    (raw, *_) = PATHS
    with refused("no-such-path"):
        path_of("POST", raw, b"a=1", "1.1")
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "post", "PRI"):
        with refused("no-such-method"):
            path_of(method, raw, b"", "1.1")
    for version in ("1.0", "2", "0.9"):
        with refused("no-such-version"):
            path_of("POST", raw, b"", version)


# Headers


def length(*headers, path=b"/v1/fleet/pull-messages", limits=LIMITS):
    return length_of(PATHS[path], headers, limits)


def test_a_length_is_read():
    assert length(TYPE, (b"content-length", b"17")) == 17
    assert length(TYPE, (b"content-length", b"4096")) == 4096


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([TYPE], "no-length"),
        ([TYPE, (b"content-length", b"1"), (b"content-length", b"2")], "no-length"),
        ([TYPE, (b"content-length", b"1"), (b"content-length", b"1")], "no-length"),
        ([TYPE, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")], "no-length"),
        ([TYPE, (b"transfer-encoding", b"identity"), (b"content-length", b"1")], "no-length"),
        ([TYPE, (b"content-length", b"-1")], "no-length"),
        ([TYPE, (b"content-length", b"+1")], "no-length"),
        ([TYPE, (b"content-length", b"")], "no-length"),
        ([TYPE, (b"content-length", b"1,1")], "no-length"),
        ([TYPE, (b"content-length", "١".encode())], "no-length"),
        ([TYPE, (b"content-length", b"4097")], "too-large"),
        ([TYPE, (b"content-length", b"9" * 5000)], "too-large"),
        ([(b"content-length", b"1")], "no-protobuf-type"),
        ([TYPE, TYPE, (b"content-length", b"1")], "no-protobuf-type"),
        ([(b"content-type", b"application/json"), (b"content-length", b"1")], "no-protobuf-type"),
        ([TYPE, (b"content-encoding", b"gzip"), (b"content-length", b"1")], "no-protobuf-type"),
        ([TYPE, (b"content-length", b"1"), *[(b"a", b"b")] * 40], "many-headers"),
        ([TYPE, (b"content-length", b"1"), (b"a", b"b" * 17_000)], "many-headers"),
    ],
)
def test_headers_that_leave_a_doubt_are_refused(headers, reason):
    with refused(reason):
        length(*headers)


def test_each_path_has_a_bound_of_its_own():
    largest = {name.decode().rpartition("/")[2]: path.largest for name, path in PATHS.items()}
    assert largest.pop("push-object") is None
    assert largest.pop("push-messages") == 65_536
    assert set(largest.values()) == {4096}
    limits = Limits(object_bytes=2_000_000)
    path = b"/v1/fleet/push-object"
    assert length(TYPE, (b"content-length", b"2004096"), path=path, limits=limits) == 2_004_096
    with refused("too-large"):
        length(TYPE, (b"content-length", b"2004097"), path=path, limits=limits)


# Messages


REQUESTS = [
    ActivateNodeRequest(public_key=b"key", heartbeat_interval=30),
    DeactivateNodeRequest(node_id=NODE),
    PullMessagesRequest(node=Node(node_id=NODE)),
    SendNodeHeartbeatRequest(node=Node(node_id=NODE), heartbeat_interval=30),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: type(each).__name__)
def test_a_message_is_read_and_says_of_which_node_it_is(request_):
    body = request_.SerializeToString()
    again = parsed(type(request_), body)
    assert again == request_
    assert node_of(again) == (None if isinstance(request_, ActivateNodeRequest) else NODE)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize(
    "extra",
    [b"\x00", b"\xff", b"\xfa\x01\x00", b"\x0a", b"\x9a\x06\x02hi", b"\x08\x80"],
    ids=["zero", "ff", "unknown", "cut", "other", "open"],
)
def test_a_message_with_anything_more_is_refused(request_, extra):
    with refused("no-protobuf"):
        parsed(type(request_), request_.SerializeToString() + extra)


def test_a_field_that_comes_twice_is_refused():
    """The last one counts for one reader, the first one or both for another."""
    one = SendNodeHeartbeatRequest(node=Node(node_id=1), heartbeat_interval=30).SerializeToString()
    two = SendNodeHeartbeatRequest(node=Node(node_id=2), heartbeat_interval=30).SerializeToString()
    with refused("no-protobuf"):
        parsed(SendNodeHeartbeatRequest, one + two)


def test_a_number_in_more_bytes_than_it_needs_is_refused():
    with refused("no-protobuf"):
        parsed(DeactivateNodeRequest, b"\x08\x85\x80\x00")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body):
    for path in PATHS.values():
        try:
            message = parsed(path.kind, body)
        except Refused:
            continue
        assert len(message.SerializeToString()) == len(body)


@pytest.mark.parametrize("seconds", [10, 30, 60])
def test_heartbeats_in_the_range_pass(seconds):
    check_heartbeat(seconds, LIMITS)


@pytest.mark.parametrize("seconds", [9.9, 60.1, 1800, 1e300, 0, -30, math.inf, -math.inf, math.nan])
def test_a_heartbeat_that_hides_a_death_is_refused(seconds):
    with refused("heartbeat"):
        check_heartbeat(seconds, LIMITS)


# Replies


def tree(number=0, *children):
    return ObjectTree(object_id=digest(number), children=children)


def announcement(**changes):
    """An honest PushMessages; changes name a field of its metadata, or `edit` its whole."""
    edit = changes.pop("edit", None)
    metadata = {
        "run_id": 7, "message_id": digest(0), "src_node_id": NODE, "dst_node_id": 1, "reply_to_message_id": MESSAGE,
        "ttl": 60.0, "message_type": "query.sum", "created_at": 1.8e9,
    } | changes  # fmt: skip
    message = Message(metadata=Metadata(**metadata))
    message.content.SetInParent()
    request = PushMessagesRequest(
        node=Node(node_id=NODE), messages_list=[message],
        message_object_trees=[tree(0, tree(1, tree(2)))], clientapp_runtime_list=[0.5],
    )  # fmt: skip
    if edit is not None:
        edit(request)
    body = bytearray(request.SerializeToString())
    return announcement_of(parsed(PushMessagesRequest, body), body, LIMITS)


def test_an_honest_reply_is_read():
    reply = announcement()
    assert (reply.node, reply.run, reply.reply_to, reply.expires) == (NODE, 7, MESSAGE, 1.8e9 + 60)
    assert reply.objects == {
        digest(0): {digest(1)}, digest(1): {digest(2)}, digest(2): frozenset(),
    }  # fmt: skip


def test_an_error_is_a_reply_too():
    def edit(request):
        request.messages_list[0].ClearField("content")
        request.messages_list[0].error.code = 1

    assert announcement(edit=edit).reply_to == MESSAGE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"src_node_id": 1}, "wrong-direction"),
        ({"src_node_id": NODE + 1}, "wrong-direction"),
        ({"src_node_id": 0}, "wrong-direction"),
        ({"dst_node_id": NODE}, "wrong-direction"),
        ({"dst_node_id": NODE + 1}, "wrong-direction"),
        ({"dst_node_id": 0}, "wrong-direction"),
        ({"reply_to_message_id": ""}, "no-reply"),
        ({"reply_to_message_id": MESSAGE.upper()}, "no-reply"),
        ({"reply_to_message_id": MESSAGE + "0"}, "no-reply"),
        ({"reply_to_message_id": MESSAGE[:-1] + "\n"}, "no-reply"),
        ({"reply_to_message_id": MESSAGE + "\n"}, "no-reply"),
        ({"ttl": 0.0}, "long-life"),
        ({"ttl": -1.0}, "long-life"),
        ({"ttl": 1e7}, "long-life"),
        ({"ttl": math.nan}, "long-life"),
        ({"ttl": math.inf}, "long-life"),
        ({"created_at": math.nan}, "long-life"),
        ({"created_at": math.inf}, "long-life"),
        ({"created_at": -1e300}, "long-life"),
        ({"message_id": digest(1)}, "wrong-tree"),
        ({"message_id": ""}, "wrong-tree"),
    ],
)
def test_a_reply_that_is_none_is_refused(changes, reason):
    with refused(reason):
        announcement(**changes)


def no_message(request):
    del request.messages_list[:]


def two_messages(request):
    request.messages_list.append(request.messages_list[0])


def no_tree(request):
    del request.message_object_trees[:]


def two_trees(request):
    request.message_object_trees.append(tree(5))


def another_node(request):
    request.node.node_id = NODE + 1


def content(request):
    request.messages_list[0].content.items.add().key = "x"


def both(request):
    request.messages_list[0].error.code = 1


def neither(request):
    request.messages_list[0].ClearField("content")


def two_times(request):
    request.clientapp_runtime_list.append(1.0)


def endless(request):
    request.clientapp_runtime_list[0] = math.inf


def no_number(request):
    request.clientapp_runtime_list[0] = math.nan


def negative(request):
    request.clientapp_runtime_list[0] = -1.0


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (no_message, "not-one-message"), (two_messages, "not-one-message"), (no_tree, "not-one-message"),
        (two_trees, "not-one-message"), (another_node, "wrong-direction"), (content, "content-in-place"),
        (both, "content-in-place"), (neither, "content-in-place"), (two_times, "run-time"), (endless, "run-time"),
        (no_number, "run-time"), (negative, "run-time"),
    ],
)  # fmt: skip
def test_a_push_of_anything_but_one_reply_is_refused(edit, reason):
    with refused(reason):
        announcement(edit=edit)


# Trees


def deep(levels):
    each = tree(0)
    for number in range(1, levels):
        each = tree(number, each)
    return each


def test_trees_have_bounds():
    assert len(objects_of(tree(0, *map(tree, range(1, 512))))) == 512
    assert len(objects_of(deep(16))) == 16
    for each in (tree(0, *map(tree, range(1, 513))), deep(17), deep(90)):
        with refused("large-tree"):
            objects_of(each)


@pytest.mark.parametrize("name", ["", "ab", "AB" * 32, "g" * 64, "ab" * 32 + "\n", "ａ" * 64])
def test_an_object_is_named_by_a_digest(name):
    with refused("no-digest"):
        objects_of(tree(0, ObjectTree(object_id=name)))


def test_a_name_stands_for_one_object():
    assert len(objects_of(tree(0, tree(1, tree(3)), tree(2, tree(3))))) == 4
    for each in (
        tree(0, tree(1), tree(1)),
        tree(0, tree(1, tree(2)), tree(3, tree(1))),
        tree(0, tree(1, tree(0))),
        tree(0, tree(0)),
    ):
        with refused("wrong-tree"):
            objects_of(each)


# Objects


def object_of(content, **changes):
    name = sha256(content).hexdigest()
    return PushObjectRequest(
        **({"node": Node(node_id=NODE), "run_id": 7, "object_id": name, "object_content": content, "session_id": "s"}
        | changes)
    )  # fmt: skip


def content_of(*children, body=b"body"):
    return f"ConfigRecord {','.join(children)} {len(body)}".encode() + b"\x00" + body


@given(st.binary(max_size=300))
def test_an_object_is_read_without_being_copied(content):
    request = object_of(content or b"x")
    rest, view = object_in(bytearray(request.SerializeToString()))
    assert bytes(view) == request.object_content
    request.ClearField("object_content")
    assert rest == request


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(body):
    try:
        rest, view = object_in(bytearray(body))
    except Refused:
        return
    again = PushObjectRequest.FromString(body)
    assert bytes(view) == again.object_content
    again.ClearField("object_content")
    assert rest == again


@pytest.mark.parametrize(
    "extra", [b"\x22\x01x", b"\x22\x00", b"\xfa\x01\x00", b"\x22", b"\x22\x05ab", b"\x25abcd"]
)
def test_an_object_with_anything_more_is_refused(extra):
    body = bytearray(object_of(b"content").SerializeToString() + extra)
    with refused("no-protobuf"):
        object_in(body)


def test_of_many_fields_few_are_read(monkeypatch):
    """A second of everybody's time for a megabyte, if all were."""
    read = []
    real = checks._varint
    monkeypatch.setattr(checks, "_varint", lambda view, at: (read.append(at), real(view, at))[1])
    with refused("no-protobuf"):
        object_in(bytearray(b"\x10\x00" * 500_000))
    assert len(read) <= 2 * len(PushObjectRequest.DESCRIPTOR.fields)


def test_an_object_without_content_is_refused():
    with refused("no-protobuf"):
        object_in(bytearray(PushObjectRequest(object_id=digest(0)).SerializeToString()))


def check(content, children=(), **changes):
    rest, view = object_in(bytearray(object_of(content, **changes).SerializeToString()))
    check_object(rest, view, frozenset(children))


def test_an_honest_object_passes():
    check(content_of())
    check(content_of(digest(1), digest(2)), [digest(2), digest(1)])


@pytest.mark.parametrize(
    ("content", "children", "changes", "reason"),
    [
        (content_of(), [], {"object_id": digest(9)}, "wrong-digest"),
        (content_of(), [], {"object_id": ""}, "wrong-digest"),
        (content_of(digest(1)), [], {}, "wrong-tree"),
        (content_of(), [digest(1)], {}, "wrong-tree"),
        (b"nothing", [], {}, "no-object"),
        (b"\x00", [], {}, "no-object"),
        (bytes(range(100, 200)), [], {}, "no-object"),
        (content_of(), [], {"session_id": "s" * 200}, "wrong-session"),
        (content_of(), [], {"session_id": "é"}, "wrong-session"),
    ],
)
def test_an_object_that_is_not_what_was_announced_is_refused(content, children, changes, reason):
    with refused(reason):
        check(content, children, **changes)
