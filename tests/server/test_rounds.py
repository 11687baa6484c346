"""A round adds up the answers of honest survivors exactly, and nothing that a site sends can do more than be missing."""

import itertools
from collections import Counter

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from ledgers import ledger_of
from masking import receipted

from client.answers import Site, units_of
from client.app import make_client_app
from client.policy import Ceilings, Floors, Policy, Studies
from privacy.errors import ProtocolError, RoundAbandonedError, StudyError
from privacy.keystream import Keystream
from privacy.private_sum import noise
from server import rounds, trips
from server.checkpoint import Checkpoint
from simulations.grid import over_the_wire
from study.contributions import Contributor
from study.envelope import answer_message, content_of, refusal_message
from study.queries import Refusal, SumAnswer, SumQuery, query_hash
from study.readiness import study_in_question
from study.rules import Rule

NONCE = bytes(16)
TRUSTS = ["aggregate", "server", "local", "unsafe"]


class FakeClock:
    """`time` of the coordinator: sleeping takes no time."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def time(self):
        return 1_700_000_000.0 + self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    fake = FakeClock()
    for module in (rounds, trips):
        monkeypatch.setattr(module, "time", fake)
    return fake


class Relay:
    """A grid between the coordinator and another one; `change` makes something else of the replies."""

    def __init__(self, grid, change):
        self._grid, self._change = grid, change
        self.pushed = []
        self.run = grid.run

    def push_messages(self, messages):
        self.pushed.append(list(messages))
        return self._grid.push_messages(self.pushed[-1])

    def pull_messages(self, message_ids):
        return self._change(list(self._grid.pull_messages(message_ids)))


def drops_at(node, *indices):
    return lambda message: (
        message.metadata.dst_node_id == node and int(message.metadata.group_id) in indices
    )


@pytest.mark.parametrize("trust", TRUSTS)
def test_a_sum_is_the_integer_sum_of_the_answers(make_federation, trust):
    federation = make_federation(privacy={"trust": trust})
    outcome = federation.run()
    for kept in outcome.sums:
        vectors = [each[kept.index] for each in federation.answered.values()]
        assert len(vectors) == 3
        expected = np.sum(vectors, axis=0)
        if trust == "server":
            key = federation.job().entropy("noise", federation.declaration.hash, kept.index)
            expected = expected + noise(federation.guarantee.mechanism("gradient"), Keystream(key))
        assert kept.total.tolist() == expected.tolist()
        assert kept.total.dtype == (np.float64 if trust == "unsafe" else np.int64)


def exact_sums(federation, name):
    """What a site's answers are the noisy, rounded form of: one vector a query, scaled to integers."""
    guarantee, study = federation.guarantee, federation.declaration.study
    units = units_of(federation.records(name), study)
    contributor = Contributor(guarantee, units)
    everybody = np.ones(units.count, dtype=np.bool_)
    scale = guarantee.mechanism("gradient").scale
    queries = [SumQuery.from_bytes(each) for each in federation.asked[name]]
    return [
        contributor.clipped_sum("gradient", each.parameters, everybody) * scale for each in queries
    ]


def test_with_trust_server_no_site_adds_noise(make_federation):
    """An answer differs from the scaled sum by the dither alone, which is less than 1."""
    federation = make_federation(privacy={"trust": "server"})
    federation.run()
    for name, vectors in federation.answered.items():
        for index, exact in enumerate(exact_sums(federation, name)):
            assert np.abs(vectors[index] - exact).max() < 1


@pytest.mark.parametrize("trust", ["local", "aggregate"])
def test_with_other_trusts_every_answer_is_noisy(make_federation, trust):
    """Of 36 shares at most a few are as small as the dither: P(|noise| < 1) < 0.15 each, as sigma >= 3."""
    federation = make_federation(privacy={"trust": trust})
    federation.run()
    far = [
        np.abs(vectors[index] - exact) >= 1
        for name, vectors in federation.answered.items()
        for index, exact in enumerate(exact_sums(federation, name))
    ]
    assert np.mean(far) > 0.5


def test_with_trust_local_every_site_adds_noise_of_its_own(make_federation):
    federation = make_federation(privacy={"trust": "local"})
    federation.run()
    first, second, third = (each[0] for each in federation.answered.values())
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)


