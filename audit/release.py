"""Verify a release: its files, who took part in every sum, and that model and figures follow from the sums.

Checked, with nothing but the release at hand:

* every file is the one that the manifest names, and there is no other;
* the declaration is the study's, and by our own accountant its noise buys the epsilon that it promises; `privacy.json`,
  the model card and the figures of `summary.json` say what follows from it;
* the roster is the declared one, and signed; with `fingerprint`, it is the one that the auditor trusts;
* the plan, fed with the sums, asks the queries that were asked: **every survivor has receipted the transcript of the
  query at this very model**, with these very members, in a ledger that only goes on. As a query is asked at the model
  that follows from the sums before it, at least m sites have so attested every sum but the last;
* every sum is over at least m members; where some were missing, tau of the survivors have signed that very set;
* the last model of the plan is the released one, tensor by tensor.

Not checked: the last sum, which no later query attests, and whether a query that is called abandoned had a sum, rest on
the coordinator's word; metrics are the simulator's; `report.html` and plots are pictures of the rest. That a site has
charged what it receipted is in its ledger: hold that to `receipts/NAME.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from gradients import Parameters
from privacy.errors import (
    DiscreetError,
    PrivacyError,
    ProtocolError,
    RoundAbandonedError,
    UserError,
)
from privacy.private_sum import released_sum
from privacy.secure_aggregation.messages import RoundRequest, SetupKey, SurvivorsRequest
from privacy.secure_aggregation.site import Federation, setup_key_of, transcript_of
from privacy.signing import verify
from server.card import render_card
from server.release import few_parameters, privacy_of, receipt_lines, released_model
from server.rounds import spares_of
from server.sums import Receipts
from study.aggregation import federation_of
from study.codec import Arrays
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.plans import Ask, Received, start_plan
from study.queries import SumQuery, query_hash
from study.receipts import chain_from_values
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
    with _damage_explained():
        _check_files(directory, manifest["files"])
        guarantee = _guarantee(directory, manifest)
        roster = _roster(directory, guarantee, fingerprint)
        _check_figures(directory, guarantee)
        check = _Replay(
            guarantee,
            roster,
            manifest["sessions"],
            load((directory / "sums.safetensors").read_bytes()),
        )
        model = check.run(manifest["queries"])
        _check_course(directory, manifest["queries"], model)
        _check_receipt_files(directory, manifest["queries"])
        return ReleaseVerdict(
            study=guarantee.declaration.hash, sums=check.sums, receipts=check.receipts_seen,
            signatures=check.signatures_seen, roster=None if roster is None else roster.fingerprint,
            deviation=_check_model(directory, guarantee, model),
        )  # fmt: skip


class _Replay:
    """The plan again, from its first query to its last, against what sites have signed."""

    def __init__(
        self,
        guarantee: Guarantee,
        roster: Roster | None,
        sessions: Mapping[str, list[str]],
        totals: Arrays,
    ) -> None:
        self._guarantee, self._roster = guarantee, roster
        self._sessions, self._totals = sessions, totals
        self._members: dict[str, tuple[SetupKey, ...]] = {}
        self._receipts = Receipts(roster)
        self._asked: Counter[str] = Counter()
        self._abandoned: Counter[str] = Counter()
        self.sums = self.receipts_seen = self.signatures_seen = 0

    def run(self, queries: list[dict[str, Any]]) -> Parameters:
        """The model that these queries end with."""
        plan = start_plan(self._guarantee)
        ask, model = next(plan), None
        for number, query in enumerate(queries):
            if model is not None:
                raise ReleaseError("Expected no query after the end of training, found one")
            try:
                self._check(query, number, ask)
            except ProtocolError as error:
                raise ReleaseError(f"Query {number}: {error.message}") from error
            if query["abandoned"] and self._asked_again(ask.function):
                continue
            try:
                ask = plan.send(None if query["abandoned"] else self._received(ask, query))
            except RoundAbandonedError as error:
                raise ReleaseError(f"Query {number}: {error.message}") from error
            except StopIteration as end:
                model = end.value
        if model is None:
            raise ReleaseError("Expected sums up to the end of training, found fewer")
        if len(self._totals) != self.sums:
            raise ReleaseError(f"Expected {self.sums} sums, found {len(self._totals)}")
        return dict(model)

    def _asked_again(self, function: str) -> bool:
        """Has a query that was abandoned another one in its place? If not, the plan goes on without its sum."""
        self._abandoned[function] += 1
        stage, spares = self._guarantee.stage(function), spares_of(self._guarantee, function)
        return self._abandoned[function] <= spares and self._asked[function] < stage.count

    def _check(self, query: Mapping[str, Any], number: int, ask: Ask) -> None:
        if (query["index"], query["function"], query["round"]) != (number, ask.function, ask.round):
            raise ProtocolError(f"Expected query {number}, for round {ask.round}, found another")
        self._asked[ask.function] += 1
        if self._asked[ask.function] > self._guarantee.stage(ask.function).count:
            raise ProtocolError(
                f"Expected at most as many queries of {ask.function} as were declared"
            )
        transcript = self._transcript(query, ask)
        if query["transcript"] != transcript:
            raise ProtocolError(
                "Expected the transcript of the query at the model that follows from the sums, found another"
            )
        self._receipts.heard(query["refusals"])
        if self._roster is not None:
            self._check_receipts(query, transcript, self._roster)
        if not query["abandoned"]:
            self._check_survivors(query)

    def _transcript(self, query: Mapping[str, Any], ask: Ask) -> str:
        """What an honest site was asked, and has signed a receipt of."""
        payload = SumQuery(
            study=self._guarantee.declaration.hash, index=query["index"], function=ask.function,
            parameters=ask.parameters, nonce=bytes.fromhex(query["nonce"]),
            receipts=self._receipts.for_query(query["index"]),
        ).to_bytes()  # fmt: skip
        if query["query_hash"] != query_hash(payload):
            raise ProtocolError(
                "Expected the query at the model that follows from the sums, found another"
            )
        mechanism, keys = self._guarantee.mechanism(ask.function), self._sessions[query["session"]]
        if not self._guarantee.masked or self._roster is None or mechanism is None or not keys:
            return query_hash(payload)
        federation = federation_of(self._guarantee, self._roster)
        members = self._members_of(query["session"], federation)
        if query["cohort"] != [self._roster.names[each.site] for each in members]:
            raise ProtocolError(
                "Expected the members of the session to have been asked, found others"
            )
        request = RoundRequest(round=query["index"], payload=payload, members=members)
        shape = {"bits": mechanism.bits, "dimension": mechanism.dimension}
        return transcript_of(federation, request, **shape).hex()

    def _members_of(self, session: str, federation: Federation) -> tuple[SetupKey, ...]:
        """The keys of a session, each signed by its site; many queries share one."""
        if session not in self._members:
            keys = (SetupKey.from_bytes(bytes.fromhex(each)) for each in self._sessions[session])
            self._members[session] = tuple(
                setup_key_of(federation, each, step="setup") for each in keys
            )
        return self._members[session]

    def _check_receipts(self, query: Mapping[str, Any], transcript: str, roster: Roster) -> None:
        """Has every survivor receipted its answer to this query, in a ledger that goes on?"""
        survivors = query["survivors"]
        if set(query["receipts"]) != set(survivors) or not set(survivors) <= set(
            query["cohort"]
        ) <= set(roster.numbers):
            raise ProtocolError(
                "Expected survivors among those that were asked, and a receipt of each"
            )
        for name, values in query["receipts"].items():
            chain = chain_from_values(values)
            self._receipts.check(
                name, chain, study=self._guarantee.declaration.hash, index=query["index"], transcript=transcript
            )  # fmt: skip
            self._receipts.keep(name, chain, index=query["index"])
            self.receipts_seen += len(chain)

    def _check_survivors(self, query: Mapping[str, Any]) -> None:
        """Is the sum over enough sites, and, where some were missing, over the set that enough of them have signed?"""
        survivors, roster, guarantee = query["survivors"], self._roster, self._guarantee
        least = guarantee.tolerance.survivors
        if len(set(survivors)) != len(survivors) or len(survivors) < least:
            raise ProtocolError(
                f"Expected a sum over at least {least} sites, found {len(survivors)}"
            )
        if roster is None or not guarantee.masked or set(survivors) == set(query["cohort"]):
            return
        agreed = SurvivorsRequest(
            transcript=bytes.fromhex(query["transcript"]),
            survivors=tuple(sorted(roster.numbers[name] for name in survivors)),
        )
        signatures = query["signatures"]
        if not set(signatures) <= set(survivors) or len(signatures) < guarantee.thresholds.quorum:
            raise ProtocolError(
                f"Expected at least {guarantee.thresholds.quorum} survivors to have signed the set"
            )
        for name, signature in signatures.items():
            public = roster.identities[roster.numbers[name] - 1]
            verify(public, "survivors", agreed.signed, bytes.fromhex(signature))
            self.signatures_seen += 1

    def _received(self, ask: Ask, query: Mapping[str, Any]) -> Received:
        self.sums += 1
        total = self._totals.get(f"{query['index']:06d}")
        dimension = self._guarantee.stage(ask.function).dimension
        if total is None or total.shape != (dimension,):
            raise ReleaseError(f"Expected a sum of {dimension} numbers at query {query['index']}")
        mechanism = self._guarantee.mechanism(ask.function)
        return Received(
            total=total if mechanism is None else released_sum(mechanism, total), sites=len(query["survivors"])
        )  # fmt: skip


def _manifest(directory: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        files, queries, sessions = manifest["files"], manifest["queries"], manifest["sessions"]
        if (
            isinstance(files, dict)
            and isinstance(sessions, dict)
            and all(isinstance(each, dict) for each in queries)
        ):
            return dict(manifest)
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        pass
    raise UserError(
        f"{directory} is no release: it has no manifest.json, or a damaged one",
        hint="give the directory that discreet simulate --out has written",
    )


@contextmanager
def _damage_explained() -> Iterator[None]:
    """Whatever a forger leaves out or writes of another kind is a contradiction too."""
    try:
        yield
    except (ProtocolError, PrivacyError) as error:
        raise ReleaseError(error.message, hint=error.hint) from error
    except (
        OSError,
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ReleaseError(
            f"Expected the parts that a release has, found one missing or damaged ({type(error).__name__})"
        ) from error


def _check_files(directory: Path, files: Mapping[str, str]) -> None:
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}
    for name, expected in files.items():
        path = directory / name
        if name not in found or not path.is_file():
            raise ReleaseError(f"Expected {name}, as the manifest names it, found no such file")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ReleaseError(f"{name} is not the file that the manifest names: it was changed")
    strange = sorted(found - set(files) - {"manifest.json"})
    if strange:
        raise ReleaseError(f"Expected the files of the manifest alone, found {strange[0]}")


def _guarantee(directory: Path, manifest: Mapping[str, Any]) -> Guarantee:
    declaration = Declaration.from_bytes((directory / "declaration.json").read_bytes())
    if declaration.hash != manifest["study_hash"]:
        raise ReleaseError("Expected the declaration of the manifest's study, found another")
    guarantee = Guarantee(declaration)
    guarantee.check()
    return guarantee


def _roster(directory: Path, guarantee: Guarantee, fingerprint: str | None) -> Roster | None:
    declared = guarantee.declaration.roster
    if declared is None:
        if guarantee.masked or fingerprint is not None:
            raise ReleaseError(
                "Expected a study that was declared for a roster, found one for none"
            )
        return None
    signed = SignedRoster.from_bytes((directory / "roster.json").read_bytes())
    signed.check_signed()
    if signed.roster.hash != declared or len(signed.roster.sites) != guarantee.declaration.sites:
        raise ReleaseError("Expected the roster that the study was declared for, found another")
    if fingerprint is not None and signed.roster.fingerprint != fingerprint:
        raise ReleaseError(f"Expected the roster {fingerprint}, found {signed.roster.fingerprint}")
    return signed.roster


def _check_figures(directory: Path, guarantee: Guarantee) -> None:
    """What people read: the guarantee's own words and figures."""
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    privacy = json.loads((directory / "privacy.json").read_text(encoding="utf-8"))
    expected = json.loads(json.dumps(privacy_of(guarantee, simulation=summary["simulation"])))
    if privacy != expected:
        wrong = sorted(
            name for name in {*privacy, *expected} if privacy.get(name) != expected.get(name)
        )
        raise ReleaseError(
            f"privacy.json: expected {wrong[0]} as it follows from the declaration, found another"
        )
    figures = {
        "study_hash": guarantee.declaration.hash, "trust": guarantee.study.privacy.trust, "masked": guarantee.masked,
        "epsilon": guarantee.epsilon, "epsilon_against_server": guarantee.epsilon_against_server,
        "delta": guarantee.delta, "noise_multiplier": guarantee.declaration.noise_multiplier,
        "sites": guarantee.declaration.sites, "study": guarantee.study.name, "purpose": guarantee.study.purpose,
        "rounds_declared": guarantee.study.training.rounds, "model": guarantee.study.model.kind,
    }  # fmt: skip
    for name, value in figures.items():
        if summary[name] != value:
            raise ReleaseError(
                f"summary.json: expected {name} as it follows from the declaration, found another"
            )
    card = (directory / "card.md").read_text(encoding="utf-8")
    if card != render_card(study=guarantee.study, summary=summary, privacy=privacy):
        raise ReleaseError(
            "card.md: expected the card that follows from summary.json and privacy.json, found another"
        )


