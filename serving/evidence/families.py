"""Which metrics are there of the requests that were drawn?"""

from __future__ import annotations

from serving.evidence.counts import METRICS
from serving.family import Family, Kind, Of

FAMILIES: tuple[Family, ...] = (
    Family(
        "turnout_evidence_requests_total",
        Kind.COUNTER,
        lambda a: a.requests,
        "Requests that the router drew and whose end is evidence.",
        of=Of.ARM,
    ),
    Family(
        "turnout_evidence_events_total",
        Kind.COUNTER,
        lambda a: {metric: a.events.get(metric, 0) for metric in METRICS},
        "What these requests had that they should not have had, by what it is.",
        of=Of.ARM,
        over="metric",
    ),
)
