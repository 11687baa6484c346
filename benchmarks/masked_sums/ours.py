"""`privacy/secure_aggregation` on a complete graph, with the receipts that go with it."""

from __future__ import annotations

import hashlib
import os
import statistics
import tracemalloc

from masked_sums.common import (
    CAPACITY,
    CLIPPING_NORM,
    MEASURED,
    NOISE,
    Stopwatch,
    medians,
    vector_of,
)


class Discreet:
    """All sites and the coordinator of one session."""

    def __init__(self, sites):
        from privacy.secure_aggregation import coordinator
        from privacy.secure_aggregation import site as machine
        from privacy.secure_aggregation.messages import RoundRequest, SetupRequest
        from privacy.secure_aggregation.thresholds import Thresholds
        from privacy.signing import SigningKey

        self.colluding = self.missing = max(1, sites // 10)
        least = sites - self.missing
        self.keys = {site: SigningKey.from_seed(os.urandom(32)) for site in range(1, sites + 1)}
        self.federation = machine.Federation(
            study=os.urandom(32), roster=os.urandom(32), identities=tuple(each.public for each in self.keys.values()),
            thresholds=Thresholds(
                sites=sites, colluding=self.colluding, survivors=least, threshold=least, quorum=least,
                shares=least - self.colluding,
            ), rounds=2**20,
        )  # fmt: skip
        self.states, announced, site_work = {}, [], []
        at = self.federation
        request = SetupRequest(study=at.study, roster=at.roster, nonce=os.urandom(16))
        for site, key in self.keys.items():
            watch = Stopwatch()
            with watch("setup"):
                state, message = machine.setup(
                    at, machine.SiteState(site=site), request, seed=os.urandom(32), epoch=os.urandom(16), sign=key.sign
                )  # fmt: skip
            self.states[site] = state
            announced.append(message)
            site_work.append(watch.spent["setup"])
        watch = Stopwatch()
        with watch("coordinator"):
            self.members = coordinator.session_members(self.federation, announced)
        empty = RoundRequest(round=0, payload=b"", members=self.members)
        for site in range(1, MEASURED + 1):
            with watch("session"):
                machine.join(self.federation, self.states[site], empty, bits=32, dimension=1)
        self.setup = {
            "setup at a site": statistics.median(site_work) + watch.spent["session"] / MEASURED,
            "setup at the coordinator": watch.spent["coordinator"],
        }
        self.round = 0
        self.run(1000, (), memory=False)  # begins the session everywhere, and warms up

    def run(self, dimension, missing, *, memory):
        """Figures of one round. With `memory` the uploads are made first, and only what comes after is watched."""
        import numpy as np

        from privacy.private_sum import design_sum
        from privacy.secure_aggregation.messages import RoundRequest

        thresholds = self.federation.thresholds
        mechanism = design_sum(
            dimension=dimension, clipping_norm=CLIPPING_NORM, noise_multiplier=NOISE, shares=thresholds.shares,
            sites=thresholds.sites, beta=1e-10, slack=1e-9, largest_sum=CAPACITY * CLIPPING_NORM,
        )  # fmt: skip
        payload = os.urandom(4 * dimension)  # the model
        request = RoundRequest(round=self.round, payload=payload, members=self.members)
        present = [site for site in self.keys if site not in missing]
        measured, expected = [], np.zeros(dimension, np.int64)
        uploads = self.uploads(mechanism, request.to_bytes(), present, measured, expected)
        if memory:
            uploads = list(uploads)
            tracemalloc.start()
        watch, sent = Stopwatch(), {}
        total = self.coordinate(mechanism, payload, uploads, watch, sent)
        self.round += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.array_equal(total, expected)
        if memory:
            return {"vectors": peak / (4 * dimension)}
        figures = medians(measured)
        figures["site"] = sum(figures.values()) + watch.spent["site B, C"] / len(present)
        return figures | {
            "site B, C": watch.spent["site B, C"] / len(present), "bits": mechanism.bits,
            "coordinator": watch.spent["coordinator"], "upload": max(sent.values()) / (4 * dimension),
        }  # fmt: skip

    def uploads(self, mechanism, content, present, measured, expected):
        """What every site sends, one at a time; the work of the first few is measured."""
        from privacy.keystream import Keystream
        from privacy.private_sum import answer

        cheap = None
        for number, site in enumerate(present):
            watch = Stopwatch()
            total = vector_of(site, mechanism.dimension) if number < MEASURED else None
            joined = self.joined(site, content, mechanism, watch)
            if total is not None:
                dither, noise = Keystream(os.urandom(32)), Keystream(os.urandom(32))
                with watch("noise"):
                    integers = cheap = answer(mechanism, total, dither=dither, noise_share=noise)
                    expected_now = integers
            else:
                expected_now = cheap  # the time of masking does not depend on what is masked
            expected += expected_now
            sent = self.masked(site, joined, expected_now, mechanism, watch)
            if number < MEASURED:
                measured.append(watch.spent)
            yield site, sent

    def joined(self, site, content, mechanism, watch):
        from privacy.secure_aggregation import site as machine
        from privacy.secure_aggregation.messages import message_of

        shape = {"bits": mechanism.bits, "dimension": mechanism.dimension}
        with watch("encoding"):
            request = message_of(content)
        with watch("joining"):
            machine.transcript_of(self.federation, request, **shape)  # to charge for
            return machine.join(self.federation, self.states[site], request, **shape)

    def masked(self, site, joined, integers, mechanism, watch):
        from privacy.secure_aggregation import site as machine
        from study.receipts import Receipt, ReceiptedAnswer, SignedReceipt

        with watch("masking"):
            state, message = machine.upload(
                self.federation, self.states[site], joined, integers, bits=mechanism.bits, seed=os.urandom(32)
            )  # fmt: skip
        self.states[site] = state
        with watch("encoding"):
            content = message.to_bytes()
            receipt = Receipt(
                study=self.federation.study.hex(), index=self.round, transcript=joined.transcript.hex(),
                sequence=self.round, previous="0" * 64, head="0" * 64,
                answer=hashlib.sha256(content).hexdigest(),
            )  # fmt: skip
            signed = SignedReceipt.sign(receipt, self.keys[site])
            return ReceiptedAnswer(chain=(signed,), answer=content).to_bytes()

    def coordinate(self, mechanism, payload, uploads, watch, sent):
        """The coordinator's work, and that of the sites in trips B and C; the sum."""
        from privacy.secure_aggregation.coordinator import CoordinatorRound
        from privacy.secure_aggregation.messages import Upload
        from study.receipts import ReceiptedAnswer

        with watch("coordinator"):
            current = CoordinatorRound(
                self.federation, self.members, round=self.round, payload=payload, bits=mechanism.bits,
                dimension=mechanism.dimension,
            )  # fmt: skip
            current.request.to_bytes()
        for site, content in uploads:
            with watch("coordinator"):
                received = ReceiptedAnswer.from_bytes(content)
                assert received.signed.receipt.transcript == current.transcript.hex()
                received.signed.verify(self.federation.identities[site - 1])
                current.uploaded(site, Upload.from_bytes(received.answer))
            sent[site] = len(content)
            del content, received
        with watch("coordinator"):
            requests = {site: each.to_bytes() for site, each in current.close().items()}
        while requests:
            for site, content in requests.items():
                with watch("site B, C"):
                    reply = self.replied(site, content)
                sent[site] += len(reply)
                with watch("coordinator"):
                    self.taken(current, site, reply)
            with watch("coordinator"):
                requests = {site: each.to_bytes() for site, each in current.close().items()}
        with watch("coordinator"):
            return current.total()

    def replied(self, site, content):
        from privacy.secure_aggregation import site as machine
        from privacy.secure_aggregation.messages import OpenRequest, SurvivorsRequest, message_of

        at, request, state = self.federation, message_of(content), self.states[site]
        # The new states are not kept: the memory of so many sites would be taken for the coordinator's. A site may
        # reveal without having signed, and begin its next round from any state.
        if isinstance(request, OpenRequest):
            _, reply = machine.open_all(state, request)
        elif isinstance(request, SurvivorsRequest):
            _, reply = machine.sign_survivors(at, state, request, sign=self.keys[site].sign)
        else:
            _, reply = machine.reveal(at, state, request)
        return reply.to_bytes()

    def taken(self, current, site, content):
        from privacy.secure_aggregation.messages import OpenReply, SurvivorsReply, message_of

        reply = message_of(content)
        if isinstance(reply, OpenReply):
            current.opened(site, reply)
        elif isinstance(reply, SurvivorsReply):
            current.signed(site, reply)
        else:
            current.revealed(site, reply)
