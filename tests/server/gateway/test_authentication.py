"""Who is calling: honest signatures pass, and each way of having none does not."""

import base64
import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from server.gateway.authentication import Sites, fingerprint_of, signed_by
from server.gateway.refusals import Refused

NOW = datetime(2026, 11, 26, 12, 0, 0, 250_000, tzinfo=UTC)
PRIVATE = ec.generate_private_key(ec.SECP384R1())


def pem(private):
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


KEY = pem(PRIVATE)


def headers(*, stamp=None, signed=None, key=KEY, private=PRIVATE, **changes):
    stamp = NOW.isoformat() if stamp is None else stamp
    signature = private.sign((signed or stamp).encode(), ec.ECDSA(SHA256()))
    values = {
        b"flwr-public-key": base64.b64encode(key),
        b"flwr-timestamp": stamp.encode(),
        b"flwr-signature": base64.b64encode(signature),
        b"accept": b"*/*",
    } | {name.replace("_", "-").encode(): value for name, value in changes.items()}
    return [(name, value) for name, value in values.items() if value is not None]


def signed(given, *, now=NOW, registered=(KEY,)):
    return signed_by(given, now=now, registered=frozenset(registered))


def refused(reason):
    return pytest.raises(Refused, match=f"^{reason}$")


def test_an_honest_signature_names_its_key():
    given = headers()
    caller = signed(given)
    assert (caller.key, caller.stamp) == (KEY, NOW.isoformat())
    assert caller.expires == NOW + timedelta(seconds=305)
    assert list(caller.headers) == given[:3], "SuperLink is shown what we were shown, and no more"
    assert caller.fingerprint == fingerprint_of(KEY)


def test_a_whole_second_has_no_fraction():
    assert signed(headers(stamp=NOW.replace(microsecond=0).isoformat())).key == KEY


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP521R1])
def test_other_curves_of_flowers_pass(curve):
    private = ec.generate_private_key(curve())
    given = headers(private=private, key=pem(private))
    assert signed(given, registered=[KEY, pem(private)]).key == pem(private)


@pytest.mark.parametrize("name", ["flwr_public_key", "flwr_timestamp", "flwr_signature"])
def test_a_missing_header_is_no_signature(name):
    with refused("no-signature"):
        signed(headers(**{name: None}))


@pytest.mark.parametrize("name", [b"flwr-public-key", b"flwr-timestamp", b"flwr-signature"])
def test_a_header_that_comes_twice_is_no_signature(name):
    given = headers()
    with refused("no-signature"):
        signed([*given, (name, dict(given)[name])])


@pytest.mark.parametrize("value", [b"", b"!", b"\xff\xfe", b"AA", b"AA==\n", b"AB=="])
@pytest.mark.parametrize("name", ["flwr_public_key", "flwr_signature"])
def test_what_is_not_base64_is_no_signature(name, value):
    with pytest.raises(Refused, match=r"^(no-signature|unknown-key|bad-signature)$"):
        signed(headers(**{name: value}))


def test_an_unknown_key_is_refused_before_its_signature_is_looked_at():
    with refused("unknown-key"):
        signed(headers(flwr_signature=b""), registered=[])
    other = ec.generate_private_key(ec.SECP384R1())
    with refused("unknown-key"):
        signed(headers(private=other, key=pem(other)))


def test_a_key_must_be_written_as_it_was_registered():
    """Another writing of the same key is another name, which nobody has registered."""
    with refused("unknown-key"):
        signed(headers(key=KEY + b"\n"))


@pytest.mark.parametrize("seconds", [-4.9, 0, 304.9])
def test_the_window_is_flowers(seconds):
    assert signed(headers(), now=NOW + timedelta(seconds=seconds)).key == KEY


@pytest.mark.parametrize("seconds", [-5, -3600, 305, 3600, 10**9])
def test_outside_the_window_a_signature_is_worth_nothing(seconds):
    with refused("wrong-time"):
        signed(headers(), now=NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "stamp",
    [
        "", "now", "2026-11-26T12:00:00.250000", "2026-11-26T12:00:00.250000Z", "2026-11-26 12:00:00.250000+00:00",
        "2026-11-26T13:00:00.250000+01:00", "2026-11-26T12:00:00.25+00:00", "2026-13-26T12:00:00+00:00",
        "2026-11-26T12:00:00.250000+00:00 ", "9999-99-99T99:99:99+00:00",
    ],
)  # fmt: skip
def test_a_time_is_written_as_flower_writes_it(stamp):
    with refused("wrong-time"):
        signed(headers(stamp=stamp))


def test_a_signature_of_something_else_is_refused():
    with refused("bad-signature"):
        signed(headers(signed="2026-11-26T12:00:01+00:00"))
    with refused("bad-signature"):
        signed(headers(private=ec.generate_private_key(ec.SECP384R1())))
    with refused("bad-signature"):
        signed(headers(flwr_signature=base64.b64encode(os.urandom(96))))
    with refused("bad-signature"):
        signed(headers(flwr_signature=b""))


def test_the_other_signature_of_the_same_numbers_has_the_same_time():
    """(r, n - s) is good as well, so it is the time that counts once, not the signature."""
    r, s = decode_dss_signature(PRIVATE.sign(NOW.isoformat().encode(), ec.ECDSA(SHA256())))
    order = int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
        16,
    )
    twin = encode_dss_signature(r, order - s)
    assert signed(headers(flwr_signature=base64.b64encode(twin))).stamp == NOW.isoformat()


def test_a_registered_key_of_another_kind_signs_nothing():
    other = pem(ed25519.Ed25519PrivateKey.generate())
    with refused("bad-signature"):
        signed(headers(key=other), registered=[other])
    with refused("bad-signature"):
        signed(headers(key=b"nothing"), registered=[b"nothing"])


# Who may come


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sites.json"


def write(path, content):
    new = path.with_suffix(".new")
    new.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    new.replace(path)


def test_a_site_may_come_from_the_moment_it_is_written_down_until_it_is_struck_out(path):
    sites = Sites(path)
    assert sites.keys() == frozenset()
    write(path, {"a": base64.b64encode(KEY).decode()})
    assert sites.keys() == {KEY}
    write(path, {"a": base64.b64encode(KEY).decode(), "b": base64.b64encode(b"b").decode()})
    assert sites.keys() == {KEY, b"b"}
    write(path, {"b": base64.b64encode(b"b").decode()})
    assert sites.keys() == {b"b"}
    path.unlink()
    assert sites.keys() == frozenset()


@pytest.mark.parametrize(
    "content", ["", "[", "[]", "1", '{"a": 1}', '{"a": "!"}', '{"a": null}', "[" * 100_000]
)
def test_a_file_that_cannot_be_read_admits_nobody_and_says_try_again(path, content):
    sites = Sites(path)
    write(path, {"a": base64.b64encode(KEY).decode()})
    assert sites.keys() == {KEY}
    write(path, content)
    for _ in range(2):
        with pytest.raises(Refused, match="^sites-unreadable$") as caught:
            sites.keys()
        assert caught.value.status == 503
    write(path, {"a": base64.b64encode(KEY).decode()})
    assert sites.keys() == {KEY}
