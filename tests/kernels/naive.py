"""What each kernel means, in the plainest NumPy: slow, obvious, and the specification."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from kernels.histogram import EDGES_NS
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
)


def count_ns(durations_ns, counts):
    for duration in durations_ns:
        bin_ = np.searchsorted(EDGES_NS, float(duration), side="right") - 1
        counts[max(0, bin_)] += 1


def scores(primary, shadow, counts, sums, flips):
    others = len(flips) - 1
    for one, other in zip(primary.astype(np.float64), shadow.astype(np.float64), strict=True):
        counts[ROWS] += 1
        both = np.isfinite(one) & np.isfinite(other)
        counts[ODD_PRIMARY] += (~np.isfinite(one)).sum()
        counts[ODD_SHADOW] += (~np.isfinite(other)).sum()
        with np.errstate(over="ignore"):
            differences = np.minimum(np.abs(one[both] - other[both]), LARGEST_FLOAT)
            counts[FINITE] += len(differences)
            sums[LARGEST] = max([sums[LARGEST], *differences])
            sums[TOTAL] = min(sums[TOTAL] + differences.sum(), LARGEST_FLOAT)
        if len(one) >= 2:
            counts[CLASSED] += 1
            counts[AGREED] += top(one) == top(other)
            flips[place(top(one), others), place(top(other), others)] += 1
        ordered = not np.isnan([one, other]).any() and len(set(one)) > 1 and len(set(other)) > 1
        if len(one) <= RANKS_MAX and ordered:
            counts[RANKED] += 1
            sums[CORRELATION] += np.corrcoef(ranks(one), ranks(other))[0, 1]


def top(row):
    known = [at for at, score in enumerate(row) if not np.isnan(score)]
    return max(known, key=lambda at: (row[at], -at), default=-1)


def place(class_, others):
    return class_ if 0 <= class_ < others else others


def ranks(row):
    return [(row < each).sum() + ((row == each).sum() - 1) / 2 for each in row]


def labels(primary, shadow, counts, flips):
    for one, other in zip(primary.tolist(), shadow.tolist(), strict=True):
        counts[ROWS] += 1
        counts[CLASSED] += 1
        counts[AGREED] += one == other
        flips[place(one, len(flips) - 1), place(other, len(flips) - 1)] += 1


def neighbours(primary, shadow, counts):
    for one, other in zip(pairwise(primary), pairwise(shadow), strict=True):
        signs = {rises(*one), rises(*other)}
        counts[CONCORDANT] += len(signs) == 1 and signs != {0}
        counts[DISCORDANT] += signs == {-1, 1}


def rises(before, after):
    return int(after > before) - int(after < before)
