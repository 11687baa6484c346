"""Processes of a deployment, as values: what is started, where, and within which bounds. `discreet` keeps them going.

site         flower-supernode -- executor -- worker                  (`client/`)
coordinator  gateway -- flower-superlink -- supervisor -- ServerApp  (`server/`)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FLOWER", "Process", "console_script", "end", "environment_of", "stop_on_signals"]

FLOWER: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Of every process: Flower reports nothing, asks nobody, and installs nothing that a run ships."""

_INHERITED = ("HOME", "LANG", "LC_ALL", "PATH", "SYSTEMROOT", "TMPDIR", "TZ", "VIRTUAL_ENV")


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of a deployment.

    Attributes:
        name: in logs, and of its log file.
        command: program and arguments; no secret stands in it, since every user of the machine can read it.
        flower_home: where Flower's parts keep what they write; a process that is none of Flower's has none.
        memory: bytes of address space at most; None: as many as there are.
        environment: more variables, of names that `environment_of` does not set.
    """

    name: str
    command: tuple[str, ...]
    flower_home: Path | None = None
    memory: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def environment_of(process: Process) -> dict[str, str]:
    """All variables of a process: its own, Flower's switches, and those few that any program needs.

    Nothing else is passed on, so that neither a proxy nor a stray switch of Flower's reaches it.
    """
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    home = {} if process.flower_home is None else {"FLWR_HOME": str(process.flower_home)}
    return {**inherited, **process.environment, **FLOWER, **home}


def end(running: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a process to end, wait for so long, and make an end of it."""
    running.terminate()
    with suppress(subprocess.TimeoutExpired):
        running.wait(seconds)
    running.kill()
    running.wait()


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set, and SIGHUP, of a terminal that is closed."""
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, lambda *_: stop.set())
    return stop


def console_script(name: str) -> str:
    """The program of this name that is installed beside the running interpreter."""
    return str(Path(sys.executable).with_name(name))
