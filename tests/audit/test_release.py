"""A release convicts whoever has changed it; whoever made it honestly can show that its model follows from its sums."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from audit.release import ReleaseError, verify_release
from privacy.errors import UserError
from privacy.keystream import derive_key
from privacy.private_sum import released_sum
from privacy.signing import SigningKey
from server.card import render_card
from server.release import few_parameters, released_model
from simulations.run import Options, simulate
from study.canonical import canonical_json
from study.contract import Privacy, Sites
from study.declaration import Declaration
from study.guarantee import Guarantee
from study.plans import Received, start_plan
from study.receipts import SignedReceipt
from study.roster import SignedRoster
from study.templates import template_study


def study_of(*, trust="aggregate", missing=1, spares=4):
    base = template_study("breast-cancer")
    privacy = replace(base.privacy, trust=trust, max_dropouts=missing)
    training = replace(base.training, rounds=12, spare_rounds=spares)
    return replace(base, privacy=privacy, training=training, sites=Sites(minimum=5))


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """By level of trust: sometimes a site is missing, sometimes nobody."""
    place = tmp_path_factory.mktemp("releases")
    for trust in ("aggregate", "local", "server", "unsafe"):
        simulate(
            study_of(trust=trust) if trust != "unsafe" else unsafe(),
            Options(out=place / trust, drop=0.1, seed=10),
        )
    return place


def unsafe():
    base = study_of()
    return replace(base, privacy=Privacy(trust="unsafe", max_dropouts=1))


@pytest.fixture
def release(releases, tmp_path):
    """A copy of the masked one, to be spoilt."""
    return shutil.copytree(releases / "aggregate", tmp_path / "release")


def manifest_of(release):
    return json.loads((release / "manifest.json").read_text())


def rewrite(release, change):
    """Change the manifest, and let it name the files as they are: a forger does that much."""
    import hashlib

    manifest = manifest_of(release)
    change(manifest)
    manifest["files"] = {
        name: hashlib.sha256((release / name).read_bytes()).hexdigest()
        for name in manifest["files"]
    }
    (release / "manifest.json").write_text(json.dumps(manifest))


def masked_queries(release):
    """The first query with somebody missing, and the first with nobody, of those that have a sum."""
    queries = [each for each in manifest_of(release)["queries"] if not each["abandoned"]]
    some = next(each for each in queries if set(each["survivors"]) != set(each["cohort"]))
    everybody = next(each for each in queries if set(each["survivors"]) == set(each["cohort"]))
    return some["index"], everybody["index"]


@pytest.mark.parametrize("trust", ["aggregate", "local", "server", "unsafe"])
def test_an_honest_release_verifies_and_its_model_follows_from_its_sums(releases, trust):
    verdict = verify_release(releases / trust)
    assert verdict.deviation == 0
    assert verdict.sums == (13 if trust != "unsafe" else verdict.sums)
    assert verdict.receipts >= 4 * verdict.sums
    assert verdict.signatures >= (8 if trust in ("aggregate", "server") else 0)


def test_the_roster_is_the_one_that_the_auditor_trusts(releases):
    fingerprint = verify_release(releases / "aggregate").roster
    assert verify_release(releases / "aggregate", fingerprint=fingerprint).roster == fingerprint
    with pytest.raises(ReleaseError, match="Expected the roster 0000"):
        verify_release(releases / "aggregate", fingerprint="0000")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "roster.json", "summary.json", "receipts/site-1.jsonl"]
)
def test_a_file_that_was_changed_or_taken_away_is_named(release, name):
    path = release / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ReleaseError, match=f"{name} is not the file that the manifest names"):
        verify_release(release)
    path.unlink()
    with pytest.raises(ReleaseError, match=f"Expected {name}"):
        verify_release(release)


def model_of_release(release):
    """Tensors and metadata."""
    with safe_open(release / "model.safetensors", "np") as file:
        return load_file(release / "model.safetensors"), file.metadata()


def resave(release, tensors, metadata):
    save_file(
        {name: np.asarray(each) for name, each in tensors.items()},
        release / "model.safetensors",
        metadata,
    )
    rewrite(release, lambda _manifest: None)


def replayed_over(release, totals):
    """A forger's best: other sums, and the very model that follows from them."""
    save_file(totals, release / "sums.safetensors")
    guarantee = Guarantee(Declaration.from_bytes((release / "declaration.json").read_bytes()))
    plan = start_plan(guarantee)
    ask = next(plan)
    for query in manifest_of(release)["queries"]:
        if not query["abandoned"]:
            mechanism = guarantee.mechanism(ask.function)
            total = released_sum(mechanism, totals[f"{query['index']:06d}"])
            try:
                ask = plan.send(Received(total=total, sites=len(query["survivors"])))
            except StopIteration as end:
                model = end.value
    resave(release, *released_model(guarantee, model))
    summary, privacy = (
        json.loads((release / f"{name}.json").read_text()) for name in ("summary", "privacy")
    )
    summary["parameters"] = few_parameters(model)
    (release / "summary.json").write_text(json.dumps(summary))
    card = render_card(study=guarantee.study, summary=summary, privacy=privacy)
    (release / "card.md").write_text(card)
    rewrite(release, lambda _manifest: None)


