"""What evidence about canaries means, event by event: slow, obvious, and the specification."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

RATIOS = (1.25, 1.5, 2, 3, 5, 10, 30)


def stake(events, ratio, tolerance=1.0):
    """Multiply what a bet wins at each of the events, (whether it is the canary's, weight at the draw)."""
    worth = 1.0
    for canary, weight in events:
        null = weight * tolerance / (weight * tolerance + 1 - weight)
        bet = null * ratio / (null * ratio + 1 - null)
        worth *= bet / null if canary else (1 - bet) / (1 - null)
    return worth


def e_value(events, tolerance=1.0):
    return sum(stake(events, ratio, tolerance) for ratio in RATIOS) / len(RATIOS)


def e_value_within(events, ratio):
    """Bet on the weights themselves where the canary's share is that of one `ratio` times as bad."""
    worth = 1.0
    for canary, weight in events:
        null = weight * ratio / (weight * ratio + 1 - weight)
        worth *= weight / null if canary else (1 - weight) / (1 - null)
    return worth


def arrivals(enough, share, events_max):
    """Return the probability that `enough(for it, against)` held at or before each number of events."""
    alive, arrived = Counter({0: 1.0}), [0.0]
    for events in range(1, events_max + 1):
        after = Counter()
        for count, chance in alive.items():
            after[count + 1] += chance * share
            after[count] += chance * (1 - share)
        there = {count for count in after if enough(count, events - count)}
        arrived.append(arrived[-1] + sum(after[count] for count in there))
        alive = Counter({count: chance for count, chance in after.items() if count not in there})
    return arrived


def losses_e(losses, canary, weight, values, centre, stakes):
    """Multiply what each bet wins at each loss, and take the mean; no stake risks more than half."""
    worst = max((1 - weight) * centre, weight * (1 - centre))
    total = 0.0
    for stake in stakes:
        worth = 1.0
        for place, arm in zip(losses, canary, strict=True):
            worth *= 1 + min(stake, 0.5 / worst) * (arm - weight) * (values[place] - centre)
        total += worth
    return total / len(stakes)


def wager(losses, canary, weight):
    """Learn centre and stake from the losses before each, and multiply."""
    log_e, seen, products = [0.0], [], []
    for loss, arm in zip(losses, canary, strict=True):
        centre = (10 * 0.5 + sum(seen)) / (10 + len(seen))
        drift = sum(products) / (len(products) + 20)
        spread = (0.001 + sum(product**2 for product in products)) / (len(products) + 1)
        worst = max((1 - weight) * centre, weight * (1 - centre))
        stake = min(max(drift / (spread + drift**2), 0), 0.5 / worst)
        products.append((arm - weight) * (loss - centre))
        seen.append(loss)
        log_e.append(log_e[-1] + math.log(1 + stake * products[-1]))
    return log_e[1:]


def hedged(values, alpha, grid):
    """Return which means of the grid the hedged capital process never ruled out (Waudby-Smith & Ramdas)."""
    kept = np.ones(len(grid), np.bool_)
    for place, mean in enumerate(grid):
        up = down = 1.0
        total, squares, variance = 0.5, 0.25, 0.25
        for n, value in enumerate(values, 1):
            stake = math.sqrt(2 * math.log(2 / alpha) / (variance * n * math.log(1 + n)))
            up *= 1 + min(stake, 0.5 / mean) * (value - mean)
            down *= 1 - min(stake, 0.5 / (1 - mean)) * (value - mean)
            kept[place] &= max(up, down) / 2 < 1 / alpha
            total += value
            squares += (value - total / (n + 1)) ** 2
            variance = squares / (n + 1)
    return grid[kept]
