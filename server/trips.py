"""Trips: one message to each of several sites, and what comes back before the deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from privacy.errors import ProtocolError
from privacy.secure_aggregation.messages import is_message, message_of
from study.envelope import content_of, query_message, refusal_code_of, refusal_of
from study.queries import Refusal
from study.receipts import ReceiptedAnswer

__all__ = ["Reply", "Trips"]

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What one site did: it has sent `content`, or there is a `problem`, in words."""

    content: bytes = b""
    problem: str | None = None
    refusal: Refusal | None = None


class Trips:
    """The way to the sites of one study.

    Arguments:
        sites: names by Flower node id.
        seconds: deadline of one trip.
        on_message: told of every message and reply: query, trip, site, what was said each way, and bytes; None: nobody
            is, and no message is read for it.
    """

    def __init__(
        self,
        grid: Grid,
        sites: Mapping[int, str],
        *,
        seconds: float,
        on_message: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._grid, self._sites, self._seconds = grid, dict(sites), seconds
        self._on_message = on_message

    @property
    def names(self) -> list[str]:
        """All sites, in the order of the roster."""
        return list(self._sites.values())

    def ask(self, contents: Mapping[str, bytes], *, index: int, trip: str) -> dict[str, Reply]:
        """Send each site its message; every one of them has a reply afterwards, in the order of the roster.

        Arguments:
            contents: by site name. index: of the query that the trip is for. trip: its name, for the trace.
        """
        nodes = {node: name for node, name in self._sites.items() if name in contents}
        messages = [
            query_message(contents[name], index=index, node_id=node, seconds=self._seconds)
            for node, name in nodes.items()
        ]
        received = self._pulled(messages, list(nodes))
        replies = {name: _reply_of(received.get(node)) for node, name in nodes.items()}
        if self._on_message is not None:
            for name, reply in replies.items():
                self._on_message(
                    {
                        "query": index, "trip": trip, "site": name,
                        "sent": kind_of(contents[name]), "sent_bytes": len(contents[name]),
                        "received": kind_of(reply.content), "received_bytes": len(reply.content),
                        "problem": reply.problem,
                    }
                )  # fmt: skip
        return replies

    def _pulled(self, messages: list[Message], nodes: list[int]) -> dict[int, Message]:
        """Push messages; pull until all have been replied to or the deadline has passed.

        A reply counts if it comes from the very node that its message went to, and only the first one does.
        """
        waiting = dict(zip(self._grid.push_messages(messages), nodes, strict=True))
        deadline = time.monotonic() + self._seconds
        replies: dict[int, Message] = {}
        while True:
            for message in self._grid.pull_messages(sorted(waiting)):
                asked, node = message.metadata.reply_to_message_id, message.metadata.src_node_id
                if waiting.get(asked) == node:
                    replies[waiting.pop(asked)] = message
            if not waiting or time.monotonic() >= deadline:
                return replies
            time.sleep(_POLL_SECONDS)


def kind_of(content: bytes) -> str:
    """What a message is, in a word, for a trace."""
    with suppress(ProtocolError):
        if is_message(content):
            return type(message_of(content)).__name__
        inner = ReceiptedAnswer.from_bytes(content).answer
        return type(message_of(inner)).__name__ if is_message(inner) else "SumAnswer"
    return "SumQuery" if content else "nothing"


def _reply_of(message: Message | None) -> Reply:
    if message is None:
        return Reply(problem="it did not answer in time")
    problem = refusal_of(message)
    if problem is not None:
        return Reply(problem=problem, refusal=refusal_code_of(message))
    try:
        return Reply(content=content_of(message))
    except ProtocolError as error:
        return Reply(problem=error.message)
