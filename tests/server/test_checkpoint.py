"""A checkpoint is whole or not there, belongs to one run, and a resumed run is the run that was interrupted."""

import dataclasses
import errno

import numpy as np
import pytest

from privacy.errors import DiscreetError, ProtocolError, UserError
from server.checkpoint import Checkpoint, KeptSum
from study import files
from study.codec import decode, encode
from study.files import write_whole
from study.queries import SumQuery

KEPT = KeptSum(
    index=0, function="gradient", round=1, query_hash="ab" * 32, survivors=("site-1", "site-3"),
    missing=("site-2",), total=np.array([1, -2, 2**40, 0]), seconds=1.5,
)  # fmt: skip


class InterruptedRunError(Exception):
    """Something from outside that ends a run."""


def same(first, second):
    assert dataclasses.replace(first, total=None) == dataclasses.replace(second, total=None)
    assert (first.total is None) == (second.total is None)
    if first.total is not None:
        assert first.total.dtype == second.total.dtype
        assert first.total.tobytes() == second.total.tobytes()


def without_what_ledgers_tell(kept):
    """A ledger says when a query was charged, and receipts of that are part of the next query; keys are new."""
    return dataclasses.replace(
        kept, seconds=0, query_hash="", transcript="", receipts={}, members=()
    )


def after(rounds):
    """An `on_round` that interrupts the run after so many queries."""
    seen = []

    def on_round(line):
        seen.append(line)
        if len(seen) == rounds:
            raise InterruptedRunError

    return on_round


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("total", [KEPT.total, np.array([0.5, -0.0]), None])
def test_what_is_kept_is_read(make_federation, tmp_path, durable, total):
    declaration = make_federation().declaration
    first = Checkpoint(tmp_path / "run", declaration, durable=durable)
    sums = [dataclasses.replace(KEPT, index=index, total=total) for index in range(3)]
    for each in sums:
        first.keep(each)
    found = list(Checkpoint(tmp_path / "run", declaration).kept())
    assert len(found) == 3
    for left, right in zip(sums, found, strict=True):
        same(left, right)


def test_a_new_checkpoint_holds_the_declaration_and_no_sums(make_federation, tmp_path):
    declaration = make_federation().declaration
    kept = Checkpoint(tmp_path / "a" / "run", declaration)
    assert list(kept.kept()) == []
    assert (tmp_path / "a" / "run" / "declaration.json").read_bytes() == declaration.content


@pytest.mark.parametrize("change", ["nonce", "training", "sites"])
def test_the_directory_of_another_run_is_refused_and_left_as_it_is(
    make_federation, tmp_path, change
):
    Checkpoint(tmp_path, make_federation().declaration).keep(KEPT)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    other = make_federation(
        **{"nonce": {"nonce": "1" * 32}, "training": {"training": {"rounds": 4}}, "sites": {"sites": 4}}[change]
    )  # fmt: skip
    with pytest.raises(UserError, match="holds another run") as error:
        Checkpoint(tmp_path, other.declaration)
    assert "same study, sites and seed" in error.value.hint
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """The power fails just before the new file takes the old one's place."""
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fail(*_arguments):
        raise OSError("no power")

    monkeypatch.setattr(files.Path, "replace", fail)
    with pytest.raises(OSError, match="no power"):
        write_whole(path, b"new, and longer")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_called_as_an_unfinished_one_is_not_touched(tmp_path):
    (tmp_path / "file.new").write_bytes(b"mine")
    write_whole(tmp_path / "file", b"content")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {
        "file": b"content", "file.new": b"mine",
    }  # fmt: skip


def test_a_full_disk_names_the_file_that_was_asked_for_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(_file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as error:
        write_whole(tmp_path / "file", b"content")
    assert error.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_no_directory_is_refused_by_its_name(tmp_path):
    with pytest.raises(
        UserError, match=r"none/file cannot be written: there is no directory"
    ) as error:
        write_whole(tmp_path / "none" / "file", b"content")
    assert error.value.hint == "make the directory first"


def test_a_durable_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    order = []
    fsync, replace = files.os.fsync, files.Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda file: (order.append("sync"), fsync(file)))
    monkeypatch.setattr(
        files.Path, "replace", lambda *paths: (order.append("replace"), replace(*paths))
    )
    write_whole(tmp_path / "file", b"content")
    assert order == ["sync", "replace", "sync"]  # the file, its name, the directory
    order.clear()
    write_whole(tmp_path / "file", b"content", durable=False)
    assert order == ["replace"]


