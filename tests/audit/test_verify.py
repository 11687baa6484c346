"""An export alone convicts whoever contradicts himself; receipts convict whoever tells another story than before."""

import math
from dataclasses import replace

import ledgers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import (
    DATA_SET,
    NAMESPACE,
    approved,
    approved_masked,
    cap_of,
    chained,
    hash_named,
    key_of,
    opening,
    terms_of,
)

from audit.summary import budget_summary, study_summary
from audit.verify import verify_export
from privacy.accounting import epsilon_of
from privacy.errors import DiscreetError, LedgerError
from privacy.events import SumEvent
from privacy.filters import LifetimeCap
from study.canonical import canonical_json, parse_canonical
from study.ledger_entries import (
    Agreed,
    Answered,
    Burnt,
    Closed,
    DataSet,
    DeclaredSum,
    Namespace,
    Opened,
    Refused,
    SignedEntry,
    hash_of,
)
from study.ledger_state import replay
from study.receipts import receipts_of

KEY, STUDY = key_of("site"), hash_named("study")
CAP = cap_of(3.0)


def charged(index, **said):
    return ledgers.charged(index, **({"terms": terms_of(9.0)} | said))


def answered(index, answer="answer"):
    return Answered(study=STUDY, index=index, answer=hash_named(f"{answer} {index}"))


HONEST = [
    *opening(cap=CAP), approved(count=5, z=9.0), charged(0), answered(0), charged(1),
    Burnt(study=STUDY, index=1), charged(2), answered(2), Refused(study=hash_named("x"), reason="NOT_APPROVED"),
    Closed(study=STUDY), approved("next", count=4, z=9.0), charged(0, study="next"),
]  # fmt: skip


def lines_of(bodies=HONEST, **settings_):
    return [each.to_line() for each in chained(bodies, key=KEY, **settings_)]


LINES = lines_of()
RECEIPTS = [each.to_line() for each in receipts_of(replay(chained(HONEST, key=KEY)), KEY)]


def contradiction(lines, match, *, public=KEY.public, receipts=()):
    with pytest.raises(LedgerError, match=match):
        verify_export(lines, public, receipts)


def with_body(number, body):
    """The export of a site that wrote this in the place of entry `number`, and everything after it anew."""
    return lines_of([*HONEST[:number], body, *HONEST[number + 1 :]])


# What stands


def test_an_honest_export_verifies_with_and_without_receipts():
    verdict = verify_export(iter(LINES), KEY.public)
    assert (verdict.state.entries, verdict.receipts) == (len(HONEST), 0)
    verdict = verify_export(LINES, KEY.public, iter(RECEIPTS))
    assert verdict.receipts == len(RECEIPTS) == 2
    assert verdict.state.opened.site == "site"


def test_an_export_may_be_longer_than_the_receipts_know_and_receipts_may_be_few():
    more = [*HONEST, Burnt(study=hash_named("next"), index=0), Closed(study=hash_named("next"))]
    for receipts in (RECEIPTS, RECEIPTS[1:], RECEIPTS[::-1], []):
        assert verify_export(lines_of(more), KEY.public, receipts).receipts == len(receipts)


def test_costs_are_computed_anew_from_the_terms():
    """By another path than the filter's: 1 / z^2 of every charge adds up, and a study's rest is reserved."""
    state = verify_export(LINES, KEY.public).state
    summary = budget_summary(state, NAMESPACE)
    for each in summary["orders"]:
        assert each["spent"] == pytest.approx(each["order"] * 4 / (2 * 81))
        assert each["held"] == pytest.approx(each["order"] * 7 / (2 * 81))
    assert summary["delta_extra"]["bound"] == pytest.approx(CAP.delta / 10)
    assert 0 < summary["epsilon_spent"] < summary["epsilon_spent_and_reserved"] < 3
    truth = epsilon_of([SumEvent(noise_multiplier=9.0, count=7)], CAP.delta)
    assert truth <= summary["epsilon_spent_and_reserved"] <= 1.5 * truth
    accounts = [study_summary(state, each) for each in state.studies.values()]
    assert [(each["status"], each["charged"], each["answered"], each["burnt"]) for each in accounts] == [
        ("closed", 3, 2, 1), ("open", 1, 0, 0),
    ]  # fmt: skip
    assert [each["declared"] for each in accounts] == [5, 4]
    assert {each["namespace"] for each in accounts} == {NAMESPACE}


