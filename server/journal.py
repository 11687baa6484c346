"""What is under way in a query, on the disk: so that a coordinator that dies can go on where it was.

    state     of secure aggregation, when the query began
    trip      who is sent what: hashes, and the nonces that make the bytes these very bytes
    pushed    whereto and when: what makes Flower's messages these very messages
    heard     replies, as they were pulled

A coordinator that goes on computes everything again: it is deterministic in what came before. Trips that are over give
the replies that they gave; of the one that is open the same messages are pushed again, and what has come is pulled. No
site is ever asked twice with different content: bytes of another hash than before are refused here.

Without a directory nothing is kept: a simulation that was killed asks a spare query instead.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from privacy.errors import ProtocolError
from study.files import write_whole
from study.queries import Refusal

__all__ = ["Heard", "Journal", "Pushed", "TripJournal"]


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A message for Flower: of which run, to which site and node, and when it was made."""

    run: int
    site: str
    node: int
    created: float


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What one site did: it has sent `content`, or there is a `problem`, in words, maybe with the code of a refusal."""

    content: bytes = b""
    problem: str | None = None
    refusal: Refusal | None = None


@dataclass
class TripJournal:
    """One trip, as far as it has come.

    Attributes:
        nonces: of each site's instruction.
        pushed: what was given to Flower, oldest first.
        heard: what came back, by site.
    """

    nonces: Mapping[str, bytes]
    pushed: list[Pushed] = field(default_factory=list)
    heard: dict[str, Heard] = field(default_factory=dict)
    place: Path | None = None
    parts: int = 0

    def push(self, messages: Sequence[Pushed]) -> None:
        """To be called before these messages are given to Flower."""
        self.pushed.extend(messages)
        self._keep("pushed", _packed([asdict(each) for each in messages]))

    def hear(self, replies: Mapping[str, Heard]) -> None:
        """To be called as soon as these were pulled: Flower has them no more."""
        self.heard.update(replies)
        said = [
            {**asdict(each), "content": len(each.content), "site": site}
            for site, each in replies.items()
        ]
        self._keep("heard", _packed(said, *(each.content for each in replies.values())))

    def _keep(self, kind: str, content: bytes) -> None:
        if self.place is not None:
            write_whole(self.place / f"{self.parts:06d}.{kind}", content)
            self.parts += 1


class Journal:
    """The query that is under way.

    Arguments:
        directory: where it is kept; None: nowhere.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._trips = 0

    def is_under_way(self, index: int) -> bool:
        """Has this very query begun, and not ended?"""
        return self._begun(index) is not None

    def _begun(self, index: int) -> dict[str, Any] | None:
        """The state with which this very query was begun; None if it is not under way."""
        if self._directory is None or not (kept := self._directory / "state").exists():
            return None
        (found,), _ = _unpacked(kept.read_bytes())
        return dict(found["state"]) if found["index"] == index else None

    def begin(self, index: int, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """Begin a query. If this very query was under way: the state with which it was begun.

        Arguments:
            index: its number. state: plain values, for JSON.
        """
        self._trips = 0
        if self._directory is None:
            return None
        begun = self._begun(index)
        if begun is not None:
            return begun
        self.end()  # of another query; or what a death in the midst of that has left
        self._directory.mkdir(parents=True)
        write_whole(self._directory / "state", _packed([{"index": index, "state": state}]))
        return None

    def trip(self, contents: Mapping[str, bytes], nonces: Mapping[str, bytes]) -> TripJournal:
        """The next trip of the query, with all that is known of it.

        Arguments:
            contents: what each site is to be told. nonces: to be used if the trip has not begun before.
        Raises:
            ProtocolError: it has, and told somebody something else.
        """
        number, self._trips = self._trips, self._trips + 1
        if self._directory is None:
            return TripJournal(nonces)
        place = self._directory / f"{number:04d}"
        hashes = {site: hashlib.sha256(each).hexdigest() for site, each in contents.items()}
        if not (place / "trip").exists():
            place.mkdir(exist_ok=True)
            asked = {
                "hashes": hashes,
                "nonces": {site: each.hex() for site, each in nonces.items()},
            }
            write_whole(place / "trip", _packed([asked]))
            return TripJournal(nonces, place=place)
        (asked,), _ = _unpacked((place / "trip").read_bytes())
        if asked["hashes"] != hashes:
            raise ProtocolError(
                f"Expected to ask in trip {number} what was asked before the interruption, found something else",
                hint="was the program changed? without the journal a spare query is asked; this one stays charged",
            )
        found = {site: bytes.fromhex(each) for site, each in asked["nonces"].items()}
        return _read(TripJournal(found, place=place), place)

    def end(self) -> None:
        """The query is over, and its sum in the checkpoint."""
        if self._directory is not None and self._directory.exists():
            over = self._directory.with_name(self._directory.name + ".over")
            shutil.rmtree(over, ignore_errors=True)
            self._directory.rename(
                over
            )  # at once: half a journal would be taken for that of the next query
            shutil.rmtree(over, ignore_errors=True)


def _read(trip: TripJournal, place: Path) -> TripJournal:
    for path in sorted(place.glob("*.pushed")) + sorted(place.glob("*.heard")):
        values, blobs = _unpacked(path.read_bytes())
        if path.suffix == ".pushed":
            trip.pushed.extend(Pushed(**each) for each in values)
        else:
            for each, content in zip(values, blobs, strict=True):
                code = each["refusal"]
                trip.heard[each["site"]] = Heard(
                    content=content, problem=each["problem"],
                    refusal=None if code is None else Refusal(code),
                )  # fmt: skip
        trip.parts = max(trip.parts, int(path.stem) + 1)
    return trip


def _packed(values: Sequence[Mapping[str, Any]], *blobs: bytes) -> bytes:
    """A line of JSON, and what it counts behind it. Only this program's own files have this form."""
    return json.dumps(list(values)).encode() + b"\n" + b"".join(blobs)


def _unpacked(data: bytes) -> tuple[list[dict[str, Any]], list[bytes]]:
    line, _, rest = data.partition(b"\n")
    values, blobs = json.loads(line), []
    for each in values:
        length = each.get("content", 0)
        blobs.append(rest[:length])
        rest = rest[length:]
    return values, blobs
