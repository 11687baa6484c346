"""One private sum over the sites: in one trip as it is, or masked, in two or three.

plain    query --------> answers -> their sum                                       (trust `local`, or none)
masked   keys, once a session --> masked answers --> what unmasks their sum         (`secure_aggregation`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.errors import AggregationError, ProtocolError, RoundAbandonedError
from privacy.secure_aggregation.coordinator import CoordinatorRound, Step, session_members
from privacy.secure_aggregation.messages import (
    Message,
    OpenReply,
    RevealReply,
    SetupKey,
    SetupRequest,
    SurvivorsReply,
    Upload,
)
from privacy.secure_aggregation.site import Federation, setup_key_of
from server.journal import Heard
from server.trips import Trips
from study.aggregation import federation_of
from study.guarantee import Guarantee
from study.ledger_entries import FIRST
from study.queries import Refusal, SumAnswer, SumQuery, query_hash
from study.receipts import MOST_RECEIPTS, ReceiptedAnswer, SignedReceipt
from study.roster import Roster

__all__ = ["Gathered", "MaskedSums", "PlainSums", "Receipts"]


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What came of one query.

    Attributes:
        total: sum of the survivors' answers, int64 (float64 with trust `unsafe`), shape (d,); None if abandoned.
        survivors: names, in the order of the roster. problems: why each of the others is missing, by name.
        lack: why there is no total, in words; empty where there is one.
        receipts: by name, of the answer, and before it those that were lost.
        transcript: what the receipts are of, hexadecimal. cohort: who was asked. members: their keys of this session,
            as `SetupKey`s in hexadecimal; empty where nothing is masked.
        signatures: of the set of survivors, hexadecimal, by name; none where all were there, or nothing is masked.
    """

    total: npt.NDArray[Any] | None
    survivors: tuple[str, ...]
    problems: Mapping[str, str]
    lack: str = ""
    receipts: Mapping[str, tuple[SignedReceipt, ...]]
    transcript: str
    cohort: tuple[str, ...]
    members: tuple[str, ...] = ()
    signatures: Mapping[str, str] = field(default_factory=dict)


