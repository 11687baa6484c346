"""The executor: every message has one reply, whatever becomes of the worker, the executor, or the SuperNode."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import odd_site
import pytest
from flwr.supercore.task_identity import TaskIdentity
from runtime_api import NODE, RUN, Given, RuntimeApi, instruction
from site_directories import site_directory

import client.executor.tending
from client.executor.executor import Executor
from client.executor.replies import UNAVAILABLE
from client.processes import executor_process
from privacy.errors import UserError
from study.processes import environment_of
from study.queries import Refusal

EXECUTOR = [sys.executable, *odd_site.EXECUTOR]
LIMIT_SECONDS = 30.0


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Whoever we were before afterwards; and workers that do as they are told."""
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)
    monkeypatch.setattr(client.executor.tending, "_COMMAND", odd_site.WORKER)


@pytest.fixture
def api():
    with RuntimeApi() as api:
        yield api


@pytest.fixture
def place(api, tmp_path):
    directory = site_directory(tmp_path / "site", port=api.port)
    told(directory, "echo")
    return directory


def told(directory, mode):
    (directory / "mode").write_text(mode)


def asked(directory):
    """Process ids of the workers, once for every message that they were asked."""
    path = directory / "asked"
    return path.read_text().split() if path.exists() else []


@contextmanager
def running(directory):
    """The executor, in a thread of this process."""
    executor = Executor(directory)
    thread = threading.Thread(target=executor.run)
    thread.start()
    try:
        yield executor
    finally:
        executor.stop()
        thread.join(LIMIT_SECONDS)
        assert not thread.is_alive()


@contextmanager
def process(directory):
    """The executor, in a process of its own."""
    env = environment_of(executor_process(directory))
    started = subprocess.Popen([*EXECUTOR, str(directory.path)], env=env, stderr=subprocess.DEVNULL)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(LIMIT_SECONDS)


def is_unavailable(reply):
    return reply.has_error() and (reply.error.code, reply.error.reason) in (
        (UNAVAILABLE, ""),
        (UNAVAILABLE, None),
    )


def test_the_code_is_that_of_the_protocol():
    assert UNAVAILABLE == Refusal.UNAVAILABLE


def test_messages_are_answered_by_one_warm_worker(api, place):
    with running(place):
        for number in range(3):
            given = api.give(instruction(b"question %d" % number))
            reply = api.reply(number)
            assert reply.content["echo"]["content"] == b"answered"
            metadata = reply.metadata
            assert (metadata.reply_to_message_id, metadata.src_node_id, metadata.dst_node_id, metadata.run_id) == (
                given.message_id, NODE, 1, RUN,
            )  # fmt: skip
    assert len(set(asked(place))) == 1
    assert len(asked(place)) == 3
    assert [output.sub_status for _, output in api.outputs] == ["completed"] * 3
    assert not (place / "task").exists()


def test_a_reply_is_pushed_whole_before_the_task_is_done(api, place):
    with running(place):
        api.give(instruction(b"question"))
        api.reply()
    steps = [
        each for each in api.calls if each not in ("AcquireTask", "PullObject", "SendTaskHeartbeat")
    ]
    assert steps == [
        "PullTaskInput", "PullMessages", "PushMessages", "PushObject", "PushObject", "PushObject",
        "ConfirmMessageReceived", "PushTaskOutput",
    ]  # fmt: skip


def test_only_tasks_of_client_apps_are_asked_for(api, place):
    api.give(instruction(b"code of the coordinator's"), kind="flwr-agentapp")
    api.give(instruction(b"question"))
    with running(place):
        api.reply()
    assert set(api.types) == {(("flwr-clientapp",), ())}
    assert len(api.sent) == 1


def test_objects_that_come_late_are_waited_for(api, place):
    given = Given(instruction(b"question"))
    api.late.update(dict.fromkeys(given.objects, 5))
    with running(place):
        api.give(given)
        assert api.reply().has_content()


