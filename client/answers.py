"""One site's side of a round, without Flower: a message's bytes in, a reply's bytes out.

A site answers the studies that its operator has approved, and no others: `approve` names one declaration by its hash,
brings the records, and is where everything that can be wrong with either is said, to the operator alone.

Then, for every query, the order is the guarantee: check -> charge -> compute -> mask -> keep the bytes -> send. (With
trust `local` nothing is masked; a study whose sums are masked is never answered in another way.) A query that
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

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from client.ledger import Ledger, Witnessed
from client.masked import MaskedSums
from client.policy import Policy, PolicyError
from client.receipts import RolledBackError, checked_receipts
from client.tables import Records, check_site
from privacy.errors import (
    AggregationError,
    DiscreetError,
    LedgerError,
    NoSessionError,
    PrivacyError,
    ProtocolError,
)
from privacy.keystream import KEY_BYTES, Keystream
from privacy.private_sum import SumMechanism, answer
from privacy.sampling import poisson_sample
from privacy.secure_aggregation.messages import (
    Message,
    RoundRequest,
    SetupRequest,
    is_message,
    message_of,
)
from study.charging import declared_sums
from study.contract import Study
from study.contributions import Contributor, Units, check_parameters
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.instructions import signed_reply
from study.ledger_entries import Approved
from study.models import feature_names
from study.queries import NONCE_BYTES, Refusal, SumAnswer, SumQuery, query_hash
from study.readiness import study_in_question
from study.receipts import ReceiptedAnswer
from study.roster import Roster
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
    roster: Roster | None
    masked: MaskedSums | None


class Site:
    """A site that answers the queries of the studies it has approved.

    Arguments:
        ledger: the site's own. What it charged and never answered, when it last ran, is burnt now.
        beside: of another process that answers for this site, and may be doing so right now: nothing is burnt.
        entropy: source of secret keys.
        policy: reads the standing rules of this moment, such as a `PolicyFile`; None: there are none, and
            whatever is approved is allowed, as in a simulation.
        allow_unsafe: take part in studies without privacy too; simulations alone may say so.

    Attributes:
        problems: for the operator's own eyes, the first hundred: names of exceptions that data or the disk have caused,
            why the policy refused, which step of secure aggregation somebody has broken, whose ledger went back.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        entropy: Entropy = system_entropy,
        policy: Callable[[], Policy] | None = None,
        allow_unsafe: bool = False,
        beside: bool = False,
    ) -> None:
        self.problems: list[str] = []
        self._ledger = ledger
        self._entropy = entropy
        self._policy = policy
        self._allow_unsafe = allow_unsafe
        self._considered: dict[str, Guarantee] = {}
        self._approved: dict[str, _Approved] = {}
        self._lock = threading.Lock()
        if not beside:
            ledger.burn_pending()

    def approve(
        self,
        declaration: Declaration,
        records: Records,
        *,
        data_set: str,
        roster: Roster | None = None,
    ) -> None:
        """Take part in this very study, with these records of a registered data set; its whole cost is reserved.

        After a restart it is approved again, which brings the records and costs nothing.

        Arguments:
            roster: the one that this site has pinned; a study whose sums are masked is not answered without.
        Raises:
            ProtocolError: the study was declared for another roster, or this site is not on it.
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
        masked = self._masked_sums(guarantee, roster)
        approval = Approved(
            study=declaration.hash, name=study.name, data_set=data_set, trust=study.privacy.trust,
            roster=declaration.roster, sums=declared_sums(guarantee),
        )  # fmt: skip
        self._ledger.approve(approval, records.identities)
        contributor = Contributor(guarantee, units)
        self._approved[declaration.hash] = _Approved(guarantee, contributor, roster, masked)

    def _masked_sums(self, guarantee: Guarantee, roster: Roster | None) -> MaskedSums | None:
        declared = guarantee.declaration.roster
        if declared != (None if roster is None else roster.hash):
            raise ProtocolError(
                "Expected a study that was declared for the roster of this site, found one for another",
                hint="has the roster changed? a study is of one roster, and is declared anew for the next",
            )
        if not guarantee.masked:
            return None
        if roster is None:
            raise ProtocolError("Expected a roster: sums of this study are masked among its sites")
        return MaskedSums(guarantee, roster, self._ledger, self._entropy)

    @property
    def public(self) -> bytes:
        """The site's identity: its public key, 32 bytes."""
        return self._ledger.public

    def signed_reply(self, payload: bytes, *, instruction: bytes) -> bytes:
        """What leaves the site: signed by its identity, as the reply to this very instruction."""
        nonce = self._entropy("reply", hashlib.sha256(instruction).digest())[:NONCE_BYTES]
        return signed_reply(payload, instruction=instruction, sign=self._ledger.sign, nonce=nonce)

    def close_study(self, study: str) -> None:
        """The study of this hash is over: what it never asked is free again."""
        self._ledger.close_study(study)
        self._approved.pop(study, None)

    def answer(self, content: bytes) -> bytes:
        """Answer one message.

        Raises:
            RefusedError: with a code that tells nothing about the data.
        """
        try:
            asked = study_in_question(content)
            message = message_of(content) if is_message(content) else None
            query = None if asked else _query_of(message, content)
            study = asked or self._study_of(message, query)
        except ProtocolError as error:
            raise RefusedError(Refusal.MALFORMED) from error
        try:
            self._require_permission(study)
            with self._lock:
                return self._reply(study, message, query, content)
        except RefusedError as refused:
            self._log(study, refused.refusal)
            raise

    def _study_of(self, message: Message | None, query: SumQuery | None) -> str:
        """Hash of the study that a message is about. Raises ProtocolError where it is about no open round."""
        if query is not None:
            return query.study
        if isinstance(message, SetupRequest):
            return message.study.hex()
        transcript = getattr(message, "transcript", b"")
        for study, approved in self._approved.items():
            if approved.masked is not None and approved.masked.is_open(transcript):
                return study
        raise ProtocolError("Expected a message about an open round")

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
            self.note(error, str(error))
            raise RefusedError(Refusal.NOT_PERMITTED, rules) from error

    def _reply(
        self, study: str, message: Message | None, query: SumQuery | None, content: bytes
    ) -> bytes:
        approved = self._approved.get(study)
        try:
            if approved is None or not self._ledger.is_open(study):
                raise RefusedError(Refusal.NOT_APPROVED)
            return self._said(approved, message, query, content)
        except AggregationError as error:
            if isinstance(error, NoSessionError):  # as after every restart
                raise RefusedError(Refusal.NO_SESSION) from error
            self.note(error, error.message)
            raise RefusedError(Refusal.OUT_OF_PROTOCOL) from error
        except LedgerError as error:  # the disk failed, or another process was faster
            if isinstance(error, RolledBackError):
                self.note(error, error.message)
                raise RefusedError(Refusal.LEDGER_BEHIND) from error
            self.note(error)
            raise RefusedError(Refusal.UNAVAILABLE) from error

    def _said(
        self, study: _Approved, message: Message | None, query: SumQuery | None, content: bytes
    ) -> bytes:
        """What this site says of a study that it takes part in."""
        if query is not None:
            if isinstance(message, RoundRequest):
                return self._masked(study, message, query)
            return self._plain(study, query, query_hash(content))
        if message is None:
            return content  # it was asked whether it would
        if study.masked is None:
            raise AggregationError("setup", "expected a study whose sums are masked")
        if isinstance(message, SetupRequest):
            return study.masked.announce(message)
        return study.masked.unmask(message)

    def _plain(self, study: _Approved, query: SumQuery, name: str) -> bytes:
        """Trust `local`, or none: the answer as it is."""
        if study.masked is not None:
            raise AggregationError(
                "upload", "expected a round of secure aggregation, as sums of this study are masked"
            )
        if self._is_new(query, name):
            mechanism = self._mechanism(study, query)
            with self._paid(study, query, name):
                vector = self._vector(study, query, mechanism)
                nonce = self._entropy("nonce", query.study, query.index)[:NONCE_BYTES]
                content = SumAnswer(query_hash=name, vector=vector, nonce=nonce).to_bytes()
                self._ledger.store(query.study, query.index, content)
        return self._kept(query)

    def _masked(self, study: _Approved, request: RoundRequest, query: SumQuery) -> bytes:
        """The answer, under masks that only the sum over the sites takes off."""
        mechanism, masked = self._mechanism(study, query), study.masked
        if masked is None or mechanism is None:
            raise AggregationError(
                "upload", "expected a query of a study whose sums are not masked"
            )
        if query.index != request.round:
            raise AggregationError("upload", "expected a round with the number of its query")
        name = masked.transcript(request, mechanism)
        if self._is_new(query, name):
            joined = masked.join(request, mechanism)
            with self._paid(study, query, name):
                masked.mask(joined, self._integers(study, query, mechanism), mechanism)
        return self._kept(query)

    def _is_new(self, query: SumQuery, name: str) -> bool:
        """Was nothing asked under this number before? Refuses another question than the one that was.

        Arguments:
            name: all that is asked, hashed.
        """
        asked = self._ledger.find(query.study, query.index)
        if asked is not None and asked.charge.query != name:
            raise RefusedError(Refusal.OTHER_QUERY_ANSWERED)
        return asked is None

    @contextmanager
    def _paid(self, study: _Approved, query: SumQuery, name: str) -> Iterator[None]:
        """Charge a query, then compute, mask and store its answer; if that fails it is burnt."""
        key = (query.study, query.index)
        witnessed = self._witnessed(study, query)
        if not self._ledger.sums_left(query.study, query.function):
            raise RefusedError(Refusal.TOO_MANY_QUERIES)
        self._ledger.charge(*key, query.function, name, witnessed=witnessed)
        try:
            yield
        except Exception as error:  # not for the data's sake; the server learns a fixed code
            self._ledger.burn(*key)
            self.note(error)
            raise RefusedError(Refusal.UNAVAILABLE) from error

    def _kept(self, query: SumQuery) -> bytes:
        """The bytes that were stored, and their receipt. Burnt, pending elsewhere, or not kept: there are none."""
        key = (query.study, query.index)
        answer = self._ledger.stored(*key)
        if answer is None:
            raise RefusedError(Refusal.UNAVAILABLE)
        shown = query.receipts.get(self._number_on(query), ())
        known = [each.receipt.head for each in shown]
        chain = self._ledger.receipts(*key, known=known)
        return ReceiptedAnswer(chain=chain, answer=answer).to_bytes()

    def _number_on(self, query: SumQuery) -> int:
        """This site's number on the roster of a study; 0 where there is none."""
        roster = self._approved[query.study].roster
        return 0 if roster is None else roster.number_of(self._ledger.public)

    def _mechanism(self, study: _Approved, query: SumQuery) -> SumMechanism | None:
        """The private sum that is asked for. Refuses a query that is none of this study."""
        try:
            check_parameters(study.guarantee.study, query.function, query.parameters)
            return study.guarantee.mechanism(query.function)
        except (PrivacyError, ProtocolError) as error:
            raise RefusedError(Refusal.MALFORMED) from error

    def _witnessed(self, study: _Approved, query: SumQuery) -> dict[bytes, Witnessed]:
        """What the query tells of other sites' ledgers, once it is checked."""
        if study.roster is None:
            return {}
        try:
            return checked_receipts(
                query.receipts, study=query.study, roster=study.roster, own=self._number_on(query),
                ledger=self._ledger,
            )  # fmt: skip
        except ProtocolError as error:
            raise RefusedError(Refusal.MALFORMED) from error

    def _log(self, study: str, refusal: Refusal) -> None:
        """Write a refusal down; if that fails it is a refusal all the same."""
        try:
            self._ledger.refuse(study, refusal.name)
        except LedgerError as error:
            self.note(error)

    def note(self, problem: Exception, text: str = "") -> None:
        """For the operator, once; bounded, as whoever asks can provoke some."""
        said = text or type(problem).__name__
        if len(self.problems) < _MOST_PROBLEMS and said not in self.problems:
            self.problems.append(said)

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

    def _vector(
        self, study: _Approved, query: SumQuery, mechanism: SumMechanism | None
    ) -> npt.NDArray[Any]:
        """What is sent where nothing is masked."""
        if mechanism is None:
            return self._clipped_sum(study, query)
        integers = self._integers(study, query, mechanism)
        return integers.astype(np.int32 if mechanism.bits == 32 else np.int64)

    def _integers(
        self, study: _Approved, query: SumQuery, mechanism: SumMechanism
    ) -> npt.NDArray[np.int64]:
        """Clipped sum -> scale, round, add noise."""
        labels = (query.study, query.index)
        with_noise = study.guarantee.study.privacy.trust != "server"
        return answer(
            mechanism, self._clipped_sum(study, query),
            dither=Keystream(self._entropy("dither", *labels)),
            noise_share=Keystream(self._entropy("noise", *labels)) if with_noise else None,
        )  # fmt: skip

    def _clipped_sum(self, study: _Approved, query: SumQuery) -> npt.NDArray[np.float64]:
        """Sample -> clip and sum. Zero if that fails: only the data could have made it."""
        stage = study.guarantee.stage(query.function)
        sample = Keystream(self._entropy("sample", query.study, query.index))
        try:
            chosen = poisson_sample(study.contributor.unit_count, stage.sampling_rate, sample)
            if stage.sampling_rate < 1:
                chosen &= np.cumsum(chosen) <= stage.capacity
            return study.contributor.clipped_sum(query.function, query.parameters, chosen)
        except Exception as error:  # noqa: BLE001  whatever it was, it must not show
            self.note(error)
            return np.zeros(stage.dimension)


def _query_of(message: Message | None, content: bytes) -> SumQuery | None:
    """The query in a message, where there is one; without masks it is the message."""
    if message is None:
        return SumQuery.from_bytes(content)
    return SumQuery.from_bytes(message.payload) if isinstance(message, RoundRequest) else None


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
