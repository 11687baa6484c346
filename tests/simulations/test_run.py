"""A simulated study runs from its file to its release, goes on where it stopped, and leaves nothing else behind."""

import contextlib
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.answers import Site
from client.ledger import read_ledger
from client.policy import PolicyError
from privacy.errors import DataError, DiscreetError, RoundAbandonedError, StudyError, UserError
from simulations.run import Options, simulate
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.guarantee import Guarantee
from study.parsing import read_study
from study.rules import Rule
from study.templates import TEMPLATES, template_study

EXAMPLES = Path(__file__).parents[2] / "examples"


def with_changes(study, **sections):
    """`study` with some settings of some sections changed."""
    changed = {
        name: dataclasses.replace(getattr(study, name), **settings)
        for name, settings in sections.items()
    }
    return dataclasses.replace(study, **changed)


def few(template="house-prices-private", *, rounds=4, training=None, **sections):
    return with_changes(
        template_study(template), training={"rounds": rounds} | (training or {}), **sections
    )


def lines_of(out):
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def names_in(directory):
    return sorted(each.name for each in directory.iterdir())


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# What runs


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_runs(template, out):
    told, started = [], []
    options = Options(out=out, on_round=told.append, on_start=started.append)
    summary = simulate(few(template, rounds=3), options)
    assert summary["rounds"] == 3
    assert [line["round"] for line in told if line["round"]] == [1, 2, 3]
    assert started[0].study.name == summary["study"] == template_study(template).name
    assert names_in(out.parent) == ["out"]


def test_a_study_that_stops_early_costs_what_it_declared(out):
    """When it stops depends on noisy data, so what fewer rounds would have cost is no guarantee."""
    study = few("breast-cancer", rounds=40, training={"stop_below": 1e6})
    declared = []
    summary = simulate(study, Options(out=out, on_start=declared.append))
    assert summary["rounds"] < summary["rounds_declared"] == 40
    guarantee = Guarantee(declared[0])
    assert summary["epsilon"] == guarantee.epsilon == guarantee.epsilon_by_round[-1]
    assert guarantee.epsilon_by_round[summary["rounds"] - 1] < 0.9 * summary["epsilon"]


@pytest.mark.parametrize("name", sorted(each.name for each in EXAMPLES.glob("*.toml")))
def test_every_example_is_its_template_or_simulates(name, out):
    study = read_study(EXAMPLES / name)
    if name.removesuffix(".toml") in TEMPLATES:
        assert study == template_study(name.removesuffix(".toml"))
    else:
        simulate(with_changes(study, training={"rounds": 2}), Options(out=out))


def test_the_five_houses_are_learnt_as_computed_by_hand(out):
    """Gradient descent on the mean squared error from zero: the figures of full-batch steps of 0.001."""
    summary = simulate(read_study(EXAMPLES / "house-prices.toml"), Options(out=out))
    lines = lines_of(out)
    assert lines[0]["loss"] == pytest.approx(44.0, rel=1e-12)
    after = {line["round"]: line["metrics"]["mse"] for line in lines if "metrics" in line}
    assert after[100] == pytest.approx(0.4106452974, abs=5e-11)
    assert after[1000] == pytest.approx(0.0244996813, abs=5e-11)
    assert summary["metrics"]["mse"] == after[1000]
    assert summary["parameters"]["bias"] == pytest.approx(0.3668797, abs=5e-8)
    assert summary["parameters"]["weight"] == [pytest.approx(1.8983802, abs=5e-8)]
    assert (summary["epsilon"], summary["delta"], summary["noise_multiplier"]) == (None,) * 3


@pytest.mark.parametrize("sites", [1, 3, 5])
def test_without_privacy_the_number_of_sites_changes_nothing(sites, tmp_path):
    study = with_changes(few("house-prices", rounds=20), sites={"minimum": 1})
    whole = simulate(study, Options(out=tmp_path / "whole", sites=1, seed=3))
    other = simulate(study, Options(out=tmp_path / "other", sites=sites, seed=4))
    assert other["parameters"]["weight"] == pytest.approx(whole["parameters"]["weight"], rel=1e-12)
    assert other["sites"] == sites == len(other["site_records"])


def noise_of(out, exact):
    """Noise of the first sum, in the vector's own unit, root of the mean square."""
    privacy = json.loads((out / "privacy.json").read_text())
    total = load_file(out / "sums.safetensors")["000000"] / privacy["queries"][0]["scale"]
    return np.sqrt(np.mean(np.square(total - exact)))


