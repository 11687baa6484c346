"""`report.html`: the release for people, in one file that loads nothing and runs nothing.

Every value passes `_text` on its way into the page, whoever wrote it: names, purposes and refusals
are hostile input. A Content-Security-Policy in the page forbids scripts and requests besides. What
is said about privacy is said by `server/card.py`; the page's frame is `report.html.template`, its
looks are `report.css`.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from server.card import (
    TRUST,
    data_in_words,
    meaning_of_epsilon,
    metric_in_words,
    metrics_statement,
    plain,
    quantity,
    rounded_up,
    rounds_statement,
    server_statement,
    uncovered,
    unit_in_words,
)
from server.plots import COLOURS
from study.contract import Study

__all__ = ["FILES", "render_report"]

Values = Mapping[str, Any]
History = Sequence[Values]
Row = Sequence[object]

FILES: Mapping[str, str] = {
    "report.html": "this page",
    "card.md": "the model card: intended use, data, training, privacy, metrics, limits",
    "model.safetensors": "the model; what it learnt of scaling is inside",
    "study.toml": "the study as its author and the sites agreed on it",
    "declaration.json": "the same in canonical form; its SHA-256 is the study hash",
    "privacy.json": "the guarantee with every constant behind it, for auditors",
    "summary.json": "the figures of this page, for scripts",
    "history.jsonl": "one line a query: who answered, loss, cost",
    "sums.safetensors": "the sums over the sites, from which the model can be computed again",
    "roster.json": "the sites by name and key, as the federation has signed them",
    "receipts/": "what each site signed with every answer: hold its ledger to them with discreet ledger verify",
    "sites/": "a simulation's sites: the ledger and the public key of each",
    "plots/": "the plots of this page, as SVG files",
    "manifest.json": "SHA-256 of every other file; who took part in every sum, with signatures and receipts",
}
"""What a release consists of, in the order in which a person would open it."""

_ABOUT_METRICS = {
    "accuracy": "of all answers are right",
    "precision": "of the cases called {positive} are {positive}",
    "recall": "of the cases that are {positive} are found",
    "f1": "the balance of precision and recall",
    "mse": "the mean of the squared errors; 0 is perfect",
    "mae": "how far off a prediction is on average",
    "r2": "1 is perfect, 0 is always saying the mean",
}
_CAPTIONS = {
    "loss": "What the model gets wrong on its training data: lower is better. The scatter is the "
    "noise that hides the people in the data.",
    "metric": "Measured by the simulator on pooled rows, without noise.",
    "epsilon": "The dashed line is the guarantee. The curve says what a study declared with only "
    "so many rounds would have cost; it is no guarantee for this one.",
    "sites": "A round with too few answers is abandoned, paid for all the same, and asked again if "
    "spares are left.",
}
_LOSS_WITHOUT_PRIVACY = "What the model gets wrong on its training data, exactly: without noise."
_LABELS = {
    "loss": "Plot of the training loss over the rounds",
    "metric": "Plot of the quality of the model over the rounds",
    "epsilon": "Plot of the privacy cost epsilon over the rounds, with the declared total",
    "sites": "Plot of the number of sites that answered in each round",
}
_LONGEST_REFUSAL = 1_000  # all rules of a policy fit


def render_report(
    study: Study, summary: Values, privacy: Values, history: History, plots: Sequence[Path] = ()
) -> str:
    """Return the report of one release, a complete HTML document.

    **Guarantees.** Equal arguments and plots give equal text. The page needs no other file, and
    holds no script and no address. Text that people wrote is escaped and cannot become an element.

    Arguments:
        study: the study's contract.
        summary: the content of `summary.json`.
        privacy: the content of `privacy.json`.
        history: the lines of `history.jsonl`.
        plots: SVG files of `server.plots.draw_plots`, which are put into the page in this order.
    """
    severity, verdict = _verdict(summary)
    parts = {
        "title": _text(summary.get("study")),
        "style": _package_data("report.css"),
        "trust": _text(summary.get("trust")),
        "banner": _banner(summary),
        "purpose": _text(summary.get("purpose") or "The study states no purpose."),
        "badges": _badges(study, summary),
        "figures": _figures(study, summary),
        "meaning": _meaning(summary, privacy),
        "severity": severity,
        "verdict": _text(verdict),
        "server": _text(server_statement(summary, privacy)),
        "covered": _list(privacy.get("covered") or [], none="Nothing."),
        "uncovered": _list(uncovered(summary, privacy), none="Nothing is listed."),
        "rounds_statement": "" if _unsafe(summary) else _text(rounds_statement(summary)),
        "plots": "\n".join(_plot(path, summary) for path in plots) or _tag("p", "There are none."),
        "run": _facts("The run in figures", _run(study, summary, privacy)),
        "missing": _missing(summary, history),
        "mechanism": _facts("Constants of the guarantee", _mechanism(summary, privacy)),
        "queries": _queries(privacy),
        "parameters": _parameters(study, summary),
        "files": _table("Files", ("file", "what it is"), FILES.items()),
        "hash": _text(summary.get("study_hash")),
    }  # fmt: skip
    return Template(_package_data("report.html.template")).substitute(parts)


def _package_data(name: str) -> str:
    return resources.files("server").joinpath(name).read_text(encoding="utf-8").strip()


def _unsafe(summary: Values) -> bool:
    return summary.get("trust") == "unsafe"


_ATTRIBUTES = {"class_": "class", "aria_label": "aria-label", "aria_labelledby": "aria-labelledby"}
_EQUATION = re.compile(r"([εδC]) = (?=\d)")  # stays on one line

# Elements: arguments called `inner` are HTML already, everything else is text.


def _text(value: object) -> str:
    return _EQUATION.sub("\\1\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}", html.escape(plain(value)))


def _tag(name: str, inner: str, **attributes: str) -> str:
    written = "".join(
        f' {_ATTRIBUTES.get(key, key)}="{html.escape(each)}"' for key, each in attributes.items()
    )
    return f"<{name}{written}>{inner}</{name}>"


def _list(items: Sequence[str], *, none: str) -> str:
    if not items:
        return _tag("p", _text(none))
    return _tag("ul", "".join(_tag("li", _text(each)) for each in items))


def _table(caption: str, header: Row, rows: Iterable[Row], *, class_: str = "plain") -> str:
    """Make a table whose first column names its rows."""
    head = _tag("tr", "".join(_tag("th", _text(each), scope="col") for each in header))
    table = _tag("caption", _text(caption)) + _tag("thead", head) + _tag("tbody", _rows(rows))
    return _tag("div", _tag("table", table, class_=class_), class_="wide")


def _facts(caption: str, rows: Iterable[Row]) -> str:
    """Make a table of two columns, names and values, that needs no heads."""
    table = _tag("caption", _text(caption)) + _tag("tbody", _rows(rows))
    return _tag("div", _tag("table", table, class_="facts"), class_="wide")


def _rows(rows: Iterable[Row]) -> str:
    return "\n".join(
        _tag("tr", _tag("th", _text(first), scope="row") + _cells(rest)) for first, *rest in rows
    )


def _cells(values: Iterable[object]) -> str:
    return "".join(_tag("td", _text(each)) for each in values)


# The head of the page


def _banner(summary: Values) -> str:
    if not _unsafe(summary):
        return ""
    words = (
        "This model was trained without clipping and without noise (trust level unsafe). It may "
        "reveal any record that it was trained on. Do not publish it, and do not use it where "
        "those data may not be."
    )
    inner = _tag("strong", "⚠ No privacy") + _text(words)
    return _tag("aside", _tag("div", inner, class_="danger"), class_="banner", aria_label="Warning")


def _badges(study: Study, summary: Values) -> str:
    trust = plain(summary.get("trust"))
    texts = [
        f"Trust level {trust}: {TRUST.get(trust, 'unknown')}",
        f"{quantity(summary.get('sites'))} sites",
        f"version {study.version}",
    ]
    if summary.get("simulation"):
        texts.insert(0, "Simulation on one machine")
    return "".join(_tag("li", _text(each)) for each in texts)


def _figures(study: Study, summary: Values) -> str:
    epsilon, delta = summary.get("epsilon"), summary.get("delta")
    if epsilon is None:
        figures = [
            _figure(
                "Privacy", "no bound", "nothing limits what the model reveals", "figure epsilon"
            )
        ]
    else:
        about = f"with δ = {quantity(delta)}; smaller is stronger"
        figures = [_figure("Privacy budget ε", rounded_up(epsilon), about, "figure epsilon")]
    metrics = summary.get("metrics") or {}
    known = {name: value for name, value in metrics.items() if name in _ABOUT_METRICS}
    for name, value in (known or metrics).items():  # others are for experts: the card has all
        figures.append(_figure(*metric_in_words(name, value), _about_metric(study, name)))
    return "".join(figures)


def _figure(name: str, value: str, about: str, class_: str = "figure") -> str:
    spans = {"name": name, "value": value, "about": about}
    return _tag(
        "div",
        "".join(_tag("span", _text(each), class_=kind) for kind, each in spans.items()),
        class_=class_,
    )


def _about_metric(study: Study, name: str) -> str:
    classes = study.data.classes
    about = _ABOUT_METRICS.get(name, "")
    if len(classes) == 2:
        return about.replace("{positive}", f"“{classes[-1]}”")
    return about.replace("{positive}", "a class") + (
        ", mean of the classes" if "{positive}" in about else ""
    )


def _meaning(summary: Values, privacy: Values) -> str:
    sentences = meaning_of_epsilon(summary, privacy)
    paragraphs = [_tag("p", _text(each)) for each in sentences]
    return "".join(paragraphs) + _tag("p", _text(metrics_statement(summary)), class_="note")


# What was seen, and what is covered


def _verdict(summary: Values) -> tuple[str, str]:
    """How much the server has to be trusted: a class for the box, and the answer in one line."""
    against, epsilon = summary.get("epsilon_against_server"), summary.get("epsilon")
    masked = bool(summary.get("masked"))
    if against is None:
        whose = "the sum over the sites" if masked else "each site's sum"
        return "bad", f"No bound: the server sees {whose}."
    figure = f"ε = {rounded_up(against)}"
    if epsilon is not None and against > epsilon and rounded_up(against) != rounded_up(epsilon):
        return "care", f"More than anybody else. A weaker bound holds against the server: {figure}."
    sees = "the noisy sum over the sites" if masked else "noisy sums"
    return "good", f"Only {sees}. The same bound holds against the server: {figure}."


# Plots


def _plot(path: Path, summary: Values) -> str:
    name = path.stem
    caption = _CAPTIONS.get(name, "")
    if name == "loss" and _unsafe(summary):
        caption = _LOSS_WITHOUT_PRIVACY
    svg = _inline(path.read_text(encoding="utf-8"), name)
    return _tag("figure", svg + _tag("figcaption", _text(caption)))


def _inline(svg: str, name: str) -> str:
    """Turn a file of `server/plots.py` into an element: identifiers its own, colours the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would hold for the whole page
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{html.escape(name)}-", svg)
    for role, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{role}, {colour})")
    label = _LABELS.get(name, f"Plot {name}")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


