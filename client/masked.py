"""Secure aggregation at a site, in one study: every step of its state machine, on the disk before it leaves.

    charge -> compute -> mask -> store -> send        (`client/answers.py` keeps this order)
    agree to one sum -> send what unmasks it          (kept here)

What a site agrees to stands in its ledger before the reply is sent, so a crash between the two cannot make it agree to
another sum. Keys and masks live in memory: a site that has restarted resends the bytes of its answers, helps to unmask
none of them, and is asked for a new key.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from client.ledger import Ledger
from privacy.errors import AggregationError
from privacy.private_sum import SumMechanism
from privacy.secure_aggregation import site as machine
from privacy.secure_aggregation.messages import (
    Message,
    OpenRequest,
    RevealRequest,
    RoundRequest,
    SetupRequest,
    SurvivorsRequest,
)
from study.aggregation import federation_of
from study.guarantee import Guarantee
from study.roster import Roster

__all__ = ["MaskedSums"]


class MaskedSums:
    """One site's part in the masked sums of one study.

    Arguments:
        guarantee, roster: of the study. ledger: the site's own; its key is the site's identity on the roster.
        entropy: labels to 32 bytes, as `client.answers.Entropy`.
    Raises:
        ProtocolError: the site is not on the roster, or the study was declared for another one.
    """

    def __init__(
        self, guarantee: Guarantee, roster: Roster, ledger: Ledger, entropy: Callable[..., bytes]
    ) -> None:
        self._federation = federation_of(guarantee, roster)
        self._study = guarantee.declaration.hash
        self._ledger, self._entropy = ledger, entropy
        self._state = machine.SiteState(site=roster.number_of(ledger.public))
        self._open: int | None = None  # the query whose answer may be unmasked

    def announce(self, request: SetupRequest) -> bytes:
        """A fresh key for a new session."""
        labels = (self._study, request.nonce)
        self._state, announced = machine.setup(
            self._federation, self._state, request, seed=self._entropy("session key", *labels),
            epoch=self._entropy("epoch", *labels)[:16], sign=self._ledger.sign,
        )  # fmt: skip
        return announced.to_bytes()

    def transcript(self, request: RoundRequest, mechanism: SumMechanism) -> str:
        """What this site charges for, hexadecimal: all that it was told of the round."""
        shape = {"bits": mechanism.bits, "dimension": mechanism.dimension}
        return machine.transcript_of(self._federation, request, **shape).hex()

    def join(self, request: RoundRequest, mechanism: SumMechanism) -> machine.Joined:
        """Everything about a round that can be checked before it is charged. Raises AggregationError."""
        return machine.join(
            self._federation,
            self._state,
            request,
            bits=mechanism.bits,
            dimension=mechanism.dimension,
        )

    def mask(
        self,
        joined: machine.Joined,
        integers: npt.NDArray[np.int64],
        mechanism: SumMechanism,
    ) -> None:
        """Mask an answer and store it. Where that fails this site has not joined the round.

        Arguments:
            integers: the answer, int64, shape (d,).
        """
        index = joined.request.round
        seed = self._entropy("self-mask", self._study, index)
        state, upload = machine.upload(
            self._federation, self._state, joined, integers, bits=mechanism.bits, seed=seed
        )
        self._ledger.store(self._study, index, upload.to_bytes())
        self._state, self._open = state, index

    def is_open(self, transcript: bytes) -> bool:
        """Is this the round whose secrets this site holds, or has just revealed?"""
        last = self._state.last
        held = self._state.round.transcript if self._state.round else None
        said = getattr(last[0], "transcript", None) if last else None
        return transcript in (held, said)

    def unmask(self, request: Message) -> bytes:
        """The second or third trip of the open round.

        Raises:
            AggregationError: the machine refuses, and nothing has changed.
            LedgerError: the ledger says that another sum was agreed to, or cannot be written; nothing was sent.
        """
        state: machine.SiteState
        reply: Message
        survivors = None
        if isinstance(request, OpenRequest):
            state, reply = machine.open_all(self._state, request)
        elif isinstance(request, SurvivorsRequest):
            survivors = request.survivors
            sign = self._ledger.sign
            state, reply = machine.sign_survivors(self._federation, self._state, request, sign=sign)
        elif isinstance(request, RevealRequest):
            survivors = request.survivors
            state, reply = machine.reveal(self._federation, self._state, request)
        else:
            raise AggregationError(
                "upload", f"expected a request, found a {type(request).__name__}"
            )
        if self._open is not None:
            self._ledger.agree(self._study, self._open, survivors)
        self._state = state
        return reply.to_bytes()
