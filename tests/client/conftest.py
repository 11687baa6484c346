"""A ledger that is open, for the tests of ledgers."""

from contextlib import closing

import pytest
from ledgers import approved, cap_of, ledger_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "site" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    """A ledger with a budget and a study that may ask a thousand queries."""
    with closing(ledger_of(cap=cap_of(20.0), path=path)) as made:
        made.approve(approved(count=1000, z=40.0), [])
        yield made
