"""The processes of a deployment are kept going, each for itself."""

import os
import sys
import threading

from typer.testing import CliRunner

from discreet import keeper
from discreet.main import app
from discreet.processes import Service, keep_going
from study.locks import hold
from study.notes import last_line
from study.processes import Process


def test_why_one_has_ended_is_told_in_a_line_that_moves_no_terminal(tmp_path):
    said, stop = [], threading.Event()
    failing = Process(
        name="failing",
        command=(sys.executable, "-c", r"import sys; sys.exit('first\n\x1b[31mno key\n\n')"),
    )

    def say(line):
        said.append(line)
        stop.set()

    keep_going([Service(failing)], tmp_path, stop, say)
    log = tmp_path / "failing.log"
    assert (
        said[0]
        == f"failing has ended (exit code 1); it is started again. {log} ends with: ?[31mno key"
    )


def test_a_log_that_is_none_of_ours_is_not_read(tmp_path):
    (tmp_path / "secret").write_text("a secret")
    (tmp_path / "link.log").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe.log")
    for name in ("link.log", "pipe.log", "absent.log"):
        assert last_line(tmp_path / name) == ""


def test_of_two_on_one_directory_the_second_does_not_start(tmp_path, capsys):
    directory = tmp_path / "coordinator"
    result = CliRunner().invoke(app, ["coordinator", "init", str(directory), "--host", "a.org"])
    assert result.exit_code == 0, result.output
    held = hold(directory / "keeper.lock")
    assert keeper.main(["coordinator", str(directory)]) == 1
    assert "coordinator runs already" in capsys.readouterr().err
    os.close(held)


def test_a_place_for_logs_that_is_a_file_is_told_of(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(keeper, "stop_on_signals", threading.Event)
    directory = tmp_path / "coordinator"
    result = CliRunner().invoke(app, ["coordinator", "init", str(directory), "--host", "a.org"])
    assert result.exit_code == 0, result.output
    (directory / "logs").rmdir()
    (directory / "logs").write_text("")
    assert keeper.main(["coordinator", str(directory)]) == 1
    assert "File exists" in capsys.readouterr().err


def test_one_that_cannot_be_started_ends_no_other(tmp_path):
    said, stop, heard = [], threading.Event(), threading.Event()
    absent = Process(name="absent", command=(str(tmp_path / "nothing"),))
    present = Process(name="present", command=(sys.executable, "-c", "import time; time.sleep(60)"))

    def say(line):
        said.append(line)
        if len(said) == 2:
            heard.set()

    logs = tmp_path / "logs"
    # In this thread, as children are bound to the life of the thread that starts them.
    threading.Thread(target=lambda: (heard.wait(30), stop.set())).start()
    services = [Service(absent), Service(present, ending=1.0)]
    keep_going(services, logs, stop, say)
    assert (
        said[:2] == ["absent cannot be started (No such file or directory); it is tried again"] * 2
    )
    assert {each.name for each in logs.iterdir()} == {"absent.log", "present.log"}
