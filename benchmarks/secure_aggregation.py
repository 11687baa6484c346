"""Measure secure aggregation against Flower's SecAgg+, on the same vectors and without a network.

Every competitor is a process of its own, on one core. All are asked in turn, several times over; what is printed are
medians of CPU seconds of one round.

* discreet: `privacy/secure_aggregation` on a complete graph, with the receipts that go with it. A site decodes the
  request, scales, rounds, adds noise, masks, deals shares, encodes, hashes and signs; the coordinator decodes and
  checks every message, adds the uploads, recovers the masks and takes them off. All uploads are real, and the sum is
  checked.
* flower: the functions of Flower's own mod, in the order in which it calls them, and the sum and unmasking of its
  workflow by its own primitives. Keys are agreed on in every round, as it does. Its graph is sparse where n is large:
  7, 20 and 30 neighbours for 8, 32 and 100 sites. A first round is all its own, and the sum is checked; later only
  the measured uploads are, and the others are random numbers of the same form, which take the server as long.
* keystream: the limit. As many AES-256-CTR streams as masks have to be made, added in blocks that fit the cache, and
  nothing else: no keys are agreed on or derived, nothing is dealt, sealed, encoded or checked.

    python benchmarks/secure_aggregation.py [--quick] [--out FILE.md]
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPETITORS = ("discreet", "flower", "keystream")
NEIGHBOURS = {8: 7, 32: 20, 100: 30}  # of Flower's graph
MEASURED = 3  # sites whose work is measured in a round
NOISE, CLIPPING_NORM, CAPACITY = 2.0, 1.0, 1000  # z, C, and the units of a site


def missing_of(sites, share):
    """The sites that do not upload, spread over the roster: a share of all, at least one if there is any."""
    count = max(1, int(sites * share)) if share else 0
    return tuple(range(sites // count, sites + 1, sites // count))[:count] if count else ()


def vector_of(site, dimension):
    """The clipped sum of one site, float64, shape (d,)."""
    import numpy as np

    values = np.random.default_rng(site).standard_normal(dimension)
    return values * (CAPACITY * CLIPPING_NORM / 10 / np.linalg.norm(values))


class Stopwatch:
    """CPU seconds by name."""

    def __init__(self):
        self.spent = {}

    @contextlib.contextmanager
    def __call__(self, name):
        start = time.process_time()
        yield
        self.spent[name] = self.spent.get(name, 0) + time.process_time() - start


def medians(results):
    """The medians of dictionaries of numbers, name by name."""
    names = results[0]
    return {name: statistics.median(each[name] for each in results) for name in names}


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


class Flower:
    """All nodes and the server; keys and shares of one round, used for all rounds, as they cost the same in each."""

    def __init__(self, sites):
        from flwr.client.mod.secure_aggregation.secaggplus_mod import (
            SecAggPlusState,
            _setup,
            _share_keys,
        )
        from flwr.common.secure_aggregation.secaggplus_constants import Key

        half = (NEIGHBOURS[sites] + 1) // 2
        shares = min(sites, 2 * half + 1)
        nodes = list(range(1, sites + 1))
        self.neighbours = {
            node: {nodes[(place + offset) % sites] for offset in range(-half, half + 1)}
            for place, node in enumerate(nodes)
        }
        self.threshold, self.range, self.clip = round(2 / 3 * shares), 2**22, 8.0
        configs = {
            Key.SAMPLE_NUMBER: sites, Key.SHARE_NUMBER: shares, Key.THRESHOLD: self.threshold,
            Key.CLIPPING_RANGE: self.clip, Key.TARGET_RANGE: self.range, Key.MOD_RANGE: 2**32, Key.MAX_WEIGHT: 1000.0,
        }  # fmt: skip
        self.states, self.public = {}, {}
        self.sent, watch = dict.fromkeys(nodes, 0), {node: Stopwatch() for node in nodes}
        for node in nodes:
            self.states[node] = SecAggPlusState()
            self.states[node].nid = node
            with watch[node]("keys"):
                reply = _setup(self.states[node], configs)
            self.public[node] = [reply[Key.PUBLIC_KEY_1], reply[Key.PUBLIC_KEY_2]]
            self.sent[node] += sum(map(len, self.public[node]))
        self.sources, self.sealed = {node: [] for node in nodes}, {node: [] for node in nodes}
        for node in nodes:
            named = {str(each): self.public[each] for each in sorted(self.neighbours[node])}
            with watch[node]("keys"):
                reply = _share_keys(self.states[node], named)
            for to, sealed in zip(
                reply[Key.DESTINATION_LIST], reply[Key.CIPHERTEXT_LIST], strict=True
            ):
                self.sources[to].append(node)
                self.sealed[to].append(sealed)
                self.sent[node] += len(sealed)
        self.keys = statistics.median(each.spent["keys"] for each in watch.values())
        self.setup = {}
        self.run(10_000, (), memory=False, real=sites)

    def run(self, dimension, missing, *, memory, real=MEASURED):
        """Figures of one round; `real` of its uploads are made by Flower."""
        import numpy as np

        present = [node for node in self.states if node not in missing]
        measured = []
        uploads = self.uploads(dimension, present, real, measured)
        if memory:
            uploads = list(uploads)
            tracemalloc.start()
        watch, sent = Stopwatch(), dict(self.sent)
        total = self.serve(uploads, present, missing, watch, sent)
        if memory:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return {"vectors": peak / (4 * dimension)}
        if real >= len(present):
            found = (total[1] * (2 * self.clip / self.range)) - len(present) * self.clip
            expected = sum(vector_of(node, dimension) for node in present)
            assert np.abs(found - expected).max() < len(present) * 2 * self.clip / self.range
        site = statistics.median(measured) + self.keys + watch.spent["sites"] / len(present)
        node = present[0]
        return {
            "site": site, "coordinator": watch.spent["coordinator"], "upload": sent[node] / (4 * dimension),
        }  # fmt: skip

    def uploads(self, dimension, present, real, measured):
        """Masked vectors, one at a time, by Flower itself for the first nodes."""
        import numpy as np
        from flwr.client.mod.secure_aggregation.secaggplus_mod import _collect_masked_vectors
        from flwr.common import ndarray_to_bytes, ndarrays_to_parameters
        from flwr.common.secure_aggregation.secaggplus_constants import Key

        random = np.random.default_rng()
        for number, node in enumerate(present):
            if number < real:
                parameters = ndarrays_to_parameters([vector_of(node, dimension).astype(np.float32)])
                configs = {
                    Key.CIPHERTEXT_LIST: self.sealed[node],
                    Key.SOURCE_LIST: self.sources[node],
                }
                watch = Stopwatch()
                with watch("mask"):
                    reply = _collect_masked_vectors(self.states[node], configs, 1000, parameters)
                measured.append(watch.spent["mask"])
                yield node, reply[Key.MASKED_PARAMETERS]
            else:
                arrays = random.integers(0, 2**32, 1), random.integers(0, 2**32, dimension)
                yield node, [ndarray_to_bytes(each) for each in arrays]

    def serve(self, uploads, present, missing, watch, sent):
        """`collect_masked_vectors_stage` and `unmask_stage` of the workflow, up to the sum in integers."""
        from flwr.client.mod.secure_aggregation.secaggplus_mod import _unmask
        from flwr.common import bytes_to_ndarray
        from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
        from flwr.common.secure_aggregation.secaggplus_constants import Key

        masked = None
        for node, content in uploads:
            sent[node] += sum(map(len, content))
            with watch("coordinator"):
                vector = [bytes_to_ndarray(each) for each in content]
                masked = (
                    vector if masked is None else arithmetic.parameters_addition(masked, vector)
                )
            del content, vector
        with watch("coordinator"):
            masked = arithmetic.parameters_mod(masked, 2**32)
        collected = {node: [] for node in self.states}
        for node in present:
            near = self.neighbours[node]
            configs = {
                Key.ACTIVE_NODE_ID_LIST: sorted(near - set(missing)), Key.DEAD_NODE_ID_LIST: sorted(near & set(missing))
            }  # fmt: skip
            with watch("sites"):
                reply = _unmask(self.states[node], configs)
            sent[node] += sum(map(len, reply[Key.SHARE_LIST]))
            with watch("coordinator"):
                for owner, share in zip(
                    reply[Key.NODE_ID_LIST], reply[Key.SHARE_LIST], strict=True
                ):
                    collected[owner].append(share)
        with watch("coordinator"):
            for node, shares in collected.items():
                masked = self.unmasked(masked, node, shares, missing)
            return arithmetic.parameters_mod(masked, 2**32)

    def unmasked(self, masked, node, shares, missing):
        from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
        from flwr.common.secure_aggregation.crypto import symmetric_encryption as encryption
        from flwr.common.secure_aggregation.crypto.shamir import combine_shares
        from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
        from flwr.supercore.primitives import asymmetric

        assert len(shares) >= self.threshold
        secret = combine_shares(shares)
        shapes = arithmetic.get_parameters_shape(masked)
        if node not in missing:
            return arithmetic.parameters_subtraction(masked, pseudo_rand_gen(secret, 2**32, shapes))
        for other in self.neighbours[node] - {node}:
            shared = encryption.generate_shared_key(
                asymmetric.bytes_to_private_key(secret), asymmetric.bytes_to_public_key(self.public[other][0])
            )  # fmt: skip
            change = (
                arithmetic.parameters_addition
                if node > other
                else arithmetic.parameters_subtraction
            )
            masked = change(masked, pseudo_rand_gen(shared, 2**32, shapes))
        return masked


class Limit:
    """Nothing but keystreams and their addition, in the best of three sizes of block."""

    setup = {}  # noqa: RUF012

    def __init__(self, sites):
        self.sites = sites

    def run(self, dimension, missing, *, memory):
        """CPU seconds for the masks of a site, and of the coordinator."""
        if memory:
            return {}
        present = self.sites - len(missing)
        streams = {"site": self.sites, "coordinator": present * (1 + len(missing))}
        return {
            name: min(self.added(dimension, count, 1 << power) for power in (16, 17, 18))
            for name, count in streams.items()
        }

    @staticmethod
    def added(dimension, count, block):
        import numpy as np
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        vector, zeros, keystream = np.zeros(dimension, np.uint32), bytes(block), bytearray(block)
        words, seeds = np.frombuffer(keystream, np.uint32), [os.urandom(32) for _ in range(count)]
        start = time.process_time()
        streams = [
            Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor() for seed in seeds
        ]
        for first in range(0, dimension, block // 4):
            part = vector[first : first + block // 4]
            source, target = memoryview(zeros)[: part.nbytes], memoryview(keystream)[: part.nbytes]
            for stream in streams:
                stream.update_into(source, target)
                np.add(part, words[: len(part)], out=part)
        return time.process_time() - start


def serve(competitor, sites):
    """Child: what setup took, then for every case that comes in the figures of one round."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rounds = {"discreet": Discreet, "flower": Flower, "keystream": Limit}[competitor](sites)
    print(json.dumps(rounds.setup), flush=True)
    for line in sys.stdin:
        print(json.dumps(rounds.run(**json.loads(line))), flush=True)


