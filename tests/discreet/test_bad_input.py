"""Whatever is wrong with a study, its records or an option is said in one clear sentence with the fix, before anything is written."""

import re
from pathlib import Path

import numpy as np
import pytest

BOTH = ("simulate", "check")


def replaced(row, cell, value):
    """Change one cell; row 0 is the header."""

    def change(lines):
        cells = lines[row].split(",")
        cells[cell] = value
        return [*lines[:row], ",".join(cells), *lines[row + 1 :]]

    return change


def without_column(number):
    def change(lines):
        return [",".join(c for n, c in enumerate(line.split(",")) if n != number) for line in lines]

    return change


def one_class(lines):
    return [lines[0], *(line for line in lines[1:] if ",no," in line)]


DATA = {
    "no line at all": (lambda _lines: [], "data.csv is empty"),
    "a header only": (lambda lines: lines[:1], "has a header and no records"),
    "text in a column of numbers": (replaced(7, 0, "old"), 'line 8: column "age" holds text'),
    "an empty cell": (replaced(7, 1, ""), 'line 8: column "marker" is empty, NaN or infinite'),
    "NaN": (replaced(7, 1, "NaN"), 'line 8: column "marker" is empty, NaN or infinite'),
    "infinity": (replaced(7, 1, "inf"), 'line 8: column "marker" is empty, NaN or infinite'),
    "minus infinity": (replaced(7, 1, "-Infinity"), 'line 8: column "marker" is empty, NaN'),
    "a number beyond all": (replaced(7, 1, "1e999"), 'line 8: column "marker" is empty, NaN'),
    "a value beyond its bounds": (replaced(7, 0, "1890"), r"lies beyond its bounds \[0, 100\]"),
    "no column of the label": (without_column(2), 'there is no column "ill", as data.label asks'),
    "no column of a feature": (without_column(0), 'no column "age", as data.features asks'),
    "a misspelt column": (replaced(0, 0, "aeg"), 'no column "age"'),
    "an unknown class": (replaced(7, 2, "perhaps"), "holds a class that the study does not name"),
    "an empty label": (replaced(7, 2, ""), 'column "ill" is empty'),
    "one class only": (one_class, "holds one class only"),
    "a row that is too short": (lambda ls: [*ls[:5], "50,1.0", *ls[5:]], "line 6: expected 4 cells"),
    "a row that is too long": (lambda ls: [*ls[:5], "5,1,no,1,7", *ls[5:]], "line 6: expected 4 cells"),
    "two columns of one name": (replaced(0, 1, "age"), "have the same name"),
    "a column without a name": (replaced(0, 3, ""), "column 4 has no name"),
    "semicolons": (lambda ls: [line.replace(",", ";") for line in ls], "semicolons or tabs"),
    "a quote that does not end": (replaced(7, 2, '"no'), "a quoted cell does not end"),
    "fewer records than sites": (lambda lines: lines[:3], "xpected at least one unit|for testing|one class"),
}  # fmt: skip

FILES = {
    "a binary file": ("data.csv", bytes(range(256)) * 20, "is not UTF-8 text"),
    "an image": ("data.csv", b"\x89PNG\r\n\x1a\n" + bytes(200), "is not UTF-8 text"),
    "zeros": ("data.csv", bytes(500), "."),
    "another suffix": ("data.xlsx", b"PK\x03\x04", "is not of a kind that can be read"),
    "no suffix": ("data", b"age,ill\n", "is not of a kind that can be read"),
    "an npz that is none": ("data.npz", b"age,ill\n1,no\n", r"is not an .npz file"),
    "a parquet file that is none": ("data.parquet", b"age,ill\n1,no\n", "is not a Parquet file"),
    "an empty file": ("data.csv", b"", "data.csv is empty"),
    "blank lines": ("data.csv", b"\n\n\n", "data.csv is empty"),
}

