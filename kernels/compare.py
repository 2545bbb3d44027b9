"""How far do two models' outputs for the same rows agree? Compiled; `kernels.tally` says what is counted.

Importing this imports numba, so only a process made for comparing does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.jit import kernel
from kernels.tally import (
    AGREED,
    CLASSED,
    CONCORDANT,
    CORRELATION,
    DISCORDANT,
    FINITE,
    LARGEST,
    LARGEST_FLOAT,
    ODD_PRIMARY,
    ODD_SHADOW,
    RANKED,
    RANKS_MAX,
    ROWS,
    TOTAL,
    Floats,
    Integers,
)


@kernel("int64(int64, int64)")
def _place(class_: int, others: int) -> int:
    """Return where a class stands in a flip matrix: at its own place, or at the last."""
    return class_ if 0 <= class_ < others else others


@kernel("void(float32[::1], int64[::1], float64[::1])", "void(float64[::1], int64[::1], float64[::1])")
def _rank(scores: NDArray[Any], order: Integers, ranks: Floats) -> None:
    """Write the rank of each score, from 0, into `ranks`; equal ones share the average of theirs."""
    k = scores.shape[0]
    for j in range(k):
        at = j
        while at > 0 and scores[order[at - 1]] > scores[j]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = j
    start = 0
    while start < k:
        stop = start + 1
        while stop < k and scores[order[stop]] == scores[order[start]]:
            stop += 1
        for at in range(start, stop):
            ranks[order[at]] = (start + stop - 1) / 2
        start = stop


@kernel("float64(float64[::1], float64[::1])")
def _correlation(left: Floats, right: Floats) -> float:
    """Return the correlation of two rows of ranks; NaN if either is constant."""
    mean = (left.shape[0] - 1) / 2
    both, lefts, rights = 0.0, 0.0, 0.0
    for j in range(left.shape[0]):
        both += (left[j] - mean) * (right[j] - mean)
        lefts += (left[j] - mean) ** 2
        rights += (right[j] - mean) ** 2
    if lefts == 0.0 or rights == 0.0:
        return np.nan
    return both / math.sqrt(lefts * rights)


@kernel("int64(float32[::1])", "int64(float64[::1])")
def _top(scores: NDArray[Any]) -> int:
    """Return the first of the greatest scores, -1 if all are NaN."""
    top = -1
    for j in range(scores.shape[0]):
        if scores[j] == scores[j] and (top < 0 or scores[j] > scores[top]):  # NaN is not itself.
            top = j
    return top


@kernel(
    "boolean(float32[::1], float32[::1], int64[::1], float64[::1])",
    "boolean(float64[::1], float64[::1], int64[::1], float64[::1])",
)
def _differ(primary: NDArray[Any], shadow: NDArray[Any], counts: Integers, sums: Floats) -> bool:
    """Count the differences of two rows where both are finite, and say whether there is any NaN."""
    nan = False
    for j in range(primary.shape[0]):
        one, other = np.float64(primary[j]), np.float64(shadow[j])
        nan = nan or np.isnan(one) or np.isnan(other)
        counts[ODD_PRIMARY] += not np.isfinite(one)
        counts[ODD_SHADOW] += not np.isfinite(other)
        if np.isfinite(one) and np.isfinite(other):
            difference = min(abs(one - other), LARGEST_FLOAT)
            counts[FINITE] += 1
            sums[LARGEST] = max(sums[LARGEST], difference)
            sums[TOTAL] = min(sums[TOTAL] + difference, LARGEST_FLOAT)
    return nan


@kernel(
    "void(float32[:, ::1], float32[:, ::1], int64[::1], float64[::1], int64[:, ::1])",
    "void(float64[:, ::1], float64[:, ::1], int64[::1], float64[::1], int64[:, ::1])",
)
def scores(
    primary: NDArray[Any], shadow: NDArray[Any], counts: Integers, sums: Floats, flips: Integers
) -> None:
    """Compare rows of scores.

    A row's class is the first of its greatest scores; rows of one score have none, and those of NaN
    alone one beyond all others. Spearman's correlation, with average ranks for ties, is that of rows of 2
    to `RANKS_MAX` scores that hold no NaN and are constant on neither side.

    Parameters
    ----------
    primary, shadow : (rows, k) float32 or float64, k >= 1
    counts : (COUNTS,) int64
    sums : (SUMS,) float64
    flips : (side, side) int64
        Rows by the primary's class and the shadow's.
    """
    rows, k = primary.shape
    others = flips.shape[0] - 1
    ranked = 2 <= k <= RANKS_MAX
    order = np.empty(k if ranked else 0, np.int64)
    left = np.empty(k if ranked else 0, np.float64)
    right = np.empty(k if ranked else 0, np.float64)
    counts[ROWS] += rows
    for i in range(rows):
        nan = _differ(primary[i], shadow[i], counts, sums)
        if k >= 2:
            one, other = _top(primary[i]), _top(shadow[i])
            counts[CLASSED] += 1
            counts[AGREED] += one == other
            flips[_place(one, others), _place(other, others)] += 1
        if ranked and not nan:
            _rank(primary[i], order, left)
            _rank(shadow[i], order, right)
            rho = _correlation(left, right)
            if not np.isnan(rho):
                counts[RANKED] += 1
                sums[CORRELATION] += rho


@kernel("void(int64[::1], int64[::1], int64[::1], int64[:, ::1])")
def labels(primary: Integers, shadow: Integers, counts: Integers, flips: Integers) -> None:
    """Compare labels, each a class of its own.

    Parameters
    ----------
    primary, shadow : (n,) int64
    counts : (COUNTS,) int64
    flips : (side, side) int64
        Labels by the primary's and the shadow's; those below 0 are among the others.
    """
    others = flips.shape[0] - 1
    counts[ROWS] += primary.shape[0]
    counts[CLASSED] += primary.shape[0]
    for i in range(primary.shape[0]):
        counts[AGREED] += primary[i] == shadow[i]
        flips[_place(primary[i], others), _place(shadow[i], others)] += 1


@kernel("void(float32[::1], float32[::1], int64[::1])", "void(float64[::1], float64[::1], int64[::1])")
def neighbours(primary: NDArray[Any], shadow: NDArray[Any], counts: Integers) -> None:
    """Count whether both sides order a row and the next one alike, where a row is one score.

    Neighbours that are equal or NaN on either side are left out, as in Goodman and Kruskal's gamma.

    Parameters
    ----------
    primary, shadow : (rows,) float32 or float64
    counts : (COUNTS,) int64
    """
    for i in range(1, primary.shape[0]):
        one_rises, one_falls = primary[i] > primary[i - 1], primary[i] < primary[i - 1]
        other_rises, other_falls = shadow[i] > shadow[i - 1], shadow[i] < shadow[i - 1]
        counts[CONCORDANT] += (one_rises and other_rises) or (one_falls and other_falls)
        counts[DISCORDANT] += (one_rises and other_falls) or (one_falls and other_rises)