@pytest.mark.parametrize("order", list(itertools.permutations([2, 3, 4])))
def test_the_order_in_which_answers_arrive_does_not_matter(make_federation, order, tmp_path):
    plain = make_federation(directory=tmp_path / "plain").run()
    federation = make_federation(directory=tmp_path / "mixed")

    def mixed(replies):
        return sorted(replies, key=lambda each: order.index(each.metadata.src_node_id))

    outcome = federation.run(Relay(federation.grid(), mixed))
    for name, value in plain.parameters.items():
        assert outcome.parameters[name].tobytes() == value.tobytes()


def test_answers_that_arrive_one_by_one_are_waited_for(make_federation, clock):
    federation = make_federation()
    waiting = []

    def one_at_a_time(replies):
        waiting.extend(replies)
        return [waiting.pop(0)] if waiting else []

    outcome = federation.run(Relay(federation.grid(), one_at_a_time), seconds=60.0)
    assert all(kept.missing == () for kept in outcome.sums)
    assert 0 < clock.now < 60


def test_a_dropout_within_the_tolerance_leaves_the_sum_of_the_survivors(make_federation):
    federation = make_federation(sites=4, privacy={"trust": "aggregate", "max_dropouts": 1})
    outcome = federation.run(federation.grid(drops=drops_at(3, 1)))
    kept = outcome.sums[1]
    assert (kept.survivors, kept.missing) == (("site-1", "site-3", "site-4"), ("site-2",))
    expected = np.sum([federation.answered[name][1] for name in kept.survivors], axis=0)
    assert kept.total.tolist() == expected.tolist()
    assert [len(each.survivors) for each in outcome.sums] == [4, 3, 4]
    assert [line["missing"] for line in outcome.history] == [[], ["site-2"], []]
    assert outcome.refusals == {"site-2": {"it could not be reached": 1}}


def test_too_few_survivors_abandon_the_query_and_a_spare_is_asked_with_a_new_index(make_federation):
    federation = make_federation(training={"spare_rounds": 2})
    lines = []
    outcome = federation.run(federation.grid(drops=drops_at(2, 1)), on_round=lines.append)
    assert [(kept.index, kept.round, kept.total is None) for kept in outcome.sums] == [
        (0, 1, False), (1, 2, True), (2, 2, False), (3, 3, False),
    ]  # fmt: skip
    assert [line["abandoned"] for line in outcome.history] == [False, True, False, False]
    assert [line["query"] for line in lines] == [0, 1, 2, 3]
    assert lines[1]["loss"] is None
    queries = [SumQuery.from_bytes(each) for each in federation.asked["site-2"]]
    assert [query.index for query in queries] == [0, 1, 2, 3]
    assert len({query.nonce for query in queries}) == 4
    for name, value in queries[1].parameters.items():
        assert queries[2].parameters[name].tobytes() == value.tobytes()


def test_an_abandoned_query_leaves_the_model_as_if_it_had_not_been_asked(make_federation, tmp_path):
    """Without noise the indices, from which noise follows, do not matter."""
    settings = {"privacy": {"trust": "unsafe"}, "training": {"spare_rounds": 1}}
    plain = make_federation(directory=tmp_path / "plain", **settings).run()
    federation = make_federation(directory=tmp_path / "dropped", **settings)
    outcome = federation.run(federation.grid(drops=drops_at(2, 0)))
    for name, value in plain.parameters.items():
        assert outcome.parameters[name].tobytes() == value.tobytes()


def test_sites_are_asked_whether_they_are_ready_first_and_after_a_query_that_was_abandoned(
    make_federation,
):
    """Not between two that went well: a question costs a trip."""
    federation = make_federation(training={"rounds": 4, "spare_rounds": 1})
    grid = federation.grid(drops=drops_at(3, 1))
    relay = Relay(grid, lambda replies: replies)
    nodes = {name: node for node, name in federation.names.items()}
    federation.run(
        relay, way=trips.Way(nodes=lambda: nodes, waits=trips.Waits(ready=5.0)), journal=federation.directory / "open"
    )  # fmt: skip
    asked = [
        int(message.metadata.group_id)
        for messages in relay.pushed
        for message in messages
        if study_in_question(content_of(message)) == federation.declaration.hash
    ]
    assert asked == 3 * [0] + 3 * [2]