def test_another_model_does_not_follow_from_the_sums(release):
    model, metadata = model_of_release(release)
    name = next(name for name in model if not name.startswith("scaling"))
    resave(release, model | {name: np.asarray(model[name] + 1e-3, model[name].dtype)}, metadata)
    with pytest.raises(ReleaseError, match="does not follow from the sums"):
        verify_release(release)


def test_another_sum_is_another_model_than_the_sites_were_asked_at(release):
    totals = load_file(release / "sums.safetensors")
    totals["000003"][0] += 10**6
    replayed_over(release, totals)
    with pytest.raises(ReleaseError, match="Query 4: Expected the query at the model that follows"):
        verify_release(release)


def test_two_sums_cannot_be_swapped(release):
    totals = load_file(release / "sums.safetensors")
    totals["000003"], totals["000005"] = totals["000005"], totals["000003"]
    replayed_over(release, totals)
    with pytest.raises(ReleaseError, match="Query 4: Expected the query at the model that follows"):
        verify_release(release)


def test_the_last_sum_rests_on_the_coordinators_word(release):
    """Documented: no later query attests it."""
    totals = load_file(release / "sums.safetensors")
    totals[max(totals)][0] += 10**6
    replayed_over(release, totals)
    assert verify_release(release).deviation == 0


@pytest.mark.parametrize("name", ["scaling.low", "scaling.high"])
def test_public_bounds_are_those_of_the_declaration(release, name):
    model, metadata = model_of_release(release)
    resave(release, model | {name: model[name] + 1.0}, metadata)
    with pytest.raises(ReleaseError, match=f"{name} is off by 1"):
        verify_release(release)


def test_the_model_has_no_other_tensors_and_says_nothing_else_of_itself(release):
    model, metadata = model_of_release(release)
    resave(release, model | {"extra": np.zeros(3)}, metadata)
    with pytest.raises(ReleaseError, match="found others"):
        verify_release(release)
    about = metadata["discreet"].replace('["benign", "malignant"]', '["malignant", "benign"]')
    assert about != metadata["discreet"]
    resave(release, model, {"discreet": about})
    with pytest.raises(ReleaseError, match="says something else of itself"):
        verify_release(release)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("privacy.json", '"epsilon": 3.0', '"epsilon": 0.01'), ("summary.json", '"epsilon": ', '"epsilon": 0.01, "x": '),
        ("card.md", "ε = 3.00", "ε = 0.01"),
    ],
)  # fmt: skip
def test_what_people_read_follows_from_the_declaration(release, name, old, new):
    path = release / name
    text = path.read_text(encoding="utf-8")
    if old not in text:  # epsilon is printed with all of its digits
        old = re.search(r'"epsilon": [0-9.]+', text)[0]
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    rewrite(release, lambda _manifest: None)
    with pytest.raises(ReleaseError, match=name):
        verify_release(release)


