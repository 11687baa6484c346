"""A site leaves room for the arithmetic of others: nobody else's logarithms may convict it."""

import math
from contextlib import closing

import pytest
from ledgers import NAMESPACE, approved, cap_of, ledger_of

from client.ledger import read_ledger
from privacy import filters
from privacy.errors import BudgetError
from study.ledger_state import replay


def room_of(budget, margin):
    """The square of mu of the largest unsampled study that fits by so much."""
    orders = zip(budget.cap.orders, budget.cap.bounds, budget.held.renyi, strict=True)
    return max(2 * (bound / (1 + margin) - used) / order for order, bound, used in orders)


def test_what_fits_to_the_last_digit_is_refused_and_a_millionth_less_is_approved(
    tmp_path, monkeypatch
):
    """Filled to the brim the ledger would be refused by a machine, or a later version, that differs in a digit."""
    path = tmp_path / "ledger.sqlite"
    with closing(ledger_of(cap=cap_of(2.0), path=path)) as ledger:
        ledger.approve(approved("first", count=1), [])
        budget = ledger.state.budget(NAMESPACE)
        brimful = approved("second", count=1, z=(1 + 1e-10) / math.sqrt(room_of(budget, 0.0)))
        with pytest.raises(BudgetError, match="lifetime budget of epsilon 2"):
            ledger.approve(brimful, [])
        replay(read_ledger(path)).apply(
            ledger.state.next_entry(brimful, time=10**9)
        )  # the rule itself allows it
        ledger.approve(
            approved("second", count=1, z=(1 + 1e-10) / math.sqrt(room_of(budget, 1e-6))), []
        )
        assert ledger.state.budget(NAMESPACE).epsilon_held == pytest.approx(2.0, abs=1e-5)
    exact = filters.renyi_divergence
    monkeypatch.setattr(filters, "renyi_divergence", lambda *of: exact(*of) * (1 + 9e-7))
    elsewhere = replay(read_ledger(path)).budget(NAMESPACE)
    assert elsewhere.cap.holds(elsewhere.held)
