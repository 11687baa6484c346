"""`discreet ledger`: what an operator sees of a lifetime budget, and an auditor of an export."""

import json
import stat
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import approved, hash_named, terms_of

from client.answers import Site
from client.ledger import Ledger, read_ledger
from client.sources import frozen, load
from client.tables import records_of
from study.guarantee import declare
from study.keyfiles import create_key, read_key, read_public_key, write_public_key
from study.ledger_entries import Charged, DeclaredSum, Namespace, SignedEntry
from study.ledger_state import replay
from study.parsing import parse_study
from study.templates import template_text

ROWS = ["patient,age,ill", "7,50,yes", "8,61,no", "7,51,yes", "9,30,no"]
STUDY = hash_named("study")


@pytest.fixture
def records(place):
    def write(lines=ROWS, name="records.csv"):
        (place / name).write_text("".join(f"{each}\n" for each in lines), encoding="utf-8")
        return name

    write()
    return write


@pytest.fixture
def register(call, records):
    """Register records.csv in `site/ledger.sqlite`; it works unless an exit code is expected."""

    def run(*arguments, data="records.csv", ledger="site/ledger.sqlite", code=0):
        result = call("ledger", "register", data, "--ledger", ledger, *arguments)
        assert result.exit_code == code, result.stderr
        return result

    return run


@pytest.fixture
def used(register, place):
    """A ledger of which two queries were answered, one was burnt, and one study is open."""
    register()
    path = place / "site" / "ledger.sqlite"
    with closing(Ledger(path, read_key(place / "site" / "site.key"), durable=False)) as ledger:
        ledger.approve(approved(count=4, z=9.0))
        for index in range(3):
            ledger.charge(STUDY, index, "gradient", hash_named(f"query {index}"))
            if index < 2:
                ledger.store(STUDY, index, b"answer")
        ledger.burn_pending()
        ledger.refuse(hash_named("unknown"), "NOT_APPROVED")
    return path


def edit(path, change):
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(change(lines)))


def error_of(result, code, *words):
    """Exactly one error, its words, and nothing that looks like a program at fault."""
    said = " ".join(result.stderr.split())
    assert result.exit_code == code, said
    assert said.count("Error") == 1
    assert "Traceback" not in said
    for each in words:
        assert each in said, said
    return said


# register


def test_registering_makes_a_ledger_a_key_and_its_public_half(register, place):
    result = register()
    site = place / "site"
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in site.iterdir()}
    assert set(modes) == {"ledger.sqlite", "site.key", "site.pub"}
    assert (modes["ledger.sqlite"], modes["site.key"]) == (0o600, 0o600)
    assert read_key(site / "site.key").public == read_public_key(site / "site.pub")
    assert "3 units" not in result.stderr  # every record is one, unless a column says otherwise
    assert '4 units in namespace "patients"' in result.stderr
    assert "fingerprint" in result.stderr
    state = replay(read_ledger(site / "ledger.sqlite"))
    assert state.opened.site == "site"
    assert (state.namespaces["patients"].epsilon, state.namespaces["patients"].delta) == (
        10.0,
        1e-5,
    )
    assert set(state.data_sets) == {"records"}


def test_a_study_of_the_contracts_own_delta_fits_into_a_default_budget(
    register, place, write_study
):
    """A tenth of the lifetime delta is for rounding, of which every study takes a hundredth of its own delta."""
    register()
    study = parse_study(template_text("breast-cancer"))
    table = load(study, None)
    study = frozen(study, None, table)
    with closing(
        Ledger(
            place / "site" / "ledger.sqlite", read_key(place / "site" / "site.key"), durable=False
        )
    ) as ledger:
        site = Site(ledger)
        for number in range(2):
            one = declare(study, sites=study.sites.minimum, nonce=f"{number:032x}")
            site.approve(one, records_of(table, study), data_set="records")
        assert 3 < ledger.state.budget("patients").epsilon_held < 10


