"""What does the head of an answer say: how long it is, which version answered by which revision?

A gateway's heads are few, so each is read once and then found by its bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HEADS_MAX = 4096
"""Kept at a time; with more they are all forgotten, and read again."""
OUTCOMES_MAX = 16_384
"""Different combinations of status, version and revision; beyond that answers count by their status alone."""
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r]|HTTP/1\.[01] ([1-5][0-9][0-9])$")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*(?:\r|$)", re.IGNORECASE)
_ROUTE = re.compile(rb"\r\nturnout-route:[ \t]*([^;\r]{1,32});([0-9]{1,18});", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


class Outcome(NamedTuple):
    """What came of a request. `what` is a status, or why there is none."""

    what: str
    version: str = ""
    revision: int = 0

    @property
    def good(self) -> bool:
        """Whether it is what was asked for."""
        return self.what == "200"


LOST, TIMEOUT, MIXED, UNREADABLE = range(4)
ENDED = (Outcome("lost"), Outcome("timeout"), Outcome("mixed"), Outcome("unreadable"))
"""Without an answer: the connection ended, or time did; with one that is another request's, or no HTTP."""


class Head(NamedTuple):
    """`code` is the outcome's place in `Heads.outcomes`; `body_bytes` is -1 of a head that is no head."""

    code: int
    body_bytes: int
    last: bool
    """The server closes after it."""


class Heads:
    """Answers' heads as they were met so far.

    Attributes
    ----------
    outcomes : list of Outcome
        What came of requests so far, each once.
    """

    __slots__ = ("_codes", "known", "outcomes")

    def __init__(self) -> None:
        self.outcomes = list(ENDED)
        self._codes: dict[Outcome, int] = {}
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
            return Head(UNREADABLE, -1, last=True)
        what = (status[1] or status[2]).decode()
        version, revision = (route[1].decode("latin-1"), int(route[2])) if route else ("", 0)
        code = self._code(Outcome(what, version, revision))
        return Head(code, int(length[1]), last=_CLOSE.search(head) is not None)

    def _code(self, outcome: Outcome) -> int:
        if outcome not in self._codes:
            if len(self.outcomes) >= OUTCOMES_MAX:
                outcome = Outcome(outcome.what)
            if outcome not in self._codes:
                self._codes[outcome] = len(self.outcomes)
                self.outcomes.append(outcome)
        return self._codes[outcome]
