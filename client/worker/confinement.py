"""What the worker may do. It says so of itself first of all, before there are threads or libraries, and for good.

| nothing of | by |
|---|---|
| sockets of any kind, and io_uring, which could open some | a filter of system calls (seccomp) |
| other programs, other processes | the same |
| reading or steering other processes: ptrace, process_vm, signals, turns, shared memory and queues | the same |
| writing files outside of the site's directory; other processes' memory as a file | Landlock, where the kernel has it |
| mounts, namespaces, modules, keys of the kernel, clocks, bpf | the same |
| system calls that later kernels add | the same |
| privileges of programs that give some | no_new_privs |
| core files, its memory for processes of the same user | not dumpable |
| more memory or open files than that | limits |

**Protects from** a worker that was taken over: by a coordinator's message that exploits a fault of Flower, Protobuf,
NumPy or of ours, or by a file of records that does. It has the records and the site's key in its hands, and still
nobody to send them to: its one way out is the pipe to the executor, which passes on one reply to one message, to its
sender.

**Does not protect from**: what such a worker writes into that reply, or into the site's directory; it reads what its
user reads. Without Landlock (before Linux 5.13) it also writes what its user may, and that is the memory of the user's
other processes too, but for ours: give it a user of its own then (`worker.user`). Such a user must not own the site's
directory: a worker that renames what root's executor writes into would be root. Nor from faults of the kernel in the
system calls that are left: those that a program with files, memory and threads needs.

What it denies fails with EPERM, as for any program without the right; nothing is killed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import stat
import struct
import sys
from pathlib import Path

from client.worker.system_calls import ARCHITECTURES, LAST_KNOWN, Architecture
from privacy.errors import UserError

__all__ = ["ConfinementError", "confine", "forbid_dumps", "limit", "unconfined"]

_OPEN_FILES = 512

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_SECCOMP_MODE_FILTER = 2

# Of the classic BPF machine (linux/bpf_common.h), and what a filter may answer (linux/seccomp.h).
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = _ERRNO | 1, _ERRNO | 38
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000  # x86-64 numbers with this bit are the same calls for 32-bit pointers
_CLONE_THREAD = 0x00010000
# F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: signals to anybody
_SIGNALLING = (8, 10, 15, 1024, 1026)

Instruction = tuple[int, int, int, int]


class ConfinementError(UserError):
    """This machine cannot confine the worker as its site's settings ask."""


def confine(
    *, memory: int, user: str | None = None, directory: Path | None = None
) -> dict[str, str]:
    """Confine this process and all that it will ever start. What holds from now on, in words.

    Arguments:
        memory: bytes of address space. user: of the system, to become; for a process of root's alone.
        directory: the only one in which files may be written; None: that is not confined.
    Raises:
        ConfinementError: the machine or its settings do not allow it; limits may hold already.
    """
    kind = _architecture()
    limit(memory)
    if user is not None:
        _become(user, directory)
    forbid_dumps()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, what="no_new_privs")
    files = "as its user" if directory is None else _write_nowhere_but_in(directory)
    _install(_filter(kind))
    return {
        "network": "none (seccomp)",
        "other programs and processes": "none (seccomp)",
        "writing files": files,
        "memory": f"{memory:,} bytes of address space",
        "user": "ROOT (worker.user, or another user for the site, would be safer)"
        if os.getuid() == 0
        else user or str(os.getuid()),
    }


def unconfined(*, memory: int) -> dict[str, str]:
    """What holds for a worker that its site's settings leave unconfined: limits, where there are any."""
    limit(memory)
    return {
        "network": "AS ITS USER (worker.confined = false)",
        "other programs and processes": "AS ITS USER (worker.confined = false)",
        "memory": f"{memory:,} bytes of address space",
    }


def limit(memory: int) -> None:
    """Bound address space and open files of this process; no core files."""
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def forbid_dumps() -> None:
    """Nobody but root may read the memory of this process. Where the system has no such thing, nothing happens."""
    if sys.platform == "linux":
        _prctl(_PR_SET_DUMPABLE, 0, what="PR_SET_DUMPABLE")


def _architecture() -> Architecture:
    kind = ARCHITECTURES.get(platform.machine()) if sys.platform == "linux" else None
    if kind is None or sys.byteorder != "little" or struct.calcsize("P") != 8:
        raise ConfinementError(
            f"Expected Linux on x86-64 or AArch64, found {platform.system()} on {platform.machine()}: "
            "the worker cannot be kept from the network here",
            hint="set worker.confined = false in site.toml if something else does that, such as a container",
        )
    return kind