def test_what_remains_is_said_as_a_study_that_would_fit():
    summary = budget_summary(verify_export(LINES, KEY.public).state, NAMESPACE)
    mu = summary["remaining_mu"]
    assert summary["remaining_study_epsilon"] == pytest.approx(
        epsilon_of([SumEvent(noise_multiplier=1 / mu)], CAP.delta - CAP.extra)
    )
    held = 7 / 81
    whole = CAP.remaining_mu(CAP.nothing) ** 2
    assert mu**2 == pytest.approx(whole - held)


def test_a_namespace_with_nothing_left_or_nothing_protected_has_a_summary_too():
    used_up = LifetimeCap(epsilon=0.01, delta=1e-5, orders=(2.0,))
    state = verify_export(lines_of([*opening(cap=used_up)]), KEY.public).state
    summary = budget_summary(state, NAMESPACE)
    assert (summary["remaining_mu"], summary["remaining_study_epsilon"]) == (0.0, 0.0)
    state = verify_export(lines_of([*opening(cap=None)]), KEY.public).state
    assert budget_summary(state, NAMESPACE) == {
        "namespace": NAMESPACE,
        "protected": False,
        "epsilon": None,
    }


# What anybody could do to an export: found by chain and signatures


@pytest.mark.parametrize("number", range(len(HONEST) - 1))
def test_a_removed_entry_is_found_where_it_is_missing(number):
    contradiction(
        [*LINES[:number], *LINES[number + 1 :]], f"^Entry {number}: Expected the entry that follows"
    )


def test_a_removed_tail_is_found_by_receipts_alone():
    verify_export(LINES[:8], KEY.public)
    contradiction(
        LINES[:8],
        "^Receipt of query 2 .* found a ledger of 8 entries: it was rolled back",
        receipts=RECEIPTS,
    )


@pytest.mark.parametrize("number", range(len(HONEST) - 1))
def test_reordered_and_doubled_entries_are_found_where_they_stand(number):
    swapped = [*LINES[:number], LINES[number + 1], LINES[number], *LINES[number + 2 :]]
    contradiction(swapped, f"^Entry {number}: Expected the entry that follows")
    doubled = [*LINES[: number + 1], LINES[number], *LINES[number + 1 :]]
    contradiction(doubled, f"^Entry {number + 1}: Expected the entry that follows")


@pytest.mark.parametrize("number", range(len(HONEST)))
def test_an_edited_entry_is_found_by_its_signature(number):
    values = parse_canonical(LINES[number])
    values["entry"]["time"] += 1
    edited = [*LINES[:number], canonical_json(values), *LINES[number + 1 :]]
    contradiction(edited, rf"^Entry {number}: Expected a signature \(ledger\)")


@pytest.mark.parametrize("number", range(len(HONEST)))
def test_another_keys_signature_is_found(number):
    content = chained(HONEST, key=KEY)[number].content
    digest = bytes.fromhex(hash_of(content))
    for signature in (key_of("other").sign("ledger", digest), KEY.sign("receipt", digest)):
        forged = SignedEntry(content=content, signature=signature).to_line()
        contradiction(
            [*LINES[:number], forged, *LINES[number + 1 :]],
            f"^Entry {number}: Expected a signature",
        )


def test_another_sites_ledger_is_not_this_sites():
    other = key_of("other")
    theirs = [each.to_line() for each in chained(opening("site", cap=CAP, key=other), key=other)]
    verify_export(theirs, other.public)
    contradiction(theirs, "^Entry 0: Expected the ledger of the given key", public=KEY.public)
    contradiction(LINES, "^Entry 0: Expected the ledger of the given key", public=other.public)
    contradiction([*LINES[:5], *theirs], "^Entry 5: Expected the entry that follows")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b"", "canonical JSON"), (b"{}", "a line with entry and signature"), (b"\xff\x00", "canonical JSON"),
        (b"null", "a line with"), (LINES[3][:-1], "canonical JSON"), (LINES[3] + b" ", "canonical JSON"),
        (LINES[3].replace(b'"kind":"approved"', b'"kind":"granted"'), "a kind of entry"),
        (LINES[3].replace(b'"count":5', b'"count":0'), "a count from 1"),
        (LINES[3].replace(b'"version":1', b'"version":2', 1), "version"),
        (b"[" * 5000, "canonical JSON"),
    ],
)  # fmt: skip
def test_a_line_that_is_none_is_named_by_its_number(line, match):
    contradiction([*LINES[:3], line, *LINES[4:]], f"^Entry 3: .*{match}")


