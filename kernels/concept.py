"""Does a model err more than it did? Detectors over a stream of labels that arrive one by one.

The seam for labels: whoever learns whether a prediction was wrong, or how far off a score was, tells
one of these. Each has a state that does not grow with the stream (ADWIN's grows with its logarithm).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0)
"""By what errors may have become more frequent; the evidence is the mean over these."""
BUCKETS_MAX = 5
"""Buckets of one size in ADWIN's window; the paper's M."""
LOG_E_MAX = 30.0
"""Where evidence ends, so that it can come down again within some ten thousand labels; 10 ** 13 is ample."""


class ErrorRate:
    """Evidence that predictions are wrong more often than `rate`, from one label after the other.

    The statistic of Shiryaev and Roberts for each of `RATIOS`. The mean over them is at most the number
    of labels while the error rate is at most `rate`, so it exceeds ``labels / alpha`` within so many
    labels with a probability of at most alpha.
    """

    def __init__(self, rate: float) -> None:
        if not 0 < rate < 1:
            raise ValueError(f"an error rate to watch lies between 0 and 1, got {rate}")
        ratios = [ratio for ratio in RATIOS if ratio * rate < 1] or [(1 + 1 / rate) / 2]
        self._wrong = [math.log(ratio) for ratio in ratios]
        self._right = [math.log((1 - ratio * rate) / (1 - rate)) for ratio in ratios]
        self.stakes = [-math.inf] * len(ratios)
        """The state: logarithms, one for each ratio."""

    def update(self, wrong: bool) -> float:
        """Take in a label, and return the logarithm of the evidence."""
        gains = self._wrong if wrong else self._right
        self.stakes = [
            min(gain + _log1p_exp(stake), LOG_E_MAX) for gain, stake in zip(gains, self.stakes, strict=True)
        ]
        return self.log_e

    @property
    def log_e(self) -> float:
        """The logarithm of the mean over the ratios; -inf before the first label."""
        most = max(self.stakes)
        if most == -math.inf:
            return most
        return most + math.log(sum(math.exp(stake - most) for stake in self.stakes) / len(self.stakes))


def _log1p_exp(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@dataclass(slots=True)
class PageHinkley:
    """Whether the mean of a stream went up or down (Page 1954, Hinkley 1971).

    Sums what each value is away from the mean so far, less `slack`, and tells when the sum is more than
    `threshold` from its extreme. It begins anew after it told.
    """

    slack: float = 0.005
    threshold: float = 50.0
    values_min: int = 30
    count: int = 0
    mean: float = 0.0
    above: float = 0.0
    below: float = 0.0

    def update(self, value: float) -> bool:
        """Take in a value, and say whether the mean has changed."""
        self.count += 1
        self.mean += (value - self.mean) / self.count
        away = value - self.mean
        # A sum less its minimum so far is the sum that never goes below 0.
        self.above = max(0.0, self.above + away - self.slack)
        self.below = max(0.0, self.below - away - self.slack)
        changed = self.count >= self.values_min and max(self.above, self.below) > self.threshold
        if changed:
            self.count, self.mean, self.above, self.below = 0, 0.0, 0.0, 0.0
        return changed


@dataclass(frozen=True, slots=True)
class Bucket:
    """Consecutive values: how many, their sum, and the sum of their squared differences from their mean."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        """Of its values; 0 if there are none."""
        return self.total / self.count if self.count else 0.0

    def __add__(self, other: Bucket) -> Bucket:
        if not (self.count and other.count):
            return self if self.count else other
        count, apart = self.count + other.count, self.mean - other.mean
        squares = self.squares + other.squares + apart**2 * self.count * other.count / count
        return Bucket(count, self.total + other.total, squares)

    def __sub__(self, first: Bucket) -> Bucket:
        """Return what is left when the `first` part is taken away."""
        count = self.count - first.count
        if not count:
            return Bucket()
        rest = Bucket(count, self.total - first.total)
        squares = (
            self.squares - first.squares - (first.mean - rest.mean) ** 2 * first.count * count / self.count
        )
        return Bucket(count, rest.total, max(squares, 0.0))


@dataclass(slots=True)
class Adwin:
    """Whether the mean changed, by a window that drops what no longer fits (Bifet & Gavaldà 2007).

    The window is kept in buckets of 1, 2, 4, ... values, at most `BUCKETS_MAX` of a size, so n values
    take about ``BUCKETS_MAX * log2 n`` of them. Its oldest bucket goes for as long as some cut leaves
    two parts whose means differ by more than chance allows at the confidence `delta`.
    """

    delta: float = 0.002
    every: int = 32
    """Values between two looks; a look takes a step for each bucket."""
    part_min: int = 5
    """Values that either part needs."""
    window: Bucket = Bucket()
    """All that is kept, as one."""
    sizes: list[list[Bucket]] = field(default_factory=lambda: [[]])
    """Buckets of 2 ** i values at place i, oldest first."""
    count: int = 0

    def update(self, value: float) -> bool:
        """Take in a value, and say whether the mean has changed."""
        self.count += 1
        one = Bucket(1, value)
        self.window += one
        self.sizes[0].append(one)
        self._compress()
        return self.count % self.every == 0 and self._shrink()

    def _compress(self) -> None:
        for i, buckets in enumerate(self.sizes):
            if len(buckets) <= BUCKETS_MAX:
                return
            if i + 1 == len(self.sizes):
                self.sizes.append([])
            self.sizes[i + 1].append(buckets.pop(0) + buckets.pop(0))

    def _shrink(self) -> bool:
        changed = False
        while self._cut():
            changed = True
            oldest = next(buckets for buckets in reversed(self.sizes) if buckets)
            self.window -= oldest.pop(0)
            while len(self.sizes) > 1 and not self.sizes[-1]:
                self.sizes.pop()
        return changed

    def _cut(self) -> bool:
        """Say whether there is a cut between two buckets whose sides do not fit together."""
        first, n = Bucket(), self.window.count
        if n < 2 * self.part_min:
            return False
        log = math.log(2 * math.log(n) / self.delta)
        variance = self.window.squares / n
        for bucket in (bucket for buckets in reversed(self.sizes) for bucket in buckets):
            first += bucket
            rest = n - first.count
            if rest < self.part_min:
                return False
            if first.count >= self.part_min:
                harmonic = 1 / first.count + 1 / rest
                allowed = math.sqrt(2 * harmonic * variance * log) + 2 / 3 * harmonic * log
                if abs(first.mean - (self.window.total - first.total) / rest) > allowed:
                    return True
        return False
