"""Matrix products whose columns do not know where they stand.

**Guarantees.** Column j of `column_product(weight, columns)` has the same bits wherever it stands
and whatever the other columns hold.

Discussion. A zero-padded batch of a fixed shape is *not* enough for that. BLAS picks another
micro-kernel for the edges of a matrix, and even for its interior: OpenBLAS 0.3.31 gives one row of
a float32 product different bits in different places on every machine with AVX2 and without AVX-512
(kernels "Haswell" and "Zen"), at every batch size that was tried, 16 to 512. What was found to
hold:

* Units along the *last* axis of the result, in a multiple of 16, are safe with the kernels for
  AVX-512, SSE2, SSE3 and with every float64 kernel, with one thread, two and three. Units along the
  *first* axis are not (float64, two threads: batches of 48, 64).
* Haswell, float32: tiles of 16 units are safe, wider ones are not.
* SandyBridge, float32: matrix times vector is not safe at all (one output).

So the width of a tile is not assumed but *measured*, once for each shape: equal columns must give
equal columns. Whatever fails that down to 16 columns is computed without BLAS.
"""

from functools import lru_cache

import numpy as np

from gradients._arrays import Reals

LANE = 16  # columns are padded to a multiple of this: the widest vector holds 16 numbers of float32
QUICK_PRODUCTS = 10**6
QUICK_UNITS = 32
FEW_OUTPUTS = 32


def padded_units(units: int) -> int:
    """Return the least multiple of 16 that is at least `units`, and at least 16."""
    return max(1, -(-units // LANE)) * LANE


def column_product(weight: Reals, columns: Reals) -> Reals:
    """`weight @ columns`, with columns that are computed independently of their position.

    Arguments: weight (outputs, inputs) and columns (inputs, n), of one dtype and any strides; n a
    multiple of 16. Returns (outputs, n), C-contiguous.
    """
    outputs, inputs = weight.shape
    count = columns.shape[1]
    width = safe_width(inputs, outputs, count, weight.dtype.char)
    result = np.empty((outputs, count), weight.dtype)
    if width == count:
        return np.matmul(weight, columns, out=result)
    if width == 0:
        return _without_blas(weight, columns, result)
    for start in range(0, count, width):
        part = slice(start, start + width)
        # Through a tile of its own: BLAS must see the very shape and strides that were measured.
        result[:, part] = weight @ columns[:, part]
    return result


@lru_cache(maxsize=4096)
def safe_width(inputs: int, outputs: int, count: int, dtype: str) -> int:
    """Return the widest tile that divides `count` and treats its columns alike; 0 if there is none.

    A fact of the machine (processor, BLAS, number of its threads), not of the data: hence the
    cache.
    """
    width = quick_width(inputs * outputs, count)
    while width >= LANE and width % LANE == 0:
        if _columns_alike(inputs, outputs, width, dtype):
            return width
        width //= 2
    return LANE if _columns_alike(inputs, outputs, LANE, dtype) else 0


def quick_width(area: int, count: int) -> int:
    """Return how many of `count` units to multiply at a time with a matrix of `area` numbers.

    OpenBLAS multiplies small matrices (up to 10^6 products) without copying them first, on AVX-512:
    784 x 10 runs twice as fast in portions of 64 units as with 256 at once.
    """
    width = count
    while width % (2 * QUICK_UNITS) == 0 and area * width > QUICK_PRODUCTS:
        width //= 2
    return width if area * width <= QUICK_PRODUCTS else count


def sum_of_outer_products(left: Reals, right: Reals) -> Reals:
    """`left @ right.T`: left (outputs, n), right (inputs, n); returns (outputs, inputs).

    In portions, which lowers the error of summation: the bound for n terms in any order holds.
    """
    count = left.shape[1]
    if len(left) <= FEW_OUTPUTS and right.flags.c_contiguous:
        # Transposing the small factor and the result costs less than BLAS takes for the large one.
        return np.ascontiguousarray((right @ np.ascontiguousarray(left.T)).T)
    width = quick_width(left.shape[0] * right.shape[0], count)
    total: Reals = left[:, :width] @ right[:, :width].T
    if width < count:
        product = np.empty_like(total)
        for start in range(width, count, width):
            part = slice(start, start + width)
            total += np.matmul(left[:, part], right[:, part].T, out=product)
    return total


def _columns_alike(inputs: int, outputs: int, width: int, dtype: str) -> bool:
    """Whether equal columns give equal columns, for both layouts of the operand.

    Numbers without a pattern make two orders of summation differ in nearly every entry, so that a
    difference of code paths does not stay hidden. (Quasi-random: no generator, no seed.)
    """
    golden = 0.6180339887498949
    weight = (np.arange(1, outputs * inputs + 1) * golden % 1.0 - 0.5).astype(dtype)
    column = (np.arange(1, inputs + 1) * np.sqrt(2.0) % 1.0 - 0.5).astype(dtype)
    rows = np.repeat(column[None, :], width, axis=0)
    weight = weight.reshape(outputs, inputs)
    for operand in (rows.T, np.ascontiguousarray(rows.T)):
        for matrix in (weight, np.asfortranarray(weight)):
            product = np.matmul(matrix, operand, out=np.empty((outputs, width), dtype))
            if not (product == product[:, :1]).all():
                return False
    return True


def _without_blas(weight: Reals, columns: Reals, result: Reals) -> Reals:
    """One feature after the other, by elementwise operations alone: slow, and safe everywhere."""
    result[...] = 0
    for feature in range(weight.shape[1]):
        result += weight[:, feature, None] * columns[None, feature, :]
    return result