def test_a_sum_that_was_being_written_is_asked_again(make_federation):
    federation = make_federation()
    with pytest.raises(InterruptedRunError):
        federation.run(on_round=after(2))
    (federation.directory / "000002.sum.0123abcd.new").write_bytes(b"half of")
    assert len(list(Checkpoint(federation.directory, federation.declaration).kept())) == 2
    assert len(federation.run().sums) == 3


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("settings", [
    {"training": {"rounds": 4}},
    {"training": {"rounds": 3}, "data": {"scaling": "standard"}},
    {"training": {"rounds": 4, "optimizer": "momentum", "schedule": "cosine"}, "privacy": {"trust": "server"}},
    {"training": {"rounds": 4}, "privacy": {"trust": "aggregate"}},
    {"training": {"rounds": 4}, "privacy": {"trust": "unsafe"}},
])  # fmt: skip
def test_a_resumed_run_asks_only_what_is_left_and_ends_with_the_same_model(
    make_federation, tmp_path, stop, settings
):
    whole = make_federation(directory=tmp_path / "whole", **settings)
    expected = whole.run()
    interrupted = make_federation(directory=tmp_path / "interrupted", **settings)
    with pytest.raises(InterruptedRunError):
        interrupted.run(on_round=after(stop))
    assert set(interrupted.counts().values()) == {stop}
    resumed = make_federation(
        directory=tmp_path / "interrupted", ledgers=interrupted.ledgers, **settings
    )
    outcome = resumed.run()
    assert set(resumed.counts().values()) == {4 - stop}
    asked, expected_of_them = (
        [dataclasses.replace(SumQuery.from_bytes(each), receipts={}).to_bytes() for each in federation.asked["site-1"]]
        for federation in (resumed, whole)
    )  # fmt: skip
    assert asked == expected_of_them[stop:]
    assert list(outcome.parameters) == list(expected.parameters)
    for name, value in expected.parameters.items():
        assert outcome.parameters[name].tobytes() == value.tobytes()
    for left, right in zip(outcome.sums, expected.sums, strict=True):
        same(without_what_ledgers_tell(left), without_what_ledgers_tell(right))
    assert [line["loss"] for line in outcome.history] == [line["loss"] for line in expected.history]


def test_a_finished_run_can_be_replayed_without_any_site(make_federation, tmp_path):
    federation = make_federation()
    expected = federation.run()
    again = make_federation()
    outcome = again.run()
    assert set(again.counts().values()) == {0}
    for name, value in expected.parameters.items():
        assert outcome.parameters[name].tobytes() == value.tobytes()


def test_a_run_resumed_after_an_abandoned_query_has_used_its_spare(make_federation):
    settings = {"training": {"spare_rounds": 1}}
    federation = make_federation(**settings)
    first = federation.grid(drops=lambda message: message.metadata.group_id == "0")
    with pytest.raises(InterruptedRunError):
        federation.run(first, on_round=after(2))
    resumed = make_federation(ledgers=federation.ledgers, **settings)
    outcome = resumed.run()
    assert [kept.total is None for kept in outcome.sums] == [True, False, False, False]
    assert [kept.round for kept in outcome.sums] == [1, 1, 2, 3]
    assert set(resumed.counts().values()) == {2}


def content_of_first(federation):
    federation.run()
    path = federation.directory / "000000.sum"
    return path, path.read_bytes()


@pytest.mark.parametrize("part", [0, 3, 10, 0.5, 0.99, -1])
def test_a_truncated_sum_is_an_error(make_federation, part):
    federation = make_federation()
    path, content = content_of_first(federation)
    path.write_bytes(content[: int(part * len(content)) if isinstance(part, float) else part])
    with pytest.raises(ProtocolError, match="Expected"):
        federation.run()


