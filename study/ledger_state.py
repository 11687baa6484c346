"""What a ledger's entries add up to, and which entry may come next. Sites and auditors fold the same entries with it.

| entry | only if | then |
|---|---|---|
| opened | it is entry 0, and entry 0 is one | the ledger has a site |
| namespace | its name is new | it has a lifetime budget |
| data-set | its namespace is there; it keeps the namespace and unit of its name | it may answer |
| approved | it is new, its data set is there, its whole cost fits in the budget | it is open, and reserved |
| charged | open; a new number; sums of the function are left; the approved terms | the query is pending |
| answered | the query is pending | it has been answered |
| agreed | it has been answered, sums of the study are masked, nothing was agreed on | that sum alone may be unmasked |
| burnt | the query is pending | it will never be answered |
| closed | the study is open, nothing is pending | what it never asked costs nothing any more |
| refused | always | |

An entry that may not come next raises LedgerError (BudgetError, if all it lacks is budget) and changes nothing.

**Budget.** What a study costs is every sum that it may ask while it is open, and every sum that was charged, answered
or burnt, once it is closed. So the total never falls below what was charged, and `privacy/filters.py` says why that
is enough. A study is of one namespace, that of its data set, and no other namespace's budget is ever asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from privacy.errors import BudgetError, LedgerError, PrivacyError, ProtocolError
from privacy.filters import MARGIN, Cost, LifetimeCap, Sums
from study.contract import MASKED
from study.ledger_entries import (
    FIRST,
    Agreed,
    Answered,
    Approved,
    Body,
    Burnt,
    Charged,
    Closed,
    DataSet,
    DeclaredSum,
    Entry,
    Namespace,
    Opened,
    Refused,
    SignedEntry,
)

__all__ = ["Asked", "Budget", "LedgerState", "StudyAccount", "replay"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A query that was charged: what was asked, the entry that charged it, and what became of it.

    `previous` is the head of the latest charge that had been answered then: so receipts are a chain. `agreed` says of
    which sum the answer may be unmasked, once that was agreed to.
    """

    charge: Charged
    sequence: int
    head: str
    previous: str
    status: Literal["pending", "answered", "burnt"] = "pending"
    answer: str | None = None
    agreed: Agreed | None = None


