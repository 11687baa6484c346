"""The two messages of the narrow waist: a sum query, and one site's answer to it. One codec each.

A query carries the hash of a study, which its site has approved and knows in full, and the values at which the sum is
to be taken. An answer carries nothing but the rounded, noisy vector. Neither holds a count, a metric or a name: what
lies in a server's database says nothing about whom it is from, or which columns are studied.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.errors import ProtocolError
from privacy.secure_aggregation.thresholds import MOST_SITES
from study.codec import Arrays, decode, encode
from study.receipts import SignedReceipt, chain_from_values

__all__ = ["NONCE_BYTES", "Refusal", "SumAnswer", "SumQuery", "query_hash"]

NONCE_BYTES = 16
"""Random bytes in every message, both ways: nobody can recognise a message by guessing its content."""


class Refusal(enum.IntEnum):
    """Why a site does not answer. Fixed codes that do not depend on its data; never an exception's text.

    With `NOT_PERMITTED` alone go the names of the rules that the study breaks (`study/rules.py`).
    """

    MALFORMED = 1001
    NOT_APPROVED = 1002
    TOO_MANY_QUERIES = 1003
    OTHER_QUERY_ANSWERED = 1004
    UNAVAILABLE = 1005
    NOT_PERMITTED = 1006
    NO_SESSION = 1007
    OUT_OF_PROTOCOL = 1008
    LEDGER_BEHIND = 1009

    @property
    def explanation(self) -> str:
        """What the coordinator reports of it."""
        return {
            Refusal.MALFORMED: "the query is not one that this protocol version knows",
            Refusal.NOT_APPROVED: "the site has not approved this study",
            Refusal.TOO_MANY_QUERIES: "the study has asked all the sums that it declared",
            Refusal.OTHER_QUERY_ANSWERED: "another query with this number has been answered",
            Refusal.UNAVAILABLE: "the site could not compute an answer",
            Refusal.NOT_PERMITTED: "the site's policy does not allow this study",
            Refusal.NO_SESSION: "the site has no key for this session of secure aggregation, as after a restart",
            Refusal.OUT_OF_PROTOCOL: "the message breaks the rules of secure aggregation",
            Refusal.LEDGER_BEHIND: "a receipt contradicts what the site knows: some ledger was put back or forked",
        }[self]


@dataclass(frozen=True, kw_only=True)
class SumQuery:
    """A question: the private sum of one declared function, at the given parameters.

    Attributes:
        study: hash of its declaration, hexadecimal.
        index: number of this query within the study, from 0; a site answers one query of each number.
        function: a stage of the study.
        parameters: arrays by name: the model, and what scaling it has learnt.
        nonce: `NONCE_BYTES` random bytes.
        receipts: the latest of every site that has answered this study, by number on the roster, oldest first, as far
            back as any member needs to see that they are one chain: a ledger that was put back is found out by its own
            site and by the others.
    """

    study: str
    index: int
    function: str
    parameters: Arrays = field(default_factory=dict)
    nonce: bytes
    receipts: Mapping[int, tuple[SignedReceipt, ...]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The message."""
        head = {
            "kind": "sum-query", "study": self.study, "index": self.index,
            "function": self.function, "nonce": self.nonce.hex(),
            "receipts": {str(site): [each.to_values() for each in chain] for site, chain in self.receipts.items()},
        }  # fmt: skip
        return encode(head, self.parameters)

    @staticmethod
    def from_bytes(data: bytes) -> SumQuery:
        """The query of a message. Raises ProtocolError."""
        head, arrays = decode(data)
        _require_keys(head, "sum-query", {"study", "index", "function", "nonce", "receipts"})
        if (
            type(head["index"]) is not int
            or not 0 <= head["index"] < 2**31
            or not isinstance(head["function"], str)
        ):
            raise ProtocolError("Expected a number and a function of the query")
        if not isinstance(head["study"], str) or not re.fullmatch("[0-9a-f]{64}", head["study"]):
            raise ProtocolError("Expected the hash of a study, 64 hexadecimal digits")
        return SumQuery(
            study=head["study"], index=head["index"],
            function=head["function"], parameters=arrays, nonce=_nonce(head), receipts=_receipts(head["receipts"]),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SumAnswer:
    """One site's answer.

    Attributes:
        query_hash: SHA-256 of the query's bytes, hexadecimal.
        vector: int32 or int64, shape (d,); float64 with trust `unsafe`.
        nonce: `NONCE_BYTES` random bytes.
    """

    query_hash: str
    vector: npt.NDArray[Any]
    nonce: bytes

    def to_bytes(self) -> bytes:
        """The message."""
        head = {"kind": "sum-answer", "query": self.query_hash, "nonce": self.nonce.hex()}
        return encode(head, {"vector": self.vector})

    @staticmethod
    def from_bytes(data: bytes) -> SumAnswer:
        """The answer of a message. Raises ProtocolError."""
        head, arrays = decode(data)
        _require_keys(head, "sum-answer", {"query", "nonce"})
        if (
            set(arrays) != {"vector"}
            or arrays["vector"].ndim != 1
            or not isinstance(head["query"], str)
        ):
            raise ProtocolError("Expected an answer with one vector")
        return SumAnswer(query_hash=head["query"], vector=arrays["vector"], nonce=_nonce(head))

    def checked(
        self, query_hash: str, dimension: int, dtype: npt.DTypeLike, largest: float
    ) -> npt.NDArray[Any]:
        """The vector, if this is an answer to that query and within what an honest site can send.

        Raises:
            ProtocolError: it answers something else, or its shape, type or range is wrong.
        """
        if self.query_hash != query_hash:
            raise ProtocolError("Expected an answer to this query, found one to another")
        if self.vector.shape != (dimension,) or self.vector.dtype != np.dtype(dtype):
            raise ProtocolError(f"Expected {dimension} numbers of {np.dtype(dtype).name}")
        if (
            not np.isfinite(self.vector).all()
            or (np.abs(self.vector.astype(np.float64)) > largest).any()
        ):
            raise ProtocolError("Expected numbers within the range of one site")
        return self.vector


def query_hash(data: bytes) -> str:
    """How answers name the query whose bytes these are."""
    return hashlib.sha256(data).hexdigest()


def _require_keys(head: dict[str, Any], kind: str, keys: set[str]) -> None:
    if head.get("kind") != kind or set(head) != keys | {"kind"}:
        raise ProtocolError(f"Expected a {kind} with {', '.join(sorted(keys))}")


def _receipts(values: Any) -> dict[int, tuple[SignedReceipt, ...]]:
    if (
        not isinstance(values, dict)
        or len(values) > MOST_SITES
        or not all(re.fullmatch("[1-9][0-9]{0,4}", each) for each in values)
    ):
        raise ProtocolError("Expected receipts by number of a site")
    return {int(site): chain_from_values(chain) for site, chain in values.items()}


def _nonce(head: dict[str, Any]) -> bytes:
    try:
        nonce = bytes.fromhex(head["nonce"])
    except (TypeError, ValueError) as error:
        raise ProtocolError("Expected a nonce in hexadecimal") from error
    if len(nonce) != NONCE_BYTES or nonce.hex() != head["nonce"]:
        raise ProtocolError(f"Expected a nonce of {NONCE_BYTES} bytes")
    return nonce
