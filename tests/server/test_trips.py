"""A trip ends with a reply or a reason for every site: who is silent is asked again, who lies is not believed."""

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from ledgers import key_of
from masking import roster_of

from privacy.errors import ProtocolError
from privacy.signing import SigningKey
from server import trips
from server.journal import Journal
from server.trips import Trips, Waits, Way
from study.envelope import answer_message, content_of
from study.instructions import opened_instruction, signed_reply
from study.queries import Refusal
from study.readiness import readiness_question
from study.refusals import explained, refusal_bytes
from study.rules import Rule

NAMES = ("north", "south", "west")
NODES = {"north": 12, "south": 13, "west": 14}
COORDINATOR = SigningKey.from_seed(b"c" * 32)
ROSTER = roster_of(*NAMES)
WAITS = Waits(trip=60.0, again=5.0, unreachable=10.0, poll=0.5)
READY = Waits(trip=60.0, again=5.0, unreachable=10.0, ready=5.0, poll=0.5)
STUDY = "3f" * 32
UNREACHABLE = 5


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def time(self):
        return 1e9 + self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(trips, "time", fake)
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)
    return fake


class Grid:
    """Keeps what is pushed; `answer(message)` gives a reply, or None while there is none."""

    run = Run.create_empty(1)

    def __init__(self, answer):
        self.answer, self.pushed, self.waiting = answer, [], {}

    def push_messages(self, messages):
        numbers = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            self.pushed.append(message)
            self.waiting[message.object_id] = message
            numbers.append(message.object_id)
        return numbers

    def pull_messages(self, numbers):
        found = []
        for each in numbers:
            message = self.waiting.get(each)
            reply = None if message is None else self.answer(message)
            if reply is not None:
                del self.waiting[each]
                found.append(reply)
        return found


def name_of(message):
    return next(name for name, node in NODES.items() if node == message.metadata.dst_node_id)


def honest(message, payload=None):
    name, content = name_of(message), content_of(message)
    asked = opened_instruction(content, to=key_of(name).public, coordinator=COORDINATOR.public)
    said = signed_reply(
        payload or b"to " + asked, instruction=content, sign=key_of(name).sign, nonce=bytes(16)
    )
    return answer_message(said, to=message)


def ask(answer, *, nodes=lambda: NODES, waits=WAITS, warned=None):
    grid = Grid(answer)
    warn = (lambda _warning: None) if warned is None else warned.append
    way = Way(nodes=nodes, key=COORDINATOR, waits=waits, warn=warn)
    replies = Trips(grid, NAMES, way, roster=ROSTER).ask(
        dict.fromkeys(NAMES, b"q"), index=0, trip="A"
    )
    return grid, replies


def test_every_site_has_its_reply(clock):
    grid, replies = ask(honest)
    assert {name: each.content for name, each in replies.items()} == dict.fromkeys(NAMES, b"to q")
    assert len(grid.pushed) == 3
    assert clock.now == 0


def test_a_silent_site_is_asked_again_with_the_same_bytes_later_and_later(clock):
    grid, replies = ask(lambda message: None if name_of(message) == "west" else honest(message))
    assert replies["west"].problem == "it did not answer in time"
    asked = [each for each in grid.pushed if name_of(each) == "west"]
    assert len({content_of(each) for each in asked}) == 1
    assert [each.metadata.created_at - 1e9 for each in asked] == [0, 5, 15, 35]
    assert 60 <= clock.now < 61


def test_the_answer_to_any_of_its_messages_counts():
    first = []

    def late(message):
        if name_of(message) == "west" and not first:
            first.append(message)
        return None if first and message is first[0] else honest(message)

    grid, replies = ask(late)
    assert replies["west"].content == b"to q"
    assert len([each for each in grid.pushed if name_of(each) == "west"]) == 2


def test_a_site_that_comes_back_is_asked_then(clock):
    def nodes():
        return NODES if clock.now >= 6 else {name: NODES[name] for name in ("north", "south")}

    grid, replies = ask(honest, nodes=nodes)
    assert replies["west"].content == b"to q"
    assert 6 <= clock.now < 8
    assert len(grid.pushed) == 3


def test_a_site_that_stays_away_is_missing_when_it_has_been_waited_for(clock):
    _, replies = ask(honest, nodes=lambda: {name: NODES[name] for name in ("north", "south")})
    assert replies["west"].problem == "it could not be reached"
    assert 10 <= clock.now < 12