def _check_course(directory: Path, queries: list[dict[str, Any]], model: Parameters) -> None:
    """What the summary says of the run: its rounds, and the numbers of a small model."""
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    few, said = few_parameters(model), summary["parameters"]
    alike = (
        few.keys() == said.keys() and all(map(_alike, said.values(), few.values()))
        if few and said
        else few == said
    )
    course = {
        "rounds": summary["rounds"] == sum(not each["abandoned"] and each["round"] > 0 for each in queries),
        "rounds_abandoned": summary["rounds_abandoned"] == sum(each["abandoned"] for each in queries),
        "parameters": alike,
    }  # fmt: skip
    for name, follows in course.items():
        if not follows:
            raise ReleaseError(
                f"summary.json: expected {name} as it follows from the sums, found another"
            )


def _alike(said: Any, follows: Any) -> bool:
    return np.shape(said) == np.shape(follows) and np.allclose(
        said, follows, rtol=_TOLERANCE, atol=_TOLERANCE
    )


def _check_receipt_files(directory: Path, queries: list[dict[str, Any]]) -> None:
    receipts = [
        {name: chain_from_values(values) for name, values in query["receipts"].items()}
        for query in queries
    ]
    lines = receipt_lines(receipts)
    found = {path.stem: path.read_bytes() for path in (directory / "receipts").glob("*.jsonl")}
    if found != lines:
        raise ReleaseError("receipts/: expected the receipts of the manifest, found others")


def _check_model(directory: Path, guarantee: Guarantee, replayed: Parameters) -> float:
    """How far the released model is from the one that the sums end with. Raises ReleaseError for another model."""
    path = directory / "model.safetensors"
    released = load(path.read_bytes())
    expected, metadata = released_model(guarantee, replayed)
    with safe_open(path, "np") as file:
        if file.metadata() != metadata:
            raise ReleaseError(
                "The model says something else of itself than follows from the declaration"
            )
    if set(released) != set(expected):
        raise ReleaseError(
            f"Expected tensors {', '.join(sorted(expected))} in the model, found others"
        )
    deviation = 0.0
    for name, value in expected.items():
        found = released[name]
        if found.shape != np.shape(value) or found.dtype != np.asarray(value).dtype:
            raise ReleaseError(f"Expected {name} in the model, found it of another shape or type")
        with np.errstate(invalid="ignore"):  # what has left all bounds has no difference
            difference = np.abs(found - value)
        deviation = max(deviation, float(np.fmax.reduce(difference, axis=None, initial=0.0)))
        if not np.allclose(found, value, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
            raise ReleaseError(
                f"The model does not follow from the sums: {name} is off by {deviation:.3g}"
            )
    return deviation