def test_every_option_of_a_new_ledger_is_written_down(register, place):
    register(
        "--name", "ward 3", "--namespace", "people", "--unit", "patient", "--epsilon", "2.5", "--delta", "1e-6",
        "--site", "st. mary's", ledger="elsewhere/its.sqlite",
    )  # fmt: skip
    state = replay(read_ledger(place / "elsewhere" / "its.sqlite"))
    assert state.opened.site == "st. mary's"
    assert (state.namespaces["people"].epsilon, state.namespaces["people"].delta) == (2.5, 1e-6)
    assert state.data_sets["ward 3"].unit == "patient"
    assert (place / "elsewhere" / "site.key").is_file()


def test_json_says_the_same_as_one_object(register):
    found = json.loads(register("--unit", "patient", "--json").stdout)
    assert (found["data_set"], found["units"], found["namespace"]) == ("records", 3, "patients")
    assert (found["epsilon"], found["epsilon_spent"], found["epsilon_spent_and_reserved"]) == (
        10.0,
        0.0,
        0.0,
    )
    assert found["remaining_mu"] > 1


def test_registering_twice_is_registering_anew(register, place, records):
    register()
    key = (place / "site" / "site.key").read_bytes()
    records([*ROWS, "10,44,yes"])
    assert "5 units" in register().stderr
    assert (place / "site" / "site.key").read_bytes() == key
    entries = read_ledger(place / "site" / "ledger.sqlite")
    assert len(entries) == 4
    assert len(replay(entries).namespaces) == 1


def test_a_budget_is_fixed_once_and_neither_raised_nor_lowered(register, place):
    register("--epsilon", "3", "--delta", "1e-6")
    before = read_ledger(place / "site" / "ledger.sqlite")
    for change in (
        ("--epsilon", "30"),
        ("--epsilon", "1"),
        ("--delta", "1e-5"),
        ("--epsilon", "3", "--delta", "1e-5"),
    ):
        said = error_of(
            register(*change, code=2), 2, "has a lifetime budget already: epsilon 3 at delta 1e-06"
        )
        assert "a budget is fixed once" in said
    assert read_ledger(place / "site" / "ledger.sqlite") == before
    for same in (
        (),
        ("--epsilon", "3"),
        ("--delta", "1e-6"),
        ("--epsilon", "3.0", "--delta", "0.000001"),
    ):
        register(*same)


@pytest.mark.parametrize(
    "option",
    [
        ("--epsilon", "0"), ("--epsilon", "-1"), ("--epsilon", "nan"), ("--epsilon", "inf"), ("--epsilon", "100"),
        ("--epsilon", "much"), ("--delta", "0"), ("--delta", "-1"), ("--delta", "1"), ("--delta", "nan"),
        ("--delta", "1e-300"),
    ],
)  # fmt: skip
def test_an_impossible_budget_is_wrong_use_and_makes_nothing(register, place, option):
    result = register(*option, code=2)
    assert "Traceback" not in result.stderr
    assert not (place / "site").exists()


@pytest.mark.parametrize("names", [("--name", ""), ("--namespace", "a\tb"), ("--name", "x" * 300)])
def test_a_name_that_cannot_be_written_down_is_refused(register, names):
    error_of(register(*names, code=1), 1, "printable name")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("There is no file nothing.csv",)), (("--unit", "person"), ('no column "person"', "did you mean")),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_make_no_ledger(register, place, arguments, words):
    data = "records.csv" if arguments else "nothing.csv"
    error_of(register(*arguments, data=data, code=2), 2, words[0])
    assert not (place / "site").exists()


def test_the_same_people_are_refused_in_another_namespace_and_the_hint_says_what_to_do(
    register, records
):
    register("--unit", "patient")
    records(["patient,height", "9,170", "12,180"], "other.csv")
    result = register("--namespace", "others", "--unit", "patient", data="other.csv", code=1)
    said = error_of(
        result,
        1,
        'found 1 that "records" has in "patients"',
        "register it in the namespace patients",
    )
    assert "--distinct" in said
    register("--namespace", "others", "--unit", "patient", "--distinct", data="other.csv")


@pytest.mark.parametrize(
    ("first", "second"), [("patient", None), (None, "patient"), ("patient", "age")]
)
def test_a_copy_is_refused_whichever_column_is_said_to_name_its_units(
    register, records, first, second
):
    """Else the same people had a budget as patients and one more as records."""
    register(*(("--unit", first) if first else ()))
    records([ROWS[0], *reversed(ROWS[1:])], "copy.csv")
    unit = ("--unit", second) if second else ()
    error_of(
        register("--namespace", "others", *unit, data="copy.csv", code=1), 1, 'has in "patients"'
    )
    register(*unit, "--name", "again", data="copy.csv")


