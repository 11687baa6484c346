"""A site answers a query once, charged beforehand, with its own noise, or refuses in a way that tells nothing."""

import contextlib
import math
import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DATA_SET, ledger_of
from masking import Masked, roster_of, seen_alone, with_roster
from scipy import stats

from client.answers import RefusedError, Site, scaled_units, system_entropy, units_of
from client.tables import Records
from privacy.errors import DataError, DiscreetError, PrivacyError, StudyError
from privacy.keystream import KEY_BYTES, derive_key
from privacy.secure_aggregation.messages import Upload
from study.codec import decode, encode
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.contributions import SCALING_NAMES, Contributor
from study.declaration import Declaration
from study.guarantee import Guarantee, declare
from study.models import model_of
from study.queries import NONCE_BYTES, Refusal, SumAnswer, SumQuery, query_hash
from study.receipts import ReceiptedAnswer

ROOT = b"tests of answers, nothing secret"
AVERAGING = {
    "algorithm": "dp-fedavg", "local_steps": 2, "local_learning_rate": 0.5, "learning_rate": 1.0,
    "optimizer": "sgd",
}  # fmt: skip
STANDARD = {"scaling": "standard"}
BOUNDS = {"default": (0.0, 10.0)}
ROSTER = roster_of("site", "second", "third")
"""Of the studies whose sums are masked; the others know their sites by no key."""


def study_of(*, data=None, model=None, training=None, privacy=None, sites=None):
    more = (
        {"label_bounds": (0.0, 1.0), "classes": ()}
        if (data or {}).get("task") == "regression"
        else {}
    )
    return Study(
        name="example",
        data=Data(
            **{
                "task": "classification", "label": "ill", "classes": ("no", "yes"), "expected_records": 40,
                "features": ("age", "height", "weight"), "bounds": BOUNDS, "test_fraction": 0.0,
            } | more | (data or {})
        ),
        model=Model(**{"kind": "logistic"} | (model or {})),
        training=Training(**{"rounds": 4} | (training or {})),
        privacy=Privacy(**{"trust": "local", "noise_multiplier": 3.0} | (privacy or {})),
        sites=Sites(**{"minimum": 3} | (sites or {})),
    )  # fmt: skip


def declaration_of(study=None, *, number=0, **settings_):
    study = study or study_of(**settings_)
    noise = study.privacy.noise_multiplier
    declaration = Declaration(study=study, sites=3, noise_multiplier=noise, nonce=f"{number:032x}")
    masked = Guarantee(declaration).masked
    return with_roster(declaration, ROSTER) if masked else declaration


DECLARED = {}
"""Studies that somebody has been asked about, by hash."""


def query_of(declaration, *, index=0, function=None, parameters=None, nonce=bytes(NONCE_BYTES)):
    """A query of the study's last stage, at the model's first weights."""
    DECLARED[declaration.hash] = declaration
    model = model_of(declaration.study)
    function = function or Guarantee(declaration).stages[-1].function
    if parameters is None and function != "moments":
        parameters = model.initial(bytes(32))
        if declaration.study.data.scaled == "standard":
            parameters |= dict.fromkeys(SCALING_NAMES, np.full(model.inputs, 0.5))
    query = SumQuery(
        study=declaration.hash,
        index=index,
        function=function,
        parameters=parameters or {},
        nonce=nonce,
    )
    return query.to_bytes()


def records_of(count=12, *, features=3, classes=2, odd=None):
    generator = np.random.default_rng(count)
    values = generator.uniform(0, 10, (count, features))
    if odd is not None:
        values[::2] = odd
    return Records(
        values, generator.integers(0, classes, count), np.arange(count), [b"%d" % each for each in range(count)],
        np.ones(count, dtype=np.bool_), "records",
    )  # fmt: skip


def reproducible(name):
    return lambda *labels: derive_key(ROOT, name, *labels)


class WillingSite(Site):
    """A site whose operator approves, with the same records, every study that can be approved at all."""

    def __init__(self, name, records, unit=None, **settings_):
        super().__init__(ledger_of(name, unit=unit), **settings_)
        self.records = records
        self.seen = set()

    def answer(self, content):
        with contextlib.suppress(DiscreetError):
            declaration = DECLARED.get(SumQuery.from_bytes(content).study)
            if declaration is not None and declaration.hash not in self.seen:
                self.seen.add(declaration.hash)
                roster = None if declaration.roster is None else ROSTER
                self.approve(declaration, self.records, data_set=DATA_SET, roster=roster)
        return super().answer(content)