def test_every_file_is_named_and_every_receipt_stands_in_its_file(release):
    (release / "receipts" / "site-1.jsonl").write_bytes(b"")
    rewrite(release, lambda _manifest: None)
    with pytest.raises(ReleaseError, match="expected the receipts of the manifest"):
        verify_release(release)
    (release / "stray").write_text("more")
    with pytest.raises(ReleaseError, match="Expected the files of the manifest alone, found stray"):
        verify_release(release)
    rewrite(release, lambda manifest: manifest["files"].clear())
    with pytest.raises(ReleaseError, match="Expected the files of the manifest alone"):
        verify_release(release)


def test_a_cohort_cannot_be_made_smaller_to_spare_signatures(release):
    some, _ = masked_queries(release)

    def shrink(manifest):
        query = manifest["queries"][some]
        query["cohort"], query["signatures"] = query["survivors"], {}

    rewrite(release, shrink)
    with pytest.raises(
        ReleaseError, match=f"Query {some}: Expected the members of the session to have been asked"
    ):
        verify_release(release)


def test_a_survivor_cannot_be_left_out_of_a_sum(release):
    """The divisor of the mean would change."""
    _, everybody = masked_queries(release)

    def leave_out(manifest):
        query = manifest["queries"][everybody]
        name = query["survivors"].pop()
        query["cohort"].remove(name)
        del query["receipts"][name]

    rewrite(release, leave_out)
    with pytest.raises(ReleaseError, match=f"Query {everybody}: "):
        verify_release(release)


def test_a_query_can_be_neither_left_out_nor_called_abandoned(release):
    rewrite(release, lambda manifest: manifest["queries"].pop(4))
    with pytest.raises(ReleaseError, match="Query 4: Expected query 4, for round 4, found another"):
        verify_release(release)


def test_a_sum_that_is_called_abandoned_is_missed_by_the_next_query(release):
    def abandon(manifest):
        manifest["queries"][4]["abandoned"] = True

    totals = load_file(release / "sums.safetensors")
    del totals["000004"]
    save_file(totals, release / "sums.safetensors")
    rewrite(release, abandon)
    with pytest.raises(ReleaseError, match="Query 5: Expected query 5, for round 4, found another"):
        verify_release(release)


def test_a_declaration_has_to_buy_the_epsilon_that_it_promises(releases, tmp_path):
    release = shutil.copytree(releases / "local", tmp_path / "release")
    values = json.loads((release / "declaration.json").read_text())
    values["noise_multiplier"] = values["noise_multiplier"] / 2
    forged = canonical_json(values)
    (release / "declaration.json").write_bytes(forged)
    rewrite(
        release, lambda manifest: manifest.update(study_hash=Declaration.from_bytes(forged).hash)
    )
    with pytest.raises(ReleaseError, match="Expected noise for epsilon=3"):
        verify_release(release)


@pytest.mark.parametrize(
    "change",
    [
        lambda query: query.pop("abandoned"), lambda query: query.pop("nonce"), lambda query: query.update(receipts=5),
        lambda query: query.update(survivors=None), lambda query: query.update(session="none such"),
        lambda query: query.update(nonce="zz"), lambda query: query.update(index="0"), lambda query: query.update(cohort={}),
    ],
)  # fmt: skip
def test_whatever_is_missing_or_of_another_kind_is_a_contradiction(release, change):
    rewrite(release, lambda manifest: change(manifest["queries"][2]))
    with pytest.raises(ReleaseError, match="Expected"):
        verify_release(release)


def test_sums_can_be_neither_left_out_nor_added(release):
    rewrite(release, lambda manifest: manifest["queries"].pop())
    with pytest.raises(ReleaseError, match="Expected sums up to the end of training, found fewer"):
        verify_release(release)


def test_a_set_of_survivors_needs_enough_signatures_of_that_very_set(release):
    some, _ = masked_queries(release)

    def drop_one(manifest):
        signatures = manifest["queries"][some]["signatures"]
        del signatures[next(iter(signatures))]

    rewrite(release, drop_one)
    with pytest.raises(
        ReleaseError, match=f"Query {some}: Expected at least 4 survivors to have signed"
    ):
        verify_release(release)


