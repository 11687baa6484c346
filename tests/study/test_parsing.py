"""A study is sound or it is refused, with the line, what was expected and what was found."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import StudyError
from study.canonical import canonical_json, parse_canonical
from study.parsing import parse_study, read_study, study_from_values, study_to_values
from study.templates import TEMPLATES, template_study, template_text

EXAMPLES = Path(__file__).parents[2] / "examples"

STUDY = """\
format = 1
[study]
name = "example"
[data]
task = "classification"
label = "diagnosis"
classes = ["benign", "malignant"]
expected_records = 426
[data.bounds]
default = [0.0, 1.0]
"mean radius" = [0.0, 40.0]
[model]
kind = "logistic"
[training]
rounds = 60
[privacy]
trust = "aggregate"
epsilon = 3.0
max_dropouts = 1
[sites]
minimum = 4
"""


def test_a_study_is_read_with_every_default():
    study = parse_study(STUDY)
    assert study.privacy.delta == 1e-5
    assert study.data.bounds_of("mean radius") == (0.0, 40.0)
    assert study.data.bounds_of("anything else") == (0.0, 1.0)
    assert study.numbers == "float64"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epsilon = 3.0", "epsilon = 0", r"line 18: privacy.epsilon: expected a number above 0 .*found 0"),
        ("epsilon = 3.0", "epsilon = 3\ndelta = 1", r"line 19: privacy.delta: expected a number above 0 and below 1, found 1"),
        ("epsilon = 3.0", "epsilon = 3\ndelta = 0.01", r"line 19: privacy.delta: expected less than 1 / 426, .*found 0.01"),
        ("epsilon = 3.0", "epsilon = 3\nnoise_multiplier = 1", r"line 16: privacy: expected exactly one of"),
        ("epsilon = 3.0", "", r"privacy: expected exactly one of epsilon and noise_multiplier, found nothing"),
        ("max_dropouts = 1", "max_dropouts = 2", r"line 21: sites.minimum: expected at least 6, .*found 4"),
        ("epsilon = 3.0", "epsilon = nan", r"privacy.epsilon: expected a number"),
        ("epsilon = 3.0", 'epsilon = "3"', r'privacy.epsilon: expected a number .*found "3"'),
        ("epsilon = 3.0", "epsilon = true", r"privacy.epsilon: expected a number .*found true"),
        ("rounds = 60", "rounds = 0", r"line 15: training.rounds: expected a whole number of at least 1"),
        ("epsilon = 3.0", f"epsilon = {10**400}", r"privacy.epsilon: expected a number"),
        ('name = "example"', f'name = "example"\nversion = {10**20}', r"line 4: study.version: expected a whole number"),
        ("rounds = 60", "rounds = 1.5", r"training.rounds: expected a whole number"),
        ("rounds = 60", "", r"line 14: training.rounds: expected a whole number .*found nothing"),
        ("rounds = 60", "roundz = 60", r"line 15: training.roundz: expected one of .*unknown name"),
        ('label = "diagnosis"', "", r"line 4: data.label: expected text .*found nothing"),
        ('kind = "logistic"', 'kind = "linear"', r"line 13: model.kind: expected .*for a classification, found \"linear\""),
        ('kind = "logistic"', 'kind = "mlp"', r"model.hidden: expected at least one width"),
        ('kind = "logistic"', 'kind = "logistic"\nhidden = [3]', r"model.hidden: expected nothing, for logistic"),
        ('classes = ["benign", "malignant"]', "classes = []", r"line 7: data.classes: expected at least two classes"),
        ('classes = ["benign", "malignant"]', 'classes = ["a", "a"]', r"data.classes: expected every class once"),
        ('classes = ["benign", "malignant"]', 'classes = ["a", "b", "c"]', r"data.classes: expected two classes, for logistic"),
        ("default = [0.0, 1.0]", "default = [1.0, 0.0]", r"line 10: data.bounds.\"default\": expected two numbers"),
        ("default = [0.0, 1.0]", "default = 1", r"expected two numbers, the lower first"),
        ("default = [0.0, 1.0]", "default = [0.0, inf]", r"expected two numbers, the lower first"),
        ("default = [0.0, 1.0]", f"default = [0, {2**53 + 1}]", r"expected two numbers, the lower first"),
        ("format = 1", "format = 2", r"line 1: format: expected format = 1, found 2"),
        ("format = 1", "", r"format: expected format = 1, found nothing"),
        ("[model]", "[modell]", r"line 12: modell: expected one of .*unknown name"),
        ("[study]", "[study]\nname2 = 1", r"line 3: study.name2"),
        ('name = "example"', 'name = "a/b"', r"line 3: study.name: expected 1 to 64 letters"),
        ("rounds = 60", 'rounds = 60\nalgorithm = "dp-fedavg"', r"training.local_steps: expected a number, for dp-fedavg"),
        ("rounds = 60", "rounds = 60\nlocal_steps = 3", r"training.local_steps: expected nothing, for dp-fedsgd"),
        ("rounds = 60", 'rounds = 60\noptimizer = "sgd"', r"training.learning_rate: expected a number, for sgd"),
        ("rounds = 60", "rounds = 60\nsampling_rate = 1.01", r"training.sampling_rate: .*at most 1, found 1.01"),
        ("expected_records = 426", "expected_records = 426\nsites_per_unit = 2", r"data.sites_per_unit: expected 1 unless"),
        ("expected_records = 426", 'expected_records = 426\nfeatures = ["a", "a"]', r"data.features: expected every column once"),
        ("expected_records = 426", 'expected_records = 426\nfeatures = ["diagnosis"]', r"data.features: expected columns other"),
        ('trust = "aggregate"', 'trust = "unsafe"', r"privacy: expected neither epsilon nor noise_multiplier"),
        ('trust = "aggregate"', 'trust = "agregate"', r"line 17: privacy.trust: expected \"aggregate\" or"),
        ("format = 1", "format = = 1", r"is not TOML: .*line 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_what_was_expected(old, new, message):
    with pytest.raises(StudyError, match=message):
        parse_study(STUDY.replace(old, new))


def test_a_slip_of_the_pen_gets_a_suggestion():
    with pytest.raises(StudyError, match="roundz") as caught:
        parse_study(STUDY.replace("rounds = 60", "roundz = 60"))
    assert caught.value.hint == "did you mean rounds?"


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(StudyError, match="There is no file") as caught:
        read_study(tmp_path / "study.toml")
    assert "discreet study init" in caught.value.hint


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00\x01"])
def test_a_file_that_is_not_text_is_refused(tmp_path, content):
    (tmp_path / "study.toml").write_bytes(content)
    with pytest.raises(StudyError, match="cannot be read|is not TOML"):
        read_study(tmp_path / "study.toml")


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 20_000])
def test_what_the_toml_reader_cannot_take_is_refused_in_words(value):
    """A number of more digits than Python converts, and lists deeper than its stack."""
    with pytest.raises(StudyError, match="study.toml is not TOML"):
        parse_study(f"format = {value}")


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("epsilon = 0x" + "f" * 5000, r"found a value too large to show \(int\)$"),
        ("epsilon = [0x" + "f" * 5000 + "]", r"found a value too large to show \(tuple\)$"),
        ('epsilon = "' + "a" * 100_000 + '"', r'found "a{199}\.\.\.$'),
        ("a" * 100_000 + " = 1", r"privacy\.a{192}\.\.\.: expected one of"),
        (r'epsilon = "a\nb\u001b[31m\u202e"', r'found "a\\nb\\x1b\[31m\\u202e"$'),
        (r'"a\nb" = 1', r"privacy\.a\\nb: expected one of"),
    ],
)  # fmt: skip
def test_a_message_stays_on_one_line_and_short_whatever_the_file_says(new, said):
    """Messages end up in terminals and logs, and a declaration is written by somebody else."""
    with pytest.raises(StudyError, match=said) as caught:
        parse_study(STUDY.replace("epsilon = 3.0", new))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_is_sound_and_its_text_says_the_same(name):
    assert parse_study(template_text(name)) == template_study(name)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_examples_are_the_templates_as_init_writes_them(name):
    assert (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8") == template_text(name)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_study_survives_its_canonical_form(name):
    study = template_study(name)
    assert study_from_values(parse_canonical(canonical_json(study_to_values(study)))) == study


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=400)
@given(st.data())
def test_no_mutation_of_a_study_is_accepted_silently_or_crashes(data):
    """One setting replaced by anything: refused as a StudyError, or accepted and then it round-trips."""
    values = study_to_values(template_study(data.draw(st.sampled_from(sorted(TEMPLATES)))))
    section = data.draw(st.sampled_from(sorted(values)))
    if isinstance(values[section], dict) and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(values[section])) | st.text(max_size=8))
        values[section][key] = data.draw(LEAVES)
    else:
        values[section] = data.draw(LEAVES)
    try:
        study = study_from_values(values)
    except StudyError:
        return
    assert study_from_values(study_to_values(study)) == study
