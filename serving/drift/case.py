"""What is known of one panel against its reference: its windows, its evidence, and how far it is off?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import distance
from kernels.detect import Detector
from serving.drift.profile import Edges, Panel
from serving.drift.tally import Tally
from serving.drift.windows import Decayed, Latest, Sliding, Span

Counts = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Numbers = NDArray[np.float64]


class Case:
    """One panel of a stream. Its counts are bins: [bins, F], and for numbers one more row for Inf.

    Parameters
    ----------
    panel : Edges or Alphabet
    together : int
        The features of all panels of the stream, which is judged as a whole.
    window_s, half_life_s : float

    Attributes
    ----------
    reference : int64[F, bins]
        What was normal.
    """

    def __init__(self, panel: Panel, together: int, window_s: float, half_life_s: float) -> None:
        self.panel = panel
        self.ordered = isinstance(panel, Edges)
        self.reference: Counts = self.bins(_binned(panel, panel.n, panel.counts))
        shape = (panel.bins + self.ordered, len(panel.features))
        self._shape = shape
        self.sliding = Sliding(shape, window_s)
        self.decayed = Decayed(shape, half_life_s)
        self.latest: Latest | None = None
        """Kept while there is an alarm, to see when it is over."""
        possible = _possible(panel)
        self.detector = Detector(self.reference, ordered=self.ordered, possible=possible, together=together)

    @property
    def features(self) -> tuple[str, ...]:
        """Their names."""
        return self.panel.features

    def span(self, tally: Tally) -> Span:
        """Return what was counted as bins."""
        sums = tally.sums if tally.sums is not None else np.zeros((2, tally.features))
        return Span(tally.n, _binned(self.panel, tally.n, tally.counts), sums)

    def fits(self, tally: Tally) -> bool:
        """Say whether it was counted by this reference."""
        return tally.counts.shape == self.panel.counts.shape and (tally.alphabet is None) == self.ordered

    def take(self, new: Tally, now_s: float) -> None:
        """Take in what is new: one block."""
        span = self.span(new)
        self.sliding.add(now_s, span)
        self.decayed.add(now_s, span)
        if self.latest is not None:
            self.latest.add(now_s, span)
        self.detector.update(self.bins(span.counts))

    def bins(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Return counts as distances want them, [F, bins], without the row of Inf."""
        return np.ascontiguousarray((counts[:-1] if self.ordered else counts).T)

    def psi_changed(self) -> Numbers:
        """Return how large the change is, in the rows since it began."""
        return distance.psi_excess(self.reference, self.detector.changed)

    def psi_latest(self) -> Numbers | None:
        """Return how large it is in the latest rows; None while they are too few, or none are kept."""
        counts = self.latest.total() if self.latest is not None else None
        return None if counts is None else distance.psi_excess(self.reference, self.bins(counts))

    def follow(self, now_s: float) -> None:
        """Keep the latest rows from now on."""
        self.latest = Latest(self._shape, now_s)

    def rest(self) -> None:
        """Begin anew: what was is over."""
        self.latest = None
        self.detector.reset(np.ones(len(self.features), np.bool_))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that changes, from which `restore` goes on."""
        parts: dict[str, Mapping[str, NDArray[Any]]] = {
            "sliding": self.sliding.arrays(),
            "decayed": self.decayed.arrays(),
            "detector": self.detector.arrays(),
        }
        if self.latest is not None:
            parts["latest"] = self.latest.arrays()
        return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `arrays` returned, of a case with the same reference."""

        def part(name: str) -> dict[str, NDArray[Any]]:
            begin = f"{name}."
            return {key.removeprefix(begin): each for key, each in arrays.items() if key.startswith(begin)}

        self.sliding.restore(part("sliding"))
        self.decayed.restore(part("decayed"))
        self.detector.restore(part("detector"))
        if latest := part("latest"):
            self.follow(0.0)
            assert self.latest is not None
            self.latest.restore(latest)


def _binned(panel: Panel, n: int, counts: Counts) -> Counts:
    """Return a tally's counts as bins, [bins, F], and of numbers those of Inf behind them."""
    if not isinstance(panel, Edges):
        return counts
    return np.vstack([distance.bins(counts, n).T, counts[1]])


def _possible(panel: Panel) -> Booleans:
    """Return which bins a value can be in at all, [F, bins]: edges and codes that only pad make none."""
    if isinstance(panel, Edges):
        real = np.isfinite(panel.edges)
        ends = np.ones((1, len(panel.features)), np.bool_)
        return np.ascontiguousarray(np.vstack([ends, real[:-1], ends, ends]).T)
    used = np.arange(len(panel.codes))[:, None] < panel.sizes
    return np.ascontiguousarray(np.vstack([used, np.ones((1, len(panel.features)), np.bool_)]).T)