def test_a_data_set_keeps_its_unit(register):
    register("--unit", "patient")
    error_of(register(code=1), 1, 'Expected "records" to keep its namespace and unit')


def test_an_existing_key_is_used_and_never_written_over(register, place):
    (place / "site").mkdir()
    key = create_key(place / "site" / "site.key")
    before = (place / "site" / "site.key").read_bytes()
    register()
    assert (place / "site" / "site.key").read_bytes() == before
    assert read_public_key(place / "site" / "site.pub") == key.public


def test_a_public_key_of_another_pair_is_not_left_beside_it(register, place):
    (place / "site").mkdir()
    write_public_key(place / "site" / "site.pub", create_key(place / "other.key"))
    error_of(register(code=2), 2, "is not the public half", "move it")
    assert not (place / "site" / "ledger.sqlite").exists()


def test_a_key_may_lie_elsewhere_and_must_be_the_right_one(register, place, call):
    register("--key", "keys.key")
    assert not (place / "site" / "site.key").exists()
    register("--key", "keys.key")
    error_of(register(code=2), 2, "site.key cannot be read")
    create_key(place / "other.key")
    error_of(register("--key", "other.key", code=1), 1, "another site's")
    (place / "keys.key").chmod(0o644)
    error_of(register("--key", "keys.key", code=2), 2, "can be read by others", "chmod 600")


# list, budget, show


def test_list_shows_data_sets_and_how_far_studies_have_come(used, call, register):
    result = call("ledger", "list", used)
    assert result.exit_code == 0
    for each in ("Data set records", "namespace", "patients", "Study study", "open", "answered"):
        assert each in result.stdout
    found = json.loads(call("ledger", "list", used.parent, "--json").stdout)
    assert found["site"] == "site"
    assert found["data_sets"] == [
        {"data_set": "records", "namespace": "patients", "unit": "record"}
    ]
    (study,) = found["studies"]
    assert (study["study"], study["status"], study["namespace"]) == (STUDY, "open", "patients")
    assert [study[each] for each in ("declared", "charged", "answered", "burnt")] == [4, 3, 2, 1]


def test_list_of_a_new_ledger_says_that_there_are_no_studies(register, call):
    register()
    result = call("ledger", "list", "site")
    assert "No study has been approved yet" in result.stderr
    assert json.loads(call("ledger", "list", "site", "--json").stdout)["studies"] == []


def test_budget_shows_what_is_spent_reserved_and_left(used, call):
    result = call("ledger", "budget", used)
    assert result.exit_code == 0
    for each in ("Namespace patients", "epsilon spent and reserved", "remaining mu"):
        assert each in result.stdout
    (found,) = json.loads(call("ledger", "budget", used, "--json").stdout)["namespaces"]
    assert 0 < found["epsilon_spent"] < found["epsilon_spent_and_reserved"] < found["epsilon"] == 10
    assert len(found["orders"]) == 8
    assert all(each["spent"] < each["held"] for each in found["orders"])


def test_show_prints_the_latest_entries_of_a_study_or_of_all(used, call):
    result = call("ledger", "show", used)
    kinds = [line.split()[3] for line in result.stdout.splitlines()]
    assert kinds == [
        "opened", "namespace", "data-set", "approved", "charged", "answered", "charged", "answered", "charged",
        "burnt", "refused",
    ]  # fmt: skip
    assert STUDY[:12] in result.stdout
    assert STUDY not in result.stdout
    assert len(call("ledger", "show", used, "--last", "2").stdout.splitlines()) == 2
    of_study = call("ledger", "show", used, "--study", STUDY[:6]).stdout.splitlines()
    assert len(of_study) == 7
    found = json.loads(
        call("ledger", "show", used, "--json", "--last", "3", "--study", STUDY).stdout
    )["entries"]
    assert [each["sequence"] for each in found] == [7, 8, 9]
    assert call("ledger", "show", used, "--last", "0").exit_code == 2


