"""Flower's SecAgg+: the functions of its own mod and workflow, in the order in which they are called."""

from __future__ import annotations

import statistics
import tracemalloc

from masked_sums.common import MEASURED, Stopwatch, vector_of

NEIGHBOURS = {8: 7, 32: 20, 100: 30}  # of its graph


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
