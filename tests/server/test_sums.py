"""The coordinator's masked sums over a Grid: exact, in two trips or three, with whoever is there, and never of a ledger
that has gone back."""

import dataclasses

import numpy as np
import pytest
from flwr.app import Error, Message
from ledgers import key_of
from masking import receipted

from client.app import make_client_app
from privacy.errors import RoundAbandonedError, StudyError
from privacy.secure_aggregation.messages import RoundRequest, is_message, message_of
from server.checkpoint import Checkpoint
from study.envelope import answer_message, content_of
from study.queries import SumAnswer, SumQuery, query_hash
from study.receipts import MOST_RECEIPTS, ReceiptedAnswer, SignedReceipt

SIX = {"sites": 6, "privacy": {"trust": "aggregate", "max_dropouts": 2}}


def drops_at(node, *indices):
    return lambda message: (
        message.metadata.dst_node_id == node and int(message.metadata.group_id) in indices
    )


def interrupt_at(index):
    def stop(line):
        if line["query"] == index:
            raise InterruptedError

    return stop


def trips_of(lines, index):
    """trip -> how many sites it went to, in order."""
    found = {}
    for line in lines:
        if line["query"] == index:
            found[line["trip"]] = found.get(line["trip"], 0) + 1
    return found


@pytest.mark.parametrize("scaling", [{}, {"scaling": "standard"}])
def test_a_masked_sum_is_the_sum_of_the_survivors_integers_whoever_is_missing(
    make_federation, scaling
):
    federation, lines = make_federation(**SIX, data=scaling), []
    outcome = federation.run(
        federation.grid(
            drops=lambda message: drops_at(3, 1)(message) or drops_at(7, 1, 2)(message)
        ),
        on_message=lines.append,
    )
    missing = [kept.missing for kept in outcome.sums]
    assert missing[:3] == [(), ("site-2", "site-6"), ("site-6",)]
    for kept in outcome.sums:
        expected = np.sum([federation.answered[name][kept.index] for name in kept.survivors], 0)
        assert kept.total.tolist() == expected.tolist()
        assert set(kept.receipts) == set(kept.survivors)
        assert set(kept.signatures) == (set(kept.survivors) if kept.missing else set())
    assert trips_of(lines, 0) == {"setup": 6, "A": 6, "B": 6}
    assert trips_of(lines, 1) == {"A": 6, "B": 4, "C": 4}
    assert trips_of(lines, 2) == {"A": 6, "B": 5, "C": 5}


def test_an_answer_that_is_seen_on_the_way_is_no_sum_of_anything(make_federation):
    """What crosses the Grid in trip A is the ring's noise: its mean square is that of uniform numbers.

    36 uniform numbers u of 2^32, centred, over 2^31: the mean of u^2 is 1/3 with a deviation of sqrt(4/45/36) = 0.05.
    Bare answers have a mean square below 1e-6.
    """
    federation, lines = make_federation(sites=3, privacy={"trust": "aggregate"}), []
    outcome = federation.run(on_message=lines.append)
    assert {line["sent"] for line in lines} == {"SetupRequest", "RoundRequest", "OpenRequest"}
    assert {line["received"] for line in lines} == {"SetupKey", "Upload", "OpenReply"}
    assert all(line["problem"] is None for line in lines)
    bare = [each for answers in federation.answered.values() for each in answers.values()]
    assert np.mean(np.square(np.ravel(bare) / 2**31)) < 1e-6
    assert len(outcome.sums) == 3


def test_a_site_that_did_not_announce_a_key_is_asked_again_and_is_back(make_federation):
    federation, lines = make_federation(**SIX, training={"rounds": 5}), []
    outcome = federation.run(federation.grid(drops=drops_at(2, 0)), on_message=lines.append)
    assert [kept.missing for kept in outcome.sums] == [("site-1",), ("site-1",), (), (), ()]
    assert [("setup" in trips_of(lines, index)) for index in range(5)] == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert outcome.refusals == {"site-1": {"it could not be reached": 2}}


def test_a_site_that_has_restarted_is_back_in_the_query_after_the_next(make_federation):
    federation, lines = make_federation(**SIX, training={"rounds": 4}), []
    sites = {}

    def restart(line):
        if line["query"] == 0:
            sites["now"] = federation.recorded("site-3", federation.site("site-3"))

    sites["now"] = federation.recorded("site-3", federation.site("site-3"))

    class Restarting:
        def answer(self, content):
            return sites["now"].answer(content)

    federation.apps["site-3"] = make_client_app(Restarting())
    outcome = federation.run(on_round=restart, on_message=lines.append)
    assert [kept.missing for kept in outcome.sums] == [(), ("site-3",), (), ()]
    ((reason, count),) = outcome.refusals["site-3"].items()
    assert "no key for this session" in reason
    assert count == 1
    assert "setup" in trips_of(lines, 2)


