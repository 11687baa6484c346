"""One simulated study, from its file to its release: the researcher's rehearsal of a federation.

    table -> frozen study -> records -> sites -> declaration -> ServerApp over an in-process Grid -> release

Test metrics are computed here, on the pooled test rows that no real party ever holds together; they are not private
and are named so.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message, RecordDict

from client.answers import scaled_units, units_of
from client.app import make_client_app
from client.ledger import read_ledger
from client.policy import Policy, PolicyFile, policy_to_values, read_policy
from client.sources import frozen, load
from client.tables import Records, check_pooled, records_of, unlike_expected
from gradients import Parameters, classification_metrics, regression_metrics
from privacy.errors import DiscreetError, RoundAbandonedError, UserError
from privacy.keystream import derive_key
from privacy.signing import SigningKey
from server.app import make_server_app
from server.release import Release, write_release
from server.rounds import Job, Outcome
from server.trips import Way
from simulations.faults import random_drops, uninterrupted
from simulations.grid import InProcessGrid
from simulations.partitions import parse_partition, split_units
from simulations.sites import simulated_roster, simulated_sites
from simulations.workplace import interrupted, workplace
from study.canonical import canonical_json
from study.contract import Study
from study.contributions import SCALING_NAMES, Units
from study.declaration import Declaration
from study.guarantee import Guarantee, declare
from study.ledger_state import replay
from study.models import model_of
from study.queries import Refusal
from study.roster import SignedRoster
from study.scaling import standardise, unscale_labels

__all__ = ["Options", "Trust", "simulate"]

Trust = Literal["aggregate", "server", "local", "unsafe"]

_EVALUATIONS = 50  # at most so many points of the metric's plot
_OUTLIVED = "start anew, without --resume; a study with training.spare_rounds outlives this"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to simulate a study.

    Attributes:
        out: the release directory; must not exist.
        data: a file with the records; None for the study's built-in source.
        sites: how many; None for the study's minimum, or what the partition gives.
        partition: iid, dirichlet:ALPHA, quantity:ALPHA or column:NAME.
        trust: another trust level than the study's.
        drop: probability that a site misses a query.
        seed: everything random follows from it, so whoever knows it can take the noise off again.
        policy: a file of rules that every site obeys; None: their operators are willing to do whatever is asked.
        resume: go on from the checkpoint of an interrupted run with the same options, seed and rules.
        on_round: told of every query.
        on_message: told of every message to a site and its reply; None: there is no trace.
        on_start: told of the declaration, once everything is checked.
    """

    out: Path
    data: Path | None = None
    sites: int | None = None
    partition: str = "iid"
    trust: Trust | None = None
    drop: float = 0.0
    seed: int = 1
    policy: Path | None = None
    resume: bool = False
    on_round: Callable[[dict[str, Any]], None] = lambda _line: None
    on_message: Callable[[dict[str, Any]], None] | None = None
    on_start: Callable[[Declaration], None] = lambda _declaration: None
    on_note: Callable[[str], None] = lambda _note: None


def simulate(study: Study, options: Options) -> dict[str, Any]:
    """Run a study over simulated sites and write its release; the content of `summary.json`.

    Work happens in `OUT.partial`, which becomes `OUT` at the end; after an interruption it holds the checkpoint.

    Raises:
        DiscreetError: a mistake in the study, the data or the options, found before anything is written; or a run
            that could not be finished.
    """
    began = time.monotonic()
    federation = _prepare(study, options)
    drops = random_drops(options.drop, simulation_seed=options.seed)
    notes = list(_notes(federation, options))
    with workplace(options.out, federation.identity(options), resume=options.resume) as place:
        for note in notes:
            options.on_note(note)
        options.on_start(federation.declaration)
        try:
            outcome = _run(federation, options, drops, place)
        except RoundAbandonedError as error:
            if not options.resume:
                shutil.rmtree(place)  # the same faults would meet a resumed run
            elif burnt := _burnt_at(place / "sites"):
                raise RoundAbandonedError(
                    f"{error.message}. When the run was interrupted, {', '.join(burnt)} had charged a query and not "
                    "answered it: it is burnt, and never computed again",
                    hint=_OUTLIVED,
                ) from error
            elif Refusal.OTHER_QUERY_ANSWERED.explanation in error.message:
                raise RoundAbandonedError(
                    f"{error.message}. When the run was interrupted a masked query was under way: what was answered "
                    "cannot be unmasked any more, and is never computed again",
                    hint=_OUTLIVED,
                ) from error
            raise
        release = Release(
            declaration=federation.declaration,
            outcome=outcome,
            # Of a run that was resumed, what its queries took before counts too.
            seconds=max(time.monotonic() - began, sum(line["seconds"] for line in outcome.history)),
            simulation={
                "records": federation.records.count,
                "metrics": federation.metrics(outcome.parameters),
                "metrics_on": federation.metrics_on,
                "site_records": federation.site_records(),
            },
            sites=place / "sites",
            roster=federation.roster,
        )
        return write_release(release, place / "release")


