"""What keeps a site from taking part, in words, each with what to do about it. Nothing is changed by looking."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from client.approvals import pinned_roster, read_approval
from client.directory import SiteDirectory
from client.ledger import Ledger
from client.policy import PolicyFile
from client.supernode import entry_problem, read_node_key
from client.worker.confinement import forbid_dumps
from privacy.errors import DiscreetError
from study.keyfiles import read_key, read_public_key
from study.ledger_state import LedgerState
from study.locks import is_held
from study.processes import Process, environment_of

__all__ = ["problems"]

SECRET = ("site.key", "node.key", "superexec.secret")
NEEDED = {
    "ledger.sqlite": "discreet ledger register makes it",
    "site.key": "discreet ledger register makes it",
    "coordinator.pub": "discreet site init, given once more, writes it from the coordinator's invitation",
    "ca.pem": "discreet site init, given once more, writes it from the coordinator's invitation",
    "node.key": "discreet site init, given once more, makes another, whose node.pub the coordinator has to add",
    "node.pub": "discreet site init, given once more, writes it from node.key",
    "superexec.secret": "discreet site init, given once more, makes it",
}

_SOON = timedelta(days=30)


class _Look:
    """One look at a site, for which its ledger is opened, and verified, once."""

    def __init__(self, directory: SiteDirectory) -> None:
        self.directory = directory

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    @cached_property
    def ledger(self) -> LedgerState | None:
        """What it says; None where there is none to be read, which `_missing` tells of. Raises DiscreetError."""
        if not ((self / "ledger.sqlite").is_file() and (self / "site.key").is_file()):
            return None
        ledger = Ledger(self / "ledger.sqlite", read_key(self / "site.key"))
        try:
            return ledger.state
        finally:
            ledger.close()


_Check = Callable[[_Look], Iterator[str]]


def problems(directory: SiteDirectory, *, records: bool = True) -> list[str]:
    """All that can be seen to be wrong; empty if nothing can.

    Arguments:
        directory: of the site; it may be running.
        records: read the records of every study that is open, and say if they are not what it can use.
    """
    checks: list[_Check] = [
        _missing, _readable, _settings, _certificate, _node_key, _coordinator, _ledger, _roster, _policy, _studies,
        *([_records] if records else []), _entry, _port,
    ]  # fmt: skip
    look, found = _Look(directory), []
    for check in checks:
        try:
            found += list(check(look))
        except DiscreetError as error:
            found.append(error.explained)
    return list(dict.fromkeys(found))


def _missing(look: _Look) -> Iterator[str]:
    for name, hint in NEEDED.items():
        if not (look / name).is_file():
            yield f"There is no {name}: {hint}"


def _readable(look: _Look) -> Iterator[str]:
    for name in SECRET:
        with suppress(FileNotFoundError):
            if not (look / name).stat().st_size:
                yield f"{name} is empty: put it back; or remove it, and {NEEDED[name]}"
            if stat.S_IMODE((look / name).stat().st_mode) & 0o077:
                yield f"{name} can be read by others: chmod 600 {look / name}"


def _settings(look: _Look) -> Iterator[str]:
    if not look.directory.settings().worker.confined:
        yield "Nothing keeps the worker from the network: set worker.confined = true in site.toml"


def _certificate(look: _Look) -> Iterator[str]:
    if not (look / "ca.pem").is_file():
        return
    try:
        certificates = x509.load_pem_x509_certificates((look / "ca.pem").read_bytes())
    except (OSError, ValueError):
        yield "ca.pem is not a certificate in PEM form: ask the coordinator for it again"
        return
    now = datetime.now(UTC)
    for each in certificates:
        end = each.not_valid_after_utc
        if end < now:
            yield f"ca.pem has expired on {end:%Y-%m-%d}: ask the coordinator for its new one"
        elif end < now + _SOON:
            yield f"ca.pem expires on {end:%Y-%m-%d}: ask the coordinator for its new one"
        elif each.not_valid_before_utc > now:
            yield "ca.pem is not valid yet: is this machine's clock right?"


def _node_key(look: _Look) -> Iterator[str]:
    if not ((look / "node.key").is_file() and (look / "node.pub").is_file()):
        return
    private = read_node_key(look.directory).public_key()
    try:
        public = load_ssh_public_key((look / "node.pub").read_bytes())
    except ValueError:
        yield "node.pub is not a public key in OpenSSH form: ssh-keygen -y -f node.key > node.pub"
        return
    form = (Encoding.OpenSSH, PublicFormat.OpenSSH)
    if public.public_bytes(*form) != private.public_bytes(*form):
        yield "node.pub is not of node.key, so the coordinator knows another: ssh-keygen -y -f node.key > node.pub"


def _coordinator(look: _Look) -> Iterator[str]:
    if (look / "coordinator.pub").is_file():
        read_public_key(look / "coordinator.pub")
    yield from ()


def _ledger(look: _Look) -> Iterator[str]:
    if look.ledger is not None and not look.ledger.data_sets:
        yield "The ledger has no data set: discreet ledger register adds one"


def _roster(look: _Look) -> Iterator[str]:
    roster = pinned_roster(look.directory)
    if roster is None:
        yield "There is no roster.json: discreet federation pin makes it"
    elif (look / "site.key").is_file():
        roster.number_of(read_key(look / "site.key").public)


def _policy(look: _Look) -> Iterator[str]:
    if (look / "policy.toml").exists():
        PolicyFile(look / "policy.toml")()
    else:
        yield "There is no policy.toml, so whatever is approved is allowed: discreet policy init makes it"


def _studies(look: _Look) -> Iterator[str]:
    accounts = look.ledger.studies if look.ledger is not None else {}
    paths = sorted((look / "studies").glob("*.json"))
    if not paths:
        yield "No study is approved, so nothing is answered: discreet site approve"
    for path in paths:
        account = accounts.get(path.stem)
        if account is not None and account.closed:
            continue
        try:
            approval = read_approval(path)
        except DiscreetError as error:
            yield f"studies/{path.name} is passed over: {error.explained}"
            continue
        if approval.data is not None and not os.access(approval.data, os.R_OK):
            name = approval.declaration.study.name
            yield f"The records of {name} cannot be read: is {approval.data} still there? If moved, approve it again"


def _records(look: _Look) -> Iterator[str]:
    """Would the worker answer? Records are read as it reads them: confined, in a process of their own."""
    directory = str(look.directory.path)
    kind = Process(
        name="rehearsal",
        command=(sys.executable, "-P", "-m", "client.worker.rehearsal", directory),
    )
    found = subprocess.run(  # noqa: S603  our own program
        kind.command, env=environment_of(kind), capture_output=True, check=False
    )
    try:
        yield from json.loads(found.stdout)
    except ValueError:
        yield f"The records cannot be looked at: that ended with {found.returncode}, as for want of memory"


def _entry(look: _Look) -> Iterator[str]:
    """Is the coordinator there, and does it know this site?"""
    if (look / "node.key").is_file() and (look / "ca.pem").is_file():
        problem = entry_problem(look.directory)
        if problem is not None:
            yield problem


def _port(look: _Look) -> Iterator[str]:
    """Is the runtime's port somebody else's? A site that runs already has it itself."""
    if is_held(look / "executor.lock"):
        return
    port = look.directory.settings().network.runtime_port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            yield f"Port {port} is in use: give another one as network.runtime_port in site.toml"


def main(arguments: list[str]) -> int:
    """Print all of it, a line each: for whoever would not keep in memory what looking takes. 1 if there is anything.

    Records are left to the worker, which reads them next.
    """
    try:
        found = problems(SiteDirectory(Path(arguments[0])), records=False)
    except DiscreetError as error:
        found = [error.message]
    for each in found:
        sys.stdout.write(f"{each}\n")
    return 1 if found else 0


if __name__ == "__main__":
    forbid_dumps()  # it signs with the node's key
    sys.exit(main(sys.argv[1:]))
