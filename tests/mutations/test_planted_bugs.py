"""Every privacy bug of a list, planted into a copy of the code, is found by a test that does not know the list."""

import compileall
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import aggregation_bugs
import forked_pytest
import privacy_bugs
import pytest

BUGS = privacy_bugs.BUGS + aggregation_bugs.BUGS
NO_BUGS = [
    replace(bug, name=f"nothing, {bug.killer}", new=bug.old, more=())
    for bug in (privacy_bugs.BUGS[0], aggregation_bugs.BUGS[0])
]
ROOT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(
    ".*", "__pycache__", "*.partial", "demo-report", "docs", "benchmarks"
)


def planted(bug, original, copy):
    """Make a copy with the bug planted, or say why that cannot be."""
    shutil.copytree(original, copy, copy_function=os.link)  # one place for all that is as it was
    file = copy / bug.file
    text, written = file.read_text(encoding="utf-8"), file.stat().st_mtime
    for old, new in ((bug.old, bug.new), *bug.more):
        if text.count(old) != 1:
            return f"{bug.file} has {text.count(old)} places to plant this bug, not 1"
        text = text.replace(old, new)
    file.unlink()
    file.write_text(text, encoding="utf-8")
    os.utime(file, (written + 10, written + 10))  # what was compiled is seen to be of another one
    return None


def outcomes_of(bugs, original):
    """{name: (exit code of pytest on the killer alone, its output)} of bugs from a queue, until it is empty."""
    found = {}
    command = [sys.executable, "-P", forked_pytest.__file__]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as runner:
        while (bug := bugs.get()) is not None:
            with tempfile.TemporaryDirectory(prefix="discreet-planted-") as place:
                copy, output = Path(place) / "project", Path(place) / "output"
                obstacle = planted(bug, original, copy)
                if obstacle:
                    found[bug.name] = None, obstacle
                    continue
                runner.stdin.write(json.dumps([str(copy), bug.killer, str(output)]) + "\n")
                runner.stdin.flush()
                code = int(runner.stdout.readline())
                found[bug.name] = code, output.read_text(encoding="utf-8", errors="replace")
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    original, threads = tmp_path_factory.mktemp("original") / "project", os.cpu_count() or 1
    shutil.copytree(ROOT, original, ignore=NOT_COPIED)
    compileall.compile_dir(original, quiet=1)
    bugs = queue.SimpleQueue()
    for bug in [*BUGS, *NO_BUGS, *[None] * threads]:
        bugs.put(bug)
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(outcomes_of, bugs, original) for _ in range(threads)]
    return {name: outcome for part in parts for name, outcome in part.result().items()}


def test_the_list_is_long_and_every_bug_has_a_name_of_its_own():
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert min(len(privacy_bugs.BUGS), len(aggregation_bugs.BUGS)) >= 20


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_a_planted_bug_is_found(outcomes, bug):
    """Exit code 1 and a failed test: the killer ran. Anything else (no such test, no import, all passed) is no kill."""
    code, output = outcomes[bug.name]
    assert code == 1, f"{bug.killer} lives with: {bug.name}\n{output[-2000:]}"
    summary = re.search(r"^1 failed.* in .*$", output, re.MULTILINE)
    assert summary, output[-2000:]
    assert "error" not in summary[0], output[-2000:]


@pytest.mark.parametrize("bug", NO_BUGS, ids=[bug.name for bug in NO_BUGS])
def test_where_nothing_is_planted_the_killer_lives(outcomes, bug):
    code, output = outcomes[bug.name]
    assert code == 0, output[-2000:]
