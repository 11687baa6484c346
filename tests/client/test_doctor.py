"""What the doctor says: each thing that is wrong, and nothing where nothing is."""

import socket
from dataclasses import replace

import pytest
from fleet_api import FleetApi, certificates
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from ledgers import key_of
from machine import free_ports
from masking import roster_of
from site_directories import DATA_SET, declaration_of, furnished, site_directory

from client import doctor
from client.approvals import Approval, approve
from client.doctor import NEEDED, main, problems
from client.ledger import Ledger
from client.policy import Floors, Policy, Studies, policy_text
from client.supernode import create_node_key, read_node_key
from study.keyfiles import read_key
from study.locks import hold, is_held
from study.roster import SignedRoster

POLICY = Policy(studies=Studies(purpose=False))


def pin(place, *names):
    signed = SignedRoster(roster=roster_of(*names), signatures={}).signed_by(key_of("federation"))
    (place / "roster.json").write_bytes(signed.to_bytes())


@pytest.fixture
def fleet(tmp_path):
    with FleetApi(certificates(tmp_path / "site", valid=(-1, 400))) as fleet:
        yield fleet


@pytest.fixture
def place(tmp_path, fleet):
    """A site with which nothing is wrong."""
    directory = site_directory(tmp_path / "site", port=free_ports(1)[0], coordinator=fleet.address)
    furnished(directory)
    create_node_key(directory)
    fleet.keys.add(public_key_to_bytes(read_node_key(directory).public_key()))
    pin(directory, "site", "b", "c")
    approve(directory, declaration_of(1), data=directory / "records.csv", data_set=DATA_SET)
    (directory / "policy.toml").write_text(policy_text(POLICY))
    return directory


def seen(place):
    """All but what is wrong with records, for which a process is started."""
    return problems(place, records=False)


def test_a_site_with_which_nothing_is_wrong(place):
    assert problems(place) == []


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_missing_file_is_named_with_where_to_get_it(place, name):
    (place / name).unlink()
    said = seen(place)
    assert f"There is no {name}: {NEEDED[name]}" in said


@pytest.mark.parametrize("name", ["site.key", "node.key", "superexec.secret"])
def test_a_secret_that_others_can_read_is_named(place, name):
    (place / name).chmod(0o644)
    assert any(f"{name} can be read by others: chmod 600" in each for each in seen(place))


def test_a_secret_that_is_empty_is_named(place):
    (place / "superexec.secret").write_bytes(b"")
    assert any("superexec.secret is empty" in each for each in seen(place))


def test_records_of_a_study_that_is_closed_are_not_missed(place):
    (place / "records.csv").unlink()
    assert any("records" in each and "cannot be read" in each for each in seen(place))
    ledger = Ledger(place / "ledger.sqlite", read_key(place / "site.key"))
    ledger.close_study(declaration_of(1).hash)
    ledger.close()
    assert seen(place) == []


def _expired(place):
    (place / "ca.pem").unlink()
    certificates(place.path, valid=(-10, -1))


def _expiring(place):
    certificates(place.path, valid=(-10, 3))


def _other_node_key(place):
    (place / "node.key").unlink()
    (place / "node.pub").rename(place / "old.pub")
    create_node_key(place)
    (place / "old.pub").rename(place / "node.pub")


def _write(name, content):
    return lambda place: (place / name).write_bytes(content)


def _not_a_number(place):
    lines = (place / "records.csv").read_text().splitlines()
    lines[3] = "nan" + lines[3][lines[3].index(",") :]
    (place / "records.csv").write_text("\n".join(lines))


def _stricter(place):
    (place / "policy.toml").write_text(policy_text(replace(POLICY, floors=Floors(sites=90))))


def _many_units(place):
    text = policy_text(replace(POLICY, floors=Floors(units=10_000)))
    (place / "policy.toml").write_text(text)


def _another_row(place):
    with (place / "records.csv").open("a") as file:
        file.write("1.5,2.5,3.5,no\n")


