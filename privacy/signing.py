"""Ed25519 signatures, each under a tag of its own: what was signed for one purpose means nothing for another."""

from __future__ import annotations

import hashlib
from typing import Literal, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.errors import ProtocolError
from privacy.keystream import derive_key

__all__ = ["PROTOCOL", "SigningKey", "Tag", "fingerprint", "verify"]

PROTOCOL = 1
"""Version of messages and derivations: in every signature, derivation and declaration, so in every study's hash."""

Tag = Literal["instruction", "ledger", "receipt", "reply", "roster", "setup", "survivors"]
"""What is signed: a coordinator's instruction, an entry, a receipt of an upload, a site's reply, a roster, a key for
one session, one set of survivors."""


class SigningKey:
    """A party's identity. Its `repr` shows the public half alone, and it cannot be pickled.

    Arguments:
        private: the key itself.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public = private.public_key().public_bytes_raw()

    @staticmethod
    def from_seed(seed: bytes) -> SigningKey:
        """The key of 32 secret bytes; simulations derive them, real sites draw them (`study/keyfiles.py`)."""
        return SigningKey(Ed25519PrivateKey.from_private_bytes(seed))

    def sign(self, tag: Tag, message: bytes) -> bytes:
        """64 bytes, for this purpose alone."""
        return self.private.sign(_tagged(tag, message))

    def secret(self, purpose: str) -> bytes:
        """32 bytes that only the holder of this key can know, for marks that must tell nobody else anything."""
        return derive_key(self.private.private_bytes_raw(), "discreet", PROTOCOL, purpose)

    def __repr__(self) -> str:
        return f"SigningKey({fingerprint(self.public)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A signing key cannot be copied or pickled")


def verify(public: bytes, tag: Tag, message: bytes, signature: bytes) -> None:
    """Return if `signature` is that of `message` for this purpose, by the key of these 32 bytes.

    Raises:
        ProtocolError: it is not, or there is no such key.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _tagged(tag, message))
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError(f"Expected a signature ({tag}) by {fingerprint(public)}") from error


def fingerprint(public: bytes) -> str:
    """What people compare: the first 32 hexadecimal digits of the key's SHA-256, in groups of four."""
    digits = hashlib.sha256(public).hexdigest()[:32]
    return "-".join(digits[place : place + 4] for place in range(0, 32, 4))


def _tagged(tag: Tag, message: bytes) -> bytes:
    """A tag ends at its zero byte, so none is the beginning of another."""
    return f"discreet/v{PROTOCOL}/{tag}".encode() + b"\0" + message
