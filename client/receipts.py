"""Other sites' receipts, which come with every query: nobody's ledger may go back, this site's least of all.

A site whose ledger was restored from a copy has forgotten charges. It cannot know; the others do. They have seen
receipts of the later entries, and remember the latest of every site in every study, by its key. They require:

* They are a chain, each naming the one before, so a ledger that went back cannot catch up, whatever is written to it.
* The chain goes on from the receipt that is remembered; one that is left out is missed.
* The first one in a study is of a later entry than all that was known of that site when the study began.

And the site itself is shown its own receipts, and holds its ledger to them. (A coordinator that shows different
receipts to different sites has given them different transcripts, whose masks do not cancel.)

What nobody can tell in time: whether the very latest receipt was withheld, as only its coordinator has seen it; what a
coordinator does with a site alone, where nothing is masked; and a rollback by more than `MOST_RECEIPTS` charges of a
site that was then made to pay for as many others. Whoever holds a receipt can still prove it, for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.ledger import Ledger, Witnessed
from privacy.errors import LedgerError, ProtocolError
from study.ledger_entries import FIRST
from study.receipts import MOST_RECEIPTS, SignedReceipt
from study.roster import Roster

__all__ = ["RolledBackError", "checked_receipts"]

Chain = Sequence[SignedReceipt]


class RolledBackError(LedgerError):
    """A ledger has gone back, or is two, or a receipt was withheld: this site does not go on before it is known why."""


def checked_receipts(
    receipts: Mapping[int, Chain], *, study: str, roster: Roster, own: int, ledger: Ledger
) -> dict[bytes, Witnessed]:
    """What is known now of every other site's ledger, by public key, to be remembered with the next charge.

    Arguments:
        receipts: by number on the roster, oldest first. own: this site's number.
    Raises:
        ProtocolError: a receipt is not of that site and study.
        RolledBackError: this ledger lacks an entry that it has receipted, or another's receipts went back or fork.
    """
    for site, chain in receipts.items():
        if site not in roster.names or any(each.receipt.study != study for each in chain):
            raise ProtocolError("Expected receipts of this study, of sites of the roster")
        for each in chain:
            each.verify(roster.identities[site - 1])
    for each in receipts.get(own, ()):
        _require_own(each, ledger)
    last = ledger.last_index(study)
    found = {}
    for site, public in enumerate(roster.identities, start=1):
        if site != own:
            chain, known = receipts.get(site, ()), ledger.witnessed(public)
            if not _goes_on(chain, known.get(study), last):
                raise _rolled_back(roster.names[site])
            highest = max((each.number for each in known.values()), default=-1)
            found[public] = (
                Witnessed(chain[-1].receipt.sequence, chain[-1])
                if chain
                else known.get(study, Witnessed(highest))  # of when this one began
            )
    return found


def _require_own(signed: SignedReceipt, ledger: Ledger) -> None:
    if ledger.head_at(signed.receipt.sequence) != signed.receipt.head:
        raise RolledBackError(
            f"Expected entry {signed.receipt.sequence} of this ledger to be the one that was receipted, found none or "
            "another",
            hint="the ledger is an old copy, or there are two of it; never go on from it: charges would be forgotten",
        )


def _goes_on(chain: Chain, known: Witnessed | None, last: int) -> bool:
    """Do these receipts, which are a chain, go on from what is known of that site in this study?

    Arguments:
        last: the latest query that this site has charged; it may have been away since.
    """
    if not chain:
        return known is None or known.receipt is None
    if known is None:  # this site has come later
        return True
    if len(chain) == MOST_RECEIPTS and all(each.receipt.index > last for each in chain):
        return True  # this site was away for longer than a query tells
    first = chain[0].receipt
    if known.receipt is None:
        return first.previous == FIRST and first.sequence > known.number
    head = known.receipt.receipt.head
    return first.previous == head or any(each.receipt.head == head for each in chain)


def _rolled_back(name: str) -> RolledBackError:
    return RolledBackError(
        f"Expected the ledger of {name} to go on from where this site has seen it, found receipts that do not",
        hint="that site has gone on from an old copy of its ledger, or the coordinator withholds a receipt of it",
    )
