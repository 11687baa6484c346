"""What a coordinator sends to a site, and the site's reply: each signed by whoever it is from, for whoever it is to.

A node's key, Flower's servers and the gateway move these bytes and can do nothing else with them: what they invent or
alter is refused before a site has read, let alone charged, anything; what a site has not signed is not its answer.

    instruction  "DSI" version | nonce, 16 | recipient, 32 | signature, 64 | payload
    reply        "DSR" version | nonce, 16 | SHA-256 of the instruction, 32 | signature, 64 | payload

The signature is of everything before it and of the payload's SHA-256, under a tag of its own. The recipient is the
public key of the site's identity, so an instruction to one site is none to another; a reply names the very bytes that
it answers. The nonces are random: whoever can look up objects by their hash cannot test a guess about what is in them.

There is no clock and no counter here. An instruction that is replayed asks what was asked: a site answers a query with
the payload that it has sent before, or not at all (`client/answers.py`). A replayed request for a key gets a new one,
and the session that it was for is lost: whoever carries messages can do as much by dropping them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from privacy.errors import ProtocolError
from privacy.signing import PROTOCOL, SigningKey, Tag, verify
from study.queries import NONCE_BYTES

__all__ = ["opened_instruction", "opened_reply", "signed_instruction", "signed_reply"]

Sign = Callable[[Tag, bytes], bytes]

_INSTRUCTION, _REPLY = b"DSI" + bytes([PROTOCOL]), b"DSR" + bytes([PROTOCOL])
_HEAD = 4 + NONCE_BYTES + 32
_SIGNATURE = 64


def signed_instruction(payload: bytes, *, to: bytes, key: SigningKey, nonce: bytes) -> bytes:
    """An instruction to the site whose identity is the public key `to`.

    Arguments:
        key: the coordinator's. nonce: `NONCE_BYTES` random bytes.
    """
    return _signed(_head(_INSTRUCTION, nonce, to), "instruction", payload, key.sign)


def opened_instruction(content: bytes, *, to: bytes, coordinator: bytes) -> bytes:
    """The payload, if it is an instruction of this coordinator to the site `to`. Raises ProtocolError if not."""
    recipient, payload = _opened(_INSTRUCTION, content, "instruction", coordinator)
    if recipient != to:
        raise ProtocolError("Expected an instruction to this site, found one to another")
    return payload


def signed_reply(payload: bytes, *, instruction: bytes, sign: Sign, nonce: bytes) -> bytes:
    """A site's reply to these very bytes.

    Arguments:
        sign: with the site's identity. nonce: `NONCE_BYTES` random bytes.
    """
    return _signed(_head(_REPLY, nonce, _hash(instruction)), "reply", payload, sign)


def opened_reply(content: bytes, *, instruction: bytes, site: bytes) -> bytes:
    """The payload, if it is the reply of this site to these bytes. Raises ProtocolError if not."""
    answered, payload = _opened(_REPLY, content, "reply", site)
    if answered != _hash(instruction):
        raise ProtocolError("Expected a reply to this instruction, found one to another")
    return payload


def _head(magic: bytes, nonce: bytes, other: bytes) -> bytes:
    if len(nonce) != NONCE_BYTES or len(other) != 32:
        raise ProtocolError(f"Expected a nonce of {NONCE_BYTES} bytes and a key or hash of 32")
    return magic + nonce + other


def _signed(head: bytes, tag: Tag, payload: bytes, sign: Sign) -> bytes:
    return b"".join((head, sign(tag, head + _hash(payload)), payload))


def _opened(magic: bytes, content: bytes, tag: Tag, public: bytes) -> tuple[bytes, bytes]:
    view = memoryview(content)
    if len(content) < _HEAD + _SIGNATURE or bytes(view[:4]) != magic:
        raise ProtocolError(f"Expected a signed {tag}, version {PROTOCOL}")
    head, signature = bytes(view[:_HEAD]), bytes(view[_HEAD : _HEAD + _SIGNATURE])
    payload = view[_HEAD + _SIGNATURE :]
    verify(public, tag, head + _hash(payload), signature)
    return head[4 + NONCE_BYTES :], bytes(payload)


def _hash(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).digest()
