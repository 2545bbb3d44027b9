"""What are 32 numbers that stand for a long row? Its sums with fixed random signs.

Distances between rows survive such a projection (Johnson and Lindenstrauss), and signs do as well as
normal numbers (Achlioptas, 2003), so what moves an embedding moves some of the 32. The signs come from a
hash, not from a generator, so that they are the same on every machine and with every version of NumPy.

Sums are taken in one order, from the first element to the last, so that a row has the same projection in
every batch, and by `compiled` the same to the last bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]

OUTPUTS = 32
SEED = b"turnout projection 1"
"""Another one would be another projection: profiles made with this one would no longer fit."""

MATRICES_MAX = 8
"""That are kept: one for each length of row."""
ROWS = 1024
"""Rows that NumPy projects at a time, so that what is written again and again stays in a cache."""
GROUP = 16
"""Rows, and elements of them, that the compiled form has in hand at a time."""


@lru_cache(MATRICES_MAX)
def matrix(features: int, outputs: int = OUTPUTS) -> Singles:
    """Return the signs, (features, outputs) float32.

    They are +-1 / sqrt(features), so that a sum is as large as an element, however long the row.
    """
    bits = hashlib.shake_256(SEED).digest(-(-features * outputs // 8))
    signs = np.unpackbits(np.frombuffer(bits, np.uint8), count=features * outputs).astype(np.float32)
    made = ((2 * signs - 1) / np.float32(math.sqrt(features or 1))).reshape(features, outputs)
    made.flags.writeable = False
    return made


def project(x: Singles, signs: Singles) -> Singles:
    """Return the projection of rows.

    Parameters
    ----------
    x : (rows, F) float32
        NaN makes all of a row's sums NaN.
    signs : (F, outputs) float32

    Returns
    -------
    (rows, outputs) float32
    """
    out = np.zeros((len(x), signs.shape[1]), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(x), ROWS):
            part = out[start : start + ROWS]
            for column, each in zip(x[start : start + ROWS].T, signs, strict=True):
                part += column[:, None] * each
    return out


@cache
def compiled() -> Callable[[Singles, Singles, Singles], None]:
    """Return ``project(x, signs, out)`` compiled. The first call imports numba: make it before readiness."""
    from kernels.jit import kernel

    return kernel("void(float32[:, ::1], Array(float32, 2, 'C', readonly=True), float32[:, ::1])")(
        _project_each
    )


def _project_each(x: Singles, signs: Singles, out: Singles) -> None:
    rows, features = x.shape
    outputs = out.shape[1]
    out[:] = 0
    whole = features // GROUP * GROUP
    for start in range(0, rows, GROUP):
        for f in range(0, whole, GROUP):
            # Each row waits for its own sums, so several take turns.
            for r in range(start, min(start + GROUP, rows)):
                for at in range(outputs):
                    total = out[np.uint64(r), np.uint64(at)]
                    for i in range(GROUP):
                        total += x[np.uint64(r), np.uint64(f + i)] * signs[np.uint64(f + i), np.uint64(at)]
                    out[np.uint64(r), np.uint64(at)] = total
        for r in range(start, min(start + GROUP, rows)):
            for f in range(whole, features):
                for at in range(outputs):
                    out[r, at] += x[r, f] * signs[f, at]
