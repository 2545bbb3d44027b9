"""How much memory do a gateway's processes hold together, and at most?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

PERIOD_S = 0.3


def held_bytes(pids: Iterable[int]) -> int:
    """Add up the proportional set sizes: what several share counts once."""
    return sum(_pss(pid) for pid in pids)


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # It has just ended.
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


class HighWater:
    """A thread that looks again and again, and keeps the most it saw."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self.bytes_max = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="chaos-memory", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join(10)

    def forget(self) -> int:
        """Return what was the most until now, and begin anew."""
        before, self.bytes_max = self.bytes_max, 0
        return before

    def _look(self) -> None:
        while not self._over.wait(PERIOD_S):
            self.bytes_max = max(self.bytes_max, held_bytes(self._pids()))
