"""Activation functions, and their derivatives in terms of their own output.

A derivative that needs the output only lets a layer overwrite its sums, so that nothing else is
kept.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from gradients._arrays import Reals


def _identity(sums: Reals) -> None:
    """Leave the sums as they are."""


def _rectify(sums: Reals) -> None:
    """max(z, 0), in place. (With a row of zeros, for NumPy has no fast loop for a single one.)"""
    np.maximum(sums, np.zeros(sums.shape[1:], sums.dtype), out=sums)


def _hyperbolic(sums: Reals) -> None:
    """tanh(z), in place."""
    np.tanh(sums, out=sums)


def _through_identity(deltas: Reals, _: Reals) -> Reals:
    """Pass on: the derivative is 1."""
    return deltas


def _through_rectify(deltas: Reals, output: Reals) -> Reals:
    """Pass on where the output is positive; the derivative at 0 is 0, as in torch."""
    return np.multiply(deltas, output > 0, out=deltas)


def _through_hyperbolic(deltas: Reals, output: Reals) -> Reals:
    """Multiply by the derivative of tanh, 1 - tanh^2."""
    slope = output * output
    np.subtract(1, slope, out=slope)
    return np.multiply(deltas, slope, out=deltas)


Apply = Callable[[Reals], None]
Through = Callable[[Reals, Reals], Reals]

ACTIVATIONS: Final[dict[str, tuple[Apply, Through]]] = {
    "identity": (_identity, _through_identity),
    "relu": (_rectify, _through_rectify),
    "tanh": (_hyperbolic, _through_hyperbolic),
}


def require_activation(name: str) -> None:
    """Raise ValueError unless `name` is a known activation."""
    if name not in ACTIVATIONS:
        raise ValueError(f"Expected activation={name!r} in {sorted(ACTIVATIONS)}")


def apply_activation(name: str, sums: Reals) -> None:
    """Replace the sums by the activation of the sums."""
    ACTIVATIONS[name][0](sums)


def through_activation(name: str, deltas: Reals, output: Reals) -> Reals:
    """Deltas of the sums from those of the output. Overwrites `deltas`."""
    return ACTIVATIONS[name][1](deltas, output)
