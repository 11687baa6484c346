"""Receipts: what a site signs with every answer, so that others can tell when its ledger was put back or forked.

A receipt names the entry that charged the query. Whoever keeps receipts holds a ledger to them: one that ends before a
receipted entry was rolled back; one that has another entry in its place, and two receipts of one number with different
heads, are a fork. Neither can be explained away, as the site signed both.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from privacy.errors import LedgerError, ProtocolError
from privacy.signing import SigningKey, verify
from study.canonical import canonical_json, parse_canonical
from study.ledger_entries import SignedEntry, hash_of
from study.ledger_state import LedgerState, StudyAccount

__all__ = [
    "MOST_RECEIPTS", "Receipt", "ReceiptedAnswer", "SignedReceipt", "chain_from_values", "check_receipts", "receipt_of",
    "receipts_after", "receipts_of",
]  # fmt: skip

RECEIPT_VERSION = 1
MOST_RECEIPTS = 32
"""Of one site in a message: a member that has missed more rounds than that cannot tell where the chain begins."""

_LONGEST_CHAIN = 64_000  # bytes: twice as many as so many receipts take


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """That a query was charged before its answer was made.

    Attributes:
        study, index: which query; transcript: SHA-256 of what the site was asked: of a query's bytes, or, where the sum
            is masked, of those and all that secure aggregation rests on (`secure_aggregation/site.py`).
        sequence, head: number and hash of the ledger's entry that charged it.
        previous: `head` of the receipt before, of this site and study; zeros for the first. So receipts are a chain:
            who knows one can tell whether a later one goes on from it.
        answer: SHA-256 of the answer's bytes.
    """

    study: str
    index: int
    transcript: str
    sequence: int
    head: str
    previous: str
    answer: str

    def __post_init__(self) -> None:
        for name in ("study", "transcript", "head", "previous", "answer"):
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
                raise ProtocolError(f"Expected {name} of 64 hexadecimal digits")
        for name in ("index", "sequence"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < 2**31:
                raise ProtocolError(f"Expected {name} from 0 to 2^31")

    def to_values(self) -> dict[str, Any]:
        """JSON form."""
        return {"version": RECEIPT_VERSION} | {
            name: getattr(self, name) for name in self.__dataclass_fields__
        }


@dataclass(frozen=True, kw_only=True)
class SignedReceipt:
    """A receipt and the site's signature of its bytes."""

    receipt: Receipt
    signature: bytes

    @staticmethod
    def sign(receipt: Receipt, key: SigningKey) -> SignedReceipt:
        """Sign it."""
        content = canonical_json(receipt.to_values())
        return SignedReceipt(receipt=receipt, signature=key.sign("receipt", content))

    def verify(self, public: bytes) -> None:
        """Raise ProtocolError unless the key of these 32 bytes signed it."""
        verify(public, "receipt", canonical_json(self.receipt.to_values()), self.signature)

    def to_line(self) -> bytes:
        """One line of a file of receipts, without its end."""
        return canonical_json(self.to_values())

    @staticmethod
    def from_line(line: bytes) -> SignedReceipt:
        """The receipt of a line. Raises ProtocolError for any line that `to_line` does not write."""
        return SignedReceipt.from_values(parse_canonical(line))

    def to_values(self) -> dict[str, Any]:
        """JSON form."""
        return {"receipt": self.receipt.to_values(), "signature": self.signature.hex()}

    @staticmethod
    def from_values(values: Any) -> SignedReceipt:
        """The receipt of its JSON form. Raises ProtocolError."""
        if not isinstance(values, dict) or set(values) != {"receipt", "signature"}:
            raise ProtocolError("Expected a receipt and its signature")
        inner, signature = values["receipt"], values["signature"]
        names = {"version", *Receipt.__dataclass_fields__}
        if not isinstance(inner, dict) or set(inner) != names:
            raise ProtocolError(f"Expected a receipt with {', '.join(sorted(names))}")
        if inner["version"] != RECEIPT_VERSION or type(inner["version"]) is not int:
            raise ProtocolError(f"Expected a receipt of version {RECEIPT_VERSION}")
        if not isinstance(signature, str) or not re.fullmatch("[0-9a-f]{128}", signature):
            raise ProtocolError("Expected a signature of 64 bytes, hexadecimal")
        receipt = Receipt(**{name: inner[name] for name in Receipt.__dataclass_fields__})
        return SignedReceipt(receipt=receipt, signature=bytes.fromhex(signature))


