"""How is a gateway asked at a rate that does not depend on its answers?

A request is due when its arrival says so. It is sent at once if a connection has room for it; else it
waits, and its time runs. A loop on epoll does nothing else, on one core.
"""

from __future__ import annotations

import gc
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from serving.bench.arrivals import Arrivals, bounded, closed, constant, poisson
from serving.bench.channels import Channels
from serving.bench.outcomes import TIMEOUT, Outcomes
from serving.bench.plan import Plan
from serving.bench.requests import NEVER, Requests, clock
from serving.bench.tally import NEVER_SENT, Recent, Tally
from serving.bench.tape import Tape

__all__ = ["Load", "Plan"]

LEAD_NS = 20_000_000
"""From the opening of the connections to the first arrival."""
SPIN_NS = 100_000
"""Before a request is due the loop no longer sleeps: a sleep ends up to 60 us late."""
CHORE_NS = 20_000_000
FOLD_MIN = 512
"""Counted in a quiet moment; fewer wait for more."""
QUIET_NS = 250_000
"""Before anything is due; counting takes half of it."""


class Crowd(Protocol):
    """Connections, over which requests are spread."""

    def ask(self, now: int, /) -> None:
        """Send what is due, as far as there is room."""

    def take(self, events: list[tuple[int, int]], /) -> None:
        """Act on what happened on the sockets."""

    def reopen(self, now: int, /) -> None:
        """Open as many connections as there are to be at least."""

    def expire(self, now: int, late: int, /) -> None:
        """Give up what was due at `late` or before."""

    def close(self) -> None:
        """End all connections."""


class Load:
    """One run of a plan.

    Attributes
    ----------
    tally : Tally
        What came of it. It may be told of changes and phases while this runs in another thread.
    idle_ns, spent_ns : int
        Of the run, how long there was nothing to do, and how long it took.
    cut : bool
        It was stopped before its end.
    """

    def __init__(self, plan: Plan, each_second: Callable[[int, Recent], None] | None = None) -> None:
        self._plan, self._each_second = plan, each_second
        self._tape = Tape()
        self._epoll = select.epoll()
        self._seconds = self._chore_ns = 0
        self.idle_ns = self.spent_ns = 0
        self.cut = False
        self.begin_ns = clock() + LEAD_NS
        self.end_ns = self.begin_ns + int((plan.warm_s + plan.seconds) * 1e9)
        self._requests = Requests(plan, self._due_moments(), self._tape, self._fold)
        outcomes = Outcomes()
        self._crowd = _crowd(plan, self._requests, outcomes, self._epoll)
        from_ns = self.begin_ns + int(plan.warm_s * 1e9)
        watched = each_second is not None
        self.tally = Tally(plan.model, outcomes.met, from_ns, plan.timeout_s, watched=watched)

    def _due_moments(self) -> Iterator[int]:
        plan = self._plan
        if plan.arrivals is Arrivals.CLOSED:
            return closed(clock, self.end_ns)
        rng = np.random.default_rng(plan.seed)
        ways = {Arrivals.POISSON: lambda: poisson(plan.rate_per_s, rng)}
        due = ways.get(plan.arrivals, lambda: constant(plan.rate_per_s))()
        return map(self.begin_ns.__add__, bounded(due, plan.warm_s + plan.seconds, plan.requests_max))

    @property
    def asked(self) -> int:
        """How many requests were sent so far."""
        return self._requests.sent

    @property
    def queued(self) -> int:
        """Requests for which there was no connection when they were due."""
        return self._requests.queued

    @property
    def busy(self) -> float:
        """The share of the time in which this had something to do; near 1 it was itself the limit."""
        return 1 - self.idle_ns / self.spent_ns if self.spent_ns else 0.0

    def stop(self) -> None:
        """End soon; called by another thread."""
        self.cut = True

    def run(self) -> None:
        """Ask until the end, and until everything is answered or too late."""
        with self._epoll, _undisturbed():
            try:
                self._crowd.reopen(clock())
                while clock() < self.begin_ns:  # Connections are made meanwhile.
                    self._crowd.take(self._epoll.poll(0.001))
                self._requests.advance()
                self._ask_and_look()
            except KeyboardInterrupt:
                self.cut = True
            finally:
                self.spent_ns = clock() - self.begin_ns
                self._crowd.close()
                self._fold()
                self.tally.finish()

    def _ask_and_look(self) -> None:
        poll, requests = self._epoll.poll, self._requests
        ask, take = self._crowd.ask, self._crowd.take
        while (requests.due < NEVER or requests.flying) and not self.cut:
            now = clock()
            if requests.due <= now:
                ask(now)
            if self._chore_ns <= now:
                self._chores(now)
            events = poll(0)
            if not events:
                events = self._wait()
                self.idle_ns += clock() - now
            if events:
                take(events)

    def _wait(self) -> list[tuple[int, int]]:
        """Do what can be done in a quiet moment, then sleep until something comes or is nearly due."""
        if self._requests.blocked:  # Only an event or a chore can help a request that waits.
            return self._epoll.poll(CHORE_NS / 1e9)
        left_ns = min(self._requests.due, self._chore_ns) - clock()
        if left_ns > QUIET_NS and len(self._tape) >= FOLD_MIN:
            self._fold()
        elif left_ns > SPIN_NS:
            # epoll's own timeout is in milliseconds.
            select.select([self._epoll], [], [], (left_ns - SPIN_NS) / 1e9)
        return []

    def _chores(self, now: int) -> None:
        """Give up what is too late, open what was lost, and tell how it goes."""
        self._chore_ns = now + CHORE_NS
        late, requests = now - int(self._plan.timeout_s * 1e9), self._requests
        self._crowd.expire(now, late)
        while requests.due <= late:
            requests.write(requests.due, NEVER_SENT, now, TIMEOUT)
            requests.advance()
        if requests.due < NEVER:
            self._crowd.reopen(now)
        seconds = (now - self.begin_ns) // 1_000_000_000
        if self._each_second is not None and seconds > self._seconds:
            self._seconds = seconds
            self._fold()
            self._each_second(seconds, self.tally.recent())

    def _fold(self) -> None:
        self.tally.add(*self._tape.take())


def _crowd(plan: Plan, requests: Requests, outcomes: Outcomes, epoll: select.epoll) -> Crowd:
    if plan.calling is None:
        return Channels(plan, requests, outcomes, epoll)
    from serving.bench.trunks import Trunks  # With what HTTP/2 needs.

    return Trunks(plan, plan.calling, requests, outcomes, epoll)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the garbage collector out: what is made here is gone when it is no longer referred to."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
