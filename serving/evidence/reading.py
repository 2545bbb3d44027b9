"""What do metrics say of the requests that fell to a version, in all epochs together?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.evidence.counts import METRICS, REQUEST, Counts
from serving.evidence.page import Arm
from serving.shadow.comparison import total

Key = tuple[str, str, str]
"""Model, version and arm."""
ARMS_KEPT_MAX = 1024
"""Arms whose counts are kept when their replicas are gone."""


@dataclass(frozen=True, slots=True)
class ArmReading:
    """How many requests there were, and how many of them had each event. Those of replicas add up."""

    requests: int = 0
    events: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: ArmReading) -> ArmReading:
        return ArmReading(self.requests + other.requests, total(self.events, other.events))

    @classmethod
    def of(cls, counts: Counts) -> ArmReading:
        """Return those of a page."""
        return cls(counts.times(REQUEST), {metric: counts.total(metric) for metric in METRICS})


Readings = Mapping[Key, ArmReading]


def readings(pages: Mapping[Arm, Counts]) -> dict[Key, ArmReading]:
    """Add pages up over their epochs."""
    found: dict[Key, ArmReading] = {}
    for (model, _, version, arm), counts in pages.items():
        key, reading = (model, version, arm), ArmReading.of(counts)
        found[key] = found[key] + reading if key in found else reading
    return found


def most(found: Readings) -> dict[Key, ArmReading]:
    """Return those with the most requests, as many as are kept."""
    ordered = sorted(found.items(), key=lambda item: item[1].requests, reverse=True)
    return dict(ordered[:ARMS_KEPT_MAX])


def to_json(found: Readings) -> list[list[Any]]:
    """Return plain values that `from_json` reads back."""
    return [[*key, each.requests, dict(each.events)] for key, each in found.items()]


def from_json(document: Iterable[Iterable[Any]]) -> dict[Key, ArmReading]:
    """Read what `to_json` wrote; a `ValueError` says that it was another release."""
    return {
        (model, version, arm): ArmReading(requests, events)
        for model, version, arm, requests, events in document
    }
