"""How much of the processors did somebody else use while this was measured?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
OF_PROCESSES = (1, 2, 3)
"""User, nice and system in a line of `STAT`; interrupts are nobody's."""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def spent_s(stat: str) -> float:
    """Return the processor time that all processes have used, by the text of `STAT`; 0 if it does not say."""
    first = stat.partition("\n")[0].split()
    if first[:1] != ["cpu"]:
        return 0.0
    return sum(int(first[column]) for column in OF_PROCESSES) * TICK_S


def read() -> str:
    """Return the text of `STAT`; nothing where there is none."""
    try:
        return STAT.read_text()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Moment:
    """What all processes, and the two that are measured, have used by a moment."""

    at_s: float
    all_s: float
    ours_s: float

    @classmethod
    def now(cls, ours_s: Callable[[], float]) -> Moment:
        """Look now."""
        return cls(time.perf_counter(), spent_s(read()), ours_s())

    def others_since(self, before: Moment) -> float:
        """Return how many cores others used since then."""
        theirs_s = (self.all_s - before.all_s) - (self.ours_s - before.ours_s)
        return max(theirs_s / max(self.at_s - before.at_s, 1e-9), 0.0)
