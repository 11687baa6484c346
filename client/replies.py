"""Replies as the executor makes and checks them: to the message that was asked, to nobody else."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import Error, Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import message_pb2
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from client.parcels import Reply, is_object_id
from privacy.errors import ProtocolError

__all__ = ["UNAVAILABLE", "Asked", "asked_by", "checked_reply", "error_reply"]

UNAVAILABLE = 1005
"""`Refusal.UNAVAILABLE` (study/queries.py), which takes 20 MB to import."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a reply must fit: run, id of the message, its sender, and this node."""

    run: int
    message: str
    sender: int
    node: int


def asked_by(message: bytes, *, run: int) -> Asked:
    """Raises ProtocolError for a message of another run, or without an id."""
    found = _parsed(message).metadata
    if found.run_id != run or not is_object_id(found.message_id):
        raise ProtocolError("Expected a message of the task's run, with an id")
    return Asked(
        run=run, message=found.message_id, sender=found.src_node_id, node=found.dst_node_id
    )


def checked_reply(content: bytes, *, to: Asked) -> Reply:
    """The reply of a frame, if it answers that message and its objects are all there. Raises ProtocolError."""
    reply = Reply.from_bytes(content)
    found = _parsed(reply.message).metadata
    if (found.run_id, found.reply_to_message_id, found.dst_node_id, found.src_node_id) != (
        to.run, to.message, to.sender, to.node,
    ):  # fmt: skip
        raise ProtocolError("Expected a reply to the message that was asked")
    try:
        tree = message_pb2.ObjectTree.FromString(reply.tree)
    except Exception:  # noqa: BLE001  Protobuf's DecodeError, which has no types
        raise ProtocolError("Expected the tree of a reply") from None
    if tree.object_id != found.message_id or _ids_of(tree) != set(reply.objects):
        raise ProtocolError("Expected a reply with all its objects, and no others")
    return reply


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


def _ids_of(tree: message_pb2.ObjectTree) -> set[str]:
    found: set[str] = set()
    waiting = [tree]
    while waiting:
        each = waiting.pop()
        found.add(each.object_id)
        waiting += each.children
    return found
