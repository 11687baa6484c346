"""What a node was given bounds what it may do; and the memory of it survives, and has bounds."""

import dataclasses
import sqlite3
from contextlib import closing
from hashlib import sha256

import pytest

from server.gateway.checks import Announcement
from server.gateway.deliveries import Deliveries, Delivery
from server.gateway.refusals import Refused

A, B = b"key of a", b"key of b"
NOW = 1.8e9


def digest(number):
    return sha256(b"%d" % number).hexdigest()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gateway.db"


@pytest.fixture
def deliveries(path):
    memory = Deliveries(path)
    yield memory
    memory.close()


def delivery(number=1, **changes):
    given = Delivery(message=digest(number), key=A, node=2**63 + 5, run=2**64 - 7, until=NOW + 60)
    return dataclasses.replace(given, **changes)


def reply(number=1, **changes):
    objects = {digest(10 * number): frozenset({digest(11)}), digest(11): frozenset()}
    announced = Announcement(
        node=2**63 + 5, run=2**64 - 7, reply_to=digest(number), objects=objects,
        digest=b"body", expires=NOW + 60,
    )  # fmt: skip
    return dataclasses.replace(announced, **changes)


def give(deliveries, number=1, **changes):
    given = delivery(number, **changes)
    deliveries.deliver(given, {given.message: None, digest(100 + number): None}, b"answer")
    return given


def refused(reason="not-yours"):
    return pytest.raises(Refused, match=f"^{reason}$")


def test_a_signature_counts_once(deliveries):
    deliveries.use(A, "now", NOW + 305, NOW)
    deliveries.use(B, "now", NOW + 305, NOW)
    deliveries.use(A, "then", NOW + 305, NOW)
    with refused("used-signature") as caught:
        deliveries.use(A, "now", NOW + 305, NOW)
    assert caught.value.status == 503, "an honest node would sign anew"


def test_signatures_are_remembered_until_they_run_out_and_have_a_bound(deliveries, monkeypatch):
    monkeypatch.setattr("server.gateway.deliveries._SIGNATURES", 3)
    for stamp in "123":
        deliveries.use(A, stamp, NOW + 305, NOW)
    with refused("many-calls"):
        deliveries.use(A, "4", NOW + 305, NOW)
    deliveries.use(B, "4", NOW + 305, NOW)
    deliveries.forget(NOW + 300)
    with refused("many-calls"):
        deliveries.use(A, "4", NOW + 305, NOW)
    deliveries.use(
        A, "4", NOW + 700, NOW + 306
    )  # those that have run out do not count, forgotten or not
    deliveries.forget(NOW + 306)
    deliveries.use(A, "5", NOW + 700, NOW + 306)
    deliveries.use(A, "6", NOW + 700, NOW + 306)


def test_what_was_forgotten_counts_no_more_when_the_clock_is_set_back(deliveries):
    deliveries.use(A, "now", NOW + 305, NOW)
    deliveries.forget(NOW + 10_000)
    deliveries.forget(NOW + 10_000)
    with refused("used-signature"):
        deliveries.use(A, "now", NOW + 305, NOW)
    deliveries.use(A, "later", NOW + 306, NOW)


def test_a_node_is_known_by_what_superlink_said_last(deliveries):
    deliveries.check_node(A, 5)
    deliveries.learn(A, 5)
    deliveries.check_node(A, 5)
    with refused("other-node"):
        deliveries.check_node(A, 6)
    deliveries.learn(A, 2**64 - 1)
    deliveries.check_node(A, 2**64 - 1)


def test_only_the_node_that_was_given_a_message_may_ask_for_what_is_in_it(deliveries):
    given = give(deliveries)
    for name in (given.message, digest(101)):
        deliveries.check_given(A, given.run, name, NOW)
        with refused():
            deliveries.check_given(B, given.run, name, NOW)
        with refused():
            deliveries.check_given(A, given.run - 1, name, NOW)
        with refused():
            deliveries.check_given(A, given.run, name, NOW + 61)
    with refused():
        deliveries.check_given(A, given.run, digest(7), NOW)
    deliveries.check_run(A, given.run, NOW)
    for key, run, now in ((B, given.run, NOW), (A, 1, NOW), (A, given.run, NOW + 61)):
        with refused():
            deliveries.check_run(key, run, now)