def _notes(federation: _Federation, options: Options) -> Iterator[str]:
    """What is no mistake, and may not be meant."""
    if note := unlike_expected(federation.records, federation.study):
        yield note
    left = interrupted(options.out)
    if left and not options.resume:
        yield "An interrupted run is thrown away and begun anew: with --resume it would have gone on."
    if options.resume and not left:
        yield "There is nothing to resume: the run begins."


def _burnt_at(directory: Path) -> list[str]:
    """The sites that an interruption has left with a query charged and not answered."""
    return [
        path.parent.name
        for path in sorted(directory.glob("*/ledger.sqlite"))
        if any(
            asked.status == "burnt"
            for account in replay(read_ledger(path)).studies.values()
            for asked in account.asked.values()
        )
    ]


@dataclass(frozen=True, kw_only=True)
class _Federation:
    """Checked and ready to run."""

    declaration: Declaration
    roster: SignedRoster
    records: Records
    shares: list[npt.NDArray[np.int64]]
    test: Units
    root: bytes
    policy: Policy | None

    @property
    def study(self) -> Study:
        return self.declaration.study

    @property
    def metrics_on(self) -> str:
        part = "test" if self.study.data.test_fraction else "training"
        return f"pooled {part} rows (simulation)"

    def identity(self, options: Options) -> dict[str, Any]:
        """What an interrupted run must have in common with the one that goes on from its checkpoint."""
        data = hashlib.sha256()
        for array in (self.records.features, self.records.labels, self.records.units):
            data.update(array.tobytes())
        return {
            "data": data.hexdigest(), "partition": options.partition, "drop": options.drop, "seed": options.seed,
            "sites": self.declaration.sites, "study": self.declaration.hash,
            "policy": None if self.policy is None else _hash_of(self.policy),
        }  # fmt: skip

    def names(self) -> dict[int, str]:
        """Site names by Flower node id; 1 is the server's."""
        return {number + 1: name for number, name in self.roster.roster.names.items()}

    def site_records(self) -> dict[str, int]:
        sizes = (self.records.select(share).count for share in self.shares)
        return dict(zip(self.names().values(), sizes, strict=True))

    def entropy(self, party: str) -> Callable[..., bytes]:
        """Reproducible keys: what no real site ever uses."""
        return _entropy_of(self.root, party)

    def metrics(self, parameters: Parameters) -> dict[str, float | None]:
        """Metrics of a model on the pooled test rows (training rows, where none are kept for testing).

        None where a model has left all bounds, which only happens without privacy.
        """
        with np.errstate(all="ignore"):
            found = self._metrics(parameters)
        return {name: value if np.isfinite(value) else None for name, value in found.items()}

    def _metrics(self, parameters: Parameters) -> dict[str, float]:
        study, model, test = self.study, model_of(self.study), self.test
        features = test.features
        if SCALING_NAMES[0] in parameters:
            mean, deviation = (np.asarray(parameters[name], np.float64) for name in SCALING_NAMES)
            features = standardise(features, mean, deviation)
        own = {name: parameters[name] for name in model.shapes}
        predicted = model.predict(own, features)
        if study.data.task == "classification":
            return classification_metrics(predicted, test.labels, study.outputs)
        data = study.data
        actual, guessed = (
            unscale_labels(np.asarray(each, dtype=np.float64), data.label_bounds, data.scaled)
            for each in (test.labels, predicted)
        )
        return regression_metrics(guessed, actual)


