"""What a cheating coordinator tries, and what came of it elsewhere: refused by name of the step, and nothing is learned.

After each attack `require_hidden` asks, from all that honest sites said and all that colluders hold, which sums could
be unmasked: none that holds a victim's input has fewer than m - c honest ones. Colluders are the highest sites.
"""

import itertools
from dataclasses import fields, replace

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
    identity,
    refused,
    require_hidden,
    run_round,
    run_trip,
    secret,
    take,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.errors import AggregationError, NoSessionError, PrivacyError, RoundAbandonedError
from privacy.secure_aggregation import keys
from privacy.secure_aggregation import site as machine
from privacy.secure_aggregation.coordinator import session_members
from privacy.secure_aggregation.messages import (
    MESSAGES,
    OpenRequest,
    RevealRequest,
    RoundRequest,
    SetupKey,
)
from privacy.secure_aggregation.site import join, transcript_of, upload


class TestTheViewSeesABreak:
    """Power: with sites that could be put back to an earlier state it finds what these tests say is not there."""

    def test_sites_that_forget_the_path_they_took_give_the_victim_away(self):
        """Both ways of unmasking one round: shares of the victim's self-mask, and the seeds of all its pairs."""
        scene = Scene()
        forgetful = [each.copy() for each in scene.honest]
        for site in scene.honest:
            assert attempt(site, scene.open_request(site.number))
        survivors = (2, 3, 4, 5)
        for site in forgetful[1:]:
            signatures = {each: scene.forged(survivors, each) for each in survivors}
            assert attempt(site, scene.reveal_request(site.number, survivors, signatures))
        assert scene.view().inputs_with(1) == 4
        both = View(scene.honest + [_without_upload(each) for each in forgetful], [scene.colluder])
        assert both.inputs_with(1) == 1
        with pytest.raises(AssertionError, match="a sum with 1 honest inputs"):
            require_hidden(both, 1)

    def test_reveals_about_two_sites_give_the_rest_away(self):
        scene = Scene()
        assert scene.view().inputs_with(1) is None
        scene.honest[1].sent.append(scene.honest[0].sent[0])
        assert scene.view().inputs_with(1) is None


def _without_upload(site):
    return Site(site.federation, site.number, site.state, site.sent[1:])


