"""What does a row of scores say: which class, how surely, and how undecided between all of them?

In NumPy; `compiled` gives the same to the last bit, so that what was counted of training data by the one
and of live requests by the other can be compared. Exponential and logarithm are Cephes' polynomials for
float32, which both can compute for many scores at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
"""float32 or float64."""
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]
Scores = Callable[[Values, Integers, Singles, Singles], None]

NO_CLASS = -1
OFF_MAX = 1e-3
"""How far from 1 the sum of scores may be that are taken for probabilities."""

F32, I32 = np.float32, np.int32
LEAST = F32(-87.0)
"""Where the exponential is cut off."""
SMALLEST = F32(1.1754944e-38)
"""Where the logarithm is cut off."""
LOG2_E = F32(1.4426950408889634)
LN2 = F32(0.693359375), F32(-2.12194440e-4)
"""The logarithm of 2 in two parts, of which the first has few digits, so that multiples of it are exact."""
EXP = tuple(
    map(
        F32,
        (
            1.9875691500e-4,
            1.3981999507e-3,
            8.3334519073e-3,
            4.1665795894e-2,
            1.6666665459e-1,
            5.0000001201e-1,
        ),
    )
)
LOG = tuple(
    map(
        F32,
        (
            *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
            *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
        ),
    )
)
ROOT = I32(0x3F3504F3)
"""The bits of the root of 1/2: from there to that of 2 the polynomial is good."""


def scores(x: Values, classes: Integers, confidence: Singles, entropy: Singles) -> None:
    """Write what each row of scores says.

    Scores that are nowhere below 0 and add up to 1 are probabilities; of others the softmax is. A row
    with a NaN has no class, and NaN for the rest, as has one of which the greatest score is infinite.

    Parameters
    ----------
    x : (rows, C) float32 or float64, C >= 1
    classes : (rows,) int64
        The first of the greatest.
    confidence : (rows,) float32
        The probability of that class.
    entropy : (rows,) float32
        Divided by that of C equal scores: 0 to 1. 0 if C is 1.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        top = x.max(axis=1, keepdims=True)
        given = (x >= 0).all(axis=1) & (np.abs(_sum(x.astype(np.float64)) - 1) <= OFF_MAX)
        below = np.maximum((x - top).astype(F32), LEAST)
        powers = _exp(below)
        whole = _sum(powers)
        soft = _log(whole) - _sum(powers * below) / whole
        chances = np.where(given[:, None], x, 0).astype(F32)
    finite = np.isfinite(top[:, 0])
    classes[:] = np.where(np.isnan(top[:, 0]), NO_CLASS, x.argmax(axis=1))
    confidence[:] = np.where(finite, np.where(given, top[:, 0], F32(1) / whole), np.nan)
    nats = np.where(given, -_sum(chances * _log(chances)), soft)
    entropy[:] = np.where(finite, np.clip(nats * per_nat(x.shape[1]), F32(0), F32(1)), np.nan)


def per_nat(classes: int) -> np.float32:
    """Return what a nat is of the entropy of so many equal scores."""
    return F32(1 / math.log(classes) if classes > 1 else 0.0)


def _sum(x: NDArray[Any]) -> NDArray[Any]:
    """Add rows up from the left, as a loop does; NumPy's own sum has another order."""
    return np.add.accumulate(x, axis=1)[:, -1]


def _exp(x: Singles) -> Singles:
    n = np.floor(x * LOG2_E + F32(0.5))
    x = x - n * LN2[0] - n * LN2[1]
    p = np.full_like(x, EXP[0])
    for coefficient in EXP[1:]:
        p = p * x + coefficient
    p = p * x * x + x + F32(1)
    power: Singles = p * ((n.astype(I32) + I32(127)) << I32(23)).view(F32)
    return power


def _log(x: Singles) -> Singles:
    bits = np.maximum(x, SMALLEST).view(I32)
    n = (bits - ROOT) >> I32(23)
    m = (bits - (n << I32(23))).view(F32) - F32(1)
    p = np.full_like(m, LOG[0])
    for coefficient in LOG[1:]:
        p = p * m + coefficient
    square = m * m
    p = p * m * square - F32(0.5) * square + m
    logarithm: Singles = p + n.astype(F32) * LN2[1] + n.astype(F32) * LN2[0]
    return logarithm


def compiled() -> Scores:
    """Return `scores` compiled. The first call of a process imports numba, so make it before readiness."""
    from kernels import scoring

    return scoring.scores
