"""What a confined process cannot do any more, and what it still can: each tried in a child, which ends with the test."""

import os
import platform
import subprocess
import sys
import textwrap

import pytest

from client import system_calls
from client.confinement import ConfinementError, _become, confine
from client.system_calls import ARCHITECTURES, DENIED

MEMORY = 3_000_000_000
LIMIT_SECONDS = 60.0
HERE = platform.machine()

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or HERE not in ARCHITECTURES,
    reason="the worker is confined on Linux alone",
)


def confined(code, *, before=""):
    """What a child prints that has confined itself, then runs this."""
    program = "\n".join(
        [
            "import os, sys", textwrap.dedent(before), "from client.confinement import confine",
            f"held = confine(memory={MEMORY})", "def denied(call):",
            "    try: call()", "    except PermissionError: return True", "    return False", textwrap.dedent(code),
        ]
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "call",
    [
        "socket.socket()", "socket.socket(socket.AF_UNIX)", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.socketpair()", "socket.create_connection(('127.0.0.1', 1))",
        "os.execv('/bin/true', ['true'])", "subprocess.run(['true'])", "os.fork()", "os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(os.getppid(), 0)", "os.unshare(os.CLONE_NEWUSER) if hasattr(os, 'unshare') else call(272, 97, 0x10000000)",
        "os.pidfd_open(os.getppid())", "os.chroot('/')", "os.mknod('/tmp/never', 0o20600, 5)", "time.clock_settime(0, 0)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CORE)",
    ],
)  # fmt: skip
def test_networks_programs_and_other_processes_are_denied(call):
    before = """
        import ctypes, resource, socket, subprocess, time
        libc = ctypes.CDLL(None, use_errno=True)
        def call(x86, arm, *arguments):
            if libc.syscall(x86 if os.uname().machine == "x86_64" else arm, *arguments) < 0:
                raise OSError(ctypes.get_errno(), "")
    """
    assert confined(f"print(denied(lambda: {call}))", before=before) == ["True"]


@pytest.mark.parametrize("name", sorted(DENIED))
def test_every_denied_system_call_is(name):
    number = DENIED[name][0 if HERE == "x86_64" else 1]
    if number is None:
        pytest.skip("there is no such call here")
    pairs = all_errors()
    assert pairs[number] == 1, f"{name} fails with EPERM whatever it is asked"


_errors = {}


def all_errors():
    """The error number of every denied call with senseless arguments, from one child; so is an unknown call's."""
    if not _errors:
        numbers = sorted(ARCHITECTURES[HERE].denied)
        before = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)"
        code = f"""
            for number in {[*numbers, 435, 999]}:
                ctypes.set_errno(0)
                libc.syscall(number, -1, -1, -1, -1, -1, -1)
                print(number, ctypes.get_errno())
        """
        words = iter(map(int, confined(code, before=before)))
        _errors.update(zip(words, words, strict=True))
    return _errors


def test_calls_of_later_kernels_and_clone3_are_not_there():
    assert (all_errors()[435], all_errors()[999]) == (38, 38)


@pytest.mark.skipif(HERE != "x86_64", reason="x32 is a way to call x86-64")
def test_the_same_calls_by_their_other_numbers_are_denied():
    before = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)"
    assert confined("libc.syscall(0x40000000 | 39); print(ctypes.get_errno())", before=before) == [
        "1"
    ]


def test_more_memory_and_files_than_allowed_are_refused():
    code = f"""
        try: bytearray({MEMORY})
        except MemoryError: print("memory")
        import resource
        print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_AS)[1] == {MEMORY})
        try: [open(os.devnull) for _ in range(2000)]
        except OSError: print("files")
    """
    said = confined(code)
    assert said[0] == "memory"
    assert said[-1] == "files"
    assert said[1:4] == ["(0,", "0)", "True"]


def test_it_holds_for_every_thread_and_cannot_be_taken_back():
    code = """
        import ctypes, resource, threading, socket
        found = []
        thread = threading.Thread(target=lambda: found.append(denied(socket.socket)))
        thread.start(); thread.join()
        libc = ctypes.CDLL(None, use_errno=True)
        print(found[0], libc.prctl(4, 1, 0, 0, 0), libc.prctl(3, 0, 0, 0, 0), libc.prctl(38, 0, 0, 0, 0), denied(socket.socket))
    """
    *_, last = said = confined(code)
    assert said[0] == "True"
    assert last == "True"
    assert said[3] == "-1", "no_new_privs stays"


def test_ordinary_work_goes_on(tmp_path):
    code = f"""
        import sqlite3, threading
        import numpy as np
        database = sqlite3.connect({str(tmp_path / "a.sqlite")!r})
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (x)")
        database.commit()
        products = []
        threads = [threading.Thread(target=lambda: products.append(np.ones((300, 300)) @ np.ones((300, 300)))) for _ in range(4)]
        [each.start() for each in threads]; [each.join() for each in threads]
        with open({str(tmp_path / "file")!r}, "wb") as file:
            file.write(os.urandom(10)); os.fsync(file.fileno())
        os.rename({str(tmp_path / "file")!r}, {str(tmp_path / "other")!r})
        import flwr.clientapp, client.answers
        print(len(products), float(products[0].sum()), os.listdir({str(tmp_path)!r}) != [])
    """
    assert confined(code) == ["4", "27000000.0", "True"]


def test_what_holds_is_said_in_words():
    assert "none" in " ".join(
        confined("print(held['network'], held['other programs and processes'])")
    )


def test_a_user_that_is_not_there_or_cannot_be_become_is_refused():
    with pytest.raises(ConfinementError, match="found worker.user = nobody-of-this-name"):
        _become("nobody-of-this-name")
    if os.getuid() == 0:
        with pytest.raises(ConfinementError, match="and not root"):
            _become("root")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_root_becomes_the_user_for_good():
    code = "print(os.getuid() != 0, os.getgroups() == [], denied(lambda: os.setuid(0)))"
    program = code.replace("print", "print")
    done = subprocess.run(
        [sys.executable, "-c", "import os\nfrom client.confinement import confine\n"
         f"confine(memory={MEMORY}, user='nobody')\n"
         "def denied(call):\n    try: call()\n    except PermissionError: return True\n" + program],
        capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


def test_a_machine_that_cannot_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ConfinementError, match="riscv64"):
        confine(memory=MEMORY)


def test_the_numbers_are_those_of_this_machine_s_kernel_headers():
    from pathlib import Path

    headers = (
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        Path("/usr/include/asm-generic/unistd.h"),
    )
    for place, header in enumerate(headers):
        if not header.exists():
            continue
        lines = [
            each.split()
            for each in header.read_text().splitlines()
            if each.startswith("#define __NR")
        ]
        names = {
            each[1].removeprefix("__NR_").removeprefix("__NR3264_"): each[2]
            for each in lines
            if len(each) == 3
        }
        for name, numbers in system_calls.DENIED.items():
            if name in names and numbers[place] is not None and names[name].isdigit():
                assert int(names[name]) == numbers[place], name
