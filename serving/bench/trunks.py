"""How are requests spread over connections with many calls under way on each?  (gRPC)"""

from __future__ import annotations

import select
from collections import deque

from serving.bench.openings import CONNECT_NS_MAX, READABLE, WRITABLE, Openings
from serving.bench.outcomes import TIMEOUT, Outcomes
from serving.bench.plan import Calling, Plan
from serving.bench.requests import NEVER, Requests, clock
from serving.bench.trunk import Call, Trunk


class Trunks:
    """The connections of one run."""

    def __init__(
        self, plan: Plan, calling: Calling, requests: Requests, outcomes: Outcomes, epoll: select.epoll
    ) -> None:
        self._least, self._most = plan.connections, plan.connections_max
        self._calling, self._outcomes = calling, outcomes
        self._requests, self._epoll = requests, epoll
        self._openings = Openings(plan.addresses, plan.tls, epoll)
        self._trunks: dict[int, Trunk] = {}
        self._turns: deque[Trunk] = deque()
        """Those with room, the one that was called longest ago first: so all replicas are asked."""

    def ask(self, now: int) -> None:
        """Send what is due, as far as there is room."""
        turns, requests = self._turns, self._requests
        due, until = requests.due, requests.until(now)
        called: set[Trunk] = set()
        while due <= until:
            if not turns:
                requests.blocked = True
                if len(self._trunks) + len(self._openings) < self._most:
                    self._openings.begin(now)
                break
            trunk = turns.popleft()
            question, id_ = requests.take()
            sent = clock()
            trunk.call(Call(sent if requests.closed else due, sent, id_), question.more, question.content)
            called.add(trunk)
            if trunk.room:
                turns.append(trunk)
            else:
                trunk.turns = False
            due = requests.advance()
        else:
            requests.blocked = False
        for trunk in called:
            self._flush(trunk)

    def _flush(self, trunk: Trunk) -> None:
        waited = bool(trunk.outlet.rest)
        if not trunk.outlet.flush():
            return  # Reading says so, too, and has what came before the end.
        if bool(trunk.outlet.rest) != waited:
            self._epoll.modify(trunk.fd, READABLE if waited else WRITABLE)

    def take(self, events: list[tuple[int, int]]) -> None:
        """Read what has come."""
        for fd, event in events:
            trunk = self._trunks.get(fd)
            if trunk is None:
                self._open(fd)
                continue
            if event != select.EPOLLOUT and not trunk.read():
                self._drop(trunk)
                continue
            if trunk.outlet or trunk.outlet.rest:
                self._flush(trunk)
            self._look_at(trunk)

    def _open(self, fd: int) -> None:
        connected = self._openings.go_on(fd, clock())
        if connected is not None:
            trunk = self._trunks[fd] = Trunk(connected, self._calling, self._outcomes, self._end)
            self._flush(trunk)

    def _end(self, call: Call, code: int, done_ns: int) -> None:
        self._requests.end(call.due_ns, call.sent_ns, done_ns, code)

    def _look_at(self, trunk: Trunk) -> None:
        """Let a connection have its turn if it has room, or go if it is done with."""
        if trunk.leaving:
            if not trunk.calls:
                self._drop(trunk)
            elif trunk.turns:
                self._skip(trunk)
        elif not trunk.turns and trunk.ready and trunk.room:
            trunk.turns = True
            self._turns.append(trunk)

    def _skip(self, trunk: Trunk) -> None:
        trunk.turns = False
        self._turns.remove(trunk)

    def _drop(self, trunk: Trunk) -> None:
        if trunk.turns:
            self._skip(trunk)
        del self._trunks[trunk.fd]
        trunk.close()  # Which takes it from epoll, too.
        if self._requests.due < NEVER:
            self.reopen(clock())

    def reopen(self, now: int) -> None:
        """Open as many connections as there are to be at least."""
        openings = self._openings
        while len(self._trunks) + len(openings) < self._least and openings.begin(now):
            pass

    def expire(self, now: int, late: int) -> None:
        """Give up what was due at `late` or before.

        A connection of which nothing was heard since is not asked again: its server may hang.
        """
        self._openings.expire(now)
        for trunk in [*self._trunks.values()]:
            # In the order in which they were due, so mostly there is nothing to do.
            while trunk.calls and trunk.calls[stream := next(iter(trunk.calls))].due_ns <= late:
                call = trunk.cancel(stream)
                self._requests.end(call.due_ns, call.sent_ns, now, TIMEOUT)
                trunk.leaving = trunk.leaving or trunk.heard_ns < call.sent_ns
            if not trunk.ready and now - trunk.heard_ns > CONNECT_NS_MAX:
                trunk.leaving = True  # It speaks something else.
            if trunk.outlet:
                self._flush(trunk)
            self._look_at(trunk)

    def close(self) -> None:
        """End all connections; what is under way on them does not count."""
        self._openings.close()
        for trunk in [*self._trunks.values()]:
            trunk.close()
