"""No mutated input makes a reader fail, and none that is invalid is accepted: a short run of `make fuzz`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing.engine import check, make_case, run, shares
from fuzzing.targets import TARGETS

CASES = 4000
SEED = 2026  # another one than the long run's: these are other cases


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_is_accepted_and_comes_back_as_it_was(name):
    target = TARGETS[name]
    seeds = target.seeds()
    target.read(seeds[0])  # imports
    assert all(check(target, each) for each in seeds)


@pytest.mark.parametrize("name", TARGETS)
def test_every_mutated_input_is_refused_in_words_or_valid(name):
    cases = shares(list(TARGETS.values()), CASES)[name]
    tally = run(TARGETS[name], seed=SEED, numbers=range(cases))
    assert not tally.failures, str(tally.failures[0])
    assert tally.cases == cases == tally.accepted + tally.refused
    assert tally.refused > cases / 20


def test_each_kind_of_reader_has_a_target_and_half_of_its_cases_are_one_mutation():
    assert {"study", "policy", "event", "export", "message"} <= set(TARGETS)
    found = run(TARGETS["canonical"], seed=SEED, numbers=range(100))
    assert (found.cases, found.single) == (100, 50)


def test_an_even_case_is_one_mutation_from_valid_and_an_odd_one_several_or_garbage():
    counted = TARGETS["canonical"].__class__(
        name="counted", seeds=lambda: [0], mutations=[lambda _draw, data, _pool: data + 1],
        garbage=lambda _draw: -1, read=lambda data: data, errors=(),
    )  # fmt: skip
    found = [make_case(counted, [0], SEED, number) for number in range(1000)]
    assert set(found[::2]) == {1}
    assert set(found[1::2]) == {-1, *range(2, 9)}


DIGEST = """
import hashlib
from fuzzing.engine import make_case
from fuzzing.targets import TARGETS
found = hashlib.sha256()
for target in TARGETS.values():
    for number in range(12):
        found.update(repr(make_case(target, target.seeds(), 2026, number)).encode())
print(found.hexdigest())
"""


def test_a_case_follows_from_target_seed_and_number_alone():
    """In two processes, whose sets have different orders, it is the same."""
    ways = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DIGEST], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(ways), "PYTHONHASHSEED": order},
        )
        for order in ("1", "2")
    ]  # fmt: skip
    found = [each.communicate()[0] for each in started]
    assert [each.returncode for each in started] == [0, 0]
    assert found[0] == found[1] != ""
