"""A site does what its table says and nothing else: what it refuses changes nothing, and what it has said stays said."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from aggregations import (
    BITS,
    DIMENSION,
    Site,
    announced_by,
    asked,
    begun,
    federation_of,
    identity,
    refused,
    run_round,
    run_trip,
    secret,
    values_of,
)

from privacy.errors import NoSessionError, ProtocolError
from privacy.secure_aggregation import site as machine
from privacy.secure_aggregation.messages import (
    OpenRequest,
    RevealRequest,
    RoundRequest,
    SetupRequest,
    SurvivorsRequest,
    Upload,
    message_of,
)
from privacy.secure_aggregation.site import TRANSITIONS, Federation, Phase, join, transcript_of

SUBJECT, LATE = 3, 5
STEP = {
    RoundRequest: "upload", OpenRequest: "opening", SurvivorsRequest: "survivors", RevealRequest: "reveal",
}  # fmt: skip
FOUR = (1, 2, 3, 4)


class Play:
    """One round of five sites up to trip A, and every request that an honest coordinator could make of the subject."""

    def __init__(self):
        self.federation, self.sites, self.members = begun()
        self.round = asked(self.federation, self.members)
        self.waiting = self.sites[SUBJECT].copy()
        run_trip(self.round, self.sites, dict.fromkeys(self.sites, self.round.request))
        self.open = self.round.close()[SUBJECT]
        self.uploaded = self.sites[SUBJECT].copy()
        four = asked(self.federation, self.members)
        uploads = {number: each.sent[0][1] for number, each in self.sites.items()}
        for number in FOUR:
            four.uploaded(number, uploads[number])
        self.survivors = four.close()[SUBJECT]
        signers = {number: each.copy() for number, each in self.sites.items()}
        run_trip(four, signers, dict.fromkeys(FOUR, self.survivors))
        self.reveal = four.close()[SUBJECT]
        self.next = RoundRequest(round=1, payload=b"next model", members=self.members)

    def requests(self):
        return {
            RoundRequest: self.next, OpenRequest: self.open, SurvivorsRequest: self.survivors, RevealRequest: self.reveal,
        }  # fmt: skip

    def subject(self, *requests):
        site = self.uploaded.copy()
        for each in requests:
            site.answer(each.to_bytes())
        return site

    def in_phase(self):
        """The subject in every phase, and which way it came there."""
        return {
            "waiting": self.waiting.copy(),
            "uploaded": self.subject(),
            "signed": self.subject(self.survivors),
            "opened all": self.subject(self.open),
            "revealed": self.subject(self.survivors, self.reveal),
            "revealed unsigned": self.subject(self.reveal),
        }


def reply_of(site, request):
    return message_of(site.answer(request.to_bytes()))


PLAY = Play()
PHASES = list(PLAY.in_phase())
KINDS = list(STEP)
CASES = [
    pytest.param(phase, kind, id=f"{phase}-{kind.__name__}") for phase in PHASES for kind in KINDS
]


def test_the_play_reaches_every_phase():
    assert {each.state.phase for each in PLAY.in_phase().values()} == set(Phase)
    assert {kind for _, kind in TRANSITIONS} == set(KINDS)


def altered(request):
    """The same kind of request, not word for word."""
    match request:
        case RoundRequest():
            return replace(request, payload=request.payload + b"'")
        case OpenRequest() | RevealRequest():
            return replace(request, ciphertexts=(*request.ciphertexts[1:], request.ciphertexts[0]))
        case SurvivorsRequest():
            return replace(request, survivors=(1, 2, 3, 5))


@pytest.mark.parametrize(("phase", "kind"), CASES)
def test_the_table_is_what_happens(phase, kind):
    site, request = PLAY.in_phase()[phase], PLAY.requests()[kind]
    after = TRANSITIONS.get((site.state.phase, kind))
    if after is not None:
        reply_of(site, request)
        assert site.state.phase is after
        return
    said_before = site.state.last is not None and site.state.last[0] == request
    if said_before:
        before = values_of(site.state)
        assert reply_of(site, request) == site.state.last[1]
        assert values_of(site.state) == before
        request = altered(request)
    with refused(site, step=STEP[kind], match=f"a site that is {site.state.phase.value}"):
        site.answer(request.to_bytes())


@pytest.mark.parametrize("phase", PHASES)
def test_a_setup_request_is_answered_in_every_phase_and_changes_none(phase):
    site = PLAY.in_phase()[phase]
    before = site.state
    request = SetupRequest(
        study=site.federation.study, roster=site.federation.roster, nonce=b"n" * 16
    )
    first = reply_of(site, request)
    assert values_of(replace(site.state, pending=before.pending)) == values_of(before)
    kept = values_of(site.state)
    assert reply_of(site, request) == first
    assert values_of(site.state) == kept
    assert reply_of(site, replace(request, nonce=b"m" * 16)).public != first.public


@pytest.mark.parametrize(
    ("before", "request_"),
    [
        ((), PLAY.open), ((), PLAY.survivors), ((PLAY.survivors,), PLAY.reveal), ((), PLAY.reveal),
    ],
    ids=["open", "survivors", "reveal", "reveal unsigned"],
)  # fmt: skip
def test_a_message_that_is_repeated_gets_the_same_reply(before, request_):
    site = PLAY.subject(*before)
    reply = site.answer(request_.to_bytes())
    for _ in range(3):
        state = values_of(site.state)
        assert site.answer(request_.to_bytes()) == reply
        assert values_of(site.state) == state


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_request_of_another_round_is_refused(kind):
    site = PLAY.subject()
    request = replace(PLAY.requests()[kind], transcript=bytes(32))
    with refused(site, step=STEP[kind], match="the transcript of the open round"):
        site.answer(request.to_bytes())


@pytest.mark.parametrize("changed", [{"study": bytes(32)}, {"roster": bytes(32)}])
def test_a_setup_of_another_study_or_roster_is_refused(changed):
    site = PLAY.waiting.copy()
    request = SetupRequest(
        study=site.federation.study, roster=site.federation.roster, nonce=b"n" * 16
    )
    with refused(site, step="setup", match="this study and roster"):
        site.answer(replace(request, **changed).to_bytes())


def resigned(key, **changed):
    """The same key of its own site, saying something else, and signed again by that site."""
    changed = replace(key, **changed)
    signer = identity(key.site)
    return replace(changed, signature=signer.sign("setup", changed.signed))


def members_with(place, key):
    return (*PLAY.members[:place], key, *PLAY.members[place + 1 :])


FIRST, SECOND = PLAY.members[0], PLAY.members[1]
WRONG_MEMBERS = {
    "fewer than m": (PLAY.members[1:4], "at least 4 members"),
    "one": (PLAY.members[2:3], "at least 4 members"),
    "none": ((), "at least 4 members"),
    "another order": (PLAY.members[::-1], "members in ascending order, each once"),
    "one twice": ((*PLAY.members[:3], *PLAY.members[2:4]), "members in ascending order, each once"),
    "more than there are": ((*PLAY.members, PLAY.members[0]), "members of the roster"),
    "one key twice": (
        members_with(0, resigned(FIRST, public=SECOND.public)), "keys of which no two are equal",
    ),
    "an unsigned key": (members_with(0, replace(FIRST, public=bytes(31) + b"x")), "a key that site 1 has signed"),
    "another epoch": (members_with(0, replace(FIRST, epoch=bytes(16))), "a key that site 1 has signed"),
    "another site's signature": (
        members_with(0, replace(FIRST, signature=identity(2).sign("setup", FIRST.signed))), "a key that site 1 has signed",
    ),
    "a signature for another purpose": (
        members_with(0, replace(FIRST, signature=identity(1).sign("survivors", FIRST.signed))),
        "a key that site 1 has signed",
    ),
    "another study": (members_with(0, resigned(FIRST, study=bytes(32))), "keys of this study and roster"),
    "another roster": (members_with(0, resigned(FIRST, roster=bytes(32))), "keys of this study and roster"),
    "site 0": (members_with(0, resigned(FIRST, site=0)), "a site of the roster"),
    "site 6": (members_with(4, resigned(PLAY.members[4], site=6)), "a site of the roster"),
    "a key without a secret": (members_with(0, resigned(FIRST, public=bytes(32))), "a key of site 1 that agrees"),
}  # fmt: skip


@pytest.mark.parametrize(("members", "match"), WRONG_MEMBERS.values(), ids=WRONG_MEMBERS)
def test_wrong_members_are_refused(members, match):
    site = PLAY.waiting.copy()
    with refused(site, step="upload", match=match):
        site.answer(RoundRequest(round=0, payload=b"model", members=members).to_bytes())
    assert site.sent == []
    reply_of(site, PLAY.round.request)  # and the honest round goes on


@pytest.mark.parametrize(
    "members",
    [
        (*PLAY.members[:2], *PLAY.members[3:]),
        members_with(2, resigned(PLAY.members[2], epoch=b"older epoch 16 b")),
    ],
    ids=["not a member", "a key that it does not hold"],
)
def test_a_session_that_a_site_has_no_key_for_is_refused(members):
    site = PLAY.waiting.copy()
    request = RoundRequest(round=0, payload=b"model", members=members)
    with refused(site, step="upload", match="still holds", error=NoSessionError):
        site.answer(request.to_bytes())


@pytest.mark.parametrize(
    ("round_", "match"), [(8, "a round below 8"), (2**32 - 1, "a round below 8")]
)
def test_a_round_beyond_the_study_is_refused(round_, match):
    site = PLAY.waiting.copy()
    with refused(site, step="upload", match=match):
        site.answer(replace(PLAY.round.request, round=round_).to_bytes())


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_round_that_was_answered_is_never_answered_again(phase):
    """Not with the same request, not with another model, in no phase."""
    site = PLAY.in_phase()[phase]
    for request in (PLAY.round.request, replace(PLAY.round.request, payload=b"another model")):
        with refused(site, step="upload", match="a round from 1, as earlier ones are over"):
            site.answer(request.to_bytes())


def test_a_round_that_was_passed_over_is_never_answered():
    site = PLAY.waiting.copy()
    reply_of(site, replace(PLAY.round.request, round=4))
    for round_ in range(5):
        with refused(site, step="upload", match="a round from 5"):
            site.answer(replace(PLAY.round.request, round=round_).to_bytes())
    reply_of(site, replace(PLAY.round.request, round=5))


def test_rounds_may_be_passed_over_by_everybody():
    """The chains of all members go on by as many steps, whatever they were asked in between."""
    federation, sites, members = begun()
    run_round(asked(federation, members, 0), sites, lost=((1, 2), (), ()))
    last = asked(federation, members, 5)
    assert run_round(last, sites) == []
    assert np.array_equal(last.total(), sum(each.input(5) for each in sites.values()))


WRONG_SURVIVORS = {
    "all": ((1, 2, 3, 4, 5), "not all of them"),
    "fewer than m": ((1, 2, 3), "at least 4 survivors"),
    "itself": ((3,), "at least 4 survivors"),
    "nobody": ((), "at least 4 survivors"),
    "without itself": ((1, 2, 4, 5), "a set that this site belongs to"),
    "a stranger": ((1, 2, 3, 6), "survivors that are members"),
    "site 0": ((0, 1, 2, 3), "survivors that are members"),
    "one twice": ((1, 2, 3, 3), "survivors in ascending order, each once"),
    "another order": ((2, 1, 3, 4), "survivors in ascending order, each once"),
}


@pytest.mark.parametrize(("survivors", "match"), WRONG_SURVIVORS.values(), ids=WRONG_SURVIVORS)
@pytest.mark.parametrize("step", ["survivors", "reveal"])
def test_wrong_survivors_are_refused(survivors, match, step):
    site = PLAY.subject()
    request = PLAY.survivors if step == "survivors" else PLAY.reveal
    with refused(site, step=step, match=match):
        site.answer(replace(request, survivors=survivors).to_bytes())
    assert len(site.sent) == 1
    reply_of(site, request)


def test_a_second_set_is_not_signed():
    site = PLAY.subject(PLAY.survivors)
    with refused(site, step="survivors", match="a site that is signed"):
        site.answer(replace(PLAY.survivors, survivors=(2, 3, 4, 5)).to_bytes())


def signatures_of(survivors, signers, *, tag="survivors", transcript=PLAY.survivors.transcript):
    agreed = SurvivorsRequest(transcript=transcript, survivors=survivors)
    return tuple((each, identity(each).sign(tag, agreed.signed)) for each in signers)


def test_another_set_than_the_signed_one_is_not_revealed():
    """Even though tau sites, this one's own signature not among them, have signed it."""
    site = PLAY.subject(PLAY.survivors)
    other = (2, 3, 4, 5)
    request = replace(PLAY.reveal, survivors=other, signatures=signatures_of(other, other))
    with refused(site, step="reveal", match="the set of survivors that this site has signed"):
        site.answer(request.to_bytes())


