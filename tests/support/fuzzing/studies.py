"""Targets: canonical JSON, events, studies, declarations."""

from __future__ import annotations

import functools
import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzzing import mutations_json, mutations_toml
from fuzzing.engine import Target
from fuzzing.judge_json import NotCanonicalError, canonical_value, judge_canonical
from fuzzing.judge_study import (
    changed_settings,
    number,
    one_of,
    problems_of_declaration,
    problems_of_study,
    whole,
)
from fuzzing.mutations_json import JSON
from fuzzing.mutations_toml import TOML
from privacy.errors import PrivacyError, ProtocolError, StudyError
from privacy.events import SumEvent
from study.canonical import canonical_json, parse_canonical
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.declaration import Declaration
from study.freezing import to_toml
from study.guarantee import Guarantee
from study.parsing import parse_study, study_to_values
from study.templates import TEMPLATES, template_text

EXAMPLES = Path(__file__).parents[3] / "examples"
NONCE = "0123456789abcdef" * 2
ROSTER = "fedcba9876543210" * 4

__all__ = ["NONCE", "TARGETS", "declarations", "studies"]


def _study(*, data=None, model=None, training=None, privacy=None, sites=None) -> Study:
    """Three features, two classes, a logistic model, all noise at each site: whatever is given comes on top."""
    return Study(
        name="example", purpose="Foretell who falls ill – “soon”",
        data=Data(
            **{
                "task": "classification", "label": "ill", "classes": ("no", "yes"), "expected_records": 40,
                "features": ("age", "height", "weight"), "bounds": {"default": (0.0, 10.0), "age": (0.0, 110.0)},
            } | (data or {})
        ),
        model=Model(**{"kind": "logistic"} | (model or {})),
        training=Training(**{"rounds": 4} | (training or {})),
        privacy=Privacy(**{"trust": "local", "noise_multiplier": 3.0} | (privacy or {})),
        sites=Sites(**{"minimum": 3} | (sites or {})),
    )  # fmt: skip


@functools.cache
def studies() -> tuple[Study, ...]:
    """Frozen studies in which every kind of setting is used."""
    averaging = {
        "algorithm": "dp-fedavg", "local_steps": 2, "local_learning_rate": 0.5, "learning_rate": 1.0,
        "optimizer": "sgd",
    }  # fmt: skip
    regression = {"task": "regression", "classes": (), "label_bounds": (-1.5, 400.0)}
    return (
        _study(),
        _study(data={"unit": "patient", "records_per_unit": 5, "sites_per_unit": 2}, privacy={"trust": "aggregate"}),
        _study(data=regression, model={"kind": "linear"}, training={"stop_below": 0.25, "spare_rounds": 3}),
        _study(data={"classes": ("a", "b", "c"), "scaling": "standard"}, model={"kind": "mlp", "hidden": (16, 8)}),
        _study(training=averaging, privacy={"noise_multiplier": None, "epsilon": 8.0, "delta": 1e-6}),
        _study(
            data={"features": tuple(f"pixel {each}" for each in range(64)), "beyond_bounds": "clamp"},
            model={"kind": "cnn", "precision": "float64"}, training={"sampling_rate": 0.1, "schedule": "cosine"},
        ),
        _study(data={"bounds": {}, "scaling": "none"}, privacy={"trust": "unsafe", "noise_multiplier": None}),
        _study(privacy={"trust": "server", "clipping": "automatic", "max_dropouts": 1}, sites={"minimum": 5}),
    )  # fmt: skip


@functools.cache
def declarations() -> tuple[Declaration, ...]:
    """One of each of these studies; those whose sums are masked name a roster."""
    found = []
    for study in studies():
        noise = study.privacy.noise_multiplier
        if study.privacy.epsilon is not None:
            noise = 12.5  # a declaration says what it says; whether that is enough is asked of its guarantee
        roster = ROSTER if study.privacy.trust in ("aggregate", "server") else None
        found.append(
            Declaration(
                study=study, sites=study.sites.minimum, noise_multiplier=noise, nonce=NONCE, roster=roster,
            )
        )  # fmt: skip
    return tuple(found)


# Canonical JSON


def _canonical_seeds() -> Sequence[bytes]:
    values: list[Any] = [
        {"a": [1, -2, 0.5, 1e21, 5e-324, 1e-7, 123456789.125, 2**53], "b": {"": None, "\u00e9": True,
        "\U0001f642": "\n"}},
        {"\ufb01": 1, "\U0001f642": 2}, "\x7f\u2028 \\ \" \x1f \x08", [[[[]]]], 0, None, [1e300, -1e-300, 0.1],
    ]  # fmt: skip
    return [canonical_json(each) for each in values] + [each.content for each in declarations()[:2]]


CANONICAL = Target(
    name="canonical", seeds=_canonical_seeds, mutations=JSON, garbage=mutations_json.garbage,
    read=parse_canonical, errors=(ProtocolError,), judge=judge_canonical, write=canonical_json,
)  # fmt: skip


# Events


def _read_event(data: bytes) -> SumEvent:
    return SumEvent.from_values(parse_canonical(data))


def _event_seeds() -> Sequence[bytes]:
    events = [
        SumEvent(noise_multiplier=1.1), SumEvent(noise_multiplier=3, sampling_rate=0.01, count=1000, part="test"),
        SumEvent(noise_multiplier=5e-324, sampling_rate=1e-300, count=2**53, part="all"),
    ]  # fmt: skip
    return [canonical_json(each.to_values()) for each in events]