def test_a_message_is_confirmed_by_its_node_and_its_objects_are_gone_then(deliveries):
    given = give(deliveries)
    for key, run, name in (
        (B, given.run, given.message), (A, 1, given.message), (A, given.run, digest(101)),
    ):  # fmt: skip
        with refused():
            deliveries.check_message(key, run, name, NOW)
    deliveries.check_message(A, given.run, given.message, NOW)
    deliveries.confirm(given.message)
    deliveries.check_message(A, given.run, given.message, NOW)
    with refused():
        deliveries.check_given(A, given.run, given.message, NOW)


def test_a_message_is_given_again_until_it_is_confirmed_answered_or_old(deliveries):
    assert deliveries.again(A, NOW) is None
    for end in ("confirmed", "answered", "old", "four times"):
        deliveries.forget(NOW + 1000)
        given = give(deliveries)
        for _ in range(3):
            assert deliveries.again(A, NOW) == (given.message, b"answer")
            assert deliveries.again(B, NOW) is None
            deliveries.give(given.message)
        now = NOW
        if end == "confirmed":
            deliveries.confirm(given.message)
        elif end == "answered":
            deliveries.announce(A, reply(), NOW)
        elif end == "old":
            now = NOW + 61
        else:
            deliveries.give(given.message)
        assert deliveries.again(A, now) is None, end


def test_a_reply_is_to_a_message_of_the_node_the_run_and_the_time(deliveries):
    give(deliveries)
    for key, changes, now in (
        (B, {}, NOW), (A, {}, NOW + 61), (A, {"reply_to": digest(2)}, NOW), (A, {"node": 5}, NOW),
        (A, {"run": 5}, NOW), (A, {"expires": NOW + 62}, NOW),
    ):  # fmt: skip
        with refused():
            deliveries.announce(key, reply(**changes), now)
    deliveries.announce(A, reply(), NOW)


def test_a_message_has_one_reply_which_may_be_repeated_word_for_word(deliveries):
    give(deliveries)
    deliveries.announce(A, reply(), NOW)
    deliveries.announce(A, reply(), NOW)
    with refused("second-reply"):
        deliveries.announce(A, reply(digest=b"another"), NOW)


def test_nobody_announces_an_object_of_somebody_else(deliveries):
    give(deliveries, 1)
    give(deliveries, 2, key=B, node=9)
    give(deliveries, 3)
    deliveries.announce(A, reply(1), NOW)
    with refused("others-object"):
        deliveries.announce(B, reply(2, node=9, objects={digest(10): frozenset()}), NOW)
    with refused("others-object"):
        deliveries.announce(A, reply(3, objects={digest(102): frozenset()}), NOW)
    for again in (
        digest(10),
        digest(20),
    ):  # one guess a message: nobody learns much of what there is
        with refused("second-reply"):
            deliveries.announce(B, reply(2, node=9, objects={again: frozenset()}), NOW)
    with refused():
        deliveries.announced(B, delivery().run, digest(10), NOW)


def test_nobody_announces_an_object_of_an_instruction_its_own_included(deliveries):
    """SuperLink keeps the children that it heard of first, and would refuse the instruction when it is sent again."""
    give(deliveries, 1)
    for name in (digest(1), digest(101)):
        give(deliveries, 1)
        with refused("others-object"):
            deliveries.announce(A, reply(1, objects={name: frozenset()}), NOW)


def test_a_reply_may_repeat_the_objects_of_ones_own_earlier_one(deliveries):
    """A site that is asked again with the same bytes answers with the same bytes."""
    give(deliveries, 1)
    give(deliveries, 2)
    deliveries.announce(A, reply(1), NOW)
    deliveries.announce(A, reply(2, objects=reply(1).objects), NOW)


