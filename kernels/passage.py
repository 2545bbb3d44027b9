"""After how many requests does evidence reach its bar? The exact distribution, for a canary of known badness.

Evidence changes at bad events only, and by their two counts, so its way is a walk on a grid: for each
number of events there is a least number on the side that speaks for the bet at which the bar is reached,
and one pass over the grid gives the probability of being there first. Between two events there is a
geometric number of requests. Nothing is simulated and nothing approximated but what is below 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.evalue import (
    EVEN,
    PAIRED_SHARES,
    RATIOS,
    Events,
    bar,
    log_e_paired_within,
    log_e_within,
    log_stakes,
    odds,
)

EVENTS_MAX = 20_000
"""Events that are looked ahead; what needs more is said not to be found. 0.2 s."""
REQUESTS_MAX = 10**12
_DONE = 0.9999
"""Of all ways, the part that has to have arrived for the rest to be left alone."""
_NEGLIGIBLE = 1e-12

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Passage:
    """When evidence reaches its bar."""

    arrived: Floats
    """(events,): the probability that so many events are enough, from 0 on."""
    rate: float
    """Of events, for each request of either arm and any other."""
    growth: float
    """Of the best single bet's logarithm for each event; at 0 or below the bar is reached by luck alone."""

    def within(self, requests: int) -> float:
        """Return the probability that so many requests are enough."""
        if not self.rate or requests * self.rate > 2 * len(self.arrived) + 1_000:
            return float(self.arrived[-1])
        events = _binomial(requests, self.rate)
        counts = events.start + np.arange(len(events.chances))
        return float(events.chances @ self.arrived[np.minimum(counts, len(self.arrived) - 1)])

    def requests(self, share: float) -> int | None:
        """Return how many requests are enough in a `share` of rollouts; None if no number in sight is."""
        if self.growth <= 0 or self.rate <= 0 or self.arrived[-1] < share:
            return None
        low, high = 0, 1
        while self.within(high) < share:
            low, high = high, high * 2
            if high > REQUESTS_MAX:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.within(middle) >= share else (middle, high)
        return high


@dataclass(frozen=True, slots=True)
class _Counts:
    """How probable the counts from `start` on are; others are not."""

    start: int
    chances: Floats


def _binomial(trials: int, rate: float) -> _Counts:
    """Return how many of `trials` are events."""
    if rate >= 1:
        return _Counts(trials, np.ones(1))
    middle, around = trials * rate, 8 * math.sqrt(trials * rate * (1 - rate)) + 8
    start, end = max(0, math.floor(middle - around)), min(trials, math.ceil(middle + around))
    counts = np.arange(start, end, dtype=np.float64)
    steps = np.log((trials - counts) / (counts + 1) * (rate / (1 - rate)))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    chances = np.exp(logs - logs.max())
    return _Counts(start, chances / chances.sum())


def finding(
    base: float, bad: float, weight: float, *, rest: float | None = None, alpha: float, tolerance: float = 1.0
) -> Passage:
    """Return when a canary is found worse, whose requests go wrong with the probability `bad`.

    Parameters
    ----------
    base : float
        The same of the baseline's.
    weight : float
        The canary's part of all requests.
    rest : float, optional
        The baseline's part of all requests: all that the canary does not get if not given, and `weight`
        where there is a baseline arm.
    alpha : float
        The rate of false alarms; over m metrics, of which one is bad, alpha / m.
    tolerance : float
        Of `kernels.evalue.log_e`.
    """
    rest = 1 - weight if rest is None else rest
    one = weight / (weight + rest)
    up = log_stakes((Events(1, 0, one),), tolerance=tolerance)
    down = log_stakes((Events(0, 1, one),), tolerance=tolerance)
    return _passage(up, down, weight * bad, rest * base, alpha)


def clearing(base: float, weight: float, *, rest: float | None = None, ratio: float, alpha: float) -> Passage:
    """Return when a canary that is as good as the baseline is known to be less than `ratio` times as bad."""
    rest = 1 - weight if rest is None else rest
    one = weight / (weight + rest)
    up = log_e_within((Events(0, 1, one),), ratio=ratio)
    down = log_e_within((Events(1, 0, one),), ratio=ratio)
    return _passage([up], [down], rest * base, weight * base, alpha)


