"""Preparing a site to connect: what it pins of its coordinator, and what is its own.

Done once more, it puts back what was lost and changes nothing that is there; another coordinator is never pinned by
the way.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from client.directory import Network, Settings, SiteDirectory, settings_text
from client.supernode import create_node_key, restore_public_key
from privacy.errors import UserError
from study.files import read_whole, write_whole
from study.invitation import Invitation
from study.keyfiles import public_pem

__all__ = ["prepare"]

_DIRECTORIES = ("flower", "studies", "logs")
_AGAIN = "if that is right, move {} away and give this command once more"


def prepare(place: Path, invitation: Invitation, *, port: int) -> list[str]:
    """Write what is not there yet; the names of that.

    Arguments:
        invitation: of the coordinator, whose fingerprint has been compared. port: of the site's runtime.
    Raises:
        UserError: another coordinator is pinned here.
    """
    pinned = {
        "ca.pem": invitation.certificate.encode(),
        "coordinator.pub": public_pem(bytes.fromhex(invitation.key)),
    }
    settings = Settings(network=Network(coordinator=invitation.address, runtime_port=port))
    others = {
        "superexec.secret": secrets.token_hex(32).encode(),
        "site.toml": settings_text(settings).encode(),
    }
    names = (*_DIRECTORIES, *pinned, *others, "node.key", "node.pub")
    missing = [name for name in names if not (place / name).exists()]
    _require_same(place, pinned, invitation)
    if {"site.toml", "node.key"} <= set(missing):  # never prepared before
        place.chmod(place.stat().st_mode & ~0o077)  # names and ceilings are nobody else's business
    for name in _DIRECTORIES:
        (place / name).mkdir(mode=0o700, exist_ok=True)
    for name, content in (pinned | others).items():
        if name in missing:
            mode = 0o600 if name == "superexec.secret" else None
            write_whole(place / name, content, mode=mode, follow=False)
    if "node.key" in missing:
        create_node_key(SiteDirectory(place))  # last: with it the site is prepared
    elif "node.pub" in missing:
        restore_public_key(SiteDirectory(place))
    return missing


def _require_same(place: Path, pinned: dict[str, bytes], invitation: Invitation) -> None:
    there = [name for name in pinned if (place / name).exists()]
    for name in there:
        if read_whole(place / name) != pinned[name]:
            raise UserError(
                f"{place / name} is of another coordinator than this invitation", hint=_AGAIN.format(name)
            )  # fmt: skip
    if not there and (place / "site.toml").exists():
        address = SiteDirectory(place).settings().network.coordinator
        if address != invitation.address:
            raise UserError(
                f"site.toml names {address}, the invitation {invitation.address}",
                hint=_AGAIN.format("site.toml"),
            )