def site_of(records=None, *, name="site", **changed):
    records = records_of() if records is None else records
    return WillingSite(name, records, **({"entropy": reproducible(name)} | changed))


def refusal_of(site, content):
    with pytest.raises(RefusedError, match=".") as error:
        site.answer(content)
    assert str(error.value) == error.value.refusal.explanation
    return error.value.refusal


def answered(content):
    """What a site has sent, without its receipt."""
    return SumAnswer.from_bytes(ReceiptedAnswer.from_bytes(content).answer)


def vector_of(content):
    return answered(content).vector


def integers_of(site, declaration, content=None):
    """The rounded, noisy sum that a site answers a query with, masked or not."""
    content = content or query_of(declaration)
    if declaration.roster is None:
        return vector_of(site.answer(content)).astype(np.int64)
    site.approve(declaration, site.records, data_set=DATA_SET, roster=ROSTER)
    return seen_alone(site, declaration, ROSTER, content)


class TestOnce:
    def test_a_query_asked_again_gets_the_very_same_bytes(self):
        for entropy in (system_entropy, reproducible("a")):
            site, content = site_of(entropy=entropy), query_of(declaration_of())
            first = site.answer(content)
            assert all(site.answer(bytes(bytearray(content))) == first for _ in range(3))
            assert answered(first).query_hash == query_hash(content)

    def test_nothing_is_drawn_or_computed_again_for_a_repeated_query(self):
        calls = []

        def entropy(*labels):
            calls.append(labels[0])
            return derive_key(ROOT, *labels)

        site, content = site_of(entropy=entropy), query_of(declaration_of())
        site.answer(content)
        assert sorted(calls) == ["dither", "noise", "nonce", "sample"]
        site.answer(content)
        assert len(calls) == 4

    @pytest.mark.parametrize(
        "other",
        [
            {"nonce": b"\1" * NONCE_BYTES},
            {"parameters": {"weight": np.ones(3), "bias": np.array(0.0)}},
        ],
    )
    def test_another_query_with_the_same_number_is_refused(self, other):
        site, one = site_of(), declaration_of()
        first = site.answer(query_of(one))
        assert refusal_of(site, query_of(one, **other)) == Refusal.OTHER_QUERY_ANSWERED
        assert site.answer(query_of(one)) == first

    def test_a_number_is_one_for_all_functions_of_a_study(self):
        site, one = site_of(), declaration_of(data=STANDARD)
        site.answer(query_of(one, index=0, function="moments"))
        assert refusal_of(site, query_of(one, index=0)) == Refusal.OTHER_QUERY_ANSWERED
        site.answer(query_of(one, index=1))

    def test_another_study_has_numbers_of_its_own(self):
        site = site_of()
        first = site.answer(query_of(declaration_of()))
        second = site.answer(query_of(declaration_of(number=1)))
        assert not np.array_equal(vector_of(first), vector_of(second))