def _become(user: str, directory: Path | None) -> None:
    """Of root's process, one of this user's, for good."""
    import pwd  # noqa: PLC0415  not on every system

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfinementError(
            f"Expected a user of this machine, found worker.user = {user}"
        ) from None
    if os.getuid() == entry.pw_uid != 0:
        return
    if os.getuid() != 0 or entry.pw_uid == 0:
        raise ConfinementError(
            f"Expected to become the user {user}, as worker.user says, which only root can, and not root",
            hint="start the site as root, or as that very user, or leave worker.user out",
        )
    if directory is not None:
        _require_roots(directory, user, entry.pw_uid)
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


def _require_roots(directory: Path, user: str, number: int) -> None:
    """Raise ConfinementError where this user could put a link in the place of what root's executor writes."""
    found = directory.stat()
    others_write = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
    if found.st_uid == number or others_write:
        raise ConfinementError(
            f"Expected {directory} to be root's, with a sticky bit where {user} may write, as worker.user = {user}",
            hint=f"chown root:GROUP and chmod 1770 it, GROUP being {user}'s; chown {user} ledger.sqlite* site.key",
        )


# Landlock (linux/landlock.h): its calls have the same numbers everywhere.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 1, 1 << 5, 1 << 8, 1 << 14
_REMOVE_AND_MAKE = sum(1 << each for each in range(4, 13))  # whatever it is
_NO_TCP, _NO_SIGNALS = 0b11, 0b11  # binding, connecting; abstract sockets, signals


def _write_nowhere_but_in(directory: Path) -> str:
    """Files are written in one directory, and no process outside is looked into. In words, what came of it."""
    version = _landlock(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return "AS ITS USER (this kernel has no Landlock)"
    change = _WRITE_FILE | (_TRUNCATE if version >= 3 else 0)
    rules = [(directory, change | _REMOVE_FILE | _MAKE_REG), (Path(os.devnull), change)]
    words = [
        change | _REMOVE_AND_MAKE,
        *([_NO_TCP] if version >= 4 else []),
        *([_NO_SIGNALS] if version >= 6 else []),
    ]
    attributes = struct.pack(f"<{len(words)}Q", *words)
    ruleset = _landlock(_CREATE_RULESET, attributes, len(attributes), 0)
    for path, allowed in rules:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("<Qi", allowed, place)
        _require_done(_landlock(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
        os.close(place)
    _require_done(_landlock(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)
    return f"in {directory} alone (Landlock {version})"


def _landlock(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return int(libc.syscall(ctypes.c_long(number), *words))


def _require_done(result: int) -> None:
    if result < 0:
        raise ConfinementError(
            f"Expected the kernel to confine the worker (Landlock), found: {os.strerror(ctypes.get_errno())}"
        )


def _filter(kind: Architecture) -> list[Instruction]:
    """The program that the kernel asks about every system call."""
    last = max(LAST_KNOWN, *kind.denied)
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, kind.audit),
        (_RETURN, 0, 0, _EPERM),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _EPERM),
        (_AT_LEAST, 0, 1, last + 1),
        (_RETURN, 0, 0, _ENOSYS),
        (_EQUAL, 0, 1, kind.clone3),
        (_RETURN, 0, 0, _ENOSYS),  # its flags lie in memory, where no filter can look: libraries fall back to clone
        *_unless(kind.clone, _ANY_BIT, _CLONE_THREAD),
        *_unless(kind.tgkill, _EQUAL, os.getpid()),
        *_unless(kind.prlimit64, _EQUAL, 0),
        *_if_any(kind.fcntl, _SIGNALLING),
    ]  # fmt: skip
    for number in sorted(kind.denied):
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _unless(number: int, test: int, value: int) -> list[Instruction]:
    """A system call that is allowed only if its first argument passes a test (of its lower half, where it lies)."""
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _ARGUMENTS),
        (test, 0, 1, value),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]


def _if_any(number: int, values: tuple[int, ...]) -> list[Instruction]:
    """A system call that is denied for these second arguments."""
    each = [step for value in values for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _EPERM))]
    block: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENTS + 8), *each, (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(block), number), *block]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _install(program: list[Instruction]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *each) for each in program))
    whole = _Program(len(program), ctypes.addressof(code))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(whole), what="seccomp")


def _prctl(option: int, first: int, second: int = 0, *, what: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(each) for each in (first, second, 0, 0)]
    if libc.prctl(ctypes.c_int(option), *words) != 0:
        raise ConfinementError(
            f"Expected the kernel to confine the worker ({what}), found: {os.strerror(ctypes.get_errno())}",
            hint="an old kernel, or a container that forbids it? allow it, or set worker.confined = false",
        )
