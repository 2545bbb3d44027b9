"""Which of the rows that come fall to a share of them? Each is drawn for itself, whatever its batch."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from router.table import WHOLE_BP

DRAWN = 1024
"""Rows that are drawn together, by their distances: geometric ones, as if a coin fell for each row."""


class Draw:
    """An endless lottery.

    Parameters
    ----------
    share_bp : int
        How many of 10,000 rows are drawn, of which there is at least one.
    random : numpy.random.Generator
    """

    __slots__ = ("_at", "_drawn", "_last", "_list", "_next", "_random", "_seen", "_share")

    def __init__(self, share_bp: int, random: np.random.Generator) -> None:
        self._share = share_bp / WHOLE_BP
        self._random = random
        self._seen = 0
        self._last, self._next, self._at = -1, -1, 0
        self._fill()

    def rows(self, count: int) -> NDArray[np.int64] | None:
        """Return which of the next `count` rows are drawn, ascending, or None for none of them."""
        seen = self._seen
        self._seen = stop = seen + count
        if self._next >= stop:
            return None
        at = self._at
        self._at = bisect_left(self._list, stop, at)
        rows = self._drawn[at : self._at] - seen
        while self._at == DRAWN:
            self._fill()
            self._at = bisect_left(self._list, stop)
            rows = np.concatenate([rows, self._drawn[: self._at] - seen])
        self._next = self._list[self._at]
        return rows

    def _fill(self) -> None:
        self._drawn: NDArray[np.int64] = self._last + np.cumsum(self._random.geometric(self._share, DRAWN))
        self._list: list[int] = self._drawn.tolist()
        self._last = self._list[-1]
        self._at = 0
        self._next = self._list[0]
