"""Has a stream changed, when it may be looked at at any time? Bets against the frozen reference.

Each feature is bet on in several ways. A bet is a distribution q over the bins that is fixed before a
block of rows is seen; the block multiplies its stake by ``prod (q / pi) ** h``, with the reference's
shares pi and the block's counts h. While rows follow the reference no bet grows on average, so the sum
of bets that were begun at each block so far (Shiryaev and Roberts) has at most the number of blocks as
its mean, and exceeds ``blocks / alpha`` within so many blocks with a probability of at most alpha (Doob).
docs/statistics.md holds the argument, what it assumes, and how soon changes are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.dispersion import Dispersion

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

REFERENCE_MIN = 1000
"""Rows that a reference needs: with fewer, its own chance is as large as a change worth telling."""
HALF_LIVES_ROWS = (200.0, 1000.0, 5000.0)
"""Memories of the bets that learn: for changes that are large, middling, and small or slow."""
SHIFTS = (0.25, 0.5, 1.0)
"""Tilts of the bets on a shift, each in both directions; in standard deviations."""
SPREADS = (-0.3, 0.15, 0.3)
"""Tilts of the bets on a wider or narrower spread."""
OFF_LEARNT = 0.00135
"""How often the reference of any feature may be off by more than bets that learn allow for: 3 deviations of
one feature, 4.7 of a thousand. Such a bet follows whatever the reference is off by, so alarms are certain."""
OFF_FIXED = 0.16
"""The same for fixed bets: 1 deviation of one feature. They gain only from what is off by half their tilt
in their direction, so less is enough: false alarms are as rare as with 2 (docs/statistics.md)."""
LOG_E_MAX = 60.0
"""Where evidence ends, so that it can come down again within thousands of rows; 10 ** 26 is ample."""
_HALF_LIVES = np.array(HALF_LIVES_ROWS)[:, None]
_PRIOR_ROWS = 20.0
_KEPT = 0.1


class Verdict(NamedTuple):
    """What may be said now."""

    drifted: Booleans
    """(F,): of the features named here, at most a share of alpha is named wrongly on average."""
    any: bool
    """Whether there is drift at all; wrongly at most with probability alpha within the horizon."""


class Detector:
    """Evidence against the reference for F features, from counts of blocks of rows.

    Parameters
    ----------
    reference : (F, bins) int64
        The frozen reference's counts.
    ordered : bool
        Whether bins are in order, but for the last, which holds NaN. Categories are not, and nobody
        can bet on a shift of them.
    possible : (F, bins) bool, optional
        Which bins can occur at all; those that pad a shorter alphabet cannot. What is counted in others
        is left out.
    together : int, optional
        Features whose evidence makes one verdict, if not F.

    Attributes
    ----------
    log_e : (F,) float64
        The logarithm of the evidence, at most `LOG_E_MAX`; -inf before the first block, and where the
        reference is below `REFERENCE_MIN` or no more than one bin is possible.
    since_rows : (F,) int64
        Rows since the evidence began that stands now: the likeliest age of a change.
    changed : (F, bins) int64
        What was counted in them.
    """

    def __init__(
        self,
        reference: Integers,
        *,
        ordered: bool = True,
        possible: Booleans | None = None,
        together: int | None = None,
    ) -> None:
        possible = np.ones(reference.shape, np.bool_) if possible is None else possible
        n = reference.sum(axis=1)
        self._possible = possible
        weights = np.where(possible, reference + 0.5, 0.0)
        self._enough = (n >= REFERENCE_MIN) & (possible.sum(axis=1) > 1)
        self._pi = weights / weights.sum(axis=1, keepdims=True)
        self._per_pi = np.divide(1.0, self._pi, out=np.zeros_like(self._pi), where=possible)
        scores = _scores(self._pi) if ordered else np.zeros((0, *reference.shape))
        self._tilts = _tilts(self._pi, scores)
        self._dispersion = Dispersion(scores)
        learners, share = len(HALF_LIVES_ROWS), 1 / (together or max(len(reference), 1))
        fee = _learner_fee(possible.sum(axis=1) - 1, n, _deviations(OFF_LEARNT * share))
        fixed = _tilt_fees(self._tilts, self._pi, n, _deviations(OFF_FIXED * share))
        self._fees = np.vstack([np.tile(fee, (learners, 1)), fixed])
        self._log_weights = _log_weights(ordered=ordered)
        bets, features = len(self._log_weights), len(reference)
        self._recent = np.zeros((learners, *reference.shape))
        self._stakes = np.full((bets, features), -np.inf)
        self._begun = np.zeros((bets, features))
        self.since_rows = np.zeros(features, np.int64)
        self.changed = np.zeros(reference.shape, np.int64)
        self.log_e = np.full(features, -np.inf)

    def update(self, block: Integers) -> None:
        """Take in the counts of one block of rows, (F, bins) int64; a feature without any stays as it was."""
        block = np.where(self._possible, block, 0)
        n = block.sum(axis=1)
        seen = n > 0
        gains = np.where(seen, self._gains(block, n), 0.0)
        grown = np.minimum(gains + np.logaddexp(0, self._stakes), LOG_E_MAX)
        self._stakes = np.where(seen, grown, self._stakes)
        self._begun = np.minimum(self._begun + gains, LOG_E_MAX)
        self.since_rows += n
        self.changed += block
        self._forget(seen & (_log_mean(self._begun, self._log_weights) <= 0))
        self._dispersion.update(block)
        self._recent *= 0.5 ** (n / _HALF_LIVES)[:, :, None]
        self._recent += block
        self.log_e = np.where(self._enough, _log_mean(self._stakes, self._log_weights), -np.inf)

    def reset(self, which: Booleans) -> None:
        """Begin anew with some of the features, (F,) bool."""
        self._stakes[:, which] = -np.inf
        self._recent[:, which] = 0
        self._forget(which)
        self.log_e = np.where(which, -np.inf, self.log_e)

    def arrays(self) -> dict[str, NDArray[np.number]]:
        """Return copies of all that changes, from which `restore` goes on bitwise."""
        return {
            "recent": self._recent.copy(),
            "stakes": self._stakes.copy(),
            "begun": self._begun.copy(),
            "since_rows": self.since_rows.copy(),
            "changed": self.changed.copy(),
            **self._dispersion.arrays(),
        }

    def restore(self, arrays: Mapping[str, NDArray[np.number]]) -> None:
        """Go on from what `arrays` returned, of a detector with the same reference."""
        for name, now in self.arrays().items():
            given = arrays[name].shape if name in arrays else "none"
            if given != now.shape:
                raise ValueError(f"expected {name} of shape {now.shape}, got {given}: of another reference?")
        self._recent = arrays["recent"].astype(np.float64)
        self._stakes = arrays["stakes"].astype(np.float64)
        self._begun = arrays["begun"].astype(np.float64)
        self.since_rows = arrays["since_rows"].astype(np.int64)
        self.changed = arrays["changed"].astype(np.int64)
        self._dispersion.restore(arrays)
        self.log_e = np.where(self._enough, _log_mean(self._stakes, self._log_weights), -np.inf)

    def _gains(self, block: Integers, n: Integers) -> Floats:
        """Return by how much the logarithm of each bet's stake grows, (bets, F)."""
        total = self._recent.sum(axis=2, keepdims=True)
        learnt = (self._recent + _PRIOR_ROWS * self._pi) / (total + _PRIOR_ROWS)
        logs = np.log((1 - _KEPT) * learnt * self._per_pi + _KEPT)
        # A quarter of the time that a product and its sum take, of 0.5 ms for 2,000 features.
        rows = block.astype(np.float64)
        gains = np.vstack([np.einsum("bfj,fj->bf", each, rows) for each in (logs, self._tilts)])
        return gains / self._rows_per_row() - n * self._fees

    def _rows_per_row(self) -> Floats:
        """Return of how many rows only one counts, (bets, F), because they resemble each other.

        The root of a factor that expects at most 1 expects at most 1, so this makes no bet unfair.
        """
        ratios = self._dispersion.ratios()
        learners = np.tile(ratios.max(axis=0), (len(HALF_LIVES_ROWS), 1))
        if not len(self._tilts):
            return learners
        shifts = np.tile(ratios[1], (2 * len(SHIFTS), 1))
        return np.vstack([learners, shifts, np.tile(ratios[2], (len(SPREADS), 1))])

    def _forget(self, which: Booleans) -> None:
        self._begun[:, which] = 0
        self.since_rows[which] = 0
        self.changed[which] = 0


