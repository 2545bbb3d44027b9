"""What the detector means, one feature, one bet and one bin at a time: slow, obvious, and the specification."""

from __future__ import annotations

import math
from statistics import NormalDist, variance

HALF_LIVES = (200, 1000, 5000)
SLOPES = (-0.25, 0.25, -0.5, 0.5, -1.0, 1.0)
CURVES = (-0.3, 0.15, 0.3)
CAP = 60.0


def shares(reference, possible):
    """Return each bin's share after Jeffreys' half; none for a bin that cannot be."""
    total = sum(count + 0.5 for count, can in zip(reference, possible, strict=True) if can)
    return [(count + 0.5) / total if can else 0.0 for count, can in zip(reference, possible, strict=True)]


def scores(values):
    """Return the normal score of each value bin, standardised, and cut at 3."""
    whole, below, raw = sum(values), 0.0, []
    for share in values:
        middle = (below + share / 2) / whole
        raw.append(NormalDist().inv_cdf(min(max(middle, 1e-6), 1 - 1e-6)))
        below += share
    mean = sum(share * z for share, z in zip(values, raw, strict=True)) / whole
    spread = math.sqrt(sum(share * (z - mean) ** 2 for share, z in zip(values, raw, strict=True)) / whole)
    return [min(max((z - mean) / (spread + 1e-12), -3.0), 3.0) for z in raw]


def tilted(pi):
    """Return the distributions that the fixed bets are on; NaN's share, the last, is the reference's."""
    values = pi[:-1]
    z = scores(values)
    exponents = [[slope * at for at in z] for slope in SLOPES]
    exponents += [[curve * (at * at - 1) for at in z] for curve in CURVES]
    bets = []
    for row in exponents:
        raw = [share * math.exp(x) for share, x in zip(values, row, strict=True)]
        bets.append([x * sum(values) / sum(raw) for x in raw] + [pi[-1]])
    return bets


def learner_fee(possible, n, together):
    """Return the logarithm of 1 + a high quantile of chi-squared over n, at 3 deviations for one feature."""
    dof = sum(possible) - 1
    step = 2 / (9 * max(dof, 1))
    deviations = NormalDist().inv_cdf(1 - 0.00135 / together)
    return math.log(1 + dof * (1 - step + deviations * math.sqrt(step)) ** 3 / n)


def tilt_fee(bet, pi, n, together):
    """Return the logarithm of 1 + standard errors of the mean of q / pi over n rows; 1 for one feature."""
    variance = sum(p * (q / p - 1) ** 2 for q, p in zip(bet, pi, strict=True) if p)
    return math.log(1 + NormalDist().inv_cdf(1 - 0.16 / together) * math.sqrt(variance / n))


class Ratio:
    """How far neighbouring blocks are apart, to how far they would be by chance; forgets by halves."""

    def __init__(self, one_block) -> None:
        self.got, self.expected = 3 * one_block, one_block

    def add(self, got, expected):
        self.got = self.got * 0.5**0.01 + got
        self.expected = self.expected * 0.5**0.01 + expected

    @property
    def value(self):
        return max(1.0, self.got / self.expected)


class Dispersion:
    """Ratios of one feature: over all bins, and along scores."""

    def __init__(self, scores, bins) -> None:
        self.before, self.scores = None, scores
        self.all = Ratio(bins - 1)
        self.along = [Ratio(1.0) for _ in scores]

    def update(self, block):
        if self.before:
            self.all.add(*pearson(self.before, block))
            for score, ratio in zip(self.scores, self.along, strict=True):
                ratio.add(*means_apart(self.before, block, score))
        self.before = block


def pearson(one, other):
    """Return Pearson's statistic of two blocks, and its mean over all ways to deal their rows to them."""
    n, m = sum(one), sum(other)
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a + b]
    got = sum(
        (count - (a + b) * size / (n + m)) ** 2 / ((a + b) * size / (n + m))
        for a, b in pairs
        for count, size in ((a, n), (b, m))
    )
    return got, (len(pairs) - 1) * (n + m) / (n + m - 1)


