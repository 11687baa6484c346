"""What docs/ledger.md says of entries, rules and commands is what the code does."""

import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client import ledger
from discreet.main import app
from privacy.filters import MOST_ORDERS, LifetimeCap
from study import ledger_entries, ledger_state
from study.ledger_entries import BODIES

TEXT = (Path(__file__).parents[1] / "docs" / "ledger.md").read_text(encoding="utf-8")


def kinds_of(doc):
    """Kinds of the rows of a module's own table; a row may speak of two."""
    rows = re.findall(r"^\| ([\w, -]+) \|", doc, re.MULTILINE)
    return [kind for row in rows for kind in row.split(", ")][1:]


def test_the_table_of_entries_has_every_kind_in_order():
    table = TEXT.partition("### Entries")[2].partition("### The lifetime budget")[0]
    kinds = [
        each for each in re.findall(r"^\| ([a-z-]+) \|", table, re.MULTILINE) if each != "kind"
    ]
    assert kinds == list(BODIES)


def test_the_tables_in_the_code_have_every_kind_too():
    assert kinds_of(ledger_entries.__doc__) == list(BODIES)
    assert kinds_of(ledger_state.__doc__) == list(BODIES)


def test_the_formula_is_the_one_that_is_computed():
    """Evaluated as it is written in the document."""
    block = re.search(r"B\(a\) = (.*)$", TEXT, re.MULTILINE)[1]
    share = re.search(r"delta' = (.*)$", TEXT, re.MULTILINE)[1]
    cap = LifetimeCap(epsilon=3.0, delta=1e-5, orders=(5.0, 12.0))
    values = {"epsilon": cap.epsilon, "delta": cap.delta, "number": len(cap.orders)}
    python = share.replace("(number of orders)", "number").replace("0.9 delta", "0.9 * delta")
    values["share"] = eval(python, {}, values)  # noqa: S307
    assert values["share"] == pytest.approx(cap.delta_per_order)
    python = (
        block.replace("delta'", "(share)")
        .replace("ln (share)", "ln(share)")
        .replace("ln a", "ln(a)")
    )
    for order, bound in zip(cap.orders, cap.bounds, strict=True):
        found = eval(python, {"ln": math.log}, values | {"a": order})  # noqa: S307
        assert found == pytest.approx(bound)
    assert cap.extra == pytest.approx(cap.delta / 10)
    assert MOST_ORDERS == 8


def test_a_crash_leaves_what_the_code_says_it_leaves():
    rows = re.findall(r"^\| ([^|]+) \|", ledger.__doc__, re.MULTILINE)
    documented = re.findall(
        r"^\| ([^|]+) \|", TEXT.partition("### What a crash leaves")[2], re.MULTILINE
    )
    assert [each.split()[0] for each in documented[: len(rows)]] == [
        each.split()[0] for each in rows
    ]
    words = {2: "two", 1: "one", 3: "three"}
    assert f"The latest {words[ledger.KEPT_ANSWERS]} answers" in TEXT


def test_every_line_of_output_that_is_shown_is_still_printed(tmp_path, monkeypatch):
    """Names and kinds of entries, not figures: those move with the accountant."""
    monkeypatch.chdir(tmp_path)
    runner, environment = CliRunner(), {"COLUMNS": "200", "NO_COLOR": "1"}

    def run(*words):
        result = runner.invoke(app, list(words), env=environment)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    run("study", "init", "study.toml")
    run("simulate", "study.toml", "--out", "results")
    shown = re.search(r"^\$ discreet ledger budget.*?^```", TEXT, re.MULTILINE | re.DOTALL)[0]
    printed = run("ledger", "budget", "results/sites/site-1")
    printed += run("ledger", "show", "results/sites/site-1", "--last", "4")
    for line in shown.splitlines():
        if line and not line.startswith(("$", "`")):
            words = re.findall(r"[a-z()-]{3,}", line)
            assert any(
                all(each in other for each in words[:2]) for other in printed.splitlines()
            ), line