def finding_paired(worse: float, better: float, *, alpha: float, tolerance: float = EVEN) -> Passage:
    """Return after how many pairs a shadow is found worse.

    Parameters
    ----------
    worse, better : float
        In what part of all pairs only the shadow's answer is bad, and only the other.
    alpha, tolerance : float
        Of `kernels.evalue.log_e_paired`.
    """
    ratios = [odds(share) for share in PAIRED_SHARES]
    up = log_stakes((Events(1, 0, EVEN),), tolerance=odds(tolerance), ratios=ratios)
    down = log_stakes((Events(0, 1, EVEN),), tolerance=odds(tolerance), ratios=ratios)
    return _passage(up, down, worse, better, alpha)


def clearing_paired(differing: float, *, share: float, alpha: float) -> Passage:
    """Return after how many pairs a shadow that is as good is known to be the bad one in less than `share`.

    `differing` is in what part of all pairs exactly one answer is bad.
    """
    up, down = log_e_paired_within(0, 1, share=share), log_e_paired_within(1, 0, share=share)
    return _passage([up], [down], differing / 2, differing / 2, alpha)


def least_ratio(weight: float, *, tolerance: float = 1.0, ratios: Sequence[float] = RATIOS) -> float:
    """Return how many times as bad a canary has to be for evidence to grow at all.

    Nearer to 1 than the nearest bet, a bet on more loses as much at the baseline's events as it gains.
    """
    ups = log_stakes((Events(1, 0, weight),), tolerance=tolerance, ratios=ratios)
    downs = log_stakes((Events(0, 1, weight),), tolerance=tolerance, ratios=ratios)
    return min(-down / up for up, down in zip(ups, downs, strict=True)) * (1 - weight) / weight


def _passage(
    ups: Sequence[float], downs: Sequence[float], for_it: float, against: float, alpha: float
) -> Passage:
    """Walk.

    Parameters
    ----------
    ups, downs : (bets,)
        What the bets gain at an event that speaks for them, and at another.
    for_it, against : float
        How probable either is for each request.
    """
    rate = for_it + against
    if rate <= 0:
        return Passage(np.zeros(1), 0.0, -math.inf)
    up, down, share = np.array(ups), np.array(downs), for_it / rate
    growth = float((share * up + (1 - share) * down).max())
    if growth <= 0:
        return Passage(np.zeros(1), rate, growth)
    return Passage(_arrivals(_needed(up, down, bar(alpha)), share), rate, growth)


def _needed(up: Floats, down: Floats, log_e: float) -> NDArray[np.int64]:
    """Return how many of 0, 1, 2, ... `EVENTS_MAX` events have to speak for the bets; n + 1 is never."""
    events = np.arange(EVENTS_MAX + 1)
    low, high = np.full(len(events), -1), events + 1
    while (high - low).max() > 1:
        middle = (low + high) // 2
        gains = middle[:, None] * up + (events - middle)[:, None] * down
        enough = np.logaddexp.reduce(gains, axis=1) - math.log(len(up)) >= log_e
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def _arrivals(needed: NDArray[np.int64], share: float) -> Floats:
    """Return the probability of having been at `needed` after so many events, of which a `share` counts."""
    arrived = [0.0]
    # How probable it is to have start, start + 1, ... of the events, and not to have arrived.
    start, chances = 0, np.ones(1)
    for bound in needed[1:].tolist():
        stepped = np.zeros(len(chances) + 1)
        stepped[:-1] = chances * (1 - share)
        stepped[1:] += chances * share
        kept = max(0, min(len(stepped), bound - start))
        arrived.append(arrived[-1] + float(stepped[kept:].sum()))
        if arrived[-1] >= _DONE:
            break
        chances = stepped[:kept]
        low = int(np.argmax(chances > _NEGLIGIBLE))
        start, chances = start + low, chances[low:]
    return np.array(arrived)
