"""The constants of a roster on which the argument of secure aggregation rests."""

from __future__ import annotations

from dataclasses import dataclass

from privacy.errors import PrivacyError

__all__ = ["MOST_SITES", "Thresholds"]

MOST_SITES = 1000
"""A complete graph has n (n - 1) / 2 pairs; beyond this it would take minutes a round."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Constants of a study, derived from its declaration by every party for itself, never taken from a message.

    **2 tau > n + c**: two sets of survivors that tau sites each have signed share an honest signer, and that one signs
    once a round. **t + m > n + c**: those who reveal self-masks of a second set would need t - c honest sites outside
    the first one, and there are not so many. **tau + t > n + c**: not both ways of unmasking succeed in one round.
    **k <= m - c**: of m survivors at least k are honest, and each of these has added its share of noise.

    Attributes:
        sites: n, on the roster. colluding: c of them, with the coordinator. survivors: m, the smallest set that is ever
            summed. threshold: t, shares that recover a self-mask. quorum: tau, signatures of one set of survivors.
        shares: k, honest shares of noise that every sum holds.
    Raises:
        PrivacyError: the constants do not carry the argument.
    """

    sites: int
    colluding: int
    survivors: int
    threshold: int
    quorum: int
    shares: int

    def __post_init__(self) -> None:
        n, c, m = self.sites, self.colluding, self.survivors
        t, tau, k = self.threshold, self.quorum, self.shares
        if not (1 <= t <= m <= n <= MOST_SITES and 1 <= tau <= m and c >= 1 and k >= 1):
            raise PrivacyError(
                f"Expected t, tau <= m <= n <= {MOST_SITES} and c, k >= 1, found {t}, {tau}, {m}, {n} and {c}, {k}"
            )
        if not (2 * tau > n + c and t + m > n + c and tau + t > n + c and k <= m - c):
            raise PrivacyError(
                f"Expected 2 tau, t + m, tau + t > n + c and k <= m - c, found n={n}, c={c}, m={m}, t={t}, tau={tau}, "
                f"k={k}"
            )
