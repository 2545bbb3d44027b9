"""Which detectors of others are tried, and how are they asked so that all can be held to one rate?

Each is imported only when it is tried: they live in an environment of their own, requirements/peers.txt.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from loadtests.driftbench.streams import Values

EVERY_ROWS = 50
"""How often a window is tested where a detector does not see single rows."""
BISECTIONS = 9


class Contender(Protocol):
    """A detector whose sensitivity is one number, the bar; a higher one alarms less often."""

    @property
    def name(self) -> str:
        """What it is called, with what was chosen."""

    @property
    def package(self) -> str:
        """What has to be installed."""

    @property
    def shipped(self) -> float | None:
        """The bar that it has if none is given."""

    @property
    def runs(self) -> tuple[int, int]:
        """How many streams without and with a change there is time for."""

    @property
    def lead_rows(self) -> int | None:
        """Rows before a change that matter to it; None if all do."""

    def first(self, bar: float, reference: Values, stream: Values) -> float:
        """Return after how many rows it alarms; inf if it never does."""

    def calibrated(self, alpha: float, references: Values, streams: Values) -> float:
        """Return the lowest bar at which at most a share of alpha of undrifted streams, in columns, alarm."""


Scores = Callable[[Values, Values], Iterator[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Scored:
    """A detector that tells how strongly it believes in a change."""

    name: str
    package: str
    scores: Scores
    shipped: float | None
    runs: tuple[int, int]
    lead_rows: int | None

    def first(self, bar: float, reference: Values, stream: Values) -> float:
        """Ask after every score."""
        return next((rows for rows, score in self.scores(reference, stream) if score >= bar), math.inf)

    def calibrated(self, alpha: float, references: Values, streams: Values) -> float:
        """Take the highest scores of all streams, and let as many pass as may."""
        pairs = zip(references.T, streams.T, strict=True)
        most = [max(score for _, score in self.scores(reference, stream)) for reference, stream in pairs]
        return float(np.nextafter(sorted(most, reverse=True)[int(alpha * len(most))], np.inf))


@dataclass(frozen=True, slots=True)
class Knobbed:
    """A detector that only says yes or no, at a setting that its bar becomes."""

    name: str
    package: str
    make: Callable[[float], Any]
    shipped: float
    bars: tuple[float, float]
    runs: tuple[int, int]
    warmed: bool = False
    lead_rows: int | None = None

    def first(self, bar: float, reference: Values, stream: Values) -> float:
        """Show it value after value, those of the reference first if it is `warmed` by them."""
        detector = self.make(bar)
        for value in reference.tolist() if self.warmed else ():
            detector.update(value)
        for rows, value in enumerate(stream.tolist(), start=1):
            detector.update(value)
            if detector.drift_detected:
                return rows
        return math.inf

    def calibrated(self, alpha: float, references: Values, streams: Values) -> float:
        """Halve the interval of bars, because there is nothing to sort."""
        low, high = self.bars
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            pairs = zip(references.T, streams.T, strict=True)
            alarms = sum(math.isfinite(self.first(middle, *pair)) for pair in pairs)
            low, high = (low, middle) if alarms <= alpha * streams.shape[1] else (middle, high)
        return high


def adwin(bar: float) -> Any:
    """Return river's; the bar is the negative logarithm of delta."""
    from river import drift

    return drift.ADWIN(delta=math.exp(-bar))


def page_hinkley(bar: float) -> Any:
    """Return river's, as it is shipped but for the threshold."""
    from river import drift

    return drift.PageHinkley(threshold=bar)


def kswin(_reference: Values, stream: Values) -> Iterator[tuple[int, float]]:
    """Score by the negative logarithm of the p-value of river's, which compares its window's ends."""
    from river import drift

    detector = drift.KSWIN(alpha=0.0, seed=1)
    for rows, value in enumerate(stream.tolist(), start=1):
        detector.update(value)
        if rows >= detector.window_size:
            yield rows, _minus_log(detector.p_value)


def windowed(kind: str, window: int) -> Scores:
    """Score windows against the reference by the p-value of alibi-detect's offline tests."""

    def scores(reference: Values, stream: Values) -> Iterator[tuple[int, float]]:
        from alibi_detect import cd

        test = getattr(cd, kind)(reference[:, None])
        for rows in range(window, len(stream) + 1, EVERY_ROWS):
            told = test.predict(stream[rows - window : rows, None], return_p_val=True)
            yield rows, _minus_log(float(told["data"]["p_val"][0]))

    return scores


def cvm_online(reference: Values, stream: Values) -> Iterator[tuple[int, float]]:
    """Score by the statistic of alibi-detect's online test, over 2,000 rows of the reference.

    Its own thresholds are left out: for one alarm in a million rows they take ten million simulations.
    """
    from alibi_detect.cd import CVMDriftOnline

    class Statistic(CVMDriftOnline):  # type: ignore[misc]
        def _configure_thresholds(self) -> None:
            self.thresholds = np.full((1, 1), np.inf)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = Statistic(reference[:2000, None], ert=1e6, window_sizes=[50, 200], verbose=False)
        for rows, value in enumerate(stream, start=1):
            scores = detector.score(np.array([value]))
            if rows >= 50:
                yield rows, float(np.nanmax(scores))


def _minus_log(p: float) -> float:
    return -math.log(p) if p > 0 else 745.0


CONTENDERS: tuple[Contender, ...] = (
    Knobbed("river ADWIN", "river", adwin, -math.log(0.002), (1.0, 25.0), (1000, 200)),
    Knobbed(
        "river ADWIN, after the reference",
        "river",
        adwin,
        -math.log(0.002),
        (1.0, 25.0),
        (500, 200),
        warmed=True,
    ),
    Knobbed("river PageHinkley", "river", page_hinkley, 50.0, (50.0, 1000.0), (1000, 200)),
    Scored("river KSWIN", "river", kswin, -math.log(0.005), (100, 20), 200),
    *(
        Scored(
            f"alibi-detect {kind}, window of {window:,}",
            "alibi_detect",
            windowed(kind, window),
            -math.log(0.05),
            (200, 100),
            window + EVERY_ROWS,
        )
        for kind, window in (("KSDrift", 500), ("KSDrift", 2000), ("CVMDrift", 500))
    ),
    Scored(
        "alibi-detect CVMDriftOnline, windows of 50 and 200", "alibi_detect", cvm_online, None, (100, 20), 250
    ),
)
