"""What a site says of its policy on the wire is names of rules, and of a hostile one nothing else is believed."""

import tracemalloc

import pytest
from flwr.app import Error, Message
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from study.envelope import query_message, refusal_message, refusal_of
from study.queries import Refusal
from study.rules import Rule, reason_of, rules_of

PLAIN = "the site's policy does not allow this study"
HOSTILE = [
    None, "", ",", "{", "[1, 2]", '["floors.sites"]', "floors.nonsense", "floors.sites,", ",floors.sites",
    "floors.sites,floors.nonsense", "floors.sites, ceilings.epsilon", "ceilings.epsilon,floors.sites",
    "floors.sites,floors.sites", "FLOORS.SITES", "floors.sites\n", "floors.sites\x00", "\x1b[2J\x1b]0;x\x07",
    "<script>alert(1)</script>", "floors.units", "SITES", "é" * 100, "floors.sites," * 1_000_000, "x" * 10_000_000,
    "\u202efloors.sites", ",".join(Rule) + "," + ",".join(Rule),
]  # fmt: skip
"""Reasons that no honest site sends: names in another order, twice, unknown or with anything around them among them."""


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


@given(st.lists(st.sampled_from(Rule)))
def test_rules_survive_the_wire_each_once_in_a_fixed_order(rules):
    reason = reason_of(rules)
    assert rules_of(reason) == tuple(each for each in Rule if each in rules)
    assert reason_of(reversed(rules)) == reason


@given(st.text() | st.lists(st.sampled_from([*Rule, "", "x"])).map(",".join))
def test_a_text_names_rules_only_if_it_is_what_an_honest_site_writes(text):
    rules = rules_of(text)
    assert rules == () or reason_of(rules) == text


@pytest.mark.parametrize("reason", HOSTILE, ids=lambda each: repr(each)[:30])
def test_what_no_honest_site_sends_names_no_rule(reason):
    assert rules_of(reason) == ()
    assert refusal_of(error(Refusal.NOT_PERMITTED, reason)) == PLAIN


def test_a_long_reason_takes_no_memory():
    """It is measured before it is taken apart: a megabyte of names would be tens of megabytes of texts."""
    reason = "floors.sites," * 80_000
    tracemalloc.start()
    try:
        assert rules_of(reason) == ()
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def query():
    return query_message(b"content", index=0, node_id=2, seconds=60.0)


def error(code, reason):
    return Message(Error(code=int(code), reason=reason), reply_to=query())


def test_a_refusal_by_the_policy_is_said_in_words_with_the_names():
    rules = (Rule.EPSILON, Rule.SITES)
    message = refusal_message(Refusal.NOT_PERMITTED, to=query(), rules=rules)
    assert (message.error.code, message.error.reason) == (1006, "floors.sites,ceilings.epsilon")
    assert refusal_of(message) == (
        f"{PLAIN}: too few sites (floors.sites), too large an epsilon (ceilings.epsilon)"
    )


def test_a_refusal_without_rules_is_a_code_and_nothing_else():
    for refusal in Refusal:
        message = refusal_message(refusal, to=query())
        assert (message.error.code, message.error.reason) == (refusal, None)
        assert refusal_of(message) == refusal.explanation


@pytest.mark.parametrize(
    "code", [5, 0, 1, 1000, 1007, *(Refusal(each) for each in range(1001, 1006))]
)
def test_with_any_other_code_a_reason_is_not_looked_at(code):
    assert refusal_of(error(code, "floors.sites")) == refusal_of(error(code, None))


def test_every_rule_has_words_of_its_own():
    assert len({each.explanation for each in Rule}) == len(Rule)
    assert all(each in each.explanation for each in Rule)
    assert all("," not in each for each in Rule)
