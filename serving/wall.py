"""Was the clock on the wall set back? Then who counts by it waits for a past that is over already."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

log = logging.getLogger("turnout.wall")

LOOK_S = 1.0
BACK_S_MIN = 2.0
"""Less only delays what is counted by it, by as much."""

Clock = Callable[[], float]


@contextlib.contextmanager
def watched(act: Callable[[], None], wall: Clock = time.time, look_s: float = LOOK_S) -> Iterator[None]:
    """Call `act` in a thread whenever the clock has been set back, until the block ends."""
    over = threading.Event()

    def watch() -> None:
        ahead_s = wall() - time.monotonic()
        while not over.wait(look_s):
            before_s, ahead_s = ahead_s, wall() - time.monotonic()
            if before_s - ahead_s > BACK_S_MIN:
                log.warning("event=clock_set_back seconds=%.1f", before_s - ahead_s)
                _done(act)

    threading.Thread(target=watch, name="turnout-wall", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _done(act: Callable[[], None]) -> None:
    try:
        act()
    except Exception:  # It is tried again when the clock is set back again; what it meant goes on until then.
        log.exception("event=clock_set_back_not_minded")
