"""One site's part of secure aggregation, for one study: a message in, the next state and a message out.

    WAITING --RoundRequest--> UPLOADED --OpenRequest----------------------------> OPENED
                                       --SurvivorsRequest--> SIGNED --RevealRequest--> OPENED
                                       --RevealRequest-----------------------------> OPENED

**What a site does, whatever the coordinator says.** It adds one mask to one vector: in a round it uploads once, and
every mask is bound to the transcript, which is all that it was told of the round: study, roster, number, constants,
payload (the model), every member's key. Once a round, it either takes the fast path (having seen that all members have
uploaded under this transcript: only they could seal the shares it opens) or keeps to one set of survivors, never both.
It reveals what undoes masks for the set that tau sites have signed, and signs no other one. What it reveals
is of one round: a share of each survivor's self-mask, and its mask with each missing site; never both for one site.

**A message that is refused raises, and nothing has changed**: states are values, and the caller keeps the old one. The
caller also keeps the order: an upload is made after its charge is on the disk, and sent after its bytes are; a reply
of the second trip is sent after the disk says which path was taken (`client/masked.py`). A message that is repeated
word for word is answered with the same reply.

States hold secrets: they live in memory alone, and a site that has restarted asks for a new session.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.errors import AggregationError, NoSessionError, ProtocolError
from privacy.keystream import Keystream, derive_key
from privacy.secure_aggregation import keys, masks, shamir
from privacy.secure_aggregation.messages import (
    Message,
    OpenReply,
    OpenRequest,
    RevealReply,
    RevealRequest,
    RoundRequest,
    SetupKey,
    SetupRequest,
    SurvivorsReply,
    SurvivorsRequest,
    Upload,
)
from privacy.secure_aggregation.thresholds import Thresholds
from privacy.signing import Tag, verify

__all__ = [
    "TRANSITIONS", "Federation", "Joined", "Phase", "SiteState", "join", "open_all", "require_signature", "reveal",
    "setup", "setup_key_of", "sign_survivors", "transcript_of", "upload",
]  # fmt: skip


Reply = TypeVar("Reply", bound=Message)


class Phase(enum.Enum):
    """How far a site is in the round that it takes part in."""

    WAITING = "waiting"
    UPLOADED = "uploaded"
    SIGNED = "signed"
    OPENED = "opened"


TRANSITIONS: Mapping[tuple[Phase, type[Message]], Phase] = {
    (Phase.WAITING, RoundRequest): Phase.UPLOADED,
    (Phase.UPLOADED, OpenRequest): Phase.OPENED,
    (Phase.UPLOADED, SurvivorsRequest): Phase.SIGNED,
    (Phase.SIGNED, RevealRequest): Phase.OPENED,
    # It was not asked to sign, or its signature was lost; tau others have signed, and it will sign no other set.
    (Phase.UPLOADED, RevealRequest): Phase.OPENED,
    # A later round may begin at any time: the open one is given up, and its secrets are forgotten.
    (Phase.UPLOADED, RoundRequest): Phase.UPLOADED,
    (Phase.SIGNED, RoundRequest): Phase.UPLOADED,
    (Phase.OPENED, RoundRequest): Phase.UPLOADED,
}
"""All that can happen in a round; a `SetupRequest` is answered in every phase and changes none."""

_STEPS: Mapping[type[Message], str] = {
    SetupRequest: "setup", RoundRequest: "upload", OpenRequest: "opening", SurvivorsRequest: "survivors",
    RevealRequest: "reveal",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Federation:
    """What everybody knows before a study begins, and nobody takes from a message.

    Attributes:
        study, roster: hashes, 32 bytes. identities: Ed25519 public keys, by place on the roster (site 1 first).
        thresholds: its constants. rounds: how many queries the study may ask.
    """

    study: bytes
    roster: bytes
    identities: tuple[bytes, ...]
    thresholds: Thresholds
    rounds: int

    def __post_init__(self) -> None:
        if len(self.identities) != self.thresholds.sites:
            raise ProtocolError(
                f"Expected {self.thresholds.sites} identities, found {len(self.identities)}"
            )
        if len(set(self.identities)) < len(self.identities):
            raise ProtocolError("Expected identities of which no two are equal")


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A key that was announced and not used yet."""

    nonce: bytes
    private: X25519PrivateKey
    announced: SetupKey


@dataclass(frozen=True, kw_only=True)
class _Session:
    """A chain key with every other member; `position` is the number of the round that they are for."""

    hash: bytes
    members: tuple[int, ...]
    position: int
    chains: Mapping[int, keys.Secret]


