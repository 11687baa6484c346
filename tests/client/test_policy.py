"""A policy is sound or refused with its line; each rule allows what is at its bound and refuses what is just beyond."""

import dataclasses
import math
import tomllib
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.policy import (
    SECTIONS,
    Ceilings,
    Columns,
    Floors,
    Policy,
    PolicyError,
    PolicyFile,
    Studies,
    parse_policy,
    policy_from_values,
    policy_text,
    policy_to_values,
    read_policy,
)
from privacy.errors import DataError, DiscreetError
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.rules import Rule
from study.settings import ImpossibleSettingError, settings_of

AVERAGING = {
    "algorithm": "dp-fedavg", "local_steps": 2, "local_learning_rate": 0.5, "learning_rate": 1.0, "optimizer": "sgd",
}  # fmt: skip
SHARED = {"trust": "aggregate", "max_dropouts": 1, "max_colluding": 2}
ANYTHING = Policy(
    studies=Studies(trust=("local", "aggregate", "server"), purpose=False),
    floors=Floors(sites=1, survivors=1, shares=1, units=0),
    ceilings=Ceilings(
        epsilon=1000, delta=0.5, epsilon_against_server=1000, rounds=2**53, dimension=2**53
    ),
)


def guarantee_of(*, sites=6, data=None, model=None, training=None, privacy=None, purpose="To help"):
    study = Study(
        name="example",
        purpose=purpose,
        data=Data(
            **{
                "task": "classification", "label": "ill", "classes": ("no", "yes"), "expected_records": 40,
                "features": ("age", "height"), "bounds": {"default": (0.0, 10.0)}, "test_fraction": 0.0,
            } | (data or {})
        ),
        model=Model(**{"kind": "logistic"} | (model or {})),
        training=Training(**{"rounds": 4, "spare_rounds": 2} | (training or {})),
        privacy=Privacy(**{"trust": "local", "noise_multiplier": 3.0} | (privacy or {})),
        sites=Sites(minimum=5),
    )  # fmt: skip
    z = study.privacy.noise_multiplier
    return Guarantee(Declaration(study=study, sites=sites, noise_multiplier=z, nonce="0" * 32))


def policy_with(rule, value):
    """The policy that allows everything, but for one rule."""
    section, _, name = rule.partition(".")
    changed = dataclasses.replace(getattr(ANYTHING, section), **{name: value})
    return dataclasses.replace(ANYTHING, **{section: changed})


PLAIN = guarantee_of()
AGGREGATE = guarantee_of(privacy=SHARED)
STANDARD = guarantee_of(data={"scaling": "standard"}, training={"rounds": 100, "spare_rounds": 0})
BY_UNIT = guarantee_of(data={"unit": "person", "sites_per_unit": 2})
AVERAGED = guarantee_of(
    data={"unit": "person"},
    training=AVERAGING,
    privacy={"noise_multiplier": 30.0},
)
BOUNDED = guarantee_of(privacy={"noise_multiplier": 30.0})

# rule: a study, a policy at which it is allowed, and one at which it is not
BOUNDS = [
    (Rule.TRUST, PLAIN, ("local",), ("aggregate", "server")),
    (Rule.TRUST, AGGREGATE, ("aggregate",), ("local",)),
    (Rule.TASK, PLAIN, ("classification",), ("regression",)),
    (Rule.MODEL, PLAIN, ("logistic",), ("linear", "softmax", "mlp", "cnn")),
    (Rule.ALGORITHM, PLAIN, ("dp-fedsgd",), ("dp-fedavg",)),
    (Rule.ALGORITHM, AVERAGED, ("dp-fedavg",), ("dp-fedsgd",)),
    (Rule.CLAMPING, guarantee_of(data={"beyond_bounds": "clamp"}), True, False),
    (Rule.PURPOSE, guarantee_of(purpose=""), False, True),
    (Rule.PURPOSE, guarantee_of(purpose=" \n"), False, True),
    (Rule.FEATURES, PLAIN, ("weight", "height", "age"), ("age", "weight")),
    (Rule.LABEL, PLAIN, ("ill",), ("age", "height")),
    (Rule.UNIT, BY_UNIT, "person", "Person"),
    (Rule.UNIT, PLAIN, None, "person"),
    (Rule.SITES, PLAIN, 6, 7),
    (Rule.SURVIVORS, AGGREGATE, 5, 6),
    (Rule.SHARES, AGGREGATE, 3, 4),
    (Rule.COLLUDING, AGGREGATE, 2, 3),
    (Rule.NOISE, PLAIN, 3.0, math.nextafter(3.0, 4)),
    (Rule.NOISE, STANDARD, 3.0 * math.sqrt(9 / 100), 3.0),  # the sum for scaling has the least noise
    (Rule.SITES_PER_UNIT, PLAIN, 1, 2),
    (Rule.SITES_PER_UNIT, BY_UNIT, 2, 3),
    (Rule.SITES_PER_UNIT, AVERAGED, 1, 2),  # somebody at two sites is protected at each alone
    (Rule.EPSILON, PLAIN, PLAIN.epsilon, math.nextafter(PLAIN.epsilon, 0)),
    (Rule.DELTA, PLAIN, 1e-5, math.nextafter(1e-5, 0)),
    (
        Rule.EPSILON_AGAINST_SERVER, AGGREGATE, AGGREGATE.epsilon_against_server,
        math.nextafter(AGGREGATE.epsilon_against_server, 0),
    ),
    (
        Rule.EPSILON_AGAINST_SERVER, BOUNDED, BOUNDED.epsilon_against_server,
        math.nextafter(BOUNDED.epsilon_against_server, 0),
    ),
    (Rule.ROUNDS, PLAIN, 6, 5),
    (Rule.ROUNDS, STANDARD, 101, 100),
    (Rule.DIMENSION, PLAIN, 4, 3),  # two weights, a bias, the loss
]  # fmt: skip