STUDIES = {
    "epsilon of zero": (
        {}, lambda t: t.replace("noise_multiplier = 1.0", "epsilon = 0.0"),
        r"study.toml, line \d+: privacy.epsilon: expected a number above 0",
    ),
    "a negative epsilon": (
        {}, lambda t: t.replace("noise_multiplier = 1.0", "epsilon = -3"), "privacy.epsilon",
    ),
    "an infinite epsilon": (
        {}, lambda t: t.replace("noise_multiplier = 1.0", "epsilon = inf"), "privacy.epsilon",
    ),
    "epsilon and a noise multiplier": (
        {}, lambda t: t.replace("noise_multiplier = 1.0", "noise_multiplier = 1.0\nepsilon = 1"),
        "exactly one of epsilon and noise_multiplier",
    ),
    "delta of one": (
        {}, lambda t: t.replace("delta = 1e-05", "delta = 1"),
        r"line \d+: privacy.delta: expected a number above 0 and below 1, found 1",
    ),
    "delta of zero": ({}, lambda t: t.replace("delta = 1e-05", "delta = 0"), "privacy.delta"),
    "more dropouts than sites allow": (
        {}, lambda t: t.replace("max_dropouts = 0", "max_dropouts = 3"),
        r"line \d+: privacy.max_dropouts: expected fewer than sites.minimum = 3, found 3",
    ),
    "more dropouts than an aggregate allows": (
        {}, lambda t: t.replace("max_dropouts = 0", "max_dropouts = 1").replace('"local"', '"aggregate"'),
        "expected at least 4, more than max_colluding",
    ),
    "an unknown setting": (
        {}, lambda t: t.replace("learning_rate =", "learningrate ="), "training.learningrate",
    ),
    "an unknown section": ({}, lambda t: t.replace("[sites]", "[site]"), "site"),
    "no rounds": ({}, lambda t: t.replace("rounds = 3\n", "", 1), "training.rounds"),
    "zero rounds": ({}, lambda t: t.replace("rounds = 3\n", "rounds = 0\n", 1), "training.rounds"),
    "a model of another task": (
        {}, lambda t: t.replace('kind = "logistic"', 'kind = "linear"'), "model.kind",
    ),
    "a cnn without an image": (
        {}, lambda t: t.replace('kind = "logistic"', 'kind = "cnn"'), "model.kind: expected a square",
    ),
    "noise that nothing can give": (
        {}, lambda t: t.replace("noise_multiplier = 1.0", "epsilon = 1e-10"), "No noise multiplier between",
    ),
    "bounds the wrong way round": (
        {}, lambda t: t.replace("[0.0, 100.0]", "[100.0, 0.0]"), r'data.bounds."age"',
    ),
    "bounds of a column that is not there": (
        {}, lambda t: t.replace('"age" = [', '"aeg" = ['), r'data.bounds."aeg"|bounds for "age"',
    ),
    "a feature without bounds": (
        {}, lambda t: t.replace('"age" = [0.0, 100.0]\n', ""), 'gives no public bounds for "age"',
    ),
    "a regression without bounds of the label": (
        {}, lambda t: t.replace('"classification"', '"regression"').replace('classes = ["no", "yes"]\n', "")
        .replace('"logistic"', '"linear"'), "data.label_bounds",
    ),
    "one class": ({}, lambda t: t.replace('["no", "yes"]', '["no"]'), "at least two classes"),
    "another format": ({}, lambda t: t.replace("format = 1", "format = 2"), "format = 1"),
    "no toml": ({}, lambda _t: "age,ill\n1,no\n", "study.toml is not TOML"),
    "nothing in it": ({}, lambda _t: "", "format"),
    "a unit that is not there": (
        {"data": {"unit": "patient"}}, lambda t: t, 'no column "patient", as data.unit asks',
    ),
    "more records than a site may have": (
        {"sites": {"maximum_records": 2}}, lambda t: t, "at most 2 training units",
    ),
}  # fmt: skip

OPTIONS = {
    "--sites": (["--sites", "1"], "Expected at least sites.minimum = 3 sites, found 1"),
    "more sites than records": (["--sites", "61"], "at least one unit for each of 61 sites"),
    "--drop beyond one": (["--drop", "2"], "--drop: expected a rate"),
    "--drop of one": (["--drop", "1"], "--drop: expected a rate"),
    "--drop below zero": (["--drop", "-0.5"], "--drop: expected a rate"),
    "--drop of nothing": (["--drop", "nan"], "--drop: expected a rate"),
    "--partition": (["--partition", "nonsense"], "Expected a partition of the form iid, dirichlet"),
    "--partition without a number": (["--partition", "dirichlet:"], "Expected a number ALPHA"),
    "--partition by nothing": (["--partition", "column:ward"], 'no column "ward"'),
    "--partition into other sites": (
        ["--partition", "column:hospital", "--sites", "4"], "as many sites as column",
    ),
    "--data": (["--data", "missing.csv"], "There is no file missing.csv"),
    "a directory as --data": (["--data", "."], "is a directory, not a data set"),
}  # fmt: skip


def assert_explained(result, message, before):
    """Exit code 2; one sentence, and a hint unless the sentence itself says what is expected; nothing is written."""
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert lines[0].startswith("Error: "), result.stderr
    if len(lines) == 1:
        assert "expected " in lines[0].lower(), "the fix is missing"
    else:
        assert len(lines) == 2, result.stderr
        assert re.match(r"Hint: \S", lines[1])
    assert re.search(message, lines[0]), lines[0]
    assert {each.name for each in Path().iterdir()} == before


def arguments_of(command, data=None):
    given = [] if data is None else ["--data", data]
    if command == "simulate":
        return ["simulate", "study.toml", "--out", "out", *given]
    return ["study", "check", "study.toml", *given]


@pytest.mark.parametrize("command", BOTH)
@pytest.mark.parametrize("kind", DATA)
def test_records_that_cannot_be_used(call, write_study, write_data, command, kind):
    change, message = DATA[kind]
    write_study()
    write_data(change)
    before = {"study.toml", "data.csv"}
    assert_explained(call(*arguments_of(command, "data.csv")), message, before)


