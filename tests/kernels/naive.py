"""What each kernel means, in the plainest NumPy: slow, obvious, and the specification."""

from __future__ import annotations

import numpy as np

from kernels.histogram import EDGES_NS


def count_ns(durations_ns, counts):
    for duration in durations_ns:
        bin_ = np.searchsorted(EDGES_NS, float(duration), side="right") - 1
        counts[max(0, bin_)] += 1
