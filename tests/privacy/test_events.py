"""An event cannot be impossible, has one JSON form, and costs only the units of its part."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import PrivacyError
from privacy.events import EVENT_VERSION, SumEvent, by_part

EVENTS = st.builds(
    SumEvent,
    noise_multiplier=st.floats(1e-300, 1e300),
    sampling_rate=st.floats(0, 1, exclude_min=True),
    count=st.integers(1, 10**9),
    part=st.sampled_from(["train", "test", "all"]),
)


def event(part, z=1.0):
    return SumEvent(noise_multiplier=z, part=part)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", 0.0), ("noise_multiplier", -1.0), ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf), ("noise_multiplier", "1"), ("noise_multiplier", True),
        ("noise_multiplier", None), ("noise_multiplier", 1j), ("sampling_rate", 0.0), ("sampling_rate", -0.1),
        ("sampling_rate", 1.5), ("sampling_rate", math.nan), ("sampling_rate", [0.5]), ("count", 0), ("count", -1),
        ("count", 1.0), ("count", True), ("count", "1"), ("part", "both"), ("part", ""), ("part", None), ("part", 1),
    ],
)  # fmt: skip
def test_an_impossible_event_cannot_be_made(name, value):
    with pytest.raises(PrivacyError, match=f"^Expected .*{name}"):
        SumEvent(**({"noise_multiplier": 1.0} | {name: value}))


@settings(max_examples=200)
@given(EVENTS)
def test_events_come_back_from_their_json_form(one):
    assert SumEvent.from_values(json.loads(json.dumps(one.to_values()))) == one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": EVENT_VERSION + 1}, "version"),
        ({"version": True}, "version"),
        ({"version": "1"}, "version"),
        ({"event": "mean"}, "version"),
        ({"more": 1}, "a sum event with"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"part": "trian"}, "part"),
    ],
)
def test_another_form_is_refused(change, message):
    with pytest.raises(PrivacyError, match=message):
        SumEvent.from_values(event("train").to_values() | change)


@pytest.mark.parametrize("value", [None, [], "sum", 1, {"event": "sum"}])
def test_what_is_no_event_is_refused(value):
    with pytest.raises(PrivacyError, match="a sum event with"):
        SumEvent.from_values(value)


@pytest.mark.parametrize("name", ["noise_multiplier", "sampling_rate", "count", "part", "version"])
def test_nothing_may_be_left_to_a_default(name):
    """So that the meaning of what a ledger holds cannot change with one."""
    values = event("train").to_values()
    del values[name]
    with pytest.raises(PrivacyError, match="a sum event with"):
        SumEvent.from_values(values)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("", []),
        ("train", ["train"]),
        ("test", ["test"]),
        ("all", ["all"]),
        ("all train", ["all train"]),
        ("train test", ["test", "train"]),
        ("test all train all", ["test all all", "all train all"]),
    ],
)
def test_a_unit_shows_in_the_sums_of_its_part_and_of_everybody(parts, expected):
    groups = by_part(event(part, z=2.0 + number) for number, part in enumerate(parts.split()))
    assert [" ".join(each.part for each in group) for group in groups] == expected
    for group in groups:
        assert list(group) == sorted(group, key=lambda each: each.noise_multiplier)  # in order
