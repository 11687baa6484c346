"""The worker as a process: confined, with the site's ledger and records, at the end of a pipe."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from flwr.app import ConfigRecord
from flwr.proto import message_pb2
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from runtime_api import NODE, RUN, Given, instruction
from site_directories import (
    COORDINATOR,
    DATA_SET,
    SITE,
    declaration_of,
    furnished,
    site_directory,
)
from site_worker import query_of

from client.approvals import approve
from client.executor.tending import Worker
from client.ledger import Ledger
from client.parcels import Reply, Request
from privacy.errors import UserError
from study.instructions import opened_reply, signed_instruction
from study.queries import NONCE_BYTES, Refusal
from study.receipts import ReceiptedAnswer
from study.refusals import refusal_in

STUDY = declaration_of(1)
LIMIT_SECONDS = 30.0


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


@pytest.fixture
def place(tmp_path):
    directory = site_directory(tmp_path / "site")
    furnished(directory)
    approve(directory, STUDY, data=directory / "records.csv", data_set=DATA_SET)
    return directory


def patience():
    end = time.monotonic() + LIMIT_SECONDS
    return lambda: time.monotonic() < end


@contextmanager
def started(directory):
    worker = Worker(directory)
    worker.start(patience())
    try:
        yield worker
    finally:
        worker.stop()


def signed(index=0, *, declaration=STUDY, key=COORDINATOR):
    query = query_of(declaration, index, nonce=bytes(NONCE_BYTES))
    return signed_instruction(query, to=SITE.public, key=key, nonce=os.urandom(NONCE_BYTES))


def request(content, **changed):
    given = content if isinstance(content, Given) else Given(instruction(content))
    values = {
        "run": RUN,
        "node": NODE,
        "task": 3,
        "message": given.message_id,
        "objects": given.objects,
    }
    return Request(**(values | changed)).to_bytes()


def replied(worker, content):
    """The Flower message that comes back."""
    found = worker.ask(request(content), patience())
    assert found is not None
    reply = Reply.from_bytes(found)
    root = message_pb2.ObjectTree.FromString(reply.tree).object_id
    return inflate_object_from_contents(root, dict(reply.objects))


def payload(message, content):
    record = message.content["discreet"]
    assert isinstance(record, ConfigRecord)
    return opened_reply(record["content"], instruction=content, site=SITE.public)


def refused(worker, content):
    """The refusal that the site has signed."""
    found = refusal_in(payload(replied(worker, content), content))
    assert found is not None
    return found[0]


def log_of(directory):
    return (directory / "logs" / "worker.log").read_text()


def test_a_query_is_answered_and_asked_again_answered_with_the_same_bytes(place):
    with started(place) as worker:
        first, second = signed(), signed()
        answers = [
            ReceiptedAnswer.from_bytes(payload(replied(worker, each), each)).answer
            for each in (first, second)
        ]
    assert answers[0] == answers[1]
    with started(place) as another:
        third = signed()
        answers.append(ReceiptedAnswer.from_bytes(payload(replied(another, third), third)).answer)
    assert answers[0] == answers[2], "also by the next worker"


def test_what_the_coordinator_has_not_signed_is_not_read(place):
    with started(place) as worker:
        assert refused(worker, signed(key=SITE)) == Refusal.MALFORMED
        assert refused(worker, b"garbage") == Refusal.MALFORMED
    assert "An instruction was refused" in log_of(place)
    with closing(Ledger(place / "ledger.sqlite", SITE)) as ledger:
        assert not ledger.state.studies[STUDY.hash].asked


def test_a_study_that_is_approved_while_it_runs_is_answered(place):
    later = declaration_of(2)
    with started(place) as worker:
        assert refused(worker, signed(declaration=later)) == Refusal.NOT_APPROVED
        approve(place, later, data=place / "records.csv", data_set=DATA_SET)
        content = signed(declaration=later)
        assert payload(replied(worker, content), content)


def test_hostile_objects_and_requests_have_no_reply_and_no_words_leave(place):
    good = Given(instruction(signed()))
    inner = next(each for each in good.objects if each != good.message_id)
    with started(place) as worker:
        hostile = [
            request(good, objects=good.objects | {inner: b"garbage"}),
            request(good, objects={good.message_id: good.objects[good.message_id]}),
            request(good, message=inner),
            request(good, message="ab" * 32),
            request(good, run=RUN + 1),
            request(good, node=NODE + 1),
            b"no request",
        ]
        for each in hostile:
            assert worker.ask(each, patience()) is None
        content = signed()
        assert payload(replied(worker, content), content), "it goes on"
        assert worker._failures == 0
    assert log_of(place).count("A message is not answered") == len(hostile)


def test_it_is_confined(place):
    with started(place) as worker:
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        limits = Path(f"/proc/{worker.pid}/limits").read_text()
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"
    assert "4000000000" in limits


def test_a_site_that_is_not_confined_is_warned_of(tmp_path):
    place = site_directory(tmp_path / "site", confined=False)
    furnished(place)
    with started(place):
        pass
    assert "nothing keeps the worker from the network" in log_of(place)


def test_a_terminal_s_interrupt_does_not_end_it(place):
    with started(place) as worker:
        pid = worker.pid
        os.kill(pid, signal.SIGINT)
        content = signed()
        assert payload(replied(worker, content), content)
        assert worker.pid == pid
        assert os.getsid(pid) == pid, "it has no terminal"


def test_it_ends_when_the_executor_is_gone_however_that_happened(place):
    program = (
        "import sys, time; from pathlib import Path; from client.directory import SiteDirectory\n"
        "from client.executor.tending import Worker\n"
        "worker = Worker(SiteDirectory(Path(sys.argv[1]))); worker.start(lambda: True)\n"
        "print(worker.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(place.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as executor:
        pid = int(executor.stdout.readline())
        executor.kill()
    with started(place) as worker:  # waits for the lock of the last one
        assert worker.pid != pid
        content = signed()
        assert payload(replied(worker, content), content)
    found = Path(f"/proc/{pid}/stat")
    assert not found.exists() or ") Z " in found.read_text()


def test_a_site_without_a_ledger_says_so(tmp_path):
    place = site_directory(tmp_path / "site")
    with pytest.raises(UserError, match=r"site\.key"), started(place):
        pass


def test_a_policy_that_comes_later_holds(place):
    with started(place) as worker:
        (place / "policy.toml").write_text("format = 1\n[floors]\nsites = 50\n")
        end = patience()
        while worker._process.poll() is None and end():
            time.sleep(0.05)
        worker.tend()
        assert refused(worker, signed()) == Refusal.NOT_PERMITTED
