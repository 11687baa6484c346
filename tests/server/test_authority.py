"""The coordinator's own authority: what its certificates allow, how long, and that a connection believes them."""

import ssl
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from privacy.errors import UserError
from server.authority import create_authority, expires_at, read_authority, renew_certificates

SERVERS = ("gateway", "superlink")


@pytest.fixture
def directory(tmp_path):
    create_authority(tmp_path, "lab.example.org")
    return tmp_path


def certificate(directory, name):
    return x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())


def extension(directory, name, kind):
    return certificate(directory, name).extensions.get_extension_for_class(kind)


def names(directory, name):
    value = extension(directory, name, x509.SubjectAlternativeName).value
    addresses = map(str, value.get_values_for_type(x509.IPAddress))
    return [*value.get_values_for_type(x509.DNSName), *addresses]


def handshake(server, client, name):
    """A TLS handshake in memory; raises what the client or the server raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    waiting = [here, there]
    for _ in range(10):
        for each in list(waiting):
            try:
                each.do_handshake()
                waiting.remove(each)
            except ssl.SSLWantReadError:
                pass
    assert not waiting


def server_of(directory, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / f"{name}.pem", directory / f"{name}.key")
    return context


def client_of(directory):
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


@pytest.mark.parametrize("name", ["ca", *SERVERS])
def test_a_key_is_its_certificates_and_readable_by_its_owner_alone(directory, name):
    path = directory / f"{name}.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = load_pem_private_key(path.read_bytes(), password=None)
    assert key.public_key() == certificate(directory, name).public_key()


def test_the_authority_may_sign_servers_and_nothing_else(directory):
    own = certificate(directory, "ca")
    constraints = extension(directory, "ca", x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = extension(directory, "ca", x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    own.verify_directly_issued_by(own)


@pytest.mark.parametrize("name", SERVERS)
def test_a_servers_certificate_can_sign_no_other(directory, name):
    constraints = extension(directory, name, x509.BasicConstraints)
    usage = extension(directory, name, x509.KeyUsage)
    extended = extension(directory, name, x509.ExtendedKeyUsage)
    assert constraints.critical
    assert usage.critical
    assert not constraints.value.ca
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert list(extended.value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    own, issued = certificate(directory, "ca"), certificate(directory, name)
    issued.verify_directly_issued_by(own)
    mine = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    named = extension(directory, name, x509.AuthorityKeyIdentifier).value
    assert named.key_identifier == mine.digest


def test_the_gateway_has_the_hosts_name_and_superlink_the_loopback_alone(directory):
    assert set(names(directory, "gateway")) == {"lab.example.org", "localhost", "127.0.0.1"}
    assert set(names(directory, "superlink")) == {"localhost", "127.0.0.1"}


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "localhost", "a-b.example."])
def test_a_host_may_be_an_address(tmp_path, host):
    create_authority(tmp_path, host)
    assert host.rstrip(".") in names(tmp_path, "gateway")


@pytest.mark.parametrize("host", ["", "a b", "https://lab.org", "lab.org:9443", "lab..org", "ü.de"])
def test_what_is_no_host_is_refused_before_anything_is_written(tmp_path, host):
    with pytest.raises(UserError, match="host's name or address"):
        create_authority(tmp_path, host)
    assert not list(tmp_path.iterdir())


def test_certificates_last_825_days_and_the_authority_ten_years(directory):
    now = datetime.now(UTC)
    for name, days in {"ca": 3652, "gateway": 824, "superlink": 824}.items():
        left = expires_at(directory / f"{name}.pem") - now
        assert timedelta(days=days) < left <= timedelta(days=days + 1)


def test_an_authority_is_not_made_over_another(directory):
    before = (directory / "ca.key").read_bytes()
    with pytest.raises(UserError, match="not written over"):
        create_authority(directory, "lab.example.org")
    assert (directory / "ca.key").read_bytes() == before


@pytest.mark.parametrize("name", ["lab.example.org", "localhost", "127.0.0.1"])
def test_a_site_that_pins_the_authority_believes_the_gateway(directory, name):
    handshake(server_of(directory, "gateway"), client_of(directory), name)


def test_superlink_cannot_stand_in_for_the_gateway(directory):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(server_of(directory, "superlink"), client_of(directory), "lab.example.org")


def test_a_renewal_changes_keys_but_not_the_authority(directory):
    before = {each.name: each.read_bytes() for each in directory.iterdir()}
    (directory / "gateway.key.new").write_bytes(b"left by a renewal that was cut short")
    renew_certificates(directory, "new.example.org")
    after = {each.name: each.read_bytes() for each in directory.iterdir()}
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] == after[name]} == {"ca.key", "ca.pem"}
    assert stat.S_IMODE((directory / "gateway.key").stat().st_mode) == 0o600
    handshake(server_of(directory, "gateway"), client_of(directory), "new.example.org")


def test_a_renewal_needs_the_authoritys_own_key(directory, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    create_authority(other, "lab.example.org")
    key = (directory / "ca.key").read_bytes()
    (directory / "ca.key").write_bytes((other / "ca.key").read_bytes())
    with pytest.raises(UserError, match="is not the key of"):
        renew_certificates(directory, "lab.example.org")
    (directory / "ca.key").unlink()
    with pytest.raises(UserError, match="cannot be read as a private key"):
        renew_certificates(directory, "lab.example.org")
    (directory / "ca.key").write_bytes(key)
    renew_certificates(directory, "lab.example.org")


def test_an_authority_shows_no_key(directory):
    assert "KEY" not in repr(read_authority(directory)).upper().replace("KEY=", "")


def test_a_file_that_is_no_certificate_is_named(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(UserError, match="cannot be read as a certificate"):
        expires_at(tmp_path / "ca.pem")


def test_an_expired_certificate_can_be_made_and_is_not_believed(directory):
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    now = datetime.now(UTC)
    key, issued = read_authority(directory).issue(
        "localhost", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "gateway.key").write_bytes(pem)
    (directory / "gateway.pem").write_bytes(issued.public_bytes(Encoding.PEM))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(server_of(directory, "gateway"), client_of(directory), "localhost")
