"""The coordinator's own certificate authority: sites pin its certificate, and trust no other.

Both servers of a coordinator have a certificate of it: the gateway, which sites dial, for the name by which they
dial it, and SuperLink for the loopback alone, so that neither can stand in for the other's address. The authority's
key is needed again only when the two certificates run out; a coordinator may keep it elsewhere until then.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.errors import UserError
from study.files import sync_directory, write_new

__all__ = [
    "Authority",
    "check_host",
    "create_authority",
    "expires_at",
    "read_authority",
    "renew_certificates",
]

_AUTHORITY_LIFE = timedelta(days=3653)
_CERTIFICATE_LIFE = timedelta(days=825)
_BACKDATED = timedelta(hours=1)  # for sites whose clocks are slow
_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Authority:
    """A key that signs certificates, and its own certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        return f"Authority({self.certificate.subject.rfc4514_string()!r})"

    def issue(
        self, *names: str, not_before: datetime, not_after: datetime
    ) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        """A new key and a certificate of it for a server that is dialled by these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = (
            _builder(key, names[0], self.certificate.subject, not_before, not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(
                x509.SubjectAlternativeName([*map(_general_name, names)]), critical=False
            )
            .add_extension(_authority_identifier(self.key), critical=False)
        )
        return key, builder.sign(self.key, SHA256())


def check_host(host: str) -> None:
    """Raise UserError unless that is a name or an address, which a certificate can be of."""
    _general_name(host)


def create_authority(directory: Path, host: str) -> None:
    """Make `ca`, `gateway` and `superlink`, each a .key (mode 0600) and a .pem; refuses existing files.

    Arguments:
        host: name or address by which sites reach the gateway.

    Raises:
        UserError: a file is there already, or `host` is no name and no address.
    """
    check_host(host)
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP384R1())
    authority = Authority(key, _own_certificate(key, host, now))
    write_new(directory / "ca.key", _key_pem(key), 0o600)
    write_new(directory / "ca.pem", authority.certificate.public_bytes(Encoding.PEM), 0o644)
    for name, (key_pem, certificate_pem) in _server_files(authority, host, now).items():
        write_new(directory / f"{name}.key", key_pem, 0o600)
        write_new(directory / f"{name}.pem", certificate_pem, 0o644)


def renew_certificates(directory: Path, host: str) -> None:
    """Replace the keys and certificates of both servers; sites notice nothing. The servers must be started again.

    Raises:
        UserError: the authority's files are not there, or are not what they should be.
    """
    authority = read_authority(directory)
    for name, (key_pem, pem) in _server_files(authority, host, datetime.now(UTC)).items():
        _replace(directory / f"{name}.key", key_pem, 0o600)
        _replace(directory / f"{name}.pem", pem, 0o644)


def read_authority(directory: Path) -> Authority:
    """The authority of a directory. Raises UserError."""
    certificate = _certificate(directory / "ca.pem")
    try:
        key = load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{directory / 'ca.key'} cannot be read as a private key",
            hint="put the authority's key back from where it is kept",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"Expected an elliptic curve's key in {directory / 'ca.key'}")
    if key.public_key() != certificate.public_key():
        raise UserError(f"{directory / 'ca.key'} is not the key of {directory / 'ca.pem'}")
    return Authority(key, certificate)


def expires_at(path: Path) -> datetime:
    """The last moment at which the certificate of this file is valid. Raises UserError if it holds none."""
    return _certificate(path).not_valid_after_utc


def _server_files(authority: Authority, host: str, now: datetime) -> dict[str, tuple[bytes, bytes]]:
    begin, end = now - _BACKDATED, now + _CERTIFICATE_LIFE
    end = min(end, authority.certificate.not_valid_after_utc)
    names = {"gateway": tuple(dict.fromkeys((host, *_LOOPBACK))), "superlink": _LOOPBACK}
    issued = {
        name: authority.issue(*each, not_before=begin, not_after=end)
        for name, each in names.items()
    }
    return {
        name: (_key_pem(key), certificate.public_bytes(Encoding.PEM))
        for name, (key, certificate) in issued.items()
    }


def _own_certificate(key: ec.EllipticCurvePrivateKey, host: str, now: datetime) -> x509.Certificate:
    title = f"Discreet coordinator {host}"[:64]
    return (
        _builder(key, title, _name(title), now - _BACKDATED, now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(_authority_identifier(key), critical=False)
        .sign(key, SHA256())
    )


def _builder(
    key: ec.EllipticCurvePrivateKey, title: str, issuer: x509.Name, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(title[:64]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(title: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])


def _authority_identifier(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.rstrip(".").split(".")
    good = all(
        each.isascii() and each.replace("-", "").isalnum() and len(each) < 64 for each in labels
    )
    if not good or len(host) > 253:
        raise UserError(
            f"Expected a host's name or address, found {host!r}", hint="such as lab.org"
        )
    return x509.DNSName(host.rstrip("."))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a certificate in PEM form") from error


def _replace(path: Path, content: bytes, mode: int) -> None:
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)  # left by a renewal that was cut short
    write_new(beside, content, mode)
    os.replace(beside, path)  # noqa: PTH105  the name says that it is atomic
    sync_directory(path.parent)
