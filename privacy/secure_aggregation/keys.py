"""Every key of secure aggregation, and what it is derived from.

    X25519 of two sites -> chain key of the pair -> (each round) the seed of their mask, and a key each way for shares
                              |
                              v  one way, every round; the old one is forgotten

The identities of both sites go into every derivation. Without them a malicious site that registers an honest site's
public key as its own has the same secrets with everybody as that one, and what survivors reveal about the one opens
the other. The whole session goes into the chain key, so sites that were told different members share nothing.

Secrets are forgotten by dropping the last reference: Python gives no means to overwrite `bytes`, so until its memory is
used again a copy may be found there by whoever reads the process's memory.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.errors import AggregationError
from privacy.keystream import derive_key
from privacy.secure_aggregation.messages import Message, SetupKey
from privacy.signing import PROTOCOL

__all__ = [
    "Secret", "advanced", "agreed", "commitment", "digest_of", "first_chain_key", "open_share", "pair_seed",
    "private_key", "public_key", "seal_share",
]  # fmt: skip


class Secret:
    """32 secret bytes that no `repr` or traceback shows."""

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Secret(...)"


def private_key(seed: bytes) -> X25519PrivateKey:
    """The X25519 key of 32 secret bytes."""
    return X25519PrivateKey.from_private_bytes(seed)


def public_key(private: X25519PrivateKey) -> bytes:
    """Its public half, 32 bytes."""
    return private.public_key().public_bytes_raw()


def agreed(private: X25519PrivateKey, other: SetupKey) -> Secret:
    """What two sites have in common. Raises AggregationError for a key with which anybody has zeros in common."""
    try:
        return Secret(private.exchange(X25519PublicKey.from_public_bytes(other.public)))
    except ValueError as error:
        raise AggregationError(
            "upload", f"expected a key of site {other.site} that agrees on a secret"
        ) from error


def first_chain_key(common: Secret, *, session: bytes, one: SetupKey, other: SetupKey) -> Secret:
    """The pair's chain key before round 0. `session` is the hash of all members' keys, study and roster included."""
    low, high = sorted((one, other), key=lambda each: each.site)
    info = digest_of("chain", session, low.to_bytes(), high.to_bytes())
    return Secret(HKDF(SHA256(), 32, salt=None, info=_tag("chain") + info).derive(common.value))


def advanced(chain: Secret, steps: int) -> Secret:
    """The chain key so many rounds later; there is no way back."""
    value = chain.value
    for _ in range(steps):
        value = derive_key(value, _tag("ratchet"))
    return Secret(value)


def pair_seed(chain: Secret, transcript: bytes, one: int, other: int) -> bytes:
    """The seed of the mask that the lower of two sites adds, and the higher subtracts."""
    return derive_key(chain.value, _tag("pair"), transcript, *sorted((one, other)))


def seal_share(
    chain: Secret, transcript: bytes, sender: int, recipient: int, share: bytes
) -> bytes:
    """A share that `recipient` alone can read, of `sender`, in this round of this transcript."""
    cipher, about = _sealing(chain, transcript, sender, recipient)
    return cipher.encrypt(_NONCE, share, about)


def open_share(
    chain: Secret, transcript: bytes, sender: int, recipient: int, ciphertext: bytes, *, step: str
) -> bytes:
    """The share of a ciphertext. Raises AggregationError unless `sender` has sealed it for this very round."""
    cipher, about = _sealing(chain, transcript, sender, recipient)
    try:
        return cipher.decrypt(_NONCE, ciphertext, about)
    except InvalidTag as error:
        raise AggregationError(
            step,
            f"expected a share of site {sender} for site {recipient}, of this round and transcript",
        ) from error


_NONCE = bytes(12)  # each key seals one share


def _sealing(
    chain: Secret, transcript: bytes, sender: int, recipient: int
) -> tuple[ChaCha20Poly1305, bytes]:
    labels = (_tag("share"), transcript, sender, recipient)
    return ChaCha20Poly1305(derive_key(chain.value, *labels)), digest_of("share", *labels)


def commitment(kind: str, transcript: bytes, secret: bytes, *sites: int) -> bytes:
    """Binds a site to a secret that it may have to reveal: `self`, `share` or `pair`, of these sites."""
    return digest_of(kind, transcript, *sites, secret)


def digest_of(purpose: str, *parts: bytes | int | Message) -> bytes:
    """SHA-256 of length-prefixed parts, under a tag of its own."""
    content = [_tag(purpose), *map(_part, parts)]
    hashed = hashlib.sha256()
    for part in content:
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.digest()


def _part(value: bytes | int | Message) -> bytes:
    if isinstance(value, Message):
        return value.to_bytes()
    return value.to_bytes(8, "big") if isinstance(value, int) else value


def _tag(purpose: str) -> bytes:
    return f"discreet/v{PROTOCOL}/secure-aggregation/{purpose}".encode()
