"""PullMessages, held open until there is a message: a site learns of it at once, and asks once in 20 seconds.

The site's own signed request is sent to SuperLink whenever there may be something. A message that SuperLink has
handed out is written down before it is passed on, whether or not the site still listens (`deliveries`). Then it is
held back until SuperLink has its objects: the coordinator announces a message first and sends its objects later, and a
SuperNode that meets an absent one sleeps 1, 2, 4 s.
"""

from __future__ import annotations

import asyncio
import time

from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse

from server.directory import Limits
from server.gateway.authentication import Signed, Sites
from server.gateway.checks import objects_of
from server.gateway.deliveries import Deliveries, Delivery
from server.gateway.refusals import Refused
from server.gateway.upstream import Glance, Upstream

__all__ = ["Polling"]

_NOTHING: bytes = PullMessagesResponse().SerializeToString()
_LOOK_SECONDS = 0.05
_SURE_SECONDS = 5.0  # SuperLink is asked as often even if its database says that there is nothing
_LONGEST_ANSWER = 28.0  # SuperNodes give up after 30


class Polling:
    """Answers PullMessages; `ending` is set when the gateway stops."""

    def __init__(
        self,
        upstream: Upstream,
        glance: Glance,
        deliveries: Deliveries,
        sites: Sites,
        *,
        limits: Limits,
        ending: asyncio.Event,
    ) -> None:
        self._upstream, self._glance, self._deliveries = upstream, glance, deliveries
        self._sites = sites
        self._limits, self._ending = limits, ending
        self._pulls: set[asyncio.Task[bytes]] = set()

    async def pull(
        self, signed: Signed, request: PullMessagesRequest, body: bytearray, gone: asyncio.Event
    ) -> bytes:
        """SuperLink's answer, at the latest after `hold_seconds`; empty if there is no message, or the caller is gone.

        Raises:
            Refused: of SuperLink's.
        """
        began = time.monotonic()
        left = signed.expires.timestamp() - time.time() - 1
        until = began + min(self._limits.hold_seconds, left)
        asked = float("-inf")
        # Whoever is not known to be this node learns nothing of what waits for it.
        known = self._deliveries.check_node(signed.key, request.node.node_id)
        node = request.node.node_id if known else None
        while not gone.is_set():
            if signed.key not in self._sites.keys():  # removed meanwhile  # noqa: SIM118  no dictionary
                raise Refused(401, "unknown-key")
            earlier = self._deliveries.again(signed.key, time.time())
            if earlier is not None:
                if self._glance.has_heard_of(earlier[0]) is False:
                    self._deliveries.confirm(earlier[0])  # its run is over: nobody waits for it
                    continue
                return await self._given(*earlier, began=began)
            if self._ending.is_set() or (asked >= began and time.monotonic() >= until):
                break
            if time.monotonic() >= self._next(node, began, asked):
                asked = time.monotonic()
                await self._pulled(signed, body)
            else:
                await asyncio.sleep(min(_LOOK_SECONDS, self._limits.poll_seconds))
        return _NOTHING

    def _next(self, node: int | None, began: float, asked: float) -> float:
        """When to ask SuperLink, as things stand now."""
        if node is not None and self._glance.has_message(node, time.time()) is False:
            return max(began, asked) + _SURE_SECONDS
        return asked + self._limits.poll_seconds

    async def _pulled(self, signed: Signed, body: bytearray) -> None:
        """Ask SuperLink, and write down what it gives; to the end, even if the caller goes away meanwhile."""
        task = asyncio.ensure_future(self._pull_once(signed, body))
        self._pulls.add(task)
        task.add_done_callback(self._pulls.discard)
        await asyncio.shield(task)

    async def _pull_once(self, signed: Signed, body: bytearray) -> bytes:
        answer = await self._upstream.call("pull-messages", signed, body)
        response = PullMessagesResponse.FromString(answer)
        for message, tree in zip(
            response.messages_list, response.message_object_trees, strict=True
        ):
            metadata = message.metadata
            delivery = Delivery(
                message=metadata.message_id,
                key=signed.key,
                node=metadata.dst_node_id,
                run=metadata.run_id,
                until=metadata.created_at + metadata.ttl,
            )
            self._deliveries.deliver(delivery, objects_of(tree), answer)
        return answer

    async def finish(self) -> None:
        """Wait for what was asked of SuperLink already."""
        await asyncio.gather(*self._pulls, return_exceptions=True)

    async def _given(self, message: str, answer: bytes, *, began: float) -> bytes:
        self._deliveries.give(message)
        (tree,) = PullMessagesResponse.FromString(answer).message_object_trees
        objects = objects_of(tree)
        while self._glance.has_objects(objects) is False and not self._ending.is_set():
            if self._glance.has_heard_of(message) is False:
                self._deliveries.confirm(message)
                raise Refused(503, "objects-gone")
            if time.monotonic() - began > _LONGEST_ANSWER:
                raise Refused(503, "objects-late")
            await asyncio.sleep(_LOOK_SECONDS / 2)
        return answer
