"""Injected faults have their rate, and follow from the seed, the node and the query alone."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from privacy.errors import UserError
from simulations.faults import random_drops
from simulations.grid import InProcessGrid


@pytest.fixture
def message():
    InProcessGrid({})  # tells Flower who we are
    content = RecordDict({"record": ConfigRecord({})})

    def make(node, index):
        kind = {"message_type": "query.sum", "ttl": 60.0, "group_id": str(index)}
        return Message(content, dst_node_id=node, **kind)

    return make


def pattern(rate, message, *, seed=1, order=range(60)):
    drops = random_drops(rate, simulation_seed=seed)
    found = {(node, index): drops(message(node, index)) for index in order for node in (2, 3, 4)}
    return np.array([found[node, index] for node in (2, 3, 4) for index in range(60)])


def test_nobody_is_missing_at_rate_zero(message):
    assert not pattern(0.0, message).any()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_sites_are_missing_at_the_given_rate(message, rate):
    """Of 180 queries; 5 standard deviations, and 1: P < 1e-5 for any seed, here it is fixed."""
    slack = 5 * np.sqrt(180 * rate * (1 - rate)) + 1
    assert abs(pattern(rate, message).sum() - 180 * rate) < slack


def test_the_same_seed_gives_the_same_faults_in_any_order(message):
    first = pattern(0.4, message)
    assert first.tolist() == pattern(0.4, message, order=reversed(range(60))).tolist()


def test_another_seed_node_or_query_gives_other_faults(message):
    first = pattern(0.5, message)
    assert first.tolist() != pattern(0.5, message, seed=2).tolist()
    nodes = first.reshape(3, 60)
    assert len({tuple(each) for each in nodes.tolist()}) == 3
    assert len({tuple(each) for each in nodes.T.tolist()}) > 1


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(UserError, match="--drop: expected a rate of at least 0 and below 1"):
        random_drops(rate, simulation_seed=1)
