"""Frames between executor and worker: whole or refused, whoever writes them."""

import hashlib
import os
import threading

import pytest
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from client.executor.assignment import Assignment, AssignmentFile
from client.executor.replies import Asked, checked_reply
from client.parcels import MOST_BYTES, MOST_OBJECTS, Pipe, Reply, Request, pack, unpack, until
from privacy.errors import ProtocolError
from study.envelope import answer_message, query_message

IDS = st.binary(min_size=32, max_size=32).map(bytes.hex)
OBJECTS = st.dictionaries(IDS, st.binary(max_size=50), max_size=5)
ASKED = Asked(run=1, message="ab" * 32, kind="query.sum", sender=1, node=2)


@pytest.fixture
def pipes():
    """Two ends of one connection."""
    reading, theirs = os.pipe()
    ours, writing = os.pipe()
    made = Pipe(reading, writing), Pipe(ours, theirs)
    yield made
    for each in made:
        each.close()


@given(IDS, OBJECTS, st.integers(0, 2**64 - 1))
def test_a_request_and_a_reply_come_out_as_they_went_in(message, objects, number):
    request = Request(run=number, node=number, task=number, message=message, objects=objects)
    assert Request.from_bytes(request.to_bytes()) == request
    reply = Reply(message=b"m" * 3, tree=b"", objects=objects)
    assert Reply.from_bytes(reply.to_bytes()) == reply
    task = Assignment(token=message, run=number, task=number, message=b"", tree=b"t", reply=reply)
    assert Assignment.from_bytes(task.to_bytes()) == task
    assert message not in repr(task), "a token is no text for logs"


@given(st.binary(max_size=200), OBJECTS, st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_anything_else_is_refused_and_nothing_else_raised(content, objects, place, change):
    whole = Reply(message=b"message", tree=b"tree", objects=objects).to_bytes()
    for each in (content, whole[:place], whole + change, whole[:place] + change + whole[place:]):
        for read in (
            Request.from_bytes,
            Reply.from_bytes,
            lambda each: checked_reply(each, to=ASKED),
        ):
            try:
                read(each)
            except ProtocolError:
                continue
            assert read == Reply.from_bytes, "only its bytes may be others"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xff\xff\xff", pack({}, [])[:-1], pack({}, []) + b"more",
        b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x04null", b"\x00\x00\x00\x1e" + b'{"head": {}, "sizes": [-1]}   ',
        b"\x00\x00\x27\x10" + b"[" * 10_000,
    ],
)  # fmt: skip
def test_a_head_that_is_none_is_refused(content):
    with pytest.raises(ProtocolError):
        unpack(content)


def test_frames_come_whole_and_in_order(pipes):
    here, there = pipes
    contents = [os.urandom(300_000), b"", b"x"]
    thread = threading.Thread(target=lambda: [here.send(each) for each in contents])
    thread.start()
    assert [there.receive() for _ in contents] == contents
    thread.join()
    assert there.is_silent(0.0)


def test_whoever_says_nothing_is_not_waited_for_longer_than_that(pipes):
    here, there = pipes
    assert there.receive(until(0.2)) is None
    assert not here.send(bytes(10_000_000), until(0.2)), "nobody reads"


def test_a_frame_that_is_far_too_large_is_not_read(pipes):
    here, there = pipes
    os.write(here._writing, (MOST_BYTES + 1).to_bytes(8, "big"))
    assert there.receive() is None


def test_the_end_of_the_other_side_is_an_end():
    reading, theirs = os.pipe()
    ours, writing = os.pipe()
    here = Pipe(reading, writing)
    os.close(theirs)
    os.close(ours)
    assert here.receive() is None
    assert not here.send(b"content")
    here.close()


def test_a_file_that_is_no_task_is_thrown_away(tmp_path):
    path = tmp_path / "task"
    half = tmp_path / "task.abcd.new"
    half.write_bytes(b"half")
    path.write_bytes(b"garbage")
    file = AssignmentFile(path)
    assert not half.exists()
    assert file.read() is None
    assert not path.exists()


