"""A ServerApp task of SuperLink's, as it stands on the disk: whoever holds the token runs it, and may do so again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from study.files import write_whole

__all__ = ["FAILED", "Task"]

FAILED = 3
"""Exit code of a study process whose study has failed for good; after any other but 0 it is begun again."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task.

    Attributes:
        token: the right to run it; a secret.
        task, run, node: Flower's numbers of it. study: hash of what is to be run; empty until its input was pulled.
    """

    token: str
    task: int
    run: int
    node: int = 1
    study: str = ""

    def __repr__(self) -> str:
        return f"Task({self.task}, run {self.run}, study {self.study[:12]})"

    def write(self, path: Path) -> None:
        """Keep it, for its owner's eyes alone."""
        write_whole(path, json.dumps(asdict(self)).encode(), mode=0o600)

    @staticmethod
    def read(path: Path) -> Task:
        """The task of a file that `write` has written."""
        return Task(**json.loads(path.read_bytes()))