class TestCharges:
    @pytest.mark.parametrize(("rounds", "spares"), [(1, 0), (3, 0), (2, 2)])
    def test_no_more_sums_than_declared_are_answered(self, rounds, spares):
        one = declaration_of(training={"rounds": rounds, "spare_rounds": spares})
        site, count = site_of(), rounds + spares
        answers = [site.answer(query_of(one, index=7 * index)) for index in range(count)]
        for index in (1, 7 * count, 2**31 - 1):
            assert refusal_of(site, query_of(one, index=index)) == Refusal.TOO_MANY_QUERIES
        assert site.answer(query_of(one, index=7 * (count - 1))) == answers[-1]

    def test_bytes_that_are_not_kept_any_more_are_never_computed_again(self):
        """The latest two are kept: a coordinator asks again only for the trip that is open."""
        one, site = declaration_of(), site_of()
        answers = [site.answer(query_of(one, index=index)) for index in range(3)]
        for index in (1, 2):
            assert site.answer(query_of(one, index=index)) == answers[index]
        assert refusal_of(site, query_of(one, index=0)) == Refusal.UNAVAILABLE

    def test_every_function_has_a_count_of_its_own(self):
        one, site = declaration_of(data=STANDARD, training={"rounds": 2}), site_of()
        site.answer(query_of(one, index=0, function="moments"))
        assert (
            refusal_of(site, query_of(one, index=1, function="moments")) == Refusal.TOO_MANY_QUERIES
        )
        site.answer(query_of(one, index=1))
        site.answer(query_of(one, index=2))
        assert refusal_of(site, query_of(one, index=3)) == Refusal.TOO_MANY_QUERIES

    def test_a_query_is_charged_before_any_record_is_looked_at(self, monkeypatch):
        """Killed in the middle of a computation, the site takes the query for burnt, and it has cost one of two."""

        def killed(self, *_arguments):
            raise KeyboardInterrupt

        one, site = declaration_of(training={"rounds": 2}), site_of()
        with monkeypatch.context() as patch:
            patch.setattr(Contributor, "clipped_sum", killed)
            with pytest.raises(KeyboardInterrupt):
                site.answer(query_of(one))
        for _ in range(2):
            assert refusal_of(site, query_of(one)) == Refusal.UNAVAILABLE
        other = query_of(one, nonce=b"\2" * NONCE_BYTES)
        assert refusal_of(site, other) == Refusal.OTHER_QUERY_ANSWERED
        site.answer(query_of(one, index=1))
        assert refusal_of(site, query_of(one, index=2)) == Refusal.TOO_MANY_QUERIES

    def test_the_charge_is_made_before_a_key_is_drawn(self):
        def entropy(*labels):
            if stopped:
                raise KeyboardInterrupt
            return derive_key(ROOT, *labels)

        site, content, stopped = site_of(entropy=entropy), query_of(declaration_of()), [True]
        with pytest.raises(KeyboardInterrupt):
            site.answer(content)
        stopped.clear()
        assert refusal_of(site, content) == Refusal.UNAVAILABLE

    @pytest.mark.parametrize(
        "failure",
        [RuntimeError("patient 17"), MemoryError(), DataError("patient 17"), ValueError()],
    )
    def test_a_failure_over_data_is_answered_with_noise_around_zero_once(
        self, monkeypatch, failure
    ):
        """Nobody but the operator hears of it: the answer is that of an empty site, and it is kept like any other."""
        computed = []

        def failing(self, *_arguments):
            computed.append(1)
            raise failure

        one = declaration_of(training={"rounds": 2})
        empty = site_of(records_of(0)).answer(query_of(one))
        site = site_of()
        with monkeypatch.context() as patch:
            patch.setattr(Contributor, "clipped_sum", failing)
            first = site.answer(query_of(one))
        assert answered(first).to_bytes() == answered(empty).to_bytes()
        assert [site.answer(query_of(one)) for _ in range(3)] == [first] * 3
        assert len(computed) == 1
        assert site.problems == [type(failure).__name__]
        site.answer(query_of(one, index=1))
        assert refusal_of(site, query_of(one, index=2)) == Refusal.TOO_MANY_QUERIES

    def test_a_failure_after_the_charge_burns_the_query(self, monkeypatch):
        """Where no answer could be made at all: refused for good, and never computed again."""
        computed = []

        def failing(*_arguments, **_named):
            computed.append(1)
            raise RuntimeError("secret")

        one, site = declaration_of(training={"rounds": 2}), site_of()
        with monkeypatch.context() as patch:
            patch.setattr("client.answers.answer", failing)
            assert refusal_of(site, query_of(one)) == Refusal.UNAVAILABLE
        for _ in range(3):
            assert refusal_of(site, query_of(one)) == Refusal.UNAVAILABLE
        other = query_of(one, nonce=b"\3" * NONCE_BYTES)
        assert refusal_of(site, other) == Refusal.OTHER_QUERY_ANSWERED
        assert len(computed) == 1
        site.answer(query_of(one, index=1))  # the failure was charged: one of two is left
        assert refusal_of(site, query_of(one, index=2)) == Refusal.TOO_MANY_QUERIES

    @pytest.mark.parametrize("purpose", ["sample", "dither", "noise", "nonce"])
    def test_without_entropy_nothing_leaves_the_site(self, purpose):
        def entropy(*labels):
            if labels[0] == purpose:
                raise OSError
            return derive_key(ROOT, *labels)

        site, content = site_of(entropy=entropy), query_of(declaration_of())
        assert refusal_of(site, content) == Refusal.UNAVAILABLE
        assert refusal_of(site, content) == Refusal.UNAVAILABLE

    def test_more_units_than_declared_are_refused_when_a_study_is_approved(self):
        """Said to the operator, before any round; a query of that study is one that was never approved."""
        one = declaration_of(sites={"maximum_records": 5})
        site = site_of()
        for approve in (
            lambda one, records: site.approve(one, records, data_set=DATA_SET),
            lambda one, records: units_of(records, one.study),
        ):
            with pytest.raises(
                DataError, match="expected at most 5 training units at one site, found 12"
            ):
                approve(one, records_of())
        assert refusal_of(site_of(), query_of(one)) == Refusal.NOT_APPROVED


