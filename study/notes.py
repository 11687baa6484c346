"""What a process of a deployment tells its operator: lines in its log, each with the time in UTC."""

from __future__ import annotations

import sys
import time

from privacy.errors import DiscreetError

__all__ = ["note", "note_error"]


def note(text: str) -> None:
    """Write a line to standard error, which is the log; if nobody keeps one, that is no reason to stop."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    try:
        sys.stderr.write(f"{moment}Z {text}\n")
        sys.stderr.flush()
    except OSError:
        pass


def note_error(what: str, error: Exception) -> None:
    """What has failed, and why: in words where there are some, else the name of the exception and no more."""
    if isinstance(error, DiscreetError):
        note(f"{what}: {error.message}" + (f" (hint: {error.hint})" if error.hint else ""))
    else:
        note(f"{what}: {type(error).__name__}")
