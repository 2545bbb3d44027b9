"""After how many labels is a model found to err more often than it did?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from kernels.concept import Adwin, ErrorRate
from loadtests.bench.rows import Better, Goal, Row
from loadtests.driftbench.delays import ALPHA, BEFORE_ROWS, HORIZON_ROWS, median, note

RATE = 0.05
WORSE = (0.08, 0.10, 0.20)
BAR = math.log(HORIZON_ROWS / ALPHA)
First = Callable[[list[bool]], float]


def by_evidence(labels: list[bool]) -> float:
    """Return after how many labels the evidence reaches the bar of the formula."""
    detector = ErrorRate(RATE)
    return next((i for i, wrong in enumerate(labels, start=1) if detector.update(wrong) >= BAR), math.inf)


def by_adwin(labels: list[bool]) -> float:
    """Return after how many labels ADWIN tells, at its usual confidence."""
    detector = Adwin()
    return next((i for i, wrong in enumerate(labels, start=1) if detector.update(float(wrong))), math.inf)


def labels(*, streams: int, seed: int) -> Iterator[Row]:
    """Yield false alarms and delays of both."""
    rng = np.random.default_rng(seed)
    ways: dict[str, First] = {"ErrorRate": by_evidence, "Adwin": by_adwin}
    undrifted = rng.random((streams, HORIZON_ROWS)) < RATE
    for name, first in ways.items():
        alarms = np.isfinite([first(stream) for stream in undrifted.tolist()])
        goal = Goal(ALPHA, Better.LOWER) if name == "ErrorRate" else None
        told = f"{streams} streams of {HORIZON_ROWS:,} labels"
        yield Row(f"labels, {name}: false alarms", float(alarms.mean()), "share", goal, note=told)
    for worse in WORSE:
        rate = np.where(np.arange(BEFORE_ROWS + HORIZON_ROWS) < BEFORE_ROWS, RATE, worse)
        drifting = (rng.random((streams, len(rate))) < rate).tolist()
        for name, first in ways.items():
            found = np.array([first(stream) for stream in drifting]) - BEFORE_ROWS
            found = np.where(found <= 0, np.nan, found)
            where = f"labels, {name}: delay, {RATE:.0%} to {worse:.0%}"
            yield Row(where, median(found), "labels", note=note(found))
