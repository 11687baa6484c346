"""Verify a site's exported ledger, and hold it to receipts that others have kept.

Checked, entry by entry: that it follows the one before (number and hash), that the site's key signed it, that it may
follow (`study/ledger_state.py`: paid before answered, nothing twice, terms as approved, every budget kept), and that
the noise multiplier which is charged is what the deviation, the scale and the sensitivity of its terms yield. Costs
are computed anew; nothing that the ledger says of them is believed.

What the terms say of the study (sampling rate, dimension, slack, number of sites) is that of the declaration whose
hash the entry names: whoever has the declaration, from a release, can hold them against it. That the site asked
nothing outside its ledger no ledger can show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from privacy.errors import LedgerError, ProtocolError
from study.ledger_entries import SignedEntry
from study.ledger_state import LedgerState, replay
from study.receipts import SignedReceipt, check_receipts

__all__ = ["Verdict", "verify_export"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A ledger without a contradiction: what it adds up to, and how many receipts it was held to."""

    state: LedgerState
    receipts: int


def verify_export(lines: Iterable[bytes], public: bytes, receipts: Iterable[bytes] = ()) -> Verdict:
    """Replay an export, line by line, and check receipts against it.

    Arguments:
        lines: of the export, without their ends.
        public: the site's public key, 32 bytes, from where the auditor trusts it to be right.
        receipts: lines of receipts of this site.
    Raises:
        LedgerError: the first contradiction.
    """
    entries = list(_entries(lines))
    state = replay(entries, public)
    try:
        count = check_receipts(entries, state, _receipts(receipts), public)
    except ProtocolError as error:
        raise LedgerError(f"Receipts: {error.message}", hint=error.hint) from error
    return Verdict(state=state, receipts=count)


def _entries(lines: Iterable[bytes]) -> Iterator[SignedEntry]:
    for number, line in enumerate(lines):
        try:
            yield SignedEntry.from_line(line)
        except ProtocolError as error:
            raise LedgerError(f"Entry {number}: {error.message}") from error


def _receipts(lines: Iterable[bytes]) -> Iterator[SignedReceipt]:
    for number, line in enumerate(lines, start=1):
        try:
            yield SignedReceipt.from_line(line)
        except ProtocolError as error:
            raise LedgerError(f"Receipt {number}: {error.message}") from error
