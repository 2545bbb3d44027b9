"""What does a row of scores say? `kernels.outputs` compiled.

Rows are taken `LANES` at a time and turned over, so that what is done to one score is done to those of
many rows in one instruction, however few classes there are, and nothing is summed up across a register.

Importing this compiles it, and imports numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.jit import kernel
from kernels.outputs import (
    EXP,
    F32,
    I32,
    LEAST,
    LN2,
    LOG,
    LOG2_E,
    NO_CLASS,
    OFF_MAX,
    ROOT,
    SMALLEST,
    Integers,
    Singles,
    Values,
)

LANES, COLUMNS = 32, 64
"""Rows and columns of a tile."""

Floats = NDArray[np.float64]
Marks = NDArray[np.uint32]


@kernel("float32(float32)")
def _exp(x: Any) -> Any:
    """Return e to the power of `x`, which is between `LEAST` and 0."""
    n = np.floor(x * LOG2_E + F32(0.5))
    x = x - n * LN2[0] - n * LN2[1]
    p = EXP[0] * x + EXP[1]
    p = p * x + EXP[2]
    p = p * x + EXP[3]
    p = p * x + EXP[4]
    p = p * x + EXP[5]
    p = p * x * x + x + F32(1)
    return p * I32((I32(n) + I32(127)) << I32(23)).view(F32)


@kernel("float32(float32)")
def _log(x: Any) -> Any:
    """Return the natural logarithm."""
    bits = F32(max(x, SMALLEST)).view(I32)
    n = I32(I32(bits - ROOT) >> I32(23))
    m = I32(bits - I32(n << I32(23))).view(F32) - F32(1)
    p = LOG[0] * m + LOG[1]
    p = p * m + LOG[2]
    p = p * m + LOG[3]
    p = p * m + LOG[4]
    p = p * m + LOG[5]
    p = p * m + LOG[6]
    p = p * m + LOG[7]
    p = p * m + LOG[8]
    square = m * m
    p = p * m * square - F32(0.5) * square + m
    return p + F32(n) * LN2[1] + F32(n) * LN2[0]


@kernel(
    "void(float32[:, ::1], uint64, uint64, float32[::1])",
    "void(float64[:, ::1], uint64, uint64, float64[::1])",
)
def _turn(x: Values, row: np.uint64, column: np.uint64, tile: Values) -> None:
    """Copy a tile out of `x`, columns first. Lanes without a row keep what they had: nobody asks them."""
    for c in range(min(COLUMNS, x.shape[1] - np.int64(column))):
        for r in range(min(LANES, x.shape[0] - np.int64(row))):
            tile[np.uint64(c * LANES) + np.uint64(r)] = x[row + np.uint64(r), column + np.uint64(c)]


@kernel(
    "void(float32[::1], int64, int64, float32[::1], int64[::1])",
    "void(float64[::1], int64, int64, float64[::1], int64[::1])",
)
def _rise(tile: Values, columns: int, column: int, top: Values, found: Integers) -> None:
    """Keep the greatest score of each lane, and its class; once that is NaN, nothing is greater."""
    for c in range(columns):
        for lane in range(LANES):
            score = tile[np.uint64(c * LANES) + np.uint64(lane)]
            found[lane] = column + c if score > top[lane] else found[lane]
            top[lane] = score if score > top[lane] or np.isnan(score) else top[lane]


@kernel(
    "void(float32[::1], int64, float64[::1], uint32[::1])",
    "void(float64[::1], int64, float64[::1], uint32[::1])",
)
def _sum(tile: Values, columns: int, totals: Floats, negative: Marks) -> None:
    """Add up the scores of each lane, and count those below 0."""
    for c in range(columns):
        for lane in range(LANES):
            score = tile[np.uint64(c * LANES) + np.uint64(lane)]
            totals[lane] += np.float64(score)
            negative[lane] += np.uint32(score < 0)


@kernel(
    "void(float32[::1], int64, float32[::1], float32[::1], float32[::1])",
    "void(float64[::1], int64, float64[::1], float32[::1], float32[::1])",
)
def _soften(tile: Values, columns: int, top: Values, whole: Singles, weighed: Singles) -> None:
    """Add up the powers of how far each score is below the greatest, and these weighed with that."""
    for c in range(columns):
        for lane in range(LANES):
            below = max(F32(tile[np.uint64(c * LANES) + np.uint64(lane)] - top[lane]), LEAST)
            power = _exp(below)
            whole[lane] += power
            weighed[lane] += power * below


@kernel("void(float32[::1], int64, float32[::1])", "void(float64[::1], int64, float32[::1])")
def _disperse(tile: Values, columns: int, nats: Singles) -> None:
    """Add up the entropy of probabilities."""
    for c in range(columns):
        for lane in range(LANES):
            chance = F32(tile[np.uint64(c * LANES) + np.uint64(lane)])
            nats[lane] -= chance * _log(chance)


@kernel(
    "void(float32[:, ::1], int64[::1], float32[::1], float32[::1])",
    "void(float64[:, ::1], int64[::1], float32[::1], float32[::1])",
)
def scores(x: Values, classes: Integers, confidence: Singles, entropy: Singles) -> None:
    """Write what each row of scores says, as `kernels.outputs.scores` does."""
    rows, width = x.shape
    per_nat = F32(1 / np.log(width) if width > 1 else 0.0)
    tile, top = np.zeros(LANES * COLUMNS, x.dtype), np.empty(LANES, x.dtype)
    found, totals, negative = np.empty(LANES, np.int64), np.empty(LANES), np.empty(LANES, np.uint32)
    nats, whole, weighed = np.empty(LANES, F32), np.empty(LANES, F32), np.empty(LANES, F32)
    for row in range(0, rows, LANES):
        top[:], found[:], totals[:], negative[:] = -np.inf, 0, 0, 0
        nats[:], whole[:], weighed[:] = 0, 0, 0
        for column in range(0, width, COLUMNS):
            _turn(x, np.uint64(row), np.uint64(column), tile)
            columns = min(COLUMNS, width - column)
            _rise(tile, columns, column, top, found)
            _sum(tile, columns, totals, negative)
        height = min(LANES, rows - row)
        given = 0
        for lane in range(height):
            negative[lane] += not np.abs(totals[lane] - 1) <= OFF_MAX
            given += negative[lane] == 0
        for column in range(0, width, COLUMNS):
            if width > COLUMNS:
                _turn(x, np.uint64(row), np.uint64(column), tile)
            columns = min(COLUMNS, width - column)
            if given:
                _disperse(tile, columns, nats)
            if given < height:
                _soften(tile, columns, top, whole, weighed)
        for lane in range(height):
            soft = negative[lane] > 0
            if soft:
                nats[lane] = _log(whole[lane]) - weighed[lane] / whole[lane]
            finite = np.isfinite(top[lane])
            classes[row + lane] = NO_CLASS if np.isnan(top[lane]) else found[lane]
            sure = F32(1) / whole[lane] if soft else F32(top[lane])
            confidence[row + lane] = sure if finite else np.nan
            even = min(max(nats[lane] * per_nat, F32(0)), F32(1))
            entropy[row + lane] = even if finite else np.nan
