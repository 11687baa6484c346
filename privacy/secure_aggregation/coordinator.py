"""The coordinator's part of secure aggregation: one session, and one round of it at a time.

    UPLOADS --all are there--------------------> OPENING ---t shares of every self-mask--> DONE
            --m or more, not all--> SURVIVORS --tau signatures--> REVEALS --all of them--> DONE
            --fewer--------------------------> ABANDONED <--too few, at any step

Nothing that the sites' privacy rests on is in here: a coordinator that leaves this file out, or does something else,
learns no more (`site.py`). What is here makes an honest one right: every message is checked against what its site has
committed itself to, so that the sum is exact or the round is abandoned. Whom to blame is known for a reply that differs
from its own site's commitment; where two sites contradict each other, it is one of the two.

An upload is added up when it is taken; one vector is held, not one for each site.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privacy.errors import AggregationError, ProtocolError, RoundAbandonedError
from privacy.secure_aggregation import keys, masks, shamir
from privacy.secure_aggregation.messages import (
    Message,
    OpenReply,
    OpenRequest,
    RevealReply,
    RevealRequest,
    RoundRequest,
    SetupKey,
    SurvivorsReply,
    SurvivorsRequest,
    Upload,
)
from privacy.secure_aggregation.site import (
    Federation,
    require_signature,
    setup_key_of,
    transcript_of,
)

__all__ = ["STEPS", "CoordinatorRound", "Evidence", "Step", "session_members"]


class Step(enum.Enum):
    """What the coordinator waits for."""

    UPLOADS = "uploads"
    OPENING = "opening"
    SURVIVORS = "survivors"
    REVEALS = "reveals"
    DONE = "done"
    ABANDONED = "abandoned"


STEPS: Mapping[Step, tuple[type[Message] | None, frozenset[Step]]] = {
    Step.UPLOADS: (Upload, frozenset({Step.OPENING, Step.SURVIVORS, Step.ABANDONED})),
    Step.OPENING: (OpenReply, frozenset({Step.DONE, Step.ABANDONED})),
    Step.SURVIVORS: (SurvivorsReply, frozenset({Step.REVEALS, Step.ABANDONED})),
    Step.REVEALS: (RevealReply, frozenset({Step.DONE, Step.ABANDONED})),
    Step.DONE: (None, frozenset()),
    Step.ABANDONED: (None, frozenset()),
}
"""For each step the message that is taken, and the steps that may follow."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a release keeps of a round, for whoever checks it later.

    Attributes:
        transcript: of the round, 32 bytes. members: of the session. survivors: whose vectors are in the sum.
        signatures: of that set, by site; empty on the fast path, where the set is everybody.
    """

    transcript: bytes
    members: tuple[int, ...]
    survivors: tuple[int, ...]
    signatures: Mapping[int, bytes] = field(default_factory=dict)


def session_members(federation: Federation, announced: Sequence[SetupKey]) -> tuple[SetupKey, ...]:
    """The members of a session, in the order in which everybody has to be told of them.

    Sites that have announced the same key are left out, all of them: no honest site does, and nobody would go on.

    Raises:
        AggregationError: a key that its site has not signed, or a site named twice.
        RoundAbandonedError: there are fewer than m.
    """
    for each in announced:
        setup_key_of(federation, each, step="setup")
    if len({each.site for each in announced}) < len(announced):
        raise AggregationError("setup", "expected one key of each site")
    keys_seen = Counter(each.public for each in announced)
    members = sorted(
        (each for each in announced if keys_seen[each.public] == 1), key=lambda each: each.site
    )
    if len(members) < federation.thresholds.survivors:
        raise RoundAbandonedError(
            f"Expected keys of at least {federation.thresholds.survivors} sites, found {len(members)}"
        )
    return tuple(members)


@dataclass
class _Claims:
    """What a site has bound itself to with its upload."""

    self_mask: bytes
    shares: Mapping[int, bytes]
    pair_masks: Mapping[int, bytes]
    ciphertexts: Mapping[int, bytes]


class CoordinatorRound:
    """One round: requests to send, replies to take, and the sum.

    A method that raises has changed nothing. `uploaded`, `opened`, `signed` and `revealed` take a reply of one site;
    `close` ends a step, and says what to send next.

    Arguments:
        members: of the session, from `session_members`.
        round: number of the query; payload: what is asked; bits, dimension: of the vectors.
    Attributes:
        request: what to send to every member in trip A.
        step: what is waited for.
    """

    def __init__(
        self, federation: Federation, members: tuple[SetupKey, ...], *, round: int, payload: bytes, bits: int,  # noqa: A002
        dimension: int,
    ) -> None:  # fmt: skip
        self.request = RoundRequest(round=round, payload=payload, members=members)
        self.step = Step.UPLOADS
        self.transcript = transcript_of(federation, self.request, bits=bits, dimension=dimension)
        self._federation = federation
        self._members = tuple(each.site for each in members)
        self._total = masks.zeros(dimension, bits)
        self._claims: dict[int, _Claims] = {}
        self._agreed = SurvivorsRequest(transcript=self.transcript, survivors=())
        self._signatures: dict[int, bytes] = {}
        self._shares: dict[int, tuple[bytes, ...]] = {}
        self._seeds: dict[int, tuple[bytes, ...]] = {}

    @property
    def evidence(self) -> Evidence:
        """For the release."""
        return Evidence(
            transcript=self.transcript, members=self._members, survivors=self.survivors,
            signatures=dict(sorted(self._signatures.items())),
        )  # fmt: skip

    @property
    def survivors(self) -> tuple[int, ...]:
        """The members whose upload has been taken, by site."""
        return self._agreed.survivors or tuple(sorted(self._claims))

    def uploaded(self, site: int, message: Upload) -> None:
        """Take an upload and add it up."""
        self._expect(site, message, self._claims)
        others = [each for each in self._members if each != site]
        _require("upload", message.vector.shape == self._total.shape, f"{len(self._total)} numbers")
        _require(
            "upload",
            message.vector.dtype == self._total.dtype,
            f"numbers of type {self._total.dtype}",
        )
        counts = (len(message.shares), len(message.pair_masks), len(message.ciphertexts))
        _require(
            "upload",
            counts == (len(self._members), len(others), len(others)),
            "something for every member",
        )
        claims = _Claims(
            message.self_mask, dict(zip(self._members, message.shares, strict=True)),
            dict(zip(others, message.pair_masks, strict=True)), dict(zip(others, message.ciphertexts, strict=True)),
        )  # fmt: skip
        for other, earlier in self._claims.items():
            if earlier.pair_masks[site] != claims.pair_masks[other]:
                raise AggregationError(
                    "upload",
                    f"expected sites {site} and {other} to share one mask, found two: one of them has it wrong",
                )
        self._claims[site] = claims
        np.add(self._total, message.vector, out=self._total)

    def opened(self, site: int, message: OpenReply) -> None:
        """Take a site's shares of all self-masks."""
        self._expect(site, message, self._shares)
        self._check_shares(site, message.shares, step="opening")
        self._shares[site] = message.shares

    def signed(self, site: int, message: SurvivorsReply) -> None:
        """Take a survivor's signature of the set."""
        self._expect(site, message, self._signatures)
        require_signature(self._federation, self._agreed, site, message.signature, step="survivors")
        self._signatures[site] = message.signature

    def revealed(self, site: int, message: RevealReply) -> None:
        """Take a survivor's shares of the survivors' self-masks, and its masks with those that are missing."""
        self._expect(site, message, self._shares)
        self._check_shares(site, message.shares, step="reveal")
        missing = self._missing
        _require("reveal", len(message.seeds) == len(missing), f"{len(missing)} seeds")
        for other, seed in zip(missing, message.seeds, strict=True):
            committed = keys.commitment("pair", self.transcript, seed, *sorted((site, other)))
            _require(
                "reveal",
                committed == self._claims[site].pair_masks[other],
                f"the mask of sites {site} and {other}",
            )
        self._shares[site] = message.shares
        self._seeds[site] = message.seeds

    def close(self) -> dict[int, Message]:
        """No more replies of this step: what to send to whom next, nothing once the round is done or abandoned."""
        return _CLOSE[self.step](self)

    def total(self) -> npt.NDArray[np.int64]:
        """The sum over the survivors, int64, shape (d,).

        Raises:
            RoundAbandonedError: there is none; the message says what was missing.
        """
        if self.step is not Step.DONE:
            said = f": {self._lack}" if self._lack else ""
            raise RoundAbandonedError(
                f"Expected a sum, found a round that is {self.step.value}{said}"
            )
        return masks.centred(self._total)

    _lack = ""

    def _close_uploads(self) -> dict[int, Message]:
        least = self._federation.thresholds.survivors
        if len(self._claims) < least:
            return self._abandon(f"{len(self._claims)} of at least {least} sites have uploaded")
        self._agreed = SurvivorsRequest(transcript=self.transcript, survivors=self.survivors)
        if self._missing:
            self._go(Step.SURVIVORS)
            return dict.fromkeys(self.survivors, self._agreed)
        self._go(Step.OPENING)
        return {
            site: OpenRequest(transcript=self.transcript, ciphertexts=self._sealed_for(site))
            for site in self.survivors
        }

    def _close_opening(self) -> dict[int, Message]:
        least = self._federation.thresholds.threshold
        if len(self._shares) < least:
            return self._abandon(
                f"{len(self._shares)} of at least {least} sites have opened self-masks"
            )
        return self._unmask(())

    def _close_survivors(self) -> dict[int, Message]:
        least = self._federation.thresholds.quorum
        if len(self._signatures) < least:
            return self._abandon(
                f"{len(self._signatures)} of at least {least} sites have signed the survivors"
            )
        self._go(Step.REVEALS)
        signatures = tuple(sorted(self._signatures.items()))
        return {
            site: RevealRequest(
                transcript=self.transcript, survivors=self.survivors, signatures=signatures,
                ciphertexts=self._sealed_for(site),
            )
            for site in self.survivors
        }  # fmt: skip

    def _close_reveals(self) -> dict[int, Message]:
        lost = [site for site in self.survivors if site not in self._seeds]
        if lost:
            return self._abandon(
                f"sites {', '.join(map(str, lost))} were lost after they had uploaded"
            )
        pairs = [
            (-1 if site < other else 1, seed)
            for site, seeds in self._seeds.items()
            for other, seed in zip(self._missing, seeds, strict=True)
        ]
        return self._unmask(pairs)

    def _unmask(self, pairs: Sequence[tuple[int, bytes]]) -> dict[int, Message]:
        """Take off every survivor's self-mask, and what pairs have left. Masks of two survivors have cancelled."""
        try:
            own = [(-1, self._self_mask(site)) for site in self.survivors]
        except ProtocolError as error:
            return self._abandon(error.message)
        masks.add_masks(self._total, [*own, *pairs])
        for each in (self._claims, self._shares, self._seeds):
            each.clear()  # they have done what they were for
        self._go(Step.DONE)
        return {}

    def _self_mask(self, dealer: int) -> bytes:
        """The seed of a survivor's self-mask, which is the one that it was bound to."""
        place = self.survivors.index(dealer)
        enough = list(self._shares)[: self._federation.thresholds.threshold]
        seed = shamir.combine({site: self._shares[site][place] for site in enough})
        if keys.commitment("self", self.transcript, seed, dealer) != self._claims[dealer].self_mask:
            raise ProtocolError(
                f"Expected shares of the self-mask of site {dealer}, found others: it has dealt wrongly"
            )
        return seed

    def _check_shares(self, site: int, shares: tuple[bytes, ...], *, step: str) -> None:
        _require(step, len(shares) == len(self.survivors), f"{len(self.survivors)} shares")
        for dealer, share in zip(self.survivors, shares, strict=True):
            committed = keys.commitment("share", self.transcript, share, dealer, site)
            _require(
                step,
                committed == self._claims[dealer].shares[site],
                f"the share that site {dealer} has dealt to site {site}",
            )

    def _sealed_for(self, site: int) -> tuple[bytes, ...]:
        return tuple(
            self._claims[each].ciphertexts[site] for each in self.survivors if each != site
        )

    @property
    def _missing(self) -> tuple[int, ...]:
        present = set(self.survivors)
        return tuple(site for site in self._members if site not in present)

    def _expect(
        self,
        site: int,
        message: Upload | OpenReply | SurvivorsReply | RevealReply,
        so_far: Mapping[int, object],
    ) -> None:
        """Is this the message that is waited for, of that site, of this round, for the first time?"""
        step = self.step.value
        _require(step, type(message) is STEPS[self.step][0], "a message of this step")
        _require(step, message.site == site, f"a message of site {site}")
        _require(step, message.transcript == self.transcript, "the transcript of this round")
        _require(
            step,
            site in (self._members if self.step is Step.UPLOADS else self.survivors),
            "a site that takes part",
        )
        _require(step, site not in so_far, "one message of each site")

    def _rest(self) -> dict[int, Message]:
        return {}

    def _go(self, step: Step) -> None:
        assert step in STEPS[self.step][1]  # noqa: S101  the methods follow the table
        self.step = step

    def _abandon(self, lack: str) -> dict[int, Message]:
        self._go(Step.ABANDONED)
        self._lack = lack
        return {}


_CLOSE = {
    Step.UPLOADS: CoordinatorRound._close_uploads,
    Step.OPENING: CoordinatorRound._close_opening,
    Step.SURVIVORS: CoordinatorRound._close_survivors,
    Step.REVEALS: CoordinatorRound._close_reveals,
    Step.DONE: CoordinatorRound._rest,
    Step.ABANDONED: CoordinatorRound._rest,
}


def _require(step: str, condition: bool, expected: str) -> None:
    if not condition:
        raise AggregationError(step, f"expected {expected}")
