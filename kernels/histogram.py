"""How are durations spread: fixed bins of bounded relative width, so that merging is addition.

An octave of nanoseconds has 16 bins of equal width, as float64's own exponent and leading mantissa
bits have it, so finding a bin is a shift and no search. The durations that dashboards ask about
(`MARKS_NS`) are edges too: what is counted at or below a mark is exact, not interpolated.

From 1 ns to 78 hours no bin is wider than a sixteenth of its lower edge; what is shorter falls in
the first bin, and what is longer in the last. The histogram is 789 integers, 6.2 KiB, whatever it has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

STEPS_BITS = 4
OCTAVES = 48

MARKS_NS: tuple[int, ...] = (
    *(mantissa * 10**power for power in range(4, 10) for mantissa in (5, 10, 25)),
    *(50 * 10**9, 60 * 10**9, 100 * 10**9),
)
"""50 µs to 100 s, in steps of 1, 2.5 and 5, and the minute."""

_SHIFT = 52 - STEPS_BITS
_BIAS = 1023 << STEPS_BITS
_CELLS = OCTAVES << STEPS_BITS


def _cell(duration_ns: int) -> int:
    octave = duration_ns.bit_length() - 1
    return (octave << STEPS_BITS) + (duration_ns - (1 << octave)) * (1 << STEPS_BITS) // (1 << octave)


_MARKED = {_cell(mark): mark for mark in MARKS_NS}
assert len(_MARKED) == len(MARKS_NS), "two marks share a cell"

BINS = _CELLS + len(MARKS_NS)
CUT_NS: Integers = np.array([_MARKED.get(cell, (1 << 63) - 1) for cell in range(_CELLS)], np.int64)
"""(cells,) int64: the mark that cuts a cell in two, or more than any duration."""
FIRST: Integers = np.arange(_CELLS) + np.cumsum([0, *(cell in _MARKED for cell in range(_CELLS - 1))])
"""(cells,) int64: a cell's bin, or the first of its two."""


def _edges_ns() -> NDArray[np.float64]:
    steps = 1 << STEPS_BITS
    cells = [2.0**octave * (1 + step / steps) for octave in range(OCTAVES) for step in range(steps)]
    # A duration of exactly a mark counts as within it, as Prometheus's `le` has it.
    cuts = [mark + 1.0 for mark in MARKS_NS]
    return np.array([*sorted(cells + cuts), np.inf])


EDGES_NS = _edges_ns()
"""(bins + 1,) float64, ascending: bin i holds ``EDGES_NS[i] <= duration < EDGES_NS[i + 1]``; bin 0 also 0."""
MARK_BINS = np.searchsorted(EDGES_NS, MARKS_NS, side="right")
"""(marks,) int64: the durations within mark i are those of the bins before ``MARK_BINS[i]``."""


def edges_seconds() -> NDArray[np.float64]:
    """Return the edges of the bins, (bins + 1,) float64 in seconds; the last is infinite."""
    return EDGES_NS / 1e9


def bins_ns(durations_ns: Integers) -> Integers:
    """Return the bin of each duration, in the same shape; a negative one counts as 0."""
    cells = durations_ns.astype(np.float64).view(np.int64)
    cells >>= _SHIFT
    cells -= _BIAS
    np.minimum(cells, _CELLS - 1, out=cells)
    np.maximum(cells, 0, out=cells)
    beyond = durations_ns > CUT_NS.take(cells)
    bins = FIRST.take(cells)
    bins += beyond
    return bins


def count_ns(durations_ns: Integers, counts: Integers) -> None:
    """Add durations to a histogram, in place.

    Parameters
    ----------
    durations_ns : (n,) int64
        A negative duration counts as 0.
    counts : (bins,) int64
    """
    counts += np.bincount(bins_ns(durations_ns), minlength=BINS)


@cache
def compiled() -> Callable[[Integers, Integers], None]:
    """Return `count_ns` compiled. The first call of a process imports numba, so make it before readiness.

    For 2,048 durations 1.3 ns each against NumPy's 6, and for 64 of them 6 against 69. But numba
    costs 130 MiB and half a second, so what does without it otherwise does without this, too.
    """
    from kernels.jit import kernel

    return kernel("void(int64[::1], int64[::1])")(_count_each)


def _count_each(durations_ns: Integers, counts: Integers) -> None:
    cells = durations_ns.astype(np.float64).view(np.int64)
    for i in range(durations_ns.shape[0]):
        cell = min(max((cells[i] >> _SHIFT) - _BIAS, 0), _CELLS - 1)
        counts[FIRST[cell] + (durations_ns[i] > CUT_NS[cell])] += 1


def quantile_s(counts: Integers, q: float) -> float:
    """Estimate the `q` quantile in seconds, within 1/32 of the duration of that rank; NaN if there is none.

    A rank that falls in the last bin, which is open, is answered with that bin's lower edge.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"a quantile is between 0 and 1, got {q}")
    ranks = np.cumsum(counts)
    if not ranks[-1]:
        return float("nan")
    bin_ = int(np.searchsorted(ranks, max(1, ceil(q * int(ranks[-1])))))
    low_ns, high_ns = EDGES_NS[bin_], EDGES_NS[bin_ + 1]
    return float(low_ns if high_ns == np.inf else (low_ns + high_ns) / 2) / 1e9