def _tilts(pi: Floats, scores: Floats) -> Floats:
    """Return log (q / pi) of the bets on shifts and spreads, (tilts, F, bins); no expectation exceeds 1."""
    if not len(scores):
        return np.zeros((0, *pi.shape))
    shifts = [sign * shift * scores[0] for shift in SHIFTS for sign in (-1, 1)]
    logs = np.stack(shifts + [spread * scores[1] for spread in SPREADS])
    values = pi[:, :-1]
    whole = (values * np.exp(logs[:, :, :-1])).sum(axis=2, keepdims=True)
    # NaN has no place in the order, so these bets leave it alone.
    logs[:, :, :-1] -= np.log(whole / values.sum(axis=1)[:, None])
    return logs


def _scores(pi: Floats) -> Floats:
    """Return the places of the bins as normal scores, and their squares less 1, (2, F, bins); 0 for NaN.

    Mean 0 and variance 1 under the reference. Ranks rather than values: no far outlier makes the scale.
    """
    values = pi[:, :-1] / pi[:, :-1].sum(axis=1, keepdims=True)
    middles = np.clip(np.cumsum(values, axis=1) - values / 2, 1e-6, 1 - 1e-6)
    quantile = NormalDist().inv_cdf
    z = np.array([[quantile(u) for u in row] for row in middles.tolist()]).reshape(values.shape)
    z -= (values * z).sum(axis=1, keepdims=True)
    z /= np.sqrt((values * z * z).sum(axis=1, keepdims=True)) + 1e-12
    z = np.clip(z, -3, 3)
    scores = np.zeros((2, *pi.shape))
    scores[:, :, :-1] = z, z * z - 1
    return scores


