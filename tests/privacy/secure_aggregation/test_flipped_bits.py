"""One bit of one message of a whole round: it is refused, or the round is exact or abandoned, and never wrong."""

import itertools
from collections import Counter

import numpy as np
import pytest
from aggregations import BITS, asked, begun, exact_sum, run_round

from privacy.secure_aggregation.coordinator import Step
from privacy.secure_aggregation.messages import OpenReply, RevealReply, Upload, message_of


def length_of(name, value):
    """Bytes that a field takes."""
    match value:
        case bytes():
            return len(value) + 4 * (name == "payload")
        case int():
            return 4 if name == "round" else 2
        case np.ndarray():
            return 5 + value.nbytes
        case tuple():
            items = itertools.chain(*value) if name == "signatures" else value
            return 4 + sum(length_of("item", each) for each in items)
    return len(value.to_bytes())


def places_of(message, data, flips):
    """Bits to flip: some of every field, the head among them, the same every time."""
    edges = [0, 5]
    for name in message.FIELDS:
        edges.append(edges[-1] + length_of(name, getattr(message, name)))
    assert edges[-1] == len(data)
    draws = np.random.default_rng(len(data))
    spans = list(itertools.pairwise(edges))
    return [
        8 * int(draws.integers(low, high)) + int(draws.integers(8))
        for low, high in spans
        for _ in range(-(-flips // len(spans)))
    ]


NUMBERS = 8 * (5 + 32 + 2 + 1 + 4)
"""Where an upload's masked vector begins, in bits: after the head, transcript, site, width and length."""


def numbers_of(message):
    """The bits of an upload that are numbers of its masked vector."""
    return (
        range(NUMBERS, NUMBERS + 8 * message.vector.nbytes) if isinstance(message, Upload) else ()
    )


class TestFlippedBits:
    """But for the numbers of a masked vector, of which one is as good as any other: uploads travel with a receipt, the
    site's signature of their hash (`study/receipts.py`), which is checked before the machine sees them.
    """

    @pytest.mark.parametrize(
        ("sites", "missing", "lost", "flips"),
        [(4, 1, (), 40), (4, 1, (4,), 40), (6, 2, (6,), 10)],
        ids=["fast", "survivors", "survivors and one to spare"],
    )
    def test_anywhere_in_any_message(self, sites, missing, lost, flips):
        sent = self.messages(sites, missing, lost)
        outcomes = Counter()
        for chosen, data in enumerate(sent):
            message = message_of(data)
            for bit in places_of(message, data, flips):
                coordinator, refusals = self.flipped(sites, missing, lost, chosen, bit)
                done = coordinator.step is Step.DONE
                if bit in numbers_of(message):
                    self.require_off_by_one_bit(coordinator, bit)
                elif done:
                    expected = exact_sum(coordinator.survivors, 0)
                    assert np.array_equal(coordinator.total(), expected)
                    # or it was in what an upload has for a site that is gone, which nobody reads
                    assert refusals or (lost and isinstance(message, Upload))
                    outcomes["exact"] += 1
                else:
                    assert coordinator.step is Step.ABANDONED
                    assert refusals or "it has dealt wrongly" in coordinator._lack
                    outcomes["abandoned"] += 1
        assert min(outcomes["exact"], outcomes["abandoned"]) > 5

    def messages(self, number, missing, lost):
        """Everything that is sent in the round, in order."""
        federation, sites, members = begun(number, 1, missing)
        sent = []
        run_round(
            asked(federation, members), sites, lost=(lost, (), ()), wire=lambda *each: sent.append(each[2]) or each[2]
        )  # fmt: skip
        return sent

    def flipped(self, number, missing, lost, chosen, bit):
        """The round with that bit of the chosen message flipped, and nobody's input learned: (coordinator, refusals)."""
        federation, sites, members = begun(number, 1, missing)
        coordinator = asked(federation, members)
        place = itertools.count()

        def wire(_to, _site, data):
            if next(place) != chosen:
                return data
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            return bytes(changed)

        refusals = run_round(coordinator, sites, lost=(lost, (), ()), wire=wire)
        said = [reply for site in sites.values() for _, reply in site.sent]
        opened = [each for each in said if isinstance(each, OpenReply)]
        revealed = [each for each in said if isinstance(each, RevealReply)]
        assert not (opened and revealed)  # by anybody: one way of unmasking this round
        return coordinator, refusals

    def require_off_by_one_bit(self, coordinator, bit):
        place, within = divmod(bit - NUMBERS, BITS)
        off = coordinator.total() - exact_sum(coordinator.survivors, 0)
        assert np.flatnonzero(off).tolist() == [place]
        assert abs(int(off[place])) == 1 << within
