"""After how many rows is a change found, and is one found that comes again?"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels import detect, distance
from loadtests.bench.rows import Better, Goal, Row
from loadtests.driftbench.streams import CHANGES, Reference, binned, changed, drawn, known

ALPHA = 0.01
HORIZON_ROWS = 10_000
BEFORE_ROWS = 3_000
AFTER_ROWS = 10_000
PSI_MIN = 0.1
CLEARED_AT = 0.8
LATEST_ROWS = 1_000
N = 10_000


@dataclass(frozen=True, slots=True)
class Found:
    """When each stream was found changed, in rows after it did: inf for never, NaN where it was before."""

    evidence: NDArray[np.float64]
    whole: NDArray[np.float64]


def find(
    name: str,
    reference: Reference,
    *,
    block: int,
    seed: int,
    learners_only: bool = False,
    bar: float | None = None,
) -> Found:
    """Let all streams change after `BEFORE_ROWS`; log e has to reach `bar`, by formula if not given."""
    rng = np.random.default_rng(seed)
    streams = len(reference.counts)
    detector = detect.Detector(reference.counts, ordered=not learners_only, together=1)
    bar = np.log(HORIZON_ROWS / block / ALPHA) if bar is None else bar
    found = Found(np.full(streams, np.inf), np.full(streams, np.inf))
    for age in range(-BEFORE_ROWS, AFTER_ROWS, block):
        detector.update(binned(changed(name, rng, block, streams, age), reference.edges))
        now = float(age + block) if age >= 0 else np.nan
        told = detector.log_e >= bar
        far = told & (distance.psi_excess(reference.counts, detector.changed) >= PSI_MIN)
        found.evidence[told & np.isinf(found.evidence)] = now
        found.whole[far & np.isinf(found.whole)] = now
        if not np.isinf(found.whole).any():
            break
    return found


def median(found: NDArray[np.float64]) -> float | None:
    """Return the median of those that were not found too early; None if most never were."""
    middle = float(np.median(found[~np.isnan(found)]))
    return middle if np.isfinite(middle) else None


def note(found: NDArray[np.float64]) -> str:
    """Say how the others fared."""
    late = found[~np.isnan(found)]
    slow = float(np.quantile(late, 0.9, method="higher"))
    p90 = f"p90 {slow:,.0f}" if np.isfinite(slow) else "p90 never"
    return f"{p90}; found {np.isfinite(late).mean():.1%}, too early {np.isnan(found).mean():.1%}"


def delays(*, streams: int, seed: int) -> Iterator[Row]:
    """Yield the median delay of every change: reference drawn, and beside e-SR alone with it known."""
    reference = drawn(np.random.default_rng(seed).standard_normal((N, streams)))
    exact = known(streams)
    for name in CHANGES:
        for block in (10, 25, 50):
            found = find(name, reference, block=block, seed=seed + 1)
            where = f"{name}, blocks of {block}"
            yield Row(f"delay: {where}", median(found.evidence), "rows", note=note(found.evidence))
            yield Row(f"delay with distance: {where}", median(found.whole), "rows", note=note(found.whole))
        both = find(name, exact, block=50, seed=seed + 1).evidence
        alone = find(name, exact, block=50, seed=seed + 1, learners_only=True).evidence
        yield Row(f"delay, reference known: {name}", median(both), "rows", note=note(both))
        yield Row(f"delay, reference known, e-SR alone: {name}", median(alone), "rows", note=note(alone))
        if (ours := median(both)) is not None and (theirs := median(alone)) is not None:
            goal = Goal(1.0, Better.LOWER)
            yield Row(f"delay to that of e-SR alone: {name}", ours / theirs, "ratio", goal, "e-SR alone")


def recurring(*, streams: int, seed: int, block: int = 50) -> Iterator[Row]:
    """Yield what becomes of a drift of half a deviation that comes, goes, and comes again."""
    rng = np.random.default_rng(seed)
    reference = drawn(rng.standard_normal((N, streams)))
    detector = detect.Detector(reference.counts, together=1)
    bar = np.log(HORIZON_ROWS / block / ALPHA)
    latest: deque[NDArray[np.int64]] = deque(maxlen=LATEST_ROWS // block)
    phases = [(0.0, 3_000), (0.5, 2_000), (0.0, 6_000), (0.5, 2_000), (0.0, 4_000)]
    drifted, raised = np.zeros(streams, np.bool_), np.zeros(streams, np.int64)
    turns: list[NDArray[np.float64]] = []
    for number, (shift, rows) in enumerate(phases):
        turned = np.full(streams, np.inf)
        for age in range(0, rows, block):
            counts = binned(rng.standard_normal((block, streams)) + shift, reference.edges)
            latest.append(counts)
            detector.update(counts)
            raised += block
            far = distance.psi_excess(reference.counts, detector.changed)
            rises = ~drifted & (detector.log_e >= bar) & (far >= PSI_MIN)
            near = distance.psi_excess(reference.counts, sum(latest)) < CLEARED_AT * PSI_MIN
            falls = drifted & near & (raised >= LATEST_ROWS)
            detector.reset(falls)
            raised[rises] = 0
            drifted = (drifted | rises) & ~falls
            right = rises if shift else falls
            turned[right & np.isinf(turned)] = age + block
        turns.append(turned)
        settled = drifted.mean() if shift else (~drifted).mean()
        if number:
            name = f"{'comes' if shift else 'goes'}{' again' if number > 2 else ''}"
            told = f"drift that {name}: told at the end of the phase"
            yield Row(told, float(settled), "share", Goal(0.99))
            yield Row(f"drift that {name}: delay", median(turned), "rows", note=note(turned))
        else:
            yield Row("drift that has not come: quiet", float(settled), "share", Goal(0.99))
