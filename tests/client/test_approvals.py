"""Approving a study: checked, reserved, kept; and what a running site makes of the files."""

import os
from contextlib import closing
from dataclasses import replace

import pytest
from ledgers import key_of
from masking import roster_of, with_roster
from site_directories import (
    DATA_SET,
    SITE,
    declaration_of,
    furnished,
    site_directory,
    write_records,
)
from site_worker import query_of

from client.answers import RefusedError
from client.approvals import (
    Approval,
    Studies,
    approve,
    approved_site,
    pinned_roster,
    read_approval,
)
from client.ledger import Ledger
from privacy.errors import BudgetError, DataError, LedgerError, ProtocolError
from study.canonical import canonical_json, parse_canonical
from study.queries import NONCE_BYTES, Refusal
from study.roster import SignedRoster

STUDY = declaration_of(1)


@pytest.fixture
def place(tmp_path):
    directory = site_directory(tmp_path / "site")
    furnished(directory)
    return directory


@pytest.fixture
def opened(place):
    with closing(Ledger(place / "ledger.sqlite", SITE, durable=False)) as ledger:
        yield ledger


@pytest.fixture
def studies(place, opened):
    """A running site's: `site` answers what it takes part in."""
    site = approved_site(place, opened)
    made = Studies(site, place, opened)
    made.site = site
    return made


def approved(place, declaration=STUDY, **changed):
    return approve(
        place,
        declaration,
        **({"data": place / "records.csv", "data_set": DATA_SET} | changed),
    )


def refusal(site, declaration=STUDY):
    """With what code a first query is refused; None: it is answered."""
    try:
        site.answer(query_of(declaration, 0, nonce=bytes(NONCE_BYTES)))
    except RefusedError as refused:
        return refused.refusal
    return None


def test_it_reserves_the_cost_and_keeps_the_study(place, opened):
    approval = approved(place)
    assert opened.state.studies[STUDY.hash].approval.data_set == DATA_SET
    assert read_approval(place / "studies" / f"{STUDY.hash}.json") == approval
    assert Approval.from_bytes(approval.to_bytes()) == approval
    before = opened.state.entries
    assert approved(place) == approval
    assert opened.state.entries == before, "once more costs nothing"


def test_what_another_process_is_answering_is_not_burnt(place, opened):
    approved(place)
    opened.charge(STUDY.hash, 0, "gradient", "ab" * 32)
    approved(place)
    approved(place, declaration_of(2))
    assert opened.find(STUDY.hash, 0).status == "pending"


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"data_set": "another"}, LedgerError, "registered data set"),
        ({"data": None}, Exception, "no file was given"),
        ({"data": "nowhere.csv"}, DataError, "There is no file"),
        ({"declaration": replace(STUDY, roster="ab" * 32)}, ProtocolError, "roster of this site"),
    ],
)
def test_what_is_wrong_reserves_nothing_and_keeps_nothing(place, opened, changed, error, words):
    if changed.get("data"):
        changed = {"data": place / changed["data"]}
    with pytest.raises(error, match=words):
        approved(place, **changed)
    assert not opened.state.studies
    assert not list((place / "studies").glob("*.json"))


def test_a_study_beyond_the_budget_is_refused(tmp_path):
    place = site_directory(tmp_path / "poor")
    furnished(place, epsilon=0.01)
    with pytest.raises(BudgetError):
        approved(place)


@pytest.mark.parametrize("number", range(4))
def test_a_file_that_says_anything_else_is_refused(place, number):
    approved(place)
    values = parse_canonical((place / "studies" / f"{STUDY.hash}.json").read_bytes())
    wrong = [
        values | {"more": 1}, values | {"data": 5}, values | {"declaration": {}},
        {each: values[each] for each in ("declaration", "data")},
    ][number]  # fmt: skip
    with pytest.raises(ProtocolError):
        Approval.from_bytes(canonical_json(wrong))
    with pytest.raises(ProtocolError):
        Approval.from_bytes(b"not JSON")


def test_a_file_of_another_name_is_refused(place):
    approved(place)
    path = (place / "studies" / f"{STUDY.hash}.json").rename(
        place / "studies" / f"{'ab' * 32}.json"
    )
    with pytest.raises(ProtocolError, match="that the name says"):
        read_approval(path)


def test_a_running_site_takes_part_in_what_is_approved_later(place, studies):
    studies.refresh()
    assert refusal(studies.site) == Refusal.NOT_APPROVED
    approved(place)
    studies.refresh()
    assert refusal(studies.site) is None


def test_a_study_that_is_over_is_left_alone(place, opened, studies):
    approved(place)
    opened.close_study(STUDY.hash)
    studies.refresh()
    assert refusal(studies.site) == Refusal.NOT_APPROVED


@pytest.mark.parametrize("harm", ["gone", "other", "fewer"])
def test_a_study_without_its_records_is_told_of_once_and_the_others_go_on(
    place, studies, harm, capsys
):
    data = write_records(place / "more.csv")
    approved(place, data=data)
    approved(place, declaration_of(2))
    if harm == "gone":
        data.unlink()
    elif harm == "other":
        data.write_text("a,b\n1,2\n")
    else:
        write_records(data, rows=200)  # more than were registered
    studies.refresh()
    studies.refresh()
    said = capsys.readouterr().err
    assert said.count("is not answered") == 1
    assert said.count("Taking part") == 1
    assert refusal(studies.site) == Refusal.NOT_APPROVED
    assert refusal(studies.site, declaration_of(2)) is None


def test_a_study_whose_records_are_back_is_answered(place, studies):
    data = write_records(place / "more.csv")
    approved(place, data=data)
    data.rename(place / "away.csv")
    studies.refresh()
    (place / "away.csv").rename(data)
    studies.refresh()
    assert refusal(studies.site) is None


def test_a_damaged_file_does_not_stop_the_others(place, studies):
    approved(place)
    (place / "studies" / f"{'00' * 32}.json").write_bytes(os.urandom(50))
    studies.refresh()
    assert refusal(studies.site) is None


def test_masked_sums_need_the_pinned_roster(place, opened):
    roster = roster_of("site", "b", "c")
    assert pinned_roster(place) is None
    study = with_roster(STUDY, roster)
    with pytest.raises(ProtocolError, match="roster of this site"):
        approved(place, study)
    signed = SignedRoster(roster=roster, signatures={}).signed_by(key_of("federation"))
    (place / "roster.json").write_bytes(signed.to_bytes())
    approved(place, study)
    assert opened.state.studies[study.hash].approval.roster == roster.hash
