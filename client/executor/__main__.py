"""`python -m client.executor DIR`: the executor of a site's directory, until a signal stops it."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType

from client.directory import SiteDirectory
from client.executor.executor import Executor
from client.worker.confinement import forbid_dumps
from privacy.errors import DiscreetError
from study.locks import hold
from study.notes import note_error

__all__ = ["main"]

_MEMORY = 4_000_000_000  # bytes of address space: some messages of the largest kind


def main(arguments: list[str]) -> int:
    """Run the executor of a directory until a signal stops it."""
    os.umask(0o077)
    forbid_dumps()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))  # a soft limit: the worker has its own
    try:
        directory = SiteDirectory(Path(arguments[0]))
        hold(directory / "executor.lock")
        executor = Executor(directory)

        def stop(_signal: int, _frame: FrameType | None) -> None:
            executor.stop()

        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, stop)
        executor.run()
    except DiscreetError as error:
        note_error("The executor cannot work", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
