"""What does the head of an answer say: how long it is, which version answered by which revision?

A gateway's heads are few, so each is read once and then found by its bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from serving.bench.outcomes import UNREADABLE, Outcome, Outcomes

HEADS_MAX = 4096
"""Kept at a time; with more they are all forgotten, and read again."""
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r]|HTTP/1\.[01] ([1-5][0-9][0-9])$")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*(?:\r|$)", re.IGNORECASE)
_ROUTE = re.compile(rb"\r\nturnout-route:[ \t]*([^;\r]{1,32});([0-9]{1,18});", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


class Head(NamedTuple):
    """`code` is the outcome's; `body_bytes` is -1 of a head that is no head."""

    code: int
    body_bytes: int
    last: bool
    """The server closes after it."""
    good: bool


class Heads:
    """Answers' heads as they were met so far."""

    __slots__ = ("_outcomes", "known")

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self.known: dict[bytes, Head] = {}

    def read(self, head: bytes) -> Head:
        """Return what a head says, without the empty line that ends it; `known` has it then."""
        if len(self.known) >= HEADS_MAX:
            self.known.clear()
        found = self.known[head] = self._parse(head)
        return found

    def _parse(self, head: bytes) -> Head:
        status, length, route = _STATUS.match(head), _LENGTH.search(head), _ROUTE.search(head)
        if status is None or length is None:
            return Head(UNREADABLE, -1, last=True, good=False)
        what = (status[1] or status[2]).decode()
        version, revision = (route[1].decode("latin-1"), int(route[2])) if route else ("", 0)
        outcome = Outcome(what, version, revision)
        code = self._outcomes.code(outcome)
        return Head(code, int(length[1]), last=_CLOSE.search(head) is not None, good=outcome.good)