def test_while_there_is_no_session_every_query_asks_for_keys(make_federation):
    """Nobody is there at first: a query without a session charges nobody, and the next one tries again."""
    federation = make_federation(
        sites=3, privacy={"trust": "aggregate"}, training={"spare_rounds": 3}
    )
    outcome = federation.run(
        federation.grid(drops=lambda message: int(message.metadata.group_id) < 3)
    )
    assert [kept.total is None for kept in outcome.sums] == [True] * 3 + [False] * 3
    assert outcome.sums[0].lack == "fewer than 3 sites have sent a key"
    asked = federation.ledgers["site-1"].state.account(federation.declaration.hash).asked
    assert set(asked) == {3, 4, 5}


def test_a_site_that_is_lost_after_its_upload_abandons_the_query_where_all_were_needed(
    make_federation,
):
    federation = make_federation(
        sites=3, privacy={"trust": "aggregate"}, training={"spare_rounds": 1}
    )
    uploads = []

    def second_trip_of_query_one(message):
        if message.metadata.dst_node_id == 4 and message.metadata.group_id == "1":
            uploads.append(1)
            return len(uploads) == 2
        return False

    outcome = federation.run(federation.grid(drops=second_trip_of_query_one))
    assert [kept.total is None for kept in outcome.sums] == [False, True, False, False]
    assert "2 of at least 3 sites have opened self-masks" in outcome.sums[1].lack
    assert outcome.refusals == {"site-3": {"in trip B: it could not be reached": 1}}


def test_a_masked_study_needs_a_roster(make_federation):
    federation = make_federation(sites=3, privacy={"trust": "aggregate"})
    with pytest.raises(StudyError, match="Expected a roster: sums of this study are masked"):
        federation.run(roster=None)


NONSENSE = {
    "garbage": b"garbage", "nothing": b"", "zeros": bytes(200),
}  # fmt: skip


@pytest.mark.parametrize("kind", NONSENSE)
@pytest.mark.parametrize("trip", ["setup", "A", "B"])
def test_a_site_that_sends_nonsense_in_any_trip_is_missing_and_the_sum_is_right(
    make_federation, kind, trip
):
    """In trip B two of six may fail without harm: four shares of every self-mask are enough."""
    federation = make_federation(**SIX)
    site = federation.recorded("site-2", federation.site("site-2"))
    answer, seen = site.answer, []

    def nonsense(content):
        reply = answer(content)
        at = {"SetupRequest": "setup", "RoundRequest": "A"}.get(type_of(content), "B")
        seen.append(at)
        return NONSENSE[kind] if at == trip else reply

    site.answer = nonsense
    federation.apps["site-2"] = make_client_app(site)
    outcome = federation.run()
    assert trip in seen
    for kept in outcome.sums:
        assert ("site-2" in kept.missing) == (trip != "B")
        expected = np.sum([federation.answered[name][kept.index] for name in kept.survivors], 0)
        assert kept.total.tolist() == expected.tolist()
    assert set(outcome.refusals) == {"site-2"}


def type_of(content):
    return type(message_of(content)).__name__


def test_a_site_whose_upload_does_not_fit_its_receipt_is_missing(make_federation):
    federation = make_federation(**SIX)
    site = federation.recorded("site-2", federation.site("site-2"))
    answer = site.answer

    def altered(content):
        reply = bytearray(answer(content))
        if type_of(content) == "RoundRequest":
            reply[-1] ^= 1
        return bytes(reply)

    site.answer = altered
    federation.apps["site-2"] = make_client_app(site)
    outcome = federation.run()
    assert all(kept.missing == ("site-2",) for kept in outcome.sums)
    assert set(outcome.refusals["site-2"]) == {
        "Expected a receipt of this answer, found one of another"
    }


def test_nobody_uploads_in_the_name_of_another(make_federation):
    """Site 2 forwards what it is asked to site 3, and sends that as its own."""
    federation = make_federation(**SIX)
    third = federation.recorded("site-3", federation.site("site-3"))

    class Forwarding:
        def answer(self, content):
            return third.answer(content)

    federation.apps["site-2"] = make_client_app(Forwarding())
    federation.apps["site-3"] = make_client_app(third)
    outcome = federation.run()
    assert all(kept.missing == ("site-2",) for kept in outcome.sums)
    assert set(outcome.refusals["site-2"]) == {"setup: expected a key of site-2"}


def test_a_ledger_that_has_gone_back_is_found_out_by_the_coordinator_too(
    make_federation, client_app
):
    """Every answer has a receipt of one and the same entry: the first is taken, and no later one."""
    federation = make_federation(sites=3, privacy={"max_dropouts": 1})

    def stuck(message):
        name, vector = query_hash(content_of(message)), np.zeros(4, np.int32)
        answer = SumAnswer(query_hash=name, vector=vector, nonce=bytes(16)).to_bytes()
        return answer_message(
            receipted("site-2", answer, content_of(message), sequence=7), to=message
        )

    federation.apps["site-2"] = client_app(stuck)
    outcome = federation.run()
    assert [kept.missing for kept in outcome.sums] == [(), ("site-2",), ("site-2",)]
    ((reason, count),) = outcome.refusals["site-2"].items()
    assert reason.startswith("Expected the ledger of site-2 to go on")
    assert count == 2


