"""Over real processes: code that is shipped, a node key that is stolen, a site that is removed, a key that is another."""

import json

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from deployment import Deployment, discreet, free_ports, wait_for
from fleet import Site, announced
from flwr.app import Error, Message
from hostile import AGENT, hostile_fab, start_run, stock_flower

from privacy.signing import SigningKey
from server.directory import CoordinatorDirectory
from study.envelope import answer_message, content_of
from study.instructions import signed_reply
from study.keyfiles import create_key


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A federation that can do without one of its four sites. Every test declares a run of its own."""
    waits = {"trip": 20.0, "again": 2.0, "unreachable": 4.0}
    with Deployment(tmp_path_factory.mktemp("lab"), dropouts=1, spare=2, waits=waits) as one:
        one.start_all()
        yield one


@pytest.fixture
def study(lab):
    """A run that all sites have approved, with everybody connected."""
    wait_for(lab.connected, "the sites")
    lab.declare()
    lab.submit()
    return lab.study


def superlink(lab):
    network = CoordinatorDirectory(lab.coordinator).settings().network
    return f"127.0.0.1:{network.superlink_port}", (lab.coordinator / "ca.pem").read_bytes()


def entries(lab, name):
    """How many entries the ledger of a site has, and how many of them charge this study."""
    shown = json.loads(discreet("ledger", "show", lab.site(name), "--last", 10_000, "--json"))[
        "entries"
    ]
    return len(shown), sum(
        each["kind"] == "charged" and each["body"]["study"] == lab.study for each in shown
    )


def unpacked(lab):
    """What Flower would unpack an app into."""
    return [
        path
        for path in lab.root.rglob("apps")
        if path.is_dir() and "flower" in path.parts and any(path.iterdir())
    ]


# Shipped code


def test_code_that_a_run_ships_is_run_by_nobody(lab, study, tmp_path):
    start_run(*superlink(lab), hostile_fab(tmp_path), study=study)
    outcome = wait_for(lab.outcome, "the end of the study")
    assert outcome["summary"]["rounds"] == 2, "the installed apps have done the work"
    assert list(tmp_path.iterdir()) == []
    assert unpacked(lab) == []


def test_stock_flower_runs_it(tmp_path):
    """The same archive, so that the test above could fail."""
    marker = tmp_path / "marker"
    marker.mkdir()
    port, runtime_port = free_ports(2)
    with stock_flower(tmp_path / "stock", port, runtime_port):
        fab = hostile_fab(marker)

        def begun():
            try:
                return start_run(f"127.0.0.1:{port}", None, fab)
            except httpx.TransportError:  # not listening yet
                return None

        wait_for(begun, "stock SuperLink")
        wait_for((marker / "client-run").exists, "shipped code to run at the site", limit=60)
        assert (marker / "server-run").exists()


def test_an_agent_app_that_a_run_ships_is_run_by_nobody(lab, study, tmp_path):
    """SuperLink keeps its task, which nobody takes: the supervisor asks for ServerApps alone."""
    run = start_run(*superlink(lab), hostile_fab(tmp_path, AGENT), study=study, prompt="do it")
    assert run
    lab.begin()
    assert wait_for(lab.outcome, "the end of the study")["summary"]["rounds"] == 2
    assert list(tmp_path.iterdir()) == []
    assert unpacked(lab) == []


# A stolen node key


class Thief(Site):
    """Whoever has a site's node.key, and not its identity."""

    def __init__(self, lab, name):
        network = CoordinatorDirectory(lab.coordinator).settings().network
        private = load_ssh_private_key((lab.site(name) / "node.key").read_bytes(), None)
        super().__init__(f"https://127.0.0.1:{network.port}", lab.coordinator / "ca.pem", private)

    def reply(self, message, lie):
        request, contents = announced(lie(message), self.who)
        return self.push(request, contents)


def unsigned(message):
    return answer_message(b"mine", to=message)


def by_another_key(message):
    other = SigningKey.from_seed(b"x" * 32)
    said = signed_reply(b"mine", instruction=content_of(message), sign=other.sign, nonce=bytes(16))
    return answer_message(said, to=message)


def echo(message):
    """What the coordinator itself has said."""
    return answer_message(content_of(message), to=message)


def an_error(message):
    return Message(Error(code=1005, reason="'; DROP TABLE"), reply_to=message)


def test_a_stolen_node_key_answers_nothing_and_charges_nothing(lab, study):
    lab.stop("hospital-4")
    before = entries(lab, "hospital-4")
    thief = Thief(lab, "hospital-4")
    thief.activate()
    lab.begin()
    for lie in (unsigned, by_another_key, echo, an_error):
        thief.reply(thief.receive(), lie)
    thief.heartbeat()
    outcome = wait_for(lab.outcome, "the end of the study")
    log = (lab.coordinator / "logs" / "supervisor.log").read_text()
    assert "hospital-4: a reply came that its identity has not signed" in log
    assert "DROP TABLE" not in log
    assert outcome["summary"]["rounds"] == 2, "the others have gone on"
    assert all("hospital-4" in each["missing"] for each in lab.progress())
    discreet("release", "verify", lab.place / "release")
    assert entries(lab, "hospital-4") == before
    thief.http.close()
    lab.start("hospital-4")
    wait_for(lab.connected, "the site itself, in place of the thief", limit=90)


# Membership


def test_a_site_that_is_removed_is_refused_until_it_is_added_again(lab, study):
    node = lab.site("hospital-3") / "node.pub"
    discreet("coordinator", "remove", lab.coordinator, "hospital-3")
    log = lab.coordinator / "logs" / "gateway.log"
    wait_for(lambda: "unknown-key" in log.read_text(), "a refusal in the log")
    wait_for(lambda: not lab.connected("hospital-3"), "it to be gone")
    discreet("coordinator", "add", lab.coordinator, f"hospital-3={node}")
    wait_for(lab.connected, "the site that is back", limit=90)


# Another coordinator


def test_instructions_by_another_key_are_read_by_no_site(lab, study):
    """Whoever has taken over the coordinator's machine and not its key: the servers do what they are told."""
    key = lab.coordinator / "coordinator.key"
    own = key.read_bytes()
    before = {name: entries(lab, name) for name in lab.names}
    key.unlink()
    create_key(key)
    try:
        lab.begin()
        outcome = wait_for(lab.outcome, "the end of the study")
    finally:
        key.write_bytes(own)
    assert "failed" in outcome
    assert {name: entries(lab, name) for name in lab.names} == before, (
        "nothing is charged, and no refusal fills a ledger"
    )
    for name in lab.names:
        assert "An instruction was refused" in (lab.site(name) / "logs" / "worker.log").read_text()
