"""The long run: every target in processes of their own, a table of what came of it, and failures as files.

python -m fuzzing --cases 100000                         every target, some cases of each
python -m fuzzing --target study --seed 7 --case 1234    one case again, with its traceback
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuzzing.engine import CaseError, Failure, Tally, check, make_case, run, shares
from fuzzing.targets import TARGETS

_STOP_AFTER = 10  # failures of one target

_FIGURES = ("cases", "single", "accepted", "refused", "seconds")
_HEAD = """\
# Fuzzing: every reader, mutated inputs

`make fuzz` wrote this with seed {seed}: {cases:,} cases, {single:,} of them exactly one mutation from valid, the others
several, or garbage; Python {python}. Every case ended in a documented error or in a valid value that is written as it
was read: no traceback, no warning, nothing left open, no more memory or calls than its size allows. CPU seconds are those
of drawing, reading and judging the cases, counted calls included.

| reader | cases | one mutation | accepted | refused | CPU seconds | slowest case, ms |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    """Exit code 0 if everything holds."""
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description="Fuzz every reader.")
    parser.add_argument("--cases", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws other cases")
    parser.add_argument("--target", choices=list(TARGETS), help="this one alone")
    parser.add_argument("--case", type=int, help="this case of --target alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--out", type=Path, help="a file for the table")
    parser.add_argument(
        "--failures", type=Path, default=Path("fuzz-failures"), help="where inputs go that failed"
    )
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case is not None:
        return _once(given.target, given.seed, given.case)
    if given.progress is not None:
        return _worker(given)
    return _all(given)


def _once(name: str, seed: int, case: int) -> int:
    target = TARGETS[name]
    data = make_case(target, target.seeds(), seed, case)
    sys.stdout.write(f"{data!r}\n")
    sys.stdout.write("accepted\n" if check(target, data) else "refused\n")
    return 0


def _worker(given: argparse.Namespace) -> int:
    """One target: its tally as JSON on standard output. Each case's number is on disk before it runs."""
    with given.progress.open("wb", buffering=0) as progress:
        tally = run(
            TARGETS[given.target], seed=given.seed, numbers=range(given.cases), stop_after=_STOP_AFTER,
            before=lambda number: os.pwrite(progress.fileno(), struct.pack("<Q", number), 0),
        )  # fmt: skip
    for each in tally.failures:
        _keep(each, given.failures)
    values = {name: getattr(tally, name) for name in (*_FIGURES, "slowest")}
    sys.stdout.write(json.dumps(values | {"failures": [str(each) for each in tally.failures]}))
    return 0


def _keep(failure: Failure, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    content = failure.data if isinstance(failure.data, bytes) else repr(failure.data).encode()
    (directory / f"{failure.target}-{failure.seed}-{failure.case}").write_bytes(content)


def _all(given: argparse.Namespace) -> int:
    names = [given.target] if given.target else list(TARGETS)
    tallies, failures = {}, []
    with tempfile.TemporaryDirectory(prefix="discreet-fuzzing-") as place:
        for name, tally, said in _results(names, given, Path(place)):
            tallies[name] = tally
            failures += said
            sys.stderr.write(
                f"{name:14} {tally.cases:7} cases {tally.seconds:7.1f} s  {len(said)} failures\n"
            )
    sys.stdout.write("".join(f"{each}\n" for each in [*_rows(tallies), *failures]))
    if failures:
        sys.stdout.write(f"{len(failures)} failures; their inputs are in {given.failures}\n")
    elif given.out is not None:
        given.out.write_text(_table(tallies, given.seed), encoding="utf-8")
    return 1 if failures else 0


def _results(
    names: list[str], given: argparse.Namespace, place: Path
) -> Iterator[tuple[str, Tally, list[str]]]:
    """Each target's tally, as soon as a process is through with it, so many at a time."""
    waiting = list(shares([TARGETS[name] for name in names], given.cases).items())
    running: list[tuple[str, subprocess.Popen[str]]] = []
    while waiting or running:
        while waiting and len(running) < max(1, given.jobs):
            name, cases = waiting.pop(0)
            running.append((name, _start(name, cases, given, place / name)))
        name, process = running.pop(0)
        yield name, *_ended(name, process, given.seed, place / name)


def _start(
    name: str, cases: int, given: argparse.Namespace, progress: Path
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fuzzing", "--target", name, "--cases", str(cases), "--seed", str(given.seed),
         "--progress", str(progress), "--failures", str(given.failures)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _ended(
    name: str, process: subprocess.Popen[str], seed: int, progress: Path
) -> tuple[Tally, list[str]]:
    out, _ = process.communicate()
    if process.returncode:
        case = (
            struct.unpack("<Q", progress.read_bytes())[0]
            if progress.exists() and progress.stat().st_size
            else 0
        )
        what = f"the process ended with {process.returncode}"
        return Tally(), [str(Failure(target=name, seed=seed, case=case, data=b"", what=what))]
    values = json.loads(out)
    said = values.pop("failures")
    return Tally(**values), said


def _rows(tallies: dict[str, Tally]) -> list[str]:
    return [
        f"| {name} | {each.cases:,} | {each.single:,} | {each.accepted:,} | {each.refused:,} | {each.seconds:.1f} "
        f"| {1000 * each.slowest:.0f} |"
        for name, each in [*tallies.items(), ("all", _together(tallies))]
    ]


def _together(tallies: dict[str, Tally]) -> Tally:
    sums = {name: sum(getattr(each, name) for each in tallies.values()) for name in _FIGURES}
    return Tally(**sums, slowest=max(each.slowest for each in tallies.values()))


def _table(tallies: dict[str, Tally], seed: int) -> str:
    total = _together(tallies)
    head = _HEAD.format(
        seed=seed, cases=total.cases, single=total.single, python=platform.python_version()
    )
    return head + "".join(f"{each}\n" for each in _rows(tallies))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CaseError as error:
        raise SystemExit(f"{error} (caused by {error.__cause__!r})") from error
