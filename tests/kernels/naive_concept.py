"""What the detectors over labels mean, from all values each time: slow, obvious, and the specification."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

RATIOS = (1.25, 1.5, 2, 3, 5)


def error_rate_e(labels, rate):
    """Sum the likelihood ratios of the errors' becoming more frequent at each label so far; mean over ratios."""
    total = 0.0
    for ratio in RATIOS:
        for start in range(len(labels)):
            wrong = sum(labels[start:])
            right = len(labels) - start - wrong
            total += ratio**wrong * ((1 - ratio * rate) / (1 - rate)) ** right
    return total / len(RATIOS)


def page_hinkley(values, slack, threshold, values_min):
    """Return at which values the mean has changed, from the sums of all values since it last did."""
    told, start = [], 0
    for end in range(1, len(values) + 1):
        part = values[start:end]
        away = [part[i] - sum(part[: i + 1]) / (i + 1) for i in range(len(part))]
        up = np.concatenate([[0], np.cumsum([a - slack for a in away])])
        down = np.concatenate([[0], np.cumsum([-a - slack for a in away])])
        if len(part) >= values_min and max(up[-1] - up.min(), down[-1] - down.min()) > threshold:
            told.append(end - 1)
            start = end
    return told


class Adwin:
    """Keeps the values themselves, and only the places at which it may cut."""

    def __init__(self, delta, every, part_min, buckets_max=5) -> None:
        self.delta, self.every, self.part_min, self.buckets_max = delta, every, part_min, buckets_max
        self.values, self.sizes, self.count = [], [], 0

    def update(self, value):
        self.count += 1
        self.values.append(value)
        self.sizes.append(1)
        size = 1
        while self.sizes.count(size) > self.buckets_max:
            oldest = self.sizes.index(size)
            self.sizes[oldest : oldest + 2] = [2 * size]
            size *= 2
        changed = False
        while self.count % self.every == 0 and self.cut():
            changed = True
            self.values = self.values[self.sizes.pop(0) :]
        return changed

    def cut(self):
        n, at = len(self.values), 0
        for size in self.sizes:
            at += size
            old, new = self.values[:at], self.values[at:]
            if min(len(old), len(new)) >= self.part_min:
                harmonic = 1 / len(old) + 1 / len(new)
                log = math.log(2 * math.log(n) / self.delta)
                allowed = math.sqrt(2 * harmonic * np.var(self.values) * log) + 2 / 3 * harmonic * log
                if abs(np.mean(old) - np.mean(new)) > allowed:
                    return True
        return False

    def descending(self):
        return all(older >= newer for older, newer in pairwise(self.sizes))
