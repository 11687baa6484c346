"""Bounds on connections, where time would be long or an address rare: with the gateway's own parts, in this process."""

import asyncio
import logging
import socket
import sqlite3
import ssl
import sys
from contextlib import suppress
from datetime import UTC, datetime

import h11
import pytest

from server.authority import create_authority
from server.gateway import __main__ as program
from server.gateway import connections
from server.gateway.connections import (
    _address_of,
    _Connection,
    _Parser,
    _to_give_up,
    listen,
    tls_of,
)
from server.gateway.refusals import Refusals, Refused
from study.notes import written

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


def test_who_has_most_gives_up_his_oldest():
    assert _to_give_up({1: "a", 2: "b", 3: "b", 4: "c"}) == 2
    assert _to_give_up({1: "a", 2: "b"}) == 1
    assert _to_give_up({}) is None


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::ffff:192.0.2.7", 5, 0, 0), "192.0.2.7"),
        (("2001:db8::1%eth0", 5, 0, 0), str(0x20010DB800000000)),
        ("", ""),
        (None, ""),
    ],
)
def test_an_address_is_of_a_host_or_of_a_network_of_hosts(peer, address):
    assert _address_of(peer) == address


def test_many_addresses_of_one_network_are_one():
    assert len({_address_of((f"2001:db8:0:1::{number:x}", 1, 0, 0)) for number in range(9)}) == 1
    assert _address_of(("2001:db8:0:2::1", 1, 0, 0)) != _address_of(("2001:db8:0:1::1", 1, 0, 0))


