"""The order of the tests: files that take minutes come first, so that no core waits for one at the end."""

import pytest

LONG = ("tests/mutations/", "tests/deployment/")


@pytest.hookimpl(trylast=True)  # after pytest-randomly has shuffled them
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
