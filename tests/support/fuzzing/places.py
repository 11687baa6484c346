"""Directories for what readers want to have as files; gone when the process ends."""

from __future__ import annotations

import atexit
import functools
import itertools
import shutil
import tempfile
from pathlib import Path

__all__ = ["new_directory", "written"]

_numbers = itertools.count()


@functools.cache
def _root() -> Path:
    path = Path(tempfile.mkdtemp(prefix="discreet-fuzzing-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def new_directory() -> Path:
    """An empty one."""
    path = _root() / str(next(_numbers))
    path.mkdir()
    return path


def written(name: str, data: bytes) -> Path:
    """A file of this name that holds an input, readable by its owner alone."""
    path = _root() / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path
