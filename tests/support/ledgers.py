"""Ledgers for tests that need a site: in a directory that goes away, and without waiting for the disk."""

import atexit
import functools
import hashlib
import itertools
import shutil
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from client.ledger import Ledger, create_ledger, read_ledger
from client.registration import register
from privacy.filters import LifetimeCap, default_orders
from privacy.keystream import derive_key
from privacy.private_sum import design_sum
from privacy.signing import SigningKey
from study.ledger_entries import (
    Approved,
    Charged,
    DataSet,
    DeclaredSum,
    Namespace,
    Opened,
    SignedEntry,
    SumTerms,
)
from study.ledger_state import LedgerState

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


def hash_named(name):
    """64 hexadecimal digits that stand for a study, a query, an answer."""
    return hashlib.sha256(name.encode()).hexdigest()


KEY, STUDY, FUNCTION = key_of("site"), hash_named("study"), "gradient"
"""Of `ledger_of()` and `approved()` as they are."""


def query(index):
    """The hash of a study's query of that number."""
    return hash_named(f"query {index}")


def ask(ledger, *indices, answer=b"answer"):
    """Charge queries of STUDY, and answer them."""
    for index in indices:
        ledger.charge(STUDY, index, FUNCTION, query(index))
        ledger.store(STUDY, index, answer)


def again(path, key=KEY, **settings):
    """The ledger of that file, opened as after a restart; to be used with `with`."""
    return closing(Ledger(path, key, **({"durable": False} | settings)))


def contents(path):
    """The bytes of every entry."""
    return [each.content for each in read_ledger(path)]


@functools.cache
def _sound_terms(z, shares):
    mechanism = design_sum(
        dimension=300, clipping_norm=1.0, noise_multiplier=z, shares=shares, sites=3, beta=1e-12, slack=0.0,
        largest_sum=50.0,
    )  # fmt: skip
    return SumTerms(
        adjacency="add-or-remove-one", unit="record", part="train", dimension=300, clipping_norm=1.0, sites_per_unit=1,
        sampling_rate=1.0, sites=3, colluding=1, survivors=3, threshold=3, quorum=3, shares=shares,
        noise_multiplier=z, base=mechanism.deviation.base, stretch=mechanism.deviation.stretch, scale=mechanism.scale,
        beta=mechanism.beta, slack=mechanism.slack, unlikely=1e-28, bits=mechanism.bits,
    )  # fmt: skip


def terms_of(z=4.0, *, made_of=1, **changed):
    """Terms of a sum of 300 numbers over 3 sites whose `made_of` shares of noise yield what they charge; then `changed`."""
    return replace(_sound_terms(z, made_of), **changed)


def approved(name="study", *, count=3, z=4.0, data_set=DATA_SET, sums=None):
    """A study that may ask `count` gradients of noise multiplier z."""
    sums = sums or (DeclaredSum(function="gradient", count=count, terms=terms_of(z)),)
    return Approved(
        study=hash_named(name), name=name, data_set=data_set, trust="local", roster=None, sums=sums
    )


def charged(index=0, *, study="study", function=FUNCTION, terms=None, query="query"):
    """The charge of a query of a study, by names that stand for their hashes."""
    return Charged(
        salt="5a" * 16, study=hash_named(study), index=index, function=function, query=hash_named(f"{query} {index}"),
        terms=terms or terms_of(),
    )  # fmt: skip


def approved_masked(
    name="study", *, trust="aggregate", count=3, z=4.0, data_set=DATA_SET, sums=None
):
    """A study of 3 sites of which one colludes, its sums masked: two shares of noise are in each with `aggregate`."""
    shares = 2 if trust == "aggregate" else 1
    sums = sums or (
        DeclaredSum(function="gradient", count=count, terms=terms_of(z, made_of=shares)),
    )
    plain = approved(name, data_set=data_set, sums=sums)
    return replace(plain, trust=trust, roster=hash_named("roster"))


def opening(name="site", *, cap=None, key=None):
    """The bodies that a ledger starts with: a site, a namespace, a data set."""
    key = key or key_of(name)
    return (
        Opened(site=name, key=key.public.hex()),
        Namespace(namespace=NAMESPACE, cap=cap),
        DataSet(data_set=DATA_SET, namespace=NAMESPACE, unit=None),
    )


def chained(bodies, *, key=None, time=1_000):
    """Entries that say these things in turn, signed; nothing is checked but the chain itself."""
    key, state, entries = key or key_of("site"), LedgerState(), []
    for body in bodies:
        entry = state.next_entry(body, time=time)
        entries.append(SignedEntry.sign(entry, key))
        state.entries, state.head = state.entries + 1, entry.hash
    return entries
