"""The coordinator's round: each step takes its own message, each site is bound to what it uploaded, the sum is exact."""

from dataclasses import replace

import numpy as np
import pytest
from aggregations import (
    BITS,
    DIMENSION,
    TAKE,
    asked,
    begun,
    exact_sum,
    identity,
    refused,
    run_round,
    run_trip,
    secret,
    thresholds_of,
    values_of,
)

from privacy.errors import AggregationError, PrivacyError, RoundAbandonedError
from privacy.secure_aggregation import keys, shamir
from privacy.secure_aggregation.coordinator import STEPS, CoordinatorRound, Step, session_members
from privacy.secure_aggregation.messages import (
    OpenReply,
    OpenRequest,
    RevealReply,
    RevealRequest,
    SurvivorsReply,
    SurvivorsRequest,
    Upload,
)
from privacy.secure_aggregation.thresholds import MOST_SITES, Thresholds
from privacy.signing import verify

ALL, FOUR = (1, 2, 3, 4, 5), (1, 2, 3, 4)


class Replies:
    """One genuine reply of every kind of every site, and a coordinator in every step."""

    def __init__(self):
        self.federation, sites, self.members = begun()
        self.all = {Upload: {}, OpenReply: {}, SurvivorsReply: {}, RevealReply: {}}
        fast = asked(self.federation, self.members)
        run_trip(fast, sites, dict.fromkeys(ALL, fast.request))
        slow = {number: each.copy() for number, each in sites.items()}
        self.requests = fast.close()
        run_trip(fast, sites, self.requests)
        for number in ALL:
            self.all[Upload][number], self.all[OpenReply][number] = (
                reply for _, reply in sites[number].sent
            )
        survivors = self.at(Step.UPLOADS, FOUR)
        run_trip(survivors, slow, survivors.close())
        run_trip(survivors, slow, survivors.close())
        for number in FOUR:
            _, self.all[SurvivorsReply][number], self.all[RevealReply][number] = (
                reply for _, reply in slow[number].sent
            )

    def at(self, step, sites=ALL, *, replies=ALL, uploads=None):
        """A coordinator that waits at this step, with the uploads of `sites` and this step's replies of `replies`."""
        uploads = uploads or self.all[Upload]
        coordinator = asked(self.federation, self.members)
        while True:
            taken = sites if coordinator.step is not step or step is Step.UPLOADS else replies
            kind = STEPS[coordinator.step][0]
            if kind is not None:
                for number in taken:
                    if number in sites:
                        chosen = uploads if kind is Upload else self.all[kind]
                        TAKE[kind](coordinator, number, chosen[number])
            if coordinator.step is step:
                return coordinator
            coordinator.close()