GOOD = PLAY.reveal.signatures
WRONG_SIGNATURES = {
    "none": ((), "at least 4 signatures"),
    "fewer than tau": (GOOD[:3], "at least 4 signatures"),
    "one twice": ((GOOD[0], *GOOD[:3]), "signatures in ascending order of sites, each once"),
    "another order": (GOOD[::-1], "signatures in ascending order of sites, each once"),
    "of one that is missing": (signatures_of(FOUR, (1, 2, 3, 5)), "signatures of survivors"),
    "of a stranger": ((*GOOD[:3], (6, GOOD[3][1])), "signatures of survivors"),
    "of another set": ((*GOOD[:3], *signatures_of((2, 3, 4, 5), (4,))), "a signature of site 4 of this very set"),
    "of another round": (
        (*GOOD[:3], *signatures_of(FOUR, (4,), transcript=bytes(32))), "a signature of site 4 of this very set",
    ),
    "for another purpose": ((*signatures_of(FOUR, (1,), tag="setup"), *GOOD[1:]), "a signature of site 1 of this"),
    "of another site": (((1, GOOD[1][1]), *GOOD[1:]), "a signature of site 1 of this very set"),
}  # fmt: skip


@pytest.mark.parametrize(("signatures", "match"), WRONG_SIGNATURES.values(), ids=WRONG_SIGNATURES)
@pytest.mark.parametrize("signed", [True, False])
def test_wrong_signatures_are_refused(signatures, match, signed):
    site = PLAY.subject(*[PLAY.survivors] * signed)
    with refused(site, step="reveal", match=match):
        site.answer(replace(PLAY.reveal, signatures=signatures).to_bytes())
    assert site.state.round is not None
    reply_of(site, PLAY.reveal)


