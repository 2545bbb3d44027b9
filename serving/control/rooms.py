"""Which rooms does a gateway's control have, and what do they know of each other?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from serving.alerts.alerts import Alerts
from serving.alerts.posted import of_quality
from serving.alerts.retraining import Cause, Sign
from serving.clock import parse_utc
from serving.config import Config
from serving.control.inspection import Inspection
from serving.drift.events import Event
from serving.labels.feedback import Feedback
from serving.labels.joining import LIVE
from serving.replay.asking import Replaying
from serving.rollout.advisor import Advisor
from serving.rollout.pilot import Rollouts


class Rooms(NamedTuple):
    """One of each."""

    drift: Inspection
    feedback: Feedback
    replaying: Replaying
    rollouts: Rollouts
    alerts: Alerts


def open_rooms(config: Config, folder: Path) -> Rooms:
    """Open them in a control's private folder; `NotPrivate` or `OSError` if that cannot be."""
    alerts = Alerts(config.alerts, config.retraining, folder)
    drift = Inspection(config.drift, folder, alerts=alerts)
    feedback, replaying = Feedback(config.labels, folder), Replaying(config.replay)
    feedback.happened = Quality(alerts).happened
    advisor = Advisor(replaying, alerts, lambda: time.time_ns() // 1000)
    return Rooms(drift, feedback, replaying, Rollouts(folder, drift, feedback, advisor), alerts)


class Quality:
    """Tells others of versions that are wrong more often than they were."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts
        self._signs: dict[tuple[str, str, str], Sign] = {}

    def happened(self, event: Event) -> None:
        """Take in that a version got worse, or recovered."""
        model, version, what = key = event["model"], event["version"], event["of"]
        if event["role"] != LIVE:
            return
        if event["event"] == "degraded":
            self._alerts.post(of_quality(model, version, parse_utc(event["at"]), event))
            self._signs[key] = Sign(Cause.QUALITY, model, version, what, event)
        else:
            self._signs.pop(key, None)
        self._alerts.see(Cause.QUALITY, self._signs.values())
