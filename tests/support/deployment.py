"""A coordinator and its sites as real processes on the loopback, in a directory of the test's.

Everything is made by the commands that people use. Each process is ended by its own process id; nothing outlives the
block, and whoever waits for something waits with a limit.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from machine import free_ports, wait_for
from sklearn.datasets import load_breast_cancer
from typer.testing import CliRunner

from discreet.main import app
from privacy.errors import DiscreetError
from server.directory import CoordinatorDirectory
from server.submission import submit
from server.superlink import Control
from study.declaration import Declaration
from study.invitation import Invitation
from study.roster import SignedRoster

COLUMNS = 4
"""Of the data set, so that a study is small."""

STUDY = """\
format = 1

[study]
name = "deployed"
purpose = "To see a federation at work."

[data]
task = "classification"
label = "diagnosis"
classes = ["malignant", "benign"]
features = {features}
expected_records = 400
test_fraction = 0.0
{bounds}

[model]
kind = "logistic"

[training]
algorithm = "dp-fedsgd"
rounds = {rounds}
spare_rounds = {spare}
learning_rate = 1.0

[privacy]
epsilon = 4.0
delta = 1e-5
trust = "{trust}"
clipping_norm = 1.0
max_colluding = 1
max_dropouts = {dropouts}

[sites]
minimum = {sites}
maximum_records = 20000
"""


def discreet(*arguments, code=0):
    """Run a command to its end, in this process, as most of a command's time is its start; its standard output."""
    found = CliRunner().invoke(app, [str(each) for each in arguments])
    assert found.exit_code == code, f"discreet {arguments}:\n{found.output}\n{found.exception!r}"
    return found.stdout


