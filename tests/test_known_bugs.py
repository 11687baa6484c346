"""Privacy bugs that are known from federated learning frameworks, one by one: each has a test that it is absent here.

They were found in the differential privacy parts of Flower (wrappers, mods and strategies, as of 1.41) and stand in the
comment over each test. Not here: adaptive clipping, whose sign is inverted there, since there is none (C is a constant
of the declaration); the budget that is lost at a restart, which is the ledger's affair; and SecAgg+, in whose place
is `privacy/secure_aggregation`. Planted versions of most of them are in tests/client/test_neighbours.py.
"""

import ast
import math
import random
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from ledgers import DATA_SET, ledger_of
from masking import roster_of, seen_alone, with_roster
from scipy import stats

from client.answers import RefusedError, Site
from client.app import make_client_app
from client.tables import Records
from privacy.clipping import MARGIN, clipping_weights
from privacy.discrete_gaussian import LADDER, cumulative_table
from privacy.errors import ProtocolError
from privacy.keystream import Keystream, derive_key
from privacy.private_sum import released_sum
from privacy.sampling import poisson_sample
from server.rounds import Job, run_study
from server.trips import Way
from simulations.grid import InProcessGrid
from study.codec import decode
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.contributions import Contributor
from study.declaration import Declaration
from study.envelope import query_message
from study.guarantee import Guarantee
from study.models import model_of
from study.queries import NONCE_BYTES, Refusal, SumAnswer, SumQuery, query_hash
from study.receipts import ReceiptedAnswer

ROOT = Path(__file__).parents[1]
KEY = b"tests of bugs that others have.."


def declaration_of(*, data=None, model=None, training=None, privacy=None, sites=4, number=0):
    study = Study(
        name="known-bugs",
        data=Data(
            **{
                "task": "regression", "label": "y", "label_bounds": (-1.0, 1.0), "expected_records": 60,
                "features": ("a", "b", "c"), "bounds": {"default": (-1.0, 1.0)}, "test_fraction": 0.0,
            }
            | (data or {})
        ),
        model=Model(**{"kind": "linear"} | (model or {})),
        training=Training(**{"rounds": 3, "learning_rate": 0.1} | (training or {})),
        privacy=Privacy(**{"trust": "local", "noise_multiplier": 3.0} | (privacy or {})),
        sites=Sites(minimum=sites),
    )  # fmt: skip
    declaration = Declaration(
        study=study, sites=sites, noise_multiplier=study.privacy.noise_multiplier, nonce=f"{number:032x}"
    )  # fmt: skip
    masked = Guarantee(declaration).masked
    return with_roster(declaration, roster_for(sites)) if masked else declaration


def roster_for(sites):
    return roster_of(*(f"site-{number}" for number in range(sites)))


def query_of(declaration, *, index=0, parameters=None):
    function = Guarantee(declaration).stages[-1].function
    parameters = parameters or model_of(declaration.study).initial(bytes(32))
    return SumQuery(
        study=declaration.hash, index=index, function=function, parameters=parameters, nonce=bytes(NONCE_BYTES)
    ).to_bytes()  # fmt: skip


def records_of(features, labels):
    count = len(features)
    return Records(
        np.asarray(features, dtype=np.float64).reshape(count, 3), np.asarray(labels), np.arange(count),
        [b"%d" % each for each in range(count)], np.ones(count, dtype=np.bool_), "records",
    )  # fmt: skip


def normal_records(count):
    generator = np.random.default_rng(count)
    return records_of(generator.uniform(-1, 1, (count, 3)), generator.uniform(-1, 1, count))


NOBODY = records_of(np.zeros((0, 3)), np.zeros(0))


def site_of(declaration, records, *, name="site-0"):
    site = Site(ledger_of(name), entropy=lambda *labels: derive_key(KEY, name, *labels))
    roster = roster_for(declaration.sites) if Guarantee(declaration).masked else None
    site.approve(declaration, records, data_set=DATA_SET, roster=roster)
    return site


def answered(site, content):
    return SumAnswer.from_bytes(ReceiptedAnswer.from_bytes(site.answer(content)).answer)


