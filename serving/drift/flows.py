"""Which streams are there, or were there, on this replica, and what have they counted?"""

from __future__ import annotations

import logging
import resource
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from serving.config import Drift as Settings
from serving.drift.flow import Flow
from serving.drift.measure import measures
from serving.drift.process import DriftProcess
from serving.drift.profile import Profile
from serving.drift.reading import Key, StreamCounts, StreamReading
from serving.drift.ring import RowRing
from serving.drift.view import Look, matches

STREAMS_MAX = 1024
"""Tensors that are counted at once, at two descriptors and up to `drift.queue_bytes` each."""
DESCRIPTORS_PART = 8
"""Of the descriptors that there may be, that many streams: connections need the most of them."""
ENDED_MAX, ENDED_BYTES_MAX = 256, 4 << 20
"""Streams that ended whose counts are kept, one in any case; the oldest goes first, told of long ago."""
KEYS_MAX = 4096
"""Tensors whose totals are kept when their streams end; the oldest goes first."""

Told = dict[int, tuple[int, int]]
"""By stream: rows counted and dropped when it was told of last."""

log = logging.getLogger("turnout.drift")


class Flows:
    """The streams of this replica.

    Parameters
    ----------
    settings : serving.config.Drift
    process : DriftProcess
        Who counts.
    number : callable, optional
        Returns a number that no stream had, here or on another replica.
    """

    def __init__(
        self,
        settings: Settings,
        process: DriftProcess,
        number: Callable[[], int] = lambda: secrets.randbits(52) or 1,
    ) -> None:
        self._settings = settings
        self._process = process
        self._number = number
        self._flows: dict[int, Flow] = {}
        self._ended: dict[int, tuple[Key, StreamReading]] = {}
        self._replaced: set[int] = set()
        """Those whose profile counts no more, of which nothing is told."""
        self._totals: dict[Key, StreamCounts] = {}
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(STREAMS_MAX, descriptors // DESCRIPTORS_PART)

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def full(self) -> bool:
        """Whether there may be no more."""
        return len(self._flows) >= self._most

    def begin(self, key: Key, look: Look, profile: Profile | None, after: Flow | None = None) -> Flow:
        """Have a tensor counted from now on, in the ring of the stream that ended just now, if one did."""
        reference = profile.tensors.get(look.tensor) if profile is not None else None
        if reference is not None and (reference.of != look.of or not matches(look, reference)):
            reference = None
        hash_ = profile.hash if profile is not None else ""
        ring = after.ring if after is not None else self._ring(look)
        counted = measures(look, reference, self._settings.categories_max)
        flow = Flow(self._number(), key, look, hash_, counted, ring, after)
        self._flows[flow.number] = flow
        self._process.watch(flow)
        return flow

    def _ring(self, look: Look) -> RowRing:
        return RowRing(look.dtype, look.elements, self._settings.queue_bytes)

    def end(self, flow: Flow) -> None:
        """Have no more of a stream counted than what was written until now."""
        if flow.until is None:
            flow.end()
            self._process.end(flow)

    def replace(self, flow: Flow) -> None:
        """End a stream whose profile counts no more, and tell of it no more.

        It may be counted to its end late, and the same profile may count anew by then: not for those rows.
        """
        self._replaced.add(flow.number)
        self.end(flow)

    def sweep(self) -> None:
        """Give the memory back of streams that ended and are counted to their end."""
        for flow in list(self._flows.values()):
            if flow.until is not None and flow.sheet.done:
                self._bury(flow)

    def _bury(self, flow: Flow) -> None:
        self._process.forget(flow)
        flow.close()
        reading = flow.reading()
        self._ended[flow.number] = (flow.key, reading)
        total = self._totals.pop(flow.key, StreamCounts()) + StreamCounts.of(reading)
        self._totals[flow.key] = total
        del self._flows[flow.number]
        if all(each.ring is not flow.ring for each in self._flows.values()):
            flow.ring.close()
        while len(self._ended) > ENDED_MAX or (len(self._ended) > 1 and self._ended_bytes > ENDED_BYTES_MAX):
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._replaced.discard(oldest)
        if len(self._totals) > KEYS_MAX:
            del self._totals[next(iter(self._totals))]

    @property
    def _ended_bytes(self) -> int:
        return sum(tally.nbytes for _, reading in self._ended.values() for tally in reading.panels.values())

    def open(self, flows: Iterable[Flow]) -> bool:
        """Say whether any of these is not yet counted to its end."""
        return any(flow.number in self._flows for flow in flows)

    def readings(self) -> dict[int, tuple[Key, StreamReading]]:
        """Return what each stream has counted, by its number. Any thread may call it."""
        now = {flow.number: (flow.key, flow.reading()) for flow in list(self._flows.values())}
        return {**dict(list(self._ended.items())), **now}

    def counts(self) -> dict[Key, StreamCounts]:
        """Return how many rows of each tensor were counted and dropped. Any thread may call it."""
        counts = dict(list(self._totals.items()))
        for flow in list(self._flows.values()):
            now = StreamCounts(flow.sheet.rows, flow.dropped)
            counts[flow.key] = counts.get(flow.key, StreamCounts()) + now
        return counts

    def news(self, told: Told) -> list[list[Any]]:
        """Return what is to be told of streams whose counts have changed, and note in `told` that it is.

        Any thread may call it, one at a time for the same `told`.
        """
        replaced = self._replaced.copy()
        there = {flow.number: flow for flow in list(self._flows.values()) if flow.number not in replaced}
        ended = {number: each for number, each in list(self._ended.items()) if number not in replaced}
        news = []
        for number in [*ended, *there]:
            key, reading = ended.get(number) or (there[number].key, None)
            if reading is None:
                flow = there[number]
                if told.get(number) == (flow.sheet.rows, sum(flow.dropped.values())):
                    continue
                reading = flow.reading()
            mark = (reading.rows, sum(reading.dropped.values()))
            if told.get(number) != mark:
                told[number] = mark
                news.append([*key, reading.to_json()])
        for number in told.keys() - there.keys() - ended.keys():
            del told[number]
        return news
