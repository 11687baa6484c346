"""The directory of a site: beside its ledger, what it needs to take part over a network.

ledger.sqlite  site.key  site.pub      the site's ledger and identity (`discreet ledger register`)
roster.json                            the roster that it has pinned (`discreet federation pin`)
policy.toml                            its standing rules (`discreet policy init`)
site.toml                              settings
coordinator.pub                        whose instructions it obeys, within its policy
ca.pem                                 which coordinator it talks to
node.key  node.pub                     the key of its SuperNode: says who may connect, and nothing else
node.id                                Flower's number of that SuperNode
superexec.secret                       who may take tasks from the SuperNode
flower/                                what Flower's parts write
studies/HASH.json                      what was approved: declaration, data set, the file of its records
logs/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from privacy.errors import UserError
from study.settings import check, setting
from study.settings_file import (
    Document,
    parse_settings,
    read_text,
    sections_of,
    sections_text,
)

__all__ = ["Limits", "Network", "Settings", "SiteDirectory", "Worker", "settings_text"]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Network:
    """Whom the site dials, and where its own parts meet."""

    coordinator: str = setting('Where the coordinator is, such as "federation.example.org:9443".')
    runtime_port: int = setting(
        "Port of the SuperNode's runtime, on the loopback alone.",
        default=9094,
        at_least=1,
        at_most=65535,
    )

    def __post_init__(self) -> None:
        check(self, "network")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of the worker, the one process that sees records."""

    memory: int = setting("Bytes of address space.", default=16_000_000_000, at_least=1_000_000_000)
    seconds: float = setting(
        "For one message; then it is killed, and the coordinator is told that there is no answer.",
        default=600.0,
        above=0,
    )
    supernode_memory: int = setting(
        "Bytes of address space of the SuperNode, which unpacks what the coordinator ships (and runs none of it).",
        default=8_000_000_000,
        at_least=1_000_000_000,
    )
    poll_seconds: float = setting(
        "How often the SuperNode is asked whether a message has come.",
        default=0.2,
        above=0,
        at_most=60,
    )

    def __post_init__(self) -> None:
        check(self, "limits")


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What the worker, which reads messages and records, is kept from."""

    confined: bool = setting(
        "Keep it from the network and from other programs; a machine that cannot do that refuses to start. False: its\n"
        "user's rights are all that bounds it, as where a container or a virtual machine bounds them instead.",
        default=True,
    )
    user: str | None = setting(
        "User of the system that it becomes, if the site is started as root: the owner of ledger and records. Absent:\n"
        "the user that starts the site.",
        default=None,
    )

    def __post_init__(self) -> None:
        check(self, "worker")


SECTIONS: Mapping[str, type] = {"network": Network, "limits": Limits, "worker": Worker}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What stands in `site.toml`."""

    network: Network
    limits: Limits = field(default_factory=Limits)
    worker: Worker = field(default_factory=Worker)


def settings_text(settings: Settings) -> str:
    """The file, with every setting explained."""
    return sections_text(FORMAT, SECTIONS, settings)


def _built(document: Document) -> Settings:
    return Settings(**sections_of(document, FORMAT, SECTIONS))


@dataclass(frozen=True)
class SiteDirectory:
    """Names of the files in a site's directory. Raises UserError where nothing was set up to connect."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.joinpath("site.toml").is_file():
            raise UserError(
                f"{self.path} was not set up to connect", hint="do that with: discreet site init"
            )

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def settings(self) -> Settings:
        """What `site.toml` says at this moment. Raises UserError."""
        path = self / "site.toml"
        text = read_text(path, kind="site", error=UserError)
        return parse_settings(text, _built, name=str(path), error=UserError)