def test_a_query_that_is_under_way_is_gone_on_with_whoever_is_ready(make_federation):
    """Its sites have paid for it; one that would not begin it now has none of it to begin."""

    class KilledError(BaseException):
        pass

    federation = make_federation()
    nodes = {name: node for node, name in federation.names.items()}
    options = {
        "way": trips.Way(nodes=lambda: nodes, waits=trips.Waits(ready=5.0)),
        "journal": federation.directory.with_name("open"),
    }
    asked = []

    def dead_in_the_midst(messages):
        asked.extend(study_in_question(content_of(each)) for each in relay.pushed[-1])
        if asked[-1] is None:
            raise KilledError
        return messages

    relay = Relay(federation.grid(), dead_in_the_midst)
    with pytest.raises(KilledError):
        federation.run(relay, **options)
    again = Relay(federation.grid(), lambda replies: replies)
    federation.run(again, **options)
    contents = [content_of(each) for messages in again.pushed for each in messages]
    assert [each for each in contents if study_in_question(each)] == []


def test_without_a_spare_left_the_run_ends_and_its_checkpoint_stays(make_federation):
    federation = make_federation(training={"spare_rounds": 1})
    with pytest.raises(RoundAbandonedError, match="Round 2 of 3 was abandoned and no spare") as e:
        federation.run(federation.grid(drops=drops_at(2, 1, 2, 3)))
    assert "spare_rounds" in e.value.hint
    kept = list(Checkpoint(federation.directory, federation.declaration).kept())
    assert [each.total is None for each in kept] == [False, True, True, True][: len(kept)]
    assert len(kept) >= 3
    assert federation.counts()["site-2"] <= federation.guarantee.stage("gradient").count


def test_no_run_asks_more_queries_than_it_declared(make_federation):
    federation = make_federation(training={"spare_rounds": 2})
    with pytest.raises(RoundAbandonedError, match="no spare round is left"):
        federation.run(federation.grid(drops=lambda message: message.metadata.dst_node_id == 2))
    assert federation.counts() == Counter({"site-1": 0, "site-2": 3, "site-3": 3})


def test_a_moments_sum_that_cannot_be_had_does_not_end_the_run(make_federation):
    federation = make_federation(data={"scaling": "standard"})
    outcome = federation.run(federation.grid(drops=drops_at(2, 0)))
    assert [kept.function for kept in outcome.sums] == ["moments"] + ["gradient"] * 3
    assert outcome.sums[0].total is None
    assert outcome.parameters["scaling.mean"].tolist() == [0.5, 0.5]
    assert outcome.history[0]["loss"] is None


def without_content(message):
    return Message(RecordDict({}), reply_to=message)


def of(content):
    return lambda message: answer_message(content, to=message)


def receipt_of(content, message):
    """The content with a right receipt of it, in reply to a query."""
    name = f"site-{message.metadata.dst_node_id - 1}"
    return answer_message(receipted(name, content, content_of(message)), to=message)


def with_receipt(content):
    return lambda message: receipt_of(content, message)


def of_another_key(message):
    """The answer of site 2, receipted by site 3."""
    content = content_of(message)
    return answer_message(receipted("site-3", b"", content), to=message)


def of_another_answer(message):
    """A receipt that is right, of other bytes."""
    return answer_message(receipted("site-2", b"1", content_of(message)) + b"2", to=message)


def record(value):
    return lambda message: Message(RecordDict(value), reply_to=message)


def vector(make, *, name=None):
    """An answer whose vector is `make(dimension)`, to this query or to another."""

    def reply(message):
        content = content_of(message)
        size = sum(each.size for each in SumQuery.from_bytes(content).parameters.values()) + 1
        answer = SumAnswer(query_hash=name or query_hash(content), vector=make(size), nonce=NONCE)
        return receipt_of(answer.to_bytes(), message)

    return reply


def ints(size, dtype=np.int32, value=1):
    return np.full(size, value, dtype=dtype)


