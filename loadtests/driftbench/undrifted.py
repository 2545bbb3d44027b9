"""How often does the whole rule alarm where nothing drifts?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from kernels import detect, distance
from loadtests.bench.rows import Better, Goal, Row
from loadtests.driftbench.streams import Counts, Reference, Values, binned, drawn

ALPHA = 0.01
PSI_MIN = 0.1
Draw = Callable[[np.random.Generator, int, int], Values]


@dataclass(frozen=True, slots=True)
class Undrifted:
    """Streams that stay as they are. `draw` returns all their features, (rows, streams * features)."""

    name: str
    n: int
    draw: Draw
    features: int = 1
    block: int = 50
    goal: bool = True


def normal(rng: np.random.Generator, rows: int, streams: int) -> Values:
    """Draw values of which none depends on another."""
    return rng.standard_normal((rows, streams))


def alike(features: int, shared: float) -> Draw:
    """Draw features of which each shares so much of its variance with the others of its stream."""

    def draw(rng: np.random.Generator, rows: int, streams: int) -> Values:
        common = rng.standard_normal((rows, streams // features))
        own = rng.standard_normal((rows, streams))
        return np.sqrt(shared) * np.repeat(common, features, axis=1) + np.sqrt(1 - shared) * own

    return draw


def few(rng: np.random.Generator, rows: int, streams: int) -> Values:
    """Draw small whole numbers, most of them 0 or 1."""
    return rng.poisson(1.5, (rows, streams)).astype(np.float64)


def heavy(rng: np.random.Generator, rows: int, streams: int) -> Values:
    """Draw values with far outliers."""
    return rng.standard_t(2, (rows, streams))


def repeated(times: int) -> Draw:
    """Draw rows that come so many times in a row each: fewer independent ones than there are."""

    def draw(rng: np.random.Generator, rows: int, streams: int) -> Values:
        return np.repeat(rng.standard_normal((-(-rows // times), streams)), times, axis=0)[:rows]

    return draw


def sticky(correlation: float) -> Draw:
    """Draw rows each of which resembles the one before; a call begins anew."""

    def draw(rng: np.random.Generator, rows: int, streams: int) -> Values:
        values = rng.standard_normal((rows, streams))
        for i in range(1, rows):
            values[i] = correlation * values[i - 1] + np.sqrt(1 - correlation**2) * values[i]
        return values

    return draw


CASES = (
    *(Undrifted(f"1 feature, reference of {n:,}", n, normal) for n in (2_000, 10_000, 50_000)),
    *(Undrifted(f"1 feature, reference of 10,000, blocks of {b}", 10_000, normal, block=b) for b in (10, 25)),
    Undrifted("1 feature, heavy tails, reference of 2,000", 2_000, heavy),
    Undrifted("1 feature, small whole numbers, reference of 2,000", 2_000, few),
    *(
        Undrifted(f"16 features, {word}, reference of {n:,}", n, alike(16, shared), features=16)
        for n in (2_000, 10_000)
        for word, shared in (("independent", 0.0), ("correlated 0.9", 0.9))
    ),
)
DEPENDENT = (
    *(
        Undrifted(f"each row {k} times, reference of 10,000", 10_000, repeated(k), goal=False)
        for k in (2, 5, 10)
    ),
    *(
        Undrifted(f"rows correlated {r} with the last, reference of 10,000", 10_000, sticky(r), goal=False)
        for r in (0.3, 0.6)
    ),
)
"""What bursts do, which the promise leaves out. Correlated rows are so within a block only."""


@dataclass(slots=True)
class Alarms:
    """Which streams ever alarmed: by evidence alone, and by evidence and distance, as the gateway does."""

    evidence: np.ndarray
    whole: np.ndarray


def watch(case: Undrifted, *, streams: int, rows: int, seed: int) -> Alarms:
    """Let each stream run, all at once, and judge after every block."""
    rng = np.random.default_rng(seed)
    reference = references(case, rng, streams)
    detector = detect.Detector(reference.counts, together=case.features)
    alarms = Alarms(np.zeros(streams, np.bool_), np.zeros(streams, np.bool_))
    blocks = rows // case.block
    for _ in range(blocks):
        values = case.draw(rng, case.block, streams * case.features)
        detector.update(binned(values, reference.edges))
        judge(detector, reference.counts, alarms, blocks)
    return alarms


def references(case: Undrifted, rng: np.random.Generator, streams: int) -> Reference:
    """Draw each stream a reference of its own, some at a time for the memory's sake."""
    at_once = max(1, 20_000_000 // (case.n * case.features))
    parts = [
        drawn(case.draw(rng, case.n, min(at_once, streams - begin) * case.features))
        for begin in range(0, streams, at_once)
    ]
    return Reference(
        np.concatenate([part.edges for part in parts], axis=1),
        np.concatenate([part.counts for part in parts]),
    )


def judge(detector: detect.Detector, reference: Counts, alarms: Alarms, blocks: int) -> None:
    """Give `kernels.detect.verdict` the streams that it could find drifted: the mean is its bound."""
    log_e = detector.log_e.reshape(len(alarms.whole), -1)
    mean = np.logaddexp.reduce(log_e, axis=1) - np.log(log_e.shape[1])
    hot = np.flatnonzero(mean >= np.log(blocks / ALPHA))
    alarms.evidence[hot] = True
    for stream in hot[~alarms.whole[hot]].tolist():
        own = slice(stream * log_e.shape[1], (stream + 1) * log_e.shape[1])
        far = distance.psi_excess(reference[own], detector.changed[own])
        told = detect.verdict(log_e[stream], far, blocks=blocks, alpha=ALPHA, distance_min=PSI_MIN)
        alarms.whole[stream] |= told.any


def undrifted(*, streams: int, rows: int, seed: int) -> Iterator[Row]:
    """Yield the share of streams that alarm, for all cases."""
    for case in (*CASES, *DEPENDENT):
        start_s = time.perf_counter()
        alarms = watch(case, streams=streams, rows=rows, seed=seed)
        took_s = time.perf_counter() - start_s
        goal = Goal(ALPHA, Better.LOWER) if case.goal else None
        note = f"{streams:,} streams of {rows:,} rows, blocks of {case.block}; {took_s:.0f} s"
        yield Row(f"false alarms: {case.name}", float(alarms.whole.mean()), "share", goal, note=note)
        yield Row(
            f"false alarms by evidence alone: {case.name}", float(alarms.evidence.mean()), "share", goal
        )