REPLIES = Replies()
WAITING = {
    Step.UPLOADS: lambda: asked(REPLIES.federation, REPLIES.members),
    Step.OPENING: lambda: REPLIES.at(Step.OPENING, replies=()),
    Step.SURVIVORS: lambda: REPLIES.at(Step.SURVIVORS, FOUR, replies=()),
    Step.REVEALS: lambda: REPLIES.at(Step.REVEALS, FOUR, replies=()),
    Step.DONE: lambda: REPLIES.at(Step.DONE),
    Step.ABANDONED: lambda: REPLIES.at(Step.ABANDONED, FOUR[:3]),
}
KINDS = list(TAKE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("step", Step, ids=lambda each: each.value)
def test_the_table_is_what_happens(step, kind):
    coordinator = WAITING[step]()
    assert coordinator.step is step
    reply = REPLIES.all[kind][2]
    if STEPS[step][0] is kind:
        TAKE[kind](coordinator, 2, reply)
        assert coordinator.step is step
        with refused(coordinator, step=step.value, match="one message of each site"):
            TAKE[kind](coordinator, 2, reply)
    else:
        with refused(coordinator, step=step.value, match="a message of this step"):
            TAKE[kind](coordinator, 2, reply)


@pytest.mark.parametrize("step", Step, ids=lambda each: each.value)
def test_a_step_closes_into_one_that_the_table_names(step):
    """With the replies of everybody, and with those of nobody."""
    everybody = FOUR if step in (Step.SURVIVORS, Step.REVEALS) else ALL
    for replies in (everybody, ()):
        coordinator = WAITING[step]()
        for number in replies if STEPS[step][0] else ():
            TAKE[STEPS[step][0]](coordinator, number, REPLIES.all[STEPS[step][0]][number])
        before = values_of(coordinator)
        coordinator.close()
        if STEPS[step][1]:
            assert coordinator.step in STEPS[step][1]
            assert (coordinator.step is Step.ABANDONED) == (replies == ())
        else:
            assert values_of(coordinator) == before


def test_the_table_has_every_step_and_ends():
    assert set(STEPS) == set(Step)
    assert {each for each in STEPS if not STEPS[each][1]} == {Step.DONE, Step.ABANDONED}
    assert [each for each in STEPS if STEPS[each][0] is None] == [Step.DONE, Step.ABANDONED]


TAKING = [step for step in Step if STEPS[step][0]]


@pytest.mark.parametrize("step", TAKING, ids=lambda each: each.value)
def test_a_reply_of_another_site_or_round_is_refused(step):
    coordinator, kind = WAITING[step](), STEPS[step][0]
    reply = REPLIES.all[kind][2]
    with refused(coordinator, step=step.value, match="a message of site 3"):
        TAKE[kind](coordinator, 3, reply)
    with refused(coordinator, step=step.value, match="the transcript of this round"):
        TAKE[kind](coordinator, 2, replace(reply, transcript=bytes(32)))
    with refused(coordinator, step=step.value, match="a site that takes part"):
        TAKE[kind](coordinator, 6, replace(reply, site=6))
    if step in (Step.SURVIVORS, Step.REVEALS):  # the one that is missing
        with refused(coordinator, step=step.value, match="a site that takes part"):
            TAKE[kind](coordinator, 5, replace(reply, site=5))
    TAKE[kind](coordinator, 2, reply)


UPLOAD = REPLIES.all[Upload][2]
WRONG_UPLOADS = {
    "too short": ({"vector": UPLOAD.vector[1:]}, "5 numbers"),
    "too long": ({"vector": np.zeros(6, np.uint32)}, "5 numbers"),
    "empty": ({"vector": np.zeros(0, np.uint32)}, "5 numbers"),
    "another ring": ({"vector": UPLOAD.vector.astype(np.uint64)}, "numbers of type uint32"),
    "a share too few": ({"shares": UPLOAD.shares[1:]}, "something for every member"),
    "a share too many": ({"shares": (*UPLOAD.shares, bytes(32))}, "something for every member"),
    "a pair too few": ({"pair_masks": UPLOAD.pair_masks[1:]}, "something for every member"),
    "a ciphertext too few": ({"ciphertexts": UPLOAD.ciphertexts[1:]}, "something for every member"),
    "no ciphertexts": ({"ciphertexts": ()}, "something for every member"),
    "another pair mask": (
        {"pair_masks": (bytes(32), *UPLOAD.pair_masks[1:])}, "sites 2 and 1 to share one mask, found two: one of them has it wrong",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "match"), WRONG_UPLOADS.values(), ids=WRONG_UPLOADS)
def test_a_wrong_upload_is_refused_and_not_added(changed, match):
    coordinator = asked(REPLIES.federation, REPLIES.members)
    coordinator.uploaded(1, REPLIES.all[Upload][1])
    with refused(coordinator, step="upload", match=match):
        coordinator.uploaded(2, replace(UPLOAD, **changed))
    assert coordinator.survivors == (1,)
    coordinator.uploaded(2, UPLOAD)


def flipped(value, place=0):
    return value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]


@pytest.mark.parametrize("dealer", range(4))
@pytest.mark.parametrize("step", [Step.OPENING, Step.REVEALS], ids=lambda each: each.value)
def test_a_share_that_was_not_dealt_is_refused(step, dealer):
    coordinator, kind = WAITING[step](), STEPS[step][0]
    name = {"opening": "opening", "reveals": "reveal"}[step.value]
    reply = REPLIES.all[kind][2]
    shares = list(reply.shares)
    shares[dealer] = flipped(shares[dealer], 32)
    match = f"the share that site {dealer + 1} has dealt to site 2"
    with refused(coordinator, step=name, match=match):
        TAKE[kind](coordinator, 2, replace(reply, shares=tuple(shares)))
    for shares in (reply.shares[1:], (*reply.shares, bytes(33)), ()):
        with refused(coordinator, step=name, match=f"{len(reply.shares)} shares"):
            TAKE[kind](coordinator, 2, replace(reply, shares=shares))
    with refused(coordinator, step=name, match="the share that site 1 has dealt"):
        TAKE[kind](coordinator, 2, replace(reply, shares=reply.shares[::-1]))
    TAKE[kind](coordinator, 2, reply)


