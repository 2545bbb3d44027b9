"""How late would requests be at a gateway that takes no time, by the times of its device alone?"""

from __future__ import annotations

import numpy as np

from loadtests.gpubench.times import Times

ARRIVALS = 50_000


def p99_ns(run_ns: Times, rows_max: int, rate_per_s: float, arrivals: int = ARRIVALS) -> float:
    """Return p99 of requests of one row that come as Poisson has them, in nanoseconds.

    Whenever the device is idle it takes all that has come, up to `rows_max`.
    """
    came_ns = np.cumsum(np.random.default_rng(0).exponential(1e9 / rate_per_s, arrivals))
    late_ns = np.empty(arrivals)
    first, free_ns = 0, 0.0
    while first < arrivals:
        start_ns = max(free_ns, came_ns[first])
        stop = min(int(np.searchsorted(came_ns, start_ns, "right")), first + rows_max)
        free_ns = start_ns + run_ns(stop - first)
        late_ns[first:stop] = free_ns - came_ns[first:stop]
        first = stop
    return float(np.quantile(late_ns, 0.99))
