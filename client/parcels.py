"""What passes through the pipes between executor and worker: bytes that neither has to understand to carry them.

    frame    8 bytes of length, content
    content  4 bytes of length, JSON: {"head": ..., "sizes": [...]}, then the parts one after the other

Either side may be hostile, the worker too once a message has taken it over: whoever reads a frame bounds it first.
Nothing here imports Flower or NumPy: the worker confines itself before it does, and the executor needs neither for it.
"""

from __future__ import annotations

import json
import os
import re
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from privacy.errors import ProtocolError

__all__ = [
    "MOST_BYTES",
    "MOST_OBJECTS",
    "Pipe",
    "Reply",
    "Request",
    "is_object_id",
    "pack",
    "unpack",
    "until",
]

MOST_BYTES = 1_000_000_000
"""Of one frame, and so of all objects of one message."""

MOST_OBJECTS = 10_000
"""Of one message; ours have three, of which one is large."""

_LENGTH, _HEAD_LENGTH, _MOST_HEAD = 8, 4, 4_000_000
_PIECE = 1 << 20
_SLICE_SECONDS = 0.1


def is_object_id(value: object) -> bool:
    """Is it what Flower calls an object: SHA-256, hexadecimal?"""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def pack(head: Mapping[str, Any], parts: Sequence[bytes]) -> bytes:
    """The content of a frame, or of a file."""
    text = json.dumps({"head": dict(head), "sizes": [len(each) for each in parts]}).encode()
    return b"".join([len(text).to_bytes(_HEAD_LENGTH, "big"), text, *parts])


def unpack(content: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Head and parts. Raises ProtocolError for what `pack` does not make."""
    end = _HEAD_LENGTH + int.from_bytes(content[:_HEAD_LENGTH], "big")
    if end > min(len(content), _MOST_HEAD):
        raise ProtocolError("Expected the head of a parcel, found less, or far too much")
    try:
        whole = json.loads(content[_HEAD_LENGTH:end])
        head, sizes = whole["head"], whole["sizes"]
        if not isinstance(head, dict) or not all(type(each) is int and each >= 0 for each in sizes):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ProtocolError("Expected the head of a parcel") from None
    if end + sum(sizes) != len(content):
        raise ProtocolError("Expected a parcel with all its parts, and nothing else")
    parts, view = [], memoryview(content)
    for size in sizes:
        parts.append(bytes(view[end : end + size]))
        end += size
    return head, parts


@dataclass(frozen=True, kw_only=True)
class Request:
    """One message of Flower's, for the worker.

    Attributes:
        run, node, task: Flower's numbers.
        message: id of the object that it is. objects: contents by id; nobody has looked at them.
    """

    run: int
    node: int
    task: int
    message: str
    objects: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        """The content of a frame."""
        head = {
            "run": self.run, "node": self.node, "task": self.task, "message": self.message,
            "objects": list(self.objects),
        }  # fmt: skip
        return pack(head, list(self.objects.values()))

    @staticmethod
    def from_bytes(content: bytes) -> Request:
        """The request of a frame, which the executor has made. Raises ProtocolError."""
        head, parts = unpack(content)
        numbers = {name: head.get(name) for name in ("run", "node", "task")}
        if not all(type(each) is int for each in numbers.values()):
            raise ProtocolError("Expected numbers of run, node and task")
        objects = _objects(head, parts)
        if not is_object_id(head.get("message")):
            raise ProtocolError("Expected the id of a message")
        return Request(**numbers, message=head["message"], objects=objects)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One message of Flower's, from the worker.

    Attributes:
        message: without its content, as Protobuf. tree: ids of its objects, as Protobuf.
        objects: contents by id.
    """

    message: bytes
    tree: bytes
    objects: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        """The content of a frame."""
        return pack(
            {"objects": list(self.objects)}, [self.message, self.tree, *self.objects.values()]
        )

    @staticmethod
    def from_bytes(content: bytes) -> Reply:
        """The reply of a frame. Raises ProtocolError."""
        head, parts = unpack(content)
        if len(parts) < 2:
            raise ProtocolError("Expected a message and the tree of its objects")
        return Reply(message=parts[0], tree=parts[1], objects=_objects(head, parts[2:]))


def _objects(head: Mapping[str, Any], parts: Sequence[bytes]) -> dict[str, bytes]:
    ids = head.get("objects")
    if not isinstance(ids, list) or len(ids) != len(parts) or len(ids) > MOST_OBJECTS:
        raise ProtocolError("Expected an id for every object")
    if not all(map(is_object_id, ids)) or len(set(ids)) != len(ids):
        raise ProtocolError("Expected ids of objects, each once")
    return dict(zip(ids, parts, strict=True))


class Pipe:
    """One end of two pipes, through which frames go.

    Arguments:
        reading, writing: file descriptors, owned from now on.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)

    def send(self, content: bytes, waiting: Callable[[], bool] = lambda: True) -> bool:
        """Write a frame. False: whoever reads is gone, or `waiting` has said that it is enough."""
        rest = memoryview(len(content).to_bytes(_LENGTH, "big") + content)
        while rest:
            if not _ready(self._writing, select.POLLOUT, waiting) or not waiting():
                return False
            try:
                rest = rest[os.write(self._writing, rest[:_PIECE]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return False
        return True

    def receive(self, waiting: Callable[[], bool] = lambda: True) -> bytes | None:
        """The next frame. None: whoever writes is gone, has begun a far too large one, or it took too long."""
        head = self._exactly(_LENGTH, waiting)
        length = MOST_BYTES + 1 if head is None else int.from_bytes(head, "big")
        return None if length > MOST_BYTES else self._exactly(length, waiting)

    def is_silent(self, seconds: float) -> bool:
        """Has nothing come, not even the end, within that time?"""
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        return not poll.poll(seconds * 1000)

    def close(self) -> None:
        """Let go of both ends."""
        os.close(self._reading)
        os.close(self._writing)

    def _exactly(self, length: int, waiting: Callable[[], bool]) -> bytes | None:
        content = bytearray()
        while len(content) < length:
            if not _ready(self._reading, select.POLLIN, waiting) or not waiting():
                return None
            try:
                piece = os.read(self._reading, min(length - len(content), _PIECE))
            except BlockingIOError:
                continue
            if not piece:
                return None
            content += piece
        return bytes(content)


def _ready(handle: int, event: int, waiting: Callable[[], bool]) -> bool:
    """Wait until something can be read or written, as long as `waiting` says so."""
    poll = select.poll()
    poll.register(handle, event)
    while not poll.poll(_SLICE_SECONDS * 1000):
        if not waiting():
            return False
    return True


def until(seconds: float) -> Callable[[], bool]:
    """Whether that time, from now on, has not passed yet."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