def test_a_pair_seed_that_was_not_used_is_refused():
    coordinator = WAITING[Step.REVEALS]()
    reply = REPLIES.all[RevealReply][2]
    for seed in (flipped(reply.seeds[0]), REPLIES.all[RevealReply][1].seeds[0], bytes(32)):
        with refused(coordinator, step="reveal", match="the mask of sites 2 and 5"):
            coordinator.revealed(2, replace(reply, seeds=(seed,)))
    for seeds in ((), reply.seeds * 2):
        with refused(coordinator, step="reveal", match="1 seeds"):
            coordinator.revealed(2, replace(reply, seeds=seeds))
    coordinator.revealed(2, reply)


def test_a_signature_of_anything_else_is_refused():
    coordinator = WAITING[Step.SURVIVORS]()
    reply = REPLIES.all[SurvivorsReply][2]
    other = SurvivorsRequest(transcript=coordinator.transcript, survivors=(2, 3, 4, 5)).signed
    agreed = SurvivorsRequest(transcript=coordinator.transcript, survivors=FOUR).signed
    for signature in (
        flipped(reply.signature), REPLIES.all[SurvivorsReply][1].signature, identity(2).sign("survivors", other),
        identity(2).sign("setup", agreed), identity(3).sign("survivors", agreed),
    ):  # fmt: skip
        with refused(coordinator, step="survivors", match="a signature of site 2 of this very set"):
            coordinator.signed(2, replace(reply, signature=signature))
    coordinator.signed(2, reply)


def test_what_is_sent_next_is_for_each_site_its_own():
    opening = REPLIES.at(Step.UPLOADS).close()
    assert list(opening) == list(ALL)
    uploads = REPLIES.all[Upload]
    for site, request in opening.items():
        assert isinstance(request, OpenRequest)
        others = [each for each in ALL if each != site]
        assert request.ciphertexts == tuple(
            uploads[each].ciphertexts[[o for o in ALL if o != each].index(site)] for each in others
        )
    survivors = REPLIES.at(Step.UPLOADS, FOUR).close()
    transcript = uploads[1].transcript
    assert survivors == dict.fromkeys(FOUR, SurvivorsRequest(transcript=transcript, survivors=FOUR))
    reveals = REPLIES.at(Step.SURVIVORS, FOUR).close()
    for request in reveals.values():
        assert isinstance(request, RevealRequest)
        assert request.survivors == FOUR
        assert [each for each, _ in request.signatures] == list(FOUR)
        assert len(request.ciphertexts) == 3


ENOUGH = [
    (Step.UPLOADS, ALL, FOUR[:3], "3 of at least 4 sites have uploaded"),
    (Step.OPENING, ALL, (2, 5), "2 of at least 3 sites have opened self-masks"),
    (Step.SURVIVORS, FOUR, (1, 2, 4), "3 of at least 4 sites have signed the survivors"),
    (Step.REVEALS, FOUR, (1, 3), "sites 2, 4 were lost after they had uploaded"),
]


@pytest.mark.parametrize(("step", "sites", "replies", "lack"), ENOUGH)
def test_one_too_few_is_an_abandoned_round_that_says_what_was_missing(step, sites, replies, lack):
    coordinator = REPLIES.at(step, replies if step is Step.UPLOADS else sites, replies=replies)
    assert coordinator.close() == {}
    assert coordinator.step is Step.ABANDONED
    with pytest.raises(RoundAbandonedError, match=f"{lack}"):
        coordinator.total()


@pytest.mark.parametrize("step", [each for each in Step if each is not Step.DONE])
def test_there_is_no_sum_before_the_end(step):
    with pytest.raises(RoundAbandonedError, match=f"Expected a sum, found a round that is {step.value}"):  # fmt: skip
        WAITING[step]().total()


@pytest.mark.parametrize("replies", [(1, 2, 3), (3, 4, 5), (5, 3, 1), ALL])
def test_any_t_openers_are_enough(replies):
    coordinator = REPLIES.at(Step.OPENING, replies=replies)
    coordinator.close()
    assert np.array_equal(coordinator.total(), exact_sum(ALL, 0))
    assert coordinator.evidence.signatures == {}


@pytest.mark.parametrize("order", [FOUR, FOUR[::-1], (3, 1, 4, 2)])
def test_survivors_may_come_in_any_order(order):
    coordinator = REPLIES.at(Step.REVEALS, order, replies=order)
    assert coordinator.close() == {}
    assert np.array_equal(coordinator.total(), exact_sum(FOUR, 0))


