"""How long was nobody answered, at a switch and in between?"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

from loadtests.register import Outcome, Request, Switch

BEFORE_NS = 5_000_000
AFTER_NS = 25_000_000
"""A window is from 5 ms before a switch is submitted to 25 ms after it is answered."""

Window = tuple[int, int]


def answered(requests: Iterable[Request]) -> list[int]:
    """Return when answers came, in order."""
    return sorted(request.end_ns for request in requests if request.outcome is Outcome.OK)


def longest_ns(ends: Sequence[int], window: Window) -> int | None:
    """Return the longest time between two answers that has a part in `window`; None if that is not known."""
    first, last = bisect_right(ends, window[0]) - 1, bisect_left(ends, window[1])
    if first < 0 or last >= len(ends):
        return None  # Before the first answer or after the last one nobody asked.
    return max((later - earlier for earlier, later in pairwise(ends[first : last + 1])), default=0)


def at_switches(switches: Iterable[Switch]) -> list[Window]:
    """Return a window around each switch that was answered."""
    return [
        (switch.submitted_ns - BEFORE_NS, switch.acknowledged_ns + AFTER_NS)
        for switch in switches
        if switch.acknowledged_ns is not None
    ]


def between(windows: Sequence[Window]) -> list[Window]:
    """Return a window of the same length in the middle between each two, where there is room for it."""
    quiet = []
    for (start, end), (following, _) in pairwise(windows):
        spare = (following - end) - (end - start)
        if spare >= 0:
            quiet.append((end + spare // 2, end + spare // 2 + (end - start)))
    return quiet
