"""Plots say what happened, whatever the history lacks, and are the same bytes every time."""

import math
import re
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from server.plots import COLOURS, draw_costs, draw_plots

SVG = "{http://www.w3.org/2000/svg}"


def line(number, **other):
    return {
        "query": number,
        "function": "gradient",
        "round": number,
        "survivors": 5,
        "missing": [],
        "abandoned": False,
        "loss": 1 / number,
        "epsilon": 0.3 * number**0.5,
        "seconds": 0.1,
    } | other


def summary(**other):
    return {
        "trust": "local",
        "epsilon": 3.0,
        "rounds_declared": 100,
        "sites": 5,
        "metrics_on": "pooled test rows (simulation)",
    } | other


def history(rounds=100, **other):
    lines = [line(number, **other) for number in range(1, rounds + 1)]
    for each in lines[::10]:
        each["metrics"] = {"accuracy": 0.9, "precision": 0.8, "recall": 0.7, "f1": 0.6}
    return lines


def words(path):
    """Every text of an SVG file; parsing it proves that it is well-formed."""
    root = ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314  our own file
    return " ".join("".join(each.itertext()) for each in root.iter(f"{SVG}text"))


def drawn(lines, about, directory):
    return {path.stem: path for path in draw_plots(lines, about, directory)}


def test_every_plot_is_written_where_it_is_said_to_be(tmp_path):
    lines = history()
    lines[7] |= {"missing": ["b"], "survivors": 4}
    paths = draw_plots(lines, summary(), tmp_path / "new" / "plots")
    assert [path.name for path in paths] == ["loss.svg", "metric.svg", "epsilon.svg", "sites.svg"]
    assert sorted(paths) == sorted((tmp_path / "new" / "plots").iterdir())


def test_equal_runs_give_equal_bytes_whatever_the_readers_matplotlibrc_says(tmp_path):
    first = [path.read_bytes() for path in draw_plots(history(), summary(), tmp_path / "a")]
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path"}):
        second = [path.read_bytes() for path in draw_plots(history(), summary(), tmp_path / "b")]
    assert first == second


def test_drawing_leaves_matplotlibs_settings_as_they_were(tmp_path):
    before = dict(mpl.rcParams)
    draw_plots(history(), summary(), tmp_path)
    assert dict(mpl.rcParams) == before


def test_text_stays_text_and_no_file_names_another(tmp_path):
    for path in draw_plots(history(), summary(), tmp_path):
        text = path.read_text(encoding="utf-8")
        assert "round" in words(path)
        assert "<!DOCTYPE" not in text
        assert "<metadata" not in text
        assert all(each.startswith("#") for each in re.findall(r'href="([^"]*)"', text))


def test_only_named_colours_are_used_so_that_a_dark_page_can_replace_them(tmp_path):
    lines = history()
    lines[7] |= {"missing": ["b"], "survivors": 2, "abandoned": True}
    for path in draw_plots(lines, summary(), tmp_path):
        used = set(re.findall(r"#[0-9a-f]{6}\b", path.read_text(encoding="utf-8")))
        assert used <= set(COLOURS.values())


def test_the_loss_is_called_private_and_noisy_unless_it_is_not(tmp_path):
    assert "private" in words(drawn(history(), summary(), tmp_path)["loss"])
    unsafe = words(drawn(history(), summary(trust="unsafe", epsilon=None), tmp_path)["loss"])
    assert "no privacy" in unsafe
    assert "noise" not in unsafe


def test_a_loss_over_many_magnitudes_has_plain_numbers_on_its_axis(tmp_path):
    lines = [line(number, loss=44 * 0.9**number) for number in range(1, 100)]
    shown = words(drawn(lines, summary(trust="unsafe"), tmp_path)["loss"])
    assert "0.01" in shown
    assert "$" not in shown


def test_the_declared_total_is_in_the_plot_of_epsilon(tmp_path):
    assert "the guarantee: 3.00" in words(drawn(history(), summary(), tmp_path)["epsilon"])