def shares_for(recipient, senders, round_=PLAY.sites):
    found = []
    for each in senders:
        upload = round_[each].sent[0][1]
        others = [number for number in range(1, 6) if number != each]
        found.append(upload.ciphertexts[others.index(recipient)])
    return tuple(found)


def test_the_play_relays_what_was_sealed():
    assert PLAY.open.ciphertexts == shares_for(SUBJECT, (1, 2, 4, 5))
    assert PLAY.reveal.ciphertexts == shares_for(SUBJECT, (1, 2, 4))


WRONG_SHARES = {
    "none": ((), "shares"),
    "one too few": (PLAY.open.ciphertexts[:-1], "4 shares"),
    "one too many": ((*PLAY.open.ciphertexts, bytes(49)), "4 shares"),
    "swapped": (PLAY.open.ciphertexts[::-1], "a share of site 1 for site 3"),
    "one twice": (PLAY.open.ciphertexts[:1] * 4, "a share of site 2 for site 3"),
    "of another recipient": (
        (*PLAY.open.ciphertexts[:3], *shares_for(4, (5,))), "a share of site 5 for site 3, of this round and transcript",
    ),
    "its own": ((*PLAY.open.ciphertexts[:3], *shares_for(5, (3,))), "a share of site 5 for site 3"),
    "zeros": ((*PLAY.open.ciphertexts[:3], bytes(49)), "a share of site 5 for site 3"),
}  # fmt: skip


