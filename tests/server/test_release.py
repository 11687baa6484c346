"""A release is complete, says what happened, holds no surprises, and its model can be computed again from its sums."""

import dataclasses
import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path
from types import NoneType

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.ledger import read_ledger
from privacy.private_sum import released_sum
from server.release import Release, write_release
from server.report import FILES
from simulations.run import Options, simulate
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.parsing import read_study
from study.plans import Received, start_plan
from study.templates import template_study

TRUSTS = ["aggregate", "server", "local", "unsafe"]
ROUNDS = 4


def study_of(template="breast-cancer", *, model=None, privacy=None, data=None, **training):
    study = template_study(template)
    return dataclasses.replace(
        study,
        training=dataclasses.replace(study.training, **{"rounds": ROUNDS} | training),
        model=dataclasses.replace(study.model, **model or {}),
        privacy=dataclasses.replace(study.privacy, **privacy or {}),
        data=dataclasses.replace(study.data, **data or {}),
    )


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Release directory by trust; made once."""
    root, made = tmp_path_factory.mktemp("releases"), {}

    def release(trust):
        if trust not in made:
            simulate(study_of(), Options(out=root / trust, trust=trust))
            made[trust] = root / trust
        return made[trust]

    return release


@pytest.fixture(scope="module")
def dropped(tmp_path_factory):
    """A release with missing sites and an abandoned query in it."""
    out = tmp_path_factory.mktemp("dropped") / "out"
    study = study_of(privacy={"max_dropouts": 1}, spare_rounds=12, rounds=6)
    summary = simulate(study, Options(out=out, drop=0.2, seed=4))
    assert summary["rounds_abandoned"] > 0
    return out


def strict(text):
    """JSON without NaN and infinities."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def values_of(path):
    return strict(path.read_text(encoding="utf-8"))