def test_trusts_differ_by_the_noise_in_the_sum_as_they_should(tmp_path):
    """5 sites, c = 1, D = 0: local holds 5 times the variance of server, aggregate 5/4 of it.

    A root mean square of 61 numbers is off by a tenth; half and double are allowed, local and aggregate differ by 2.
    """
    found = {}
    study = few("breast-cancer", rounds=1)
    for trust in ("unsafe", "server", "aggregate", "local"):
        found[trust] = simulate(study, Options(out=tmp_path / trust, trust=trust))
    exact = load_file(tmp_path / "unsafe" / "sums.safetensors")["000000"]
    noise = {trust: noise_of(tmp_path / trust, exact) for trust in found if trust != "unsafe"}
    assert 0.7 * np.sqrt(5) < noise["local"] / noise["server"] < 1.4 * np.sqrt(5)
    assert 0.7 * np.sqrt(5 / 4) < noise["aggregate"] / noise["server"] < 1.4 * np.sqrt(5 / 4)
    assert found["unsafe"]["epsilon"] is None
    assert len({found[trust]["noise_multiplier"] for trust in noise}) == 1
    assert len({found[trust]["study_hash"] for trust in found}) == 4


def test_privacy_costs_accuracy_and_not_having_it_does_not(tmp_path):
    study = few("breast-cancer", rounds=30, training={"learning_rate": 0.3})
    unsafe = simulate(study, Options(out=tmp_path / "unsafe", trust="unsafe"))
    little = with_changes(study, privacy={"epsilon": 0.01})
    private = simulate(little, Options(out=tmp_path / "private"))
    assert unsafe["metrics"]["accuracy"] > 0.94
    assert private["metrics"]["accuracy"] < unsafe["metrics"]["accuracy"]


def test_missing_sites_within_the_tolerance_do_not_stop_a_study(out):
    study = few(
        "breast-cancer", rounds=12, privacy={"max_dropouts": 2}, training={"spare_rounds": 6}, sites={"minimum": 6},
    )  # fmt: skip
    summary = simulate(study, Options(out=out, drop=0.15, sites=6))
    lines = lines_of(out)
    assert summary["rounds"] == 12
    assert any(line["missing"] for line in lines)
    assert all(line["survivors"] >= 4 or line["abandoned"] for line in lines)
    assert {reason for each in summary["refusals"].values() for reason in each} == {
        "it could not be reached"
    }


def test_too_many_missing_sites_end_a_study_with_an_error_that_says_who(out):
    """Nothing is left to resume: the same faults would meet it again."""
    with pytest.raises(
        RoundAbandonedError,
        match=r"no spare round is left: fewer than 5 sites .*; site-\d: it could",
    ) as error:
        simulate(few("breast-cancer", rounds=20), Options(out=out, drop=0.5))
    assert error.value.hint
    assert not out.exists()
    assert not out.with_name("out.partial").exists()


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.1", "dirichlet:100", "quantity:0.3"])
def test_every_partition_trains_on_all_records(out, partition):
    summary = simulate(few("breast-cancer", rounds=2), Options(out=out, partition=partition))
    assert sum(summary["site_records"].values()) == 569
    assert len(summary["site_records"]) == summary["sites"] == 5
    assert summary["refusals"] == {}


def test_a_site_without_any_record_answers_like_the_others(out):
    study = with_changes(few(rounds=2), sites={"minimum": 5})
    summary = simulate(study, Options(out=out, partition="quantity:0.01"))
    assert 0 in summary["site_records"].values()
    assert all(line["survivors"] == 5 for line in lines_of(out))


# A policy that every site obeys


@pytest.fixture
def policy_file(tmp_path):
    """Write policy.toml; arguments are lines after its format."""

    def write(*lines):
        (tmp_path / "policy.toml").write_text("\n".join(["format = 1", *lines]) + "\n")
        return tmp_path / "policy.toml"

    return write


@pytest.mark.parametrize("trust", ["local", "aggregate"])
def test_a_study_that_the_policy_allows_runs_as_without_one(tmp_path, policy_file, trust):
    study, found = few("breast-cancer", training={"spare_rounds": 1}), {}
    for name, policy in (("plain", None), ("ruled", policy_file("[ceilings]", "rounds = 6"))):
        options = Options(out=tmp_path / name, policy=policy, trust=trust, sites=5)
        found[name] = simulate(study, options)
    for each in found.values():
        del each["seconds"]
    assert found["ruled"] == found["plain"]


