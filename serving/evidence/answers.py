"""What is wrong with an answer, by its numbers? One flag, or one score, for each request of many at once."""

from __future__ import annotations

from functools import reduce
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.outputs import OFF_MAX

Values = NDArray[Any]
"""(rows, elements) of any type of floats."""
Rows = NDArray[np.int64]
"""(requests,) int64, ascending: where each request's rows begin; its rows are at least one."""
Flags = NDArray[np.bool_]

COLUMNS_MAX = 8
"""Up to so many scores a row they are compared column by column: of 256 rows of 2 that takes 1 µs, and
NumPy's own maximum of rows 14."""


def odd(values: Values, starts: Rows | None = None) -> Flags | None:
    """Say which requests have a NaN or an infinity among their values; None if none has.

    `starts` is None where each request has one row.
    """
    # Of what is finite the sum is, unless it is very large; then one looks closer.
    with np.errstate(invalid="ignore", over="ignore"):
        whole = float(np.add.reduce(values, axis=None, dtype=_wide(values)))
    if isfinite(whole):
        return None
    rows = ~np.isfinite(values).all(axis=1)
    flags: Any = rows if starts is None else np.logical_or.reduceat(rows, starts)
    return flags if flags.any() else None


def tops(values: Values, classes: int, starts: Rows | None = None) -> NDArray[Any]:
    """Return each request's top score, as a probability; of several choices the least sure one counts.

    Scores that are nowhere below 0 and add up to 1 are probabilities; of others the softmax is. A choice that
    has a NaN, or whose top score is infinite, has no top score, which is NaN and counts only if all are so.

    Parameters
    ----------
    values : (rows, elements)
    classes : int
        How many of a row's elements are the scores of one choice. A single one is that of one of two classes.
    """
    scores = values.reshape(-1, classes)
    if scores.dtype.itemsize < 4:
        scores = scores.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        best = _of_one(scores[:, 0]) if classes == 1 else _of_many(scores)
        choices = len(best) // max(len(values), 1)
        if choices > 1:
            best = np.fmin.reduce(best.reshape(len(values), choices), axis=1)
        return best if starts is None else np.fmin.reduceat(best, starts)


def _of_one(scores: NDArray[Any]) -> NDArray[Any]:
    chances = (scores >= 0) & (scores <= 1)
    if not chances.all():
        scores = np.where(chances | ~np.isfinite(scores), scores, 1 / (1 + np.exp(-scores)))
        scores = np.where(np.isfinite(scores), scores, np.nan)
    surer: NDArray[Any] = np.maximum(scores, 1 - scores)
    return surer


def _of_many(scores: NDArray[Any]) -> NDArray[Any]:
    best: NDArray[Any]
    if scores.shape[1] <= COLUMNS_MAX:
        columns = [scores[:, at] for at in range(scores.shape[1])]
        best, least, whole = reduce(np.maximum, columns), reduce(np.minimum, columns), reduce(np.add, columns)
    else:
        best, least, whole = scores.max(axis=1), scores.min(axis=1), scores.sum(axis=1)
    chances = (least >= 0) & (np.abs(whole - 1) <= OFF_MAX)
    if chances.all():
        return best
    others, best = ~chances, np.array(best)
    some = scores[others]
    best[others] = 1 / np.exp(some - some.max(axis=1, keepdims=True)).sum(axis=1)
    return best


def _wide(values: Values) -> type[np.floating[Any]]:
    return np.float64 if values.dtype.itemsize > 4 else np.float32