class TestRules:
    @pytest.mark.parametrize(("rule", "guarantee", "allowed", "refused"), BOUNDS)
    def test_a_rule_allows_what_is_at_its_bound_and_refuses_what_is_beyond(
        self, rule, guarantee, allowed, refused
    ):
        policy_with(rule, allowed).require(guarantee)
        policy = policy_with(rule, refused)
        assert [each.rule for each in policy.problems(guarantee)] == [rule]
        with pytest.raises(PolicyError, match=f"does not allow example: {rule}: expected") as error:
            policy.require(guarantee)
        assert error.value.rules == (rule,)
        assert error.value.hint

    def test_every_rule_is_tried(self):
        assert {rule for rule, *_ in BOUNDS} == set(Rule)

    def test_every_setting_is_a_rule_that_is_enforced(self):
        """All but the one about records, which has no name on the wire."""
        names = [
            f"{each}.{name}" for each, owner in SECTIONS.items() for name in settings_of(owner)
        ]
        assert names == [name for name in names if name == "floors.units" or Rule(name)]
        assert set(names) - {"floors.units"} == set(Rule)

    def test_a_study_that_breaks_several_rules_is_told_all_of_them(self):
        policy = Policy(floors=Floors(sites=9, survivors=8), ceilings=Ceilings(dimension=2))
        with pytest.raises(PolicyError, match="floors.sites: expected at least 9, found 6; ") as e:
            policy.require(PLAIN)
        assert e.value.rules == (Rule.SITES, Rule.SURVIVORS, Rule.DIMENSION)

    def test_a_study_without_privacy_is_allowed_by_no_policy(self):
        unsafe = guarantee_of(privacy={"trust": "unsafe", "noise_multiplier": None})
        found = {each.rule for each in policy_with(Rule.NOISE, 1e-9).problems(unsafe)}
        assert found == {
            Rule.TRUST, Rule.NOISE, Rule.EPSILON, Rule.DELTA, Rule.EPSILON_AGAINST_SERVER,
        }  # fmt: skip
        with pytest.raises(ImpossibleSettingError, match="studies.trust: expected a list of"):
            Studies(trust=("local", "unsafe"))

    def test_trust_in_the_server_has_to_be_named_and_then_it_may_see_everything(self):
        by_server = guarantee_of(privacy={"trust": "server"})
        assert by_server.epsilon_against_server is None
        assert [each.rule for each in Policy().problems(by_server)] == [Rule.TRUST]
        ANYTHING.require(by_server)

    def test_a_bound_that_does_not_exist_is_no_small_one(self):
        """So little noise that half of it, which a single record has, proves no epsilon."""
        thin = guarantee_of(training=AVERAGING, privacy={"noise_multiplier": 0.4})
        object.__setattr__(thin, "epsilon_of_a_record", None)
        for rule in (Rule.EPSILON, Rule.EPSILON_AGAINST_SERVER):
            found = {each.rule: each.found for each in policy_with(rule, 8.0).problems(thin)}
            assert found[rule] == "no bound"

    def test_shares_and_colluders_count_only_where_noise_comes_in_shares(self):
        policy = Policy(floors=Floors(shares=9, colluding=9))
        policy.require(guarantee_of())
        found = {each.rule for each in policy.problems(AGGREGATE)}
        assert found >= {Rule.SHARES, Rule.COLLUDING}

    def test_where_the_unit_is_the_whole_site_any_column_of_it_is_protected(self):
        policy_with(Rule.UNIT, "patient").require(AVERAGED)

    def test_columns_beyond_the_list_are_named_but_not_all_of_them(self):
        many = guarantee_of(data={"features": tuple("abcdefgh")})
        (problem,) = policy_with(Rule.FEATURES, ("a",)).problems(many)
        assert problem.found == '"b", "c", "d" and 4 more'

    def test_names_are_shown_without_what_a_terminal_obeys(self):
        odd = guarantee_of(data={"features": ("age\x1b[2J", "\x7fx")})
        (problem,) = policy_with(Rule.FEATURES, ("age",)).problems(odd)
        assert problem.found == r'"age\u001b[2J", "\u007fx"'

    def test_every_finding_says_what_was_expected_and_found(self):
        findings = Policy(floors=Floors(noise_multiplier=0.25)).findings(AGGREGATE)
        assert all(each.expected and each.found for each in findings)
        assert (
            str(findings[0]) == 'studies.trust: expected "aggregate" or "local", found "aggregate"'
        )
        applying = set(Rule) - {Rule.CLAMPING, Rule.FEATURES, Rule.LABEL, Rule.UNIT}
        assert {each.rule for each in findings} == applying

    @pytest.mark.parametrize("count", [0, 9])
    def test_fewer_units_than_the_floor_are_refused_to_the_operator(self, count):
        with pytest.raises(DataError, match=f"ward: expected at least 10 units, found {count}"):
            Policy().require_units(count, "ward")

    @pytest.mark.parametrize(("floor", "count"), [(10, 10), (0, 0), (1, 1)])
    def test_as_many_units_as_the_floor_are_enough(self, floor, count):
        Policy(floors=Floors(units=floor)).require_units(count, "ward")


