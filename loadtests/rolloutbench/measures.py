"""When do rollouts alarm whose evidence is a measure, such as a latency or a score, of each request?"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from kernels.betting import Bet, Losses, log_stakes_of_losses, wager
from loadtests.rolloutbench.walks import Booleans, Floats, chunks, first, log_e, log_mean

MEDIAN_MS, P99_MS = 5.0, 10.0
SIGMA = math.log(P99_MS / MEDIAN_MS) / NormalDist().inv_cdf(0.99)
FROZEN_MS = tuple(MEDIAN_MS * math.exp(SIGMA * NormalDist().inv_cdf(q)) for q in (0.5, 0.9, 0.99))
"""What latencies are compared with: the stable version's p50, p90 and p99."""
CONCENTRATION = 5.0
"""Of the beta distribution that scores have, whatever their mean."""


def latencies(
    rng: np.random.Generator, *, factor: float, part: float, weight: float = 0.1, runs: int, horizon: int
) -> Floats:
    """Return the alarms where a `part` of the canary's requests takes `factor` times as long.

    Lognormal, median 5 ms and p99 10 ms; the evidence is the mean of that over p50, over p90 and over p99.
    """
    found = []
    for some in chunks(runs, horizon):
        canary = rng.random((some, horizon)) < weight
        took_ms = MEDIAN_MS * np.exp(SIGMA * rng.standard_normal((some, horizon)))
        slow = canary & (rng.random((some, horizon)) < part)
        took_ms[slow] *= factor
        logs = []
        for frozen_ms in FROZEN_MS:
            late = took_ms > frozen_ms
            ours, both = np.cumsum(late & canary, axis=1), np.cumsum(late, axis=1)
            logs.append(log_mean(log_e(ours, both, weight)))
        found.append(first(log_mean(logs), np.arange(1, horizon + 1)))
    return np.concatenate(found)


def _scored(
    rng: np.random.Generator, base: float, bad: float, weight: float, shape: tuple[int, int]
) -> tuple[Booleans, Floats]:
    """Draw arms, and losses, which are 1 less a score of the mean `base` or the canary's, `bad`."""
    canary = rng.random(shape) < weight
    means = np.where(canary, bad, base)
    return canary, 1 - rng.beta(means * CONCENTRATION, (1 - means) * CONCENTRATION)


def scores(
    rng: np.random.Generator, base: float, bad: float, *, weight: float, runs: int, horizon: int
) -> Floats:
    """Return the alarms of the bet that learns, `kernels.betting.wager`."""
    canary, losses = _scored(rng, base, bad, weight, (runs, horizon))
    looks = np.arange(1, horizon + 1)
    pairs = zip(losses, canary, strict=True)
    return np.array([first(wager(Bet(), loss, arm, weight)[1], looks) for loss, arm in pairs])


def binned_scores(
    rng: np.random.Generator,
    base: float,
    bad: float,
    *,
    weight: float,
    runs: int,
    horizon: int,
    bins: int = 20,
) -> Floats:
    """Return the alarms of the bets on a histogram of scores, as `log_e_losses` makes them."""
    values = (np.arange(bins) + 0.5) / bins
    one = [np.eye(bins, dtype=np.int64)[bin_] for bin_ in range(bins)]
    none = np.zeros(bins, np.int64)
    ours = [log_stakes_of_losses([Losses(each, none, weight)], values, centre=1 - base) for each in one]
    theirs = [log_stakes_of_losses([Losses(none, each, weight)], values, centre=1 - base) for each in one]
    gains = np.stack([np.array(theirs), np.array(ours)])
    found = []
    for some in chunks(runs, horizon):
        canary, losses = _scored(rng, base, bad, weight, (some, horizon))
        places = np.minimum((losses * bins).astype(np.int64), bins - 1)
        stakes = [np.cumsum(gains[canary.astype(int), places, bet], axis=1) for bet in range(gains.shape[2])]
        found.append(first(log_mean(stakes), np.arange(1, horizon + 1)))
    return np.concatenate(found)
