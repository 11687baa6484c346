"""Sites that fall silent: within the tolerance before trip B nothing is abandoned, and no sum is ever wrong."""

import functools
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from aggregations import (
    Site,
    View,
    announced_by,
    asked,
    begun,
    exact_sum,
    federation_of,
    refused,
    require_hidden,
    run_round,
    run_trip,
    take,
    thresholds_of,
)

from privacy.errors import NoSessionError, PrivacyError, RoundAbandonedError
from privacy.secure_aggregation.coordinator import Step, session_members
from privacy.secure_aggregation.messages import RoundRequest


def tolerances():
    """(n, c, D): every number of dropouts that some thresholds allow."""
    for sites, colluding in itertools.product(range(4, 9), (1, 2)):
        for missing in range(sites):
            try:
                thresholds_of(sites, colluding, missing)
            except PrivacyError:
                continue
            yield sites, colluding, missing


TOLERANCES = list(tolerances())


def test_every_tolerance_is_tried():
    """2 tau > n + c and tau <= m leave D < (n - c) / 2: the whole list, by hand."""
    assert TOLERANCES == [
        (4, 1, 0), (4, 1, 1), (4, 2, 0), (5, 1, 0), (5, 1, 1), (5, 2, 0), (5, 2, 1),
        (6, 1, 0), (6, 1, 1), (6, 1, 2), (6, 2, 0), (6, 2, 1), (7, 1, 0), (7, 1, 1), (7, 1, 2),
        (7, 2, 0), (7, 2, 1), (7, 2, 2), (8, 1, 0), (8, 1, 1), (8, 1, 2), (8, 1, 3),
        (8, 2, 0), (8, 2, 1), (8, 2, 2),
    ]  # fmt: skip


@functools.cache
def after_uploads(sites, colluding, missing, least):
    """Everybody has uploaded, whoever will turn out to be missing: made once, as states are values."""
    federation, those, members = begun(sites, colluding, missing, least=least)
    request = asked(federation, members).request
    uploads = {number: site.answer(request.to_bytes()) for number, site in those.items()}
    sums = {number: exact_sum([number], 0) for number in those}
    return federation, members, those, uploads, sums


def expected_step(at, lost):
    """How a round ends in which these many are lost in trips A, B and C, from the description of the protocol."""
    first, second, third = lost
    left = at.sites - first
    if left < at.survivors:
        return Step.ABANDONED
    if not first:  # the fast path has no third trip
        return Step.DONE if left - second >= at.threshold else Step.ABANDONED
    signed = left - second >= at.quorum
    return Step.DONE if signed and not second and not third else Step.ABANDONED


def play(tolerance, lost, *, least):
    """The round in which these sites are lost in trips A, B and C, each for the rest of it: (coordinator, sum)."""
    federation, members, those, uploads, sums = after_uploads(*tolerance, least)
    coordinator = asked(federation, members)
    gone = set(lost[0])
    for number, data in uploads.items():
        if number not in gone:
            run_trip(coordinator, {number: Repeats(data)}, {number: coordinator.request})
    sites = {number: site.copy() for number, site in those.items()}
    for silent in lost[1:]:
        gone |= set(silent)
        assert run_trip(coordinator, sites, coordinator.close(), lost=gone) == []
    assert coordinator.close() == {}
    right = sum(sums[each] for each in coordinator.survivors)
    return coordinator, right


class Repeats:
    """A site whose upload is known already."""

    def __init__(self, data):
        self._data = data

    def answer(self, _request):
        return self._data


def losses(sites, most):
    """Every way to lose up to so many sites, each in one of the three trips."""
    for count in range(most + 1):
        for chosen in itertools.combinations(range(1, sites + 1), count):
            for trips in itertools.product(range(3), repeat=count):
                yield tuple(
                    tuple(site for site, trip in zip(chosen, trips, strict=True) if trip == each)
                    for each in range(3)
                )


CASES = [(each, False) for each in TOLERANCES] + [
    (each, True) for each in TOLERANCES if each[0] < 7
]
"""t = tau = m, as studies have it, and in the smaller federations the least that is sound, which tolerates more."""


