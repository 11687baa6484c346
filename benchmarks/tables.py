"""Tables in Markdown, as benchmarks print them."""

from __future__ import annotations


def lines_of(heads, rows):
    """A table."""
    return "\n".join(
        [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        + [f"| {' | '.join(row)} |" for row in rows]
    )


def goals_table(checks):
    """Goals beside what was measured.

    Arguments:
        checks: (what, value or None, "at most" or "at least", goal).
    """
    rows = []
    for name, value, sense, goal in checks:
        if value is None:
            verdict = "not measured"
        else:
            met = value <= goal if sense == "at most" else value >= goal
            verdict = "met" if met else "**missed**"
        shown = "" if value is None else f"{value:.4g}"
        rows.append([name, f"{sense} {goal:.3g}", shown, verdict])
    return lines_of(["", "goal", "measured", ""], rows)