class TestRefusals:
    def test_a_study_that_the_site_has_not_approved_is_refused(self):
        one, other = declaration_of(), declaration_of(number=1)
        site = Site(ledger_of(), entropy=reproducible("site"))
        assert refusal_of(site, query_of(one)) == Refusal.NOT_APPROVED
        site.approve(one, records_of(), data_set=DATA_SET)
        site.answer(query_of(one))
        for _ in range(2):
            assert refusal_of(site, query_of(other)) == Refusal.NOT_APPROVED

    def test_a_study_that_differs_in_anything_is_not_the_approved_one(self):
        one, site = declaration_of(), Site(ledger_of(), entropy=reproducible("site"))
        site.approve(one, records_of(), data_set=DATA_SET)
        for changed in (
            {"number": 1}, {"training": {"rounds": 5}}, {"privacy": {"noise_multiplier": 2.9}},
            {"privacy": {"clipping_norm": 1.1}}, {"data": {"bounds": {"default": (0.0, 9.0)}}},
        ):  # fmt: skip
            assert refusal_of(site, query_of(declaration_of(**changed))) == Refusal.NOT_APPROVED
        site.answer(query_of(one))

    def test_approving_twice_gives_no_second_budget(self):
        one, site = declaration_of(training={"rounds": 1}), Site(ledger_of())
        site.approve(one, records_of(), data_set=DATA_SET)
        first = site.answer(query_of(one))
        site.approve(one, records_of(), data_set=DATA_SET)
        assert site.answer(query_of(one)) == first
        assert refusal_of(site, query_of(one, index=1)) == Refusal.TOO_MANY_QUERIES

    def test_a_study_without_privacy_needs_a_site_that_says_so(self):
        one = declaration_of(privacy={"trust": "unsafe", "noise_multiplier": None})
        with pytest.raises(PrivacyError, match="unsafe"):
            site_of().approve(one, records_of(), data_set=DATA_SET)
        assert refusal_of(site_of(), query_of(one)) == Refusal.NOT_APPROVED
        found = vector_of(site_of(allow_unsafe=True).answer(query_of(one)))
        assert found.dtype == np.float64

    def test_too_little_noise_is_refused_by_the_sites_own_accountant(self):
        study = study_of(privacy={"noise_multiplier": None, "epsilon": 1.0})
        enough = declare(study, sites=3, nonce="0" * 32)
        less = Declaration(
            study=study, sites=3, noise_multiplier=0.99 * enough.noise_multiplier, nonce="0" * 32
        )
        site = site_of()
        with pytest.raises(PrivacyError, match="Expected noise for epsilon=1"):
            site.approve(less, records_of(), data_set=DATA_SET)
        assert refusal_of(site, query_of(less)) == Refusal.NOT_APPROVED
        site.answer(query_of(enough))

    @pytest.mark.parametrize(
        "changed",
        [
            {"function": "moments", "parameters": {}}, {"function": "delta"}, {"function": "gradient "},
            {"parameters": {}}, {"parameters": {"weight": np.zeros(3)}},
            {"parameters": {"weight": np.zeros(4), "bias": np.array(0.0)}},
            {"parameters": {"weight": np.zeros(3, np.float32), "bias": np.array(0.0)}},
            {"parameters": {"weight": np.zeros(3), "bias": np.zeros(1)}},
            {"parameters": {"weight": np.zeros(3), "bias": np.array(0.0), "x": np.zeros(0)}},
        ],
    )  # fmt: skip
    def test_what_the_study_does_not_declare_is_malformed_and_charges_nothing(self, changed):
        one, site = declaration_of(training={"rounds": 1}), site_of()
        good = {"parameters": {"weight": np.zeros(3), "bias": np.array(0.0)}}
        for _ in range(3):
            assert refusal_of(site, query_of(one, **(good | changed))) == Refusal.MALFORMED
        site.answer(query_of(one, **good))

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_no_altered_bytes_get_anything_but_an_answer_or_a_fixed_code(self, draw):
        """Flipped bits, cuts and insertions, by a site that approves everything. What is answered is a query spelt so."""
        content = bytearray(query_of(declaration_of()))
        kind = draw.draw(st.sampled_from(["flip", "cut", "insert", "replace"]))
        place = draw.draw(st.integers(0, len(content) - 1))
        if kind == "flip":
            content[place] ^= 1 << draw.draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place:]
        elif kind == "insert":
            content[place:place] = draw.draw(st.binary(min_size=1, max_size=4))
        else:
            content[place : place + 4] = draw.draw(st.binary(min_size=1, max_size=9))
        refusal = None
        try:
            found = site_of().answer(bytes(content))
        except RefusedError as refused:
            refusal = refused.refusal
        assert refusal in (None, Refusal.MALFORMED, Refusal.NOT_APPROVED)
        if refusal is None:
            assert SumQuery.from_bytes(bytes(content)).to_bytes() == content
            assert answered(found).query_hash == query_hash(bytes(content))

    @given(st.binary(max_size=100))
    def test_bytes_that_are_no_query_are_malformed(self, data):
        assert refusal_of(site_of(), data) == Refusal.MALFORMED

    def test_an_answer_is_no_query(self):
        site = site_of()
        assert refusal_of(site, site.answer(query_of(declaration_of()))) == Refusal.MALFORMED

    @pytest.mark.parametrize(
        "settings_",
        [
            {"privacy": {"noise_multiplier": 1e6}}, {"privacy": {"noise_multiplier": 1e-200}},
            {"privacy": {"delta": 1e-300}}, {"privacy": {"clipping_norm": 1e9}},
            {"training": {"rounds": 10**6, "spare_rounds": 10**6}}, {"training": {"learning_rate": 1e308}},
            {"training": {"sampling_rate": 5e-324}}, {"data": STANDARD, "training": {"sampling_rate": 1e-200}},
            {"model": {"kind": "mlp", "hidden": (65_536, 65_536)}}, {"model": {"kind": "cnn"}},
            {"data": {"expected_records": 10**9}, "privacy": {"delta": 1e-10}}, {"data": {"unit": "person", "sites_per_unit": 3}},
            {"data": {"bounds": {"default": (-1e299, 1e299)}}},
        ],
        ids=str,
    )  # fmt: skip
    def test_extreme_constants_are_approved_or_refused_in_words(self, settings_):
        """Whatever the contract admits: the operator reads a sentence, the server a fixed code or an answer."""
        one, site = declaration_of(**settings_), Site(ledger_of(), entropy=reproducible("site"))
        refused = ""
        try:
            site.approve(one, records_of(), data_set=DATA_SET)
        except (PrivacyError, StudyError, DataError) as error:
            refused = error.message
        head = {"kind": "sum-query", "study": one.hash, "index": 0, "function": "gradient",
                "nonce": "00" * NONCE_BYTES, "receipts": {}}  # fmt: skip
        expected = Refusal.NOT_APPROVED if refused else Refusal.MALFORMED
        assert refusal_of(site, encode(head, {})) == expected

    def test_lists_within_lists_are_malformed_however_deep(self):
        content = query_of(declaration_of())
        length = int.from_bytes(content[:4], "big")
        head, body = content[4 : 4 + length], content[4 + length :]
        assert head.count(b'"receipts":{}') == 1
        for depth in range(20, 1100, 20):
            nested = b"[" * depth + b'"no"' + b"]" * depth
            text = head.replace(b'"receipts":{}', b'"receipts":' + nested)
            assert (
                refusal_of(site_of(), len(text).to_bytes(4, "big") + text + body)
                == Refusal.MALFORMED
            )


