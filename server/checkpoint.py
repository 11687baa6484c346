"""A run's checkpoint: the sums it has received, one file each. Plans are deterministic, so the sums are the state.

To resume, the same plan is fed with the same sums; to replay a release, anybody does the same. Files are written
whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.errors import ProtocolError, UserError
from study.canonical import canonical_json
from study.codec import decode, encode
from study.declaration import Declaration
from study.files import write_whole
from study.receipts import SignedReceipt, chain_from_values
from study.settings import fits

__all__ = ["Checkpoint", "KeptSum"]

_DECLARATION = "declaration.json"


@dataclass(frozen=True, kw_only=True)
class KeptSum:
    """One query of a run, as it went.

    Attributes:
        index: number of the query.
        function, round: what it asked, and for which step of the plan.
        query_hash: SHA-256 of the query's bytes.
        survivors, missing: names of the sites that answered and that did not, in order.
        refusals: why those did not that gave a reason, by name.
        total: sum of the survivors' answers, int64 (float64 with trust `unsafe`), shape (d,); None if abandoned.
        seconds: how long it took.
        lack: why there is no total, in words.
        nonce: of the query, hexadecimal. transcript, cohort, members, signatures, receipts: as in `server/sums.py`, so
            that a release can be verified.
    """

    index: int
    function: str
    round: int
    query_hash: str
    survivors: tuple[str, ...]
    missing: tuple[str, ...]
    total: npt.NDArray[Any] | None
    seconds: float
    refusals: Mapping[str, str] = field(default_factory=dict)
    lack: str = ""
    nonce: str = ""
    transcript: str = ""
    cohort: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    signatures: Mapping[str, str] = field(default_factory=dict)
    receipts: Mapping[str, tuple[SignedReceipt, ...]] = field(default_factory=dict)

    def to_values(self) -> dict[str, Any]:
        """Everything but the sum, for JSON."""
        return {
            "index": self.index, "function": self.function, "round": self.round, "query_hash": self.query_hash,
            "survivors": list(self.survivors), "missing": list(self.missing), "abandoned": self.total is None,
            "seconds": self.seconds, "refusals": dict(self.refusals), "lack": self.lack,
            "nonce": self.nonce, "transcript": self.transcript,
            "cohort": list(self.cohort), "members": list(self.members), "signatures": dict(self.signatures),
            "receipts": {
                name: [each.to_values() for each in chain] for name, chain in self.receipts.items()
            },
        }  # fmt: skip


class Checkpoint:
    """The directory of one run's sums.

    Arguments:
        directory: made if it is not there.
        declaration: of the run; a directory of another run is refused.
        durable: wait until each sum is on the disk; a simulation need not.
    """

    def __init__(self, directory: Path, declaration: Declaration, *, durable: bool = True) -> None:
        self._directory, self._durable = directory, durable
        directory.mkdir(parents=True, exist_ok=True)
        identity = directory / _DECLARATION
        if not identity.exists():
            write_whole(identity, declaration.content, durable=durable)
        elif identity.read_bytes() != declaration.content:
            raise UserError(
                f"{directory} holds another run",
                hint="resume with the same study, sites and seed, or start anew",
            )

    def kept(self) -> Iterator[KeptSum]:
        """The sums of an earlier run, in order."""
        for index in range(2**31):
            path = self._path(index)
            if not path.exists():
                return
            head, arrays = decode(path.read_bytes())
            yield _kept_sum(index, head, arrays)

    def keep(self, kept: KeptSum) -> None:
        """Store one sum."""
        total = {} if kept.total is None else {"total": kept.total}
        write_whole(self._path(kept.index), encode(kept.to_values(), total), durable=self._durable)

    def _path(self, index: int) -> Path:
        return self._directory / f"{index:06d}.sum"


_HEAD = {
    "index": int, "function": str, "round": int, "query_hash": str, "survivors": tuple[str, ...],
    "missing": tuple[str, ...], "seconds": float, "lack": str, "nonce": str, "transcript": str,
    "cohort": tuple[str, ...], "members": tuple[str, ...],
}  # fmt: skip


def _kept_sum(index: int, head: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> KeptSum:
    values: dict[str, Any] = {name: head.get(name) for name in _HEAD}
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    texts: dict[str, Any] = {name: head.get(name) for name in ("refusals", "signatures")}
    receipts, total = head.get("receipts"), arrays.get("total")
    if (
        all(fits(values[name], hint) for name, hint in _HEAD.items())
        and all(_is_text_by_name(each) for each in texts.values())
        and isinstance(receipts, dict)
        and set(arrays) <= {"total"}
        and (total is None or (total.ndim == 1 and total.dtype in (np.int64, np.float64)))
    ):
        signed = {name: chain_from_values(each) for name, each in receipts.items()}
        kept = KeptSum(**values, **texts, receipts=signed, total=total)
        if kept.index == index and canonical_json(kept.to_values()) == canonical_json(head):
            return kept
    raise ProtocolError(f"Expected sum {index} of this run, found something else")


def _is_text_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
