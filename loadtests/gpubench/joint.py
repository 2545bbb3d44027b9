"""How do several processes use one simulated device?

Each has its own, and before it queues anything it takes over what the others have queued since.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from loadtests.gpubench.page import Page
from loadtests.gpubench.simulated import SimulatedDevice


class JointDevice(SimulatedDevice):
    """A device whose queues are on a page.

    Parameters
    ----------
    copy_bytes_per_s : float
        Of each direction.
    page : Page
        The same for all who use it. A new one is a device on which nothing has run.
    """

    def __init__(self, copy_bytes_per_s: float, page: Page) -> None:
        super().__init__(copy_bytes_per_s)
        self._page = page

    def copy_in(self, size_bytes: int) -> int:
        """Queue a copy to the device; return when it is done."""
        with self._taken_over():
            return super().copy_in(size_bytes)

    def run(self, copied_ns: int, takes_ns: int, rows: int = 0) -> int:
        """Queue a run; return when it is done."""
        with self._taken_over():
            return super().run(copied_ns, takes_ns, rows)

    def copy_out(self, ran_ns: int, size_bytes: int) -> int:
        """Queue a copy back; return when it is done."""
        with self._taken_over():
            return super().copy_out(ran_ns, size_bytes)

    @contextlib.contextmanager
    def _taken_over(self) -> Iterator[None]:
        with self.lock, self._page.held():
            self.go_on(self._page.read().done)
            yield
            self._page.write(self.done)