def answer_of(declaration, records, *, parameters=None, name="site-0"):
    """What a site answers; if sums are masked, what it adds to one."""
    content = query_of(declaration, parameters=parameters)
    site = site_of(declaration, records, name=name)
    if Guarantee(declaration).masked:
        return seen_alone(site, declaration, roster_for(declaration.sites), content)
    return answered(site, content).vector


def bare(declaration, records, *, parameters=None):
    """The answer without noise, in the vector's unit: what a site adds to the sum with trust in the server."""
    mechanism = Guarantee(declaration).mechanism(Guarantee(declaration).stages[-1].function)
    return released_sum(mechanism, answer_of(declaration, records, parameters=parameters))


SERVER = {"trust": "server"}
STEPS = 4  # of rounding, in L2: sqrt(d) of them for the few numbers of these models
FAR = {"weight": np.zeros(3), "bias": np.array(1e3)}  # a linear model far from every label


# Noise was scaled to the clipping norm that had just been updated, not to the one that had been clipped with; and
# LocalDpMod's sensitivity had nothing to do with its clip.
@pytest.mark.parametrize("norm", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("training", [{}, {"rounds": 30}])
def test_noise_is_scaled_to_the_norm_that_is_clipped_with(norm, training):
    one = declaration_of(privacy=SERVER | {"clipping_norm": norm}, training=training)
    mechanism = Guarantee(one).mechanism("gradient")
    clipped = np.linalg.norm(bare(one, records_of([[1, 1, 1]], [-1.0]), parameters=FAR))
    assert clipped == pytest.approx(norm * (1 - MARGIN), rel=0.01)
    noise = mechanism.deviation.sigma / mechanism.scale
    assert 3.0 * clipped < noise < 3.0 * norm * 1.02
    # nothing that a query carries could change it: every one of a study meets the same mechanism
    head, _ = decode(query_of(one, index=2))
    assert set(head) == {"kind", "study", "index", "function", "nonce", "receipts"}


# Updates were weighted by num_examples, which a client chooses and which breaks the sensitivity C / n.
def test_a_unit_counts_for_the_same_at_a_small_site_and_at_a_large_one():
    one = declaration_of(privacy=SERVER)
    unit = records_of([[1, -1, 1]], [1.0])
    found, sent = [], {"weight": np.full(3, 0.5), "bias": np.array(0.5)}
    for count in (0, 1, 40):
        rest = normal_records(count)
        both = records_of(
            np.concatenate([rest.features, unit.features]),
            np.concatenate([rest.labels, unit.labels]),
        )
        found.append(bare(one, both, parameters=sent) - bare(one, rest, parameters=sent))
    step = 1 / Guarantee(one).mechanism("gradient").scale
    for each in found[1:]:
        assert np.abs(each - found[0]).max() < 2 * step  # rounding
    assert np.linalg.norm(found[0]) > 100 * step


# Sigma was computed for the configured cohort, whoever replied.
@pytest.mark.parametrize(("sites", "colluding", "missing"), [(4, 1, 0), (10, 1, 3), (30, 5, 9)])
def test_noise_is_enough_for_those_who_are_sure_to_reply(sites, colluding, missing):
    privacy = {"trust": "aggregate", "max_colluding": colluding, "max_dropouts": missing}
    guarantee = Guarantee(declaration_of(privacy=privacy, sites=sites))
    mechanism = guarantee.mechanism("gradient")
    assert mechanism.noise_multiplier_of(sites - missing - colluding) >= 3.0 * (1 - 1e-12)
    assert mechanism.noise_multiplier_of(sites - missing - colluding - 1) < 3.0
    assert guarantee.tolerance.survivors == sites - missing


# A zero update crashed the server (a division by its norm).
def test_sites_whose_every_vector_is_zero_are_summed_like_others(tmp_path):
    assert clipping_weights(np.zeros(2), 1.0, "flat").tolist() == [1, 1]
    assert np.isfinite(clipping_weights(np.zeros(2), 1.0, "automatic")).all()
    one = declaration_of(training={"signal": False})
    fits = records_of(np.zeros((5, 3)), np.zeros(5))
    zero = {"weight": np.zeros(3), "bias": np.array(0.0)}
    assert not bare(
        declaration_of(privacy=SERVER, training={"signal": False}), fits, parameters=zero
    ).any()
    outcome = run_of(one, tmp_path, [fits, fits, NOBODY, fits])
    assert all(kept.total is not None for kept in outcome.sums)
    assert all(np.isfinite(each).all() for each in outcome.parameters.values())


# NaN disabled clipping: min(1, C / nan) is 1 in Python.
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -1e200])
def test_what_is_not_a_number_is_never_let_through(value):
    assert clipping_weights(np.array([np.nan, np.inf]), 1.0, "flat").tolist() == [0, 0]
    one = declaration_of(data={"bounds": {}, "scaling": "none"}, privacy=SERVER)
    found = bare(one, records_of([[value, 0, 0]], [0.0]))
    assert np.isfinite(found).all()
    most = 1 + STEPS / Guarantee(one).mechanism("gradient").scale
    assert np.linalg.norm(found) <= most
    hostile = {"weight": np.full(3, value), "bias": np.array(value)}
    assert np.linalg.norm(bare(one, normal_records(1), parameters=hostile)) <= most