def test_an_object_is_sent_by_the_node_that_announced_it(deliveries):
    give(deliveries)
    run = delivery().run
    with refused():
        deliveries.announced(A, run, digest(10), NOW)
    deliveries.announce(A, reply(), NOW)
    assert deliveries.announced(A, run, digest(10), NOW) == (digest(1), {digest(11)}, False)
    assert deliveries.announced(A, run, digest(11), NOW) == (digest(1), frozenset(), False)
    for key, number, name, now in (
        (B, run, digest(10), NOW), (A, 1, digest(10), NOW), (A, run, digest(12), NOW),
        (A, run, digest(10), NOW + 61),
    ):  # fmt: skip
        with refused():
            deliveries.announced(key, number, name, now)
    deliveries.store(digest(1), digest(10))
    assert deliveries.announced(A, run, digest(10), NOW) == (digest(1), {digest(11)}, True)


def test_bytes_are_counted_for_each_instruction(deliveries):
    give(deliveries)
    with refused("nothing-announced"):
        deliveries.charge_largely(A, 1, 100, NOW)
    deliveries.announce(A, reply(), NOW)
    with refused("many-bytes"):
        deliveries.charge_largely(A, 101, 100, NOW)
    with refused("nothing-announced"):
        deliveries.charge_largely(B, 1, 100, NOW)
    deliveries.charge(digest(1), 40, 100)
    deliveries.charge_largely(A, 20, 100, NOW)
    with refused("many-bytes"):
        deliveries.charge_largely(A, 41, 100, NOW)
    with refused("many-bytes"):
        deliveries.charge(digest(1), 41, 100)
    deliveries.charge(digest(1), 40, 100)


def test_large_bodies_count_to_the_reply_that_has_had_least(deliveries):
    for number in (1, 2):
        give(deliveries, number)
        deliveries.announce(A, reply(number, objects={digest(10 * number): frozenset()}), NOW)
    deliveries.charge(digest(1), 60, 100)
    for _ in range(2):
        deliveries.charge_largely(A, 40, 100, NOW)
    deliveries.charge_largely(A, 40, 100, NOW)
    with refused("many-bytes"):
        deliveries.charge_largely(A, 40, 100, NOW)


def test_what_was_written_down_is_there_after_the_process_was_killed(path):
    """No close: as after kill -9, the file is what there is."""
    first = Deliveries(path)
    first.use(A, "now", NOW + 305, NOW)
    first.learn(A, 5)
    given = give(first)
    second = Deliveries(path)
    with refused("used-signature"):
        second.use(A, "now", NOW + 305, NOW)
    with refused("other-node"):
        second.check_node(A, 6)
    assert second.again(A, NOW) == (given.message, b"answer")
    second.check_given(A, given.run, given.message, NOW)
    second.close()
    first.close()


def test_nothing_is_left_of_what_has_run_out(deliveries):
    give(deliveries)
    deliveries.announce(A, reply(), NOW)
    deliveries.use(A, "now", NOW + 305, NOW)
    deliveries.forget(NOW + 59)
    deliveries.check_message(A, delivery().run, digest(1), NOW)
    deliveries.forget(NOW + 306)
    for table in ("used", "deliveries", "given", "announced"):
        count = f"SELECT count(*) FROM {table}"  # noqa: S608  names of ours
        assert deliveries._one(count) == (0,)


def test_a_message_that_superlink_gives_once_more_is_as_if_it_had_never_been_given(deliveries):
    """A coordinator that was killed has lost the reply that it had fetched, and gives SuperLink the same message."""
    give(deliveries)
    deliveries.announce(A, reply(), NOW)
    deliveries.confirm(digest(1))
    assert deliveries.again(A, NOW) is None
    give(deliveries)
    assert deliveries.again(A, NOW) == (digest(1), b"answer")
    deliveries.announce(A, reply(digest=b"another body"), NOW)
    with refused("second-reply"):
        deliveries.announce(A, reply(), NOW)


def test_a_memory_of_another_version_is_begun_anew(path):
    """A coordinator that was upgraded goes on: who is in the midst of a trip is asked again."""
    with closing(sqlite3.connect(path)) as old:
        old.executescript(
            "CREATE TABLE used (key BLOB); CREATE TABLE given (x); PRAGMA user_version = 1"
        )
    memory = Deliveries(path)
    memory.use(A, "now", NOW + 305, NOW)
    give(memory)
    memory.announce(A, reply(), NOW)
    memory.close()
    again = Deliveries(path)
    with refused("used-signature"):
        again.use(A, "now", NOW + 305, NOW)
    again.close()
