"""The site's SuperNode: Flower's own program, unmodified, told whom to dial and to run nothing by itself.

    python -m client.supernode DIR     says that the last one is gone, then runs flower-supernode

A SuperNode that was killed is online for the coordinator for another minute, and its successor is refused. The key that
both have may say that it is gone: so one that has just died is back in seconds (`come_back`).

With process isolation it starts no program: it unpacks what the coordinator ships, which its memory bounds, and waits
for the executor to answer. Its key says who may connect; it has no other name, and its configuration tells none.
"""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from flwr.proto import fleet_pb2
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.directory import SiteDirectory
from client.processes import supernode_command, supernode_process
from client.worker.confinement import forbid_dumps
from privacy.errors import DiscreetError, UserError
from privacy.signing import fingerprint
from study.files import read_whole, write_new, write_whole
from study.notes import note, note_error

__all__ = [
    "come_back",
    "create_node_key",
    "entry_problem",
    "node_fingerprint",
    "read_node_key",
    "restore_public_key",
    "supernode_command",
    "supernode_process",
]

_HEARTBEAT_SECONDS = 30.0  # of a node that is online for the moment in which it learns its number
_CALL_SECONDS = 10.0
_SLOWEST, _FASTEST = 300.0, 5.0  # how far Flower lets a clock be behind and ahead


def create_node_key(directory: SiteDirectory) -> None:
    """A new key of a SuperNode, `node.key` and `node.pub`. Raises UserError if there is one."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    if (directory / "node.key").exists():
        raise UserError(f"{directory / 'node.key'} exists, and is not written over")
    # The private half last: with it there are both, whenever this is cut short.
    _write_public(directory, key.public_key())
    write_new(directory / "node.key", private, 0o600)


def restore_public_key(directory: SiteDirectory) -> None:
    """Write `node.pub` anew, from `node.key`. Raises UserError."""
    _write_public(directory, read_node_key(directory).public_key())


def _write_public(directory: SiteDirectory, key: ec.EllipticCurvePublicKey) -> None:
    public = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_whole(directory / "node.pub", public + b"\n", mode=0o644, follow=False)


def read_node_key(directory: SiteDirectory) -> ec.EllipticCurvePrivateKey:
    """The private key of the SuperNode. Raises UserError."""
    try:
        key = load_ssh_private_key(read_whole(directory / "node.key"), None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError("node.key is not a private key in OpenSSH form") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError("node.key holds a key of another kind, not an elliptic curve's")
    return key


def node_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """What people compare: of the key in PEM form; the coordinator's gateway logs the beginning of it."""
    return fingerprint(public_key_to_bytes(key))


def come_back(directory: SiteDirectory) -> str | None:
    """Tell the coordinator that this site's last SuperNode is gone. None, or what is wrong and how to mend it.

    Nothing is raised: a SuperNode may be started all the same, and goes on trying by itself.
    """
    return _told(directory, lambda client: _come_back(client, directory))


def entry_problem(directory: SiteDirectory) -> str | None:
    """Would the coordinator let this site's SuperNode in? None, or why not. Nothing changes there, running or not."""
    return _told(directory, lambda client: _knock(client, directory))


def _told(directory: SiteDirectory, call: Callable[[FleetHttpClient], None]) -> str | None:
    """Call the coordinator; None, or what is wrong and how to mend it."""
    try:
        with _client(directory) as client:
            call(client)
    except httpx.HTTPStatusError as error:
        return _refused(error.response, directory)
    except (httpx.HTTPError, ssl.SSLError, OSError, ValueError) as error:
        return _unreachable(error, directory)
    except httpx.InvalidURL:
        place = directory.settings().network.coordinator
        return f"network.coordinator in site.toml is no address such as lab.org:9443: {place}"
    except DiscreetError as error:
        return error.explained
    return None


def _client(directory: SiteDirectory) -> FleetHttpClient:
    key = read_node_key(directory)
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    return FleetHttpClient(
        f"https://{directory.settings().network.coordinator}",
        interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        verify=context,
        timeout=_CALL_SECONDS,
    )


