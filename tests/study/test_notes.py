"""Logs: a line is a line, whoever has written what is in it, and no link leads elsewhere."""

import os

import pytest

from study.notes import bound_log, note, open_log


def test_a_line_stays_a_line_and_moves_no_terminal(capsys):
    note("ready\n2026-01-01 00:00:00Z All is well\x1b[2J\x07\u2028 \u202e" + "x" * 10_000)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith("x\n")
    assert len(said) < 3_000
    assert said[:-1].isprintable()


def test_a_large_log_makes_room_and_is_kept(tmp_path, monkeypatch):
    """While a process writes to it, which goes on at its new beginning."""
    monkeypatch.setattr("study.notes._LARGEST_LOG", 8)
    path = tmp_path / "a.log"
    with open_log(path) as log:
        for line in (b"short", b" and long", b"next"):
            bound_log(path)
            log.write(line)
            log.flush()
            bound_log(path)
    assert path.read_bytes() == b"next"
    assert path.with_suffix(".log.1").read_bytes() == b"and long", "the end of it"
    for each in (path, path.with_suffix(".log.1")):
        assert each.stat().st_mode & 0o077 == 0


def test_what_is_no_log_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("study.notes._LARGEST_LOG", 3)
    (tmp_path / "other").write_bytes(b"somebody's")
    (tmp_path / "a.log").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "b.log")
    for name in ("a.log", "b.log", "c.log"):
        bound_log(tmp_path / name)
    assert (tmp_path / "other").read_bytes() == b"somebody's"


def test_no_link_is_written_through(tmp_path):
    (tmp_path / "other").write_bytes(b"somebody's")
    (tmp_path / "a.log").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        open_log(tmp_path / "a.log")
    assert (tmp_path / "other").read_bytes() == b"somebody's"


def test_where_no_copy_can_be_kept_a_large_log_makes_room_all_the_more(tmp_path, monkeypatch):
    def full(path, *_arguments, **_options):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("study.notes._LARGEST_LOG", 3)
    monkeypatch.setattr("study.notes.write_whole", full)
    (tmp_path / "a.log").write_bytes(b"long enough")
    bound_log(tmp_path / "a.log")
    assert (tmp_path / "a.log").read_bytes() == b""


def test_no_pipe_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.log")
    with pytest.raises(OSError, match="No such device"):
        open_log(tmp_path / "a.log")
