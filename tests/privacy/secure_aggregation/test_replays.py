"""Messages that are old, doubled, out of order, cut off, for somebody else, or of another study: refused, and hidden."""

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from aggregations import (
    ALL,
    BITS,
    DIMENSION,
    HONEST,
    Scene,
    Site,
    View,
    announced_by,
    asked,
    attempt,
    begun,
    exact_sum,
    federation_of,
    identity,
    refused,
    require_hidden,
    run_round,
    run_trip,
    take,
    values_of,
)

from privacy.errors import AggregationError, NoSessionError, ProtocolError
from privacy.secure_aggregation import keys
from privacy.secure_aggregation.coordinator import session_members
from privacy.secure_aggregation.messages import (
    OpenReply,
    RevealReply,
    RoundRequest,
    Upload,
    message_of,
)
from privacy.secure_aggregation.site import transcript_of


class TestReplays:
    def test_an_old_round_is_not_answered_again_and_its_requests_open_nothing_new(self):
        federation, sites, members = begun()
        old = asked(federation, members, 0)
        run_round(old, sites, lost=((5,), (), ()))
        requests = [request for request, _ in sites[1].sent]
        old_replies = [reply for _, reply in sites[1].sent]
        new = asked(federation, members, 1)
        run_trip(new, sites, dict.fromkeys(ALL, new.request))
        for request, step, match in zip(
            requests,
            ("upload", "survivors", "reveal"),
            ("a round from 2", "transcript of the open round", "transcript of the open round"),
            strict=True,
        ):
            with refused(sites[1], step=step, match=match):
                sites[1].answer(request.to_bytes())
        for reply in old_replies:
            with refused(new, step="uploads", match="a message of this step|the transcript of this round"):  # fmt: skip
                take(new, 1, reply.to_bytes())
        view = View([sites[each] for each in HONEST], [sites[5].state])
        require_hidden(view, *HONEST, round_=1)
        assert view.inputs_with(1, 1) is None

    def test_old_signatures_and_shares_under_a_new_transcript_are_refused(self):
        first = Scene()
        survivors = (1, 2, 3, 4)
        signatures = {each: first.forged(survivors, each) for each in survivors}
        second = Scene(round_=1, sites=first.sites)
        site = second.sites[1]
        wrong = message_of(first.reveal_request(1, survivors, signatures))
        with refused(site, step="reveal", match="a signature of site 1 of this very set"):
            site.answer(replace(wrong, transcript=second.transcript).to_bytes())
        wrong = message_of(first.open_request(1))
        with refused(site, step="opening", match="a share of site 2 for site 1, of this round"):
            site.answer(replace(wrong, transcript=second.transcript).to_bytes())
        require_hidden(second.view(), *HONEST, round_=1)

    def test_the_same_round_with_another_model_is_refused_in_every_phase(self):
        scene = Scene()
        other = replace(scene.request, payload=b"another model").to_bytes()
        site = scene.sites[1]
        for data in (None, scene.survivors_request(HONEST)):
            if data:
                site.answer(data)
            with refused(site, step="upload", match="a round from 1"):
                site.answer(other)
        assert len([each for _, each in site.sent if isinstance(each, Upload)]) == 1

    def test_an_old_key_begins_no_session(self):
        """Its private half is erased: its owner refuses, and what others send to it stays masked."""
        federation, sites, members = begun()
        run_round(asked(federation, members, 0), sites)
        anew = announced_by([sites[each] for each in (2, 3, 4, 5)], nonce=b"n" * 16)
        request = asked(federation, (members[0], *anew), 1).request
        with refused(sites[1], step="upload", match="still holds", error=NoSessionError):
            sites[1].answer(request.to_bytes())
        for number in (2, 3, 4, 5):
            sites[number].answer(request.to_bytes())
        view = View([sites[each] for each in HONEST], [sites[5].state])
        assert [view.inputs_with(each, 1) for each in (2, 3, 4)] == [None] * 3

    def test_a_restarted_site_that_is_asked_for_an_old_round_in_a_new_session_stays_masked(self):
        """The machine has forgotten that it answered (the ledger has not); no other site joins it, no mask is repeated."""
        scene = Scene()
        again = Site(scene.federation, 2)
        everybody = [scene.sites[1], again, *(scene.sites[each] for each in (3, 4, 5))]
        anew = session_members(scene.federation, announced_by(everybody, nonce=b"n" * 16))
        request = replace(scene.request, members=anew).to_bytes()
        again.answer(request)
        for number in (1, 3, 4):
            with refused(scene.sites[number], step="upload", match="a round from 1"):
                scene.sites[number].answer(request)
            assert attempt(scene.sites[number], scene.open_request(number))
        first, second = scene.sites[2].sent[0][1], again.sent[0][1]
        assert not {first.self_mask, *first.pair_masks} & {second.self_mask, *second.pair_masks}
        view = View([*scene.honest, again], [scene.colluder])
        assert [view.inputs_with(each) for each in HONEST] == [4] * 4
        assert View([again], [scene.colluder]).inputs_with(2) is None

    def test_an_upload_of_a_given_up_round_stays_masked(self):
        """A later round begins; what undoes the old masks is gone from every state."""
        first = Scene()
        colluder = first.colluder
        second = Scene(round_=1, sites=first.sites)
        for site in second.honest:
            with refused(site, step="opening", match="the transcript of the open round"):
                site.answer(first.open_request(site.number))
            site.answer(second.open_request(site.number))
        view = View(second.honest, [colluder, second.colluder])
        assert view.inputs_with(1, 0) is None
        assert view.inputs_with(1, 1) == 4


