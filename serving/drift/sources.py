"""What is new in what replicas tell again and again? Differences of counts that only grow.

A replica tells what a stream has counted since it began, under a number that no other stream has. So a
telling that is repeated, or comes late, holds nothing new; one that was lost is made up for by the next;
and a replica that begins anew begins another stream.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from serving.drift.reading import StreamReading
from serving.drift.tally import Tally
from serving.drift.view import Look

log = logging.getLogger("turnout.drift")

OVER_MAX = 64
"""Streams that have probably ended of which is known what each had counted; further ones are added up."""
ADDED_MAX = 4096
"""How many of those that were added up are known by number, so that they are not counted again."""

Panels = dict[str, Tally]


@dataclass(frozen=True, slots=True)
class Source:
    """A stream of one replica, as it was told last."""

    replica: str
    reading: StreamReading


class Sources:
    """The streams of all replicas for one tensor of a version in one role."""

    def __init__(self) -> None:
        self._sources: dict[int, Source] = {}
        """By number, those that told last at the end."""
        self._over: Panels = {}
        """The sum of those that are over."""
        self._over_rows = 0
        self._over_dropped = 0
        self._added: dict[int, None] = {}

    def take(self, replica: str, reading: StreamReading) -> Panels:
        """Take over what a replica tells; return what is new in it.

        Raises
        ------
        Apart
            If it is counted by another reference than before.
        """
        number = reading.stream
        if number in self._added:
            return {}
        before = self._sources.get(number)
        if before is not None and _extent(reading) <= _extent(before.reading):
            return {}
        new = dict(reading.panels)
        if before is not None:
            new = {name: tally.minus(before.reading.panels[name]) for name, tally in new.items()}
            del self._sources[number]
        self._sources[number] = Source(replica, reading)
        return {name: tally for name, tally in new.items() if tally.n}

    def tidy(self, connected: Collection[str]) -> None:
        """Add up what has probably ended: streams of replicas that are gone, or that began another since."""
        if len(self._sources) <= OVER_MAX:
            return
        latest = {source.replica: number for number, source in self._sources.items()}
        over = [
            number
            for number, source in self._sources.items()
            if source.replica not in connected or latest[source.replica] != number
        ]
        for number in over[: max(len(over) - OVER_MAX, 0)]:
            self._add_up(number)

    def _add_up(self, number: int) -> None:
        reading = self._sources.pop(number).reading
        self._over = merged(self._over, reading.panels)
        self._over_rows += reading.rows
        self._over_dropped += sum(reading.dropped.values())
        self._added[number] = None
        while len(self._added) > ADDED_MAX:
            del self._added[next(iter(self._added))]

    @property
    def are_told(self) -> bool:
        """Whether any replica told of one."""
        return bool(self._sources or self._added)

    @property
    def rows(self) -> int:
        """All that were counted."""
        return self._over_rows + sum(each.reading.rows for each in self._sources.values())

    @property
    def dropped(self) -> int:
        """All that were not."""
        readings = (each.reading for each in self._sources.values())
        return self._over_dropped + sum(sum(each.dropped.values()) for each in readings)

    def looks(self) -> dict[int, Look]:
        """Return how each stream's rows are looked at, by its number."""
        return {number: each.reading.look for number, each in self._sources.items()}

    def total(self) -> Panels:
        """Return all that was counted since the streams began."""
        total = dict(self._over)
        for source in self._sources.values():
            total = merged(total, source.reading.panels)
        return total

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` goes on from: nothing is counted twice then."""
        sources = [
            {"replica": each.replica, "reading": each.reading.to_json()} for each in self._sources.values()
        ]
        return {
            "sources": sources,
            "over": {name: tally.to_json() for name, tally in self._over.items()},
            "over_rows": self._over_rows,
            "over_dropped": self._over_dropped,
            "added": list(self._added),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Sources:
        """Read what `to_json` wrote; a `ValueError`, `TypeError` or `KeyError` says that it is another's."""
        made = cls()
        for each in document["sources"]:
            reading = StreamReading.from_json(each["reading"])
            made._sources[reading.stream] = Source(each["replica"], reading)
        made._over = {name: Tally.from_json(each) for name, each in document["over"].items()}
        made._over_rows, made._over_dropped = document["over_rows"], document["over_dropped"]
        made._added = dict.fromkeys(document["added"])
        return made


def merged(one: Mapping[str, Tally], other: Mapping[str, Tally]) -> Panels:
    """Return the sums, panel by panel."""
    sums = dict(one)
    for name, tally in other.items():
        sums[name] = sums[name] + tally if name in sums else tally
    return sums


def _extent(reading: StreamReading) -> tuple[int, int]:
    return reading.rows, sum(reading.dropped.values())
