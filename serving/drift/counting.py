"""How are the rows of a stream counted, batch after batch? By kernels, onto what was counted before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import categories, channels, fold, loglinear, outputs, projection
from serving.drift.measure import Measure
from serving.drift.sheet import HEAD, Page, PanelCounts
from serving.drift.sheet import ROWS as COUNTED
from serving.drift.tally import realigned
from serving.drift.view import CONFIDENCE, Kind, Look, View

ROWS_MAX = 4096
BYTES_MAX = 256 << 10
"""What is counted at once, in a fraction of a millisecond; what is made of it on the way is twice that."""

Matrix = NDArray[Any]
Take = Callable[[Matrix], None]


def warm() -> None:
    """Have all kernels compiled that are not by having been imported."""
    for each in (loglinear, outputs, projection):
        each.compiled()


class Counting:
    """The counts of one stream in the making.

    Counts are kept in 32 bits, as kernels like them, and moved to the page whenever it is shown.

    Parameters
    ----------
    look : Look
    measures : tuple of Measure
    page : Page
        What was counted before; it is changed in place.
    """

    def __init__(self, look: Look, measures: tuple[Measure, ...], page: Page) -> None:
        self.page = page
        self.rows_max = max(1, min(ROWS_MAX, BYTES_MAX // look.row_bytes))
        self._eye = Eye(look)
        self._panels = {each.panel: _panel(each, page.panels[each.panel]) for each in measures}

    def count(self, rows: Matrix) -> None:
        """Count rows as they stand in the ring."""
        for name, matrix in self._eye.see(rows).items():
            self._panels[name].count(matrix)
        self.page.words[COUNTED] += len(rows)
        self.page.words[HEAD] += len(rows)

    def settle(self) -> Page:
        """Return the page with all that was counted."""
        for panel in self._panels.values():
            panel.settle()
        return self.page


class Eye:
    """What `serving.drift.features.panels` does, by kernels."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._signs = projection.matrix(look.elements if look.view is View.PROJECTION else 0)

    def see(self, rows: Matrix) -> dict[str, Matrix]:
        """Return the matrix of each panel."""
        look = self._look
        values = np.ascontiguousarray(rows, look.numbers)
        match look.view:
            case View.CODES:
                return {"codes": values}
            case View.FEATURES:
                return {"values": values}
            case View.PROJECTION:
                return {"projection": self._project(values)}
            case View.CHANNELS:
                return {"channels": self._channels(values)}
            case View.SCORES:
                return self._scores(values)

    def _project(self, values: Matrix) -> Matrix:
        made = np.empty((len(values), projection.OUTPUTS), np.float32)
        projection.compiled()(values, self._signs, made)
        return made

    def _channels(self, values: Matrix) -> Matrix:
        count = self._look.shape[self._look.channel_axis]
        made = np.empty((len(values), 4 * count), np.float32)
        if self._look.channel_axis == 0:
            channels.first(values.reshape(len(values), count, -1), made)
        else:
            channels.last(values.reshape(len(values), -1, count), made)
        return made

    def _scores(self, values: Matrix) -> dict[str, Matrix]:
        classes = np.empty(len(values), np.int64)
        confidence, entropy = np.empty((2, len(values)), np.float32)
        outputs.compiled()(values, classes, confidence, entropy)
        both = np.stack([confidence, entropy], axis=1)
        made: dict[str, Matrix] = {"class": classes[:, None], CONFIDENCE: both}
        if len(self._look.panels) > len(made):
            made["scores"] = values
        return made


class Values:
    """Numbers against the edges of a reference; with none, they are only added up."""

    def __init__(self, measure: Measure, panel: PanelCounts) -> None:
        self._panel = panel
        dtype = np.dtype(measure.dtype)
        self._edges = np.array(measure.edges, dtype, order="C")
        self._shift = np.array(measure.shift, np.float64, order="C")
        self._extremes = panel.extremes.astype(dtype)
        self._counts = np.zeros((2 + len(self._edges), measure.features), np.uint32)

    def count(self, matrix: Matrix) -> None:
        """Count the values of a matrix."""
        values = np.ascontiguousarray(matrix, self._edges.dtype)
        fold.fold(values, self._edges, self._shift, self._panel.sums, self._extremes, self._counts)

    def settle(self) -> None:
        """Move the counts to the page."""
        self._panel.counts += self._counts
        self._panel.extremes[:] = self._extremes
        self._counts[:] = 0


class Spread:
    """Numbers without a reference: in cells, and added up."""

    def __init__(self, measure: Measure, panel: PanelCounts) -> None:
        self._panel = panel
        self._dtype = np.dtype(measure.dtype)
        self._no_edges = np.empty((0, measure.features), self._dtype)
        self._shift = np.array(measure.shift, np.float64, order="C")
        self._extremes = panel.extremes.astype(self._dtype)
        self._odd = np.zeros((2, measure.features), np.uint32)
        self._cells = np.zeros((loglinear.CELLS, measure.features), np.uint32)
        self._count = loglinear.compiled()

    def count(self, matrix: Matrix) -> None:
        """Count the values of a matrix."""
        values = np.ascontiguousarray(matrix, self._dtype)
        fold.fold(values, self._no_edges, self._shift, self._panel.sums, self._extremes, self._odd)
        self._count(values, self._cells)

    def settle(self) -> None:
        """Move the counts to the page."""
        self._panel.counts += self._cells
        self._panel.extremes[:] = self._extremes
        self._cells[:] = 0


class Categories:
    """Codes against an alphabet, or one that grows with what comes, up to its room."""

    def __init__(self, measure: Measure, panel: PanelCounts) -> None:
        self._panel = panel
        self._learns = measure.learns
        self._alphabet = np.array(panel.alphabet, order="C")
        self._sizes = panel.sizes.copy()
        self._counts = np.zeros(panel.counts.shape, np.uint32)

    def count(self, matrix: Matrix) -> None:
        """Count the codes of a matrix."""
        codes = np.ascontiguousarray(matrix, np.int64)
        take = categories.learn if self._learns else categories.count
        take(codes, self._alphabet, self._sizes, self._counts)

    def settle(self) -> None:
        """Move the counts to the page, where they may have to make room for new codes."""
        panel = self._panel
        if self._learns and not np.array_equal(self._sizes, panel.sizes):
            panel.counts[:] = realigned(panel.counts, panel.alphabet, self._alphabet)
            panel.alphabet[:], panel.sizes[:] = self._alphabet, self._sizes
        panel.counts += self._counts
        self._counts[:] = 0


def _panel(measure: Measure, panel: PanelCounts) -> Values | Spread | Categories:
    match measure.kind:
        case Kind.VALUES:
            return Values(measure, panel)
        case Kind.SPREAD:
            return Spread(measure, panel)
        case Kind.CATEGORIES:
            return Categories(measure, panel)
