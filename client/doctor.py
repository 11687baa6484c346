"""What keeps a site from taking part, in words, each with what to do about it. Nothing is changed by looking."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from client.approvals import pinned_roster, read_approval
from client.directory import SiteDirectory
from client.ledger import Ledger
from client.locks import is_held
from client.policy import PolicyFile
from client.supernode import clock_problem, read_node_key
from privacy.errors import DiscreetError
from study.keyfiles import read_key, read_public_key
from study.ledger_state import LedgerState

__all__ = ["problems"]

SECRET = ("site.key", "node.key", "superexec.secret")
NEEDED = {
    "ledger.sqlite": "discreet ledger register makes it",
    "site.key": "discreet ledger register makes it",
    "coordinator.pub": "discreet site init writes it, from the coordinator's invitation",
    "ca.pem": "discreet site init writes it, from the coordinator's invitation",
    "node.key": "discreet site init makes it",
    "node.pub": "discreet site init makes it",
    "superexec.secret": "discreet site init makes it",
}

_SOON = timedelta(days=30)
_SECONDS = 5.0


def problems(directory: SiteDirectory) -> list[str]:
    """All that can be seen to be wrong; empty if nothing can.

    Arguments:
        directory: of the site; it may be running.
    """
    checks: list[Callable[[SiteDirectory], Iterator[str]]] = [
        _missing, _readable, _settings, _certificate, _node_key, _coordinator, _ledger, _roster, _policy, _studies,
        _clock, _port,
    ]  # fmt: skip
    found = []
    for check in checks:
        try:
            found += list(check(directory))
        except DiscreetError as error:
            found.append(error.message + (f": {error.hint}" if error.hint else ""))
    return list(dict.fromkeys(found))


def _missing(directory: SiteDirectory) -> Iterator[str]:
    for name, hint in NEEDED.items():
        if not (directory / name).is_file():
            yield f"There is no {name}: {hint}"


def _readable(directory: SiteDirectory) -> Iterator[str]:
    for name in SECRET:
        with suppress(FileNotFoundError):
            if not (directory / name).stat().st_size:
                yield f"{name} is empty: put it back, or make a new one: {NEEDED[name]} where there is none"
            if stat.S_IMODE((directory / name).stat().st_mode) & 0o077:
                yield f"{name} can be read by others: chmod 600 {directory / name}"


def _settings(directory: SiteDirectory) -> Iterator[str]:
    if not directory.settings().worker.confined:
        yield "Nothing keeps the worker from the network: set worker.confined = true in site.toml"


def _certificate(directory: SiteDirectory) -> Iterator[str]:
    if not (directory / "ca.pem").is_file():
        return
    try:
        certificates = x509.load_pem_x509_certificates((directory / "ca.pem").read_bytes())
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


def _node_key(directory: SiteDirectory) -> Iterator[str]:
    if not ((directory / "node.key").is_file() and (directory / "node.pub").is_file()):
        return
    private = read_node_key(directory).public_key()
    try:
        public = load_ssh_public_key((directory / "node.pub").read_bytes())
    except ValueError:
        yield "node.pub is not a public key in OpenSSH form: ssh-keygen -y -f node.key > node.pub"
        return
    form = (Encoding.OpenSSH, PublicFormat.OpenSSH)
    if public.public_bytes(*form) != private.public_bytes(*form):
        yield "node.pub is not of node.key, so the coordinator knows another: ssh-keygen -y -f node.key > node.pub"


def _coordinator(directory: SiteDirectory) -> Iterator[str]:
    if (directory / "coordinator.pub").is_file():
        read_public_key(directory / "coordinator.pub")
    yield from ()


def _ledger(directory: SiteDirectory) -> Iterator[str]:
    state = _state(directory)
    if state is not None and not state.data_sets:
        yield "The ledger has no data set: discreet ledger register adds one"


def _state(directory: SiteDirectory) -> LedgerState | None:
    """What the ledger says; None where there is none to be read, which `_missing` tells of. Raises DiscreetError."""
    if not ((directory / "ledger.sqlite").is_file() and (directory / "site.key").is_file()):
        return None
    ledger = Ledger(directory / "ledger.sqlite", read_key(directory / "site.key"))
    try:
        return ledger.state
    finally:
        ledger.close()


def _roster(directory: SiteDirectory) -> Iterator[str]:
    roster = pinned_roster(directory)
    if roster is None:
        yield "There is no roster.json: discreet federation pin makes it"
    elif (directory / "site.key").is_file():
        roster.number_of(read_key(directory / "site.key").public)


def _policy(directory: SiteDirectory) -> Iterator[str]:
    if (directory / "policy.toml").exists():
        PolicyFile(directory / "policy.toml")()
    else:
        yield "There is no policy.toml, so whatever is approved is allowed: discreet policy init makes it"


def _studies(directory: SiteDirectory) -> Iterator[str]:
    paths = sorted((directory / "studies").glob("*.json"))
    if not paths:
        yield "No study is approved, so nothing is answered: discreet site approve"
    state = _state(directory) if paths else None
    closed = {study for study, account in state.studies.items() if account.closed} if state else ()
    for path in paths:
        approval = read_approval(path)
        if approval.declaration.hash in closed:
            continue
        if approval.data is not None and not os.access(approval.data, os.R_OK):
            name = approval.declaration.study.name
            yield f"The records of {name} cannot be read: is {approval.data} still there? If moved, approve it again"


def _clock(directory: SiteDirectory) -> Iterator[str]:
    """Any answer of the coordinator says what time it is there; whoever starts the site learns if there is none."""
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        address = f"https://{directory.settings().network.coordinator}/"
        response = httpx.get(address, verify=context, timeout=_SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return
    skewed = clock_problem(response)
    if skewed is not None:
        yield skewed


def _port(directory: SiteDirectory) -> Iterator[str]:
    """Is the runtime's port somebody else's? A site that runs already has it itself."""
    if is_held(directory / "executor.lock"):
        return
    port = directory.settings().network.runtime_port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            yield f"Port {port} is in use: give another one as network.runtime_port in site.toml"


def main(arguments: list[str]) -> int:
    """Print all of it, a line each: for whoever would not keep in memory what looking takes. 1 if there is anything."""
    try:
        found = problems(SiteDirectory(Path(arguments[0])))
    except DiscreetError as error:
        found = [error.message]
    for each in found:
        sys.stdout.write(f"{each}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
