"""The listening side: TLS, bounds on connections, and an end within two seconds.

uvicorn's own server has no limit of time for a handshake or a request's head, and refuses everybody once too many
strangers are connected. Here a connection has 15 seconds to show a good signature, and when all places are taken the
one that has waited longest without makes room.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
from contextlib import suppress
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from server.gateway.app import Gateway
from server.gateway.refusals import STRANGER, Refusals, Refused

__all__ = ["listen", "tls_of"]

_TRUST_SECONDS = 15.0
_HANDSHAKE_SECONDS = 5.0
_HANDSHAKES = 64
_KEEP_ALIVE_SECONDS = 30  # SuperNodes close an idle connection after 5
_HEAD_BYTES = 16_384
_CONNECTIONS = 12  # of one node: a SuperNode has up to four


class _Places:
    """All open connections, oldest first, and by which key each is trusted; a stranger's has none."""

    def __init__(self, most: int, refusals: Refusals) -> None:
        self._most, self.refusals = most, refusals
        self._open: dict[_Connection, bytes | None] = {}
        self._given_up = 0

    def take(self, connection: _Connection) -> None:
        self._open[connection] = None
        if len(self._open) > self._most:
            oldest = next((each for each, key in self._open.items() if key is None), connection)
            oldest.drop("no-place")

    def trust(self, connection: _Connection, key: bytes) -> None:
        if connection not in self._open:
            return
        self._open[connection] = key
        own = [each for each, other in self._open.items() if other == key]
        for each in own[:-_CONNECTIONS]:
            each.drop("many-connections")

    def leave(self, connection: _Connection) -> None:
        self._open.pop(connection, None)

    def swept(self) -> None:
        """Count a connection that was given up.

        asyncio leaves each in a cycle of references, for a collector that counts objects and not bytes.
        """
        self._given_up += 1
        if self._given_up % _HANDSHAKES == 0:
            gc.collect()

    def all(self) -> list[_Connection]:
        return list(self._open)


class _Connection(H11Protocol):
    """A connection of HTTP/1.1 alone, for as long as it is trusted."""

    def __init__(self, config: Config, state: ServerState, places: _Places) -> None:
        super().__init__(config=config, server_state=state, app_state={"trust": self._trust})
        self._places = places
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(_TRUST_SECONDS, self.drop, "no-request")
        self._places.take(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._note(400, "no-http")
        super().send_400_response(msg)

    def drop(self, reason: str) -> None:
        """Close at once, without an answer."""
        self._note(408, reason)
        self._places.leave(self)
        self._places.swept()
        self.transport.abort()

    def _trust(self, key: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._places.trust(self, key)

    def _note(self, status: int, reason: str) -> None:
        self._places.refusals.note(Refused(status, reason), caller=STRANGER, path="other")


def tls_of(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.3 with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    return context


async def listen(
    gateway: Gateway,
    refusals: Refusals,
    *,
    host: str,
    port: int,
    connections: int,
    tls: ssl.SSLContext,
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set, then end what is open within two seconds."""
    for name in ("uvicorn.error", "uvicorn.access", "asyncio"):
        logging.getLogger(name).disabled = True  # they repeat what callers send, and know no bounds
    config = Config(
        gateway, http=_Connection, ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, date_header=False, proxy_headers=False, interface="asgi3",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS, h11_max_incomplete_event_size=_HEAD_BYTES,
    )  # fmt: skip
    config.load()
    state, places = ServerState(), _Places(connections, refusals)

    def connection() -> Any:
        return _Connection(config, state, places)

    with _listener(host, port) as listener:
        accepting = asyncio.ensure_future(_accept(listener, connection, tls, places))
        await stop.wait()
        accepting.cancel()
    gateway.ending.set()
    for each in places.all():
        each.shutdown()
    await _ended(state.tasks)
    with suppress(TimeoutError):
        await asyncio.wait_for(gateway.polling.finish(), 0.5)
    for each in places.all():
        each.transport.abort()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=256)
    listener.setblocking(False)
    return listener


async def _accept(
    listener: socket.socket, connection: Any, tls: ssl.SSLContext, places: _Places
) -> None:
    """Accept for ever. Of handshakes that do not end, the oldest is given up; each takes 130 kB."""
    loop = asyncio.get_running_loop()
    handshakes: dict[asyncio.Task[None], socket.socket] = {}

    async def handshake(accepted: socket.socket) -> None:
        with suppress(OSError):
            await loop.connect_accepted_socket(
                connection, accepted, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_SECONDS
            )

    while True:
        try:
            accepted, _ = await loop.sock_accept(listener)
        except OSError:  # no more files, or a caller that was gone at once
            await asyncio.sleep(0.1)
            continue
        task = asyncio.ensure_future(handshake(accepted))
        handshakes[task] = accepted
        task.add_done_callback(lambda done: handshakes.pop(done, None))
        if len(handshakes) > _HANDSHAKES:
            task, oldest = next(iter(handshakes.items()))
            del handshakes[task]
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)  # its transport notices, and cleans up
            places.swept()


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    """Wait a little for the answers that are on their way, then end them."""
    if tasks:
        _, late = await asyncio.wait(set(tasks), timeout=0.8)
        for each in late:
            each.cancel()
