"""Releases as a forger would write them, who has all that a coordinator has and lacks the sites' keys.

What he changes he changes everywhere: hashes of files, of queries and of transcripts, the model that follows, and the
figures. Each of them is refused in words; what cannot be, and why, has a test of its own.
"""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from audit.release import ReleaseError, verify_release
from gradients import Parameters
from privacy.errors import UserError
from privacy.private_sum import released_sum
from privacy.secure_aggregation.messages import RoundRequest, SetupKey
from privacy.secure_aggregation.site import transcript_of
from server.card import render_card
from server.release import released_model
from server.sums import Receipts
from simulations.run import Options, simulate
from study.aggregation import federation_of
from study.canonical import canonical_json
from study.contract import Sites
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.plans import Received, start_plan
from study.queries import SumQuery, query_hash
from study.receipts import chain_from_values
from study.roster import SignedRoster
from study.templates import template_study


def study_of(trust):
    base = template_study("breast-cancer")
    privacy = replace(base.privacy, trust=trust, max_dropouts=1)
    training = replace(base.training, rounds=8, spare_rounds=6)
    return replace(base, privacy=privacy, training=training, sites=Sites(minimum=5))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Of a run in which sometimes nobody was missing, sometimes somebody, and sometimes too many."""
    place = tmp_path_factory.mktemp("releases")
    for trust in ("aggregate", "local"):
        simulate(study_of(trust), Options(out=place / trust, drop=0.15, seed=10))
    return place


class Forgery:
    """A copy of a release, to be changed at will and told again."""

    def __init__(self, directory):
        self.directory = directory
        self.manifest = json.loads((directory / "manifest.json").read_text())
        self.queries = self.manifest["queries"]
        self.sums = load_file(directory / "sums.safetensors")
        declaration = Declaration.from_bytes((directory / "declaration.json").read_bytes())
        self.guarantee = Guarantee(declaration)
        self.roster = SignedRoster.from_bytes((directory / "roster.json").read_bytes()).roster

    def found(self, *, missing):
        """The first query with a sum over all that were asked, or over some, but not the last of all."""
        return next(
            each
            for each in self.queries[1:-1]
            if not each["abandoned"] and (set(each["survivors"]) != set(each["cohort"])) == missing
        )

    def retell(self):
        """Everything that follows from the sums, told anew, whatever the sites have signed."""
        plan, receipts = start_plan(self.guarantee), Receipts(self.roster)
        ask, model = next(plan), None
        for index, query in enumerate(self.queries):
            query |= {"index": index, "function": ask.function, "round": ask.round}
            self._name(query, ask, receipts.for_query(index))
            receipts.heard(query["refusals"])
            for name, values in query["receipts"].items():
                receipts.keep(name, chain_from_values(values), index=index)
            if not query["abandoned"]:
                total = released_sum(
                    self.guarantee.mechanism(ask.function), self.sums[f"{index:06d}"]
                )
                try:
                    ask = plan.send(Received(total=total, sites=len(query["survivors"])))
                except StopIteration as end:
                    model = dict(end.value)
                    break
        self.write_model(model)
        return self

    def _name(self, query, ask, receipts):
        payload = SumQuery(
            study=self.guarantee.declaration.hash, index=query["index"], function=ask.function,
            parameters=ask.parameters, nonce=bytes.fromhex(query["nonce"]), receipts=receipts,
        ).to_bytes()  # fmt: skip
        query["query_hash"] = query["transcript"] = query_hash(payload)
        if self.guarantee.masked:
            members = tuple(
                SetupKey.from_bytes(bytes.fromhex(each))
                for each in self.manifest["sessions"][query["session"]]
            )
            mechanism = self.guarantee.mechanism(ask.function)
            request = RoundRequest(round=query["index"], payload=payload, members=members)
            query["transcript"] = transcript_of(
                federation_of(self.guarantee, self.roster), request, bits=mechanism.bits, dimension=mechanism.dimension
            ).hex()  # fmt: skip

    def write_model(self, model: Parameters, **metadata):
        tensors, about = released_model(self.guarantee, model)
        save_file(tensors, self.directory / "model.safetensors", metadata=about | metadata)
        few = {name: np.asarray(value).tolist() for name, value in model.items()}
        self.tell("summary.json", parameters=few)

    def tell(self, name, **changed):
        """Other figures in a file of JSON, and a card that says them too."""
        path = self.directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
        self.write_card()

    def write_card(self):
        said = {
            name: json.loads((self.directory / f"{name}.json").read_text())
            for name in ("summary", "privacy")
        }
        card = render_card(study=self.guarantee.study, **said)
        (self.directory / "card.md").write_text(card)

    def sign(self):
        """The manifest, with the hashes of the files as they are now."""
        save_file(self.sums, self.directory / "sums.safetensors")
        self.manifest["files"] = {
            name: hashlib.sha256((self.directory / name).read_bytes()).hexdigest()
            for name in self.manifest["files"]
            if (self.directory / name).exists()
        }
        (self.directory / "manifest.json").write_text(json.dumps(self.manifest))
        return self

    def refused(self, match):
        self.sign()
        with pytest.raises(ReleaseError, match=match):
            verify_release(self.directory)


@pytest.fixture(params=["aggregate", "local"])
def forgery(request, honest, tmp_path):
    return Forgery(shutil.copytree(honest / request.param, tmp_path / "release"))


@pytest.fixture
def masked(honest, tmp_path):
    return Forgery(shutil.copytree(honest / "aggregate", tmp_path / "release"))


OTHER_MODEL = "Expected the query at the model that follows from the sums, found another"
OTHER_QUERY = "Expected a receipt of site-[1-5] of this query, found one of another"


def test_what_is_told_again_as_it_was_verifies(forgery):
    forgery.retell().sign()
    verify_release(forgery.directory)


def test_a_run_that_went_on_without_its_scaling_sum_verifies(tmp_path):
    """Too few sites had a key at the first query, for which there is no spare."""
    simulate(study_of("aggregate"), Options(out=tmp_path / "release", drop=0.15, seed=11))
    queries = json.loads((tmp_path / "release" / "manifest.json").read_text())["queries"]
    assert (queries[0]["function"], queries[0]["abandoned"]) == ("moments", True)
    assert verify_release(tmp_path / "release").sums == 8


class TestSums:
    def test_all_of_them_replaced_and_the_model_replayed(self, forgery):
        before = [(each["query_hash"], each["transcript"]) for each in forgery.queries]
        generator = np.random.default_rng(1)
        for total in forgery.sums.values():
            total[:] = generator.integers(-(10**6), 10**6, total.shape)
        forgery.retell()
        forgery.refused(f"^Query [1-9]: {OTHER_QUERY}")
        for query, (asked, _) in zip(forgery.queries, before, strict=True):
            query["query_hash"] = asked
        forgery.refused(f"^Query [1-9]: {OTHER_MODEL}")
        forgery.retell()
        for query, (_, transcript) in zip(forgery.queries, before, strict=True):
            query["transcript"] = transcript
        forgery.refused("^Query [1-9]: Expected the transcript of the query at the model")

    def test_two_of_them_swapped_and_the_model_replayed(self, forgery):
        one, other = list(forgery.sums)[2:4]
        forgery.sums[one], forgery.sums[other] = forgery.sums[other], forgery.sums[one]
        forgery.retell().refused(OTHER_QUERY)

    def test_any_but_the_last_changed_by_one(self, forgery):
        name = list(forgery.sums)[-2]
        forgery.sums[name][0] += 1
        forgery.retell().refused(OTHER_QUERY)

    def test_the_last_one_rests_on_the_word_of_the_coordinator(self, forgery):
        """No later query is asked at the model that it makes: docs/secure-aggregation.md names this limit."""
        forgery.sums[list(forgery.sums)[-1]][0] += 10**6
        verify_release(forgery.retell().sign().directory)

    def test_one_called_abandoned(self, forgery):
        query = forgery.found(missing=False)
        query["abandoned"] = True
        del forgery.sums[f"{query['index']:06d}"]
        forgery.refused(f"^Query {query['index'] + 1}: Expected query")

    def test_the_round_after_it_told_as_its_second_try(self, forgery):
        query = forgery.found(missing=False)
        query["abandoned"] = True
        del forgery.sums[f"{query['index']:06d}"]
        forgery.queries[query["index"] + 1]["round"] = query["round"]
        forgery.refused(f"^Query {query['index'] + 1}: {OTHER_MODEL}")

    def test_abandoned_queries_left_out(self, forgery):
        abandoned = [each for each in forgery.queries if each["abandoned"]]
        assert abandoned
        kept = [each for each in forgery.queries if not each["abandoned"]]
        forgery.queries[:] = kept
        forgery.refused("Expected query [0-9]+, for round [0-9]+, found another")
        forgery.sums = {f"{number:06d}": forgery.sums[f"{each['index']:06d}"] for number, each in enumerate(kept)}  # fmt: skip
        forgery.retell().refused(OTHER_QUERY)

    def test_one_too_many(self, forgery):
        forgery.sums["999999"] = forgery.sums[next(iter(forgery.sums))]
        forgery.refused(r"Expected \d+ sums, found \d+")


class TestWhoTookPart:
    def test_the_cohort_said_to_be_the_survivors_without_their_signatures(self, masked):
        query = masked.found(missing=True)
        query["cohort"], query["signatures"] = query["survivors"], {}
        masked.refused("Expected the members of the session to have been asked")

    def test_and_with_a_session_of_theirs(self, masked):
        query = masked.found(missing=True)
        numbers = {name: number for number, name in masked.roster.names.items()}
        keys = [bytes.fromhex(each) for each in masked.manifest["sessions"][query["session"]]]
        kept = [
            each
            for each in keys
            if SetupKey.from_bytes(each).site in {numbers[name] for name in query["survivors"]}
        ]
        masked.manifest["sessions"]["theirs"] = [each.hex() for each in kept]
        query |= {"session": "theirs", "cohort": query["survivors"], "signatures": {}}
        masked.refused("Expected the transcript of the query")
        masked.retell().refused(OTHER_QUERY)

    def test_no_session_at_all(self, masked):
        query = masked.found(missing=True)
        query |= {"session": "none", "cohort": query["survivors"], "signatures": {}}
        masked.manifest["sessions"]["none"] = []
        masked.refused("Expected the transcript of the query")
        query["transcript"] = query["query_hash"]
        masked.refused(OTHER_QUERY)

    def test_one_survivor_taken_out_of_a_sum_and_its_cohort(self, masked):
        query = masked.found(missing=False)
        gone = query["survivors"].pop()
        query["cohort"].remove(gone)
        del query["receipts"][gone]
        masked.refused("Expected the members of the session to have been asked")

    def test_one_survivor_taken_out_of_a_sum(self, masked):
        query = masked.found(missing=False)
        del query["receipts"][query["survivors"].pop()]
        masked.refused("Expected at least 4 survivors to have signed the set")

    def test_one_that_was_missing_added(self, forgery):
        query = forgery.found(missing=True)
        gone = next(name for name in query["cohort"] if name not in query["survivors"])
        query["survivors"].append(gone)
        forgery.refused("a receipt of each")

    @pytest.mark.parametrize("emptied", [True, False])
    def test_receipts_that_are_not_those_of_the_manifest(self, forgery, emptied):
        path = forgery.directory / "receipts" / "site-1.jsonl"
        if emptied:
            path.write_bytes(b"")
        else:
            path.unlink()
            del forgery.manifest["files"]["receipts/site-1.jsonl"]
        forgery.refused("receipts/: expected the receipts of the manifest, found others")


class TestModel:
    def test_public_bounds_altered(self, forgery):
        path = forgery.directory / "model.safetensors"
        tensors = load_file(path)
        tensors["scaling.low"] = tensors["scaling.low"] - 1
        with safe_open(path, "np") as file:
            save_file(tensors, path, metadata=file.metadata())
        forgery.refused("The model does not follow from the sums: scaling.low is off by 1")

    def test_the_names_of_the_classes_swapped(self, forgery):
        path = forgery.directory / "model.safetensors"
        with safe_open(path, "np") as file:
            about = json.loads(file.metadata()["discreet"])
        about["classes"].reverse()
        save_file(load_file(path), path, metadata={"discreet": json.dumps(about, sort_keys=True)})
        forgery.refused("The model says something else of itself")

    @pytest.mark.parametrize("change", ["added", "taken away", "another type", "another shape"])
    def test_other_tensors(self, forgery, change):
        path = forgery.directory / "model.safetensors"
        tensors = load_file(path)
        name = next(name for name in tensors if not name.startswith("scaling"))
        value = tensors.pop(name)
        if change == "added":
            tensors |= {name: value, "extra": np.ones(3)}
        elif change == "another type":
            tensors[name] = value.astype(np.float16)
        elif change == "another shape":
            tensors[name] = np.stack([value, value])
        with safe_open(path, "np") as file:
            save_file(tensors, path, metadata=file.metadata())
        forgery.refused(
            "Expected (tensors .* in the model, found others|.* of another shape or type)"
        )

    def test_numbers_that_are_not_finite(self, forgery):
        path = forgery.directory / "model.safetensors"
        tensors = load_file(path)
        next(value for name, value in tensors.items() if not name.startswith("scaling")).fill(np.nan)  # fmt: skip
        with safe_open(path, "np") as file:
            save_file(tensors, path, metadata=file.metadata())
        forgery.refused("The model does not follow from the sums")


class TestFigures:
    @pytest.mark.parametrize("file", ["privacy.json", "summary.json"])
    def test_an_epsilon_of_a_hundredth(self, forgery, file):
        forgery.tell(file, epsilon=0.01)
        forgery.refused(f"{file}: expected epsilon as it follows from the declaration")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("delta", 1e-12), ("noise_multiplier", 99.0), ("sites", 50), ("masked", None), ("trust", "nobody"),
            ("epsilon_against_server", 0.01), ("rounds", 7000), ("rounds_abandoned", 77), ("parameters", {"w": [1.0]}),
            ("study", "Another name"), ("rounds_declared", 1), ("model", "mlp"), ("purpose", "none"),
        ],
    )  # fmt: skip
    def test_other_figures_of_the_summary(self, forgery, name, value):
        forgery.tell("summary.json", **{name: value})
        forgery.refused(f"summary.json: expected {name} as it follows from")

    def test_a_card_that_says_something_else(self, forgery):
        path = forgery.directory / "card.md"
        path.write_text(path.read_text() + "\nepsilon is 0.01\n")
        forgery.refused("card.md: expected the card that follows")

    def test_a_guarantee_that_speaks_of_more(self, forgery):
        forgery.tell("privacy.json", covered=["Everything."], not_covered=[])
        forgery.refused("privacy.json: expected covered")


class TestFiles:
    def test_no_files_named(self, forgery):
        forgery.manifest["files"] = {}
        forgery.refused("Expected the files of the manifest alone, found card.md")

    @pytest.mark.parametrize("name", ["stray.txt", "receipts/site-9.jsonl", "sites/.hidden"])
    def test_a_stray_file(self, forgery, name):
        path = forgery.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        forgery.refused(f"Expected the files of the manifest alone, found {name}")

    def test_a_stray_file_that_the_manifest_names_is_no_harm_but_no_receipt(self, forgery):
        name = "receipts/site-9.jsonl"
        (forgery.directory / name).write_text("")
        forgery.manifest["files"][name] = ""
        forgery.refused("receipts/: expected the receipts of the manifest")

    def test_a_file_outside_of_the_release(self, forgery):
        other = forgery.directory.parent / "other"
        other.write_text("")
        forgery.sign()
        forgery.manifest["files"]["../other"] = hashlib.sha256(b"").hexdigest()
        (forgery.directory / "manifest.json").write_text(json.dumps(forgery.manifest))
        with pytest.raises(ReleaseError, match=r"Expected \.\./other, as the manifest names it"):
            verify_release(forgery.directory)


class TestDeclaration:
    def test_noise_that_does_not_buy_its_epsilon(self, forgery):
        path = forgery.directory / "declaration.json"
        values = json.loads(path.read_text())
        values["noise_multiplier"] /= 2
        path.write_bytes(canonical_json(values))
        forgery.manifest["study_hash"] = Declaration.from_bytes(path.read_bytes()).hash
        forgery.refused("(?i)epsilon")


def _set(*path, value):
    def change(manifest):
        *most, last = path
        for each in most:
            manifest = manifest[each]
        manifest[last] = value

    return change


def _drop(*path):
    def change(manifest):
        *most, last = path
        for each in most:
            manifest = manifest[each]
        del manifest[last]

    return change


QUERY_KEYS = (
    "index", "function", "round", "query_hash", "survivors", "abandoned", "nonce", "transcript", "cohort", "signatures",
    "receipts", "session",
)  # fmt: skip
WRONG = (None, 7, -1, 1.5, "text", [], {}, [None], {"site-1": None}, [[]], True)


@pytest.mark.parametrize("key", QUERY_KEYS)
def test_a_query_without_a_part_or_with_another_kind_of_it_is_refused_in_words(masked, key):
    index = masked.found(missing=True)["index"]
    told = json.dumps(masked.manifest)
    changes = [_drop("queries", index, key)] + [
        _set("queries", index, key, value=value)
        for value in WRONG
        if not (key == "abandoned" and value in (None, [], {}))
    ]
    for change in changes:
        masked.manifest = json.loads(told)
        change(masked.manifest)
        masked.sign()
        with pytest.raises(ReleaseError) as refused:
            verify_release(masked.directory)
        assert refused.value.message.startswith(("Query ", "Expected ")), key


@pytest.mark.parametrize("key", ["study_hash", "files", "queries", "sessions"])
def test_a_manifest_without_a_part_or_with_another_kind_of_it_is_refused_in_words(masked, key):
    masked.sign()
    path = masked.directory / "manifest.json"
    told = path.read_text()
    for value in ("drop", *WRONG):
        manifest = json.loads(told)
        if value == "drop":
            del manifest[key]
        else:
            manifest[key] = value
        path.write_text(json.dumps(manifest))
        with pytest.raises((ReleaseError, UserError), match="Expected|is no release"):
            verify_release(masked.directory)
