"""A file that one process at a time holds, until it ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from privacy.errors import UserError

__all__ = ["hold", "is_held"]


def hold(path: Path, *, waiting: Callable[[], None] | None = None) -> int:
    """Hold this file; the handle, which must stay open.

    Arguments:
        waiting: told once that another process holds it, which is then waited for; None: it is not.
    Raises:
        UserError: another process holds it. OSError: it cannot be opened, or is a link.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            os.close(handle)
            raise UserError(
                f"{path} is held by another process: {path.parent.name} runs already",
                hint="stop that one first",
            ) from None
        waiting()
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def is_held(path: Path) -> bool:
    """Does a process hold this file?"""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
