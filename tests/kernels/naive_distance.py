"""What each distance means, one feature and one bin at a time: slow, obvious, and the specification."""

from __future__ import annotations

import math

import numpy as np


def bins(values, edges):
    """Count values of one feature into bins, NaN's last."""
    counts = [0] * (len(edges) + 2)
    for value in values:
        counts[-1 if math.isnan(value) else sum(value >= edge for edge in edges)] += 1
    return counts


def cumulative(values, edges):
    """Count as the fold does: NaN, infinite, and values at or above each edge."""
    nan = sum(math.isnan(value) for value in values)
    infinite = sum(math.isinf(value) for value in values)
    return [nan, infinite, *(sum(value >= edge for value in values) for edge in edges)]


def psi(reference, live):
    n, m, k = sum(reference), sum(live), len(reference)
    total = 0.0
    for r, h in zip(reference, live, strict=True):
        p, q = (r + 0.5) / (n + 0.5 * k), (h + 0.5) / (m + 0.5 * k)
        total += (q - p) * math.log(q / p)
    return total


def psi_excess(reference, live):
    occupied = sum(r + h > 0 for r, h in zip(reference, live, strict=True))
    return max(0.0, psi(reference, live) - (occupied - 1) * (1 / sum(reference) + 1 / sum(live)))


def shares(counts):
    return [count / sum(counts) for count in counts]


def js(reference, live):
    total = 0.0
    for p, q in zip(shares(reference), shares(live), strict=True):
        middle = (p + q) / 2
        total += p * math.log(p / middle) / 2 if p else 0.0
        total += q * math.log(q / middle) / 2 if q else 0.0
    return max(total, 0.0)


def ks(reference, live):
    gap, largest = 0.0, 0.0
    for p, q in zip(shares(reference), shares(live), strict=True):
        gap += p - q
        largest = max(largest, abs(gap))
    return largest


def tv(reference, live):
    return sum(abs(p - q) for p, q in zip(shares(reference), shares(live), strict=True)) / 2


def hellinger(reference, live):
    overlap = sum(math.sqrt(p * q) for p, q in zip(shares(reference), shares(live), strict=True))
    return math.sqrt(max(0.0, 1 - overlap))


def chi2(reference, live):
    """Compare each cell of the contingency table with what its row and column have it expect."""
    n, m = sum(reference), sum(live)
    statistic, occupied = 0.0, 0
    for r, h in zip(reference, live, strict=True):
        if r + h:
            occupied += 1
            for count, row in ((r, n), (h, m)):
                expected = (r + h) * row / (n + m)
                statistic += (count - expected) ** 2 / expected
    return statistic, occupied - 1


def w1(reference, live, edges, low, high, steps=4000):
    """Integrate the difference of the two distribution functions, numerically."""
    finite = [float(edge) for edge in edges if math.isfinite(edge)]
    places = [min(low, finite[0]), *finite, max(high, finite[-1])]
    heights = [0.0]
    for p, q in zip(shares(reference), shares(live), strict=True):
        heights.append(heights[-1] + p - q)
    heights = [*heights[: len(places) - 1], 0.0]
    total = 0.0
    for i in range(len(places) - 1):
        at = (np.arange(steps) + 0.5) / steps
        line = heights[i] + (heights[i + 1] - heights[i]) * at
        total += np.abs(line).mean() * (places[i + 1] - places[i])
    return total
