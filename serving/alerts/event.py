"""What is an event that others are told of, and how is it written?  (CloudEvents 1.0, structured JSON)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from hashlib import sha256
from typing import Any

import orjson

from serving.clock import utc

TYPE_PREFIX = "dev.turnout."
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
LEFT_OUT = ("verdict", "rollout", "evidence", "signs")
"""What goes first where an event would be too large; the journal has all of it."""


class Kind(StrEnum):
    """What can have happened."""

    ROLLOUT_STARTED = "rollout.started"
    ROLLOUT_STEP = "rollout.step"
    ROLLOUT_PAUSED = "rollout.paused"
    ROLLOUT_RESUMED = "rollout.resumed"
    ROLLOUT_PROMOTED = "rollout.promoted"
    ROLLOUT_ABORTED = "rollout.aborted"
    ROLLOUT_SUPERSEDED = "rollout.superseded"
    ROLLBACK_COMPLETED = "rollback.completed"
    ROLLBACK_ADVISED = "rollback.advised"
    TRAFFIC_CHANGED = "traffic.changed"
    DRIFT_DETECTED = "drift.detected"
    DRIFT_CLEARED = "drift.cleared"
    QUALITY_DEGRADED = "quality.degraded"
    RETRAIN_REQUESTED = "retrain.requested"


FAMILIES = tuple(dict.fromkeys(f"{kind.partition('.')[0]}.*" for kind in Kind))
USUAL = tuple(family for family in FAMILIES if family != "traffic.*")
"""Every change by hand is news to few."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    `id` is the same however often it is told, so that whoever is told twice can tell. `subject` is the model.
    `at_us` is in microseconds of Unix time. `data` holds plain values.
    """

    kind: Kind
    id: str
    subject: str
    at_us: int
    data: Mapping[str, Any]

    def body(self, source: str, bytes_max: int) -> bytes:
        """Return what is sent: evidence is left out where there is too much of it."""
        head = {
            "specversion": "1.0",
            "id": self.id,
            "source": source,
            "type": f"{TYPE_PREFIX}{self.kind}",
            "subject": self.subject,
            "time": utc(self.at_us),
            "datacontenttype": "application/json",
        }
        return _fitting(head, self.data, bytes_max)

    def line(self, bytes_max: int) -> bytes:
        """Return what `parse` reads, as JSON without a line break; shortened as `body` is."""
        head = {"kind": self.kind, "id": self.id, "subject": self.subject, "at_us": self.at_us}
        return _fitting(head, self.data, bytes_max)


def parse(document: Mapping[str, Any]) -> Event:
    """Return the event whose `line` this was; a `ValueError` or `KeyError` says that it was none."""
    return Event(
        Kind(document["kind"]), document["id"], document["subject"], int(document["at_us"]), document["data"]
    )


def event_id(*parts: object) -> str:
    """Return an id that is the same for the same parts."""
    return sha256(orjson.dumps([*parts], option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def kinds(words: Iterable[str]) -> frozenset[Kind]:
    """Return what is meant by names of events, and by families such as ``rollout.*``.

    Raises
    ------
    ValueError
        If one is neither.
    """
    found: set[Kind] = set()
    for word in words:
        meant = [kind for kind in Kind if word in (str(kind), f"{kind.partition('.')[0]}.*", "*")]
        if not meant:
            near = get_close_matches(word, [*FAMILIES, *Kind], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known families: {', '.join(FAMILIES)}"
            raise ValueError(f"{word[:80]!r} is no event; {hint}")
        found.update(meant)
    return frozenset(found)


def _fitting(head: Mapping[str, Any], data: Mapping[str, Any], bytes_max: int) -> bytes:
    kept, gone = dict(data), []
    for name in (*LEFT_OUT, ""):
        try:
            written = orjson.dumps({**head, "data": kept}, option=orjson.OPT_NON_STR_KEYS)
        except TypeError:  # What JSON has no word for, in evidence that somebody else made.
            written = b""
        if written and len(written) <= bytes_max:
            return written
        if name in kept:
            del kept[name]
            gone.append(name)
            kept["left_out"] = gone
    return orjson.dumps({**head, "data": {"left_out": sorted(map(str, data))}})