def test_a_study_that_the_policy_refuses_is_refused_before_anything_runs(out, policy_file):
    started = []
    policy = policy_file("[ceilings]", "rounds = 4", "epsilon = 2.5")
    options = Options(out=out, policy=policy, on_start=started.append)
    with pytest.raises(PolicyError, match=r"ceilings.epsilon: expected .*; ceilings.rounds: ") as e:
        simulate(few("breast-cancer"), options)
    assert e.value.rules == (Rule.EPSILON, Rule.ROUNDS)
    assert (started, names_in(out.parent)) == ([], ["policy.toml"])


def test_a_site_with_too_few_units_for_the_policy_is_named_before_anything_runs(out, policy_file):
    policy = policy_file("[floors]", "units = 100")
    options = Options(out=out, policy=policy, partition="quantity:0.3")
    with pytest.raises(DataError, match=r"site-\d: expected at least 100 units, found \d+"):
        simulate(few("breast-cancer"), options)
    assert names_in(out.parent) == ["policy.toml"]


def test_a_policy_that_is_made_stricter_during_a_run_stops_it(out, policy_file):
    """The file is the policy at every moment, also of simulated sites."""
    policy = policy_file()

    def stricter(line):
        if line["round"] == 2:
            policy_file("[floors]", "sites = 6")

    with pytest.raises(RoundAbandonedError, match=r"site-1: .*too few sites \(floors.sites\)"):
        simulate(few("breast-cancer"), Options(out=out, policy=policy, on_round=stricter))


RULES = ("[ceilings]", "rounds = 90")


@pytest.mark.parametrize("begun", [None, (), RULES])
@pytest.mark.parametrize("resumed", [None, (), RULES])
def test_a_run_is_resumed_under_the_policy_that_it_was_begun_with_and_no_other(
    out, policy_file, begun, resumed
):
    """Stricter, looser or none: it would be a rehearsal of something that no site does."""
    study = few("breast-cancer")

    def options(rules, **more):
        policy = None if rules is None else policy_file(*rules)
        return Options(out=out, policy=policy, **more)

    with pytest.raises(KeyboardInterrupt):
        simulate(study, options(begun, on_round=interrupt_after(2)))
    if begun != resumed:
        with pytest.raises(UserError, match="The interrupted run had another policy") as error:
            simulate(study, options(resumed, resume=True))
        assert "the same study, data, policy and options" in error.value.hint
        assert not out.exists()
    simulate(study, options(begun, resume=True))
    assert len(lines_of(out)) >= 4


def test_a_policy_in_other_words_is_the_same_policy(out, policy_file):
    study = few("breast-cancer")
    begun = Options(out=out, policy=policy_file(*RULES), on_round=interrupt_after(2))
    with pytest.raises(KeyboardInterrupt):
        simulate(study, begun)
    policy = policy_file("[floors]", "sites = 3  # the default", "", "[ceilings]", "rounds = 90")
    simulate(study, Options(out=out, policy=policy, resume=True))
    assert names_in(out.parent) == ["out", "policy.toml"]


def test_no_policy_allows_a_run_without_privacy(out, policy_file):
    options = Options(out=out, policy=policy_file(), trust="unsafe")
    with pytest.raises(PolicyError, match='studies.trust: .*found "unsafe"'):
        simulate(few("breast-cancer"), options)


# Records from a file

PATIENTS = Study(
    name="patients",
    data=Data(
        task="classification", label="ill", classes=("no", "yes"), expected_records=60, unit="patient",
        records_per_unit=3, features=("age", "marker"), bounds={"age": (0.0, 100.0), "marker": (-9.0, 9.0)},
    ),
    model=Model(kind="logistic"),
    training=Training(rounds=12, learning_rate=0.3),
    privacy=Privacy(trust="local", noise_multiplier=1.0),
    sites=Sites(minimum=3),
)  # fmt: skip