class Child:
    """A competitor in a process of its own."""

    def __init__(self, competitor, sites):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve", competitor, str(sites)], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.setup = json.loads(self.process.stdout.readline())

    def ask(self, **case):
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(sites, dimensions, rounds):
    """{(n, d, missing): {competitor: figures}} of interleaved rounds, and what our setup took."""
    children = {name: Child(name, sites) for name in COMPETITORS}
    found = {}
    for dimension, share in itertools.product(dimensions, (0, 0.1)):
        missing = missing_of(sites, share)
        case = {"dimension": dimension, "missing": missing}
        turns = [
            {name: child.ask(**case, memory=False) for name, child in children.items()}
            for _ in range(rounds)
        ]
        figures = {name: medians([turn[name] for turn in turns]) for name in COMPETITORS}
        if missing and dimension == max(dimensions):  # with few numbers it is the rest that counts
            for name, child in children.items():
                figures[name] |= child.ask(**case, memory=True)
        found[sites, dimension, len(missing)] = figures
        print(f"n={sites}, d={dimension}, {len(missing)} missing: done", file=sys.stderr)
    setup = children["discreet"].setup
    for child in children.values():
        child.end()
    return found, setup


def number(value):
    """Three digits, or nothing."""
    return "" if value is None else f"{value:.3g}"


