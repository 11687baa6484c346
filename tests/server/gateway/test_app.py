"""The gateway over a SuperLink that is played: the order of its steps, its long-poll, and what of errors gets through."""

import asyncio
import base64
import json
import os
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.message_pb2 import (
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest

from server.authority import create_authority
from server.directory import Limits
from server.gateway.app import Gateway
from server.gateway.authentication import Sites
from server.gateway.deliveries import Deliveries
from server.gateway.exchanges import Room, Slots
from server.gateway.refusals import Refusals, Refused
from server.gateway.upstream import Glance, Upstream

NODE, RUN = 2**63 + 5, 2**64 - 9


def digest(text):
    return sha256(text.encode()).hexdigest()


class Key:
    def __init__(self):
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.pem = self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        self._signed = 0

    def headers(self):
        self._signed += 1  # a time of its own for each, however fast we are
        stamp = (datetime.now(UTC) - timedelta(microseconds=self._signed)).isoformat()
        signature = self.private.sign(stamp.encode(), ec.ECDSA(SHA256()))
        return [
            (b"flwr-public-key", base64.b64encode(self.pem)),
            (b"flwr-timestamp", stamp.encode()),
            (b"flwr-signature", base64.b64encode(signature)),
        ]


class SuperLink:
    """Answers by path; `seen` holds what was passed on."""

    def __init__(self):
        self.answers, self.seen = {}, []

    def __call__(self, request):
        name = request.url.path.rpartition("/")[2]
        self.seen.append(name)
        answer = self.answers.get(name, b"")
        answer = answer() if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        headers = {"content-length": str(len(answer))}
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(answer))


class Played(Glance):
    """A glance at a database that is played."""

    def __init__(self):
        self.message, self.objects = None, None

    def has_message(self, *_):
        return self.message

    def has_objects(self, *_):
        return self.objects

    def has_heard_of(self, *_):
        return None


class Bench:
    """A gateway, a registered key and its SuperLink."""

    def __init__(self, path, **limits):
        create_authority(path, "localhost")
        self.key, self.path = Key(), path
        self.superlink, self.glance, self.log = SuperLink(), Played(), []
        sites = {"a": base64.b64encode(self.key.pem).decode()}
        (path / "sites.json").write_text(json.dumps(sites), encoding="utf-8")
        self.deliveries = Deliveries(path / "gateway.db")
        upstream = Upstream(
            "https://localhost", path / "ca.pem", transport=httpx.MockTransport(self.superlink)
        )
        self.gateway = Gateway(
            sites=Sites(path / "sites.json"),
            upstream=upstream,
            glance=self.glance,
            deliveries=self.deliveries,
            refusals=Refusals(self.log.append, lambda: datetime.now(UTC)),
            limits=Limits(**{"poll_seconds": 0.01, "hold_seconds": 0.2} | limits),
        )

    def hold(self):
        """Polls are held for long from now on."""
        self.gateway.polling._limits = Limits(poll_seconds=0.01)

    def reasons(self):
        return [line.split()[3] for line in self.log]

    async def ask(self, name, body, *, headers=None, length=None, pieces=None, gone=None, **scope):
        """(status, headers, body) of a call; `pieces` are what of the body comes, `gone` when the caller goes away."""
        body = body if isinstance(body, bytes) else body.SerializeToString()
        headers = self.key.headers() if headers is None else headers
        scope = {
            "type": "http", "method": "POST", "http_version": "1.1", "query_string": b"",
            "raw_path": f"/v1/fleet/{name}".encode(),
            "headers": [
                *headers, (b"content-type", b"application/protobuf"),
                (b"content-length", b"%d" % (len(body) if length is None else length)),
            ],
        } | scope  # fmt: skip
        waiting = [body] if pieces is None else list(pieces)
        self.read, sent = 0, []

        async def receive():
            self.read += 1
            if waiting:
                return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(event):
            sent.append(event)

        await self.gateway(scope, receive, send)
        start, *rest = sent
        content = b"".join(each["body"] for each in rest)
        return start["status"], dict(start["headers"]), content

    async def refused(self, reason, status, *args, **options):
        before = len(self.log)
        got, _, content = await self.ask(*args, **options)
        assert (got, content) == (status, b"refused\n")
        assert self.reasons()[before:] == [reason]

    def offer(self, *objects, name="instruction"):
        """SuperLink hands out one message, once."""
        tree = ObjectTree(
            object_id=digest(name),
            children=[ObjectTree(object_id=digest(each)) for each in objects],
        )
        metadata = Metadata(
            run_id=RUN, message_id=digest(name), src_node_id=1, dst_node_id=NODE,
            ttl=60, created_at=time.time(), message_type="query.sum",
        )  # fmt: skip
        answers = [
            PullMessagesResponse(
                messages_list=[Message(metadata=metadata)], message_object_trees=[tree]
            ).SerializeToString()
        ]
        self.superlink.answers["pull-messages"] = lambda: answers.pop() if answers else b""


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.deliveries.close()


