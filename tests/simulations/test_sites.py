"""Every simulated site keeps a real ledger, under a budget that this very study fits in."""

from dataclasses import replace

import pytest

from audit.summary import budget_summary
from audit.verify import verify_export
from client.ledger import read_ledger
from simulations.run import Options, simulate
from study.keyfiles import read_public_key
from study.ledger_state import replay
from study.templates import template_study


def few(template="house-prices-private", *, rounds=4, **sections):

    study = template_study(template)
    sections = {"training": {"rounds": rounds}} | sections
    changed = {
        name: replace(getattr(study, name), **settings) for name, settings in sections.items()
    }
    return replace(study, **changed)


def verdicts(out):
    """Of every site's export, by name."""
    found = {}
    for site in sorted((out / "sites").iterdir()):
        lines = [each.to_line() for each in read_ledger(site / "ledger.sqlite")]
        found[site.name] = verify_export(lines, read_public_key(site / "site.pub")).state
    return found


@pytest.mark.parametrize("trust", ["local", "aggregate", "server"])
def test_every_sites_ledger_verifies_and_its_study_is_closed_within_its_budget(tmp_path, trust):
    summary = simulate(few(), Options(out=tmp_path / "out", trust=trust))
    states = verdicts(tmp_path / "out")
    assert set(states) == set(summary["site_records"])
    for name, state in states.items():
        assert state.opened.site == name
        (account,) = state.studies.values()
        assert (account.approval.study, account.approval.trust) == (summary["study_hash"], trust)
        assert account.closed
        assert {each.status for each in account.asked.values()} == {"answered"}
        budget = budget_summary(state, "simulation")
        assert (
            0 < budget["epsilon_spent"] == budget["epsilon_spent_and_reserved"] <= budget["epsilon"]
        )
        against = summary["epsilon_against_server"]
        assert against is None or budget["epsilon"] >= against


def test_the_budget_is_the_least_that_the_study_fits_in(tmp_path):
    simulate(few(), Options(out=tmp_path / "out"))
    for state in verdicts(tmp_path / "out").values():
        budget = budget_summary(state, "simulation")
        assert budget["epsilon_spent"] >= 0.95 * budget["epsilon"]


def test_a_study_without_privacy_has_a_ledger_and_no_budget(tmp_path):
    simulate(few("house-prices"), Options(out=tmp_path / "out"))
    for state in verdicts(tmp_path / "out").values():
        assert state.namespaces == {"simulation": None}
        (account,) = state.studies.values()
        assert len(account.asked) == 4
        assert {each.charge.terms for each in account.asked.values()} == {None}


def test_a_study_over_many_sites_costs_each_of_them_what_its_masked_sums_cost(tmp_path):
    """Each answer alone has a share of noise that would protect nobody."""
    study = few(
        "breast-cancer", privacy={"trust": "aggregate", "epsilon": 8.0}, sites={"minimum": 40}
    )
    summary = simulate(study, Options(out=tmp_path / "out", sites=40))
    assert summary["epsilon"] <= 8
    assert summary["epsilon_against_server"] == summary["epsilon"]
    for state in verdicts(tmp_path / "out").values():
        assert summary["epsilon"] <= state.namespaces["simulation"].epsilon < 12
        (account,) = state.studies.values()
        assert all(each.charge.terms is not None for each in account.asked.values())


def test_another_seed_is_another_key_and_the_same_seed_the_same_ledger(tmp_path):
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate(few(), Options(out=tmp_path / name, seed=seed))
        site = tmp_path / name / "sites" / "site-1"
        found[name] = (read_ledger(site / "ledger.sqlite"), (site / "site.pub").read_bytes())
    assert found["a"] == found["b"]
    assert found["a"][0] != found["c"][0]
    assert found["a"][1] != found["c"][1]


def test_an_interrupted_run_goes_on_in_the_same_ledgers_and_spends_once(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(line):
        if line["round"] == 2:
            raise StoppedError

    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        simulate(few(), Options(out=out, on_round=stop))
    half = read_ledger(tmp_path / "out.partial" / "sites" / "site-1" / "ledger.sqlite")
    simulate(few(), Options(out=out, resume=True))
    whole = read_ledger(out / "sites" / "site-1" / "ledger.sqlite")
    assert whole[: len(half)] == half
    (account,) = replay(whole).studies.values()
    declared = sum(each.count for each in account.approval.sums)
    assert len(account.asked) == declared


def test_a_site_that_missed_queries_was_not_charged_for_them(tmp_path):
    study = few(
        "breast-cancer",
        rounds=6,
        training={"rounds": 6, "spare_rounds": 6},
        privacy={"max_dropouts": 2}, sites={"minimum": 6},
    )  # fmt: skip
    simulate(study, Options(out=tmp_path / "out", drop=0.2, seed=3))
    charged = {
        name: sum(len(each.asked) for each in state.studies.values())
        for name, state in verdicts(tmp_path / "out").items()
    }
    assert min(charged.values()) < max(charged.values())
