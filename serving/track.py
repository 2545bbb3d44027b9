"""One run at a time: which requests share it, and how another thread ends it when nobody waits any longer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import monotonic_ns
from typing import Any, Protocol

from numpy.typing import NDArray

from serving.errors import TurnoutError
from serving.session import Feeds, Stop
from serving.wire import InferRequest

Tap = Callable[["Batch"], None]
"""Whoever looks at batches that were answered. On the event loop, and at once: arrays are used anew."""


class Runs(Protocol):
    """What a lane needs of a session."""

    def run(self, feeds: Feeds, stop: Stop) -> list[NDArray[Any]]:
        """Run once; `stop` ends it from another thread."""


class Watched(Protocol):
    """Whatever has runs that may last too long."""

    def watch(self, now_ns: int) -> None:
        """End the runs that nobody waits for."""


@dataclass(slots=True)
class Batch:
    """Requests that share a run, and what became of it."""

    requests: list[InferRequest]
    rows: int
    taken_ns: int
    started_ns: int = 0
    ended_ns: int = 0
    answered_ns: int = 0
    feeds: Feeds | None = None
    outputs: list[NDArray[Any]] | None = None
    error: TurnoutError | None = None
    parts: list[Batch] = field(default_factory=list)
    """Its requests one by one, if they had to be run so."""
    arrivals: Sequence[int] = ()
    """When those of its requests arrived that got an answer."""
    answered: list[InferRequest] | None = None
    """These requests, if not all got one."""

    def over(self, now_ns: int) -> bool:
        """Say whether nobody waits for this run any longer."""
        return all(r.dropped or (r.expires_ns and now_ns >= r.expires_ns) for r in self.requests)


class Track:
    """One run at a time: what it is, and the means to stop it."""

    __slots__ = ("batch", "jobs", "stop")

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.stop = Stop()
        self.jobs: SimpleQueue[Batch | None] = SimpleQueue()

    def end_if_over(self, now_ns: int) -> None:
        """Stop the run if nobody waits for it. Called by the watchdog's thread."""
        batch = self.batch
        if batch is not None and batch.started_ns and batch.over(now_ns):
            self.stop.now()


class Watchdog:
    """The thread that ends runs past their deadline, also one that holds up the event loop."""

    PERIOD_S = 0.02

    def __init__(self, lanes: Callable[[], Sequence[Watched]]) -> None:
        self._lanes = lanes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="turnout-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, and wait for the thread."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self.PERIOD_S):
            now_ns = monotonic_ns()
            for lane in self._lanes():
                lane.watch(now_ns)