def test_simulated_times_are_said_to_be_simulated(call, write_study, write_data, place):
    write_study()
    write_data()
    assert call("simulate", "study.toml", "--data", "data.csv", "--out", "out").exit_code == 0
    site = place / "out" / "sites" / "site-1"
    assert {each.name for each in site.iterdir()} == {"ledger.sqlite", "site.pub"}
    assert call("ledger", "show", site).stdout.count("(simulated)") >= 5
    call("ledger", "export", site, "--out", "export.jsonl")
    assert call("ledger", "verify", "export.jsonl", "--key", site / "site.pub").exit_code == 0
    (budget,) = json.loads(call("ledger", "budget", site, "--json").stdout)["namespaces"]
    assert budget["epsilon_spent"] == budget["epsilon_spent_and_reserved"] > 0


@pytest.mark.parametrize("command", ["list", "budget", "show"])
def test_looking_needs_no_key_and_writes_nothing(used, call, command):
    (used.parent / "site.key").unlink()
    before = {each.name: each.read_bytes() for each in used.parent.iterdir()}
    assert call("ledger", command, used).exit_code == 0
    assert {each.name: each.read_bytes() for each in used.parent.iterdir()} == before


@pytest.mark.parametrize("command", ["list", "budget", "show", "close", "export", "receipts"])
def test_a_ledger_that_is_not_there_is_wrong_use(call, place, command):
    more = {"close": ("abc",), "export": ("--out", "x"), "receipts": ("--out", "x")}.get(
        command, ()
    )
    for path in ("nothing.sqlite", "."):
        result = call("ledger", command, path, *more)
        assert result.exit_code == 2
        assert "there is no such ledger" in result.stderr or "cannot be read" in result.stderr
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("command", ["list", "budget", "show", "export"])
def test_what_is_no_ledger_is_said_and_never_crashes(call, place, command):
    more = ("--out", "x") if command == "export" else ()
    for content in (b"", b"hello", bytes(5000), b"SQLite format 3\0" + bytes(84)):
        (place / "wrong.sqlite").write_bytes(content)
        result = call("ledger", command, "wrong.sqlite", *more)
        assert result.exit_code == 1, content
        assert "Error" in result.stderr


# close


def test_closing_gives_back_what_was_never_asked(used, call):
    def held():
        return json.loads(call("ledger", "budget", used, "--json").stdout)["namespaces"][0]

    before = held()
    found = json.loads(call("ledger", "close", used, STUDY[:8], "--json").stdout)
    assert (found["status"], found["charged"]) == ("closed", 3)
    after = held()
    assert after["epsilon_spent"] == after["epsilon_spent_and_reserved"]
    assert after["epsilon_spent"] == pytest.approx(before["epsilon_spent"])
    assert after["epsilon_spent_and_reserved"] < before["epsilon_spent_and_reserved"]
    again = call("ledger", "close", used, STUDY)
    assert again.exit_code == 0
    assert len(read_ledger(used)) == 12


def test_closing_needs_one_study_and_the_key(used, call, place):
    error_of(call("ledger", "close", used, "zzz"), 2, "found 0", "discreet ledger list")
    with closing(Ledger(used, read_key(used.parent / "site.key"), durable=False)) as ledger:
        ledger.approve(approved("other", count=1, z=50.0))
    error_of(call("ledger", "close", used, ""), 2, "found 2")
    (used.parent / "site.key").rename(place / "elsewhere.key")
    error_of(call("ledger", "close", used, STUDY[:8]), 2, "site.key cannot be read")
    assert call("ledger", "close", used, STUDY[:8], "--key", place / "elsewhere.key").exit_code == 0


# export, receipts, verify


@pytest.fixture
def exported(used, call, place):
    """export.jsonl, receipts.jsonl and site.pub."""
    assert call("ledger", "export", used, "--out", "export.jsonl").exit_code == 0
    assert call("ledger", "receipts", used, "--out", "receipts.jsonl").exit_code == 0
    (place / "site.pub").write_bytes((used.parent / "site.pub").read_bytes())
    return place / "export.jsonl"


def verify(call, *arguments, file="export.jsonl", key="site.pub"):
    return call("ledger", "verify", file, "--key", key, *arguments)


