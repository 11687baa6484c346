"""The network between a site and its coordinator, as somebody sees it who taps the line."""

import socket
import threading
from contextlib import suppress


class Relay:
    """Passes on what comes to a port of the loopback, both ways, and keeps it; a context manager.

    Attributes:
        port: where it listens. taps: what was said on each connection, each way, from its first byte on.
    """

    def __init__(self, port):
        self._to = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.taps = []

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listening.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                one, _ = self._listening.accept()
                threading.Thread(target=self._pass, args=(one,), daemon=True).start()

    def _pass(self, one):
        with suppress(OSError), one, socket.create_connection(self._to) as other:
            ways = []
            for source, target in ((one, other), (other, one)):
                tap = bytearray()
                self.taps.append(tap)
                ways.append(threading.Thread(target=_copy, args=(source, target, tap), daemon=True))
                ways[-1].start()
            for each in ways:
                each.join()


def _copy(source, target, tap):
    with suppress(OSError):
        while data := source.recv(65536):
            tap += data
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def records_of_tls(tap):
    """The kinds of TLS records in what was said; raises if it is anything else (RFC 8446, section 5.1)."""
    kinds, rest = [], bytes(tap)
    while len(rest) >= 5:
        kind, version, length = rest[0], rest[1:3], int.from_bytes(rest[3:5], "big")
        assert kind in (20, 21, 22, 23), f"not a record of TLS: {rest[:16]!r}"
        assert version in (b"\x03\x01", b"\x03\x03"), version
        assert length <= 2**14 + 256, length
        kinds.append(kind)
        rest = rest[5 + length :]
    return kinds