def _judge_event(data: bytes, event: SumEvent) -> str | None:
    values = json.loads(data)
    fields = {
        "event": one_of("sum"), "version": whole(1, 1), "part": one_of("train", "test", "all"), "count": whole(1),
        "noise_multiplier": number(0, math.inf, above=True), "sampling_rate": number(0, 1, above=True),
    }  # fmt: skip
    if set(values) != set(fields) or not all(holds(values[name]) for name, holds in fields.items()):
        return "it is no event"
    same = all(
        getattr(event, name) == values[name]
        for name in ("noise_multiplier", "sampling_rate", "count", "part")
    )
    return None if same else "it is read as another event"


EVENT = Target(
    name="event", seeds=_event_seeds, mutations=JSON, garbage=mutations_json.garbage,
    read=_read_event, errors=(PrivacyError, ProtocolError), judge=_judge_event,
    write=lambda event: canonical_json(event.to_values()),
)  # fmt: skip


# Studies


def _study_seeds() -> Sequence[bytes]:
    files = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.toml"))]
    templates = [template_text(name).encode() for name in TEMPLATES]
    return files + templates + [to_toml(study).encode() for study in studies()]


def _read_study(data: bytes) -> Study:
    """As `read_study` reads a file; without a file, since a hundred thousand of them take minutes."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError("Expected text") from error
    return parse_study(text.replace("\r\n", "\n").replace("\r", "\n"))


def _judge_study(data: bytes, study: Study) -> str | None:
    document = tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n"))
    problems = problems_of_study(document)
    if problems:
        return "; ".join(problems)
    changed = changed_settings(document, study_to_values(study))
    return f"{', '.join(changed)} changed" if changed else None


def _settle_study(study: Study) -> Study:
    """Through a file; and through canonical JSON, in which sites know it."""
    canonical_json(study_to_values(study))
    return parse_study(to_toml(study))


STUDY = Target(
    name="study", seeds=_study_seeds, mutations=TOML, garbage=mutations_toml.garbage,
    read=_read_study, errors=(StudyError,), judge=_judge_study, settle=_settle_study, weight=3,
)  # fmt: skip


# Declarations


def _judge_declaration(data: bytes, declaration: Declaration) -> str | None:
    try:
        values = canonical_value(data)
    except NotCanonicalError as error:
        return f"it is not canonical: {error}"
    problems = problems_of_declaration(values)
    changed = (
        [] if problems else changed_settings(values["study"], study_to_values(declaration.study))
    )
    if not problems and declaration.roster != values["roster"]:
        changed.append("the roster")
    return "; ".join(problems + changed) or None


DECLARATION = Target(
    name="declaration", seeds=lambda: [each.content for each in declarations()], mutations=JSON,
    garbage=mutations_json.garbage, read=Declaration.from_bytes, errors=(ProtocolError,), judge=_judge_declaration,
    write=lambda declaration: canonical_json(declaration.to_values()), weight=2,
)  # fmt: skip

# Guarantees: what a site computes of a declaration before it takes part


def _read_guarantee(data: bytes) -> Guarantee:
    guarantee = Guarantee(Declaration.from_bytes(data))
    guarantee.check()
    return guarantee


def _judge_guarantee(_data: bytes, guarantee: Guarantee) -> str | None:
    study, z = guarantee.study, guarantee.declaration.noise_multiplier
    if study.privacy.trust == "unsafe":
        return None if guarantee.epsilon is None else "there is an epsilon without noise"
    privacy, sites = study.privacy, guarantee.declaration.sites
    lost = privacy.max_colluding + 2 * privacy.max_dropouts
    if privacy.trust != "local" and not lost < sites <= 1000:
        return "no masks would carry its guarantee"
    if guarantee.tolerance.shares != (
        sites - privacy.max_dropouts - privacy.max_colluding if privacy.trust == "aggregate" else 1
    ):
        return "it counts on noise that nobody adds"
    if (
        z is None
        or guarantee.epsilon is None
        or not 0 <= guarantee.epsilon <= (study.privacy.epsilon or math.inf)
    ):
        return "it costs more than it promises"
    if study.training.sampling_rate < 1 or study.data.scaled == "standard":
        return None
    mu = math.sqrt(study.training.rounds + study.training.spare_rounds) / z
    spent = gaussian_delta(guarantee.epsilon, mu)
    return f"delta is {spent:g}" if spent > study.privacy.delta * (1 + 1e-6) else None


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Delta of mu-GDP at epsilon: Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu), by the error function's complement."""
    first, second = (
        math.erfc((epsilon / mu + sign * mu / 2) / math.sqrt(2)) / 2 for sign in (-1, 1)
    )
    return first - (math.exp(epsilon) * second if second else 0.0)


GUARANTEE = Target(
    name="guarantee", seeds=lambda: [each.content for each in declarations()], mutations=JSON,
    garbage=mutations_json.garbage, read=_read_guarantee, errors=(ProtocolError, PrivacyError, StudyError),
    judge=_judge_guarantee, work=(30_000, 20),
)  # fmt: skip

TARGETS = (CANONICAL, EVENT, STUDY, DECLARATION, GUARANTEE)
