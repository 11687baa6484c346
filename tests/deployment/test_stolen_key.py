"""Whoever has stolen a node key and not the identity: a masked study goes on without that site, and nothing is charged."""

import json

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from deployment import Deployment, discreet, wait_for
from fleet import Site, announced
from flwr.app import Error, Message

from privacy.signing import SigningKey
from server.directory import CoordinatorDirectory
from study.envelope import answer_message, content_of
from study.instructions import signed_reply


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


def entries(lab, name):
    """How many entries the ledger of a site has, and how many of them charge this study."""
    shown = json.loads(discreet("ledger", "show", lab.site(name), "--last", 10_000, "--json"))[
        "entries"
    ]
    return len(shown), sum(
        each["kind"] == "charged" and each["body"]["study"] == lab.study for each in shown
    )


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