@pytest.mark.parametrize(("shares", "match"), WRONG_SHARES.values(), ids=WRONG_SHARES)
def test_wrong_shares_are_not_opened(shares, match):
    site = PLAY.subject()
    with refused(site, step="opening", match=match):
        site.answer(replace(PLAY.open, ciphertexts=shares).to_bytes())
    reply_of(site, PLAY.open)


def test_shares_of_other_survivors_are_not_revealed():
    site = PLAY.subject(PLAY.survivors)
    for wrong, match in (
        (PLAY.reveal.ciphertexts[:2], "3 shares"),
        (PLAY.open.ciphertexts, "3 shares"),
        (shares_for(SUBJECT, (1, 2, 5)), "a share of site 4 for site 3"),
    ):
        with refused(site, step="reveal", match=match):
            site.answer(replace(PLAY.reveal, ciphertexts=wrong).to_bytes())
    reply_of(site, PLAY.reveal)


def test_what_a_site_reveals_is_for_one_path_alone():
    """Never a share of a self-mask and a pair seed of the same site."""
    opened = reply_of(PLAY.subject(), PLAY.open)
    assert len(opened.shares) == 5
    revealed = reply_of(PLAY.subject(PLAY.survivors), PLAY.reveal)
    assert len(revealed.shares) == len(FOUR)
    assert revealed.seeds == (PLAY.uploaded.state.round.pair_seeds[LATE],)


def test_when_a_round_is_over_its_secrets_are_gone():
    """From the state, by value; and the chain keys have gone on."""
    before = PLAY.uploaded.state
    secrets = [before.round.own_share, *before.round.pair_seeds.values()]
    secrets += [each.value for each in before.session.chains.values()]
    assert all(each in every_bytes(values_of(before)) for each in secrets)
    for requests in ([PLAY.open], [PLAY.survivors, PLAY.reveal]):
        site = PLAY.subject(*requests)
        after = replace(site.state, last=None)  # which is what was said to everybody
        assert every_bytes(values_of(after)).isdisjoint(secrets)
        assert site.state.session.position == 1


