"""What sums an image up: the mean, standard deviation, least and greatest of each of its channels.

A sum over one row of numbers does not vectorise, because it would have to be added up in another order.
So `LANES` sums run side by side, each over every `LANES`th number, and are added up at the end; where the
channels of a pixel lie together, a lane belongs to one of them.

Importing this compiles it, and imports numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.jit import kernel

Values = NDArray[Any]
"""float32 or float64."""
Floats = NDArray[np.float64]

MEAN, STD, LOW, HIGH = range(4)
"""What is told of a channel, in this order; the features of the next one follow."""
STATISTICS = 4
LANES = 32


@kernel("int64(int64)")
def _lanes(channels: int) -> int:
    """Return how many lanes there are, each channel's as many."""
    return channels * max(1, LANES // channels)


@kernel(
    "void(float32[::1], int64, int64, int64, float64[::1], float32[::1], float32[::1])",
    "void(float64[::1], int64, int64, int64, float64[::1], float64[::1], float64[::1])",
)
def _survey(
    flat: Values, start: int, stop: int, lanes: int, sums: Floats, lows: Values, highs: Values
) -> None:
    """Find the sum, the least and the greatest of each lane; those of a NaN are NaN."""
    sums[:], lows[:], highs[:] = 0, np.inf, -np.inf
    for at in range(start, stop, lanes):
        for lane in range(min(lanes, stop - at)):
            sums[lane] += flat[np.uint64(at) + np.uint64(lane)]
        for lane in range(min(lanes, stop - at)):
            value = flat[np.uint64(at) + np.uint64(lane)]
            # Once it is NaN, no comparison holds any more.
            lows[lane] = value if value < lows[lane] or np.isnan(value) else lows[lane]
            highs[lane] = value if value > highs[lane] or np.isnan(value) else highs[lane]


@kernel(
    "void(float32[::1], int64, int64, int64, float64[::1], float64[::1])",
    "void(float64[::1], int64, int64, int64, float64[::1], float64[::1])",
)
def _spread(flat: Values, start: int, stop: int, lanes: int, means: Floats, squares: Floats) -> None:
    """Add up the squares of the distances from the mean of each lane's channel."""
    squares[:] = 0
    for at in range(start, stop, lanes):
        for lane in range(min(lanes, stop - at)):
            off = np.float64(flat[np.uint64(at) + np.uint64(lane)]) - means[lane]
            squares[lane] += off * off


@kernel(
    "void(float32[::1], int64, int64, int64, float64[:, ::1], float32[:, ::1], float32[::1])",
    "void(float64[::1], int64, int64, int64, float64[:, ::1], float64[:, ::1], float64[::1])",
)
def _write(
    flat: Values, start: int, size: int, channels: int, doubles: Floats, ends: Values, out: Values
) -> None:
    """Write the statistics of `channels` that lie together from `start` on, of `size` values each."""
    lanes = _lanes(channels)
    sums, means, lows, highs = doubles[0], doubles[1], ends[0], ends[1]
    _survey(flat, start, start + size * channels, lanes, sums, lows, highs)
    for channel in range(channels):
        total, low, high = 0.0, lows[channel], highs[channel]
        for lane in range(channel, lanes, channels):
            total += sums[lane]
            low = lows[lane] if lows[lane] < low or np.isnan(lows[lane]) else low
            high = highs[lane] if highs[lane] > high or np.isnan(highs[lane]) else high
        means[channel:lanes:channels] = total / size
        at = channel * STATISTICS
        out[at + MEAN], out[at + LOW], out[at + HIGH] = means[channel], low, high
    _spread(flat, start, start + size * channels, lanes, means, sums)
    for channel in range(channels):
        square = 0.0
        for lane in range(channel, lanes, channels):
            square += sums[lane]
        out[channel * STATISTICS + STD] = np.sqrt(square / size)


@kernel("void(float32[:, :, ::1], float32[:, ::1])", "void(float64[:, :, ::1], float64[:, ::1])")
def first(x: Values, out: Values) -> None:
    """Sum up images of which a channel's values lie together (NCHW).

    Parameters
    ----------
    x : (rows, C, P) float32 or float64, P >= 1
    out : (rows, 4 C) as `x`
        Mean, standard deviation (of the population), least and greatest of each channel; NaN, all four,
        if it holds one.
    """
    rows, channels, size = x.shape
    doubles, ends = np.empty((2, LANES)), np.empty((2, LANES), x.dtype)
    flat, written = x.reshape(-1), out.reshape(-1)
    for each in range(rows * channels):
        into = written[each * STATISTICS : (each + 1) * STATISTICS]
        _write(flat, each * size, size, 1, doubles, ends, into)


@kernel("void(float32[:, :, ::1], float32[:, ::1])", "void(float64[:, :, ::1], float64[:, ::1])")
def last(x: Values, out: Values) -> None:
    """Sum up images of which a pixel's values lie together (NHWC): `x` is (rows, P, C); see `first`."""
    rows, size, channels = x.shape
    lanes = _lanes(channels)
    doubles, ends = np.empty((2, lanes)), np.empty((2, lanes), x.dtype)
    flat = x.reshape(-1)
    for row in range(rows):
        _write(flat, row * size * channels, size, channels, doubles, ends, out[row])