POLICY = """\
format = 1
[studies]
trust = ["local"]
[columns]
unit = "patient"
[floors]
sites = 5
noise_multiplier = 0.5
[ceilings]
epsilon = 2.0
"""


class TestFile:
    def test_a_policy_is_read_with_every_default(self):
        policy = parse_policy(POLICY)
        assert policy.studies.trust == ("local",)
        assert policy.ceilings == Ceilings(epsilon=2.0)
        assert policy.floors == Floors(sites=5, noise_multiplier=0.5)
        assert parse_policy("format = 1") == Policy()

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("format = 1", "format = 2", "line 1: format: expected format = 1, found 2"),
            ("format = 1", "", "format: expected format = 1, found nothing"),
            ("format = 1", "format = true", "format: expected format = 1, found true"),
            ("[floors]", "[floor]", "line 6: floor: expected one of format, studies.*unknown name"),
            ("sites = 5", "site = 5", "line 7: floors.site: expected one of .*found \"an unknown name"),
            ("sites = 5", "epsilon = 5", "line 7: floors.epsilon: expected one of"),
            ("sites = 5", "sites = 0", "line 7: floors.sites: expected a whole number of at least 1 .*found 0"),
            ("sites = 5", "sites = 5.0", "line 7: floors.sites: expected a whole number .*found 5.0"),
            ("sites = 5", 'sites = "5"', 'line 7: floors.sites: expected a whole number .*found "5"'),
            ("sites = 5", "sites = true", "line 7: floors.sites: expected a whole number .*found true"),
            ("sites = 5", f"sites = {10**30}", "line 7: floors.sites: expected a whole number"),
            ("sites = 5", "units = -1", "line 7: floors.units: expected a whole number of at least 0"),
            ("sites = 5", "[ceilings.x]", r"line \d+: ceilings.x: expected one of"),
            ("= 0.5", "= 0", "line 8: floors.noise_multiplier: expected a number above 0"),
            ("= 2.0", "= nan", "line 10: ceilings.epsilon: expected a number"),
            ("= 2.0", "= inf", "line 10: ceilings.epsilon: expected a number"),
            ("= 2.0", "= -1", "line 10: ceilings.epsilon: expected a number above 0 and at most 1000, found -1"),
            ("= 2.0", "= 2024-01-01", "line 10: ceilings.epsilon: expected a number"),
            ("= 2.0", "= 2,5", "is not TOML: .*line 10"),
            ("= 2.0", "= 2\ndelta = 1", "line 11: ceilings.delta: expected a number above 0 and below 1, found 1"),
            ('["local"]', '"local"', 'line 3: studies.trust: expected a list of "local" or .*found "local"'),
            ('["local"]', '["unsafe"]', r'line 3: studies.trust: expected a list of .*found \["unsafe"\]'),
            ('["local"]', '["local", 3]', "line 3: studies.trust: expected a list of"),
            ('["local"]', "[]", "line 3: studies.trust: expected at least one name, found nothing"),
            ('unit = "patient"', 'unit = ""', "line 5: columns.unit: expected at least one name"),
            ('unit = "patient"', "unit = 3", "line 5: columns.unit: expected text, found 3"),
            ('unit = "patient"', "features = []", "line 5: columns.features: expected at least one name"),
            ('unit = "patient"', 'features = "age"', "line 5: columns.features: expected a list of texts"),
            ('unit = "patient"', "labels = [1]", "line 5: columns.labels: expected a list of texts"),
            ("[columns]", "[[columns]]", r"columns: expected a section \[columns\]"),
            ("[floors]", "[floors", "is not TOML: .*line 6"),
        ],
    )  # fmt: skip
    def test_a_mistake_is_named_with_its_line_and_what_was_expected(self, old, new, message):
        assert old in POLICY
        with pytest.raises(PolicyError, match=f"policy.toml.*{message}"):
            parse_policy(POLICY.replace(old, new))

    def test_a_slip_of_the_pen_gets_a_suggestion(self):
        with pytest.raises(PolicyError, match="epsilom") as caught:
            parse_policy(POLICY.replace("epsilon", "epsilom"))
        assert caught.value.hint == "did you mean epsilon?"
        assert caught.value.rules == ()

    def test_a_study_is_no_policy(self):
        with pytest.raises(
            PolicyError, match="line 2: study: expected one of format, studies"
        ) as e:
            parse_policy('format = 1\n[study]\nname = "example"\n')
        assert e.value.hint == "did you mean studies?"

    def test_a_missing_file_says_how_to_write_one(self, tmp_path):
        with pytest.raises(PolicyError, match="There is no file") as caught:
            read_policy(tmp_path / "policy.toml")
        assert "discreet policy init" in caught.value.hint

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00\x01", b""])
    def test_a_file_that_is_no_policy_is_refused(self, tmp_path, content):
        (tmp_path / "policy.toml").write_bytes(content)
        with pytest.raises(PolicyError, match=r"cannot be read|is not TOML|expected format = 1"):
            read_policy(tmp_path / "policy.toml")

    def test_a_directory_is_refused(self, tmp_path):
        with pytest.raises(PolicyError, match="cannot be read as a text file"):
            read_policy(tmp_path)

    def test_the_template_is_the_policy_of_all_defaults_and_explains_each(self):
        text = policy_text(Policy())
        assert parse_policy(text) == Policy()
        assert tomllib.loads(text) == {"format": 1} | {each: {} for each in SECTIONS}
        for section, owner in SECTIONS.items():
            assert f"[{section}]  # " in text
            for each in settings_of(owner):
                assert f"\n# {each} =" in text

    def test_what_stands_behind_a_sign_in_the_template_is_the_default_and_can_be_taken(self):
        lines = policy_text(Policy()).splitlines()
        taken = [
            line.removeprefix("# ") if " = " in line and line[2:3].islower() else line
            for line in lines
        ]
        given = tomllib.loads("\n".join(taken))
        assert {each for each in SECTIONS if given[each]} == {"studies", "floors", "ceilings"}
        assert policy_from_values(given) == Policy()

    def test_every_default_is_of_its_documented_kind(self):
        for owner in SECTIONS.values():
            assert all(each.metadata["doc"].endswith(".") for each in dataclasses.fields(owner))

    def test_a_file_is_read_anew_whenever_it_has_changed(self, tmp_path):
        path = tmp_path / "policy.toml"
        path.write_text("format = 1\n[floors]\nsites = 5\n")
        file = PolicyFile(path)
        first = file()
        assert file() is first
        for sites in (6, 7, 5):  # the same size, and maybe the same time
            path.write_text(f"format = 1\n[floors]\nsites = {sites}\n")
            assert file().floors.sites == sites
        path.unlink()
        with pytest.raises(PolicyError, match="There is no file"):
            file()

    def test_a_file_stays_the_same_one_when_the_process_moves(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "policy.toml").write_text("format = 1\n")
        (tmp_path / "elsewhere").mkdir()
        file = PolicyFile(type(tmp_path)("policy.toml"))
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert file() == Policy()


