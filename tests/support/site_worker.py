"""A site in a process of its own, without Flower, to be killed: queries come in and answers go out over a socket.

Everything but this file is what a real site runs: a durable ledger, a `Site`, keys from the operating system. Two sockets
lead out of it. The *wire* is the site's network: frames of four bytes of length and a content that begins with its kind.
The *side* is for the driver alone (`kills.py`): before it goes on, the worker says where it is, a line of JSON, and
waits for one byte.

| it says | when |
|---|---|
| opened, ready | the ledger is there; what was pending is burnt, and the studies are approved |
| before | a query is about to be charged |
| charged | its charge has returned: it is on the disk |
| drawing | a key is about to be drawn for it, which is the first step of computing |
| computed, stored | its bytes are about to be stored; they are on the disk |
| sending, half, sent | its bytes are about to leave; half of them have; all have |
| refused | a refusal has left |

Run as a program it imports everything once, then forks a worker for every request on its standard input, a socket: a
restart takes milliseconds, and what is killed is a process like any other.
"""

import json
import os
import signal
import socket
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

import disk
import numpy as np
import planted_bugs
from ledgers import DATA_SET, NAMESPACE, cap_of, key_of

from client.answers import RefusedError, Site, system_entropy
from client.ledger import Ledger, create_ledger
from client.registration import register
from client.tables import Records
from privacy.errors import DiscreetError
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.declaration import Declaration
from study.queries import SumQuery

SITE, LEDGER = "site", "ledger.sqlite"
ROUNDS = 8
QUERY, APPROVE, CLOSE, LEAVE = b"q", b"a", b"c", b"l"
ANSWER, REFUSAL, DONE = b"A", b"R", b"D"

_LENGTH = 4
_UNITS = 12


def declaration_of(number):
    """A small study; another number is another nonce, so another study."""
    study = Study(
        name="example",
        data=Data(
            task="classification", label="ill", classes=("no", "yes"), expected_records=40, test_fraction=0.0,
            features=("age", "height", "weight"), bounds={"default": (0.0, 10.0)},
        ),
        model=Model(kind="logistic"),
        training=Training(rounds=ROUNDS - 2, spare_rounds=2),
        privacy=Privacy(trust="local", noise_multiplier=20.0),
        sites=Sites(minimum=3),
    )  # fmt: skip
    return Declaration(study=study, sites=3, noise_multiplier=20.0, nonce=f"{number:032x}")


def query_of(declaration, index, *, nonce):
    """The query's bytes; another nonce is another content of the same number."""
    parameters = {"weight": np.zeros(3), "bias": np.array(0.0)}
    return SumQuery(
        study=declaration.hash, index=index, function="gradient", parameters=parameters, nonce=nonce
    ).to_bytes()  # fmt: skip


def records():
    generator = np.random.default_rng(1)
    return Records(
        generator.uniform(0, 10, (_UNITS, 3)), generator.integers(0, 2, _UNITS), np.arange(_UNITS),
        [b"%d" % each for each in range(_UNITS)], np.ones(_UNITS, dtype=np.bool_), "records",
    )  # fmt: skip


def framed(content):
    """A content as it is on the wire."""
    return len(content).to_bytes(_LENGTH, "big") + content


def unframed(stream):
    """(content, rest) of the first frame of a stream; None while it is not whole."""
    end = _LENGTH + int.from_bytes(stream[:_LENGTH], "big")
    return None if len(stream) < max(end, _LENGTH) else (stream[_LENGTH:end], stream[end:])


class Console:
    """The side channel; and the points at which this very process is to kill itself, if any.

    Arguments:
        kinds: what counts as a point: what SQLite does ("sync", "write", ...), "fsync", "link" and "send".
        crash: number of the point and "before" or "after" it; "fail": the sync fails instead.
    """

    def __init__(self, side, kinds, crash):
        self._side, self._kinds, self._crash = side, set(kinds), crash
        self._points = 0

    def tell(self, at, study="", index=-1, **more):
        line = {"at": at, "study": study, "index": index, "points": self._points} | more
        self._side.sendall(json.dumps(line).encode() + b"\n")
        if not self._side.recv(1):
            os._exit(0)  # the driver is gone

    def hear(self, when, what, *_details):
        """A point is about to be passed, or has been."""
        if what not in self._kinds:
            return None
        self._points += when == "before"
        number, wanted = self._crash or (0, "")
        if number == self._points and when == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        failing = number == self._points and wanted == "fail" and (when, what) == ("before", "sync")
        return disk.FAILED_SYNC if failing else None

    def around(self, what, function):
        """`function`, with a point of this kind."""

        def heard(*arguments):
            self.hear("before", what)
            found = function(*arguments)
            self.hear("after", what)
            return found

        return heard

    def entropy(self, *labels):
        """What every real site uses, announced."""
        purpose, study, index = labels
        self.tell("drawing", study, index, purpose=purpose)
        return system_entropy(*labels)


