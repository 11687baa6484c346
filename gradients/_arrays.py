"""Array types of this package, and the two numbers that bound floating-point arithmetic."""

from math import isfinite
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

Reals: TypeAlias = npt.NDArray[np.floating[Any]]  # float32 or float64: the dtype of the model
Doubles: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
RealType: TypeAlias = type[np.float32] | type[np.float64]


def real_type(dtype: npt.DTypeLike) -> RealType:
    """Return `np.float32` or `np.float64`. Raises ValueError for any other dtype."""
    found = np.dtype(dtype)
    if found == np.float32:
        return np.float32
    if found == np.float64:
        return np.float64
    raise ValueError(f"Expected dtype={found.name} in {{float32, float64}}")


def unit_roundoff(dtype: npt.DTypeLike) -> float:
    """Return the unit roundoff u: 2^-24 for float32, 2^-53 for float64."""
    return float(np.finfo(real_type(dtype)).eps) / 2


def largest_square(dtype: npt.DTypeLike) -> float:
    """Return what a squared norm may be at most: beyond it counts as an overflow.

    The largest number of float32, about 2^128; 2^256 for float64. The roots are far enough below
    the range of the dtype that nothing which matters is lost to underflow beside them.
    """
    return LARGEST_SQUARES[np.dtype(dtype).char]


LARGEST_SQUARES: Final = {"f": float(np.finfo(np.float32).max), "d": 2.0**256}


LINE: Final = 64  # bytes


def as_reals(values: npt.ArrayLike, dtype: npt.DTypeLike) -> Reals:
    """Return the values in a dtype, silently: as they are if they have it, else converted."""
    if isinstance(values, np.ndarray) and values.dtype == dtype:
        return values
    array, real = np.asarray(values), real_type(dtype)
    if array.dtype == real:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return cast("Reals", array.astype(real))


def aligned_copy(array: Reals) -> Reals:
    """Return a C-contiguous copy that starts at a multiple of 64 bytes, the line of a cache.

    OpenBLAS multiplies small matrices up to 1.5 times as fast when no vector lies in two lines.
    """
    itemsize = array.itemsize
    room = np.empty(array.size + LINE // itemsize, array.dtype)
    start = -room.__array_interface__["data"][0] % LINE // itemsize
    copy: Reals = room[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def surely_finite(array: Reals) -> bool:
    """Whether all numbers of a C-contiguous array are finite; may also be False for large ones.

    One pass without an array of flags: the sum of squares is finite only if all numbers are.
    """
    flat = array.reshape(-1)
    return isfinite(flat.dot(flat))


def every(flags: Flags, axis: int) -> Flags:
    """Return whether all flags along an axis are set."""
    result: Flags = np.logical_and.reduce(flags, axis=axis)
    return result
