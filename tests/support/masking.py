"""Masked sums for tests, without Flower: the coordinator's side, step by step, and sites that add nothing to a sum."""

import hashlib
from dataclasses import replace

import numpy as np
from ledgers import key_of

from privacy.keystream import derive_key
from privacy.secure_aggregation import site as machine
from privacy.secure_aggregation.coordinator import CoordinatorRound, Step, session_members
from privacy.secure_aggregation.messages import (
    OpenReply,
    OpenRequest,
    RevealReply,
    RoundRequest,
    SetupKey,
    SetupRequest,
    SurvivorsReply,
    SurvivorsRequest,
    Upload,
    message_of,
)
from study.aggregation import federation_of
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.queries import SumQuery, query_hash
from study.receipts import MOST_RECEIPTS, Receipt, ReceiptedAnswer, SignedReceipt
from study.roster import Roster, RosterSite

_TAKE = {
    Step.OPENING: lambda current, number, data: current.opened(number, OpenReply.from_bytes(data)),
    Step.SURVIVORS: lambda current, number, data: current.signed(
        number, SurvivorsReply.from_bytes(data)
    ),
    Step.REVEALS: lambda current, number, data: current.revealed(
        number, RevealReply.from_bytes(data)
    ),
}


def roster_of(*names):
    """The roster of the sites whose ledgers are `ledger_of(name)`."""
    sites = tuple(RosterSite(name=name, key=key_of(name).public.hex()) for name in names)
    return Roster(federation="tests", key=key_of("federation").public.hex(), sites=sites)


def with_roster(declaration, roster):
    """The same study, declared for these sites."""
    return Declaration(
        study=declaration.study, sites=len(roster.sites), noise_multiplier=declaration.noise_multiplier,
        nonce=declaration.nonce, roster=roster.hash,
    )  # fmt: skip


def receipted(name, content, query, *, transcript=None, sequence=None):
    """What a site of that name could send: the content, with a receipt of it that it has signed.

    Arguments:
        query: the bytes that were asked; transcript: what was charged, if not these.
    """
    asked = SumQuery.from_bytes(query)
    last = asked.index if sequence is None else sequence
    chain = []
    for number in range(max(0, last - MOST_RECEIPTS + 1), last + 1):
        receipt = Receipt(
            study=asked.study, index=max(0, asked.index - last + number), transcript=transcript or query_hash(query),
            sequence=number, head=_head(name, number), previous=_head(name, number - 1) if number else "0" * 64,
            answer=hashlib.sha256(content).hexdigest(),
        )  # fmt: skip
        chain.append(SignedReceipt.sign(receipt, key_of(name)))
    return ReceiptedAnswer(chain=tuple(chain), answer=content).to_bytes()


def _head(name, number):
    """Of the entry of that number in the ledger of a site that writes charges and nothing else."""
    return hashlib.sha256(f"{name} {number}".encode()).hexdigest()


class Zeros:
    """A site as the bare state machine, with no records and no noise: it adds zero to every sum."""

    def __init__(self, guarantee, roster, number):
        self._guarantee, self._number = guarantee, number
        self._federation = federation_of(guarantee, roster)
        self._name = roster.names[number]
        self._key = key_of(self._name)
        self._state = machine.SiteState(site=number)

    def answer(self, content):
        message = message_of(content)
        if isinstance(message, RoundRequest):
            return self._upload(message)
        if isinstance(message, SetupRequest):
            seed = derive_key(b"zeros", self._number, message.nonce)
            self._state, reply = machine.setup(
                self._federation, self._state, message, seed=seed, epoch=seed[:16], sign=self._key.sign
            )  # fmt: skip
        elif isinstance(message, OpenRequest):
            self._state, reply = machine.open_all(self._state, message)
        elif isinstance(message, SurvivorsRequest):
            self._state, reply = machine.sign_survivors(
                self._federation, self._state, message, sign=self._key.sign
            )
        else:
            self._state, reply = machine.reveal(self._federation, self._state, message)
        return reply.to_bytes()

    def _upload(self, request):
        query = SumQuery.from_bytes(request.payload)
        mechanism = self._guarantee.mechanism(query.function)
        shape = {"bits": mechanism.bits, "dimension": mechanism.dimension}
        joined = machine.join(self._federation, self._state, request, **shape)
        self._state, upload = machine.upload(
            self._federation, self._state, joined, np.zeros(mechanism.dimension, np.int64), bits=mechanism.bits,
            seed=derive_key(b"zeros", "self-mask", self._number, joined.transcript),
        )  # fmt: skip
        transcript = joined.transcript.hex()
        return receipted(self._name, upload.to_bytes(), request.payload, transcript=transcript)


class Masked:
    """The coordinator of one masked study, every step in the hands of a test.

    Arguments:
        answers: by number on the roster, what takes a message's bytes and returns the reply's, as `Site.answer` does;
            a number that is not there has a site of zeros.

    Attributes:
        members: of the session. receipts: the latest of every site, by number.
    """

    def __init__(self, declaration, roster, answers):
        self.declaration, self.roster = declaration, roster
        self.guarantee = Guarantee(declaration)
        self.federation = federation_of(self.guarantee, roster)
        self.answers = {
            number: answers.get(number) or Zeros(self.guarantee, roster, number).answer
            for number in roster.names
        }
        self.members, self.receipts = (), {}

    def set_up(self, nonce=bytes(16), *, only=None):
        """A session of all sites, or of some."""
        request = SetupRequest(
            study=self.federation.study, roster=self.federation.roster, nonce=nonce
        )
        self.members = session_members(
            self.federation,
            [
                SetupKey.from_bytes(self.answers[number](request.to_bytes()))
                for number in only or self.answers
            ],
        )

    def begin(self, content):
        """The round of a query's bytes."""
        query = SumQuery.from_bytes(content)
        mechanism = self.guarantee.mechanism(query.function)
        return CoordinatorRound(
            self.federation, self.members, round=query.index, payload=content, bits=mechanism.bits,
            dimension=mechanism.dimension,
        )  # fmt: skip

    def with_receipts(self, content, **changed):
        """The query with the latest receipts in it, and other changes."""
        query = SumQuery.from_bytes(content)
        return replace(
            query, **({"receipts": dict(sorted(self.receipts.items()))} | changed)
        ).to_bytes()

    def upload(self, current, *numbers):
        """Trip A, of these sites or of all members; the bytes that each has sent."""
        sent = {}
        for number in numbers or [each.site for each in self.members]:
            sent[number] = self.answers[number](current.request.to_bytes())
            received = ReceiptedAnswer.from_bytes(sent[number])
            current.uploaded(number, Upload.from_bytes(received.answer))
            known = [*self.receipts.get(number, ()), *received.chain]
            self.receipts[number] = tuple({each.receipt.head: each for each in known}.values())
        return sent

    def unmask(self, current):
        """Trips B and C, to the sum."""
        requests = current.close()
        while requests:
            for number, message in requests.items():
                reply = self.answers[number](message.to_bytes())
                _TAKE[current.step](current, number, reply)
            requests = current.close()
        return current.total()

    def sum(self, content, *, without=()):
        """The masked sum of a query, over all members but some, int64."""
        if not self.members:
            self.set_up()
        current = self.begin(content)
        self.upload(current, *(each.site for each in self.members if each.site not in without))
        return self.unmask(current)


def seen_alone(site, declaration, roster, content):
    """The integers that a site, the first of the roster, adds to a masked sum; all others add zero."""
    return Masked(declaration, roster, {1: site.answer}).sum(content)
