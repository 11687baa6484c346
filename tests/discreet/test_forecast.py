"""`discreet study forecast`: figures for scripts, a table and a plot for people, one sentence where it cannot."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))
FIGURES = {
    "study", "trust", "sites", "rounds", "sampling_rate", "noise_multiplier", "epsilon", "delta", "mu",
    "epsilon_against_server", "epsilon_of_a_record", "lifetime_epsilon", "lifetime_delta", "noise_per_coordinate", "dimension", "accountants", "accountants_missing",
    "epsilon_by_round", "profile", "what_if",
}  # fmt: skip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_can_be_forecast(call, place, path):
    people = call("study", "forecast", path)
    assert people.exit_code == 0, people.stderr
    result = call("study", "forecast", path, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    values = json.loads(result.stdout)
    assert set(values) == FIGURES
    if values["trust"] == "unsafe":
        assert people.stdout == ""
        assert "There is no privacy to forecast" in people.stderr
        assert values["epsilon"] is None
    else:
        assert values["epsilon_by_round"][-1] == values["epsilon"]
        for word in (
            "noise multiplier",
            "noise per coordinate",
            "ε by PLD",
            "ε by RDP",
            "μ",
            "as it is",
        ):
            assert word in people.stdout
    assert list(place.iterdir()) == []


def test_people_see_a_table_a_plot_and_what_changes_cost(call, write_study):
    shown = call("study", "forecast", write_study(training={"rounds": 30})).stdout
    assert "patients: 3 sites, 30 rounds, local trust" in shown
    bars = [line for line in shown.splitlines() if "█" in line]
    assert len(bars) == 8
    assert len(bars[-1].split()[-1]) == 30  # a column a round, the last one full
    assert bars[0].endswith("█")
    assert re.search(r"training\.rounds = 15 +[\d.]+ +[\d.]+ +[\d.]+", shown)


def test_a_record_of_a_site_that_is_the_unit_has_a_bound_of_its_own(call, write_study):
    study = write_study(
        training={"algorithm": "dp-fedavg", "local_steps": 2, "local_learning_rate": 0.1}
    )
    values = json.loads(call("study", "forecast", study, "--json").stdout)
    assert values["epsilon_of_a_record"] > 1.5 * values["epsilon"]
    assert "ε of one record" in call("study", "forecast", study).stdout
    study = write_study()
    values = json.loads(call("study", "forecast", study, "--json").stdout)
    assert values["epsilon_of_a_record"] == values["epsilon"]
    assert "ε of one record" not in call("study", "forecast", study).stdout


def test_what_a_study_takes_of_a_lifetime_is_more_than_its_epsilon(call, write_study):
    study = write_study()
    values = json.loads(call("study", "forecast", study, "--json").stdout)
    assert values["epsilon"] < values["lifetime_epsilon"] < 1.5 * values["epsilon"]
    assert values["lifetime_delta"] == values["delta"]
    shown = call("study", "forecast", study).stdout
    assert "ε of a site's lifetime" in shown
    assert "No δ falls below the part of it that rounding takes" in shown


def test_no_figure_that_people_see_is_below_its_value(call, write_study):
    study = write_study()
    values = json.loads(call("study", "forecast", study, "--json").stdout)
    shown = call("study", "forecast", study).stdout
    for name, epsilon in values["accountants"].items():
        (said,) = re.findall(rf"ε by {name} +([\d.]+)", shown)
        assert epsilon * (1 - 1e-6) <= float(said) < 1.01 * epsilon
    pairs = [(float(e), float(d)) for e, d in re.findall(r"δ at ε = ([\d.]+) +([\d.e-]+)", shown)]
    assert len(pairs) == len(values["profile"])
    for (epsilon, delta), each in zip(pairs, values["profile"], strict=True):
        assert epsilon >= each["epsilon"] * (1 - 1e-6)
        assert delta >= each["delta"]


def test_one_round_has_a_plot_of_one_column(call, write_study):
    shown = call("study", "forecast", write_study(training={"rounds": 1})).stdout
    bars = [line.split()[-1] for line in shown.splitlines() if "█" in line]
    assert bars == ["█"] * 8


def test_a_change_that_cannot_be_is_said(call, write_study):
    result = call(
        "study", "forecast", write_study(privacy={"trust": "aggregate", "max_dropouts": 1}, sites={"minimum": 4})
    )  # fmt: skip
    assert result.exit_code == 0
    assert "Not possible: sites.minimum = 2. sites.minimum: expected at least 4" in result.stderr


def test_another_number_of_sites_is_forecast(call, write_study):
    study = write_study()
    values = [
        json.loads(call("study", "forecast", study, "--sites", sites, "--json").stdout)
        for sites in (3, 9)
    ]
    assert [each["sites"] for each in values] == [3, 9]
    assert values[1]["noise_per_coordinate"] > 1.5 * values[0]["noise_per_coordinate"]


def test_columns_are_taken_from_a_file(call, write_study, write_data):
    """Three features and a bias, two classes by one logit, and the training loss."""
    study = write_study(data={"features": "all", "bounds": {"default": (-9.0, 100.0)}})
    result = call("study", "forecast", study, "--data", write_data(), "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["dimension"] == 5


def test_without_the_torch_extra_it_says_who_is_missing(call, write_study, monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    result = call("study", "forecast", write_study())
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())  # a table folds it
    assert re.search(r"ε by PRV none: .*not installed.*discreet\[torch\]", said)


# The picture


def test_the_plot_is_written_as_the_name_says(call, place, write_study):
    study = write_study(training={"rounds": 40})
    for name in ("cost.svg", "cost.PNG"):
        result = call("study", "forecast", study, "--plot", name)
        assert result.exit_code == 0, result.stderr
        assert f"Drew {name}." in result.stderr
    svg = (place / "cost.svg").read_text(encoding="utf-8")
    assert svg.count("<svg") == 1
    assert "had only so many rounds been declared" in svg
    picture = imread(place / "cost.PNG")
    assert np.ptp(picture[..., :3]) > 0.5  # not blank
    assert picture[0, 0, :3].tolist() == [1.0, 1.0, 1.0]


def test_equal_studies_have_equal_pictures(call, place, write_study):
    study = write_study()
    for name in ("one", "other"):
        for suffix in (".svg", ".png"):
            call("study", "forecast", study, "--plot", name + suffix)
    for suffix in (".svg", ".png"):
        assert (place / f"one{suffix}").read_bytes() == (place / f"other{suffix}").read_bytes()


def test_a_picture_is_not_replaced_unasked(call, place, write_study):
    (place / "cost.svg").write_text("mine")
    result = call("study", "forecast", write_study(), "--plot", "cost.svg")
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert (place / "cost.svg").read_text() == "mine"
    assert call("study", "forecast", "study.toml", "--plot", "cost.svg", "--force").exit_code == 0
    assert "<svg" in (place / "cost.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["cost", "cost.pdf", "cost.svg.txt", ".svg"])
def test_another_kind_of_picture_is_refused(call, place, write_study, name):
    result = call("study", "forecast", write_study(), "--plot", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.match(
        r"Error: .* is not the name of a picture\nHint: .*\.svg or \.png", result.stderr
    )
    assert {each.name for each in place.iterdir()} == {"study.toml"}


def test_without_privacy_no_picture_is_drawn(call, place, write_study):
    result = call(
        "study", "forecast", write_study(privacy={"trust": "unsafe", "noise_multiplier": None}), "--plot", "cost.svg"
    )  # fmt: skip
    assert result.exit_code == 0
    assert "cost.svg was not drawn: there is no ε." in result.stderr
    assert not (place / "cost.svg").exists()


# What it cannot do


BAD = {
    "no file": ({}, ["none.toml"], "There is no file none.toml"),
    "too few sites": ({}, ["study.toml", "--sites", "2"], "Expected at least sites.minimum = 3 sites, found 2"),
    "no columns": (
        {"data": {"features": "all", "bounds": {}}}, ["study.toml"], "names no built-in data set, and no file was given",
    ),
    "no such data": (
        {"data": {"features": "all", "bounds": {}}}, ["study.toml", "--data", "none.csv"], "There is no file none.csv",
    ),
    "no noise is enough": ({"privacy": {"noise_multiplier": 1e-3}}, ["study.toml"], "noise that gives some epsilon"),
    "too much noise": (
        {"privacy": {"noise_multiplier": None, "epsilon": 1e-12}}, ["study.toml"], "No noise multiplier",
    ),
    "beyond the proof": (
        {"privacy": {"noise_multiplier": None, "epsilon": 90.0}}, ["study.toml"], "Expected an epsilon that can be proved",
    ),
    "too many sites": ({}, ["study.toml", "--sites", "129"], "129"),
}  # fmt: skip


@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["people", "json"])
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_forecast_is_one_sentence(call, place, write_study, name, json_):
    sections, arguments, message = BAD[name]
    write_study(**sections)
    result = call("study", "forecast", *arguments, *json_)
    assert (result.exit_code, result.stdout) == (2, "")
    assert isinstance(result.exception, SystemExit)
    assert re.search(message, result.stderr), result.stderr
    assert {each.name for each in place.iterdir()} == {"study.toml"}
