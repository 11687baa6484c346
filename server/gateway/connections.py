"""The listening side: TLS, bounds on connections, and an end within two seconds.

uvicorn's own server has no limit of time for a handshake or a request's head, and refuses everybody once too many
strangers are connected. Here a connection has 15 seconds to show a good signature, and half a minute after each answer
to show the next. When all places are taken, a stranger's makes room: of the address that has most of them, the one that
has waited longest. So it is with handshakes.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeVar

import h11
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
_SPACES = b" " * 64  # of a head, in a row: no SuperNode sends them
_NETWORK = 64  # bits of an IPv6 address that are somebody's; the rest he chooses himself
Kept = TypeVar("Kept")


def _to_give_up(addresses: Mapping[Kept, str]) -> Kept | None:
    """Of the address that has most, the first: who fills all places makes room for himself."""
    most = Counter(addresses.values()).most_common(1)
    return next((each for each, address in addresses.items() if address == most[0][0]), None)


def _address_of(peer: Any) -> str:
    """Of whom, as far as an address says that; "" for none."""
    with suppress(ValueError, IndexError, TypeError):
        address = ip_address(peer[0].partition("%")[0])
        if not isinstance(address, IPv6Address):
            return str(address)
        return str(address.ipv4_mapped or int(address) >> _NETWORK)
    return ""


class _Places:
    """All open connections, oldest first, and by which key each is trusted; a stranger's has none."""

    def __init__(self, most: int, refusals: Refusals) -> None:
        self._most, self.refusals = most, refusals
        self._open: dict[_Connection, bytes | None] = {}
        self._given_up = 0

    def take(self, connection: _Connection) -> None:
        self._open[connection] = None
        if len(self._open) > self._most:
            strangers = {each: each.address for each, key in self._open.items() if key is None}
            (_to_give_up(strangers) or connection).drop("no-place")

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


class _Parser(h11.Connection):
    """h11's, but for what it takes too long to read: a head with many spaces in a row, or fields behind a body.

    On n spaces before a byte that it does not allow its pattern of a field goes back n^2 / 2 times: half a second, in
    which nobody else is served, for 16 kB of anybody's.
    """

    def next_event(self) -> Any:
        """The next event. Raises RemoteProtocolError."""
        if self.their_state is h11.IDLE:
            head, _ = self.trailing_data
            if _SPACES in head.replace(b"\t", b" ").partition(b"\r\n\r\n")[0]:
                raise h11.RemoteProtocolError("too many spaces")
        event = super().next_event()
        if isinstance(event, h11.Request) and b"transfer-encoding" in dict(event.headers):
            raise h11.RemoteProtocolError("a body without a length")
        return event


class _Connection(H11Protocol):
    """A connection of HTTP/1.1 alone, for as long as it is trusted."""

    def __init__(self, config: Config, state: ServerState, places: _Places) -> None:
        super().__init__(config=config, server_state=state, app_state={"trust": self._trust})
        self.conn = _Parser(h11.SERVER, _HEAD_BYTES)
        self.address = ""
        self._places = places
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = _address_of(transport.get_extra_info("peername"))
        self._timer = self.loop.call_later(_TRUST_SECONDS, self.drop, "no-request")
        self._places.take(self)

    def on_response_complete(self) -> None:
        """The next request has to be there in time, and to be signed well, as the first."""
        if self._timer is None:
            self._timer = self.loop.call_later(_KEEP_ALIVE_SECONDS, self.drop, "no-request")
        super().on_response_complete()

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
        self._places.leave(self)
        self._places.swept()
        self.transport.abort()
        self._note(408, reason)

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
    """Accept for ever. Of handshakes that do not end some are given up; each takes 130 kB."""
    loop = asyncio.get_running_loop()
    handshakes: dict[asyncio.Task[None], tuple[socket.socket, str]] = {}

    async def handshake(accepted: socket.socket) -> None:
        with suppress(OSError):
            await loop.connect_accepted_socket(
                connection, accepted, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_SECONDS
            )

    while True:
        try:
            accepted, peer = await loop.sock_accept(listener)
        except OSError:  # no more files, or a caller that was gone at once
            await asyncio.sleep(0.1)
            continue
        task = asyncio.ensure_future(handshake(accepted))
        handshakes[task] = accepted, _address_of(peer)
        task.add_done_callback(lambda done: handshakes.pop(done, None))
        if len(handshakes) > _HANDSHAKES:
            given_up = _to_give_up({each: address for each, (_, address) in handshakes.items()})
            left, _ = handshakes.pop(given_up or task)
            with suppress(OSError):
                left.shutdown(socket.SHUT_RDWR)  # its transport notices, and cleans up
            places.swept()


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    """Wait a little for the answers that are on their way, then end them."""
    if tasks:
        _, late = await asyncio.wait(set(tasks), timeout=0.8)
        for each in late:
            each.cancel()