class TestDelivery:
    @pytest.mark.parametrize("lost", [(), (5,)])
    def test_every_message_delivered_twice_is_the_same_round(self, lost):
        """Requests get the same bytes, or, for an upload, which is kept on the disk, no second one at all."""
        federation, sites, members = begun()
        coordinator = asked(federation, members)
        requests = dict.fromkeys([e for e in ALL if e not in lost], coordinator.request)
        while requests:
            for number, request in requests.items():
                reply = sites[number].answer(request.to_bytes())
                take(coordinator, number, reply)
                with refused(coordinator, step=coordinator.step.value, match="one message of each site"):  # fmt: skip
                    take(coordinator, number, reply)
                if isinstance(request, RoundRequest):
                    with refused(sites[number], step="upload", match="a round from 1"):
                        sites[number].answer(request.to_bytes())
                else:
                    assert sites[number].answer(request.to_bytes()) == reply
            requests = coordinator.close()
        assert np.array_equal(coordinator.total(), exact_sum([e for e in ALL if e not in lost], 0))

    def test_in_every_order_a_site_takes_one_path_and_signs_one_set(self):
        """All sixty orders and more of everything that it could be asked in a round, some of it twice."""
        fresh, scene = begun()[1][1], Scene()
        survivors, other = (1, 2, 3, 4), (1, 2, 3, 5)
        signatures = [{e: scene.forged(those, e) for e in those} for those in (survivors, other)]
        messages = [
            scene.request.to_bytes(), scene.open_request(1), scene.survivors_request(survivors),
            scene.survivors_request(other), scene.reveal_request(1, survivors, signatures[0]),
            scene.reveal_request(1, other, signatures[1]),
        ]  # fmt: skip
        ends = set()
        for order in itertools.permutations(messages):
            site = fresh.copy()
            for data in order + order:
                attempt(site, data)
            said = {each.to_bytes(): each for _, each in site.sent}.values()
            kinds = [type(each) for each in said]
            assert kinds[0] is Upload
            assert kinds.count(Upload) == 1
            assert kinds.count(OpenReply) + kinds.count(RevealReply) == 1
            assert len(kinds) <= 3
            ends.add(tuple(each.__name__ for each in kinds))
        assert ends == {
            ("Upload", "OpenReply"), ("Upload", "RevealReply"), ("Upload", "SurvivorsReply", "RevealReply"),
        }  # fmt: skip

    @pytest.mark.parametrize("lost", [(), (5,)])
    def test_every_truncation_of_every_message_is_refused_by_whoever_gets_it(self, lost):
        federation, sites, members = begun()
        coordinator = asked(federation, members)
        cut = 0

        def wire(to, number, data):
            nonlocal cut
            receiver = sites[number] if to == "site" else coordinator
            give = sites[number].answer if to == "site" else partial(take, coordinator, number)
            before = values_of(getattr(receiver, "state", receiver))
            for length in range(0, len(data), 7):
                with pytest.raises(ProtocolError, match=r"Expected \d+ more bytes of a message"):
                    give(data[:length])
                cut += 1
            assert values_of(getattr(receiver, "state", receiver)) == before
            return data

        assert run_round(coordinator, sites, lost=(lost, (), ()), wire=wire) == []
        assert np.array_equal(coordinator.total(), exact_sum([e for e in ALL if e not in lost], 0))
        assert cut > 1000

    def test_a_message_for_somebody_else_is_refused(self):
        """Requests of trips B and C are of one site: their shares are sealed for it."""
        scene = Scene()
        with refused(scene.sites[1], step="opening", match="a share of site 2 for site 1"):
            scene.sites[1].answer(scene.open_request(2))
        survivors = (1, 2, 3, 4)
        signatures = {each: scene.forged(survivors, each) for each in survivors}
        with refused(scene.sites[1], step="reveal", match="a share of site 2 for site 1"):
            scene.sites[1].answer(scene.reveal_request(2, survivors, signatures))
        require_hidden(scene.view(), *HONEST)

    def test_a_share_for_somebody_else_is_not_opened_for_a_colluder(self):
        """The coordinator hands the colluder what was sealed for others."""
        scene = Scene()
        session = scene.colluder.session
        for sender, recipient in itertools.permutations(HONEST, 2):
            (sealed,) = scene.sealed_for(recipient, (sender,))
            for labels in ((sender, 5), (sender, recipient), (recipient, 5)):
                with pytest.raises(AggregationError, match="expected a share of site"):
                    keys.open_share(session.chains[sender], scene.transcript, *labels, sealed, step="here")  # fmt: skip


