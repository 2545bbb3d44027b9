"""One run at a time: which requests share it, and how another thread ends it when nobody waits any longer."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import monotonic_ns
from typing import Any, Protocol

from numpy.typing import NDArray

from serving.errors import Expired, Failed, Invalid, TurnoutError
from serving.layout import Layout
from serving.model import ModelSpec
from serving.session import Feeds, Stop
from serving.waiting import Waiting
from serving.wire import InferRequest

log = logging.getLogger("turnout.track")

PERIOD_S = 0.02
"""How often the watchdog looks."""
LONG_S = 0.5
"""How long a run may hold the event loop: half of what a replica has to acknowledge a change of traffic."""
STUCK_S = 1.5
"""How much longer it may go on, though it was stopped, before the process ends itself."""
STUCK_CODE = 70
"""With this exit code. `EX_SOFTWARE` of sysexits.h."""
SAID_S_MAX = 1.0
"""How long whoever reads the log may hold that up."""

Tap = Callable[["Batch"], None]
"""Whoever looks at batches that were answered. On the event loop, and at once: arrays are used anew."""


class Runs(Protocol):
    """What a lane needs of a session."""

    def run(self, feeds: Feeds, stop: Stop) -> list[NDArray[Any]]:
        """Run once; `stop` ends it from another thread."""


class Turns(Protocol):
    """Who says which requests run next, and when: what waits itself, or the device that they wait for."""

    def take(self, now_ns: int) -> list[InferRequest]:
        """Take the requests of the next run; none if it is not time for it."""

    def wake_ns(self, now_ns: int, *, free: bool) -> int:
        """Return when to look again though nothing arrives; `free` says whether a run could start."""


class Pipeline(Protocol):
    """What a lane needs besides where batches are on their way to a device while others run there."""

    def turns(self, waiting: Waiting) -> Turns:
        """Return who says when what waits there is taken. On the loop, as what that does."""

    def gather(self, layout: Layout, requests: Sequence[InferRequest], rows: int) -> Feeds:
        """Return what to run for requests that were taken together, as `Layout.feeds` does. In a thread."""

    def release(self, batch: Batch) -> None:
        """Note that nobody looks at its feeds any longer. On the loop."""


class Watched(Protocol):
    """Whatever has runs that may last too long."""

    def watch(self, now_ns: int, run_s_max: float) -> str:
        """Stop the runs that nobody waits for, or that take too long; say which goes on all the same."""


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
    seen: int = 0
    """How often the watchdog saw it run: a clock that stands still when the process or the machine does."""
    too_long: bool = False
    """Whether it took too long, and was stopped for that."""

    @property
    def unfinished(self) -> bool:
        """Whether it was stopped though somebody waits for it still."""
        return isinstance(self.error, Expired) and not self.over(self.ended_ns)

    def misfit(self, spec: ModelSpec) -> str:
        """Say which output cannot be cut into the requests' rows, if one cannot."""
        if self.rows and self.outputs is not None:
            for index, array in enumerate(self.outputs):
                if array.shape[:1] != (self.rows,):
                    name = spec.outputs[index].name
                    return f"output {name!r} has shape {list(array.shape)} for a batch of {self.rows} rows"
        return ""

    def broke(self, spec: ModelSpec) -> bool:
        """Say whether its requests are to be run one by one: only one of them may be at fault."""
        return isinstance(self.error, Failed | Invalid) or bool(self.misfit(spec))

    def split(self) -> list[Batch]:
        """Return its requests, each in a batch of its own."""
        self.parts = [Batch([each], each.layout.rows, self.taken_ns) for each in self.requests]
        return self.parts

    def let_alone(self, misfit: str, *, promised: bool) -> None:
        """Take a misfit as the answer of the one request that ran, unless its rows were promised."""
        if promised:
            self.error = Failed(f"{misfit}; its rows cannot be told apart, so set max_batch_size: 0")
        else:
            self.rows = 0

    def over(self, now_ns: int) -> bool:
        """Say whether nobody waits for this run any longer."""
        return all(r.dropped or (r.expires_ns and now_ns >= r.expires_ns) for r in self.requests)


class Track:
    """One run at a time: what it is, and the means to stop it. `run_s_max` is how long one may take here."""

    __slots__ = ("batch", "jobs", "run_s_max", "stop")

    def __init__(self, run_s_max: float = math.inf) -> None:
        self.run_s_max = run_s_max
        self.batch: Batch | None = None
        self.stop = Stop()
        self.jobs: SimpleQueue[Batch | None] = SimpleQueue()

    def watch(self, now_ns: int, run_s_max: float) -> float:
        """Stop the run if nobody waits for it, or it takes too long; return for how long it is stuck, else 0.

        Called by the watchdog's thread. No run at all may take longer than `run_s_max`.
        """
        batch = self.batch
        if batch is None or not batch.started_ns:
            return 0.0
        batch.seen += 1
        seen_s, run_s_max = batch.seen * PERIOD_S, min(self.run_s_max, run_s_max)
        batch.too_long = seen_s > run_s_max
        if batch.too_long or batch.over(now_ns):
            self.stop.now()
        return (now_ns - batch.started_ns) / 1e9 if seen_s > run_s_max + STUCK_S else 0.0


def end_process(why: str) -> None:
    """Say why, and end this process at once: whoever started it starts it anew. Nothing is tidied up."""
    # In a thread, since a log that nobody reads would hold up what is to end.
    saying = threading.Thread(target=log.critical, args=("%s: this process ends itself", why), daemon=True)
    saying.start()
    saying.join(SAID_S_MAX)
    os._exit(STUCK_CODE)


class Watchdog:
    """The thread that ends runs past their deadline, also one that holds up the event loop.

    A run that goes on all the same can only be ended with its process.

    Parameters
    ----------
    run_s_max : float
        For how long anybody may wait for a run.
    end : callable
        What is done about a run that is stuck, told which it is.
    """

    def __init__(
        self,
        lanes: Callable[[], Sequence[Watched]],
        run_s_max: float = math.inf,
        end: Callable[[str], None] = end_process,
    ) -> None:
        self._lanes = lanes
        self._run_s_max = run_s_max
        self._end = end
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
        while not self._over.wait(PERIOD_S):
            now_ns = monotonic_ns()
            for lane in self._lanes():
                if stuck := lane.watch(now_ns, self._run_s_max):
                    self._end(stuck)