@pytest.mark.parametrize("piece", [b"x", b""])
def test_who_writes_ever_so_little_is_not_waited_for(piece):
    """A frame of a byte every moment would keep a site from ending, and from its next message, for years."""
    reading, theirs = os.pipe()
    ours, writing = os.pipe()
    here, over = Pipe(reading, writing), threading.Event()

    def drip():
        os.write(theirs, (10**6).to_bytes(8, "big"))
        while not over.wait(0.01):
            os.write(theirs, piece)

    thread = threading.Thread(target=drip)
    thread.start()
    assert here.receive(until(0.3)) is None
    over.set()
    thread.join(10)
    assert not thread.is_alive()
    here.close()
    for each in (theirs, ours):
        os.close(each)


def good_reply():
    """Of a message that was asked, as a worker makes it."""
    asked = query_message(b"q", index=0, node_id=2, seconds=60.0)
    asked.metadata.__dict__.update(_run_id=1, _src_node_id=1, _message_id="ab" * 32)
    said = answer_message(b"answer", to=asked)
    said.metadata.__dict__["_message_id"] = said.object_id
    objects = {name: each.deflate() for name, each in get_all_nested_objects(said).items()}
    return message_to_proto(remove_content_from_message(said)), get_object_tree(said), objects


def framed(message, tree, objects):
    return Reply(
        message=message.SerializeToString(), tree=tree.SerializeToString(), objects=objects
    ).to_bytes()


@pytest.fixture
def identity(monkeypatch):
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


def no_hash(message, tree, objects):
    name = next(each for each in objects if each != tree.object_id)
    objects[name] += b"x"


def no_object(message, tree, objects):
    name = hashlib.sha256(b"").hexdigest()
    objects[name] = b""
    tree.children.add(object_id=name)


def own_id(message, tree, objects):
    objects[ASKED.message] = objects.pop(tree.object_id)
    message.metadata.message_id = tree.object_id = ASKED.message


def other_kind(message, tree, objects):
    message.metadata.message_type = "nothing that Flower knows"


def a_reason(message, tree, objects):
    message.error.code, message.error.reason = 1005, "the patient's name"


def much(message, tree, objects):
    for _ in range(MOST_OBJECTS + 1):
        tree.children.add(object_id=tree.object_id)


@pytest.mark.usefixtures("identity")
@pytest.mark.parametrize("change", [no_hash, no_object, own_id, other_kind, a_reason, much])
def test_a_reply_on_which_a_supernode_would_wait_for_ever_is_none(change):
    message, tree, objects = good_reply()
    assert checked_reply(framed(message, tree, objects), to=ASKED).objects == objects
    change(message, tree, objects)
    with pytest.raises(ProtocolError):
        checked_reply(framed(message, tree, objects), to=ASKED)


@pytest.mark.parametrize(
    "content",
    [
        pack({"token": "t", "run": [], "task": 1, "registered": False, "received": True, "answered": False}, [b""] * 3),
        pack({"token": "t", "run": 1e999, "task": 1, "registered": False, "received": True, "answered": False}, [b""] * 3),
        pack({"token": 5, "run": 1, "task": 1, "registered": False, "received": True, "answered": False}, [b""] * 3),
    ],
)  # fmt: skip
def test_a_task_that_no_executor_has_written_is_forgotten(tmp_path, content):
    path = tmp_path / "task"
    path.write_bytes(content)
    assert AssignmentFile(path).read() is None
    assert not path.exists()


def test_what_stands_in_the_place_of_a_task_is_not_read(tmp_path):
    path = tmp_path / "task"
    file = AssignmentFile(path)
    secret = tmp_path / "secret"
    secret.write_bytes(Assignment(token="t", run=1, task=1).to_bytes())  # noqa: S106
    for make in (
        lambda: path.symlink_to(secret),
        lambda: path.symlink_to("/dev/zero"),
        lambda: os.mkfifo(path),
    ):
        make()
        assert file.read() is None
    with path.open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert file.read() is None
    path.mkdir()
    assert file.read() is None
    assert secret.exists()


def test_a_link_in_the_place_of_a_task_is_not_written_through(tmp_path):
    path, other = tmp_path / "task", tmp_path / "other"
    other.write_bytes(b"somebody's")
    path.symlink_to(other)
    AssignmentFile(path).write(Assignment(token="t", run=1, task=1))  # noqa: S106
    assert other.read_bytes() == b"somebody's"
    assert not path.is_symlink()
