"""What came of a request?"""

from __future__ import annotations

from typing import NamedTuple

OUTCOMES_MAX = 16_384
"""Different combinations of status, version and revision; beyond that answers count by their status alone."""
GOOD = frozenset({"200", "OK"})
"""Of HTTP and of gRPC."""


class Outcome(NamedTuple):
    """What came of a request. `what` is a status, or why there is none."""

    what: str
    version: str = ""
    revision: int = 0

    @property
    def good(self) -> bool:
        """Whether it is what was asked for."""
        return self.what in GOOD


LOST, TIMEOUT, MIXED, UNREADABLE = range(4)
ENDED = (Outcome("lost"), Outcome("timeout"), Outcome("mixed"), Outcome("unreadable"))
"""Without an answer: the connection ended, or time did; with one that is another request's, or is none."""
NOT_YET = -1
"""In the place of an outcome's code: the answer is not there, or not all of it."""


class Outcomes:
    """What came of requests so far.

    Attributes
    ----------
    met : list of Outcome
        Each once, by its code.
    """

    __slots__ = ("_codes", "met")

    def __init__(self) -> None:
        self.met = list(ENDED)
        self._codes: dict[Outcome, int] = {}

    def code(self, outcome: Outcome) -> int:
        """Return the code of an outcome, which may be new."""
        if outcome not in self._codes:
            if len(self.met) >= OUTCOMES_MAX:
                outcome = Outcome(outcome.what)
            if outcome not in self._codes:
                self._codes[outcome] = len(self.met)
                self.met.append(outcome)
        return self._codes[outcome]