@pytest.mark.parametrize(
    ("tolerance", "least"),
    [
        pytest.param(*each, id="n{}-c{}-D{}-{}".format(*each[0], "least" if each[1] else "m"))
        for each in CASES
    ],
)
def test_every_subset_that_drops_at_every_step(tolerance, least):
    """Up to D sites, and one more than that in the smaller federations: exact or abandoned, as the protocol says."""
    sites, _, missing = tolerance
    at = federation_of(*tolerance, least=least).thresholds
    counts = Counter()
    for lost in losses(sites, missing + (sites <= 6)):
        coordinator, right = play(tolerance, lost, least=least)
        assert coordinator.step is expected_step(at, [len(each) for each in lost])
        if coordinator.step is Step.DONE:
            assert np.array_equal(coordinator.total(), right)
        else:
            with pytest.raises(RoundAbandonedError, match="found a round that is abandoned: "):
                coordinator.total()
        within = sum(map(len, lost)) <= missing
        before = not (lost[1] or lost[2])  # trip B
        if within and before:
            assert coordinator.step is Step.DONE
        counts[coordinator.step, within, before] += 1
    assert counts[Step.ABANDONED, True, True] == 0
    assert {name: counts[key] for name, key in NAMES.items()} == counted(at, missing, sites <= 6)


NAMES = {
    "exact, within, before B": (Step.DONE, True, True),
    "exact, within": (Step.DONE, True, False),
    "exact, beyond": (Step.DONE, False, False),
    "abandoned, within": (Step.ABANDONED, True, False),
    "abandoned, beyond": (Step.ABANDONED, False, False),
    "abandoned, beyond, before B": (Step.ABANDONED, False, True),
}


def counted(at, missing, one_more):
    """The same numbers by combinatorics: how many ways there are to lose a, b and c of n sites."""
    found = dict.fromkeys(NAMES, 0)
    for a, b, c in itertools.product(range(at.sites + 1), repeat=3):
        if a + b + c > missing + one_more:
            continue
        ways = math.comb(at.sites, a) * math.comb(at.sites - a, b) * math.comb(at.sites - a - b, c)
        key = (expected_step(at, (a, b, c)), a + b + c <= missing, b == c == 0)
        (name,) = [each for each, value in NAMES.items() if value == key]
        found[name] += ways
    return found


@pytest.mark.parametrize(
    ("tolerance", "gone"), [((6, 1, 1), (3,)), ((8, 1, 1), (8,)), ((8, 1, 2), (1, 5))]
)
def test_sites_lost_in_b_but_back_in_c_let_the_round_finish(tolerance, gone):
    """They have signed nothing; tau others have, and they reveal for the set that those signed."""
    federation, sites, members = begun(*tolerance)
    quorum = federation.thresholds.quorum
    present = [each for each in sites if each not in gone]
    assert len(present) > quorum
    for absent in itertools.combinations(present, len(present) - quorum):
        those = {number: site.copy() for number, site in sites.items()}
        coordinator = asked(federation, members)
        assert run_round(coordinator, those, lost=(gone, absent, ())) == []
        assert np.array_equal(coordinator.total(), exact_sum(present, 0))
        signers = [each for each in present if each not in absent]
        assert list(coordinator.evidence.signatures) == signers


def test_an_upload_that_comes_too_late_is_in_no_sum_and_stays_masked():
    """The site is named missing; the survivors reveal its pair masks, its self-mask is shared with nobody who tells."""
    federation, sites, members = begun(5, 1, 1)
    coordinator = asked(federation, members)
    requests = dict.fromkeys(sites, coordinator.request)
    late = sites[3].answer(coordinator.request.to_bytes())
    run_trip(coordinator, sites, requests, lost=(3,))
    requests = coordinator.close()
    with refused(coordinator, step="survivors", match="a message of this step"):
        take(coordinator, 3, late)
    while requests:
        assert run_trip(coordinator, sites, requests) == []
        requests = coordinator.close()
    assert np.array_equal(coordinator.total(), exact_sum((1, 2, 4, 5), 0))
    view = View([sites[each] for each in (1, 2, 3, 4)])
    require_hidden(view, 1, 2, 3, 4)
    assert view.inputs_with(3) is None


