"""The directory of a coordinator: its keys, certificates and settings, who may come, and the studies that it runs.

coordinator.toml                       settings
coordinator.key  coordinator.pub       signs every instruction; sites pin the public half
ca.pem  ca.key                         the coordinator's own authority; sites pin the certificate
gateway.pem  gateway.key               for sites
superlink.pem  superlink.key           for the loopback alone
superexec.secret                       who may take tasks from SuperLink
sites.json                             public keys of the sites' SuperNodes, by name
flower/                                what Flower's parts write: SuperLink's database
tasks/                                 tokens of the runs that are under way
studies/HASH/                          one study (`server/study_directory.py`)
logs/
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from privacy.errors import UserError
from server.study_directory import StudyDirectory
from study.files import write_whole
from study.settings import ImpossibleSettingError, check, setting
from study.settings_file import (
    Document,
    parse_settings,
    read_text,
    sections_of,
    sections_text,
)

__all__ = ["CoordinatorDirectory", "Limits", "Network", "Settings", "Waits", "settings_text"]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Network:
    """Where the parts listen."""

    host: str = setting(
        "Name or address by which sites reach this coordinator; it stands in the certificate."
    )
    port: int = setting("Port for sites.", default=9443, at_least=1, at_most=65535)
    listen: str = setting("Address on which that port is opened.", default="0.0.0.0")  # noqa: S104  sites dial in
    superlink_port: int = setting(
        "Port of SuperLink, on the loopback alone.", default=9444, at_least=1, at_most=65535
    )

    def __post_init__(self) -> None:
        check(self, "network")
        if self.port == self.superlink_port:
            raise ImpossibleSettingError(
                "network.superlink_port", expected="another port than network.port", actual=self.superlink_port
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one site may do to the others."""

    hold_seconds: float = setting(
        "How long a site's question for work is held open while there is none. Below 30, where SuperNodes give up.",
        default=20.0,
        above=0,
        at_most=25,
    )
    poll_seconds: float = setting(
        "How often SuperLink is asked meanwhile; more sites want longer, as SuperLink is one process.",
        default=0.2,
        above=0,
        at_most=10,
    )
    heartbeat_seconds: float = setting(
        "Longest interval of heartbeats that is accepted: twice that later a dead site is known to be dead.",
        default=60.0,
        at_least=30,
        at_most=1800,
    )
    ttl_seconds: float = setting(
        "Longest life of a reply in SuperLink's database.", default=7200.0, above=0, at_most=86400
    )
    round_bytes: int = setting(
        "Bytes that a site may send for one instruction.", default=1_000_000_000, at_least=1_000_000
    )
    object_bytes: int = setting(
        "Largest object that a site may send; a vector is one. The gateway holds twice as much in memory at most.",
        default=256_000_000,
        at_least=1_000_000,
        at_most=900_000_000,
    )
    connections: int = setting(
        "Connections that are open at a time, of sites and strangers together.",
        default=512,
        at_least=16,
        at_most=10_000,
    )

    def __post_init__(self) -> None:
        check(self, "limits")


@dataclass(frozen=True, kw_only=True)
class Waits:
    """For how long the coordinator waits."""

    trip_seconds: float = setting(
        "For answers to one instruction; who has not answered by then is missing from the sum.",
        default=600.0,
        above=0,
        at_most=7200,
    )
    again_seconds: float = setting(
        "Until a silent site is asked again, with the same bytes: the message may have died with a process.",
        default=20.0,
        above=0,
    )
    unreachable_seconds: float = setting(
        "For a site that is not connected, before it is missing.", default=60.0, at_least=0
    )
    ready_seconds: float = setting(
        "Until sites are asked again whether they take part, while too few do; each time twice as long, up to 300.",
        default=5.0,
        above=0,
        at_most=300,
    )

    def __post_init__(self) -> None:
        check(self, "waits")


SECTIONS: Mapping[str, type] = {"network": Network, "limits": Limits, "waits": Waits}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What stands in `coordinator.toml`."""

    network: Network
    limits: Limits = field(default_factory=Limits)
    waits: Waits = field(default_factory=Waits)

    def __post_init__(self) -> None:
        if self.waits.trip_seconds > self.limits.ttl_seconds:
            raise ImpossibleSettingError(
                "waits.trip_seconds", expected="at most limits.ttl_seconds, or replies are refused",
                actual=self.waits.trip_seconds,
            )  # fmt: skip


def settings_text(settings: Settings) -> str:
    """The file, with every setting explained."""
    return sections_text(FORMAT, SECTIONS, settings)


def _built(document: Document) -> Settings:
    return Settings(**sections_of(document, FORMAT, SECTIONS))


@dataclass(frozen=True)
class CoordinatorDirectory:
    """Names of the files in a coordinator's directory. Raises UserError where there is none."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.joinpath("coordinator.toml").is_file():
            raise UserError(
                f"{self.path} is not a coordinator's directory",
                hint="make one with: discreet coordinator init",
            )

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def study(self, study: str) -> StudyDirectory:
        """What is kept of the study of this hash."""
        return StudyDirectory(self.path / "studies" / study)

    def studies(self) -> list[StudyDirectory]:
        """All that were ever submitted."""
        found = [StudyDirectory(each) for each in sorted((self / "studies").iterdir())]
        return [each for each in found if each.is_submitted]

    def sites(self) -> dict[str, bytes]:
        """Public keys of the sites' SuperNodes, PEM, by name of the site. Raises UserError."""
        path = self / "sites.json"
        try:
            kept = json.loads(path.read_bytes()) if path.exists() else {}
            return {name: b64decode(key) for name, key in kept.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is no list of sites",
                hint="remove it, and add them anew: discreet coordinator add",
            ) from error

    def write_sites(self, sites: Mapping[str, bytes]) -> None:
        """Keep these keys in the place of those that there were."""
        kept = {name: b64encode(key).decode() for name, key in sites.items()}
        write_whole(self / "sites.json", json.dumps(kept, indent=1, sort_keys=True).encode())

    def settings(self) -> Settings:
        """What `coordinator.toml` says at this moment. Raises UserError."""
        path = self / "coordinator.toml"
        text = read_text(path, kind="coordinator", error=UserError)
        return parse_settings(text, _built, name=str(path), error=UserError)
