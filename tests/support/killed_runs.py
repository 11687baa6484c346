"""Kill `discreet simulate`, a process as a user starts it, and see what `--resume` makes of what is left."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from audit.verify import verify_export
from client.ledger import read_ledger
from privacy.errors import RoundAbandonedError
from simulations.run import Options, simulate
from study.freezing import to_toml
from study.keyfiles import read_public_key
from study.templates import template_study

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 120.0

KILLED = """
import os, signal, sys
from importlib import import_module
module, owner, name = sys.argv.pop(1).rsplit(".", 2)
owner = getattr(import_module(module), owner)
count, method = [int(sys.argv.pop(1))], getattr(owner, name)
def killed(self, *arguments):
    count[0] -= 1
    if not count[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return method(self, *arguments)
setattr(owner, name, killed)
from discreet.__main__ import main
main()
"""
"""The command, but for a method that kills the process when it is called for the n-th time."""

COMPUTING = "study.contributions.Contributor.clipped_sum"
"""A site has charged a query, and not answered it."""

UNMASKING = "client.masked.MaskedSums.unmask"
"""All sites have answered, and it is of no use without what would take their masks off."""


def study_of(*, rounds=12, spare_rounds=0, trust="aggregate"):
    study = template_study("breast-cancer")
    return replace(
        study,
        training=replace(study.training, rounds=rounds, spare_rounds=spare_rounds),
        privacy=replace(study.privacy, trust=trust, epsilon=None, noise_multiplier=5.0),
        sites=replace(study.sites, minimum=3),
    )


def started(study, out, *, resume=False, killed=()):
    """The command, at work; `killed`: where, and at which time, it kills itself."""
    file = out.with_name("study.toml")
    file.write_text(to_toml(study), encoding="utf-8")
    program = ["-c", KILLED, *map(str, killed)] if killed else ["-m", "discreet"]
    more = ["--resume"] if resume else []
    return subprocess.Popen(
        [sys.executable, *program, "simulate", str(file), "--out", str(out), *more],
        cwd=out.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def kill_after(process, out, sums, *, linger=0.0):
    """Kill it when it has kept so many sums, and a little later. Was it still alive?"""
    kept = out.with_name(out.name + ".partial") / "checkpoint"
    deadline = time.monotonic() + HANG_SECONDS
    while process.poll() is None and len(list(kept.glob("*.sum"))) < sums:
        assert time.monotonic() < deadline, "the run hangs"
        time.sleep(0.001)
    time.sleep(linger)
    process.kill()
    return process.wait(HANG_SECONDS) == -signal.SIGKILL


def ledgers_of(directory):
    """What the ledger of every site below there adds up to, verified with the key beside it."""
    return {
        path.parent.name: verify_export(
            [each.to_line() for each in read_ledger(path)], read_public_key(path.with_name("site.pub"))
        ).state
        for path in sorted(directory.glob("sites/*/ledger.sqlite"))
    }  # fmt: skip


def resumed(study, out):
    """Go on, and check the ledgers of what is left: None if the run has ended, else the error."""
    try:
        simulate(study, Options(out=out, resume=True))
    except RoundAbandonedError as error:
        ledgers_of(out.with_name(out.name + ".partial"))
        return error
    check_release(out)
    return None


def check_release(out):
    """Every answer in the release was charged, and stored before it left, by the ledger of its site."""
    manifest, states = json.loads((out / "manifest.json").read_text()), ledgers_of(out)
    assert len(states) == 3
    for query in manifest["queries"]:
        for name in query["survivors"]:
            asked = states[name].account(manifest["study_hash"]).asked[query["index"]]
            assert asked.status == "answered"
            assert asked.charge.query == query["transcript"]
