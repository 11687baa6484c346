"""What the operator of a site has approved, as files: `studies/HASH.json`, the study and where its records lie.

    approve   operator's command: everything is checked, the budget reserved, the file written
    Studies   the worker's: takes part in every study that has a file and is not over, also in those that come later

The ledger says what was approved, and at what cost; a file is what brings the records again after a restart. A file
without an entry in the ledger cannot do harm: taking part reserves the budget again, or refuses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.answers import Site
from client.directory import SiteDirectory
from client.ledger import Ledger
from client.policy import PolicyFile
from client.sources import load
from client.tables import Records, records_of
from privacy.errors import LedgerError, ProtocolError
from study.canonical import canonical_json, parse_canonical
from study.declaration import Declaration
from study.files import read_whole, write_whole
from study.keyfiles import read_key
from study.notes import note, note_error
from study.roster import Roster, SignedRoster

__all__ = [
    "Approval",
    "Studies",
    "approve",
    "approved_site",
    "pinned_roster",
    "read_approval",
    "take_part",
]


@dataclass(frozen=True, kw_only=True)
class Approval:
    """One study that this site takes part in.

    Attributes:
        data_set: its registered name in the ledger. data: file of its records; None: the study's built-in source.
    """

    declaration: Declaration
    data_set: str
    data: Path | None

    def records(self) -> Records:
        """The records as the study wants them. Raises DataError, StudyError."""
        study = self.declaration.study
        return records_of(load(study, self.data), study)

    def to_bytes(self) -> bytes:
        """The content of its file."""
        return canonical_json(
            {
                "declaration": self.declaration.to_values(),
                "data_set": self.data_set,
                "data": None if self.data is None else str(self.data),
            }
        )

    @staticmethod
    def from_bytes(content: bytes) -> Approval:
        """The approval of a file. Raises ProtocolError."""
        values = parse_canonical(content)
        if not isinstance(values, dict) or set(values) != {"declaration", "data_set", "data"}:
            raise ProtocolError("Expected an approval with declaration, data_set and data")
        data_set, data = values["data_set"], values["data"]
        if not isinstance(data_set, str) or not (data is None or isinstance(data, str)):
            raise ProtocolError("Expected the name of a data set, and a file")
        return Approval(
            declaration=Declaration.from_bytes(canonical_json(values["declaration"])),
            data_set=data_set,
            data=None if data is None else Path(data),
        )


_RETRY_SECONDS = 60.0


def approve(
    directory: SiteDirectory, declaration: Declaration, *, data: Path | None, data_set: str
) -> Approval:
    """Take part in a study, for good: its cost is reserved in the ledger, and a running site answers it from now on.

    Doing it again costs nothing; that is also how a file of records that was moved is made known.

    Arguments:
        data: file of the records; None: the study's built-in source.
    Raises:
        DiscreetError: as `client.answers.Site.approve`; or the records cannot be used. Nothing was reserved.
        OSError: the file cannot be written; the cost is reserved, and doing it again goes on from there.
    """
    approval = Approval(
        declaration=declaration,
        data_set=data_set,
        data=None if data is None else data.resolve(),
    )
    path, content = _file_of(directory, approval), approval.to_bytes()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    ledger = Ledger(directory / "ledger.sqlite", read_key(directory / "site.key"))
    try:
        take_part(approved_site(directory, ledger, beside=True), directory, approval)
    finally:
        ledger.close()
    write_whole(path, content, follow=False)
    return approval


def approved_site(directory: SiteDirectory, ledger: Ledger, *, beside: bool = False) -> Site:
    """The site of a directory, with its policy, if it has one; it takes part in nothing yet.

    Arguments:
        beside: of the worker, which may be answering right now.
    """
    policy = directory / "policy.toml"
    return Site(ledger, policy=PolicyFile(policy) if policy.exists() else None, beside=beside)


def pinned_roster(directory: SiteDirectory) -> Roster | None:
    """The roster that this site has pinned; None if it has none yet. Raises ProtocolError, UserError."""
    path = directory / "roster.json"
    return SignedRoster.from_bytes(read_whole(path)).roster if path.exists() else None


def read_approval(path: Path) -> Approval:
    """The approval of a file. Raises ProtocolError, UserError."""
    approval = Approval.from_bytes(read_whole(path))
    if path.stem != approval.declaration.hash:
        raise ProtocolError(f"{path}: expected the study that the name says, found another")
    return approval


def _file_of(directory: SiteDirectory, approval: Approval) -> Path:
    return directory / "studies" / f"{approval.declaration.hash}.json"


def take_part(site: Site, directory: SiteDirectory, approval: Approval) -> None:
    """Bring a study and its records to a site. Raises DiscreetError, as `client.answers.Site.approve`."""
    roster = pinned_roster(directory) if approval.declaration.roster is not None else None
    site.approve(
        approval.declaration, approval.records(), data_set=approval.data_set, roster=roster
    )


class Studies:
    """The studies of a directory, each brought to a site once; one that failed again when a file of it has changed.

    One that cannot be answered, since its records are gone, say, or its policy has changed, is told of in the log and
    left out; the others go on.
    """

    def __init__(self, site: Site, directory: SiteDirectory, ledger: Ledger) -> None:
        self._site, self._directory, self._ledger = site, directory, ledger
        self._settled: set[Path] = set()
        self._failed: dict[Path, _Failure] = {}

    def refresh(self) -> None:
        """Take part in what is new. Where nothing has changed, files are looked at and none is read."""
        for path in sorted((self._directory / "studies").glob("*.json")):
            failure = self._failed.get(path)
            if path not in self._settled and (failure is None or failure.is_out_of_date()):
                self._bring(path)

    def _bring(self, path: Path) -> None:
        files = [path, self._directory / "policy.toml", self._directory / "roster.json"]
        stamps = {each: _stamp(each) for each in files}  # before anything is read
        try:
            approval = read_approval(path)
            if approval.data is not None:
                stamps[approval.data] = _stamp(approval.data)
            account = self._ledger.state.studies.get(approval.declaration.hash)
            if account is None or not account.closed:
                take_part(self._site, self._directory, approval)
                note(f"Taking part in {approval.declaration.study.name} ({path.stem[:8]})")
        except Exception as error:  # noqa: BLE001  whatever is wrong with one study, the others go on
            self._fail(path, error, stamps)
        else:
            self._settled.add(path)
            self._failed.pop(path, None)

    def _fail(self, path: Path, error: Exception, stamps: dict[Path, Stamp]) -> None:
        """Say it once; a ledger that was locked, or a disk that was full, are tried again soon."""
        before, said = self._failed.get(path), f"{type(error).__name__}: {error}"
        if before is None or before.said != said:
            note_error(f"Study {path.stem[:8]} is not answered", error)
        retry = time.monotonic() + (_RETRY_SECONDS if isinstance(error, LedgerError) else math.inf)
        self._failed[path] = _Failure(stamps=stamps, said=said, retry=retry)


Stamp = tuple[int, int, int] | None


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """Why a study is not answered: what its files were like, what was said of it, when to try again anyway."""

    stamps: Mapping[Path, Stamp]
    said: str
    retry: float

    def is_out_of_date(self) -> bool:
        return time.monotonic() >= self.retry or any(
            _stamp(path) != stamp for path, stamp in self.stamps.items()
        )


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