class TestAnotherRosterOrStudy:
    @pytest.mark.parametrize("name", ["study", "roster"])
    def test_a_session_of_another_one_is_refused(self, name):
        """Genuine keys of the same sites, announced for it."""
        federation, sites, _ = begun()
        others = announced_by([Site(federation_of(**{name: "another"}), each) for each in ALL])
        for number in HONEST:
            own = sites[number].state.pending.announced
            members = tuple(own if each.site == number else each for each in others)
            request = RoundRequest(round=0, payload=b"m", members=members)
            with refused(sites[number], step="upload", match="keys of this study and roster"):
                sites[number].answer(request.to_bytes())
        with pytest.raises(AggregationError, match="keys of this study and roster"):
            session_members(federation, others)

    @pytest.mark.parametrize("changed", [{"study": bytes(32)}, {"roster": bytes(32)}], ids=str)
    def test_whoever_believes_in_another_one_shares_no_mask(self, changed):
        federation, _, members = begun()
        request = asked(federation, members).request
        values = {"bits": BITS, "dimension": DIMENSION}
        assert transcript_of(federation, request, **values) != transcript_of(
            replace(federation, **changed), request, **values
        )

    def test_a_stranger_with_a_number_beyond_the_roster_is_refused(self):
        _, sites, members = begun()
        stranger = replace(members[4], site=6)
        stranger = replace(stranger, signature=identity(6).sign("setup", stranger.signed))
        request = RoundRequest(round=0, payload=b"m", members=(*members[:4], stranger))
        with refused(sites[1], step="upload", match="a site of the roster"):
            sites[1].answer(request.to_bytes())

    def test_a_stranger_in_anothers_place_is_refused(self):
        _, sites, members = begun()
        imposter = replace(members[4], epoch=bytes(16))
        imposter = replace(imposter, signature=identity(6).sign("setup", imposter.signed))
        request = RoundRequest(round=0, payload=b"m", members=(*members[:4], imposter))
        with refused(sites[1], step="upload", match="a key that site 5 has signed"):
            sites[1].answer(request.to_bytes())
