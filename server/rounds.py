"""A study from its first query to its last, over a Flower Grid.

    ask of the plan -> query to every site -> sum of the survivors (`server/sums.py`) -> checkpoint -> back to the plan

A site that does not answer in time, refuses, or sends something that no honest site could, is missing from that
sum. With fewer survivors than the study tolerates the query is abandoned, which its sites have charged all the same,
and a spare one is asked while the declaration has any left.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from gradients import Parameters
from privacy.errors import ProtocolError, RoundAbandonedError, StudyError
from privacy.keystream import Keystream
from privacy.private_sum import noise, released_sum
from server.checkpoint import Checkpoint, KeptSum
from server.journal import Journal
from server.sums import Gathered, MaskedSums, PlainSums, Receipts
from server.trips import Trips, Way
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.plans import Ask, Received, start_plan, training_loss
from study.queries import NONCE_BYTES, SumQuery, query_hash
from study.roster import Roster

__all__ = ["Job", "Outcome", "run_study", "spares_of"]

Entropy = Callable[..., bytes]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the coordinator is to do.

    Attributes:
        declaration: the study.
        sites: names; n of them, in the order of the roster.
        way: how they are reached.
        directory: where the checkpoint lives.
        journal: where the query that is under way is kept, to go on in its midst; None: nowhere.
        durable: wait for the disk after each sum.
        entropy: labels to 32 bytes; for nonces, and for noise with trust `server`.
        roster: of the sites; None where nothing is masked and nobody knows them by a key.
        on_round: told of every query as a line of `history.jsonl`.
        on_message: told of every message, for a trace; None: there is none.
        undisturbed: holds off an interruption while a query is under way: one that is charged and not finished is lost.
        evaluate: simulations alone: metrics of a candidate model on pooled rows, or None to skip a round.
    """

    declaration: Declaration
    sites: tuple[str, ...]
    way: Way
    directory: Path
    journal: Path | None = None
    durable: bool = True
    entropy: Entropy
    roster: Roster | None = None
    on_message: Callable[[dict[str, Any]], None] | None = None
    undisturbed: Callable[[], AbstractContextManager[None]] = nullcontext
    on_round: Callable[[dict[str, Any]], None] = lambda _line: None
    evaluate: Callable[[int, Parameters], dict[str, float | None] | None] = (
        lambda _round, _candidate: None
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to.

    Attributes:
        parameters: the released model, what it learnt of scaling included.
        sums: every query, in order.
        history: lines of `history.jsonl`.
    """

    parameters: Parameters
    sums: list[KeptSum]
    history: list[dict[str, Any]]

    @property
    def refusals(self) -> dict[str, dict[str, int]]:
        """Site name -> why it did not answer -> how often."""
        counts: dict[str, Counter[str]] = {}
        for kept in self.sums:
            for name, reason in kept.refusals.items():
                counts.setdefault(name, Counter())[reason] += 1
        return {name: dict(reasons) for name, reasons in counts.items()}


def spares_of(guarantee: Guarantee, function: str) -> int:
    """How many queries of a function may be abandoned and asked again: without moments a study goes on, unscaled."""
    return guarantee.study.training.spare_rounds if function != "moments" else 0


def run_study(grid: Grid, job: Job) -> Outcome:
    """Drive the study's plan to its end.

    Raises:
        RoundAbandonedError: too few sites answered, too often. The checkpoint stays.
    """
    return _Run(grid, job).finish()


class _Run:
    def __init__(self, grid: Grid, job: Job) -> None:
        if len(job.sites) != job.declaration.sites:
            raise StudyError(
                f"Expected {job.declaration.sites} sites, as declared, found {len(job.sites)}"
            )
        self._job = job
        self._guarantee = Guarantee(job.declaration)
        self._guarantee.check()
        self._checkpoint = Checkpoint(job.directory, job.declaration, durable=job.durable)
        self._earlier: Iterator[KeptSum] = self._checkpoint.kept()
        self._receipts = Receipts(job.roster)
        self._journal = Journal(job.journal)
        self._trips = Trips(
            grid, job.sites, job.way, roster=job.roster, journal=self._journal, on_message=job.on_message
        )  # fmt: skip
        self._gatherer = self._gatherer_of(self._trips)
        self._asked: Counter[str] = Counter()
        self._sums: list[KeptSum] = []
        self._history: list[dict[str, Any]] = []

    def _gatherer_of(self, trips: Trips) -> PlainSums | MaskedSums:
        job, guarantee = self._job, self._guarantee
        if not guarantee.masked:
            return PlainSums(guarantee, trips, self._receipts)
        if job.roster is None:
            raise StudyError("Expected a roster: sums of this study are masked among its sites")
        return MaskedSums(
            guarantee, job.roster, trips, self._receipts,
            nonce=lambda index: job.entropy("session", job.declaration.hash, index)[:NONCE_BYTES],
        )  # fmt: skip

    def finish(self) -> Outcome:
        plan = start_plan(self._guarantee)
        ask = next(plan)
        while True:
            received = self._private_sum(ask)
            line = self._history[-1]
            line["loss"] = (
                training_loss(self._guarantee, ask.function, received) if received else None
            )
            step = ask.round
            try:
                ask = plan.send(received)
            except RoundAbandonedError as error:
                raise RoundAbandonedError(
                    f"{error.message}: {self._why()}", hint=error.hint
                ) from error
            except StopIteration as end:
                self._report(line, step, end.value)
                return Outcome(parameters=end.value, sums=self._sums, history=self._history)
            self._report(line, step, ask.candidate)

    def _why(self) -> str:
        """What the last query lacked, who did not answer it, and why, in words."""
        last = self._sums[-1]
        each = [f"{name}: {reason}" for name, reason in last.refusals.items()]
        return "; ".join([*([last.lack] if last.lack else []), *each])

    def _private_sum(self, ask: Ask) -> Received | None:
        """The noisy sum that the plan asks for; None if its query was abandoned and no spare is left."""
        while self._asked[ask.function] < self._guarantee.stage(ask.function).count:
            self._asked[ask.function] += 1
            earlier = next(self._earlier, None)
            kept = self._asked_for(ask) if earlier is None else self._recalled(earlier, ask)
            self._sums.append(kept)
            self._history.append(self._line(kept))
            if kept.total is not None:
                return Received(
                    total=self._released(kept.function, kept.total), sites=len(kept.survivors)
                )
            self._job.on_round(self._history[-1])
            if not self._spares_left(ask.function):
                break
        return None

    def _spares_left(self, function: str) -> bool:
        """May one more query of this function be abandoned, or asked again? Each that was has taken a spare."""
        spares = spares_of(self._guarantee, function)
        abandoned = sum(kept.total is None for kept in self._sums if kept.function == function)
        return abandoned <= spares

    def _asked_for(self, ask: Ask) -> KeptSum:
        """One query to every site, and the sum of what came back in time."""
        index, declaration = len(self._sums), self._job.declaration
        self._wait_until_ready(index)
        began = time.monotonic()
        query = SumQuery(
            study=declaration.hash, index=index, function=ask.function, parameters=ask.parameters,
            nonce=self._job.entropy("query", declaration.hash, index)[:NONCE_BYTES],
            receipts=self._receipts.for_query(index),
        )  # fmt: skip
        content = query.to_bytes()
        with self._job.undisturbed():
            begun = self._journal.begin(index, self._gatherer.state())
            if begun is not None:
                self._gatherer.restore(begun)
            gathered = self._gatherer.gather(query, content)
            kept = KeptSum(
                index=index, function=ask.function, round=ask.round, query_hash=query_hash(content),
                survivors=gathered.survivors, missing=self._missing(gathered), refusals=gathered.problems,
                total=self._with_server_noise(ask.function, index, gathered.total), lack=gathered.lack,
                seconds=time.monotonic() - began, nonce=query.nonce.hex(), transcript=gathered.transcript,
                cohort=gathered.cohort, members=gathered.members, signatures=gathered.signatures,
                receipts=gathered.receipts,
            )  # fmt: skip
            self._checkpoint.keep(kept)
            self._journal.end()
        return kept

    def _wait_until_ready(self, index: int) -> None:
        """Before the first query, and after one that too few have answered: the next may fare no better."""
        doubtful = not self._sums or self._sums[-1].total is None
        if doubtful and not self._journal.is_under_way(index):
            least = self._guarantee.tolerance.survivors
            self._trips.wait_until_ready(self._job.declaration.hash, least=least, index=index)

    def _missing(self, gathered: Gathered) -> tuple[str, ...]:
        return tuple(name for name in self._job.sites if name not in gathered.survivors)

    def _recalled(self, kept: KeptSum, ask: Ask) -> KeptSum:
        """A sum of the checkpoint, if it is the one that the plan asks for now."""
        dimension = self._guarantee.stage(ask.function).dimension
        dtype = np.float64 if self._guarantee.mechanism(ask.function) is None else np.int64
        fits = kept.total is None or (
            kept.total.shape == (dimension,) and kept.total.dtype == dtype
        )
        if (kept.function, kept.round) != (ask.function, ask.round) or not fits:
            raise ProtocolError(
                f"Expected a checkpoint of this run, found another at sum {kept.index}",
                hint="start anew, without --resume",
            )
        self._receipts.heard(kept.refusals)
        for name, chain in kept.receipts.items():
            self._receipts.keep(name, chain, index=kept.index)
        return kept

    def _with_server_noise(
        self, function: str, index: int, total: npt.NDArray[Any] | None
    ) -> npt.NDArray[Any] | None:
        mechanism = self._guarantee.mechanism(function)
        if total is None or mechanism is None or self._guarantee.study.privacy.trust != "server":
            return total
        key = self._job.entropy("noise", self._job.declaration.hash, index)
        noisy: npt.NDArray[Any] = total + noise(mechanism, Keystream(key))
        return noisy

    def _released(self, function: str, total: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        mechanism = self._guarantee.mechanism(function)
        return total if mechanism is None else released_sum(mechanism, total)

    def _line(self, kept: KeptSum) -> dict[str, Any]:
        return {
            "query": kept.index, "function": kept.function, "round": kept.round, "survivors": len(kept.survivors),
            "missing": list(kept.missing), "abandoned": kept.total is None, "loss": None,
            "seconds": kept.seconds,
        }  # fmt: skip

    def _report(self, line: dict[str, Any], step: int, candidate: Parameters) -> None:
        metrics = self._job.evaluate(step, candidate) if step else None
        if metrics is not None:
            line["metrics"] = metrics
        self._job.on_round(line)
