"""Logs: a line is a line, whoever has written what is in it, and no link leads elsewhere."""

import pytest

from study.notes import note, open_log


def test_a_line_stays_a_line_and_moves_no_terminal(capsys):
    note("ready\n2026-01-01 00:00:00Z All is well\x1b[2J\x07\u2028 \u202e" + "x" * 10_000)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith("x\n")
    assert len(said) < 3_000
    assert said[:-1].isprintable()


def test_a_large_log_makes_room_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("study.notes._LARGEST_LOG", 3)
    path = tmp_path / "a.log"
    for line in (b"first", b"second"):
        with open_log(path) as log:
            log.write(line)
    assert path.read_bytes() == b"second"
    assert path.with_suffix(".log.1").read_bytes() == b"first"
    assert path.stat().st_mode & 0o077 == 0


def test_no_link_is_written_through(tmp_path):
    (tmp_path / "other").write_bytes(b"somebody's")
    (tmp_path / "a.log").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        open_log(tmp_path / "a.log")
    assert (tmp_path / "other").read_bytes() == b"somebody's"
