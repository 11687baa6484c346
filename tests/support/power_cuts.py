"""Take the power from under a ledger, at every moment of a short life, and open what is left.

What SQLite does to the files is heard (`disk.py`), a model of the disk says what may be left of them (`platter.py`), and the
ledger is opened from that: it must be the beginning of the true history, and hold whatever had returned.
"""

import random
import shutil
from contextlib import closing

import site_worker
from disk import listening
from ledgers import DATA_SET, NAMESPACE, cap_of, key_of
from platter import Platter
from site_worker import LEDGER, SITE

from client.answers import Site
from client.ledger import Ledger, create_ledger, read_ledger
from client.registration import register
from study.ledger_state import replay

KEY = key_of(SITE)
DECLARATION = site_worker.declaration_of(0)

_CHECKPOINT = 8  # pages, instead of 1000: so that a short life has some


class Recorded(Ledger):
    """A ledger that notes in `events` what it has promised: how many entries there are, and the last answer's bytes."""

    events: list

    def charge(self, *arguments, **more):
        super().charge(*arguments, **more)
        self.promise()

    def store(self, study, index, answer):
        super().store(study, index, answer)
        self.promise((study, index), answer)

    def promise(self, place=None, answer=b""):
        self.events.append(("promised", self.state.entries, place, answer))


def query(index):
    return site_worker.query_of(DECLARATION, index, nonce=bytes(16))


def begin(ledger):
    """Register, and approve the study."""
    register(
        ledger, data_set=DATA_SET, namespace=NAMESPACE, unit=None, identities=site_worker.records().identities,
        cap=cap_of(30.0, 1e-3),
    )  # fmt: skip
    ledger.promise()
    return resume(ledger)


def resume(ledger):
    site = Site(ledger)
    ledger.promise()
    site.approve(DECLARATION, site_worker.records(), data_set=DATA_SET)
    ledger.promise()
    return site


def life(directory, *, synchronous=""):
    """(files at first, everything that was heard and promised, entries at the end) of a ledger and four queries.

    The second is charged and not answered when the ledger is closed; opened again, it is burnt. At last the study is
    closed.
    """
    directory.mkdir()
    path, events = directory / LEDGER, []
    create_ledger(path, KEY, SITE)
    files = {LEDGER: path.read_bytes()}

    def opened():
        ledger = Recorded(path, KEY)
        ledger.events = events
        ledger._database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        if synchronous:
            ledger._database.execute(f"PRAGMA synchronous = {synchronous}")
        return closing(ledger)

    with listening(lambda when, *told: events.append(told) if when == "after" else None):
        with opened() as ledger:
            begin(ledger).answer(query(0))
            ledger.charge(DECLARATION.hash, 1, "gradient", "0" * 64)
        with opened() as ledger:
            site = resume(ledger)
            site.answer(query(2))
            site.answer(query(3))
            ledger.promise()  # from here on no bytes are kept
            site.close_study(DECLARATION.hash)
            ledger.promise()
    entries = read_ledger(path)
    replay(entries, KEY.public)
    return files, events, [each.content for each in entries]


def power_cuts(files, events, *, tries, seed):
    """(what was promised, files that are left) after every event: nothing of what was not synced, all, and parts.

    The same result is given once.
    """
    generator = random.Random(seed)
    platter, promised, seen = Platter(files), (1, None, b""), set()
    for what, *told in events:
        if what == "promised":
            promised = tuple(told)
        else:
            platter.hear(what, *told)
        for share in (0.0, 1.0, *(generator.random() for _ in range(tries))):
            left = platter.left(lambda share=share: generator.random() < share)
            if (result := (promised, *sorted(left.items()))) not in seen:
                seen.add(result)
                yield promised, left


def lay(directory, files):
    """A directory with these files and no others, and the ledger's path in it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in files.items():
        (directory / name).touch(mode=0o600)
        (directory / name).write_bytes(content)
    return directory / LEDGER


def survive(directory, life, *, tries=2, seed=1):
    """Check every power cut of a life; for each, how many entries were left."""
    files, events, truth = life
    counts = []
    for (least, place, answer), left in power_cuts(files, events, tries=tries, seed=seed):
        with closing(Ledger(lay(directory, left), KEY, durable=False)) as ledger:
            found = [each.content for each in read_ledger(directory / LEDGER)]
            assert found == truth[: len(found)], "another history"
            assert len(found) >= least, "an entry that had returned is lost"
            if place is not None:
                assert ledger.stored(*place) == answer, "an answer that had returned is lost"
        counts.append(len(found))
    return counts
