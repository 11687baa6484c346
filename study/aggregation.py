"""What a declaration and its roster mean to secure aggregation: the same constants for every party."""

from __future__ import annotations

from privacy.errors import ProtocolError
from privacy.secure_aggregation.site import Federation
from study.guarantee import Guarantee
from study.roster import Roster

__all__ = ["federation_of"]


def federation_of(guarantee: Guarantee, roster: Roster) -> Federation:
    """The federation of a masked study.

    Raises:
        ProtocolError: the study was declared for another roster, or guards against fewer colluding sites than it asks.
        PrivacyError: its constants do not carry secure aggregation.
    """
    declaration = guarantee.declaration
    if declaration.roster != roster.hash or declaration.sites != len(roster.sites):
        raise ProtocolError(
            "Expected a study that was declared for this roster, found one for another"
        )
    return Federation(
        study=bytes.fromhex(declaration.hash), roster=bytes.fromhex(roster.hash), identities=roster.identities,
        thresholds=guarantee.thresholds, rounds=sum(stage.count for stage in guarantee.stages),
    )  # fmt: skip
