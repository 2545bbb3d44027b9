"""How far is a stream counted, and what are its counts? In shared memory, which outlives whoever counts.

A sheet has two pages: the process writes the one that is not shown, and then shows it. So whoever reads finds
a whole one, also after the process was killed in the middle of a word; and as the place in the ring stands
beside the counts, the next process goes on exactly behind what they hold.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.drift.measure import Measure
from serving.drift.tally import Tally
from serving.drift.view import Kind
from serving.shadow.ring import shared

READS_MAX = 32
"""How often a page is read anew that was shown and replaced meanwhile."""
HEAD, ROWS = range(2)
"""Words of a page: how many rows of the ring are behind it, and how many of them are counted here."""
WORDS = 8
SHOWN, DONE = range(2)
"""Words in front of the pages: which one is shown; and whether the stream is over, and all of it counted."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Form:
    """Where the numbers of a page stand: of each panel counts, then sums and extremes, or an alphabet."""

    measures: tuple[Measure, ...]
    starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        lengths = [each.features * (each.counts + _further(each)) for each in self.measures]
        object.__setattr__(self, "starts", tuple(accumulate(lengths, initial=WORDS)))

    @property
    def words(self) -> int:
        """How many numbers a page has."""
        return self.starts[-1]


def _further(measure: Measure) -> int:
    """Return how many numbers a feature has beside its counts: sums and extremes, or codes and their size."""
    return len(measure.alphabet) + 1 if measure.kind is Kind.CATEGORIES else 4


class PanelCounts:
    """A panel's part of a page, in place. See `serving.drift.tally.Tally` for the arrays."""

    __slots__ = ("alphabet", "counts", "extremes", "kind", "sizes", "sums")

    def __init__(self, measure: Measure, numbers: Numbers) -> None:
        rows, features = measure.counts, measure.features
        self.kind = measure.kind
        self.counts = numbers[: rows * features].reshape(rows, features)
        rest: NDArray[Any] = numbers[rows * features :].reshape(-1, features)
        categories = self.kind is Kind.CATEGORIES
        self.alphabet, self.sizes = (rest[:-1], rest[-1]) if categories else (rest[:0], rest[0])
        wide = rest.view(np.float64)
        self.sums, self.extremes = (wide[:0], wide[:0]) if categories else (wide[:2], wide[2:])

    def begin(self, measure: Measure) -> None:
        """Count nothing yet."""
        self.counts[:] = 0
        if self.kind is Kind.CATEGORIES:
            self.alphabet[:], self.sizes[:] = measure.alphabet, measure.sizes
        else:
            self.sums[:] = 0
            self.extremes[0], self.extremes[1] = np.inf, -np.inf

    def tally(self, n: int) -> Tally:
        """Return what is counted of `n` rows."""
        if self.kind is Kind.CATEGORIES:
            return Tally(self.kind, n, self.counts, None, None, self.alphabet, self.sizes)
        return Tally(self.kind, n, self.counts, self.sums, self.extremes)


class Page:
    """A page of a sheet.

    Attributes
    ----------
    words : int64[WORDS]
    panels : dict of str to PanelCounts
    """

    __slots__ = ("all", "panels", "words")

    def __init__(self, form: Form, numbers: Numbers) -> None:
        self.all = numbers
        self.words = numbers[:WORDS]
        ends = form.starts[1:]
        self.panels = {
            each.panel: PanelCounts(each, numbers[start:stop])
            for each, start, stop in zip(form.measures, form.starts, ends, strict=False)
        }


class Sheet:
    """The shared memory, for either side.

    Parameters
    ----------
    measures : sequence of Measure
    fd : int
        Of a sheet that there is; without it a new one is made.
    head : int
        How many rows of the ring a new one is not about.
    """

    def __init__(self, measures: Sequence[Measure], fd: int = -1, head: int = 0) -> None:
        self.form = Form(tuple(measures))
        words = self.form.words
        self.fd = fd if fd >= 0 else shared(8 * (WORDS + 2 * words))
        numbers: Numbers = np.frombuffer(mmap.mmap(self.fd, 0), np.int64)
        self._words = numbers[:WORDS]
        self._pages = numbers[WORDS:].reshape(2, words)
        if fd < 0:
            page = Page(self.form, self._pages[0])
            page.words[HEAD] = head
            for measure, panel in zip(measures, page.panels.values(), strict=True):
                panel.begin(measure)

    @property
    def done(self) -> bool:
        """Whether the stream is over and all of it counted."""
        return bool(self._words[DONE])

    @property
    def head(self) -> int:
        """How many rows of the ring are behind what is counted. Only while no process counts."""
        return int(self._pages[self._words[SHOWN] & 1, HEAD])

    @property
    def rows(self) -> int:
        """How many rows are counted; whether these are news is cheaper to ask so than by `read`."""
        return int(self._pages[self._words[SHOWN] & 1, ROWS])

    def read(self) -> Page:
        """Return the page that was shown last."""
        for _ in range(READS_MAX):
            shown = int(self._words[SHOWN])
            numbers = self._pages[shown & 1].copy()
            if int(self._words[SHOWN]) == shown:
                break  # Else it was replaced, and by now the next one may be half written in its place.
        return Page(self.form, numbers)

    def show(self, page: Page) -> None:
        """Show this page instead of the one before. For the process alone."""
        shown = int(self._words[SHOWN]) + 1
        self._pages[shown & 1] = page.all
        self._words[SHOWN] = shown

    def finish(self) -> None:
        """Say that nothing more will be counted. For the process alone."""
        self._words[DONE] = 1

    def close(self) -> None:
        """Hand it to no further process. It can still be read."""
        os.close(self.fd)
