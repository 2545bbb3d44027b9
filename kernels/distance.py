"""How far apart are two histograms? Distances from counts, for many features at once.

A histogram is a row of counts; features are rows, bins are columns. Every function takes the counts of
the reference first and those of the live stream second, both (F, bins) int64, and returns (F,) float64.
NaN says that either of the two is empty. docs/statistics.md holds the formulas beside those of others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

SMOOTHING = 0.5
"""Jeffreys' prior: what each bin is given beforehand, so that an empty one has a finite logarithm."""


class Distances(NamedTuple):
    """Everything that is told of two histograms; each (F,) float64."""

    psi: Floats
    psi_excess: Floats
    """What of `psi` is left when the part is taken off that chance alone explains."""
    js: Floats
    """Nats; SciPy's distance is the square root."""
    ks: Floats
    tv: Floats
    hellinger: Floats
    chi2: Floats
    dof: Floats
    p: Floats
    """Of `chi2`; for one look only, which is why alarms are not made of it."""


def bins(counts: NDArray[np.integer], n: int | Integers) -> Integers:
    """Turn counts of values at or above each edge into counts of bins.

    Parameters
    ----------
    counts : (2 + K, F) of any integers
        Rows: NaN, infinite, and one for each edge, ascending: how many values were at or above it.
    n : int or (F,) int64
        Values seen, NaN among them.

    Returns
    -------
    (F, K + 2) int64
        Below the first edge, K - 1 between edges, at or above the last, and NaN.
    """
    whole = counts.astype(np.int64)
    nan, above = whole[0], whole[2:]
    below = np.broadcast_to(np.asarray(n, np.int64), nan.shape) - nan
    steps = np.vstack([below, above])
    steps[:-1] -= above
    return np.ascontiguousarray(np.vstack([steps, nan]).T)


def between(reference: Integers, live: Integers, *, ordered: bool = True) -> Distances:
    """Compute all distances but `w1`.

    Where the bins are `ordered`, the last of them is NaN's, which `ks` leaves out; categories have no
    order, and no `ks`.
    """
    statistic, dof = chi2(reference, live)
    return Distances(
        psi(reference, live),
        psi_excess(reference, live),
        js(reference, live),
        ks(reference[:, :-1], live[:, :-1]) if ordered else np.full(len(live), np.nan),
        tv(reference, live),
        hellinger(reference, live),
        statistic,
        dof,
        chi2_p(statistic, dof),
    )


def psi(reference: Integers, live: Integers) -> Floats:
    """Return the population stability index: Jeffreys' divergence in nats, after `SMOOTHING`."""
    p, q = _shares(reference + SMOOTHING), _shares(live + SMOOTHING)
    index: Floats = ((q - p) * np.log(q / p)).sum(axis=1)
    index[~_both(reference, live)] = np.nan
    return index


