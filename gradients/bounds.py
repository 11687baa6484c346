"""How far rounding can move a clipped sum, and the size of a tile that keeps this small.

**Claim.** Let the units of two data sets differ by one, let every contribution be clipped to
C (1 - 2^-10) by its norm in `UnitGradients.norms`, let blocks with tiles of B_t units be summed by
`UnitGradients.weighted_sum` and the blocks' sums be added in float64. With at most B_max units, the
two results differ by at most C (1 + eta) in L2, eta = 2 B_max B_t u.

**Why.** Removing a unit may move all the others to other slots and other blocks. A unit's own
vector v does not change by that (bit for bit, see `per_example`), but the rounding of every sum
may. So both sums are compared with their exact values.

1. *One sum in the dtype of the model.* Coordinate j of it is a sum of products, of which the i-th is
   rounded k_ij times, by its multiplication and by the additions that it goes through, so that
   |computed - exact|_j <= u / (1 - k u) sum_i k_ij |v_ij|, k the largest k_ij (Higham 2002,
   "Accuracy and Stability of Numerical Algorithms", section 3.1). In which order BLAS adds is not
   known, and may differ from one coordinate to the next; with or without fused multiply-add. But of
   n terms at most n (n + 1) (2n + 1) / 6 + n^2 - 1 = n R(n)^2 is sum_i k_ij^2, whatever the order
   (`mean_roundings`: R is about n / sqrt(3)). So by Cauchy and Schwarz, coordinate by coordinate,
   ||computed - exact|| <= u / (1 - k u) (n R(n)^2 sum_i ||v_i||^2)^1/2 <= u / (1 - k u) R(n) n C.
   Or there are p portions of at most w products, each portion is summed in any order and the p sums
   are added up: every term then goes through p - 1 roundings more, and with the triangle inequality
   R(w) + p - 1 stands in the place of R(n). Widths and portions are such that R(w) + p - 1 <= B_t
   (`_products.summed_width`; one tile always is, as R(n) <= n). Zeros that fill empty slots add
   exactly, so that n counts units, not slots: a sum is off by at most B_t u C for each of its units,
   up to the factor 1 / (1 - k u), where k <= w + p - 1 <= sqrt(3) B_t: 1 + 2^-11.2 for tiles of up
   to 4096 units in float32 (1 + 2^-15.2 for 256), which item 6 pays for.
2. *All sums.* Over B_max units: at most B_t u B_max C for the one data set and B_t u (B_max - 1)
   C for the other; the exact sums differ by at most C. Together less than C (1 + 2 B_max B_t u).
3. *Sums added in float64.* T = ceil(B_max / B_t) sums add at most 2 T 2^-53 B_max C (1 + eta):
   at most 2^-12 C (1 + eta) for T B_max <= 2^40 (4 million units in tiles of 16), which is why
   more is refused. For a float64 model this can be more than eta itself (T > B_t): the 2^-10 below
   is what pays for it, not eta.
4. *The norm and the weight.* Squares of a block's inputs, and of the deltas of layers of up to 64
   outputs, are taken and added in float64, where those of float32 are exact, so that they have a
   relative error below 2^-29 up to layers of 10^6 inputs. What comes into a hidden layer, and the
   deltas of wider layers, are squared and added in the dtype of the model, by 64 features, and only
   these sums are added in float64 (`dense._narrow_squares`). Of 64 positive terms none is rounded
   more than 64 times, so either sum is off by a factor of at most 1 + 65 u < 1 + 2^-17.9, and by
   2^-150 for each square that is subnormal: nothing beside the 1 of ||a||^2 + 1, and for up to 2^20
   outputs nothing (2^-66) beside a ||delta||^2 of at least 2^-64; what is below is taken in float64
   (`dense._square_columns`). So a product of the two is off by at most 1 + 2^-16.9, and the norm by
   1 + 2^-17.9. The weight is rounded to the dtype (u), and so is weight times delta (u). Together
   less than 2^-17 of C.
5. *Underflow.* A unit is dropped when one of its squared norms exceeds 2^128 (float64: 2^256, see
   `largest_square`), so that no input is longer than 2^64 and no weight smaller than C 2^-65.
   Rounding weight times delta to a subnormal number (2^-150) thus moves a contribution by less than
   2^-86 sqrt(size), rounding the products by less than 2^-150 sqrt(size): no matter for C >= 2^-40.

6. The factor in item 1 and items 3, 4, 5 fit into the 2^-10 that the caller clips below C:
   (1 - 2^-10) (1 + 2^-11.2) (1 + 2^-12) (1 + 2^-17) (1 + eta) <= 1 + eta.

**More than one position per unit** (several rows, convolutions). The claim would be *false* if
the sum ran over units and positions in one product: n in item 1 becomes B_t times the positions,
and the sum of |a| |delta| over positions is not bounded by the clipped norm, since positions may
cancel. (A unit with the rows x and -x and equal deltas has the gradient 0 and terms of any size.)
So here the gradient of such a unit is formed first, its norm is taken of the *formed* array,
rounding errors included, and the sum runs over formed arrays, one term per unit. Then items 1 to 5
hold as they stand, for any number of positions; `positions` does not enter.

What is relied on: arithmetic of IEEE 754 without flushing subnormals to zero (with flushing, 2^-126
in the place of 2^-150: no matter for C >= 2^-20, nor for item 4), and a matrix product that adds products (all of
OpenBLAS, BLIS, MKL; not Strassen's).
"""

