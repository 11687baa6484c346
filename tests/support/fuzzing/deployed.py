"""Targets: what a coordinator and a site hand to each other over a network, and what a site's operator has approved."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from client.approvals import Approval
from fuzzing import mutations
from fuzzing.engine import Target
from fuzzing.judge_json import NotCanonicalError, canonical_value
from fuzzing.judge_ledger import shaped
from fuzzing.judge_study import problems_of_declaration, text
from fuzzing.mutations import BYTES
from fuzzing.mutations_json import JSON
from fuzzing.studies import declarations
from privacy.errors import ProtocolError
from privacy.signing import SigningKey
from study.instructions import opened_instruction, opened_reply, signed_instruction, signed_reply
from study.invitation import Invitation

__all__ = ["TARGETS"]

_COORDINATOR, _SITE, _OTHER = (SigningKey.from_seed(bytes([each]) * 32) for each in (200, 201, 202))
_PAYLOADS = (b"", b"question", bytes(range(256)) * 4)
_NONCES = (bytes(16), bytes(range(16)), b"\xff" * 16)


@functools.cache
def _instructions() -> Sequence[bytes]:
    return [
        signed_instruction(payload, to=_SITE.public, key=_COORDINATOR, nonce=nonce)
        for payload, nonce in zip(_PAYLOADS, _NONCES, strict=True)
    ]


@functools.cache
def _replies() -> Sequence[bytes]:
    asked = _instructions()[0]
    return [
        signed_reply(payload, instruction=asked, sign=_SITE.sign, nonce=nonce)
        for payload, nonce in zip(_PAYLOADS, _NONCES, strict=True)
    ]


def _judge_instruction(data: bytes, payload: bytes) -> str | None:
    return None if data in _instructions() and data.endswith(payload) else "nobody has signed it"


def _judge_reply(data: bytes, payload: bytes) -> str | None:
    return None if data in _replies() and data.endswith(payload) else "nobody has signed it"


INSTRUCTION = Target(
    name="instruction", seeds=_instructions, mutations=BYTES, garbage=mutations.garbage, errors=(ProtocolError,),
    read=lambda data: opened_instruction(data, to=_SITE.public, coordinator=_COORDINATOR.public),
    judge=_judge_instruction,
)  # fmt: skip

REPLY = Target(
    name="reply", seeds=_replies, mutations=BYTES, garbage=mutations.garbage, errors=(ProtocolError,),
    read=lambda data: opened_reply(data, instruction=_instructions()[0], site=_SITE.public), judge=_judge_reply,
)  # fmt: skip


@functools.cache
def _invitations() -> Sequence[bytes]:
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    return [
        Invitation(address=address, certificate=pem, key=key.public.hex()).to_bytes()
        for address, key in (
            ("federation.example.org:9443", _COORDINATOR), ("127.0.0.1:1", _SITE), ("[2001:db8::1]:65535", _OTHER),
        )
    ]  # fmt: skip


def _address(value: object) -> bool:
    """A host and a port; nothing that a shell, a log or a URL would read in another way."""
    if not text(value):
        return False
    host, colon, port = str(value).rpartition(":")
    right = bool(re.fullmatch("[0-9]{1,5}", port)) and 0 < int(port) < 65536
    letters = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")
    plain = bool(host) and set(host) <= letters and host[0] not in ".-" and host[-1] not in ".-"
    six = (
        host[:1] == "["
        and host[-1:] == "]"
        and len(host) > 2
        and set(host[1:-1]) <= set("0123456789abcdefABCDEF:")
    )
    return bool(colon) and right and (plain or six)


_invitation = shaped(
    {
        "version": lambda value: value == 1 and type(value) is int, "address": _address,
        "certificate": lambda value: text(value) and str(value).startswith("-----BEGIN CERTIFICATE-----\n"),
        "key": lambda value: text(value) and re.fullmatch("[0-9a-f]{64}", str(value)) is not None,
    }
)  # fmt: skip


def _judge_invitation(data: bytes, _found: Invitation) -> str | None:
    try:
        return None if _invitation(canonical_value(data)) else "it is no invitation"
    except NotCanonicalError as error:
        return str(error)


INVITATION = Target(
    name="invitation", seeds=_invitations, mutations=JSON, garbage=mutations.garbage, read=Invitation.from_bytes,
    errors=(ProtocolError,), judge=_judge_invitation, write=Invitation.to_bytes,
)  # fmt: skip


@functools.cache
def _approvals() -> Sequence[bytes]:
    files = (None, Path("/data/records.csv"), Path("relative"))
    return [
        Approval(declaration=each, data_set="records", data=file).to_bytes()
        for each, file in zip(declarations(), files, strict=False)
    ]


_approval = shaped(
    {
        "declaration": lambda value: not problems_of_declaration(value), "data_set": text,
        "data": lambda value: value is None or text(value),
    }
)  # fmt: skip


def _judge_approval(data: bytes, _found: Approval) -> str | None:
    try:
        return None if _approval(canonical_value(data)) else "it is no approval"
    except NotCanonicalError as error:
        return str(error)


APPROVAL = Target(
    name="approval", seeds=_approvals, mutations=JSON, garbage=mutations.garbage, read=Approval.from_bytes,
    errors=(ProtocolError,), judge=_judge_approval, work=(60_000, 60),
)  # fmt: skip

TARGETS = (INSTRUCTION, REPLY, INVITATION, APPROVAL)