class WatchedLedger(Ledger):
    """A ledger that says when it is used."""

    console: Console

    def charge(self, study, index, function, query, **more):
        self.console.tell("before", study, index)
        super().charge(study, index, function, query, **more)
        self.console.tell("charged", study, index)

    def store(self, study, index, answer):
        self.console.tell("computed", study, index)
        super().store(study, index, answer)
        self.console.tell("stored", study, index)


def opened(directory, console):
    """The ledger, made and its data set registered if they are not there: a crash may have come in between."""
    path, key = directory / LEDGER, key_of(SITE)
    if not path.exists():
        create_ledger(path, key, SITE)
    ledger = WatchedLedger(path, key)
    ledger.console = console
    if DATA_SET not in ledger.state.data_sets:
        register(
            ledger, data_set=DATA_SET, namespace=NAMESPACE, unit=None, identities=records().identities,
            cap=cap_of(30.0, 1e-3),
        )  # fmt: skip
    console.tell("opened")
    return ledger


def send(wire, console, content, study, index):
    """An answer leaves, in two halves."""
    frame = framed(ANSWER + content)
    console.tell("sending", study, index)
    console.hear("before", "send")
    wire.sendall(frame[: len(frame) // 2])
    console.tell("half", study, index)
    wire.sendall(frame[len(frame) // 2 :])
    console.hear("after", "send")
    console.tell("sent", study, index)


def answer(wire, console, site, content):
    """One query, as the network's side of a site would treat it."""
    query = SumQuery.from_bytes(content)
    place = query.study, query.index
    try:
        found = site.answer(content)
    except RefusedError as refused:
        wire.sendall(framed(REFUSAL + refused.refusal.name.encode()))
        console.tell("refused", *place)
        return
    send(wire, console, found, *place)


def serve(wire, console, site, ledger):
    stream = b""
    while piece := wire.recv(1 << 16):
        stream += piece
        while whole := unframed(stream):
            (kind, content), stream = (whole[0][:1], whole[0][1:]), whole[1]
            if kind == LEAVE:
                ledger.close()
                console.tell("left")
                return
            if kind == QUERY:
                answer(wire, console, site, content)
                continue
            declaration = declaration_of(int(content))
            if kind == APPROVE:
                site.approve(declaration, records(), data_set=DATA_SET)
            else:
                site.close_study(declaration.hash)
            wire.sendall(framed(DONE))
            console.tell("done")


def work(settings, wire, side):
    console = Console(side, settings["kinds"], settings["crash"])
    if settings["bug"]:
        planted_bugs.PLANTED[settings["bug"]](sys.modules[__name__])
    os.fsync, os.link = console.around("fsync", os.fsync), console.around("link", os.link)
    with disk.listening(console.hear) if settings["kinds"] else nullcontext():
        run(settings, wire, console)


def run(settings, wire, console):
    ledger = opened(Path(settings["directory"]), console)
    if settings["checkpoint"]:  # sooner than after 1000 pages, so that a short run has some
        ledger._database.execute(f"PRAGMA wal_autocheckpoint = {settings['checkpoint']}")
    site = Site(ledger, entropy=console.entropy)
    for declaration in map(declaration_of, settings["studies"]):
        account = ledger.state.studies.get(declaration.hash)
        if account is None or not account.closed:
            site.approve(declaration, records(), data_set=DATA_SET)
    console.tell("ready", without_flower="flwr" not in sys.modules)
    serve(wire, console, site, ledger)


def main():
    control = socket.socket(fileno=0)
    while True:
        content, handles, _flags, _address = socket.recv_fds(control, 1 << 16, 2)
        if not content:
            return
        _reap()
        wire, side = (socket.socket(fileno=each) for each in handles)
        process = os.fork()
        if not process:
            _child(control, json.loads(content), wire, side)
        wire.close()
        side.close()
        control.sendall(str(process).encode())


def _child(control, settings, wire, side):
    control.close()
    try:
        work(settings, wire, side)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the driver is gone
    except DiscreetError as error:
        print(f"a worker ends: {error.message}", file=sys.stderr)  # noqa: T201
    except Exception:  # noqa: BLE001  a child of a fork must not go on where its parent would
        traceback.print_exc()
    finally:
        os._exit(0)


def _reap():
    """Workers that have died keep their number until then, so that no other process can be killed in their place."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
