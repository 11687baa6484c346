"""`python -m client.worker DIR`: the worker of a site's directory, until nobody is left to ask it.

    confine itself -> open the ledger -> take part in the approved studies -> say so -> answer one message after another

It talks to the executor, which has started it, over its standard input and output, in frames (`client/parcels.py`):
first one that says what it is confined to, or why it cannot work; then for each request one with the reply, or an empty
one. Whatever is printed goes to its log. It ends when the executor's end of the pipe does, however that happened: a
message that it has begun it finishes first, so that what was charged is answered, and the next worker waits for that.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from client.directory import Settings, SiteDirectory
from client.parcels import Pipe, pack
from client.worker.confinement import confine, unconfined
from privacy.errors import DiscreetError, UserError
from study.locks import hold
from study.notes import note, note_error

if TYPE_CHECKING:
    from client.worker.desk import Desk

__all__ = ["main"]

_IDLE_SECONDS = 1.0  # how soon an approved study is taken part in while there is nothing to do
_GRACE_SECONDS = (
    30.0  # after the time limit, before a worker ends itself that nobody is left to kill
)


def main(arguments: list[str]) -> int:
    """Work until the pipe is closed."""
    os.umask(0o077)
    pipe = _pipe()
    for each in (signal.SIGINT, signal.SIGHUP):  # of a terminal: the executor decides when to stop
        signal.signal(each, signal.SIG_IGN)
    try:
        directory = SiteDirectory(Path(arguments[0]))
        settings = directory.settings()
        held = _confined(settings, directory)
        desk = _desk(directory)
    except DiscreetError as error:
        note_error("The worker cannot work", error)
        pipe.send(pack({"problem": error.message, "hint": error.hint}, []))
        return 1
    pipe.send(pack({"held": held}, []))
    _serve(pipe, desk, settings.limits.seconds)
    return 0


def _pipe() -> Pipe:
    """What were standard input and output; whatever is printed from now on goes to the log."""
    reading, writing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return Pipe(reading, writing)


def _confined(settings: Settings, directory: SiteDirectory) -> dict[str, str]:
    memory, worker = settings.limits.memory, settings.worker
    os.environ["SQLITE_TMPDIR"] = str(directory.path)  # what it would write elsewhere
    if worker.confined:
        return confine(memory=memory, user=worker.user, directory=directory.path)
    note("WARNING: worker.confined = false: nothing keeps the worker from the network")
    return unconfined(memory=memory)


def _desk(directory: SiteDirectory) -> Desk:
    """Everything that needs libraries: not before this process is confined."""
    hold(
        directory / "worker.lock",
        waiting=lambda: note("Waiting for the last worker to finish what it has begun"),
    )
    try:
        from client.worker.desk import Desk  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            f"The worker cannot be loaded: {error}",
            hint="can its user (worker.user in site.toml) read Python and all that is installed?",
        ) from error
    return Desk(directory)


def _serve(pipe: Pipe, desk: Desk, seconds: float) -> None:
    """One message after another, until nobody is left to ask. Between two of them new studies are looked for."""
    while True:
        if pipe.is_silent(_IDLE_SECONDS):
            desk.refresh()
            continue
        content = pipe.receive()
        if content is None:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_SECONDS)  # then the system ends it
        pipe.send(desk.answer(content))
        signal.setitimer(signal.ITIMER_REAL, 0.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
