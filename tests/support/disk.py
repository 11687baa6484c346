"""Hear what SQLite does to its files: every write, truncation, sync, creation and removal, before and after it.

SQLite reaches the disk through a table of functions, its VFS. Here that of the very library which Python's `sqlite3` uses
is wrapped by another of our own, through ctypes; nothing in what is tested knows. (SQLite's documentation, "The OS
Interface or VFS", and sqlite3.h, for the layout of its structures.) The shared memory of a log is left alone: it is
made anew from the log after every crash.
"""

import ctypes
import ctypes.util
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

FAILED_SYNC = 10 | (4 << 8)
"""SQLITE_IOERR_FSYNC."""

_OK, _CREATE = 0, 0x4
_LOG = 0x4000 | 0x800 | 0x80000  # SUPER_JOURNAL, MAIN_JOURNAL, WAL

_pointer, _integer, _long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


def _method(*arguments):
    return ctypes.CFUNCTYPE(_integer, *arguments)


_WRITE = _method(_pointer, _pointer, _integer, _long)
_TRUNCATE = _method(_pointer, _long)
_SYNC = _method(_pointer, _integer)
_OPEN = _method(_pointer, _pointer, _pointer, _integer, ctypes.POINTER(_integer))
_DELETE = _method(_pointer, _pointer, _integer)


Heard = Callable[[str, str, str, int, bytes], int | None]
"""`when` ("before", "after"), what, the file's name, offset or size, content. Other than None, what it returns before
something happens is what SQLite is told, and it does not happen."""


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3; what is not wrapped stays a bare pointer."""

    _fields_ = [
        ("version", _integer), ("close", _pointer), ("read", _pointer), ("write", _WRITE), ("truncate", _TRUNCATE),
        ("sync", _SYNC), *((f"other{number}", _pointer) for number in range(13)),
    ]  # fmt: skip


class _File(ctypes.Structure):
    _fields_ = [("methods", ctypes.POINTER(_Methods))]


class _FileSystem(ctypes.Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = [
        ("version", _integer), ("size", _integer), ("longest", _integer), ("next", _pointer), ("name", ctypes.c_char_p),
        ("data", _pointer), ("open", _OPEN), ("delete", _DELETE), *((f"other{number}", _pointer) for number in range(14)),
    ]  # fmt: skip


class Listener:
    """A VFS that tells `hear` what is done, and then does it. The default one while `listening`."""

    def __init__(self, hear: Heard) -> None:
        self._library = ctypes.CDLL(ctypes.util.find_library("sqlite3"))
        self._library.sqlite3_vfs_find.restype = ctypes.POINTER(_FileSystem)
        self._hear = hear
        self._kept: dict[int, tuple[object, ...]] = {}  # whatever C code points to
        self._original = self._library.sqlite3_vfs_find(None)
        self._own = _FileSystem()
        ctypes.pointer(self._own)[0] = self._original[0]
        self._own.name = b"heard"
        self._own.open, self._own.delete = _OPEN(self._open), _DELETE(self._delete)

    def start(self) -> None:
        self._library.sqlite3_vfs_register(ctypes.byref(self._own), 1)

    def stop(self) -> None:
        self._library.sqlite3_vfs_register(self._original, 1)
        self._library.sqlite3_vfs_unregister(ctypes.byref(self._own))

    def _tell(self, what, name, place=0, content=b"", *, act):
        instead = self._hear("before", what, name, place, content)
        if instead is not None:
            return instead
        found = act()
        self._hear("after", what, name, place, content)
        return found

    def _open(self, _system, name, file, flags, out):
        path = Path(ctypes.string_at(name).decode()).name if name else ""
        if not name or path.endswith("-shm"):
            return self._original[0].open(self._original, name, file, flags, out)
        new = flags & _CREATE and not Path(ctypes.string_at(name).decode()).exists()
        found = self._original[0].open(self._original, name, file, flags, out)
        opened = ctypes.cast(file, ctypes.POINTER(_File))[0]
        if found == _OK and opened.methods:
            if new:
                self._hear("after", "create log" if flags & _LOG else "create", path, 0, b"")
            self._wrap(file, opened, path)
        return found

    def _wrap(self, file, opened, name):
        original, wrapped = opened.methods[0], _Methods()
        ctypes.pointer(wrapped)[0] = original
        write, truncate, sync = original.write, original.truncate, original.sync
        wrapped.write = _WRITE(
            lambda file, data, size, offset: self._tell(
                "write", name, offset, ctypes.string_at(data, size), act=lambda: write(file, data, size, offset)
            )
        )  # fmt: skip
        wrapped.truncate = _TRUNCATE(
            lambda file, size: self._tell("truncate", name, size, act=lambda: truncate(file, size))
        )
        wrapped.sync = _SYNC(
            lambda file, flags: self._tell("sync", name, act=lambda: sync(file, flags))
        )
        self._kept[file] = (wrapped, original, opened)
        opened.methods = ctypes.pointer(wrapped)

    def _delete(self, _system, name, sync):
        path = Path(ctypes.string_at(name).decode())
        return self._tell(
            "delete", path.name, act=lambda: self._original[0].delete(self._original, name, sync)
        )


@contextmanager
def listening(hear: Heard):
    """Every connection that is opened within the block is heard; close them before it ends."""
    listener = Listener(hear)
    listener.start()
    try:
        yield
    finally:
        listener.stop()


def can_listen() -> bool:
    """Is Python's `sqlite3` the shared library that ctypes finds? (Not where it is linked statically.)"""
    heard = []
    if not ctypes.util.find_library("sqlite3"):
        return False
    with listening(lambda *told: heard.append(told)), tempfile.TemporaryDirectory() as place:
        database = sqlite3.connect(Path(place) / "try.sqlite")
        database.execute("CREATE TABLE t (x)")
        database.close()
    return any(told[1] == "sync" for told in heard)
