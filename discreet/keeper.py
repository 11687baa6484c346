"""What `discreet site start` and `discreet coordinator start` become, once they have looked whether all is well.

    python -m discreet.keeper site|coordinator DIR

It runs for as long as the deployment does, so nothing is imported here but what starting processes takes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from client.directory import SiteDirectory
from client.processes import executor_process, supernode_process
from client.worker.confinement import forbid_dumps
from discreet.processes import Service, keep_going
from privacy.errors import DiscreetError
from server.directory import CoordinatorDirectory
from server.processes import gateway_process, superlink_process, supervisor_process
from study.locks import hold
from study.processes import stop_on_signals

__all__ = ["command_of", "main"]

_SUPERLINK_ENDING = 5.0  # it would wait 30 s for idle connections, and its database survives
_EXECUTOR_ENDING = 15.0  # it finishes the message in hand


def command_of(kind: str, directory: Path) -> list[str]:
    """The program and its arguments."""
    return [sys.executable, "-P", "-m", "discreet.keeper", kind, str(directory)]


def _site(path: Path) -> tuple[list[Service], Path]:
    directory = SiteDirectory(path)
    executor = Service(executor_process(directory), ending=_EXECUTOR_ENDING)
    return [Service(supernode_process(directory)), executor], directory / "logs"


def _coordinator(path: Path) -> tuple[list[Service], Path]:
    directory = CoordinatorDirectory(path)
    superlink = Service(superlink_process(directory), ending=_SUPERLINK_ENDING)
    rest = [Service(gateway_process(directory)), Service(supervisor_process(directory))]
    return [superlink, *rest], directory / "logs"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> int:
    """Keep all processes going until SIGINT or SIGTERM."""
    kind, path = arguments
    try:
        forbid_dumps()  # a worker of the same user could write into this process otherwise
        services, logs = {"site": _site, "coordinator": _coordinator}[kind](Path(path))
        # Two on one directory would be in each other's way, process by process.
        _held = hold(Path(path) / "keeper.lock")
        keep_going(services, logs, stop_on_signals(), _say)
    except DiscreetError as error:
        _say(f"Error: {error.message}\nHint: {error.hint}")
        return 1
    except OSError as error:
        _say(f"Error: {error.strerror}: {error.filename}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
