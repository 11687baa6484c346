"""SuperLink as a coordinator runs it, and the calls that steer it."""

import itertools
import re
import sqlite3

import pytest
from fleet import Site, Started, make_directory

from privacy.errors import DiscreetError, UserError
from server.processes import superlink_process
from server.superlink import Control
from study.processes import FLOWER, environment_of

STUDY = "ab" * 32


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_directory(tmp_path_factory.mktemp("coordinator"))


@pytest.fixture(scope="module")
def superlink(directory):
    port = directory.settings().network.superlink_port
    with Started(superlink_process(directory), directory / "superlink.log", port=port) as started:
        yield started
        started.kill()  # it waits 30 s for idle connections when asked


@pytest.fixture
def control(directory, superlink):
    with Control(directory) as made:
        yield made


@pytest.fixture
def key(directory):
    site = Site("https://localhost", directory / "ca.pem")
    site.http.close()
    return site.key


def test_it_is_started_with_everything_that_closes_a_hole(directory):
    process = superlink_process(directory)
    command = list(process.command)
    after = dict(itertools.pairwise(command))
    assert after["--host"] == "127.0.0.1"
    assert after["--isolation"] == "process"
    assert after["--superexec-auth-secret-file"] == str(directory / "superexec.secret")
    assert after["--ssl-certfile"] == str(directory / "superlink.pem")
    assert after["--ssl-keyfile"] == str(directory / "superlink.key")
    assert after["--ssl-ca-certfile"] == str(directory / "ca.pem")
    assert {"--enable-supernode-auth", "--database"} <= set(command)
    assert not {"--insecure", "--simulation"} & set(command)
    environment = environment_of(process)
    assert environment["FLWR_HOME"] == str(directory / "flower")
    assert FLOWER.items() <= environment.items()
    secret = (directory / "superexec.secret").read_bytes()
    assert secret.hex() not in " ".join(command)


def test_nodes_come_and_go(control, key):
    node = control.register_node(key)
    assert control.nodes()[key].node_id == node
    assert not control.nodes()[key].is_online
    with pytest.raises(UserError, match="refused to register a node: .*in use"):
        control.register_node(key)
    control.unregister_node(node)
    assert key not in control.nodes()
    with pytest.raises(UserError, match="refused to unregister a node"):
        control.unregister_node(node)


def test_what_is_no_key_is_refused(control):
    with pytest.raises(UserError, match="refused to register a node"):
        control.register_node(b"nothing")


def test_a_run_starts_and_can_be_stopped(control):
    run = control.start_run(STUDY)
    assert control.run_status(run).status == "pending"
    control.stop_run(run)
    status = control.run_status(run)
    assert status.is_finished
    assert status.ending == "stopped"
    control.stop_run(run)
    assert control.run_status(run) == status


def test_every_run_is_another_one_and_carries_its_study(control, directory):
    runs = {control.start_run(STUDY), control.start_run("cd" * 32)}
    assert len(runs) == 2
    with sqlite3.connect(directory / "flower" / "superlink.db") as database:
        configurations = str(database.execute("SELECT override_config FROM run").fetchall())
    database.close()
    assert STUDY in configurations
    assert "cd" * 32 in configurations
    for each in runs:
        control.stop_run(each)


def test_a_run_that_is_not_there_is_named(control):
    for call in (control.run_status, control.stop_run):
        with pytest.raises(UserError, match="refused to ask for a run"):
            call(12345)


def test_no_code_goes_along_and_less_than_a_thousand_bytes():
    from server.superlink import _app

    assert len(_app().content) < 1000
    names = re.findall(rb"[\w./]+\.(?:py|toml)\b", _app().content)
    assert {name for name in names if name.endswith(b".py")} == set()


def test_no_name_of_a_site_stands_in_superlinks_database(control, key, directory):
    node = control.register_node(key)
    with sqlite3.connect(directory / "flower" / "superlink.db") as database:
        names = database.execute("SELECT name, location FROM node").fetchall()
    database.close()
    assert set(names) == {(None, None)}
    control.unregister_node(node)


def test_without_superlink_an_error_says_what_to_do(tmp_path):
    match = "did not answer when asked to list the nodes"
    directory = make_directory(tmp_path)
    with Control(directory) as control, pytest.raises(DiscreetError, match=match) as caught:
        control.nodes()
    assert "running" in caught.value.hint


def test_without_an_authority_an_error_says_what_to_do(tmp_path):
    directory = make_directory(tmp_path)
    (directory / "ca.pem").write_text("nothing", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read as a certificate"):
        Control(directory)