def lines_of(heads, rows):
    """A table in Markdown."""
    return "\n".join(
        [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        + [f"| {' | '.join(row)} |" for row in rows]
    )


def table(found):
    """CPU seconds of a round, and bytes and memory as multiples of a vector of d numbers of 4 bytes."""
    heads = [
        "n", "d", "missing", "site", "of it masking", "of it trips B, C", "masking / keystream", "Flower site",
        "coordinator", "coordinator / keystream", "Flower server", "Flower / coordinator", "upload / plain",
        "Flower upload / plain", "memory", "Flower memory",
    ]  # fmt: skip
    rows = []
    for (sites, dimension, missing), figures in found.items():
        ours, flower, limit = (figures[name] for name in COMPETITORS)
        values = [
            ours["site"], ours["masking"], ours["site B, C"], ours["masking"] / limit["site"], flower["site"],
            ours["coordinator"], ours["coordinator"] / limit["coordinator"], flower["coordinator"],
            flower["coordinator"] / ours["coordinator"], ours["upload"], flower["upload"], ours.get("vectors"),
            flower.get("vectors"),
        ]  # fmt: skip
        rows.append([str(sites), f"{dimension:,}", str(missing), *map(number, values)])
    return lines_of(heads, rows)


def setup_table(setups):
    """CPU seconds of a session, which lasts as long as its sites do."""
    rows = [[str(sites), *map(number, setup.values())] for sites, setup in setups.items()]
    return lines_of(["n", "setup at a site", "setup at the coordinator"], rows)


def goals(figures):
    """The goals, for the largest case with sites missing; memory to a tenth of a vector, as hashes are inputs too."""
    ours, flower, limit = (figures[name] for name in COMPETITORS)
    checks = [
        ("a site's whole work, s", ours["site"], "at most", 0.25),
        ("masking / keystream", ours["masking"] / limit["site"], "at most", 1.5),
        ("coordinator, s", ours["coordinator"], "at most", 1.5),
        ("upload / plain", ours["upload"], "at most", 1.02),
        ("Flower's server / coordinator", flower["coordinator"] / ours["coordinator"], "at least", 10),
        ("memory at the coordinator, vectors", round(ours["vectors"], 1), "at most", 3),
    ]  # fmt: skip
    rows = [
        [
            name, f"{sense} {goal:g}", f"{value:.4g}",
            "met" if (value <= goal if sense == "at most" else value >= goal) else "**missed**",
        ] for name, value, sense, goal in checks
    ]  # fmt: skip
    return lines_of(["", "goal", "measured", ""], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument("--quick", action="store_true", help="fewer sites, numbers and rounds")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]))
        return
    sizes = (
        ((8,), (10_000, 100_000), 2)
        if options.quick
        else ((8, 32, 100), (10_000, 100_000, 1_000_000), 3)
    )
    found, setups = {}, {}
    for sites in sizes[0]:
        results, setups[sites] = measure(sites, sizes[1], sizes[2])
        found |= results
    largest = max(found)
    parts = [
        table(found), setup_table(setups), "n={}, d={:,}, {} missing:".format(*largest), goals(found[largest])
    ]  # fmt: skip
    result = "\n\n".join(parts)
    print(f"CPU seconds, one core, medians of interleaved rounds.\n\n{result}")
    if options.out:
        options.out.write_text(result + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
