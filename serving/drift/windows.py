"""What was counted lately? Three stretches of time over the same counts: sliding, decayed, and the latest.

Counts stay integers but in the decayed window, whose weights are put on sums of blocks and never on single
rows. Time is Unix time in seconds, so that windows go on after a restart; where it goes backwards it stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]

PARTS = 60
"""A sliding window moves on by so many parts of its length."""
LATEST_PARTS, LATEST_PART_S, LATEST_PART_ROWS = 5, 60.0, 200
"""The latest window: 5 minutes or 1,000 rows, whichever is more rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """What was counted of one panel over a stretch of time.

    Attributes
    ----------
    n : float
        Rows; a sum of weights in a decayed window.
    counts : int64 or float64[C, F]
        As in the panel's tally.
    sums : float64[2, F]
        Of z and of its square; zeros for categories.
    """

    n: float
    counts: NDArray[Any]
    sums: Numbers


class Sliding:
    """A ring of blocks that are summed when asked. Memory: 60 x the counts.

    Parameters
    ----------
    shape : tuple of int
        Of the counts, [C, F].
    span_s : float
        How long the window is; what it holds is between that and one part less.
    """

    def __init__(self, shape: tuple[int, int], span_s: float) -> None:
        self._part_s = span_s / PARTS
        self._slots = np.full(PARTS, -1, np.int64)
        self._n = np.zeros(PARTS, np.int64)
        self._counts = np.zeros((PARTS, *shape), np.int64)
        self._sums = np.zeros((PARTS, 2, shape[1]))

    def add(self, now_s: float, span: Span) -> None:
        """Count what is new."""
        slot = max(int(now_s // self._part_s), int(self._slots.max()))
        at = slot % PARTS
        if self._slots[at] != slot:
            self._slots[at], self._n[at], self._counts[at], self._sums[at] = slot, 0, 0, 0
        self._n[at] += int(span.n)
        self._counts[at] += span.counts
        self._sums[at] += span.sums

    def total(self, now_s: float) -> Span:
        """Return what is in the window."""
        slot = max(int(now_s // self._part_s), int(self._slots.max()))
        kept = self._slots > max(slot - PARTS, -1)
        return Span(int(self._n[kept].sum()), self._counts[kept].sum(axis=0), self._sums[kept].sum(axis=0))

    def arrays(self) -> Arrays:
        """Return what `restore` goes on from."""
        part_s = np.array(self._part_s)
        return {
            "part_s": part_s,
            "slots": self._slots,
            "n": self._n,
            "counts": self._counts,
            "sums": self._sums,
        }

    def restore(self, arrays: Arrays) -> None:
        """Go on from what `arrays` gave; a window of another length begins anew."""
        if float(arrays["part_s"]) != self._part_s:
            return
        self._slots[:], self._n[:] = arrays["slots"], arrays["n"]
        self._counts[:], self._sums[:] = arrays["counts"], arrays["sums"]


class Decayed:
    """Counts whose weight halves every `half_life_s`."""

    def __init__(self, shape: tuple[int, int], half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._at_s = 0.0
        self._n = 0.0
        self._counts = np.zeros(shape)
        self._sums = np.zeros((2, shape[1]))

    def add(self, now_s: float, span: Span) -> None:
        """Count what is new."""
        weight = self._weight(now_s)
        self._at_s = max(self._at_s, now_s)
        self._n = self._n * weight + span.n
        self._counts *= weight
        self._counts += span.counts
        self._sums *= weight
        self._sums += span.sums

    def total(self, now_s: float) -> Span:
        """Return the sums as they weigh now."""
        weight = self._weight(now_s)
        return Span(self._n * weight, self._counts * weight, self._sums * weight)

    def _weight(self, now_s: float) -> float:
        return float(0.5 ** (max(now_s - self._at_s, 0.0) / self._half_life_s))

    def arrays(self) -> Arrays:
        """Return what `restore` goes on from."""
        return {"scalars": np.array([self._at_s, self._n]), "counts": self._counts, "sums": self._sums}

    def restore(self, arrays: Arrays) -> None:
        """Go on from what `arrays` gave."""
        self._at_s, self._n = map(float, arrays["scalars"])
        self._counts[:], self._sums[:] = arrays["counts"], arrays["sums"]


class Latest:
    """The latest rows since some moment, once they are enough to say that something is over.

    Parts of at least 60 s and 200 rows each; five that are whole, and the one that is not yet.
    """

    def __init__(self, shape: tuple[int, int], now_s: float) -> None:
        self._whole: deque[tuple[float, Counts]] = deque(maxlen=LATEST_PARTS)
        self._began_s = now_s
        self._counts = np.zeros(shape, np.int64)
        self._n = 0

    @property
    def began_s(self) -> float:
        """Since when rows are in it."""
        return self._whole[0][0] if self._whole else self._began_s

    def add(self, now_s: float, span: Span) -> None:
        """Count what is new."""
        self._counts += span.counts
        self._n += int(span.n)
        if self._n >= LATEST_PART_ROWS and now_s - self._began_s >= LATEST_PART_S:
            self._whole.append((self._began_s, self._counts))
            self._began_s, self._counts, self._n = now_s, np.zeros_like(self._counts), 0

    def total(self) -> Counts | None:
        """Return the counts, or None while there are too few."""
        if len(self._whole) < LATEST_PARTS:
            return None
        return sum((counts for _, counts in self._whole), self._counts)

    def arrays(self) -> Arrays:
        """Return what `restore` goes on from."""
        whole = [counts for _, counts in self._whole]
        return {
            "began_s": np.array([began_s for began_s, _ in self._whole] + [self._began_s]),
            "counts": np.stack([*whole, self._counts]),
            "n": np.array(self._n),
        }

    def restore(self, arrays: Arrays) -> None:
        """Go on from what `arrays` gave."""
        *whole_s, self._began_s = map(float, arrays["began_s"])
        *whole, self._counts = (np.array(each) for each in arrays["counts"])
        self._whole = deque(zip(whole_s, whole, strict=True), maxlen=LATEST_PARTS)
        self._n = int(arrays["n"])
