"""`discreet policy` writes, checks and compares; every mistake is one sentence, and exit codes can be relied on."""

import json
import re

import pytest

from client.policy import SECTIONS, Policy, parse_policy, policy_text, policy_to_values
from study.rules import Rule
from study.settings import settings_of

LOOSE = """\
format = 1
[studies]
purpose = false
[ceilings]
epsilon = 50
epsilon_against_server = 50
"""


@pytest.fixture
def write_policy(place):
    """Write policy.toml: the policy that the small study meets, with further text."""

    def write(more="", text=LOOSE):
        (place / "policy.toml").write_text(text + more, encoding="utf-8")
        return "policy.toml"

    return write


def error_of(result, code=2):
    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    line, *hint = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert len(hint) <= 1
    return result.stderr


@pytest.mark.usefixtures("place")
class TestInit:
    def test_it_writes_every_rule_explained(self, call, place):
        result = call("policy", "init")
        assert (result.exit_code, result.stdout) == (0, "")
        text = (place / "policy.toml").read_text(encoding="utf-8")
        assert text == policy_text(Policy())
        for section, owner in SECTIONS.items():
            assert re.search(rf"^\[{section}\]", text, re.MULTILINE)
            for each in settings_of(owner):
                assert re.search(rf"^# \S.*\.\n# {each} =", text, re.MULTILINE), each

    def test_what_it_writes_is_sound(self, call):
        call("policy", "init", "ward.toml")
        assert call("policy", "check", "ward.toml").exit_code == 0

    def test_it_replaces_nothing_unless_forced(self, call, place):
        (place / "policy.toml").write_text("mine")
        assert "policy.toml exists" in error_of(call("policy", "init"))
        assert (place / "policy.toml").read_text() == "mine"

    @pytest.mark.parametrize("text", [LOOSE, ""])
    def test_forced_it_replaces_a_policy_or_an_empty_file(self, call, place, text):
        (place / "policy.toml").write_text(text)
        assert call("policy", "init", "--force").exit_code == 0
        assert parse_policy((place / "policy.toml").read_text()) == Policy()

    @pytest.mark.parametrize(
        "content", [b"mine", b"SQLite format 3\0", b"-----BEGIN PRIVATE KEY-----"]
    )
    def test_forced_it_replaces_no_other_file(self, call, place, content):
        (place / "site.key").write_bytes(content)
        assert "is not a policy" in error_of(call("policy", "init", "site.key", "--force"))
        assert (place / "site.key").read_bytes() == content

    def test_json_names_the_file(self, call):
        result = call("policy", "init", "ward.toml", "--json")
        assert json.loads(result.stdout) == {"file": "ward.toml"}

    def test_a_place_that_is_not_there_is_said(self, call):
        assert "no/policy.toml" in error_of(call("policy", "init", "no/policy.toml"))


@pytest.mark.usefixtures("place")
class TestCheck:
    def test_a_sound_policy_is_0(self, call, write_policy):
        result = call("policy", "check", write_policy())
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == "policy.toml is sound.\n"

    def test_json_has_every_setting(self, call, write_policy):
        values = json.loads(call("policy", "check", write_policy(), "--json").stdout)
        assert values == policy_to_values(parse_policy(LOOSE)) | {"sound": True}

    @pytest.mark.parametrize("json_", [[], ["--json"]])
    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ("rounds = 0", r"policy.toml, line 7: ceilings.rounds: expected a whole number of at least 1"),
            ("round = 1", r"policy.toml, line 7: ceilings.round: expected one of"),
            ("rounds = 2,5", r"policy.toml is not TOML"),
            ("epsilon = 1", r"policy.toml is not TOML"),
            ("[cellings]", r"policy.toml, line 7: cellings: expected one of"),
            (f"rounds = {'9' * 5000}", r"policy.toml is not TOML"),
        ],
    )  # fmt: skip
    def test_a_mistake_is_2_with_its_line(self, call, write_policy, more, message, json_):
        assert re.search(message, error_of(call("policy", "check", write_policy(more), *json_)))

    def test_a_policy_that_is_not_there_is_2_and_says_how_to_write_one(self, call):
        assert "discreet policy init nowhere.toml" in error_of(
            call("policy", "check", "nowhere.toml")
        )

    def test_sites_without_a_study_are_wrong_use(self, call, write_policy):
        assert "--study" in error_of(call("policy", "check", write_policy(), "--sites", 3))


