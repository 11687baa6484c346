"""What an input costs to refuse or to read is bounded by its size, whatever it declares."""

import dataclasses
import json
import struct
import sys
import tracemalloc

import pytest
from fuzzing.engine import make_case
from fuzzing.judge_aggregation import Walk
from fuzzing.ledgers import KEY
from fuzzing.studies import NONCE, studies
from fuzzing.targets import TARGETS

from audit.verify import verify_export
from client.policy import Columns, Policy, parse_policy, policy_text
from privacy.errors import DiscreetError, ProtocolError
from privacy.secure_aggregation.messages import MESSAGES, message_of
from study.canonical import canonical_json, parse_canonical
from study.codec import decode
from study.declaration import Declaration
from study.freezing import to_toml
from study.ledger_entries import Opened, Refused, SignedEntry
from study.ledger_state import LedgerState
from study.parsing import parse_study
from study.roster import Roster, RosterSite, SignedRoster

SHAPES = [
    [10**12], [2**62], [2**63], [2**64], [2**32, 2**32], [10**6, 10**6, 10**6], [0, 2**62], [2**31, 0, 2**31],
    [1] * 1000,
    [0] * 1000, [-1], [2**40],
]  # fmt: skip


def message(entry):
    header = json.dumps({"vector": entry}).encode()
    return struct.pack(">I", 2) + b"{}" + struct.pack("<Q", len(header)) + header + bytes(8)


def peak_of(call, *arguments):
    """Bytes that a call had at once, and no more than a documented error came of it."""
    tracemalloc.start()
    try:
        call(*arguments)
    except DiscreetError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape}"[:30])
@pytest.mark.parametrize("offsets", [[0, 8], [0, 0], [0, 2**62], [0, 2**64 - 1]])
def test_a_small_message_that_declares_a_huge_array_is_refused_at_no_cost(shape, offsets):
    data = message({"dtype": "F64", "shape": shape, "data_offsets": offsets})
    with pytest.raises(ProtocolError, match="Expected"):
        decode(data)
    assert peak_of(decode, data) < 200_000 + 100 * len(data)


@pytest.mark.parametrize("length", [2**31, 2**32 - 1])
def test_a_small_message_that_declares_a_huge_head_is_refused_at_no_cost(length):
    data = struct.pack(">I", length) + b"{}"
    with pytest.raises(ProtocolError, match="Expected a head of"):
        decode(data)
    assert peak_of(decode, data) < 100_000


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_small_message_of_masked_sums_that_declares_many_items_is_refused_at_no_cost(kind):
    """A count or length of 2^32 - 1 wherever one may stand, and nothing of that length behind it."""
    seeds = [each for each in TARGETS["aggregation"].seeds() if each[4] == kind]
    for seed in seeds:
        walk = Walk(seed)
        walk.message()
        for place in (place for place, width in walk.numbers if width == 4):
            data = seed[:place] + b"\xff" * 4 + seed[place + 4 :]
            if kind == 3 and place == 5:  # the number of a round is none of these
                continue
            with pytest.raises(ProtocolError, match="Expected"):
                message_of(data)
            assert peak_of(message_of, data) < 100_000


@pytest.mark.parametrize(
    "name", ["canonical", "event", "declaration", "message", "query", "answer", "entry", "signed-entry", "receipt",
    "policy", "aggregation", "receipted-answer", "roster"]
)  # fmt: skip
def test_no_message_takes_much_more_memory_than_its_own_size(name):
    """64 bytes for each of its own: a dictionary of short keys takes about that, and a reader holds two or three."""
    target = TARGETS[name]
    seeds = target.seeds()
    target.read(seeds[0])  # imports and caches
    for number in range(60):
        data = make_case(target, seeds, 1, number)
        assert peak_of(target.read, data) < 300_000 + 200 * len(data), number


def export_of(count):
    state, lines = LedgerState(), []
    bodies = [Opened(site="site", key=KEY.public.hex())]
    bodies += [Refused(study=f"{number:064x}", reason="NOT_APPROVED") for number in range(count)]
    for body in bodies:
        entry = state.next_entry(body, time=0)
        state.apply(entry)
        lines.append(SignedEntry.sign(entry, KEY).to_line())
    return lines


def study_with(count):
    first = studies()[0]
    names = tuple(f"column {number}" for number in range(count))
    bounds = dict.fromkeys(names, (0.0, 1.0))
    return dataclasses.replace(
        first, data=dataclasses.replace(first.data, features=names, bounds=bounds)
    )


def declared(count):
    return Declaration(study=study_with(count), sites=3, noise_multiplier=3.0, nonce=NONCE).content


def roster_with(count):
    sites = tuple(RosterSite(name=f"site {each}", key=f"{each:064x}") for each in range(count))
    roster = Roster(federation="hearts", key=KEY.public.hex(), sites=sites)
    return SignedRoster(roster=roster, signatures={}).signed_by(KEY).to_bytes()


GROWING = {
    "keys": lambda n: (parse_canonical, canonical_json({f"{number:09d}": number for number in range(n)})),
    "numbers": lambda n: (parse_canonical, canonical_json([number / 7 for number in range(n)])),
    "features of a declaration": lambda n: (Declaration.from_bytes, declared(n)),
    "features of a study": lambda n: (parse_study, to_toml(study_with(n))),
    "columns of a policy": lambda n: (
        parse_policy, policy_text(Policy(columns=Columns(features=tuple(f"column {number}" for number in range(n))))),
    ),
    "sites of a roster": lambda n: (SignedRoster.from_bytes, roster_with(n)),
    "entries of an export": lambda n: (lambda lines: verify_export(lines, KEY.public), export_of(n)),
}  # fmt: skip


def calls_of(call, *arguments):
    """How many Python functions a call has called."""
    count = 0

    def profile(_frame, event, _argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        call(*arguments)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("kind", GROWING)
def test_four_times_as_much_takes_four_times_the_work(kind):
    """Counted in calls, which do not depend on the machine; a part that is squared would make it sixteen."""
    for n in (40, 50):  # once for imports and caches
        small = calls_of(*GROWING[kind](n))
    assert calls_of(*GROWING[kind](4 * n)) < 4.5 * small
