"""Whatever the coordinator and its corrupt sites do: it learns sums of at least m - c honest inputs of one model and round.

The honest sites are the shipped state machines; `tests/support/cheating_server.py` says what is symbolic, and
`tests/support/server_strategies.py` what "whatever" means and which reductions are made. Only sums of honest inputs are
looked at: what corrupt sites put in, they can take out.
"""

import random

import numpy as np
import pytest
import symbolic_masks
from cheating_server import ALIAS, SAME, Server, Sites, in_words, shortest
from learnable_sums import named, several_rounds
from planted_aggregation_bugs import OVER_ROUNDS, PLANTED
from server_strategies import OneRound, rosters, subsets

from privacy.secure_aggregation import masks, site
from privacy.secure_aggregation.messages import RoundRequest
from privacy.secure_aggregation.thresholds import Thresholds

STRATEGIES = 3000  # over several rounds; `python -m learnable_sums` runs ten times as many


def roster_names():
    return [pytest.param(*each, id=named(*each)) for each in rosters()]


@pytest.fixture
def _only_graphs(monkeypatch):
    """Elimination is for weakened code: what is shipped has every unknown seed once with +1 and once with -1."""

    def never(part, rows):
        raise AssertionError(f"Expected a graph, found {[rows[place] for place in part]}")

    monkeypatch.setattr(symbolic_masks, "dependent_sets", never)


@pytest.mark.usefixtures("_only_graphs")
@pytest.mark.parametrize(("constants", "corrupt"), roster_names())
def test_in_one_round_no_strategy_learns_anything_but_sums_of_enough_honest_sites(
    constants, corrupt
):
    found = OneRound(constants, corrupt=corrupt)

    for (number, view), paths in found.paths.items():  # one upload, one path, one set
        sets = [
            each
            for each in subsets(view.members)
            if number in each and constants.survivors <= len(each) < len(view.members)
        ]
        signed = [((("sign", number, each),), target) for each in sets for target in (None, each)]
        opened = [((("open", number),), None)]
        if {SAME, ALIAS} & {key for _, key in view.variants}:
            opened = []  # whoever has stolen a key can seal nothing under it
        expected = [((), None), *opened, *signed]
        assert sorted(paths, key=str) == sorted(((False, *each) for each in expected), key=str)
    assert all(len(world) == 1 for world in found.worlds)

    found.explore()

    assert not found.findings, in_words(shortest(found.sites, found.moves))
    everybody = found.sites.honest + found.sites.corrupt
    assert found.sums == {  # and these can be had: it is what the protocol is for
        frozenset(each) & frozenset(found.sites.honest)
        for each in subsets(everybody)
        if len(each) >= constants.survivors
    }


@pytest.mark.usefixtures("_only_graphs")
def test_over_several_rounds_no_strategy_learns_more_than_in_one():
    found = several_rounds(STRATEGIES, seed=20)

    assert not found.findings, in_words(shortest(found.sites, found.moves))
    assert found.driven == STRATEGIES
    assert found.counts["sums"] > STRATEGIES // 2
    assert found.counts["strategies with sums of two rounds"] > STRATEGIES // 10


def rosters_at_their_limit():
    """Every corrupt site that the constants allow is there."""
    return [each for each in rosters(sites=5) if each[1] == each[0].colluding]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_weakening_is_found_by_the_same_search(name):
    plant, expected = PLANTED[name]
    with plant():
        if name in OVER_ROUNDS:
            found = several_rounds(STRATEGIES, seed=21)
        else:
            explored = (OneRound(at, corrupt=c).explore() for at, c in rosters_at_their_limit())
            found = next((each for each in explored if each.findings), None)
        assert found is not None, "nothing was found"
        moves = shortest(found.sites, found.moves)
        assert expected in "; ".join(Server(found.sites).play(moves).findings()), in_words(moves)

    unharmed = Sites(found.sites.thresholds, corrupt=len(found.sites.corrupt))
    assert not Server(unharmed).play(moves).findings(), "found in what is shipped, too"


