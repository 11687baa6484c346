"""The in-process grid is as faithful as the wire: what arrives is equal, separate, and there once."""

import dataclasses

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from ledgers import DATA_SET, ledger_of

from client.answers import Site, units_of
from client.app import make_client_app
from client.sources import built_in
from client.tables import records_of
from privacy.keystream import derive_key
from simulations.grid import NODE_UNAVAILABLE, InProcessGrid, over_the_wire
from study.codec import encode
from study.envelope import content_of, query_message, refusal_of
from study.freezing import freeze
from study.guarantee import Guarantee, declare
from study.plans import start_plan
from study.queries import Refusal, SumQuery
from study.receipts import ReceiptedAnswer
from study.templates import template_study


def echo(seen):
    """A ClientApp that keeps what it gets and sends it back."""
    app = ClientApp()

    @app.query("sum")
    def answer(message, context):
        seen.append((message, context))
        return Message(message.content, reply_to=message)

    return app


@pytest.fixture
def seen():
    return []


@pytest.fixture
def grid(seen):
    return InProcessGrid({2: echo(seen), 3: echo(seen)})


def content(**values):
    return RecordDict({"record": ConfigRecord(values)})


def query(values, node=2, index=0):
    return Message(
        values, dst_node_id=node, message_type="query.sum", ttl=60.0, group_id=str(index)
    )


def test_it_is_a_grid_of_flower(grid):
    assert isinstance(grid, Grid)
    assert list(grid.get_node_ids()) == [2, 3]
    assert grid.run.run_id == 1
    grid.set_run(grid.run)
    message = grid.create_message(content(n=1), "query.sum", 2, "0", 5.0)
    assert (message.metadata.dst_node_id, message.metadata.ttl) == (2, 5.0)


def test_what_arrives_is_equal_and_another_object(grid):
    values = RecordDict(
        {
            "text": ConfigRecord({"a": "ü\n", "b": b"\x00\xff" * 100, "c": [1, 2], "d": True, "e": 0.1}),
            "metrics": MetricRecord({"loss": 0.25, "count": [1, 2**60]}),
            "arrays": ArrayRecord({"weight": Array(np.eye(3))}),
        }
    )  # fmt: skip
    sent = query(values)
    arrived = over_the_wire(sent)
    assert arrived is not sent
    assert arrived.content is not sent.content
    assert dict(arrived.content["text"]) == dict(sent.content["text"])
    assert dict(arrived.content["metrics"]) == dict(sent.content["metrics"])
    found = arrived.content["arrays"]["weight"].numpy()
    assert found.tobytes() == np.eye(3).tobytes()
    for name in ("dst_node_id", "src_node_id", "group_id", "message_type", "ttl", "run_id"):
        assert getattr(arrived.metadata, name) == getattr(sent.metadata, name)


def test_an_error_arrives_with_its_code(grid):
    sent = query(content(n=1))
    arrived = over_the_wire(Message(Error(code=1003), reply_to=sent))
    assert arrived.has_error()
    assert not arrived.has_content()
    assert arrived.error.code == 1003


def test_a_change_after_sending_is_not_seen_by_the_site(grid, seen):
    values = content(n=1)
    message = query(values)
    (number,) = grid.push_messages([message])
    values["record"]["n"] = 2
    message.content["record"]["n"] = 2
    assert seen[0][0].content["record"]["n"] == 1
    (reply,) = grid.pull_messages([number])
    assert reply.content["record"]["n"] == 1


def test_a_change_at_the_site_is_not_seen_by_the_server(grid, seen):
    values = content(n=1)
    (number,) = grid.push_messages([query(values)])
    seen[0][0].content["record"]["n"] = 2
    (reply,) = grid.pull_messages([number])
    assert reply.content["record"]["n"] == 1
    assert values["record"]["n"] == 1


def test_a_reply_says_whose_it_is_and_to_what(grid):
    numbers = list(grid.push_messages([query(content(n=1), 2), query(content(n=1), 3)]))
    assert len(set(numbers)) == 2
    replies = grid.pull_messages(numbers)
    assert [each.metadata.src_node_id for each in replies] == [2, 3]
    assert [each.metadata.reply_to_message_id for each in replies] == numbers


def test_replies_are_handed_out_once(grid):
    numbers = list(grid.push_messages([query(content(n=1), 2), query(content(n=1), 3)]))
    assert len(list(grid.pull_messages(numbers[:1]))) == 1
    assert len(list(grid.pull_messages(numbers))) == 1
    assert list(grid.pull_messages(numbers)) == []
    assert list(grid.pull_messages(["unknown"])) == []


def test_sending_and_receiving_is_pushing_and_pulling(grid):
    replies = list(grid.send_and_receive([query(content(n=7), 3)], timeout=1.0))
    assert [each.content["record"]["n"] for each in replies] == [7]


@pytest.mark.parametrize("node", [1, 4, 2**63])
def test_a_node_that_is_not_there_answers_with_flowers_error(grid, seen, node):
    (reply,) = grid.send_and_receive([query(content(n=1), node)])
    assert reply.error.code == NODE_UNAVAILABLE == 5
    assert refusal_of(reply) == "it could not be reached"
    assert seen == []