@pytest.mark.parametrize("garbage", [b"\0" * 200, b"garbage" * 50, b"\xff" * 100])
def test_a_garbled_sum_is_an_error(make_federation, garbage):
    federation = make_federation()
    path, content = content_of_first(federation)
    path.write_bytes(garbage)
    with pytest.raises(ProtocolError, match="Expected"):
        federation.run()
    path.write_bytes(content + garbage)
    with pytest.raises(ProtocolError, match="Expected"):
        federation.run()


CHANGES = {
    "another index": lambda head: head | {"index": 1},
    "no index": lambda head: {key: head[key] for key in head if key != "index"},
    "no survivors": lambda head: {key: head[key] for key in head if key != "survivors"},
    "survivors that are none": lambda head: head | {"survivors": None},
    "seconds in words": lambda head: head | {"seconds": "ten"},
    "abandoned, and a sum": lambda head: head | {"abandoned": True},
    "not said whether abandoned": lambda head: {key: head[key] for key in head if key != "abandoned"},
    "another function": lambda head: head | {"function": "moments"},
    "another round": lambda head: head | {"round": 9},
    "nothing": lambda _head: {},
    "an index that is a truth value": lambda head: head | {"index": False},
    "seconds that are a truth value": lambda head: head | {"seconds": True},
    "abandoned that is a number": lambda head: head | {"abandoned": 0},
    "survivors that are numbers": lambda head: head | {"survivors": [1, 2]},
    "a function that is none": lambda head: head | {"function": None},
    "a hash that is a list": lambda head: head | {"query_hash": []},
    "refusals without words": lambda head: head | {"refusals": {"site-1": 5}},
    "a key more": lambda head: head | {"extra": 1},
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_sum_whose_description_is_wrong_is_an_error(make_federation, change):
    federation = make_federation()
    path, content = content_of_first(federation)
    head, arrays = decode(content)
    path.write_bytes(encode(CHANGES[change](head), arrays))
    with pytest.raises(ProtocolError, match="Expected"):
        federation.run()


@pytest.mark.parametrize("changed", [True, 0, "1"])
def test_what_a_sum_says_has_the_types_that_it_is_written_with(tmp_path, make_federation, changed):
    """Equal is not enough: True is 1, and a run that went on with it would write another file."""
    kept = Checkpoint(tmp_path, make_federation().declaration)
    kept.keep(dataclasses.replace(KEPT, seconds=1.0))
    head, arrays = decode((tmp_path / "000000.sum").read_bytes())
    (tmp_path / "000000.sum").write_bytes(encode(head | {"seconds": changed}, arrays))
    if changed == 0:
        assert [each.seconds for each in kept.kept()] == [0]
    else:
        with pytest.raises(ProtocolError, match="Expected sum 0 of this run"):
            list(kept.kept())


TOTALS = {
    "too short": np.zeros(3, dtype=np.int64),
    "too long": np.zeros(5, dtype=np.int64),
    "two axes": np.zeros((4, 1), dtype=np.int64),
    "floats": np.full(4, np.nan),
}


@pytest.mark.parametrize("kind", TOTALS)
def test_a_sum_of_another_shape_or_type_is_an_error(make_federation, kind):
    federation = make_federation()
    path, content = content_of_first(federation)
    head, _ = decode(content)
    path.write_bytes(encode(head, {"total": TOTALS[kind]}))
    with pytest.raises(DiscreetError, match="Expected"):
        federation.run()


def test_an_array_beside_the_sum_is_an_error(make_federation):
    federation = make_federation()
    path, content = content_of_first(federation)
    head, arrays = decode(content)
    path.write_bytes(encode(head, arrays | {"extra": np.zeros(1)}))
    with pytest.raises(ProtocolError, match="Expected"):
        federation.run()


def test_a_sum_of_another_name_is_an_error(make_federation):
    federation = make_federation()
    path, content = content_of_first(federation)
    head, arrays = decode(content)
    path.write_bytes(encode(head, {"sum": arrays["total"]}))
    with pytest.raises(ProtocolError, match="Expected"):
        federation.run()