@pytest.mark.usefixtures("place")
class TestAgainstAStudy:
    def check(self, call, *options):
        return call("policy", "check", "policy.toml", "--study", "study.toml", *options)

    def test_a_study_that_fits_is_0_and_every_rule_is_shown(self, call, write_policy, write_study):
        write_policy()
        write_study()
        result = self.check(call)
        assert result.exit_code == 0
        assert result.stderr == "policy.toml allows study.toml.\n"
        assert "BREAKS" not in result.stdout
        assert re.search(r"floors.sites +meets: expected at least 3, found 3", result.stdout)
        assert re.search(r"ceilings.dimension +meets: expected at most 1,000,000", result.stdout)

    def test_a_study_that_breaks_a_rule_is_1_and_the_rule_is_named(
        self, call, write_policy, write_study
    ):
        write_policy("[floors]\nsites = 4\n")
        write_study()
        result = self.check(call)
        assert result.exit_code == 1
        assert result.stderr == "policy.toml does not allow study.toml.\n"
        assert re.search(r"floors.sites +BREAKS: expected at least 4, found 3", result.stdout)
        assert result.stdout.count("BREAKS") == 1

    def test_more_sites_may_mend_it(self, call, write_policy, write_study):
        write_policy("[floors]\nsites = 4\n")
        write_study()
        assert self.check(call, "--sites", 4).exit_code == 0

    @pytest.mark.parametrize(("sites", "code"), [(3, 1), (4, 0)])
    def test_json_says_the_same_to_a_script(self, call, write_policy, write_study, sites, code):
        write_policy("[floors]\nsites = 4\n")
        write_study()
        result = self.check(call, "--sites", sites, "--json")
        found = json.loads(result.stdout)
        assert result.exit_code == code
        assert (found["study"], found["sites"], found["allowed"]) == ("patients", sites, code == 0)
        rules = {Rule(each["rule"]): each for each in found["rules"]}
        broken = {rule for rule, each in rules.items() if not each["holds"]}
        assert broken == ({Rule.SITES} if code else set())
        assert rules[Rule.SITES]["expected"] == "at least 4"
        assert rules[Rule.SITES]["found"] == str(sites)

    def test_a_built_in_set_brings_its_columns(self, call):
        call("policy", "init")
        call("study", "init", "study.toml")
        assert self.check(call).exit_code == 0

    def test_columns_that_are_not_known_are_2_with_the_way_to_name_them(
        self, call, write_policy, write_study
    ):
        write_policy()
        write_study(data={"features": "all"})
        assert "discreet study freeze" in error_of(self.check(call))

    @pytest.mark.parametrize("study", ["format = 1\n", "", "[study"])
    def test_a_study_that_is_none_is_2(self, call, place, write_policy, study):
        write_policy()
        (place / "study.toml").write_text(study)
        assert "study.toml" in error_of(self.check(call))

    def test_fewer_sites_than_the_study_takes_are_2(self, call, write_policy, write_study):
        write_policy()
        write_study()
        assert "at least sites.minimum = 3" in error_of(self.check(call, "--sites", 2))


@pytest.mark.usefixtures("place")
class TestSimulate:
    @pytest.fixture
    def simulate(self, call, write_study, write_data):
        study, data = write_study(), write_data()
        return lambda *options: call(
            "simulate", study, "--out", "out", "--data", data, "--policy", "policy.toml", *options
        )

    def test_a_policy_that_allows_the_study_lets_it_run(self, simulate, write_policy):
        write_policy()
        result = simulate("--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["refusals"] == {}

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ("rounds = 2\n", "ceilings.rounds: expected at most 2, found 3"),
            ('[columns]\nfeatures = ["age"]\n', 'columns.features: expected .*found "marker"'),
            ("[floors]\nunits = 21\n", r"site-\d: expected at least 21 units, found 20"),
            ("[floors]\nunits = x\n", "policy.toml is not TOML"),
        ],
    )
    def test_one_that_does_not_is_2_before_anything_runs(
        self, simulate, write_policy, place, more, message
    ):
        write_policy(more)
        before = set(place.iterdir())
        assert re.search(message, error_of(simulate()))
        assert set(place.iterdir()) == before

    def test_without_privacy_nothing_is_allowed(self, simulate, write_policy):
        write_policy()
        assert "studies.trust" in error_of(simulate("--trust", "unsafe"))

    def test_a_policy_that_is_not_there_is_2(self, simulate):
        assert "There is no file policy.toml" in error_of(simulate())
