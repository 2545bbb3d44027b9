"""What is counted when two models' outputs are compared? Where each count stands, so that sums can be added.

Everything adds up with what was counted of other batches, by other processes, but for `LARGEST`, of
which the greater one is kept. Knows no numba, so that those who only read need none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

CLASSES_MAX = 64
"""Classes that a flip matrix tells apart; all others share its last row and column."""
RANKS_MAX = 128
"""Longest row whose scores are ranked; by insertion, which for longer ones would take too long."""
LARGEST_FLOAT = float(np.finfo(np.float64).max)
"""Where differences and their sums end: infinity would be no number that can be told on."""

ROWS, CLASSED, AGREED, FINITE, ODD_PRIMARY, ODD_SHADOW, RANKED, CONCORDANT, DISCORDANT = range(9)
"""Indices of the counts: rows (or labels) compared; of these, that have a class (or are labels), and the
same on both sides; pairs of scores of which both are finite; scores of either side that are not; rows whose
ranks were correlated; neighbouring rows that both order alike, or not."""
COUNTS = 9
LARGEST, TOTAL, CORRELATION = range(3)
"""Indices of the sums: the largest difference, that of all, and that of the rows' rank correlations."""
SUMS = 3


def side(classes: int) -> int:
    """Return the side of the flip matrix for so many classes: one each, and one for all others."""
    return min(classes, CLASSES_MAX) + 1
