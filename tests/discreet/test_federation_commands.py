"""`discreet federation`, as those do who found one, join it and change it."""

import json
import stat

import pytest

from study.keyfiles import create_key, write_public_key

NAMES = ("north", "south", "west")


@pytest.fixture
def sites(place):
    """Three directories of sites, each with its key."""
    for name in (*NAMES, "east"):
        (place / name).mkdir()
        key = create_key(place / name / "site.key")
        write_public_key(place / name / "site.pub", key)
    return place


def given(option, names):
    return [each for name in names for each in (option, f"{name}={name}/site.pub")]


@pytest.fixture
def founded(sites, call):
    """The place, with `lab/` made for three sites."""
    result = call("federation", "init", "lab", "--name", "Heart failure", *given("--site", NAMES))
    assert result.exit_code == 0, result.stderr
    return sites


def fingerprint_of(call, roster, *options):
    result = call("federation", "show", roster, *options, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["fingerprint"]


def pin(call, roster, name="north", *options, fingerprint=None):
    printed = (
        fingerprint
        or json.loads((call("federation", "show", roster, *options, "--json")).stdout)[
            "fingerprint"
        ]
    )
    return call("federation", "pin", roster, "--site-dir", name, "--fingerprint", printed, *options)


def sign(call, roster, name, out):
    return call(
        "federation",
        "sign",
        roster,
        "--before",
        "lab/roster.json",
        "--key",
        f"{name}/site.key",
        "--out",
        out,
    )


def test_a_federation_has_a_key_that_its_maker_alone_can_read_and_a_signed_roster(founded, call):
    assert stat.S_IMODE((founded / "lab/federation.key").stat().st_mode) == 0o600
    result = call("federation", "show", "lab/roster.json")
    assert result.exit_code == 0, result.stderr
    assert all(name in result.stdout for name in (*NAMES, "Heart failure", "the federation"))


def test_json_is_one_object_with_everything_that_a_script_needs(founded, call):
    found = json.loads(call("federation", "show", "lab/roster.json", "--json").stdout)
    assert set(found) == {"federation", "number", "fingerprint", "hash", "sites", "signed_by"}
    assert (found["number"], list(found["sites"]), found["signed_by"]) == (
        1,
        list(NAMES),
        ["the federation"],
    )


def test_nothing_is_ever_written_over(founded, call):
    before = (founded / "lab/federation.key").read_bytes()
    result = call("federation", "init", "lab", "--name", "other", *given("--site", NAMES))
    assert result.exit_code == 2
    assert "exists" in result.stderr
    assert (founded / "lab/federation.key").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--site", "north"], "expected NAME=FILE"),
        (["--site", "north=nowhere.pub"], "cannot be read"),
        (["--site", "north=north/site.key"], "not a public key"),
        (["--site", "a=north/site.pub", "--site", "b=north/site.pub"], "no two are equal"),
        (["--site", "a=north/site.pub", "--site", "A=south/site.pub"], "no two are equal"),
        (["--site", "\n=north/site.pub"], "name"),
        (["--site", "a=north/site.pub", "--colluding", "2"], "colluding"),
    ],
)  # fmt: skip
def test_what_makes_no_roster_is_said_and_nothing_is_written(sites, call, options, message):
    result = call("federation", "init", "lab", "--name", "x", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (sites / "lab").exists()


def test_a_site_pins_the_roster_whose_fingerprint_it_was_told(founded, call):
    result = pin(call, "lab/roster.json")
    assert result.exit_code == 0, result.stderr
    assert "this is site 1, north" in result.stderr
    assert (founded / "north/roster.json").read_bytes() == (
        founded / "lab/roster.json"
    ).read_bytes()
    assert pin(call, "lab/roster.json").exit_code == 0  # once more changes nothing


def test_another_fingerprint_pins_nothing(founded, call):
    result = pin(call, "lab/roster.json", fingerprint="0000-" * 7 + "0000")
    assert result.exit_code == 2
    assert "Expected the roster 0000" in result.stderr
    assert not (founded / "north/roster.json").exists()


def test_a_stranger_cannot_pin_it(founded, call):
    result = pin(call, "lab/roster.json", "east")
    assert result.exit_code == 2
    assert "Expected a site of the roster" in result.stderr


def test_a_roster_that_nobody_signed_or_that_was_changed_is_refused(founded, call):
    content = json.loads((founded / "lab/roster.json").read_text())
    content["signatures"] = {}
    (founded / "none.json").write_text(json.dumps(content, separators=(",", ":"), sort_keys=True))
    result = call("federation", "show", "none.json")
    assert result.exit_code == 2
    assert "that the federation's key has signed" in result.stderr
    text = (founded / "lab/roster.json").read_text().replace('"name":"west"', '"name":"west2"')
    (founded / "changed.json").write_text(text)
    result = call("federation", "show", "changed.json")
    assert result.exit_code == 2
    assert "Expected a signature (roster)" in result.stderr


def test_the_federation_changes_its_roster_alone(founded, call):
    pin(call, "lab/roster.json")
    result = call(
        "federation", "change", "lab/roster.json", "--remove", "west", *given("--add", ["east"]),
        "--key", "lab/federation.key", "--out", "second.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    result = pin(call, "second.json")
    assert result.exit_code == 0, result.stderr
    assert pin(call, "lab/roster.json").exit_code == 2  # there is no way back
    assert fingerprint_of(call, "north/roster.json") == fingerprint_of(call, "second.json")


def test_more_than_half_of_the_sites_and_those_that_may_collude_change_it_without_its_key(
    founded, call
):
    """Three sites, one may collude: more than (3 + 1) / 2 are three."""
    pin(call, "lab/roster.json")
    call("federation", "change", "lab/roster.json", "--remove", "west", "--out", "r0.json")
    for number, name in enumerate(NAMES):
        result = pin(call, f"r{number}.json")
        assert result.exit_code == 2
        assert f"or of 3 sites, found {number}" in result.stderr
        result = sign(call, f"r{number}.json", name, f"r{number + 1}.json")
        assert result.exit_code == 0, result.stderr
    result = pin(call, "r3.json")
    assert result.exit_code == 0, result.stderr


def test_a_stranger_cannot_sign_a_change(founded, call):
    call("federation", "change", "lab/roster.json", "--remove", "west", "--out", "r0.json")
    result = sign(call, "r0.json", "east", "r1.json")
    assert result.exit_code == 2
    assert "Expected a site of the roster" in result.stderr
    assert not (founded / "r1.json").exists()


def test_one_signs_only_what_follows_the_version_at_hand(founded, call):
    result = sign(call, "lab/roster.json", "north", "r1.json")
    assert result.exit_code == 2
    assert "not the version after" in result.stderr


def test_a_site_that_is_not_there_cannot_leave(founded, call):
    result = call(
        "federation", "change", "lab/roster.json", "--remove", "nowhere", "--out", "r0.json"
    )
    assert result.exit_code == 2
    assert "no site of the roster" in result.stderr
    assert "north, south, west" in result.stderr


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b'{"roster":{},"signatures":{}}', b"[" * 5000]
)
def test_what_is_no_roster_is_said_in_a_sentence(founded, call, content):
    (founded / "bad.json").write_bytes(content)
    result = call("federation", "show", "bad.json")
    assert result.exit_code == 2
    assert "is no roster" in result.stderr
    assert "Traceback" not in result.stderr
