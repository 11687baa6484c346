"""The SuperNode: how it is started, how fast it is back, and what is said where the coordinator does not let it in."""

import os
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import odd_site
import pytest
from fleet_api import FleetApi, certificates
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from machine import free_ports
from runtime_api import NODE, instruction
from site_directories import site_directory

from client.processes import executor_process
from client.supernode import (
    come_back,
    create_node_key,
    entry_problem,
    node_fingerprint,
    read_node_key,
    restore_public_key,
    supernode_command,
    supernode_process,
)
from privacy.errors import UserError
from study.processes import environment_of

LIMIT_SECONDS = 30.0


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


def site_of(path, fleet, *, known=True):
    """A site whose coordinator that is, and who is known to it."""
    place = site_directory(path, coordinator=fleet.address, port=free_ports(1)[0])
    create_node_key(place)
    if known:
        fleet.keys.add(public_key_to_bytes(read_node_key(place).public_key()))
    return place


@pytest.fixture
def fleet(tmp_path):
    with FleetApi(certificates(tmp_path / "site")) as fleet:
        yield fleet


@pytest.fixture
def place(fleet, tmp_path):
    return site_of(tmp_path / "site", fleet)


def test_a_node_key_is_made_once_and_readable_by_its_owner_alone(tmp_path):
    place = site_directory(tmp_path / "site")
    create_node_key(place)
    key = (place / "node.key").read_bytes()
    assert stat.S_IMODE((place / "node.key").stat().st_mode) == 0o600
    assert (place / "node.pub").read_bytes().startswith(b"ecdsa-sha2-nistp384 ")
    with pytest.raises(UserError, match="not written over"):
        create_node_key(place)
    assert (place / "node.key").read_bytes() == key


def test_a_file_that_is_no_node_key_is_refused(tmp_path):
    place = site_directory(tmp_path / "site")
    with pytest.raises(UserError, match="cannot be read"):
        read_node_key(place)
    (place / "node.key").write_bytes(b"garbage")
    with pytest.raises(UserError, match="not a private key"):
        read_node_key(place)


def test_a_public_key_is_written_in_the_place_of_a_link_and_never_through_it(tmp_path):
    place, other = site_directory(tmp_path / "site"), tmp_path / "authorized_keys"
    other.write_bytes(b"the operator's")
    (place / "node.pub").symlink_to(other)
    create_node_key(place)
    public = (place / "node.pub").read_bytes()
    (place / "node.pub").unlink()
    (place / "node.pub").symlink_to(other)
    restore_public_key(place)
    assert other.read_bytes() == b"the operator's"
    assert not (place / "node.pub").is_symlink()
    assert (place / "node.pub").read_bytes() == public


def test_an_address_that_is_none_is_told_of(tmp_path):
    place = site_directory(certificates(tmp_path / "site"), coordinator="lab.org:port")
    create_node_key(place)
    for look in (come_back, entry_problem):
        assert "network.coordinator in site.toml is no address" in look(place)


def test_flower_s_program_is_told_everything_that_closes_a_hole(tmp_path):
    place = site_directory(tmp_path / "site", port=1234, coordinator="example.org:9")
    command = supernode_command(place)
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options == {
        "--superlink": "example.org:9", "--root-certificates": str(place / "ca.pem"),
        "--auth-supernode-private-key": str(place / "node.key"), "--isolation": "process",
        "--superexec-auth-secret-file": str(place / "superexec.secret"), "--host": "127.0.0.1", "--port": "1234",
    }  # fmt: skip
    process = supernode_process(place)
    assert process.memory == place.settings().limits.supernode_memory
    assert process.flower_home == place / "flower"


def test_a_node_learns_its_number_and_leaves_nobody_online(fleet, place):
    assert come_back(place) is None
    assert (place / "node.id").read_text() == f"{NODE}\n"
    assert not fleet.online
    assert list(fleet.calls) == ["activate-node", "deactivate-node"]


def test_one_that_was_killed_is_back_at_once(fleet, place):
    assert come_back(place) is None
    fleet.online = True  # as its successor finds it
    fleet.calls.clear()
    assert come_back(place) is None
    assert list(fleet.calls) == ["deactivate-node"]
    assert not fleet.online


def test_one_that_has_another_number_now_learns_it(fleet, place):
    come_back(place)
    fleet.node = NODE + 1
    assert come_back(place) is None
    assert (place / "node.id").read_text() == f"{NODE + 1}\n"


def test_another_that_is_online_with_the_same_key_is_told_of(fleet, place):
    fleet.online = True
    assert "another one with its key is online" in come_back(place)


def test_a_key_that_is_not_known_is_named_by_its_fingerprint(fleet, place):
    fleet.keys.clear()
    said = come_back(place)
    assert "Ask the coordinator to add node.pub" in said
    assert node_fingerprint(read_node_key(place).public_key()) in said