def every_bytes(values):
    if isinstance(values, bytes):
        return {values}
    return set().union(*map(every_bytes, values)) if isinstance(values, list | tuple) else set()


def test_the_x25519_key_is_gone_once_a_session_has_begun():
    private = secret("x25519", SUBJECT, bytes(16))
    assert private in every_bytes(values_of(PLAY.waiting.state))
    assert private not in every_bytes(values_of(PLAY.uploaded.state))


def test_the_session_that_goes_on_needs_no_new_key_and_keeps_a_pending_one():
    federation, sites, members = begun()
    run_round(asked(federation, members, 0), sites)
    announced_by(list(sites.values()), nonce=b"n" * 16)
    pending = [each.state.pending for each in sites.values()]
    assert None not in pending
    assert run_round(asked(federation, members, 1), sites) == []
    assert [each.state.pending for each in sites.values()] == pending


def test_a_new_session_takes_the_place_of_the_old_one():
    federation, sites, members = begun()
    run_round(asked(federation, members, 0), sites)
    anew = tuple(announced_by(list(sites.values()), nonce=b"n" * 16))
    then = asked(federation, anew, 1)
    assert run_round(then, sites) == []
    assert np.array_equal(then.total(), sum(each.input(1) for each in sites.values()))
    for site in sites.values():
        with refused(site, step="upload", match="still holds", error=NoSessionError):
            site.answer(RoundRequest(round=2, payload=b"model", members=members).to_bytes())


def test_joining_changes_nothing_and_a_site_may_think_again():
    site = PLAY.waiting.copy()
    before = values_of(site.state)
    for payload in (b"model", b"another model"):
        request = replace(PLAY.round.request, payload=payload)
        joined = join(site.federation, site.state, request, bits=BITS, dimension=DIMENSION)
        assert joined.transcript == transcript_of(
            site.federation, request, bits=BITS, dimension=DIMENSION
        )
        assert values_of(site.state) == before
    assert site.answer(PLAY.round.request.to_bytes()) == PLAY.uploaded.sent[0][1].to_bytes()


def test_a_transcript_is_of_everything_that_sites_must_agree_on():
    """One change at a time, each of them another transcript; thresholds have a test of their own among the attacks."""
    at, request = PLAY.federation, PLAY.round.request
    ring = {"bits": BITS, "dimension": DIMENSION}
    found = [
        transcript_of(at, request, **ring),
        *(transcript_of(replace(at, **{name: bytes(32)}), request, **ring) for name in ("study", "roster")),
        *(
            transcript_of(at, replace(request, **changed), **ring)
            for changed in (
                {"round": 1}, {"payload": b""}, {"members": PLAY.members[1:]},
                {"members": members_with(0, resigned(FIRST, epoch=bytes(16)))},
            )
        ),
        *(transcript_of(at, request, **ring | changed) for changed in ({"bits": 64}, {"dimension": 4})),
    ]  # fmt: skip
    assert len(set(found)) == len(found) == 9
    assert {len(each) for each in found} == {32}


def test_no_state_shows_a_secret():
    for site in PLAY.in_phase().values():
        shown = repr(replace(site.state, last=None))
        current, session = site.state.round, site.state.session
        secrets = [secret("x25519", SUBJECT, bytes(16))]
        secrets += [each.value for each in session.chains.values()] if session else []
        secrets += [current.own_share, *current.pair_seeds.values()] if current else []
        for each in secrets:
            assert repr(each)[2:-1] not in shown
            assert each.hex() not in shown


def test_a_roster_without_a_place_for_everybody_is_refused():
    at = federation_of()
    with pytest.raises(ProtocolError, match="Expected 5 identities, found 4"):
        replace(at, identities=at.identities[:-1])
    with pytest.raises(ProtocolError, match="no two are equal"):
        replace(at, identities=(*at.identities[:-1], at.identities[0]))
    assert set(inspect.signature(Federation).parameters) == {
        "study", "roster", "identities", "thresholds", "rounds",
    }  # fmt: skip


def test_every_message_for_a_site_has_a_step():
    assert {*machine._STEPS} == {*STEP, SetupRequest}
    assert machine._STEPS.items() >= STEP.items()


def test_an_upload_has_something_for_every_member():
    upload = PLAY.uploaded.sent[0][1]
    assert isinstance(upload, Upload)
    assert (len(upload.shares), len(upload.pair_masks), len(upload.ciphertexts)) == (5, 4, 4)
    assert len({upload.self_mask, *upload.shares, *upload.pair_masks}) == 10
    assert Site(federation_of(), SUBJECT).input(0).shape == upload.vector.shape
