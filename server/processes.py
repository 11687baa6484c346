"""The processes of a coordinator, for whoever starts them; nothing of what they are made of is imported for that."""

from __future__ import annotations

import sys

from server.directory import CoordinatorDirectory
from study.processes import Process, console_script

__all__ = ["gateway_process", "superlink_process", "supervisor_process"]


def superlink_process(directory: CoordinatorDirectory) -> Process:
    """SuperLink on the loopback: TLS, nodes that sign, tasks only for who knows the secret, and a database.

    There is no other way to run it here: each of these options closes a hole that is open without it.
    """
    network = directory.settings().network
    home = directory / "flower"
    return Process(
        name="superlink",
        command=(
            console_script("flower-superlink"),
            "--host", "127.0.0.1",
            "--port", str(network.superlink_port),
            "--ssl-ca-certfile", str(directory / "ca.pem"),
            "--ssl-certfile", str(directory / "superlink.pem"),
            "--ssl-keyfile", str(directory / "superlink.key"),
            "--enable-supernode-auth",
            "--database", str(home / "superlink.db"),
            "--isolation", "process",
            "--superexec-auth-secret-file", str(directory / "superexec.secret"),
        ),
        flower_home=home,
    )  # fmt: skip


def gateway_process(directory: CoordinatorDirectory) -> Process:
    """The gateway, in front of SuperLink (`server/gateway`)."""
    return _own("gateway", directory)


def supervisor_process(directory: CoordinatorDirectory) -> Process:
    """The supervisor of studies (`server/supervisor.py`)."""
    return _own("supervisor", directory)


def _own(name: str, directory: CoordinatorDirectory) -> Process:
    return Process(
        name=name,
        command=(sys.executable, "-P", "-m", f"server.{name}", str(directory.path.absolute())),
        flower_home=directory / "flower",
    )
