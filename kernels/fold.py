"""What is counted of numbers against a reference: moments, extremes, odd ones, and how many reach each edge.

Instead of a bin, which would be searched and scattered to, each edge counts the values at or above it:
that vectorises across features, and differences of neighbours are the histogram. Instead of Welford's
mean, which divides, sums are taken of what the reference's mean has been taken off, so that little
cancels. So everything but the extremes adds up, in any order: counts exactly, sums but for rounding.

Rows are worked through in tiles that the fastest cache holds, copied, because rows that lie a power of
two apart would push each other out of it. At 16 edges and 32 x 1,024 float32 that takes 0.8 ns a value;
such loops over the rows where they lie took 1.2 to 1.6 (EPYC, Zen 4, the same runs).

What keeps the loops vectorised, each at the price of several times as long: none writes more than three
arrays; an index with an offset is unsigned, because a signed one might count from the end; no row is
taken as a view; and the rows of a tile are a number that the compiler knows, so that it unrolls them.

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
Counts = NDArray[np.uint32]

NAN, INFINITE, REACHED = range(3)
"""Rows of the counts: values that are NaN, infinite, and, from `REACHED` on, at or above each edge."""
Z_MAX = 1e150
"""Values farther from the mean than so many standard deviations, which only float64 has, are in the sums as
if they were there, so that sums are numbers."""

ROWS, FEATURES = 16, 128
"""Of a tile. What rows it lacks are filled with NaN, which neither reaches an edge nor is any extreme."""


@kernel(
    "int64(float32[:, ::1], uint64, uint64, float32[::1])",
    "int64(float64[:, ::1], uint64, uint64, float64[::1])",
)
def _load(x: Values, row: np.uint64, feature: np.uint64, tile: Values) -> int:
    """Copy a tile out of `x`, and return how many rows it has."""
    rows: int = min(ROWS, x.shape[0] - np.int64(row))
    width = min(FEATURES, x.shape[1] - np.int64(feature))
    for r in range(rows):
        for f in range(width):
            tile[np.uint64(r * FEATURES) + np.uint64(f)] = x[row + np.uint64(r), feature + np.uint64(f)]
    for r in range(rows, ROWS):
        for f in range(width):
            tile[np.uint64(r * FEATURES) + np.uint64(f)] = np.nan
    return rows


@kernel(
    "void(float32[::1], int64, uint64, float32[:, ::1], uint32[:, ::1], uint32)",
    "void(float64[::1], int64, uint64, float64[:, ::1], uint32[:, ::1], uint32)",
)
def _reach(
    tile: Values, width: int, feature: np.uint64, edges: Values, counts: Counts, one: np.uint32
) -> None:
    """Count the values of a tile that are at or above each edge; `one` is 1."""
    for edge in range(edges.shape[0]):
        for f in range(width):
            limit = edges[edge, feature + np.uint64(f)]
            count = counts[edge + REACHED, feature + np.uint64(f)]
            for r in range(ROWS):
                reached = tile[np.uint64(r * FEATURES) + np.uint64(f)] >= limit
                # One masked addition, as long as the compiler does not know what it adds: 6 % of it all.
                count += one if reached else np.uint32(0)
            counts[edge + REACHED, feature + np.uint64(f)] = count


@kernel(
    "void(float32[::1], int64, int64, uint64, uint32[:, ::1])",
    "void(float64[::1], int64, int64, uint64, uint32[:, ::1])",
)
def _set_aside(tile: Values, rows: int, width: int, feature: np.uint64, counts: Counts) -> None:
    """Count what is not finite in a tile's true rows, and make all of it NaN."""
    for f in range(width):
        nan, infinite = np.uint32(0), np.uint32(0)
        for r in range(ROWS):
            value = tile[np.uint64(r * FEATURES) + np.uint64(f)]
            nan += np.uint32(np.isnan(value))
            infinite += np.uint32(np.isinf(value))
        counts[NAN, feature + np.uint64(f)] += nan - np.uint32(ROWS - rows)
        counts[INFINITE, feature + np.uint64(f)] += infinite
    for f in range(width):
        for r in range(ROWS):
            value = tile[np.uint64(r * FEATURES) + np.uint64(f)]
            tile[np.uint64(r * FEATURES) + np.uint64(f)] = value if np.isfinite(value) else np.nan