@pytest.fixture
def patients(tmp_path):
    """80 patients of one to four rows each, at three hospitals."""
    generator, lines = np.random.default_rng(5), ["patient,hospital,age,marker,ill"]
    for patient in range(80):
        ill = patient % 2
        for _ in range(1 + patient % 4):
            marker = np.clip(generator.normal(4 * ill - 2, 1), -9, 9)
            age = generator.integers(20, 90)
            lines.append(f"p{patient},{'ABC'[patient % 3]},{age},{marker:.3f},{('no', 'yes')[ill]}")
    path = tmp_path / "patients.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_units_of_several_rows_are_kept_together_and_learnt_from(patients, out):
    summary = simulate(PATIENTS, Options(out=out, data=patients))
    assert summary["records"] == 200
    assert summary["metrics"]["accuracy"] > 0.8
    privacy = json.loads((out / "privacy.json").read_text())
    assert privacy["unit"] == "a unit of column patient"


def test_a_column_can_say_at_which_site_a_unit_is(patients, out):
    summary = simulate(PATIENTS, Options(out=out, data=patients, partition="column:hospital"))
    assert summary["sites"] == 3
    assert [line["survivors"] for line in lines_of(out)] == [3] * 12


def test_site_records_are_records_as_records_are(patients, out):
    summary = simulate(PATIENTS, Options(out=out, data=patients, partition="column:hospital"))
    assert sum(summary["site_records"].values()) == summary["records"]


def test_a_unit_at_several_sites_is_clipped_at_each_to_its_part(patients, tmp_path):
    """The noise stays what it was, but for rounding, which the choice of a deviation keeps at 1 %."""
    twice = with_changes(PATIENTS, data={"sites_per_unit": 2})
    simulate(PATIENTS, Options(out=tmp_path / "once", data=patients))
    simulate(twice, Options(out=tmp_path / "twice", data=patients))
    once, two = (
        json.loads((tmp_path / name / "privacy.json").read_text()) for name in ("once", "twice")
    )
    noise = [
        each["queries"][0]["share_deviation"] / each["queries"][0]["scale"] for each in (once, two)
    ]
    assert noise[1] == pytest.approx(noise[0], rel=0.02)
    assert "2 sites" in two["relation"]


# Other algorithms and models


@pytest.mark.parametrize("trust", ["local", "aggregate", "unsafe"])
def test_sites_as_units_average_their_changes(out, trust):
    averaging = {
        "algorithm": "dp-fedavg", "local_steps": 3, "local_learning_rate": 0.5, "learning_rate": 1.0,
        "optimizer": "sgd",
    }  # fmt: skip
    study = few("breast-cancer", rounds=5, training=averaging)
    summary = simulate(study, Options(out=out, trust=trust))
    assert {line["function"] for line in lines_of(out)} == {"moments", "delta"}
    privacy = json.loads((out / "privacy.json").read_text())
    assert privacy["unit"] == "site"
    if trust == "unsafe":
        assert summary["metrics"]["accuracy"] > 0.9


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_larger_models_learn_digits(out, kind):
    model = {"kind": kind, "hidden": (16,) if kind == "mlp" else ()}
    study = with_changes(few("digits", rounds=3), model=model, sites={"minimum": 2})
    summary = simulate(study, Options(out=out))
    assert summary["model"] == kind
    assert summary["parameters"] is None
    assert summary["refusals"] == {}
    assert all(np.isfinite(each).all() for each in load_file(out / "model.safetensors").values())


def test_a_larger_model_without_privacy_gets_digits_right(out):
    study = with_changes(
        few("digits", rounds=40, training={"learning_rate": 0.02, "average": "none"}),
        model={"kind": "mlp", "hidden": (16,)}, sites={"minimum": 1}, privacy={"trust": "unsafe", "epsilon": None},
    )  # fmt: skip
    summary = simulate(study, Options(out=out))
    assert summary["metrics"]["accuracy"] > 0.8


def test_sampling_takes_another_part_of_the_records_every_round(out):
    study = few(
        "digits", rounds=3, training={"sampling_rate": 0.5, "average": "none", "learning_rate": 0.01},
        sites={"minimum": 2},
    )  # fmt: skip
    summary = simulate(study, Options(out=out, trust="unsafe"))
    assert summary["rounds"] == 3
    losses = [line["loss"] for line in lines_of(out)]
    # The sum of the losses of a sample of about half of 1,357 records, over half of the public 1,347: ln 10 +- 8 %.
    assert losses[0] == pytest.approx(np.log(10), rel=0.12)
    assert losses[0] != pytest.approx(np.log(10), rel=1e-6)


