"""Files that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from privacy.errors import UserError

__all__ = ["read_whole", "sync_directory", "write_new", "write_whole"]


def read_whole(path: Path, *, hint: str = "") -> bytes:
    """The content of a file. Raises UserError where the system refuses, with this hint."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", hint=hint) from error


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet, whole or not at all; wait for the disk. Raises UserError if it is there."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise UserError(f"{path} exists, and is not written over") from None
    try:
        _fill(handle, content, durable=True)
        sync_directory(path.parent)
    except BaseException:  # half a key would be in the way of a whole one
        path.unlink()
        raise


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_whole(
    path: Path,
    content: bytes,
    *,
    durable: bool = True,
    mode: int | None = None,
    follow: bool = True,
) -> None:
    """Write a file so that after a crash there is all of it or nothing; `durable`: and it is on the disk.

    `mode`: who may read it, such as 0o600, from its first byte on; None: as the umask says. `follow`: where the name is
    a link, the file that it leads to is written; else the link makes room.

    Until then it is `NAME.xxxxxxxx.new`, which no file of anybody's is called; only a crash leaves that behind.

    Raises:
        UserError: it cannot be that file; the message says why.
        OSError: of `path`, where the system refuses.
    """
    if follow and path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file", hint="choose another name")
    if not path.parent.is_dir():
        raise UserError(
            f"{path} cannot be written: there is no directory {path.parent}",
            hint="make the directory first",
        )
    target = path.resolve() if follow else path
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.new")
    # O_EXCL replaces none; unlike `mkstemp` this leaves the mode to the umask where none is given.
    flags, allowed = os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode
    try:
        _fill(os.open(temporary, flags, allowed), content, durable=durable)
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.strerror:
            error.filename, error.filename2 = str(path), None  # what was asked for, not its half
        raise
    if durable:
        sync_directory(target.parent)


def _fill(handle: int, content: bytes, *, durable: bool) -> None:
    """Write to an open file and close it; `durable`: after the disk has it."""
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
