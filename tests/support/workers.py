"""Start site workers (`site_worker.py`), talk to them, and kill them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import site_worker
from site_worker import framed, unframed
from witness import require

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 120.0


class Workers:
    """The program that forks workers; it ends with the block, and they with it."""

    def __enter__(self):
        self._control, theirs = socket.socketpair()
        self._control.settimeout(HANG_SECONDS)
        support = str(Path(site_worker.__file__).parent)
        self._program = subprocess.Popen(
            [sys.executable, site_worker.__file__], stdin=theirs, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{support}", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        theirs.close()
        self._started = []
        return self

    def __exit__(self, *_error):
        for each in self._started:
            each.close()
        self._control.close()
        self._program.wait(HANG_SECONDS)

    def start(self, directory, *, studies=(), bug="", kinds=(), crash=None, checkpoint=0):
        pairs = [socket.socketpair() for _ in range(2)]
        settings = {
            "directory": str(directory), "studies": list(studies), "bug": bug, "kinds": list(kinds), "crash": crash,
            "checkpoint": checkpoint,
        }  # fmt: skip
        handles = [theirs.fileno() for _, theirs in pairs]
        socket.send_fds(self._control, [json.dumps(settings).encode()], handles)
        process = int(self._control.recv(32))
        for ours, theirs in pairs:
            theirs.close()
            ours.settimeout(HANG_SECONDS)
        self._started.append(Worker(process, *(ours for ours, _ in pairs)))
        return self._started[-1]


class Worker:
    """One worker: where it is, what came over its wire. Dead once `said` is None."""

    def __init__(self, process, wire, side):
        self._process, self._wire, self._side = process, wire, side
        self._line, self._stream = b"", b""

    def said(self):
        """Where it waits now; None: it is dead."""
        while b"\n" not in self._line:
            piece = _received(self._side)
            if not piece:
                return None
            self._line += piece
        line, _, self._line = self._line.partition(b"\n")
        return json.loads(line)

    def go_on(self):
        _sent(self._side, b"!")

    def request(self, kind, content=b""):
        _sent(self._wire, framed(kind + content))

    def reply(self):
        """The next frame of the wire, (kind, content)."""
        while (whole := unframed(self._stream)) is None:
            piece = _received(self._wire)
            require(piece, "expected a reply, found the end of the wire")
            self._stream += piece
        frame, self._stream = whole
        return frame[:1], frame[1:]

    def kill(self):
        os.kill(self._process, signal.SIGKILL)

    def left(self):
        """All that a dead worker still had on the wire: whole frames, and the beginning of one."""
        while piece := _received(self._wire):
            self._stream += piece
        frames = []
        while (whole := unframed(self._stream)) is not None:
            frames.append((whole[0][:1], whole[0][1:]))
            self._stream = whole[1]
        self.close()
        return frames, self._stream

    def close(self):
        self._wire.close()
        self._side.close()


def _received(channel):
    try:
        return channel.recv(1 << 16)
    except ConnectionResetError:
        return b""


def _sent(channel, content):
    """To a dead worker nothing can be sent; what it said last is still to be read."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        channel.sendall(content)
