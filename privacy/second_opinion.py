"""A second opinion on epsilon, by people and code that have nothing to do with the first: Opacus' PRV accountant.

It composes privacy random variables by Fourier transform (Gopi, Lee, Wutschitz 2021, arXiv:2106.02848) and bounds its
own error. It looks at the removal of a unit only, the dearer direction in all that is known. Opacus brings PyTorch,
hundreds of megabytes, so it is an extra, and is imported when it is asked.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from privacy.errors import PrivacyError
from privacy.events import SumEvent, by_part
from privacy.renyi import renyi_epsilon

__all__ = ["Opinion", "second_opinion"]

_ERROR = 0.01  # of epsilon
_DELTA_ERROR = 1e-3  # of delta, relatively
_MOST_POINTS = 2**24  # of its grid: half a gigabyte


class Opinion(NamedTuple):
    """Between which bounds epsilon lies."""

    lower: float
    upper: float


def second_opinion(events: Iterable[SumEvent], delta: float) -> Opinion:
    """Bounds of epsilon by Opacus, 0.02 apart or a little more. Train and test parts compose in parallel.

    Raises:
        PrivacyError: Opacus is not installed, or it cannot say.
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"Expected 0 < delta={delta} < 1")
    parts = [_bounds(part, delta) for part in by_part(events)]
    return (
        Opinion(*(max(each, default=0.0) for each in zip(*parts, strict=True)))
        if parts
        else Opinion(0.0, 0.0)
    )


def _bounds(events: Sequence[SumEvent], delta: float) -> Opinion:
    """Opacus gives epsilon(delta - its delta error) + its error; asked at 2 delta errors more, it bounds from below."""
    _refuse_too_large(events, delta)
    slack = _DELTA_ERROR * delta
    upper = _asked(events, delta, slack)
    return Opinion(max(0.0, _asked(events, delta + 2 * slack, slack) - 2 * _ERROR), upper)


def _asked(events: Sequence[SumEvent], delta: float, delta_error: float) -> float:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter(
                "ignore"
            )  # of torch on import; of Opacus about orders and log(0) at rate 1
            from opacus.accountants import PRVAccountant  # noqa: PLC0415  an extra

            accountant = PRVAccountant()
            accountant.history = [(e.noise_multiplier, e.sampling_rate, e.count) for e in events]
            found = float(accountant.get_epsilon(delta, eps_error=_ERROR, delta_error=delta_error))
    except ImportError as error:
        raise PrivacyError(
            "Expected Opacus for a second opinion, found that it is not installed",
            hint='pip install "discreet[torch]"',
        ) from error
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, ValueError) as error:
        raise PrivacyError(f"Opacus' PRV accountant does not say: {error}") from error
    if not math.isfinite(found):
        raise PrivacyError("Opacus' PRV accountant finds no bound")
    return found


def _refuse_too_large(events: Sequence[SumEvent], delta: float) -> None:
    """By its own rules: a grid from -L to L, L at least its Renyi epsilon, in steps that shrink with the sums."""
    delta_error, sums = _DELTA_ERROR * delta, sum(each.count for each in events)
    reach = 3 + renyi_epsilon(events, delta_error / 4)
    step = _ERROR / math.sqrt(sums * math.log(12 / delta_error) / 2)
    if not 2 * reach / step <= _MOST_POINTS:
        raise PrivacyError("Opacus' PRV accountant would need more memory than is sensible")
