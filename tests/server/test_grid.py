"""Replies of SuperLink's: what one site sends, or does not send, is no matter of the others."""

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from server.grid import SuperLinkGrid
from study.envelope import UNREADABLE, answer_message, content_of, query_message, refusal_of


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


class Runtime:
    """SuperLink's Runtime API: replies by what they reply to, objects by name."""

    def __init__(self):
        self.replies, self.objects, self.absent, self.confirmed = {}, {}, set(), []

    def reply(self, asked, content=b"answer", *, node=2):
        instruction = query_message(b"q", index=0, node_id=node, seconds=60.0)
        instruction.metadata.__dict__["_message_id"] = asked
        message = answer_message(content, to=instruction)
        message.metadata.__dict__["_message_id"] = message.object_id
        self.objects |= {
            name: each.deflate() for name, each in get_all_nested_objects(message).items()
        }
        tree = get_object_tree(message)
        self.replies[asked] = (message_to_proto(remove_content_from_message(message)), tree)
        return [
            tree.object_id,
            *(each for each in get_all_nested_objects(message) if each != tree.object_id),
        ]

    def PullMessages(self, request):  # noqa: N802  Flower's name
        found = [self.replies.pop(each) for each in request.message_ids if each in self.replies]
        return PullAppMessagesResponse(
            messages_list=[each for each, _ in found],
            message_object_trees=[tree for _, tree in found],
        )

    def PullObject(self, request):  # noqa: N802
        content = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None, object_available=content is not None and request.object_id not in self.absent,
            object_content=b"" if request.object_id in self.absent else content or b"",
        )  # fmt: skip

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def runtime():
    return Runtime()


@pytest.fixture
def grid(runtime):
    made = SuperLinkGrid("127.0.0.1:1", b"", token="t")  # noqa: S106
    made._client = runtime
    made.set_run(Run.create_empty(1))
    return made


A, B = "a" * 64, "b" * 64


def test_a_reply_that_is_there_is_read(grid, runtime):
    names = runtime.reply(A)
    (message,) = grid.pull_messages([A, B])
    assert content_of(message) == b"answer"
    assert message.metadata.reply_to_message_id == A
    assert runtime.confirmed == [names[0]]
    assert list(grid.pull_messages([B])) == []


def test_a_reply_whose_objects_are_on_their_way_is_read_when_they_are_there(grid, runtime):
    names = runtime.reply(A)
    runtime.absent = set(names[1:])
    assert list(grid.pull_messages([A])) == []
    assert runtime.replies == {}, "SuperLink gives it once, so it is kept here"
    runtime.absent = {names[2]}
    assert list(grid.pull_messages([A])) == []
    runtime.absent = set()
    (message,) = grid.pull_messages([A])
    assert content_of(message) == b"answer"


def test_a_site_that_never_sends_what_it_has_announced_holds_up_nobody(grid, runtime):
    names = runtime.reply(A)
    runtime.absent = set(names)
    for number in range(10):
        runtime.reply(B, b"%d" % number, node=3)
        (message,) = grid.pull_messages([A, B])
        assert content_of(message) == b"%d" % number


def unreadable(grid, looks=5):
    for _ in range(looks):
        found = list(grid.pull_messages([A]))
        if found:
            (message,) = found
            assert message.error.code == UNREADABLE
            assert refusal_of(message) == "its reply could not be read"
            assert (message.metadata.reply_to_message_id, message.metadata.src_node_id) == (A, 2)
            return
    raise AssertionError("it was waited for")


@pytest.mark.parametrize(
    "garbage", [b"", b"\0", b"Message 1\0", b"no header", bytes(100), b"RecordDict 0\0"]
)
def test_what_is_no_message_is_that_sites_error_and_no_exception(grid, runtime, garbage):
    for name in runtime.reply(A):
        runtime.objects[name] = garbage
    unreadable(grid)


def test_an_object_that_is_another_is_that_sites_error(grid, runtime):
    names = runtime.reply(A)
    runtime.objects[names[0]] = runtime.objects[names[1]]
    unreadable(grid)


def test_objects_that_are_gone_are_that_sites_error(grid, runtime):
    for name in runtime.reply(A):
        del runtime.objects[name]
    unreadable(grid)


def test_more_objects_than_a_lean_message_has_are_not_even_pulled(grid, runtime):
    runtime.reply(A)
    proto, tree = runtime.replies[A]
    tree.children.extend(ObjectTree(object_id=f"{number:064x}") for number in range(1000))
    runtime.replies[A] = (proto, tree)
    pulled = []
    runtime.PullObject = pulled.append
    unreadable(grid, looks=1)
    assert pulled == []


def test_a_reply_that_nobody_asks_for_any_more_is_forgotten(grid, runtime):
    names = runtime.reply(A)
    runtime.absent = set(names)
    list(grid.pull_messages([A]))
    list(grid.pull_messages([B]))
    assert grid._coming == {}


def test_records_of_another_kind_are_a_message_all_the_same(grid, runtime):
    """What a message has to hold is `study/envelope.py`'s to say."""
    instruction = query_message(b"q", index=0, node_id=2, seconds=60.0)
    instruction.metadata.__dict__["_message_id"] = A
    message = Message(RecordDict({"x": ConfigRecord({"y": 1})}), reply_to=instruction)
    message.metadata.__dict__["_message_id"] = message.object_id
    runtime.objects |= {
        name: each.deflate() for name, each in get_all_nested_objects(message).items()
    }
    runtime.replies[A] = (
        message_to_proto(remove_content_from_message(message)),
        get_object_tree(message),
    )
    (found,) = grid.pull_messages([A])
    assert set(found.content) == {"x"}


def test_a_message_that_superlink_does_not_take_holds_up_no_other(grid, monkeypatch):
    poisoned, taken = 3, []

    def push(_grid, messages):
        if any(each.metadata.dst_node_id == poisoned for each in messages):
            raise status(500)
        taken.extend(each.metadata.dst_node_id for each in messages)
        return [each.object_id for each in messages]

    monkeypatch.setattr(HttpGrid, "push_messages", push)
    messages = [query_message(b"q", index=0, node_id=node, seconds=60.0) for node in (2, 3, 4)]
    ids = [each.object_id for each in messages]
    assert list(grid.push_messages(messages)) == [ids[0], "", ids[2]]
    assert taken == [2, 4]


def test_a_token_that_counts_no_more_is_said(grid, monkeypatch):
    def push(_grid, _messages):
        raise status(401)

    monkeypatch.setattr(HttpGrid, "push_messages", push)
    with pytest.raises(httpx.HTTPStatusError):
        grid.push_messages([query_message(b"q", index=0, node_id=2, seconds=60.0)])


def status(code):
    request = httpx.Request("POST", "https://localhost")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(code))
