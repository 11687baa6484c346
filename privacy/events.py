"""What an accountant is told: immutable events whose meaning never changes once written to a ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from privacy.errors import PrivacyError

__all__ = ["EVENT_VERSION", "Part", "SumEvent", "by_part"]

EVENT_VERSION = 1

Part = Literal["train", "test", "all"]
"""Whose records a sum is of: a keyed hash of the unit puts each into one of two parts, so their costs do not add up."""


@dataclass(frozen=True, kw_only=True)
class SumEvent:
    """`count` private sums over a Poisson sample of rate q with noise multiplier z, neighbours by add or remove.

    Attributes:
        noise_multiplier: z, deviation of the noise over the largest change that one unit makes.
        sampling_rate: q in (0, 1].
        count: how often.
        part: which units the sums are of.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1
    part: Part = "train"

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "sampling_rate"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < math.inf:
                raise PrivacyError(f"Expected a finite {name} > 0, found {value!r:.40}")
        if self.sampling_rate > 1:
            raise PrivacyError(f"Expected 0 < sampling_rate={self.sampling_rate} <= 1")
        if type(self.count) is not int or self.count < 1:
            raise PrivacyError(f"Expected a whole count >= 1, found {self.count!r:.40}")
        if self.part not in get_args(Part):
            raise PrivacyError(f"Expected part in {get_args(Part)}, found {self.part!r:.40}")

    def to_values(self) -> dict[str, Any]:
        """JSON form."""
        return {"event": "sum", "version": EVENT_VERSION} | asdict(self)

    @staticmethod
    def from_values(values: Mapping[str, Any]) -> SumEvent:
        """The event of a JSON form. Raises PrivacyError for another event or version, or an impossible value."""
        kind = {"event": "sum", "version": EVENT_VERSION}
        expected = {*kind, *SumEvent.__dataclass_fields__}
        if not isinstance(values, Mapping) or set(values) != expected:
            raise PrivacyError(f"Expected a sum event with {', '.join(sorted(expected))}")
        if {name: values[name] for name in kind} != kind or type(values["version"]) is not int:
            raise PrivacyError(f"Expected a sum event of version {EVENT_VERSION}, found another")
        return SumEvent(**{name: values[name] for name in SumEvent.__dataclass_fields__})


def by_part(events: Iterable[SumEvent]) -> tuple[tuple[SumEvent, ...], ...]:
    """The events in which a unit of one part can show, for each part that has any: its own and those of all units.

    What one unit costs is what the dearest of these costs, never what all of them cost together
    (`privacy/accounting.py` says why).
    """
    everything = tuple(events)
    named = {each.part for each in everything}
    parts = named - {"all"} or named
    return tuple(
        tuple(each for each in everything if each.part in (part, "all")) for part in sorted(parts)
    )