def psi_excess(reference: Integers, live: Integers) -> Floats:
    """Return `psi` less what two samples of the same distribution differ by on average; never below 0.

    That is ``(occupied - 1) * (1 / n + 1 / m)``, from the chi-squared distribution that n m / (n + m)
    times the index follows when the counts are large.
    """
    occupied = ((reference > 0) | (live > 0)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = (occupied - 1) * (1 / reference.sum(axis=1) + 1 / live.sum(axis=1))
        excess: Floats = np.maximum(psi(reference, live) - chance, 0)
    return excess


def js(reference: Integers, live: Integers) -> Floats:
    """Return Jensen and Shannon's divergence in nats, between 0 and ln 2."""
    p, q = _shares(reference), _shares(live)
    middle = (p + q) / 2
    return np.maximum((_kl(p, middle) + _kl(q, middle)) / 2, 0)


def ks(reference: Integers, live: Integers) -> Floats:
    """Return the largest difference of the distribution functions at the edges.

    It is at most Kolmogorov and Smirnov's statistic of the values, and short of it by at most the
    share of the fullest bin.
    """
    largest: Floats = np.abs(np.cumsum(_shares(reference) - _shares(live), axis=1)).max(axis=1)
    return largest


def tv(reference: Integers, live: Integers) -> Floats:
    """Return the total variation distance: the share of rows that would have to move to another bin."""
    moved: Floats = np.abs(_shares(reference) - _shares(live)).sum(axis=1) / 2
    return moved


def hellinger(reference: Integers, live: Integers) -> Floats:
    """Return Hellinger's distance, between 0 and 1."""
    overlap: Floats = np.sqrt(_shares(reference) * _shares(live)).sum(axis=1)
    return np.sqrt(np.maximum(1 - overlap, 0))


def chi2(reference: Integers, live: Integers) -> tuple[Floats, Floats]:
    """Return Pearson's statistic of the two rows as a contingency table, and its degrees of freedom.

    Bins that are empty on both sides do not count.
    """
    both = reference + live
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.sqrt(live.sum(axis=1, keepdims=True) / reference.sum(axis=1, keepdims=True))
        terms = (odds * reference - live / odds) ** 2 / both
    statistic = np.where(both > 0, terms, 0).sum(axis=1)
    dof = (both > 0).sum(axis=1) - 1.0
    present = _both(reference, live)
    return np.where(present, statistic, np.nan), np.where(present, dof, np.nan)


def chi2_p(statistic: Floats, dof: Floats) -> Floats:
    """Return the probability that a chi-squared variable with so many degrees exceeds `statistic`."""
    return np.array([_chi2_tail(x, d) for x, d in zip(statistic.tolist(), dof.tolist(), strict=True)])


def w1(reference: Integers, live: Integers, edges: Floats, low: Floats, high: Floats) -> Floats:
    """Return Wasserstein's distance of order 1, in units of the feature.

    Values are taken to lie evenly within their bin, so distribution functions are lines between edges.

    Parameters
    ----------
    reference, live : (F, K + 1) int64
        Without the bin of NaN.
    edges : (K, F)
        Ascending; infinite where a feature has fewer.
    low, high : (F,) float64
        The smallest and the largest finite value of both sides, where the outer bins end.
    """
    gap = np.cumsum(_shares(reference) - _shares(live), axis=1)[:, :-1]
    finite = np.where(np.isfinite(edges), edges, -np.inf).max(axis=0)
    top = np.where(high > finite, high, finite)
    ends = np.minimum(edges.astype(np.float64), top)
    bottom = np.where(low < ends[0], low, ends[0])
    widths = np.diff(np.vstack([bottom, ends, top]), axis=0).T
    closed = np.zeros((len(gap), 1))
    a, b = np.abs(np.hstack([closed, gap])), np.abs(np.hstack([gap, closed]))
    crossing = np.hstack([closed, gap]) * np.hstack([gap, closed]) < 0
    with np.errstate(invalid="ignore"):
        heights = np.where(crossing, (a * a + b * b) / (2 * (a + b)), (a + b) / 2)
    area: Floats = (widths * heights).sum(axis=1)
    return area


def _shares(weights: NDArray[np.number]) -> Floats:
    """Divide each row by its sum; a row of zeros becomes NaN."""
    with np.errstate(invalid="ignore"):
        shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _kl(p: Floats, q: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = p * np.log(p / q)
    total: Floats = np.where(p == 0, 0, terms).sum(axis=1)
    return total


def _both(reference: Integers, live: Integers) -> NDArray[np.bool_]:
    present: NDArray[np.bool_] = (reference.sum(axis=1) > 0) & (live.sum(axis=1) > 0)
    return present


def _chi2_tail(x: float, dof: float) -> float:
    """Sum the closed form for whole degrees of freedom (Abramowitz & Stegun 26.4.4 and 26.4.5)."""
    if math.isnan(x) or dof < 1:
        return math.nan
    half, odd = x / 2, dof % 2
    if half <= 0:  # Half of the smallest float is 0.
        return 1.0
    tail = math.erfc(math.sqrt(half)) if odd else 0.0
    for k in range(int(dof) // 2):
        power = k + 0.5 * odd
        tail += math.exp(power * math.log(half) - half - math.lgamma(power + 1))
    return min(tail, 1.0)
