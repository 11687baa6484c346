"""What a process of a deployment tells its operator: lines in its log, each with the time in UTC."""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from privacy.errors import DiscreetError, UserError
from study.files import write_whole

__all__ = ["bound_log", "last_line", "note", "note_error", "open_log", "written"]

_LARGEST_LOG = 20_000_000
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK
_LONGEST, _LONGEST_TOLD = 2_000, 300


def open_log(path: Path) -> BinaryIO:
    """A log to go on with. No link is followed, and no pipe waited for: others may write there. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _CAREFULLY
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def bound_log(path: Path) -> None:
    """Begin a log anew once it is large, also while a process appends to it; its end is kept beside it, as `.log.1`.

    What is written at this very moment may be lost.
    """
    with suppress(OSError), os.fdopen(os.open(path, os.O_RDWR | _CAREFULLY), "r+b") as log:
        found = os.fstat(log.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_size > _LARGEST_LOG:
            log.seek(-_LARGEST_LOG, os.SEEK_END)
            end, beside = log.read(), path.with_suffix(".log.1")
            # Where the disk is full, room is all the more urgent.
            with suppress(OSError, UserError):
                write_whole(beside, end, durable=False, mode=0o600, follow=False)
            log.truncate(0)


def last_line(path: Path) -> str:
    """The last line of a log that says anything, as one that moves no terminal; empty: there is none to be read."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | _CAREFULLY), "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LONGEST))
            lines = log.read(_LONGEST).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    found = next((each.strip() for each in reversed(lines) if each.strip()), "")
    return _printable(found[-_LONGEST_TOLD:])


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


def note(text: str) -> None:
    """Write a line to the log. It stays one line, and moves no terminal, whatever stands in it."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    written(f"{moment}Z {_printable(text[:_LONGEST])}\n")


def written(line: str) -> None:
    """Write to standard error, which is the log; one that cannot be written is no reason to do anything else."""
    with suppress(OSError, ValueError):
        sys.stderr.write(line)
        sys.stderr.flush()


def note_error(what: str, error: Exception) -> None:
    """What has failed, and why: in words where there are some, else the name of the exception and no more."""
    if isinstance(error, DiscreetError):
        note(f"{what}: {error.message}" + (f" (hint: {error.hint})" if error.hint else ""))
    else:
        note(f"{what}: {type(error).__name__}")
