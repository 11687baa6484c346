"""The gateway as a process: it ends in time, comes back as it was, and waits for a SuperLink that is away."""

import signal
import subprocess
import threading
import time

import httpx
import pytest
from fleet import Fleet, asks, until
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest

from server.processes import gateway_process
from study.processes import environment_of


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with Fleet(tmp_path_factory.mktemp("processes")) as started:  # polls are held for 20 s
        yield started


@pytest.fixture(scope="module")
def site(fleet):
    return fleet.site("site")


class Polling:
    """A poll in a thread."""

    def __init__(self, site):
        self.results = []
        self._thread = threading.Thread(target=self._poll, args=(site,))
        self._thread.start()

    def _poll(self, site):
        try:
            self.results.append(site.pull())
        except httpx.TransportError as error:
            self.results.append(error)

    def result(self):
        self._thread.join(20)
        (result,) = self.results
        return result


def test_a_held_poll_brings_a_message_when_it_comes(coordinator, site):
    poll = Polling(site)
    until(lambda: not poll.results)
    message = coordinator.instruct(site.node)
    pulled, _ = poll.result()
    assert pulled.metadata.message_id == message
    site.answer(site.receive())
    assert coordinator.reply(message) == b"answer"


def test_objects_of_some_megabytes_go_both_ways(coordinator, site):
    asks(coordinator, site, b"i" * 5_000_000, b"a" * 5_000_000)


def test_polls_that_are_held_do_not_hold_up_the_end(fleet, coordinator, site):
    polls = [Polling(site) for _ in range(3)]
    time.sleep(0.3)  # they are under way; if not, the test asserts less
    assert fleet.gateway.stop(signal.SIGTERM, seconds=2) == 0
    for each in polls:
        assert each.result() is None or isinstance(each.result(), httpx.TransportError)
    fleet.gateway.__enter__()
    asks(coordinator, site)


@pytest.mark.parametrize("moment", ["delivered", "pulled", "confirmed", "announced", "sent"])
def test_a_gateway_that_is_killed_goes_on_where_it_was(fleet, coordinator, site, moment):
    def killed(when):
        if when == moment:
            fleet.gateway.kill()
            fleet.gateway.__enter__()

    message = coordinator.instruct(site.node)
    pulled, tree = until(site.pull)
    killed("delivered")
    again, _ = until(site.pull)
    assert again.metadata.message_id == pulled.metadata.message_id == message
    site.objects(pulled, tree)
    killed("pulled")
    whole = site.receive()
    killed("confirmed")
    request, contents = site.reply_to(whole)
    site.call("push-messages", request)
    killed("announced")
    site.push(request, contents)
    killed("sent")
    assert coordinator.reply(message) == b"answer"
    status = site.status(
        "pull-object",
        PullObjectRequest(node=site.who, run_id=coordinator.run_id, object_id=message),
    )
    assert status == 403, "what is over is over"


def test_a_signature_is_used_up_although_the_gateway_was_killed(fleet, site):
    headers = site.signature()
    request = PullObjectRequest(node=site.who, run_id=1, object_id="ab")
    assert site.status("pull-object", request, headers) == 403
    fleet.gateway.kill()
    fleet.gateway.__enter__()
    assert site.status("pull-object", request, headers) == 503


def test_while_superlink_is_away_sites_are_told_to_try_again(fleet, coordinator, site):
    fleet.superlink.kill()
    beat = SendNodeHeartbeatRequest(node=site.who, heartbeat_interval=30)
    assert site.status("send-node-heartbeat", beat) == 503
    fleet.superlink.__enter__()
    asks(coordinator, site)


def test_without_a_directory_it_says_so(tmp_path, fleet):
    command = [*gateway_process(fleet.directory).command[:-1], str(tmp_path)]
    environment = environment_of(gateway_process(fleet.directory))
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1
    assert "is not a coordinator's directory" in done.stderr


def test_an_address_that_is_taken_is_named(fleet):
    process = gateway_process(fleet.directory)
    done = subprocess.run(
        process.command,
        env=environment_of(process),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot listen on 127.0.0.1" in done.stderr
