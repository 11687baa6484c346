"""Targets: files of keys."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fuzzing import mutations
from fuzzing.engine import Target
from fuzzing.mutations import BYTES, LINES
from fuzzing.places import written
from privacy.errors import UserError
from privacy.signing import SigningKey
from study.keyfiles import read_key, read_public_key

__all__ = ["TARGETS"]

_SECRETS = (bytes(range(32)), b"\x4f" * 32)
_PRIVATE, _PUBLIC = (
    bytes.fromhex("302e020100300506032b657004220420"),
    bytes.fromhex("302a300506032b6570032100"),
)
"""What DER puts before the 32 bytes of an Ed25519 key (RFC 8410)."""


def _pem(label: str, der: bytes) -> bytes:
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()


def _private_seeds() -> Sequence[bytes]:
    return [
        Ed25519PrivateKey.from_private_bytes(each).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        for each in _SECRETS
    ]


def _public_seeds() -> Sequence[bytes]:
    publics = [Ed25519PrivateKey.from_private_bytes(each).public_key() for each in _SECRETS]
    return [each.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for each in publics]


def _change_der(draw: random.Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """A mutation of what the base64 says."""
    match = re.search(rb"-----BEGIN ([A-Z ]+)-----\n([A-Za-z0-9+/=\n]*)-----END", data)
    try:
        der = base64.b64decode(match[2], validate=False) if match else None
    except ValueError:
        der = None
    if match is None or der is None:
        return data
    return _pem(
        match[1].decode(),
        draw.choice(BYTES)(draw, der, [_PRIVATE + _SECRETS[0], _PUBLIC + _SECRETS[0]]),
    )


def _other_key(draw: random.Random, _data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Another kind of key, or another wrapping of one."""
    curve, exchange = (
        ec.derive_private_key(5, ec.SECP256R1()),
        x25519.X25519PrivateKey.from_private_bytes(_SECRETS[0]),
    )
    keys = [
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for key in (curve, exchange)
    ] + [
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for key in (curve, exchange)
    ]
    labels = ("PRIVATE KEY", "PUBLIC KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY", "EC PRIVATE KEY",
              "RSA PRIVATE KEY", "DSA PRIVATE KEY", "RSA PUBLIC KEY", "CERTIFICATE", "X509 CRL")  # fmt: skip
    der = draw.choice([_PRIVATE, _PUBLIC]) + draw.choice(_SECRETS)
    headers = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n"
    encrypted = _pem("RSA PRIVATE KEY", draw.randbytes(16)).replace(
        b"-----\n", f"-----\n{headers}\n".encode(), 1
    )
    return draw.choice(
        [
            *keys,
            encrypted,
            _pem(draw.choice(labels), der),
            _pem(draw.choice(labels), draw.randbytes(48)),
        ]
    )


def _bytes_of_key(data: bytes, label: str, prefix: bytes) -> bytes | None:
    """The 32 bytes of the first PEM block of this label."""
    match = re.search(rf"-----BEGIN {label}-----([^-]*)-----END {label}-----".encode(), data)
    if match is None:
        return None
    body = re.sub(rb"\s", b"", match[1].split(b"\n\n")[-1] if b":" in match[1] else match[1])
    der = base64.b64decode(body + b"=" * (-len(body) % 4))
    return der[len(prefix) :] if der.startswith(prefix) and len(der) == len(prefix) + 32 else None


def _judge_private(data: bytes, key: SigningKey) -> str | None:
    expected = _bytes_of_key(data, "PRIVATE KEY", _PRIVATE)
    return (
        None
        if expected is not None and key.private.private_bytes_raw() == expected
        else "it holds no such key"
    )


def _judge_public(data: bytes, key: bytes) -> str | None:
    return None if _bytes_of_key(data, "PUBLIC KEY", _PUBLIC) == key else "it holds no such key"


def _spoken(data: bytes) -> list[str]:
    """How the secrets would look in a message: in hexadecimal, or a line of the file."""
    lines = [
        each.decode("utf-8", "replace").strip()
        for each in data.split(b"\n")
        if not each.startswith(b"-----")
    ]
    return [each.hex() for each in _SECRETS] + [each for each in lines if len(each) > 20]


PRIVATE_KEY = Target(
    name="private-key", seeds=_private_seeds, mutations=(*BYTES, *LINES, *(_change_der,) * 6, *(_other_key,) * 2),
    garbage=mutations.garbage, read=lambda data: read_key(written("site.key", data)), errors=(UserError,),
    judge=_judge_private, secrets=_spoken,
)  # fmt: skip
PUBLIC_KEY = Target(
    name="public-key", seeds=_public_seeds, mutations=(*BYTES, *LINES, *(_change_der,) * 6, *(_other_key,) * 2),
    garbage=mutations.garbage, read=lambda data: read_public_key(written("site.pub", data)), errors=(UserError,),
    judge=_judge_public, secrets=_spoken,
)  # fmt: skip

TARGETS = (PRIVATE_KEY, PUBLIC_KEY)
