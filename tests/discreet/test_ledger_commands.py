"""`discreet ledger`, as a site operator and an auditor use it: what is printed, what is written, how it ends."""

import json
import re
import shutil
import sqlite3
import stat
from contextlib import closing

import pytest

from client.ledger import Ledger
from study.charging import declared_sums
from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.forecast import least_guarantee
from study.keyfiles import read_key
from study.ledger_entries import Approved

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


@pytest.fixture
def approved(site):
    """The hash of a study that the site's operator approved: one query is answered, the others were never asked."""
    guarantee = least_guarantee(
        Study(
            name="example", model=Model(kind="logistic"), training=Training(rounds=3),
            data=Data(
                task="classification", label="ill", classes=("no", "yes"), expected_records=45,
                features=("age",), bounds={"age": (0.0, 100.0)},
            ),
            privacy=Privacy(trust="local", noise_multiplier=3.0), sites=Sites(minimum=3),
        )
    )  # fmt: skip
    study = guarantee.declaration.hash
    sums = declared_sums(guarantee)
    with closing(Ledger(site / "ledger.sqlite", read_key(site / "site.key"))) as ledger:
        ledger.approve(
            Approved(
                study=study, name="example", data_set="data", trust="local", roster=None, sums=sums
            ),
            [],
        )
        ledger.charge(study, 0, sums[-1].function, "ab" * 32)
        ledger.store(study, 0, b"an answer")
    return study


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
            ["ledger", "close", "site", "abcd"],
            "Expected one study whose hash begins with abcd, found 0",
        ),
        (["ledger", "close", "site", ""], "at least 4 hexadecimal digits"),
        (["ledger", "close", "site", "abc"], "at least 4 hexadecimal digits"),
        (
            ["ledger", "show", "site", "--study", "zz"],
            "There is no study whose hash begins with 'zz'",
        ),
        (["ledger", "export", "site", "--out", "none/e.jsonl"], "make the directory first"),
        (["ledger", "export", "site", "--out", "x.sqlite-wal"], "the name of a part of a ledger"),
        (
            ["ledger", "verify", "data.csv", "--key", "site/site.pub"],
            "that discreet ledger export wrote",
        ),
        (["ledger", "verify", "site/ledger.sqlite", "--key", "site/site.pub"], "export wrote"),
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


@pytest.mark.parametrize("command", ["budget", "receipts"])
def test_a_file_that_is_no_ledger_is_said_to_be_none(call, place, site, command):
    (place / "junk").write_bytes(b"not a database" * 100)
    with closing(sqlite3.connect(place / "other.sqlite")) as database:
        database.execute("CREATE TABLE entries (content BLOB)")
    shutil.copy(site / "site.key", place / "junk.key")
    (place / "junk").chmod(0o644)
    for name in ("junk", "other.sqlite"):
        more = [] if command == "budget" else ["--out", "r.jsonl", "--key", "junk.key"]
        result = call("ledger", command, name, *more)
        assert result.exit_code == 2
        assert f"{name} is no ledger" in result.stderr
        assert "chmod" not in result.stderr


def test_a_study_is_closed_once(call, approved):
    result = call("ledger", "close", "site", approved[:4])
    assert (result.exit_code, result.stderr) == (0, f"Closed study {approved}.\n")
    result = call("ledger", "close", "site", approved)
    assert (result.exit_code, result.stderr) == (0, f"Study {approved} was closed already.\n")


@pytest.mark.parametrize("digits", [0, 3])
def test_the_only_study_is_not_closed_by_too_few_digits(call, approved, digits):
    assert call("ledger", "close", "site", approved[:digits]).exit_code == 2
    (found,) = values(call("ledger", "list", "site", "--json"))["studies"]
    assert (found["study"], found["status"]) == (approved, "open")


# What is replaced, and what is left behind


def contents(directory):
    return {each: each.read_bytes() for each in directory.rglob("*") if each.is_file()}


@pytest.mark.parametrize("command", ["export", "receipts"])
@pytest.mark.parametrize(
    "name", ["ledger.sqlite", "site.key", "site.pub", "empty.sqlite-wal", "data.csv", ""]
)
def test_force_replaces_nothing_but_what_such_a_command_wrote(call, place, site, command, name):
    (site / "empty.sqlite-wal").touch()
    shutil.copy(place / "data.csv", site)
    before = contents(site)
    result = call("ledger", command, "site", "--out", site / name, "--force")
    assert result.exit_code == 2
    assert "Hint: choose another name" in result.stderr
    assert contents(site) == before


@pytest.mark.usefixtures("approved")
def test_force_replaces_what_either_of_the_two_wrote_and_an_empty_file(call, place):
    (place / "kept.jsonl").touch()
    for command in ("export", "receipts", "export"):
        assert call("ledger", command, "site", "--out", "kept.jsonl").exit_code == 2
        before = (place / "kept.jsonl").read_bytes()
        result = call("ledger", command, "site", "--out", "kept.jsonl", "--force")
        assert result.exit_code == 0, result.stderr
        assert (place / "kept.jsonl").read_bytes() != before


def test_a_public_key_that_was_lost_is_written_again(call, site):
    before = (site / "site.pub").read_bytes()
    (site / "site.pub").unlink()
    result = call(*REGISTER)
    assert (result.exit_code, "Made site/site.pub" in result.stderr) == (0, True)
    assert (site / "site.pub").read_bytes() == before