NONSENSE = {
    "other type": (vector(lambda n: ints(n, np.int64)), "Expected 4 numbers of int32"),
    "unsigned": (vector(lambda n: ints(n, np.uint32)), "Expected 4 numbers of int32"),
    "floats": (vector(lambda n: np.full(n, np.nan)), "Expected 4 numbers of int32"),
    "too short": (vector(lambda n: ints(n - 1)), "Expected 4 numbers of int32"),
    "too long": (vector(lambda n: ints(n + 1)), "Expected 4 numbers of int32"),
    "empty": (vector(lambda _n: ints(0)), "Expected 4 numbers of int32"),
    "two axes": (vector(lambda n: ints((n, 1))), "Expected an answer with one vector"),
    "far too large": (vector(lambda n: ints(n, value=2**31 - 1)), "within the range of one site"),
    "far too small": (vector(lambda n: ints(n, value=-(2**31))), "within the range of one site"),
    "another query": (vector(ints, name="ab" * 32), "an answer to this query"),
    "the query itself": (lambda m: of(content_of(m))(m), "Expected 1 to 32 receipts"),
    "the query itself, receipted": (lambda m: receipt_of(content_of(m), m), "Expected a sum-answer"),
    "garbage": (of(b"garbage"), "Expected receipts of at most"),
    "garbage, receipted": (with_receipt(b"garbage"), "Expected a head"),
    "nothing": (of(b""), "Expected receipts and an answer"),
    "nothing, receipted": (with_receipt(b""), "Expected a message of at least"),
    "zeros": (of(bytes(100)), "Expected"),
    "zeros, receipted": (with_receipt(bytes(100)), "Expected"),
    "no receipt": (
        lambda m: answer_message(SumAnswer(query_hash=query_hash(content_of(m)), vector=ints(4), nonce=NONCE).to_bytes(), to=m),
        "Expected 1 to 32 receipts",
    ),
    "another key": (of_another_key, "Expected a signature"),
    "a receipt of another answer": (of_another_answer, "a receipt of this answer, found one of another"),
    "no record": (without_content, "a message with one record"),
    "another record": (record({"other": ConfigRecord({"content": b""})}), "with one record"),
    "two records": (
        record({"discreet": ConfigRecord({"content": b""}), "more": ConfigRecord({})}),
        "with one record",
    ),
    "arrays": (record({"discreet": ArrayRecord([np.zeros(3)])}), "with one record"),
    "text": (record({"discreet": ConfigRecord({"content": "text"})}), "one value, bytes"),
    "more values": (record({"discreet": ConfigRecord({"content": b"", "n": 3})}), "one value"),
    "another field": (record({"discreet": ConfigRecord({"contents": b""})}), "one value, bytes"),
    "an unknown error": (lambda m: Message(Error(code=99), reply_to=m), "Flower's error 99"),
    "a text in its error": (
        lambda m: Message(Error(code=int(Refusal.NOT_APPROVED), reason="<b>me</b>"), reply_to=m),
        "the site has not approved this study",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NONSENSE)
def test_a_site_that_sends_nonsense_is_missing_and_its_reason_is_counted(
    make_federation, client_app, kind
):
    reply, reason = NONSENSE[kind]
    federation = make_federation(sites=4, privacy={"max_dropouts": 1})
    federation.apps["site-2"] = client_app(reply)
    outcome = federation.run()
    for kept in outcome.sums:
        assert kept.missing == ("site-2",)
        expected = np.sum([federation.answered[name][kept.index] for name in kept.survivors], 0)
        assert kept.total.tolist() == expected.tolist()
    (counts,) = outcome.refusals.values()
    ((found, count),) = counts.items()
    assert set(outcome.refusals) == {"site-2"}
    assert reason in found
    assert "<b>" not in found
    assert count == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_without_privacy_an_answer_that_is_not_finite_is_missing(
    make_federation, client_app, value
):
    federation = make_federation(privacy={"trust": "unsafe", "max_dropouts": 1})
    federation.apps["site-1"] = client_app(vector(lambda size: np.full(size, value)))
    outcome = federation.run()
    assert all(kept.missing == ("site-1",) for kept in outcome.sums)
    assert all(np.isfinite(each).all() for each in outcome.parameters.values())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("beyond", "missing"), [(0, ()), (2, ("site-1",))])
def test_the_largest_answer_of_an_honest_site_is_taken_and_a_larger_one_is_not(
    make_federation, client_app, sign, beyond, missing
):
    """The larger one is by two: one is the dither's."""
    federation = make_federation(privacy={"max_dropouts": 1})
    mechanism = federation.guarantee.mechanism("gradient")
    value = sign * (mechanism.clamp + mechanism.deviation.largest + beyond)
    federation.apps["site-1"] = client_app(vector(lambda n: ints(n, value=value)))
    assert {kept.missing for kept in federation.run().sums} == {missing}


def test_the_largest_answers_of_all_sites_add_up_without_wrapping(make_federation, client_app):
    federation = make_federation()
    mechanism = federation.guarantee.mechanism("gradient")
    largest = mechanism.clamp + mechanism.deviation.largest
    for name in federation.names.values():
        federation.apps[name] = client_app(vector(lambda n: ints(n, value=largest)))
    kept = federation.run().sums[0]
    assert kept.total.tolist() == [3 * largest] * 4
    assert 3 * largest < 2 ** (mechanism.bits - 1)