PULL = PullMessagesRequest(node=Node(node_id=NODE))
GET_RUN = GetRunRequest(node=Node(node_id=NODE), run_id=RUN)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


# The order of the steps


@pytest.mark.parametrize("name", ["push-object", "pull-messages", "push-messages"])
def test_of_a_strangers_large_body_nothing_is_read(bench, name):
    length = 4_097 if name != "push-object" else 200_000_000

    async def ask():
        status, headers, _ = await bench.ask(
            name, b"", headers=[], length=length, pieces=[b"x" * 10]
        )
        assert status in {401, 413}
        assert headers[b"connection"] == b"close"
        assert bench.read == 0

    run(ask())
    assert bench.superlink.seen == []


def test_a_nodes_large_body_is_not_read_before_it_has_announced_something(bench):
    run(bench.refused("nothing-announced", 403, "push-object", b"", length=10_000_000))
    assert bench.read == 0


def test_a_refusal_repeats_nothing(bench):
    secret = b"SECRET"
    run(bench.refused("no-such-path", 404, "x", secret, raw_path=b"/SECRET"))
    run(bench.refused("no-protobuf", 400, "pull-messages", secret))
    assert "SECRET" not in "".join(bench.log)


def test_every_refusal_is_one_line_with_whose_it_is(bench):
    run(bench.refused("no-signature", 401, "pull-messages", PULL, headers=[]))
    run(bench.refused("no-protobuf", 400, "get-run", b"\xff"))
    stranger, node = (line.split() for line in bench.log)
    assert stranger[1:] == ["refused", "401", "no-signature", "stranger", "pull-messages"]
    assert node[1:] == [
        "refused", "400", "no-protobuf", sha256(bench.key.pem).hexdigest()[:16], "get-run",
    ]  # fmt: skip


def test_lines_are_bounded_and_say_how_many_are_missing():
    lines, now = [], [datetime(2026, 1, 1, tzinfo=UTC)]
    refusals = Refusals(lines.append, lambda: now[0])
    for _ in range(1000):
        refusals.note(Refused(401, "no-signature"), caller="stranger", path="other")
    assert len(lines) == 600
    now[0] += timedelta(minutes=1)
    refusals.note(Refused(401, "no-signature"), caller="stranger", path="other")
    assert lines[-1].endswith("(and 400 more before)\n")


def test_a_signature_is_of_use_once(bench):
    headers = bench.key.headers()
    assert run(bench.ask("pull-messages", PULL, headers=headers))[0] == 200
    for name in ("pull-messages", "get-run"):
        run(bench.refused("used-signature", 503, name, PULL, headers=headers))


def test_a_node_that_is_struck_out_is_refused_at_once(bench):
    assert run(bench.ask("pull-messages", PULL))[0] == 200
    (bench.path / "sites.json").write_text("{}", encoding="utf-8")
    run(bench.refused("unknown-key", 401, "pull-messages", PULL))