def test_a_dropped_message_does_not_reach_its_site(seen):
    asked = []

    def drops(message):
        asked.append((message.metadata.dst_node_id, message.metadata.group_id))
        return message.metadata.dst_node_id == 2

    grid = InProcessGrid({2: echo(seen), 3: echo(seen)}, drops=drops)
    replies = list(grid.send_and_receive([query(content(n=1), node, index=4) for node in (2, 3)]))
    assert [each.has_error() for each in replies] == [True, False]
    assert asked == [(2, "4"), (3, "4")]
    assert [each.metadata.dst_node_id for each, _ in seen] == [3]


def test_every_node_has_a_context_of_its_own_that_lasts(grid, seen):
    for node in (2, 3, 2):
        grid.push_messages([query(content(n=1), node)])
    contexts = [context for _, context in seen]
    assert [context.node_id for context in contexts] == [2, 3, 2]
    assert contexts[0] is contexts[2]
    assert contexts[0].state is not contexts[1].state


@pytest.mark.parametrize("kind", ["train", "evaluate", "query.other", "query"])
def test_a_message_of_another_kind_is_not_answered_by_a_site(kind):
    """Flower's own SuperNode turns this ValueError into an error reply."""
    grid = InProcessGrid({2: make_client_app(Site(ledger_of()))})
    message = Message(content(n=1), dst_node_id=2, message_type=kind, ttl=60.0)
    with pytest.raises(ValueError, match="function registered"):
        grid.push_messages([message])


def frozen_study(template="house-prices-private"):
    study = template_study(template)
    table = built_in(study.data.source)
    study = freeze(study, list(table.columns), {})
    return study, records_of(table, study)


DECLARED = {}
"""Studies by hash, for sites that approve whatever they are asked."""


def site_of(name, records, query, **other):
    """A site that has approved the study of `query`."""
    settings = {"entropy": lambda *labels: derive_key(b"test", name, *labels), "allow_unsafe": True}
    site = Site(ledger_of(name), **settings | other)
    site.approve(DECLARED[SumQuery.from_bytes(query).study], records, data_set=DATA_SET)
    return site


@pytest.fixture
def federation():
    """A declared study, its records, and its first queries at some parameters."""
    study, records = frozen_study()
    study = dataclasses.replace(
        study, training=dataclasses.replace(study.training, rounds=3),
        privacy=dataclasses.replace(study.privacy, trust="local"),
    )  # fmt: skip
    declaration = declare(study, sites=2, nonce="0" * 32)
    DECLARED[declaration.hash] = declaration
    ask = next(start_plan(Guarantee(declaration)))
    queries = [
        SumQuery(
            study=declaration.hash, index=index, function=ask.function, parameters=ask.parameters,
            nonce=bytes([index] * 16),
        ).to_bytes()
        for index in range(3)
    ]  # fmt: skip
    return records, queries


def test_a_site_answers_the_same_bytes_through_its_client_app_as_when_called(federation):
    records, queries = federation
    assert units_of(records, frozen_study()[0]).count == 5
    direct = site_of("site", records, queries[0])
    grid = InProcessGrid({7: make_client_app(site_of("site", records, queries[0]))})
    for index, each in enumerate(queries):
        expected = ReceiptedAnswer.from_bytes(direct.answer(each)).answer
        message = query_message(each, index=index, node_id=7, seconds=60.0)
        (reply,) = grid.send_and_receive([message])
        assert ReceiptedAnswer.from_bytes(content_of(reply)).answer == expected


def test_a_query_that_is_asked_again_through_the_grid_is_answered_with_the_same_bytes(federation):
    records, queries = federation
    site = site_of(
        "site", records, queries[0], entropy=lambda *_labels: np.random.default_rng().bytes(32)
    )
    grid = InProcessGrid({7: make_client_app(site)})
    messages = [query_message(queries[0], index=0, node_id=7, seconds=60.0) for _ in range(2)]
    first, second = map(content_of, grid.send_and_receive(messages))
    assert first == second


@pytest.mark.parametrize(
    ("sent", "refusal"),
    [
        (b"garbage", Refusal.MALFORMED),
        (encode({"kind": "sum-query"}, {}), Refusal.MALFORMED),
        (None, Refusal.NOT_APPROVED),
    ],
)
def test_a_refusal_crosses_the_grid_as_its_code_and_nothing_else(federation, sent, refusal):
    _, queries = federation
    grid = InProcessGrid({7: make_client_app(Site(ledger_of()))})
    message = query_message(sent or queries[0], index=0, node_id=7, seconds=60.0)
    (reply,) = grid.send_and_receive([message])
    assert reply.error.code == refusal
    assert not reply.error.reason
    assert refusal_of(reply) == refusal.explanation


def test_a_message_with_another_record_is_refused_as_malformed():
    grid = InProcessGrid({7: make_client_app(Site(ledger_of()))})
    (reply,) = grid.send_and_receive([query(content(n=1), 7)])
    assert reply.error.code == Refusal.MALFORMED