def test_the_evidence_can_be_checked_by_anybody():
    coordinator = REPLIES.at(Step.DONE, FOUR)
    found = coordinator.evidence
    assert (found.members, found.survivors) == (ALL, FOUR)
    assert list(found.signatures) == list(FOUR)
    agreed = SurvivorsRequest(transcript=found.transcript, survivors=found.survivors)
    for site, signature in found.signatures.items():
        verify(REPLIES.federation.identities[site - 1], "survivors", agreed.signed, signature)


def test_the_sum_is_a_copy():
    coordinator = REPLIES.at(Step.DONE)
    coordinator.total()[:] = 0
    assert np.array_equal(coordinator.total(), exact_sum(ALL, 0))
    assert coordinator.total().dtype == np.int64
    assert coordinator.total().shape == (DIMENSION,)


def dealt_wrongly(dealer):
    """This site's upload with shares of another secret than the one that it masks with: consistent, sealed, committed."""
    federation, sites, members = begun()
    coordinator = asked(federation, members)
    site = sites[dealer]
    site.answer(coordinator.request.to_bytes())
    (_, upload), current = site.sent[0], site.state.round
    coins = shamir.Keystream(secret("coins"))
    shares = shamir.split(secret("another seed"), threshold=3, points=ALL, coins=coins)
    others = [each for each in ALL if each != dealer]
    site.state = replace(site.state, round=replace(current, own_share=shares[dealer]))
    wrong = replace(
        upload,
        shares=tuple(keys.commitment("share", current.transcript, shares[each], dealer, each) for each in ALL),
        ciphertexts=tuple(
            keys.seal_share(site.state.session.chains[each], current.transcript, dealer, each, shares[each])
            for each in others
        ),
    )  # fmt: skip
    return coordinator, sites, wrong


@pytest.mark.parametrize("missing", [None, 5])
def test_a_site_that_deals_wrongly_is_named_and_the_round_abandoned(missing):
    """Everything that it sent is consistent; only what it masked with is not what it has dealt."""
    coordinator, sites, wrong = dealt_wrongly(2)
    present = [each for each in ALL if each != missing]
    honest = [each for each in present if each != 2]
    run_trip(coordinator, sites, dict.fromkeys(honest, coordinator.request))
    coordinator.uploaded(2, wrong)
    while requests := coordinator.close():
        assert run_trip(coordinator, sites, requests) == []
    assert coordinator.step is Step.ABANDONED
    with pytest.raises(RoundAbandonedError, match="shares of the self-mask of site 2, found others: it has dealt"):  # fmt: skip
        coordinator.total()


@pytest.mark.parametrize("first", [True, False])
def test_a_site_that_lies_about_its_masks_costs_a_sum_and_never_makes_a_wrong_one(first):
    """Of two sites that disagree the later one is refused, whoever lies, and both are named."""
    lie = replace(UPLOAD, pair_masks=tuple(flipped(each) for each in UPLOAD.pair_masks))
    uploads = {each: REPLIES.all[Upload][each] for each in ALL if each != 2}
    order = [(2, lie), *uploads.items()] if first else [*uploads.items(), (2, lie)]
    coordinator, refusals = asked(REPLIES.federation, REPLIES.members), []
    for site, upload in order:
        try:
            coordinator.uploaded(site, upload)
        except AggregationError as error:
            refusals.append(error.message)
    assert len(refusals) == (4 if first else 1)
    assert all("share one mask, found two: one of them has it wrong" in each for each in refusals)
    assert all("2" in each for each in refusals)  # both sites are named
    assert coordinator.survivors == ((2,) if first else (1, 3, 4, 5))
    coordinator.close()
    assert coordinator.step is (Step.ABANDONED if first else Step.SURVIVORS)