def _come_back(client: FleetHttpClient, directory: SiteDirectory) -> None:
    """By the number that it had; if that is none of its own any more, it asks for its number."""
    known = _known_number(directory)
    if known is not None:
        try:
            client.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=known))
        except httpx.HTTPStatusError:
            pass  # it was offline already, or has another number now
        else:
            return
    request = fleet_pb2.ActivateNodeRequest(
        public_key=public_key_to_bytes(read_node_key(directory).public_key()),
        heartbeat_interval=_HEARTBEAT_SECONDS,
    )
    number = client.ActivateNode(request).node_id
    write_whole(directory / "node.id", f"{number}\n".encode(), follow=False)
    client.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=number))


def _knock(client: FleetHttpClient, directory: SiteDirectory) -> None:
    """A call that the gateway refuses: with 400, for what it asks, once it knows who is asking."""
    key = public_key_to_bytes(read_node_key(directory).public_key())
    try:
        client.ActivateNode(fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=0.0))
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.BAD_REQUEST:
            raise


def _known_number(directory: SiteDirectory) -> int | None:
    try:
        return int((directory / "node.id").read_bytes())
    except (OSError, ValueError):
        return None


def _refused(response: httpx.Response, directory: SiteDirectory) -> str:
    """Why a coordinator that was reached does not let this SuperNode in."""
    if response.is_server_error:
        return f"The coordinator is not ready (status {response.status_code})"
    if response.status_code not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return (
            f"The coordinator does not let this SuperNode in yet (status {response.status_code}): another one with its "
            "key is online, or was until a moment ago. It is let in within two minutes; if not, stop the other one"
        )
    skewed = _clock_problem(response)
    if skewed is not None:
        return skewed
    mark = node_fingerprint(read_node_key(directory).public_key())
    return (
        "The coordinator does not know this SuperNode's key. Ask the coordinator to add node.pub, whose fingerprint is "
        f"{mark}"
    )


def _clock_problem(response: httpx.Response) -> str | None:
    """Is this machine's clock so far from the coordinator's that no signature of its SuperNode is accepted?"""
    try:
        theirs = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except (TypeError, ValueError):
        return None
    ahead = time.time() - theirs
    if -_SLOWEST < ahead < _FASTEST:
        return None
    way = f"{ahead:,.0f} s ahead of" if ahead > 0 else f"{-ahead:,.0f} s behind"
    return (
        f"This machine's clock is {way} the coordinator's, which refuses signatures that are more than 5 s ahead or "
        "305 s old. Set the clock, with NTP say; if it is right, the coordinator's is wrong"
    )


def _unreachable(error: Exception, directory: SiteDirectory) -> str:
    place, said = directory.settings().network.coordinator, str(error)
    if isinstance(error, FileNotFoundError):
        return f"A file is missing: {error.filename or 'ca.pem'}"
    if "has expired" in said or "not yet valid" in said:
        return (
            f"The certificate of {place} is not valid at this time. Look at this machine's clock; if it is right, the "
            "coordinator needs a new certificate"
        )
    if "CERTIFICATE_VERIFY_FAILED" in said or "X509" in said or isinstance(error, ssl.SSLError):
        return (
            f"The certificate of {place} is not one that ca.pem vouches for ({said}). Did you get ca.pem from this "
            "very coordinator? If so, something stands between you and it"
        )
    return (
        f"The coordinator cannot be reached at {place} ({type(error).__name__}): is it running, and does a firewall "
        "let you out?"
    )


def main(arguments: list[str]) -> int:
    """Come back, then be the SuperNode."""
    try:
        forbid_dumps()  # a worker of the same user could write into this process otherwise
        directory = SiteDirectory(Path(arguments[0]))
        problem = come_back(directory)
        if problem is not None:
            note(problem)
        command = supernode_command(directory)
    except DiscreetError as error:
        note_error("The SuperNode cannot be started", error)
        return 1
    sys.argv = list(command)
    flower_supernode()
    # It returns when its connection has failed for good, and its other threads would keep the process: a SuperNode that
    # is there and answers nothing. Whoever has started it starts the next one.
    sys.stdout.flush()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
