"""A site's refusal as bytes, where replies are signed: so that nobody else can put it into a site's mouth.

"DSX" version | code, 2 bytes | names of the rules that the study breaks, with commas between (`study/rules.py`)
"""

from __future__ import annotations

from collections.abc import Sequence

from privacy.errors import ProtocolError
from privacy.signing import PROTOCOL
from study.queries import Refusal
from study.rules import Rule, reason_of, rules_of

__all__ = ["explained", "refusal_bytes", "refusal_in"]

_MAGIC = b"DSX" + bytes([PROTOCOL])


def refusal_bytes(refusal: Refusal, rules: Sequence[Rule] = ()) -> bytes:
    """What a site signs in the place of an answer."""
    return _MAGIC + int(refusal).to_bytes(2, "big") + reason_of(rules).encode()


def refusal_in(payload: bytes) -> tuple[Refusal, tuple[Rule, ...]] | None:
    """The refusal and the rules of a reply; None if it is an answer. Raises ProtocolError for what no site writes."""
    if payload[:3] != _MAGIC[:3]:
        return None
    code, reason = int.from_bytes(payload[4:6], "big"), payload[6:].decode("ascii", "replace")
    if code in set(Refusal):
        rules = rules_of(reason) if code == Refusal.NOT_PERMITTED else ()
        if refusal_bytes(Refusal(code), rules) == payload:
            return Refusal(code), rules
    raise ProtocolError("Expected a refusal with a code and names of rules")


def explained(refusal: Refusal, rules: Sequence[Rule] = ()) -> str:
    """Why, in words of our own."""
    why = ", ".join(rule.explanation for rule in rules)
    return refusal.explanation + (f": {why}" if why else "")