def test_every_query_shows_the_latest_receipt_of_every_site_that_has_answered(make_federation):
    federation = make_federation(**SIX)
    outcome = federation.run(federation.grid(drops=drops_at(3, 1)))
    shown = [SumQuery.from_bytes(each).receipts for each in federation.asked["site-1"]]
    assert [sorted(each) for each in shown] == [[], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]
    assert shown[2][1][-1].receipt.index == 1
    assert shown[2][2][-1].receipt.index == 0
    for number, name in federation.roster.names.items():
        shown[2][number][-1].verify(federation.roster.identities[number - 1])
        assert outcome.sums[-1].receipts[name][-1].receipt.index == 2


def test_a_resumed_run_shows_the_receipts_of_its_checkpoint(make_federation):
    federation = make_federation(**SIX)
    with pytest.raises(InterruptedError):
        federation.run(on_round=interrupt_at(1))
    kept = list(Checkpoint(federation.directory, federation.declaration).kept())
    resumed = make_federation(**SIX, ledgers=federation.ledgers)
    outcome = resumed.run()
    (query,) = map(SumQuery.from_bytes, resumed.asked["site-1"])
    assert {
        name: query.receipts[number] for number, name in federation.roster.names.items()
    } == dict(kept[1].receipts)
    assert outcome.refusals == {}


def test_a_coordinator_that_has_lost_its_receipts_is_refused(make_federation):
    """The sites remember what they were shown."""
    federation = make_federation(**SIX)
    with pytest.raises(InterruptedError):
        federation.run(on_round=interrupt_at(1))
    kept = Checkpoint(federation.directory, federation.declaration)
    for each in list(kept.kept()):
        kept.keep(dataclasses.replace(each, receipts={}))
    with pytest.raises(RoundAbandonedError, match="a receipt contradicts what the site knows"):
        make_federation(**SIX, ledgers=federation.ledgers).run()


def test_an_error_of_flowers_own_is_a_missing_site(make_federation, client_app):
    federation = make_federation(**SIX)
    federation.apps["site-5"] = client_app(
        lambda message: Message(Error(code=99), reply_to=message)
    )
    outcome = federation.run()
    assert all(kept.missing == ("site-5",) for kept in outcome.sums)
    assert set(outcome.refusals["site-5"]) == {"Flower's error 99"}


def chain_of(name, receipt, how):
    """Receipts that no honest site signs: one that goes on from nowhere, or as many as a message tells of, invented."""
    if how == "from nowhere":
        return (SignedReceipt.sign(dataclasses.replace(receipt, previous="ab" * 32), key_of(name)),)
    chain, previous = [], "cd" * 32
    for number in range(MOST_RECEIPTS):
        last = number == MOST_RECEIPTS - 1
        head = receipt.head if last else f"{number:064x}"
        made = dataclasses.replace(
            receipt, previous=previous, head=head, sequence=receipt.sequence + number,
            index=receipt.index if last else 10**6 + number,
        )  # fmt: skip
        chain.append(SignedReceipt.sign(made, key_of(name)))
        previous = head
    return tuple(chain)


@pytest.mark.parametrize("trust", ["local", "aggregate"])
@pytest.mark.parametrize(("how", "at"), [("from nowhere", 0), ("invented", 2)])
def test_a_site_cannot_end_a_study_with_receipts_that_the_others_refuse(
    make_federation, trust, how, at
):
    """The coordinator shows everybody what it has taken: so it takes no receipt that an honest site would not go on with."""
    federation = make_federation(
        sites=4,
        privacy={"trust": trust, "max_dropouts": 1},
        training={"rounds": 4, "spare_rounds": 2},
    )
    site = federation.site("site-4")
    answer = site.answer

    def lying(content):
        sent = answer(content)
        message = message_of(content) if is_message(content) else None
        query = (
            message.payload
            if isinstance(message, RoundRequest)
            else content
            if message is None
            else None
        )
        if query is None or SumQuery.from_bytes(query).index != at:
            return sent
        received = ReceiptedAnswer.from_bytes(sent)
        chain = chain_of("site-4", received.chain[-1].receipt, how)
        return dataclasses.replace(received, chain=chain).to_bytes()

    site.answer = lying
    federation.apps["site-4"] = make_client_app(site)
    outcome = federation.run()
    assert [kept.total is None for kept in outcome.sums] == [False] * 4
    assert "site-4" in outcome.sums[at].missing
    assert {"site-1", "site-2", "site-3"} <= set(outcome.sums[-1].survivors)