# Arrays without axes were never clipped.
def test_a_bias_without_axes_is_clipped_with_the_rest():
    one = declaration_of(privacy=SERVER, training={"signal": False})
    assert model_of(one.study).shapes["bias"] == ()
    found = bare(one, records_of([[0, 0, 0]], [0.0]), parameters=FAR)
    assert np.linalg.norm(found) <= 1 + STEPS / Guarantee(one).mechanism("gradient").scale
    assert abs(found[-1]) > 0.5


# Integer buffers (num_batches_tracked and the like) crashed the aggregation, or were noised.
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64, np.float32])
def test_parameters_that_are_not_of_the_models_type_are_refused(dtype):
    one = declaration_of()
    for name, shape in model_of(one.study).shapes.items():
        sent = model_of(one.study).initial(bytes(32)) | {name: np.zeros(shape, dtype)}
        with pytest.raises(RefusedError, match="not one that this protocol version knows") as error:
            answer_of(one, normal_records(3), parameters=sent)
        assert error.value.refusal == Refusal.MALFORMED
    assert all(each.dtype.kind == "f" for each in model_of(one.study).initial(bytes(32)).values())


# Parameters were matched by their position in a list, not by name.
def test_parameters_are_matched_by_name():
    one = declaration_of(
        model={"kind": "mlp", "hidden": (3, 3)}, privacy=SERVER, data={"features": ("a", "b", "c")}
    )
    model, records = model_of(one.study), normal_records(9)
    generator = np.random.default_rng(1)
    sent = {
        name: generator.normal(size=shape).astype(model.dtype)
        for name, shape in model.shapes.items()
    }
    turned = dict(reversed(sent.items()))
    assert list(turned) != list(sent)
    assert np.array_equal(
        bare(one, records, parameters=turned), bare(one, records, parameters=sent)
    )
    first, second = [name for name, shape in model.shapes.items() if shape == (3, 3)][:2]
    swapped = sent | {first: sent[second], second: sent[first]}
    assert not np.array_equal(
        bare(one, records, parameters=swapped), bare(one, records, parameters=sent)
    )


# Every ArrayRecord was clipped for itself, so that a model of L of them moved by sqrt(L) C.
@pytest.mark.parametrize("training", [{}, {"signal": False}])
def test_all_arrays_of_a_model_share_one_norm(training):
    hidden = (8,) * 6
    one = declaration_of(
        model={"kind": "mlp", "hidden": hidden}, training=training, privacy=SERVER | {"clipping_norm": 1e-3}
    )  # fmt: skip
    model = model_of(one.study)
    assert len(model.shapes) == 14
    found = bare(one, records_of([[1, 1, 1]], [-1.0]), parameters=large(model))
    assert 0.9e-3 < np.linalg.norm(found) <= 1.001e-3
    parts = np.split(
        found[: model.size], np.cumsum([math.prod(each) for each in model.shapes.values()])
    )
    assert sum(each.any() for each in parts) > 5


def large(model):
    generator = np.random.default_rng(2)
    return {
        name: generator.uniform(0.1, 1, shape).astype(model.dtype)
        for name, shape in model.shapes.items()
    }