def test_a_site_that_refuses_is_missing_and_its_reason_is_counted(make_federation):
    federation = make_federation(privacy={"max_dropouts": 1})
    site = federation.site("site-3", approved=False)
    federation.apps["site-3"] = make_client_app(site)
    outcome = federation.run()
    assert outcome.refusals == {"site-3": {"the site has not approved this study": 3}}
    assert all(kept.missing == ("site-3",) for kept in outcome.sums)


SAID = "the site's policy does not allow this study"


def test_a_site_whose_policy_does_not_allow_the_study_is_missing_and_its_rules_are_named(
    make_federation,
):
    """The policy of the third is made stricter after the first sum."""
    federation = make_federation(privacy={"max_dropouts": 1, "noise_multiplier": 3.0})
    policies = [Policy(studies=Studies(purpose=False), floors=Floors(units=0))]
    site = Site(ledger_of("site-3"), policy=lambda: policies[-1])
    federation.approve(site, "site-3")
    federation.apps["site-3"] = make_client_app(site)

    def stricter(line):
        if line["query"] == 0:
            policies.append(Policy(floors=Floors(sites=4), ceilings=Ceilings(dimension=3)))

    outcome = federation.run(on_round=stricter)
    assert [kept.missing for kept in outcome.sums] == [(), ("site-3",), ("site-3",)]
    why = (
        f"{SAID}: it states no purpose (studies.purpose), too few sites (floors.sites), "
        "too many numbers in an answer (ceilings.dimension)"
    )
    assert outcome.refusals == {"site-3": {why: 2}}


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        ("floors.sites", ": too few sites (floors.sites)"),
        (None, ""), ("", ""), ("{not json", ""), ("floors.nonsense", ""), ("ceilings.epsilon,floors.sites", ""),
        ("\x1b[2J\x00\r\n", ""), ("<script>", ""), ("floors.sites," * 1_000_000, ""), ("x" * 20_000_000, ""),
    ],
    ids=lambda each: repr(each)[:30],
)  # fmt: skip
def test_of_a_reason_that_a_hostile_site_makes_up_nothing_is_repeated(
    make_federation, client_app, reason, named
):
    federation = make_federation(privacy={"max_dropouts": 1})
    federation.apps["site-2"] = client_app(
        lambda message: Message(Error(code=1006, reason=reason), reply_to=message)
    )
    outcome = federation.run()
    assert outcome.refusals == {"site-2": {SAID + named: 3}}
    assert all(kept.survivors == ("site-1", "site-3") for kept in outcome.sums)


def test_a_study_that_every_policy_refuses_ends_with_the_rules(make_federation, client_app):
    federation = make_federation()
    for name in federation.names.values():
        federation.apps[name] = client_app(
            lambda message: refusal_message(Refusal.NOT_PERMITTED, to=message, rules=[Rule.SITES])
        )
    with pytest.raises(
        RoundAbandonedError, match=r"site-1: .* too few sites \(floors.sites\); site-2"
    ):
        federation.run()


def test_a_site_whose_data_make_it_fail_answers_like_any_other(make_federation, monkeypatch):
    """Nothing about it shows: its part is zero, and only its operator hears of it."""
    federation = make_federation()
    site = federation.site("site-1")
    study = site._approved[federation.declaration.hash]
    monkeypatch.setattr(study.contributor, "clipped_sum", lambda *_arguments: 1 / 0)
    federation.apps["site-1"] = make_client_app(site)
    outcome = federation.run()
    assert outcome.refusals == {}
    assert [len(kept.survivors) for kept in outcome.sums] == [3, 3, 3]
    assert site.problems == ["ZeroDivisionError"]


def test_a_site_that_answers_twice_is_counted_once(make_federation):
    federation = make_federation()
    outcome = federation.run(Relay(federation.grid(), lambda replies: replies * 2))
    for kept in outcome.sums:
        expected = np.sum([each[kept.index] for each in federation.answered.values()], axis=0)
        assert kept.total.tolist() == expected.tolist()


def with_source(message, node):
    """The message as if another node had sent it."""
    changed = over_the_wire(message)
    changed.metadata.__dict__["_src_node_id"] = node
    return changed


def test_a_reply_from_an_unknown_node_is_ignored(make_federation):
    federation = make_federation()
    outcome = federation.run(
        Relay(
            federation.grid(),
            lambda replies: replies + [with_source(each, 99) for each in replies[:1]],
        )
    )
    for kept in outcome.sums:
        expected = np.sum([each[kept.index] for each in federation.answered.values()], axis=0)
        assert kept.total.tolist() == expected.tolist()
    assert outcome.refusals == {}


