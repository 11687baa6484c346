"""`discreet coordinator`, `discreet site` and `discreet study declare`, up to where processes would run."""

import json

import pytest
from deployment import Deployment

from client.directory import SiteDirectory
from server.directory import CoordinatorDirectory
from study.declaration import Declaration
from study.invitation import Invitation

WRONG, FAILED = 2, 1


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A federation in which everything is prepared, and nothing runs. Tests leave it as it is."""
    one = Deployment(tmp_path_factory.mktemp("prepared"), sites=3)
    one.make()
    return one


@pytest.fixture
def new(prepared, tmp_path):
    """A site's directory with a ledger, which was not prepared yet."""
    import shutil

    place = tmp_path / "new"
    place.mkdir()
    for name in ("ledger.sqlite", "site.key", "site.pub", "roster.json"):
        shutil.copy(prepared.site("hospital-1") / name, place)
    return place


def invitation_of(prepared):
    path = prepared.coordinator / "invitation.json"
    return path, Invitation.from_bytes(path.read_bytes())


def refused(result, code, *texts):
    assert result.exit_code == code, result.output
    said = result.stderr
    assert "Traceback" not in said
    assert "Error:" in said
    for each in texts:
        assert each in said, said


# A coordinator


def test_a_coordinator_is_made_with_secrets_for_its_owner_alone(prepared):
    directory = CoordinatorDirectory(prepared.coordinator)
    for name in ("coordinator.key", "ca.key", "gateway.key", "superlink.key", "superexec.secret"):
        assert (directory / name).stat().st_mode & 0o077 == 0, name
    path, invitation = invitation_of(prepared)
    assert path.stat().st_mode & 0o044 == 0o044
    assert invitation.certificate == (directory / "ca.pem").read_text()
    assert invitation.address.startswith("127.0.0.1:")
    assert sorted(directory.sites()) == prepared.names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host", "no host"), "Expected a host's name"),
        (("--host", "a.org", "--port", "9444"), "another port than"),
    ],
)
def test_a_coordinator_that_cannot_be_made_leaves_nothing(place, call, options, words):
    refused(call("coordinator", "init", "new", *options), WRONG, words)
    assert not (place / "new").exists()


def test_a_coordinator_is_not_made_over_another(prepared, call):
    before = {
        path.name: path.read_bytes() for path in prepared.coordinator.iterdir() if path.is_file()
    }
    refused(
        call("coordinator", "init", str(prepared.coordinator), "--host", "x.example"),
        WRONG,
        "is not empty",
    )
    assert before == {
        path.name: path.read_bytes() for path in prepared.coordinator.iterdir() if path.is_file()
    }


@pytest.mark.parametrize("command", ["add DIR a=b", "remove DIR a", "start DIR", "status DIR"])
def test_what_is_not_a_coordinators_directory_is_said_to_be_none(place, call, command):
    name, *rest = command.replace("DIR", str(place)).split()
    refused(
        call("coordinator", name, *rest),
        WRONG,
        "is not a coordinator's directory",
        "discreet coordinator init",
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("hospital-1", "expected NAME=FILE"), ("x=no-such-file", "cannot be read"), ("x=SITE/site.pub", "not a node's public key"),
        ("x=SITE/node.key", "not a node's public key"), ("x=SITE/node.pub", "a node key of its own"),
    ],
)  # fmt: skip
def test_only_a_nodes_public_key_lets_a_site_connect(prepared, call, given, said):
    before = (prepared.coordinator / "sites.json").read_bytes()
    given = given.replace("SITE", str(prepared.site("hospital-1")))
    refused(call("coordinator", "add", str(prepared.coordinator), given), WRONG, said)
    assert (prepared.coordinator / "sites.json").read_bytes() == before


def test_a_site_is_removed_and_added_again(prepared, call):
    directory, node = str(prepared.coordinator), prepared.site("hospital-1") / "node.pub"
    refused(
        call("coordinator", "remove", directory, "hospital-9"),
        WRONG,
        "There is no site hospital-9",
        "hospital-1",
    )
    result = call("coordinator", "remove", directory, "hospital-1", "--json")
    assert json.loads(result.stdout) == {"sites": ["hospital-2", "hospital-3"]}
    result = call("coordinator", "add", directory, f"hospital-1={node}", "--json")
    assert json.loads(result.stdout) == {"sites": prepared.names}


def test_a_coordinator_that_does_not_run_cannot_run_a_study(prepared, call):
    roster = prepared.root / "lab" / "roster.json"
    for command in (
        ("status", str(prepared.coordinator)),
        ("run", str(prepared.coordinator), str(prepared.declaration), "--roster", str(roster)),
    ):
        refused(
            call("coordinator", *command),
            FAILED,
            "SuperLink did not answer",
            "discreet coordinator start",
        )


def test_a_study_for_another_roster_is_not_run(prepared, call, place):
    call("federation", "init", "other", "--name", "other", *[
        each for name in prepared.names for each in ("--site", f"{name}={prepared.site(name) / 'site.pub'}")
    ])  # fmt: skip
    result = call(
        "coordinator",
        "run",
        str(prepared.coordinator),
        str(prepared.declaration),
        "--roster",
        "other/roster.json",
    )
    refused(result, WRONG, "Expected the roster that this study was declared for")