def test_an_export_needs_nothing_else_but_the_public_key(exported, call, place, used):
    used.unlink()
    (used.parent / "site.key").unlink()
    result = verify(call)
    assert result.exit_code == 0
    assert "11 entries, 0 receipts, no contradiction" in result.stderr
    assert "epsilon spent" in result.stdout
    found = json.loads(verify(call, "--receipts", "receipts.jsonl", "--json").stdout)
    assert (found["site"], found["entries"], found["receipts"]) == ("site", 11, 2)
    assert found["namespaces"][0]["epsilon_spent"] > 0
    assert found["studies"][0]["burnt"] == 1
    assert len(found["head"]) == 64


def test_an_export_holds_no_record_and_no_secret(exported, used):
    content = exported.read_bytes()
    assert content.count(b"\n") == 11
    secret = read_key(used.parent / "site.key").private.private_bytes_raw()
    assert secret.hex().encode() not in content
    for cell in (b'"50"', b'"61"', b'"yes"', b"PRIVATE"):
        assert cell not in content


def test_exporting_twice_says_the_same_and_asks_before_it_writes_over(exported, call, used):
    before = exported.read_bytes()
    error_of(
        call("ledger", "export", used, "--out", "export.jsonl"), 2, "export.jsonl exists", "--force"
    )
    found = json.loads(
        call("ledger", "export", used, "--out", "export.jsonl", "--force", "--json").stdout
    )
    assert found == {"out": "export.jsonl", "entries": 11}
    assert exported.read_bytes() == before
    error_of(
        call("ledger", "receipts", used, "--out", "receipts.jsonl"), 2, "receipts.jsonl exists"
    )
    found = json.loads(
        call("ledger", "receipts", used, "--out", "receipts.jsonl", "--force", "--json").stdout
    )
    assert found == {"out": "receipts.jsonl", "receipts": 2}


def test_an_export_is_never_written_over_the_ledger_itself(used, call, place):
    before = used.read_bytes()
    (place / "link").symlink_to(used)
    for out in (used, place / "link"):
        for command in ("export", "receipts"):
            error_of(
                call("ledger", command, used, "--out", out, "--force"), 2, "is the ledger itself"
            )
    assert used.read_bytes() == before


def rewritten(exported, used, number, body):
    """The export of a site that says this in entry `number`, and signs it."""
    key = read_key(used.parent / "site.key")
    entries = read_ledger(used)
    entry = replay(entries[:number]).next_entry(body, time=2_000_000_000)
    line = SignedEntry.sign(entry, key).to_line()
    edit(exported, lambda lines: [*lines[:number], line, b""])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines[:4], *lines[5:]], "Entry 4: Expected the entry that follows the one before"),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], "Entry 4: Expected the entry that follows"),
        (lambda lines: [*lines[:4], lines[3], *lines[4:]], "Entry 4: Expected the entry that follows"),
        (lambda lines: [*lines[:3], lines[3].replace(b'"count":4', b'"count":9'), *lines[4:]], "Entry 3: Expected a signature"),
        (lambda lines: [*lines[:3], lines[3].replace(b",", b", "), *lines[4:]], "Entry 3: Expected canonical JSON"),
        (lambda lines: [b"\x00\xff\x00", *lines[1:]], "Entry 0: Expected canonical JSON"),
        (lambda lines: [*lines[:2], b"", *lines[2:]], "Entry 2: Expected canonical JSON"),
        (lambda lines: lines[:-1], "expected a file whose last line is whole"),
        (lambda lines: [*lines[:-2], lines[-2][:40]], "expected a file whose last line is whole"),
        (lambda _: [], "found nothing"),
    ],
)  # fmt: skip
def test_the_first_contradiction_of_an_export_is_named_with_exit_code_1(
    exported, call, change, words
):
    edit(exported, change)
    said = error_of(verify(call), 1, words)
    assert "no contradiction" not in said
    assert verify(call, "--json").stdout == ""


def test_a_budget_that_the_site_itself_exceeded_is_named(exported, call, used):
    rewritten(exported, used, 3, approved(count=100, z=3.0))
    error_of(
        verify(call),
        1,
        "Entry 3: Expected a study within the lifetime budget of epsilon 10",
        "what remains buys",
    )


