"""The way to SuperLink: calls in a site's name, and a glance into SuperLink's database that spares it most of them."""

from __future__ import annotations

import sqlite3
import ssl
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from server.gateway.authentication import Signed
from server.gateway.refusals import Refused

__all__ = ["Glance", "Upstream"]

_PIECE = 262_144
_SECONDS = 25.0  # SuperNodes give up after 30
_REPEATED = frozenset({"activate-node", "send-node-heartbeat", "pull-messages"})


class Upstream:
    """Calls to SuperLink's Fleet API, over kept connections.

    What is passed on is the path, the three headers of the signature, and the body, in a request of our own making:
    of the framing of a caller's request nothing is left. SuperLink's refusals raise Refused with the same status,
    and without their texts; while SuperLink is away the status is 503, at which SuperNodes try again. So it is for its
    internal errors where a SuperNode would end itself otherwise.
    """

    def __init__(
        self, address: str, authority: Path, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        context = ssl.create_default_context(cafile=authority)
        # SuperLink closes a connection that was idle for 5 s: we are to be first
        limits = httpx.Limits(max_keepalive_connections=64, keepalive_expiry=3.0)
        self._client = httpx.AsyncClient(
            base_url=address, verify=context, limits=limits, timeout=httpx.Timeout(_SECONDS),
            trust_env=False, transport=transport,
        )  # fmt: skip

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def call(self, name: str, signed: Signed, body: bytearray) -> bytes:
        """The answer to a call. Raises Refused."""
        async with self.stream(name, signed, body) as response:
            try:
                return await response.aread()
            except httpx.TransportError:
                raise Refused(503, "superlink-away") from None

    @asynccontextmanager
    async def stream(
        self, name: str, signed: Signed, body: bytearray
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a call, piece by piece, once it is known to be one. Raises Refused."""
        headers = [
            *signed.headers,
            (b"content-type", b"application/protobuf"),
            (b"content-length", str(len(body)).encode()),
        ]
        request = self._client.build_request(
            "POST", f"/v1/fleet/{name}", headers=headers, content=_pieces(body)
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError:
            raise Refused(503, "superlink-away") from None
        try:
            if response.status_code != 200:
                raise _refusal(name, response.status_code)
            yield response
        finally:
            await response.aclose()


def _refusal(name: str, status: int) -> Refused:
    if status in {502, 503, 504} or (status >= 500 and name in _REPEATED):
        return Refused(503, f"superlink-{status}")
    return Refused(status if 400 <= status < 500 else 500, f"superlink-{status}")


async def _pieces(body: bytearray) -> AsyncIterator[bytes]:
    """A large body is not copied as a whole once more on its way into the connection."""
    view = memoryview(body)
    for start in range(0, len(body), _PIECE):
        yield bytes(view[start : start + _PIECE])


class Glance:
    """Reads in SuperLink's database whether a call would be worth it; it never writes there, and decides nothing.

    SuperLink answers about 145 calls a second in all; asking it five times a second for every site that waits would
    take most of that. The tables are Flower's own business: where they are not as expected every answer is None, and
    the gateway asks SuperLink itself, as often as it would otherwise.
    """

    def __init__(self, database: Path) -> None:
        self._path = database
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def has_message(self, node: int, now: float) -> bool | None:
        """Whether a message waits for a node, whose own object, which is sent last, has arrived.

        So a message is asked for when SuperLink has it all and answers at once: what it has handed out is lost if the
        gateway is killed before the answer is there (`deliveries`).
        """
        signed = node - (1 << 64) if node >= 1 << 63 else node
        query = (
            "SELECT count(*) FROM message_ins JOIN objects ON object_id = message_id AND is_available "
            "WHERE dst_node_id = ? AND delivered_at = '' AND created_at + ttl > ?"
        )
        count = self._count(query, (signed, now))
        return None if count is None else count > 0

    def has_objects(self, objects: Collection[str]) -> bool | None:
        """Whether SuperLink has got all of these objects, which are announced before they are sent."""
        marks = ",".join("?" * len(objects))
        query = f"SELECT count(*) FROM objects WHERE is_available AND object_id IN ({marks})"  # noqa: S608  marks
        count = self._count(query, tuple(objects))
        return None if count is None else count >= len(objects)

    def has_heard_of(self, name: str) -> bool | None:
        """Whether SuperLink has an object or expects it; those of a run that is over are gone."""
        count = self._count("SELECT count(*) FROM objects WHERE object_id = ?", (name,))
        return None if count is None else count > 0

    def _count(self, query: str, values: tuple[object, ...]) -> int | None:
        try:
            if self._database is None:
                self._database = sqlite3.connect(
                    f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=0
                )
            (count,) = self._database.execute(query, values).fetchone()
        except sqlite3.Error:
            self.close()
            return None
        return int(count)
