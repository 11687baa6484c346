"""What a declaration costs a site, in the terms of its ledger.

A ledger speaks of the units of its namespace: records, or a column's patients. Two things decide what an
answer costs them.

* *Who looks on.* With trust `aggregate` sums are masked: whatever the coordinator and c colluding sites learn holds at
  least k honest shares of noise, and k shares are charged. With trust `local` each site's own sum is seen, with all of
  the noise in its one share. With trust `server` the coordinator adds the noise, and is trusted with the masked sum
  itself: what is charged is what everybody else sees, and a budget with such a study in it holds against them alone.
* *What the study protects.* With `dp-fedavg` the clipped vector is a whole site's, and epsilon is for a site replaced
  by an empty one. One record more or less does not remove that vector, it replaces it by another of norm C, up to
  2 C away: it is charged with half the noise multiplier. (Rounded, it is at most twice as far away: of Delta's two
  terms, with b = sqrt(2 ln(1/beta)), 2 r + sqrt(d) <= 2 (r + sqrt(d)) and
  (2 r)^2 + d/4 + b (2 r + sqrt(d)/2) <= 4 (r^2 + d/4 + b (r + sqrt(d)/2)), so Delta(2 r) <= 2 Delta(r).)
"""

from __future__ import annotations

from contextlib import suppress

from privacy.errors import PrivacyError
from privacy.filters import LifetimeCap, smallest_cap
from study.guarantee import Guarantee, Stage
from study.ledger_entries import DISTANCE, Adjacency, DeclaredSum, SumTerms

__all__ = ["declared_sums", "least_budget"]


def declared_sums(guarantee: Guarantee) -> tuple[DeclaredSum, ...]:
    """Every kind of sum that a study may ask, with what one of them costs the site that answers."""
    return tuple(
        DeclaredSum(
            function=stage.function, count=stage.count, terms=_terms_of(guarantee, stage)
        )
        for stage in guarantee.stages
    )  # fmt: skip


def least_budget(guarantee: Guarantee) -> LifetimeCap | None:
    """The least lifetime budget that the study alone fits in; None without privacy, or where it is beyond any."""
    declared = declared_sums(guarantee)
    sums = [each.terms.sums(each.count) for each in declared if each.terms is not None]
    with suppress(PrivacyError):
        return smallest_cap(sums, guarantee.study.privacy.delta) if sums else None
    return None


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
        survivors=tolerance.survivors, threshold=tolerance.survivors,
        quorum=tolerance.survivors, shares=tolerance.shares,
        noise_multiplier=mechanism.noise_multiplier_of(tolerance.shares) / DISTANCE[adjacency],
        base=mechanism.deviation.base, stretch=mechanism.deviation.stretch, scale=mechanism.scale,
        beta=mechanism.beta, slack=mechanism.slack,
        unlikely=guarantee.unlikely(stage), bits=mechanism.bits,
    )  # fmt: skip
