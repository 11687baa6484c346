"""Verify a release: its files, who took part in every sum, and that its model follows from the sums.

Checked: every file has the hash that the manifest names; the declaration is the study's; the roster is the declared
one, and is signed; every sum is over at least m sites of those that were asked, and, where some were missing,
at least tau of the survivors have signed that very set; every survivor has receipted its answer to that query, in a
ledger that only ever goes on; and the declared algorithm, fed with these sums, ends with this very model.

That a site has charged what it receipted is in its ledger: hold that to `receipts/NAME.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from gradients import Parameters
from privacy.errors import DiscreetError, ProtocolError, UserError
from privacy.private_sum import released_sum
from privacy.secure_aggregation.messages import SurvivorsRequest
from privacy.signing import verify
from study.codec import Arrays
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.plans import Ask, Received, start_plan
from study.receipts import SignedReceipt
from study.roster import Roster, SignedRoster

__all__ = ["ReleaseError", "ReleaseVerdict", "verify_release"]

_TOLERANCE = (
    1e-9  # another machine's elementary functions may differ in the last digit, and rounds add up
)


class ReleaseError(DiscreetError):
    """A release contradicts itself; the message says where."""


@dataclass(frozen=True, kw_only=True)
class ReleaseVerdict:
    """A release without a contradiction.

    Attributes:
        study: hash of its declaration. sums: how many it holds; receipts, signatures: how many were verified.
        roster: fingerprint of its roster; None where sites are not known by keys.
        deviation: the largest difference between a number of the model and its replay.
    """

    study: str
    sums: int
    receipts: int
    signatures: int
    roster: str | None
    deviation: float


def verify_release(directory: Path, *, fingerprint: str | None = None) -> ReleaseVerdict:
    """Verify the release in a directory.

    Arguments:
        fingerprint: of the roster, from where the auditor trusts it to be right; None: whichever roster it is.
    Raises:
        ReleaseError: the first contradiction.
        UserError: it is no release.
    """
    manifest = _manifest(directory)
    _check_files(directory, manifest["files"])
    declaration = _declaration(directory, manifest)
    guarantee = Guarantee(declaration)
    roster = _roster(directory, guarantee, fingerprint)
    latest: dict[str, SignedReceipt] = {}
    receipts = signatures = 0
    for query in manifest["queries"]:
        try:
            receipts += _check_receipts(query, declaration, roster, latest)
            signatures += _check_survivors(query, guarantee, roster)
        except ProtocolError as error:
            raise ReleaseError(f"Query {query['index']}: {error.message}") from error
    return ReleaseVerdict(
        study=declaration.hash, sums=sum(not each["abandoned"] for each in manifest["queries"]), receipts=receipts,
        signatures=signatures, roster=None if roster is None else roster.fingerprint,
        deviation=_replay(directory, guarantee, manifest["queries"]),
    )  # fmt: skip


def _manifest(directory: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        files, queries = manifest["files"], manifest["queries"]
        if isinstance(files, dict) and all(isinstance(each, dict) for each in queries):
            return dict(manifest)
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        pass
    raise UserError(
        f"{directory} is no release: it has no manifest.json, or a damaged one",
        hint="give the directory that discreet simulate --out has written",
    )


def _check_files(directory: Path, files: Mapping[str, str]) -> None:
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise ReleaseError(f"Expected {name}, as the manifest names it, found no such file")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ReleaseError(f"{name} is not the file that the manifest names: it was changed")


def _declaration(directory: Path, manifest: Mapping[str, Any]) -> Declaration:
    try:
        declaration = Declaration.from_bytes((directory / "declaration.json").read_bytes())
    except (OSError, ProtocolError) as error:
        raise ReleaseError(f"declaration.json: {error}") from error
    if declaration.hash != manifest.get("study_hash"):
        raise ReleaseError("Expected the declaration of the manifest's study, found another")
    return declaration


def _roster(directory: Path, guarantee: Guarantee, fingerprint: str | None) -> Roster | None:
    declared = guarantee.declaration.roster
    if declared is None:
        if guarantee.masked or fingerprint is not None:
            raise ReleaseError(
                "Expected a study that was declared for a roster, found one for none"
            )
        return None
    try:
        signed = SignedRoster.from_bytes((directory / "roster.json").read_bytes())
        signed.check_signed()
    except (OSError, ProtocolError) as error:
        raise ReleaseError(f"roster.json: {error}") from error
    if signed.roster.hash != declared or len(signed.roster.sites) != guarantee.declaration.sites:
        raise ReleaseError("Expected the roster that the study was declared for, found another")
    if fingerprint is not None and signed.roster.fingerprint != fingerprint:
        raise ReleaseError(f"Expected the roster {fingerprint}, found {signed.roster.fingerprint}")
    return signed.roster


def _check_receipts(
    query: Mapping[str, Any], declaration: Declaration, roster: Roster | None, latest: dict[str, SignedReceipt]
) -> int:  # fmt: skip
    """Has every survivor receipted its answer to this query, in a ledger that goes on?"""
    if roster is None:
        return 0
    keys = dict(zip(roster.names.values(), roster.identities, strict=True))
    survivors = query["survivors"]
    if set(query["receipts"]) != set(survivors) or not set(survivors) <= set(
        query["cohort"]
    ) <= set(keys):
        raise ProtocolError("Expected survivors among those that were asked, and a receipt of each")
    for name, values in query["receipts"].items():
        signed = SignedReceipt.from_values(values)
        signed.verify(keys[name])
        receipt, earlier = signed.receipt, latest.get(name)
        asked = (declaration.hash, query["index"], query["transcript"])
        if (receipt.study, receipt.index, receipt.transcript) != asked:
            raise ProtocolError(f"Expected a receipt of {name} of this query, found one of another")
        if earlier is not None and earlier.receipt.sequence >= receipt.sequence:
            raise ProtocolError(
                f"Expected the ledger of {name} to go on, found an earlier entry or the same"
            )
        latest[name] = signed
    return len(query["receipts"])


def _check_survivors(query: Mapping[str, Any], guarantee: Guarantee, roster: Roster | None) -> int:
    """Is the sum over enough sites, and, where some were missing, over the set that enough of them have signed?"""
    if query["abandoned"]:
        return 0
    survivors, cohort = query["survivors"], query["cohort"]
    least = guarantee.tolerance.survivors
    if len(set(survivors)) != len(survivors) or len(survivors) < least:
        raise ProtocolError(f"Expected a sum over at least {least} sites, found {len(survivors)}")
    if roster is None or not guarantee.masked or set(survivors) == set(cohort):
        return 0
    numbers = {name: number for number, name in roster.names.items()}
    agreed = SurvivorsRequest(
        transcript=bytes.fromhex(query["transcript"]), survivors=tuple(sorted(numbers[name] for name in survivors))
    )  # fmt: skip
    signatures = query["signatures"]
    if not set(signatures) <= set(survivors) or len(signatures) < guarantee.thresholds.quorum:
        raise ProtocolError(
            f"Expected at least {guarantee.thresholds.quorum} survivors to have signed the set"
        )
    for name, signature in signatures.items():
        verify(
            roster.identities[numbers[name] - 1],
            "survivors",
            agreed.signed,
            bytes.fromhex(signature),
        )
    return len(signatures)


def _replay(directory: Path, guarantee: Guarantee, queries: list[dict[str, Any]]) -> float:
    """Feed the sums to the declared plan; how far the model that comes out is from the released one."""
    try:
        totals = load((directory / "sums.safetensors").read_bytes())
        released = load((directory / "model.safetensors").read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError("Expected sums and a model in safetensors form") from error
    replayed = _replayed(guarantee, (each for each in queries if not each["abandoned"]), totals)
    deviation = 0.0
    for name, value in replayed.items():
        found = released.get(name)
        if found is None or found.shape != np.shape(value):
            raise ReleaseError(f"Expected {name} in the model, found none or of another shape")
        close = np.allclose(found, value, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
        deviation = max(deviation, float(np.abs(found - value).max(initial=0.0)))
        if not close:
            raise ReleaseError(
                f"The model does not follow from the sums: {name} is off by {deviation:.3g}"
            )
    return deviation


def _replayed(
    guarantee: Guarantee, done: Iterator[dict[str, Any]], totals: Parameters
) -> Parameters:
    plan = start_plan(guarantee)
    ask = next(plan)
    while True:
        query = next(done, None)
        if query is None:
            raise ReleaseError("Expected sums up to the end of training, found fewer")
        try:
            ask = plan.send(_received(guarantee, ask, query, totals))
        except StopIteration as end:
            if next(done, None) is not None:
                raise ReleaseError("Expected no sum after the end of training, found one") from None
            model: Parameters = end.value
            return model


def _received(guarantee: Guarantee, ask: Ask, query: Mapping[str, Any], totals: Arrays) -> Received:
    total = totals.get(f"{query['index']:06d}")
    dimension = guarantee.stage(ask.function).dimension
    if (query["function"], query["round"]) != (ask.function, ask.round):
        raise ReleaseError(
            f"Expected a sum for round {ask.round} at query {query['index']}, found another"
        )
    if total is None or total.shape != (dimension,):
        raise ReleaseError(f"Expected a sum of {dimension} numbers at query {query['index']}")
    mechanism = guarantee.mechanism(ask.function)
    return Received(
        total=total if mechanism is None else released_sum(mechanism, total),
        sites=len(query["survivors"]),
    )
