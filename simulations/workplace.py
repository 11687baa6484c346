"""`OUT.partial`: where a run works until its release is whole, and what an interruption leaves behind.

One run at a time works there, and one run alone goes on from a checkpoint: the one with the same options and records.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from privacy.errors import UserError
from simulations.faults import uninterrupted
from study.files import write_whole

__all__ = ["interrupted", "workplace"]

_LOCK, _OPTIONS, _REPLACED = "lock", "options.json", "replaced"
_WORK = ("checkpoint", "sites", "release", _REPLACED)
_OURS = (_LOCK, _OPTIONS, _OPTIONS + ".*.new", *_WORK)


@contextmanager
def workplace(out: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[Path]:
    """The directory to work in, locked; after the block its `release` has become `out` and it is gone.

    After an exception it stays as it is, for `--resume`.

    Arguments:
        identity: plain values that make a run this run and no other.
    Raises:
        UserError: another run is at work there, it is not ours, or what is to be resumed is another run.
    """
    place = _place_of(out)
    _refuse_strangers(place)
    place.mkdir(parents=True, exist_ok=True)
    with (place / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another run is writing to {out}", hint="wait for it, or choose another --out"
            ) from None
        _restore(place, out)
        _prepare(place, identity, resume=resume)
        yield place
        with uninterrupted(heeded=False):  # the work is done: there is nothing to go on with
            if out.exists():  # what --force replaces goes only now
                out.rename(place / _REPLACED)
            (place / "release").rename(out)
            shutil.rmtree(place)


def interrupted(out: Path) -> bool:
    """Whether an earlier run has left something to go on with."""
    place = _place_of(out)
    return (place / _OPTIONS).exists() and (place / "checkpoint").exists()


def _place_of(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _refuse_strangers(place: Path) -> None:
    if place.exists() and not (place.is_dir() and all(map(_is_ours, place.iterdir()))):
        raise UserError(
            f"{place} is in the way, and not of an interrupted run",
            hint="move it, or choose another --out",
        )


def _is_ours(path: Path) -> bool:
    return any(path.match(each) for each in _OURS)


def _restore(place: Path, out: Path) -> None:
    """Put back a release whose replacement was killed half-way."""
    if (place / _REPLACED).exists() and not out.exists():
        (place / _REPLACED).rename(out)


def _read_options(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged", hint="leave --resume out to start anew")
    return found


def _prepare(place: Path, identity: Mapping[str, Any], *, resume: bool) -> None:
    """Keep the checkpoint of this very run, or clear what is left of another."""
    options = place / _OPTIONS
    if resume and options.exists():
        earlier = _read_options(options)
        changed = [name for name in identity if earlier.get(name) != identity[name]]
        if changed:
            raise UserError(
                f"The interrupted run had another {' and '.join(changed)}",
                hint="resume with the same study, data, policy and options, or leave --resume out to start anew",
            )
        for name in ("release", _REPLACED):  # of an end that was interrupted
            shutil.rmtree(place / name, ignore_errors=True)
        return
    for name in _WORK:
        shutil.rmtree(place / name, ignore_errors=True)
    write_whole(options, json.dumps(identity).encode(), durable=False)
