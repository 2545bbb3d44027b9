"""How are durations spread, to three significant digits? The histogram that `turnout bench` counts with."""

from __future__ import annotations

from serving.bench.hdr import DURATION_NS_MAX, RELATIVE_ERROR_MAX, Histogram

__all__ = ["DURATION_NS_MAX", "RELATIVE_ERROR_MAX", "Histogram"]
