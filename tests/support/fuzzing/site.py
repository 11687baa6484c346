"""Target: a site, with a study that it has approved, is asked anything."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from client.answers import RefusedError, Site
from client.ledger import Ledger, create_ledger
from client.registration import register
from client.tables import Records
from fuzzing import mutations_messages
from fuzzing.engine import Target
from fuzzing.judge_json import message_parts
from fuzzing.judge_ledger import hexadecimal, index, receipt_of_answer, receipts_by_site, shaped
from fuzzing.mutations_messages import MESSAGES
from fuzzing.places import new_directory
from fuzzing.studies import declarations
from privacy.filters import LifetimeCap
from privacy.keystream import derive_key
from privacy.signing import SigningKey
from study.models import model_of
from study.queries import SumQuery

__all__ = ["TARGETS"]

_KEY = SigningKey.from_seed(b"a key of tests, nothing secret!!")
_STUDY = declarations()[0]
_RECORDS = Records(
    np.linspace(0, 10, 18).reshape(6, 3), np.arange(6) % 2, np.arange(6), [b"%d" % each for each in range(6)],
    np.ones(6, np.bool_), "records",
)  # fmt: skip
_DIMENSION = model_of(_STUDY.study).size + 1


class Exchange(NamedTuple):
    """An answer, and how many queries were charged and answered by then."""

    answer: bytes
    charged: int
    answered: int


@functools.cache
def _before() -> Path:
    """The ledger of a site that has registered its records and answered nothing."""
    path = new_directory() / "ledger.sqlite"
    create_ledger(path, _KEY, "hospital-a", clock=lambda: 0)
    opened = Ledger(path, _KEY, clock=lambda: 0, durable=False)
    cap = LifetimeCap(epsilon=50.0, delta=1e-3, orders=(2.0, 4.0))
    register(
        opened,
        data_set="records",
        namespace="people",
        unit=None,
        identities=_RECORDS.identities,
        cap=cap,
    )
    opened.close()
    return path


class _Sites:
    """A site to ask: a new one with the same past as soon as it has answered, so that no case depends on another."""

    def __init__(self) -> None:
        self._site: Site | None = None
        self.ledger: Ledger | None = None

    def get(self) -> tuple[Site, Ledger]:
        if self._site is None or self.ledger is None:
            path = _before().with_name("now") / "ledger.sqlite"
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir()
            shutil.copyfile(_before(), path)
            path.chmod(0o600)
            self.ledger = Ledger(path, _KEY, clock=lambda: 0, durable=False)
            self._site = Site(
                self.ledger, entropy=lambda *labels: derive_key(bytes(32), "fuzzing", *labels)
            )
            self._site.approve(_STUDY, _RECORDS, data_set="records")
        return self._site, self.ledger

    def drop(self) -> None:
        if self.ledger is not None:
            self.ledger.close()
        self._site = self.ledger = None


_sites = _Sites()


def _ask(data: bytes) -> Exchange:
    site, ledger = _sites.get()
    try:
        answer = site.answer(data)
    except RefusedError:
        if ledger.state.account(_STUDY.hash).asked or site.problems:
            _sites.drop()
            raise AssertionError(f"refused, and yet charged or computed: {site.problems}") from None
        raise
    asked = ledger.state.account(_STUDY.hash).asked.values()
    _sites.drop()
    return Exchange(answer, len(asked), sum(each.status == "answered" for each in asked))


@functools.cache
def _seeds() -> Sequence[bytes]:
    initial = model_of(_STUDY.study).initial(bytes(32))
    huge = {name: np.full_like(value, 1e300) for name, value in initial.items()}
    return [
        SumQuery(
            study=_STUDY.hash,
            index=number,
            function="gradient",
            parameters=each,
            nonce=bytes(range(16)),
        ).to_bytes()
        for number, each in ((0, initial), (2**31 - 1, huge))
    ]


def _judge(data: bytes, exchange: Exchange) -> str | None:
    head, arrays = message_parts(data)
    fields = {
        "kind": lambda value: value == "sum-query", "study": lambda value: value == _STUDY.hash,
        "index": index, "function": lambda value: value == "gradient", "nonce": hexadecimal(32),
        "receipts": receipts_by_site,
    }  # fmt: skip
    shapes = {name: array.shape for name, array in arrays.items()}
    wide = all(array.dtype == np.float64 for array in arrays.values())
    if not shaped(fields)(head) or shapes != model_of(_STUDY.study).shapes or not wide:
        return "it asks what the site has not approved"
    if (exchange.charged, exchange.answered) != (1, 1):
        return f"{exchange.charged} charges and {exchange.answered} answers are in the ledger"
    try:
        receipt, answer = receipt_of_answer(exchange.answer, _KEY.public)
    except ValueError as error:
        return f"the receipt: {error}"
    if (receipt["study"], receipt["index"]) != (_STUDY.hash, head["index"]) or receipt[
        "answer"
    ] != hashlib.sha256(answer).hexdigest():
        return "the receipt is of something else"
    said, vectors = message_parts(answer)
    vector = vectors.get("vector")
    if (
        said.get("query") != hashlib.sha256(data).hexdigest()
        or vector is None
        or vector.shape != (_DIMENSION,)
    ):
        return "the answer is to something else"
    return (
        None
        if vector.dtype == np.int32 and set(said) == {"kind", "query", "nonce"}
        else "the answer is of another type"
    )


SITE = Target(
    name="site", seeds=_seeds, mutations=MESSAGES, garbage=mutations_messages.garbage, read=_ask,
    errors=(RefusedError,),
    judge=_judge, work=(200_000, 20), weight=0.5,
)  # fmt: skip

TARGETS = (SITE,)