@pytest.mark.parametrize(
    ("n", "c", "m", "t", "tau"),
    [(4, 1, 3, 2, 3), (4, 1, 3, 3, 2), (5, 1, 4, 2, 4), (5, 2, 4, 3, 4), (5, 2, 4, 4, 3)],
)
def test_constants_with_t_or_tau_one_smaller_than_allowed_are_broken(n, c, m, t, tau):
    weak = object.__new__(Thresholds)  # which checks nothing
    vars(weak).update(sites=n, colluding=c, survivors=m, threshold=t, quorum=tau, shares=m - c)

    found = OneRound(weak, corrupt=c).explore()

    assert found.findings


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_symbol_stands_for_the_keystream_of_its_seed(number):
    """What the search calls a row is what a real upload is the sum of."""
    constants, corrupt = next(each for each in rosters() if each[0].sites == 6)
    found = OneRound(constants, corrupt=corrupt)
    view = next(iter(found.takers))
    server = Server(found.sites).play(found.beginning)
    node = server.nodes[number]
    assert server.ask(number, 0, view)
    (sent,) = server.sent

    real = uploaded(found.sites, node.state, sent.request, sent.seed)

    expected = symbolic_masks.unit_input(len(real.vector)).astype(np.uint64)
    masks.add_masks(expected, [(factor, seed) for seed, factor in sent.row.items()])
    np.testing.assert_array_equal(real.vector, expected)
    assert real.self_mask == sent.message.self_mask


def uploaded(sites, state, request: RoundRequest, seed):
    """The shipped upload, masks and all."""
    dimension = 1 + len(request.members)
    joined = site.join(sites.federation, state, request, bits=64, dimension=dimension)
    vector = symbolic_masks.unit_input(dimension)
    return site.upload(sites.federation, state, joined, vector, bits=64, seed=seed)[1]


def test_combinations_of_rows_are_found_by_their_graph_as_by_elimination():
    """Random signed graphs with a few single symbols: circuits of the one are those of the other."""
    coins = random.Random(3)
    graphs = 0
    for _ in range(300):
        rows = [{} for _ in range(coins.randint(1, 5))]
        for seed in range(coins.randint(0, 6)):
            ends = coins.sample(range(len(rows)), min(len(rows), coins.choice([1, 2, 2, 2])))
            for place, sign in zip(ends, (1, -1), strict=False):
                rows[place][seed] = sign
        known = {seed for seed in range(6) if coins.random() < 0.3}
        unknown = [{seed: row[seed] for seed in row if seed not in known} for row in rows]

        found = symbolic_masks.circuits(rows, known)

        graphs += any(len(each) > 1 for each in found)
        assert sorted(found) == sorted(
            symbolic_masks.dependent_sets(tuple(range(len(rows))), unknown)
        )
    assert graphs > 30


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{}], [(0,)]),
        ([{"a": 1}], []),
        ([{"a": 2}, {"a": -1}], [(0, 1)]),
        ([{"a": 1, "b": 1}, {"a": 1, "b": -1}], []),
        ([{"a": 1, "b": 1}, {"a": 1, "b": -1}, {"b": 3}], [(0, 1, 2)]),
        ([{"a": 1}, {"a": 1}, {"a": 1}], [(0, 1), (0, 2), (1, 2)]),
        ([{"a": 1, "b": 2}, {"a": 2, "b": 4}, {"a": 1}, {"b": 5}], [(0, 1), (0, 2, 3), (1, 2, 3)]),
    ],
)
def test_elimination_finds_the_smallest_sets_that_depend(rows, expected):
    assert symbolic_masks.dependent_sets(tuple(range(len(rows))), rows) == expected


def test_what_a_strategy_is_refused_for():
    """Each rule that the promise rests on was put to the test by the search itself."""
    constants, corrupt = next(
        each for each in rosters() if each[1] and each[0].survivors < each[0].sites
    )

    found = OneRound(constants, corrupt=corrupt).explore()

    assert (
        not {
            "RoundRequest, upload: expected a round from 1, as earlier ones are over",
            "RoundRequest, upload: expected at least 3 members",
            "RoundRequest, upload: expected keys of which no two are equal",
            "RoundRequest, upload: expected a session with a key that this site has announced and still holds",
            "OpenRequest, opening: expected a message for a site that is signed in its round",
            "OpenRequest, opening: expected the transcript of the open round",
            "OpenRequest, opening: expected a share of site 2 for site 1, of this round and transcript",
            "SurvivorsRequest, survivors: expected a message for a site that is signed in its round",
            "SurvivorsRequest, survivors: expected a message for a site that is opened in its round",
            "SurvivorsRequest, survivors: expected the transcript of the open round",
            "SurvivorsRequest, survivors: expected at least 3 survivors",
            "SurvivorsRequest, survivors: expected survivors that are members, and not all of them",
            "RevealRequest, reveal: expected at least 3 signatures",
            "RevealRequest, reveal: expected a signature of site 1 of this very set",
            "RevealRequest, reveal: expected the transcript of the open round",
        }
        - found.sites.refused.keys()
    )
