"""What an accountant is told: immutable events whose meaning never changes once written to a ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privacy.errors import PrivacyError

__all__ = ["EVENT_VERSION", "SumEvent"]

EVENT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SumEvent:
    """`count` private sums over a Poisson sample of rate q with noise multiplier z, neighbours by add or remove.

    Attributes:
        noise_multiplier: z, deviation of the noise over the largest change that one unit makes.
        sampling_rate: q in (0, 1].
        count: how often.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        if not self.noise_multiplier > 0:
            raise PrivacyError(f"Expected noise_multiplier={self.noise_multiplier} > 0")
        if not 0 < self.sampling_rate <= 1:
            raise PrivacyError(f"Expected 0 < sampling_rate={self.sampling_rate} <= 1")
        if self.count < 1:
            raise PrivacyError(f"Expected count={self.count} >= 1")

    def to_values(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "event": "sum",
            "version": EVENT_VERSION,
            "noise_multiplier": self.noise_multiplier,
            "sampling_rate": self.sampling_rate,
            "count": self.count,
        }

    @staticmethod
    def from_values(values: Mapping[str, Any]) -> SumEvent:
        """The event of a JSON form. Raises PrivacyError for another event or version."""
        expected = {"event", "version", "noise_multiplier", "sampling_rate", "count"}
        if set(values) != expected or (values["event"], values["version"]) != (
            "sum",
            EVENT_VERSION,
        ):
            raise PrivacyError(f"Expected a sum event of version {EVENT_VERSION}, found another")
        return SumEvent(
            noise_multiplier=values["noise_multiplier"],
            sampling_rate=values["sampling_rate"],
            count=values["count"],
        )
