"""What is there to say about one stream: a tensor of a version, live or as a shadow, on one replica?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from serving.drift.tally import Tally
from serving.drift.view import Look
from serving.shadow.comparison import total

Key = tuple[str, str, str, str]
"""Model, version, role and tensor."""


STREAMS_KEPT_MAX = 2048
"""Tensors whose counts are kept when their replicas are gone."""
EVENTS = ("detected", "cleared")
"""What can happen to a stream."""


class Role(StrEnum):
    """Where the rows of a stream come from."""

    LIVE = "live"
    """Requests that the version answered."""
    SHADOW = "shadow"
    """Copies of requests that another version answered."""


class Drop(StrEnum):
    """Why rows were not counted."""

    FULL = "full"
    """More waited already than there is room for."""
    MISFIT = "misfit"
    """They are not of the size that is counted."""
    BROKEN = "broken"
    """A fault of ours."""


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """How many rows of a tensor were counted and dropped, by all streams that it had here."""

    rows: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: StreamCounts) -> StreamCounts:
        return StreamCounts(self.rows + other.rows, total(self.dropped, other.dropped))

    @classmethod
    def of(cls, reading: StreamReading) -> StreamCounts:
        """Return those of a reading."""
        return cls(reading.rows, reading.dropped)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the control says of a stream of all replicas together."""

    detected: bool = False
    psi_max: float = 0.0
    """The largest of its features' corrected population stability indices."""
    evidence: float = 0.0
    """log10 of the mean e-value of its features."""
    features_drifted: int = 0
    features: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """PSI and evidence of each, where they are few."""
    events: Mapping[str, int] = field(default_factory=dict)
    """How often each of `EVENTS` happened."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Verdict:
        """Read what the control says, or what `asdict` returns."""
        features = {name: (psi, evidence) for name, (psi, evidence) in document["features"].items()}
        return cls(
            document["detected"],
            document["psi_max"],
            document["evidence"],
            document["features_drifted"],
            features,
            document.get("events", {}),
        )


@dataclass(frozen=True, slots=True)
class DriftReading:
    """What metrics say of drift. Those of a node's replicas add up, but for verdicts, which all have."""

    streams: Mapping[Key, StreamCounts] = field(default_factory=dict)
    verdicts: Mapping[Key, Verdict] = field(default_factory=dict)
    running: int = 0
    """Processes that count."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """By the `Death` before."""

    def __add__(self, other: DriftReading) -> DriftReading:
        return DriftReading(
            total(self.streams, other.streams),
            {**other.verdicts, **self.verdicts},
            self.running + other.running,
            total(self.restarts, other.restarts),
        )

    def counters(self) -> DriftReading:
        """Return what stays true when the replica is gone, of the tensors that had the most rows."""
        most = sorted(self.streams.items(), key=lambda item: item[1].rows, reverse=True)
        return DriftReading(dict(most[:STREAMS_KEPT_MAX]), restarts=self.restarts)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "streams": [[*key, each.rows, dict(each.dropped)] for key, each in self.streams.items()],
            "verdicts": [[*key, asdict(each)] for key, each in self.verdicts.items()],
            "running": self.running,
            "restarts": dict(self.restarts),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> DriftReading:
        """Read what `to_json` wrote."""
        streams = {
            (model, version, role, tensor): StreamCounts(rows, dropped)
            for model, version, role, tensor, rows, dropped in document["streams"]
        }
        verdicts = {
            (model, version, role, tensor): Verdict.from_json(each)
            for model, version, role, tensor, each in document["verdicts"]
        }
        return cls(streams, verdicts, document["running"], document["restarts"])


@dataclass(frozen=True, slots=True)
class StreamReading:
    """What a stream has counted since it began.

    Attributes
    ----------
    stream : int
        A number that no other stream has, of this replica or another: one of the same key that has another
        counts from zero.
    profile : str
        The hash of the version's profile, empty for none. Where it has nothing of the tensor, or of another
        look at it, numbers are counted in cells, or only added up, and categories as they come.
    look : Look
    rows : int
        Counted.
    dropped : mapping of str to int
        Rows that were not, by `Drop`.
    panels : mapping of str to Tally
        By the panel's name.
    """

    stream: int
    profile: str
    look: Look
    rows: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    panels: Mapping[str, Tally] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "stream": self.stream,
            "profile": self.profile,
            "look": self.look.to_json(),
            "rows": self.rows,
            "dropped": dict(self.dropped),
            "panels": {name: tally.to_json() for name, tally in self.panels.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> StreamReading:
        """Read what `to_json` wrote; a `ValueError`, `TypeError` or `KeyError` says that it is another's."""
        values = dict(document)
        values["stream"], values["rows"] = int(values["stream"]), int(values["rows"])
        values["look"] = Look.from_json(values["look"])
        values["panels"] = {name: Tally.from_json(each) for name, each in values["panels"].items()}
        return cls(**values)
