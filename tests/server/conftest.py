"""A small federation over an in-process grid, whose sites can be replaced by ones that misbehave."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from ledgers import DATA_SET, key_of, ledger_of
from masking import roster_of, with_roster

from client.answers import Site
from client.app import make_client_app
from client.tables import Records
from privacy.keystream import derive_key
from privacy.secure_aggregation.messages import RoundRequest, is_message, message_of
from server.rounds import Job, run_study
from server.trips import Waits, Way
from simulations.grid import InProcessGrid
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.queries import SumAnswer, SumQuery
from study.readiness import study_in_question
from study.receipts import ReceiptedAnswer
from study.roster import SignedRoster


def entropy_of(party):
    return lambda *labels: derive_key(b"test", party, *labels)


def records_of(number, *, units=6):
    """Two classes around (-1, -1) and (1, 1); other records for every number."""
    generator = np.random.default_rng(number)
    labels = np.arange(units) % 2
    features = np.clip(generator.normal(2.0 * labels[:, None] - 1.0, 0.5, (units, 2)), -3, 3)
    return Records(
        features=features,
        labels=labels.astype(np.int64),
        units=np.arange(units),
        identities=[b"%d" % each for each in range(units)],
        train=np.ones(units, dtype=np.bool_),
    )


@dataclass
class Federation:
    """A declaration, its sites, and everything that they were asked and answered, masks taken off."""

    declaration: Declaration
    directory: object
    asked: dict = field(default_factory=dict)  # site -> [query bytes]
    answered: dict = field(default_factory=dict)  # site -> {query index: vector}
    apps: dict = field(default_factory=dict)
    ledgers: dict = field(default_factory=dict)  # sites go on in them, run after run
    options: dict = field(default_factory=dict)

    @property
    def names(self):
        return {number + 2: f"site-{number + 1}" for number in range(self.declaration.sites)}

    @property
    def roster(self):
        return roster_of(*self.names.values())

    @property
    def signed_roster(self):
        return SignedRoster(roster=self.roster, signatures={}).signed_by(key_of("federation"))

    @property
    def guarantee(self):
        return Guarantee(self.declaration)

    def records(self, name):
        return records_of(int(name.removeprefix("site-")))

    def site(self, name, *, approved=True):
        if name not in self.ledgers:
            self.ledgers[name] = ledger_of(name)
        site = Site(self.ledgers[name], entropy=entropy_of(name), allow_unsafe=True)
        if approved:
            self.approve(site, name)
        return site

    def approve(self, site, name):
        site.approve(
            self.declaration, self.records(name), data_set=DATA_SET, roster=self.roster
        )  # fmt: skip

    def recorded(self, name, site):
        """`site`, with everything that passes written down."""
        answer, integers = site.answer, site._integers
        asked, answered = self.asked.setdefault(name, []), self.answered.setdefault(name, {})

        def recording(content):
            query = query_in(content)
            if query is not None:
                asked.append(query)
            sent = answer(content)
            if query is content:
                received = ReceiptedAnswer.from_bytes(sent)
                index = SumQuery.from_bytes(content).index
                answered[index] = SumAnswer.from_bytes(received.answer).vector
            return sent

        def summed(study, query, mechanism):
            answered[query.index] = integers(study, query, mechanism)
            return answered[query.index]

        site.answer, site._integers = recording, summed
        return site

    def grid(self, **other):
        apps = {
            node: self.apps.get(name) or make_client_app(self.recorded(name, self.site(name)))
            for node, name in self.names.items()
        }
        return InProcessGrid(apps, **other)

    def job(self, *, seconds=600.0, **other):
        nodes = {name: node for node, name in self.names.items()}
        settings = {
            "declaration": self.declaration,
            "sites": tuple(self.names.values()),
            "way": Way(nodes=lambda: nodes, waits=Waits(trip=seconds)),
            "directory": self.directory,
            "durable": False,
            "entropy": entropy_of("coordinator"),
            "roster": self.roster,
        }
        return Job(**settings | self.options | other)

    def run(self, grid=None, **other):
        return run_study(grid or self.grid(), self.job(**other))

    def counts(self):
        return Counter({name: len(queries) for name, queries in self.asked.items()})


def query_in(content):
    """The bytes of the query that a message asks, masked or not; None if it asks none."""
    if study_in_question(content) is not None:
        return None
    if not is_message(content):
        return content
    message = message_of(content)
    return message.payload if isinstance(message, RoundRequest) else None


@pytest.fixture
def make_federation(tmp_path):
    """A federation of `sites` sites; `training`, `privacy` and `data` change its study, of trust `local`."""

    def make(
        *, sites=3, nonce="0" * 32, directory=None, training=None, privacy=None, data=None, ledgers=None,
    ):  # fmt: skip
        privacy = {"trust": "local", "noise_multiplier": 1.0} | (privacy or {})
        if privacy.get("trust") == "unsafe":
            del privacy["noise_multiplier"]
        study = Study(
            name="example",
            data=Data(
                **{
                    "task": "classification", "label": "ill", "classes": ("no", "yes"), "expected_records": 18,
                    "features": ("x", "y"), "bounds": {"x": (-3.0, 3.0), "y": (-3.0, 3.0)}, "test_fraction": 0.0,
                }
                | (data or {})
            ),
            model=Model(kind="logistic"),
            training=Training(**{"rounds": 3, "learning_rate": 0.1} | (training or {})),
            privacy=Privacy(**privacy),
            sites=Sites(minimum=sites),
        )  # fmt: skip
        declaration = Declaration(
            study=study, sites=sites, noise_multiplier=study.privacy.noise_multiplier, nonce=nonce
        )
        roster = roster_of(*(f"site-{number + 1}" for number in range(sites)))
        return Federation(
            with_roster(declaration, roster), directory or tmp_path / "checkpoint", ledgers=ledgers or {}
        )  # fmt: skip

    return make


@pytest.fixture
def client_app():
    """A ClientApp that answers every sum query with `reply(message)`."""

    def make(reply):
        app = ClientApp()

        @app.query("sum")
        def answer(message, _context):
            return reply(message)

        return app

    return make
