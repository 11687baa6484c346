"""The card's sentences are the release's promise: they are right for every level of trust."""

import math
import re
from statistics import NormalDist

import pytest

from server.card import (
    meaning_of_epsilon,
    metric_in_words,
    metrics_statement,
    plain,
    privacy_statement,
    quantity,
    render_card,
    rounded_up,
    rounds_statement,
    server_statement,
    unit_in_words,
)
from study.contract import Data, Model, Privacy, Study, Training

DATA = {
    "label": "diagnosis",
    "classes": ("benign", "malignant"),
    "features": ("radius", "area"),
}
TRUSTS = ["aggregate", "local", "server", "unsafe"]


def study(trust="local", **data):
    return Study(
        name="diagnosis",
        purpose="Tell malignant from benign",
        data=Data(
            task="classification",
            expected_records=426,
            **DATA | data,
        ),
        model=Model(kind="logistic"),
        training=Training(rounds=100),
        privacy=Privacy(trust=trust, epsilon=None if trust == "unsafe" else 3.0),
    )  # fmt: skip


def summary(trust="local", **other):
    against = {"local": 2.9997, "aggregate": 5.6546}.get(trust)
    return {
        "study": "diagnosis",
        "study_hash": "ab" * 32,
        "purpose": "Tell malignant from benign",
        "trust": trust,
        "masked": False,
        "epsilon": None if trust == "unsafe" else 2.9997,
        "epsilon_against_server": against,
        "delta": None if trust == "unsafe" else 1e-5,
        "noise_multiplier": None if trust == "unsafe" else 14.8,
        "rounds": 100,
        "rounds_declared": 100,
        "rounds_abandoned": 0,
        "sites": 5,
        "seconds": 8.4,
        "model": "logistic",
        "metrics": {"accuracy": 0.958, "precision": 0.9, "recall": 0.9, "f1": 0.9},
        "metrics_on": "pooled test rows (simulation)",
        "parameters": None,
        "simulation": True,
    } | other


def privacy(**other):
    return {
        "unit": "record",
        "relation": "add or remove one unit at one site",
        "mu": 0.7186,
        "mechanism": "dithered rounding and discrete Gaussian shares of noise",
        "clipping": "flat",
        "clipping_norm": 1.0,
        "colluding": 1,
        "dropouts": 1,
        "shares": 3,
        "queries": [{"function": "moments", "count": 1}, {"function": "gradient", "count": 102}],
        "accountant": "dp-accounting 0.6.0 PLD, add/remove",
        "covered": [],
        "not_covered": ["Which sites took part."],
    } | other


@pytest.mark.parametrize("trust", TRUSTS)
def test_every_level_of_trust_has_a_card_with_all_its_sections(trust):
    card = render_card(study(trust), summary(trust), privacy())
    sections = re.findall(r"^## (.*)$", card, flags=re.MULTILINE)
    assert sections == ["Intended use", "Data", "Training", "Privacy", "Metrics", "Limits"]
    assert "Which sites took part." in card
    assert "None" not in card.replace("None. This study", "")


def test_equal_arguments_give_equal_cards():
    assert render_card(study(), summary(), privacy()) == render_card(study(), summary(), privacy())


def test_the_privacy_statement_names_unit_relation_bound_mechanism_and_accountant():
    statement = privacy_statement(summary(), privacy())
    for words in (
        "one record",
        "add or remove one unit at one site",
        "ε = 3.00",
        "δ = 10⁻⁵",
        "discrete Gaussian",
        "dp-accounting 0.6.0 PLD",
        "103 declared sums",
        "Trust level local",
    ):
        assert words in statement


def test_epsilon_is_that_of_the_declared_rounds_also_when_fewer_ran():
    always = "ε is a property of the declared number of rounds, also when fewer ran"
    assert always in privacy_statement(summary(), privacy())
    assert "Here" not in rounds_statement(summary())
    assert "Here 60 of 100 rounds ran" in rounds_statement(summary(rounds=60))


def test_aggregate_says_for_whom_the_noise_of_all_sites_together_is_enough():
    statement = server_statement(summary("aggregate", masked=True), privacy())
    assert "The noise of all sites together gives ε = 3.00 for everybody who sees what" in statement
    assert "noisy sums over all sites), and for each single site" in statement


def test_aggregate_counts_the_colluding_sites_that_the_noise_allows_for():
    assert "each single site" in server_statement(summary("aggregate"), privacy())
    assert "up to 2 sites together" in server_statement(summary("aggregate"), privacy(colluding=2))


def test_aggregate_behind_masks_shows_the_server_the_sum_over_the_sites_alone():
    about = summary("aggregate", masked=True, epsilon_against_server=2.9997)
    statement = server_statement(about, privacy())
    assert "received only the sum over the sites" in statement
    assert "Against the server the same bound holds: ε = 3.00." in statement
    assert "hidden only" not in statement


def test_local_noise_holds_against_the_server_too():
    statement = server_statement(summary("local"), privacy())
    assert "each site adds the whole noise" in statement
    assert "Against the server the same bound holds: ε = 3.00." in statement


