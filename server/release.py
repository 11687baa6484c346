"""The release: what a finished study leaves behind, for people and for programs.

`FILES` in `server/report.py` says what each file is. `manifest.json` is not signed yet.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from gradients import Parameters
from server.card import render_card
from server.checkpoint import KeptSum
from server.plots import draw_plots
from server.report import render_report
from server.rounds import Outcome
from study.contract import Study
from study.declaration import Declaration
from study.freezing import to_toml
from study.guarantee import Guarantee
from study.models import feature_names
from study.receipts import SignedReceipt
from study.roster import SignedRoster

__all__ = [
    "Release", "few_parameters", "is_release", "privacy_of", "receipt_lines", "released_model", "summary_of",
    "write_release",
]  # fmt: skip

_FEW_PARAMETERS = 1000


@dataclass(frozen=True, kw_only=True)
class Release:
    """A finished run.

    Attributes:
        declaration: what was run.
        outcome: what came of it.
        seconds: how long it took.
        simulation: what only a simulation knows: records, metrics, metrics_on, site_records; None for a real run.
        sites: a simulation's directory of its sites' ledgers and public keys, to be copied; None: there is none.
        roster: of the federation; None where its sites are not known by keys.
    """

    declaration: Declaration
    outcome: Outcome
    seconds: float
    simulation: Mapping[str, Any] | None = None
    sites: Path | None = None
    roster: SignedRoster | None = None


def write_release(release: Release, directory: Path) -> dict[str, Any]:
    """Write the release into a new directory; the content of its `summary.json`."""
    directory.mkdir(parents=True)
    guarantee, outcome = Guarantee(release.declaration), release.outcome
    study, summary = guarantee.study, summary_of(release, guarantee)
    privacy = privacy_of(guarantee, simulation=release.simulation is not None)
    history = _with_epsilon(outcome.history, guarantee)
    tensors, metadata = released_model(guarantee, outcome.parameters)
    model = save(tensors, metadata=metadata)
    (directory / "model.safetensors").write_bytes(model)
    (directory / "sums.safetensors").write_bytes(save(_sums(outcome.sums)))
    _write(directory / "study.toml", to_toml(study))
    (directory / "declaration.json").write_bytes(release.declaration.content)
    if release.roster is not None:
        (directory / "roster.json").write_bytes(release.roster.to_bytes())
    _write(directory / "summary.json", _json(summary))
    _write(directory / "privacy.json", _json(privacy))
    _write(directory / "history.jsonl", "".join(json.dumps(line) + "\n" for line in history))
    _write(directory / "card.md", render_card(study=study, summary=summary, privacy=privacy))
    plots = draw_plots(history, summary, directory / "plots")
    report = render_report(
        study=study, summary=summary, privacy=privacy, history=history, plots=plots
    )
    _write(directory / "report.html", report)
    (directory / "receipts").mkdir()
    for name, lines in receipt_lines(kept.receipts for kept in outcome.sums).items():
        (directory / "receipts" / f"{name}.jsonl").write_bytes(lines)
    if release.sites is not None:
        shutil.copytree(release.sites, directory / "sites")
    _write(directory / "manifest.json", _json(_manifest(release, directory)))
    return summary


def receipt_lines(queries: Iterable[Mapping[str, Sequence[SignedReceipt]]]) -> dict[str, bytes]:
    """By name, the content of a site's file under `receipts/`, as `discreet ledger verify --receipts` reads it."""
    lines: dict[str, bytes] = {}
    for receipts in queries:
        for name, chain in receipts.items():
            lines[name] = lines.get(name, b"") + b"".join(each.to_line() + b"\n" for each in chain)
    return lines


def privacy_of(guarantee: Guarantee, *, simulation: bool) -> dict[str, Any]:
    """The content of `privacy.json`: it follows from the declaration."""
    return guarantee.to_values() | _covered(guarantee) | {"simulation": simulation}


def released_model(
    guarantee: Guarantee, parameters: Parameters
) -> tuple[Parameters, dict[str, str]]:
    """Tensors and metadata of `model.safetensors`, public bounds included."""
    return parameters | _public_scaling(guarantee), _model_metadata(guarantee)


def summary_of(release: Release, guarantee: Guarantee) -> dict[str, Any]:
    """The content of `summary.json`: figures that scripts rely on."""
    study, outcome = guarantee.study, release.outcome
    done = [kept for kept in outcome.sums if kept.total is not None and kept.round]
    summary: dict[str, Any] = {
        "study": study.name, "study_hash": release.declaration.hash, "purpose": study.purpose,
        "trust": study.privacy.trust, "masked": guarantee.masked,
        "epsilon": guarantee.epsilon, "epsilon_against_server": guarantee.epsilon_against_server,
        "delta": guarantee.delta,
        "noise_multiplier": release.declaration.noise_multiplier,
        "rounds": len(done), "rounds_declared": study.training.rounds,
        "rounds_abandoned": sum(kept.total is None for kept in outcome.sums),
        "sites": release.declaration.sites,
        "refusals": outcome.refusals,
        "seconds": round(release.seconds, 3), "model": study.model.kind,
        "simulation": release.simulation is not None, **(release.simulation or {}),
        "parameters": few_parameters(outcome.parameters),
    }  # fmt: skip
    return summary