def test_sampling_is_accounted_for(out):
    study = few(
        "diabetes", rounds=3, training={"sampling_rate": 0.5},
        privacy={"epsilon": None, "noise_multiplier": 3.0}, sites={"minimum": 2},
    )  # fmt: skip
    sampled = simulate(study, Options(out=out))
    whole = with_changes(study, training={"sampling_rate": 1.0})
    assert sampled["epsilon"] < simulate(whole, Options(out=out.with_name("whole")))["epsilon"]


# Where work happens


class EndedError(Exception):
    """Ends a run from outside."""


def interrupt_after(count, error=KeyboardInterrupt):
    seen = []

    def on_round(line):
        seen.append(line)
        if len(seen) == count:
            raise error

    return on_round


def test_nothing_but_the_release_is_left_after_success(out):
    simulate(few(), Options(out=out))
    assert names_in(out.parent) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, EndedError])
def test_an_interruption_keeps_the_checkpoint_and_no_release(out, error):
    with pytest.raises(error):
        simulate(few(), Options(out=out, on_round=interrupt_after(2, error)))
    assert names_in(out.parent) == ["out.partial"]
    assert len(list((out.parent / "out.partial" / "checkpoint").glob("*.sum"))) == 2


def release_of(directory):
    """Everything in a release but seconds, and hashes of files that hold seconds."""
    found = {}
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and name not in ("report.html", "manifest.json", "history.jsonl"):
            found[name] = read_ledger(path) if name.endswith(".sqlite") else path.read_bytes()
    found["summary.json"] = json.loads(found["summary.json"]) | {"seconds": 0}
    found["history"] = [line | {"seconds": 0} for line in lines_of(directory)]
    queries = json.loads((directory / "manifest.json").read_text())["queries"]
    found["queries"] = [query | {"seconds": 0} for query in queries]
    return found


@pytest.mark.parametrize(
    ("kind", "stop"),
    [("plain", 1), ("plain", 3), ("standard scaling", 1), ("dropouts", 1), ("dropouts", 3), ("sampled", 2)],
)  # fmt: skip
def test_a_resumed_run_ends_as_if_it_had_never_stopped(tmp_path, kind, stop):
    """With trust `local`, to the last byte."""
    study = {
        "plain": few(),
        "standard scaling": few("breast-cancer"),
        "dropouts": few("breast-cancer", privacy={"max_dropouts": 1}, training={"spare_rounds": 9}),
        "sampled": few(
            "diabetes", rounds=4, training={"sampling_rate": 0.5}, sites={"minimum": 2},
            privacy={"epsilon": None, "noise_multiplier": 8.0},
        ),
    }[kind]  # fmt: skip
    study = with_changes(study, privacy={"trust": "local"})
    options = {"seed": 3, "drop": 0.2 if kind == "dropouts" else 0.0}
    simulate(study, Options(out=tmp_path / "whole", **options))
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        simulate(study, Options(out=out, on_round=interrupt_after(stop), **options))
    simulate(study, Options(out=out, resume=True, **options))
    assert names_in(tmp_path) == ["out", "whole"]
    expected, found = release_of(tmp_path / "whole"), release_of(out)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == value, name


def test_a_resumed_run_asks_its_sites_only_what_is_left(out, monkeypatch):
    asked, answer = [], Site.answer

    def counting(site, content):
        asked.append(site)
        return answer(site, content)

    monkeypatch.setattr(Site, "answer", counting)
    with pytest.raises(KeyboardInterrupt):
        simulate(few(rounds=5), Options(out=out, on_round=interrupt_after(3)))
    assert len(asked) == 2 + 3 * (
        2 + 2
    )  # a key of either site; then, each time, an upload and a share
    asked.clear()
    told = []
    simulate(few(rounds=5), Options(out=out, resume=True, on_round=told.append))
    assert len(asked) == 2 + 2 * (2 + 2)
    assert len(told) == 5  # so that the progress bar is right


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"sites": 3},
        {"trust": "local"},
        {"drop": 0.1},
        {"partition": "quantity:1"},
    ],
)
def test_another_run_cannot_be_resumed_from_a_checkpoint(out, change):
    with pytest.raises(KeyboardInterrupt):
        simulate(few(), Options(out=out, on_round=interrupt_after(2)))
    partial = out.with_name("out.partial") / "checkpoint"
    before = {each.name: each.read_bytes() for each in partial.iterdir()}
    with pytest.raises(UserError, match="The interrupted run had another"):
        simulate(few(), Options(out=out, resume=True, **change))
    assert {each.name: each.read_bytes() for each in partial.iterdir()} == before


