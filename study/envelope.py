"""The one Flower message that crosses between a site and the coordinator: a record with one value, bytes.

One ConfigRecord instead of arrays keeps a trip at three Flower objects, and leaves the meaning of every byte to
`study/codec.py`, which reads hostile input.
"""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ConfigRecord, Error, Message, RecordDict

from privacy.errors import ProtocolError
from study.queries import Refusal
from study.refusals import explained
from study.rules import Rule, reason_of, rules_of

__all__ = [
    "ACTION",
    "UNREADABLE",
    "answer_message",
    "content_of",
    "is_unreachable",
    "query_message",
    "refusal_code_of",
    "refusal_message",
    "refusal_of",
]

ACTION = "sum"
"""The action of Flower's `query` message that a site's ClientApp answers."""

_NODE_UNAVAILABLE = 5
"""Flower's error code for a node that does not answer."""

_EXPIRED = (3, 4)
"""Flower's error codes for a message, or the reply to one, that is not there any more."""

UNREADABLE = 900
"""The coordinator's own, in the place of a reply that is no message (`server/grid.py`)."""

_RECORD, _FIELD = "discreet", "content"


def query_message(
    content: bytes, *, index: int, node_id: int, seconds: float, created: float | None = None
) -> Message:
    """An instruction to one site: query number `index`; it lives as long as the trip it belongs to.

    Arguments:
        created: when it was made, to make the very same one again: Flower names messages by the hash of all that is in
            them, and takes one that it has for what it is. None: now.
    """
    record, kind = _record(content), f"query.{ACTION}"
    message = Message(
        record, dst_node_id=node_id, message_type=kind, ttl=seconds, group_id=str(index)
    )
    if created is not None:
        message.metadata.created_at = created
    return message


def answer_message(content: bytes, *, to: Message) -> Message:
    """A site's reply."""
    return Message(_record(content), reply_to=to)


def refusal_message(refusal: Refusal, *, to: Message, rules: Sequence[Rule] = ()) -> Message:
    """A site's reply when it does not answer: a fixed code, and the names of the rules that the study breaks."""
    return Message(Error(code=int(refusal), reason=reason_of(rules) or None), reply_to=to)


def content_of(message: Message) -> bytes:
    """The bytes of a message. Raises ProtocolError for one of another form."""
    if not message.has_content():
        raise ProtocolError("Expected a message with content")
    records = message.content
    if set(records) != {_RECORD} or not isinstance(record := records[_RECORD], ConfigRecord):
        raise ProtocolError("Expected a message with one record")
    if set(record) != {_FIELD} or not isinstance(content := record[_FIELD], bytes):
        raise ProtocolError("Expected a record with one value, bytes")
    return content


def is_unreachable(message: Message) -> bool:
    """Does Flower say, in the place of a site, that it is not there?"""
    return message.has_error() and message.error.code == _NODE_UNAVAILABLE


def refusal_of(message: Message) -> str | None:
    """Why the site did not answer, in words of our own, whatever a hostile one sends; None if it did."""
    if not message.has_error():
        return None
    code = message.error.code
    if is_unreachable(message):
        return "it could not be reached"
    if code == UNREADABLE:
        return "its reply could not be read"
    if code in _EXPIRED:
        return "it had not answered when the message expired"
    if code not in set(Refusal):
        return f"Flower's error {code}"
    rules = rules_of(message.error.reason) if code == Refusal.NOT_PERMITTED else ()
    return explained(Refusal(code), rules)


def refusal_code_of(message: Message) -> Refusal | None:
    """The fixed code with which a site refused; None for any other reply."""
    if not message.has_error() or message.error.code not in set(Refusal):
        return None
    return Refusal(message.error.code)


def _record(content: bytes) -> RecordDict:
    return RecordDict({_RECORD: ConfigRecord({_FIELD: content})})