from math import sqrt
from typing import Final

import numpy.typing as npt

from gradients._arrays import unit_roundoff

LARGEST_SLACK: Final = 1 / 32  # of the clipping norm: what noise costs more, 3 %
SMALLEST_BLOCK: Final = 16  # the fewest units that products treat alike (see `_products`)
LARGEST_BLOCK: Final = 256  # products gain nothing beyond
LARGEST_WORK: Final = 2**40  # units times blocks: item 3 of the derivation


def summation_slack(max_units: int, block_units: int, dtype: npt.DTypeLike) -> float:
    """Return eta = 2 max_units block_units u: sums of neighbouring data sets differ by C (1 + eta) at most.

    The derivation is that of the module. u is 2^-24 for float32 and 2^-53 for float64.

    Arguments: max_units, B_max, public, at most 2^20 sqrt(B_t); block_units, B_t, at least 1; dtype
    of the model. Returns eta, at least 0; it may exceed 1. In float32 tiles of 16 give 1/32 at
    16,384 units and grow in proportion beyond; a float64 model gives 2^-29 of that.
    Raises ValueError if a count is out of range.
    """
    if max_units < 1 or block_units < 1:
        raise ValueError(f"Expected max_units={max_units} >= 1, block_units={block_units} >= 1")
    if max_units * -(-max_units // block_units) > LARGEST_WORK:
        raise ValueError(f"Expected max_units={max_units} <= 2^20 sqrt(block_units={block_units})")
    return 2 * max_units * block_units * unit_roundoff(dtype)


def tile_units(max_units: int, dtype: npt.DTypeLike, positions: int = 1) -> int:
    """Return the public size of a tile: the largest power of two in 16..256 with eta <= 1/32, else 16.

    Arguments: max_units, B_max, at most 2^22; dtype of the model; positions per unit, which do not
    enter (see the module).
    Raises ValueError if a count is out of range.
    """
    if positions < 1:
        raise ValueError(f"Expected positions={positions} >= 1")
    units = LARGEST_BLOCK
    while units > SMALLEST_BLOCK and summation_slack(max_units, units, dtype) > LARGEST_SLACK:
        units //= 2
    return units


def mean_roundings(terms: int) -> float:
    """Return R(n): how often the terms of a sum are rounded at most, as a root mean square over them.

    Products are rounded once, and once more by every addition they go through. The sum of the
    squares of these numbers is greatest if one term is added at a time, which gives
    n, n, n - 1, ..., 2: for where sums of m and of n - m terms meet, all their numbers grow by one,
    and what this makes of the greatest sums is convex in m, so greatest at m = 1 (by induction).

    Arguments: terms, n, at least 1. Returns a number from 1 to n.
    """
    return sqrt(terms + (terms + 1) * (2 * terms + 1) / 6 - 1 / terms)
