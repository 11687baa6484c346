"""`discreet ledger`, as a site operator and an auditor use it: what is printed, what is written, how it ends."""

import json
import shutil
import stat

import pytest

REGISTER = ("ledger", "register", "data.csv", "--ledger", "site")


@pytest.fixture
def site(call, place, write_data):
    """A directory with a ledger that has one data set."""
    write_data()
    (place / "site").mkdir()
    result = call(*REGISTER)
    assert result.exit_code == 0, result.stderr
    return place / "site"


@pytest.fixture
def answered(call, place, write_study, write_data):
    """The directory of a simulated site that has answered a study."""
    result = call("simulate", write_study(), "--data", write_data(), "--out", "out")
    assert result.exit_code == 0, result.stderr
    return place / "out" / "sites" / "site-1"


def values(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_registering_makes_a_ledger_and_a_key_that_only_their_owner_can_read(site):
    assert {each.name for each in site.iterdir()} == {"ledger.sqlite", "site.key", "site.pub"}
    for name in ("ledger.sqlite", "site.key"):
        assert stat.S_IMODE((site / name).stat().st_mode) == 0o600


def test_a_new_budget_is_whole(call, site):
    (budget,) = values(call("ledger", "budget", "site", "--json"))["namespaces"]
    assert (budget["epsilon"], budget["delta"], budget["epsilon_spent"]) == (10.0, 1e-5, 0.0)
    assert budget["remaining_mu"] > 0
    text = call("ledger", "budget", "site")
    assert "epsilon spent" in text.stdout


def test_registering_again_keeps_the_budget_and_another_one_is_refused(call, site):
    assert call(*REGISTER).exit_code == 0
    result = call(*REGISTER, "--epsilon", "20")
    assert result.exit_code == 2
    assert "has a lifetime budget already: epsilon 10" in result.stderr
    assert "fixed once" in result.stderr


def test_the_same_people_have_one_budget(call, site):
    result = call(*REGISTER, "--name", "copy", "--namespace", "others")
    assert result.exit_code == 1
    assert 'has in "patients"' in result.stderr
    assert "--distinct" in result.stderr
    names = [
        each["namespace"]
        for each in values(call("ledger", "budget", "site", "--json"))["namespaces"]
    ]
    assert names == ["patients"]
    assert call(*REGISTER, "--name", "copy").exit_code == 0
    assert call(*REGISTER, "--name", "twins", "--namespace", "others", "--distinct").exit_code == 0


def test_what_was_asked_is_listed_and_shown(call, answered):
    listed = values(call("ledger", "list", str(answered), "--json"))
    assert listed["site"] == "site-1"
    (study,) = listed["studies"]
    assert (study["status"], study["charged"], study["answered"], study["burnt"]) == (
        "closed",
        3,
        3,
        0,
    )
    shown = call("ledger", "show", str(answered), "--last", "3").stdout.splitlines()
    assert len(shown) == 3
    assert "answered" in shown[1]
    assert "closed" in shown[2]
    entries = values(
        call("ledger", "show", str(answered), "--study", study["study"][:8], "--json")
    )["entries"]
    assert [each["kind"] for each in entries] == [
        "approved",
        *["charged", "answered"] * 3,
        "closed",
    ]


def test_an_export_verifies_with_the_public_key_alone(call, place, answered):
    assert call("ledger", "export", str(answered), "--out", "e.jsonl").exit_code == 0
    shutil.copy(answered / "site.pub", place / "key.pem")
    shutil.rmtree(place / "out")
    found = values(call("ledger", "verify", "e.jsonl", "--key", "key.pem", "--json"))
    assert (found["site"], found["receipts"]) == ("site-1", 0)
    assert found["namespaces"][0]["epsilon_spent"] > 0
    assert "no contradiction" in call("ledger", "verify", "e.jsonl", "--key", "key.pem").stderr


def test_an_edited_export_is_1_and_names_the_entry(call, place, answered):
    call("ledger", "export", str(answered), "--out", "e.jsonl")
    text = (place / "e.jsonl").read_text()
    assert text.count('"index":1,') == 2
    (place / "e.jsonl").write_text(text.replace('"index":1,', '"index":7,'))
    result = call("ledger", "verify", "e.jsonl", "--key", str(answered / "site.pub"))
    assert result.exit_code == 1
    assert "Entry 6: Expected a signature" in result.stderr


def test_a_cut_export_is_1(call, place, answered):
    call("ledger", "export", str(answered), "--out", "e.jsonl")
    content = (place / "e.jsonl").read_bytes()
    (place / "e.jsonl").write_bytes(content[:-5])
    result = call("ledger", "verify", "e.jsonl", "--key", str(answered / "site.pub"))
    assert (result.exit_code, "last line is whole" in result.stderr) == (1, True)


def test_receipts_find_what_was_taken_back(call, place, site):
    assert call("ledger", "receipts", "site", "--out", "r.jsonl").exit_code == 0
    assert (place / "r.jsonl").read_bytes() == b""
    call("ledger", "export", "site", "--out", "e.jsonl")
    found = values(
        call(
            "ledger",
            "verify",
            "e.jsonl",
            "--key",
            "site/site.pub",
            "--receipts",
            "r.jsonl",
            "--json",
        )
    )
    assert found["receipts"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ledger", "budget", "nowhere"], "no such ledger"),
        (["ledger", "register", "missing.csv", "--ledger", "site"], "There is no file missing.csv"),
        (["ledger", "register", "data.csv", "--ledger", "site", "--unit", "patinet"], "no column"),
        (
            [
                "ledger",
                "register",
                "data.csv",
                "--ledger",
                "site",
                "--name",
                "x",
                "--namespace",
                "y",
                "--epsilon",
                "0",
            ],
            "",
        ),
        (
            [
                "ledger",
                "register",
                "data.csv",
                "--ledger",
                "site",
                "--name",
                "x",
                "--namespace",
                "y",
                "--delta",
                "2",
            ],
            "",
        ),
        (
            ["ledger", "close", "site", "abc"],
            "Expected one study whose hash begins with abc, found 0",
        ),
        (["ledger", "verify", "data.csv", "--key", "site/site.key"], "public key"),
        (["ledger", "verify", "data.csv", "--key", "data.csv"], "not a public key"),
        (["ledger", "verify", "missing.jsonl", "--key", "site/site.pub"], "cannot be read"),
        (["ledger", "export", "site", "--out", "data.csv"], "data.csv exists"),
        (["ledger", "receipts", "site", "--out", "x", "--key", "site/site.pub"], ""),
    ],
)
def test_wrong_use_is_a_sentence_and_2(call, site, arguments, message):
    before = (site / "ledger.sqlite").read_bytes()
    result = call(*arguments)
    assert result.exit_code == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert message in result.stderr
    assert (site / "ledger.sqlite").read_bytes() == before


def test_a_key_that_others_can_read_is_refused(call, site):
    (site / "site.key").chmod(0o644)
    result = call("ledger", "receipts", "site", "--out", "r.jsonl")
    assert (result.exit_code, "chmod 600" in result.stderr) == (2, True)


def test_a_file_that_is_no_ledger_is_said_to_be_none(call, place, site):
    (place / "junk").write_bytes(b"not a database" * 100)
    result = call("ledger", "budget", "junk")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