def test_what_goes_wrong_in_a_worker_is_a_fixed_code_without_a_reason(api, place):
    with running(place):
        for number, mode in enumerate(("fail", "memory", "other", "garbage")):
            told(place, mode)
            api.give(instruction(b"question %d" % number))
            assert is_unavailable(api.reply(number)), mode
        told(place, "echo")
        api.give(instruction(b"another"))
        assert api.reply(4).has_content()
    assert len(set(asked(place))) == 1, "the worker goes on"


def test_a_worker_that_dies_has_its_message_answered_at_once_and_a_successor(api, place):
    told(place, "die once")
    with running(place):
        api.give(instruction(b"question"))
        assert is_unavailable(api.reply())
        api.give(instruction(b"another"))
        assert api.reply(1).has_content()
    assert len(set(asked(place))) == 2


def test_a_worker_that_is_killed_in_the_middle_likewise(api, place):
    told(place, "hang once")
    with running(place):
        api.give(instruction(b"question"))
        api.wait(lambda _api: asked(place))
        os.kill(int(asked(place)[0]), signal.SIGKILL)
        assert is_unavailable(api.reply())
        api.give(instruction(b"another"))
        assert api.reply(1).has_content()


def test_a_worker_that_takes_too_long_is_killed(api, tmp_path):
    place = site_directory(tmp_path / "hasty", port=api.port, seconds=3.0)
    told(place, "hang once")
    with running(place):
        api.give(instruction(b"question"))
        assert is_unavailable(api.reply())
        with pytest.raises(ProcessLookupError):
            os.kill(int(asked(place)[0]), 0)


def test_workers_that_keep_dying_are_started_ever_more_slowly_and_messages_answered_meanwhile(
    api, place
):
    told(place, "die")
    with running(place) as executor:
        for number in range(4):
            api.give(instruction(b"question %d" % number))
            assert is_unavailable(api.reply(number))
        assert executor._worker._failures >= 2
    assert len(asked(place)) < 4


def test_an_executor_that_was_killed_goes_on_with_its_message(api, place):
    told(place, "hang once")
    with process(place) as first:
        api.give(instruction(b"question"))
        api.wait(lambda _api: asked(place))
        first.kill()
        first.wait(LIMIT_SECONDS)
    assert (place / "task").stat().st_mode & 0o777 == 0o600
    os.kill(int(asked(place)[0]), signal.SIGKILL)  # it would first finish what it has begun
    with process(place) as second:
        assert api.reply().has_content()
        second.send_signal(signal.SIGTERM)
        assert second.wait(LIMIT_SECONDS) == 0
    assert len(api.sent) == 1
    assert api.calls.count("PullMessages") == 1
    assert not (place / "task").exists()


@pytest.mark.parametrize(
    "last", ["PushMessages", "PushObject", "ConfirmMessageReceived", "PushTaskOutput"]
)
def test_an_executor_that_dies_while_it_replies_replies_once(api, place, last):
    """Killed as that call came through: the next one says the very same, or nothing more."""
    with running(place) as executor:
        dying = executor._runtime = Dying(executor._runtime, place / "task", after=last)
        given = api.give(instruction(b"question"))
        api.wait(lambda _api: dying.kept)
    (place / "task").write_bytes(dying.kept)
    with running(place):
        api.wait(lambda api: api.outputs)
    assert [each.metadata.reply_to_message_id for each in api.sent] == [given.message_id]


class Dying:
    """A runtime whose process dies when a call has come through: what it kept until then is what is left of it."""

    def __init__(self, runtime, path, *, after):
        self._runtime, self._path, self._after, self.kept = runtime, path, after, b""

    def acquire(self):
        return None if self.kept else self._runtime.acquire()

    @contextmanager
    def task(self, token):
        with self._runtime.task(token) as task:
            method = getattr(task._client, self._after)

            def died(request):
                method(request)
                self.kept = self._path.read_bytes()
                raise KilledError

            setattr(task._client, self._after, died)
            yield task

    def close(self):
        self._runtime.close()