def test_a_fault_of_ours_is_a_status_and_a_line(bench, monkeypatch):
    def fault(*_):
        raise ZeroDivisionError("SECRET")

    monkeypatch.setattr(bench.deliveries, "check_run", fault)
    run(bench.refused("fault-ZeroDivisionError", 503, "get-run", GET_RUN))


def test_a_body_of_another_length_is_refused(bench):
    body = PULL.SerializeToString()
    run(bench.refused("wrong-length", 400, "pull-messages", body, length=len(body) + 1))
    run(bench.refused("wrong-length", 400, "pull-messages", body, length=len(body) - 1))


def test_a_body_that_does_not_come_is_given_up(bench, monkeypatch):
    monkeypatch.setattr("server.gateway.exchanges._PIECE_SECONDS", 0.05)
    body = PULL.SerializeToString()
    run(bench.refused("slow-body", 408, "pull-messages", body, pieces=[]))


def test_a_body_that_trickles_is_given_up(bench, monkeypatch):
    """Each piece comes in time; all of them together do not."""
    monkeypatch.setattr("server.gateway.exchanges._PIECE_SECONDS", 0.2)

    async def ask():
        scope_pieces = [b"x"] * 4000
        original = bench.gateway._handled

        async def handled(exchange, path, signed):
            receive = exchange._receive

            async def slow():
                await asyncio.sleep(0.05)
                return await receive()

            exchange._receive = slow
            await original(exchange, path, signed)

        bench.gateway._handled = handled
        await bench.refused("slow-body", 408, "pull-messages", b"x" * 4000, pieces=scope_pieces)

    run(ask())


def test_a_caller_that_goes_away_costs_no_line(bench):
    async def ask():
        gone = asyncio.Event()
        gone.set()
        with pytest.raises(ValueError, match="unpack"):  # nothing was sent
            await bench.ask("pull-messages", PULL.SerializeToString(), pieces=[], gone=gone)

    run(ask())
    assert bench.log == []


# Bounds of a node


def test_a_node_has_so_many_calls_at_a_time():
    async def ask():
        slots = Slots(2)
        async with slots.of(b"a"), slots.of(b"a"):
            with pytest.raises(Refused, match="many-calls"):
                async with slots.of(b"a"):
                    pass
            async with slots.of(b"b"):
                pass
        async with slots.of(b"a"):
            pass
        assert slots._taken == {}

    run(ask())


def test_bodies_have_room_and_one_node_has_half_of_it():
    async def ask():
        room = Room(100, seconds=0.05)
        async with room.of(b"a", 50):
            with pytest.raises(Refused, match="no-room"):
                async with room.of(b"a", 1):
                    pass
            async with room.of(b"b", 50):
                with pytest.raises(Refused, match="no-room"):
                    async with room.of(b"c", 1):
                        pass
            async with room.of(b"c", 50):
                pass
        assert room._held == {}

    run(ask())


def test_room_that_is_freed_goes_to_who_waits():
    async def ask():
        room, held = Room(100, seconds=5), asyncio.Event()

        async def hold():
            async with room.of(b"a", 50):
                held.set()
                await asyncio.sleep(0.05)

        task = asyncio.ensure_future(hold())
        await held.wait()
        async with room.of(b"a", 50):
            assert task.done() or not room._held[b"a"] > 50
        await task

    run(ask())


# The long-poll


def messages_of(content):
    return [
        each.metadata.message_id for each in PullMessagesResponse.FromString(content).messages_list
    ]


def test_a_message_that_is_there_comes_at_once(bench):
    bench.offer("one")
    status, headers, content = run(bench.ask("pull-messages", PULL))
    assert status == 200
    assert headers[b"content-type"] == b"application/protobuf"
    assert messages_of(content) == [digest("instruction")]
    assert bench.superlink.seen == ["pull-messages"]


def test_a_message_that_comes_later_is_waited_for(bench):
    bench.hold()

    async def ask():
        asking = asyncio.ensure_future(bench.ask("pull-messages", PULL))
        await asyncio.sleep(0.05)
        bench.offer("one")
        return await asking

    assert messages_of(run(ask())[2]) == [digest("instruction")]