def test_nothing_at_all_is_no_ledger():
    contradiction([], "found nothing")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(LINES) - 1), st.data())
def test_no_flipped_bit_anywhere_is_overlooked(number, data):
    line = bytearray(LINES[number])
    place = data.draw(st.integers(0, 8 * len(line) - 1))
    line[place // 8] ^= 1 << (place % 8)
    contradiction([*LINES[:number], bytes(line), *LINES[number + 1 :]], f"^Entry {number}: ")


# What only the site can do, which signs what it likes. Found, since an entry contradicts those before it:

LIES = {
    "a study beyond the budget": (3, approved(count=200, z=9.0), "Entry 3: .*within the lifetime budget of epsilon 3"),
    "a budget that was raised": (3, Namespace(namespace=NAMESPACE, cap=cap_of(30.0)), "Entry 3: .*a new namespace"),
    "a data set of other units": (
        3, DataSet(data_set=DATA_SET, namespace=NAMESPACE, unit="x"), "Entry 3: .*keep its namespace",
    ),
    "a study of no data set": (3, approved(data_set="other"), "Entry 3: .*a data set of this ledger"),
    "a study without privacy": (
        3, approved(sums=(DeclaredSum(function="gradient", count=5, terms=None),)), "Entry 3: .*with privacy, found one without",
    ),
    "a charge of no study": (4, charged(0, study="unheard"), "Entry 4: .*a study that was approved"),
    "a charge of another function": (4, charged(0, function="moments"), "Entry 4: .*a function that the study declares"),
    "a charge at another price": (4, charged(0, terms=terms_of(8.0)), "Entry 4: .*the terms that were approved"),
    "an answer that was not charged": (4, answered(0), "Entry 4: .*charged and pending, found none"),
    "an answer to a burnt query": (9, answered(1), "Entry 9: .*found one that is burnt"),
    "two answers to one query": (6, answered(0, "other"), "Entry 6: .*found one that is answered"),
    "a query charged twice": (8, charged(1), "Entry 8: .*found number 1 again"),
    "a study closed while it computes": (7, Closed(study=STUDY), "Entry 7: .*no pending query"),
    "a closed study that goes on": (12, charged(3), "Entry 12: .*closed"),
    "a closed study approved again": (12, approved(count=5, z=9.0), "Entry 12: .*closed"),
    "a second beginning": (5, Opened(site="site", key=KEY.public.hex()), "Entry 5: .*opens the ledger"),
}  # fmt: skip


@pytest.mark.parametrize(("number", "body", "match"), LIES.values(), ids=LIES)
def test_a_lie_that_the_site_signed_itself_is_found_where_it_is_told(number, body, match):
    contradiction(with_body(number, body), f"^{match}")


TWO_SHARES = terms_of(9.0, made_of=2)
ALL, THREE = (Agreed(study=STUDY, index=0, survivors=each) for each in (None, (1, 2, 3)))
MASKED = [
    *opening(cap=CAP), approved_masked(count=5, z=9.0), charged(0, terms=TWO_SHARES), answered(0), THREE,
    charged(1, terms=TWO_SHARES), answered(1), Agreed(study=STUDY, index=1, survivors=None), Closed(study=STUDY),
]  # fmt: skip
MASKED_LIES = {
    "more shares than a masked study's own trust has": (
        3, approved_masked(trust="server", count=5, sums=MASKED[3].sums), "Entry 3: .*one share of noise",
    ),
    "masks of nobody": (3, replace(MASKED[3], roster=None), "Entry 3: .*the roster of a study"),
    "masks on thresholds that carry nothing": (
        3, approved_masked(sums=(DeclaredSum(function="gradient", count=5, terms=replace(TWO_SHARES, threshold=1)),)),
        "Entry 3: .*sound terms of gradient: Expected 2 tau",
    ),
    "a sum agreed on before the answer": (5, ALL, "Entry 5: .*query 0 to be answered"),
    "a sum of two sites": (6, replace(THREE, survivors=(1, 2)), "Entry 6: .*at least 3 survivors of 3"),
    "a second sum of one query": (7, ALL, "Entry 7: .*agreed on once"),
    "the same sum again": (7, THREE, "Entry 7: .*agreed on once"),
    "a sum of a query that nobody asked": (7, replace(ALL, index=4), "Entry 7: .*query 4 to be answered"),
    "a sum of a closed study": (11, ALL, "Entry 11: .*found one that is closed"),
}  # fmt: skip


def test_a_ledger_of_masked_sums_stands_and_is_charged_with_two_shares():
    state = verify_export(lines_of(MASKED), KEY.public).state
    assert [each.agreed.survivors for each in state.account(STUDY).asked.values()] == [
        (1, 2, 3),
        None,
    ]
    for each in budget_summary(state, NAMESPACE)["orders"]:
        assert each["spent"] == each["held"] == pytest.approx(each["order"] * 2 / (2 * 81))


@pytest.mark.parametrize(("number", "body", "match"), MASKED_LIES.values(), ids=MASKED_LIES)
def test_a_lie_about_a_masked_sum_is_found_where_it_is_told(number, body, match):
    bodies = [*MASKED[:number], body, *MASKED[number + 1 :]]
    contradiction(lines_of(bodies), f"^{match}")


def test_one_sum_more_than_declared_is_found():
    bodies = [*opening(cap=CAP), approved(count=2, z=9.0), charged(0), charged(1), charged(2)]
    contradiction(lines_of(bodies), "^Entry 6: Expected at most 2 queries of gradient")


INFLATED = {
    "noise multiplier": {"noise_multiplier": 9.1}, "slack": {"slack": 0.0}, "negative slack": {"slack": -0.5},
    "unlikely": {"unlikely": 0.0}, "scale": {"scale": 1e9}, "deviation": {"base": 64}, "beta": {"beta": 1e-200},
    "clipping norm": {"clipping_norm": 2.0}, "dimension": {"dimension": 10_000, "unlikely": 1e-20},
    "adjacency": {"adjacency": "replace-one"}, "sites per unit": {"sites_per_unit": 2},
    "sampling at several sites": {"sites_per_unit": 2, "sampling_rate": 0.1, "noise_multiplier": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("changed", INFLATED.values(), ids=INFLATED)
def test_noise_that_its_own_constants_do_not_yield_is_found(changed):
    terms = terms_of(9.0, **changed)
    body = approved(sums=(DeclaredSum(function="gradient", count=1, terms=terms),))
    contradiction(with_body(3, body), "^Entry 3: Expected (sound )?terms of gradient")


def test_more_shares_than_honest_sites_cannot_even_be_written():
    line = LINES[3].replace(b'"shares":1', b'"shares":3')
    assert line != LINES[3]
    contradiction([*LINES[:3], line, *LINES[4:]], "^Entry 3: Expected shares from 1")


# Not found in an export alone, as nothing in it contradicts them. The documents say so (docs/ledger.md).

REWRITTEN = {
    "a study left out": [*HONEST[:3], approved("next", count=4, z=9.0), charged(0, study="next")],
    "a charge left out": [*HONEST[:4], charged(1), Burnt(study=STUDY, index=1), charged(2), answered(2)],
    "another answer": [*HONEST[:5], answered(0, "other"), *HONEST[6:]],
    "a budget that was always larger": [HONEST[0], Namespace(namespace=NAMESPACE, cap=cap_of(30.0)), *HONEST[2:]],
    "other constants, sound in themselves": [
        *HONEST[:3], approved(sums=(DeclaredSum(function="gradient", count=5, terms=terms_of(20.0)),)),
        charged(0, terms=terms_of(20.0)), answered(0), charged(1, terms=terms_of(20.0)), Burnt(study=STUDY, index=1),
        charged(2, terms=terms_of(20.0)), answered(2),
    ],
    "everything anew": opening(cap=CAP),
}  # fmt: skip


@pytest.mark.parametrize("bodies", REWRITTEN.values(), ids=REWRITTEN)
def test_a_history_rewritten_from_the_start_is_found_by_receipts_alone(bodies):
    lines = lines_of(bodies)
    verify_export(lines, KEY.public)
    contradiction(lines, "^Receipt of query 0 .*(rolled back|forked|another)", receipts=RECEIPTS)


@pytest.mark.parametrize("bodies", REWRITTEN.values(), ids=REWRITTEN)
def test_within_any_one_history_a_site_stays_within_its_budget(bodies):
    state = verify_export(lines_of(bodies), KEY.public).state
    budget = state.budget(NAMESPACE)
    assert budget.cap.holds(budget.held)


# Receipts


def test_the_first_receipt_that_is_contradicted_is_named():
    rewritten = [*HONEST[:8], charged(4), answered(4)]
    contradiction(lines_of(rewritten), "^Receipt of query 2 of study .*forked", receipts=RECEIPTS)
    contradiction(
        lines_of(HONEST[:5]), "^Receipt of query 0 .*found another or none", receipts=RECEIPTS
    )


def test_the_same_history_at_another_time_is_another_history():
    contradiction(lines_of(time=1_001), "^Receipt of query 0 .*forked", receipts=RECEIPTS)


def test_a_receipt_that_the_site_did_not_sign_accuses_nobody():
    other = key_of("other")
    theirs = [each.to_line() for each in receipts_of(replay(chained(HONEST, key=KEY)), other)]
    contradiction(LINES, r"^Receipts: Expected a signature \(receipt\)", receipts=theirs)


@pytest.mark.parametrize("line", [b"", b"{}", b"\xff", RECEIPTS[1][:-1], LINES[3]])
def test_a_malformed_receipt_is_named_by_its_number(line):
    contradiction(LINES, "^Receipt 2: ", receipts=[RECEIPTS[0], line])


# Exports made to hurt whoever verifies them


@pytest.mark.parametrize(
    "terms",
    [
        {"noise_multiplier": 1e-6}, {"noise_multiplier": 1e15}, {"scale": 1e300}, {"scale": 5e-324}, {"beta": 5e-324},
        {"clipping_norm": 1e308}, {"clipping_norm": -1e308}, {"dimension": 2**53}, {"dimension": -(2**53)},
        {"base": 2**53}, {"base": -1}, {"stretch": 2**53}, {"slack": 1e308}, {"slack": -1e308}, {"unlikely": 0.999},
        {"sampling_rate": 5e-324}, {"sampling_rate": 1e-300, "noise_multiplier": 1e-6}, {"bits": 2**53},
        {"sites": 2**53, "survivors": 2**53, "threshold": 2**53, "sites_per_unit": 2**53}, {"beta": -1.0},
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 2**31])
def test_absurd_constants_are_a_contradiction_or_a_cost_and_never_a_crash(terms, count):
    try:
        sums = (DeclaredSum(function="gradient", count=count, terms=terms_of(9.0, **terms)),)
    except DiscreetError:
        return  # no such entry can be made, nor read
    try:
        state = verify_export(with_body_alone(sums), KEY.public).state
    except LedgerError:
        return
    budget = state.budget(NAMESPACE)
    assert budget.cap.holds(budget.held)
    assert math.isfinite(budget.epsilon_held)


def with_body_alone(sums):
    return lines_of([*opening(cap=CAP), approved(sums=sums)])


@pytest.mark.parametrize(
    "orders",
    [
        "5",
        "null",
        '"ab"',
        "{}",
        "true",
        "[null]",
        '["2"]',
        "[[2]]",
        "[]",
        "[1]",
        "[1e400]",
        "[2,2]",
    ],
)
def test_orders_that_are_none_are_named(orders):
    line = LINES[1]
    start, end = line.index(b'"orders":') + 9, line.index(b"]") + 1
    wrong = line[:start] + orders.encode() + line[end:]
    contradiction([LINES[0], wrong, *LINES[2:]], "^Entry 1: ")


def test_sampled_sums_cost_something_at_every_order_that_a_cap_may_have():
    cap = replace(CAP, orders=(1.0001, 1.5, 2.5, 64.0, 1000.5, 10_000.5))
    cost = cap.cost([terms_of(2.0, sampling_rate=0.1).sums(100)])
    assert all(each > 0 for each in cost.renyi)
    assert list(cost.renyi) == sorted(cost.renyi)
