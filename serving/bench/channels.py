"""How are requests spread over connections with one on each at a time?  (HTTP/1.1)"""

from __future__ import annotations

import select
from collections import deque

from serving.bench.channel import Channel
from serving.bench.heads import Heads
from serving.bench.openings import READABLE, WRITABLE, Openings
from serving.bench.outcomes import ENDED, LOST, NOT_YET, TIMEOUT, Outcomes
from serving.bench.plan import Plan
from serving.bench.requests import NEVER, Requests, clock


class Channels:
    """The connections of one run."""

    def __init__(self, plan: Plan, requests: Requests, outcomes: Outcomes, epoll: select.epoll) -> None:
        self._least, self._most = plan.connections, plan.connections_max
        self._requests, self._epoll = requests, epoll
        self._heads = Heads(outcomes)
        self._openings = Openings(plan.addresses, plan.tls, epoll)
        self._channels: dict[int, Channel] = {}
        self._idle: deque[Channel] = deque()

    def ask(self, now: int) -> None:
        """Send what is due, as far as connections are idle."""
        idle, requests = self._idle, self._requests
        due, until = requests.due, requests.until(now)
        while due <= until:
            if not idle:
                requests.blocked = True
                if len(self._channels) + len(self._openings) < self._most:
                    self._openings.begin(now)
                return
            channel = idle.popleft()  # The one that rested longest: so all replicas are asked.
            question, id_ = requests.take()
            channel.sent_ns = sent = clock()
            channel.due_ns = sent if requests.closed else due
            if not channel.ask(question.content, id_):
                self._finish(channel, LOST)
            elif channel.rest:
                self._epoll.modify(channel.fd, WRITABLE)
            due = requests.advance()
        requests.blocked = False

    def take(self, events: list[tuple[int, int]]) -> None:
        """Read what has come."""
        channels, finish = self._channels, self._finish
        for fd, event in events:
            channel = channels.get(fd)
            if channel is None:
                self._open(fd)
            elif event != READABLE or not channel.asked:
                self._happened(channel, event)
            elif (code := channel.read()) != NOT_YET:
                finish(channel, code)

    def _open(self, fd: int) -> None:
        connected = self._openings.go_on(fd, clock())
        if connected is not None:
            self._channels[fd] = channel = Channel(connected, self._heads)
            self._idle.append(channel)

    def _happened(self, channel: Channel, event: int) -> None:
        if not channel.asked:
            if channel.read() != NOT_YET:
                self._drop(channel)
            return
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

    def _finish(self, channel: Channel, code: int) -> None:
        """Note what came of the request on a connection, and use the connection again if it is good."""
        self._requests.end(channel.due_ns, channel.sent_ns, clock(), code)
        if code >= len(ENDED) and not channel.last and not channel.rest:
            channel.asked = False
            self._idle.append(channel)
        else:
            self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        if not channel.asked:
            self._idle.remove(channel)
        del self._channels[channel.fd]
        channel.close()  # Which takes it from epoll, too.
        if self._requests.due < NEVER:
            self.reopen(clock())

    def reopen(self, now: int) -> None:
        """Open as many connections as there are to be at least."""
        openings = self._openings
        while len(self._channels) + len(openings) < self._least and openings.begin(now):
            pass

    def expire(self, now: int, late: int) -> None:
        """Give up what was due at `late` or before, and connections that are never made."""
        self._openings.expire(now)
        for channel in [each for each in self._channels.values() if each.asked]:
            if channel.due_ns <= late:
                self._finish(channel, TIMEOUT)

    def close(self) -> None:
        """End all connections; what is under way on them does not count."""
        self._openings.close()
        for channel in [*self._channels.values()]:
            channel.close()
