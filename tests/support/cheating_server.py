"""A coordinator and corrupt sites that do what they like with honest sites, which run the shipped state machines.

`Sites` answers for the honest ones: `setup`, `join`, `upload`, `open_all`, `sign_survivors` and `reveal` of
`privacy/secure_aggregation/site.py`, with masks that are symbols. States are values and their secrets are derived from
what a site has lived through, so the answer of one state to one message is made once, for all strategies that come by.

`Server` is one strategy as it goes on: what it may send, and what it knows by then. It holds all keys of corrupt sites,
seals what they would seal, opens what is sealed to them, signs whatever they could sign, and may give them any public
key. Everything it knows is bytes: seeds, and shares that it combines. A strategy is a list of moves, so it can be run
again, and be made shorter for as long as it still finds something.
"""

import functools
import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace

from symbolic_masks import BITS, Expansion, circuits, symbolic, unit_input

from privacy.errors import ProtocolError
from privacy.secure_aggregation import keys, messages, shamir, site
from privacy.signing import SigningKey

STUDY, ROSTER = bytes([1]) * 32, bytes([2]) * 32
ROUNDS = 8
OWN, SECOND, SAME, ALIAS = "own key", "second key", "the victim's key", "an alias of the victim's"
VICTIM = 1
MODELS = (b"model A", b"model B")


def secret(*what):
    return hashlib.sha256(repr(what).encode()).digest()


@dataclass(frozen=True)
class View:
    """What a round looks like to those who are shown this: members, which keys these have, and the model.

    `variants` says, by site, which key is a corrupt member's, if it is not its own one, and the place of an honest one's
    among those that it has announced, if it is not the last.
    """

    members: tuple[int, ...]
    model: bytes
    variants: tuple[tuple[int, str | int], ...] = ()


@dataclass(frozen=True, eq=False)
class Node:
    """An honest site at a point of its life; `age` counts what it has answered."""

    state: site.SiteState
    age: int = 0


@dataclass(frozen=True, eq=False)
class Sent:
    """An honest upload as its symbols, and what corrupt sites make of it at once.

    `seed` is what the site drew; `forged` is what they would seal to its site; `opened` their shares of its self-mask; `shared` the seeds that its
    site has in common with them.
    """

    site: int
    request: messages.RoundRequest
    message: messages.Upload
    row: dict[bytes, int]
    seed: bytes
    forged: dict[int, bytes] = field(default_factory=dict)
    opened: dict[int, bytes] = field(default_factory=dict)
    shared: frozenset[bytes] = frozenset()

    @property
    def transcript(self):
        return self.message.transcript

    @property
    def kind(self):
        """What must not be mixed: rounds and models."""
        return self.request.round, self.request.payload

    @functools.cached_property
    def members(self):
        return tuple(each.site for each in self.request.members)

    @functools.cached_property
    def sealed(self):
        """Its ciphertexts, by recipient."""
        others = [each for each in self.members if each != self.site]
        return dict(zip(others, self.message.ciphertexts, strict=True))