def test_a_site_that_dropped_is_back_in_the_next_round_of_the_same_session():
    """Whatever trip it was lost in, and whatever became of that round."""
    federation, sites, members = begun(6, 1, 2, rounds=20)
    round_ = 0
    for lost in (((3,), (), ()), ((3, 5), (), ()), ((), (3,), ()), ((5,), (3,), (3,)), ((5,), (), (3,))):  # fmt: skip
        run_round(asked(federation, members, round_), sites, lost=lost)
        whole = asked(federation, members, round_ + 1)
        assert run_round(whole, sites) == []
        assert np.array_equal(whole.total(), exact_sum(sites, round_ + 1))
        round_ += 2


def test_sites_may_drop_in_turn_for_a_whole_study():
    """Every chain keeps its place, though no two sites were asked in the same rounds."""
    federation, sites, members = begun(6, 1, 2, rounds=40)
    for round_, gone in enumerate(itertools.combinations(range(1, 7), 2)):
        coordinator = asked(federation, members, round_)
        assert run_round(coordinator, sites, lost=(gone, (), ())) == []
        present = [each for each in sites if each not in gone]
        assert np.array_equal(coordinator.total(), exact_sum(present, round_))


def test_after_an_abandoned_round_the_next_one_is_exact_and_the_old_one_stays_masked():
    federation, sites, members = begun(5, 1, 1)
    colluder = None
    for round_, lost in enumerate([((1, 2), (), ()), ((1,), (2,), ()), ((1,), (), (2,)), ((), (1, 2, 3), ())]):  # fmt: skip
        coordinator = asked(federation, members, 2 * round_)
        run_round(coordinator, sites, lost=lost)
        assert coordinator.step is Step.ABANDONED
        colluder = sites[5].state
        view = View([sites[each] for each in (1, 2, 3, 4)], [colluder] if colluder.round else [])
        require_hidden(view, 1, 2, 3, 4, round_=2 * round_)
        for site in sites.values():
            site.sent.clear()
        whole = asked(federation, members, 2 * round_ + 1)
        assert run_round(whole, sites) == []
        assert np.array_equal(whole.total(), exact_sum(sites, 2 * round_ + 1))
        for site in sites.values():
            site.sent.clear()


def test_a_site_that_restarted_is_refused_its_session_and_is_back_with_a_new_one():
    federation, sites, members = begun(5, 1, 1)
    run_round(asked(federation, members, 0), sites)
    sites[2] = Site(federation, 2)
    request = RoundRequest(round=1, payload=b"model", members=members)
    with refused(sites[2], step="upload", match="still holds", error=NoSessionError):
        sites[2].answer(request.to_bytes())
    without = asked(federation, members, 1)  # the others go on
    (refusal,) = run_round(without, sites)
    assert isinstance(refusal, NoSessionError)
    assert np.array_equal(without.total(), exact_sum((1, 3, 4, 5), 1))
    anew = session_members(
        federation, announced_by(list(sites.values()), nonce=b"a new session 16")
    )
    whole = asked(federation, anew, 2)
    assert run_round(whole, sites) == []
    assert np.array_equal(whole.total(), exact_sum(sites, 2))


def test_a_site_that_restarted_in_the_middle_of_a_round_is_lost_for_it():
    """Between trips: its secrets are gone, and nothing that it is asked finds any."""
    for trip, ends in ((1, Step.DONE), (2, Step.ABANDONED)):
        federation, sites, members = begun(5, 1, 1)
        coordinator = asked(federation, members)
        gone = (5,) if trip == 2 else ()
        requests = dict.fromkeys(sites, coordinator.request)
        run_trip(coordinator, sites, requests, lost=gone)
        requests = coordinator.close()
        if trip == 2:
            run_trip(coordinator, sites, requests)
            requests = coordinator.close()
        sites[2] = Site(federation, 2)
        step = "opening" if trip == 1 else "reveal"
        with refused(sites[2], step=step, match="a site that is waiting"):
            sites[2].answer(requests[2].to_bytes())
        run_trip(coordinator, sites, requests)
        coordinator.close()
        assert coordinator.step is ends
