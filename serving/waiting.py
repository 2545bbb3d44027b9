"""Which of the requests that wait for a version run next, and which have waited too long.

Triton's dynamic batcher, by rows and not by requests: https://github.com/triton-inference-server/server,
docs/user_guide/batcher.md. A value in, a decision out: no clock, no loop, no thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from serving.errors import Overloaded
from serving.model import Batching, QueuePolicy
from serving.wire import InferRequest

NEVER_NS = 1 << 62
SCANNED_MAX = 4
"""How many times `rows_max` requests are looked through for ones that fit the first."""

ONE_QUEUE = Batching()


class Waiting:
    """A bounded queue with Triton's policies.

    Parameters
    ----------
    batching : Batching or None
        None never waits for company, and joins what is there.
    rows_max : int
        Rows of one run; below 2 every request runs alone.
    requests_max : int
        Requests that may wait where the model's own policy sets no limit.
    """

    def __init__(self, batching: Batching | None, rows_max: int, requests_max: int) -> None:
        self._levels: list[deque[InferRequest]] = []
        self.count = 0
        """How many requests wait."""
        self.configure(batching, rows_max, requests_max)

    def twin(self) -> Waiting:
        """Return an empty queue with the same policy."""
        return Waiting(self._policy, self.rows_max, self._requests_max)

    def configure(self, batching: Batching | None, rows_max: int, requests_max: int) -> None:
        """Change the policy; what waits is kept, in its order, at the levels that there are now."""
        waiting = [request for level in self._levels for request in level]
        self._policy = batching or ONE_QUEUE
        self.rows_max = max(rows_max, 1)
        self._requests_max = requests_max
        self._preferred = frozenset(self._policy.preferred_rows)
        self._full = max(self._preferred, default=self.rows_max)
        policy = self._policy
        self.immediate = not (policy.delay_us or policy.preferred_rows or policy.priority_levels) and (
            policy.default_policy == ONE_QUEUE.default_policy
        )
        """Whether the order of arrival decides everything, so that a tick can run without queueing."""
        # One queue for each priority; the last holds those whose policy is to be delayed after a timeout.
        self._levels = [deque() for _ in range(max(self._policy.priority_levels, 1) + 1)]
        self._next_ns = 0 if waiting else NEVER_NS
        for request in waiting:
            self._levels[self._level(request)].append(request)

    def offer(self, request: InferRequest) -> None:
        """Let `request` wait.

        Raises
        ------
        Overloaded
            If the queue of its priority is full.
        """
        index = self._level(request)
        level = self._levels[index]
        limit = self._policy_of(index).requests_max or self._requests_max
        if len(level) >= limit or self.count >= self._requests_max:
            raise Overloaded(f"{len(level)} requests wait for this model already; try again later")
        level.append(request)
        self.count += 1
        self._next_ns = min(self._next_ns, self._gives_up_ns(request, index)[0])

    def _level(self, request: InferRequest) -> int:
        levels = self._policy.priority_levels
        if levels == 0:
            return 0
        priority = request.call.priority or self._policy.priority_default or (levels + 1) // 2
        return min(priority, levels) - 1

    def _policy_of(self, index: int) -> QueuePolicy:
        return self._policy.priority_policies.get(index + 1, self._policy.default_policy)

    def take(self, now_ns: int, limit: Callable[[InferRequest], int] | None = None) -> list[InferRequest]:
        """Remove and return the requests of the next run; none if it is worth waiting for more.

        `limit` says of the first of them how many rows it may share a run with, itself included.
        """
        for level in self._levels:
            while level and level[0].dropped:
                level.popleft()
                self.count -= 1
        first = next((level[0] for level in self._levels if level), None)
        if first is None:
            return []
        rows_max = self.rows_max if limit is None else min(self.rows_max, limit(first))
        chosen = self._cut(self._company(first, rows_max), rows_max, now_ns)
        self._remove(chosen)
        return chosen

    def fills(self, rows: int) -> bool:
        """Say whether the next run has its `rows` already, as far as all requests are like the first.

        Never with priorities: somebody who comes later may be the first then.
        """
        if self._policy.priority_levels or not self._levels[0]:
            return False
        first = self._levels[0][0].layout
        return first.key is None or self.count * first.rows >= rows

    def _company(self, first: InferRequest, rows_max: int) -> list[InferRequest]:
        """Return the requests that could run with the `first`, it included, up to `rows_max` rows."""
        if first.layout.key is None or rows_max < 2:
            return [first]
        company: list[InferRequest] = []
        rows = 0
        scanned = 0
        for level in self._levels:
            for request in level:
                scanned += 1
                if request.layout.key == first.layout.key and not request.dropped:
                    if company and rows + request.layout.rows > rows_max:
                        return company  # A smaller one behind it would overtake.
                    company.append(request)
                    rows += request.layout.rows
                elif self._policy.preserve_order or scanned > SCANNED_MAX * self.rows_max:
                    return company
        return company

    def _cut(self, company: list[InferRequest], rows_max: int, now_ns: int) -> list[InferRequest]:
        """Return the part of `company` to run now: a preferred size, or all when waiting is over."""
        rows, best = 0, 0
        for position, request in enumerate(company, 1):
            rows += request.layout.rows
            if rows in self._preferred:
                best = position
        if company[0].layout.key is None or (rows >= rows_max and not best):
            return company
        if self._policy.delay_us and rows < min(self._full, rows_max):
            waited_ns = now_ns - min(request.arrived_ns for request in company)
            return company if waited_ns >= self._policy.delay_us * 1000 else []
        return company[:best] if best else company

    def _remove(self, chosen: Iterable[InferRequest]) -> None:
        gone = set(map(id, chosen))
        self.count -= len(gone)
        for level in self._levels:
            while level and id(level[0]) in gone:
                gone.discard(id(level.popleft()))
            if gone and any(id(request) in gone for request in level):
                kept = [request for request in level if id(request) not in gone]
                gone.difference_update(map(id, level))
                level.clear()
                level.extend(kept)
            if not gone:
                return

    def wake_ns(self, now_ns: int, *, free: bool = True) -> int:
        """Return when to look again though nothing arrives: a delay ends, or a deadline passes.

        Unless a run could start, which is what `free` says, the end of a delay changes nothing.
        """
        if not self.count:
            return NEVER_NS
        if not self._policy.delay_us or not free:
            return self._next_ns
        first_ns = min(level[0].arrived_ns for level in self._levels if level)
        return min(self._next_ns, max(first_ns + self._policy.delay_us * 1000, now_ns))

    def purge(self) -> list[InferRequest]:
        """Remove and return the requests whose clients are gone, so that others find room."""
        gone = [request for level in self._levels for request in level if request.dropped]
        self._remove(gone)
        return gone

    def expire(self, now_ns: int) -> list[InferRequest]:
        """Remove and return the requests whose time is over; put back those that are to be delayed."""
        if now_ns < self._next_ns:
            return []
        expired: list[InferRequest] = []
        delayed: list[InferRequest] = []
        self._next_ns = NEVER_NS
        for index, level in enumerate(self._levels):
            kept: deque[InferRequest] = deque()
            for request in level:
                at_ns, delay = self._gives_up_ns(request, index)
                if request.dropped or (now_ns >= at_ns and not delay):
                    expired.append(request)
                elif now_ns >= at_ns:
                    delayed.append(request)
                else:
                    kept.append(request)
                    self._next_ns = min(self._next_ns, at_ns)
            self._levels[index] = kept
        self._levels[-1].extend(delayed)
        for request in delayed:
            self._next_ns = min(self._next_ns, self._gives_up_ns(request, len(self._levels) - 1)[0])
        self.count -= len(expired)
        return expired

    def _gives_up_ns(self, request: InferRequest, index: int) -> tuple[int, bool]:
        """Return when `request` stops waiting at level `index`, and whether it is then delayed instead."""
        deadline_ns = request.expires_ns or NEVER_NS
        if index == len(self._levels) - 1:
            return deadline_ns, False
        policy = self._policy_of(index)
        timeout_us = policy.timeout_us
        if policy.allow_override and request.call.timeout_us:
            timeout_us = request.call.timeout_us
        if not timeout_us:
            return deadline_ns, False
        own_ns = request.arrived_ns + timeout_us * 1000
        if own_ns >= deadline_ns:
            return deadline_ns, False
        return own_ns, policy.delay


def rows_of(requests: Iterable[InferRequest]) -> int:
    """Return the rows of requests that share a run."""
    return sum([request.layout.rows for request in requests])


def grouped(requests: Iterable[InferRequest], rows_max: int) -> list[list[InferRequest]]:
    """Split requests into runs, in their order: by key, and by rows within a key."""
    groups: list[list[InferRequest]] = []
    open_groups: dict[Any, tuple[list[InferRequest], int]] = {}
    for request in requests:
        layout = request.layout
        group, rows = open_groups.get(layout.key, (None, 0)) if layout.key else (None, 0)
        if group is None or rows + layout.rows > rows_max:
            group, rows = [], 0
            groups.append(group)
        group.append(request)
        open_groups[layout.key] = (group, rows + layout.rows)
    return groups
