"""A refusal is a code and names of rules, signed as any reply; what no site writes is refused."""

import pytest

from privacy.errors import ProtocolError
from study.queries import Refusal
from study.refusals import explained, refusal_bytes, refusal_in
from study.rules import Rule


@pytest.mark.parametrize("refusal", Refusal)
def test_a_refusal_is_read_as_it_was_written(refusal):
    assert refusal_in(refusal_bytes(refusal)) == (refusal, ())
    assert explained(refusal) == refusal.explanation


def test_the_rules_go_with_a_policys_refusal_alone():
    rules = (Rule.SITES, Rule.EPSILON)
    assert refusal_in(refusal_bytes(Refusal.NOT_PERMITTED, rules)) == (Refusal.NOT_PERMITTED, rules)
    with pytest.raises(ProtocolError, match="Expected a refusal"):
        refusal_in(refusal_bytes(Refusal.NOT_APPROVED, rules))


@pytest.mark.parametrize("answer", [b"", b"DS", b"DSA\x01", b"\0\0\0\2[]", b"answer"])
def test_an_answer_is_none(answer):
    assert refusal_in(answer) is None


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"\x03",
        b"\x03\xe9\x00",
        b"\x00\x05",
        b"\x03\xeenonsense",
        b"\x03\xee\xff",
        b"\x03\xee\x1b[2J",
    ],
)
def test_what_no_site_writes_is_refused(end):
    with pytest.raises(ProtocolError, match="Expected a refusal with a code and names of rules"):
        refusal_in(refusal_bytes(Refusal.MALFORMED)[:4] + end)


def test_another_version_is_refused():
    with pytest.raises(ProtocolError, match="Expected a refusal"):
        refusal_in(b"DSX\x02" + refusal_bytes(Refusal.MALFORMED)[4:])