def events(*pieces):
    parser = _Parser(h11.SERVER, 16_384)
    found = []
    for piece in pieces:
        parser.receive_data(piece)
        while (event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            found.append(type(event))
    return found


@pytest.mark.parametrize("cut", [0, 30, 60, 90])
@pytest.mark.parametrize("space", [b" ", b"\t", b" \t"])
def test_a_run_of_spaces_is_no_http_before_h11_looks_at_it(monkeypatch, space, cut):
    whole = HEAD + b"a:" + space * 64 + b"\0"
    end = len(HEAD) + cut
    looked = []
    real = h11.Connection.next_event

    def look(parser):
        looked.append(parser.trailing_data[0])
        return real(parser)

    monkeypatch.setattr(h11.Connection, "next_event", look)
    with pytest.raises(h11.RemoteProtocolError, match="spaces"):
        events(whole[:end], whole[end:] + b"\r\n\r\n")
    assert all(space * 64 not in each for each in looked)


def test_a_second_head_is_looked_at_as_the_first():
    parser = _Parser(h11.SERVER, 16_384)
    parser.receive_data(HEAD + b"\r\n" + HEAD + b"a:" + b" " * 70 + b"\r\n\r\n")
    assert [type(parser.next_event()) for _ in range(2)] == [h11.Request, h11.EndOfMessage]
    parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
    parser.send(h11.EndOfMessage())
    parser.start_next_cycle()
    with pytest.raises(h11.RemoteProtocolError, match="spaces"):
        parser.next_event()


def test_a_body_may_have_as_many_spaces_as_it_likes():
    body = b" " * 1000
    head = HEAD + b"Content-Length: 1000\r\n" + b"b: " + b" " * 50 + b"c\r\n\r\n"
    assert events(head + body) == [h11.Request, h11.Data, h11.EndOfMessage]
    assert events(head + body[:10], body[10:]) == [
        h11.Request,
        h11.Data,
        h11.Data,
        h11.EndOfMessage,
    ]


def test_a_body_without_a_length_is_not_begun():
    with pytest.raises(h11.RemoteProtocolError, match="length"):
        events(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n")


# A listening gateway, whose application is the test's


class Application:
    """Trusts whoever asks for /good, and refuses the others."""

    def __init__(self):
        self.ending = asyncio.Event()
        self.polling = self

    async def finish(self):
        """Of polling."""

    async def __call__(self, scope, _receive, send):
        good = scope["path"] == "/good"
        if good:
            scope["state"]["trust"](b"key")
        start = {"type": "http.response.start", "status": 200 if good else 401}
        await send(start | {"headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class Listening:
    def __init__(self, path, **options):
        create_authority(path, "localhost")
        self.log, self.stop = [], asyncio.Event()
        self.context = ssl.create_default_context(cafile=path / "ca.pem")
        refusals = Refusals(options.pop("write", self.log.append), lambda: datetime.now(UTC))
        tls = tls_of(str(path / "gateway.pem"), str(path / "gateway.key"))
        self.arguments = (Application(), refusals)
        self.options = {
            "host": "127.0.0.1",
            "connections": 20,
            "tls": tls,
            "stop": self.stop,
        } | options

    async def __aenter__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.task = asyncio.ensure_future(listen(*self.arguments, port=self.port, **self.options))
        await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, *_):
        self.stop.set()
        await self.task

    async def connect(self):
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname="localhost"
        )

    async def ask(self, connection, path):
        reader, writer = connection
        writer.write(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % path)
        return int((await reader.readuntil(b"\r\n\r\n")).split()[1])


async def ended(connection):
    with suppress(ConnectionError):
        await asyncio.wait_for(connection[0].read(), 10)
    connection[1].close()


@pytest.fixture(autouse=True)
def loggers():
    """Which the gateway turns off for good."""
    names = ("uvicorn.error", "uvicorn.access", "asyncio")
    yield
    for name in names:
        logging.getLogger(name).disabled = False


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


@pytest.mark.parametrize("before", [b"/good", b"/bad"])
def test_trust_lasts_for_one_request(tmp_path, monkeypatch, before):
    """A site that was removed holds no place by beginning a request for ever."""
    monkeypatch.setattr(connections, "_TRUST_SECONDS", 0.5)
    monkeypatch.setattr(connections, "_KEEP_ALIVE_SECONDS", 1)

    async def go():
        async with Listening(tmp_path) as gateway:
            connection = await gateway.connect()
            for path in {b"/good", before}:
                await gateway.ask(connection, path)
            connection[1].write(b"POST /")
            await ended(connection)
            return gateway.log

    assert "no-request" in "".join(run(go()))


def test_who_cannot_be_logged_is_dropped_all_the_same(tmp_path, monkeypatch):
    """The disk with the log is full."""
    monkeypatch.setattr(connections, "_TRUST_SECONDS", 0.3)

    def full(_line):
        raise OSError(28, "No space left on device")

    async def go():
        async with Listening(tmp_path, write=full) as gateway:
            await ended(await gateway.connect())

    run(go())


def test_a_log_that_cannot_be_written_is_no_error(monkeypatch):
    class Full:
        def write(self, _text):
            raise OSError(28, "No space left on device")

        flush = write

    monkeypatch.setattr(sys, "stderr", Full())
    written("a line\n")


def test_one_error_of_the_database_does_not_end_forgetting(monkeypatch):
    monkeypatch.setattr(program, "_FORGET_SECONDS", 0)
    turns = []

    class Memory:
        def forget(self, now):
            turns.append(now)
            if len(turns) == 1:
                raise sqlite3.OperationalError("database or disk is full")

    async def go():
        task = asyncio.ensure_future(program._forget(Memory()))
        while len(turns) < 3:
            assert not task.done()
            await asyncio.sleep(0.01)
        task.cancel()

    run(go())


def test_no_stranger_hides_what_a_node_did():
    lines = []
    refusals = Refusals(lines.append, lambda: datetime(2026, 1, 1, tzinfo=UTC))
    for _ in range(1000):
        refusals.note(Refused(401, "no-signature"), caller="stranger", path="other")
    refusals.note(Refused(403, "second-reply"), caller="0123456789abcdef", path="push-messages")
    assert len(lines) == 601
    assert "second-reply" in lines[-1]
    assert "400 more" in lines[-1]


def test_the_parser_is_the_gateways():
    """As uvicorn makes one of its own first."""

    class Places:
        refusals = None

    config = connections.Config(Application, http=_Connection, ws="none", log_config=None)
    config.load()

    async def made():
        return _Connection(config, connections.ServerState(), Places())

    assert isinstance(run(made()).conn, _Parser)
