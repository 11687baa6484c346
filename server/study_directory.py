"""What a coordinator keeps of one study, in `studies/HASH/`: whoever runs it writes, whoever asks how far it is reads.

declaration.json  roster.json    what is run, and among whom
run.json                         the run of SuperLink's that it is now
checkpoint/  open/  secret       sums that are over, the query that is under way, where nonces come from
progress.jsonl                   a line for each query
waiting                          what is being waited for, or why it does not go on
stop                             somebody has asked it to end
outcome.json  release/           how it has ended, and with what
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.errors import DiscreetError
from study.declaration import Declaration
from study.files import read_whole, write_whole

__all__ = ["StudyDirectory"]


@dataclass(frozen=True)
class StudyDirectory:
    """The directory of one study, which may not be there yet."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def is_submitted(self) -> bool:
        """Has this study ever been given to this coordinator?"""
        return (self / "declaration.json").is_file()

    @property
    def title(self) -> str:
        """Its name, where it can be read, and the first digits of its hash."""
        name = ""
        with suppress(DiscreetError):  # as of an older version, say
            declaration = Declaration.from_bytes(read_whole(self / "declaration.json"))
            name = f"{declaration.study.name} "
        return name + self.path.name[:12]

    @property
    def run(self) -> int | None:
        """SuperLink's number of the run that this study is; None: it has not begun."""
        path = self / "run.json"
        return int(json.loads(path.read_bytes())["run"]) if path.exists() else None

    def begin(self, run: int) -> None:
        """Remember which run it is."""
        write_whole(self / "run.json", json.dumps({"run": run}).encode())

    def lines(self) -> Iterator[dict[str, Any]]:
        """Of its progress, those that are whole already."""
        path = self / "progress.jsonl"
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):
                    yield json.loads(line)

    @property
    def waiting(self) -> str:
        """What it is waiting for, in words; empty: for nothing."""
        path = self / "waiting"
        with suppress(FileNotFoundError):  # it may be over at this very moment
            return path.read_text(encoding="utf-8")
        return ""

    def wait(self, what: str) -> None:
        """Tell whoever looks what it is waiting for; empty: it goes on."""
        if what:
            write_whole(self / "waiting", what.encode(), durable=False)
        else:
            (self / "waiting").unlink(missing_ok=True)

    @property
    def is_to_stop(self) -> bool:
        """Has somebody asked it to end?"""
        return (self / "stop").exists()

    def stop(self) -> None:
        """Ask it to end; the supervisor sees to it."""
        write_whole(self / "stop", b"")

    @property
    def is_over(self) -> bool:
        """Has it ended, however it did?"""
        return (self / "outcome.json").exists()

    @property
    def outcome(self) -> dict[str, Any] | None:
        """How it has ended: its `summary`, or why it has `failed`, and a hint; None: it has not."""
        return dict(json.loads((self / "outcome.json").read_bytes())) if self.is_over else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process a study: another one, such as one that has outlived its supervisor, comes to its end first."""
        with (self / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def conclude(self, outcome: Mapping[str, Any]) -> None:
        """It is over; for whoever is `alone` to say. What its noise came from, with trust `server`, is forgotten."""
        write_whole(self / "outcome.json", json.dumps(outcome).encode())
        (self / "secret").unlink(missing_ok=True)
        self.wait("")

    def give_up(self, outcome: Mapping[str, Any]) -> bool:
        """It is over without a release, unless it has come to an end of its own: then False."""
        with self.alone():
            if self.is_over:
                return False
            for each in ("release", "release.partial"):
                shutil.rmtree(self / each, ignore_errors=True)
            self.conclude(outcome)
            return True