class Sites:
    """Honest sites of one roster, and the corrupt ones' keys, which are the last of it."""

    def __init__(self, thresholds, *, corrupt):
        count = thresholds.sites
        self.identities = {
            number: SigningKey.from_seed(secret("identity", number))
            for number in range(1, count + 1)
        }
        self.federation = site.Federation(
            study=STUDY, roster=ROSTER, thresholds=thresholds, rounds=ROUNDS,
            identities=tuple(each.public for each in self.identities.values()),
        )  # fmt: skip
        self.thresholds = thresholds
        self.corrupt = tuple(range(count - corrupt + 1, count + 1))
        self.honest = tuple(range(1, count - corrupt + 1))
        self.refused = Counter()
        self.expansion = Expansion()
        self._answers = {}
        self.forget(beyond=-1)

    def forget(self, *, beyond):
        """Answers, once they are more than so many: no strategy that has ended needs them."""
        if len(self._answers) <= beyond:
            return
        self._answers = {}
        self.roots = {number: Node(site.SiteState(site=number)) for number in self.honest}
        self.corrupt_key = functools.cache(self._corrupt_key)
        self.signature = functools.cache(self._signature)

    def answer(self, node, request):
        """(next node, reply), or (this node, None) where the site refuses."""
        found = self._answers.get((node, request))
        if found is None:
            try:
                found = self._answered(node, request)
            except ProtocolError as error:
                self.refused[f"{type(request).__name__}, {error}"] += 1
                found = node, None
            self._answers[node, request] = found
        return found

    def _answered(self, node, request):
        state, federation = node.state, self.federation
        identity = self.identities[state.site]
        fresh = secret("fresh", state.site, node.age, request.to_bytes())
        if isinstance(request, messages.SetupRequest):
            epoch = secret("epoch", fresh)[:16]
            after, reply = site.setup(
                federation, state, request, seed=fresh, epoch=epoch, sign=identity.sign
            )
        elif isinstance(request, messages.RoundRequest):
            after, reply = self._uploaded(state, request, fresh)
        elif isinstance(request, messages.OpenRequest):
            after, reply = site.open_all(state, request)
        elif isinstance(request, messages.SurvivorsRequest):
            after, reply = site.sign_survivors(federation, state, request, sign=identity.sign)
        else:
            after, reply = site.reveal(federation, state, request)
        return (node if after is state else Node(after, node.age + 1)), reply

    def _uploaded(self, state, request, fresh):
        dimension = 1 + len(request.members)  # its input, its self-mask, and a mask with each other
        joined = site.join(self.federation, state, request, bits=BITS, dimension=dimension)
        with symbolic(self.expansion):
            after, message = site.upload(
                self.federation, state, joined, unit_input(dimension), bits=BITS, seed=fresh
            )
        sent = Sent(state.site, request, message, self.expansion.row_of(message.vector), fresh)
        return after, self._spied(sent)

    def _spied(self, sent):
        """What each corrupt member that holds the private half of its key has in common with the sender."""
        shared = set()
        own = next(each for each in sent.request.members if each.site == sent.site)
        session = keys.digest_of("session", *sent.request.members)
        for member in sent.request.members:
            private = self._corrupt_private(member)
            if private is None:
                continue
            agreed = keys.agreed(private, own)
            chain = keys.first_chain_key(agreed, session=session, one=member, other=own)
            chain = keys.advanced(chain, sent.request.round)
            about = (chain, sent.transcript, sent.site, member.site)
            shared.add(keys.pair_seed(*about))
            sent.opened[member.site] = keys.open_share(
                *about, sent.sealed[member.site], step="spying"
            )
            sent.forged[member.site] = keys.seal_share(
                chain, sent.transcript, member.site, sent.site, bytes(shamir.SHARE_BYTES)
            )
        return replace(sent, shared=frozenset(shared))

    def _corrupt_private(self, member):
        if member.site not in self.corrupt:
            return None
        for variant in (OWN, SECOND):
            private = keys.private_key(secret(variant, member.site))
            if keys.public_key(private) == member.public:
                return private
        return None

    def _corrupt_key(self, number, variant, victim):
        """A key that a corrupt site has signed: a good one, the victim's, or one that agrees as the victim's does.

        The highest bit of an X25519 key is ignored (RFC 7748, section 5), so each key has a second written form.
        """
        if variant in (OWN, SECOND):
            public = keys.public_key(keys.private_key(secret(variant, number)))
        else:
            highest = bytes([victim[-1] ^ (0x80 if variant == ALIAS else 0)])
            public = victim[:-1] + highest
        unsigned = messages.SetupKey(
            study=STUDY, roster=ROSTER, site=number, epoch=secret("epoch", number, variant)[:16], public=public,
            signature=bytes(64),
        )  # fmt: skip
        signature = self.identities[number].sign("setup", unsigned.signed)
        return replace(unsigned, signature=signature)

    def _signature(self, number, request):
        return self.identities[number].sign("survivors", request.signed)