SITES = {
    "normal": lambda: records_of(12),
    "full": lambda: records_of(40),
    "one": lambda: records_of(1),
    "empty": lambda: records_of(0),
    "not a number": lambda: records_of(12, odd=np.nan),
    "infinite": lambda: records_of(12, odd=np.inf),
    "huge": lambda: records_of(12, odd=-1e300),
    "tiny": lambda: records_of(12, odd=5e-324),
}


class TestNothingDependsOnTheData:
    @pytest.mark.parametrize("trust", ["local", "aggregate", "server"])
    @pytest.mark.parametrize(
        ("function", "settings_"),
        [
            ("gradient", {}), ("gradient", {"training": {"sampling_rate": 0.3}}), ("gradient", {"data": STANDARD}),
            ("moments", {"data": STANDARD}), ("delta", {"training": AVERAGING}),
            ("moments", {"training": AVERAGING, "data": STANDARD}),
            ("gradient", {"model": {"kind": "mlp", "hidden": (3,)}}),
            ("gradient", {"data": {"unit": "person", "sites_per_unit": 2}}),
        ],
    )  # fmt: skip
    def test_every_site_answers_in_one_form(self, trust, function, settings_):
        """Same length, same type, whatever the site holds: an empty one cannot be told by its message."""
        one = declaration_of(**settings_, privacy={"trust": trust})
        content, guarantee = query_of(one, function=function), Guarantee(one)
        sampled = (
            guarantee.stages[-1].sampling_rate < 1
        )  # then every site's accountant takes half a second
        names = ["normal", "empty", "not a number"] if sampled else list(SITES)
        unit = one.study.data.unit
        mechanism = guarantee.mechanism(function)
        answers = {}
        for name in names:
            site = site_of(SITES[name](), unit=unit)
            if guarantee.masked:
                site.approve(one, site.records, data_set=DATA_SET, roster=ROSTER)
                federation = Masked(one, ROSTER, {1: site.answer})
                federation.set_up()
                answers[name] = federation.upload(federation.begin(content))[1]
            else:
                answers[name] = site.answer(content)
            assert (site.problems == []) or name in ("not a number", "infinite", "huge")
        assert len({len(each) for each in answers.values()}) == 1
        largest = mechanism.clamp + mechanism.deviation.largest + 1
        for each in answers.values():
            if guarantee.masked:  # what the ring holds says nothing: the vector's form does
                vector = Upload.from_bytes(ReceiptedAnswer.from_bytes(each).answer).vector
                assert vector.shape == (mechanism.dimension,)
                assert vector.dtype == (np.uint32 if mechanism.bits == 32 else np.uint64)
            else:
                dtype = np.int32 if mechanism.bits == 32 else np.int64
                answered(each).checked(query_hash(content), mechanism.dimension, dtype, largest)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -1e300, 1e300])
    @pytest.mark.parametrize("settings_", [{}, {"training": {"sampling_rate": 0.3}}])
    def test_hostile_parameters_are_answered_alike_by_all(self, value, settings_):
        one = declaration_of(**settings_)
        parameters = {"weight": np.array([0.0, value, 1.0]), "bias": np.array(value)}
        content = query_of(one, parameters=parameters)
        names = ["normal", "empty", "huge"] if settings_ else list(SITES)
        assert len({len(site_of(SITES[name]()).answer(content)) for name in names}) == 1

    def test_refusals_are_the_same_whatever_the_site_holds(self):
        one = declaration_of(training={"rounds": 1})
        bad = [
            b"", query_of(one)[:-1], query_of(one, parameters={}), query_of(one, function="moments"),
            query_of(one), query_of(one, nonce=b"\1" * NONCE_BYTES), query_of(one, index=1),
        ]  # fmt: skip
        outcomes = set()
        for make in SITES.values():
            site, codes = site_of(make()), []
            for content in bad:
                try:
                    site.answer(content)
                    codes.append("answer")
                except RefusedError as refused:
                    codes.append(refused.refusal.name)
            outcomes.add(tuple(codes))
        assert outcomes == {
            ("MALFORMED", "MALFORMED", "MALFORMED", "MALFORMED", "answer", "OTHER_QUERY_ANSWERED", "TOO_MANY_QUERIES")
        }  # fmt: skip

    def test_the_nonce_of_an_answer_does_not_tell_a_query_from_its_repetition(self):
        """Every answer has a nonce of its own site's, so that nobody recognises one by guessing its content."""
        content = query_of(declaration_of())
        nonces = [answered(site_of(name=name).answer(content)).nonce for name in "ab"]
        assert nonces[0] != nonces[1]