def test_a_site_without_a_node_keeps_a_study_from_being_run(prepared, call):
    directory, node = str(prepared.coordinator), prepared.site("hospital-3") / "node.pub"
    call("coordinator", "remove", directory, "hospital-3")
    roster = prepared.root / "lab" / "roster.json"
    result = call(
        "coordinator", "run", directory, str(prepared.declaration), "--roster", str(roster)
    )
    refused(result, WRONG, "found none of hospital-3", "discreet coordinator add")
    call("coordinator", "add", directory, f"hospital-3={node}")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\x00", b'{"protocol":1}'])
def test_what_is_no_declaration_is_said_to_be_none(prepared, call, place, content):
    (place / "bad.json").write_bytes(content)
    roster = prepared.root / "lab" / "roster.json"
    result = call(
        "coordinator", "run", str(prepared.coordinator), "bad.json", "--roster", str(roster)
    )
    refused(result, WRONG, "bad.json is no declaration", "discreet study declare")


# A site


def test_a_site_is_prepared_with_secrets_for_its_owner_alone(prepared):
    directory = SiteDirectory(prepared.site("hospital-1"))
    for name in ("node.key", "superexec.secret", "site.key"):
        assert (directory / name).stat().st_mode & 0o077 == 0, name
    _, invitation = invitation_of(prepared)
    assert directory.settings().network.coordinator == invitation.address


def test_an_invitation_with_another_fingerprint_is_refused_and_nothing_is_made(prepared, call, new):
    path, invitation = invitation_of(prepared)
    wrong = "0000" + invitation.fingerprint[4:]
    result = call("site", "init", str(new), "--invitation", str(path), "--fingerprint", wrong)
    refused(result, WRONG, invitation.fingerprint, "by telephone")
    assert not (new / "site.toml").exists()
    assert not (new / "node.key").exists()


def test_an_altered_invitation_has_another_fingerprint(prepared, call, new, tmp_path):
    path, invitation = invitation_of(prepared)
    forged = tmp_path / "forged.json"
    forged.write_bytes(path.read_bytes().replace(invitation.key.encode(), b"0" * 64))
    result = call(
        "site",
        "init",
        str(new),
        "--invitation",
        str(forged),
        "--fingerprint",
        invitation.fingerprint,
    )
    refused(result, WRONG, "The invitation's fingerprint is")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff"])
def test_what_is_no_invitation_is_said_to_be_none(call, new, tmp_path, content):
    (tmp_path / "bad.json").write_bytes(content)
    result = call(
        "site", "init", str(new), "--invitation", str(tmp_path / "bad.json"), "--fingerprint", "x"
    )
    refused(result, WRONG, "is no invitation")


def test_a_site_is_prepared_once(prepared, call):
    path, invitation = invitation_of(prepared)
    site = prepared.site("hospital-1")
    before = (site / "node.key").read_bytes()
    result = call(
        "site",
        "init",
        str(site),
        "--invitation",
        str(path),
        "--fingerprint",
        invitation.fingerprint,
    )
    refused(result, WRONG, "was prepared already")
    assert (site / "node.key").read_bytes() == before


