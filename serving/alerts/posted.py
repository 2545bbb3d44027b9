"""Which events are in no journal: drift, loss of quality, and what is known of a rollback's target?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from serving.alerts.event import Event, Kind, event_id
from serving.alerts.retraining import Cause, Sign
from serving.clock import parse_utc, utc

DRIFT_KINDS = {"detected": Kind.DRIFT_DETECTED, "cleared": Kind.DRIFT_CLEARED}


def of_drift(event: Mapping[str, Any]) -> Event:
    """Return what others are told of an event of `serving.drift.drift`."""
    kind = DRIFT_KINDS[event["event"]]
    return Event(kind, event_id("drift", event), event["model"], parse_utc(event["at"]), dict(event))


def of_quality(model: str, version: str, at_us: int, evidence: Mapping[str, Any]) -> Event:
    """Return that a version is worse than it was, and by what numbers."""
    digest = event_id("quality", model, version, at_us)
    data = {"model": model, "version": version, "at": utc(at_us), "evidence": dict(evidence)}
    return Event(Kind.QUALITY_DEGRADED, digest, model, at_us, data)


def of_advice(advice: Mapping[str, Any], revision: int, at_us: int) -> Event:
    """Return how the version that traffic went back to does on today's requests."""
    data = {"revision": revision, **advice}
    digest = event_id("advice", advice["model"], revision)
    return Event(Kind.ROLLBACK_ADVISED, digest, advice["model"], at_us, data)


def drift_signs(verdicts: Iterable[Mapping[str, Any]]) -> list[Sign]:
    """Return the signs in the verdicts of `serving.drift.drift` on all streams, those of shadows left out."""
    return [
        Sign(
            Cause.DRIFT,
            each["model"],
            each["version"],
            each["tensor"],
            {name: each[name] for name in ("psi_max", "evidence", "features_drifted")},
        )
        for each in verdicts
        if each["detected"] and each["role"] == "live"
    ]
