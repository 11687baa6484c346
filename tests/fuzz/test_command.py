"""`make fuzz` says what came of every case, and how to run again the one that failed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BUGS = {
    "a lenient reader": "import json, study.receipts; study.receipts.parse_canonical = json.loads",
    "a reader that takes the process with it": """
import os, study.receipts
def parse(data, parse=study.receipts.parse_canonical):
    if b"NaN" in data:
        os.abort()
    return parse(data)
study.receipts.parse_canonical = parse
""",
}


@pytest.fixture
def fuzz(tmp_path):
    """The command, in a process that a bug may have been planted in."""

    def run(*arguments, bug=""):
        (tmp_path / "sitecustomize.py").write_text(BUGS.get(bug, ""), encoding="utf-8")
        ways = [str(tmp_path), str(ROOT), str(ROOT / "tests" / "support")]
        return subprocess.run(
            [sys.executable, "-m", "fuzzing", "--failures", tmp_path / "failures", *arguments],
            capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(ways)},
        )  # fmt: skip

    return run


def test_a_run_without_failures_writes_its_table(fuzz, tmp_path):
    found = fuzz(
        "--target", "receipt", "--cases", "301", "--seed", "9", "--out", tmp_path / "fuzz.md"
    )
    assert found.returncode == 0, found.stderr
    assert re.search(r"^\| receipt \| 301 \| 151 \| \d+ \| \d+ \| ", found.stdout, re.MULTILINE)
    written = (tmp_path / "fuzz.md").read_text(encoding="utf-8")
    assert "seed 9: 301 cases, 151 of them exactly one mutation" in written
    assert not (tmp_path / "failures").exists()


def test_a_failure_is_named_kept_and_can_be_run_again(fuzz, tmp_path):
    found = fuzz(
        "--target",
        "receipt",
        "--cases",
        "301",
        "--out",
        tmp_path / "fuzz.md",
        bug="a lenient reader",
    )
    assert found.returncode == 1
    assert not (tmp_path / "fuzz.md").exists()
    number = re.search(
        r"-m fuzzing --target receipt --seed 1 --case (\d+)$", found.stdout, re.MULTILINE
    )[1]
    kept = (tmp_path / "failures" / f"receipt-1-{number}").read_bytes()
    again = ("--target", "receipt", "--seed", "1", "--case", number)
    failed = fuzz(*again, bug="a lenient reader")
    assert failed.returncode == 1
    assert failed.stdout.strip() == repr(kept)
    assert re.search("expected a documented error|accepted", failed.stderr)
    mended = fuzz(*again)
    assert (mended.returncode, mended.stdout) == (0, f"{kept!r}\nrefused\n")


def test_a_reader_that_takes_the_process_with_it_is_named_with_its_case(fuzz):
    bug = "a reader that takes the process with it"
    found = fuzz("--target", "receipt", "--cases", "3000", bug=bug)
    assert found.returncode == 1
    assert "receipt: the process ended with -6" in found.stdout
    number = re.search(r"--case (\d+)$", found.stdout, re.MULTILINE)[1]
    assert fuzz("--target", "receipt", "--case", number, bug=bug).returncode == -6
    assert "NaN" in fuzz("--target", "receipt", "--case", number).stdout
