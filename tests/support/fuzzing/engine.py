"""What a case is, and what must hold of it."""

from __future__ import annotations

import contextlib
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privacy.errors import DiscreetError

_MEMORY = 1 << 29  # bytes that a reader may map at once, beyond what the process has
_STATISTICS = Path("/proc/self/statm")
_LONGEST_MESSAGE = 1500
_MOST_MUTATIONS = 8
_REFUSED = object()

Input = Any  # bytes, or what a target's mutations know
Mutation = Callable[[random.Random, Input, Sequence[Input]], Input]


class CaseError(AssertionError):
    """What was expected of a case does not hold."""


class _TooMuchWork(BaseException):
    """Not an Exception: a reader that explains every error must not explain this one."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader, and what is known about it.

    Attributes:
        name: of the target.
        seeds: makes valid inputs, with the real writers; the same ones at every call.
        mutations: each makes another input of one; `pool` is all seeds.
        garbage: makes an input from nothing.
        read: the reader: input to value.
        errors: what it may raise.
        judge: why this input and the value that was read from it are not valid, by other code than the reader's;
            None if they are.
        write: value to input, where the reader's format has one spelling: what was read is written as it was.
        settle: value to value, through writer and reader, where there are several spellings: the same value comes back.
        work: calls of Python functions that any input may cost, and that each of its bytes may cost.
        secrets: texts in this input that no message of an error may hold.
        weight: cases of this target for each case of a target of weight 1.
    """

    name: str
    seeds: Callable[[], Sequence[Input]]
    mutations: Sequence[Mutation]
    garbage: Callable[[random.Random], Input]
    read: Callable[[Input], Any]
    errors: tuple[type[DiscreetError], ...]
    judge: Callable[[Input, Any], str | None] = lambda _input, _value: None
    write: Callable[[Any], Input] | None = None
    settle: Callable[[Any], Any] | None = None
    work: tuple[int, int] = (10_000, 20)
    secrets: Callable[[Input], Sequence[str]] = lambda _input: ()
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A case in which something does not hold."""

    target: str
    seed: int
    case: int
    data: Input
    what: str

    def __str__(self) -> str:
        return (
            f"{self.target}: {self.what}\n"
            f"again with: PYTHONPATH=tests/support python -m fuzzing --target {self.target} --seed {self.seed} "
            f"--case {self.case}"
        )


@dataclass
class Tally:
    """How the cases of a target went."""

    cases: int = 0
    single: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0  # of all cases
    failures: list[Failure] = field(default_factory=list)


def shares(targets: Sequence[Target], cases: int) -> dict[str, int]:
    """How many of so many cases each target gets, by weight."""
    total = sum(each.weight for each in targets)
    ends = [
        round(cases * sum(each.weight for each in targets[: place + 1]) / total)
        for place in range(len(targets))
    ]
    return {
        each.name: end - start for each, start, end in zip(targets, [0, *ends], ends, strict=False)
    }


def make_case(target: Target, seeds: Sequence[Input], seed: int, number: int) -> Input:
    """Case `number`: an even one is one mutation from valid, an odd one is several, or garbage."""
    draw = random.Random(f"{target.name}/{seed}/{number}")
    if number % 2 and draw.random() < 0.1:
        return target.garbage(draw)
    start = draw.choice(seeds)
    count = 1 if number % 2 == 0 else draw.randint(2, _MOST_MUTATIONS)
    data = start
    for _ in range(count):
        data = _another(draw, target, seeds, data)
    return data


def _another(draw: random.Random, target: Target, seeds: Sequence[Input], data: Input) -> Input:
    """One mutation that changes something; nearly every one does."""
    for _ in range(50):
        found = draw.choice(target.mutations)(draw, data, seeds)
        if found != data:
            return found
    return data


def run(
    target: Target,
    *,
    seed: int,
    numbers: Iterable[int],
    stop_after: int = 1,
    before: Callable[[int], None] = lambda _number: None,
) -> Tally:
    """Run these cases, and stop after so many failures. `before` is told each case's number beforehand."""
    seeds, tally, began = target.seeds(), Tally(), time.process_time()
    target.read(seeds[0])  # what the first call imports is no work of a case's
    with limited_memory():
        for number in numbers:
            before(number)
            data = make_case(target, seeds, seed, number)
            tally.cases += 1
            tally.single += number % 2 == 0
            started = time.process_time()
            try:
                if check(target, data):
                    tally.accepted += 1
                else:
                    tally.refused += 1
            except CaseError as error:
                tally.failures.append(
                    Failure(target=target.name, seed=seed, case=number, data=data, what=str(error))
                )
                if len(tally.failures) >= stop_after:
                    break
            tally.slowest = max(tally.slowest, time.process_time() - started)
    tally.seconds = time.process_time() - began
    return tally


def check(target: Target, data: Input) -> bool:
    """Is this input accepted? Raises CaseError where the reader does not do as it must."""
    with nothing_left_behind() as left:
        value = _read(target, data)
    if left:
        raise CaseError(f"expected nothing left open, found {left[0]}")
    if value is _REFUSED:
        return False
    _check_value(target, data, value)
    return True


def _read(target: Target, data: Input) -> Any:
    """What the reader makes of an input, `_REFUSED` if that is a documented error."""
    try:
        with limited_work(*target.work, len(data)):
            return target.read(data)
    except target.errors as error:
        _check_message(error, target.secrets(data))
        return _REFUSED
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise CaseError(
            f"expected a documented error, found {type(error).__name__}: {error}"
        ) from error


def _check_value(target: Target, data: Input, value: Any) -> None:
    try:
        problem = target.judge(data, value)
    except Exception as error:
        raise CaseError(
            f"accepted, and the judge cannot read it: {type(error).__name__}: {error}"
        ) from error
    if problem is not None:
        raise CaseError(f"accepted, though {problem}")
    try:
        again = None if target.write is None else target.write(value)
        settled = None if target.settle is None else target.settle(value)
    except Exception as error:
        raise CaseError(
            f"accepted, and cannot be written: {type(error).__name__}: {error}"
        ) from error
    if target.write is not None and again != data:
        raise CaseError("accepted, and written otherwise")
    if target.settle is not None and settled != value:
        raise CaseError("accepted, written, and read as something else")


def _check_message(error: DiscreetError, secrets: Sequence[str]) -> None:
    said = f"{error} {error.hint}"
    if not str(error) or len(said) > _LONGEST_MESSAGE:
        raise CaseError(
            f"expected a message of 1 to {_LONGEST_MESSAGE} characters, found {len(said)}"
        )
    if not said.isprintable():
        raise CaseError(f"expected a message of printable characters, found {said!r}")
    for secret in secrets:
        if secret in said:
            raise CaseError("expected a message that does not show what is secret")


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[list[str]]:
    """Raise for every warning; what cannot be raised, such as that of a file that nobody closed, is in the list."""
    found: list[str] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda raised: found.append(repr(raised.exc_value))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield found
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def limited_work(base: int, per_byte: int, size: int) -> Iterator[None]:
    """Raise within the block as soon as it has called more Python functions than that."""
    left = base + per_byte * size

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal left
        if event == "call":
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise _TooMuchWork(f"more than {base} + {per_byte} * {size} calls")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """A reader that maps much more than the process has is refused the memory. Where Linux tells what it has."""
    if not _STATISTICS.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_mapped() + _MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _mapped() -> int:
    return int(_STATISTICS.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
