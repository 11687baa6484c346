"""Other sites' receipts, which come with every query: nobody's ledger may go back, this site's least of all.

A site whose ledger was restored from a copy has forgotten charges, and would answer again what it answered before. It
cannot know. The others do: they have seen receipts of the later entries, and remember them. A coordinator that leaves
those out is refused by them; one that shows them is refused by the site itself. (One that shows different receipts to
different sites has given them different transcripts, whose masks do not cancel.)
"""

from __future__ import annotations

from collections.abc import Mapping

from client.ledger import Ledger
from privacy.errors import LedgerError, ProtocolError
from study.receipts import SignedReceipt
from study.roster import Roster

__all__ = ["RolledBackError", "checked_receipts"]


class RolledBackError(LedgerError):
    """A ledger has gone back, or is two: this site does not go on before somebody has found out why."""


def checked_receipts(
    receipts: Mapping[int, SignedReceipt], *, study: str, roster: Roster, own: int, ledger: Ledger
) -> dict[int, tuple[int, str]]:
    """Number and head of every other site's latest charge, to be remembered with the next one of this site.

    Arguments:
        receipts: by number on the roster. own: this site's.
    Raises:
        ProtocolError: a receipt is not of that site and study.
        RolledBackError: this ledger lacks an entry that it has receipted, or another's receipts went back or fork.
    """
    identities = roster.identities
    for site, signed in receipts.items():
        if not 1 <= site <= len(identities) or signed.receipt.study != study:
            raise ProtocolError("Expected receipts of this study, of sites of the roster")
        signed.verify(identities[site - 1])
    found = {site: (each.receipt.sequence, each.receipt.head) for site, each in receipts.items()}
    if own in found and ledger.head_at(found[own][0]) != found[own][1]:
        raise RolledBackError(
            f"Expected entry {found[own][0]} of this ledger to be the one that was receipted, found none or another",
            hint="the ledger is an old copy, or there are two of it; never go on from it: charges would be forgotten",
        )
    others = {site: each for site, each in found.items() if site != own}
    for site, (number, head) in ledger.witnessed(study).items():
        later, its_head = others.get(site, (-1, ""))
        if later < number or (later == number and its_head != head):
            raise RolledBackError(
                f"Expected the ledger of {roster.names[site]} to go on from entry {number}, found another",
                hint="that site has gone on from an old copy of its ledger, or the coordinator has lost its receipt",
            )
    return others
