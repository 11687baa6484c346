"""Keys as files: PEM, the private half readable by its owner alone, never written over, on the disk when made."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from privacy.errors import UserError
from privacy.signing import SigningKey
from study.files import write_new

__all__ = [
    "create_key",
    "public_pem",
    "read_key",
    "read_public_key",
    "write_public_key",
]

_LARGEST = 10_000  # bytes; a key takes 120
_NO_KEY = (ValueError, UnsupportedAlgorithm, InternalError)  # the last for a key of 31 bytes, say


def create_key(path: Path) -> SigningKey:
    """A new key from the operating system's generator, written to `path` with mode 0600; refuses an existing file."""
    private = Ed25519PrivateKey.generate()
    write_new(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    return SigningKey(private)


def write_public_key(path: Path, key: SigningKey) -> None:
    """The public half, for anybody; refuses an existing file."""
    write_new(path, public_pem(key.public), 0o644)


def public_pem(key: bytes) -> bytes:
    """A public key, 32 bytes, as its file has it."""
    public = Ed25519PublicKey.from_public_bytes(key)
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_key(path: Path) -> SigningKey:
    """The private key of a file. Raises UserError if others can read it, or it is none."""
    content = _content(path)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(f"{path} can be read by others", hint=f"chmod 600 {path}")
    try:
        private = load_pem_private_key(content, password=None)
    except (*_NO_KEY, TypeError) as error:
        raise UserError(f"{path} is not a private key in PEM form without a password") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise UserError(f"{path} holds a key of another kind, not Ed25519")
    return SigningKey(private)


def read_public_key(path: Path) -> bytes:
    """The 32 bytes of a public key's file. Raises UserError if it is none."""
    try:
        public = load_pem_public_key(_content(path))
    except _NO_KEY as error:
        hint = "give the .pub file, not the private key" if _is_private(path) else ""
        raise UserError(f"{path} is not a public key in PEM form", hint=hint) from error
    if not isinstance(public, Ed25519PublicKey):
        raise UserError(f"{path} holds a key of another kind, not Ed25519")
    return public.public_bytes_raw()


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _is_private(path: Path) -> bool:
    return b"PRIVATE KEY" in _content(path)
