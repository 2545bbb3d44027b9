"""How good were the answers of a version, as far as their labels are known? Counts that add up over replicas.

All but the sums of scores' errors are integers, so they add up to the same whatever the order: probabilities
are counted in millionths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.histogram import bins_ns
from serving.labels.decision import Classes, Scores
from serving.shadow.comparison import total

OTHER = -1
"""In the place of a class that is not told apart."""
BINS = 20
"""Of equal width, in which it is compared how sure a version was and how often it was right."""
MILLION = 1_000_000

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Cell = tuple[int, int]
"""A class that the label said, and the one that was answered."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Labelled answers of one confidence."""

    labels: int = 0
    right: int = 0
    sure: int = 0
    """The sum of their confidences, in millionths."""

    def __add__(self, other: Bin) -> Bin:
        return Bin(self.labels + other.labels, self.right + other.right, self.sure + other.sure)


@dataclass(frozen=True, slots=True)
class Quality:
    """What labels said of the answers of one version.

    Attributes
    ----------
    classed, right : int
        Labels that said a class, and of these those that said what was answered.
    cells : mapping of Cell to int
        How many labels said the one where the other was answered.
    bins : mapping of int to Bin
        By confidence, of those that had one.
    squared : int
        The sum of the squared differences of confidence and being right, in millionths.
    scored, unreal : int
        Labels that said a score of an answer that was a finite number, and of one that was not.
    absolute, square : float
        The sums of what the former were off, and of its square.
    delay_us : int
        The sum of how long after their answers labels came.
    delays : mapping of int to int
        How many came how long after: bins of `kernels.histogram`, but of microseconds.
    """

    classed: int = 0
    right: int = 0
    cells: Mapping[Cell, int] = field(default_factory=dict)
    bins: Mapping[int, Bin] = field(default_factory=dict)
    squared: int = 0
    scored: int = 0
    unreal: int = 0
    absolute: float = 0.0
    square: float = 0.0
    delay_us: int = 0
    delays: Mapping[int, int] = field(default_factory=dict)

    @property
    def labelled(self) -> int:
        """How many answers have a label."""
        return self.classed + self.scored + self.unreal

    @property
    def wrong(self) -> int:
        """How many labels said another class than what was answered."""
        return self.classed - self.right

    def __add__(self, other: Quality) -> Quality:
        sums = {name: getattr(self, name) + getattr(other, name) for name in PLAIN}
        return Quality(
            **sums,
            cells=total(self.cells, other.cells),
            bins=total(self.bins, other.bins),
            delays=total(self.delays, other.delays),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        document: dict[str, Any] = {name: getattr(self, name) for name in PLAIN}
        document["cells"] = [[*cell, count] for cell, count in self.cells.items()]
        document["bins"] = [[at, *asdict(each).values()] for at, each in self.bins.items()]
        document["delays"] = [[at, count] for at, count in self.delays.items()]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Quality:
        """Read what `to_json` wrote; a `ValueError`, `TypeError` or `KeyError` says that it is another's."""
        plain = {name: document[name] for name in PLAIN}
        cells = {(said, answered): count for said, answered, count in document["cells"]}
        bins = {at: Bin(*each) for at, *each in document["bins"]}
        return cls(**plain, cells=cells, bins=bins, delays=dict(document["delays"]))


PLAIN = tuple(each.name for each in fields(Quality) if each.name not in ("cells", "bins", "delays"))


@dataclass(frozen=True, slots=True)
class Seen:
    """How many answers a version gave that can be labelled, and that cannot. Rows, since the process began.

    Attributes
    ----------
    answered : int
        Remembered: they came with an id, and something decided.
    unnamed : int
        Came without an id.
    lost : int
        Were not remembered, since too many waited to be, or since their outputs could not be told apart.
    why_not : str
        Why nothing of the version is remembered at all; empty if it is.
    """

    answered: int = 0
    unnamed: int = 0
    lost: int = 0
    why_not: str = ""

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.answered + other.answered,
            self.unnamed + other.unnamed,
            self.lost + other.lost,
            self.why_not or other.why_not,
        )


def of_classes(said: Integers, answered: Classes, sure: Scores, delays_us: Integers, most: int) -> Quality:
    """Count labels that say a class.

    Parameters
    ----------
    said : (n,) int64
    answered : (n,) int32
    sure : (n,) float32
        The probability that the version gave its answer; NaN if none is known.
    delays_us : (n,) int64
    most : int
        Classes from here on are one.
    """
    right = said == answered
    known = (sure >= 0) & (sure <= 1)
    confidence, hits = sure[known].astype(np.float64), right[known]
    return Quality(
        classed=len(said),
        right=int(np.count_nonzero(right)),
        cells=_cells(said, answered.astype(np.int64), most),
        bins=_bins(confidence, hits),
        squared=int(_millionths((confidence - hits) ** 2).sum()),
        **_delays(delays_us),
    )


def of_scores(said: Floats, answered: Scores, delays_us: Integers) -> Quality:
    """Count labels that say a score, (n,) each."""
    real = np.isfinite(answered)
    off = answered[real].astype(np.float64) - said[real]
    return Quality(
        scored=int(np.count_nonzero(real)),
        unreal=int(np.count_nonzero(~real)),
        absolute=float(np.abs(off).sum()),
        square=float((off**2).sum()),
        **_delays(delays_us),
    )


def _cells(said: Integers, answered: Integers, most: int) -> dict[Cell, int]:
    side = most + 1
    places = (_told_apart(said, most) + 1) * side + _told_apart(answered, most) + 1
    cells, counts = np.unique(places, return_counts=True)
    pairs = zip(cells.tolist(), counts.tolist(), strict=True)
    return {(cell // side - 1, cell % side - 1): count for cell, count in pairs}


def _told_apart(classes: Integers, most: int) -> Integers:
    return np.where((classes >= 0) & (classes < most), classes, OTHER)


def _bins(confidence: Floats, right: NDArray[np.bool_]) -> dict[int, Bin]:
    at = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    labels = np.bincount(at, minlength=BINS).tolist()
    hits = np.bincount(at[right], minlength=BINS).tolist()
    sure = np.zeros(BINS, np.int64)
    np.add.at(sure, at, _millionths(confidence))
    counted = enumerate(zip(labels, hits, sure.tolist(), strict=True))
    return {place: Bin(*each) for place, each in counted if each[0]}


def _millionths(values: Floats) -> Integers:
    return np.rint(values * MILLION).astype(np.int64)


def _delays(delays_us: Integers) -> dict[str, Any]:
    """Return what is counted of delays; a label from before its answer came at once."""
    late_us = np.maximum(delays_us, 0)
    bins, counts = np.unique(bins_ns(late_us), return_counts=True)
    delays = dict(zip(bins.tolist(), counts.tolist(), strict=True))
    return {"delay_us": int(late_us.sum()), "delays": delays}
