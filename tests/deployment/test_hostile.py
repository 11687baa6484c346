"""A running deployment under attack: every way by which shipped code might be run, an
agent's messages, a thief beside the site that it has robbed, a site that is removed in the midst of a study, and a
coordinator's machine that is not the coordinator's any more.
"""

import json
import time
from contextlib import ExitStack

import httpx
import pytest
from deployment import Deployment, discreet
from flower_cli import flwr_run
from hostile import AGENT, hostile_fab, start_run, stock_flower
from hostile_parties import (
    AgentsCoordinator,
    Thief,
    an_error,
    by_another_key,
    replay,
    runtime_of,
    taken,
    traces,
    tricky_fab,
    tricky_project,
    unpacked,
    unsigned,
)
from machine import free_ports, wait_for

from server.directory import CoordinatorDirectory
from study.keyfiles import create_key

PATIENT = {"trip": 120.0, "again": 0.5, "unreachable": 100.0}
"""Who is waited for as long as a site needs to start."""
SHORT = {"trip": 40.0, "again": 0.5, "unreachable": 1.0}
"""Who is not there is missing."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Three sites whose answers are not masked, so that a forged one would do the most; one of them may be missing."""
    root = tmp_path_factory.mktemp("hostile")
    with Deployment(
        root, sites=3, trust="local", dropouts=1, rounds=2, spare=1, waits=PATIENT
    ) as one:
        one.start_all()
        yield one
        (root / "logs").write_text(one.logs())


@pytest.fixture
def study(lab):
    """A study of one round that all sites have approved, with everybody connected."""
    return new_study(lab)


def new_study(lab, *, rounds=1, waits=PATIENT):
    stopped = [each for each in lab.names if each not in lab.running]
    if stopped:
        lab.start(*stopped)
    wait_for(lab.connected, "the sites", limit=60)
    path = lab.root / "study.toml"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(f"rounds = {rounds}" if each.startswith("rounds =") else each for each in lines)
    )
    lab.waits = waits
    lab.shorten()
    lab.declare()
    lab.submit()
    return lab.study


def ended(lab, limit=180):
    outcome = wait_for(lab.outcome, "the end of the study", limit=limit)
    assert "summary" in outcome, outcome
    discreet("release", "verify", lab.place / "release")
    return outcome["summary"]


def superlink(lab):
    network = CoordinatorDirectory(lab.coordinator).settings().network
    return f"127.0.0.1:{network.superlink_port}", (lab.coordinator / "ca.pem").read_bytes()


def node_of(lab, name):
    key = CoordinatorDirectory(lab.coordinator).sites()[name]
    return lab.nodes()[key].node_id


def entries(lab, name):
    """All of a site's ledger, oldest first."""
    shown = discreet("ledger", "show", lab.site(name), "--last", 10_000, "--json")
    return json.loads(shown)["entries"]


def charged(lab, name):
    """Which queries of this study a site has charged."""
    return [
        each["body"]["index"]
        for each in entries(lab, name)
        if each["kind"] == "charged" and each["body"]["study"] == lab.study
    ]


def missing(lab):
    """Who is missing from each query."""
    return [each["missing"] for each in lab.progress()]


def log_of(lab, owner, name):
    return (lab.root / owner / "logs" / f"{name}.log").read_text(errors="replace")


# Shipped code


def test_an_app_that_tries_every_way_is_run_by_nobody(lab, study, tmp_path):
    """Nor is anything of it written where Python, pytest, pip or Flower would find it."""
    start_run(*superlink(lab), tricky_fab(tmp_path), study=study)
    ended(lab)
    assert missing(lab) == [[]]
    assert traces(tmp_path) == set()
    assert unpacked(lab.root, tmp_path) == []
    assert not list(lab.root.glob("*/flower/apps"))


def test_nor_by_flwr_run(lab, study, tmp_path):
    marker = tmp_path / "marker"
    marker.mkdir()
    project = tricky_project(tmp_path / "discreet", marker)
    flwr_run(lab, tmp_path / "cli", study=study, app=project)
    ended(lab)
    assert traces(marker) == set()
    assert unpacked(lab.root, marker) == []


def test_stock_flower_runs_that_app(tmp_path):
    """The same archive, so that the tests above could fail: client and server run, and are unpacked."""
    marker = tmp_path / "marker"
    marker.mkdir()
    port, runtime_port = free_ports(2)
    with stock_flower(tmp_path / "stock", port, runtime_port):
        fab = tricky_fab(marker)

        def begun():
            try:
                return start_run(f"127.0.0.1:{port}", None, fab)
            except httpx.TransportError:  # not listening yet
                return None

        wait_for(begun, "stock SuperLink")
        wait_for(lambda: "client-run" in traces(marker), "shipped code at the site", limit=90)
        assert {"client-imported", "server-imported", "server-run"} <= traces(marker)
        assert unpacked(tmp_path / "stock", marker)


# An agent's messages


