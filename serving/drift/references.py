"""How do edges, alphabets, counts and moments follow from a matrix of features?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.drift.profile import NO_CODE, Alphabet, Codes, Edges, Numbers

BINS = 15
"""Between the two ends; with them there are 16 edges, as many as fit a vector register of float32."""
HUGE = 1e150
"""Squares of greater values overflow float64: such are scaled first."""
STD_MIN = {"float32": 1e-30, "float64": 1e-290}
"""What varies less is a constant: the inverse must be finite in the kernel's own precision."""


def edges_of(matrix: NDArray[np.floating[Any]], features: Sequence[str]) -> Edges:
    """Return the reference of numbers.

    Parameters
    ----------
    matrix : float32 or float64 [n, F]
        The dtype is that in which live values are compared, so the reference is binned in it, too.
    """
    columns = [_column(np.sort(column) + matrix.dtype.type(0)) for column in matrix.T]  # No -0.0.
    return Edges(
        tuple(features),
        "float32" if matrix.dtype == np.float32 else "float64",
        len(matrix),
        np.stack([each.edges for each in columns], axis=1),
        np.stack([each.counts for each in columns], axis=1),
        np.array([each.mean for each in columns]),
        np.array([each.std for each in columns]),
        np.array([each.low for each in columns]),
        np.array([each.high for each in columns]),
    )


def alphabet_of(
    codes: Codes,
    features: Sequence[str],
    labels: Mapping[int, str],
    categories_max: int,
) -> Alphabet:
    """Return the reference of categories: the most frequent `categories_max`, and how many are others.

    Parameters
    ----------
    codes : int64[n, F]
    labels : mapping of int to str
        What is shown of a code, where it is not the code itself.
    """
    kept = [_frequent(column, categories_max) for column in codes.T]
    size, rows = len(kept), max(1, *(len(each) for each, _ in kept))
    alphabet, counts = np.full((rows, size), NO_CODE), np.zeros((rows + 1, size), np.int64)
    for feature, (known, often) in enumerate(kept):
        alphabet[: len(known), feature] = known
        counts[: len(known), feature] = often
    counts[-1] = len(codes) - counts.sum(axis=0)
    return Alphabet(
        tuple(features),
        len(codes),
        alphabet,
        np.array([len(known) for known, _ in kept], np.int64),
        counts,
        tuple(tuple(labels.get(code, str(code)) for code in known.tolist()) for known, _ in kept),
    )


def _frequent(column: Codes, most: int) -> tuple[Codes, NDArray[np.int64]]:
    codes, often = np.unique(column[column != NO_CODE], return_counts=True)
    first = np.sort(np.argsort(-often, kind="stable")[:most])
    return codes[first], often[first].astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Column:
    edges: Numbers
    counts: NDArray[np.int64]
    mean: float
    std: float
    low: float
    high: float


def _column(values: NDArray[np.floating[Any]]) -> _Column:
    """Return the reference of one feature from its sorted values: -Inf first, NaN last."""
    numbers = values[: len(values) - int(np.isnan(values).sum())]
    finite = numbers[np.isfinite(numbers)]
    edges = _edges(finite)
    below = np.searchsorted(numbers, edges, "left")
    counts = np.array([len(values) - len(numbers), len(numbers) - len(finite), *(len(numbers) - below)])
    wide = finite.astype(np.float64) if len(finite) else np.zeros(1)
    mean, std = _moments(wide, STD_MIN[values.dtype.name])
    return _Column(edges.astype(np.float64), counts, mean, std, float(wide[0]), float(wide[-1]))


def _edges(finite: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return BINS + 1 edges of sorted `finite`, padded with +inf, each but the last a value that occurs."""
    edges = np.full(BINS + 1, np.inf, finite.dtype)
    finite = finite if len(finite) else np.zeros(1, finite.dtype)
    begins = np.flatnonzero(np.append(True, finite[1:] != finite[:-1]))
    values, often = finite[begins], np.diff(np.append(begins, len(finite)))
    inner = values if len(values) <= BINS else values[_first_of_bins(often)]
    edges[: len(inner)] = inner
    edges[len(inner)] = _above(values[-1])
    return edges


def _first_of_bins(often: NDArray[np.int64]) -> list[int]:
    """Return at which of the distinct values each bin begins, such that they hold about as many rows.

    What is left is divided again after each bin, so a value that most rows have takes one bin and not
    most of them; and it takes a bin of its own, because values beside it would drown in it.
    """
    upto = np.cumsum(often)
    begins, done = [0], 0
    while len(begins) < BINS:
        share = (upto[-1] - done) / (BINS + 1 - len(begins))
        last = int(np.searchsorted(upto, done + share, "left"))
        if last > begins[-1] and often[last] > share:
            last -= 1
        if last + 1 >= len(often):
            break
        begins.append(last + 1)
        done = int(upto[last])
    return begins


def _above(value: np.floating[Any]) -> Any:
    """Return the next number; above zero the first normal one, which no processor setting takes for zero."""
    form = np.finfo(value.dtype)
    with np.errstate(over="ignore"):  # Of the greatest number that is infinity, which will do.
        above = np.nextafter(value, value.dtype.type(np.inf))
    return form.tiny if -form.tiny < value < form.tiny else above


def _moments(wide: Numbers, std_min: float) -> tuple[float, float]:
    if wide[0] == wide[-1]:
        return float(wide[0]), 1.0
    most = max(-float(wide[0]), float(wide[-1]))
    scale = most if most > HUGE else 1.0
    mean, std = float((wide / scale).mean()) * scale, float((wide / scale).std()) * scale
    return mean, std if std > std_min else 1.0
