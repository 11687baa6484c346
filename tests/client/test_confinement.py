"""What a confined process cannot do any more, and what it still can: each tried in a child, which ends with the test."""

import os
import platform
import pwd
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from site_directories import furnished, site_directory

from client.worker import system_calls
from client.worker.confinement import ConfinementError, _become, _landlock, confine
from client.worker.system_calls import ARCHITECTURES, DENIED

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
            "import os, sys", textwrap.dedent(before), "from client.worker.confinement import confine",
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
        _become("nobody-of-this-name", None)
    if os.getuid() == 0:
        with pytest.raises(ConfinementError, match="and not root"):
            _become("root", None)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize(("owner", "mode"), [("nobody", 0o700), ("root", 0o777), ("root", 0o770)])
def test_a_user_that_could_put_links_where_root_writes_is_refused(tmp_path, owner, mode):
    shutil.chown(tmp_path, owner)
    tmp_path.chmod(mode)
    with pytest.raises(ConfinementError, match="sticky bit") as caught:
        _become("nobody", tmp_path)
    assert "1770" in caught.value.hint
    assert os.getuid() == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_user_may_write_beside_what_is_roots():
    """As the hint says it: the ledger opens, and what is root's stays in its place."""
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o755)
        place = site_directory(Path(top) / "site")
        furnished(place)
        (place / "task").write_text("root's")
        os.chown(place.path, 0, pwd.getpwnam("nobody").pw_gid)
        place.path.chmod(0o1770)
        for path in [*place.path.glob("ledger.sqlite*"), place / "site.key"]:
            shutil.chown(path, "nobody")
        done = in_child(f"""
            from pathlib import Path
            from client.worker.confinement import confine
            from client.ledger import Ledger
            from study.keyfiles import read_key
            place = Path({str(place.path)!r})
            "x".encode("utf-16-be")  # while the library can be read: here it may be root's alone
            confine(memory={MEMORY}, user="nobody", directory=place)
            Ledger(place / "ledger.sqlite", read_key(place / "site.key")).close()
            (place / "worker.lock").touch()
            try:
                (place / "task").unlink()
            except PermissionError:
                print("stays")
        """)
    assert done == ["stays"]


LANDLOCK = _landlock(444, None, 0, 1) if sys.platform == "linux" else 0


def in_child(code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(LANDLOCK < 1, reason="this kernel has no Landlock")
def test_files_are_written_in_one_directory_alone(tmp_path):
    """And another process' memory is none of them: it could have the network."""
    (tmp_path / "site").mkdir()
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "site" / "link").symlink_to(tmp_path / "elsewhere")
    found = in_child(f"""
        import os, subprocess, sys
        from pathlib import Path
        from client.worker.confinement import confine
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        top = Path({str(tmp_path)!r})
        held = confine(memory={MEMORY}, directory=top / "site")
        def denied(call):
            try: call()
            except PermissionError: return True
            return False
        (top / "site" / "new").write_text("x")
        (top / "site" / "new").write_text("y")
        (top / "site" / "new").replace(top / "site" / "newer")
        (top / "site" / "newer").unlink()
        print((top / "elsewhere").read_text(), "Landlock" in held["writing files"])
        open(os.devnull, "w").close()
        print(*map(denied, [
            lambda: (top / "elsewhere").write_text("x"), lambda: (top / "site" / "link").write_text("x"),
            lambda: (top / "other").write_text("x"), lambda: (top / "elsewhere").unlink(),
            lambda: (top / "elsewhere").replace(top / "site" / "mine"), lambda: os.truncate(top / "elsewhere", 0),
            lambda: os.symlink("a", top / "site" / "b"), lambda: os.mkfifo(top / "site" / "fifo"),
            lambda: open(f"/proc/{{other.pid}}/mem", "r+b"), lambda: open(f"/proc/{{other.pid}}/mem", "rb"),
            lambda: open("/proc/sys/kernel/core_pattern", "w"),
        ]))
        other.stdin.close()
    """)
    assert found[:2] == ["kept", "True"]
    allowed = [number for number, denied in enumerate(found[2:]) if denied != "True"]
    assert allowed in ([], [5] if LANDLOCK < 3 else []), (
        "truncating is what the third version denies"
    )


@pytest.mark.parametrize("command", ["F_SETOWN", "F_SETSIG", "F_SETLEASE", "F_NOTIFY"])
def test_a_file_sends_no_signals(command):
    before = "import fcntl\nreading, writing = os.pipe()"
    code = f"""
        print(denied(lambda: fcntl.fcntl(reading, fcntl.{command}, os.getppid())))
        print(fcntl.fcntl(reading, fcntl.F_SETFL, os.O_NONBLOCK), fcntl.fcntl(reading, fcntl.F_DUPFD, 5) >= 5)
    """
    assert confined(code, before=before) == ["True", "0", "True"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_root_becomes_the_user_for_good():
    code = "print(os.getuid() != 0, os.getgroups() == [], denied(lambda: os.setuid(0)))"
    program = code.replace("print", "print")
    done = subprocess.run(
        [sys.executable, "-c", "import os\nfrom client.worker.confinement import confine\n"
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
