"""A simulation that is killed ends when it is resumed, or says that it cannot, and its sites' ledgers hold either way."""

import random
import signal

import pytest
from killed_runs import (
    COMPUTING,
    HANG_SECONDS,
    UNMASKING,
    check_release,
    kill_after,
    ledgers_of,
    resumed,
    started,
    study_of,
)

from simulations.run import Options, simulate


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def killed_over_a_query(study, out):
    """Killed in the fifth query, when the second site computes: it is charged there, and not answered."""
    process = started(study, out, killed=(COMPUTING, 14))
    assert process.wait(HANG_SECONDS) == -signal.SIGKILL
    assert queries_of(out.with_name("out.partial"), "pending") == [("site-2", 4)]


def queries_of(directory, status):
    """(site, index) of every query that stands so in a verified ledger."""
    return [
        (name, index)
        for name, state in ledgers_of(directory).items()
        for account in state.studies.values()
        for index, asked in account.asked.items()
        if asked.status == status
    ]


def test_a_run_that_is_killed_over_a_query_says_that_it_is_burnt_and_starts_anew(out):
    study = study_of()
    killed_over_a_query(study, out)
    for _ in range(2):
        error = resumed(study, out)
        assert "Round 4 of 12 was abandoned" in error.message
        assert "site-2 had charged a query and not answered it: it is burnt" in error.message
        assert "start anew, without --resume" in error.hint
        assert queries_of(out.with_name("out.partial"), "burnt") == [("site-2", 4)]
    simulate(study, Options(out=out))
    check_release(out)
    assert queries_of(out, "burnt") == []


def test_a_run_with_a_spare_round_outlives_being_killed_over_a_query(out):
    study = study_of(spare_rounds=1)
    killed_over_a_query(study, out)
    assert resumed(study, out) is None
    assert queries_of(out, "burnt") == [("site-2", 4)]


@pytest.mark.parametrize("spare_rounds", [0, 1])
def test_a_run_that_is_killed_between_two_trips_says_so_or_outlives_it(out, spare_rounds):
    """In the fifth query all three have uploaded, and one has given its shares: no ledger has anything to burn."""
    study = study_of(spare_rounds=spare_rounds)
    process = started(study, out, killed=(UNMASKING, 14))
    assert process.wait(HANG_SECONDS) == -signal.SIGKILL
    error = resumed(study, out)
    if spare_rounds:
        assert error is None
        assert queries_of(out, "burnt") == []
        return
    assert "Round 4 of 12 was abandoned" in error.message
    assert "a masked query was under way: what was answered cannot be unmasked" in error.message
    assert "start anew, without --resume" in error.hint


def test_a_run_that_is_killed_at_any_time_ends_when_it_is_resumed(out):
    """Killed twice, the second time after it was resumed; two spare rounds pay for whatever that burns."""
    study, generator = study_of(rounds=30, spare_rounds=2), random.Random(1)
    for number, sums in enumerate((generator.randrange(1, 10), generator.randrange(11, 20))):
        process = started(study, out, resume=number > 0)
        assert kill_after(process, out, sums, linger=generator.uniform(0, 0.02))
        ledgers_of(out.with_name("out.partial"))
    assert resumed(study, out) is None
    assert len(queries_of(out, "burnt")) <= 2


def test_options_that_were_being_written_when_a_run_was_killed_are_not_in_the_way(out):
    """They are whole or not there, so that no resumed run has to read half of them."""
    study, partial = study_of(rounds=2), out.with_name("out.partial")
    partial.mkdir()
    (partial / "options.json.0123abcd.new").write_text('{"da')
    simulate(study, Options(out=out, resume=True))
    assert not partial.exists()