def _deviations(chance: float) -> float:
    """Return how many deviations a normal variable exceeds with such a probability."""
    return NormalDist().inv_cdf(1 - chance)


def _learner_fee(dof: Integers, n: Integers, deviations: float) -> Floats:
    """Return what a bet that learns all bins pays for each row, in nats, (F,).

    Where the truth is p, a bet on p grows by ``1 + sum (p - pi) ** 2 / pi`` a row on average. For a
    reference of n rows that sum is a chi-squared variable over n; its high quantile is that of
    Wilson & Hilferty (1931).
    """
    step = 2 / (9 * np.maximum(dof, 1))
    high = dof * (1 - step + deviations * np.sqrt(step)) ** 3
    fee: Floats = np.log1p(high / np.maximum(n, 1))
    return fee


def _tilt_fees(tilts: Floats, pi: Floats, n: Integers, deviations: float) -> Floats:
    """Return what each fixed bet pays for each row, in nats, (tilts, F).

    Its factor ``q / pi`` has the mean 1 under the reference, and under the truth one that is as far
    from 1 as the mean of n rows can be.
    """
    variance = (pi * np.expm1(tilts) ** 2).sum(axis=2)
    fees: Floats = np.log1p(deviations * np.sqrt(variance / np.maximum(n, 1)))
    return fees


def _log_weights(*, ordered: bool) -> Floats:
    """Give half to shifts, the commonest change, and a quarter each to spreads and learners, (bets, 1)."""
    groups = [(len(HALF_LIVES_ROWS), 1.0)]
    if ordered:
        groups = [(len(HALF_LIVES_ROWS), 0.25), (2 * len(SHIFTS), 0.5), (len(SPREADS), 0.25)]
    weights: Floats = np.concatenate([np.full(count, share / count) for count, share in groups])
    return np.log(weights)[:, None]


def _log_mean(logs: Floats, log_weights: Floats) -> Floats:
    mean: Floats = np.logaddexp.reduce(logs + log_weights, axis=0)
    return mean


def mean_e(log_e: Floats) -> float:
    """Return the logarithm of the mean of e-values: evidence that anything changed, however they depend."""
    return float(np.logaddexp.reduce(log_e) - np.log(len(log_e))) if len(log_e) else -np.inf


def e_bh(log_e: Floats, alpha: float) -> Booleans:
    """Name the hypotheses that go: at most a share of alpha wrongly on average, however they depend.

    Wang & Ramdas, "False discovery rate control with e-values" (2022).
    """
    order = np.argsort(-log_e, kind="stable")
    ranks = np.arange(1, len(log_e) + 1)
    kept = log_e[order] >= np.log(len(log_e) / alpha / ranks)
    named = np.zeros(len(log_e), np.bool_)
    named[order[: int(np.max(ranks[kept], initial=0))]] = True
    return named


def verdict(log_e: Floats, distance: Floats, *, blocks: float, alpha: float, distance_min: float) -> Verdict:
    """Judge evidence and magnitude together.

    Parameters
    ----------
    log_e : (F,) float64
        Of a `Detector`.
    distance : (F,) float64
        How large the change is; a feature below `distance_min`, or NaN, has no say.
    blocks : float
        Updates within the horizon for which `alpha` holds, at most.
    """
    counted = np.where(distance >= distance_min, log_e - np.log(blocks), -np.inf)
    return Verdict(e_bh(counted, alpha), mean_e(counted) >= -np.log(alpha))
