"""What is there to say about labels, for metrics?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from serving.labels.quality import Quality, Seen
from serving.shadow.comparison import total

Key = tuple[str, str, str]
"""Model, version and role."""
DEGRADED, RECOVERED = "degraded", "recovered"
EVENTS = (DEGRADED, RECOVERED)
"""What can happen to a version."""


@dataclass(frozen=True, slots=True)
class LossReading:
    """What the control says of how often a version is wrong, over all replicas."""

    degraded: bool = False
    evidence: float = 0.0
    """That it is wrong more often than before: log10 of an e-value."""
    recent: float | None = None
    """How often it was wrong of late; None while that is not known."""
    events: Mapping[str, int] = field(default_factory=dict)
    """How often each of `EVENTS` happened."""


@dataclass(frozen=True, slots=True)
class VersionLabels:
    """What there is to say about one version in one role."""

    seen: Seen = field(default_factory=Seen)
    quality: Quality = field(default_factory=Quality)


@dataclass(frozen=True, slots=True)
class LabelsReading:
    """What metrics say of labels. Those of a node's replicas add up, but for losses, which all have."""

    seen: Mapping[Key, Seen] = field(default_factory=dict)
    quality: Mapping[Key, Quality] = field(default_factory=dict)
    rows: int = 0
    """Answers that are remembered."""
    bytes_total: int = 0
    losses: Mapping[Key, LossReading] = field(default_factory=dict)

    def __add__(self, other: LabelsReading) -> LabelsReading:
        return LabelsReading(
            total(self.seen, other.seen),
            total(self.quality, other.quality),
            self.rows + other.rows,
            self.bytes_total + other.bytes_total,
            {**other.losses, **self.losses},
        )

    def versions(self) -> Iterator[tuple[Key, VersionLabels]]:
        """Yield what is known of each version."""
        for key in {**self.seen, **self.quality}:
            yield key, VersionLabels(self.seen.get(key, Seen()), self.quality.get(key, Quality()))

    def counters(self) -> LabelsReading:
        """Return what stays true when the replica is gone."""
        return LabelsReading(self.seen, self.quality)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "seen": [[*key, asdict(each)] for key, each in self.seen.items()],
            "quality": [[*key, each.to_json()] for key, each in self.quality.items()],
            "rows": self.rows,
            "bytes_total": self.bytes_total,
            "losses": [[*key, asdict(each)] for key, each in self.losses.items()],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LabelsReading:
        """Read what `to_json` wrote."""
        seen = {(m, v, role): Seen(**each) for m, v, role, each in document["seen"]}
        quality = {(m, v, role): Quality.from_json(each) for m, v, role, each in document["quality"]}
        losses = {(m, v, role): LossReading(**each) for m, v, role, each in document["losses"]}
        return cls(seen, quality, document["rows"], document["bytes_total"], losses)