class KilledError(client.executor.executor.TaskLostError):
    def __init__(self):
        super().__init__("killed")


@pytest.mark.parametrize("call", ["PushMessages", "PushObject"])
def test_without_a_pushed_reply_there_is_no_output(api, place, call):
    api.refuse[call] = 500
    with running(place):
        api.give(instruction(b"question"))
        api.wait(lambda api: call in api.calls)
        api.refuse.clear()
        api.give(instruction(b"another"))
        api.wait(lambda api: api.outputs)
    assert [number for number, _ in api.outputs] == [2], "the first task is left to run out"


def test_a_token_that_was_lost_ends_the_work_on_its_task(api, place):
    told(place, "slow")
    with running(place):
        api.give(instruction(b"question"))
        api.wait(lambda _api: asked(place))
        api.forget_tokens()
        api.give(instruction(b"another"))
        api.wait(lambda api: api.outputs)
    assert [number for number, _ in api.outputs] == [2]
    assert len(api.sent) == 1


def _garbage(given):
    name = next(each for each in given.objects if each != given.message_id)
    given.objects[name] = b"\x00garbage" * 100


def _missing(given):
    del given.objects[next(each for each in given.objects if each != given.message_id)]


def _wrong_ids(given):
    given.objects[given.message_id] = given.objects[given.message_id] + b" "


def _no_ids(given):
    given.tree.children.add(object_id="../../etc/passwd")


def _childless(given):
    del given.tree.children[:]


def test_hostile_objects_are_answered_with_the_code(api, place):
    harms = (_garbage, _missing, _wrong_ids, _no_ids, _childless)
    with running(place):
        for number, falsify in enumerate(harms):
            given = Given(instruction(b"question %d" % number))
            falsify(given)
            api.give(given)
            assert is_unavailable(api.reply(number)), falsify
        api.give(instruction(b"another"))
        assert api.reply(len(harms)).has_content()


def test_a_message_that_is_far_too_large_is_answered_with_the_code(api, place, monkeypatch):
    monkeypatch.setattr("client.executor.runtime.MOST_BYTES", 1000)
    with running(place):
        api.give(instruction(bytes(2000)))
        assert is_unavailable(api.reply())
    assert not asked(place)


def test_code_that_is_shipped_is_never_unpacked(tmp_path):
    marker = tmp_path / "marker"
    code = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    with RuntimeApi(fab=_fab(code)) as api:
        place = site_directory(tmp_path / "site", port=api.port)
        told(place, "echo")
        with running(place):
            api.give(instruction(b"question"))
            assert api.reply().has_content()
        files = [each.name for each in place.path.rglob("*")]
    assert not marker.exists()
    assert not any("app" in each for each in files)


def _fab(code):
    import io
    import zipfile

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("app.py", code)
        file.writestr("setup.py", code)
        file.writestr("pyproject.toml", '[tool.flwr.app.components]\nclientapp = "app:app"\n')
    return content.getvalue()


def test_a_signal_lets_the_message_in_hand_be_finished(api, place):
    told(place, "slow")
    with process(place) as started:
        api.give(instruction(b"question"))
        api.wait(lambda _api: asked(place))
        started.send_signal(signal.SIGINT)
        assert started.wait(LIMIT_SECONDS) == 0
    assert api.sent[0].has_content()
    assert len(api.outputs) == 1


def test_there_is_one_executor_for_a_directory(api, place):
    with process(place):
        api.wait(lambda api: api.calls)
        second = subprocess.run(
            [*EXECUTOR, str(place.path)], env=environment_of(executor_process(place)), timeout=LIMIT_SECONDS,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert second.returncode == 1
    assert "runs already" in second.stderr


def test_a_worker_that_cannot_work_is_told_of_before_anything_is_asked(api, place):
    (place / "site.toml").write_text(
        (place / "site.toml").read_text() + 'user = "nobody-of-this-name"\n'
    )
    with pytest.raises(UserError, match="nobody-of-this-name"):
        Executor(place).run()
    assert not api.calls
