"""A study that cannot begin, or not go on, says why to whoever asks, goes on when that is mended, and can be stopped."""

import json

import pytest
from deployment import Deployment, discreet
from machine import wait_for


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Three sites, of which a study needs all; nothing is left of one that was not approved by the last."""
    with Deployment(tmp_path_factory.mktemp("waiting"), sites=3, rounds=1, spare=0) as one:
        one.start_all()
        yield one


def status_of(federation):
    shown = json.loads(discreet("coordinator", "status", federation.coordinator, "--json"))
    return shown["studies"].get(federation.study, "")


def entries(federation, name):
    ledgers = json.loads(discreet("ledger", "list", federation.site(name), "--json"))
    return {each["study"]: each for each in ledgers["studies"]}


def test_a_site_that_has_not_approved_is_waited_for_and_nobody_pays(federation):
    federation.declare("hospital-1", "hospital-3")
    federation.begin()
    waits = "round 0. Waiting until 3 of 3 sites are ready; hospital-2: the site has not approved this study"
    wait_for(lambda: status_of(federation) == waits, "the waiting")
    for name in ("hospital-1", "hospital-3"):
        assert entries(federation, name)[federation.study]["charged"] == 0
    federation.approve("hospital-2")
    outcome = wait_for(federation.outcome, "the end of the study")
    assert outcome["summary"]["rounds_abandoned"] == 0
    assert "released in" in status_of(federation)


def test_a_study_that_waits_can_be_stopped(federation):
    federation.declare("hospital-1")
    federation.begin()
    wait_for(lambda: "Waiting" in status_of(federation), "the waiting")
    discreet("coordinator", "stop", federation.coordinator, federation.study[:12])
    assert "stopped" in wait_for(federation.outcome, "the end of the study")["failed"]
    assert "failed: it was stopped" in status_of(federation)
    wait_for(lambda: federation.process("coordinator", "study") is None, "the end of its process")
    discreet("coordinator", "stop", federation.coordinator, federation.study[:12], code=2)
    for wrong in ("", federation.study[:7], "00000000"):
        discreet("coordinator", "stop", federation.coordinator, wrong, code=2)


def test_one_that_has_not_begun_can_be_stopped_too(federation):
    federation.declare("hospital-1")
    federation.submit()
    assert status_of(federation) == "submitted"
    discreet("coordinator", "stop", federation.coordinator, federation.study)
    assert status_of(federation).startswith(("stops", "failed"))
    assert "stopped" in wait_for(federation.outcome, "the end of the study")["failed"]


def test_what_keeps_its_process_from_running_is_shown_and_can_be_mended(federation):
    key = federation.coordinator / "coordinator.key"
    content = key.read_bytes()
    key.write_bytes(b"")
    federation.declare()
    federation.begin()
    wait_for(lambda: "coordinator.key" in status_of(federation), "the reason")
    key.write_bytes(content)
    assert "summary" in wait_for(federation.outcome, "the end of the study")


def test_whoever_checks_a_site_learns_whether_the_coordinator_lets_it_in(federation):
    def problems():
        found = json.loads(
            discreet("site", "check", federation.site("hospital-3"), "--json", code=1)
        )
        return [each for each in found["problems"] if "policy.toml" not in each]

    assert problems() == []
    discreet("coordinator", "remove", federation.coordinator, "hospital-3")
    (said,) = problems()
    assert "does not know this SuperNode's key" in said
    node = federation.site("hospital-3") / "node.pub"
    discreet("coordinator", "add", federation.coordinator, f"hospital-3={node}")
    assert problems() == []