def _prepare(study: Study, options: Options) -> _Federation:
    """Everything that can be wrong with the input is found here."""
    partition = parse_partition(options.partition)
    table = load(study, options.data)
    study = frozen(study, options.data, table, without=partition.column)
    if options.trust is not None:
        study = _with_trust(study, options.trust)
    records = records_of(table, study)
    shares = split_units(
        partition, records=records, table=table,
        sites=options.sites or (None if partition.kind == "column" else study.sites.minimum),
        simulation_seed=options.seed,
    )  # fmt: skip
    check_pooled(records, study, sites=len(shares))
    root = derive_key(b"discreet simulation", options.seed)
    names = [f"site-{number}" for number in range(1, len(shares) + 1)]
    roster = simulated_roster(names, entropy=lambda party: _entropy_of(root, party))
    declaration = declare(
        study,
        sites=len(shares),
        nonce=derive_key(root, "nonce").hex()[:32],
        roster=roster.roster.hash,
    )
    for share in shares:
        units_of(records.select(share), study)
    test = records.test_part() if study.data.test_fraction else records.train_part()
    federation = _Federation(
        declaration=declaration,
        roster=roster,
        records=records,
        shares=shares,
        test=scaled_units(test, study),
        root=root,
        policy=None if options.policy is None else read_policy(options.policy),
    )
    if federation.policy is not None:
        _require_permission(federation, federation.policy)
    return federation


def _hash_of(policy: Policy) -> str:
    """The same for files that say the same rules: comments and defaults do not count."""
    return hashlib.sha256(canonical_json(policy_to_values(policy))).hexdigest()


def _entropy_of(root: bytes, party: str) -> Callable[..., bytes]:
    return lambda *labels: derive_key(root, party, *labels)


def _require_permission(federation: _Federation, policy: Policy) -> None:
    """What every site would refuse to approve, said before anything runs."""
    policy.require(Guarantee(federation.declaration))
    for name, share in zip(federation.names().values(), federation.shares, strict=True):
        policy.require_units(len(share), name)


def _with_trust(study: Study, trust: Trust) -> Study:
    """The same study at another level of trust; without privacy it has no budget."""
    privacy = study.privacy
    if trust == "unsafe":
        return replace(
            study, privacy=replace(privacy, trust=trust, epsilon=None, noise_multiplier=None)
        )
    if privacy.trust == "unsafe":
        raise UserError(
            f"--trust {trust}: the study has no privacy budget",
            hint="give it privacy.epsilon, and privacy.trust",
        )
    return replace(study, privacy=replace(privacy, trust=trust))


def _run(
    federation: _Federation, options: Options, drops: Callable[[Message], bool], place: Path
) -> Outcome:
    names, study = federation.names(), federation.study
    every = max(1, -(-study.training.rounds // _EVALUATIONS))

    def evaluate(number: int, candidate: Parameters) -> dict[str, float | None] | None:
        wanted = number % every == 0 or number in (1, study.training.rounds)
        return federation.metrics(candidate) if wanted else None

    coordinator = SigningKey.from_seed(federation.entropy("coordinator")("identity"))
    job = Job(
        declaration=federation.declaration,
        sites=tuple(names.values()),
        way=Way(nodes=lambda: {name: node for node, name in names.items()}, key=coordinator),
        directory=place / "checkpoint",
        durable=False,
        entropy=federation.entropy("coordinator"),
        roster=federation.roster.roster,
        on_round=options.on_round,
        on_message=options.on_message,
        undisturbed=uninterrupted,
        evaluate=evaluate,
    )
    outcomes: list[Outcome] = []
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    shares = zip(names.values(), federation.shares, strict=True)
    records = {name: federation.records.select(share) for name, share in shares}
    with simulated_sites(
        federation.declaration, records, roster=federation.roster.roster, entropy=federation.entropy,
        directory=place / "sites",
        policy=None if options.policy is None else PolicyFile(options.policy),
    ) as sites:  # fmt: skip
        apps = {
            node: make_client_app(sites[name], coordinator=coordinator.public)
            for node, name in names.items()
        }
        make_server_app(job, outcomes.append)(InProcessGrid(apps, drops=drops), context)
        for name, site in sites.items():
            if site.problems:
                raise DiscreetError(f"{name} could not compute its part: {site.problems[0]}")
            site.close_study(federation.declaration.hash)
    if not outcomes:
        raise DiscreetError("The run ended without a result")
    return outcomes[0]
