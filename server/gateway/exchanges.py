"""One HTTP exchange over ASGI: a body that is read to a length and within a time, and an answer of our own making."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from server.gateway.authentication import Headers
from server.gateway.refusals import Refused

__all__ = ["Exchange", "GoneError", "Room", "Slots"]

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

_PIECE_SECONDS = 10.0
_LEAST_RATE = 32_768  # bytes a second of a body, after the first ten seconds
_DRAINED = 4_096
_SEND_SECONDS = 60.0
_REFUSED = b"refused\n"


class GoneError(Exception):
    """The caller has closed the connection."""


class Exchange:
    """A request and its answer."""

    def __init__(self, scope: Event, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.headers: Headers = scope["headers"]
        self.length: int | None = None
        self._has_read = self._has_begun = False

    async def body(self) -> bytearray:
        """The whole body, `length` bytes long.

        Raises:
            Refused: 408, it comes too slowly; 400, it has another length.
            GoneError: the caller went away.
        """
        self._has_read, length = True, self.length or 0
        body, size = bytearray(length), 0
        try:
            async with asyncio.timeout(_PIECE_SECONDS + length / _LEAST_RATE):
                while True:
                    event = await asyncio.wait_for(self._receive(), _PIECE_SECONDS)
                    if event["type"] != "http.request":
                        raise GoneError
                    piece = event["body"]
                    if size + len(piece) > length:
                        raise Refused(400, "wrong-length")
                    body[size : size + len(piece)] = piece
                    size += len(piece)
                    if not event.get("more_body", False):
                        break
        except TimeoutError:
            self._has_read = False  # the connection is of no use any more
            raise Refused(408, "slow-body") from None
        if size != length:
            raise Refused(400, "wrong-length")
        return body

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the caller goes away; only after the body was read."""
        gone = asyncio.Event()

        async def watch() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone.set()

        task = asyncio.ensure_future(watch())
        try:
            yield gone
        finally:
            task.cancel()

    @asynccontextmanager
    async def in_time(self, length: int) -> AsyncIterator[None]:
        """Bounds the time that a caller may take for an answer of this length. Raises GoneError."""
        try:
            async with asyncio.timeout(_SEND_SECONDS + length / _LEAST_RATE):
                yield
        except TimeoutError:
            raise GoneError from None

    async def answer(self, body: bytes) -> None:
        """Answer with a message. Raises GoneError if the caller does not take it."""
        await self.begin(200, b"application/protobuf", len(body))
        await self.piece(body, last=True)

    async def refuse(self, refused: Refused) -> None:
        """Answer with a status and nothing else. What has not been read of a large body never is."""
        if self._has_begun:
            return
        if not self._has_read and self.length is not None and self.length <= _DRAINED:
            await self._drained()
        await self.begin(refused.status, b"text/plain", len(_REFUSED))
        await self.piece(_REFUSED, last=True)

    async def begin(self, status: int, kind: bytes, length: int) -> None:
        """Send the head of an answer; the connection is closed after it if a body is left unread."""
        headers = [(b"content-type", kind), (b"content-length", str(length).encode())]
        if not self._has_read:
            headers.append((b"connection", b"close"))
        self._has_begun = True
        await self._sent({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, body: bytes, *, last: bool) -> None:
        """Send a piece of an answer."""
        await self._sent({"type": "http.response.body", "body": body, "more_body": not last})

    async def _sent(self, event: Event) -> None:
        try:
            await asyncio.wait_for(self._send(event), _SEND_SECONDS)
        except (TimeoutError, OSError):
            raise GoneError from None

    async def _drained(self) -> None:
        """Read a small body that nobody wants, so that the caller is sure to see the answer."""
        try:
            await self.body()
        except (Refused, GoneError):
            self._has_read = False


class Slots:
    """How many calls of one node are handled at a time; further ones wait, and are then told to come again.

    A node that has its answer may call anew before the slot of the last call is free: waiting is for that.
    """

    def __init__(self, most: int, patience: float = 0.0) -> None:
        self._most, self._patience = most, patience
        self._taken: dict[bytes, int] = {}
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def of(self, key: bytes) -> AsyncIterator[None]:
        """Hold a slot. Raises Refused."""
        await self._wait_for(key)
        self._taken[key] = self._taken.get(key, 0) + 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]
            async with self._freed:
                self._freed.notify_all()

    async def _wait_for(self, key: bytes) -> None:
        def free() -> bool:
            return self._taken.get(key, 0) < self._most

        if free():
            return
        try:
            async with asyncio.timeout(self._patience), self._freed:
                await self._freed.wait_for(free)
        except TimeoutError:
            raise Refused(503, "many-calls") from None


class Room:
    """Bytes of bodies that are held in memory at a time; one node has at most half of them."""

    def __init__(self, most: int, seconds: float = 15.0) -> None:
        self._most, self._seconds = most, seconds
        self._held: dict[bytes, int] = {}
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def of(self, key: bytes, length: int) -> AsyncIterator[None]:
        """Hold room for a body, waiting for it for a while. Raises Refused."""
        try:
            async with asyncio.timeout(self._seconds), self._freed:
                await self._freed.wait_for(lambda: self._fits(key, length))
                self._held[key] = self._held.get(key, 0) + length
        except TimeoutError:
            raise Refused(503, "no-room") from None
        try:
            yield
        finally:
            async with self._freed:
                self._held[key] -= length
                if not self._held[key]:
                    del self._held[key]
                self._freed.notify_all()

    def _fits(self, key: bytes, length: int) -> bool:
        own = self._held.get(key, 0) + length
        return own <= self._most // 2 and sum(self._held.values()) + length <= self._most