@dataclass(frozen=True, kw_only=True)
class ReceiptedAnswer:
    """What a site sends: the bytes of its answer, and a receipt of them.

    Attributes:
        chain: the receipt, and before it those that the coordinator has not shown, oldest first: of answers that were
            lost on the way, or that it has lost.
        answer: the bytes.
    """

    chain: tuple[SignedReceipt, ...]
    answer: bytes

    @property
    def signed(self) -> SignedReceipt:
        """The receipt of this answer."""
        return self.chain[-1]

    def to_bytes(self) -> bytes:
        """The message: the length of the receipts in 4 bytes, the receipts, the answer."""
        receipts = canonical_json([each.to_values() for each in self.chain])
        return len(receipts).to_bytes(4, "big") + receipts + self.answer

    @staticmethod
    def from_bytes(data: bytes) -> ReceiptedAnswer:
        """The answer of a message, whose last receipt is of these very bytes. Raises ProtocolError."""
        end = 4 + int.from_bytes(data[:4], "big")
        if end > _LONGEST_CHAIN:
            raise ProtocolError(f"Expected receipts of at most {_LONGEST_CHAIN} bytes")
        if len(data) < max(4, end):
            raise ProtocolError("Expected receipts and an answer, found a shorter message")
        values, answer = parse_canonical(data[4:end]), data[end:]
        chain = chain_from_values(values)
        if chain[-1].receipt.answer != hashlib.sha256(answer).hexdigest():
            raise ProtocolError("Expected a receipt of this answer, found one of another")
        return ReceiptedAnswer(chain=chain, answer=answer)


def chain_from_values(values: Any) -> tuple[SignedReceipt, ...]:
    """Receipts of one site and study, oldest first, each naming the one before. Raises ProtocolError."""
    if not isinstance(values, list) or not 1 <= len(values) <= MOST_RECEIPTS:
        raise ProtocolError(f"Expected 1 to {MOST_RECEIPTS} receipts")
    chain = tuple(map(SignedReceipt.from_values, values))
    for before, after in pairwise(each.receipt for each in chain):
        if (after.study, after.previous) != (
            before.study,
            before.head,
        ) or after.sequence <= before.sequence:
            raise ProtocolError("Expected receipts of which each goes on from the one before")
    return chain


def receipt_of(account: StudyAccount, index: int, key: SigningKey) -> SignedReceipt:
    """The receipt of an answered query; always the same. Raises LedgerError where it was not answered."""
    asked = account.asked.get(index)
    if asked is None or asked.answer is None:
        raise LedgerError(f"Expected query {index} to be answered")
    receipt = Receipt(
        study=account.approval.study, index=index, transcript=asked.charge.query, sequence=asked.sequence,
        head=asked.head, previous=asked.previous, answer=asked.answer,
    )  # fmt: skip
    return SignedReceipt.sign(receipt, key)


def receipts_after(
    account: StudyAccount, index: int, known: Collection[str], key: SigningKey
) -> tuple[SignedReceipt, ...]:
    """The receipt of a query, and those before it back to the first whose head is known, oldest first.

    Raises:
        LedgerError: the query was not answered.
    """
    chain = [receipt_of(account, index, key)]
    wanted = chain[0].receipt.previous
    for number, asked in reversed(account.asked.items()):
        if wanted in known or len(chain) == MOST_RECEIPTS:
            break
        if asked.head == wanted:
            chain.append(receipt_of(account, number, key))
            wanted = asked.previous
    return tuple(reversed(chain))


def receipts_of(state: LedgerState, key: SigningKey) -> list[SignedReceipt]:
    """A receipt of every answered query, in the order of the charges."""
    receipts = [
        receipt_of(account, index, key)
        for account in state.studies.values()
        for index, asked in account.asked.items()
        if asked.answer is not None
    ]
    return sorted(receipts, key=lambda each: each.receipt.sequence)


def check_receipts(
    entries: Sequence[SignedEntry],
    state: LedgerState,
    receipts: Iterable[SignedReceipt],
    public: bytes,
) -> int:
    """Hold a ledger to receipts that others have kept, and say how many there were.

    Arguments:
        entries, state: of the ledger, replayed already.
    Raises:
        LedgerError: the first receipt that the ledger contradicts, and how: rolled back, forked, or another answer.
        ProtocolError: a receipt that the site of this key did not sign.
    """
    count = 0
    for signed in receipts:
        signed.verify(public)
        _check(entries, state, signed.receipt)
        count += 1
    return count


def _check(entries: Sequence[SignedEntry], state: LedgerState, receipt: Receipt) -> None:
    name = f"Receipt of query {receipt.index} of study {receipt.study[:8]}"
    if receipt.sequence >= len(entries):
        raise LedgerError(
            f"{name}: expected entry {receipt.sequence}, found a ledger of {len(entries)} entries: it was rolled back",
            hint="the site put back an old copy of its ledger; charges since then are missing from it",
        )
    if hash_of(entries[receipt.sequence].content) != receipt.head:
        raise LedgerError(
            f"{name}: expected its head at entry {receipt.sequence}, found another: the ledger was forked",
            hint="the site has signed two histories",
        )
    account = state.studies.get(receipt.study)
    asked = None if account is None else account.asked.get(receipt.index)
    if asked is None or (asked.sequence, asked.charge.query) != (
        receipt.sequence,
        receipt.transcript,
    ):
        raise LedgerError(f"{name}: expected the entry that charged it, found another")
    if asked.answer != receipt.answer:
        raise LedgerError(f"{name}: expected the answer that was receipted, found another or none")
    if asked.previous != receipt.previous:
        raise LedgerError(
            f"{name}: expected it to follow another receipt: one was given that this ledger lacks"
        )
