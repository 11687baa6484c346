"""One site's side of a round, without Flower: a query's bytes in, an answer's bytes out.

A site answers the studies that its operator has approved, and no others: `approve` names one declaration by its hash,
brings the records, and is where everything that can be wrong with either is said, to the operator alone.

Then, for every query, the order is the guarantee: check -> charge -> compute -> keep the bytes -> send. A query that
was answered is answered again with the very same bytes, never computed anew, since two answers to one question would
let their noise be averaged away. A query that was charged and not answered is burnt.

The site's policy is read when a study is approved and again for every query: what has become stricter holds at once,
and one that cannot be read allows nothing.

Nothing about a refusal depends on the data: every check here reads the query, the policy and what was asked before.
Should the data ever make the computation fail, the site contributes zero, rounds, adds its noise and answers like any
other; `problems` tells its operator. How long the computation takes is not hidden (`docs/threat-model.md`).

What was charged and answered is kept in memory: one process for a site, until there is a ledger.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from client.policy import Policy, PolicyError
from client.tables import Records, check_site
from privacy.errors import DiscreetError, PrivacyError, ProtocolError
from privacy.keystream import KEY_BYTES, Keystream
from privacy.private_sum import answer
from privacy.sampling import poisson_sample
from study.contract import Study
from study.contributions import Contributor, Units, check_parameters
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.models import feature_names
from study.queries import NONCE_BYTES, Refusal, SumAnswer, SumQuery, query_hash
from study.rules import Rule
from study.scaling import clamp_and_scale, scale_labels

__all__ = ["Entropy", "RefusedError", "Site", "scaled_units", "system_entropy", "units_of"]


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
        name: for the operator's own eyes.
        entropy: source of secret keys.
        policy: reads the standing rules of this moment, such as a `PolicyFile`; None: there are none, and
            whatever is approved is allowed, as in a simulation.
        allow_unsafe: take part in studies without privacy too; simulations alone may say so.

    Attributes:
        problems: for the operator's own eyes: names of exceptions that data have caused, and why the policy refused.
    """

    def __init__(
        self,
        name: str,
        *,
        entropy: Entropy = system_entropy,
        policy: Callable[[], Policy] | None = None,
        allow_unsafe: bool = False,
    ) -> None:
        self.name = name
        self.problems: list[str] = []
        self._entropy = entropy
        self._policy = policy
        self._allow_unsafe = allow_unsafe
        self._considered: dict[str, Guarantee] = {}
        self._approved: dict[str, _Approved] = {}
        self._lock = threading.Lock()
        self._charged: Counter[tuple[str, str]] = Counter()
        self._asked: dict[tuple[str, int], str] = {}
        self._answers: dict[tuple[str, int], bytes] = {}

    def approve(self, declaration: Declaration, records: Records) -> None:
        """Take part in this very study, with these records. Each approved declaration has a budget of its own.

        Raises:
            PrivacyError: its noise does not buy the promised epsilon by this site's own accountant, or it is unsafe.
            PolicyError: the policy does not allow it, or cannot be read.
            DataError: the records are not what it can use, or fewer than the policy asks.
        """
        guarantee = Guarantee(declaration)
        if declaration.study.privacy.trust == "unsafe" and not self._allow_unsafe:
            raise PrivacyError("Expected a study with privacy, found trust = unsafe")
        guarantee.check()
        self._considered[declaration.hash] = guarantee
        if self._policy is not None:
            policy = self._policy()
            policy.require(guarantee)
            policy.require_units(len(records.identities), records.name)
        units = units_of(records, declaration.study)
        self._approved[declaration.hash] = _Approved(guarantee, Contributor(guarantee, units))

    def answer(self, content: bytes) -> bytes:
        """Answer one query.

        Raises:
            RefusedError: with a code that tells nothing about the data.
        """
        try:
            query = SumQuery.from_bytes(content)
        except ProtocolError as error:
            raise RefusedError(Refusal.MALFORMED) from error
        self._require_permission(query.declaration.hash)
        study, name = self._approved.get(query.declaration.hash), query_hash(content)
        if study is None:
            raise RefusedError(Refusal.NOT_APPROVED)
        key = (query.declaration.hash, query.index)
        with self._lock:
            if key in self._asked:
                return self._answered_before(key, name)
            self._charge(study.guarantee, query, name)
            try:
                self._answers[key] = self._computed(study, query, name).to_bytes()
            except Exception as error:  # not for the data's sake: the index is burnt, the server learns a fixed code
                self.problems.append(type(error).__name__)
                raise RefusedError(Refusal.UNAVAILABLE) from error
            return self._answers[key]

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
                self.problems.append(str(error))
            raise RefusedError(Refusal.NOT_PERMITTED, rules) from error

    def _answered_before(self, key: tuple[str, int], name: str) -> bytes:
        if self._asked[key] != name:
            raise RefusedError(Refusal.OTHER_QUERY_ANSWERED)
        if key not in self._answers:
            raise RefusedError(Refusal.UNAVAILABLE)
        return self._answers[key]

    def _charge(self, guarantee: Guarantee, query: SumQuery, name: str) -> None:
        """Count the query against what its study declared, before anything is computed."""
        try:
            stage = guarantee.stage(query.function)
            check_parameters(guarantee.study, query.function, query.parameters)
        except (PrivacyError, ProtocolError) as error:
            raise RefusedError(Refusal.MALFORMED) from error
        study = query.declaration.hash
        if self._charged[study, query.function] >= stage.count:
            raise RefusedError(Refusal.TOO_MANY_QUERIES)
        self._charged[study, query.function] += 1
        self._asked[study, query.index] = name

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
            self.problems.append(type(error).__name__)
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
