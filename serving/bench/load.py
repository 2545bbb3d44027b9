"""How is a gateway asked at a rate that does not depend on its answers?

A request is due when its arrival says so. It is sent at once if a connection is idle; else it waits, and
its time runs. A loop on epoll does nothing else: one send and one receive a request, on one core.
"""

from __future__ import annotations

import gc
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from serving.bench.arrivals import Arrivals, bounded, closed, constant, poisson
from serving.bench.channel import ASKED, CONNECTING, IDLE, NOT_YET, Channel
from serving.bench.heads import ENDED, LOST, TIMEOUT, Heads
from serving.bench.questions import ID_BYTES, NO_ID, Question
from serving.bench.tally import NEVER_SENT, Recent, Tally
from serving.bench.tape import Tape

NEVER = 1 << 62
LEAD_NS = 20_000_000
"""From the opening of the connections to the first arrival."""
SPIN_NS = 100_000
"""Before a request is due the loop no longer sleeps: a sleep ends up to 60 us late."""
CHORE_NS = 20_000_000
RETRY_NS = 50_000_000
"""How long no connection is opened after one was refused."""
FOLD_MIN = 512
"""Counted in a quiet moment; fewer wait for more."""
QUIET_NS = 250_000
"""Before anything is due; counting takes half of it."""
READABLE: int = select.EPOLLIN
WRITABLE: int = select.EPOLLIN | select.EPOLLOUT
clock = time.perf_counter_ns


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked, how often, and for how long."""

    at: tuple[str, int]
    model: str
    questions: Sequence[Question]
    rate_per_s: float
    arrivals: Arrivals = Arrivals.POISSON
    seconds: float = 10.0
    warm_s: float = 0.0
    requests_max: int = 100_000_000
    connections: int = 16
    connections_max: int = 256
    timeout_s: float = 10.0
    seed: int = 0
    distinct: bool = True
    """Write an id of its own into each request; without, what is asked is not more than what there is."""


class Load:
    """One run of a plan.

    Attributes
    ----------
    tally : Tally
        What came of it. It may be told of changes and phases while this runs in another thread.
    queued : int
        Requests for which no connection was idle when they were due.
    idle_ns, spent_ns : int
        Of the run, how long there was nothing to do, and how long it took.
    cut : bool
        It was stopped before its end.
    """

    def __init__(self, plan: Plan, each_second: Callable[[int, Recent], None] | None = None) -> None:
        self._plan, self._each_second = plan, each_second
        self._heads = Heads()
        self._tape = Tape()
        self._epoll = select.epoll()
        self._channels: dict[int, Channel] = {}
        self._idle: deque[Channel] = deque()
        self._questions: Iterator[Question] = cycle(plan.questions)
        self._closed = plan.arrivals is Arrivals.CLOSED
        self._distinct = plan.distinct
        self._number = int(np.random.default_rng().integers(0, 1 << 31)) << 32
        self._first = self._number
        self._flying = self._seconds = 0
        self._blocked = False
        self._retry_ns = self._chore_ns = 0
        self.queued = self.idle_ns = self.spent_ns = 0
        self.cut = False
        self.begin_ns = clock() + LEAD_NS
        self.end_ns = self.begin_ns + int((plan.warm_s + plan.seconds) * 1e9)
        self._arrivals = self._due_moments()
        self._due = NEVER
        from_ns = self.begin_ns + int(plan.warm_s * 1e9)
        outcomes, watched = self._heads.outcomes, each_second is not None
        self.tally = Tally(plan.model, outcomes, from_ns, plan.timeout_s, watched=watched)

    def _due_moments(self) -> Iterator[int]:
        plan = self._plan
        if self._closed:
            return closed(clock, self.end_ns)
        rng = np.random.default_rng(plan.seed)
        ways = {Arrivals.POISSON: lambda: poisson(plan.rate_per_s, rng)}
        due = ways.get(plan.arrivals, lambda: constant(plan.rate_per_s))()
        return map(self.begin_ns.__add__, bounded(due, plan.warm_s + plan.seconds, plan.requests_max))

    @property
    def asked(self) -> int:
        """How many requests were sent so far."""
        return self._number - self._first

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
                self._reopen(clock())
                while clock() < self.begin_ns:  # Connections are made meanwhile.
                    self._look(0.001)
                self._due = next(self._arrivals, NEVER)
                self._ask_and_look()
            except KeyboardInterrupt:
                self.cut = True
            finally:
                self.spent_ns = clock() - self.begin_ns
                for channel in [*self._channels.values()]:
                    channel.close()
                self._fold()
                self.tally.finish()

    def _ask_and_look(self) -> None:
        poll, channels = self._epoll.poll, self._channels
        happened, finish = self._happened, self._finish
        while (self._due < NEVER or self._flying) and not self.cut:
            now = clock()
            if self._due <= now:
                self._ask(now)
            if self._chore_ns <= now:
                self._chores(now)
            events = poll(0)
            if not events:
                events = self._wait()
                self.idle_ns += clock() - now
            for fd, event in events:
                channel = channels[fd]
                if event != READABLE or channel.state != ASKED:
                    happened(channel, event)
                elif (code := channel.read()) != NOT_YET:
                    finish(channel, code)

    def _wait(self) -> list[tuple[int, int]]:
        """Do what can be done in a quiet moment, then sleep until something comes or is nearly due."""
        if self._blocked:  # Only an event or a chore can help a request that waits for a connection.
            return self._epoll.poll(CHORE_NS / 1e9)
        left_ns = min(self._due, self._chore_ns) - clock()
        if left_ns > QUIET_NS and len(self._tape) >= FOLD_MIN:
            self._fold()
        elif left_ns > SPIN_NS:
            # epoll's own timeout is in milliseconds.
            select.select([self._epoll], [], [], (left_ns - SPIN_NS) / 1e9)
        return []

    def _look(self, seconds: float) -> None:
        for fd, event in self._epoll.poll(seconds):
            self._happened(self._channels[fd], event)

    def _ask(self, now: int) -> None:
        """Send what is due, as far as connections are idle."""
        idle, due = self._idle, self._due
        while due <= now:
            if not idle:
                self._blocked = True
                if len(self._channels) < self._plan.connections_max:
                    self._open(now)
                break
            channel = idle.popleft()  # The one that rested longest: so all replicas are asked.
            question = next(self._questions)
            id_ = b"%016x" % self._number if self._distinct else NO_ID
            question.content[question.id_at : question.id_at + ID_BYTES] = id_
            self._number += 1
            self._flying += 1
            self.queued += self._blocked and not self._closed
            channel.sent_ns = clock()
            channel.due_ns = channel.sent_ns if self._closed else due
            if not channel.ask(question.content, id_):
                self._finish(channel, LOST)
            elif channel.rest:
                self._epoll.modify(channel.fd, WRITABLE)
            due = next(self._arrivals, NEVER)
        else:
            self._blocked = False
        self._due = due

    def _happened(self, channel: Channel, event: int) -> None:
        if channel.state == ASKED:
            if channel.rest and event & select.EPOLLOUT:
                if not channel.send_rest():
                    self._finish(channel, LOST)
                    return
                if not channel.rest:
                    self._epoll.modify(channel.fd, READABLE)
            if event != select.EPOLLOUT:
                code = channel.read()
                if code != NOT_YET:
                    self._finish(channel, code)
        elif channel.state == CONNECTING:
            self._connected(channel)
        elif channel.state == IDLE and channel.read() != NOT_YET:
            self._drop(channel)

    def _connected(self, channel: Channel) -> None:
        if channel.connected():
            self._epoll.modify(channel.fd, READABLE)
            self._idle.append(channel)
        else:
            self._retry_ns = clock() + RETRY_NS
            self._drop(channel)

    def _finish(self, channel: Channel, code: int) -> None:
        """Note what came of the request on a connection, and use the connection again if it is good."""
        if self._tape.write(channel.due_ns, channel.sent_ns, clock(), code):
            self._fold()
        self._flying -= 1
        if code >= len(ENDED) and not channel.last and not channel.rest:
            channel.state = IDLE
            self._idle.append(channel)
        else:
            self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        if channel.state == IDLE:
            self._idle.remove(channel)
        del self._channels[channel.fd]
        channel.close()  # Which takes it from epoll, too.
        if self._due < NEVER:
            self._reopen(clock())

    def _reopen(self, now: int) -> None:
        while len(self._channels) < self._plan.connections and now >= self._retry_ns:
            self._open(now)

    def _open(self, now: int) -> None:
        if now < self._retry_ns:
            return
        try:
            channel = Channel(self._plan.at, self._heads)
        except OSError:
            self._retry_ns = now + RETRY_NS
            return
        self._channels[channel.fd] = channel
        self._epoll.register(channel.fd, WRITABLE)

    def _chores(self, now: int) -> None:
        """Give up what is too late, open what was lost, and tell how it goes."""
        self._chore_ns = now + CHORE_NS
        late = now - int(self._plan.timeout_s * 1e9)
        for channel in [each for each in self._channels.values() if each.state == ASKED]:
            if channel.due_ns <= late:
                self._finish(channel, TIMEOUT)
        while self._due <= late:
            if self._tape.write(self._due, NEVER_SENT, now, TIMEOUT):
                self._fold()
            self._due = next(self._arrivals, NEVER)
        if self._due < NEVER:
            self._reopen(now)
        seconds = (now - self.begin_ns) // 1_000_000_000
        if self._each_second is not None and seconds > self._seconds:
            self._seconds = seconds
            self._fold()
            self._each_second(seconds, self.tally.recent())

    def _fold(self) -> None:
        self.tally.add(*self._tape.take())


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
