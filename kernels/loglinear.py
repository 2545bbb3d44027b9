"""How are numbers spread that there is no reference for? Fixed cells of bounded relative width.

An octave of magnitude has 16 cells of equal width, as float64's own exponent and leading mantissa bits
have it, on either side of zero, from 2**-24 (6e-8) to 2**24 (1.7e7). What is smaller, zero included, shares
the cell in the middle; what is larger has one cell a side, and so have -Inf and +Inf; NaN has its own. So
a cell is a shift and no search, merging is addition, and 1,542 counts a feature are the state for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
"""float32 or float64."""
Counts = NDArray[np.uint32]

STEPS_BITS = 4
OCTAVE_MIN, OCTAVE_MAX = -24, 24

_SHIFT = 52 - STEPS_BITS
_STEPS = (OCTAVE_MAX - OCTAVE_MIN) << STEPS_BITS
_BIAS = ((1023 + OCTAVE_MIN) << STEPS_BITS) - 1
_ABSOLUTE = np.int64((1 << 63) - 1)
_INFINITY = np.int64(2047 << 52)

NAN = 0
NEGATIVE_INFINITY = 1
TINY = NEGATIVE_INFINITY + 1 + 1 + _STEPS
"""The middle; from here cells ascend in value on the one side and descend on the other."""
POSITIVE_INFINITY = TINY + 1 + _STEPS + 1
CELLS = POSITIVE_INFINITY + 1


def edges() -> NDArray[np.float64]:
    """Return what cells are bounded by, (CELLS - 2,) float64 ascending; the outermost are infinite.

    Of cell i, between the infinite ones, they are edges i - 2 and i - 1, and the one nearer to zero belongs
    to it; to `TINY` belongs neither.
    """
    steps = 1 << STEPS_BITS
    octaves = range(OCTAVE_MIN, OCTAVE_MAX)
    magnitudes = [2.0**octave * (1 + step / steps) for octave in octaves for step in range(steps)]
    positive = np.array([*magnitudes, 2.0**OCTAVE_MAX, np.inf])
    return np.concatenate([-positive[::-1], positive])


def cells(x: Values) -> NDArray[np.int64]:
    """Return the cell of each value, in the same shape."""
    bits = x.astype(np.float64).view(np.int64)
    magnitudes = bits & _ABSOLUTE
    steps = np.clip((magnitudes >> _SHIFT) - _BIAS, 0, _STEPS + 1)
    steps += magnitudes == _INFINITY
    return np.where(magnitudes > _INFINITY, NAN, TINY + np.where(bits < 0, -steps, steps))


def count(x: Values, counts: Counts) -> None:
    """Count values of F features, in place.

    Parameters
    ----------
    x : (rows, F) float32 or float64
    counts : (CELLS, F) uint32
        Take them over within 2**32 rows.
    """
    np.add.at(counts, (cells(x), np.arange(x.shape[1])), np.uint32(1))


@cache
def compiled() -> Callable[[Values, Counts], None]:
    """Return `count` compiled. The first call of a process imports numba, so make it before readiness."""
    from kernels.jit import kernel

    return kernel(
        "void(float32[:, ::1], uint32[:, ::1])",
        "void(float64[:, ::1], uint32[:, ::1])",
    )(_count_each)


def _count_each(x: Values, counts: Counts) -> None:
    features = x.shape[1]
    found = np.empty(features, np.uint32)
    for r in range(x.shape[0]):
        for f in range(features):  # A loop of its own, because it vectorises and counting does not.
            bits = np.float64(x[r, f]).view(np.int64)
            magnitude = bits & _ABSOLUTE
            step = min(max((magnitude >> _SHIFT) - _BIAS, 0), _STEPS + 1) + (magnitude == _INFINITY)
            cell = TINY - step if bits < 0 else TINY + step
            found[f] = cell if magnitude <= _INFINITY else NAN
        for f in range(features):
            counts[found[f], f] += np.uint32(1)


def quantile(counts: NDArray[np.integer[Any]], q: float) -> NDArray[np.float64]:
    """Estimate the `q` quantile of each feature, within 1/32 of its magnitude; NaN if nothing was counted.

    NaN is left out. Below 2**-24 the answer is 0, beyond 2**24 it is that, and of infinite ones infinite.

    Parameters
    ----------
    counts : (CELLS, F) of any integers

    Returns
    -------
    (F,) float64
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"a quantile is between 0 and 1, got {q}")
    ranks = np.cumsum(counts[NAN + 1 :], axis=0, dtype=np.int64)
    wanted = np.maximum(1, np.ceil(q * ranks[-1]))
    found = NAN + 1 + (ranks < wanted).sum(axis=0)
    return np.where(ranks[-1] > 0, middles()[np.minimum(found, CELLS - 1)], np.nan)


@cache
def middles() -> NDArray[np.float64]:
    """Return what stands for each cell, (CELLS,) float64: its middle, or its edge where it is open."""
    bounds = edges()
    between = np.array([bounds[1], *(bounds[1:-2] + bounds[2:-1]) / 2, bounds[-2]])
    made = np.array([np.nan, -np.inf, *between, np.inf])
    made.flags.writeable = False
    return made
