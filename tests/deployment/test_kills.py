"""Whatever process dies, at whatever moment: the study comes to its end, and no site is charged twice."""

import json

import pytest
from deployment import Deployment, discreet
from machine import wait_for

COMPONENTS = [
    ("hospital-2", "worker"), ("hospital-3", "executor"), ("hospital-4", "supernode"), ("coordinator", "study"),
    ("coordinator", "supervisor"), ("coordinator", "gateway"), ("coordinator", "superlink"),
]  # fmt: skip


@pytest.fixture(scope="module")
def survived(tmp_path_factory):
    """A study of as many rounds as there are components and a few; after a round or two, one of them is killed."""
    waits = {"trip": 30.0, "again": 2.0, "unreachable": 20.0}
    with Deployment(
        tmp_path_factory.mktemp("kills"),
        rounds=len(COMPONENTS) + 3,
        spare=5,
        dropouts=1,
        waits=waits,
    ) as one:
        one.start_all()
        one.begin()
        one.killed = []
        try:
            for owner, name in COMPONENTS:
                done = one.rounds_done()
                wait_for(
                    lambda done=done: one.rounds_done() > done,
                    f"a round before {name} is killed",
                    limit=90,
                )
                one.killed.append((owner, name, one.kill(owner, name)))
            one.ended = wait_for(one.outcome, "the end of the study", limit=150)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{one.killed}\n{one.logs()}") from error
        yield one


def test_the_study_has_come_to_its_end(survived):
    assert "summary" in survived.ended, survived.ended
    assert survived.ended["summary"]["rounds"] == len(COMPONENTS) + 3


@pytest.mark.parametrize(("owner", "name"), COMPONENTS)
def test_what_was_killed_runs_again(survived, owner, name):
    (killed,) = [pid for at, what, pid in survived.killed if (at, what) == (owner, name)]
    if name == "study":
        return  # it has come to its end
    assert wait_for(lambda: survived.process(owner, name), name) != killed


def test_the_release_verifies(survived):
    discreet("release", "verify", survived.place / "release")


def test_every_ledger_verifies_and_nothing_was_charged_twice(survived, tmp_path):
    queries = len(
        json.loads((survived.place / "release" / "manifest.json").read_bytes())["queries"]
    )
    for name in survived.names:
        export = tmp_path / f"{name}.jsonl"
        discreet("ledger", "export", survived.site(name), "--out", export)
        receipts = survived.place / "release" / "receipts" / f"{name}.jsonl"
        found = json.loads(
            discreet(
                "ledger", "verify", export, "--key", survived.site(name) / "site.pub", "--receipts", receipts, "--json"
            )
        )  # fmt: skip
        (account,) = found["studies"]
        assert account["charged"] <= queries
        entries = [json.loads(line)["entry"] for line in export.read_bytes().splitlines()]
        charged = [each["index"] for each in (_body(entry) for entry in entries) if each]
        assert len(charged) == len(set(charged)) == account["charged"]


def _body(entry):
    """What an entry charges; None if it charges nothing."""
    return entry["body"] if entry["kind"] == "charged" else None