class TestOneSiteActiveAndDead:
    """SecAgg+ of Flower unmasks the site that is named in both lists."""

    def test_survivors_first_and_the_fast_path_after_is_refused(self):
        scene = Scene()
        survivors = (2, 3, 4, 5)
        for number in survivors[:-1]:
            site = scene.sites[number]
            assert attempt(site, scene.survivors_request(survivors))
            with refused(site, step="opening", match="a site that is signed"):
                site.answer(scene.open_request(number))
        assert attempt(scene.sites[1], scene.open_request(1))
        require_hidden(scene.view(), *HONEST)

    def test_the_fast_path_first_and_survivors_after_is_refused(self):
        scene = Scene()
        survivors = (2, 3, 4, 5)
        signatures = {each: scene.forged(survivors, each) for each in survivors}
        for site in scene.honest:
            assert attempt(site, scene.open_request(site.number))
        for site in scene.honest[1:]:
            with refused(site, step="survivors", match="a site that is opened"):
                site.answer(scene.survivors_request(survivors))
            with refused(site, step="reveal", match="a site that is opened"):
                site.answer(scene.reveal_request(site.number, survivors, signatures))
        require_hidden(scene.view(), *HONEST)
        assert scene.view().inputs_with(1) == 4

    def test_reveals_first_and_anything_after_is_refused(self):
        scene = Scene()
        survivors = (1, 2, 3, 4)
        signatures = {each: scene.forged(survivors, each) for each in survivors}
        other = (1, 2, 3, 5)
        for site in scene.honest[:3]:
            assert attempt(site, scene.reveal_request(site.number, survivors, signatures))
            for data, step in (
                (scene.open_request(site.number), "opening"),
                (scene.survivors_request(other), "survivors"),
                (scene.reveal_request(site.number, other, {e: scene.forged(other, e) for e in other}), "reveal"),
            ):  # fmt: skip
                with refused(site, step=step, match="a site that is opened"):
                    site.answer(data)
        require_hidden(scene.view(), *HONEST)

    def test_two_sets_do_not_both_find_tau_signatures(self):
        """Half of the sites are asked for the one set and half for the other; the colluder signs both."""
        scene = Scene()
        sets = {number: ((1, 2, 3, 5) if number % 2 else (1, 2, 4, 5)) for number in (1, 2, 3)}
        sets[4] = (1, 2, 4, 5)
        found = {}
        for number, survivors in sets.items():
            reply = attempt(scene.sites[number], scene.survivors_request(survivors))
            found.setdefault(survivors, {})[number] = reply.signature
        for survivors, signatures in found.items():
            signatures[5] = scene.forged(survivors, 5)
            for number in survivors[:-1]:
                site = scene.sites[number]
                with refused(site, step="reveal", match="at least 4 signatures|that this site has signed"):  # fmt: skip
                    site.answer(scene.reveal_request(number, survivors, signatures))
        require_hidden(scene.view(), *HONEST)
        assert scene.view().inputs_with(1) is None

    def test_a_site_among_survivors_and_missing_cannot_be_written_and_twice_is_refused(self):
        """One list says both: who is not in it is missing."""
        scene = Scene()
        assert set(RevealRequest.FIELDS) == {
            "transcript", "survivors", "signatures", "ciphertexts",
        }  # fmt: skip
        for survivors in ((1, 2, 3, 3), (1, 1, 2, 3, 4)):
            with refused(scene.sites[1], step="survivors", match="each once"):
                scene.sites[1].answer(scene.survivors_request(survivors))

    SETS = tuple(each for size in (4,) for each in itertools.combinations(ALL, size))

    @pytest.mark.parametrize("named", SETS, ids=lambda each: "".join(map(str, each)))
    def test_whatever_path_each_site_is_shown_nothing_is_learned(self, named):
        """Every way to show each honest site the fast path, this set of survivors, another one, or nothing at all."""
        other = self.SETS[(self.SETS.index(named) + 1) % len(self.SETS)]
        start = Scene()
        for shown in itertools.product(("open", "named", "other", "none"), repeat=len(HONEST)):
            scene = start.again()
            signed = {named: {}, other: {}}
            for site, path in zip(scene.honest, shown, strict=True):
                if path == "open":
                    attempt(site, scene.open_request(site.number))
                elif path in ("named", "other"):
                    chosen = named if path == "named" else other
                    if reply := attempt(site, scene.survivors_request(chosen)):
                        signed[chosen][site.number] = reply.signature
            for chosen, signatures in signed.items():
                if 5 in chosen:
                    signatures[5] = scene.forged(chosen, 5)
                for site in scene.honest:
                    attempt(site, scene.reveal_request(site.number, chosen, signatures))
                    attempt(site, scene.open_request(site.number))
            if _said(scene) not in self.seen:
                require_hidden(scene.view(), *HONEST)
                self.seen.add(_said(scene))

    seen = set()  # noqa: RUF012  what was said decides what can be learned, so each such case is examined once


def _said(scene):
    return tuple(each.to_bytes() for site in scene.honest for _, each in site.sent)