def test_without_a_message_the_answer_is_empty(bench):
    status, _, content = run(bench.ask("pull-messages", PULL))
    assert (status, messages_of(content)) == (200, [])


def test_who_is_not_known_as_a_node_learns_nothing_of_it(bench):
    """SuperLink is asked at once, whether a message waits for that node or not."""
    bench.glance.message = False
    bench.hold()

    async def ask():
        asking = asyncio.ensure_future(bench.ask("pull-messages", PULL))
        await asyncio.sleep(0.1)
        asking.cancel()

    run(ask())
    assert "pull-messages" in bench.superlink.seen


def test_superlink_is_not_asked_while_its_database_says_that_there_is_nothing(bench):
    bench.glance.message = False
    bench.deliveries.learn(bench.key.pem, NODE)
    bench.hold()

    async def ask():
        asking = asyncio.ensure_future(bench.ask("pull-messages", PULL))
        await asyncio.sleep(0.1)
        assert bench.superlink.seen == []
        bench.offer("one")
        bench.glance.message = True
        return await asking

    assert messages_of(run(ask())[2]) == [digest("instruction")]


def test_a_message_is_held_back_until_its_objects_have_arrived(bench):
    bench.glance.objects = False
    bench.offer("one")

    async def ask():
        asking = asyncio.ensure_future(bench.ask("pull-messages", PULL))
        await asyncio.sleep(0.1)
        assert not asking.done()
        bench.glance.objects = True
        return await asking

    assert messages_of(run(ask())[2]) == [digest("instruction")]


def test_objects_that_never_arrive_end_before_the_site_gives_up(bench, monkeypatch):
    monkeypatch.setattr("server.gateway.polling._LONGEST_ANSWER", 0.1)
    bench.glance.objects = False
    bench.offer("one")
    run(bench.refused("objects-late", 503, "pull-messages", PULL))


def test_a_caller_that_goes_away_is_not_polled_for(bench):
    async def ask():
        gone = asyncio.Event()
        asking = asyncio.ensure_future(bench.ask("pull-messages", PULL, gone=gone))
        await asyncio.sleep(0.05)
        gone.set()
        await asking

    bench.hold()
    run(ask())


def test_the_end_of_the_gateway_ends_a_poll(bench):
    async def ask():
        asking = asyncio.ensure_future(bench.ask("pull-messages", PULL))
        await asyncio.sleep(0.05)
        bench.gateway.ending.set()
        return await asking

    bench.hold()
    assert messages_of(run(ask())[2]) == []


def test_a_message_whose_answer_was_lost_is_given_again(bench):
    bench.offer("one")
    first = run(bench.ask("pull-messages", PULL))
    second = run(bench.ask("pull-messages", PULL))
    assert first == second
    assert bench.superlink.seen == ["pull-messages"], "SuperLink would not give it twice"


def test_a_poll_sees_what_was_pulled_for_one_that_was_cut_short(bench):
    """The caller goes away while SuperLink is handing out the message: the next poll has it."""
    bench.offer("one")

    async def ask():
        polling, entered = bench.gateway.polling, asyncio.Event()
        original = polling._upstream.call

        async def slow(*args):
            entered.set()
            await asyncio.sleep(0.1)
            return await original(*args)

        polling._upstream.call = slow
        asking = asyncio.ensure_future(bench.ask("pull-messages", PULL))
        await entered.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await polling.finish()
        return await bench.ask("pull-messages", PULL)

    assert messages_of(run(ask())[2]) == [digest("instruction")]
    assert bench.superlink.seen == ["pull-messages"]


# What SuperLink says


