"""Opacus agrees, within the error that it states; it would not with a wrong claim; and it is not missed where absent."""

import math
import subprocess
import sys

import pytest

from privacy.accounting import epsilon_of
from privacy.errors import PrivacyError
from privacy.events import SumEvent
from privacy.second_opinion import Opinion, second_opinion

pytest.importorskip("opacus", reason="the torch extra is not installed")


def event(z, q=1.0, count=1, part="train"):
    return SumEvent(noise_multiplier=z, sampling_rate=q, count=count, part=part)


STUDIES = {
    "case 1": ([event(1.0, 0.01, 1000)], 1e-5),
    "case 2": ([event(0.8, 0.001, 10_000)], 1e-6),
    "case 3": ([event(2.0, 0.1, 100)], 1e-5),
    "case 4": ([event(5.0, count=50)], 1e-5),
    "case 5": ([event(1.1, 256 / 60_000, 14_062)], 1e-5),
    "moments and sampled": ([event(10.0), event(1.0, 0.01, 1000)], 1e-5),
    "three kinds": ([event(20.0, count=100), event(20.0, 0.5, 100), event(3.0, 0.01, 7)], 1e-7),
    "small rate, many": ([event(1.0, 1e-4, 100_000)], 1e-6),
    "small losses": ([event(20.0, 0.01, 1000)], 1e-5),
    "much noise": ([event(100.0)], 1e-5),
}


@pytest.mark.parametrize("name", STUDIES)
def test_opacus_puts_epsilon_where_the_accountant_does(name):
    """Bounds 0.02 and a thousandth of delta apart. A tenth more or less noise would lie outside."""
    events, delta = STUDIES[name]
    lower, upper = second_opinion(events, delta)
    assert lower <= epsilon_of(events, delta) <= upper
    assert upper - lower < 0.021
    if upper > 0.3:
        for factor in (0.9, 1.1):
            wrong = [
                event(factor * each.noise_multiplier, each.sampling_rate, each.count)
                for each in events
            ]
            assert not lower <= epsilon_of(wrong, delta) <= upper


def test_the_published_upper_bounds_are_found():
    for name, published in (
        ("case 1", 1.8384),
        ("case 2", 0.9573),
        ("case 3", 2.3476),
        ("case 4", 6.5833),
        ("case 5", 2.3917),
    ):
        assert second_opinion(*STUDIES[name]).upper == pytest.approx(published, abs=1e-3), name


def test_parts_compose_in_parallel():
    train, test, everybody = (
        event(2.0, 0.3, 40),
        event(3.0, 0.5, 60, "test"),
        event(9.0, part="all"),
    )
    found = second_opinion([train, test, everybody], 1e-5)
    apart = [second_opinion([each, everybody], 1e-5) for each in (train, test)]
    assert found == Opinion(*(max(each) for each in zip(*apart, strict=True)))
    assert found.lower <= epsilon_of([train, test, everybody], 1e-5) <= found.upper


def test_nothing_costs_nothing():
    assert second_opinion([], 1e-5) == (0.0, 0.0)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_an_impossible_delta_is_refused(delta):
    with pytest.raises(PrivacyError, match="delta"):
        second_opinion([event(1.0)], delta)


@pytest.mark.parametrize(
    ("events", "delta"), [([event(0.5, 0.1, 10**6)], 1e-5), ([event(1e-3)], 1e-5)]
)
def test_what_would_need_too_much_memory_is_not_begun(events, delta):
    with pytest.raises(PrivacyError, match="more memory than is sensible"):
        second_opinion(events, delta)


def test_what_opacus_cannot_say_is_one_sentence(monkeypatch):
    from opacus.accountants import PRVAccountant

    def fail(*_arguments, **_settings):
        raise RuntimeError("Discrete mean differs significantly from continuous mean.")

    monkeypatch.setattr(PRVAccountant, "get_epsilon", fail)
    with pytest.raises(PrivacyError, match="PRV accountant does not say: Discrete mean"):
        second_opinion([event(1.0)], 1e-5)


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(PrivacyError, match="not installed") as caught:
        second_opinion([event(1.0)], 1e-5)
    assert caught.value.hint == 'pip install "discreet[torch]"'


def test_torch_is_imported_when_it_is_asked_and_not_before():
    code = (
        "import sys; from privacy.second_opinion import second_opinion; from privacy.events import SumEvent; "
        "before = 'torch' in sys.modules; second_opinion([SumEvent(noise_multiplier=9.0)], 1e-5); "
        "print(before, 'torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.stderr) == ("False True\n", "")