def test_members_are_told_in_order_and_checked():
    announced = list(REPLIES.members)
    assert session_members(REPLIES.federation, announced[::-1]) == REPLIES.members
    assert session_members(REPLIES.federation, announced[1:]) == REPLIES.members[1:]
    with pytest.raises(RoundAbandonedError, match="keys of at least 4 sites, found 3"):
        session_members(REPLIES.federation, announced[2:])
    again = replace(announced[1], public=announced[0].public)
    again = replace(again, signature=identity(2).sign("setup", again.signed))
    with pytest.raises(RoundAbandonedError, match="keys of at least 4 sites, found 3"):
        session_members(
            REPLIES.federation, [announced[0], again, *announced[2:]]
        )  # both are left out
    for wrong, match in (
        ([*announced, announced[2]], "one key of each site"),
        ([replace(announced[0], epoch=bytes(16)), *announced[1:]], "a key that site 1 has signed"),
        ([*announced[:-1], replace(announced[4], site=6)], "a site of the roster"),
        ([replace(announced[0], study=bytes(32)), *announced[1:]], "keys of this study and roster"),
    ):  # fmt: skip
        with pytest.raises(AggregationError, match=match) as refusal:
            session_members(REPLIES.federation, wrong)
        assert refusal.value.step == "setup"


def test_a_session_of_fewer_than_the_roster_takes_both_paths():
    for lost, present in (((), (2, 3, 4, 5, 6, 7)), ((4,), (2, 3, 5, 6, 7))):
        federation, sites, members = begun(7, 1, 2, without=(1,))
        coordinator = asked(federation, members)
        assert run_round(coordinator, sites, lost=(lost, (), ())) == []
        assert coordinator.survivors == present
        assert np.array_equal(coordinator.total(), exact_sum(present, 0))
        assert coordinator.evidence.members == (2, 3, 4, 5, 6, 7)


def test_the_coordinator_holds_one_vector():
    """Not one for each site: everything else that it keeps of a round is small."""
    coordinator = CoordinatorRound(
        REPLIES.federation, REPLIES.members, round=0, payload=b"model", bits=BITS, dimension=DIMENSION
    )  # fmt: skip
    for site in ALL:
        coordinator.uploaded(site, REPLIES.all[Upload][site])
    vectors = [each for each in vars(coordinator).values() if isinstance(each, np.ndarray)]
    assert len(vectors) == 1
    uploads = [each.vector.tobytes() for each in REPLIES.all[Upload].values()]
    assert not any(repr(each)[2:-1] in repr(values_of(coordinator)) for each in uploads)


class TestThresholds:
    """The inequalities, by hand, at their limits."""

    LIMITS = {  # noqa: RUF012
        "sites": 5, "colluding": 1, "survivors": 4, "threshold": 3, "quorum": 4, "shares": 3,
    }  # fmt: skip

    def test_the_limits_are_allowed(self):
        Thresholds(**self.LIMITS)

    @pytest.mark.parametrize(
        "changed",
        [
            {"quorum": 3}, {"threshold": 2}, {"shares": 4}, {"colluding": 2}, {"survivors": 3}, {"sites": 6},
            {"quorum": 5}, {"threshold": 5}, {"survivors": 6}, {"shares": 0}, {"colluding": 0},
            {"sites": MOST_SITES + 1}, {"threshold": 0}, {"quorum": 0}, {"quorum": -4},
        ],
        ids=str,
    )  # fmt: skip
    def test_one_step_beyond_is_refused(self, changed):
        with pytest.raises(PrivacyError, match="Expected"):
            Thresholds(**self.LIMITS | changed)

    def test_every_combination_that_is_allowed_carries_the_argument(self):
        """By brute force: two signed sets share an honest signer, and no honest site is left to open the other one."""
        allowed = 0
        for n in range(2, 8):
            for c in range(1, n):
                for m in range(1, n + 1):
                    for t in range(1, n + 1):
                        for tau in range(1, n + 1):
                            try:
                                Thresholds(
                                    sites=n, colluding=c, survivors=m, threshold=t, quorum=tau, shares=max(1, m - c)
                                )  # fmt: skip
                            except PrivacyError:
                                continue
                            allowed += 1
                            honest = n - c
                            assert 2 * (tau - c) > honest  # two quorums of honest signers overlap
                            assert (
                                honest - (m - c) < t - c
                            )  # honest sites outside a set of survivors
                            assert (tau - c) + (
                                t - c
                            ) > honest  # a signer does not open on the fast path
                            assert m - c >= 1
        assert allowed > 50

    def test_constants_of_dropouts_are_the_least(self):
        """Those that the other tests use."""
        for n in range(4, 9):
            for c in (1, 2):
                for missing in range(n):
                    try:
                        found = thresholds_of(n, c, missing)
                    except PrivacyError:
                        continue
                    for name in ("quorum", "threshold"):
                        with pytest.raises(PrivacyError, match="Expected"):
                            replace(found, **{name: getattr(found, name) - 1})