def test_the_line_of_epsilon_goes_through_the_exact_ends_of_upper_steps(tmp_path):
    """Steps and their ends alone give the same picture; a drawing of the steps themselves would have corners."""
    steps = [line(number, epsilon=-(-number // 5) / 10) for number in range(1, 101)]
    ends = [each for each in steps if each["round"] % 5 == 0]
    pictures = [
        drawn(lines, summary(), tmp_path / name)["epsilon"].read_bytes()
        for name, lines in (("steps", steps), ("ends", ends))
    ]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("name", ["cost.svg", "cost.png"])
def test_the_costs_of_a_forecast_are_drawn_like_those_of_a_run(tmp_path, name):
    costs = [0.3 * number**0.5 for number in range(1, 101)]
    path = tmp_path / name
    draw_costs(costs, 3.0, path)
    if path.suffix == ".svg":
        assert path.read_bytes() == drawn(history(), summary(), tmp_path)["epsilon"].read_bytes()
    else:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert imread(path).shape[:2] == (660, 1320)
    first = path.read_bytes()
    draw_costs(costs, 3.0, path)
    assert path.read_bytes() == first


def test_costs_without_a_bound_are_left_out(tmp_path):
    draw_costs([0.5, None, math.inf], 2.0, tmp_path / "cost.svg")
    assert "the guarantee: 2.00" in words(tmp_path / "cost.svg")


def test_without_privacy_there_is_no_plot_of_epsilon(tmp_path):
    assert "epsilon" not in drawn(history(), summary(trust="unsafe", epsilon=None), tmp_path)


def test_sites_are_plotted_only_when_somebody_was_missing(tmp_path):
    assert "sites" not in drawn(history(), summary(), tmp_path)
    lines = history()
    lines[3] |= {"missing": ["a"], "survivors": 4}
    assert "abandoned" not in words(drawn(lines, summary(), tmp_path)["sites"])
    lines[5] |= {"missing": ["a", "b"], "survivors": 3, "abandoned": True}
    assert "abandoned" in words(drawn(lines, summary(), tmp_path)["sites"])


def test_a_regression_shows_r2_and_no_accuracy(tmp_path):
    lines = [line(1, metrics={"mse": 9.0, "mae": 2.0, "r2": -30.0}), line(2, metrics={"r2": 0.8})]
    shown = words(drawn(lines, summary(), tmp_path)["metric"])
    assert "R²" in shown
    assert "accuracy" not in shown


@pytest.mark.parametrize("absent", [None, math.nan, math.inf])
def test_missing_values_never_crash_and_an_empty_plot_says_so(tmp_path, absent):
    lines = [line(1, loss=absent, epsilon=absent, survivors=None, missing=["a"], metrics=None)]
    plots = drawn(lines, summary(epsilon=absent, rounds_declared=None, sites=None), tmp_path)
    assert "No training loss was learnt" in words(plots["loss"])
    assert "No metrics were measured" in words(plots["metric"])
    assert "no bound" in words(plots["epsilon"])
    assert "not recorded" in words(plots["sites"])


@pytest.mark.parametrize("lines", [[], [{}], [line(1)]])
def test_a_run_of_hardly_any_rounds_is_drawn(tmp_path, lines):
    assert set(drawn(lines, summary(), tmp_path)) == {"loss", "metric", "epsilon"}


def test_metrics_that_are_null_at_some_rounds_are_passed_over(tmp_path):
    lines = [line(1, metrics={"accuracy": None, "f1": 0.5}), line(2, metrics={"accuracy": 0.9})]
    shown = words(drawn(lines, summary(), tmp_path)["metric"])
    assert "accuracy" in shown
    assert "F1" in shown


def test_one_wild_value_does_not_flatten_the_rest_and_is_counted(tmp_path):
    lines = history()
    lines[50]["loss"] = 1e6
    assert "1 beyond the frame" in words(drawn(lines, summary(), tmp_path)["loss"])


def test_a_long_run_gives_a_small_file(tmp_path):
    noise = np.random.default_rng(0).normal(size=20_000)
    lines = [line(number, loss=float(noise[number - 1])) for number in range(1, 20_001)]
    for path in draw_plots(lines, summary(rounds_declared=20_000), tmp_path):
        assert path.stat().st_size < 200_000


def test_hostile_text_in_a_label_is_only_text(tmp_path):
    hostile = "</text><script>alert(1)</script>$x_"
    path = drawn(history(), summary(metrics_on=hostile), tmp_path)["metric"]
    assert "<script" not in path.read_text(encoding="utf-8")
    assert hostile in words(path)