def test_an_interrupted_preparation_is_gone_on_with(prepared, call, new):
    path, invitation = invitation_of(prepared)
    (new / "ca.pem").write_text(invitation.certificate)
    (new / "superexec.secret").write_text("0" * 64)
    result = call(
        "site",
        "init",
        str(new),
        "--invitation",
        str(path),
        "--fingerprint",
        invitation.fingerprint,
        "--json",
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["coordinator"] == invitation.address
    assert (new / "superexec.secret").read_text() == "0" * 64, "what is there is kept"
    assert (new / "node.key").stat().st_mode & 0o077 == 0


def test_what_was_lost_is_put_back_and_nothing_else_changed(prepared, call):
    path, invitation = invitation_of(prepared)
    site = prepared.site("hospital-1")
    init = ("site", "init", str(site), "--invitation", str(path), "--fingerprint", invitation.fingerprint)  # fmt: skip
    kept = {name: (site / name).read_bytes() for name in ("node.key", "site.toml", "ca.pem")}
    public = (site / "node.pub").read_bytes()
    site.chmod(0o1770)  # as for a worker that is another user
    for name in ("ca.pem", "superexec.secret", "node.pub"):
        (site / name).unlink()
    result = call(*init)
    assert result.exit_code == 0, result.output
    assert "Put back ca.pem, superexec.secret, node.pub" in result.output
    assert {name: (site / name).read_bytes() for name in kept} == kept
    assert (site / "node.pub").read_bytes() == public
    assert site.stat().st_mode & 0o7777 == 0o1770
    assert (site / "superexec.secret").stat().st_mode & 0o077 == 0
    (site / "ca.pem").write_text(kept["ca.pem"].decode().replace("A", "B"))
    refused(call(*init), WRONG, "is of another coordinator", "move ca.pem away")
    (site / "ca.pem").unlink()
    (site / "coordinator.pub").rename(site / "old.pub")
    settings = kept["site.toml"].decode().replace(invitation.address, "other.example:1")
    (site / "site.toml").write_text(settings)
    refused(call(*init), WRONG, "site.toml names other.example:1", "move site.toml away")
    assert not (site / "ca.pem").exists()
    (site / "site.toml").unlink()
    result = call(*init)
    assert "has to be set again" in result.output
    for name in ("ca.pem", "site.toml"):
        (site / name).write_bytes(kept[name])
    (site / "old.pub").replace(site / "coordinator.pub")
    site.chmod(0o700)


def test_a_directory_without_a_ledger_is_none_of_a_site(prepared, call, place):
    path, invitation = invitation_of(prepared)
    result = call(
        "site",
        "init",
        str(place),
        "--invitation",
        str(path),
        "--fingerprint",
        invitation.fingerprint,
    )
    refused(result, WRONG, "has no ledger", "discreet ledger register")


@pytest.mark.parametrize("command", ["approve DIR x --data y", "check DIR", "start DIR"])
def test_a_site_that_was_not_prepared_is_told_how(call, new, command):
    name, *rest = command.replace("DIR", str(new)).split()
    refused(call("site", name, *rest), WRONG, "was not set up to connect", "discreet site init")


def test_a_study_is_approved_by_its_declaration(prepared, call, place):
    site = str(prepared.site("hospital-1"))
    data = str(prepared.root / "hospital-1.csv")
    refused(call("site", "approve", site, "no-such-file", "--data", data), WRONG, "cannot be read")
    study = str(prepared.root / "study.toml")
    refused(
        call("site", "approve", site, study, "--data", data),
        WRONG,
        "is no declaration",
        "study declare",
    )
    refused(call("site", "approve", site, str(prepared.declaration)), WRONG, "Which data set?")
    result = call("site", "approve", site, str(prepared.declaration), "--data", data)
    refused(result, FAILED, "hospital-1")  # a data set of that name was never registered
    result = call(
        "site",
        "approve",
        site,
        str(prepared.declaration),
        "--data",
        data,
        "--data-set",
        "records",
        "--json",
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["study"] == prepared.study


def test_what_is_approved_can_be_read_before_and_is_said_after(prepared, call):
    """A site has the declaration and no more: what a researcher sends beside it need not be the same study."""
    declaration = str(prepared.declaration)
    shown = json.loads(call("study", "show", declaration, "--json").stdout)
    assert "deployed" in json.dumps(shown)
    for command in (("study", "check"), ("study", "show"), ("study", "forecast")):
        result = call(*command, declaration)
        assert result.exit_code == 0, (command, result.output)
    data = str(prepared.root / "hospital-2.csv")
    site = str(prepared.site("hospital-2"))
    result = call("site", "approve", site, declaration, "--data", data, "--data-set", "records")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    for word in (
        "2 rounds and 1 spare",
        "over 3 sites",
        "diagnosis and mean radius",
        "epsilon 4 at delta 1e-05",
        "trust aggregate",
    ):
        assert word in said, said


def test_an_empty_list_of_sites_is_said(prepared, call, monkeypatch):
    path = prepared.coordinator / "sites.json"
    own = path.read_bytes()
    path.write_bytes(b"")
    node = f"x={prepared.site('hospital-1') / 'node.pub'}"
    try:
        refused(
            call("coordinator", "add", str(prepared.coordinator), node), WRONG, "no list of sites"
        )
    finally:
        path.write_bytes(own)


def test_a_declaration_that_somebody_has_altered_is_not_approved(prepared, call, place):
    content = prepared.declaration.read_bytes()
    (place / "altered.json").write_bytes(content.replace(b'"sites":3', b'"sites": 3'))
    data = str(prepared.root / "hospital-1.csv")
    result = call(
        "site",
        "approve",
        str(prepared.site("hospital-1")),
        "altered.json",
        "--data",
        data,
        "--data-set",
        "records",
    )
    assert result.exit_code in (WRONG, FAILED)
    assert "Error:" in result.stderr


# A declaration


def test_a_declaration_is_of_the_roster_and_every_one_is_another_run(prepared, call, place):
    roster, study = str(prepared.root / "lab" / "roster.json"), str(prepared.root / "study.toml")
    hashes = set()
    for name in ("a.json", "b.json"):
        result = call("study", "declare", study, "--roster", roster, "--out", name, "--json")
        assert result.exit_code == 0, result.output
        declared = Declaration.from_bytes((place / name).read_bytes())
        assert json.loads(result.stdout) == {"file": name, "study": declared.hash, "sites": 3}
        hashes.add(declared.hash)
    assert len(hashes) == 2
    refused(
        call("study", "declare", study, "--roster", roster, "--out", "a.json"),
        WRONG,
        "is not written over",
    )


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_a_roster_that_is_none_is_refused(prepared, call, place, content):
    (place / "bad.json").write_bytes(content)
    result = call("study", "declare", str(prepared.root / "study.toml"), "--roster", "bad.json")
    refused(result, WRONG, "bad.json")
    assert not (place / "declaration.json").exists()