class TestSubstitutedKeys:
    """Without a PKI the coordinator sits between all pairs."""

    def substituted(self, victim, *, signer=None):
        """The victim's key replaced by one of the coordinator's, signed by whatever it can sign with."""
        own = keys.public_key(keys.private_key(secret("coordinator's own")))
        wrong = replace(begun()[2][victim - 1], public=own)
        signature = signer.sign("setup", wrong.signed) if signer else wrong.signature
        return replace(wrong, signature=signature)

    @pytest.mark.parametrize("victim", HONEST)
    @pytest.mark.parametrize("signer", [None, identity(5), identity(99)], ids=["old", "colluder", "own"])  # fmt: skip
    def test_every_other_site_refuses_and_sends_nothing(self, victim, signer):
        federation, sites, members = begun()
        wrong = (*members[: victim - 1], self.substituted(victim, signer=signer), *members[victim:])
        request = RoundRequest(round=0, payload=b"model", members=wrong).to_bytes()
        for number in HONEST:
            expected = "still holds" if number == victim else f"a key that site {victim} has signed"
            error = NoSessionError if number == victim else AggregationError
            with refused(sites[number], step="upload", match=expected, error=error):
                sites[number].answer(request)
            assert sites[number].sent == []
        coordinator = asked(federation, members)  # and the honest round goes on
        assert run_round(coordinator, sites) == []
        assert np.array_equal(coordinator.total(), exact_sum(ALL, 0))

    def test_a_colluders_key_under_another_number_is_refused(self):
        _, sites, members = begun()
        renamed = replace(members[4], site=2)
        renamed = replace(renamed, signature=identity(5).sign("setup", renamed.signed))
        request = RoundRequest(round=0, payload=b"m", members=(members[0], renamed, *members[2:4]))
        with refused(sites[1], step="upload", match="a key that site 2 has signed"):
            sites[1].answer(request.to_bytes())

    def test_two_keys_of_one_colluder_in_two_sessions_share_no_mask(self):
        """It announces one key to some and another to others: chain keys are of the whole session."""
        federation, sites, members = begun()
        (second,) = announced_by([sites[5].copy()], nonce=b"another nonce 16")
        other = asked(federation, (*members[:4], second), 0).request
        one = asked(federation, members, 0).request
        for number in HONEST:
            sites[number].answer((one if number < 3 else other).to_bytes())
        masks = [set(sites[each].sent[0][1].pair_masks) for each in HONEST]
        assert masks[0] & masks[1]
        assert masks[2] & masks[3]
        assert not (masks[0] | masks[1]) & (masks[2] | masks[3])


class TestSmallCohorts:
    """A cohort of one with threshold one is a sum of one."""

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_a_session_below_m_is_refused(self, size):
        for chosen in itertools.combinations(range(5), size):
            _, sites, members = begun()
            request = RoundRequest(round=0, payload=b"m", members=tuple(members[e] for e in chosen))
            for place in chosen:
                with refused(sites[place + 1], step="upload", match="at least 4 members"):
                    sites[place + 1].answer(request.to_bytes())
                assert sites[place + 1].sent == []

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_survivors_below_m_are_refused_though_everybody_has_signed(self, size):
        for survivors in itertools.combinations(ALL, size):
            scene = Scene()
            signatures = {each: scene.forged(survivors, each) for each in survivors}
            for number in set(survivors) & set(HONEST):
                site = scene.sites[number]
                with refused(site, step="survivors", match="at least 4 survivors"):
                    site.answer(scene.survivors_request(survivors))
                with refused(site, step="reveal", match="at least 4 survivors"):
                    site.answer(scene.reveal_request(number, survivors, signatures))
            assert scene.view().inputs_with(1) is None

    def test_members_of_whom_all_but_one_collude_are_no_cohort(self):
        """Colluders may announce as many keys as they like: a site is one member."""
        _, sites, members = begun()
        more = announced_by([sites[5].copy()], nonce=b"another nonce 16")
        request = RoundRequest(round=0, payload=b"m", members=(members[0], members[4], *more))
        with refused(sites[1], step="upload", match="members in ascending order, each once|at least 4"):  # fmt: skip
            sites[1].answer(request.to_bytes())


class TestTinyModulus:
    """A modulus of 2 leaks signs."""

    def test_nobody_can_ask_for_a_ring(self):
        """It is derived from the study: no request has a field for it, nor for a threshold, a weight or a range."""
        asked_for = {name for each in MESSAGES.values() for name in each.FIELDS}
        assert asked_for == {
            "study", "roster", "nonce", "site", "epoch", "public", "signature", "round", "payload", "members",
            "transcript", "vector", "self_mask", "shares", "pair_masks", "ciphertexts", "survivors", "signatures",
            "seeds",
        }  # fmt: skip

    @pytest.mark.parametrize("changed", [{"bits": 64}, {"dimension": 4}, {"dimension": 6}], ids=str)
    def test_another_ring_or_length_is_another_round(self, changed):
        """Whoever thinks so has another transcript, and its shares are refused by all others."""
        federation, sites, members = begun()
        for name, value in changed.items():
            setattr(sites[1], name, value)
        coordinator = asked(federation, members)
        (refusal,) = run_trip(coordinator, sites, dict.fromkeys(ALL, coordinator.request))
        assert (refusal.step, "transcript" in refusal.message) == ("uploads", True)
        values = {"bits": BITS, "dimension": DIMENSION}
        found = transcript_of(federation, coordinator.request, **values | changed)
        assert sites[1].sent[0][1].transcript == found != coordinator.transcript
        others = [sites[2].sent[0][1].ciphertexts[0], *[bytes(49)] * 3]
        with refused(sites[1], step="opening", match="a share of site 2 for site 1"):
            sites[1].answer(OpenRequest(transcript=found, ciphertexts=tuple(others)).to_bytes())


