"""How long does a run of so many rows take on this device? Measured when it was loaded, and ever since.

Between the numbers of rows that were measured it is a straight line. They are the powers of two and one more
than each, so that a device that pads batches up to these is seen to do so.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping

SHARE = 4
"""A new measurement counts one part in so many."""
FACTOR_MAX = 16.0
"""How far runs may move away from what was measured first: a device may be shared, or too hot."""


def points(rows_max: int) -> list[int]:
    """Return the numbers of rows to measure: the largest first, which needs most memory."""
    powers = [1 << exponent for exponent in range(rows_max.bit_length())]
    chosen = {1, rows_max, *powers, *[power + 1 for power in powers if power + 1 < rows_max]}
    return [rows_max, *sorted(chosen - {rows_max})]


class Times:
    """Expected run times.

    Parameters
    ----------
    measured_ns : mapping of int to int
        Rows to the time from one end of a run to the next, while others wait to follow.
    copy_ns : mapping of int to int
        By how much a batch alone takes longer, from the first byte copied in to the last one copied out.
    """

    def __init__(self, measured_ns: Mapping[int, int], copy_ns: Mapping[int, int]) -> None:
        self._rows = sorted(measured_ns)
        self._ns: list[int] = []
        for rows in self._rows:  # More rows never take less; a run that did was lucky.
            self._ns.append(max(measured_ns[rows], 1, *self._ns[-1:]))
        self._copy_ns = [max(copy_ns.get(rows, 0), 0) for rows in self._rows]
        self._factors: dict[int, float] = {}

    def __repr__(self) -> str:
        told = ", ".join(f"{rows}: {self.run_ns(rows) / 1e6:.3g} ms" for rows in self._rows[-3:])
        return f"<Times {told}>"

    @property
    def rows_max(self) -> int:
        """The largest number of rows that was measured."""
        return self._rows[-1]

    def run_ns(self, rows: int) -> int:
        """Return how long the device would be busy."""
        return int(self._line(self._ns, rows) * self._factors.get(rows.bit_length(), 1.0))

    def copy_ns(self, rows: int) -> int:
        """Return how long the batch would be on its way to the device and back."""
        return int(self._line(self._copy_ns, rows))

    def rows_within(self, limit_ns: int) -> int:
        """Return the most rows that take no longer, 0 if one already does."""
        if self.run_ns(self.rows_max) <= limit_ns:
            return self.rows_max
        found = bisect_right(range(1, self.rows_max + 1), limit_ns, key=self.run_ns)
        while found and self.run_ns(found) > limit_ns:  # Corrections need not rise with the rows.
            found -= 1
        return found

    def note(self, rows: int, took_ns: int) -> None:
        """Learn from a run that followed another one without a gap."""
        size = rows.bit_length()
        before = self._factors.get(size, 1.0)
        seen = took_ns / self._line(self._ns, rows)
        now = before + (seen - before) / SHARE
        self._factors[size] = min(max(now, 1 / FACTOR_MAX), FACTOR_MAX)

    def bound(self, rows: int, took_ns: int) -> None:
        """Learn from a run that took this long with all that is around it: it takes no longer."""
        if took_ns < self.run_ns(rows):
            self._factors[rows.bit_length()] = max(took_ns / self._line(self._ns, rows), 1 / FACTOR_MAX)

    def _line(self, values: list[int], rows: int) -> float:
        at = bisect_left(self._rows, rows)
        if at == len(self._rows):
            return values[-1]
        if at == 0 or self._rows[at] == rows:
            return values[at]
        low, high = self._rows[at - 1], self._rows[at]
        return values[at - 1] + (values[at] - values[at - 1]) * (rows - low) / (high - low)