@pytest.mark.parametrize("value", ["", "two\nlines", "x" * 201])
@pytest.mark.parametrize("option", ["--site", "--name", "--namespace"])
def test_what_is_no_name_is_refused_before_anything_is_made(call, place, write_data, option, value):
    write_data()
    result = call(*REGISTER, option, value)
    assert result.exit_code == 2
    assert f"Error: {option}: Expected a printable name" in result.stderr
    assert {each.name for each in place.iterdir()} == {"data.csv"}


def test_without_a_header_no_cell_is_suggested_as_a_column(call, place, write_data):
    write_data(lambda lines: ["patient_7,0.5,yes,1", *lines[1:]])
    result = call(*REGISTER, "--unit", "patient_id")
    assert result.exit_code == 2
    assert "patient_7" not in result.stderr
    assert 'no column "patient_id"' in result.stderr
    assert {each.name for each in place.iterdir()} == {"data.csv"}


def test_of_two_that_register_first_at_once_both_do(start, place, write_data):
    """The ledger is made once, and whoever is second goes on with it."""
    write_data()
    started = [
        start("ledger", "register", "data.csv", "--ledger", "site", "--name", f"set-{number}")
        for number in range(3)
    ]
    for each in started:
        _, errors = each.communicate(timeout=60)
        assert each.returncode == 0, errors
    listed = start("ledger", "list", "site", "--json").communicate(timeout=60)[0]
    assert {each["data_set"] for each in json.loads(listed)["data_sets"]} == {
        "set-0",
        "set-1",
        "set-2",
    }


def test_nobody_who_stops_listening_stops_a_registration(call, place, write_data, monkeypatch):
    def gone(*_text, **_style):
        raise BrokenPipeError

    write_data()
    monkeypatch.setattr("discreet.console.people.print", gone)
    monkeypatch.setattr("discreet.console.os.dup2", lambda *_files: None)
    assert call(*REGISTER).exit_code == 1
    (budget,) = values(call("ledger", "budget", "site", "--json"))["namespaces"]
    assert budget["namespace"] == "patients"


# What is said


def test_equal_rows_are_counted_as_records_and_as_different_ones(call, place, write_data):
    write_data(lambda lines: [*lines, lines[1], lines[1]])
    result = call(*REGISTER, "--json")
    assert "62 records, 60 of them different," in result.stderr
    found = values(result)
    assert (found["records"], found["units"]) == (62, 60)


def test_a_refusal_counts_no_people(call, site):
    result = call(*REGISTER, "--name", "copy", "--namespace", "others", "--unit", "hospital")
    assert result.exit_code == 1
    assert "found units or rows (60)" in result.stderr


def test_another_sites_key_is_said_to_be_one(call, place, site):
    (place / "other").mkdir()
    assert call("ledger", "register", "data.csv", "--ledger", "other").exit_code == 0
    result = call(*REGISTER, "--key", "other/site.key")
    assert (result.exit_code, "is the ledger of another key" in result.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [["receipts", "--out", "r.jsonl"], ["close", "abcd"]])
def test_a_simulated_site_has_no_key_file(call, answered, arguments):
    name, *more = arguments
    at = [answered, *more]
    result = call("ledger", name, *at)
    assert result.exit_code == 2
    assert "simulated sites have no key file" in result.stderr


def test_epsilons_are_said_not_to_add_up(call, answered):
    for more in ([], ["--json"]):
        result = call("ledger", "budget", answered, *more)
        assert "Epsilons do not add up" in result.stdout


def test_no_epsilon_is_shown_below_its_value_and_no_remainder_above(call, answered):
    (budget,) = values(call("ledger", "budget", answered, "--json"))["namespaces"]
    shown = call("ledger", "budget", answered).stdout
    for name, sign in (("epsilon_spent", 1), ("remaining_mu", -1)):
        (said,) = re.findall(rf"^{name.replace('_', ' ')} +([\d.]+) *$", shown, re.MULTILINE)
        assert sign * float(said) >= sign * budget[name] - 1e-8
        assert float(said) == pytest.approx(budget[name], rel=0.01)


@pytest.mark.usefixtures("approved")
def test_verify_says_how_far_it_saw(call):
    call("ledger", "export", "site", "--out", "e.jsonl")
    call("ledger", "receipts", "site", "--out", "r.jsonl")
    verify = ("ledger", "verify", "e.jsonl", "--key", "site/site.pub")
    found = values(call(*verify, "--json"))
    assert (found["complete"], found["last_entry"]) == (
        "unknown without receipts",
        found["entries"] - 1,
    )
    said = call(*verify).stderr
    assert f"The last entry is number {found['last_entry']}, " in said
    assert found["fingerprint"] in said
    assert "cannot be told from a whole one" in said
    receipts = ("--receipts", "r.jsonl")
    assert "cannot be told" not in call(*verify, *receipts).stderr
    assert values(call(*verify, *receipts, "--json"))["complete"] == "as far as the receipts go"


@pytest.mark.parametrize("change", [
    lambda content: content.replace(b"\n", b"\r\n"), lambda content: b"\xef\xbb\xbf" + content,
    lambda content: content.decode().encode("utf-16"),
])  # fmt: skip
def test_an_export_that_a_program_rewrote_is_2_and_no_contradiction(call, place, answered, change):
    call("ledger", "export", answered, "--out", "e.jsonl")
    (place / "e.jsonl").write_bytes(change((place / "e.jsonl").read_bytes()))
    result = call("ledger", "verify", "e.jsonl", "--key", answered / "site.pub")
    assert (result.exit_code, "changed by an editor or a mail program?" in result.stderr) == (
        2,
        True,
    )