def test_without_resume_an_interrupted_run_starts_anew(out):
    with pytest.raises(KeyboardInterrupt):
        simulate(few(), Options(out=out, on_round=interrupt_after(2)))
    simulate(few(), Options(out=out, seed=2))
    assert names_in(out.parent) == ["out"]


def test_resuming_what_never_began_is_starting_it(out):
    simulate(few(), Options(out=out, resume=True))
    assert names_in(out.parent) == ["out"]


def test_directories_on_the_way_to_the_release_are_made(tmp_path):
    simulate(few(), Options(out=tmp_path / "a" / "b" / "out"))
    assert names_in(tmp_path / "a" / "b") == ["out"]


def test_an_old_release_is_replaced_when_the_new_one_is_complete(out):
    simulate(few(), Options(out=out))
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        simulate(few(), Options(out=out, seed=2, on_round=interrupt_after(2)))
    assert (out / "model.safetensors").read_bytes() == before
    simulate(few(), Options(out=out, seed=2))
    assert (out / "model.safetensors").read_bytes() != before
    assert names_in(out.parent) == ["out"]


@pytest.mark.parametrize("suffix", [".partial", ".old"])
def test_a_directory_that_is_not_ours_is_not_removed(out, suffix):
    mine = out.with_name("out" + suffix) / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    simulate(few(), Options(out=out.with_name("other")))
    out.with_name("other").rename(out)
    with contextlib.suppress(DiscreetError):
        simulate(few(), Options(out=out))
    assert mine.exists()


# What is wrong is found before anything is written

WRONG = {
    "a partition that is none": ({}, {"partition": "nonsense"}, UserError, "Expected a partition"),
    "a column that is none": ({}, {"partition": "column:ward"}, UserError, 'no column "ward"'),
    "too few sites": ({}, {"sites": 1}, StudyError, "at least sites.minimum = 2"),
    "more sites than units": ({}, {"sites": 6}, DataError, "at least one unit for each of 6"),
    "a rate beyond 1": ({}, {"drop": 2.0}, UserError, "--drop: expected a rate"),
    "no such file": ({}, {"data": Path("missing.csv")}, DataError, "There is no file missing.csv"),
    "an unknown source": (
        {"data": {"source": "brest_cancer"}}, {}, DataError, "no built-in data set",
    ),
    "no noise is enough": (
        {"privacy": {"epsilon": 1e-12}}, {}, DiscreetError, "No noise multiplier",
    ),
    "a site with too many records": (
        {"sites": {"minimum": 2, "maximum_records": 1}}, {}, DataError, "at most 1 training units",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_mistake_is_found_before_anything_is_written(out, kind):
    sections, options, error, message = WRONG[kind]
    started = []
    with pytest.raises(error, match=message):
        simulate(few(**sections), Options(out=out, on_start=started.append, **options))
    assert names_in(out.parent) == []
    assert started == []  # nothing is announced that cannot run


@pytest.mark.parametrize("options", [{"drop": 2.0}, {"partition": "nonsense"}, {"sites": 1}])
def test_a_mistake_does_not_throw_away_the_checkpoint_of_an_interrupted_run(out, options):
    with pytest.raises(KeyboardInterrupt):
        simulate(few(), Options(out=out, on_round=interrupt_after(2)))
    with pytest.raises(UserError, match="xpected"):
        simulate(few(), Options(out=out, **options))
    assert len(list((out.parent / "out.partial" / "checkpoint").glob("*.sum"))) == 2


def test_two_runs_never_work_in_one_place(out):
    """The second is refused while the first is at work, and disturbs nothing."""
    refused = []

    def second(_line):
        if not refused:
            with pytest.raises(UserError, match="Another run is writing to") as error:
                simulate(few(), Options(out=out, resume=True))
            refused.append(error.value.hint)

    simulate(few(), Options(out=out, on_round=second))
    assert refused
    assert names_in(out.parent) == ["out"]


def test_a_resumed_run_that_fails_keeps_the_checkpoint_it_was_given(out):
    study = few("breast-cancer", rounds=12)
    with pytest.raises(KeyboardInterrupt):
        simulate(study, Options(out=out, drop=0.03, seed=5, on_round=interrupt_after(1)))
    with pytest.raises(RoundAbandonedError, match="could not be reached"):
        simulate(study, Options(out=out, drop=0.03, seed=5, resume=True))
    assert list(out.with_name("out.partial").glob("checkpoint/*.sum"))
