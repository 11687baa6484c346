"""Weakenings of secure aggregation that a search for learnable sums must notice, planted by patching what is shipped."""

import contextlib
from dataclasses import replace
from unittest import mock

from cheating_server import secret

from privacy.keystream import derive_key
from privacy.secure_aggregation import keys, shamir, site
from privacy.secure_aggregation.messages import RoundRequest

PLANTED = {}
OVER_ROUNDS = []
"""Weakenings that one round does not show."""


def planted(expected, *, over_rounds=False):
    """{name: (what plants it, what it lets a server learn)}."""

    def plant(function):
        name = function.__name__.replace("_", " ")
        PLANTED[name] = contextlib.contextmanager(function), expected
        OVER_ROUNDS.extend([name] * over_rounds)
        return function

    return plant


@planted("1 honest inputs")
def signatures_of_a_set_are_not_verified():
    with mock.patch.object(site, "_require_signatures"):
        yield


@planted("models or rounds are mixed")
def the_model_is_not_in_the_transcript():
    shipped = site.transcript_of

    def blind(federation, request, **shape):
        return shipped(federation, replace(request, payload=b""), **shape)

    with mock.patch.object(site, "transcript_of", blind):
        yield


@planted("1 honest inputs")
def identities_are_in_no_derivation():
    """Keys of which no two are equal are still asked for, but not in one spelling: two spellings are not equal."""
    with (
        mock.patch.object(site, "_require_one_spelling"),
        mock.patch.object(keys, "first_chain_key", lambda common, **_: common),
        mock.patch.object(
            keys, "pair_seed", lambda chain, transcript, *_: _seed(chain, transcript)
        ),
        mock.patch.object(
            keys, "_sealing", lambda chain, transcript, *_: _unnamed(chain, transcript)
        ),
    ):
        yield


def _seed(chain, transcript):
    return derive_key(chain.value, "pair", transcript)


_named = keys._sealing


def _unnamed(chain, transcript):
    return _named(chain, transcript, 0, 0)


@planted("1 honest inputs")
def thresholds_are_those_of_the_members_that_a_request_names():
    """The tolerance for missing sites of the roster, applied to whoever is told to be there."""
    require, signatures = site._require_survivors, site._require_signatures

    def shifted(federation, members):
        at = federation.thresholds
        missing = at.sites - at.survivors
        thresholds = mock.Mock(survivors=members - missing, quorum=members - missing)
        return mock.Mock(wraps=federation, thresholds=thresholds, identities=federation.identities)

    def require_survivors(federation, state, session, survivors, **step):
        require(shifted(federation, len(session.members)), state, session, survivors, **step)

    def require_signatures(federation, agreed, given):
        signatures(shifted(federation, len(agreed.survivors) + 1), agreed, given)

    with (
        mock.patch.object(site, "_require_survivors", require_survivors),
        mock.patch.object(site, "_require_signatures", require_signatures),
    ):
        yield


@planted("1 honest inputs", over_rounds=True)
def a_self_mask_is_shared_one_round_ahead():
    """An upload is masked with what the one of the round before has dealt, and deals what masks the next one."""
    shipped, split = site.upload, shamir.split

    def upload(federation, state, joined, vector, *, bits, seed):
        def of(index):
            return secret("ahead", state.site, index)

        def ahead(_, **sharing):
            return split(derive_key(of(joined.request.round + 1), "self-mask"), **sharing)

        with mock.patch.object(shamir, "split", ahead):
            return shipped(
                federation, state, joined, vector, bits=bits, seed=of(joined.request.round)
            )

    with mock.patch.object(site, "upload", upload):
        yield


@planted("models or rounds are mixed", over_rounds=True)
def a_self_mask_is_used_in_two_rounds():
    shipped = site.upload

    def upload(federation, state, joined, vector, *, bits, seed):
        kept = secret("kept", state.site)
        return shipped(federation, state, joined, vector, bits=bits, seed=kept)

    with mock.patch.object(site, "upload", upload):
        yield


@planted("1 honest inputs")
def the_fast_path_is_open_to_those_who_have_signed():
    shipped = site.open_all

    def open_all(state, request):
        if state.phase is not site.Phase.SIGNED:
            return shipped(state, request)
        _, reply = shipped(replace(state, phase=site.Phase.UPLOADED, last=None), request)
        return state, reply

    with mock.patch.object(site, "open_all", open_all):
        yield


@planted("1 honest inputs")
def two_sets_of_survivors_are_signed():
    shipped = site.sign_survivors

    def sign_survivors(federation, state, request, *, sign):
        _, reply = shipped(federation, state, request, sign=sign)
        return state, reply

    with mock.patch.object(site, "sign_survivors", sign_survivors):
        yield


@planted("1 honest inputs")
def a_round_may_be_uploaded_to_twice():
    join, upload = site.join, site.upload

    def joining(federation, state, request: RoundRequest, **shape):
        return join(federation, replace(state, next_round=0), request, **shape)

    def uploading(federation, state, joined, vector, **rest):
        return upload(federation, replace(state, next_round=0), joined, vector, **rest)

    with mock.patch.object(site, "join", joining), mock.patch.object(site, "upload", uploading):
        yield