def test_a_reply_from_an_unknown_node_does_not_end_the_wait_for_the_right_one(make_federation):
    """A stranger who knows a message's id answers first; the site's own answer comes with the next pull."""
    federation = make_federation()
    held = []

    def stranger_first(replies):
        if replies:
            held.extend(replies)
            return [with_source(each, 99) for each in replies]
        released, held[:] = list(held), []
        return released

    outcome = federation.run(Relay(federation.grid(), stranger_first))
    assert all(kept.missing == () for kept in outcome.sums)


def test_a_site_cannot_answer_in_the_name_of_another(make_federation):
    """Site 1 sends its own answer as site 2; site 2's true answer arrives after it."""
    federation = make_federation(privacy={"max_dropouts": 1})

    def forged(replies):
        mine = [each for each in replies if each.metadata.src_node_id == 2]
        return [with_source(each, 3) for each in mine] + replies

    outcome = federation.run(Relay(federation.grid(), forged))
    for kept in outcome.sums:
        expected = np.sum([each[kept.index] for each in federation.answered.values()], axis=0)
        assert kept.total.tolist() == expected.tolist()


def test_a_site_that_answers_too_late_is_missing(make_federation, clock):
    federation = make_federation(privacy={"max_dropouts": 1})

    def slow(replies):
        return [each for each in replies if each.metadata.src_node_id != 4]

    outcome = federation.run(Relay(federation.grid(), slow), seconds=5.0)
    assert all(kept.missing == ("site-3",) for kept in outcome.sums)
    assert 15.0 <= clock.now < 16.0
    assert all(5.0 <= kept.seconds < 5.5 for kept in outcome.sums)
    assert outcome.refusals == {"site-3": {"it did not answer in time": 3}}


def test_an_answer_to_an_earlier_query_is_not_taken_for_this_one(make_federation):
    federation = make_federation(privacy={"max_dropouts": 1})
    earlier = []

    def late(replies):
        others = [each for each in replies if each.metadata.src_node_id != 2]
        if not others:
            return []
        delayed, earlier[:] = list(earlier), [each for each in replies if each not in others]
        return delayed + others

    outcome = federation.run(Relay(federation.grid(), late), seconds=1.0)
    assert all("site-1" in kept.missing for kept in outcome.sums)


def test_every_message_is_a_query_to_one_site_that_expires_with_its_trip(make_federation):
    federation = make_federation()
    relay = Relay(federation.grid(), lambda replies: replies)
    federation.run(relay, seconds=7.0)
    assert len(relay.pushed) == 3
    for index, messages in enumerate(relay.pushed):
        assert [each.metadata.dst_node_id for each in messages] == [2, 3, 4]
        assert {each.metadata.group_id for each in messages} == {str(index)}
        assert {each.metadata.message_type for each in messages} == {"query.sum"}
        assert {each.metadata.ttl for each in messages} == {7.0}
        assert len({content_of(each) for each in messages}) == 1


def test_a_roster_of_another_size_than_declared_is_refused(make_federation):
    federation = make_federation()
    with pytest.raises(StudyError, match="Expected 3 sites, as declared, found 2"):
        federation.run(sites=("site-1", "site-2"))
    assert not federation.directory.exists()


def test_a_checkpoint_of_other_questions_is_refused(make_federation):
    federation = make_federation()
    federation.run()
    first = federation.directory / "000000.sum"
    first.write_bytes(first.read_bytes().replace(b'"round":1', b'"round":2'))
    with pytest.raises(ProtocolError, match="Expected a checkpoint of this run, found another"):
        federation.run()


def test_candidates_and_metrics_are_told_round_by_round(make_federation):
    federation, seen = make_federation(training={"average": "none"}), []

    def evaluate(number, candidate):
        seen.append((number, {name: value.copy() for name, value in candidate.items()}))
        return {"accuracy": number / 10} if number != 2 else None

    outcome = federation.run(evaluate=evaluate)
    assert [number for number, _ in seen] == [1, 2, 3]
    assert [line.get("metrics") for line in outcome.history] == [
        {"accuracy": 0.1}, None, {"accuracy": 0.3},
    ]  # fmt: skip
    for name, value in outcome.parameters.items():
        assert seen[-1][1][name].tobytes() == value.tobytes()
