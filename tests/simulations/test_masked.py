"""A masked simulation is the plain one but for what is seen on the way, whoever drops out, is interrupted or is killed."""

import json
import random
import signal
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from killed_runs import (
    HANG_SECONDS,
    check_release,
    kill_after,
    ledgers_of,
    resumed,
    started,
    study_of,
)
from safetensors.numpy import load_file
from typer.testing import CliRunner

from audit.verify import verify_export
from client.answers import Site
from client.ledger import read_ledger
from discreet.main import app
from privacy.errors import LedgerError
from simulations.run import Options, simulate
from study.freezing import to_toml
from study.keyfiles import read_public_key
from study.receipts import SignedReceipt
from study.roster import SignedRoster
from study.templates import template_study


def small(template="breast-cancer", *, rounds=4, spare_rounds=0, sites=5, dropouts=0):
    study = template_study(template)
    return replace(
        study,
        training=replace(study.training, rounds=rounds, spare_rounds=spare_rounds),
        privacy=replace(study.privacy, max_dropouts=dropouts),
        sites=replace(study.sites, minimum=sites),
    )


@pytest.fixture
def integers(monkeypatch):
    """What every site's own part of a sum is, by query: seen before it is masked."""
    found, own = {}, Site._integers

    def recorded(self, study, query, mechanism):
        part = own(self, study, query, mechanism)
        found.setdefault(query.index, {})[self._ledger.state.opened.site] = part
        return part

    monkeypatch.setattr(Site, "_integers", recorded)
    return found


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def queries_of(out):
    return json.loads((out / "manifest.json").read_text())["queries"]


# Sums


def test_the_released_sums_are_the_sums_of_what_each_site_would_have_answered(out, integers):
    """Bit for bit, with everybody and without some."""
    study = small(rounds=6, spare_rounds=6, sites=6, dropouts=1)
    simulate(study, Options(out=out, drop=0.1, seed=5))
    sums, queries = load_file(out / "sums.safetensors"), queries_of(out)
    assert any(query["missing"] for query in queries if not query["abandoned"])
    assert not all(query["missing"] for query in queries)
    for query in queries:
        if not query["abandoned"]:
            parts = [integers[query["index"]][name] for name in query["survivors"]]
            assert sums[f"{query['index']:06d}"].tolist() == np.sum(parts, axis=0).tolist()


def test_a_sites_part_is_what_it_is_without_masks(tmp_path, integers):
    """With trust `server` a site adds no noise, and what it is asked first depends on no noise of others."""
    found = {}
    for seed in (1, 2):
        integers.clear()
        study = small("house-prices-private", rounds=2, sites=2)
        study = replace(study, privacy=replace(study.privacy, trust="server"))
        simulate(study, Options(out=tmp_path / str(seed), seed=seed))
        found[seed] = sum(integers[0].values())
    assert (
        np.abs(found[1] - found[2]).max() <= 2 * 2
    )  # the records are spread anew; a dither at each