def values_for(hint, limits):
    """Values that a setting can have."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return st.lists(values_for(arguments[0], {}), min_size=1, max_size=4).map(tuple)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if arguments:  # an optional one
        return st.none() | values_for(arguments[0], limits)
    if hint in (bool, str):
        return {bool: st.booleans(), str: st.text(min_size=1, max_size=8)}[hint]
    if hint is int:
        return st.integers(limits["at_least"], limits.get("at_most", 2**53))
    low, high = limits["above"], limits.get("at_most", limits.get("below"))
    numbers = st.floats(low, high, exclude_min=True, exclude_max="below" in limits)
    return numbers | st.integers(1, int(high) - ("below" in limits)) if high > 1 else numbers


def policies():
    sections = {}
    for section, owner in SECTIONS.items():
        hints = typing.get_type_hints(owner)
        given = {
            each.name: values_for(hints[each.name], each.metadata["limits"])
            for each in dataclasses.fields(owner)
        }
        sections[section] = st.builds(owner, **given)
    return st.builds(Policy, **sections)


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.lists(st.text(max_size=3) | st.integers(), max_size=3)
)  # fmt: skip


class TestRoundTrip:
    @settings(max_examples=300)
    @given(policies())
    def test_any_policy_written_and_read_again_is_equal(self, policy):
        assert parse_policy(policy_text(policy)) == policy
        assert policy_from_values(policy_to_values(policy)) == policy

    @settings(max_examples=300)
    @given(st.data())
    def test_no_mutation_of_a_policy_is_accepted_silently_or_crashes(self, data):
        """One setting replaced by anything: refused with its name, or accepted and then it round-trips."""
        values = policy_to_values(Policy(columns=Columns(features=("a",), labels=("b",), unit="c")))
        section = data.draw(st.sampled_from(sorted(values)))
        if isinstance(values[section], dict) and data.draw(st.booleans()):
            key = data.draw(st.sampled_from(sorted(values[section])) | st.text(max_size=8))
            values[section][key] = data.draw(LEAVES)
        else:
            values[section] = data.draw(LEAVES)
        try:
            policy = policy_from_values(values)
        except ImpossibleSettingError:
            return
        assert parse_policy(policy_text(policy)) == policy

    @settings(max_examples=300)
    @given(st.data())
    def test_no_mutation_of_a_file_gets_anything_but_a_policy_or_a_sentence(self, data):
        text = policy_text(data.draw(policies()))
        place = data.draw(st.integers(0, len(text)))
        end = min(len(text), place + data.draw(st.integers(0, 30)))
        mutated = text[:place] + data.draw(st.text(max_size=5)) + text[end:]
        try:
            policy = parse_policy(mutated)
        except PolicyError:
            return
        assert parse_policy(policy_text(policy)) == policy

    @settings(max_examples=100, deadline=None)
    @given(policies())
    def test_a_policy_and_a_study_come_to_a_verdict_whatever_they_are(self, policy):
        for guarantee in (PLAIN, AGGREGATE, BY_UNIT, AVERAGED):
            broken = [each.rule for each in policy.findings(guarantee) if not each.holds]
            assert broken == [each.rule for each in policy.problems(guarantee)]
            assert len(set(broken)) == len(broken)


@pytest.mark.parametrize(
    "settings_",
    [
        {"privacy": {"noise_multiplier": 1e6}}, {"privacy": {"noise_multiplier": 1e-200}},
        {"privacy": {"delta": 1e-300}}, {"privacy": {"clipping_norm": 1e9}},
        {"training": {"rounds": 10**6, "spare_rounds": 10**6}},
        {"training": {"sampling_rate": 5e-324}}, {"data": {"scaling": "standard"}, "training": {"sampling_rate": 1e-200}},
        {"model": {"kind": "mlp", "hidden": (65_536, 65_536)}}, {"model": {"kind": "cnn"}},
        {"privacy": SHARED | {"noise_multiplier": 1e-3}},
    ],
    ids=str,
)  # fmt: skip
def test_extreme_constants_meet_a_policy_or_are_refused_in_words(settings_):
    """What a guarantee's own check lets through, a policy can judge."""
    guarantee = guarantee_of(**settings_)
    try:
        guarantee.check()
    except DiscreetError:
        return
    Policy().findings(guarantee)