def few_parameters(parameters: Parameters) -> dict[str, Any] | None:
    """A small model's numbers; None for a large one, or one that has left all bounds."""
    size = sum(np.size(value) for value in parameters.values())
    if size > _FEW_PARAMETERS or not all(np.isfinite(value).all() for value in parameters.values()):
        return None
    return {name: value.tolist() for name, value in parameters.items()}


def _public_scaling(guarantee: Guarantee) -> Parameters:
    """Bounds as arrays, so that whoever loads the model has all that a prediction needs."""
    data = guarantee.study.data
    if data.scaled == "none":
        return {}
    bounds = [data.bounds_of(name) or (np.nan, np.nan) for name in feature_names(guarantee.study)]
    low, high = np.array(bounds, dtype=np.float64).T
    return {"scaling.low": low.copy(), "scaling.high": high.copy()}


def _model_metadata(guarantee: Guarantee) -> dict[str, str]:
    """One entry, so that equal models give equal files: safetensors writes several in no fixed order."""
    study = guarantee.study
    about = {
        "study": study.name, "study_hash": guarantee.declaration.hash, "kind": study.model.kind,
        "features": list(feature_names(study)), "label": study.data.label, "classes": list(study.data.classes),
    }  # fmt: skip
    return {"discreet": json.dumps(about, sort_keys=True)}


def _sums(sums: list[KeptSum]) -> dict[str, np.ndarray[Any, Any]]:
    return {f"{kept.index:06d}": kept.total for kept in sums if kept.total is not None}


def _with_epsilon(history: list[dict[str, Any]], guarantee: Guarantee) -> list[dict[str, Any]]:
    """Each line of a round with what so many rounds would have cost, had they been declared."""
    costs = guarantee.epsilon_by_round
    return [
        line | {"epsilon": costs[line["round"] - 1] if costs and line["round"] else None}
        for line in history
    ]


def _covered(guarantee: Guarantee) -> dict[str, list[str]]:
    """What the guarantee speaks of and what it does not, in sentences for people."""
    privacy = guarantee.study.privacy
    if privacy.trust == "unsafe":
        return {"covered": [], "not_covered": ["Nothing is protected: this run has no privacy."]}
    covered = [
        "Everything that is released: sums over the sites are noisy, and the model is computed from those sums alone.",
        "The training loss shown during the run, for all declared rounds together, also when fewer ran.",
    ]
    not_covered = [
        "Which sites took part and when each answered.",
        "A site that sends nonsense: it can spoil the model, not others' privacy.",
        "What is true of people in general: a model may tell that about somebody who never took part.",
        *_people_with_more(guarantee.study),
    ]
    if guarantee.study.data.scaled == "standard":
        covered.append(
            "The scaling of the features, which was learnt by a private sum of the same budget."
        )
    if privacy.trust == "server":
        not_covered.insert(
            0,
            "What the coordinator saw: the masked sums over the sites, before it added the noise.",
        )
    if guarantee.masked:
        covered.append(
            "Single sites, against the coordinator: sums were masked, so it received sums over sites, each with the "
            f"answers of at least {guarantee.thresholds.survivors - guarantee.thresholds.colluding} honest sites."
        )
    return {"covered": covered, "not_covered": not_covered}


def _people_with_more(study: Study) -> list[str]:
    """Whom the unit of privacy covers only in part."""
    if study.training.algorithm == "dp-fedavg":
        sentence = (
            "One record of a site that stays (the guarantee is for a site replaced by an empty one): it can change "
            "its site's part by twice as much, and is protected with half the noise multiplier."
        )
        return [sentence]
    said = []
    if study.data.unit is None:
        said.append("A person with several records: the guarantee is for each record alone.")
    if study.data.sites_per_unit == 1:
        said.append(
            "A person with records at several sites: the guarantee is for what one site holds."
        )
    return said


def _manifest(release: Release, directory: Path) -> dict[str, Any]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        "format": 1,
        "study_hash": release.declaration.hash,
        "signed": False,
        "versions": {
            "discreet": version("discreet"), "flwr": version("flwr"), "numpy": version("numpy"),
            "dp-accounting": version("dp-accounting"), "python": platform.python_version(),
        },
        "files": {str(path.relative_to(directory)): _digest(path) for path in files},
        "sessions": {_session_of(kept): list(kept.members) for kept in release.outcome.sums},
        "queries": [
            {name: value for name, value in kept.to_values().items() if name != "members"}
            | {"session": _session_of(kept)}
            for kept in release.outcome.sums
        ],
    }  # fmt: skip


def _session_of(kept: KeptSum) -> str:
    """A name for the keys of a session, which many queries share; "none" where nothing was masked."""
    return (
        hashlib.sha256("".join(kept.members).encode()).hexdigest()[:16] if kept.members else "none"
    )


def is_release(directory: Path) -> bool:
    """Is this a release and nothing more (or empty)? Files that somebody put beside it make it more."""
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}
    if not found:
        return True
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        return found <= {"manifest.json", *manifest["files"]}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
