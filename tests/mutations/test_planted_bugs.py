"""Every privacy bug of a list, planted into a copy of the code, is found by a test that does not know the list."""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aggregation_bugs
import privacy_bugs
import pytest

BUGS = privacy_bugs.BUGS + aggregation_bugs.BUGS
ROOT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(
    ".*", "__pycache__", "*.partial", "demo-report", "docs", "benchmarks"
)
SECONDS = 300  # a bug may also make a test hang


def outcome_of(bug):
    """(exit code of pytest on the killer alone, its output) with the bug planted."""
    with tempfile.TemporaryDirectory(prefix="discreet-planted-") as place:
        copy = Path(place) / "project"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        file = copy / bug.file
        text = file.read_text(encoding="utf-8")
        for old, new in ((bug.old, bug.new), *bug.more):
            if text.count(old) != 1:
                return None, f"{bug.file} has {text.count(old)} places to plant this bug, not 1"
            text = text.replace(old, new)
        file.write_text(text, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:randomly",
            "-p",
            "no:cacheprovider",
            bug.killer,
        ]
        environment = os.environ | {
            "PYTHONPATH": str(copy),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(copy / "hypothesis"),
        }
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 1, "it hangs"
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def outcomes():
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        return dict(zip([bug.name for bug in BUGS], workers.map(outcome_of, BUGS), strict=True))


def test_the_list_is_long_and_every_bug_has_a_name_of_its_own():
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert min(len(privacy_bugs.BUGS), len(aggregation_bugs.BUGS)) >= 20


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_a_planted_bug_is_found(outcomes, bug):
    """Exit code 1: the killer ran and failed. Anything else (no such test, no import, all passed) is no kill."""
    code, output = outcomes[bug.name]
    assert code == 1, f"{bug.killer} lives with: {bug.name}\n{output[-2000:]}"
    assert "error" not in output.splitlines()[-1], output[-2000:]