class TestSeeds:
    """Flower's masks have 28 bits of entropy and are found in 26 seconds."""

    def flip(self, value, bit):
        return value[: bit // 8] + bytes([value[bit // 8] ^ 1 << bit % 8]) + value[bit // 8 + 1 :]

    def test_a_self_mask_hangs_on_all_256_secret_bits_and_on_nothing_public(self):
        """Same request, same transcript, same pairs: one bit of the site's entropy, and everything of it is new."""
        federation, sites, members = begun()
        request = asked(federation, members).request
        joined = join(federation, sites[1].state, request, bits=BITS, dimension=DIMENSION)
        zeros, found = np.zeros(DIMENSION, np.int64), []
        for seed in [secret("seed"), *(self.flip(secret("seed"), bit) for bit in range(256))]:
            _, said = upload(federation, sites[1].state, joined, zeros, bits=BITS, seed=seed)
            found.append(said)
        assert len({each.self_mask for each in found}) == 257
        assert len({each.vector.tobytes() for each in found}) == 257
        assert len({share for each in found for share in each.shares}) == 257 * 5
        assert len({each.pair_masks for each in found}) == 1

    def test_pair_masks_hang_on_all_secret_bits_while_everything_public_is_the_same(
        self, monkeypatch
    ):
        """Public halves are made up, so that whole sessions differ in one bit of one X25519 secret and nothing else.

        X25519 fixes 5 of the 256 bits; each of the others gives other masks with every other member.
        """
        made_up = keys.public_key(keys.private_key(secret("made up")))
        federation, _, others = begun()
        seen = []
        for bit in (None, *range(3, 254)):
            fresh = Site(federation, 1)
            private = secret("x25519", 1, bytes(16))
            private = private if bit is None else self.flip(private, bit)
            monkeypatch.setattr(
                keys, "private_key", lambda _, own=private: X25519PrivateKey.from_private_bytes(own)
            )
            monkeypatch.setattr(keys, "public_key", lambda _: made_up)
            announced_by([fresh])
            monkeypatch.undo()
            members = (fresh.state.pending.announced, *others[1:])
            fresh.answer(RoundRequest(round=0, payload=b"m", members=members).to_bytes())
            seen.append((members, fresh.sent[0][1]))
        assert len({members for members, _ in seen}) == 1
        assert len({said.transcript for _, said in seen}) == 1
        masks = [mask for _, said in seen for mask in said.pair_masks]
        assert len(set(masks)) == len(masks) == 4 * len(seen)
        assert len(seen) == 252

    def test_every_seed_has_256_bits(self):
        scene = Scene()
        for site in scene.honest:
            assert {len(each) for each in site.state.round.pair_seeds.values()} == {32}
        every = [each for s in scene.honest for each in s.state.round.pair_seeds.values()]
        assert len(set(every)) == 6 + 4  # pairs of honest sites, and those with the colluder

    def test_rounds_and_sites_share_no_mask(self):
        first = Scene()
        second = Scene(round_=1, sites=first.sites)
        masks = [
            {each.self_mask for each in scene.uploads.values()}
            | {mask for each in scene.uploads.values() for mask in each.pair_masks}
            for scene in (first, second)
        ]
        assert [len(each) for each in masks] == [15, 15]
        assert not masks[0] & masks[1]


class TestAModelForEachSite:
    """Who is shown a model of its own answers about that model alone, in a sum that others were to hide."""

    @pytest.mark.parametrize("split", range(1, 16))
    def test_sites_that_were_shown_different_models_cannot_be_summed(self, split):
        federation, sites, members = begun()
        groups = ([], [])
        for place, number in enumerate(HONEST):
            groups[split >> place & 1].append(number)
        payloads = (b"model", b"model for a victim")
        requests = [asked(federation, members, payload=each).request for each in payloads]
        for group, request in zip(groups, requests, strict=True):
            for number in group:
                sites[number].answer(request.to_bytes())
        colluders = [sites[5].copy(), sites[5].copy()]
        for colluder, request in zip(colluders, requests, strict=True):
            colluder.answer(request.to_bytes())
        uploads = {number: sites[number].sent[0][1] for number in HONEST}
        for group, colluder in zip(groups, colluders, strict=True):
            transcript, theirs = colluder.state.round.transcript, colluder.sent[0][1]
            for number in group:
                every = uploads | {5: theirs}
                sealed = tuple(
                    every[each].ciphertexts[[o for o in ALL if o != each].index(number)]
                    for each in ALL
                    if each != number
                )
                request = OpenRequest(transcript=transcript, ciphertexts=sealed)
                if len(group) < len(HONEST):
                    with refused(sites[number], step="opening", match="of this round and transcript"):  # fmt: skip
                        sites[number].answer(request.to_bytes())
                else:
                    sites[number].answer(request.to_bytes())
        view = View([sites[each] for each in HONEST], [each.state for each in colluders])
        whole = any(len(group) == len(HONEST) for group in groups)
        for number in HONEST:
            assert view.inputs_with(number) == (4 if whole else None)

    def test_the_honest_coordinator_refuses_an_answer_about_another_model(self):
        federation, sites, members = begun()
        coordinator = asked(federation, members)
        other = replace(coordinator.request, payload=b"another model")
        said = sites[1].answer(other.to_bytes())
        with refused(coordinator, step="uploads", match="the transcript of this round"):
            take(coordinator, 1, said)


class TestAnotherSitesKey:
    """A malicious site registers an honest site's public key as its own, drops, and survivors reveal its masks."""

    def registered(self, victim=1, *, twin=False):
        """Site 5's announcement of the victim's key. Bit 255 is ignored by X25519, so every key has a twin."""
        members = begun()[2]
        public = members[victim - 1].public
        public = public[:31] + bytes([public[31] ^ 0x80]) if twin else public
        wrong = replace(members[4], public=public)
        return replace(wrong, signature=identity(5).sign("setup", wrong.signed))

    def test_in_the_same_cohort_it_is_refused(self):
        federation, sites, members = begun()
        wrong = (*members[:4], self.registered())
        with pytest.raises(RoundAbandonedError, match="Expected keys of at least 4 sites, found 3"):
            session_members(federation, wrong)  # both are left out
        for number in HONEST:
            with refused(sites[number], step="upload", match="keys of which no two are equal"):
                sites[number].answer(RoundRequest(round=0, payload=b"m", members=wrong).to_bytes())

    def dropped(self, sites, federation, members):
        """A round from which site 5 drops, and all seeds that were revealed about it."""
        coordinator = asked(federation, members)
        assert run_round(coordinator, sites, lost=((5,), (), ())) == []
        assert np.array_equal(coordinator.total(), exact_sum(HONEST, 0))
        return {each: sites[each].sent[-1][1].seeds[0] for each in HONEST}

    def committed(self, sites, seeds):
        """Sites whose mask with the victim is what they revealed about the attacker."""
        transcript = sites[1].sent[0][1].transcript
        return [
            each
            for each in (2, 3, 4)
            if keys.commitment("pair", transcript, seeds[each], 1, each)
            == sites[each].sent[0][1].pair_masks[0]
        ]

    def test_its_twin_with_the_ignored_bit_is_refused(self):
        federation, sites, members = begun()
        twins = (*members[:4], self.registered(twin=True))
        with pytest.raises(AggregationError, match="a key in its one spelling") as refusal:
            session_members(federation, twins)
        assert refusal.value.step == "setup"
        for number in HONEST:
            with refused(sites[number], step="upload", match="a key in its one spelling"):
                sites[number].answer(RoundRequest(round=0, payload=b"m", members=twins).to_bytes())

    def test_its_twin_would_open_nothing_if_it_were_let_in(self, monkeypatch):
        """Spellings are not what protects: identities in every derivation are."""
        monkeypatch.setattr(machine, "_require_one_spelling", lambda *_, **__: None)
        federation, sites, members = begun()
        twins = session_members(federation, (*members[:4], self.registered(twin=True)))
        for number in (2, 3, 4):  # the X25519 secret is the same, indeed
            private = keys.private_key(secret("x25519", number, bytes(16)))
            common = [keys.agreed(private, each).value for each in (twins[0], twins[4])]
            assert common[0] == common[1]
        seeds = self.dropped(sites, federation, twins)
        assert self.committed(sites, seeds) == []
        require_hidden(View([sites[each] for each in HONEST]), *HONEST)

    def test_without_identities_it_would_open_the_victim(self, monkeypatch):
        """Power of the test above."""
        monkeypatch.setattr(machine, "_require_one_spelling", lambda *_, **__: None)
        monkeypatch.setattr(
            keys, "first_chain_key", lambda common, **_: keys.Secret(keys.derive_key(common.value))
        )
        monkeypatch.setattr(
            keys,
            "pair_seed",
            lambda chain, transcript, *_: keys.derive_key(chain.value, transcript),
        )
        federation, sites, members = begun()
        twins = (*members[:4], self.registered(twin=True))
        assert self.committed(sites, self.dropped(sites, federation, twins)) == [2, 3, 4]

    def test_in_separate_cohorts_keys_differ_and_sealed_shares_stay_sealed(self):
        """Sites 1 and 2 are shown the victim, sites 3 and 4 its double in its place."""
        federation, sites, members = begun()
        one = asked(federation, members, 0).request
        other = asked(federation, (*members[1:4], self.registered()), 0).request
        for number, request in ((1, one), (2, one), (3, other), (4, other)):
            sites[number].answer(request.to_bytes())
        said = {each: sites[each].sent[0][1] for each in HONEST}
        assert not {*said[1].pair_masks, *said[2].pair_masks} & {*said[3].pair_masks, *said[4].pair_masks}  # fmt: skip
        for number, senders in ((3, (2, 4, 1)), (4, (2, 3, 1))):
            sealed = tuple(said[each].ciphertexts[0] for each in senders)
            request = OpenRequest(transcript=said[number].transcript, ciphertexts=sealed)
            with refused(sites[number], step="opening", match="a share of site 2 for site"):
                sites[number].answer(request.to_bytes())
        require_hidden(View([sites[each] for each in HONEST]), *HONEST)
        assert View([sites[each] for each in HONEST]).inputs_with(1) is None


class TestShiftedThresholds:
    """Thresholds that differ between views let both sides of a split succeed."""

    def test_every_constant_is_part_of_the_transcript(self):
        """By one step, wherever that is allowed at all."""
        federation, _, members = begun(9, 1, 2)
        base = replace(federation.thresholds, sites=9, survivors=8, threshold=5, quorum=7, shares=5)
        request = asked(federation, members).request
        seen, allowed = set(), set()
        for name in [each.name for each in fields(base)]:
            for step in (-1, 0, 1):
                try:
                    changed = replace(base, **{name: getattr(base, name) + step})
                except PrivacyError:
                    continue
                identities = tuple(identity(e).public for e in range(1, changed.sites + 1))
                at = replace(federation, thresholds=changed, identities=identities)
                seen.add(transcript_of(at, request, bits=BITS, dimension=DIMENSION))
                allowed.add(tuple(vars(changed).values()))
                if step:
                    allowed.add(name)
        assert allowed >= {each.name for each in fields(base)}
        assert len(seen) == len([each for each in allowed if isinstance(each, tuple)])

    def test_sites_with_other_constants_open_nothing(self):
        federation, sites, members = begun(7, 1, 2)
        other = replace(federation.thresholds, threshold=5)
        sites[1].federation = replace(federation, thresholds=other)
        coordinator = asked(federation, members)
        (refusal,) = run_trip(coordinator, sites, dict.fromkeys(sites, coordinator.request))
        assert refusal.step == "uploads"
        said = sites[1].sent[0][1]
        sealed = tuple(sites[each].sent[0][1].ciphertexts[0] for each in range(2, 8))
        with refused(sites[1], step="opening", match="of this round and transcript"):
            sites[1].answer(OpenRequest(transcript=said.transcript, ciphertexts=sealed).to_bytes())
        rest = {each: sites[each] for each in range(2, 8)}
        while requests := coordinator.close():
            assert run_trip(coordinator, rest, requests) == []
        assert np.array_equal(coordinator.total(), exact_sum(range(2, 8), 0))


def test_the_announcement_says_nothing_but_itself():
    """Every field of a key is public: no part of it is derived from the identity or another key of the site."""
    assert set(SetupKey.FIELDS) == {"study", "roster", "site", "epoch", "public", "signature"}
