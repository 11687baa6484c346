"""What a declaration costs a site, in the terms of its ledger.

A ledger speaks of the units of its namespace: records, or a column's patients. Two things make an answer cost them more
than the study's own epsilon says.

* *Who looks on.* While sums are not masked the coordinator sees every answer alone, with that site's own share of
  noise: that is what is charged. With trust `server` the coordinator adds the noise, and is trusted with the sum
  itself: what is charged is what everybody else sees, and a budget with such a study in it holds against them alone.
* *What the study protects.* With `dp-fedavg` the clipped vector is a whole site's, and epsilon is for a site replaced
  by an empty one. One record more or less does not remove that vector, it replaces it by another of norm C, up to
  2 C away: it is charged with half the noise multiplier.
"""

from __future__ import annotations

from study.guarantee import Guarantee, Stage
from study.ledger_entries import DISTANCE, Adjacency, DeclaredSum, SumTerms

__all__ = ["declared_sums"]

_SHARES_SEEN = 1


def declared_sums(guarantee: Guarantee) -> tuple[DeclaredSum, ...]:
    """Every kind of sum that a study may ask, with what one of them costs the site that answers."""
    return tuple(
        DeclaredSum(
            function=stage.function, count=stage.count, terms=_terms_of(guarantee, stage)
        )
        for stage in guarantee.stages
    )  # fmt: skip


def _terms_of(guarantee: Guarantee, stage: Stage) -> SumTerms | None:
    mechanism, tolerance = guarantee.mechanism(stage.function), guarantee.tolerance
    if mechanism is None:
        return None
    whole_site = guarantee.study.training.algorithm == "dp-fedavg"
    adjacency: Adjacency = "replace-one" if whole_site else "add-or-remove-one"
    return SumTerms(
        adjacency=adjacency, unit=guarantee.unit, part="train", dimension=mechanism.dimension,
        clipping_norm=mechanism.clipping_norm, sites_per_unit=mechanism.sites_per_unit,
        sampling_rate=stage.sampling_rate, sites=tolerance.sites, colluding=tolerance.colluding,
        survivors=tolerance.survivors, threshold=tolerance.survivors, shares=_SHARES_SEEN,
        noise_multiplier=mechanism.noise_multiplier_of(_SHARES_SEEN) / DISTANCE[adjacency],
        base=mechanism.deviation.base, stretch=mechanism.deviation.stretch, scale=mechanism.scale,
        beta=mechanism.beta, slack=mechanism.slack,
        unlikely=guarantee.unlikely(stage), bits=mechanism.bits,
    )  # fmt: skip