def _unconfined(place):
    text = (place / "site.toml").read_text()
    (place / "site.toml").write_text(text.replace("confined = true", "confined = false"))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_expired, "ca.pem has expired on"),
        (_expiring, "ca.pem expires on"),
        (_write("ca.pem", b"garbage"), "ca.pem is not a certificate"),
        (_other_node_key, "node.pub is not of node.key"),
        (_write("node.pub", b"garbage"), "node.pub is not a public key"),
        (_write("coordinator.pub", b"garbage"), "coordinator.pub is not a public key"),
        (_write("ledger.sqlite", b"garbage" * 100), "ledger.sqlite"),
        (_write("policy.toml", b"format = 9"), "policy.toml"),
        (_write("roster.json", b"{}"), "Expected a roster"),
        (lambda place: (place / "roster.json").unlink(), "There is no roster.json"),
        (lambda place: pin(place, "a", "b", "c"), "Expected a site of the roster"),
        (lambda place: (place / "policy.toml").unlink(), "There is no policy.toml"),
        (lambda place: (place / "records.csv").unlink(), "cannot be read: is"),
        (lambda place: next((place / "studies").glob("*")).unlink(), "No study is approved"),
        (_unconfined, "Nothing keeps the worker from the network"),
        (_write("studies/x.json", b"{}"), "studies/x.json is passed over: Expected an approval"),
    ],
)
def test_what_is_wrong_is_said_in_words(place, harm, words):
    harm(place)
    assert any(words in each for each in seen(place)), seen(place)


def test_a_port_of_somebody_else_s_is_told_of_unless_the_site_itself_runs(place):
    with socket.socket() as other:
        other.bind(("127.0.0.1", place.settings().network.runtime_port))
        other.listen()
        assert any("is in use" in each for each in seen(place))
        handle = hold(place / "executor.lock")
        assert is_held(place / "executor.lock")
        assert seen(place) == []
        socket.close(handle)


def test_a_coordinator_that_does_not_know_the_site_or_the_time_or_is_away_is_told_of(place, fleet):
    fleet.skew = 900.0
    assert any("clock is" in each for each in seen(place))
    fleet.skew = 0.0
    fleet.keys.clear()
    assert any("does not know this SuperNode's key" in each for each in seen(place))
    fleet.__exit__()
    assert any("cannot be reached at" in each for each in seen(place))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_not_a_number, "is empty, NaN or infinite"),
        (_another_row, "found 1 more"),
        (_stricter, "sites: expected at least 90"),
        (_many_units, "expected at least 10,000 units"),
        (_write("site.key", b"garbage"), "site.key"),
    ],
)
def test_a_study_that_the_worker_would_not_answer_is_named_with_the_reason(place, harm, words):
    """Nothing is changed by looking, and a file that is no study hides no other."""
    (place / "studies" / "0.json").write_bytes(b"garbage")
    harm(place)
    before = {path: path.read_bytes() for path in place.path.glob("*.*") if path.is_file()}
    said = problems(place)
    assert [each for each in said if words in each], said
    after = {path: path.read_bytes() for path in before}
    assert after == before


def test_a_study_that_is_in_no_ledger_is_not_reserved_by_looking(place):
    later = declaration_of(2)
    path = place / "studies" / f"{later.hash}.json"
    approval = Approval(declaration=later, data_set=DATA_SET, data=place / "records.csv")
    path.write_bytes(approval.to_bytes())
    assert problems(place) == []
    ledger = Ledger(place / "ledger.sqlite", read_key(place / "site.key"))
    assert set(ledger.state.studies) == {declaration_of(1).hash}
    ledger.close()


def test_records_are_not_read_where_the_worker_reads_them_next(place):
    _not_a_number(place)
    assert seen(place) == []


def test_the_ledger_is_opened_once(place, monkeypatch):
    opened = []
    monkeypatch.setattr(doctor, "Ledger", lambda *arguments: opened.append(1) or Ledger(*arguments))
    assert seen(place) == []
    assert opened == [1]


def test_the_program_prints_a_line_for_each(place, capsys):
    assert main([str(place.path)]) == 0
    (place / "policy.toml").unlink()
    assert main([str(place.path)]) == 1
    assert "There is no policy.toml" in capsys.readouterr().out
    assert main([str(place / "logs")]) == 1