def test_nobody_is_asked_before_enough_are_there_however_long_that_takes(clock):
    """Else a network that is down for a minute would burn one spare query after the other."""

    def nodes():
        return {name: NODES[name] for name in NAMES[: int(clock.now // 1000)]}

    said = []
    way = Way(nodes=nodes, key=COORDINATOR, waits=WAITS, waiting=said.append)
    grid = Grid(honest)
    replies = Trips(grid, NAMES, way, roster=ROSTER).ask(
        dict.fromkeys(NAMES, b"q"), index=0, trip="A", least=2
    )
    assert clock.now >= 2000
    assert min(each.metadata.created_at for each in grid.pushed) >= 1e9 + 2000
    assert replies["south"].content == b"to q"
    waits = "Waiting until 2 of 3 sites are connected; not connected: "
    assert said == [waits + "north, south, west", waits + "south, west", ""]


def wait_until_ready(answer, *, said, least=2, waits=READY, nodes=lambda: NODES):
    grid = Grid(answer)
    way = Way(nodes=nodes, key=COORDINATOR, waits=waits, waiting=said.append)
    Trips(grid, NAMES, way, roster=ROSTER).wait_until_ready(STUDY, least=least, index=4)
    return grid


def refusing(message, refusal=Refusal.NOT_APPROVED):
    return honest(message, refusal_bytes(refusal))


def test_where_enough_are_ready_nobody_is_waited_for(clock):
    """Not even one that would be silent for long."""
    said = []
    grid = wait_until_ready(
        lambda each: None if name_of(each) == "west" else honest(each), said=said
    )
    assert (clock.now, said, len(grid.pushed)) == (0, [""], 3)
    asked = [
        opened_instruction(
            content_of(each), to=key_of(name_of(each)).public, coordinator=COORDINATOR.public
        )
        for each in grid.pushed
    ]
    assert asked == 3 * [readiness_question(STUDY)]


def test_too_few_that_are_ready_are_waited_for_with_the_reason_of_the_others(clock):
    def answer(message):
        late = name_of(message) != "north" and clock.now < 100
        return refusing(message) if late else honest(message)

    said = []
    grid = wait_until_ready(answer, said=said)
    assert said[-1] == ""
    assert set(said[:-1]) == {
        "Waiting until 2 of 3 sites are ready; south: the site has not approved this study; "
        "west: the site has not approved this study"
    }
    moments = sorted({each.metadata.created_at - 1e9 for each in grid.pushed})
    assert moments == [0, 5, 15, 35, 75, 155], "later and later"


def test_a_site_that_is_silent_is_waited_for_too(clock):
    said = []
    wait_until_ready(lambda each: honest(each) if clock.now > 50 else None, said=said)
    assert "north: it has not answered yet" in said[0]
    assert 50 < clock.now < 51, "whenever the answer comes"


def test_sites_that_need_long_to_say_that_they_are_ready_are_ready(clock):
    """One that computes for another study answers when it is done; the first question is answered like any later one."""
    said = []

    def answer(message):
        slow = 400.0 * (1 + NAMES.index(name_of(message)))
        return honest(message) if clock.now - (message.metadata.created_at - 1e9) >= slow else None

    wait_until_ready(answer, said=said, least=3)
    assert 1200 <= clock.now < 1201


def test_a_site_that_is_away_is_said_to_be_and_asked_as_soon_as_it_is_there(clock):
    said = []

    def nodes():
        return {name: NODES[name] for name in NAMES if name != "west" or clock.now > 3600}

    wait_until_ready(
        lambda each: refusing(each) if name_of(each) == "south" else honest(each),
        said=said,
        nodes=nodes,
    )
    assert said[0].endswith(
        "ready; south: the site has not approved this study; west: it is not connected"
    )
    assert 3600 < clock.now < 3602


def test_whoever_lies_all_the_time_is_not_asked_all_the_time(clock):
    def answer(message):
        if name_of(message) == "west" and clock.now < 36_000:
            return answer_message(b"mine", to=message)
        return honest(message)

    grid = wait_until_ready(answer, said=[], least=3)
    assert clock.now >= 36_000
    assert len([each for each in grid.pushed if name_of(each) == "west"]) < 700


def test_readiness_leaves_nothing_in_the_journal(tmp_path):
    journal = Journal(tmp_path / "open")
    way = Way(nodes=lambda: NODES, key=COORDINATOR, waits=READY)
    trips = Trips(Grid(honest), NAMES, way, roster=ROSTER, journal=journal)
    trips.wait_until_ready(STUDY, least=2, index=0)
    assert not (tmp_path / "open").exists()
    assert not journal.is_under_way(0)


def test_nobody_is_asked_whether_it_is_ready_where_nobody_is_waited_for():
    """As in simulations, where nobody would ever become ready."""
    grid = wait_until_ready(refusing, said=[], waits=WAITS)
    assert grid.pushed == []


def test_a_site_that_flower_does_not_reach_is_asked_again(clock):
    """Flower says so in its place; it may be back in seconds."""

    def answer(message):
        if name_of(message) == "west" and clock.now < 3:
            return Message(Error(code=UNREACHABLE), reply_to=message)
        return honest(message)

    _, replies = ask(answer)
    assert replies["west"].content == b"to q"


def test_in_a_simulation_nobody_is_waited_for(clock):
    _, replies = ask(
        lambda message: Message(Error(code=UNREACHABLE), reply_to=message) if name_of(message) == "west" else honest(message),
        waits=Waits(),
    )  # fmt: skip
    assert replies["west"].problem == "it could not be reached"
    assert clock.now == 0


def forged(message):
    """By whoever holds the node's key and not the identity."""
    other = SigningKey.from_seed(b"x" * 32)
    said = signed_reply(b"mine", instruction=content_of(message), sign=other.sign, nonce=bytes(16))
    return answer_message(said, to=message)


@pytest.mark.parametrize(
    "lie",
    [forged, lambda message: answer_message(b"mine", to=message)],
    ids=["another key", "unsigned"],
)
def test_what_a_site_has_not_signed_is_not_its_answer_and_the_operator_is_warned(lie):
    warned, times = [], []

    def answer(message):
        if name_of(message) == "west":
            times.append(message)
            return lie(message) if len(times) == 1 else honest(message)
        return honest(message)

    _, replies = ask(answer, warned=warned)
    assert replies["west"].content == b"to q"
    assert len(warned) == 1
    assert "west: a reply came that its identity has not signed" in warned[0]


def test_a_reply_to_another_instruction_is_none_to_this_one():
    kept = {}

    def replayed(message):
        if name_of(message) == "west":
            kept.setdefault("reply", content_of(honest(message)))
            return answer_message(kept["reply"], to=message)
        return honest(message)

    grid, way = Grid(replayed), Way(nodes=lambda: NODES, key=COORDINATOR, waits=WAITS)
    one = Trips(grid, NAMES, way, roster=ROSTER)
    assert one.ask(dict.fromkeys(NAMES, b"q"), index=0, trip="A")["west"].content == b"to q"
    found = one.ask(dict.fromkeys(NAMES, b"q"), index=0, trip="B")["west"]
    assert (found.content, found.problem) == (
        b"",
        "it did not answer in time: a reply came that it has not signed",
    )


def test_a_refusal_that_the_site_has_signed_ends_the_wait_for_it(clock):
    refusal = refusal_bytes(Refusal.NOT_PERMITTED, [Rule.SITES])

    def answer(message):
        return honest(message, refusal) if name_of(message) == "west" else honest(message)

    _, replies = ask(answer)
    assert replies["west"].refusal == Refusal.NOT_PERMITTED
    assert replies["west"].problem == explained(Refusal.NOT_PERMITTED, [Rule.SITES])
    assert clock.now == 0


@pytest.mark.parametrize("code", [0, 2, 900, *Refusal])
def test_an_error_that_anybody_can_send_is_not_the_sites_word(clock, code):
    """Of the executor, whose worker has died; or of whoever has stolen the node's key. The site is asked again."""
    told = []

    def answer(message):
        if name_of(message) == "west" and len(told) < 3:
            told.append(message)
            return Message(Error(code=code, reason="mine"), reply_to=message)
        return honest(message)

    _, replies = ask(answer)
    assert (replies["west"].content, replies["west"].refusal) == (b"to q", None)
    assert clock.now < 10


def test_an_error_that_stays_is_the_reason_why_there_is_no_answer(clock):
    def answer(message):
        if name_of(message) == "west":
            return Message(Error(code=Refusal.UNAVAILABLE, reason="mine"), reply_to=message)
        return honest(message)

    _, replies = ask(answer)
    assert (
        replies["west"].problem == f"it did not answer in time: {Refusal.UNAVAILABLE.explanation}"
    )
    assert replies["west"].refusal is None
    assert clock.now >= 60


def test_without_a_roster_nothing_is_signed_and_nothing_sent():
    with pytest.raises(ProtocolError, match="Expected a roster"):
        Trips(Grid(honest), NAMES, Way(nodes=lambda: NODES, key=COORDINATOR))


def test_however_often_a_site_is_asked_the_pause_stays_a_number(clock):
    waits = Waits(trip=4000.0, again=0.01, unreachable=4000.0, poll=1.0)

    def answer(message):
        if name_of(message) == "west":
            return Message(Error(code=UNREACHABLE), reply_to=message)
        return honest(message)

    _, replies = ask(answer, waits=waits)
    assert replies["west"].problem.startswith("it ")


def test_each_site_has_an_instruction_of_its_own_that_no_other_would_obey():
    grid, _ = ask(honest)
    contents = {name_of(each): content_of(each) for each in grid.pushed}
    for name, content in contents.items():
        for other in NAMES:
            if other != name:
                with pytest.raises(ProtocolError, match="one to another"):
                    opened_instruction(
                        content, to=key_of(other).public, coordinator=COORDINATOR.public
                    )


def test_a_message_that_flower_did_not_take_is_given_to_it_again():
    class Full(Grid):
        def push_messages(self, messages):
            if not self.pushed:
                self.pushed.append(None)
                return [""] * len(list(messages))
            return super().push_messages(messages)

    grid, way = Full(honest), Way(nodes=lambda: NODES, key=COORDINATOR, waits=WAITS)
    replies = Trips(grid, NAMES, way, roster=ROSTER).ask(
        dict.fromkeys(NAMES, b"q"), index=0, trip="A"
    )
    assert all(each.content == b"to q" for each in replies.values())


def test_a_reply_without_content_is_a_problem():
    _, replies = ask(
        lambda message: (
            Message(RecordDict(), reply_to=message)
            if name_of(message) == "west"
            else honest(message)
        )
    )
    assert (
        replies["west"].problem == "it did not answer in time: Expected a message with one record"
    )
