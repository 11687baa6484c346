"""A Flower Grid whose nodes are ClientApps of this process; every message takes the form it has on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from simulations.faults import uninterrupted

__all__ = ["NODE_UNAVAILABLE", "InProcessGrid", "over_the_wire"]

NODE_UNAVAILABLE = 5
"""Flower's error code for a node that does not answer."""

_SERVER_NODE = 1
_RUN = 1


class InProcessGrid(Grid):
    """Nodes that answer as soon as they are asked, one after the other.

    Arguments:
        apps: the ClientApps by node id.
        drops: is the node of this message unreachable? Asked once for each message.

    One run a process at a time: Flower keeps the identity of the running task in a global.
    """

    def __init__(
        self,
        apps: Mapping[int, ClientApp],
        *,
        drops: Callable[[Message], bool] = lambda _message: False,
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, _SERVER_NODE, 1
        self._apps = dict(apps)
        self._contexts = {
            node: Context(
                run_id=_RUN, node_id=node, node_config={}, state=RecordDict(), run_config={}
            )
            for node in apps
        }
        self._drops = drops
        self._replies: dict[str, Message] = {}
        self._count = 0

    def set_run(self, run: Run) -> None:
        """A simulation has one run."""

    @property
    def run(self) -> Run:
        """The one run."""
        return Run.create_empty(_RUN)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Deprecated by Flower; kept because its interface asks for it."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages; their replies wait to be pulled. Ctrl-C takes effect when all sites have answered."""
        with uninterrupted():
            return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages, each handed out once."""
        return [self._replies.pop(each) for each in message_ids if each in self._replies]

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002  nothing to wait for
    ) -> Iterable[Message]:
        """Push, then pull."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> str:
        self._count += 1
        number, node = f"message-{self._count}", message.metadata.dst_node_id
        received = over_the_wire(message)
        received.metadata.__dict__["_message_id"] = number
        if node not in self._apps or self._drops(received):
            reply = Message(Error(code=NODE_UNAVAILABLE), reply_to=received)
        else:
            reply = self._apps[node](received, self._contexts[node])
        self._replies[number] = over_the_wire(reply)
        return number


def over_the_wire(message: Message) -> Message:
    """What arrives when `message` is sent: Flower's own serialisation, there and back."""
    contents = {key: each.deflate() for key, each in get_all_nested_objects(message).items()}
    arrived = inflate_object_from_contents(message.object_id, contents, keep_object_contents=False)
    if not isinstance(arrived, Message):
        raise TypeError(f"Expected a message, found {type(arrived).__name__}")
    return arrived