@pytest.mark.parametrize(
    ("masked", "sees"), [(False, "each site's sum"), (True, "the sum over the sites")]
)
def test_with_noise_of_the_coordinator_nothing_bounds_what_it_learns(masked, sees):
    statement = server_statement(summary("server", masked=masked), privacy())
    assert "exact and without noise" in statement
    assert f"Against the server there is no bound: it sees {sees}." in statement
    assert "relies on the server to have added the noise" in statement


def test_unsafe_promises_nothing():
    statement = privacy_statement(summary("unsafe"), privacy())
    assert statement.startswith("None.")
    assert "ε" not in statement
    assert "WARNING: no privacy" in render_card(study("unsafe"), summary("unsafe"), privacy())


def test_no_bound_against_the_server_is_said_plainly_where_noise_is_too_small():
    about = summary("aggregate", epsilon_against_server=None)
    assert "Against the server there is no bound" in server_statement(about, privacy())


def test_the_chance_of_a_right_guess_follows_from_mu_and_from_epsilon():
    exact = math.ceil(100 * (NormalDist().cdf(0.7186 / 2) + 1e-5))
    general = math.ceil(100 * (math.exp(2.9997) + 1e-5) / (1 + math.exp(2.9997)))
    assert (exact, general) == (65, 96)
    assert f"at most {exact} times in 100" in meaning_of_epsilon(summary(), privacy())[1]
    assert f"at most {general} times in 100" in meaning_of_epsilon(summary(), privacy(mu=None))[1]


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 11.9, 12.0, 700.0, 1000.0])
def test_any_epsilon_is_explained(epsilon):
    paragraphs = meaning_of_epsilon(summary(epsilon=epsilon), privacy(mu=None))
    assert len(paragraphs) == 3
    assert ("promises little" in paragraphs[1]) == (epsilon > 11)


def test_no_epsilon_is_explained_as_no_bound():
    assert "nothing bounds" in meaning_of_epsilon(summary("unsafe"), privacy())[0]


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("record", "one record"),
        ("site", "everything that one site holds"),
        ("a unit of column id", 'everything a site holds of one value of column "id"'),
    ],
)
def test_the_unit_is_named_as_a_person_would(unit, words):
    assert unit_in_words(privacy(unit=unit)) == words
    assert words in privacy_statement(summary(), privacy(unit=unit))


@pytest.mark.parametrize(
    ("bound", "shown"),
    [
        (0.0, "0"),
        (0.1421, "0.143"),
        (2.9997, "3.00"),
        (3.0, "3.00"),
        (3.001, "3.01"),
        (5.6546, "5.66"),
        (12.34, "12.4"),
        (1234.5, "1,235"),
    ],
)
def test_a_bound_is_rounded_up_never_down(bound, shown):
    assert rounded_up(bound) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e-5, "10⁻⁵"),
        (2.5e-6, "2.5 × 10⁻⁶"),
        (0.25, "0.25"),
        (426, "426"),
        (1234567, "1,234,567"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_a_number_is_written_for_people(value, shown):
    assert quantity(value) == shown


def test_metrics_have_names_and_the_simulators_are_said_to_be_uncovered():
    assert metric_in_words("accuracy", 0.958) == ("Accuracy", "95.8 %")
    assert metric_in_words("r2", 0.8754) == ("R²", "0.8754")
    assert metric_in_words("mse", None) == ("Mean squared error", "–")
    assert "the guarantee does not cover them" in metrics_statement(summary())
    assert "simulator" not in metrics_statement(summary(simulation=False))
    assert metrics_statement(summary(metrics=None)) == "No metrics were computed."


HOSTILE = (
    "</title><script>alert(1)</script>\n# Heading\n[click](https://evil.example) ![x](y) | `a` "
    "\u202egnp &lt; *b*"
)


def test_hostile_text_makes_no_markdown_of_its_own():
    about = summary(study=HOSTILE, purpose=HOSTILE, metrics_on=HOSTILE)
    hostile_study = study(label=HOSTILE, classes=("ok", HOSTILE))
    card = render_card(hostile_study, about, privacy(unit=HOSTILE, not_covered=[HOSTILE]))
    unescaped = re.sub(r"\\[^\w\s]", "", card)
    assert "\u202e" not in card
    assert re.findall(r"^#+ ", card, flags=re.MULTILINE) == ["# "] + ["## "] * 6
    for mark in ("<", "[", "]", "`", "://", "&lt;", "*"):
        assert mark not in unescaped


@pytest.mark.parametrize(
    "text", ["# title", "- item", "1. item", "12) item", "+ item", "=====", "---", "```"]
)
def test_a_purpose_that_begins_like_a_block_is_still_a_sentence(text):
    card = render_card(study(), summary(purpose=text), privacy())
    shown = card.split("## Intended use\n\n")[1].split("\n")[0]
    assert re.match(r"(\d*\\|`)", shown)
    assert re.sub(r"\\(?=[^\w\s])", "", shown) == text


def test_invisible_characters_become_spaces_and_lines_one_line():
    assert plain("a\u202eb\n\nc\x00\td ") == "a b c d"
    assert plain(None) == ""
