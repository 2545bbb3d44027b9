"""How fast is the fold, beside NumPy that does the same work and beside river's Var and Histogram?

Contenders take turns within a round, so that they share the noise of their minute; a ratio is that of
one round, and a figure the median of its rounds, with the best of them in the note.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Better, Goal, Row, or_reason, ratio

EDGES = 16
SHAPES = ((32, 1024), (32, 16), (256, 16), (1, 16), (256, 128))
"""Rows and features; the first is the one that there are goals for."""
NS_MAX = Goal(1.0, Better.LOWER)
NUMPY_TIMES = Goal(10)
RIVER_TIMES = Goal(50)
BURST_S = 0.004
RIVER_WARM, RIVER_ROWS = 64, 16
"""Rows that river's histograms have seen before, so that they are full, and those that are measured."""

Call = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Work:
    """What is counted, against what, and into what; see `kernels.fold`."""

    x: NDArray[Any]
    edges: NDArray[Any]
    shift: NDArray[np.float64]
    sums: NDArray[np.float64]
    extremes: NDArray[Any]
    counts: NDArray[np.uint32]

    def anew(self) -> Work:
        """Return the same work with nothing counted."""
        extremes = on_lines(np.zeros_like(self.extremes))
        extremes[0], extremes[1] = np.inf, -np.inf
        sums, counts = on_lines(np.zeros_like(self.sums)), on_lines(np.zeros_like(self.counts))
        return replace(self, sums=sums, extremes=extremes, counts=counts)


def work(rows: int, features: int, seed: int = 1) -> Work:
    """Return normal numbers, and what others say of them: their moments, and 16 quantiles as edges."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(3, 2, (4096, features)).astype(np.float32)
    edges = np.quantile(reference, np.linspace(0, 1, EDGES), axis=0).astype(np.float32)
    edges[-1] = np.nextafter(edges[-1], np.float32(np.inf))
    mean, std = reference.mean(axis=0, dtype=np.float64), reference.std(axis=0, dtype=np.float64)
    x = rng.normal(3, 2, (rows, features)).astype(np.float32)
    given = (on_lines(each) for each in (x, edges, np.stack([mean, 1 / std])))
    nothing = np.zeros((2, features)), np.zeros((2, features), np.float32)
    return Work(*given, *nothing, np.zeros((2 + EDGES, features), np.uint32)).anew()


def on_lines(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that begins with a line of the cache, as what is in shared memory does."""
    room = np.empty(array.nbytes + 64, np.uint8)
    skip = -room.ctypes.data % 64
    made = room[skip : skip + array.nbytes].view(array.dtype).reshape(array.shape)
    made[:] = array
    return made


def by_edge(w: Work) -> None:
    """Compare with one edge after the other."""
    for at, edge in enumerate(w.edges, 2):
        w.counts[at] += (w.x >= edge).sum(axis=0, dtype=np.uint32)


def at_once(w: Work) -> None:
    """Compare with all edges at once."""
    w.counts[2:] += (w.x >= w.edges[:, None]).sum(axis=1, dtype=np.uint32)


def by_search(w: Work) -> None:
    """Find each value's bin, and count bins. NaN would be in the last."""
    nan = np.isnan(w.x).any()
    for f in range(w.x.shape[1]):
        column = w.x[:, f]
        column = column[~np.isnan(column)] if nan else column
        bins = np.bincount(np.searchsorted(w.edges[:, f], column, side="right"), minlength=EDGES + 1)
        w.counts[2:, f] += bins[::-1].cumsum()[-2::-1].astype(np.uint32)


def as_bytes(w: Work, room: NDArray[np.bool_]) -> None:
    """Compare with all edges at once in memory that is there, and add up bytes, 255 rows at a time."""
    for start in range(0, len(w.x), 255):
        part = w.x[start : start + 255]
        reached = np.greater_equal(part, w.edges[:, None], out=room[:, : len(part)])
        w.counts[2:] += np.add.reduce(reached.view(np.uint8), axis=1, dtype=np.uint8)


def the_rest(w: Work) -> None:
    """Do in NumPy what the fold does beside the edges; for what is not finite only if there is any."""
    z = (w.x - w.shift[0]) * w.shift[1]
    finite, x = np.isfinite(w.x), w.x
    if not finite.all():
        w.counts[0] += np.isnan(x).sum(axis=0, dtype=np.uint32)
        w.counts[1] += np.isinf(x).sum(axis=0, dtype=np.uint32)
        z, x = np.where(finite, z, 0), np.where(finite, x, np.float32(np.nan))
    w.sums[0] += z.sum(axis=0)
    w.sums[1] += np.einsum("rf,rf->f", z, z)
    np.fmin(w.extremes[0], np.fmin.reduce(x, axis=0), out=w.extremes[0])
    np.fmax(w.extremes[1], np.fmax.reduce(x, axis=0), out=w.extremes[1])


