"""When requests that arrived together run: when the sockets have nothing more to say, never by a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Protocol

LOOKS_MAX = 8
"""How many more times the sockets are read before a tick's requests run, as long as each brings some."""
LINGER_NS = 50_000
"""How long the loop goes on looking after a tick of several requests before it sleeps."""


class Flushes(Protocol):
    """Whoever gathers requests during a tick."""

    @property
    def arrived(self) -> Sequence[object]:
        """Its requests so far."""

    def flush(self) -> None:
        """Run or queue what arrived."""


class Tick:
    """Gathers the lanes that requests came in for, and lets them run at the end of the loop's turn.

    Under load, a turn that brought requests is followed by another look at the sockets, so that more of
    them share a run; and the loop stays awake for a moment, since clients that were just answered are
    about to ask again, and waking up costs both sides more than a run. Measured with 8 connections on
    two cores: 0.31 of the HTTP floor without, 0.35 with looks, 0.39 with both; nothing with 64. A lone
    client, whose ticks hold one request, neither waits nor keeps the loop awake.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, now_ns: Callable[[], int] = monotonic_ns) -> None:
        self._loop = loop
        self._now_ns = now_ns
        self._lanes: list[Flushes] = []
        self._seen = 0
        self._looks = 0
        self._before = 0
        self._awake_until_ns = 0

    def join(self, lane: Flushes) -> None:
        """Let `lane` flush in this tick. Called at its first request."""
        if not self._lanes:
            self._loop.call_soon(self._turn)
        self._lanes.append(lane)

    def _turn(self) -> None:
        lanes = self._lanes
        count = len(lanes[0].arrived) if len(lanes) == 1 else sum([len(lane.arrived) for lane in lanes])
        if self._before > 1 and count > self._seen and self._looks < LOOKS_MAX:
            self._seen = count
            self._looks += 1
            self._loop.call_soon(self._turn)
            return
        self._lanes = []
        self._before = count
        self._seen = self._looks = 0
        for lane in lanes:
            lane.flush()
        if count > 1 and not self._lanes:
            self._awake_until_ns = self._now_ns() + LINGER_NS
            self._loop.call_soon(self._linger)

    def _linger(self) -> None:
        if not self._lanes and self._now_ns() < self._awake_until_ns:
            self._loop.call_soon(self._linger)