class TestNoise:
    def clean(self, declaration, records, function="gradient"):
        """What the site's vectors add up to, scaled to integers but not rounded."""
        guarantee = Guarantee(declaration)
        _, parameters = decode(query_of(declaration, function=function))
        one = Contributor(guarantee, units_of(records, declaration.study))
        total = one.clipped_sum(function, parameters, np.ones(one.unit_count, np.bool_))
        return total * guarantee.mechanism(function).scale

    @pytest.mark.parametrize("training", [{}, AVERAGING])
    def test_with_trust_in_the_server_an_answer_is_rounded_and_no_more(self, training):
        one = declaration_of(privacy={"trust": "server"}, training=training)
        function = "delta" if training else "gradient"
        clean = self.clean(one, records_of(), function)
        found = integers_of(site_of(), one)
        assert np.abs(found - clean).max() < 1
        other = integers_of(site_of(entropy=reproducible("other")), one)
        assert np.abs(other - clean).max() < 1
        assert not np.array_equal(found, np.round(clean)) or not np.array_equal(
            other, np.round(clean)
        )

    @pytest.mark.parametrize("trust", ["local", "aggregate"])
    def test_an_answer_is_never_the_bare_sum(self, trust):
        one = declaration_of(privacy={"trust": trust})
        clean = self.clean(one, records_of())
        found = integers_of(site_of(), one)
        deviation = Guarantee(one).mechanism("gradient").deviation.sigma
        # five numbers all within a hundredth of a deviation of the sum: 0.008^5, 3e-11
        assert np.abs(found - clean).max() > deviation / 100

    def test_two_sites_with_the_systems_entropy_never_have_equal_noise(self):
        """No two of 40 answers of empty sites are equal, or opposite, or have more than one number in common."""
        one, content = declaration_of(), query_of(declaration_of())
        assert Guarantee(one).mechanism("gradient").deviation.sigma > 100
        answers = [
            vector_of(site_of(records_of(0), entropy=system_entropy).answer(content))
            for _ in range(40)
        ]
        # five numbers, each equal with probability 1 / (2 sigma sqrt(pi)) < 0.003: three alike in 780 pairs, 780 * 10 * 3e-8
        for number, first in enumerate(answers):
            for second in answers[:number]:
                assert max((first == second).sum(), (first == -second).sum()) < 4

    def test_the_systems_entropy_is_new_at_each_call_whatever_the_labels(self, monkeypatch):
        keys = {system_entropy("noise", "a", 0) for _ in range(100)}
        assert len(keys) == 100
        assert {len(each) for each in keys} == {KEY_BYTES}
        monkeypatch.setattr(secrets, "token_bytes", lambda count: b"x" * count)
        assert system_entropy("noise") == b"x" * KEY_BYTES

    def test_a_site_uses_the_systems_entropy_unless_told_otherwise(self):
        content = query_of(declaration_of())
        answers = {WillingSite("s", records_of(0)).answer(content) for _ in range(3)}
        assert len(answers) == 3

    def test_two_queries_with_the_same_parameters_have_noise_of_their_own(self):
        """Also where keys follow from a seed: study, number and purpose are all in the label."""
        site, found = site_of(records_of(0)), []
        for number in range(2):
            one = declaration_of(number=number)
            found += [vector_of(site.answer(query_of(one, index=index))) for index in range(4)]
        assert len({each.tobytes() for each in found}) == 8

    def test_every_purpose_has_a_key_of_its_own(self):
        labels = []

        def entropy(*given_):
            labels.append(given_)
            return derive_key(ROOT, *given_)

        one = declaration_of()
        site = site_of(entropy=entropy)
        for index in range(2):
            site.answer(query_of(one, index=index))
        assert len(set(labels)) == len(labels) == 8
        assert all(each[1:] in ((one.hash, 0), (one.hash, 1)) for each in labels)

    @pytest.mark.parametrize("trust", ["local", "aggregate"])
    def test_the_noise_of_an_answer_has_the_declared_deviation(self, trust):
        """Three empty sites, four queries of 1,951 numbers: chi-square of 23,412 values at 1e-6, power at 2/3 and 3/2.

        An empty site's sum is zero, which rounding leaves alone: the answer is its share of noise and nothing else.
        """
        features = tuple(f"f{number}" for number in range(194))
        study = study_of(
            data={"features": features, "classes": tuple("abcdefghij")}, model={"kind": "softmax"},
            training={"rounds": 4}, privacy={"trust": trust},
        )  # fmt: skip
        one = declaration_of(study)
        mechanism = Guarantee(one).mechanism("gradient")
        assert mechanism.dimension == 1951
        sites = [site_of(records_of(0, features=194), entropy=reproducible(name)) for name in "abc"]
        found = np.array(
            [
                [integers_of(site, one, query_of(one, index=index)) for site in sites]
                for index in range(4)
            ]
        )
        values = found.astype(np.float64).ravel()
        low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], values.size)
        statistic = float(np.square(values).sum()) / mechanism.deviation.variance
        assert low < statistic < high
        for wrong in (2 / 3, 3 / 2):
            assert not low < statistic / wrong**2 < high
        # k shares together are the noise that the accountant is told: 2 with aggregate trust, one with local
        shares = 2 if trust == "aggregate" else 1
        claimed = 3.0 * mechanism.scale  # z s C, the least that Delta(s) can be
        assert (
            math.sqrt(shares * statistic / values.size) * mechanism.deviation.sigma > 0.97 * claimed
        )
        # shares of different sites, and of one site at different times, are uncorrelated: 6 deviations of 1 / sqrt(1951)
        flat = found.reshape(12, -1).astype(np.float64)
        correlation = np.corrcoef(flat)[np.triu_indices(12, 1)]
        assert np.abs(correlation).max() < 6 / math.sqrt(1951)

    def test_the_sum_over_sites_is_the_sum_over_their_records_within_its_noise(self):
        """Three sites with records, 50 studies: mean and variance of the released error, at 1e-6."""
        errors, shares = [], [records_of(count) for count in (3, 12, 25)]
        for number in range(50):
            one = declaration_of(number=number)
            mechanism = Guarantee(one).mechanism("gradient")
            clean = sum(self.clean(one, each) for each in shares)
            sites = [site_of(each, name=name) for name, each in zip("abc", shares, strict=True)]
            total = sum(vector_of(site.answer(query_of(one))).astype(np.int64) for site in sites)
            errors.append((total - clean) / (mechanism.deviation.sigma * math.sqrt(3)))
        errors = np.ravel(errors)
        low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], errors.size)
        assert low < np.square(errors).sum() < high
        assert abs(errors.mean()) * math.sqrt(errors.size) < 5