@dataclass(kw_only=True)
class StudyAccount:
    """One approved study: every query by its number, and how many were charged of each function.

    `latest` is number and head of the last charge that was answered.
    """

    approval: Approved
    asked: dict[int, Asked] = field(default_factory=dict)
    charged: Counter[str] = field(default_factory=Counter)
    latest: tuple[int, str] = (-1, FIRST)
    closed: bool = False

    def declared(self, function: str) -> DeclaredSum:
        """That kind of sum. Raises LedgerError where the study has none."""
        for each in self.approval.sums:
            if each.function == function:
                return each
        raise LedgerError("Expected a function that the study declares")

    def spent(self) -> list[Sums]:
        """The sums that were charged."""
        return [
            each.terms.sums(self.charged[each.function])
            for each in self.approval.sums
            if each.terms is not None and self.charged[each.function]
        ]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How a namespace stands: its cap, what was charged, and what counts against it (reservations included)."""

    cap: LifetimeCap
    spent: Cost
    held: Cost

    @property
    def epsilon_spent(self) -> float:
        """The least lifetime epsilon that all charges fit in."""
        return self.cap.epsilon_of(self.spent)

    @property
    def epsilon_held(self) -> float:
        """The same, with everything reserved."""
        return self.cap.epsilon_of(self.held)


class LedgerState:
    """All that a sequence of entries has established.

    Attributes:
        entries: how many there are; head: hash of the last one.
        namespaces: cap by name; data_sets: the latest entry by name; studies: account by hash.
    """

    def __init__(self) -> None:
        self.entries = 0
        self.head = FIRST
        self.time = 0
        self.opened: Opened | None = None
        self.namespaces: dict[str, LifetimeCap | None] = {}
        self.data_sets: dict[str, DataSet] = {}
        self.studies: dict[str, StudyAccount] = {}
        self.refusals: set[tuple[str, str]] = set()
        self._settled: dict[
            str, Cost
        ] = {}  # of closed studies, by namespace; added up once, as there may be many
        self._reserved: dict[str, dict[str, Cost]] = {}  # of open ones, by namespace and study

    def account(self, study: str) -> StudyAccount:
        """The account of an approved study. Raises LedgerError where there is none."""
        if study not in self.studies:
            raise LedgerError("Expected a study that was approved")
        return self.studies[study]

    def budget(self, namespace: str) -> Budget | None:
        """How a namespace stands; None where nothing is protected. Raises LedgerError for an unknown one."""
        if namespace not in self.namespaces:
            raise LedgerError(f'Expected a namespace of this ledger, found "{namespace}"')
        cap = self.namespaces[namespace]
        if cap is None:
            return None
        settled, reserved = self._settled[namespace], self._reserved[namespace]
        spent = (cap.cost(self.studies[each].spent()) for each in reserved)
        return Budget(cap=cap, spent=sum(spent, settled), held=sum(reserved.values(), settled))

    def namespace_of(self, account: StudyAccount) -> str:
        """Whose budget a study spends: that of its data set, which keeps its namespace."""
        return self.data_sets[account.approval.data_set].namespace

    def next_entry(self, body: Body, *, time: int) -> Entry:
        """The entry that would say this next."""
        return Entry(sequence=self.entries, previous=self.head, time=time, body=body)

    def apply(self, entry: Entry) -> None:
        """Fold in the next entry.

        Raises:
            LedgerError: it may not come next; nothing has changed.
        """
        if (entry.sequence, entry.previous) != (self.entries, self.head):
            raise LedgerError("Expected the entry that follows the one before, found another")
        if isinstance(entry.body, Opened) != (self.opened is None):
            raise LedgerError("Expected one entry that opens the ledger, and no other before it")
        _RULES[type(entry.body)](self, entry.body, entry)
        self.entries, self.head, self.time = self.entries + 1, entry.hash, entry.time

    def require_room(self, body: Approved) -> None:
        """What a site asks before it approves: a little more room than the rule, whoever computes it how.

        Raises:
            BudgetError: the study does not fit in the lifetime budget with `MARGIN` to spare.
        """
        data_set = self.data_sets.get(body.data_set)
        budget = self.budget(data_set.namespace) if data_set else None
        if budget is not None:
            _cost_within(budget, body, MARGIN)

    def _open(self, body: Opened, _entry: Entry) -> None:
        self.opened = body

    def _add_namespace(self, body: Namespace, _entry: Entry) -> None:
        if body.namespace in self.namespaces:
            raise LedgerError(f'Expected a new namespace, found "{body.namespace}" again')
        self.namespaces[body.namespace] = body.cap
        if body.cap is not None:
            self._settled[body.namespace] = body.cap.nothing
            self._reserved[body.namespace] = {}

    def _add_data_set(self, body: DataSet, _entry: Entry) -> None:
        if body.namespace not in self.namespaces:
            raise LedgerError(f'Expected a namespace of this ledger, found "{body.namespace}"')
        earlier = self.data_sets.get(body.data_set, body)
        if (earlier.namespace, earlier.unit) != (body.namespace, body.unit):
            raise LedgerError(f'Expected "{body.data_set}" to keep its namespace and unit')
        for other in self.data_sets.values():
            if other.namespace == body.namespace and (other.unit is None) != (body.unit is None):
                raise LedgerError(
                    f'Expected data sets of namespace "{body.namespace}" to be all of records, or all of units that a '
                    f'column names, as "{other.data_set}" is',
                    hint="a budget of records would be spent once for each record of a person",
                )
        self.data_sets[body.data_set] = body

    def _approve(self, body: Approved, _entry: Entry) -> None:
        if body.study in self.studies:
            state = "is closed" if self.studies[body.study].closed else "was approved otherwise"
            raise LedgerError(
                f"Expected a study that is new to this ledger, found one that {state}"
            )
        if body.data_set not in self.data_sets:
            raise LedgerError(f'Expected a data set of this ledger, found "{body.data_set}"')
        for each in body.sums:
            if each.terms is not None:
                _require_sound(each, self.data_sets[body.data_set], body.trust)
        if (body.trust in MASKED) > (body.roster is not None):
            raise LedgerError("Expected the roster of a study whose sums are masked")
        namespace = self.data_sets[body.data_set].namespace
        budget = self.budget(namespace)
        if budget is not None:
            self._reserved[namespace][body.study] = _cost_within(budget, body, 0.0)
        self.studies[body.study] = StudyAccount(approval=body)

    def _charge(self, body: Charged, entry: Entry) -> None:
        account = self._open_account(body.study)
        if body.index in account.asked:
            raise LedgerError(f"Expected a new query, found number {body.index} again")
        declared = account.declared(body.function)
        if account.charged[body.function] >= declared.count:
            raise LedgerError(f"Expected at most {declared.count} queries of {body.function}")
        if body.terms != declared.terms:
            raise LedgerError("Expected the terms that were approved")
        account.asked[body.index] = Asked(
            charge=body, sequence=entry.sequence, head=entry.hash, previous=account.latest[1]
        )
        account.charged[body.function] += 1

    def _answer(self, body: Answered, _entry: Entry) -> None:
        account, asked = self._pending(body.study, body.index)
        account.asked[body.index] = replace(asked, status="answered", answer=body.answer)
        account.latest = max(account.latest, (asked.sequence, asked.head))

    def _agree(self, body: Agreed, _entry: Entry) -> None:
        account = self._open_account(body.study)
        asked = account.asked.get(body.index)
        if asked is None or asked.status != "answered" or account.approval.trust not in MASKED:
            raise LedgerError(f"Expected query {body.index} to be answered, and its answer masked")
        if asked.agreed is not None:
            raise LedgerError(
                f"Expected query {body.index} to be agreed on once, found it agreed on"
            )
        terms = asked.charge.terms
        if (
            terms is not None
            and body.survivors is not None
            and not (len(body.survivors) >= terms.survivors and body.survivors[-1] <= terms.sites)
        ):
            raise LedgerError(
                f"Expected at least {terms.survivors} survivors of {terms.sites} sites"
            )
        account.asked[body.index] = replace(asked, agreed=body)

    def _burn(self, body: Burnt, _entry: Entry) -> None:
        account, asked = self._pending(body.study, body.index)
        account.asked[body.index] = replace(asked, status="burnt")

    def _pending(self, study: str, index: int) -> tuple[StudyAccount, Asked]:
        """A query that waits for its answer."""
        account = self._open_account(study)
        asked = account.asked.get(index)
        if asked is None or asked.status != "pending":
            found = "none" if asked is None else f"one that is {asked.status}"
            raise LedgerError(f"Expected query {index} to be charged and pending, found {found}")
        return account, asked

    def _close(self, body: Closed, _entry: Entry) -> None:
        account = self._open_account(body.study)
        pending = [index for index, each in account.asked.items() if each.status == "pending"]
        if pending:
            raise LedgerError(f"Expected no pending query, found number {pending[0]}")
        namespace = self.namespace_of(account)
        cap = self.namespaces[namespace]
        if cap is not None:
            self._settled[namespace] += cap.cost(account.spent())
            del self._reserved[namespace][body.study]
        account.closed = True

    def _refuse(self, body: Refused, _entry: Entry) -> None:
        self.refusals.add((body.study, body.reason))

    def _open_account(self, study: str) -> StudyAccount:
        account = self.account(study)
        if account.closed:
            raise LedgerError("Expected an open study, found one that is closed")
        return account


_RULES: dict[type[Body], Callable[..., None]] = {
    Opened: LedgerState._open,
    Namespace: LedgerState._add_namespace,
    DataSet: LedgerState._add_data_set,
    Approved: LedgerState._approve,
    Charged: LedgerState._charge,
    Answered: LedgerState._answer,
    Agreed: LedgerState._agree,
    Burnt: LedgerState._burn,
    Closed: LedgerState._close,
    Refused: LedgerState._refuse,
}


def replay(signed: Iterable[SignedEntry], public: bytes | None = None) -> LedgerState:
    """Fold entries from the first on, checking each signature, by `public` if given, else by the key that they name.

    Raises:
        LedgerError: naming the first entry that contradicts the ones before it, or is not signed.
    """
    state = LedgerState()
    for number, each in enumerate(signed):
        try:
            entry = Entry.from_bytes(each.content)
            state.apply(entry)
            named = bytes.fromhex(state.opened.key if state.opened else FIRST)
            if public is not None and named != public:
                raise ProtocolError("Expected the ledger of the given key, found another's")
            each.verify(named)
        except (LedgerError, ProtocolError) as error:
            raise LedgerError(f"Entry {number}: {error.message}", hint=error.hint) from error
    if state.opened is None:
        raise LedgerError("Expected a ledger with at least the entry that opens it, found nothing")
    return state


def _cost_within(budget: Budget, approval: Approved, margin: float) -> Cost:
    """What every sum that a study may ask costs. Raises BudgetError if that is more than is left."""
    terms = [(each.terms, each.count) for each in approval.sums]
    sums = [each.sums(count) for each, count in terms if each is not None]
    if len(sums) < len(terms):
        raise LedgerError("Expected a study with privacy, found one without")
    wanted = budget.cap.cost(sums)
    if not budget.cap.holds(budget.held + wanted, margin=margin):
        raise BudgetError(_what_lacks(budget, wanted), hint=_what_remains(budget))
    return wanted


def _require_sound(declared: DeclaredSum, data_set: DataSet, trust: str) -> None:
    """Terms that this version of the protocol can have, for units of this data set, and the noise that they yield.

    Masked sums hold as many honest shares of noise as the constants of secure aggregation bear out; who sees an answer
    alone lacks one share and no more. There are sums of training units alone. And a study protects the very units of
    the budget, or whole sites, of which they are parts.
    """
    terms = declared.terms
    if terms is None:
        return
    own = "record" if data_set.unit is None else f"a unit of column {data_set.unit}"
    meanings = {(own, "add-or-remove-one"), ("site", "replace-one")}
    if terms.part != "train" or (terms.unit, terms.adjacency) not in meanings:
        raise LedgerError(f"Expected terms of {declared.function} for training units, and {own}")
    if trust != "aggregate" and terms.shares != 1:
        raise LedgerError(
            f"Expected terms of {declared.function} for one share of noise, which is all that is seen of it"
        )
    try:
        terms.check_noise()
        if trust in MASKED:
            terms.check_thresholds()
    except (PrivacyError, ArithmeticError, ValueError) as error:
        raise LedgerError(f"Expected sound terms of {declared.function}: {error}") from error


def _what_lacks(budget: Budget, wanted: Cost) -> str:
    cap, held = budget.cap, budget.held
    if (held + wanted).extra * (1 + MARGIN) > cap.extra:
        return (
            f"Expected a study whose rounding and unlikely events fit in {cap.extra:.3g}, a tenth of the lifetime "
            f"delta: {held.extra:.3g} of it is spent or reserved, and with this study it would be "
            f"{(held + wanted).extra:.3g}"
        )
    return (
        f"Expected a study within the lifetime budget of epsilon {cap.epsilon:g}: {budget.epsilon_held:.3g} of it is "
        f"spent or reserved, and with this study it would be {cap.epsilon_of(held + wanted):.3g}"
    )


def _what_remains(budget: Budget) -> str:
    mu, extra = budget.cap.remaining_mu(budget.held), budget.cap.extra - budget.held.extra
    return (
        f"what remains buys an unsampled study of mu = {mu:.3g} (noise multiplier sqrt(rounds) / mu) whose rounding "
        f"and unlikely events take at most {extra:.3g} of delta; a study that is over gives back what it never asked "
        "when it is closed"
    )
