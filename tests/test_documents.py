"""What the documents say exists: links, commands, options, targets, settings, files of a release."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main

from client.directory import SECTIONS as SITE_SECTIONS
from client.policy import SECTIONS as POLICY_SECTIONS
from client.policy import Policy, parse_policy, policy_to_values
from discreet.main import app
from server.directory import SECTIONS as COORDINATOR_SECTIONS
from server.release import write_release
from server.report import FILES
from study.parsing import SECTIONS, parse_study
from study.settings import settings_of
from study.settings_file import toml_value
from study.templates import TEMPLATES, template_text

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [each.relative_to(ROOT).as_posix() for each in DOCUMENTS]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`\n]+)`")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def prose_of(name):
    return FENCE.sub("", text_of(name))


def blocks_of(name):
    """Lines of fenced code, where a backslash goes on, without what stands behind a #."""
    for _, block in FENCE.findall(text_of(name)):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.split(" #")[0].strip().removeprefix("$ ")


def written_in(name, first):
    """Command lines that start with `first`, in fenced code and in `code`."""
    lines = [*blocks_of(name), *INLINE.findall(prose_of(name))]
    return [line for line in lines if re.match(rf"(\S*/)?{first} \S", line)]


def anchors_of(path):
    """GitHub's names of headings."""
    headings = re.findall(r"^#+\s+(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name):
    for link in LINK.findall(prose_of(name)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        assert path.is_relative_to(ROOT), link
        assert path.exists(), link
        if anchor:
            assert anchor in anchors_of(path), link


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_is_named_in_prose_exists(name):
    """`study/plans.py`, `docs/design.md`, `examples/house-prices.toml`: a path with one of our directories in front."""
    ours = {each.name for each in ROOT.iterdir() if each.is_dir() and not each.name.startswith(".")}
    for code in INLINE.findall(prose_of(name)):
        if re.fullmatch(r"[\w\-]+(/[\w\-.]+)+\.(py|md|toml|css|template)", code):
            place = ROOT / code
            assert code.partition("/")[0] not in ours or place.exists(), code


def arguments_of(line):
    words = shlex.split(line)
    for stop in ("|", ">", "&&", ";", "2>"):
        words = words[: words.index(stop)] if stop in words else words
    return words[1:]


def check_command(words):
    """Raise AssertionError unless the words are a command of ours with options that it has."""
    command = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        if rest and rest[0] in ("--version", "--help"):
            return
        assert rest, "a sub-command is missing"
        name = rest.pop(0)
        if "|" in name:  # `discreet study init|check`: each of them
            for each in name.split("|"):
                assert each in command.commands, each
            return
        assert name in command.commands, name
        command = command.commands[name]
    options = {option: each for each in command.params for option in each.opts if option[0] == "-"}
    positional = [each for each in command.params if each.opts and each.opts[0][0] != "-"]
    values = []
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            assert name in options or name == "--help", name
            if name in options and not getattr(options[name], "is_flag", False):
                given = value if equals else rest.pop(0)
                check_value(options[name], given)
        else:
            values.append(word)
    assert len(values) <= len(positional), values


def check_value(option, value):
    if not re.fullmatch(r"[A-Z][A-Z:.a-z]*", value):  # a placeholder, such as DIR or FILE.csv
        option.type.convert(value, option, None)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_line_has_sub_commands_options_and_values_that_exist(name):
    for line in written_in(name, "discreet"):
        check_command(arguments_of(line))


def test_the_readme_shows_the_commands_that_a_newcomer_needs():
    lines = {" ".join(arguments_of(line)[:2]) for line in written_in("README.md", "discreet")}
    assert {"study init", "study check", "study show"} <= lines
    assert any(each.startswith("simulate") for each in lines)


@pytest.mark.parametrize(
    "line",
    [
        "discreet simualte study.toml --out x", "discreet simulate study.toml --outt x", "discreet",
        "discreet study", "discreet study freez x", "discreet simulate a b --out x", "discreet study init --json x y",
        "discreet simulate x --out y --trust everybody", "discreet simulate x --out y --sites many",
    ],
)  # fmt: skip
def test_a_wrong_command_line_would_be_found(line):
    with pytest.raises(Exception, match="."):  # click's or an assertion's
        check_command(arguments_of(line))


def targets():
    return set(re.findall(r"^([a-z][a-z-]*):", text_of("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_every_target_of_make_exists(name):
    for line in written_in(name, "make"):
        for word in arguments_of(line):
            assert word in targets() or "=" in word or word.startswith("-"), line


def test_the_makefile_has_the_targets_of_the_project_and_explains_each():
    assert targets() >= {"demo", "test", "lint", "bench", "docs", "clean"}
    explained = set(re.findall(r"^([a-z-]+):.*##", text_of("Makefile"), re.MULTILINE))
    assert explained == targets()
    phony = re.search(r"^\.PHONY: (.*)$", text_of("Makefile"), re.MULTILINE)[1].split()
    assert set(phony) == targets()


def test_what_the_makefile_and_ci_run_exists():
    text = text_of("Makefile")
    for script in re.findall(r"\b((?:benchmarks|tests)/[\w/]+\.py)\b", text):
        assert (ROOT / script).is_file(), script
    assert "make test" in text_of(".ci/run")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    for line in text.splitlines():
        if "$(BIN)/discreet" in line:
            check_command(arguments_of(line.partition("$(BIN)/")[2]))


PLACES = [
    (name, owner)
    for sections in (COORDINATOR_SECTIONS, SITE_SECTIONS)
    for name, owner in sections.items()
]
ALL_SECTIONS = SECTIONS | POLICY_SECTIONS | dict(PLACES)
POLICY_SETTINGS = {
    f"{section}.{name}" for section, owner in POLICY_SECTIONS.items() for name in settings_of(owner)
}
SETTINGS = {
    f"{section}.{name}" for section, owner in SECTIONS.items() for name in settings_of(owner)
} | {"data.bounds", *POLICY_SETTINGS}
SETTINGS |= {f"{section}.{name}" for section, owner in PLACES for name in settings_of(owner)}
DEPLOYED = {"invitation.json", "sites.json"}
"""Files of a coordinator's directory (`server/directory.py`)."""


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_that_is_named_with_its_section_exists(name):
    for code in INLINE.findall(prose_of(name)):
        match = re.fullmatch(rf"\[?({'|'.join(ALL_SECTIONS)})\.(\w+)\]?(?: = .*)?", code)
        if match and match[2] not in ("py", "toml") and code not in {*FILES, *DEPLOYED}:
            assert f"{match[1]}.{match[2]}" in SETTINGS, code


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_with_a_value_exists_and_takes_it(name):
    """`beyond_bounds = "clamp"` in prose, and every line of TOML in fenced code."""
    short = {each.partition(".")[2] for each in SETTINGS}
    for code in INLINE.findall(prose_of(name)):
        match = re.fullmatch(r"(\w+) = (.+)", code)
        if match:
            assert match[1] in short, code
            tomllib.loads(code)
    for language, block in FENCE.findall(text_of(name)):
        if language == "toml":
            document = tomllib.loads(block)
            for section, values in document.items():
                if isinstance(values, dict):
                    assert section in ALL_SECTIONS, section
                    for key in values:
                        assert f"{section}.{key}" in SETTINGS, f"{section}.{key}"
            if "format" in document:
                (parse_study if "study" in document else parse_policy)(block)


def test_the_document_on_policies_has_every_rule_with_its_default():
    rows = re.findall(
        r"^\| `(\w+)\.(\w+)` \| (.+?) \| (.+) \|$", text_of("docs/policy.md"), re.MULTILINE
    )
    assert [f"{section}.{name}" for section, name, _, _ in rows] == [
        f"{section}.{name}" for section, owner in POLICY_SECTIONS.items() for name in settings_of(owner)
    ]  # fmt: skip
    defaults = policy_to_values(Policy())
    for section, name, default, _ in rows:
        value = defaults[section].get(name)
        assert default == ("any" if value is None else f"`{toml_value(value)}`"), name


def test_every_figure_of_the_summary_that_the_readme_names_exists():
    known = {"epsilon", "epsilon_against_server", "masked", "metrics", "delta", "noise_multiplier"}
    readme = text_of("README.md")
    assert "summary.json" in readme
    for each in ("epsilon_against_server", "masked"):
        assert each in known
        assert each in readme


def test_every_file_of_a_release_that_is_named_is_written():
    for name in NAMES:
        for code in INLINE.findall(prose_of(name)):
            if re.fullmatch(r"[\w]+\.(json|jsonl|safetensors|html)", code):
                assert code in FILES or code in DEPLOYED, (name, code)
    assert write_release.__doc__


def test_examples_are_what_their_templates_write():
    """So that nobody learns from an example what `discreet study init` no longer says."""
    for name in TEMPLATES:
        assert text_of(f"examples/{name}.toml") == template_text(name), name


def test_a_study_with_the_names_of_the_contract_is_read():
    """Names that commands, reports and scripts rely on, all of them in one file."""
    study = parse_study(
        """
        format = 1
        [study]
        name = "breast-cancer-diagnosis"
        purpose = "Tell malignant from benign masses from digitised images of cell nuclei"
        version = 1
        [data]
        source = "breast_cancer"
        task = "classification"
        label = "diagnosis"
        classes = ["benign", "malignant"]
        features = "all"
        expected_records = 426
        test_fraction = 0.25
        split_key = "1"
        unit = "patient_id"
        sites_per_unit = 1
        [data.bounds]
        default = [0.0, 1.0]
        "mean radius" = [0.0, 40.0]
        [model]
        kind = "mlp"
        hidden = [64, 64]
        activation = "relu"
        [training]
        algorithm = "dp-fedsgd"
        rounds = 60
        spare_rounds = 2
        sampling_rate = 1.0
        optimizer = "adam"
        learning_rate = "auto"
        average = "last-half"
        schedule = "constant"
        stop_below = 0.1
        [privacy]
        trust = "aggregate"
        epsilon = 3.0
        delta = 1e-5
        clipping = "flat"
        clipping_norm = 1.0
        max_colluding = 1
        max_dropouts = 1
        [sites]
        minimum = 4
        """
    )
    assert (study.name, study.training.spare_rounds, study.sites.minimum) == (
        "breast-cancer-diagnosis", 2, 4,
    )  # fmt: skip


def test_the_other_algorithm_takes_the_contracts_names_too():
    text = template_text("breast-cancer").replace(
        "# local_steps =", 'algorithm = "dp-fedavg"\noptimizer = "sgd"\nlearning_rate = 1.0\nlocal_steps = 10'
    )  # fmt: skip
    study = parse_study(text.replace("# local_learning_rate =", "local_learning_rate = 0.1"))
    assert (study.training.local_steps, study.training.local_learning_rate) == (10, 0.1)


def test_the_changelog_has_the_form_that_it_claims():
    text = text_of("CHANGELOG.md")
    assert "## [Unreleased]" in text
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert set(headings) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Known limits", "Wrong guarantees",
    }  # fmt: skip