class TestSampling:
    def test_units_take_part_with_the_declared_rate(self):
        """A sum of moments counts nobody, so the sample is read off gradients of one class: 150 draws of 40 units.

        The count of the drawn follows Binomial(6,000, 0.3): within 5 deviations of 35 each, and power at 2/3 and 3/2.
        """
        one = declaration_of(
            training={"rounds": 150, "sampling_rate": 0.3, "signal": False}, privacy={"trust": "server"},
        )  # fmt: skip
        records = Records(
            np.zeros((40, 3)), np.ones(40, np.int64), np.arange(40), [b"%d" % each for each in range(40)],
            np.ones(40, np.bool_), "equal",
        )  # fmt: skip
        site, scale = site_of(records), Guarantee(one).mechanism("gradient").scale
        site.approve(one, records, data_set=DATA_SET, roster=ROSTER)
        federation, drawn = Masked(one, ROSTER, {1: site.answer}), 0.0
        for index in range(150):
            bias = federation.sum(query_of(one, index=index))[-1] / scale
            drawn += round(-bias / 0.5)  # the gradient of the bias is sigmoid(0) - 1, and below C
        expected, deviation = 6_000 * 0.3, math.sqrt(6_000 * 0.3 * 0.7)
        assert abs(drawn - expected) < 5 * deviation
        for wrong in (2 / 3, 3 / 2):
            assert abs(drawn * wrong - expected) > 5 * deviation

    def test_a_site_whose_sample_is_empty_answers_all_the_same(self):
        one = declaration_of(training={"sampling_rate": 1e-9})
        found = vector_of(site_of().answer(query_of(one)))
        assert np.array_equal(found, vector_of(site_of(records_of(0)).answer(query_of(one))))


def test_units_are_the_training_part_clamped_and_scaled():
    records = Records(
        np.array([[-5.0, 5.0, 99.0], [1.0, 2.0, 3.0], [np.nan, 0.0, 10.0]]), np.array([0, 1, 0]), np.arange(3),
        [b"a", b"b", b"c"], np.array([True, False, True]), "records",
    )  # fmt: skip
    found = units_of(records, study_of())
    assert np.array_equal(found.features, [[0.0, 0.5, 1.0], [np.nan, 0.0, 1.0]], equal_nan=True)
    assert (found.labels.tolist(), found.groups.tolist(), found.count) == ([0, 0], [0, 1], 2)
    everybody = scaled_units(records, study_of())
    assert everybody.count == 3


def test_labels_of_a_regression_are_clamped_and_scaled():
    study = study_of(data={"task": "regression"}, model={"kind": "linear"})
    records = Records(
        np.zeros((4, 3)), np.array([0.0, 0.5, 7.0, -np.inf]), np.arange(4), [b"a", b"b", b"c", b"d"],
        np.ones(4, np.bool_), "records",
    )  # fmt: skip
    assert units_of(records, study).labels.tolist() == [-1.0, 0.0, 1.0, -1.0]