def test_a_noise_multiplier_that_the_site_itself_inflated_is_named(exported, call, used):
    loud = DeclaredSum(function="gradient", count=4, terms=terms_of(9.0, noise_multiplier=12.0))
    rewritten(exported, used, 3, approved(sums=(loud,)))
    error_of(verify(call), 1, "Entry 3: Expected sound terms of gradient", "noise_multiplier=12")


def test_a_second_budget_or_an_uncharged_answer_is_named(exported, call, used):
    rewritten(exported, used, 3, Namespace(namespace="patients", cap=None))
    error_of(verify(call), 1, "Entry 3: Expected a new namespace")
    call("ledger", "export", used, "--out", "export.jsonl", "--force")
    dear = Charged(
        study=STUDY, index=5, function="gradient", query=hash_named("x"), terms=terms_of(8.0)
    )
    rewritten(exported, used, 4, dear)
    error_of(verify(call), 1, "Entry 4: Expected the terms that were approved")


def test_another_sites_key_contradicts_from_the_first_entry(exported, call, place):
    write_public_key(place / "other.pub", create_key(place / "other.key"))
    error_of(
        verify(call, key="other.pub"),
        1,
        "Entry 0: Expected the ledger of the given key, found another's",
    )


def test_a_ledger_put_back_is_found_by_receipts_and_the_hint_says_what_it_means(exported, call):
    edit(exported, lambda lines: [*lines[:5], b""])
    assert verify(call).exit_code == 0
    error_of(
        verify(call, "--receipts", "receipts.jsonl"),
        1,
        "Receipt of query 0",
        "found another or none",
    )
    edit(exported, lambda lines: [*lines[:4], b""])
    error_of(
        verify(call, "--receipts", "receipts.jsonl"),
        1,
        "it was rolled back",
        "put back an old copy",
    )


def test_receipts_that_are_none_are_named(exported, call, place):
    edit(place / "receipts.jsonl", lambda lines: [lines[0], b"{}", b""])
    error_of(
        verify(call, "--receipts", "receipts.jsonl"), 1, "Receipt 2: Expected a line with receipt"
    )
    (place / "receipts.jsonl").write_bytes(b"\xff\xff")
    error_of(verify(call, "--receipts", "receipts.jsonl"), 1, "last line is whole")
    (place / "receipts.jsonl").write_bytes(b"")
    assert verify(call, "--receipts", "receipts.jsonl").exit_code == 0


def test_wrong_use_of_verify_is_exit_code_2(exported, call, place, used):
    error_of(verify(call, file="nothing.jsonl"), 2, "nothing.jsonl cannot be read")
    error_of(verify(call, key="nothing.pub"), 2, "nothing.pub cannot be read")
    error_of(verify(call, "--receipts", "nothing.jsonl"), 2, "nothing.jsonl cannot be read")
    error_of(verify(call, file="."), 2, "cannot be read")
    said = error_of(
        verify(call, key=used.parent / "site.key"), 2, "not a public key", "give the .pub file"
    )
    assert "BEGIN" not in said
    error_of(verify(call, key="records.csv"), 2, "not a public key")
    assert call("ledger", "verify", "export.jsonl").exit_code == 2
    assert call("ledger", "verify").exit_code == 2


def test_a_ledger_given_in_the_place_of_its_export_is_named(exported, call, used):
    result = verify(call, file=used)
    assert result.exit_code == 1
    assert "Error" in result.stderr


def test_every_sub_command_says_what_it_prints_as_json_and_nothing_else(used, call):
    for command in (
        ("list", used), ("budget", used), ("show", used), ("close", used, STUDY),
        ("export", used, "--out", "a.jsonl"), ("receipts", used, "--out", "b.jsonl"),
        ("register", "records.csv", "--ledger", used),
        ("verify", "a.jsonl", "--key", used.parent / "site.pub"),
    ):  # fmt: skip
        result = call("ledger", *command, "--json")
        assert result.exit_code == 0, result.stderr
        assert isinstance(json.loads(result.stdout), dict)


def test_a_terminals_control_characters_never_reach_it(register, call):
    """A study's name comes from whoever wrote the study; what an entry cannot hold no command can show."""
    result = register("--namespace", "\x1b[31mred", code=1)
    assert "\x1b" not in result.stderr
    assert not any(Path("site").glob("*-journal"))