def contenders(w: Work) -> Mapping[str, Call]:
    """Return the ways to count, each with a state of its own; all have come to the same counts once."""
    from kernels.fold import fold

    def numpy(reach: Callable[[Work], None]) -> Callable[[Work], None]:
        return lambda mine: (reach(mine), the_rest(mine))[1]

    room = np.empty((EDGES, min(255, len(w.x)), w.x.shape[1]), np.bool_)
    ways: dict[str, Callable[[Work], None]] = {
        "fold": lambda mine: fold(mine.x, mine.edges, mine.shift, mine.sums, mine.extremes, mine.counts),
        "numpy by edge": numpy(by_edge),
        "numpy at once": numpy(at_once),
        "numpy by search": numpy(by_search),
        "numpy as bytes": numpy(lambda mine: as_bytes(mine, room)),
    }
    states = {name: w.anew() for name in ways}
    for name, way in ways.items():
        way(states[name])
        assert (states[name].counts == states["fold"].counts).all(), f"{name} counts something else"
        assert np.allclose(states[name].sums, states["fold"].sums, rtol=1e-9, atol=1e-9)
    return {name: lambda way=way, mine=states[name]: way(mine) for name, way in ways.items()}


def burst_ns(call: Call, values: int) -> float:
    """Return the processor's time that a value takes, in calls that follow each other for `BURST_S`."""
    calls, spent, start = 0, 0.0, time.thread_time()
    while spent < BURST_S:
        for _ in range(4):
            call()
        calls += 4
        spent = time.thread_time() - start
    return spent / calls / values * 1e9


def rounds_ns(calls: Mapping[str, Call], values: int, rounds: int) -> dict[str, list[float]]:
    """Let the contenders take turns, and return what a value took each of them, by round."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(burst_ns(call, values))
    return taken


def folding(rounds: int) -> Iterator[Row]:
    """Measure the fold in each shape; against NumPy, of which the fastest way counts, and against river."""
    for shape in SHAPES:
        w, goal = work(*shape), NUMPY_TIMES if shape == SHAPES[0] else None
        taken = rounds_ns(contenders(w), w.x.size, rounds)
        name = f"fold {shape[0]} x {shape[1]:,} float32"
        yield _figure(name, taken["fold"], NS_MAX if goal else None)
        plain = [way for way in taken if way not in {"fold", "numpy as bytes"}]
        fastest = min(plain, key=lambda way: statistics.median(taken[way]))
        yield ratio(f"{name}: numpy takes", taken[fastest], taken["fold"], fastest, goal)
        way = "numpy as bytes"
        yield ratio(f"{name}: numpy with bytes takes", taken[way], taken["fold"], way, None)
    name = "fold: river's Var and Histogram take"
    yield from or_reason(against_river(name, rounds), name, "ratio", RIVER_TIMES)


def against_river(name: str, rounds: int) -> Iterator[Row]:
    """Measure river's Var and Histogram of 16 bins for each feature, one value after the other."""
    try:
        from river import sketch, stats
    except ImportError as error:
        raise BenchError("river is not installed here, and not needed by anything else") from error
    w = work(*SHAPES[0])
    fold = contenders(w)["fold"]
    features = [(stats.Var(), sketch.Histogram(max_bins=EDGES)) for _ in range(w.x.shape[1])]
    stream = work(RIVER_WARM + RIVER_ROWS, w.x.shape[1]).x.tolist()

    def update(rows: list[list[float]]) -> None:
        for row in rows:
            for (variance, histogram), value in zip(features, row, strict=True):
                variance.update(value)
                histogram.update(value)

    update(stream[:RIVER_WARM])
    measured = stream[RIVER_WARM:]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(burst_ns(fold, w.x.size))
        theirs.append(burst_ns(lambda: update(measured), RIVER_ROWS * w.x.shape[1]))
    yield _figure("river's Var and Histogram", theirs, None)
    yield ratio(name, theirs, ours, "river", RIVER_TIMES)


def _figure(name: str, taken_ns: list[float], goal: Goal | None) -> Row:
    note = f"best {min(taken_ns):.2f}"
    return Row(name, statistics.median(taken_ns), "ns/value", goal, runs=tuple(taken_ns), note=note)