@dataclass(frozen=True, kw_only=True, repr=False)
class _Round:
    """The open round, and what this site may have to reveal of it."""

    transcript: bytes
    own_share: bytes
    pair_seeds: Mapping[int, bytes]
    signed: SurvivorsRequest | None = None


@dataclass(frozen=True, kw_only=True)
class SiteState:
    """All that a site remembers between two messages; `next_round` is the least that it has not uploaded to."""

    site: int
    phase: Phase = Phase.WAITING
    next_round: int = 0
    pending: _Pending | None = None
    session: _Session | None = None
    round: _Round | None = None
    last: tuple[Message, Message] | None = None


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A round that this site may upload to: its transcript is what the site charges for, before it computes."""

    request: RoundRequest
    transcript: bytes
    session: _Session


def setup(
    federation: Federation,
    state: SiteState,
    request: SetupRequest,
    *,
    seed: bytes,
    epoch: bytes,
    sign: Callable[[Tag, bytes], bytes],
) -> tuple[SiteState, SetupKey]:
    """Announce a fresh key for the next session. What the site has is kept until that session's first round.

    Arguments:
        seed, epoch: 32 secret and 16 public fresh random bytes.
    """
    _require(
        "setup",
        (request.study, request.roster) == (federation.study, federation.roster),
        "this study and roster",
    )
    if state.pending is not None and state.pending.nonce == request.nonce:
        return state, state.pending.announced
    private = keys.private_key(seed)
    unsigned = SetupKey(
        study=federation.study, roster=federation.roster, site=state.site, epoch=epoch, public=keys.public_key(private),
        signature=bytes(64),
    )  # fmt: skip
    announced = replace(unsigned, signature=sign("setup", unsigned.signed))
    pending = _Pending(nonce=request.nonce, private=private, announced=announced)
    return replace(state, pending=pending), announced


def join(
    federation: Federation, state: SiteState, request: RoundRequest, *, bits: int, dimension: int
) -> Joined:
    """Check all that a site can check before it pays for a round; nothing changes.

    Arguments:
        bits, dimension: of the vector, as the site derives them from study and payload.
    Raises:
        NoSessionError: this site has no key for that session.
        AggregationError: the round is over, or was never to be, or its members are not.
    """
    _next_phase(state, request)
    _require("upload", request.round < federation.rounds, f"a round below {federation.rounds}")
    _require(
        "upload",
        request.round >= state.next_round,
        f"a round from {state.next_round}, as earlier ones are over",
    )
    session = _session_of(federation, state, request)
    transcript = transcript_of(federation, request, bits=bits, dimension=dimension)
    return Joined(request=request, transcript=transcript, session=session)


def upload(
    federation: Federation,
    state: SiteState,
    joined: Joined,
    vector: npt.NDArray[np.int64],
    *,
    bits: int,
    seed: bytes,
) -> tuple[SiteState, Upload]:
    """Mask the vector, and deal shares of the self-mask to all members.

    Arguments:
        vector: the site's answer, int64, shape (d,). seed: 32 fresh secret bytes.
    """
    request, transcript, own = joined.request, joined.transcript, state.site
    _require(
        "upload",
        request.round >= state.next_round,
        f"a round from {state.next_round}, joined since the last one",
    )
    steps = request.round - joined.session.position
    chains = {site: keys.advanced(chain, steps) for site, chain in joined.session.chains.items()}
    session = replace(joined.session, position=request.round, chains=chains)
    self_seed = derive_key(seed, "self-mask")
    shares = shamir.split(
        self_seed, threshold=federation.thresholds.threshold, points=session.members,
        coins=Keystream(derive_key(seed, "shares")),
    )  # fmt: skip
    seeds = {site: keys.pair_seed(chain, transcript, own, site) for site, chain in chains.items()}
    masked = masks.to_ring(vector, bits)
    masks.add_masks(
        masked, [(1, self_seed), *((1 if own < site else -1, each) for site, each in seeds.items())]
    )
    message = Upload(
        transcript=transcript, site=own, vector=masked,
        self_mask=keys.commitment("self", transcript, self_seed, own),
        shares=tuple(keys.commitment("share", transcript, shares[each], own, each) for each in session.members),
        pair_masks=tuple(
            keys.commitment("pair", transcript, each, *sorted((own, site))) for site, each in seeds.items()
        ),
        ciphertexts=tuple(
            keys.seal_share(chain, transcript, own, site, shares[site]) for site, chain in chains.items()
        ),
    )  # fmt: skip
    began = state.session is None or state.session.hash != session.hash
    state = replace(
        state, phase=_next_phase(state, request), next_round=request.round + 1, session=session,
        pending=None if began else state.pending, last=None,
        round=_Round(transcript=transcript, own_share=shares[own], pair_seeds=seeds),
    )  # fmt: skip
    return state, message


def open_all(state: SiteState, request: OpenRequest) -> tuple[SiteState, OpenReply]:
    """The fast path: all have uploaded, as the shares that they have sealed prove; give a share of every self-mask.

    Raises:
        AggregationError: it is another round, one share is missing or not sealed for it, or a set was signed already.
    """
    reply = _said_before(state, request, OpenReply)
    if reply is not None:
        return state, reply
    phase = _next_phase(state, request)
    session, current = _current(state, request)
    shares = _opened(state, session, current, session.members, request.ciphertexts, step="opening")
    reply = OpenReply(transcript=current.transcript, site=state.site, shares=shares)
    return _over(state, phase, session, request, reply), reply


def sign_survivors(
    federation: Federation,
    state: SiteState,
    request: SurvivorsRequest,
    *,
    sign: Callable[[Tag, bytes], bytes],
) -> tuple[SiteState, SurvivorsReply]:
    """Sign one set of survivors, which this site belongs to. Raises AggregationError for any second one."""
    reply = _said_before(state, request, SurvivorsReply)
    if reply is not None:
        return state, reply
    phase = _next_phase(state, request)
    session, current = _current(state, request)
    _require_survivors(federation, state, session, request.survivors, step="survivors")
    reply = SurvivorsReply(
        transcript=current.transcript, site=state.site, signature=sign("survivors", request.signed)
    )
    signed = replace(current, signed=request)
    return replace(state, phase=phase, round=signed, last=(request, reply)), reply


def reveal(
    federation: Federation, state: SiteState, request: RevealRequest
) -> tuple[SiteState, RevealReply]:
    """What undoes the masks of the set that this site has signed, once tau sites have signed that very set.

    Raises:
        AggregationError: it is another set, too few have signed it, or a survivor's share is not sealed for this round.
    """
    reply = _said_before(state, request, RevealReply)
    if reply is not None:
        return state, reply
    phase = _next_phase(state, request)
    session, current = _current(state, request)
    agreed = SurvivorsRequest(transcript=current.transcript, survivors=request.survivors)
    _require(
        "reveal", current.signed in (None, agreed), "the set of survivors that this site has signed"
    )
    _require_survivors(federation, state, session, request.survivors, step="reveal")
    _require_signatures(federation, agreed, request.signatures)
    shares = _opened(state, session, current, request.survivors, request.ciphertexts, step="reveal")
    missing = [site for site in session.members if site not in request.survivors]
    reply = RevealReply(
        transcript=current.transcript, site=state.site, shares=shares,
        seeds=tuple(current.pair_seeds[site] for site in missing),
    )  # fmt: skip
    return _over(state, phase, session, request, reply), reply


def transcript_of(
    federation: Federation, request: RoundRequest, *, bits: int, dimension: int
) -> bytes:
    """Everything that sites must agree on for their masks to cancel, 32 bytes."""
    at = federation.thresholds
    return keys.digest_of(
        "transcript", federation.study, federation.roster, request.round, keys.digest_of("payload", request.payload),
        at.sites, at.colluding, at.survivors, at.threshold, at.quorum, at.shares, bits, dimension,
        keys.digest_of("members", *request.members),
    )  # fmt: skip


def setup_key_of(federation: Federation, announced: SetupKey, *, step: str) -> SetupKey:
    """A key that the named site of the roster has signed for this study. Raises AggregationError for any other."""
    _require(
        step, (announced.study, announced.roster) == (federation.study, federation.roster),
        "keys of this study and roster",
    )  # fmt: skip
    _require(step, 1 <= announced.site <= len(federation.identities), "a site of the roster")
    _require_one_spelling(announced.public, step=step)
    try:
        verify(
            federation.identities[announced.site - 1],
            "setup",
            announced.signed,
            announced.signature,
        )
    except ProtocolError as error:
        raise AggregationError(
            step, f"expected a key that site {announced.site} has signed"
        ) from error
    return announced


def _require_one_spelling(public: bytes, *, step: str) -> None:
    """A coordinate has several spellings, and "no key twice" is about keys. (What protects are the identities.)"""
    _require(step, int.from_bytes(public, "little") < 2**255 - 19, "a key in its one spelling")


def _session_of(federation: Federation, state: SiteState, request: RoundRequest) -> _Session:
    """The session of these members: the one that goes on, or a new one, if this site's announced key is among them."""
    _require("upload", len(request.members) <= len(federation.identities), "members of the roster")
    hashed = keys.digest_of("session", *request.members)
    if state.session is not None and state.session.hash == hashed:
        return state.session
    numbers = tuple(each.site for each in request.members)
    _require(
        "upload", list(numbers) == sorted(set(numbers)), "members in ascending order, each once"
    )
    _require(
        "upload",
        len(numbers) >= federation.thresholds.survivors,
        f"at least {federation.thresholds.survivors} members",
    )
    _require(
        "upload",
        len({each.public for each in request.members}) == len(numbers),
        "keys of which no two are equal",
    )
    pending = state.pending
    if pending is None or pending.announced not in request.members:
        raise NoSessionError(
            "upload", "expected a session with a key that this site has announced and still holds"
        )
    for each in request.members:
        setup_key_of(federation, each, step="upload")
    chains = {
        each.site: keys.first_chain_key(
            keys.agreed(pending.private, each), session=hashed, one=pending.announced, other=each
        )
        for each in request.members
        if each.site != state.site
    }
    return _Session(hash=hashed, members=numbers, position=0, chains=chains)