@kernel(
    "void(float32[::1], int64, uint64, float32[:, ::1])",
    "void(float64[::1], int64, uint64, float64[:, ::1])",
)
def _stretch(tile: Values, width: int, feature: np.uint64, extremes: Values) -> None:
    """Widen the extremes to a tile's."""
    for f in range(width):
        low, high = extremes[0, feature + np.uint64(f)], extremes[1, feature + np.uint64(f)]
        for r in range(ROWS):
            value = tile[np.uint64(r * FEATURES) + np.uint64(f)]
            # No NaN is less or greater, so what was there stays.
            low = min(low, value)
            high = max(high, value)
        extremes[0, feature + np.uint64(f)], extremes[1, feature + np.uint64(f)] = low, high


@kernel(
    "int64(float32[::1], int64, uint64, float64[:, ::1], float64[::1])",
    "int64(float64[::1], int64, uint64, float64[:, ::1], float64[::1])",
)
def _add_up(tile: Values, width: int, feature: np.uint64, shift: Floats, parts: Floats) -> int:
    """Add up each feature's z and its square, and return for how many that came to no good."""
    odd = 0
    for f in range(width):
        mean, scale = shift[0, feature + np.uint64(f)], shift[1, feature + np.uint64(f)]
        total, squares = 0.0, 0.0
        for r in range(ROWS):
            z = (np.float64(tile[np.uint64(r * FEATURES) + np.uint64(f)]) - mean) * scale
            total += z
            squares += z * z
        parts[f], parts[FEATURES + f] = total, squares
        odd += not squares < Z_MAX * Z_MAX
    return odd


@kernel(
    "void(float32[::1], int64, uint64, float64[:, ::1], float64[::1])",
    "void(float64[::1], int64, uint64, float64[:, ::1], float64[::1])",
)
def _add_up_finite(tile: Values, width: int, feature: np.uint64, shift: Floats, parts: Floats) -> None:
    """Add up as `_add_up` does, but leave NaN out, and bring near what is far."""
    for f in range(width):
        mean, scale = shift[0, feature + np.uint64(f)], shift[1, feature + np.uint64(f)]
        total, squares = 0.0, 0.0
        for r in range(ROWS):
            value = tile[np.uint64(r * FEATURES) + np.uint64(f)]
            z = min(max((np.float64(value) - mean) * scale, -Z_MAX), Z_MAX)
            z = 0.0 if np.isnan(value) else z
            total += z
            squares += z * z
        parts[f], parts[FEATURES + f] = total, squares


@kernel("void(float64[::1], int64, uint64, float64[:, ::1])")
def _keep(parts: Floats, width: int, feature: np.uint64, sums: Floats) -> None:
    """Add a tile's sums to those of all."""
    for f in range(width):
        sums[0, feature + np.uint64(f)] += parts[f]
        sums[1, feature + np.uint64(f)] += parts[FEATURES + f]


@kernel(
    "void(f4[:, ::1], f4[:, ::1], f8[:, ::1], f8[:, ::1], f4[:, ::1], u4[:, ::1])",
    "void(f8[:, ::1], f8[:, ::1], f8[:, ::1], f8[:, ::1], f8[:, ::1], u4[:, ::1])",
)
def fold(x: Values, edges: Values, shift: Floats, sums: Floats, extremes: Values, counts: Counts) -> None:
    """Count the values of F features, in place.

    Parameters
    ----------
    x : (rows, F) float32 or float64
    edges : (K, F) as `x`
        +Inf reaches all of them, -Inf only one of -Inf, NaN none.
    shift : (2, F) float64
        The reference's mean, and 1 divided by its standard deviation.
    sums : (2, F) float64
        Of z = (x - mean) / standard deviation and of its square, over finite values.
    extremes : (2, F) as `x`
        The least and the greatest finite value; +Inf and -Inf where there was none.
    counts : (2 + K, F) uint32
        NaN, infinite, and at or above each edge. Take them over within 2**32 rows.
    """
    tile, parts = np.empty(ROWS * FEATURES, x.dtype), np.empty(2 * FEATURES)
    for f in range(0, x.shape[1], FEATURES):
        width, feature = min(FEATURES, x.shape[1] - f), np.uint64(f)
        for r in range(0, x.shape[0], ROWS):
            rows = _load(x, np.uint64(r), feature, tile)
            _reach(tile, width, feature, edges, counts, np.uint32(min(1, rows)))
            if rows < ROWS or _add_up(tile, width, feature, shift, parts):
                _set_aside(tile, rows, width, feature, counts)
                _add_up_finite(tile, width, feature, shift, parts)
            _keep(parts, width, feature, sums)
            _stretch(tile, width, feature, extremes)
