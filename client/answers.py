"""One site's side of a round, without Flower: a query's bytes in, an answer's bytes out.

The order is the guarantee: check -> charge -> compute -> keep the bytes -> send. A query that was answered is
answered again with the very same bytes, never computed anew, since two answers to one question would let their
noise be averaged away. A query that was charged and not answered is burnt.

Nothing about a refusal depends on the data: every check here reads the query and what was answered before.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import numpy as np

from client.tables import Records, check_site
from privacy.errors import DiscreetError, PrivacyError, ProtocolError, StudyError
from privacy.keystream import KEY_BYTES, Keystream
from privacy.private_sum import answer
from privacy.sampling import poisson_sample
from study.contract import Study
from study.contributions import Contributor, Units, check_parameters
from study.guarantee import Guarantee
from study.models import feature_names
from study.queries import NONCE_BYTES, Refusal, SumAnswer, SumQuery, query_hash
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
    """The site does not answer; `refusal` is all that leaves it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.explanation)
        self.refusal = refusal


class Site:
    """A site that answers the queries of studies over one data set.

    Arguments:
        name: for the operator's own eyes.
        records_for: the site's records as a study wants them.
        approves: does this site take part in the study with this hash?
        entropy: source of secret keys.
        allow_unsafe: answer studies without privacy too; simulations alone may say so.
    """

    def __init__(
        self,
        name: str,
        *,
        records_for: Callable[[Study], Records],
        approves: Callable[[Guarantee], bool],
        entropy: Entropy = system_entropy,
        allow_unsafe: bool = False,
    ) -> None:
        self.name = name
        self._records_for = records_for
        self._approves = approves
        self._entropy = entropy
        self._allow_unsafe = allow_unsafe
        self._checked: dict[str, Guarantee] = {}
        self._contributors: dict[str, Contributor] = {}
        self._charged: Counter[tuple[str, str]] = Counter()
        self._asked: dict[tuple[str, int], str] = {}
        self._answers: dict[tuple[str, int], bytes] = {}

    def answer(self, content: bytes) -> bytes:
        """Answer one query.

        Raises:
            RefusedError: with a code that tells nothing about the data.
        """
        try:
            query = SumQuery.from_bytes(content)
        except ProtocolError as error:
            raise RefusedError(Refusal.MALFORMED) from error
        guarantee = self._checked_guarantee(query)
        key, name = (query.declaration.hash, query.index), query_hash(content)
        if key in self._asked:
            return self._answered_before(key, name)
        self._charge(guarantee, query, name)
        try:
            self._answers[key] = self._compute(guarantee, query, name).to_bytes()
        except (
            Exception
        ) as error:  # whatever happened: the index is burnt, and the server learns a fixed code
            raise RefusedError(Refusal.UNAVAILABLE) from error
        return self._answers[key]

    def _checked_guarantee(self, query: SumQuery) -> Guarantee:
        """The query's study, approved by this site and private enough by its own accountant."""
        study = query.declaration.hash
        if study not in self._checked:
            guarantee = Guarantee(query.declaration)
            unsafe = query.declaration.study.privacy.trust == "unsafe"
            if (unsafe and not self._allow_unsafe) or not self._approves(guarantee):
                raise RefusedError(Refusal.NOT_APPROVED)
            try:
                guarantee.check()
            except StudyError as error:
                raise RefusedError(Refusal.MALFORMED) from error
            except PrivacyError as error:
                raise RefusedError(Refusal.NOT_ENOUGH_NOISE) from error
            self._checked[study] = guarantee
        return self._checked[study]

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

    def _compute(self, guarantee: Guarantee, query: SumQuery, name: str) -> SumAnswer:
        """Sample -> clip and sum -> scale, round, add noise."""
        labels = (query.declaration.hash, query.index)
        contributor = self._contributor(guarantee)
        stage = guarantee.stage(query.function)
        sample = Keystream(self._entropy("sample", *labels))
        chosen = poisson_sample(contributor.unit_count, stage.sampling_rate, sample)
        if stage.sampling_rate < 1:
            chosen &= np.cumsum(chosen) <= stage.capacity
        vector = contributor.clipped_sum(query.function, query.parameters, chosen)
        mechanism = guarantee.mechanism(query.function)
        if mechanism is not None:
            with_noise = guarantee.study.privacy.trust != "server"
            integers = answer(
                mechanism, vector, dither=Keystream(self._entropy("dither", *labels)),
                noise_share=Keystream(self._entropy("noise", *labels)) if with_noise else None,
            )  # fmt: skip
            vector = integers.astype(np.int32 if mechanism.bits == 32 else np.int64)
        nonce = self._entropy("nonce", *labels)[:NONCE_BYTES]
        return SumAnswer(query_hash=name, vector=vector, nonce=nonce)

    def _contributor(self, guarantee: Guarantee) -> Contributor:
        study = guarantee.declaration.hash
        if study not in self._contributors:
            records = self._records_for(guarantee.study)
            self._contributors[study] = Contributor(guarantee, units_of(records, guarantee.study))
        return self._contributors[study]


def units_of(records: Records, study: Study) -> Units:
    """The training units of a site, clamped and scaled by public bounds.

    Raises:
        DataError: more units than the study's public capacity; known since the data set was registered.
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
