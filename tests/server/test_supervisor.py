"""The supervisor: what is wrong with one study ends no other."""

import pytest

from server.supervisor import Supervisor


@pytest.fixture
def supervisor():
    made = object.__new__(Supervisor)  # without a SuperLink
    made._said = ""
    return made


def full(path):
    raise OSError(28, "No space left on device", path)


def test_a_disk_that_is_full_is_told_of_once_and_ends_nothing(supervisor, capsys):
    for path in ("a", "a", "b"):
        with supervisor._others_go_on("run 7"):
            full(path)
    said = capsys.readouterr().err.splitlines()
    assert [each.partition("Z ")[2] for each in said] == [
        "run 7 is tried again: No space left on device: a",
        "run 7 is tried again: No space left on device: b",
    ]


def test_a_fault_of_ours_is_not_hidden(supervisor):
    with pytest.raises(KeyError), supervisor._others_go_on("run 7"):
        raise KeyError("study")