@pytest.mark.parametrize(
    ("name", "status", "passed"),
    [
        ("pull-messages", 401, 401), ("pull-messages", 403, 403), ("pull-messages", 500, 503),
        ("pull-messages", 502, 503), ("pull-messages", 503, 503), ("pull-messages", 302, 500),
        ("deactivate-node", 500, 500), ("deactivate-node", 504, 503), ("deactivate-node", 412, 412),
        ("activate-node", 500, 503),
    ],
)  # fmt: skip
def test_of_superlinks_refusal_a_status_gets_through_and_no_text(bench, name, status, passed):
    bench.superlink.answers[name] = lambda: httpx.Response(status, json={"detail": "SECRET"})
    body = {
        "pull-messages": PULL,
        "deactivate-node": b"\x08\x05",
        "activate-node": ActivateNodeRequest(public_key=bench.key.pem, heartbeat_interval=30),
    }[name]
    run(bench.refused(f"superlink-{status}", passed, name, body))


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadError, httpx.ReadTimeout])
def test_while_superlink_is_away_a_site_is_told_to_try_again(bench, error):
    bench.superlink.answers["pull-messages"] = error("SECRET")
    run(bench.refused("superlink-away", 503, "pull-messages", PULL))


def test_superlink_sees_nothing_of_a_caller_but_the_signature(bench):
    seen = []
    original = bench.superlink.__call__

    def look(request):
        seen.append(request.headers)
        return original(request)

    bench.gateway._upstream._client._transport = httpx.MockTransport(look)
    headers = [
        *bench.key.headers(),
        (b"x-forwarded-for", b"evil"),
        (b"host", b"evil"),
        (b"cookie", b"evil"),
    ]
    run(bench.ask("pull-messages", PULL, headers=headers))
    assert "evil" not in str(seen)
    assert {"flwr-public-key", "flwr-timestamp", "flwr-signature", "content-length"} <= set(seen[0])


# Objects


def announce(bench, content, *, name="instruction"):
    """A reply of one object to the message of this name."""
    metadata = Metadata(
        run_id=RUN, message_id=sha256(content).hexdigest(), src_node_id=NODE, dst_node_id=1,
        reply_to_message_id=digest(name), ttl=30, created_at=time.time(), message_type="query.sum",
    )  # fmt: skip
    message = Message(metadata=metadata)
    message.content.SetInParent()
    return PushMessagesRequest(
        node=Node(node_id=NODE), messages_list=[message],
        message_object_trees=[ObjectTree(object_id=metadata.message_id)],
    )  # fmt: skip


def pushed(content, **changes):
    values = {"run_id": RUN, "object_id": sha256(content).hexdigest(), "session_id": "s"} | changes
    return PushObjectRequest(node=Node(node_id=NODE), object_content=content, **values)


CONTENT = b"ConfigRecord  100000\x00" + os.urandom(100_000)


def test_an_object_is_passed_on_once_and_a_repetition_is_told_so(bench):
    bench.offer()
    run(bench.ask("pull-messages", PULL))
    bench.superlink.answers["push-object"] = PushObjectResponse(stored=True).SerializeToString()
    run(bench.refused("nothing-announced", 403, "push-object", pushed(CONTENT)))

    async def ask():
        assert (await bench.ask("push-messages", announce(bench, CONTENT)))[0] == 200
        for _ in range(2):
            _, _, content = await bench.ask("push-object", pushed(CONTENT))
            assert PushObjectResponse.FromString(content).stored

    run(ask())
    assert bench.superlink.seen.count("push-object") == 1
    forged = pushed(CONTENT[:-1] + b"x", object_id=sha256(CONTENT).hexdigest())
    run(bench.refused("wrong-digest", 400, "push-object", forged))


def test_an_object_that_superlink_has_although_its_answer_was_lost_is_not_sent_again(bench):
    bench.offer()
    run(bench.ask("pull-messages", PULL))
    run(bench.ask("push-messages", announce(bench, CONTENT)))
    bench.glance.objects = True
    _, _, content = run(bench.ask("push-object", pushed(CONTENT)))
    assert PushObjectResponse.FromString(content).stored
    assert "push-object" not in bench.superlink.seen


