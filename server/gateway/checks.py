"""What a site may say, path by path: bytes in, a message of Flower's or a refusal out.

Nothing here knows what happened before; what a node was given and may therefore answer stands in `deliveries`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, SUPERLINK_NODE_ID
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import get_object_children_ids_from_object_content
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped, unused-ignore]

from server.directory import Limits
from server.gateway.authentication import Headers
from server.gateway.refusals import Refused

__all__ = [
    "PATHS",
    "REPLY_OBJECTS",
    "Announcement",
    "Path",
    "announcement_of",
    "check_heartbeat",
    "check_object",
    "length_of",
    "node_of",
    "object_in",
    "objects_of",
    "parsed",
    "path_of",
]

_SMALL = 4_096
_TREE = 65_536
OBJECTS = 512
REPLY_OBJECTS = 3  # of a lean message: itself, its dictionary, one record
_DEPTH = 16
_HEADERS, _HEADER_BYTES = 40, 16_384
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBER, _BYTES = 0, 2  # kinds of fields in protobuf's wire format
_CONTENT = PushObjectRequest.OBJECT_CONTENT_FIELD_NUMBER << 3 | _BYTES
_FIELDS = len(PushObjectRequest.DESCRIPTOR.fields)
_LONGEST_RUNTIME = 1e7  # seconds; it is added to a statistic of the run
T = TypeVar("T", bound=Message)


@dataclass(frozen=True, kw_only=True)
class Path:
    """One call of Flower's Fleet API: its name, its message, and how large a body may be; None: as settings say."""

    name: str
    kind: type[Message]
    largest: int | None = _SMALL


def _paths(*paths: Path) -> Mapping[bytes, Path]:
    return {b"/v1/fleet/" + path.name.encode(): path for path in paths}


PATHS = _paths(
    Path(name="activate-node", kind=ActivateNodeRequest),
    Path(name="deactivate-node", kind=DeactivateNodeRequest),
    Path(name="send-node-heartbeat", kind=SendNodeHeartbeatRequest),
    Path(name="pull-messages", kind=PullMessagesRequest),
    Path(name="push-messages", kind=PushMessagesRequest, largest=_TREE),
    Path(name="get-run", kind=GetRunRequest),
    Path(name="get-fab", kind=GetFabRequest),
    Path(name="pull-object", kind=PullObjectRequest),
    Path(name="push-object", kind=PushObjectRequest, largest=None),
    Path(name="confirm-message-received", kind=ConfirmMessageReceivedRequest),
)
"""All that sites reach. Nodes are registered by the coordinator alone, over the loopback."""


def path_of(method: str, raw_path: bytes, query: bytes, version: str) -> Path:
    """The call that a request line names, byte for byte. Raises Refused: 404, 405, or 505 for HTTP/1.0."""
    path = PATHS.get(raw_path)
    if path is None or query:
        raise Refused(404, "no-such-path")
    if method != "POST":
        raise Refused(405, "no-such-method")
    if version != "1.1":
        raise Refused(505, "no-such-version")
    return path


def length_of(path: Path, headers: Headers, limits: Limits) -> int:
    """How long the body is, from headers that leave no doubt about it.

    Raises:
        Refused: 431, 415, 411 without a length or with a second framing, 413.
    """
    if len(headers) > _HEADERS or sum(len(a) + len(b) for a, b in headers) > _HEADER_BYTES:
        raise Refused(431, "many-headers")
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    if values.get(b"content-type") != [b"application/protobuf"] or b"content-encoding" in values:
        raise Refused(415, "no-protobuf-type")
    lengths = values.get(b"content-length", [])
    if b"transfer-encoding" in values or len(lengths) != 1 or not lengths[0].isdigit():
        raise Refused(411, "no-length")
    largest = limits.object_bytes + _SMALL if path.largest is None else path.largest
    if len(lengths[0]) > 12 or int(lengths[0]) > largest:
        raise Refused(413, "too-large")
    return int(lengths[0])


def parsed(kind: type[T], body: bytes | bytearray) -> T:
    """The message in a body that holds nothing else: no unknown fields, none twice. So SuperLink reads it as we do.

    Raises:
        Refused: 400.
    """
    message = kind()
    try:
        message.ParseFromString(body)
        message.DiscardUnknownFields()  # type: ignore[no-untyped-call, unused-ignore]
    except (DecodeError, RecursionError):
        raise Refused(400, "no-protobuf") from None
    if message.ByteSize() != len(body):
        raise Refused(400, "no-protobuf")
    return message  # type: ignore[no-any-return, unused-ignore]