def lines_of(path):
    return [strict(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files_of(directory):
    found = (each for each in directory.rglob("*") if each.is_file())
    return {each.relative_to(directory).as_posix(): each.read_bytes() for each in found}


@pytest.mark.parametrize("trust", TRUSTS)
def test_a_release_consists_of_what_its_report_lists(released, trust):
    names = {each.name + "/" * each.is_dir() for each in released(trust).iterdir()}
    assert names == set(FILES)
    assert all(each.suffix == ".svg" for each in (released(trust) / "plots").iterdir())
    assert all(files_of(released(trust)).values())


@pytest.mark.parametrize("trust", TRUSTS)
def test_the_manifest_names_every_other_file_with_its_hash(released, trust):
    files = files_of(released(trust))
    manifest = strict(files.pop("manifest.json"))
    assert manifest["files"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
    assert manifest["signed"] is False
    assert set(manifest["versions"]) >= {"discreet", "flwr", "numpy", "dp-accounting", "python"}


@pytest.mark.parametrize("trust", TRUSTS)
def test_the_study_hash_is_that_of_the_declaration(released, trust):
    directory = released(trust)
    content = (directory / "declaration.json").read_bytes()
    name = hashlib.sha256(content).hexdigest()
    assert values_of(directory / "manifest.json")["study_hash"] == name
    assert values_of(directory / "summary.json")["study_hash"] == name
    declaration = Declaration.from_bytes(content)
    assert read_study(directory / "study.toml") == declaration.study
    assert tomllib.loads((directory / "study.toml").read_text())["privacy"]["trust"] == trust


def replayed(directory):
    """The model, from the sums and the declaration; who survived stands in the manifest."""
    guarantee = Guarantee(Declaration.from_bytes((directory / "declaration.json").read_bytes()))
    sums = load_file(directory / "sums.safetensors")
    queries = values_of(directory / "manifest.json")["queries"]
    plan = start_plan(guarantee)
    ask = next(plan)
    for query in queries:
        assert (query["function"], query["round"]) == (ask.function, ask.round)
        name = f"{query['index']:06d}"
        assert query["abandoned"] == (name not in sums)
        if query["abandoned"]:
            continue
        mechanism = guarantee.mechanism(ask.function)
        total = sums[name] if mechanism is None else released_sum(mechanism, sums[name])
        try:
            ask = plan.send(Received(total=total, sites=len(query["survivors"])))
        except StopIteration as end:
            assert query is queries[-1]
            return end.value
    raise AssertionError("more sums were wanted")


def assert_replays(directory):
    model, found = load_file(directory / "model.safetensors"), replayed(directory)
    for name, value in found.items():
        assert model[name].dtype == value.dtype
        assert model[name].shape == value.shape
        assert model[name].tobytes() == value.tobytes()
    assert set(model) - set(found) <= {"scaling.low", "scaling.high"}


@pytest.mark.parametrize("trust", TRUSTS)
def test_the_model_follows_from_the_sums_bit_for_bit(released, trust):
    assert_replays(released(trust))


def test_the_model_follows_from_the_sums_when_sites_were_missing(dropped):
    assert_replays(dropped)


def test_missing_sites_and_abandoned_queries_are_told_alike_everywhere(dropped):
    summary, lines = values_of(dropped / "summary.json"), lines_of(dropped / "history.jsonl")
    queries = values_of(dropped / "manifest.json")["queries"]
    assert [line["query"] for line in lines] == [query["index"] for query in queries]
    assert [line["missing"] for line in lines] == [query["missing"] for query in queries]
    assert [line["abandoned"] for line in lines] == [query["abandoned"] for query in queries]
    assert [line["survivors"] for line in lines] == [len(query["survivors"]) for query in queries]
    assert summary["rounds_abandoned"] == sum(line["abandoned"] for line in lines)
    assert summary["rounds"] == 6
    missing = sum(len(line["missing"]) for line in lines)
    assert missing == sum(sum(each.values()) for each in summary["refusals"].values()) > 0
    assert all((line["loss"] is None) == (line["abandoned"] or not line["round"]) for line in lines)


KEYS = {
    "study": str, "study_hash": str, "purpose": str, "trust": str, "masked": bool, "epsilon": float,
    "epsilon_against_server": float, "delta": float, "noise_multiplier": float, "rounds": int, "rounds_declared": int,
    "rounds_abandoned": int, "sites": int, "refusals": dict, "seconds": float, "model": str, "simulation": bool,
    "records": int, "metrics": dict, "metrics_on": str, "site_records": dict, "parameters": dict,
}  # fmt: skip
NONE = {
    "aggregate": set(),
    "local": set(),
    "server": {"epsilon_against_server"},
    "unsafe": {"epsilon", "epsilon_against_server", "delta", "noise_multiplier"},
}


@pytest.mark.parametrize("trust", TRUSTS)
def test_the_summary_has_exactly_these_figures_with_these_types(released, trust):
    summary = values_of(released(trust) / "summary.json")
    assert set(summary) == set(KEYS)
    for name, kind in KEYS.items():
        assert type(summary[name]) is (NoneType if name in NONE[trust] else kind), name
    assert summary["trust"] == trust
    assert summary["masked"] is (trust in ("aggregate", "server"))
    assert summary["simulation"] is True
    assert (summary["rounds"], summary["rounds_declared"], summary["rounds_abandoned"]) == (4, 4, 0)
    assert (summary["sites"], summary["records"], summary["refusals"]) == (5, 569, {})
    assert set(summary["metrics"]) - {"loss"} == {"accuracy", "precision", "recall", "f1"}
    assert all(type(each) is float for each in summary["metrics"].values())
    assert set(summary["site_records"]) == {f"site-{number}" for number in range(1, 6)}
    assert sum(summary["site_records"].values()) == 569
    assert "simulation" in summary["metrics_on"]
    assert "test" in summary["metrics_on"]


@pytest.mark.parametrize("trust", ["aggregate", "server", "local"])
def test_epsilon_is_at_most_what_the_study_promises(released, trust):
    summary = values_of(released(trust) / "summary.json")
    assert 2.9 < summary["epsilon"] <= 3.0
    against = None if trust == "server" else summary["epsilon"]
    assert summary["epsilon_against_server"] == against


@pytest.mark.parametrize("trust", TRUSTS)
def test_no_json_holds_nan_or_infinity(released, trust):
    directory = released(trust)
    for name in ("summary.json", "privacy.json", "manifest.json", "declaration.json"):
        values_of(directory / name)
    lines = lines_of(directory / "history.jsonl")
    assert len(lines) == ROUNDS + 1  # the moments
    assert {
        "query",
        "function",
        "round",
        "survivors",
        "missing",
        "abandoned",
        "loss",
        "seconds",
    } < set(lines[0])
    assert all((line["epsilon"] is None) == (trust == "unsafe") for line in lines[1:])


@pytest.mark.parametrize("which", ["local", "dropped"])
def test_the_history_tells_what_so_many_declared_rounds_would_have_cost(released, dropped, which):
    """By round, spares included, so that the last round has the guarantee; nothing for the moments before."""
    directory = dropped if which == "dropped" else released(which)
    guarantee = Guarantee(Declaration.from_bytes((directory / "declaration.json").read_bytes()))
    for line in lines_of(directory / "history.jsonl"):
        if line["round"]:
            assert line["epsilon"] == guarantee.epsilon_by_round[line["round"] - 1]
        else:
            assert line["epsilon"] is None
    assert line["epsilon"] == values_of(directory / "summary.json")["epsilon"]


@pytest.mark.parametrize("trust", TRUSTS)
def test_the_guarantee_file_names_no_mechanism_that_was_not_used(released, trust):
    privacy = values_of(released(trust) / "privacy.json")
    assert privacy["trust"] == trust
    for query in privacy["queries"]:
        assert ("noise_multiplier" in query) == (trust != "unsafe")
    if trust == "unsafe":
        assert privacy["epsilon"] is None
        assert privacy["delta"] is None
        assert "noise" not in (privacy["mechanism"] or "")
        assert privacy["covered"] == []


@pytest.mark.parametrize("trust", ["aggregate", "server"])
def test_what_the_server_saw_is_said_for_people_too(released, trust):
    directory = released(trust)
    privacy = values_of(directory / "privacy.json")
    assert "sums were masked" in privacy["covered"][-1]
    assert "answers of at least 4 honest sites" in privacy["covered"][-1]
    seen = [each for each in privacy["not_covered"] if "masked sums" in each]
    assert len(seen) == (trust == "server")
    for name in ("report.html", "card.md"):
        said = (directory / name).read_text()
        assert "it received only the sum over the sites" in " ".join(said.split())
        assert "not masked" not in said


def test_parameters_of_a_small_model_stand_in_the_summary_exactly(released):
    directory = released("local")
    summary, model = (
        values_of(directory / "summary.json"),
        load_file(directory / "model.safetensors"),
    )
    for name, value in summary["parameters"].items():
        assert np.array_equal(np.array(value, dtype=model[name].dtype), model[name])
    assert set(model) - set(summary["parameters"]) == {"scaling.low", "scaling.high"}


@pytest.mark.parametrize(
    ("hidden", "few"), [((13,), True), ((14,), False)]
)  # 64 h + h + 10 h + 10 numbers: 985 and 1060
def test_parameters_are_left_out_above_1000_numbers(tmp_path, hidden, few):
    study = study_of("digits", model={"kind": "mlp", "hidden": hidden}, rounds=1)
    summary = simulate(study, Options(out=tmp_path / "out"))
    assert (summary["parameters"] is not None) == few
    assert values_of(tmp_path / "out" / "summary.json") == summary


def test_what_simulate_returns_is_the_summary(tmp_path):
    summary = simulate(study_of(), Options(out=tmp_path / "out"))
    assert values_of(tmp_path / "out" / "summary.json") == summary


def without_seconds(name, content):
    """A file of a release without the wall clock's part in it."""
    if name == "summary.json":
        return strict(content) | {"seconds": 0}
    if name == "history.jsonl":
        return [strict(line) | {"seconds": 0} for line in content.decode().splitlines()]
    if name == "manifest.json":
        values = strict(content)
        for query in values["queries"]:
            query["seconds"] = 0
        for each in values["files"]:
            if each.endswith((".sqlite", "summary.json", "history.jsonl", "report.html")):
                values["files"][each] = ""
        return values
    if name.endswith(".sqlite"):  # its entries are compared, not how SQLite has arranged its pages
        return None
    if name == "report.html":
        return re.sub(r"\b[\d.,]+ (?:s|seconds?|minutes?)\b", "TIME", content.decode())
    return content


@pytest.mark.parametrize("settings", [
    {},
    {"template": "diabetes", "sampling_rate": 0.5, "privacy": {"epsilon": None, "noise_multiplier": 8.0}},
])  # fmt: skip
def test_two_runs_with_one_seed_are_one_release_but_for_the_seconds(tmp_path, settings):
    study, made = study_of(**settings), []
    for name in ("first", "second"):
        simulate(study, Options(out=tmp_path / name, seed=7, partition="quantity:0.5"))
        made.append(files_of(tmp_path / name))
    assert set(made[0]) == set(made[1])
    for name in made[0]:
        assert without_seconds(name, made[0][name]) == without_seconds(name, made[1][name]), name
    for name in made[0]:
        if name.endswith(".sqlite"):
            assert read_ledger(tmp_path / "first" / name) == read_ledger(tmp_path / "second" / name)


def test_another_seed_is_another_run(tmp_path):
    found = []
    for seed in (1, 2):
        simulate(study_of(), Options(out=tmp_path / str(seed), seed=seed))
        found.append(files_of(tmp_path / str(seed)))
    for name in ("declaration.json", "sums.safetensors", "model.safetensors", "manifest.json"):
        assert found[0][name] != found[1][name]
    assert found[0]["study.toml"] == found[1]["study.toml"]


@pytest.mark.parametrize("trust", TRUSTS)
def test_no_file_of_a_release_tells_where_it_was_made(released, trust):
    directory = released(trust)
    places = {str(directory), str(directory.parent), str(Path.cwd()), str(Path.home()), sys.prefix}
    for name, content in files_of(directory).items():
        for place in places - {"/"}:
            assert place.encode() not in content, (name, place)


def test_whoever_can_read_one_file_of_a_release_can_read_them_all(released):
    modes = {
        each: each.stat().st_mode & 0o777 for each in released("local").iterdir() if each.is_file()
    }
    assert len(set(modes.values())) == 1, modes


def test_an_existing_directory_is_never_written_into(released, make_federation, tmp_path):
    federation = make_federation()
    release = Release(declaration=federation.declaration, outcome=federation.run(), seconds=1.0)
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there"):
        write_release(release, tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


def test_a_real_run_has_a_release_without_what_only_a_simulation_knows(make_federation, tmp_path):
    federation = make_federation()
    release = Release(
        declaration=federation.declaration, outcome=federation.run(), seconds=1.0, roster=federation.signed_roster
    )  # fmt: skip
    summary = write_release(release, tmp_path / "out")
    assert summary["simulation"] is False
    assert set(KEYS) - set(summary) == {"records", "metrics", "metrics_on", "site_records"}
    assert {each.name + "/" * each.is_dir() for each in (tmp_path / "out").iterdir()} == set(
        FILES
    ) - {"sites/"}
    assert_replays(tmp_path / "out")


def test_a_model_that_has_left_all_bounds_is_an_error_or_a_release_never_half_of_one(tmp_path):
    """A learning rate of 1e160 makes figures that JSON does not have."""
    from privacy.errors import DiscreetError

    study = study_of("house-prices", learning_rate=1e160)
    try:
        summary = simulate(study, Options(out=tmp_path / "out"))
    except DiscreetError:
        assert not (tmp_path / "out").exists()
    else:
        assert values_of(tmp_path / "out" / "summary.json") == summary
        lines_of(tmp_path / "out" / "history.jsonl")