def test_bytes_of_one_instruction_have_a_bound(tmp_path):
    bench = Bench(tmp_path, round_bytes=1_000_000, object_bytes=1_000_000)
    bench.offer()
    run(bench.ask("pull-messages", PULL))
    run(bench.ask("push-messages", announce(bench, CONTENT)))

    async def ask():
        for _ in range(9):
            assert (await bench.ask("push-object", pushed(CONTENT)))[0] == 200
        await bench.refused("many-bytes", 413, "push-object", pushed(CONTENT))
        assert bench.read == 0, "a body that is too much is not read"

    run(ask())
    bench.deliveries.close()


def test_bytes_that_are_refused_count_too(tmp_path):
    bench = Bench(tmp_path, round_bytes=1_000_000, object_bytes=1_000_000)
    bench.offer()
    run(bench.ask("pull-messages", PULL))
    run(bench.ask("push-messages", announce(bench, CONTENT)))
    never = pushed(CONTENT, object_id=digest("never announced"))
    seen = []
    for _ in range(12):
        seen.append(run(bench.ask("push-object", never))[0])
    assert seen == [403] * 9 + [413] * 3
    bench.deliveries.close()


def test_an_upload_that_outlives_its_signature_is_dropped(bench, monkeypatch):
    """SuperLink would refuse the signature, with a status on which a SuperNode ends."""
    bench.offer()
    run(bench.ask("pull-messages", PULL))
    run(bench.ask("push-messages", announce(bench, CONTENT)))

    async def slow(_content, _object, _children):
        monkeypatch.setattr("server.gateway.app.datetime", Later)

    class Later(datetime):
        @classmethod
        def now(cls, zone):
            return datetime.now(zone) + timedelta(seconds=400)

    monkeypatch.setattr("server.gateway.app.asyncio.to_thread", lambda _check, *given: slow(*given))
    run(bench.refused("slow-body", 403, "push-object", pushed(CONTENT)))
    assert "push-object" not in bench.superlink.seen


def test_an_object_is_pulled_in_pieces_by_its_node_alone(bench):
    bench.offer("one")
    run(bench.ask("pull-messages", PULL))
    bench.superlink.answers["pull-object"] = CONTENT
    request = PullObjectRequest(node=Node(node_id=NODE), run_id=RUN, object_id=digest("one"))
    assert run(bench.ask("pull-object", request))[2] == CONTENT
    request.object_id = digest("guessed")
    run(bench.refused("not-yours", 403, "pull-object", request))


def test_a_node_learns_of_runs_in_which_it_was_asked(bench):
    run(bench.refused("not-yours", 403, "get-run", GET_RUN))
    bench.offer("one")
    run(bench.ask("pull-messages", PULL))
    assert run(bench.ask("get-run", GET_RUN))[0] == 200


def test_a_node_is_who_superlink_said_when_it_came(bench):
    bench.superlink.answers["activate-node"] = ActivateNodeResponse(
        node_id=NODE
    ).SerializeToString()
    request = ActivateNodeRequest(public_key=bench.key.pem, heartbeat_interval=30)
    assert run(bench.ask("activate-node", request))[0] == 200
    other = PullMessagesRequest(node=Node(node_id=NODE + 1))
    run(bench.refused("other-node", 401, "pull-messages", other))
    assert run(bench.ask("pull-messages", PULL))[0] == 200
    request.public_key = b"another"
    run(bench.refused("other-node", 401, "activate-node", request))


# The glance


def test_without_a_database_the_glance_knows_nothing(tmp_path):
    glance = Glance(tmp_path / "none.db")
    assert glance.has_message(5, 0.0) is None
    assert glance.has_objects([digest("a")]) is None
    assert not list(tmp_path.iterdir())


def test_a_database_of_another_form_is_known_for_one(tmp_path):
    Deliveries(tmp_path / "other.db").close()
    glance = Glance(tmp_path / "other.db")
    assert glance.has_message(2**64 - 1, 0.0) is None
    assert glance.has_objects([digest("a")]) is None
    glance.close()
