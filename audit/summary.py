"""What a ledger adds up to, as plain values for commands and reports."""

from __future__ import annotations

from typing import Any

from privacy.accounting import epsilon_of
from privacy.events import SumEvent
from study.ledger_state import LedgerState, StudyAccount

__all__ = ["budget_summary", "study_summary"]


def budget_summary(state: LedgerState, namespace: str) -> dict[str, Any]:
    """How a namespace's lifetime budget stands.

    `remaining_mu` is that of the largest unsampled study which still fits, `remaining_study_epsilon` that study's
    epsilon at the part of the lifetime delta that divergences have. Epsilons that are spent do not add up, nor with
    what remains: divergences do, order by order. What is guaranteed is `epsilon`, fixed beforehand: `epsilon_spent` is
    the least lifetime epsilon that would have sufficed so far, and when somebody looks may depend on what was answered.
    `against` says whom the budget binds: a coordinator that was trusted with the noise has seen sums without it.
    """
    budget = state.budget(namespace)
    if budget is None:
        return {"namespace": namespace, "protected": False, "epsilon": None}
    mu = budget.cap.remaining_mu(budget.held)
    buys = [SumEvent(noise_multiplier=1 / mu)] if mu else []
    orders = zip(
        budget.cap.orders, budget.spent.renyi, budget.held.renyi, budget.cap.bounds, strict=True
    )
    return {
        "namespace": namespace, "protected": True, "against": _against(state, namespace),
        "epsilon": budget.cap.epsilon, "delta": budget.cap.delta,
        "epsilon_spent": budget.epsilon_spent, "epsilon_spent_and_reserved": budget.epsilon_held,
        "remaining_mu": mu, "remaining_study_epsilon": epsilon_of(buys, budget.cap.delta - budget.cap.extra),
        "orders": [dict(zip(("order", "spent", "held", "bound"), each, strict=True)) for each in orders],
        "delta_extra": {
            "spent": budget.spent.extra, "held": budget.held.extra, "bound": budget.cap.extra,
        },
    }  # fmt: skip


def _against(state: LedgerState, namespace: str) -> str:
    trusts = {
        account.approval.trust
        for account in state.studies.values()
        if state.namespace_of(account) == namespace
    }
    if "server" in trusts:
        return "everybody but the coordinator"
    if "aggregate" in trusts:
        return "everybody, while no more sites help the coordinator than a study tolerates"
    return "everybody"


def study_summary(state: LedgerState, account: StudyAccount) -> dict[str, Any]:
    """How far a study has come."""
    approval = account.approval
    statuses = [each.status for each in account.asked.values()]
    return {
        "name": approval.name, "study": approval.study, "data_set": approval.data_set,
        "namespace": state.namespace_of(account), "trust": approval.trust,
        "status": "closed" if account.closed else "open",
        "declared": sum(each.count for each in approval.sums), "charged": len(statuses),
        "answered": statuses.count("answered"), "burnt": statuses.count("burnt"),
    }  # fmt: skip
