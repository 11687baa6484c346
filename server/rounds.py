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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Message
from flwr.serverapp import Grid

from gradients import Parameters
from privacy.errors import ProtocolError, StudyError
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
    evaluate: Callable[[int, Parameters], dict[str, float] | None] = lambda _round, _candidate: None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to.

    Attributes:
        parameters: the released model, what it learnt of scaling included.
        sums: every query, in order.
        history: lines of `history.jsonl`.
        refusals: site name -> why it did not answer -> how often.
    """

    parameters: Parameters
    sums: list[KeptSum]
    history: list[dict[str, Any]]
    refusals: dict[str, Counter[str]] = field(default_factory=dict)


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
        self._refusals: dict[str, Counter[str]] = {}

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
            except StopIteration as end:
                self._report(line, step, end.value)
                return Outcome(
                    parameters=end.value,
                    sums=self._sums,
                    history=self._history,
                    refusals=self._refusals,
                )
            self._report(line, step, ask.candidate)

    def _private_sum(self, ask: Ask) -> Received | None:
        """The noisy sum that the plan asks for; None once every declared query of its function has been used up."""
        while self._asked[ask.function] < self._guarantee.stage(ask.function).count:
            self._asked[ask.function] += 1
            kept = next(self._earlier, None) or self._trip(ask)
            if (kept.function, kept.round) != (ask.function, ask.round):
                raise ProtocolError(
                    f"Expected a checkpoint of this run, found another at sum {kept.index}"
                )
            self._sums.append(kept)
            self._history.append(self._line(kept))
            if kept.total is not None:
                return Received(total=self._released(kept), sites=len(kept.survivors))
            self._job.on_round(self._history[-1])
        return None

    def _trip(self, ask: Ask) -> KeptSum:
        """One query to every site, and the sum of what came back in time."""
        began, index = time.monotonic(), len(self._sums)
        query = SumQuery(
            declaration=self._job.declaration, index=index, function=ask.function, parameters=ask.parameters,
            nonce=self._job.entropy("query", self._job.declaration.hash, index)[:NONCE_BYTES],
        )  # fmt: skip
        content = query.to_bytes()
        answers = self._answers(content, query)
        names = [name for node, name in self._job.sites.items() if node in answers]
        enough = len(names) >= self._guarantee.tolerance.survivors
        total = (
            np.sum([answers[node] for node in self._job.sites if node in answers], axis=0)
            if enough
            else None
        )
        kept = KeptSum(
            index=index, function=ask.function, round=ask.round, query_hash=query_hash(content),
            survivors=tuple(names), missing=tuple(each for each in self._job.sites.values() if each not in names),
            total=self._with_server_noise(ask.function, index, total), seconds=time.monotonic() - began,
        )  # fmt: skip
        self._checkpoint.keep(kept)
        return kept

    def _answers(self, content: bytes, query: SumQuery) -> dict[int, npt.NDArray[Any]]:
        """Valid answers by node id."""
        name, answers = query_hash(content), {}
        for node, message in self._replies(content, query.index).items():
            problem = refusal_of(message)
            if problem is None:
                try:
                    answers[node] = self._checked(message, name, query.function)
                    continue
                except ProtocolError as error:
                    problem = error.message
            self._refusals.setdefault(self._job.sites[node], Counter())[problem] += 1
        return answers

    def _replies(self, content: bytes, index: int) -> dict[int, Message]:
        """Push one query to every site; pull until all have replied or the deadline has passed."""
        messages = [
            query_message(content, index=index, node_id=node, seconds=self._job.seconds)
            for node in self._job.sites
        ]
        waiting = set(self._grid.push_messages(messages))
        deadline = time.monotonic() + self._job.seconds
        replies: dict[int, Message] = {}
        while True:
            for message in self._grid.pull_messages(sorted(waiting)):
                waiting.discard(message.metadata.reply_to_message_id)
                if message.metadata.src_node_id in self._job.sites:
                    replies.setdefault(message.metadata.src_node_id, message)
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

    def _released(self, kept: KeptSum) -> npt.NDArray[np.float64]:
        assert kept.total is not None  # noqa: S101  the caller has looked
        mechanism = self._guarantee.mechanism(kept.function)
        return kept.total if mechanism is None else released_sum(mechanism, kept.total)

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
