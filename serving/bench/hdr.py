"""How are durations spread, to three significant digits, whatever their size?

Bins are linear within an octave, as in Gil Tene's HdrHistogram: 1,024 to each from 2,048 ns on, one a
nanosecond below. No bin is wider than a 1,024th of its lower edge, and a value is reported as its bin's
middle, so it is right within 1/2,048. Merging is addition. Memory is 8 bytes a bin up to the longest
duration seen: 90 KiB for a millisecond, 180 KiB for a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integers = NDArray[np.int64]

DIGITS = 3
STEPS_BITS = 10
STEPS = 1 << STEPS_BITS
RELATIVE_ERROR_MAX = 1 / (2 * STEPS)
DURATION_NS_MAX = (1 << 45) - 1
"""Nearly ten hours; what is longer is counted there."""


def bins_of(durations_ns: Integers) -> Integers:
    """Return the bin of each duration, in the same shape; each is between 0 and `DURATION_NS_MAX`."""
    # The exponent of a float64 is where the highest bit is; up to 2**53 that is exact.
    octave = (durations_ns.astype(np.float64).view(np.int64) >> 52) - (1023 + STEPS_BITS)
    np.maximum(octave, 0, out=octave)
    return (octave << STEPS_BITS) + (durations_ns >> octave)


def edges_of(bins: Integers) -> tuple[Integers, Integers]:
    """Return the least and the greatest duration of each bin, in nanoseconds."""
    octave = np.maximum((bins >> STEPS_BITS) - 1, 0)
    least = (bins - (octave << STEPS_BITS)) << octave
    return least, least + (np.int64(1) << octave) - 1


class Histogram:
    """Counts of durations in nanoseconds. Counts, minimum, maximum and sum are exact."""

    __slots__ = ("_counts", "count", "max_ns", "min_ns", "sum_ns")

    def __init__(self) -> None:
        self._counts: Integers = np.zeros(0, np.int64)
        self.count = 0
        self.sum_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    def __repr__(self) -> str:
        if not self.count:
            return "<Histogram: nothing>"
        shown = " ".join(f"p{100 * q:g} {self.quantile_ns(q) / 1e6:.3g}" for q in (0.5, 0.99, 0.999))
        return f"<Histogram: {self.count} | {shown} max {self.max_ns / 1e6:.3g} ms>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.document() == other.document()

    __hash__ = None  # type: ignore[assignment]  # It changes.

    def record(self, duration_ns: int, times: int = 1) -> None:
        """Count a duration; a negative one counts as 0."""
        if times > 0:
            self.record_many(np.full(times, duration_ns, np.int64))

    def record_many(self, durations_ns: ArrayLike) -> None:
        """Count many at once, of integers in nanoseconds."""
        given = np.asarray(durations_ns, np.int64).reshape(-1)
        if not given.size:
            return
        clipped = np.clip(given, 0, DURATION_NS_MAX)
        self._note(clipped.size, int(clipped.sum()), int(clipped.min()), int(clipped.max()))
        counted = np.bincount(bins_of(clipped))
        if not self._counts.size:
            self._counts = counted
            return
        self._fit(counted.size)
        self._counts[: counted.size] += counted

    def merge(self, other: Histogram) -> Self:
        """Add what another counted, and return this one."""
        if other.count:
            self._note(other.count, other.sum_ns, other.min_ns, other.max_ns)
            self._fit(other._counts.size)
            self._counts[: other._counts.size] += other._counts
        return self

    def quantile_ns(self, q: float) -> float:
        """Return the smallest duration that a share `q` of all do not exceed; NaN if there are none.

        It is right within `RELATIVE_ERROR_MAX` of the duration of that rank.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile is between 0 and 1, got {q}")
        if not self.count:
            return math.nan
        rank = min(max(math.ceil(q * self.count - 1e-12 * self.count), 1), self.count)
        at = np.searchsorted(np.cumsum(self._counts), rank)
        least, greatest = edges_of(np.asarray(at, np.int64))
        return min(max((int(least) + int(greatest)) / 2, self.min_ns), self.max_ns)

    def quantile_ms(self, q: float) -> float:
        """Return the same in milliseconds."""
        return self.quantile_ns(q) / 1e6

    @property
    def mean_ns(self) -> float:
        """The exact mean; NaN if there are none."""
        return self.sum_ns / self.count if self.count else math.nan

    def over(self, duration_ns: int) -> int:
        """Count the durations longer than this; those in its own bin are taken as not longer."""
        at = int(bins_of(np.array([min(max(duration_ns, 0), DURATION_NS_MAX)], np.int64))[0])
        return int(self._counts[at + 1 :].sum())

    def document(self) -> dict[str, Any]:
        """Return plain values, from which `read` makes it again."""
        (held,) = np.nonzero(self._counts)
        return {
            "unit": "ns",
            "digits": DIGITS,
            "count": self.count,
            "sum": self.sum_ns,
            "min": self.min_ns,
            "max": self.max_ns,
            "bins": [[int(at), int(self._counts[at])] for at in held],
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Make it of plain values.

        Raises
        ------
        ValueError
            If they are not of a histogram like this one.
        """
        if document.get("unit") != "ns" or document.get("digits") != DIGITS:
            raise ValueError(f"expected a histogram in ns with {DIGITS} digits, got {str(document)[:80]}")
        made, bins = cls(), document["bins"]
        if bins:
            made._note(*(int(document[name]) for name in ("count", "sum", "min", "max")))
            made._fill(bins)
        return made

    def _fill(self, bins: Sequence[Sequence[int]]) -> None:
        self._fit(1 + max(at for at, _ in bins))
        for at, count in bins:
            self._counts[at] += count
        if int(self._counts.sum()) != self.count:
            raise ValueError(f"the bins of a histogram hold {self._counts.sum()}, its count is {self.count}")

    def _note(self, count: int, sum_ns: int, min_ns: int, max_ns: int) -> None:
        self.min_ns = min(self.min_ns, min_ns) if self.count else min_ns
        self.max_ns = max(self.max_ns, max_ns)
        self.count += count
        self.sum_ns += sum_ns

    def _fit(self, bins: int) -> None:
        if bins > self._counts.size:
            self._counts = np.concatenate([self._counts, np.zeros(bins - self._counts.size, np.int64)])
