"""How are top scores spread? In hundredths from 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 100


class Spread:
    """A histogram of bins of equal width; those of replicas add up."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = np.zeros(STEPS, np.int64)

    def add(self, tops: NDArray[Any]) -> None:
        """Count scores from 0 to 1; NaN is none."""
        known = tops[~np.isnan(tops)].astype(np.float64)
        bins = np.clip((known * STEPS).astype(np.int64), 0, STEPS - 1)
        self._counts += np.bincount(bins, minlength=STEPS)

    def to_json(self) -> list[int]:
        """Return the counts, that of the lowest hundredth first."""
        return [int(count) for count in self._counts]
