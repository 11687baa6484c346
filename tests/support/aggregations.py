"""Federations for tests of secure aggregation, whose every message goes over the wire, and what a cheat could unmask."""

import enum
import functools
import itertools
from collections import defaultdict
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import pytest

from privacy.errors import AggregationError, ProtocolError
from privacy.keystream import derive_key
from privacy.secure_aggregation import keys, shamir
from privacy.secure_aggregation.coordinator import CoordinatorRound, session_members
from privacy.secure_aggregation.messages import (
    OpenReply,
    OpenRequest,
    RevealReply,
    RevealRequest,
    RoundRequest,
    SetupRequest,
    SurvivorsReply,
    SurvivorsRequest,
    Upload,
    message_of,
)
from privacy.secure_aggregation.site import (
    Federation,
    SiteState,
    join,
    open_all,
    reveal,
    setup,
    sign_survivors,
    upload,
)
from privacy.secure_aggregation.thresholds import Thresholds
from privacy.signing import SigningKey

BITS, DIMENSION = 32, 5
ROOT = b"tests of secure aggregation,here"


def secret(*labels):
    """32 bytes for one purpose of one test."""
    return derive_key(ROOT, *labels)


@functools.cache
def identity(number):
    return SigningKey.from_seed(secret("identity", number))


def thresholds_of(sites, colluding, missing, *, least=True):
    """The constants for D missing sites, t and tau the least that are sound, or both m as studies choose them.

    Raises PrivacyError where there are none.
    """
    survivors = sites - missing
    quorum = (sites + colluding) // 2 + 1 if least else survivors
    threshold = max(sites + colluding - survivors, sites + colluding - quorum) + 1
    threshold = threshold if least else survivors
    return Thresholds(
        sites=sites, colluding=colluding, survivors=survivors, threshold=threshold, quorum=quorum,
        shares=survivors - colluding,
    )  # fmt: skip


@functools.cache
def federation_of(
    sites=5, colluding=1, missing=1, *, rounds=8, study="study", roster="roster", least=True
):
    return Federation(
        study=secret(study), roster=secret(roster), rounds=rounds,
        identities=tuple(identity(each).public for each in range(1, sites + 1)),
        thresholds=thresholds_of(sites, colluding, missing, least=least),
    )  # fmt: skip


