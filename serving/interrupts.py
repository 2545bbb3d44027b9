"""When may a signal to end interrupt what the launcher and its driver do?"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from types import FrameType

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def once(number: int, _frame: FrameType | None) -> None:
    """Interrupt, and no second time: the tidying up is bounded by itself."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


class Signals:
    """What the launcher does at a signal. The first to end interrupts whatever it does but for tidying up."""

    def __init__(self) -> None:
        self.driver: subprocess.Popen[bytes] | None = None
        """Who replaces the replicas."""
        self._holding = self._interrupted = False

    def end(self, _number: int, _frame: FrameType | None) -> None:
        """Interrupt; no second signal does."""
        for each in ENDINGS:
            signal.signal(each, signal.SIG_IGN)
        self._interrupted = True
        if not self._holding:
            raise KeyboardInterrupt

    def replace(self, _number: int, _frame: FrameType | None) -> None:
        """Have the replicas replaced, if there are any."""
        if self.driver is not None:
            self.driver.send_signal(signal.SIGUSR2)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Interrupt only at the end of the block."""
        before, self._holding = self._interrupted, True
        try:
            yield
        finally:
            self._holding = False
        if self._interrupted and not before:
            raise KeyboardInterrupt


@contextlib.contextmanager
def minded() -> Iterator[Signals]:
    """Mind signals until the block ends."""
    signals = Signals()
    before = {each: signal.getsignal(each) for each in (*ENDINGS, signal.SIGUSR2)}
    signal.signal(signal.SIGUSR2, signals.replace)
    for each in ENDINGS:
        if before[each] is not signal.SIG_IGN:  # As nohup leaves SIGHUP.
            signal.signal(each, signals.end)
    try:
        yield signals
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
