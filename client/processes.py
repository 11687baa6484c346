"""The processes of a site, for whoever starts them; nothing of what they are made of is imported for that."""

from __future__ import annotations

import sys

from client.directory import SiteDirectory
from study.processes import Process, console_script

__all__ = ["executor_process", "supernode_command", "supernode_process"]


def supernode_process(directory: SiteDirectory) -> Process:
    """The SuperNode of a site, which comes back as fast as it can whenever it is started (`client/supernode.py`)."""
    return Process(
        name="supernode",
        command=(sys.executable, "-P", "-m", "client.supernode", str(directory.path)),
        flower_home=directory / "flower",
        memory=directory.settings().limits.supernode_memory,
    )


def supernode_command(directory: SiteDirectory) -> tuple[str, ...]:
    """Flower's program and its arguments."""
    network = directory.settings().network
    return (
        console_script("flower-supernode"),
        "--superlink", network.coordinator,
        "--root-certificates", str(directory / "ca.pem"),
        "--auth-supernode-private-key", str(directory / "node.key"),
        "--isolation", "process",
        "--superexec-auth-secret-file", str(directory / "superexec.secret"),
        "--host", "127.0.0.1",
        "--port", str(network.runtime_port),
    )  # fmt: skip


def executor_process(directory: SiteDirectory) -> Process:
    """The executor of a site; it bounds itself and its worker (`client/executor/`)."""
    return Process(
        name="executor",
        command=(sys.executable, "-P", "-m", "client.executor", str(directory.path)),
        flower_home=directory / "flower",
    )