class Receipts:
    """Every site's latest receipts, as they go into the next query; a site whose ledger goes back is found out."""

    def __init__(self, roster: Roster | None) -> None:
        self._numbers = {} if roster is None else roster.numbers
        self._identities = () if roster is None else roster.identities
        self._chains: dict[int, list[tuple[int, SignedReceipt]]] = {}
        self._behind: set[str] = set()

    def for_query(self, index: int) -> dict[int, tuple[SignedReceipt, ...]]:
        """By number on the roster: as far back as the sites need that may still be there.

        Whoever has answered query i has seen what had come in with the queries before i. One that was away for longer
        than `MOST_RECEIPTS` queries may refuse (its answers may have been lost, too): it is shown all until it answers.
        """
        answered = [
            self._chains[number][-1][1].receipt.index if number in self._chains else -1
            for number in self._numbers.values()
        ]
        lately = [each for each in answered if each >= index - MOST_RECEIPTS]
        oldest = -1 if self._behind else min(lately, default=index)
        needed = {}
        for number, chain in sorted(self._chains.items()):
            since = [signed for came, signed in chain if came >= oldest] or [chain[-1][1]]
            needed[number] = tuple(since[-MOST_RECEIPTS:])
        return needed

    def heard(self, problems: Mapping[str, str]) -> None:
        """Why sites did not answer, by name. One that misses a receipt is shown all of them until it answers."""
        behind = Refusal.LEDGER_BEHIND.explanation
        self._behind |= {name for name, problem in problems.items() if problem == behind}

    def keep(self, name: str, receipts: Sequence[SignedReceipt], *, index: int) -> None:
        """Remember those that came in with a query and are later than the known ones."""
        number = self._numbers.get(name)
        self._behind.discard(name)
        if number is not None:
            chain = self._chains.get(number, [])
            latest = chain[-1][1].receipt.sequence if chain else -1
            new = [(index, each) for each in receipts if each.receipt.sequence > latest]
            if new:
                self._chains[number] = [*chain, *new][-MOST_RECEIPTS:]

    def answer(
        self, name: str, content: bytes, query: SumQuery, transcript: str
    ) -> ReceiptedAnswer:
        """The answer in a site's message, if its receipts hold. Raises ProtocolError if not."""
        received = ReceiptedAnswer.from_bytes(content)
        self.check(
            name, received.chain, study=query.study, index=query.index, transcript=transcript
        )  # fmt: skip
        return received

    def check(
        self, name: str, chain: Sequence[SignedReceipt], *, study: str, index: int, transcript: str
    ) -> None:
        """Is the last of these a receipt of this very query, are all signed by that site, and after the known ones?

        Raises:
            ProtocolError: they are not.
        """
        receipt = chain[-1].receipt
        asked = (study, index, transcript)
        if (receipt.study, receipt.index, receipt.transcript) != asked:
            raise ProtocolError(f"Expected a receipt of {name} of this query, found one of another")
        number = self._numbers.get(name)
        if number is not None:
            for each in chain:
                each.verify(self._identities[number - 1])
            self.require_onward(name, chain)

    def require_onward(self, name: str, chain: Sequence[SignedReceipt]) -> None:
        """Raise ProtocolError unless these go on from the latest that is known of this site."""
        known = self._chains.get(self._numbers[name])
        if known is not None and known[-1][1] == chain[-1]:
            return
        latest = None if known is None else known[-1][1].receipt
        head, sequence, index = (
            (FIRST, -1, -1) if latest is None else (latest.head, latest.sequence, latest.index)
        )
        first, last = chain[0].receipt, chain[-1].receipt
        linked = first.previous == head or any(each.receipt.head == head for each in chain)
        # More charges than a message tells of: then every one of these is of another query since.
        since = {each.receipt.index for each in chain if index < each.receipt.index <= last.index}
        away = len(since) == MOST_RECEIPTS
        if last.sequence <= sequence or not (linked or away):
            raise ProtocolError(
                f"Expected the ledger of {name} to go on, found receipts of an earlier entry, or another"
            )


class PlainSums:
    """Sums of answers that nothing hides: each has all the noise in it, or there is none.

    Arguments:
        trips: the way to the sites. receipts: where their receipts are kept.
    """

    def __init__(self, guarantee: Guarantee, trips: Trips, receipts: Receipts) -> None:
        self._guarantee, self._trips, self._receipts = guarantee, trips, receipts

    def state(self) -> dict[str, Any]:
        """Nothing is remembered from one query to the next."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""

    def gather(self, query: SumQuery, content: bytes) -> Gathered:
        """One query, whose bytes these are, to every site, and the sum of what came back in time."""
        name = query_hash(content)
        replies = self._trips.ask(
            dict.fromkeys(self._trips.names, content),
            index=query.index,
            trip="answers",
            least=self._guarantee.tolerance.survivors,
        )
        answers: dict[str, npt.NDArray[Any]] = {}
        problems, receipts = {}, {}
        for site, reply in replies.items():
            try:
                received = self._receipts.answer(site, _content(reply), query, name)
                answers[site] = self._checked(received.answer, name, query.function)
                receipts[site] = received.chain
            except ProtocolError as error:
                problems[site] = error.message
        self._receipts.heard(problems)
        for site, chain in receipts.items():
            self._receipts.keep(site, chain, index=query.index)
        least = self._guarantee.tolerance.survivors
        enough = len(answers) >= least
        return Gathered(
            total=np.sum(list(answers.values()), axis=0) if enough else None,
            survivors=tuple(answers), problems=problems, receipts=receipts, transcript=name,
            cohort=tuple(self._trips.names),
            lack="" if enough else f"{len(answers)} of at least {least} sites have answered",
        )  # fmt: skip

    def _checked(self, content: bytes, name: str, function: str) -> npt.NDArray[Any]:
        """A site's vector, if an honest site could have sent it; int64 (float64 with trust `unsafe`)."""
        answer, mechanism = SumAnswer.from_bytes(content), self._guarantee.mechanism(function)
        dimension = self._guarantee.stage(function).dimension
        if mechanism is None:
            return answer.checked(name, dimension, np.float64, np.inf)
        largest = mechanism.clamp + mechanism.deviation.largest + 1
        dtype = np.int32 if mechanism.bits == 32 else np.int64
        return answer.checked(name, dimension, dtype, largest).astype(np.int64)