def _opened(
    state: SiteState, session: _Session, current: _Round, dealers: tuple[int, ...], sealed: tuple[bytes, ...], *,
    step: str,
) -> tuple[bytes, ...]:  # fmt: skip
    """This site's share of every dealer's self-mask, its own included."""
    others = [site for site in dealers if site != state.site]
    _require(step, len(sealed) == len(others), f"{len(others)} shares")
    shares = {state.site: current.own_share}
    for site, ciphertext in zip(others, sealed, strict=True):
        shares[site] = keys.open_share(
            session.chains[site], current.transcript, site, state.site, ciphertext, step=step
        )
    return tuple(shares[site] for site in dealers)


def _over(
    state: SiteState, phase: Phase, session: _Session, request: Message, reply: Message
) -> SiteState:
    """The round is over: its secrets are forgotten, and the chains have gone on."""
    chains = {site: keys.advanced(chain, 1) for site, chain in session.chains.items()}
    ahead = replace(session, position=session.position + 1, chains=chains)
    return replace(state, phase=phase, session=ahead, round=None, last=(request, reply))


def _require_survivors(
    federation: Federation, state: SiteState, session: _Session, survivors: tuple[int, ...], *, step: str
) -> None:  # fmt: skip
    least = federation.thresholds.survivors
    _require(
        step, list(survivors) == sorted(set(survivors)), "survivors in ascending order, each once"
    )
    _require(
        step,
        set(survivors) < set(session.members),
        "survivors that are members, and not all of them",
    )
    _require(step, len(survivors) >= least, f"at least {least} survivors")
    _require(step, state.site in survivors, "a set that this site belongs to, as it has uploaded")