def test_a_message_of_an_agents_run_is_answered_by_nobody(lab, tmp_path):
    """The SuperNode makes a task of it by which the shipped agent would run. The executor does not take it.

    As Flower's SuperNode waits for an answer, that site is missing until it is started again; then it is there.
    """
    start_run(*superlink(lab), hostile_fab(tmp_path, AGENT), study="ab" * 32, prompt="do it")
    with ExitStack() as stack:
        coordinator = AgentsCoordinator(lab.coordinator)
        stack.callback(coordinator.close)
        message = coordinator.push(node_of(lab, "hospital-3"))

        def received():
            log = log_of(lab, "hospital-3", "supernode").partition(message)[2]
            return "Received successfully" in log

        wait_for(received, "the message to be there")
        new_study(lab)  # so that the site's own processes have gone about their work since
        worker = lab.study[:8]
        wait_for(lambda: worker in log_of(lab, "hospital-3", "worker"), "the site to take part")
        pending = taken(*runtime_of(lab.site("hospital-3")), "flwr-agentapp")
        assert pending, "the executor has taken it"
        assert not (lab.site("hospital-3") / "task").exists()
        assert coordinator.replies(message) == []
    assert list(tmp_path.iterdir()) == []
    assert not list(lab.root.glob("*/flower/apps"))
    old = lab.kill("hospital-3", "supernode")
    wait_for(lambda: lab.process("hospital-3", "supernode") not in (None, old), "another SuperNode")
    lab.begin()
    ended(lab)
    assert missing(lab) == [[]]
    assert list(tmp_path.iterdir()) == []


# A stolen node key


def test_a_thief_in_a_sites_place_answers_nothing_and_the_site_is_waited_for(lab):
    """Each lie is told apart in the coordinator's log. The site starts, takes its place back, and answers itself."""
    new_study(lab)
    lab.stop("hospital-3")
    before = entries(lab, "hospital-3")
    lies = {
        unsigned: "Expected a signed reply",
        by_another_key: "Expected a signature",
        replay(lab.coordinator, lab.site("hospital-3")): "found one to another",
        an_error: "",  # of which anybody may be the author: no reason to warn, and none to believe it
    }
    with Thief(lab.coordinator, lab.site("hospital-3")) as thief:
        thief.activate()
        lab.begin()
        for lie in lies:
            assert thief.lie(thief.receive_query(lab.study), lie) == 200
        assert entries(lab, "hospital-3") == before
        lab.start("hospital-3")
        ended(lab)
    assert missing(lab) == [[]]
    assert charged(lab, "hospital-3") == [0], "for what it has answered itself"
    warnings = [
        each
        for each in log_of(lab, "coordinator", "supervisor").splitlines()
        if "hospital-3: a reply came that its identity has not signed" in each
    ]
    for told in lies.values():
        assert [each for each in warnings if told in each], told
    for path in lab.root.rglob("*"):  # what a thief says is repeated nowhere
        if path.is_file() and ".db" not in path.name:
            assert b"DROP TABLE" not in path.read_bytes(), path


def test_a_thief_beside_the_running_site_cannot_answer_for_it(lab):
    """Both are given every message, as they have one key. Whoever replies first shuts the other out of that message, and
    where that was the thief the site is asked again. What it has charged stands once, and its SuperNode goes on.
    """
    new_study(lab, rounds=2)
    supernode = lab.process("hospital-3", "supernode")
    warning = "has its node key been stolen?"
    warned = log_of(lab, "coordinator", "supervisor").count(warning)
    with Thief(lab.coordinator, lab.site("hospital-3")) as thief:
        thief.node = node_of(lab, "hospital-3")
        lab.begin()
        message = thief.pull_of(1)  # of the first it would be asked whether it takes part, too
        was_first = (
            thief.lie(message, unsigned) == 200
        )  # else the site was, and the gateway refuses
    ended(lab)
    assert log_of(lab, "coordinator", "supervisor").count(warning) == warned + was_first
    assert missing(lab) == [[], []]
    assert charged(lab, "hospital-3") == [0, 1]
    assert lab.process("hospital-3", "supernode") == supernode


# Another coordinator


def test_instructions_by_another_key_charge_nothing_and_fill_no_ledger(lab, study):
    """However often they come: neither charges nor refusals are in any ledger. Each site's log says it, once.

    The study waits, as nobody is ready for it.
    """
    key = lab.coordinator / "coordinator.key"
    own = key.read_bytes()
    before = {name: entries(lab, name) for name in lab.names}
    key.unlink()
    create_key(key)
    try:
        lab.begin()
        waiting = wait_for(lambda: lab.waiting, "the study to wait")
        time.sleep(3.0)  # they are asked again
        discreet("coordinator", "stop", lab.coordinator, lab.study)
        wait_for(lab.outcome, "the end of the study")
    finally:
        key.write_bytes(own)
    assert waiting.startswith(
        "Waiting until 2 of 3 sites are ready; hospital-1: the query is not one that this"
    )
    assert missing(lab) == []
    assert {name: entries(lab, name) for name in lab.names} == before
    for name in lab.names:
        assert log_of(lab, name, "worker").count("An instruction was refused") == 1


# Membership


def test_a_site_that_is_removed_is_refused_at_once_and_the_others_go_on(lab):
    """The gateway's log says so. Added again, it comes back by itself."""
    new_study(lab, rounds=4, waits=SHORT)
    node = lab.site("hospital-2") / "node.pub"
    refused = log_of(lab, "coordinator", "gateway").count("refused 401 unknown-key")
    lab.begin()
    wait_for(lambda: lab.rounds_done() >= 1, "a round with everybody")
    discreet("coordinator", "remove", lab.coordinator, "hospital-2")
    summary = ended(lab)
    assert summary["rounds"] == 4
    assert missing(lab)[0] == []
    assert missing(lab)[-1] == ["hospital-2"]
    assert {name for names in missing(lab) for name in names} == {"hospital-2"}
    assert len(charged(lab, "hospital-2")) < 4
    assert log_of(lab, "coordinator", "gateway").count("refused 401 unknown-key") > refused
    came = log_of(lab, "hospital-2", "supernode").count("SuperNode ID")
    discreet("coordinator", "add", lab.coordinator, f"hospital-2={node}")
    wait_for(
        lambda: log_of(lab, "hospital-2", "supernode").count("SuperNode ID") > came,
        "the site to be let in",
    )
    wait_for(lab.connected, "the site that is back")