def object_in(body: bytes | bytearray) -> tuple[PushObjectRequest, memoryview]:
    """A PushObject without its content, and the content, which may be large and is not copied.

    Raises:
        Refused: 400, as `parsed` does.
    """
    view, rest, content, at = memoryview(body), bytearray(), None, 0
    try:
        for _ in range(_FIELDS):  # each of them once: of more nobody's time is taken
            if at == len(view):
                break
            tag, begin = _varint(view, at)
            size, begin = _varint(view, begin)
            end = begin + size if tag & 7 == _BYTES else begin
            if tag == _CONTENT and content is None:
                content = view[begin:end]
            elif tag == _CONTENT or tag & 7 not in {_NUMBER, _BYTES} or end > len(view):
                raise Refused(400, "no-protobuf")
            else:
                rest += view[at:end]
            at = end
    except IndexError:
        raise Refused(400, "no-protobuf") from None
    if content is None or at != len(view):
        raise Refused(400, "no-protobuf")
    return parsed(PushObjectRequest, rest), content


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number of the wire format, and where the next begins. Raises IndexError at the end."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (view[at] & 0x7F) << shift
        at += 1
        if view[at - 1] < 0x80:
            return value, at
    raise IndexError


def node_of(request: Message) -> int | None:
    """The node that a request claims to be of; None for ActivateNode, which names a key."""
    if isinstance(request, ActivateNodeRequest):
        return None
    if isinstance(request, DeactivateNodeRequest):
        return request.node_id
    return request.node.node_id  # type: ignore[no-any-return, attr-defined, unused-ignore]


def check_heartbeat(seconds: float, limits: Limits) -> None:
    """Raise Refused for an interval after which a dead node would look alive for long; nan is refused too."""
    if not HEARTBEAT_MIN_INTERVAL <= seconds <= limits.heartbeat_seconds:
        raise Refused(400, "heartbeat")


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """A reply that a node announces: to which message, in which run, of which objects and their children."""

    node: int
    run: int
    reply_to: str
    objects: Mapping[str, frozenset[str]]
    digest: bytes
    expires: float


def announcement_of(request: PushMessagesRequest, body: bytearray, limits: Limits) -> Announcement:
    """The one reply, to the coordinator and from the node itself, in a PushMessages.

    Raises:
        Refused: 400; another sender or receiver, no reply, several messages, content in place, a life that is too
            long, an object tree that is large, deep, or names no digests.
    """
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise Refused(400, "not-one-message")
    message, tree = request.messages_list[0], request.message_object_trees[0]
    metadata = message.metadata
    if metadata.src_node_id != request.node.node_id or metadata.dst_node_id != SUPERLINK_NODE_ID:
        raise Refused(400, "wrong-direction")
    if _DIGEST.fullmatch(metadata.reply_to_message_id) is None:
        raise Refused(400, "no-reply")
    if message.HasField("content") == message.HasField("error") or message.content.ByteSize():
        raise Refused(400, "content-in-place")  # it comes as objects; here it is there, and empty
    if not 0 < metadata.ttl <= limits.ttl_seconds or not 0 < metadata.created_at < 1e11:
        raise Refused(400, "long-life")
    runtimes = request.clientapp_runtime_list
    if len(runtimes) > 1 or not all(0 <= each < _LONGEST_RUNTIME for each in runtimes):
        raise Refused(400, "run-time")
    objects = objects_of(tree)
    if metadata.message_id != tree.object_id or len(objects) > REPLY_OBJECTS:
        raise Refused(400, "wrong-tree")
    return Announcement(
        node=request.node.node_id,
        run=metadata.run_id,
        reply_to=metadata.reply_to_message_id,
        objects=objects,
        digest=sha256(body).digest(),
        expires=metadata.created_at + metadata.ttl,
    )


def objects_of(tree: ObjectTree) -> dict[str, frozenset[str]]:
    """The ids in an object tree, and the children of each.

    Raises:
        Refused: more than 512 objects, or 16 levels; an id that is no digest, or stands for two different objects.
    """
    found: dict[str, frozenset[str]] = {}
    for number, (each, depth) in enumerate(_walk(tree)):
        if number >= OBJECTS or depth > _DEPTH:
            raise Refused(400, "large-tree")
        children = frozenset(child.object_id for child in each.children)
        if _DIGEST.fullmatch(each.object_id) is None:
            raise Refused(400, "no-digest")
        if (
            len(children) != len(each.children)
            or found.setdefault(each.object_id, children) != children
        ):
            raise Refused(400, "wrong-tree")
    return found


def check_object(request: PushObjectRequest, content: memoryview, children: frozenset[str]) -> None:
    """Raise Refused unless an object's content is what its id says, and has the children that were announced."""
    if sha256(content).hexdigest() != request.object_id:
        raise Refused(400, "wrong-digest")
    try:
        named = get_object_children_ids_from_object_content(bytes(content[:_TREE]))
    except ValueError:
        raise Refused(400, "no-object") from None
    if frozenset(named) != children:
        raise Refused(400, "wrong-tree")
    if not request.session_id.isascii() or len(request.session_id) > 128:
        raise Refused(400, "wrong-session")


def _walk(tree: ObjectTree) -> Iterator[tuple[ObjectTree, int]]:
    waiting = [(tree, 1)]
    while waiting:
        each, depth = waiting.pop()
        yield each, depth
        waiting.extend((child, depth + 1) for child in each.children)
