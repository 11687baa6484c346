"""The gateway: what a site's request goes through, step by step, before SuperLink sees it.

    1  path, method, headers, length      fixed table, exact bytes            `checks`
    2  signature                          registered, recent, used once       `authentication`, `deliveries`
    3  slot, room                         bounded calls and bytes per node    `exchanges`
    4  body                               read only now                       `exchanges`
    5  message                            canonical, of this node             `checks`
    6  what it asks for or sends          was given to, or announced by it    `deliveries`

What passes goes to SuperLink in a request of our own making (`upstream`), where signature and node are checked again.
Nothing of a refused request is repeated, neither in the answer nor in the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime

from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest
from google.protobuf.message import Message  # type: ignore[import-untyped, unused-ignore]

from server.directory import Limits
from server.gateway.authentication import Signed, Sites, signed_by
from server.gateway.checks import (
    Path,
    announcement_of,
    check_heartbeat,
    check_object,
    length_of,
    node_of,
    object_in,
    parsed,
    path_of,
)
from server.gateway.deliveries import Deliveries
from server.gateway.exchanges import Event, Exchange, GoneError, Receive, Room, Send, Slots
from server.gateway.polling import Polling
from server.gateway.refusals import STRANGER, Refusals, Refused
from server.gateway.upstream import Glance, Upstream

__all__ = ["Gateway"]

_CALLS = 8  # of one node at a time: a SuperNode makes up to four
_PATIENCE = 2.0  # seconds, for a slot to pull an object
_PULLS = 2  # of objects, among them: SuperLink holds twice an object's bytes until the last one has been read
_LARGE = 65_536
_HUGE = 4_000_000  # SuperLink takes ten times as much memory for an object as the object has bytes: one at a time
_STORED: bytes = PushObjectResponse(stored=True).SerializeToString()


class Gateway:
    """An ASGI application between sites and SuperLink.

    Arguments:
        sites: who may come. upstream, glance: the ways to SuperLink. deliveries: what was given to whom.
        refusals: the log. limits: settings.
    """

    def __init__(
        self,
        *,
        sites: Sites,
        upstream: Upstream,
        glance: Glance,
        deliveries: Deliveries,
        refusals: Refusals,
        limits: Limits,
    ) -> None:
        self._sites, self._upstream, self._glance = sites, upstream, glance
        self._deliveries, self._refusals, self._limits = deliveries, refusals, limits
        self._slots, self._pulls = Slots(_CALLS), Slots(_PULLS, _PATIENCE)
        self._room = Room(2 * limits.object_bytes + _LARGE)
        self._huge = asyncio.Lock()
        self.ending = asyncio.Event()
        self.polling = Polling(
            upstream, glance, deliveries, sites, limits=limits, ending=self.ending
        )
        self._handlers: dict[type[Message], Callable[..., Awaitable[bytes]]] = {
            ActivateNodeRequest: self._activate,
            SendNodeHeartbeatRequest: self._heartbeat,
            PushMessagesRequest: self._announce,
            GetRunRequest: self._run,
            GetFabRequest: self._run,
            ConfirmMessageReceivedRequest: self._confirm,
        }

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Handle one request; whatever happens, its caller learns a status and no more."""
        exchange = Exchange(scope, receive, send)
        caller, name = STRANGER, "other"
        try:
            path = path_of(
                scope["method"], scope["raw_path"], scope["query_string"], scope["http_version"]
            )
            name = path.name
            exchange.length = length_of(path, exchange.headers, self._limits)
            keys, now = self._sites.keys(), datetime.now(UTC)
            signed = signed_by(exchange.headers, now=now, registered=keys)
            caller = signed.fingerprint
            self._deliveries.use(
                signed.key, signed.stamp, signed.expires.timestamp(), now.timestamp()
            )
            _trust(scope, signed.key)
            await self._handled(exchange, path, signed)
        except GoneError:
            pass
        except Refused as refused:
            self._refusals.note(refused, caller=caller, path=name)
            await _told(exchange, refused)
        except Exception as error:  # noqa: BLE001  a fault of ours is no reason to tell a caller of it
            fault = Refused(
                503, f"fault-{type(error).__name__}"
            )  # on which a SuperNode tries again; 500 ends it
            self._refusals.note(fault, caller=caller, path=name)
            await _told(exchange, fault)

    async def _handled(self, exchange: Exchange, path: Path, signed: Signed) -> None:
        length = exchange.length or 0
        slots = self._pulls if path.kind is PullObjectRequest else self._slots
        async with slots.of(signed.key):
            if length <= _LARGE:
                await self._passed(exchange, path, signed, await exchange.body())
            else:
                most = self._limits.round_bytes
                self._deliveries.charge_largely(signed.key, length, most, time.time())
                async with self._room.of(signed.key, length):
                    await self._passed(exchange, path, signed, await exchange.body())

    async def _passed(
        self, exchange: Exchange, path: Path, signed: Signed, body: bytearray
    ) -> None:
        content = memoryview(b"")
        if path.kind is PushObjectRequest:
            request, content = object_in(body)
        else:
            request = parsed(path.kind, body)
        if (node := node_of(request)) is not None:
            self._deliveries.check_node(signed.key, node)
        if isinstance(request, PullMessagesRequest):
            async with exchange.watched() as gone:
                answer = await self.polling.pull(signed, request, body, gone)
            await exchange.answer(answer)
        elif isinstance(request, PullObjectRequest):
            await self._pull(exchange, signed, request, body)
        elif isinstance(request, PushObjectRequest):
            await exchange.answer(await self._push(signed, request, content, body))
        elif (handler := self._handlers.get(type(request))) is not None:
            await exchange.answer(await handler(signed, request, body))
        else:
            await exchange.answer(await self._upstream.call(path.name, signed, body))

    async def _activate(
        self, signed: Signed, request: ActivateNodeRequest, body: bytearray
    ) -> bytes:
        if request.public_key != signed.key:
            raise Refused(401, "other-node")
        check_heartbeat(request.heartbeat_interval, self._limits)
        answer = await self._upstream.call("activate-node", signed, body)
        self._deliveries.learn(signed.key, ActivateNodeResponse.FromString(answer).node_id)
        return answer

    async def _heartbeat(
        self, signed: Signed, request: SendNodeHeartbeatRequest, body: bytearray
    ) -> bytes:
        check_heartbeat(request.heartbeat_interval, self._limits)
        return await self._upstream.call("send-node-heartbeat", signed, body)

    async def _run(
        self, signed: Signed, request: GetRunRequest | GetFabRequest, body: bytearray
    ) -> bytes:
        self._deliveries.check_run(signed.key, request.run_id, time.time())
        name = "get-run" if isinstance(request, GetRunRequest) else "get-fab"
        return await self._upstream.call(name, signed, body)

    async def _announce(
        self, signed: Signed, request: PushMessagesRequest, body: bytearray
    ) -> bytes:
        reply = announcement_of(request, body, self._limits)
        self._deliveries.announce(signed.key, reply, time.time())
        return await self._upstream.call("push-messages", signed, body)

    async def _push(
        self, signed: Signed, request: PushObjectRequest, content: memoryview, body: bytearray
    ) -> bytes:
        name, most = request.object_id, self._limits.round_bytes
        message, children, stored = self._deliveries.announced(
            signed.key, request.run_id, name, time.time()
        )
        if len(body) <= _LARGE:  # a larger one was counted before it was read
            self._deliveries.charge(message, len(body), most)
        await asyncio.to_thread(check_object, request, content, children)
        if stored or self._glance.has_objects([name]):
            return _STORED  # it was, and the answer got lost; SuperLink would say that it was not
        if signed.expires <= datetime.now(UTC):  # SuperLink would say 401, which ends a SuperNode
            raise Refused(403, "slow-body")
        async with self._huge if len(body) > _HUGE else nullcontext():
            answer = await self._upstream.call("push-object", signed, body)
        if PushObjectResponse.FromString(answer).stored:
            self._deliveries.store(message, name)
        return answer

    async def _confirm(
        self, signed: Signed, request: ConfirmMessageReceivedRequest, body: bytearray
    ) -> bytes:
        message = request.message_object_id
        self._deliveries.check_message(signed.key, request.run_id, message, time.time())
        answer = await self._upstream.call("confirm-message-received", signed, body)
        self._deliveries.confirm(message)
        return answer

    async def _pull(
        self, exchange: Exchange, signed: Signed, request: PullObjectRequest, body: bytearray
    ) -> None:
        """An object may be large: it goes through in pieces."""
        run, name = request.run_id, request.object_id
        self._deliveries.check_given(signed.key, run, name, time.time())
        async with self._upstream.stream("pull-object", signed, body) as response:
            length = int(response.headers["content-length"])
            await exchange.begin(200, b"application/protobuf", length)
            async with exchange.in_time(length):
                async for piece in response.aiter_raw():
                    await exchange.piece(piece, last=False)
                await exchange.piece(b"", last=True)


def _trust(scope: Event, key: bytes) -> None:
    """The connection has shown a good signature, and may stay open."""
    trust = scope.get("state", {}).get("trust")
    if trust is not None:
        trust(key)


async def _told(exchange: Exchange, refused: Refused) -> None:
    with suppress(GoneError):
        await exchange.refuse(refused)