def means_apart(one, other, score):
    """Return the square of the difference of two means in units of its variance, and 1; or 0 and 0."""
    first = [z for count, z in zip(one, score, strict=True) for _ in range(count)]
    second = [z for count, z in zip(other, score, strict=True) for _ in range(count)]
    spread = variance(first + second)
    if spread <= 1e-9:
        return 0.0, 0.0
    apart = sum(first) / len(first) - sum(second) / len(second)
    return apart**2 / (spread * (1 / len(first) + 1 / len(second))), 1.0


class Bet:
    """One way of betting on one feature."""

    def __init__(self, weight, fee) -> None:
        self.weight, self.fee = weight, fee
        self.statistic = 0.0
        self.begun = 1.0

    def grow(self, block, q, pi, worth):
        gain = -sum(block) * self.fee
        for count, share, p in zip(block, q, pi, strict=True):
            gain += count * math.log(share / p) / worth if count and p else 0.0
        grown, top = math.exp(min(gain, 600)), math.exp(CAP)
        self.statistic = min(grown * (1 + self.statistic), top)
        self.begun = min(self.begun * grown, top)


class Detector:
    """All bets on one feature."""

    def __init__(self, reference, *, ordered=True, possible=None, together=1) -> None:
        self.possible = possible or [True] * len(reference)
        self.n = sum(reference)
        self.pi = shares(reference, self.possible)
        fixed = tilted(self.pi) if ordered else []
        z = [*scores(self.pi[:-1]), 0.0]
        squares = [at * at - 1 for at in z[:-1]] + [0.0]
        self.dispersion = Dispersion([z, squares] if ordered else [], len(reference))
        self.recent = [[0.0] * len(reference) for _ in HALF_LIVES]
        fee = learner_fee(self.possible, self.n, together)
        self.learners = [Bet((0.25 if ordered else 1) / len(HALF_LIVES), fee) for _ in HALF_LIVES]
        weights = [0.5 / len(SLOPES)] * len(SLOPES) + [0.25 / len(CURVES)] * len(CURVES)
        self.fixed = [
            (Bet(weight, tilt_fee(q, self.pi, self.n, together)), q)
            for weight, q in zip(weights if ordered else [], fixed, strict=True)
        ]
        self.since_rows, self.changed = 0, [0] * len(reference)

    @property
    def bets(self):
        return [*self.learners, *(bet for bet, _ in self.fixed)]

    @property
    def e(self):
        if self.n < 1000:
            return 0.0
        return sum(bet.weight * bet.statistic for bet in self.bets)

    def update(self, block):
        block = [count if can else 0 for count, can in zip(block, self.possible, strict=True)]
        if not sum(block):
            return
        along = [ratio.value for ratio in self.dispersion.along]
        most = max([self.dispersion.all.value, *along])
        for bet, recent in zip(self.learners, self.recent, strict=True):
            total = sum(recent)
            learnt = [(seen + 20 * p) / (total + 20) for seen, p in zip(recent, self.pi, strict=True)]
            bet.grow(block, [0.9 * q + 0.1 * p for q, p in zip(learnt, self.pi, strict=True)], self.pi, most)
        for i, (bet, q) in enumerate(self.fixed):
            bet.grow(block, q, self.pi, along[0] if i < len(SLOPES) else along[1])
        self.since_rows += sum(block)
        self.changed = [a + b for a, b in zip(self.changed, block, strict=True)]
        if sum(bet.weight * bet.begun for bet in self.bets) <= 1:
            self.since_rows, self.changed = 0, [0] * len(block)
            for bet in self.bets:
                bet.begun = 1.0
        self.dispersion.update(block)
        for recent, half_life in zip(self.recent, HALF_LIVES, strict=True):
            for j, count in enumerate(block):
                recent[j] = recent[j] * 0.5 ** (sum(block) / half_life) + count


def e_bh(e, alpha):
    """Name the k largest, for the greatest k of which the k-th is at least F / (alpha k)."""
    ranked = sorted(range(len(e)), key=lambda f: -e[f])
    most = max((k for k in range(1, len(e) + 1) if e[ranked[k - 1]] >= len(e) / (alpha * k)), default=0)
    return set(ranked[:most])
