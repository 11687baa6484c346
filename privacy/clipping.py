"""Clipping: how much of a unit's vector is kept, from its norm alone.

`weights(norms)` times the vectors have norm at most C, whatever the norms are: zero, denormal, huge, infinite or NaN.
The vectors themselves are never seen here: the gradient core gives norms and takes weights, so that nothing per unit
has to be materialised.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from privacy.errors import PrivacyError

__all__ = ["MARGIN", "Clipping", "clipping_weights"]

Clipping = Literal["flat", "automatic"]

MARGIN = 2.0**-10
"""Vectors are clipped to C (1 - 2^-10), which covers the rounding of norms and products in float32."""


def clipping_weights(
    norms: npt.NDArray[np.float64], clipping_norm: float, method: Clipping
) -> npt.NDArray[np.float64]:
    """Factors w with w * norm <= C (1 - 2^-10), shape (U,).

    | norm            | flat            | automatic                    |
    |-----------------|-----------------|------------------------------|
    | 0               | 1               | 100 (the vector is zero)     |
    | below C         | 1 (or C / norm) | C / (norm + C / 100)         |
    | NaN or infinite | 0               | 0                            |

    Automatic clipping is that of Bu et al. 2022 (arXiv:2206.07136), with a stability constant of 0.01 C: every unit
    gets nearly the norm C, and C only sets the unit of the learning rate.

    Arguments:
        norms: L2 norms of the units' vectors, shape (U,), not negative.
        clipping_norm: C > 0.
    """
    if not 0 < clipping_norm < np.inf:
        raise PrivacyError(f"Expected a clipping norm above 0, found {clipping_norm}")
    bound = clipping_norm * (1 - MARGIN)
    finite = np.isfinite(norms) & (norms >= 0)
    safe = np.where(finite, norms, 1.0)
    if method == "flat":
        weights = bound / np.maximum(safe, bound)
    elif method == "automatic":
        weights = bound / (safe + 0.01 * clipping_norm)
    else:
        raise PrivacyError(f'Expected clipping "flat" or "automatic", found {method!r}')
    # A denormal weight has lost its precision: its vector's norm is above 1e290, and it contributes nothing.
    return np.where(finite & (weights >= np.finfo(np.float64).tiny), weights, 0.0)