def _require_signatures(
    federation: Federation, agreed: SurvivorsRequest, signatures: tuple[tuple[int, bytes], ...]
) -> None:
    quorum, signers = federation.thresholds.quorum, [site for site, _ in signatures]
    _require(
        "reveal",
        signers == sorted(set(signers)),
        "signatures in ascending order of sites, each once",
    )
    _require("reveal", set(signers) <= set(agreed.survivors), "signatures of survivors")
    _require("reveal", len(signers) >= quorum, f"at least {quorum} signatures")
    for site, signature in signatures:
        require_signature(federation, agreed, site, signature, step="reveal")


def require_signature(
    federation: Federation, agreed: SurvivorsRequest, site: int, signature: bytes, *, step: str
) -> None:
    """Raise AggregationError unless that site has signed this very set of survivors."""
    try:
        verify(federation.identities[site - 1], "survivors", agreed.signed, signature)
    except ProtocolError as error:
        raise AggregationError(
            step, f"expected a signature of site {site} of this very set"
        ) from error


def _next_phase(state: SiteState, request: Message) -> Phase:
    """Where the table leads. Raises AggregationError where it leads nowhere."""
    phase = TRANSITIONS.get((state.phase, type(request)))
    if phase is None:
        raise AggregationError(
            _STEPS[type(request)],
            f"expected a message for a site that is {state.phase.value} in its round",
        )
    return phase


def _current(
    state: SiteState, request: OpenRequest | SurvivorsRequest | RevealRequest
) -> tuple[_Session, _Round]:
    session, current = state.session, state.round
    assert session is not None  # noqa: S101  the table leads here from an upload alone
    assert current is not None  # noqa: S101
    _require(
        _STEPS[type(request)],
        request.transcript == current.transcript,
        "the transcript of the open round",
    )
    return session, current


def _said_before(state: SiteState, request: Message, kind: type[Reply]) -> Reply | None:
    """The reply to this very message, if it was the last one."""
    if state.last is not None and state.last[0] == request and isinstance(state.last[1], kind):
        return state.last[1]
    return None


def _require(step: str, condition: bool, expected: str) -> None:
    if not condition:
        raise AggregationError(step, f"expected {expected}")
