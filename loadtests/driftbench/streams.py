"""Which streams are detectors tried on? Rows as they come, and profiles as references have them.

NumPy only, so that peers can be tried on the very same streams in an environment of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from kernels import distance

Values = NDArray[np.float64]
Counts = NDArray[np.int64]
Change = Callable[[Values, Values, np.random.Generator], Values]

EDGES = 16
"""As profiles have: the least value, 14 quantiles, and just above the greatest."""
FAR = 0.9
"""Where the two humps of a bimodal stream stand; their width leaves its variance at 1."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What was normal for each stream: edges (K, streams), and counts (streams, bins)."""

    edges: Values
    counts: Counts


def drawn(values: Values) -> Reference:
    """Return the reference that rows of each stream make, (n, streams), with edges at their own quantiles."""
    edges = np.quantile(values, np.linspace(0, 1, EDGES), axis=0)
    edges[-1] = np.nextafter(values.max(axis=0), np.inf)
    return Reference(edges, binned(values, edges))


def known(streams: int) -> Reference:
    """Return the reference of standard normal streams that is no estimate: 16 bins of equal probability."""
    inner = [NormalDist().inv_cdf(q) for q in np.linspace(0, 1, 17)[1:-1].tolist()]
    counts = np.full((streams, 17), 10**12)
    counts[:, -1] = 0
    return Reference(np.tile(np.array(inner)[:, None], streams), counts)


def binned(values: Values, edges: Values) -> Counts:
    """Count a block of rows, (rows, streams), into (streams, bins)."""
    above = np.stack([(values >= edge).sum(axis=0) for edge in edges])
    nothing = np.zeros((2, values.shape[1]), np.int64)
    return distance.bins(np.vstack([nothing, above]), len(values))


def _bimodal(z: Values, _age: Values, rng: np.random.Generator) -> Values:
    return np.where(rng.random(z.shape) < 0.5, FAR, -FAR) + z * np.sqrt(1 - FAR * FAR)


CHANGES: dict[str, Change] = {
    "mean +0.25 sd": lambda z, _age, _rng: z + 0.25,
    "mean +0.5 sd": lambda z, _age, _rng: z + 0.5,
    "mean +1 sd": lambda z, _age, _rng: z + 1.0,
    "sd x1.5": lambda z, _age, _rng: z * 1.5,
    "sd /1.5": lambda z, _age, _rng: z / 1.5,
    "bimodal, same mean and sd": _bimodal,
    "gradual to +0.5 sd over 5,000": lambda z, age, _rng: z + 0.5 * np.minimum(age / 5000, 1)[:, None],
}
"""What becomes of standard normal values, (rows, streams), so many rows, (rows,), after the change."""


def changed(name: str, rng: np.random.Generator, rows: int, streams: int, age: int) -> Values:
    """Draw rows of which the first is `age` rows after the change; those before it have a negative age."""
    z = rng.standard_normal((rows, streams))
    ages = np.arange(age, age + rows, dtype=np.float64)
    after = ages >= 0
    z[after] = CHANGES[name](z[after], ages[after], rng)
    return z
