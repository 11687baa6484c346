"""The process that runs one study: the installed ServerApp, over SuperLink, from its checkpoint to its release.

    python -m server.study_process DIR TASK.json

It can be killed at any time, and is begun again with the same task: sums that are over come from the checkpoint, the
query that was under way from the journal (`server/journal.py`). The supervisor sees to its token and heartbeat.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from privacy.errors import (
    DiscreetError,
    LedgerError,
    ProtocolError,
    RoundAbandonedError,
    StudyError,
)
from privacy.keystream import KEY_BYTES, derive_key
from server.app import make_server_app
from server.directory import CoordinatorDirectory
from server.grid import SuperLinkGrid
from server.release import Release, write_release
from server.rounds import Job, Outcome
from server.study_directory import StudyDirectory
from server.tasks import FAILED, Task
from server.trips import Waits, Way
from study.declaration import Declaration
from study.files import write_whole
from study.keyfiles import read_key
from study.roster import SignedRoster

__all__ = ["main"]

_LOOPBACK = "127.0.0.1"


def main(directory: CoordinatorDirectory, task: Task) -> int:
    """Run the study of this task to its end; the exit code."""
    place = directory.study(task.study)
    with place.alone():
        if place.is_over:
            return 0
        _die_with_the_supervisor()
        try:
            summary = _run(directory, task, place)
        except (RoundAbandonedError, ProtocolError, LedgerError, StudyError) as error:
            place.conclude({"failed": error.message, "hint": error.hint})
            return FAILED
        except Exception as error:
            place.wait(f"Its process has failed, and is begun again: {_explained(error)}")
            raise
        place.conclude({"summary": summary})
        return 0


def _run(directory: CoordinatorDirectory, task: Task, place: StudyDirectory) -> dict[str, Any]:
    declaration = Declaration.from_bytes((place / "declaration.json").read_bytes())
    signed = SignedRoster.from_bytes((place / "roster.json").read_bytes())
    outcomes: list[Outcome] = []
    grid = _grid(directory, task)
    with (place / "progress.jsonl").open("w", encoding="utf-8") as progress:
        job = Job(
            declaration=declaration,
            sites=tuple(signed.roster.names.values()),
            roster=signed.roster,
            way=_way(directory, grid, place),
            directory=place / "checkpoint",
            journal=place / "open",
            entropy=_entropy(place / "secret"),
            on_round=lambda line: _tell(progress.write, progress.flush, line),
        )
        context = Context(
            run_id=task.run, node_id=task.node, node_config={}, state=RecordDict(), run_config={}
        )
        place.wait("")  # whatever an earlier process has waited for, or failed of
        make_server_app(job, outcomes.append)(grid, context)
    release = Release(
        declaration=declaration, outcome=outcomes[0], roster=signed,
        seconds=time.time() - (place / "declaration.json").stat().st_mtime,
    )  # fmt: skip
    return _released(release, place)


def _grid(directory: CoordinatorDirectory, task: Task) -> SuperLinkGrid:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = task.run, task.node, task.task
    port = directory.settings().network.superlink_port
    certificate = (directory / "ca.pem").read_bytes()
    grid = SuperLinkGrid(f"{_LOOPBACK}:{port}", certificate, token=task.token)
    grid.set_run(Run.create_empty(task.run))
    return grid


def _way(directory: CoordinatorDirectory, grid: SuperLinkGrid, place: StudyDirectory) -> Way:
    waits = directory.settings().waits

    def nodes() -> Mapping[str, int]:
        known = {key: name for name, key in directory.sites().items()}
        return {
            known[each.public_key]: each.node_id
            for each in grid.get_nodes()
            if each.public_key in known
        }

    return Way(
        nodes=nodes,
        key=read_key(directory / "coordinator.key"),
        waits=Waits(
            trip=waits.trip_seconds,
            again=waits.again_seconds,
            unreachable=waits.unreachable_seconds,
            ready=waits.ready_seconds,
        ),
        waiting=place.wait,
        warn=lambda warning: print(warning, file=sys.stderr, flush=True),  # noqa: T201  the log
    )


def _explained(error: Exception) -> str:
    """In words where there are some; whatever else it is, the log tells more."""
    if isinstance(error, DiscreetError):
        return error.message + (f" ({error.hint})" if error.hint else "")
    return f"{type(error).__name__}; see logs/supervisor.log"


def _entropy(path: Path) -> Callable[..., bytes]:
    """Nonces, and the noise of trust `server`: secret, and the same for a run that goes on as for the one that died."""
    if not path.exists():
        write_whole(path, secrets.token_bytes(KEY_BYTES), mode=0o600)
    secret = path.read_bytes()
    if len(secret) != KEY_BYTES:
        raise DiscreetError(f"Expected {KEY_BYTES} bytes in {path.name}, found {len(secret)}")
    return lambda *labels: derive_key(secret, *labels)


def _released(release: Release, place: StudyDirectory) -> dict[str, Any]:
    """Write the release; it has its name when it is whole."""
    partial = place / "release.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(place / "release", ignore_errors=True)
    summary = write_release(release, partial)
    partial.rename(place / "release")
    return summary


def _tell(write: Callable[[str], Any], flush: Callable[[], None], line: Mapping[str, Any]) -> None:
    write(json.dumps(line) + "\n")
    flush()


def _die_with_the_supervisor() -> None:
    """Nobody would see to the token of a process whose parent has died."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    try:
        sys.exit(main(CoordinatorDirectory(Path(sys.argv[1])), Task.read(Path(sys.argv[2]))))
    except DiscreetError as error:
        sys.exit(f"{error.message}. {error.hint}")
