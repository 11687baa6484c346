"""One site's side of a round, without Flower: a query's bytes in, an answer's bytes out.

A site answers the studies that its operator has approved, and no others: `approve` names one declaration by its hash,
brings the records, and is where everything that can be wrong with either is said, to the operator alone.

Then, for every query, the order is the guarantee: check -> charge -> compute -> keep the bytes -> send. A query that
was answered is answered again with the very same bytes, never computed anew, since two answers to one question would
let their noise be averaged away. A query that was charged and not answered is burnt. What was charged and answered
stands in the site's ledger (`client/ledger.py`), on the disk before the next step is taken.

The site's policy is read when a study is approved and again for every query: what has become stricter holds at once,
and one that cannot be read allows nothing.

Nothing about a refusal depends on the data: every check here reads the query, the policy and what was asked before.
Should the data ever make the computation fail, the site contributes zero, rounds, adds its noise and answers like any
other; `problems` tells its operator. How long the computation takes is not hidden (`docs/threat-model.md`).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from client.ledger import Ledger
from client.policy import Policy, PolicyError
from client.tables import Records, check_site
from privacy.errors import DiscreetError, LedgerError, PrivacyError, ProtocolError
from privacy.keystream import KEY_BYTES, Keystream
from privacy.private_sum import answer
from privacy.sampling import poisson_sample
from study.charging import declared_sums
from study.contract import Study
from study.contributions import Contributor, Units, check_parameters
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.ledger_entries import Approved
from study.ledger_state import Asked
from study.models import feature_names
from study.queries import NONCE_BYTES, Refusal, SumAnswer, SumQuery, query_hash
from study.rules import Rule
from study.scaling import clamp_and_scale, scale_labels

__all__ = ["Entropy", "RefusedError", "Site", "scaled_units", "system_entropy", "units_of"]

_MOST_PROBLEMS = 100


class Entropy(Protocol):
    """Where a site's secret keys come from: 32 bytes for one purpose, different for different labels."""

    def __call__(self, *labels: str | int | bytes) -> bytes:
        """The key for these labels."""


def system_entropy(*_labels: str | int | bytes) -> bytes:
    """Keys from the operating system, new at each call: what every real site uses."""
    return secrets.token_bytes(KEY_BYTES)


class RefusedError(DiscreetError):
    """The site does not answer; `refusal`, and the names of the `rules` of its policy that are broken, leave it."""

    def __init__(self, refusal: Refusal, rules: Sequence[Rule] = ()) -> None:
        super().__init__(refusal.explanation)
        self.refusal, self.rules = refusal, tuple(rules)


@dataclass(frozen=True)
class _Approved:
    """A study that this site takes part in, its records at hand."""

    guarantee: Guarantee
    contributor: Contributor