def vector_of(site, round_, dimension=DIMENSION):
    """The site's input to a round, int64."""
    words = np.frombuffer(secret("vector", site, round_) * (dimension // 8 + 1), "<i4")
    return words[:dimension].astype(np.int64) >> 4


def exact_sum(sites, round_, dimension=DIMENSION):
    return sum(vector_of(each, round_, dimension) for each in sites)


class Site:
    """A site: bytes in, bytes out. It keeps its state when it refuses, and `sent` is all that it ever said of rounds."""

    def __init__(self, federation, number, state=None, sent=()):
        self.federation, self.number = federation, number
        self.state = state or SiteState(site=number)
        self.sent = list(sent)
        self.bits, self.dimension = BITS, DIMENSION

    def copy(self):
        """The same site, which goes on by itself: states are values."""
        return Site(self.federation, self.number, self.state, self.sent)

    def sign(self, tag, message):
        return identity(self.number).sign(tag, message)

    def answer(self, data):
        request = message_of(data)
        self.state, reply = self._answer(request)
        if not isinstance(request, SetupRequest):
            self.sent.append((request, reply))
        return reply.to_bytes()

    def input(self, round_):
        return vector_of(self.number, round_, self.dimension)

    def _answer(self, request):
        at, state = self.federation, self.state
        match request:
            case SetupRequest():
                seed = secret("x25519", self.number, request.nonce)
                epoch = secret("epoch", self.number, request.nonce)[:16]
                return setup(at, state, request, seed=seed, epoch=epoch, sign=self.sign)
            case RoundRequest():
                joined = join(at, state, request, bits=self.bits, dimension=self.dimension)
                seed = secret("round", self.number, joined.transcript)
                return upload(
                    at, state, joined, self.input(request.round), bits=self.bits, seed=seed
                )
            case OpenRequest():
                return open_all(state, request)
            case SurvivorsRequest():
                return sign_survivors(at, state, request, sign=self.sign)
            case RevealRequest():
                return reveal(at, state, request)
        raise ProtocolError(f"Expected a request, found a {type(request).__name__}")


def announced_by(sites, *, nonce=bytes(16)):
    """Trip 0: what the sites announce for a session."""
    at = sites[0].federation
    request = SetupRequest(study=at.study, roster=at.roster, nonce=nonce).to_bytes()
    return [message_of(each.answer(request)) for each in sites]


@functools.cache
def _begun(federation, numbers):
    sites = [Site(federation, each) for each in numbers]
    members = session_members(federation, announced_by(sites))
    return members, tuple(each.state for each in sites)


def begun(sites=5, colluding=1, missing=1, *, without=(), **more):
    """(federation, sites by number, members of a session that may begin): set up once, and copied."""
    federation = federation_of(sites, colluding, missing, **more)
    numbers = tuple(each for each in range(1, sites + 1) if each not in without)
    members, states = _begun(federation, numbers)
    return federation, {each.site: Site(federation, each.site, each) for each in states}, members


def asked(federation, members, round_=0, *, payload=b"model"):
    """The coordinator of one round."""
    return CoordinatorRound(
        federation, members, round=round_, payload=payload, bits=BITS, dimension=DIMENSION
    )


TAKE = {
    Upload: CoordinatorRound.uploaded,
    OpenReply: CoordinatorRound.opened,
    SurvivorsReply: CoordinatorRound.signed,
    RevealReply: CoordinatorRound.revealed,
}


def take(coordinator, site, data):
    message = message_of(data)
    if type(message) not in TAKE:
        raise ProtocolError(f"Expected a reply, found a {type(message).__name__}")
    TAKE[type(message)](coordinator, site, message)


def run_trip(coordinator, sites, requests, *, lost=(), wire=lambda _to, _site, data: data):
    """One trip: requests there and replies back. A refusal loses one site's reply, as silence does.

    `wire(to, site, data)` is what arrives of `data`, on its way to "site" or to "coordinator".
    """
    refusals = []
    for number, request in requests.items():
        if number in lost:
            continue
        try:
            reply = sites[number].answer(wire("site", number, request.to_bytes()))
            take(coordinator, number, wire("coordinator", number, reply))
        except ProtocolError as error:
            refusals.append(error)
    return refusals


def run_round(coordinator, sites, *, lost=((), (), ()), **more):
    """The whole round, with the sites of `lost` silent in trips A, B and C. Returns all refusals."""
    requests = dict.fromkeys(
        (each.site for each in coordinator.request.members), coordinator.request
    )
    refusals = []
    for silent in lost:
        refusals += run_trip(coordinator, sites, requests, lost=silent, **more)
        requests = coordinator.close()
    assert not requests
    return refusals


@dataclass
class View:
    """What a cheating coordinator and its colluding sites hold: all that honest sites said, and the colluders' states.

    A mask is known by its commitment, so that this needs no secret that the coordinator does not have.

    Attributes:
        honest: sites. colluders: states of colluding sites, each as it was during a round.
    """

    honest: list
    colluders: list = field(default_factory=list)

    def inputs_with(self, victim, round_=0):
        """How many honest inputs the smallest sum has that can be learned and holds this site's; None without any."""
        uploads = [
            (request, reply)
            for site in self.honest
            for request, reply in site.sent
            if isinstance(reply, Upload)
        ]
        known = self._known(uploads)
        rows = [self._masks_of(*each) for each in uploads]
        columns = sorted({each for row in rows for each in row} - known)
        matrix = np.array([[row.get(each, 0) for each in columns] for row in rows], float)
        own = [
            place
            for place, (request, reply) in enumerate(uploads)
            if reply.site == victim and request.round == round_
        ]
        others = [each for each in range(len(uploads)) if each not in own]
        for size in range(len(others) + 1):
            for chosen in itertools.combinations(others, size):
                if any(_spans(matrix[list(chosen)], matrix[each]) for each in own):
                    return size + 1
        return None

    @staticmethod
    def _masks_of(request, reply):
        members = [each.site for each in request.members]
        others = [each for each in members if each != reply.site]
        signs = {
            committed: 1 if reply.site < other else -1
            for other, committed in zip(others, reply.pair_masks, strict=True)
        }
        return signs | {reply.self_mask: 1}

    def _known(self, uploads):
        """Commitments of the masks that can be taken off."""
        members = {
            reply.transcript: tuple(each.site for each in request.members)
            for request, reply in uploads
        }
        known, shares = set(), defaultdict(dict)
        for site in self.honest:
            for request, reply in site.sent:
                if isinstance(reply, OpenReply | RevealReply):
                    known |= _told(members[reply.transcript], request, reply, shares)
        for state in self.colluders:
            known |= _held(state, uploads, shares)
        threshold = self.honest[0].federation.thresholds.threshold
        for (transcript, dealer), those in shares.items():
            if len(those) >= threshold:
                found = shamir.combine(dict(itertools.islice(those.items(), threshold)))
                known.add(keys.commitment("self", transcript, found, dealer))
        return known


def _told(members, request, reply, shares):
    """What an honest site has told: masks with the missing, and into `shares` its shares of self-masks."""
    dealers = getattr(request, "survivors", members)
    for dealer, share in zip(dealers, reply.shares, strict=True):
        shares[reply.transcript, dealer][reply.site] = share
    missing = [each for each in members if each not in dealers]
    pairs = zip(missing, getattr(reply, "seeds", ()), strict=True)
    return {_pair(reply.transcript, seed, reply.site, other) for other, seed in pairs}


def _held(state, uploads, shares):
    """What a colluding site knows by itself: its masks with everybody, and into `shares` what is sealed for it."""
    current, session = state.round, state.session
    for request, reply in uploads:
        others = [each.site for each in request.members if each.site != reply.site]
        if reply.transcript == current.transcript and state.site in others:
            sealed = reply.ciphertexts[others.index(state.site)]
            shares[reply.transcript, reply.site][state.site] = keys.open_share(
                session.chains[reply.site], reply.transcript, reply.site, state.site, sealed, step="collusion"
            )  # fmt: skip
    pairs = current.pair_seeds.items()
    return {_pair(current.transcript, seed, state.site, other) for other, seed in pairs}


def _pair(transcript, seed, one, other):
    return keys.commitment("pair", transcript, seed, *sorted((one, other)))


def _spans(rows, row):
    """Is it a linear combination of the others? Of numbers 1, 0 and -1, a few dozen of them: ranks are exact."""
    if not row.any():
        return True
    rank = np.linalg.matrix_rank(rows) if len(rows) else 0
    return bool(len(rows)) and np.linalg.matrix_rank(np.vstack([rows, row])) == rank


def require_hidden(view, *victims, round_=0):
    """Nothing can be learned of a victim's input but a sum over at least m - c honest sites."""
    at = view.honest[0].federation.thresholds
    for victim in victims:
        found = view.inputs_with(victim, round_)
        assert found is None or found >= at.survivors - at.colluding, (
            f"a sum with {found} honest inputs"
        )


ALL = (1, 2, 3, 4, 5)
HONEST = (1, 2, 3, 4)


class Scene:
    """Five sites after trip A of round 0, of which the last one colludes: n = 5, c = 1, m = 4, t = 3, tau = 4."""

    def __init__(self, *, round_=0, sites=None):
        self.federation, fresh, self.members = begun()
        self.sites = sites or fresh
        self.request = asked(self.federation, self.members, round_).request
        for each in self.sites.values():
            each.answer(self.request.to_bytes())
        self.uploads = {number: each.sent[-1][1] for number, each in self.sites.items()}
        self.transcript = self.uploads[1].transcript
        self.honest = [self.sites[each] for each in HONEST]
        self.colluder = self.sites[5].state

    def again(self):
        """The same scene once more, without repeating trip A."""
        twin = copy(self)
        twin.sites = {number: each.copy() for number, each in self.sites.items()}
        twin.honest = [twin.sites[each] for each in HONEST]
        return twin

    def view(self):
        return View(self.honest, [self.colluder])

    def sealed_for(self, site, senders):
        return tuple(
            self.uploads[each].ciphertexts[[o for o in ALL if o != each].index(site)]
            for each in senders
            if each != site
        )

    def open_request(self, site):
        return OpenRequest(
            transcript=self.transcript, ciphertexts=self.sealed_for(site, ALL)
        ).to_bytes()

    def survivors_request(self, survivors):
        return SurvivorsRequest(transcript=self.transcript, survivors=survivors).to_bytes()

    def reveal_request(self, site, survivors, signatures):
        return RevealRequest(
            transcript=self.transcript, survivors=survivors, signatures=tuple(sorted(signatures.items())),
            ciphertexts=self.sealed_for(site, survivors),
        ).to_bytes()  # fmt: skip

    def forged(self, survivors, signer):
        """A colluder signs whatever is asked."""
        return identity(signer).sign("survivors", message_of(self.survivors_request(survivors)).signed)  # fmt: skip


def attempt(site, data):
    """The reply, or None where the site refuses."""
    try:
        return message_of(site.answer(data))
    except AggregationError:
        return None


def values_of(thing):
    """Everything inside a state, by value: secrets, keys and arrays too, which do not compare as others do."""
    match thing:
        case np.ndarray():
            return thing.dtype.str, thing.shape, thing.tobytes()
        case dict():
            return [(values_of(key), values_of(each)) for key, each in thing.items()]
        case tuple() | list():
            return [values_of(each) for each in thing]
        case _:
            return _value_of(thing)


def _value_of(thing):
    if hasattr(thing, "private_bytes_raw"):
        return thing.private_bytes_raw()
    if isinstance(thing, keys.Secret):
        return thing.value
    if isinstance(thing, enum.Enum) or not type(thing).__module__.startswith("privacy."):
        return thing
    return type(thing).__name__, values_of(vars(thing))


@contextmanager
def refused(*things, step, match, error=AggregationError):
    """What is in here is refused at this step, and leaves things (sites, coordinators) as they were, by value."""
    before = [values_of(getattr(each, "state", each)) for each in things]
    with pytest.raises(error, match=match) as refusal:
        yield
    assert refusal.value.step == step
    assert refusal.value.message.startswith(f"{step}: expected")
    assert [values_of(getattr(each, "state", each)) for each in things] == before
