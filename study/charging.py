"""What a declaration costs a site, in the terms of its ledger."""

from __future__ import annotations

from study.guarantee import Guarantee, Stage
from study.ledger_entries import DeclaredSum, SumTerms

__all__ = ["declared_sums"]

_SHARES_SEEN = 1
"""While sums are not masked the coordinator sees every answer alone, with that site's own share of noise (with trust
`server`, the coordinator's own): that is what an answer costs, whatever the released model reveals."""


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
    return SumTerms(
        adjacency="add-or-remove-one", unit=guarantee.unit, part="train", dimension=mechanism.dimension,
        clipping_norm=mechanism.clipping_norm, sites_per_unit=mechanism.sites_per_unit,
        sampling_rate=stage.sampling_rate, sites=tolerance.sites, colluding=tolerance.colluding,
        survivors=tolerance.survivors, threshold=tolerance.survivors, shares=_SHARES_SEEN,
        noise_multiplier=mechanism.noise_multiplier_of(_SHARES_SEEN), base=mechanism.deviation.base,
        stretch=mechanism.deviation.stretch, scale=mechanism.scale, beta=mechanism.beta, slack=mechanism.slack,
        unlikely=guarantee.unlikely(stage), bits=mechanism.bits,
    )  # fmt: skip
