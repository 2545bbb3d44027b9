"""How much more do blocks of rows differ than they would if no row depended on another?

Rows that arrive together may resemble each other: copies, one client's batch, a sensor that moves
slowly. Then a hundred rows tell as much as ten, and whoever takes them for a hundred sees drift where
there is none. What two neighbouring blocks differ by tells how many they are worth, whatever they
are distributed like, as long as it is the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

HALF_LIFE_BLOCKS = 100.0
"""How soon a burst is forgotten. Fewer would let chance in: it is 14 % of a ratio along one score here."""
DOUBT = 3.0
"""The ratio of a stream that has just begun, worth one block. Rows that come 10 times each are then taken
for drift in 6 % of streams, and else, in their first blocks, in 38 %."""


class Dispersion:
    """How much more neighbouring blocks differ than by chance, for F features: over all bins, along scores.

    It cannot see rows that resemble those of the block before; blocks have to be longer than bursts.

    Parameters
    ----------
    scores : (S, F, bins) float64
        What each bin stands for along each direction that matters by itself.
    """

    def __init__(self, scores: Floats) -> None:
        self._scores = scores
        ratios, features, bins = len(scores) + 1, scores.shape[1], scores.shape[2]
        self._before = np.zeros((features, bins), np.int64)
        self._sums = np.ones((2, ratios, features))
        self._sums[:, 0] = bins - 1
        self._sums[0] *= DOUBT

    def ratios(self) -> Floats:
        """Return the ratios, (1 + S, F): first over all bins, then along each score; at least 1."""
        ratios: Floats = np.maximum(self._sums[0] / self._sums[1], 1)
        return ratios

    def update(self, block: Integers) -> None:
        """Take in the counts of a block, (F, bins); a feature without any stays as it was."""
        seen = block.any(axis=1)
        both = seen & self._before.any(axis=1)
        if both.any():
            which = slice(None) if both.all() else both  # A mask copies, and nearly always it is full.
            got, expected = _contrast(self._before[which], block[which], self._scores[:, which])
            self._sums[:, :, which] *= 0.5 ** (1 / HALF_LIFE_BLOCKS)
            self._sums[0][:, which] += got
            self._sums[1][:, which] += expected
        self._before[seen] = block[seen]

    def arrays(self) -> dict[str, NDArray[np.number]]:
        """Return copies of all that changes, from which `restore` goes on bitwise."""
        return {"before": self._before.copy(), "dispersion": self._sums.copy()}

    def restore(self, arrays: Mapping[str, NDArray[np.number]]) -> None:
        """Go on from what `arrays` returned."""
        self._before = arrays["before"].astype(np.int64)
        self._sums = arrays["dispersion"].astype(np.float64)


def _contrast(one: Integers, other: Integers, scores: Floats) -> tuple[Floats, Floats]:
    """Return how far two blocks are apart, and how far their rows in any other order would be on average.

    Pearson's statistic over all bins; along a score the square of the difference of the means. The
    expectation is exact, however few the rows are, because it is over all ways to deal them to the blocks.
    Both are 0 where there is nothing to deal.
    """
    n, m = one.sum(axis=1), other.sum(axis=1)
    rows, pooled = n + m, one + other
    spare = rows / (rows - 1)
    apart = (one / n[:, None] - other / m[:, None]) ** 2
    pearson = np.divide(apart, pooled, out=np.zeros_like(apart), where=pooled > 0).sum(axis=1) * n * m
    occupied = (pooled > 0).sum(axis=1)
    first, second = (np.einsum("sfj,fj->sf", scores, each.astype(np.float64)) for each in (one, other))
    squares = np.einsum("sfj,sfj,fj->sf", scores, scores, pooled.astype(np.float64))
    variances = np.maximum(squares / rows - ((first + second) / rows) ** 2, 0) * spare
    between = (first / n - second / m) ** 2 * n * m / rows
    varies = variances > 1e-9
    along = np.divide(between, variances, out=np.zeros_like(between), where=varies)
    return np.vstack([pearson, along]), np.vstack([(occupied - 1) * spare, varies])
