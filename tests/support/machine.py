"""What tests need of the machine they run on: free ports, and patience that ends."""

from __future__ import annotations

import contextlib
import socket
import time


def free_ports(count):
    """Ports of the loopback that nobody uses at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for(found, what, *, limit=120.0):
    """What `found` gives, once it gives anything; fails after `limit` seconds."""
    end = time.monotonic() + limit
    while not (result := found()):
        assert time.monotonic() < end, f"waited {limit:.0f} s for {what}"
        time.sleep(0.02)
    return result