class Site:
    """A site that answers the queries of the studies it has approved.

    Arguments:
        ledger: the site's own. What it charged and never answered, when it last ran, is burnt now.
        entropy: source of secret keys.
        policy: reads the standing rules of this moment, such as a `PolicyFile`; None: there are none, and
            whatever is approved is allowed, as in a simulation.
        allow_unsafe: take part in studies without privacy too; simulations alone may say so.

    Attributes:
        problems: for the operator's own eyes, the first hundred: names of exceptions that data or the disk have caused,
            and why the policy refused.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        entropy: Entropy = system_entropy,
        policy: Callable[[], Policy] | None = None,
        allow_unsafe: bool = False,
    ) -> None:
        self.problems: list[str] = []
        self._ledger = ledger
        self._entropy = entropy
        self._policy = policy
        self._allow_unsafe = allow_unsafe
        self._considered: dict[str, Guarantee] = {}
        self._approved: dict[str, _Approved] = {}
        self._lock = threading.Lock()
        ledger.burn_pending()

    def approve(self, declaration: Declaration, records: Records, *, data_set: str) -> None:
        """Take part in this very study, with these records of a registered data set; its whole cost is reserved.

        After a restart it is approved again, which brings the records and costs nothing.

        Raises:
            PrivacyError: its noise does not buy the promised epsilon by this site's own accountant, or it is unsafe,
                or it protects another unit than the one whose budget it would spend.
            PolicyError: the policy does not allow it, or cannot be read.
            BudgetError: it costs more than is left of the lifetime budget.
            LedgerError: there is no such data set, or the study is over.
            DataError: the records are not what it can use, or fewer than the policy asks.
        """
        guarantee, study = Guarantee(declaration), declaration.study
        if study.privacy.trust == "unsafe" and not self._allow_unsafe:
            raise PrivacyError("Expected a study with privacy, found trust = unsafe")
        guarantee.check()
        self._considered[declaration.hash] = guarantee
        if self._policy is not None:
            policy = self._policy()
            policy.require(guarantee)
            policy.require_units(len(records.identities), records.name)
        self._require_unit(study, data_set)
        units = units_of(records, study)
        approval = Approved(
            study=declaration.hash, name=study.name, data_set=data_set, trust=study.privacy.trust,
            sums=declared_sums(guarantee),
        )  # fmt: skip
        self._ledger.approve(approval, records.identities)
        self._approved[declaration.hash] = _Approved(guarantee, Contributor(guarantee, units))

    def close_study(self, study: str) -> None:
        """The study of this hash is over: what it never asked is free again."""
        self._ledger.close_study(study)
        self._approved.pop(study, None)

    def answer(self, content: bytes) -> bytes:
        """Answer one query.

        Raises:
            RefusedError: with a code that tells nothing about the data.
        """
        try:
            query = SumQuery.from_bytes(content)
        except ProtocolError as error:
            raise RefusedError(Refusal.MALFORMED) from error
        try:
            return self._answer(query, query_hash(content))
        except RefusedError as refused:
            self._log(query.declaration.hash, refused.refusal)
            raise

    def _answer(self, query: SumQuery, name: str) -> bytes:
        self._require_permission(query.declaration.hash)
        study = self._approved.get(query.declaration.hash)
        if study is None:
            raise RefusedError(Refusal.NOT_APPROVED)
        with self._lock:
            try:
                if not self._ledger.is_open(query.declaration.hash):
                    raise RefusedError(Refusal.NOT_APPROVED)
                asked = self._ledger.find(query.declaration.hash, query.index)
                return self._anew(study, query, name) if asked is None else self._again(asked, name)
            except LedgerError as error:  # the disk failed, or another process was faster
                self._note(error)
                raise RefusedError(Refusal.UNAVAILABLE) from error

    def _require_permission(self, study: str) -> None:
        """Refuse a study that the policy of this moment does not allow, whether its operator has approved it or not.

        One that its operator has never considered is refused without a look at the policy: nobody may sound that out.
        """
        guarantee = self._considered.get(study)
        if guarantee is None or self._policy is None:
            return
        try:
            self._policy().require(guarantee)
        except Exception as error:
            rules = error.rules if isinstance(error, PolicyError) else ()
            if str(error) not in self.problems:  # once, however often it is asked
                self._note(error, str(error))
            raise RefusedError(Refusal.NOT_PERMITTED, rules) from error

    def _again(self, asked: Asked, name: str) -> bytes:
        """The bytes that were answered before. Burnt, pending in another process, or not kept: there are none."""
        if asked.charge.query != name:
            raise RefusedError(Refusal.OTHER_QUERY_ANSWERED)
        answer = self._ledger.stored(asked.charge.study, asked.charge.index)
        if answer is None:
            raise RefusedError(Refusal.UNAVAILABLE)
        return answer

    def _anew(self, study: _Approved, query: SumQuery, name: str) -> bytes:
        """Check -> charge -> compute -> keep the bytes."""
        key = (query.declaration.hash, query.index)
        try:
            study.guarantee.stage(query.function)
            check_parameters(study.guarantee.study, query.function, query.parameters)
        except (PrivacyError, ProtocolError) as error:
            raise RefusedError(Refusal.MALFORMED) from error
        if not self._ledger.sums_left(query.declaration.hash, query.function):
            raise RefusedError(Refusal.TOO_MANY_QUERIES)
        self._ledger.charge(*key, query.function, name)
        try:
            answer = self._computed(study, query, name).to_bytes()
        except (
            Exception
        ) as error:  # not for the data's sake: the index is burnt, the server learns a fixed code
            self._ledger.burn(*key)
            self._note(error)
            raise RefusedError(Refusal.UNAVAILABLE) from error
        self._ledger.store(*key, answer)
        return answer

    def _log(self, study: str, refusal: Refusal) -> None:
        """Write a refusal down; if that fails it is a refusal all the same."""
        try:
            self._ledger.refuse(study, refusal.name)
        except LedgerError as error:
            self._note(error)

    def _note(self, problem: Exception, text: str = "") -> None:
        """For the operator; bounded, as whoever asks can provoke some."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(text or type(problem).__name__)

    def _require_unit(self, study: Study, data_set: str) -> None:
        """A lifetime budget is one of units: a study of records would spend a patient's once for each of his."""
        registered = self._ledger.data_set(data_set).unit
        if registered != study.data.unit and study.training.algorithm != "dp-fedavg":
            named = "records" if study.data.unit is None else f'units of column "{study.data.unit}"'
            budget = "records" if registered is None else f'units of column "{registered}"'
            raise PrivacyError(
                f"Expected a study that protects {budget}, as {data_set} was registered, found one of {named}",
                hint="set data.unit in the study to the registered column",
            )

    def _computed(self, study: _Approved, query: SumQuery, name: str) -> SumAnswer:
        """Clipped sum -> scale, round, add noise."""
        labels = (query.declaration.hash, query.index)
        vector: npt.NDArray[Any] = self._clipped_sum(study, query)
        mechanism = study.guarantee.mechanism(query.function)
        if mechanism is not None:
            with_noise = study.guarantee.study.privacy.trust != "server"
            integers = answer(
                mechanism,
                vector,
                dither=Keystream(self._entropy("dither", *labels)),
                noise_share=Keystream(self._entropy("noise", *labels)) if with_noise else None,
            )
            vector = integers.astype(np.int32 if mechanism.bits == 32 else np.int64)
        nonce = self._entropy("nonce", *labels)[:NONCE_BYTES]
        return SumAnswer(query_hash=name, vector=vector, nonce=nonce)

    def _clipped_sum(self, study: _Approved, query: SumQuery) -> npt.NDArray[np.float64]:
        """Sample -> clip and sum. Zero if that fails: only the data could have made it."""
        stage = study.guarantee.stage(query.function)
        sample = Keystream(self._entropy("sample", query.declaration.hash, query.index))
        try:
            chosen = poisson_sample(study.contributor.unit_count, stage.sampling_rate, sample)
            if stage.sampling_rate < 1:
                chosen &= np.cumsum(chosen) <= stage.capacity
            return study.contributor.clipped_sum(query.function, query.parameters, chosen)
        except Exception as error:  # noqa: BLE001  whatever it was, it must not show
            self._note(error)
            return np.zeros(stage.dimension)


def units_of(records: Records, study: Study) -> Units:
    """The training units of a site, clamped and scaled by public bounds.

    Raises:
        DataError: more units than the study's public capacity.
    """
    check_site(records, study)
    return scaled_units(records.train_part(), study)


def scaled_units(part: Records, study: Study) -> Units:
    """These records, clamped and scaled by public bounds."""
    data = study.data
    bounds = [data.bounds_of(name) for name in feature_names(study)]
    labels = part.labels
    if data.task == "regression":
        labels = scale_labels(labels.astype(np.float64), data.label_bounds, data.scaled)
    return Units(
        clamp_and_scale(part.features, bounds, data.scaled),
        labels,
        part.units,
        len(part.identities),
    )
