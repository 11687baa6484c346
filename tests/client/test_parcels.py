"""Frames between executor and worker: whole or refused, whoever writes them."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.assignment import Assignment, AssignmentFile
from client.parcels import MOST_BYTES, Pipe, Reply, Request, pack, unpack, until
from client.replies import Asked, checked_reply
from privacy.errors import ProtocolError

IDS = st.binary(min_size=32, max_size=32).map(bytes.hex)
OBJECTS = st.dictionaries(IDS, st.binary(max_size=50), max_size=5)
ASKED = Asked(run=1, message="ab" * 32, sender=1, node=2)


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