@dataclass
class Deployment:
    """A federation in `root`; a context manager that ends whatever it has started.

    Attributes:
        waits: of the coordinator, in seconds: how long a trip may take, a silent site is given, an absent one.
    """

    root: Path
    sites: int = 4
    rounds: int = 2
    spare: int = 1
    dropouts: int = 0
    trust: str = "aggregate"
    counts: dict = field(default_factory=dict)  # records of some sites: theirs, again and again
    waits: dict = field(
        default_factory=lambda: {"trip": 60.0, "again": 2.0, "unreachable": 20.0, "ready": 1.0}
    )
    running: dict = field(default_factory=dict)

    @property
    def names(self):
        return [f"hospital-{number}" for number in range(1, self.sites + 1)]

    @property
    def coordinator(self):
        return self.root / "coordinator"

    @property
    def declaration(self):
        return self.root / "declaration.json"

    @property
    def study(self):
        return json.loads(self.declared)["study"]

    def site(self, name):
        return self.root / name

    def __enter__(self):
        self.make()
        return self

    def __exit__(self, *_exception):
        self.stop()

    # Before anything runs

    def make(self):
        """Coordinator, sites, roster and study, everybody prepared and nothing started."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._make_sites()
        ports = free_ports(2 + self.sites)
        discreet(
            "coordinator", "init", self.coordinator, "--host", "127.0.0.1", "--port", ports[0],
            "--superlink-port", ports[1],
        )  # fmt: skip
        self.shorten()
        invitation = self.coordinator / "invitation.json"
        fingerprint = _fingerprint(invitation)
        for name, port in zip(self.names, ports[2:], strict=True):
            discreet(
                "site", "init", self.site(name), "--invitation", invitation, "--fingerprint", fingerprint,
                "--port", port,
            )  # fmt: skip
        discreet(
            "coordinator",
            "add",
            self.coordinator,
            *(f"{each}={self.site(each) / 'node.pub'}" for each in self.names),
        )
        self.declare()

    def _make_sites(self):
        data = load_breast_cancer()
        columns = [str(each) for each in data.feature_names[:COLUMNS]]
        text = STUDY.format(
            features=json.dumps(columns), rounds=self.rounds, spare=self.spare, trust=self.trust,
            dropouts=self.dropouts, sites=self.sites,
            bounds="\n[data.bounds]\n" + "\n".join(
                f"{json.dumps(name)} = [{values.min() - 1:.1f}, {values.max() + 1:.1f}]"
                for name, values in zip(columns, data.data.T, strict=False)
            ),
        )  # fmt: skip
        (self.root / "study.toml").write_text(text)
        for number, name in enumerate(self.names):
            path = self.root / f"{name}.csv"
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow([*columns, "diagnosis"])
                mine = range(number, len(data.data), self.sites)
                for each in itertools.islice(
                    itertools.cycle(mine), self.counts.get(name, len(mine))
                ):
                    writer.writerow(
                        [*data.data[each][:COLUMNS], data.target_names[data.target[each]]]
                    )
            discreet(
                "ledger",
                "register",
                path,
                "--ledger",
                self.site(name),
                "--name",
                "records",
                "--epsilon",
                "20",
            )
        discreet(
            "federation", "init", self.root / "lab", "--name", "lab",
            *(each for name in self.names for each in ("--site", f"{name}={self.site(name) / 'site.pub'}")),
        )  # fmt: skip
        shown = json.loads(
            discreet("federation", "show", self.root / "lab" / "roster.json", "--json")
        )
        for name in self.names:
            discreet(
                "federation", "pin", self.root / "lab" / "roster.json", "--site-dir", self.site(name),
                "--fingerprint", shown["fingerprint"],
            )  # fmt: skip

    def dial(self, name, port):
        """A site that reaches the coordinator by another port."""
        path = self.site(name) / "site.toml"
        text, count = re.subn(
            r'(?m)^coordinator = ".*"$', f'coordinator = "127.0.0.1:{port}"', path.read_text()
        )
        assert count == 1
        path.write_text(text)

    def shorten(self):
        """Waits that suit a test."""
        path = self.coordinator / "coordinator.toml"
        text = path.read_text()
        for name, value in self.waits.items():
            text, count = re.subn(
                rf"(?m)^#? ?{name}_seconds =.*$", f"{name}_seconds = {value}", text
            )
            assert count == 1, name
        path.write_text(text)

    def change_study(self, old, new):
        """Another study, to be declared."""
        path = self.root / "study.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def submit(self):
        """Put the study into the coordinator's directory; nobody has started it."""
        submit(
            CoordinatorDirectory(self.coordinator), Declaration.from_bytes(self.declaration.read_bytes()),
            SignedRoster.from_bytes((self.root / "lab" / "roster.json").read_bytes()),
        )  # fmt: skip

    def declare(self, *names):
        """A run of the study, which these sites approve; every site, where none is named."""
        self.declaration.unlink(missing_ok=True)
        self.declared = discreet(
            "study", "declare", self.root / "study.toml", "--roster", self.root / "lab" / "roster.json",
            "--out", self.declaration, "--json",
        )  # fmt: skip
        self.approve(*(names or self.names))

    def approve(self, *names):
        """These sites take part in what was declared."""
        for name in names:
            discreet(
                "site", "approve", self.site(name), self.declaration, "--data", self.root / f"{name}.csv",
                "--data-set", "records",
            )  # fmt: skip

    # Processes

    def start(self, *names):
        """Start the coordinator ("coordinator") and sites, by name; all, where none is named."""
        for name in names or ["coordinator", *self.names]:
            kind = "coordinator" if name == "coordinator" else "site"
            log = (self.root / f"{name}.log").open("ab")
            with log:
                self.running[name] = subprocess.Popen(
                    [sys.executable, "-m", "discreet", kind, "start", str(self.root / name)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip

    def stop(self, *names):
        """End what was started, by its own process id."""
        ended = [
            self.running.pop(each) for each in names or list(self.running) if each in self.running
        ]
        for each in ended:
            each.terminate()
        for each in ended:
            with suppress(subprocess.TimeoutExpired):
                each.wait(20)
            each.kill()
            each.wait()

    def process(self, owner, name):
        """Process id of one process of the coordinator's or a site's: `name` as in `logs/NAME.log`; None: none runs."""
        modules = {
            "superlink": "flower-superlink", "gateway": "server.gateway", "supervisor": "server.supervisor",
            "study": "server.study_process", "supernode": "client.supernode", "executor": "client.executor",
            "worker": "client.worker",
        }  # fmt: skip
        return next(
            (
                pid for pid in _descendants(self.running[owner].pid)
                if any(modules[name] in each for each in _command(pid))
            ),
            None,
        )  # fmt: skip

    def kill(self, owner, name, number=signal.SIGKILL):
        """Kill one process; its id."""
        pid = wait_for(lambda: self.process(owner, name), f"{name} of {owner}")
        os.kill(pid, number)
        return pid

    def begin(self):
        """Begin the study."""
        discreet(
            "coordinator", "run", self.coordinator, self.declaration, "--roster",
            self.root / "lab" / "roster.json", "--detach",
        )  # fmt: skip

    def run(self, *, limit=120):
        """Run the study to its end; the content of its summary."""
        self.begin()
        outcome = wait_for(self.outcome, "the end of the study", limit=limit)
        assert "summary" in outcome, outcome
        return outcome["summary"]

    def nodes(self):
        """SuperLink's nodes, by public key; none while it does not answer."""
        try:
            with Control(CoordinatorDirectory(self.coordinator)) as control:
                return control.nodes()
        except DiscreetError:
            return {}

    def ready(self):
        """Does the coordinator know all sites, and may they connect?"""
        return len(self.nodes()) == self.sites

    def connected(self, *names):
        """Are these sites connected, or all?"""
        nodes, keys = self.nodes(), CoordinatorDirectory(self.coordinator).sites()
        found = [nodes.get(keys.get(each)) for each in names or self.names]
        return all(each is not None and each.is_online for each in found)

    def start_all(self):
        """Coordinator and sites, up to where a study can be run."""
        self.start("coordinator")
        wait_for(self.ready, "the coordinator")
        self.start(*self.names)
        wait_for(self.connected, "the sites")

    @property
    def place(self):
        return self.coordinator / "studies" / self.study

    @property
    def waiting(self):
        """What the study is waiting for, in words."""
        return CoordinatorDirectory(self.coordinator).study(self.study).waiting

    def outcome(self):
        """What became of the study, once it is over."""
        path = self.place / "outcome.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def progress(self):
        """A line for each query that is over, abandoned ones included."""
        path = self.place / "progress.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(each) for each in lines]

    def rounds_done(self):
        """So many queries are over. One that was begun again counts them anew: never fewer than are in its checkpoint."""
        return max(len(self.progress()), len(list(self.place.glob("checkpoint/*.sum"))))

    def logs(self):
        """All logs, for the message of a test that fails."""
        parts = []
        for path in sorted([*self.root.glob("*.log"), *self.root.glob("*/logs/*.log")]):
            parts.append(
                f"== {path.relative_to(self.root)}\n{path.read_text(errors='replace')[-3000:]}"
            )
        return "\n".join(parts)


def _fingerprint(invitation):
    return Invitation.from_bytes(invitation.read_bytes()).fingerprint


def _descendants(pid):
    """Process ids of all children, theirs included, the nearest first."""
    found, wanted = [], [pid]
    while wanted:
        parent = wanted.pop(0)
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                children = [int(each) for each in (task / "children").read_text().split()]
                found += children
                wanted += children
    return found


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
