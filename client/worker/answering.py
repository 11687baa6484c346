"""Flower's part of the worker: the objects of one message in, those of the reply out. Hostile bytes are parsed here.

Whatever goes wrong, nothing is said of it: no reply is made, and the executor sends a fixed code in its place.
"""

from __future__ import annotations

import hashlib

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from client.parcels import Reply, Request
from privacy.errors import ProtocolError

__all__ = ["answered"]


def answered(app: ClientApp, request: Request) -> Reply:
    """What the app replies to a message.

    Raises:
        Exception: of any kind, for the log of this process alone.
    """
    TaskIdentity.run_id, TaskIdentity.node_id = request.run, request.node
    TaskIdentity.task_id = request.task
    message = _message_of(request)
    context = Context(
        run_id=request.run, node_id=request.node, node_config={}, state=RecordDict(), run_config={}
    )
    return _reply_of(app(message=message, context=context))


def _message_of(request: Request) -> Message:
    """The message that objects make up, each of which must be what its name, a hash, says."""
    for name, content in request.objects.items():
        if hashlib.sha256(content).hexdigest() != name:
            raise ProtocolError("Expected objects of the content that their ids say")
    found = inflate_object_from_contents(request.message, dict(request.objects))
    if not isinstance(found, Message):
        raise ProtocolError(f"Expected a message, found a {type(found).__name__}")
    if (found.metadata.run_id, found.metadata.dst_node_id) != (request.run, request.node):
        raise ProtocolError("Expected a message of this run, to this site")
    found.metadata.__dict__["_message_id"] = request.message  # an object does not hold its own id
    return found


def _reply_of(message: Message) -> Reply:
    """The reply's objects. Flower would make each object, a copy of its content, for every look at its name."""
    with no_object_id_recompute():
        return _parcel_of(message)


def _parcel_of(message: Message) -> Reply:
    message.metadata.__dict__["_message_id"] = message.object_id
    bare = message_to_proto(message)
    bare.ClearField("content")
    if message.has_content():
        bare.content.SetInParent()
    objects = get_all_nested_objects(message)
    return Reply(
        message=bare.SerializeToString(),
        tree=get_object_tree(message).SerializeToString(),
        objects={name: each.deflate() for name, each in objects.items()},
    )