@pytest.mark.parametrize(("skew", "words"), [(-3600, "s ahead of"), (3600, "s behind")])
def test_a_wrong_clock_is_told_from_a_key_that_is_not_known(fleet, place, skew, words):
    fleet.skew = skew
    said = come_back(place)
    assert words in said
    assert "NTP" in said
    assert "Ask the coordinator" not in said


def test_a_coordinator_that_is_not_ready_is_told_of(fleet, place):
    fleet.status = 503
    assert "not ready (status 503)" in come_back(place)


def test_whether_a_site_would_be_let_in_is_found_out_without_changing_anything(fleet, place):
    for online in (False, True):
        fleet.online = online
        assert entry_problem(place) is None
        assert fleet.online is online
    assert not (place / "node.id").exists()
    fleet.keys.clear()
    assert "does not know this SuperNode's key" in entry_problem(place)
    fleet.status = 503
    assert "not ready (status 503)" in entry_problem(place)
    fleet.__exit__()
    assert "cannot be reached at" in entry_problem(place)


def test_a_coordinator_that_is_not_there_is_told_of(fleet, tmp_path):
    place = site_of(tmp_path / "site", fleet)
    fleet.__exit__()
    assert "cannot be reached at" in come_back(place)


def test_a_certificate_of_somebody_else_is_told_of(fleet, tmp_path):
    place = site_of(certificates(tmp_path / "other"), fleet)
    assert "not one that ca.pem vouches for" in come_back(place)
    assert not fleet.calls, "nothing was said to a stranger"


def test_a_certificate_that_has_expired_is_told_of(tmp_path):
    with FleetApi(certificates(tmp_path / "site", valid=(-10, -1))) as fleet:
        assert "not valid at this time" in come_back(site_of(tmp_path / "site", fleet))


def test_files_that_are_missing_are_told_of(fleet, place):
    (place / "ca.pem").unlink()
    assert "missing" in come_back(place)
    (place / "node.key").unlink()
    assert "node.key cannot be read" in come_back(place)


@contextmanager
def started(process, log, command=None):
    """A process of a site, as whoever runs the site starts it; killed by its number at the end."""

    bound = "unlimited" if process.memory is None else process.memory // 1024
    bounded = ["sh", "-c", f'ulimit -v {bound}; exec "$@"', "sh", *(command or process.command)]
    with log.with_suffix(".log").open("ab") as said:
        run = subprocess.Popen(bounded, env=environment_of(process), stdout=said, stderr=said)
    try:
        yield run
    finally:
        if run.poll() is None:
            run.kill()
        run.wait(LIMIT_SECONDS)


def test_messages_go_through_a_real_supernode_also_after_it_was_killed(fleet, place):
    (place / "mode").write_text("echo")
    supernode, executor = supernode_process(place), executor_process(place)
    with ExitStack() as running:
        running.enter_context(
            started(
                executor,
                place / "logs" / "executor",
                [sys.executable, *odd_site.EXECUTOR, str(place.path)],
            )
        )
        with started(supernode, place / "logs" / "supernode") as first:
            given = fleet.give(instruction(b"question"))
            fleet.wait(lambda fleet: fleet.sent)
            first.send_signal(signal.SIGKILL)
        assert fleet.online, "nobody has said that it is gone"
        with started(supernode, place / "logs" / "supernode") as second:
            again = fleet.give(instruction(b"another"))
            fleet.wait(lambda fleet: len(fleet.sent) == 2)
            assert second.poll() is None
    asked = [each.metadata.reply_to_message_id for each in fleet.sent]
    assert asked == [given.message_id, again.message_id]
    assert all(each.content["echo"]["content"] == b"answered" for each in fleet.sent)
    assert (place / "flower").exists()
    assert not (place / "task").exists()


def test_an_executor_that_was_killed_costs_a_real_supernode_no_reply(fleet, place):
    (place / "mode").write_text("hang once")
    program = [sys.executable, *odd_site.EXECUTOR, str(place.path)]
    executor, log = executor_process(place), place / "logs" / "executor"
    with started(supernode_process(place), place / "logs" / "supernode"):
        with started(executor, log, program) as first:
            given = fleet.give(instruction(b"question"))
            fleet.wait(lambda _fleet: (place / "asked").exists())
            first.send_signal(signal.SIGKILL)
        os.kill(int((place / "asked").read_text()), signal.SIGKILL)
        with started(executor, log, program):
            fleet.wait(lambda fleet: fleet.sent)
            again = fleet.give(instruction(b"another"))
            fleet.wait(lambda fleet: len(fleet.sent) == 2)
    asked = [each.metadata.reply_to_message_id for each in fleet.sent]
    assert asked == [given.message_id, again.message_id]
    assert all(each.has_content() for each in fleet.sent)