@pytest.mark.parametrize("command", BOTH)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_table(call, place, write_study, command, kind):
    name, content, message = FILES[kind]
    write_study()
    (place / name).write_bytes(content)
    result = call(*arguments_of(command, name))
    assert_explained(result, message, {"study.toml", name})


@pytest.mark.parametrize("command", BOTH)
@pytest.mark.parametrize("data", ["missing.csv", ".", "no/such/place.csv"])
def test_records_that_are_not_there(call, place, write_study, command, data):
    write_study()
    result = call(*arguments_of(command, data))
    assert_explained(result, "There is no file|is a directory", {"study.toml"})


@pytest.mark.parametrize("command", BOTH)
@pytest.mark.parametrize("kind", STUDIES)
def test_a_study_that_cannot_be_run(call, write_study, write_data, command, kind):
    sections, change, message = STUDIES[kind]
    write_study(change, **sections)
    write_data()
    before = {"study.toml", "data.csv"}
    result = call(*arguments_of(command, "data.csv"))
    if command == "check" and kind == "more records than a site may have":
        assert result.exit_code == 0  # who holds what is known to a simulation alone
    else:
        assert_explained(result, message, before)


@pytest.mark.parametrize("command", [["simulate", "none.toml", "--out", "out"], ["study", "check", "none.toml"],
                                     ["study", "show", "none.toml"], ["study", "freeze", "none.toml"]])  # fmt: skip
def test_a_study_that_is_not_there(call, place, command):
    assert_explained(call(*command), "There is no file none.toml", set())


@pytest.mark.parametrize("command", ["simulate", "check", "show"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00\x01"])
def test_a_study_that_is_no_text(call, place, command, content):
    if content is None:
        (place / "study.toml").mkdir()
    else:
        (place / "study.toml").write_bytes(content)
    arguments = arguments_of(command) if command != "show" else ["study", "show", "study.toml"]
    assert_explained(call(*arguments), "study.toml cannot be read", {"study.toml"})


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_that_do_not_fit(call, place, write_study, write_data, kind):
    options, message = OPTIONS[kind]
    write_study()
    given = options if "--data" in options else [*options, "--data", write_data()]
    before = {each.name for each in place.iterdir()}
    result = call("simulate", "study.toml", "--out", "out", *given)
    assert_explained(result, message, before)


@pytest.mark.parametrize("trust", ["aggregate", "server"])
def test_a_trust_for_which_there_are_too_few_sites(call, place, write_study, write_data, trust):
    """The study tolerates two missing sites; alone with trust `local` three sites are enough for that."""
    write_study(privacy={"max_dropouts": 1})
    write_data()
    result = call("simulate", "study.toml", "--out", "out", "--data", "data.csv", "--trust", trust)
    assert_explained(result, "expected at least 4", {"study.toml", "data.csv"})


def test_a_trust_that_needs_a_budget_where_there_is_none(call, place, write_study, write_data):
    write_study(privacy={"trust": "unsafe", "noise_multiplier": None})
    write_data()
    result = call(
        "simulate", "study.toml", "--out", "out", "--data", "data.csv", "--trust", "local"
    )
    assert_explained(result, "no privacy budget", {"study.toml", "data.csv"})


def test_no_records_at_all(call, place, write_study):
    write_study()
    result = call("simulate", "study.toml", "--out", "out")
    assert_explained(result, "names no built-in data set", {"study.toml"})


def test_a_built_in_set_that_does_not_exist(call, place, write_study):
    write_study(data={"source": "brest_cancer"})
    result = call("simulate", "study.toml", "--out", "out")
    assert_explained(result, 'no built-in data set "brest_cancer"', {"study.toml"})
    assert 'did you mean "breast_cancer"?' in result.stderr


@pytest.mark.parametrize(
    "kind", ["text in a column of numbers", "an unknown class", "a value beyond its bounds"]
)
def test_a_message_never_shows_what_a_cell_holds(call, write_study, write_data, kind):
    secret = ["old", "perhaps", "1890"]
    write_study()
    write_data(DATA[kind][0])
    result = call("study", "check", "study.toml", "--data", "data.csv")
    assert not any(each in result.stderr.split() for each in secret)


def test_an_array_file_is_held_to_the_same_rules(call, place, write_study):
    write_study()
    labels = np.array(["no", "yes"] * 30)
    np.savez(place / "data.npz", age=np.full(60, np.nan), marker=np.zeros(60), ill=labels)
    result = call(*arguments_of("simulate", "data.npz"))
    assert_explained(result, 'column "age" is empty, NaN', {"study.toml", "data.npz"})


def test_a_template_that_does_not_exist(call, place):
    result = call("study", "init", "x.toml", "--template", "brest-cancer")
    assert_explained(result, "no template 'brest-cancer'", set())
    assert "did you mean breast-cancer?" in result.stderr
