"""What docs/secure-aggregation.md says of messages and states is what the code does."""

import re
from pathlib import Path

import pytest

from privacy.secure_aggregation import messages
from privacy.secure_aggregation.coordinator import STEPS
from privacy.secure_aggregation.messages import MESSAGES
from privacy.secure_aggregation.site import TRANSITIONS
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.guarantee import Guarantee, declare

TEXT = (Path(__file__).parents[1] / "docs" / "secure-aggregation.md").read_text(encoding="utf-8")


def rows_under(heading):
    """Cells of the first table below a heading, without its head."""
    part = TEXT.partition(f"## {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[2:]]


def test_the_states_of_a_site_are_those_of_its_table():
    rows = [
        (state, message.strip("`"), then) for state, message, then in rows_under("States of a site")
    ]
    code = [(now.value, kind.__name__, then.value) for (now, kind), then in TRANSITIONS.items()]
    assert sorted(rows) == sorted(code)


def test_the_steps_of_the_coordinator_are_those_of_its_table():
    rows = {
        step: (takes.strip("`"), set(filter(None, then.split(", "))))
        for step, takes, then in rows_under("States of the coordinator")
    }
    code = {
        step.value: ("" if kind is None else kind.__name__, {each.value for each in then})
        for step, (kind, then) in STEPS.items()
    }
    assert rows == code


def test_every_message_is_told_in_both_tables():
    for text in (
        TEXT.partition("## Who says what")[2].partition("**Masks.**")[0],
        messages.__doc__,
    ):
        assert set(re.findall(r"`([A-Z]\w+)`", text)) == {
            each.__name__ for each in MESSAGES.values()
        }


def test_the_table_of_trips_is_the_same_in_both_places():
    table = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
    assert table.search(messages.__doc__)[0] == table.search(TEXT)[0]


@pytest.mark.parametrize(("sites", "colluding", "missing"), [(4, 1, 1), (7, 2, 2), (9, 2, 3)])
def test_the_constants_are_those_of_the_promise(sites, colluding, missing):
    study = Study(
        name="example",
        data=Data(
            task="classification",
            label="ill",
            classes=("no", "yes"),
            expected_records=40,
            features=("age",),
        ),
        model=Model(kind="logistic"),
        training=Training(rounds=4),
        privacy=Privacy(noise_multiplier=3.0, max_colluding=colluding, max_dropouts=missing),
        sites=Sites(minimum=sites),
    )
    at = Guarantee(declare(study, sites=sites, nonce="0" * 32)).thresholds
    names = {"n": sites, "c": colluding, "D": missing}
    block = re.search(r"(?:^    (?:m|t|tau|k) = .*\n)+", TEXT, re.MULTILINE)[0]
    for name, formula in re.findall(r"^    (\w+) = ([\w -]+?)  ", block, re.MULTILINE):
        names[name] = eval(formula, {}, names)  # noqa: S307
    assert (at.survivors, at.threshold, at.quorum, at.shares) == (
        names["m"],
        names["t"],
        names["tau"],
        names["k"],
    )
