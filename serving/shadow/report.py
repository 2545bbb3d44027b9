"""How do a model's shadows compare, over all replicas that there are or were?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from router.table import newest_first
from serving.shadow.comparison import ShadowReading

Told = list[tuple[str, str, dict[str, Any]]]
"""What a replica tells: model, shadow and its reading, as plain values."""
GONE_MAX = 256
"""Replicas that are gone whose comparisons are kept; the oldest goes first."""


class Gatherer:
    """What each replica told last. What one compared that is gone stays."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}

    def note(self, replica: str, told: Told) -> None:
        """Take over what a replica tells."""
        self._told.pop(replica, None)
        self._told[replica] = told
        while len(self._told) > GONE_MAX:
            del self._told[next(iter(self._told))]

    def readings(self, model: str, connected: Iterable[str] = ()) -> dict[str, ShadowReading]:
        """Return the comparisons of a model's shadows, by version."""
        there = set(connected)
        readings: dict[str, ShadowReading] = {}
        for replica, told in self._told.items():
            for of, version, document in told:
                if of == model:
                    reading = ShadowReading.from_json(document)
                    now = reading if replica in there else reading.counters()
                    readings[version] = readings[version] + now if version in readings else now
        return readings

    def report(self, model: str, connected: Iterable[str]) -> dict[str, Any]:
        """Return the same as plain values."""
        readings = self.readings(model, connected)
        return {
            "model": model,
            "shadows": [readings[version].document(version) for version in newest_first(readings)],
        }
