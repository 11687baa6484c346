"""Matrix products whose columns do not know where they stand.

**Guarantees.** Column j of `column_product(weight, columns, tile)` has the same bits wherever it
stands, whatever the other columns hold, and however many tiles of columns there are.

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

So the width of a product is not assumed but *measured*, once for each shape: equal columns must
give equal columns. Whatever fails that down to 16 columns is computed without BLAS.

A pass may be wider than a tile, and how many tiles it has may depend on how many units a site has.
So a wide product must give the bits of a tile alone; that is measured likewise, and what fails it is
computed tile by tile.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from gradients._arrays import Reals
from gradients.bounds import mean_roundings

LANE = 16  # columns are padded to a multiple of this: the widest vector holds 16 numbers of float32
QUICK_PRODUCTS = 10**6
QUICK_UNITS = 32
FEW_OUTPUTS = 32


def padded_units(units: int) -> int:
    """Return the least multiple of 16 that is at least `units`, and at least 16."""
    return max(1, -(-units // LANE)) * LANE


def column_product(weight: Reals, columns: Reals, tile: int) -> Reals:
    """`weight @ columns`, with columns that are computed independently of their position.

    Arguments: weight (outputs, inputs) and columns (inputs, n), of one dtype and any strides; tile,
    a multiple of 16 that divides n: whatever n is, a column has the bits that it has in a product
    of `tile` columns. Returns (outputs, n), C-contiguous.
    """
    outputs, inputs = weight.shape
    count, dtype = columns.shape[1], weight.dtype.char
    if count == tile:
        return _product(weight, columns, safe_width(inputs, outputs, tile, dtype))
    width = wide_width(inputs, outputs, tile, count, dtype)
    if width:
        return _product(weight, columns, width)
    # BLAS must see the very shape and strides of a tile that is alone.
    tiles = [columns[:, at : at + tile].copy(order="K") for at in range(0, count, tile)]
    return np.concatenate([column_product(weight, part, tile) for part in tiles], axis=1)


def _product(weight: Reals, columns: Reals, width: int) -> Reals:
    """`weight @ columns`, `width` columns at a time; without BLAS if `width` is 0."""
    result = np.empty((len(weight), columns.shape[1]), weight.dtype)
    if width == columns.shape[1]:
        return np.matmul(weight, columns, out=result)
    if width == 0:
        return _without_blas(weight, columns, result)
    np.matmul(weight, _portions(columns, width), out=_portions(result, width))
    return result


def _portions(columns: Reals, width: int) -> Reals:
    """View columns (features, n) as (n / width, features, width)."""
    return columns.reshape(len(columns), -1, width).transpose(1, 0, 2)


@lru_cache(maxsize=4096)
def safe_width(inputs: int, outputs: int, tile: int, dtype: str) -> int:
    """Return how many columns of a tile to multiply at a time: the most that are treated alike.

    0 if there is no such number. A fact of the machine (processor, BLAS, number of its threads),
    not of the data: hence the cache.
    """
    width = quick_width(inputs * outputs, tile)
    while width >= LANE and width % LANE == 0:
        if _columns_alike(inputs, outputs, width, tile, dtype):
            return width
        width //= 2
    return LANE if _columns_alike(inputs, outputs, LANE, tile, dtype) else 0


@lru_cache(maxsize=4096)
def wide_width(inputs: int, outputs: int, tile: int, count: int, dtype: str) -> int:
    """Return how many of `count` columns to multiply at a time, so that they have the bits of a tile alone.

    0 if there is no such number.
    """
    narrow = safe_width(inputs, outputs, tile, dtype)
    # One wide product spares copying a large matrix for every tile.
    large = narrow == tile and inputs * outputs * tile > QUICK_PRODUCTS
    for width in (count, narrow) if large else (narrow,):
        if width and _columns_alike(inputs, outputs, width, count, dtype, tile=tile):
            return width
    return 0


def quick_width(area: int, count: int) -> int:
    """Return how many of `count` units to multiply at a time with a matrix of `area` numbers.

    OpenBLAS multiplies small matrices (up to 10^6 products) without copying them first, on AVX-512:
    784 x 10 runs twice as fast in portions of 64 units as with 256 at once.
    """
    width = count
    while width % (2 * QUICK_UNITS) == 0 and area * width > QUICK_PRODUCTS:
        width //= 2
    return width if area * width <= QUICK_PRODUCTS else count


def sum_of_outer_products(
    left: Reals, right: Reals, roundings: int, weights: Reals | None = None
) -> Iterator[tuple[Reals, Reals]]:
    """Yield parts of `(left * weights) @ right.T` and of the sums of left * weights over columns.

    Arguments: left (outputs, n), right (inputs, n), weights (n,). The parts are to be added in
    float64. Within one, terms are rounded no more than `roundings` times, in the mean that
    `gradients.bounds` speaks of, whatever order BLAS adds in.
    """
    count, area = left.shape[1], left.shape[0] * right.shape[0]
    quick = not _few_long_rows(left, right)
    width = summed_width(area, count, roundings, quick=quick)
    if width == 0:
        for at in range(0, count, roundings):
            part = slice(at, at + roundings)
            some = None if weights is None else weights[part]
            yield from sum_of_outer_products(left[:, part], right[:, part], roundings, some)
    elif quick and width < count and count % width == 0 and area * width <= QUICK_PRODUCTS:
        weighted = left if weights is None else left * weights
        products = _portions(weighted, width) @ _portions(right, width).transpose(0, 2, 1)
        sums = (weighted.reshape(-1, width) @ np.ones(width, left.dtype)).reshape(len(left), -1)
        yield np.add.reduce(products, axis=0), np.add.reduce(sums, axis=1)
    else:
        product, sum_of_rows = _outer(left, right, weights, slice(0, width))
        for at in range(width, count, width):
            more = _outer(left, right, weights, slice(at, at + width))
            product += more[0]
            sum_of_rows += more[1]
        yield product, sum_of_rows


def _few_long_rows(left: Reals, right: Reals) -> bool:
    """Whether `right @ left.T` is faster than `left @ right.T`, and than many small products."""
    return len(left) <= FEW_OUTPUTS and right.strides[1] == right.itemsize


@lru_cache(maxsize=4096)
def summed_width(area: int, count: int, roundings: int, *, quick: bool) -> int:
    """Return how many of `count` terms to add in one product of `area` numbers; 0: too many for one sum.

    quick: whether small products are worth more portions, see `quick_width`.

    Terms are rounded as often as `mean_roundings` says within their portion, and once more for
    every other portion. So three portions of 342 do for 1,024 terms that may be rounded 256 times,
    and there is no addition in float64, which takes four times as long.
    """
    width = quick_width(area, count) if quick else count
    portions = -(-count // width)
    if width == count:  # in as few portions as may be
        while portions < roundings and mean_roundings(width) + portions - 1 > roundings:
            portions += 1
            width = -(-count // portions)
    return width if mean_roundings(width) + portions - 1 <= roundings else 0


def _outer(left: Reals, right: Reals, weights: Reals | None, part: slice) -> tuple[Reals, Reals]:
    """`(left * weights) @ right.T` over a part of the columns, and the sums, by one product."""
    left, right = left[:, part], right[:, part]
    if weights is not None:
        left = left * weights[part]
    sums = left @ np.ones(left.shape[1], left.dtype)
    if _few_long_rows(left, right):
        # Transposing the small factor and the result costs less than BLAS takes for the large one.
        return np.ascontiguousarray((right @ np.ascontiguousarray(left.T)).T), sums
    return left @ right.T, sums


def _columns_alike(
    inputs: int, outputs: int, width: int, count: int, dtype: str, *, tile: int = 0
) -> bool:
    """Whether equal columns give equal columns, for both layouts of both operands.

    With `tile`: equal to those of a product of that many columns, too.

    Numbers without a pattern make two orders of summation differ in nearly every entry, so that a
    difference of code paths does not stay hidden. (Quasi-random: no generator, no seed.)
    """
    golden = 0.6180339887498949
    weight = (np.arange(1, outputs * inputs + 1) * golden % 1.0 - 0.5).astype(dtype)
    column = (np.arange(1, inputs + 1) * np.sqrt(2.0) % 1.0 - 0.5).astype(dtype)
    weight = weight.reshape(outputs, inputs)
    rows = np.repeat(column[None, :], count, axis=0)
    for matrix in (weight, np.asfortranarray(weight)):
        for transposed in (True, False):
            operand = rows.T if transposed else np.ascontiguousarray(rows.T)
            product = _product(matrix, operand, width)
            expected = product[:, :1]
            if tile:
                alone = rows[:tile].T if transposed else np.ascontiguousarray(rows[:tile].T)
                expected = column_product(matrix, alone, tile)[:, :1]
            if not (product == expected).all():
                return False
    return True


def _without_blas(weight: Reals, columns: Reals, result: Reals) -> Reals:
    """One feature after the other, by elementwise operations alone: slow, and safe everywhere."""
    result[...] = 0
    for feature in range(weight.shape[1]):
        result += weight[:, feature, None] * columns[None, feature, :]
    return result
