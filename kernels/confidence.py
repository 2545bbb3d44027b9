"""Between which values does a rate, a ratio of rates or a quantile lie? Intervals that hold at all times.

A confidence sequence covers the truth at every moment at once with the probability 1 - alpha, so it may be
read whenever one likes. Each is what a bet against single values has not ruled out. Rates and quantiles take
requests to be alike and independent; the ratio of two arms takes no more than `kernels.evalue` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kernels.evalue import Events, bar

NEAR_RATIOS = (1.01, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""What is bet on around each ratio; the near ones narrow the interval where events are many."""
RATIO_MIN, RATIO_MAX = 1e-4, 1e4
_LOG_BETA_HALF = math.log(math.pi)
_PRECISION = 1e-10
"""Of the ends of an interval of rates, in units of themselves."""
_GRID, _LOOKS = 32, 4
"""Ratios that are looked at at once, and how often: to 2e-5 of themselves."""

Floats = NDArray[np.float64]


def log_e_rate(events: int, trials: int, rate: float) -> float:
    """Return the evidence against `rate`: ``ln B(k+1/2, n-k+1/2) / B(1/2, 1/2) / p^k (1-p)^(n-k)``.

    The likelihood, mixed over rates with Jeffreys' prior, to that of `rate` (Robbins 1970).

    Parameters
    ----------
    events, trials : int
        0 <= events <= trials.
    rate : float
        Of events, between 0 and 1.
    """
    if not 0 <= events <= trials:
        raise ValueError(f"events are some of the trials, got {events} of {trials}")
    misses = trials - events
    mixed = math.lgamma(events + 0.5) + math.lgamma(misses + 0.5) - math.lgamma(trials + 1)
    return mixed - _LOG_BETA_HALF - _times_log(events, rate) - _times_log(misses, 1 - rate)


def _times_log(count: int, share: float) -> float:
    if not count:
        return 0.0
    return count * math.log(share) if share > 0 else -math.inf


def rate_interval(events: int, trials: int, *, alpha: float) -> tuple[float, float]:
    """Return the rates of which there is no evidence of ``1 / alpha`` against, as their least and greatest.

    Without trials that is everything. Where `trials` were fixed beforehand and looked at once, other
    intervals are narrower; this one holds whenever it is read.
    """
    most = bar(alpha)
    if not trials:
        return 0.0, 1.0
    return _least(events, trials, most), 1 - _least(trials - events, trials, most)


def _least(events: int, trials: int, most: float) -> float:
    """Return the least rate against which there is evidence of less than `most`, to `_PRECISION` of itself.

    The greatest is found as the least rate of misses: so both ends are as exact near 1 as near 0.
    """
    out, kept = 0.0, events / trials
    while kept - out > _PRECISION * kept:
        middle = (out + kept) / 2
        if log_e_rate(events, trials, middle) >= most:
            out = middle
        else:
            kept = middle
    return kept


def ratio_interval(epochs: Sequence[Events], *, alpha: float) -> tuple[float, float]:
    """Return how many times as frequent a canary's events are, as the least and greatest that is credible.

    Each side is wrong at any time with the probability alpha/2 at most, by the evidence that the canary is
    worse than that, and that the baseline is. Beyond `RATIO_MIN` and `RATIO_MAX` it is 0 and infinite.
    """
    most = bar(alpha / 2)
    mirrored = [Events(each.baseline, each.canary, 1 - each.weight) for each in epochs]
    low, high = _ruled_out(epochs, most), _ruled_out(mirrored, most)
    return low, 1 / high if high else math.inf


def _ruled_out(epochs: Sequence[Events], most: float) -> float:
    """Return the ratio up to which there is evidence that the canary is worse; 0 if there is none."""
    low, high = math.log(RATIO_MIN), math.log(RATIO_MAX)
    for _ in range(_LOOKS):
        ratios = np.linspace(low, high, _GRID)
        out = int(np.searchsorted(-_log_e_each(epochs, np.exp(ratios)), -most, side="right"))
        if not out:
            return 0.0
        low, high = ratios[out - 1], ratios[min(out, _GRID - 1)]
    return math.exp(low)


def _log_e_each(epochs: Sequence[Events], tolerances: Floats) -> Floats:
    """Return `kernels.evalue.log_e` for each of many tolerances, (tolerances,); it falls with them."""
    weights = np.array([each.weight for each in epochs])[:, None, None]
    canary = np.array([each.canary for each in epochs], np.float64)
    events = canary + np.array([each.baseline for each in epochs], np.float64)
    nulls, bets = tolerances[:, None] * weights, np.array(NEAR_RATIOS)
    down = np.log(nulls + 1 - weights) - np.log(nulls * bets + 1 - weights)
    stakes = np.einsum("e,eij->ij", events, down) + canary.sum() * np.log(bets)
    mean: Floats = np.logaddexp.reduce(stakes, axis=1) - math.log(len(bets))
    return mean


def quantile_interval(
    edges: Floats, counts: NDArray[np.integer], q: float, *, alpha: float
) -> tuple[float, float]:
    """Return between which edges of a histogram the `q` quantile lies; infinite where none is that certain.

    Howard & Ramdas, "Sequential estimation of quantiles" (2022), with the bet of `log_e_rate`. The answer
    holds for the values themselves, however coarse the bins are.

    Parameters
    ----------
    edges : (bins - 1,) float64
        Ascending. A value that equals an edge is counted in the bin above it.
    counts : (bins,) of any integers
        The first is of what is below all edges, the last of what is not below any.
    q : float
        Between 0 and 1.
    """
    below = np.cumsum(counts, dtype=np.int64)
    trials = int(below[-1])
    few, many = _sure(trials, q, bar(alpha))
    at = int(np.searchsorted(below[:-1], few, side="right"))
    low = float(edges[at - 1]) if at else -math.inf
    at = int(np.searchsorted(below[:-1], many, side="left"))
    high = float(edges[at]) if at < len(edges) else math.inf
    return low, high


def _sure(trials: int, q: float, most: float) -> tuple[int, int]:
    """Return at most how many of `trials` are certainly too few for a share of `q`, and at least too many."""
    middle = q * trials
    few = _last(lambda count: log_e_rate(count, trials, q) >= most, -1, math.floor(middle))
    rest = _last(lambda count: log_e_rate(trials - count, trials, q) >= most, -1, math.floor(trials - middle))
    return few, trials - rest


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the greatest count up to `high` for which `holds`, as it then does for lesser ones; or `low`."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
