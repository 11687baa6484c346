"""One SuperLink, one gateway and two sites for all tests of a module."""

import pytest
from fleet import Coordinator, Fleet
from flwr.supercore.task_identity import TaskIdentity


@pytest.fixture(scope="module", autouse=True)
def identity():
    """We are whoever we were before afterwards."""
    names = ("_run_id", "_node_id", "_task_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    yield
    for name, value in before.items():
        setattr(TaskIdentity, name, value)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with Fleet(tmp_path_factory.mktemp("fleet"), hold_seconds=0.5, poll_seconds=0.05) as started:
        yield started


@pytest.fixture(scope="module")
def coordinator(fleet):
    made = Coordinator(fleet.directory)
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(fleet):
    return fleet.site("site-1")


@pytest.fixture(scope="module")
def neighbour(fleet):
    return fleet.site("site-2")
