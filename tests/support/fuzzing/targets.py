"""Every target. One more is an entry in a module's `TARGETS`."""

from __future__ import annotations

from fuzzing import (
    aggregation,
    deployed,
    keys,
    ledgers,
    masked_site,
    messages,
    policies,
    records,
    rosters,
    site,
    studies,
)
from fuzzing.engine import Target

TARGETS: dict[str, Target] = {
    each.name: each
    for module in (
        studies,
        policies,
        messages,
        aggregation,
        site,
        masked_site,
        rosters,
        ledgers,
        keys,
        records,
        deployed,
    )
    for each in module.TARGETS
}
