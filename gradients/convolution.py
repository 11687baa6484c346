"""Convolution, activation and 2x2 max pooling as one layer.

Every image is a product of its own, so that its results cannot depend on its position. Its gradient
is formed: for convolutions of this size that is cheaper than Gram matrices over all pairs of
positions (the criterion of Bu et al. 2022, arXiv:2205.10683: 2 T^2 against d_in d_out), and what is
summed is the very array whose norm was taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradients._arrays import Doubles, Flags, Reals, every, surely_finite
from gradients._stages import Batch, StageGradient, Trace
from gradients.activations import apply_activation, require_activation, through_activation


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Convolution (stride 1), 2x2 max pooling (an odd last line is dropped), activation.

    Weight (filters, channels, kernel, kernel), bias (filters,). Columns that come in hold an image
    as (height, width, channels) if `channels_last`, else as (channels, height, width); columns that
    go out hold (filters, height, width).

    The activation follows the pooling: all activations are monotone, so that the order does not
    matter, and there is a quarter of the numbers.
    """

    height: int
    width: int
    channels: int
    filters: int
    kernel: int
    padding: int = 0
    activation: str = "relu"
    channels_last: bool = False

    def __post_init__(self) -> None:
        require_activation(self.activation)
        sizes = (self.height, self.width, self.channels, self.filters, self.kernel)
        if min(sizes) < 1 or self.padding < 0:
            raise ValueError(f"Expected positive sizes, not {sizes} with padding {self.padding}")
        if min(self.summed) < 2:
            raise ValueError(
                f"Expected an image of at least {self.kernel + 1 - 2 * self.padding} pixels a side "
                f"for kernel {self.kernel}, padding {self.padding} and pooling, "
                f"not {self.height} x {self.width}"
            )

    @property
    def inputs(self) -> int:
        """Features of a column that comes in."""
        return self.height * self.width * self.channels

    @property
    def outputs(self) -> int:
        """Features of a column that goes out."""
        return self.filters * self.pooled[0] * self.pooled[1]

    @property
    def summed(self) -> tuple[int, int]:
        """Height and width before the pooling."""
        lost = self.kernel - 1 - 2 * self.padding
        return self.height - lost, self.width - lost

    @property
    def pooled(self) -> tuple[int, int]:
        """Height and width after the pooling."""
        return self.summed[0] // 2, self.summed[1] // 2

    @property
    def fan_in(self) -> int:
        """Numbers that one sum is made of."""
        return self.channels * self.kernel**2

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (self.filters, self.channels, self.kernel, self.kernel)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the bias."""
        return (self.filters,)

    @property
    def spread(self) -> float:
        """He et al. 2015 before a ReLU, Glorot and Bengio 2010 otherwise."""
        if self.activation == "relu":
            return float(np.sqrt(2 / self.fan_in))
        return float(np.sqrt(2 / (self.fan_in + self.filters * self.kernel**2)))

    def forward(
        self,
        weight: Reals,
        bias: Reals,
        columns: Reals,
        tile: int,  # noqa: ARG002 (every image is a product of its own)
    ) -> Trace:
        """Output for columns (inputs, n)."""
        count = columns.shape[1]
        patches = self._patches(self._images(columns))
        sums = weight.reshape(self.filters, self.fan_in) @ patches
        sums += bias[:, None]
        finite = None
        if not surely_finite(sums):
            finite = every(np.isfinite(sums).reshape(count, -1), 1)
        output, winners = _pool(sums.reshape(count, self.filters, *self.summed))
        apply_activation(self.activation, output)
        return ConvolutionTrace(
            output=output.reshape(count, -1).T, finite=finite, patches=patches, winners=winners
        )

    def backward(
        self,
        weight: Reals,
        trace: Trace,
        deltas: Reals,
        batch: Batch,
        *,
        augmented: Doubles | None,  # noqa: ARG002 (of use to dense layers only)
        with_inputs: bool,
    ) -> tuple[StageGradient, Reals | None]:
        """Gradients of all units, and the deltas of the inputs if asked for."""
        assert isinstance(trace, ConvolutionTrace)  # noqa: S101 (cannot happen: own trace)
        count = deltas.shape[1]
        output = np.ascontiguousarray(trace.output.T)
        pooled = through_activation(self.activation, np.ascontiguousarray(deltas.T), output)
        spread = _unpool(
            pooled.reshape(count, self.filters, *self.pooled), trace.winners, self.summed
        )
        flat = spread.reshape(count, self.filters, -1)
        formed = np.empty((count, self.filters * (self.fan_in + 1)), flat.dtype)
        split = self.filters * self.fan_in
        # (fan_in, filters), and not the other way round: the long side first is what BLAS likes.
        product = formed[:, :split].reshape(count, self.fan_in, self.filters)
        np.matmul(trace.patches, flat.transpose(0, 2, 1), out=product)
        flat.sum(axis=2, out=formed[:, split:])
        below = self._gather(weight, flat) if with_inputs else None
        return ConvolutionGradient(formed, self.filters, batch), below

    def _images(self, columns: Reals) -> Reals:
        """(n, channels, height, width), zero-padded; a view if there is no padding."""
        rows = columns.T
        if self.channels_last:
            images = rows.reshape(-1, self.height, self.width, self.channels).transpose(0, 3, 1, 2)
        else:
            images = rows.reshape(-1, self.channels, self.height, self.width)
        if not self.padding:
            return images
        edge = (self.padding, self.padding)
        return np.pad(images, ((0, 0), (0, 0), edge, edge))

    def _patches(self, images: Reals) -> Reals:
        """(n, channels * kernel^2, positions): one column per position."""
        windows = np.lib.stride_tricks.sliding_window_view(
            images, (self.kernel, self.kernel), axis=(2, 3)
        )
        ordered = windows.transpose(0, 1, 4, 5, 2, 3)
        return ordered.reshape(len(images), self.fan_in, -1)

    def _gather(self, weight: Reals, flat: Reals) -> Reals:
        """Deltas of the inputs (inputs, n) from those of the sums (n, filters, positions).

        The transpose of `_patches`, in two steps: rows of the kernel first, where whole images are
        added at a time, then columns. (All of them at once would add lines of a few numbers.)
        """
        count, side, (height, width) = len(flat), self.kernel, self.summed
        across = weight.transpose(0, 1, 3, 2).reshape(self.filters, self.fan_in).T @ flat
        parts = across.reshape(count, self.channels, side, side, height, width)
        tall, wide = self.height + 2 * self.padding, self.width + 2 * self.padding
        strips = np.zeros((count, self.channels, side, tall, width), flat.dtype)
        for row in range(side):
            strips[:, :, :, row : row + height] += parts[:, :, :, row]
        images = np.zeros((count, self.channels, tall, wide), flat.dtype)
        for column in range(side):
            images[..., column : column + width] += strips[:, :, column]
        if self.padding:
            inner = slice(self.padding, -self.padding)
            images = images[:, :, inner, inner]
        if self.channels_last:
            images = images.transpose(0, 2, 3, 1)
        return images.reshape(count, -1).T


@dataclass(kw_only=True)
class ConvolutionTrace(Trace):
    """patches: (n, channels * kernel^2, positions); winners: which pixel of a pool was the largest."""

    patches: Reals
    winners: tuple[Flags, Flags]


def _pool(sums: Reals) -> tuple[Reals, tuple[Flags, Flags]]:
    """Maxima of 2x2 pools; winners: the upper row won, the left column won (the first of equals)."""
    height, width = (2 * (side // 2) for side in sums.shape[2:])
    upper, lower = sums[:, :, 0:height:2, :width], sums[:, :, 1:height:2, :width]
    rows = upper >= lower
    taller = np.maximum(upper, lower)
    left, right = taller[..., 0::2], taller[..., 1::2]
    return np.maximum(left, right), (rows, left >= right)


def _unpool(deltas: Reals, winners: tuple[Flags, Flags], shape: tuple[int, int]) -> Reals:
    """Apply the transpose of `_pool`: every delta goes to the pixel that won."""
    rows, columns = winners
    wide = np.empty(rows.shape, deltas.dtype)
    wide[..., 0::2] = deltas * columns
    wide[..., 1::2] = deltas * ~columns
    spread = np.zeros((*deltas.shape[:2], *shape), deltas.dtype)
    height, width = 2 * deltas.shape[2], 2 * deltas.shape[3]
    spread[:, :, 0:height:2, :width] = wide * rows
    spread[:, :, 1:height:2, :width] = wide * ~rows
    return spread


class ConvolutionGradient:
    """Gradients of single images, formed; those of one unit's images are added.

    formed: (images, (fan_in + 1) * filters): the weight's as (fan_in, filters), then the bias's.
    """

    def __init__(self, formed: Reals, filters: int, batch: Batch) -> None:
        if batch.rows > 1:
            formed = formed.reshape(batch.units, batch.rows, -1).sum(axis=1)
        self._formed = formed
        self._filters = filters
        wide = formed.astype(np.float64)
        self.squares: Doubles = np.einsum("up,up->u", wide, wide)

    def drop(self, usable: Flags) -> None:
        """Zero everything that belongs to units which are not usable (units,)."""
        self._formed[~usable] = 0

    def weighted_sums(self, weights: Reals) -> Iterator[tuple[Reals, Reals]]:
        """Yield the sum over units of weights[unit] * gradient: (weight, bias)."""
        total = (weights @ self._formed).reshape(-1, self._filters)
        yield total[:-1].T, total[-1]
