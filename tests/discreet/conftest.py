"""The command, called in this process or in one of its own, and a small study with its records."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from discreet.main import app
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.freezing import to_toml

STUDY = Study(
    name="patients",
    data=Data(
        task="classification", label="ill", classes=("no", "yes"), expected_records=45,
        features=("age", "marker"), bounds={"age": (0.0, 100.0), "marker": (-9.0, 9.0)},
    ),
    model=Model(kind="logistic"),
    training=Training(rounds=3, learning_rate=0.5),
    privacy=Privacy(trust="local", noise_multiplier=1.0),
    sites=Sites(minimum=3),
)  # fmt: skip
ENVIRONMENT = {"COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"}


def rows_of_patients():
    generator = np.random.default_rng(5)
    for number in range(60):
        marker = np.clip(generator.normal(4 * (number % 2) - 2, 1), -9, 9)
        yield f"{generator.integers(20, 90)},{marker:.3f},{('no', 'yes')[number % 2]},{number % 3}"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty directory in which the command runs."""
    directory = tmp_path / "place"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def write_study(place):
    """Write study.toml; arguments change settings of its sections, `text` what is written."""

    def write(text=lambda text: text, name="study.toml", **sections):
        changed = {key: replace(getattr(STUDY, key), **each) for key, each in sections.items()}
        study = replace(STUDY, **changed)
        (place / name).write_text(text(to_toml(study)), encoding="utf-8")
        return name

    return write


@pytest.fixture
def write_data(place):
    """Write data.csv; `change` is given its lines and returns others."""

    def write(change=lambda lines: lines, name="data.csv"):
        lines = change(["age,marker,ill,hospital", *rows_of_patients()])
        (place / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return name

    return write


@pytest.fixture
def call():
    """The command in this process: exit_code, stdout, stderr."""

    def run(*arguments):
        return CliRunner().invoke(app, [str(each) for each in arguments], env=ENVIRONMENT)

    return run


@pytest.fixture
def start():
    """The command in a process of its own, which does not survive the test."""
    started = []

    def begin(*arguments, **settings):
        process = subprocess.Popen(
            [sys.executable, "-m", "discreet", *map(str, arguments)],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | settings,
            env={each: value for each, value in os.environ.items() if each != "FORCE_COLOR"},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
