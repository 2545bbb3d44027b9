"""Does a canary score worse, and what is a score on average? Bets on numbers between 0 and 1.

Where answers are not simply good or bad but a score, a loss, a confidence. As in `kernels.evalue` the
router draws who answers, so a loss has nothing to do with the arm unless the version has: the product of
``arm - weight`` and ``loss - centre`` is 0 on average, and a bet on its being positive is even.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.evalue import bar, log_mean

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]
Booleans = NDArray[np.bool_]

STAKES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""What is bet for each unit of ``(arm - weight) (loss - centre)``, as far as it cannot ruin; a bet on each.

The best is the difference of the means over the losses' variance, whatever the weight is."""
SHARES = tuple(0.5**halvings for halvings in range(1, 11))
"""What part of all is bet on each side of a mean; small ones are for many values."""
_AT_RISK = 0.5
"""The most that a bet may lose at once, as a share of what it is worth then."""
_PRIOR_LOSSES, _PRIOR_CENTRE = 10.0, 0.5
_GRID, _LOOKS = 16, 5
"""Means that are looked at at once, and how often: to 1e-6."""


@dataclass(frozen=True, slots=True)
class Losses:
    """How often each loss occurred on either side while weights were one and the same; it adds up."""

    canary: Integers
    """(bins,)"""
    baseline: Integers
    """(bins,)"""
    weight: float
    """As of `kernels.evalue.Events`."""


def log_stakes_of_losses(epochs: Iterable[Losses], values: Floats, *, centre: float) -> Floats:
    """Return the logarithm of each bet's stake, (`STAKES`,), of which `log_e_losses` is the mean."""
    away = values - centre
    gains = np.zeros(len(STAKES))
    for each in epochs:
        stakes = np.minimum(STAKES, _AT_RISK / _worst(each.weight, np.array(centre)))[:, None]
        gains += np.log1p(stakes * (1 - each.weight) * away) @ each.canary
        gains += np.log1p(-stakes * each.weight * away) @ each.baseline
    return gains


def log_e_losses(epochs: Iterable[Losses], values: Floats, *, centre: float) -> float:
    """Return the evidence that a canary's losses are greater, from histograms: the log of the mean stake.

    Parameters
    ----------
    epochs : iterable of Losses
        In any order.
    values : (bins,) float64
        What is taken for the losses in a bin, 0 (good) to 1 (bad), ascending.
    centre : float
        What a loss is on average, frozen beforehand: any is valid, the stable version's is best.
    """
    return log_mean(log_stakes_of_losses(epochs, values, centre=centre).tolist())


def _worst(weight: float, centre: Floats) -> Floats:
    """Return the least that ``(arm - weight) (loss - centre)`` can be, without its sign."""
    return np.maximum((1 - weight) * centre, weight * (1 - centre))


@dataclass(frozen=True, slots=True)
class Bet:
    """A bet on a canary's losses being greater, one after the other: what it is worth and what it learnt.

    Stake and centre of each loss are of the losses before, so nothing needs to be known beforehand
    (Waudby-Smith & Ramdas 2024). Unlike `log_e_losses` it depends on the order.
    """

    log_e: float = 0.0
    count: int = 0
    losses: float = 0.0
    """Their sum."""
    products: float = 0.0
    """Sum of ``(arm - weight) (loss - centre)``."""
    squares: float = 0.001
    """Sum of their squares; not 0, so that a first one is not taken for all there can be."""


def wager(bet: Bet, losses: Floats, canary: Booleans, weight: float) -> tuple[Bet, Floats]:
    """Take in losses, (n,) from 0 to 1, of whom `canary`, (n,), says whose they are; and `log_e` at each."""
    before = bet.count + np.arange(len(losses))
    centre = _PRIOR_LOSSES * _PRIOR_CENTRE + bet.losses + _sum_before(losses)
    centre /= _PRIOR_LOSSES + before
    products = (canary - weight) * (losses - centre)
    drift = (bet.products + _sum_before(products)) / (before + 20)
    spread = (bet.squares + _sum_before(products**2)) / (before + 1)
    best = drift / (spread + drift**2)
    stakes = np.clip(best, 0, _AT_RISK / _worst(weight, centre))
    log_e = bet.log_e + np.cumsum(np.log1p(stakes * products))
    after = Bet(
        float(log_e[-1]) if len(log_e) else bet.log_e,
        bet.count + len(losses),
        bet.losses + float(losses.sum()),
        bet.products + float(products.sum()),
        bet.squares + float((products**2).sum()),
    )
    return after, log_e


def _sum_before(values: Floats) -> Floats:
    """Return for each value the sum of those before it."""
    sums: Floats = np.cumsum(values) - values
    return sums


def hedged_interval(values: Floats, *, alpha: float) -> tuple[float, float]:
    """Return between what the mean of values lies, (n,) from 0 to 1 in the order in which they came.

    The hedged capital process of Waudby-Smith & Ramdas, "Estimating means of bounded random variables by
    betting" (2024), with their predictable plug-in bets, truncated at 1/2. What was ruled out once
    remains so: the interval holds at all times, together. It looks at every value again, so it is for
    reports; `mean_interval` is for counts.
    """
    needed = bar(alpha) + math.log(2)
    n = np.arange(1, len(values) + 1)
    means = (0.5 + np.cumsum(values)) / (n + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (n + 1)
    known = np.concatenate([[0.25], variances[:-1]])
    stakes = np.sqrt(2 * math.log(2 / alpha) / (known * n * np.log1p(n)))

    def worth(values: Floats, means: Floats) -> Floats:
        means = means[:, None]
        gains = np.log1p(np.minimum(stakes, _AT_RISK / means) * (values - means))
        most: Floats = np.cumsum(gains, axis=1).max(axis=1, initial=0.0)
        return most

    low = _ruled_out(lambda means: worth(values, means) >= needed)
    high = _ruled_out(lambda means: worth(1 - values, means) >= needed)
    return low, 1 - high


def mean_interval(values: Floats, counts: Integers, *, alpha: float) -> tuple[float, float]:
    """Return between what the mean of values lies of which only a histogram is kept.

    The same with a mixture of fixed bets, `SHARES`, in the place of bets that learn: it does not depend
    on the order, and adds up.

    Parameters
    ----------
    values : (bins,) float64
        What is taken for the values in a bin, 0 to 1. The mean is that of values so rounded.
    counts : (bins,) of any integers
    """
    needed = bar(alpha) + math.log(2)
    occupied = counts > 0
    counts = counts[occupied]

    def worth(values: Floats, means: Floats) -> Floats:
        ratios = values / means[:, None] - 1
        gains = [np.log1p(share * ratios) @ counts for share in SHARES]
        mean: Floats = np.logaddexp.reduce(gains, axis=0) - math.log(len(SHARES))
        return mean

    values = values[occupied]
    low = _ruled_out(lambda means: worth(values, means) >= needed)
    high = _ruled_out(lambda means: worth(1 - values, means) >= needed)
    return low, 1 - high


def _ruled_out(against: Callable[[Floats], Booleans]) -> float:
    """Return the mean up to which all are ruled out; 0 if none is."""
    low, high = 0.0, 1.0
    for _ in range(_LOOKS):
        means = np.linspace(low, high, _GRID + 1)[1:]
        out = int(against(means).sum())
        if out:
            low = float(means[out - 1])
        high = float(means[min(out, _GRID - 1)])
    return low
