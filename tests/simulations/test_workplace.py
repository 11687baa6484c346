"""Where a run works: whatever interrupts its end, the release is whole and the next run gets there."""

import os
import shutil
import signal

import pytest

from simulations.faults import uninterrupted
from simulations.workplace import interrupted, workplace

IDENTITY = {"seed": 1}


def write(place, text):
    (place / "checkpoint").mkdir(exist_ok=True)
    (place / "release").mkdir()
    (place / "release" / "model").write_text(text)


def run(out, text, *, resume=False, at_the_end=lambda: None):
    with workplace(out, IDENTITY, resume=resume) as place:
        write(place, text)
        at_the_end()


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_dies_as_it_replaces_a_release_ends_when_it_is_repeated(
    tmp_path, monkeypatch, steps, resume
):
    """Before the old one has gone, between the two, and when the new one is there."""
    out, done = tmp_path / "out", []
    run(out, "old")

    def dying(rename=os.rename):
        def step(*paths, **_):
            if len(done) == steps:
                raise SystemExit
            done.append(paths)
            rename(*paths)

        monkeypatch.setattr(os, "rename", step)
        monkeypatch.setattr(shutil, "rmtree", step)

    with pytest.raises(SystemExit):
        run(out, "new", at_the_end=dying)
    monkeypatch.undo()
    assert interrupted(out)
    run(out, "newer", resume=resume)
    assert (out / "model").read_text() == "newer"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert not interrupted(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_asks_a_run_to_end_when_it_is_done_gets_the_release(tmp_path, monkeypatch, number):
    rename = os.rename
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        monkeypatch.setattr(
            os, "rename", lambda *paths: (signal.raise_signal(number), rename(*paths))
        )
        run(tmp_path / "out", "model")
    finally:
        signal.signal(number, before)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert heard == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_asks_it_to_end_in_a_round_waits_until_the_round_is_over(number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        with uninterrupted():
            signal.raise_signal(number)
            assert heard == []
        assert heard == [number]
    finally:
        signal.signal(number, before)
