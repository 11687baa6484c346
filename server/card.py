"""The words of a release: what is promised, what the server saw, what ε means; and `card.md`.

The sentences are the release's promise, so they stand here once: `server/report.py` shows the same
ones. They are plain text; whoever shows them escapes them. The card follows Mitchell et al., "Model
Cards for Model Reporting" (FAT* 2019): intended use, data, training, privacy, metrics, limits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Any

from study.contract import Study

__all__ = [
    "TRUST",
    "data_in_words",
    "meaning_of_epsilon",
    "metric_in_words",
    "metrics_statement",
    "plain",
    "privacy_statement",
    "quantity",
    "render_card",
    "rounded_up",
    "rounds_statement",
    "server_statement",
    "training_in_words",
    "uncovered",
    "unit_in_words",
]

Values = Mapping[str, Any]

TRUST: Mapping[str, str] = {
    "aggregate": "every site adds a share of the noise",
    "local": "every site adds the whole noise",
    "server": "the coordinator adds the noise",
    "unsafe": "no privacy",
}
"""The levels of trust in a few words each."""

_METRICS = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "mse": "Mean squared error",
    "mae": "Mean absolute error",
    "r2": "R²",
    "loss": "Loss",
}
_SHARES_OF_ONE = ("accuracy", "precision", "recall", "f1")
_NO_NUMBER = "–"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$@]|&(?=[#A-Za-z])|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_AT_LINE_START = re.compile(r"^(\d*)([-+=#.)])(?=[-=#\s]|$)")


def render_card(study: Study, summary: Values, privacy: Values) -> str:
    """Return the model card of one release, as Markdown.

    **Guarantees.** Equal arguments give equal text. Text that people wrote (names, purpose,
    columns, classes) is escaped and kept on one line: it makes no heading, no link, no HTML.

    Arguments:
        study: the study's contract.
        summary: the content of `summary.json`.
        privacy: the content of `privacy.json`.
    """
    parts = [
        f"# Model card: {_md(summary.get('study'))}",
        _warning(summary),
        _section("Intended use", _intended_use(summary)),
        _section("Data", _bullets(data_in_words(study))),
        _section("Training", _bullets(training_in_words(study, summary))),
        _section("Privacy", _md(privacy_statement(summary, privacy))),
        _section("Metrics", _metrics(summary)),
        _section("Limits", _bullets(_limits(summary, privacy))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def privacy_statement(summary: Values, privacy: Values) -> str:
    """Say the guarantee in one paragraph: unit, relation, (ε, δ), mechanism, accountant, trust."""
    if summary.get("trust") == "unsafe":
        return (
            "None. This study ran without clipping and without noise (trust level unsafe). The "
            "model may reveal any record that it was trained on, and nothing bounds how much. "
            "Treat the model like the data themselves."
        )
    epsilon, relation = summary.get("epsilon"), plain(privacy.get("relation"))
    bound = (
        f"ε = {rounded_up(epsilon)} and δ = {quantity(summary.get('delta'))}"
        if epsilon is not None
        else f"no finite ε at δ = {quantity(summary.get('delta'))}"
    )
    mechanism, accountant = plain(privacy.get("mechanism")), plain(privacy.get("accountant"))
    sums = sum(int(query.get("count") or 0) for query in privacy.get("queries") or [])
    return " ".join(
        [
            (
                f"The model is differentially private with {bound}; the privacy unit is "
                f"{unit_in_words(privacy)}, and neighbouring data differ as follows: {relation}."
            ),
            (
                f"The mechanism is {mechanism}; a unit's part in a sum is bounded in L2 norm "
                f"({_clipping(privacy)}), and ε was computed with {accountant} over all "
                f"{quantity(sums)} declared sums."
            ),
            rounds_statement(summary),
            server_statement(summary, privacy),
            metrics_statement(summary),
        ]
    )


def rounds_statement(summary: Values) -> str:
    """Say why ε does not get smaller when a study stops early."""
    done, declared = summary.get("rounds"), summary.get("rounds_declared")
    fewer = (
        f" Here {quantity(done)} of {quantity(declared)} rounds ran: ε is still that of all of "
        "them."
        if done is not None and declared is not None and done < declared
        else ""
    )
    return (
        f"ε is a property of the declared number of rounds, also when fewer ran: when to stop may "
        f"depend on the data, so stopping early earns nothing back.{fewer}"
    )


def server_statement(summary: Values, privacy: Values) -> str:
    """Say what the server received, and what bounds what it could learn of one unit."""
    trust = str(summary.get("trust"))
    received = (
        "Secure aggregation hid every single site from the server: it received only the sum over "
        "the sites"
        if summary.get("masked")
        else "The sums were not masked: the server received every site's own sum"
    )
    return {
        "aggregate": _shared_noise,
        "local": _whole_noise,
        "server": _coordinator_noise,
    }.get(trust, _no_noise)(received, summary, privacy)


def _shared_noise(received: str, summary: Values, privacy: Values) -> str:
    colluding = privacy.get("colluding")
    sites = (
        "each single site, which knows its own noise as well"
        if colluding == 1
        else f"up to {quantity(colluding)} sites together, which know their own noise as well"
    )
    return (
        "Trust level aggregate: each site adds its share of the noise. The noise of all sites "
        f"together gives {_bound(summary.get('epsilon'))} for everybody who sees what is released "
        f"(the model, and noisy sums over all sites), and for {sites}. {received}, noise included. "
        f"{_against_server(summary)}"
    )


def _whole_noise(received: str, summary: Values, _: Values) -> str:
    also = "noise included" if summary.get("masked") else "with the whole noise in it"
    return (
        "Trust level local: each site adds the whole noise to its own sum before sending it. "
        f"{received}, {also}. {_against_server(summary)} Nobody has to be trusted with the noise."
    )


def _coordinator_noise(received: str, summary: Values, _: Values) -> str:
    return (
        f"Trust level server: the coordinator adds the noise. {received}, exact and without "
        f"noise. {_against_server(summary)} {_bound(summary.get('epsilon'))} holds for those who "
        "see only what is released (the model, and noisy sums over all sites), and relies on the "
        "server to have added the noise and to keep the exact sums to itself."
    )


def _no_noise(received: str, summary: Values, _: Values) -> str:
    return f"Trust level unsafe: nobody adds noise. {received}, exact. {_against_server(summary)}"


def _against_server(summary: Values) -> str:
    against, epsilon = summary.get("epsilon_against_server"), summary.get("epsilon")
    if against is None:
        sees = "the sum over the sites" if summary.get("masked") else "each site's sum"
        return f"Against the server there is no bound: it sees {sees}."
    same = epsilon is not None and rounded_up(against) == rounded_up(epsilon)
    which = "the same" if same else "a weaker" if epsilon is not None and against > epsilon else "a"
    return f"Against the server {which} bound holds: ε = {rounded_up(against)}."


def _bound(epsilon: float | None) -> str:
    return "no finite ε" if epsilon is None else f"ε = {rounded_up(epsilon)}"


def meaning_of_epsilon(summary: Values, privacy: Values) -> list[str]:
    """Say what ε means to a person who has never met one, in a few paragraphs."""
    epsilon, delta = summary.get("epsilon"), summary.get("delta") or 0.0
    if epsilon is None:
        return [
            "There is no ε: nothing bounds what the model reveals about those it was trained on."
        ]
    unit = unit_in_words(privacy)
    changes = (
        f"Whether {unit} was used or not changes the probability of anything that can be concluded "
        f"from the model at most by the factor {_factor(epsilon)}, plus δ = {quantity(delta)}."
    )
    scale = (
        "Smaller is stronger. As a convention of the field, ε up to 1 is called strong, up to 10 "
        "reasonable, and beyond that weak (Ponomareva et al., 2023)."
    )
    return [changes, _guessing(epsilon, delta, privacy.get("mu"), unit), scale]


def _factor(epsilon: float) -> str:
    return f"{rounded_up(math.exp(epsilon))} (e^ε)" if epsilon < 12 else "e^ε, more than 160,000"


def _guessing(epsilon: float, delta: float, mu: float | None, unit: str) -> str:
    """Bound how often the best guess between two equally likely cases is right: (1 + TV) / 2.

    The total variation TV is at most (e^ε - 1 + 2 δ) / (e^ε + 1) (Kairouz, Oh, Viswanath, "The
    Composition Theorem for Differential Privacy", 2015). Under mu-GDP it is 2 Φ(mu / 2) - 1, that
    of N(0, 1) and N(mu, 1) (Dong, Roth, Su, "Gaussian Differential Privacy", 2022); here up to δ,
    part of which pays for rounding.
    """
    odds = math.exp(-epsilon)
    right = (1 + delta * odds) / (1 + odds)
    if mu is not None:
        right = min(right, NormalDist().cdf(mu / 2) + delta)
    percent = math.ceil(100 * right - 1e-9)
    if percent >= 100:
        return (
            f"This ε alone promises little: somebody who guesses from the model whether {unit} "
            "was used could, as far as it goes, nearly always be right."
        )
    return (
        f"Somebody who knows everything else, and has to guess from the model whether {unit} was "
        f"used, is right at most {percent} times in 100; tossing a coin is right 50 times."
    )


def unit_in_words(privacy: Values) -> str:
    """Name the privacy unit as the subject of a sentence."""
    unit = plain(privacy.get("unit"))
    column = unit.removeprefix("a unit of column ")
    if column != unit:
        return f'everything a site holds of one value of column "{column}"'
    return {"record": "one record", "site": "everything that one site holds"}.get(unit, unit)


def _clipping(privacy: Values) -> str:
    norm, kind = quantity(privacy.get("clipping_norm")), plain(privacy.get("clipping"))
    return f"{kind} clipping, C = {norm}"


def data_in_words(study: Study) -> list[str]:
    """Say what the records are, as the contract does; never data."""
    data = study.data
    count = 0 if isinstance(data.features, str) else len(data.features)
    columns = {0: "all columns", 1: "one column"}.get(count, f"{count} columns")
    lines = [f"Task: {data.task} of {plain(data.label)} from {columns}."]
    if data.classes:
        *others, positive = (plain(each) for each in data.classes)
        lines.append(f"Classes: {', '.join(others)}, {positive} (the last is the positive one).")
    if data.label_bounds is not None:
        low, high = data.label_bounds
        lines.append(f"Public bounds of the label: {quantity(low)} to {quantity(high)}.")
    scaling = {
        "bounds": "to [0, 1] by public bounds",
        "standard": "to mean 0 and deviation 1, learnt by one sum under the same guarantee",
        "none": "none",
    }
    share = f"{quantity(100 * data.test_fraction)} % of the units, chosen by a keyed hash"
    lines += [
        f"Training records: {quantity(data.expected_records)} over all sites, a public number.",
        f"Kept for testing: {share if data.test_fraction else 'none'}.",
        f"Scaling of the columns: {scaling[data.scaled]}.",
        "This card shows no data.",
    ]
    return lines


def training_in_words(study: Study, summary: Values) -> list[str]:
    """Say how the model was trained, and by how many."""
    training = study.training
    done, declared = quantity(summary.get("rounds")), quantity(summary.get("rounds_declared"))
    rate = "auto" if training.learning_rate == "auto" else quantity(training.learning_rate)
    where = "simulated on one machine" if summary.get("simulation") else "real"
    return [
        f"Model: {plain(summary.get('model'))}; algorithm: {training.algorithm}.",
        f"Sites: {quantity(summary.get('sites'))}, {where}.",
        f"Rounds: {done} of {declared} declared.",
        f"Abandoned: {quantity(summary.get('rounds_abandoned') or 0)}.",
        f"Optimizer: {training.optimizer}, learning rate {rate}.",
        f"Schedule: {training.schedule}; average of iterates: {training.average}.",
        f"Each unit takes part in a round with probability {quantity(training.sampling_rate)}.",
        f"Study hash: {plain(summary.get('study_hash'))}.",
    ]


def metric_in_words(name: str, value: object) -> tuple[str, str]:
    """Return the name of a metric as a person says it, and its value."""
    label = _METRICS.get(name, plain(name))
    if not isinstance(value, int | float) or not math.isfinite(value):
        return label, _NO_NUMBER
    return label, f"{100 * value:.1f} %" if name in _SHARES_OF_ONE else quantity(value)


def metrics_statement(summary: Values) -> str:
    """Say how the metrics came about, and that nothing protects those of a simulation."""
    if not summary.get("metrics"):
        return "No metrics were computed."
    where = f"The metrics were computed on {plain(summary.get('metrics_on'))}"
    if not summary.get("simulation"):
        return f"{where}."
    uncovered = "" if summary.get("trust") == "unsafe" else ": the guarantee does not cover them"
    return f"{where} by the simulator, without noise{uncovered}."


def _intended_use(summary: Values) -> str:
    purpose = _md(summary.get("purpose")) or "The study states no purpose."
    return f"{purpose}\n\nAny other use needs an evaluation of its own."


def _metrics(summary: Values) -> str:
    rows = [metric_in_words(name, value) for name, value in (summary.get("metrics") or {}).items()]
    if not rows:
        return metrics_statement(summary)
    table = "\n".join(f"| {_md(name)} | {_md(value)} |" for name, value in rows)
    return f"| metric | value |\n|---|---|\n{table}\n\n{_md(metrics_statement(summary))}"


def uncovered(summary: Values, privacy: Values) -> list[str]:
    """List what the guarantee does not speak of, that of a simulation itself included."""
    sentences = [plain(each) for each in privacy.get("not_covered") or []]
    if summary.get("simulation") and summary.get("trust") != "unsafe":
        sentences.append(
            "This very run, which is a simulation: whoever ran it had all records, and its noise "
            "follows from a seed, so whoever guesses that can take it off. The guarantee is that of "
            "the same contract between real sites."
        )
    return sentences


def _limits(summary: Values, privacy: Values) -> list[str]:
    return [
        *uncovered(summary, privacy),
        "The metrics say nothing about other populations, or about groups within this one.",
    ]


def _warning(summary: Values) -> str:
    if summary.get("trust") != "unsafe":
        return ""
    return (
        "> **WARNING: no privacy.** Nothing protects the training data. Do not pass this model on."
    )


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_md(line)}" for line in lines)


def plain(value: object) -> str:
    """Put text that people wrote on one line, without invisible characters; it is not escaped.

    Characters that reorder others (U+202E) are invisible too, and become spaces.
    """
    text = "" if value is None else str(value)
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def quantity(value: object) -> str:
    """Write a number for a person: 1,234 where it is whole, else four digits, and 1e-5 as 10⁻⁵."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return _NO_NUMBER
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    if not exponent:
        return mantissa
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    return power if mantissa == "1" else f"{mantissa} × {power}"


def rounded_up(bound: float) -> str:
    """Write an upper bound with three digits, rounded up: it is never understated."""
    if bound <= 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(bound)))
    return f"{math.ceil(bound * 10**digits - 1e-6) / 10**digits:,.{digits}f}"


def _md(value: object) -> str:
    """Write text as Markdown that shows just this text, also where addresses become links."""
    return _AT_LINE_START.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", plain(value)))
