"""Ledgers for tests that need a site: in a directory that goes away, and without waiting for the disk."""

import atexit
import itertools
import shutil
import tempfile
from pathlib import Path

from client.ledger import Ledger, create_ledger
from client.registration import register
from privacy.filters import LifetimeCap, default_orders
from privacy.keystream import derive_key
from study.signing import SigningKey

DATA_SET, NAMESPACE = "records", "people"

PEOPLE = [b"%d" % number for number in range(2000)]
"""Identities as tests give them to units."""

_places = itertools.count()
_memory = Path("/dev/shm")  # noqa: S108  a file system that never waits for a disk, where there is one
_root = Path(tempfile.mkdtemp(prefix="discreet-tests-", dir=_memory if _memory.is_dir() else None))
atexit.register(shutil.rmtree, _root, ignore_errors=True)


def key_of(name):
    return SigningKey.from_seed(derive_key(b"keys of tests, nothing secret!!!", name))


def cap_of(epsilon=10.0, delta=1e-5):
    return LifetimeCap(epsilon=epsilon, delta=delta, orders=default_orders(epsilon, delta))


def ledger_of(name="site", *, cap=None, unit=None, identities=PEOPLE, durable=False, path=None):
    """A new ledger with one data set. Without a cap its namespace has no budget, and every study fits in."""
    path = path or _root / str(next(_places)) / "ledger.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    key = key_of(name)
    create_ledger(path, key, name)
    ledger = Ledger(path, key, durable=durable)
    register(
        ledger, data_set=DATA_SET, namespace=NAMESPACE, unit=unit, identities=identities, cap=cap
    )  # fmt: skip
    return ledger
