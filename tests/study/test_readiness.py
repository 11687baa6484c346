"""The question whether a site is ready has one form, and is taken for no other message."""

import pytest

from privacy.errors import ProtocolError
from privacy.secure_aggregation.messages import is_message
from study.queries import SumQuery
from study.readiness import readiness_question, study_in_question
from study.refusals import refusal_in

STUDY = "3f" * 32


def test_a_question_names_its_study():
    assert study_in_question(readiness_question(STUDY)) == STUDY


@pytest.mark.parametrize("cut", [3, 4, 20, 35])
def test_half_a_question_is_refused(cut):
    with pytest.raises(ProtocolError, match="36 bytes"):
        study_in_question(readiness_question(STUDY)[:cut])


def test_a_longer_one_and_one_of_another_version_are_refused():
    question = readiness_question(STUDY)
    for other in (question + b"\0", question[:3] + bytes([question[3] + 1]) + question[4:]):
        with pytest.raises(ProtocolError):
            study_in_question(other)


def test_no_other_message_is_taken_for_one_nor_it_for_another():
    question = readiness_question(STUDY)
    assert not is_message(question)
    assert refusal_in(question) is None
    with pytest.raises(ProtocolError):
        SumQuery.from_bytes(question)
    query = SumQuery(study=STUDY, index=0, function="gradient", nonce=bytes(16)).to_bytes()
    for other in (query, b"", b"DS", b"DSA\x01"):
        assert study_in_question(other) is None
