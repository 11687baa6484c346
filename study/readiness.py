"""A question that costs nothing: will this site take part in that study, now? Whoever will not says why.

"DSY" version | hash of the study, 32; the answer of a site that will is the question.

It is asked before the first query, and after one that was abandoned, so that nobody is charged for a sum that too few
will answer. The coordinator learns nothing from it that the same site would not say of a query.
"""

from __future__ import annotations

from privacy.errors import ProtocolError
from privacy.signing import PROTOCOL

__all__ = ["readiness_question", "study_in_question"]

_MAGIC = b"DSY" + bytes([PROTOCOL])
_LENGTH = len(_MAGIC) + 32


def readiness_question(study: str) -> bytes:
    """The question, about the study of this hash, hexadecimal."""
    return _MAGIC + bytes.fromhex(study)


def study_in_question(content: bytes) -> str | None:
    """Hash of the study that is asked about, hexadecimal; None for another message. Raises ProtocolError."""
    if content[:3] != _MAGIC[:3]:
        return None
    if len(content) != _LENGTH or content[:4] != _MAGIC:
        raise ProtocolError(f"Expected a question of {_LENGTH} bytes, version {PROTOCOL}")
    return content[4:].hex()
