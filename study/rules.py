"""The rules of a site's policy by name: all that a site says of them to the coordinator, and no more.

A rule is named like the setting of the policy that makes it (`client/policy.py`). On the wire a broken policy is a
list of names, `ceilings.epsilon,floors.sites`: no bound, no figure, no text of anybody's.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

__all__ = ["Rule", "reason_of", "rules_of"]


class Rule(enum.StrEnum):
    """A rule that a study may break, decided from its declaration alone."""

    TRUST = "studies.trust"
    TASK = "studies.tasks"
    MODEL = "studies.models"
    ALGORITHM = "studies.algorithms"
    CLAMPING = "studies.clamping"
    PURPOSE = "studies.purpose"
    FEATURES = "columns.features"
    LABEL = "columns.labels"
    UNIT = "columns.unit"
    SITES = "floors.sites"
    SURVIVORS = "floors.survivors"
    SHARES = "floors.shares"
    COLLUDING = "floors.colluding"
    NOISE = "floors.noise_multiplier"
    SITES_PER_UNIT = "floors.sites_per_unit"
    EPSILON = "ceilings.epsilon"
    DELTA = "ceilings.delta"
    EPSILON_AGAINST_SERVER = "ceilings.epsilon_against_server"
    ROUNDS = "ceilings.rounds"
    DIMENSION = "ceilings.dimension"

    @property
    def explanation(self) -> str:
        """What the coordinator reports of a study that breaks it."""
        return f"{_WORDS[self]} ({self.value})"


_WORDS = {
    Rule.TRUST: "its level of trust",
    Rule.TASK: "its task",
    Rule.MODEL: "its kind of model",
    Rule.ALGORITHM: "its algorithm",
    Rule.CLAMPING: "it clamps values beyond their bounds",
    Rule.PURPOSE: "it states no purpose",
    Rule.FEATURES: "a feature that it uses",
    Rule.LABEL: "the label that it predicts",
    Rule.UNIT: "its privacy unit",
    Rule.SITES: "too few sites",
    Rule.SURVIVORS: "too few sites that have to answer",
    Rule.SHARES: "too few shares of noise",
    Rule.COLLUDING: "it guards against too few colluding sites",
    Rule.NOISE: "too little noise",
    Rule.SITES_PER_UNIT: "one unit may be at too few sites",
    Rule.EPSILON: "too large an epsilon",
    Rule.DELTA: "too large a delta",
    Rule.EPSILON_AGAINST_SERVER: "too large an epsilon against the server",
    Rule.ROUNDS: "too many rounds",
    Rule.DIMENSION: "too many numbers in an answer",
}

_LONGEST = sum(len(each) + 1 for each in Rule)


def reason_of(rules: Iterable[Rule]) -> str:
    """How broken rules are written on the wire: their names with commas between, each once, in a fixed order."""
    broken = set(rules)
    return ",".join(each for each in Rule if each in broken)


def rules_of(reason: str | None) -> tuple[Rule, ...]:
    """The rules that a site names; none at all unless the text is what an honest site writes, to the letter."""
    if not reason or len(reason) > _LONGEST:
        return ()
    named = set(reason.split(","))
    rules = tuple(each for each in Rule if each in named)
    return rules if reason_of(rules) == reason else ()
