"""A masked study over real processes, from its first trip to its release, and what is left of it where."""

import json
import re

import numpy as np
import pytest
from database import bytes_of, contains, find_vector
from deployment import Deployment, discreet
from flower_cli import flwr_run
from machine import wait_for
from relay import Relay, records_of_tls

from client.answers import units_of
from client.sources import load
from client.tables import records_of
from server.directory import CoordinatorDirectory
from study.contributions import Contributor
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.plans import start_plan

COUNT = 17_891
"""Records of one site: a number that stands nowhere by chance."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A federation whose masked study is over, and after it one that is not masked."""
    with (
        Deployment(tmp_path_factory.mktemp("study"), counts={"hospital-4": COUNT}) as one,
        Relay(CoordinatorDirectory(one.coordinator).settings().network.port) as relay,
    ):
        one.relay = relay
        for name in one.names:
            one.dial(name, relay.port)
        one.start_all()
        one.summary = one.run()
        one.masked = one.place
        one.declared_masked = Declaration.from_bytes(one.declaration.read_bytes())
        one.seen_masked = bytes_of(one.coordinator / "flower")
        one.change_study('trust = "aggregate"', 'trust = "local"')
        one.declare()
        wait_for(one.connected, "the sites")
        one.run()
        one.declared_local = Declaration.from_bytes(one.declaration.read_bytes())
        one.seen_local = bytes_of(one.coordinator / "flower")
        yield one


def test_a_masked_study_comes_to_its_end(finished):
    summary = finished.summary
    assert (summary["masked"], summary["trust"], summary["simulation"]) == (
        True,
        "aggregate",
        False,
    )
    assert (summary["rounds"], summary["rounds_abandoned"], summary["refusals"]) == (2, 0, {})
    assert summary["epsilon"] <= 4.0


def test_its_release_is_equal_in_form_to_a_simulated_one_and_verifies(finished, tmp_path):
    discreet(
        "simulate", finished.root / "study.toml", "--data", finished.root / "hospital-1.csv", "--sites", 4,
        "--out", tmp_path / "simulated",
    )  # fmt: skip
    real, simulated = finished.masked / "release", tmp_path / "simulated"
    only_there = {"sites"}  # the ledgers of simulated sites; real ones keep their own
    assert {each.name for each in real.iterdir()} == {
        each.name for each in simulated.iterdir()
    } - only_there
    for name in ("summary.json", "privacy.json", "manifest.json"):
        mine, other = (json.loads((each / name).read_bytes()) for each in (real, simulated))
        assert set(mine) <= set(other), name
        assert set(other) - set(mine) <= {"records", "metrics", "metrics_on", "site_records"}, name
    discreet("release", "verify", real)


def test_every_ledger_verifies_and_holds_one_charge_a_query(finished, tmp_path):
    study = finished.declared_masked.hash
    for name in finished.names:
        export, site = tmp_path / f"{name}.jsonl", finished.site(name)
        discreet("ledger", "export", site, "--out", export)
        receipts = finished.masked / "release" / "receipts" / f"{name}.jsonl"
        found = discreet(
            "ledger", "verify", export, "--key", site / "site.pub", "--receipts", receipts, "--json"
        )
        (account,) = [each for each in json.loads(found)["studies"] if each["study"] == study]
        assert account["charged"] == 2, account


def test_what_passes_the_network_is_tls(finished):
    taps = finished.relay.taps
    assert sum(map(len, taps)) > 100_000, "all sites' traffic went by here"
    for tap in taps:
        kinds = records_of_tls(tap)
        assert kinds[:1] in ([], [22]), "a handshake comes first"
    said = b"".join(map(bytes, taps))
    # Not shorter words: three bytes stand in a megabyte by chance once in sixteen times.
    for word in (b"RecordDict", b"HTTP/1", b"/v1/fleet", finished.declared_masked.hash.encode()):
        assert word not in said


def test_neither_names_nor_columns_stand_in_superlinks_database(finished):
    study = finished.declared_masked.study
    words = [
        *finished.names,
        study.name,
        study.purpose,
        study.data.label,
        *study.data.classes,
        *study.data.features,
    ]
    for seen in (finished.seen_masked, finished.seen_local):
        assert len(seen) > 100_000
        assert contains(seen, finished.declared_masked.hash), "the search finds what is there"
        assert [each for each in words if contains(seen, each)] == []


def test_no_count_stands_there(finished):
    for seen in (finished.seen_masked, finished.seen_local):
        assert not re.search(rb"(?<![0-9A-Za-z.])%d(?![0-9A-Za-z.])" % COUNT, seen)
        for width in (4, 8):
            assert COUNT.to_bytes(width, "big") not in seen
        assert COUNT.to_bytes(8, "little") not in seen


def expected_vector(finished, declaration, name):
    """What a site's first answer is made of, before noise: its clipped sum, scaled. And by how much noise may move it."""
    guarantee = Guarantee(declaration)
    ask = next(start_plan(guarantee))
    records = records_of(load(declaration.study, finished.root / f"{name}.csv"), declaration.study)
    units = units_of(records, declaration.study)
    everybody = np.ones(units.count, dtype=np.bool_)
    clipped = Contributor(guarantee, units).clipped_sum(ask.function, ask.parameters, everybody)
    mechanism = guarantee.mechanism(ask.function)
    # Nine deviations, each of the 6 numbers: an honest answer is outside with probability below 1e-17.
    return clipped * mechanism.scale, 9 * mechanism.deviation.variance**0.5 + 1


def test_the_search_finds_a_vector_that_was_sent_without_masks_and_none_that_was_masked(finished):
    name = "hospital-4"  # of many records: its vector stands out of the noise
    local, tolerance = expected_vector(finished, finished.declared_local, name)
    assert np.abs(local).max() > 3 * tolerance, "the vector can be told from nothing at all"
    assert find_vector(finished.seen_local, local, tolerance)
    masked, tolerance = expected_vector(finished, finished.declared_masked, name)
    for width in (4, 8):
        assert not find_vector(finished.seen_masked, masked, tolerance, width=width)


def test_what_is_secret_is_read_by_its_owner_alone(finished):
    for path in finished.root.rglob("*"):
        secret = (
            path.suffix == ".key"
            or path.name in ("superexec.secret", "secret", "task")
            or path.parent.name == "tasks"
        )
        if path.is_file() and secret:
            assert path.stat().st_mode & 0o077 == 0, path


def test_flwr_run_on_the_project_runs_a_submitted_study_and_none_of_its_code(finished, tmp_path):
    finished.change_study("rounds = 2", "rounds = 1")
    finished.declare()
    finished.submit()
    flwr_run(finished, tmp_path, study=finished.study)
    outcome = wait_for(finished.outcome, "the end of the study", limit=60)
    assert outcome["summary"]["rounds"] == 1
