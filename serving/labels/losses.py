"""Which versions are wrong more often than they were, and since when? The streams of all that have labels."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serving.clock import utc
from serving.config import Deciding
from serving.config import Labels as Settings
from serving.drift.events import Event, Events
from serving.labels.joining import LIVE
from serving.labels.reading import Key, LossReading
from serving.labels.stream import Stream, Terms

STREAMS_MAX = 1024
"""Beyond it those go first that got no label for the longest time."""
CLASSES, SCORES = "classes", "scores"
StreamKey = tuple[str, str, str, str]
"""Model, version, role, and what the labels say."""
Lost = tuple[str, str, str, float]
"""Version, role, what the label says, and how far off it is: 0 or 1 for a class."""

log = logging.getLogger("turnout.labels")


class Losses:
    """The streams of all models.

    Parameters
    ----------
    folder : Path
        Where events are written down, which only the user can enter.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._streams: dict[StreamKey, Stream] = {}
        self.events = Events(folder)

    def __repr__(self) -> str:
        degraded = sum(each.degraded for each in self._streams.values())
        return f"<Losses: {len(self._streams)} streams, {degraded} degraded>"

    def take(self, model: str, lost: Iterable[Lost], now_us: int) -> list[Event]:
        """Take in what labels said, in the order in which they came; return what happened."""
        happened = []
        for version, role, kind, loss in lost:
            key = (model, version, role, kind)
            stream = self._streams.pop(key, None) or Stream(self._terms(model), kind == SCORES)
            self._streams[key] = stream
            turn = stream.take(loss, now_us)
            if turn:
                happened.append(self._event(key, stream, turn, now_us))
        while len(self._streams) > STREAMS_MAX:
            del self._streams[next(iter(self._streams))]
        return happened

    def _terms(self, model: str) -> Terms:
        settings = self._settings
        rate = settings.models.get(model, Deciding()).error_rate
        return Terms(rate, settings.baseline_labels, settings.false_alarms, settings.horizon_labels)

    def _event(self, key: StreamKey, stream: Stream, turn: str, now_us: int) -> Event:
        model, version, role, kind = key
        document = stream.document()
        event: Event = {
            "at": utc(now_us),
            "event": turn,
            "model": model,
            "version": version,
            "role": role,
            "of": kind,
            **{name: document[name] for name in ("rate", "recent", "labels", "wrong", "evidence")},
        }
        self.events.add(event)
        log.warning(
            "version=%s@%s role=%s event=%s rate=%.4g recent=%.4g labels=%d evidence=%.1f",
            *(model, version, role, turn),
            *(event["rate"], event["recent"], event["labels"], event["evidence"]),
        )
        return event

    def document(self, model: str, version: str, role: str = LIVE) -> dict[str, Any] | None:
        """Return what is known of a version, of its classes if it has any; None without labels."""
        for kind in (CLASSES, SCORES):
            stream = self._streams.get((model, version, role, kind))
            if stream is not None:
                said = stream.document()
                since_us = said.pop("since_us")
                return {"of": kind, "since": utc(since_us) if since_us else None, **said}
        return None

    def documents(self) -> dict[Key, dict[str, Any]]:
        """Return the same of all versions."""
        keys = {key[:3] for key in self._streams}
        return {key: said for key in keys if (said := self.document(*key)) is not None}

    def readings(self) -> dict[Key, LossReading]:
        """Return what metrics say; of a version with labels of both kinds, what its classes do."""
        found = {key[:3]: stream.reading() for key, stream in self._streams.items() if key[3] == SCORES}
        return found | {key[:3]: each.reading() for key, each in self._streams.items() if key[3] == CLASSES}

    def to_json(self) -> list[Any]:
        """Return plain values that `restore` goes on from."""
        return [[*key, stream.to_json()] for key, stream in self._streams.items()]

    def restore(self, document: Iterable[list[Any]]) -> None:
        """Go on from what `to_json` wrote; `ValueError`, `TypeError` or `KeyError` if it is another's."""
        for model, version, role, kind, said in document:
            self._streams[model, version, role, kind] = Stream.from_json(self._terms(model), said)


def lost(losses: Mapping[str, Iterable[tuple[str, str, Iterable[tuple[int, float]]]]]) -> list[Lost]:
    """Return what labels said in the order in which they came, from what replicas tell by kind."""
    found = [
        (label, version, role, kind, loss)
        for kind, each in losses.items()
        for version, role, pairs in each
        for label, loss in pairs
    ]
    return [(version, role, kind, loss) for _, version, role, kind, loss in sorted(found)]
