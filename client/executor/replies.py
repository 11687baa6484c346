"""Replies as the executor makes and checks them: to the message that was asked, to nobody else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from flwr.app import Error, Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import message_pb2
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.task_identity import TaskIdentity

from client.parcels import MOST_OBJECTS, Reply, is_object_id
from privacy.errors import ProtocolError

__all__ = ["UNAVAILABLE", "Asked", "asked_by", "checked_reply", "error_reply", "ids_of"]

UNAVAILABLE = 1005
"""`Refusal.UNAVAILABLE` (study/queries.py), which takes 20 MB to import."""


MOST_REPLY = 300_000_000
"""Bytes of a reply: what the executor has the memory to pass on, and more than a gateway takes."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a reply must fit: run, id of the message and its type, its sender, and this node."""

    run: int
    message: str
    kind: str
    sender: int
    node: int


def asked_by(message: bytes, *, run: int) -> Asked:
    """Raises ProtocolError for a message of another run, or without an id."""
    found = _parsed(message).metadata
    if found.run_id != run or not is_object_id(found.message_id):
        raise ProtocolError("Expected a message of the task's run, with an id")
    return Asked(
        run=run, message=found.message_id, kind=found.message_type, sender=found.src_node_id,
        node=found.dst_node_id,
    )  # fmt: skip


def checked_reply(content: bytes, *, to: Asked) -> Reply:
    """The reply of a frame, if it answers that message, and SuperNode will take it and all its objects.

    One that it announces and does not get whole it waits for, and does nothing else any more.

    Raises:
        ProtocolError: it is none.
    """
    if len(content) > MOST_REPLY:
        raise ProtocolError(f"Expected a reply of at most {MOST_REPLY:,} bytes")
    reply = Reply.from_bytes(content)
    message = _parsed(reply.message)
    found = message.metadata
    if (found.run_id, found.reply_to_message_id, found.message_type, found.dst_node_id, found.src_node_id) != (
        to.run, to.message, to.kind, to.sender, to.node,
    ) or found.message_id == to.message:  # fmt: skip
        raise ProtocolError("Expected a reply to the message that was asked")
    if message.error.reason:
        raise ProtocolError("Expected an error without a reason")
    ids = ids_of(reply.tree)
    if ids[0] != found.message_id or set(ids) != set(reply.objects):
        raise ProtocolError("Expected a reply with all its objects, and no others")
    for name, each in reply.objects.items():
        _require_object(name, each)
    return reply


def _require_object(name: str, content: bytes) -> None:
    """Raise ProtocolError unless it is what its name says, in the form that SuperNode asks for."""
    if hashlib.sha256(content).hexdigest() != name:
        raise ProtocolError("Expected objects that have their own hashes as names")
    try:
        validate_object_content(content)
    except Exception:  # noqa: BLE001  whatever SuperNode would raise too
        raise ProtocolError("Expected objects of Flower's form") from None


def error_reply(message: bytes, *, task: int) -> Reply:
    """That there is no answer: a fixed code, and no reason."""
    metadata = _parsed(message).metadata
    TaskIdentity.run_id, TaskIdentity.node_id = metadata.run_id, metadata.dst_node_id
    TaskIdentity.task_id = task
    bare = message_pb2.Message(metadata=metadata)
    bare.error.code = (
        UNAVAILABLE  # a message without content, which we have not looked at, is one with an error
    )
    reply = Message(Error(code=UNAVAILABLE), reply_to=message_from_proto(bare))
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return Reply(
        message=message_to_proto(reply).SerializeToString(),
        tree=get_object_tree(reply).SerializeToString(),
        objects={reply.object_id: reply.deflate()},
    )


def _parsed(message: bytes) -> message_pb2.Message:
    try:
        found: message_pb2.Message = message_pb2.Message.FromString(message)
    except Exception:  # noqa: BLE001  Protobuf's DecodeError, which has no types
        raise ProtocolError("Expected a message in Protobuf") from None
    return found


def ids_of(tree: bytes) -> list[str]:
    """The ids of a tree of objects, each once, its root first; Protobuf bounds its depth. Raises ProtocolError."""
    try:
        waiting = [message_pb2.ObjectTree.FromString(tree)]
    except Exception:  # noqa: BLE001  Protobuf's DecodeError, which has no types
        raise ProtocolError("Expected a tree of objects") from None
    found: dict[str, None] = {}
    for _ in range(MOST_OBJECTS + 1):
        if not waiting:
            return list(found)
        each = waiting.pop()
        if not is_object_id(each.object_id):
            break
        found[each.object_id] = None
        waiting += each.children
    raise ProtocolError("Expected ids of objects, and not far too many")
