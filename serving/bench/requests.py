"""Which request comes next, when is it due, and what came of those that were sent?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np

from serving.bench.arrivals import Arrivals
from serving.bench.plan import Plan
from serving.bench.questions import ID_BYTES, NO_ID, Question
from serving.bench.tape import Tape

NEVER = 1 << 62
clock = time.perf_counter_ns


class Requests:
    """The requests of one run.

    Attributes
    ----------
    due : int
        When the next is, in nanoseconds; `NEVER` before the first and after the last.
    closed : bool
        Another is due whenever a connection is free.
    blocked : bool
        The next has to wait for a connection.
    sent, flying, queued : int
        Sent so far; of these, not answered yet; of all, not sent at once for want of a connection.
    """

    __slots__ = (
        "_arrivals", "_distinct", "_fold", "_number", "_questions", "_tape", "blocked", "closed", "due",
        "flying", "queued", "sent",
    )  # fmt: skip

    def __init__(self, plan: Plan, arrivals: Iterator[int], tape: Tape, fold: Callable[[], None]) -> None:
        self._arrivals, self._tape, self._fold = arrivals, tape, fold
        self._questions = cycle(plan.questions)
        self._distinct = plan.distinct
        self._number = int(np.random.default_rng().integers(0, 1 << 31)) << 32
        self.closed = plan.arrivals is Arrivals.CLOSED
        self.due = NEVER
        self.blocked = False
        self.sent = self.flying = self.queued = 0

    def until(self, now_ns: int) -> int:
        """Return the last moment of what is to be sent now."""
        return NEVER - 1 if self.closed else now_ns

    def advance(self) -> int:
        """Go on to the next, and return when it is due."""
        due = self.due = next(self._arrivals, NEVER)
        return due

    def take(self) -> tuple[Question, bytes]:
        """Return the next one's question, with an id of its own written into it, and that id."""
        question = next(self._questions)
        id_ = b"%016x" % self._number if self._distinct else NO_ID
        question.content[question.id_at : question.id_at + ID_BYTES] = id_
        self._number += 1
        self.sent += 1
        self.flying += 1
        self.queued += self.blocked and not self.closed
        return question, id_

    def end(self, due_ns: int, sent_ns: int, done_ns: int, code: int) -> None:
        """Note what came of one that was sent."""
        self.flying -= 1
        self.write(due_ns, sent_ns, done_ns, code)

    def write(self, due_ns: int, sent_ns: int, done_ns: int, code: int) -> None:
        """Note what came of one."""
        if self._tape.write(due_ns, sent_ns, done_ns, code):
            self._fold()
