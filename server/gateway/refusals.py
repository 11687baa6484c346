"""What the gateway refuses with, and the log of it: fixed words only, nothing that a caller has sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime

__all__ = ["STRANGER", "Refusals", "Refused"]

STRANGER = "stranger"
_LINES = 600  # a minute


class Refused(Exception):  # noqa: N818  it is an answer, not a fault
    """A request is not passed on.

    Arguments:
        status: of the answer; SuperNodes try again after 503, drop the message at hand after 403, stop after 401.
        reason: a fixed word for the log.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(reason)


class Refusals:
    """One line for each refusal, but a minute no more than 600 of strangers and 600 of nodes.

    How many were left out stands in the next line: no stranger can hide what a node did.

    Arguments:
        write: takes a line. clock: the time, in UTC.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], datetime]) -> None:
        self._write, self._clock = write, clock
        self._minute = ""
        self._lines: Counter[bool] = Counter()  # by whether they are of strangers
        self._left_out = 0

    def note(self, refused: Refused, *, caller: str, path: str) -> None:
        """Note a refusal: of whom (a key's fingerprint, or STRANGER), and on which path (a name of ours)."""
        second = self._clock().strftime("%Y-%m-%dT%H:%M:%SZ")
        if second[:16] != self._minute:
            self._minute, self._lines = second[:16], Counter()
        of_stranger = caller == STRANGER
        if self._lines[of_stranger] >= _LINES:
            self._left_out += 1
            return
        self._lines[of_stranger] += 1
        more = f" (and {self._left_out} more before)" if self._left_out else ""
        self._left_out = 0
        self._write(f"{second} refused {refused.status} {refused.reason} {caller} {path}{more}\n")
