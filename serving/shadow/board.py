"""What has a shadow's process counted, and what is it doing? In shared memory, which outlives the process.

For each version that the shadow is compared with there is an arm, and each arm has a sheet of numbers, twice:
the process writes the sheet that is not shown, and then shows it. So whoever reads finds a whole one,
also after the process was killed in the middle of a word.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from kernels.histogram import BINS
from kernels.tally import COUNTS, SUMS, Floats, Integers
from serving.shadow.ring import shared

ARMS_MAX = 32
"""Versions that a shadow is compared with in its life, as many as can be live at once."""
READS_MAX = 32
"""How often a sheet is read anew that was shown and replaced meanwhile."""

ROWS, SLOWER, PRIMARY_NS, SHADOW_NS, LAST_NS, STALE, FAILED, MISFIT = range(8)
"""Words of a sheet: rows compared, runs that were slower than the primary's, nanoseconds of either's, when
the last comparison was, and rows that were dropped and why."""
WORDS = 8

READY, SINCE_NS, USED_NS, ARM, LOST = range(5)
"""Words about the process: the version is loaded; when the run under way began (0: none does), by the
clock and by the processor time used; whose rows are in it, and how many."""
DESK_WORDS = 512


@dataclass(frozen=True, slots=True)
class Form:
    """Where the numbers of a sheet stand.

    `sides` are those of the flip matrices, an output each; 0 for one that has no classes.
    """

    sides: tuple[int, ...]
    starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        lengths = [COUNTS + SUMS + side * side for side in self.sides]
        object.__setattr__(self, "starts", tuple(accumulate(lengths, initial=WORDS + 2 * BINS)))

    @property
    def words(self) -> int:
        """How many numbers a sheet has."""
        return self.starts[-1]


class Sheet:
    """An arm's numbers.

    Attributes
    ----------
    words : (WORDS,) int64
    durations : (2, bins) int64
        Of the primary's runs and the shadow's, in bins of `kernels.histogram`.
    counts, sums, flips : list of ndarray
        For each output, as `kernels.tally` has them.
    """

    __slots__ = ("all", "counts", "durations", "flips", "sums", "words")

    def __init__(self, form: Form, numbers: Integers) -> None:
        self.all = numbers
        self.words = numbers[:WORDS]
        self.durations = numbers[WORDS : WORDS + 2 * BINS].reshape(2, BINS)
        self.counts: list[Integers] = []
        self.sums: list[Floats] = []
        self.flips: list[Integers] = []
        for start, side in zip(form.starts, form.sides, strict=False):
            sums, flips = start + COUNTS, start + COUNTS + SUMS
            self.counts.append(numbers[start:sums])
            self.sums.append(numbers[sums:flips].view(np.float64))
            self.flips.append(numbers[flips : flips + side * side].reshape(side, side))


class Board:
    """The shared memory, for either side.

    Parameters
    ----------
    sides : sequence of int
        See `Form`.
    fd : int
        Of a board that there is; without it a new one is made.
    """

    def __init__(self, sides: Sequence[int], fd: int = -1) -> None:
        self.form = Form(tuple(sides))
        words = DESK_WORDS + 2 * ARMS_MAX * self.form.words
        self.fd = fd if fd >= 0 else shared(8 * words)
        self._numbers: Integers = np.frombuffer(mmap.mmap(self.fd, 0), np.int64)
        self.desk = self._numbers[:DESK_WORDS]
        self._shown = self.desk[DESK_WORDS - ARMS_MAX :]
        self._sheets = self._numbers[DESK_WORDS:].reshape(ARMS_MAX, 2, self.form.words)

    def read(self, arm: int) -> Sheet:
        """Return the sheet of an arm as it was shown last."""
        for _ in range(READS_MAX):
            shown = int(self._shown[arm])
            numbers = self._sheets[arm, shown & 1].copy()
            if int(self._shown[arm]) == shown:
                break  # Else it was replaced, and by now the next one may be half written in its place.
        return Sheet(self.form, numbers)

    def close(self) -> None:
        """Hand it to no further process. It can still be read."""
        os.close(self.fd)

    def show(self, arm: int, sheet: Sheet) -> None:
        """Show this sheet instead of the one before. For the process alone."""
        shown = int(self._shown[arm]) + 1
        self._sheets[arm, shown & 1] = sheet.all
        self._shown[arm] = shown