def test_the_same_seed_is_the_same_masked_run(tmp_path):
    for name in "ab":
        simulate(small(), Options(out=tmp_path / name, seed=3))
    for file in ("model.safetensors", "sums.safetensors", "roster.json", "receipts/site-1.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


# Trips


def test_three_trips_where_somebody_is_missing_and_who_dropped_is_back_in_the_next(out):
    lines = []
    study = small(rounds=8, spare_rounds=8, sites=6, dropouts=1)
    summary = simulate(study, Options(out=out, drop=0.08, seed=4, on_message=lines.append))
    assert summary["rounds"] == 8
    queries, back = queries_of(out), 0
    for number, query in enumerate(queries):
        trips = Counter(line["trip"] for line in lines if line["query"] == query["index"])
        missing = set(query["cohort"]) - set(query["survivors"])
        if query["abandoned"]:
            continue
        assert trips["A"] == len(query["cohort"])
        assert trips["B"] == len(query["survivors"])
        assert trips["C"] == (len(query["survivors"]) if missing else 0)
        assert set(query["signatures"]) == (set(query["survivors"]) if missing else set())
        if missing and number + 1 < len(queries):
            assert missing <= set(queries[number + 1]["cohort"])
            back += missing <= set(queries[number + 1]["survivors"])
    assert any(line["trip"] == "C" for line in lines)
    assert back >= 1


@pytest.mark.parametrize("command", ["simulate", "demo"])
def test_a_trace_says_who_sent_what_in_each_trip(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    study = small(rounds=8, spare_rounds=8, sites=6, dropouts=1)
    (tmp_path / "study.toml").write_text(to_toml(study))
    arguments = {
        "simulate": ["simulate", "study.toml", "--out", "out", "--trace", "--drop", "0.08", "--seed", "4"],
        "demo": ["demo", "--out", "out", "--trace"],
    }[command]  # fmt: skip
    if command == "demo":
        monkeypatch.setattr("study.templates.template_study", lambda _name: small(rounds=2))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "trip" in line]
    for trip, words in (
        ("setup", "SetupRequest"), ("A", "RoundRequest"), ("A", "Upload"),
        *([("B", "SurvivorsRequest"), ("C", "RevealRequest"), ("A", "could not be reached")]
          if command == "simulate" else [("B", "OpenRequest"), ("B", "OpenReply")]),
    ):  # fmt: skip
        assert any(f"trip {trip:<7}" in line and words in line for line in lines), (trip, words)
    sites = 6 if command == "simulate" else 5
    assert sum("trip setup" in line for line in lines) >= sites


def test_without_masks_there_is_one_trip(out):
    lines = []
    simulate(small(), Options(out=out, trust="local", on_message=lines.append))
    assert {line["trip"] for line in lines} == {"answers"}
    assert {line["received"] for line in lines} == {"SumAnswer"}


# Receipts


def test_every_receipt_in_the_release_verifies_against_the_ledger_beside_it(out):
    simulate(small(), Options(out=out))
    roster = SignedRoster.from_bytes((out / "roster.json").read_bytes())
    roster.check_first()
    for number, name in roster.roster.names.items():
        key = read_public_key(out / "sites" / name / "site.pub")
        assert key == roster.roster.identities[number - 1]
        export = [each.to_line() for each in read_ledger(out / "sites" / name / "ledger.sqlite")]
        lines = (out / "receipts" / f"{name}.jsonl").read_bytes().splitlines()
        assert len(lines) == len(queries_of(out)) == 5
        assert verify_export(export, key, lines).receipts == 5
        with pytest.raises(LedgerError, match="it was rolled back"):
            verify_export(export[:-8], key, lines)
        transcripts = {SignedReceipt.from_line(line).receipt.transcript for line in lines}
        assert transcripts == {query["transcript"] for query in queries_of(out)}


# Interruptions


def test_ctrl_c_in_a_masked_simulation_loses_nothing(tmp_path):
    """Twice, wherever it comes: no query is burnt, no spare is needed, and the model is the same to the last bit."""
    study, generator = study_of(rounds=60), random.Random(3)
    out = tmp_path / "out"
    for number, sums in enumerate((2, 7)):
        process = started(study, out, resume=number > 0)
        interrupt_after(process, out, sums, linger=generator.uniform(0, 0.02))
        assert process.wait(HANG_SECONDS) == 130
        states = ledgers_of(out.with_name("out.partial"))
        assert statuses(states) == {"answered"}
    assert resumed(study, out) is None
    assert statuses(ledgers_of(out)) == {"answered"}
    assert len(queries_of(out)) == 61
    simulate(study, Options(out=tmp_path / "whole"))
    for file in ("model.safetensors", "sums.safetensors"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def interrupt_after(process, out, sums, *, linger):
    kill = process.kill
    process.kill = lambda: process.send_signal(signal.SIGINT)
    try:
        kill_after(process, out, sums, linger=linger)
    finally:
        process.kill = kill


def statuses(states):
    return {
        asked.status
        for state in states.values()
        for account in state.studies.values()
        for asked in account.asked.values()
    }


def test_a_masked_simulation_with_spare_rounds_outlives_kill_9(out):
    study = study_of(rounds=40, spare_rounds=2)
    assert kill_after(started(study, out), out, 4, linger=0.01)
    assert resumed(study, out) is None
    check_release(out)
    assert sum(not query["abandoned"] for query in queries_of(out)) == 41
