"""Flower's Grid over SuperLink, so that no site can hold up or stop the others: by no reply, and by nothing else.

A reply is there before its objects are, and it is its site that says when they come, and what is in them. Flower's own
`HttpGrid` waits for them, for minutes, and raises on what is none of its objects. Here a reply waits by itself: every
look takes what has come, and one that cannot be read is an error of that site. A message that SuperLink refuses to
take is sent again later, and the others go without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
from flwr.app import Message
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid.http_grid import HttpGrid

from server.gateway.checks import REPLY_OBJECTS
from study.envelope import UNREADABLE

__all__ = ["SuperLinkGrid"]

_LOST = 3  # looks at which an object is not even announced, before its reply is given up


@dataclass
class _Coming:
    """A reply whose objects are on their way."""

    proto: MessageProto
    tree: ObjectTree
    contents: dict[str, bytes] = field(default_factory=dict)
    lost: int = 0


class SuperLinkGrid(HttpGrid):
    """As its base, but for what one site could do to the others."""

    def __init__(self, address: str, certificate: bytes, *, token: str) -> None:
        super().__init__(address, False, certificate, token=token)
        self._coming: dict[str, _Coming] = {}  # by the message that it replies to

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Ids of these messages, in order; "" for one that SuperLink does not take now.

        Raises:
            httpx.HTTPStatusError: the run is not ours any more.
        """
        made = list(messages)
        try:
            return list(super().push_messages(made)) or [""] * len(made)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise
        if len(made) == 1:
            return [""]
        return [number for each in made for number in self.push_messages([each])]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages, as far as they are there in full; nothing is waited for.

        Replies to messages that are not asked for any more are forgotten.
        """
        wanted = set(message_ids)
        self._coming = {asked: each for asked, each in self._coming.items() if asked in wanted}
        unheard = sorted(wanted - set(self._coming))
        if unheard:
            found = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=unheard))
            for proto, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                if proto.metadata.reply_to_message_id in wanted:
                    self._coming[proto.metadata.reply_to_message_id] = _Coming(proto, tree)
        arrived = []
        for asked, each in list(self._coming.items()):
            message = self._arrived(each)
            if message is not None:
                del self._coming[asked]
                arrived.append(message)
        return arrived

    def _arrived(self, coming: _Coming) -> Message | None:
        """The message, if all of it is there; None while it is not."""
        objects = [each.object_id for each in iterate_object_tree(coming.tree)]
        if len(objects) > REPLY_OBJECTS:
            return _unreadable(coming)
        for each in objects:
            if each not in coming.contents and not self._take(coming, each):
                return _unreadable(coming) if coming.lost >= _LOST else None
        number = coming.proto.metadata.message_id
        with suppress(httpx.HTTPStatusError):  # it tidies up, and no more
            self._runtime_client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=self.node, run_id=coming.proto.metadata.run_id, message_object_id=number
                )
            )
        try:
            message = inflate_object_from_contents(number, coming.contents)
        except Exception:  # noqa: BLE001  whatever a site has made of it
            return _unreadable(coming)
        if not isinstance(message, Message) or not _is_of(message, coming.proto):
            return _unreadable(coming)
        message.metadata.__dict__["_message_id"] = number
        return message

    def _take(self, coming: _Coming, name: str) -> bool:
        """Take one object, if it is there."""
        request = PullObjectRequest(
            node=self.node, run_id=coming.proto.metadata.run_id, object_id=name
        )
        try:
            found = self._runtime_client.PullObject(request)
        except httpx.HTTPStatusError:
            coming.lost += 1
            return False
        if not found.object_found:
            coming.lost += 1
            return False
        if found.object_available:
            coming.contents[name] = found.object_content
        return bool(found.object_available)


def _is_of(message: Message, proto: MessageProto) -> bool:
    """Does a message say of itself what SuperLink has checked of it?"""
    inner, outer = message.metadata, proto.metadata
    return (inner.reply_to_message_id, inner.src_node_id, inner.run_id) == (
        outer.reply_to_message_id,
        outer.src_node_id,
        outer.run_id,
    )


def _unreadable(coming: _Coming) -> Message:
    """That site's reply, with an error in the place of what it has sent."""
    proto = MessageProto()
    proto.CopyFrom(coming.proto)
    proto.ClearField("content")
    proto.error.code = UNREADABLE
    return message_from_proto(proto)
