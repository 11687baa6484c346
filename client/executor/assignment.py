"""The task in hand, on the disk: so that an executor that was killed costs a second, and not the minute of a token.

    taken       token, run and task
    received    and the message, which the SuperNode gives once
    answered    and the reply, with the id under which it may have been pushed
    registered  and it has been announced: it may have been sent already

The file is not waited for: what survives a process need not survive the machine, whose SuperNode forgets its tasks.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from client.parcels import MOST_BYTES, Reply, pack, unpack
from privacy.errors import ProtocolError, UserError
from study.files import write_whole
from study.notes import note

__all__ = ["Assignment", "AssignmentFile"]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A task, and how far it has come.

    Attributes:
        token: whoever has it may work on the task. run, task: Flower's numbers.
        message, tree: what was asked, without content, and its objects, as Protobuf.
        reply: what is replied. registered: the SuperNode was told of it.
    """

    token: str
    run: int
    task: int
    message: bytes | None = None
    tree: bytes = b""
    reply: Reply | None = None
    registered: bool = False

    def __repr__(self) -> str:
        return f"Assignment(run={self.run}, task={self.task})"

    def to_bytes(self) -> bytes:
        """The content of its file."""
        head = {
            "token": self.token, "run": self.run, "task": self.task, "registered": self.registered,
            "received": self.message is not None, "answered": self.reply is not None,
        }  # fmt: skip
        reply = b"" if self.reply is None else self.reply.to_bytes()
        return pack(head, [self.message or b"", self.tree, reply])

    @staticmethod
    def from_bytes(content: bytes) -> Assignment:
        """The task of a file. Raises ProtocolError."""
        head, parts = unpack(content)
        if len(parts) != 3 or set(head) != {
            "token", "run", "task", "registered", "received", "answered",
        }:  # fmt: skip
            raise ProtocolError("Expected a task")
        if not isinstance(head["token"], str) or not all(
            type(head[each]) is int for each in ("run", "task")
        ):
            raise ProtocolError("Expected a token, and numbers of run and task")
        return Assignment(
            token=head["token"], run=head["run"], task=head["task"],
            message=parts[0] if head["received"] else None, tree=parts[1],
            reply=Reply.from_bytes(parts[2]) if head["answered"] else None,
            registered=bool(head["registered"]),
        )  # fmt: skip


class AssignmentFile:
    """Where the task in hand is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        for half in path.parent.glob(f"{path.name}.*.new"):  # of an executor that was killed
            half.unlink(missing_ok=True)

    def read(self) -> Assignment | None:
        """The task that was left; None if there is none, or none that can be read."""
        try:
            return Assignment.from_bytes(self._content())
        except FileNotFoundError:
            return None
        except (OSError, ProtocolError, ValueError, MemoryError):
            self.clear()
            return None

    def _content(self) -> bytes:
        """Of a file that this program has written: no link, no device, of a size that it can have."""
        handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_size > 2 * MOST_BYTES:
                raise ProtocolError("Expected the file of a task")
            return file.read()

    def write(self, assignment: Assignment) -> Assignment:
        """Keep it. Where that fails, an executor that is killed costs a minute, and nothing else."""
        try:
            write_whole(self._path, assignment.to_bytes(), durable=False, follow=False)
        except (OSError, UserError) as error:
            note(f"The task in hand cannot be kept: {error}")
        return assignment

    def clear(self) -> None:
        """There is nothing in hand."""
        with suppress(OSError):
            self._path.unlink()