def test_a_signature_of_another_set_is_none(release):
    some, _ = masked_queries(release)

    def swap(manifest):
        other = next(
            each for each in manifest["queries"] if each["signatures"] and each["index"] != some
        )
        manifest["queries"][some]["signatures"] = other["signatures"]

    rewrite(release, swap)
    with pytest.raises(
        ReleaseError, match=r"Expected a signature \(survivors\)|to have signed the set"
    ):
        verify_release(release)


def test_every_survivor_has_a_receipt_and_nobody_else_one(release):
    _, everybody = masked_queries(release)
    rewrite(release, lambda manifest: manifest["queries"][everybody]["receipts"].popitem())
    with pytest.raises(ReleaseError, match="a receipt of each"):
        verify_release(release)


def test_a_sum_over_too_few_is_refused(release):
    _, everybody = masked_queries(release)

    def fewer(manifest):
        query = manifest["queries"][everybody]
        for name in query["survivors"][:2]:
            del query["receipts"][name]
        query["survivors"] = query["survivors"][2:]

    rewrite(release, fewer)
    with pytest.raises(ReleaseError, match="over at least 4 sites"):
        verify_release(release)


def test_a_receipt_is_of_this_query_and_by_this_site(release):
    _, everybody = masked_queries(release)

    def swap_sites(manifest):
        receipts = manifest["queries"][everybody]["receipts"]
        one, other, *_ = receipts
        receipts[one], receipts[other] = receipts[other], receipts[one]

    rewrite(release, swap_sites)
    with pytest.raises(ReleaseError, match=r"Expected a signature \(receipt\)"):
        verify_release(release)


def test_a_receipt_of_another_query_is_none(release):
    _, everybody = masked_queries(release)
    queries = manifest_of(release)["queries"]
    name = queries[everybody]["survivors"][0]
    other = next(
        each for each in queries if each["index"] != everybody and name in each["receipts"]
    )

    def swap(manifest):
        manifest["queries"][everybody]["receipts"][name] = other["receipts"][name]

    rewrite(release, swap)
    with pytest.raises(ReleaseError, match="of this query, found one of another"):
        verify_release(release)


def test_a_ledger_that_went_back_is_found_in_the_receipts(release):
    """Site 1 has signed a second receipt with the number of an earlier entry, as from a restored copy."""
    root = derive_key(b"discreet simulation", 10)
    key = SigningKey.from_seed(derive_key(root, "site-1", "identity"))
    queries = [each for each in manifest_of(release)["queries"] if "site-1" in each["receipts"]]

    def go_back(manifest):
        first, last = (
            manifest["queries"][each["index"]]["receipts"] for each in (queries[0], queries[-1])
        )
        early = SignedReceipt.from_values(first["site-1"][-1]).receipt
        late = SignedReceipt.from_values(last["site-1"][-1]).receipt
        again = replace(late, sequence=early.sequence, head=early.head)
        last["site-1"] = [SignedReceipt.sign(again, key).to_values()]

    rewrite(release, go_back)
    with pytest.raises(ReleaseError, match="Expected the ledger of site-1 to go on"):
        verify_release(release)


def test_a_roster_that_was_not_declared_is_refused(release):
    signed = SignedRoster.from_bytes((release / "roster.json").read_bytes())
    other = SigningKey.from_seed(bytes(32))
    roster = replace(signed.roster, key=other.public.hex())
    forged = SignedRoster(roster=roster, signatures={}).signed_by(other)
    (release / "roster.json").write_bytes(forged.to_bytes())
    rewrite(release, lambda _manifest: None)
    with pytest.raises(ReleaseError, match="Expected the roster that the study was declared for"):
        verify_release(release)


def test_another_declaration_is_another_study(release):
    values = json.loads((release / "declaration.json").read_text())
    values["nonce"] = "0" * 32
    (release / "declaration.json").write_bytes(canonical_json(values))
    rewrite(release, lambda _manifest: None)
    with pytest.raises(ReleaseError, match="Expected the declaration of the manifest's study"):
        verify_release(release)


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"[]", b'{"files": {}, "queries": [1]}', b"\xff"]
)
def test_what_is_no_release_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="is no release"):
        verify_release(tmp_path)