class Server:
    """One strategy, from its beginning. A move gives whether the site has answered."""

    def __init__(self, sites):
        self.sites = sites
        self.nodes = dict(sites.roots)
        self.announced = {number: [] for number in sites.honest}
        self.current = {}
        self.sent = []
        self.known = set()
        self._shares = {}
        self._signatures = {}

    def copy(self):
        """To go on from here in more than one way."""
        other = Server(self.sites)
        other.nodes, other.current, other.sent = (
            dict(self.nodes),
            dict(self.current),
            list(self.sent),
        )
        other.known = set(self.known)
        other.announced = {number: list(each) for number, each in self.announced.items()}
        other._shares = {sent: dict(each) for sent, each in self._shares.items()}
        other._signatures = {request: dict(each) for request, each in self._signatures.items()}
        return other

    def play(self, moves):
        for name, *arguments in moves:
            getattr(self, name)(*arguments)
        return self

    def setup(self, number, nonce):
        request = messages.SetupRequest(study=STUDY, roster=ROSTER, nonce=bytes([nonce]) * 16)
        reply = self._ask(number, request)
        if reply is not None and reply not in self.announced[number]:
            self.announced[number].append(reply)
        return reply is not None

    def restart(self, number):
        """Its memory is lost; which rounds it has answered it reads from its ledger."""
        state = self.nodes[number].state
        fresh = site.SiteState(site=number, next_round=state.next_round)
        self.nodes[number] = Node(fresh, self.nodes[number].age + 1)

    def ask(self, number, index, view):
        """Show a site a round, and take its upload."""
        request = self._request(index, view)
        sent = None if request is None else self._ask(number, request)
        if sent is None:
            return False
        self.current[number] = sent
        self.sent.append(sent)
        self.known |= sent.shared
        for recipient, share in sent.opened.items():
            self._learn(sent, recipient, share)
        return True

    def open(self, number, under=None):
        """Ask for shares of all self-masks, of this site's own transcript or of that which another has."""
        sent = self.current.get(under or number)
        if sent is None:
            return False
        sealed = self._sealed(number, sent, sent.members)
        if sealed is None:
            return False
        request = messages.OpenRequest(
            transcript=sent.transcript, ciphertexts=tuple(text for text, _ in sealed.values())
        )
        reply = self._ask(number, request)
        return self._told(number, sealed, sent.members, reply)

    def sign(self, number, survivors, under=None):
        """Have a set of survivors signed."""
        sent = self.current.get(under or number)
        if sent is None:
            return False
        request = messages.SurvivorsRequest(transcript=sent.transcript, survivors=survivors)
        reply = self._ask(number, request)
        if reply is not None:
            self._signatures.setdefault(request, {})[number] = reply.signature
        return reply is not None

    def reveal(self, number, survivors, under=None):
        """Ask for all that unmasks a set, with every signature there is; then with made-up ones for the rest."""
        sent = self.current.get(under or number)
        sealed = None if sent is None else self._sealed(number, sent, survivors)
        if sealed is None:
            return False
        for signatures in self._signature_lists(sent, survivors):
            request = messages.RevealRequest(
                transcript=sent.transcript, survivors=survivors, signatures=signatures,
                ciphertexts=tuple(text for text, _ in sealed.values()),
            )  # fmt: skip
            reply = self._ask(number, request)
            if self._told(number, sealed, survivors, reply):
                self.known.update(reply.seeds)
                return True
        return False

    def sums(self):
        """All that it can learn: lists of uploads of which a combination holds no unknown mask, each without a part that is
        one as well."""
        self.known.update(filter(None, map(self._self_mask, self._shares)))
        found = circuits([sent.row for sent in self.sent], self.known)
        return [[self.sent[place] for place in circuit] for circuit in found]

    def findings(self, sums=None):
        """What breaks the promise, in words, of all that it can learn."""
        at = self.sites.thresholds
        least, found = at.survivors - at.colluding, []
        for uploads in self.sums() if sums is None else sums:
            honest = len({sent.site for sent in uploads})
            if len({sent.kind for sent in uploads}) > 1:
                found.append("models or rounds are mixed")
            if honest < least:
                found.append(f"{honest} honest inputs, not {least}")
            if honest < at.shares:
                found.append(f"{honest} honest shares of noise, not {at.shares}")
        return found

    def _ask(self, number, request):
        self.nodes[number], reply = self.sites.answer(self.nodes[number], request)
        return reply

    def _request(self, index, view):
        variants = dict(view.variants)
        victim = self._announced_by(VICTIM, variants.get(VICTIM, -1))
        members = [
            self.sites.corrupt_key(number, variants.get(number, OWN), victim.public if victim else bytes(32))
            if number in self.sites.corrupt
            else self._announced_by(number, variants.get(number, -1))
            for number in view.members
        ]  # fmt: skip
        if None in members:
            return None
        return messages.RoundRequest(round=index, payload=view.model, members=tuple(members))

    def _announced_by(self, number, place):
        announced = self.announced[number]
        return announced[place] if -len(announced) <= place < len(announced) else None

    def _sealed(self, recipient, sent, dealers):
        """{dealer: (ciphertext, the upload that it is of)} for a site: forged, honest, or what was sealed to it else."""
        found, own = {}, self.current.get(recipient)
        for dealer in dealers:
            if dealer == recipient:
                continue
            if own is not None and dealer in own.forged:
                found[dealer] = own.forged[dealer], None
                continue
            of = self._dealt(recipient, sent.transcript, dealer)
            if of is None:
                return None
            found[dealer] = of.sealed[recipient], of
        return found

    def _dealt(self, recipient, transcript, dealer):
        """The upload to take a ciphertext from: the last that fits best."""
        if dealer in self.sites.corrupt:
            dealer = VICTIM
        near = None
        for each in reversed(self.sent):
            if each.site == dealer and recipient in each.sealed:
                if each.transcript == transcript:
                    return each
                near = near or each
        return near

    def _told(self, number, sealed, dealers, reply):
        if reply is None:
            return False
        for dealer, share in zip(dealers, reply.shares, strict=True):
            sent = self.current[number] if dealer == number else sealed[dealer][1]
            if sent is not None:
                self._learn(sent, number, share)
        return True

    def _learn(self, sent, point, share):
        self._shares.setdefault(sent, {})[point] = share

    def _signature_lists(self, sent, survivors):
        request = messages.SurvivorsRequest(transcript=sent.transcript, survivors=survivors)
        real = dict(self._signatures.get(request, {}))
        for number in survivors:
            if number in self.sites.corrupt:
                real[number] = self.sites.signature(number, request)
        yield tuple(sorted(real.items()))
        if len(real) < len(survivors):
            yield tuple((number, real.get(number, bytes(64))) for number in survivors)

    def _self_mask(self, sent):
        """The secret of all shares that it has of one upload; too few give bytes that are no seed of anything."""
        shares = self._shares[sent]
        return _combined(tuple(sorted(shares.items())))


@functools.lru_cache(maxsize=1 << 16)
def _combined(shares):
    try:
        return shamir.combine(dict(shares))
    except ProtocolError:
        return None


def shortest(sites, moves):
    """Moves of which none can be left out, that still find something."""
    left, place = list(moves), 0
    while place < len(left):
        without = left[:place] + left[place + 1 :]
        if Server(sites).play(without).findings():
            left = without
        else:
            place += 1
    return left


def in_words(moves):
    """One line for each move."""
    return "\n".join(" ".join(str(part) for part in move) for move in moves)