# Client-side clipping was trusted by the server that added the noise.
def test_no_site_relies_on_another_sites_clipping_or_noise():
    """What a colluder sends moves the model; the others' noise is enough without his, and seen out of range he is missing."""
    shared = declaration_of(privacy={"trust": "aggregate", "max_colluding": 2})
    mechanism = Guarantee(shared).mechanism("gradient")
    assert mechanism.shares == 2
    assert mechanism.noise_multiplier_of(2) >= 3.0 * (1 - 1e-12)
    one = declaration_of()
    mechanism, content = Guarantee(one).mechanism("gradient"), query_of(one)
    honest = answered(site_of(one, normal_records(20)), content)
    largest = mechanism.clamp + mechanism.deviation.largest + 1
    dtype, dimension = honest.vector.dtype, mechanism.dimension
    honest.checked(query_hash(content), dimension, dtype, largest)
    beyond = SumAnswer(
        query_hash=honest.query_hash, nonce=honest.nonce,
        vector=np.full(dimension, min(largest + 1, np.iinfo(dtype).max), dtype),
    )  # fmt: skip
    with pytest.raises(ProtocolError, match="within the range of one site"):
        beyond.checked(query_hash(content), dimension, dtype, largest)


def run_of(declaration, directory, records, *, apps=None):
    """The whole study over an in-process grid, with these records by site."""
    names = {number + 2: f"site-{number}" for number in range(declaration.sites)}
    sites = {
        node: make_client_app(site_of(declaration, each, name=name))
        for (node, name), each in zip(names.items(), records, strict=True)
    }
    job = Job(
        declaration=declaration, sites=tuple(names.values()), directory=directory, durable=False,
        way=Way(nodes=lambda: {name: node for node, name in names.items()}),
        entropy=lambda *labels: derive_key(KEY, "coordinator", *labels),
        roster=roster_for(declaration.sites) if Guarantee(declaration).masked else None,
    )  # fmt: skip
    return run_study(InProcessGrid(sites | (apps or {})), job)


# One client's error skipped the round for all of them.
def test_a_site_that_fails_is_missing_and_the_round_goes_on(tmp_path, monkeypatch):
    one = declaration_of(privacy={"trust": "aggregate", "max_dropouts": 1})
    broken = Site(ledger_of())  # it has not approved the study: it refuses everything
    outcome = run_of(one, tmp_path, [normal_records(9)] * 4, apps={5: make_client_app(broken)})
    assert [kept.missing for kept in outcome.sums] == [("site-3",)] * 3
    assert all(kept.total is not None for kept in outcome.sums)

    def failing(self, *_arguments):
        raise MemoryError

    monkeypatch.setattr(Contributor, "clipped_sum", failing)  # at a site whose data make it fail
    outcome = run_of(one, tmp_path / "failing", [normal_records(9)] * 4)
    assert [kept.missing for kept in outcome.sums] == [()] * 3


# Noise came from NumPy's global Mersenne Twister, which anybody in the process can seed.
def test_no_seed_of_a_global_generator_changes_or_repeats_noise():
    one, content = declaration_of(), query_of(declaration_of())
    answers = set()
    for _ in range(3):
        np.random.seed(7)
        random.seed(7)
        site = Site(ledger_of())
        site.approve(one, NOBODY, data_set=DATA_SET)
        answers.add(answered(site, content).vector.tobytes())
    assert len(answers) == 3


