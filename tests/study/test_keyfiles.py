"""Keys as files: made once, for their owner's eyes, and read as nothing but what they are."""

import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from privacy.errors import UserError
from study import files
from study.files import write_new
from study.keyfiles import create_key, read_key, read_public_key, write_public_key

OTHERS = {
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "curve": lambda: ec.generate_private_key(ec.SECP256R1()),
    "x25519": x25519.X25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
}


def private_pem(key, encryption=None, form=PrivateFormat.PKCS8):
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def write(tmp_path):
    def write_it(content, mode=0o600, name="site.key"):
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return write_it


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777])
def umask(request):
    """Whatever the operator's own habits are."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_both_halves_are_read_as_they_were_made(tmp_path):
    key = create_key(tmp_path / "site.key")
    write_public_key(tmp_path / "site.pub", key)
    assert read_key(tmp_path / "site.key").public == key.public
    assert read_public_key(tmp_path / "site.pub") == key.public
    message = read_key(tmp_path / "site.key").sign("ledger", b"message")
    assert message == key.sign("ledger", b"message")


def test_a_private_key_is_its_owners_alone_from_its_first_moment(tmp_path, monkeypatch, umask):
    modes = []
    original = os.open

    def watched(path, flags, mode=0o777):
        handle = original(path, flags, mode)
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode) if flags & os.O_CREAT else None)
        return handle

    monkeypatch.setattr(files.os, "open", watched)
    create_key(tmp_path / "site.key")
    assert modes[0] == 0o600 & ~umask
    assert stat.S_IMODE((tmp_path / "site.key").stat().st_mode) == 0o600 & ~umask


def test_a_public_key_is_for_everybody(tmp_path):
    before = os.umask(0o022)
    try:
        write_public_key(tmp_path / "site.pub", create_key(tmp_path / "site.key"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "site.pub").stat().st_mode) == 0o644
    assert b"PRIVATE" not in (tmp_path / "site.pub").read_bytes()


@pytest.mark.parametrize("there", ["file", "empty", "link", "dangling link", "directory"])
def test_nothing_is_ever_written_over(tmp_path, there):
    path, target = tmp_path / "site.key", tmp_path / "target"
    if there == "directory":
        path.mkdir()
    elif there.endswith("link"):
        path.symlink_to(target)
        if there == "link":
            target.write_bytes(b"old")
    else:
        path.write_bytes(b"old" if there == "file" else b"")
    for write_it in (create_key, lambda path: write_new(path, b"new", 0o600)):
        with pytest.raises(UserError, match="exists, and is not written over"):
            write_it(path)
    assert not target.exists() or target.read_bytes() == b"old"
    if there == "file":
        assert path.read_bytes() == b"old"


def test_two_keys_differ(tmp_path):
    assert create_key(tmp_path / "one").public != create_key(tmp_path / "two").public


@pytest.mark.parametrize("failing", ["fsync", "write"])
def test_half_a_key_is_not_left_in_the_way(tmp_path, monkeypatch, failing):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if failing == "fsync":
            patch.setattr(files.os, "fsync", full)
        else:
            patch.setattr(files.os, "fdopen", full)
        with pytest.raises(OSError, match="No space"):
            create_key(tmp_path / "site.key")
    assert list(tmp_path.iterdir()) == []
    create_key(tmp_path / "site.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o666, 0o777])
def test_a_key_that_others_can_read_write_or_run_is_refused(write, mode):
    path = write(private_pem(ed25519.Ed25519PrivateKey.generate()), mode)
    with pytest.raises(UserError, match="can be read by others") as error:
        read_key(path)
    assert error.value.hint == f"chmod 600 {path}"
    path.chmod(0o400)
    read_key(path)


@pytest.mark.parametrize("kind", OTHERS)
def test_keys_of_another_kind_are_refused(write, kind):
    key = OTHERS[kind]()
    with pytest.raises(UserError, match="another kind, not Ed25519"):
        read_key(write(private_pem(key)))
    with pytest.raises(UserError, match="another kind, not Ed25519"):
        read_public_key(write(public_pem(key), name="site.pub"))


def test_a_key_with_a_password_is_refused(write):
    content = private_pem(ed25519.Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret"))
    with pytest.raises(UserError, match="without a password"):
        read_key(write(content))


def test_the_halves_are_not_taken_for_each_other(write):
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = write(private_pem(key)), write(public_pem(key), name="site.pub")
    with pytest.raises(UserError, match="not a public key") as error:
        read_public_key(private)
    assert error.value.hint == "give the .pub file, not the private key"
    with pytest.raises(UserError, match="not a private key"):
        read_key(public)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x00\xff" * 100, b"-----BEGIN PRIVATE KEY-----\n", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", bytes(100_000)],
    ids=["nothing", "text", "binary", "half", "rubbish", "long"],
)  # fmt: skip
def test_what_is_no_key_is_refused_by_name_and_never_shown(write, content):
    path = write(content)
    for read in (read_key, read_public_key):
        with pytest.raises(UserError, match="site.key is not a") as error:
            read(path)
        assert "AAAA" not in error.value.message


def test_der_and_raw_keys_are_refused(write):
    key = ed25519.Ed25519PrivateKey.generate()
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for content in (der, key.private_bytes_raw()):
        with pytest.raises(UserError, match="not a private key"):
            read_key(write(content))


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path):
    for read in (read_key, read_public_key):
        for path in (tmp_path / "nothing", tmp_path):
            with pytest.raises(UserError, match=f"{path} cannot be read"):
                read(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        create_key(tmp_path / "nowhere" / "site.key")