# Tables


def _run(study: Study, summary: Values, privacy: Values) -> list[Row]:
    queries = privacy.get("queries") or []
    exact = summary.get("trust") in ("unsafe", "server")
    kind, never = ("exact", "") if exact else ("noisy", "; never a record")
    done, declared = quantity(summary.get("rounds")), quantity(summary.get("rounds_declared"))
    longest = max((int(query.get("dimension") or 0) for query in queries), default=0)
    rows: list[Row] = [
        ("Model", summary.get("model")),
        *((name, value) for name, value in _halves(data_in_words(study))),
        ("Rounds", f"{done} of {declared} declared"),
        ("Abandoned", quantity(summary.get("rounds_abandoned") or 0)),
        ("Sites", quantity(summary.get("sites"))),
        ("What left each site", f"{kind} sums of at most {longest:,} numbers, one a round{never}"),
        ("Duration", _duration(summary.get("seconds"))),
    ]  # fmt: skip
    if summary.get("records") is not None:
        rows.append(
            ("Records in all", f"{quantity(summary['records'])} (known to the simulator alone)")
        )
    return rows


def _halves(sentences: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Split `Task: regression of price.` into name and value; leave out what has no name."""
    for each in sentences:
        name, colon, value = each.partition(": ")
        if colon:
            yield name, value.removesuffix(".")


def _duration(seconds: object) -> str:
    if not isinstance(seconds, int | float) or seconds < 120:
        return f"{quantity(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _missing(summary: Values, history: History) -> str:
    """Who was missing how often, and why as far as they said."""
    counts = Counter(plain(site) for line in history for site in line.get("missing") or [])
    if not counts:
        return _tag("p", "Every site answered every query.", class_="note")
    refusals = summary.get("refusals") or {}
    reasons = {plain(site): "; ".join(map(plain, found)) for site, found in refusals.items()}
    rows = [
        (site, count, _shortened(reasons.get(site) or "no answer in time"))
        for site, count in sorted(counts.items())
    ]
    return _table(
        "Sites that were missing from a sum", ("site", "sums", "why"), rows, class_="shown"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_REFUSAL else text[:_LONGEST_REFUSAL] + " …"


def _mechanism(summary: Values, privacy: Values) -> list[Row]:
    mu, against = privacy.get("mu"), summary.get("epsilon_against_server")
    return [
        ("Privacy unit", unit_in_words(privacy)),
        ("Neighbouring data", privacy.get("relation")),
        ("ε, δ", f"{_bound(summary.get('epsilon'))}, {quantity(summary.get('delta'))}"),
        ("ε against the server", _bound(against)),
        ("μ (Gaussian DP)", rounded_up(mu) if mu is not None else "none"),
        ("Mechanism", "none" if _unsafe(summary) else privacy.get("mechanism")),
        ("Accountant", "none" if _unsafe(summary) else privacy.get("accountant")),
        ("Noise multiplier z", quantity(summary.get("noise_multiplier"))),
        ("Clipping", "none" if _unsafe(summary) else f"{plain(privacy.get('clipping'))}, to norm "
         f"C = {quantity(privacy.get('clipping_norm'))}"),
        ("Sampling rate q", quantity(privacy.get("sampling_rate"))),
        ("Colluding sites c", quantity(privacy.get("colluding"))),
        ("Dropouts D", quantity(privacy.get("dropouts"))),
        ("Shares of noise that count, k", quantity(privacy.get("shares"))),
        ("Secure aggregation", "yes" if summary.get("masked") else "no: this level of trust has none"),
    ]  # fmt: skip


def _bound(epsilon: float | None) -> str:
    return "no bound" if epsilon is None else rounded_up(epsilon)


_QUERY_COLUMNS = {
    "function": "sum",
    "count": "declared",
    "dimension": "numbers d",
    "noise_multiplier": "z",
    "sampling_rate": "q",
    "clipping_norm": "C",
    "scale": "scale s",
    "share_deviation": "deviation σ of a share",
}


def _queries(privacy: Values) -> str:
    queries = privacy.get("queries") or []
    if not queries:
        return ""
    columns = {
        key: name for key, name in _QUERY_COLUMNS.items() if any(key in each for each in queries)
    }
    rows = [[_cell(query.get(key)) for key in columns] for query in queries]
    caption = "Private sums: σ counts integers, of which s make one unit of the vector"
    return _table(caption, list(columns.values()), rows, class_="numbers")


def _cell(value: object) -> str:
    return plain(value) if isinstance(value, str) else quantity(value)


# Parameters


def _parameters(study: Study, summary: Values) -> str:
    parameters = summary.get("parameters")
    if not parameters:
        return ""
    tables = "".join(_parameter(study, name, value) for name, value in parameters.items())
    details = _tag("details", _tag("summary", "Show every number of the model") + tables)
    heading = _tag("h2", "Parameters", id="parameters")
    return _tag("section", heading + details, aria_labelledby="parameters")


def _parameter(study: Study, name: str, value: object) -> str:
    """Make a table of one parameter: its first index down, as features where there are so many."""
    lines = value if isinstance(value, list) else [value]
    features = study.data.features
    named = not isinstance(features, str) and len(features) == len(lines)
    names = features if named else [str(index) for index in range(len(lines))]
    rows = [
        (first, *map(quantity, _numbers(line))) for first, line in zip(names, lines, strict=True)
    ]
    width = max((len(row) for row in rows), default=1) - 1
    header = [
        "feature" if named else "index",
        *(["value"] if width == 1 else map(str, range(width))),
    ]
    return _table(name, header, rows, class_="numbers")


def _numbers(nested: object) -> list[object]:
    if not isinstance(nested, list):
        return [nested]
    return [number for each in nested for number in _numbers(each)]