def test_nothing_that_makes_an_answer_knows_another_generator_than_the_keystream():
    """Noise, dither, samples and first weights: `numpy.random` and `random` are not even named."""
    for package in ("privacy", "gradients", "study", "client", "server"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [
                    each.name for each in getattr(node, "names", []) if isinstance(each, ast.alias)
                ]
                names += [getattr(node, "module", None) or "", getattr(node, "attr", "")]
                assert not {"random", "numpy.random", "uuid"} & set(names), path
                assert not {"default_rng", "seed", "PCG64"} & set(names), path


# Floating-point noise leaked: most outputs near 0 were impossible for a neighbour (98.9 % of them).
def test_whatever_is_sent_could_have_been_sent_by_a_neighbour():
    """Answers are integers, and each that one data set can give the other can give as well, but for the far tail.

    The support of the noise has no gaps: every magnitude up to 9 deviations has a positive share of the 2^127 draws.
    """
    one = declaration_of()
    with_unit, without = normal_records(20), normal_records(20)
    for records in (with_unit, without):
        assert answer_of(one, records).dtype.kind == "i"
    for rung in LADDER[:9]:
        upper, lower, _ = cumulative_table(rung.base)
        steps = np.diff(upper.astype(np.int64)), np.diff(lower.astype(np.int64))
        assert ((steps[0] > 0) | (steps[1] != 0))[: 9 * rung.base].all()
    mechanism = Guarantee(one).mechanism("gradient")
    assert mechanism.deviation.largest > 12 * mechanism.deviation.sigma + mechanism.sensitivity


# Samples of a fixed size, without replacement, were accounted for as Poisson samples (epsilon 19.05 for a true 48.80).
def test_the_size_of_a_sample_varies_as_the_accountant_assumes():
    """400 draws of 1,000 units at rate 0.3: n times the sample variance over n q (1 - q) is chi-square with 399 degrees,
    up to a kurtosis of 2 + 1/210; two-sided at 1e-6. Power at 0, as of a fixed size, at half and at twice the variance.
    """
    sizes = np.array(
        [
            int(poisson_sample(1000, 0.3, Keystream(derive_key(KEY, "sizes", index))).sum())
            for index in range(400)
        ]
    )
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], 399)
    statistic = float(np.square(sizes - sizes.mean()).sum()) / (1000 * 0.3 * 0.7)
    assert low < statistic < high
    assert len(set(sizes.tolist())) > 30
    for wrong in (0.0, 1 / 2, 2.0):
        assert not low < statistic * wrong < high


# The mods also hit evaluation messages: what a site said of a model's quality was clipped and noised, or not at all.
@pytest.mark.parametrize("kind", ["train", "evaluate", "query", "query.other", "evaluate.sum"])
def test_a_site_answers_sums_and_nothing_else(kind):
    one = declaration_of(training={"rounds": 1})
    site, content = site_of(one, normal_records(9)), query_of(one)
    grid = InProcessGrid({2: make_client_app(site)})
    right = query_message(content, index=0, node_id=2, seconds=60.0)
    other = Message(right.content, dst_node_id=2, message_type=kind, ttl=60.0, group_id="0")
    with pytest.raises(ValueError, match="function registered"):
        grid.push_messages([other])
    site.answer(content)  # nothing was charged: the one round is still there


# Metrics (losses, accuracies, numbers of examples) left the client unprotected, beside the protected update.
def test_an_answer_holds_nothing_that_is_not_noised():
    one = declaration_of()
    received = ReceiptedAnswer.from_bytes(site_of(one, normal_records(9)).answer(query_of(one)))
    receipt = received.signed.to_values()["receipt"]
    assert set(receipt) == {
        "version",
        "study",
        "index",
        "transcript",
        "sequence",
        "head",
        "previous",
        "answer",
    }
    head, arrays = decode(received.answer)
    assert set(head) == {"kind", "query", "nonce"}
    assert set(arrays) == {"vector"}
    size = model_of(one.study).size
    assert arrays["vector"].shape == (
        size + 1,
    )  # the loss is the last coordinate of the clipped vector
    answers = [answer_of(one, NOBODY, name=f"{each}") for each in range(60)]
    values = (
        np.array(answers, dtype=np.float64) / Guarantee(one).mechanism("gradient").deviation.sigma
    )
    low, high = stats.chi2.ppf(
        [5e-8, 1 - 5e-8], 60
    )  # each coordinate on its own: five of them, at 1e-7
    for column in values.T:
        statistic = float(np.square(column).sum())
        assert low < statistic < high
        for wrong in (1 / 3, 3):
            assert not low < statistic / wrong**2 < high


# REPLACE_ONE of dp_accounting 0.6.0 gives the figures of add-or-remove.
def test_the_relation_is_never_to_replace_a_unit_by_another():
    for training in (
        {},
        {
            "algorithm": "dp-fedavg",
            "local_steps": 1,
            "local_learning_rate": 0.1,
            "optimizer": "sgd",
        },
    ):
        relation = Guarantee(declaration_of(training=training)).to_values()["relation"]
        assert relation in (
            "add or remove one unit at one site",
            "replace the records of one site by none",
        )
    source = "\n".join(each.read_text(encoding="utf-8") for each in (ROOT / "privacy").glob("*.py"))
    assert "NeighboringRelation.REPLACE" not in source
