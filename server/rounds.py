"""A study from its first query to its last, over a Flower Grid.

    ask of the plan -> query to every site -> answers -> sum of the survivors -> checkpoint -> back to the plan

A site that does not answer in time, refuses, or sends something that no honest site could, is missing from that
sum. With fewer survivors than the study tolerates the query is abandoned, which its sites have charged all the same,
and a spare one is asked while the declaration has any left.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Message
from flwr.serverapp import Grid

from gradients import Parameters
from privacy.errors import ProtocolError, RoundAbandonedError, StudyError
from privacy.keystream import Keystream
from privacy.private_sum import noise, released_sum
from server.checkpoint import Checkpoint, KeptSum
from study.declaration import Declaration
from study.envelope import content_of, query_message, refusal_of
from study.guarantee import Guarantee
from study.plans import Ask, Received, start_plan, training_loss
from study.queries import NONCE_BYTES, SumAnswer, SumQuery, query_hash

__all__ = ["Job", "Outcome", "run_study"]

_POLL_SECONDS = 0.1

Entropy = Callable[..., bytes]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the coordinator is to do.

    Attributes:
        declaration: the study.
        sites: names by Flower node id; n of them, in the order of the roster.
        directory: where the checkpoint lives.
        durable: wait for the disk after each sum.
        entropy: labels to 32 bytes; for nonces, and for noise with trust `server`.
        seconds: deadline of one trip.
        on_round: told of every query as a line of `history.jsonl`.
        evaluate: simulations alone: metrics of a candidate model on pooled rows, or None to skip a round.
    """

    declaration: Declaration
    sites: Mapping[int, str]
    directory: Path
    durable: bool = True
    entropy: Entropy
    seconds: float = 600.0
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
        self._grid, self._job = grid, job
        self._guarantee = Guarantee(job.declaration)
        self._guarantee.check()
        self._checkpoint = Checkpoint(job.directory, job.declaration, durable=job.durable)
        self._earlier: Iterator[KeptSum] = self._checkpoint.kept()
        self._asked: Counter[str] = Counter()
        self._sums: list[KeptSum] = []
        self._history: list[dict[str, Any]] = []

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
        """Who did not answer the last query, and why, in words."""
        return "; ".join(f"{name}: {reason}" for name, reason in self._sums[-1].refusals.items())

    def _private_sum(self, ask: Ask) -> Received | None:
        """The noisy sum that the plan asks for; None if its query was abandoned and no spare is left."""
        while self._asked[ask.function] < self._guarantee.stage(ask.function).count:
            self._asked[ask.function] += 1
            earlier = next(self._earlier, None)
            kept = self._trip(ask) if earlier is None else self._recalled(earlier, ask)
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
        spares = self._guarantee.study.training.spare_rounds if function != "moments" else 0
        abandoned = sum(kept.total is None for kept in self._sums if kept.function == function)
        return abandoned <= spares

    def _trip(self, ask: Ask) -> KeptSum:
        """One query to every site, and the sum of what came back in time."""
        began, index = time.monotonic(), len(self._sums)
        query = SumQuery(
            declaration=self._job.declaration, index=index, function=ask.function, parameters=ask.parameters,
            nonce=self._job.entropy("query", self._job.declaration.hash, index)[:NONCE_BYTES],
        )  # fmt: skip
        content = query.to_bytes()
        answers, refusals = self._answers(content, query)
        enough = len(answers) >= self._guarantee.tolerance.survivors
        total = np.sum(list(answers.values()), axis=0) if enough else None
        kept = KeptSum(
            index=index, function=ask.function, round=ask.round, query_hash=query_hash(content),
            survivors=tuple(answers), missing=tuple(refusals), refusals=refusals,
            total=self._with_server_noise(ask.function, index, total), seconds=time.monotonic() - began,
        )  # fmt: skip
        self._checkpoint.keep(kept)
        return kept

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
        return kept

    def _answers(
        self, content: bytes, query: SumQuery
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
        """Valid answers, and why there is none, by site name, both in the roster's order."""
        name, replies = query_hash(content), self._replies(content, query.index)
        answers, refusals = {}, {}
        for node, site in self._job.sites.items():
            message = replies.get(node)
            problem = "it did not answer in time" if message is None else refusal_of(message)
            if message is not None and problem is None:
                try:
                    answers[site] = self._checked(message, name, query.function)
                    continue
                except ProtocolError as error:
                    problem = error.message
            refusals[site] = problem or "it did not answer"
        return answers, refusals

    def _replies(self, content: bytes, index: int) -> dict[int, Message]:
        """Push one query to every site; pull until all have replied or the deadline has passed.

        A reply counts if it comes from the very node that its query went to, and only the first one does.
        """
        messages = [
            query_message(content, index=index, node_id=node, seconds=self._job.seconds)
            for node in self._job.sites
        ]
        waiting = dict(zip(self._grid.push_messages(messages), self._job.sites, strict=True))
        deadline = time.monotonic() + self._job.seconds
        replies: dict[int, Message] = {}
        while True:
            for message in self._grid.pull_messages(sorted(waiting)):
                asked, node = message.metadata.reply_to_message_id, message.metadata.src_node_id
                if waiting.get(asked) == node:
                    replies[waiting.pop(asked)] = message
            if not waiting or time.monotonic() >= deadline:
                return replies
            time.sleep(_POLL_SECONDS)

    def _checked(self, message: Message, name: str, function: str) -> npt.NDArray[Any]:
        """A site's vector, if an honest site could have sent it; int64 (float64 with trust `unsafe`)."""
        answer, mechanism = (
            SumAnswer.from_bytes(content_of(message)),
            self._guarantee.mechanism(function),
        )
        dimension = self._guarantee.stage(function).dimension
        if mechanism is None:
            return answer.checked(name, dimension, np.float64, np.inf)
        largest = mechanism.clamp + mechanism.deviation.largest + 1
        dtype = np.int32 if mechanism.bits == 32 else np.int64
        return answer.checked(name, dimension, dtype, largest).astype(np.int64)

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
