"""The command: what it prints where, how it ends, and what it leaves behind."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
from safetensors.numpy import load_file

from discreet.commands import demo
from discreet.main import app
from server.report import FILES
from study.parsing import read_study
from study.templates import TEMPLATES, template_study

ROOT = Path(__file__).parents[2]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x9b]")


def commands(command=None, path=()):
    """Every command and group of commands, by the words that call it."""
    command = command or typer.main.get_command(app)
    found = {path: command}
    for name, each in getattr(command, "commands", {}).items():
        found |= commands(each, (*path, name))
    return found


ALL = commands()
LEAVES = [path for path, command in ALL.items() if not hasattr(command, "commands")]


def only_object(text):
    """Exactly one JSON object, without NaN, and nothing after it."""

    def refuse(constant):
        raise AssertionError(constant)

    value, end = json.JSONDecoder(parse_constant=refuse).raw_decode(text)
    assert isinstance(value, dict)
    assert text[end:] == "\n"
    return value


def flat(text):
    """Help as running text: without its frames."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


def files_of(directory):
    return {
        each.relative_to(directory): each.read_bytes()
        for each in directory.rglob("*")
        if each.is_file()
    }


# Help


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_shows_every_option_and_sub_command(call, path):
    result = call(*path, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    shown = flat(result.stdout)
    for parameter in ALL[path].params:
        if parameter.opts[0].startswith("-"):
            assert parameter.opts[0] in shown
            assert parameter.help, parameter.opts[0]
            assert flat(parameter.help) in shown
    for name, command in getattr(ALL[path], "commands", {}).items():
        assert name in shown
        assert command.help
    assert not CONTROL.search(result.stdout)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_teaches_by_an_example(call, path):
    shown = flat(call(*path, "--help").stdout)
    assert f"Example: discreet {' '.join(path)}" in shown


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_says_what_every_argument_is(call, path):
    shown = flat(call(*path, "--help").stdout)
    for parameter in ALL[path].params:
        if not parameter.opts[0].startswith("-"):
            assert parameter.help, parameter.name
            assert flat(parameter.help) in shown, parameter.name


ENDLESS = {("coordinator", "start"), ("site", "start")}
"""They have no result: they run until they are stopped."""


@pytest.mark.parametrize("path", sorted(set(LEAVES) - ENDLESS), ids=" ".join)
def test_every_command_can_print_json(path):
    assert "--json" in {each.opts[0] for each in ALL[path].params}


def test_the_commands_are_those_of_the_contract():
    assert set(LEAVES) >= {
        ("demo",), ("simulate",), ("study", "init"), ("study", "check"), ("study", "show"), ("study", "freeze"),
        ("policy", "init"), ("policy", "check"),
        ("study", "forecast"),
    }  # fmt: skip


def test_the_version_is_printed(call):
    result = call("--version")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(r"discreet \d+\.\d+\.\d+\S*\n", result.stdout)


@pytest.mark.parametrize("arguments", [["--nonsense"], ["simulat"], ["study", "frezee"], ["simulate"],
                                       ["simulate", "x.toml"], ["study", "check"], ["demo", "more"],
                                       ["simulate", "x.toml", "--out", "y", "--sites", "many"],
                                       ["simulate", "x.toml", "--out", "y", "--sites", "0"],
                                       ["simulate", "x.toml", "--out", "y", "--sites", "1000"],
                                       ["simulate", "x.toml", "--out", "y", "--seed", "-1"],
                                       ["simulate", "x.toml", "--out", "y", "--trust", "everybody"],
                                       ["simulate", "x.toml", "--out", "y", "--jsn"]])  # fmt: skip
def test_wrong_use_is_2_and_leaves_nothing(call, place, arguments):
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr
    assert list(place.iterdir()) == []


def test_a_misspelt_option_is_recognised(call):
    assert "--partition" in call("simulate", "x", "--out", "y", "--partitions", "iid").stderr


# simulate


@pytest.fixture
def simulated(call, place, write_study, write_data):
    """`discreet simulate` on the small study, with further options."""
    study, data = write_study(), write_data()

    def simulate(*options, out="out"):
        return call("simulate", study, "--out", out, "--data", data, *options)

    return simulate


def test_a_simulation_ends_with_its_figures_and_the_place_of_its_report(simulated, place):
    result = simulated()
    assert (result.exit_code, result.stdout) == (0, "")
    summary = json.loads((place / "out" / "summary.json").read_text())
    shown = flat(result.stderr)
    for name, value in summary["metrics"].items():
        assert f"{name} {value:.4g}" in shown
    for name in ("accuracy", "recall", "f1"):
        assert name in summary["metrics"]
    epsilon = re.search(r"ε (\d\.\d\d) at δ = 1e-05", shown)[1]
    assert 0 <= float(epsilon) - summary["epsilon"] < 0.01  # a bound is rounded up
    assert "3 of 3" in shown
    assert str(place / "out" / "report.html") in re.sub(
        r"\s", "", result.stderr
    )  # a table folds it
    assert {each.name for each in place.iterdir()} == {"study.toml", "data.csv", "out"}
    assert {each.name + "/" * each.is_dir() for each in (place / "out").iterdir()} == set(FILES)


def test_json_is_exactly_the_content_of_the_summary(simulated, place):
    result = simulated("--json")
    assert result.exit_code == 0
    assert only_object(result.stdout) == json.loads((place / "out" / "summary.json").read_text())


def test_options_reach_the_simulation(simulated):
    result = simulated(
        "--json", "--sites", 4, "--trust", "aggregate", "--seed", 9, "--partition", "dirichlet:1"
    )
    summary = only_object(result.stdout)
    assert (summary["sites"], summary["trust"]) == (4, "aggregate")
    other = only_object(
        simulated("--json", "--sites", 4, "--trust", "aggregate", out="other").stdout
    )
    assert other["study_hash"] != summary["study_hash"]


def test_a_column_of_sites_needs_no_number_of_them(simulated):
    result = simulated("--json", "--partition", "column:hospital")
    assert only_object(result.stdout)["sites"] == 3


def test_without_privacy_that_is_said(simulated):
    result = simulated("--trust", "unsafe")
    assert "no privacy" in result.stderr
    assert result.exit_code == 0


def test_that_the_server_sees_every_sites_sum_is_said(simulated):
    assert "no bound: it sees each site's sum" in flat(simulated("--trust", "server").stderr)


def test_a_run_that_fails_is_1_with_one_sentence_and_a_hint(simulated, place):
    result = simulated("--drop", "0.9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    *_, error, hint = result.stderr.strip().splitlines()
    assert re.match(r"Error: Round \d of 3 was abandoned", error)
    assert hint.startswith("Hint: ")
    assert not (place / "out").exists()


def test_a_run_that_fails_says_why_its_sites_did_not_answer(simulated):
    """Whoever reads only "abandoned" looks for missing sites, not for what is wrong with them."""
    assert re.search(r"site-\d|Flower", simulated("--drop", "0.9").stderr)


def test_figures_that_json_does_not_have_are_no_traceback(call, place, write_study):
    """A learning rate with which gradient descent runs away."""
    study = write_study(
        training={"learning_rate": 1e200, "optimizer": "sgd", "average": "none"},
        data={"task": "regression", "classes": (), "source": "house_prices", "label": "price",
              "features": "all", "bounds": {}, "scaling": "none", "test_fraction": 0.0},
        model={"kind": "linear"}, privacy={"trust": "unsafe", "noise_multiplier": None},
    )  # fmt: skip
    result = call("simulate", study, "--out", "out", "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if result.exit_code == 0:
        only_object(result.stdout)
    else:
        assert result.stderr.strip().splitlines()[-2].startswith("Error: ")


@pytest.mark.parametrize("kind", ["a release", "an empty directory", "other things", "a file"])
def test_an_existing_out_is_refused_and_left_as_it_is(simulated, place, kind):
    out = place / "out"
    if kind == "a release":
        simulated()
    elif kind == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        if kind == "other things":
            (out / "thesis.txt").write_text("mine")
    before = files_of(place)
    result = simulated("--seed", 2)
    assert (result.exit_code, result.stdout) == (2, "")
    error, hint = result.stderr.strip().splitlines()
    why = {
        "a file": ", and is not a directory",
        "other things": ", and holds other files than a release, so --force does not replace it",
    }
    assert error == f"Error: out exists{why.get(kind, '')}"
    # Where --force is of no help it is not proposed.
    assert ("replace it with --force" in hint) == (kind not in why)
    assert files_of(place) == before


def test_force_replaces_a_release(simulated, place):
    simulated()
    before = load_file(place / "out" / "sums.safetensors")
    assert simulated("--seed", 2, "--force").exit_code == 0
    after = load_file(place / "out" / "sums.safetensors")
    assert any((before[name] != after[name]).any() for name in before)
    assert {each.name for each in place.iterdir()} == {"study.toml", "data.csv", "out"}


def test_force_does_not_take_what_somebody_put_beside_a_release(simulated, place):
    simulated()
    (place / "out" / "note.txt").write_text("an addition")
    before = files_of(place)
    assert simulated("--seed", 2, "--force").exit_code == 2
    assert files_of(place) == before


def test_whether_there_was_something_to_go_on_with_is_said(simulated, place):
    assert "There is nothing to resume" in simulated("--resume").stderr
    assert "resume" not in simulated("--force").stderr
    (place / "next.partial" / "checkpoint").mkdir(parents=True)
    (place / "next.partial" / "options.json").write_text("{}")
    assert "An interrupted run is thrown away" in flat(simulated(out="next").stderr)
    assert not (place / "next.partial").exists()


def test_records_unlike_the_expected_number_are_noted(call, place, write_study, write_data):
    study, data = write_study(), write_data()
    for command in (("study", "check", study), ("simulate", study, "--out", "out")):
        assert "data.expected_records is" not in call(*command, "--data", data).stderr
    text = (place / study).read_text()
    (place / study).write_text(re.sub(r"expected_records = \d+", "expected_records = 30_000", text))
    for command in (("study", "check", study), ("simulate", study, "--out", "other")):
        result = call(*command, "--data", data)
        assert result.exit_code == 0
        assert "data.expected_records is 30,000, by which every sum is divided" in flat(
            result.stderr
        )


def test_force_takes_an_empty_directory(simulated, place):
    (place / "out").mkdir()
    assert simulated("--force").exit_code == 0
    assert (place / "out" / "summary.json").exists()


@pytest.mark.parametrize("kind", ["other things", "a file"])
def test_force_replaces_nothing_but_a_release(simulated, place, kind):
    out = place / "out"
    if kind == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    before = files_of(place)
    result = simulated("--force")
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.match(
        r"Error: out exists, and (is not a directory|holds other files than a release)",
        result.stderr,
    )
    assert files_of(place) == before


def test_force_does_not_take_a_directory_with_a_summary_of_something_else(simulated, place):
    (place / "out").mkdir()
    (place / "out" / "summary.json").write_text('{"thesis": "mine"}')
    (place / "out" / "thesis.txt").write_text("mine")
    assert simulated("--force").exit_code == 2
    assert (place / "out" / "thesis.txt").exists()


def test_force_keeps_the_old_release_when_the_new_run_fails(simulated, place):
    simulated()
    before = files_of(place / "out")
    assert simulated("--force", "--drop", "0.9").exit_code == 1
    assert simulated("--force", "--sites", "1").exit_code == 2
    assert files_of(place / "out") == before


@pytest.mark.parametrize("out", [".", "..", "/", "./", "study.toml/x"])
def test_an_out_that_cannot_be_is_refused_in_one_sentence(simulated, place, out):
    before = files_of(place.parent)
    result = simulated("--force", out=out)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit), result.exception
    assert any(line.startswith("Error: ") for line in result.stderr.splitlines())
    assert files_of(place.parent) == before


def test_an_empty_directory_can_be_filled_from_within(
    call, place, write_study, write_data, monkeypatch
):
    """`--out . --force` in an empty directory."""
    study, data = place / write_study(), place / write_data()
    (place / "here").mkdir()
    monkeypatch.chdir(place / "here")
    result = call("simulate", study, "--data", data, "--out", ".", "--force")
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert result.exit_code in (0, 2)


@pytest.mark.parametrize("name", ["a b.toml", "[bold]x.toml", "[/x].toml", "ü.toml", "-x.toml"])
def test_any_name_of_a_file_is_taken_as_it_is(call, place, write_study, write_data, name):
    data = write_data()
    path = f"./{name}"
    (place / name).parent.mkdir(exist_ok=True)
    write_study(name=name)
    for arguments in (
        ["study", "check", path, "--data", data], ["study", "show", path],
        ["simulate", path, "--data", data, "--out", f"./out of {Path(name).name}"],
    ):  # fmt: skip
        result = call(*arguments)
        assert result.exit_code == 0, (arguments, result.exception, result.stderr)
    assert name in call("study", "check", path, "--data", data).stderr


def test_a_name_is_shown_as_it_is_in_errors(call, place):
    result = call("study", "check", "[bold]none.toml")
    assert "There is no file [bold]none.toml" in result.stderr


# Interruptions


def test_an_interrupted_simulation_can_be_resumed(
    call, place, write_study, write_data, monkeypatch
):
    import simulations.run

    arguments = ["simulate", write_study(), "--data", write_data(), "--out"]
    whole = only_object(call(*arguments, "whole", "--json").stdout)
    real = simulations.run.write_release
    monkeypatch.setattr(simulations.run, "write_release", _interrupt)
    result = call(*arguments, "out")
    assert (result.exit_code, result.stdout) == (130, "")
    assert (
        result.stderr.strip().splitlines()[-1]
        == "Stopped. Go on with the same command and --resume."
    )
    assert {each.name for each in place.iterdir()} == {
        "study.toml",
        "data.csv",
        "whole",
        "out.partial",
    }
    monkeypatch.setattr(simulations.run, "write_release", real)
    resumed = only_object(call(*arguments, "out", "--resume", "--json").stdout)
    assert resumed | {"seconds": 0} == whole | {"seconds": 0}
    assert {each.name for each in place.iterdir()} == {"study.toml", "data.csv", "whole", "out"}


def _interrupt(*_arguments):
    raise KeyboardInterrupt


class Interrupting(ModuleType):
    """A module during whose import Ctrl-C is pressed."""

    def __getattr__(self, name):
        raise KeyboardInterrupt


@pytest.mark.parametrize("path", [("demo",), ("simulate", "study.toml", "--out", "out")])
def test_ctrl_c_while_modules_are_loaded_ends_as_cleanly(call, place, monkeypatch, path):
    """Which takes seconds, so that this is when people press it."""
    monkeypatch.setitem(sys.modules, "simulations.run", Interrupting("simulations.run"))
    result = call(*path)
    assert result.exit_code == 130
    assert isinstance(result.exception, SystemExit)
    assert list(place.iterdir()) == []


def test_ctrl_c_while_the_command_itself_is_loaded_is_no_traceback(start, place, monkeypatch):
    """The first library that it imports presses the keys."""
    (place / "typer").mkdir()
    (place / "typer" / "__init__.py").write_text(
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    )
    monkeypatch.setenv("PYTHONPATH", str(place))
    process = start("demo", cwd=place)
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    assert process.returncode in (130, -signal.SIGINT)


def wait_until(condition, process):
    """Until the condition holds; the process must not end before it."""
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        select.select([], [], [], 0.05)
    raise AssertionError("waited a minute")


def test_ctrl_c_in_the_middle_of_a_run_ends_with_one_line(start, place, write_study, write_data):
    study, data = (
        write_study(training={"rounds": 100_000}, privacy={"noise_multiplier": 1000.0}),
        write_data(),
    )
    process = start("simulate", study, "--data", data, "--out", "out", cwd=place)
    wait_until((place / "out.partial" / "checkpoint" / "000003.sum").exists, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    headline, *rest = stderr.strip().splitlines()
    assert headline.startswith("patients: 3 sites")
    assert [line for line in rest if line] == ["Stopped. Go on with the same command and --resume."]
    assert {each.name for each in place.iterdir()} == {"study.toml", "data.csv", "out.partial"}


# Where output goes


def test_what_is_not_a_terminal_gets_no_control_codes(start, place, write_study, write_data):
    process = start(
        "simulate", write_study(), "--data", write_data(), "--out", "out", "--json", cwd=place
    )
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    only_object(stdout)
    assert not CONTROL.search(stdout + stderr)
    assert "Warning" not in stderr


@pytest.mark.parametrize(
    "arguments", [["study", "show", "study.toml", "--json"], ["--help"]]
)  # fmt: skip
def test_a_reader_that_has_gone_is_no_traceback(start, place, write_study, arguments):
    """As with `discreet study show study.toml | head -1`: the pipe has no other end."""
    write_study()
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*arguments, cwd=place, stdout=writer)
    os.close(writer)
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr
    assert process.returncode in (0, 1)


def test_a_terminal_shows_a_bar_with_round_epsilon_and_loss(place, write_study, write_data):
    """Under a terminal of its own, as `script` makes one."""
    pty = pytest.importorskip("pty")
    study, data = write_study(training={"rounds": 30}), write_data()
    master, slave = pty.openpty()
    arguments = ["simulate", study, "--data", data, "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "discreet", *arguments], cwd=place, stdout=subprocess.DEVNULL, stderr=slave,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:
        pass  # what Linux raises when the other end is closed
    os.close(master)
    assert process.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "30/30" in text
    assert re.search(r"30/30.*ε 37\.7\s+loss -?\d+\.\d\d\d", text)


# study


@pytest.mark.parametrize("template", TEMPLATES)
def test_init_writes_a_sound_study(call, place, template):
    result = call("study", "init", "my.toml", "--template", template)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "discreet simulate my.toml" in result.stderr
    assert read_study(place / "my.toml") == template_study(template)
    checked = call("study", "check", "my.toml")
    assert (checked.exit_code, checked.stdout) == (0, "")
    assert "my.toml is sound, and so are its records." in checked.stderr


def test_init_does_not_overwrite_unless_forced(call, place):
    (place / "study.toml").write_text("mine")
    result = call("study", "init")
    assert result.exit_code == 2
    assert (place / "study.toml").read_text() == "mine"
    assert "--force" in result.stderr
    assert call("study", "init", "--force").exit_code == 0
    read_study(place / "study.toml")


def test_init_and_check_say_what_they_did_in_json(call, place):
    assert only_object(call("study", "init", "a.toml", "--json").stdout) == {
        "file": "a.toml", "template": "breast-cancer",
    }  # fmt: skip
    assert only_object(call("study", "check", "a.toml", "--json").stdout) == {
        "study": "breast-cancer-diagnosis", "sound": True, "records_checked": True,
    }  # fmt: skip


def test_check_without_records_says_only_what_it_looked_at(call, write_study):
    result = call("study", "check", write_study(), "--json")
    assert only_object(result.stdout)["records_checked"] is False
    assert "records" not in result.stderr


@pytest.mark.parametrize("template", TEMPLATES)
def test_show_fills_in_every_default_and_says_what_is_guaranteed(call, place, template):
    call("study", "init", "my.toml", "--template", template)
    result = call("study", "show", "my.toml", "--json")
    shown = only_object(result.stdout)
    study = template_study(template)
    assert shown["training"]["sampling_rate"] == study.training.sampling_rate
    assert shown["guarantee"]["epsilon"] == (
        None if study.privacy.trust == "unsafe" else pytest.approx(study.privacy.epsilon, rel=0.01)
    )
    people = call("study", "show", "my.toml")
    words = people.stdout + people.stderr
    for section in (
        "[study]",
        "[data]",
        "[model]",
        "[training]",
        "[privacy]",
        "[sites]",
        "[guarantee]",
    ):
        assert section in words


def test_show_of_a_study_without_columns_shows_what_is_known(call, write_study):
    result = call("study", "show", write_study(data={"features": "all", "bounds": {}}), "--json")
    assert "guarantee" not in only_object(result.stdout)


def test_freeze_writes_columns_and_bounds_and_changes_nothing_else(call, place):
    call("study", "init", "open.toml")
    result = call("study", "freeze", "open.toml", "--out", "frozen.toml")
    assert (result.exit_code, result.stdout) == (0, "")
    frozen, study = read_study(place / "frozen.toml"), read_study(place / "open.toml")
    assert len(frozen.data.features) == 30
    assert set(frozen.data.bounds) == set(frozen.data.features)
    assert (frozen.training, frozen.privacy, frozen.name) == (
        study.training,
        study.privacy,
        study.name,
    )
    assert call("study", "check", "frozen.toml").exit_code == 0
    again = call("study", "freeze", "frozen.toml", "--json")
    assert read_study(place / "frozen.toml") == frozen
    assert only_object(again.stdout)["data"]["features"] == list(frozen.data.features)


def test_freeze_takes_the_columns_of_a_file(call, place, write_study, write_data):
    write_study(data={"features": "all", "bounds": {"default": (-9.0, 100.0)}})
    assert call("study", "freeze", "study.toml", "--data", write_data()).exit_code == 0
    assert read_study(place / "study.toml").data.features == ("age", "marker", "hospital")


def test_freeze_that_fails_leaves_the_study_as_it_is(call, place, write_study):
    write_study(data={"features": "all"})
    before = (place / "study.toml").read_bytes()
    result = call("study", "freeze", "study.toml", "--data", "missing.csv")
    assert result.exit_code == 2
    assert (place / "study.toml").read_bytes() == before
    assert {each.name for each in place.iterdir()} == {"study.toml"}


def test_freeze_does_not_overwrite_another_file_unasked(call, place, write_study, write_data):
    write_study()
    (place / "other.toml").write_text("mine")
    result = call("study", "freeze", "study.toml", "--data", write_data(), "--out", "other.toml")
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert (place / "other.toml").read_text() == "mine"


# demo


@pytest.fixture
def short_demo(monkeypatch):
    """The demo with three rounds."""
    from dataclasses import replace

    study = template_study("breast-cancer")
    study = replace(study, training=replace(study.training, rounds=3))
    monkeypatch.setattr(demo, "template_study", lambda _name: study)


def test_the_demo_ends_with_figures_and_a_report(call, place, short_demo):
    result = call("demo")
    assert (result.exit_code, result.stdout) == (0, "")
    shown = flat(result.stderr)
    for each in ("accuracy", "recall", "f1", "ε", "report.html", "5 sites"):
        assert each in shown
    (out,) = place.iterdir()
    assert {each.name + "/" * each.is_dir() for each in out.iterdir()} == set(FILES)
    again = call("demo")
    assert again.exit_code == 2
    assert "--force" in again.stderr


def test_the_demo_prints_its_summary_as_json(call, place, short_demo):
    result = call("demo", "--out", "here", "--json")
    assert only_object(result.stdout) == json.loads((place / "here" / "summary.json").read_text())


def test_an_interrupted_demo_leaves_nothing_that_it_cannot_go_on_from(
    call, place, short_demo, monkeypatch
):
    import simulations.run

    monkeypatch.setattr(simulations.run, "write_release", _interrupt)
    result = call("demo", "--out", "here")
    assert result.exit_code == 130
    assert result.stderr.strip().splitlines()[-1].startswith("Stopped.")
    assert not (place / "here").exists()


def test_the_report_opens_offline(call, place, short_demo):
    call("demo", "--out", "here")
    page = (place / "here" / "report.html").read_text()
    assert page.count("<svg") >= 3  # loss, metric, epsilon
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", page)
    assert "<script" not in page