class MaskedSums:
    """Sums under masks: no answer is seen alone.

    A session is set up before the first query, at every query while there is none, and again when a site is outside of
    it that may be reached: one that has restarted at once, one that did not answer after 1, 2, 4 ... queries.

    Arguments:
        trips: the way to the sites. receipts: where their receipts are kept.
        nonce: number of a query to 16 fresh bytes.
    """

    def __init__(
        self, guarantee: Guarantee, roster: Roster, trips: Trips, receipts: Receipts, *, nonce: Callable[[int], bytes]
    ) -> None:  # fmt: skip
        self._guarantee, self._trips = guarantee, trips
        self._receipts, self._nonce = receipts, nonce
        self._federation: Federation = federation_of(guarantee, roster)
        self._names = roster.names
        self._numbers = roster.numbers
        self._members: tuple[SetupKey, ...] = ()
        self._lost: set[int] = set()
        # Why a site has sent no key when it was last asked for one, by name.
        self._outside: dict[str, str] = {}
        self._next_setup, self._wait = 0, 1

    def state(self) -> dict[str, Any]:
        """What is remembered from one query to the next, as plain values."""
        return {
            "members": [each.to_bytes().hex() for each in self._members], "lost": sorted(self._lost),
            "outside": self._outside, "next_setup": self._next_setup, "wait": self._wait,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._members = tuple(SetupKey.from_bytes(bytes.fromhex(each)) for each in state["members"])
        self._lost, self._outside = set(state["lost"]), dict(state["outside"])
        self._next_setup, self._wait = state["next_setup"], state["wait"]

    def gather(self, query: SumQuery, content: bytes) -> Gathered:
        """One masked sum of a query whose bytes these are: exact over everybody who has uploaded, or none."""
        if self._wants_setup(query.index):
            self._outside = self._set_up(query.index)
        if not self._members:
            least = self._guarantee.thresholds.survivors
            lack = f"fewer than {least} sites have sent a key"
            self._receipts.heard(self._outside)
            return Gathered(
                total=None, survivors=(), problems=self._outside, lack=lack, receipts={}, cohort=(),
                transcript=query_hash(content),
            )  # fmt: skip
        mechanism = self._guarantee.mechanism(query.function)
        if mechanism is None:
            raise ProtocolError("Expected a query of a study whose sums are masked")
        inside = {self._names[each.site] for each in self._members}
        problems = {name: why for name, why in self._outside.items() if name not in inside}
        current = CoordinatorRound(
            self._federation, self._members, round=query.index, payload=content, bits=mechanism.bits,
            dimension=mechanism.dimension,
        )  # fmt: skip
        receipts = self._uploads(current, query, problems)
        requests = current.close()
        while requests:
            self._exchange(current, requests, query.index, problems)
            requests = current.close()
        return self._gathered(current, problems, receipts)

    def _uploads(
        self, current: CoordinatorRound, query: SumQuery, problems: dict[str, str]
    ) -> dict[str, tuple[SignedReceipt, ...]]:
        """Trip A."""
        content = current.request.to_bytes()
        cohort = [self._names[each.site] for each in self._members]
        replies = self._trips.ask(
            dict.fromkeys(cohort, content), index=query.index, trip="A",
            least=self._guarantee.thresholds.survivors,
        )  # fmt: skip
        receipts = {}
        for name, reply in replies.items():
            try:
                received = self._receipts.answer(
                    name, _content(reply), query, current.transcript.hex()
                )
                current.uploaded(self._numbers[name], Upload.from_bytes(received.answer))
                receipts[name] = received.chain
            except ProtocolError as error:
                problems[name] = error.message
            if reply.refusal == Refusal.NO_SESSION:
                self._lost.add(self._numbers[name])
        self._receipts.heard(problems)
        for name, chain in receipts.items():
            self._receipts.keep(name, chain, index=query.index)
        return receipts

    def _exchange(
        self, current: CoordinatorRound, requests: Mapping[int, Message], index: int, problems: dict[str, str]
    ) -> None:  # fmt: skip
        """Trips B and C."""
        trip = "C" if current.step is Step.REVEALS else "B"
        contents = {self._names[site]: message.to_bytes() for site, message in requests.items()}
        for name, reply in self._trips.ask(contents, index=index, trip=trip).items():
            try:
                _TAKE[current.step](current, self._numbers[name], _content(reply))
            except ProtocolError as error:
                problems[name] = f"in trip {trip}: {error.message}"

    def _gathered(
        self,
        current: CoordinatorRound,
        problems: dict[str, str],
        receipts: dict[str, tuple[SignedReceipt, ...]],
    ) -> Gathered:
        evidence, lack = current.evidence, ""
        total = None
        try:
            total = current.total()
        except RoundAbandonedError as error:
            lack = error.message
        survivors = tuple(self._names[site] for site in evidence.survivors)
        return Gathered(
            total=total, survivors=survivors, problems=problems, lack=lack, receipts=receipts,
            transcript=evidence.transcript.hex(), cohort=tuple(self._names[site] for site in evidence.members),
            members=tuple(each.to_bytes().hex() for each in self._members),
            signatures={self._names[site]: each.hex() for site, each in evidence.signatures.items()},
        )  # fmt: skip

    def _wants_setup(self, index: int) -> bool:
        outside = len(self._members) < len(self._names)
        return not self._members or bool(self._lost) or (outside and index >= self._next_setup)

    def _set_up(self, index: int) -> dict[str, str]:
        """A fresh key of every site that answers; why there is none of the others, by name.

        Where there are too few, or no more than before, the session that there is goes on.
        """
        at = self._federation
        request = SetupRequest(
            study=at.study, roster=at.roster, nonce=self._nonce(index)
        ).to_bytes()
        replies = self._trips.ask(
            dict.fromkeys(self._trips.names, request),
            index=index,
            trip="setup",
            least=self._guarantee.thresholds.survivors,
        )
        announced, problems = [], {}
        for name, reply in replies.items():
            try:
                key = setup_key_of(at, SetupKey.from_bytes(_content(reply)), step="setup")
                if key.site != self._numbers[name]:
                    raise AggregationError("setup", f"expected a key of {name}")
                announced.append(key)
            except ProtocolError as error:
                problems[name] = error.message
        usable = len({each.site for each in self._members} - self._lost)
        if len(announced) > usable:
            # Where they are too few, whoever sent no key is in `problems`.
            with suppress(AggregationError, RoundAbandonedError):
                self._members, self._lost = session_members(at, announced), set()
        self._wait = 1 if not problems else 2 * self._wait
        self._next_setup = index + self._wait
        return problems


_TAKE: Mapping[Step, Callable[[CoordinatorRound, int, bytes], None]] = {
    Step.OPENING: lambda current, site, data: current.opened(site, OpenReply.from_bytes(data)),
    Step.SURVIVORS: lambda current, site, data: current.signed(
        site, SurvivorsReply.from_bytes(data)
    ),
    Step.REVEALS: lambda current, site, data: current.revealed(site, RevealReply.from_bytes(data)),
}
"""What is done with a reply of the second and third trip."""


def _content(reply: Heard) -> bytes:
    """What a site has sent. Raises ProtocolError for one that did not."""
    if reply.problem is not None:
        raise ProtocolError(reply.problem)
    return reply.content
