"""Which thread does what only one thread may do with a device?

ONNX Runtime keeps handles of libraries and captured graphs for each thread, so all runs of a session come
from one. It only queues them: whoever waits for the end of one does it elsewhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

log = logging.getLogger("turnout.gpu")
P = ParamSpec("P")
T = TypeVar("T")
Job = Callable[[], None]


class Owner:
    """A thread that does as it is told, one thing after the other."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have it done there; return what it returns, raise what it raises. Any other thread."""
        told: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def job() -> None:
            try:
                told.put((work(*args, **kwargs), None))
            except BaseException as error:  # noqa: BLE001 - whoever waits is to hear of it, whatever it is.
                told.put((None, error))

        self._jobs.put(job)
        result, error = told.get()
        if error is not None:
            try:
                raise error
            finally:
                del error  # Its traceback holds this frame.
        return result  # type: ignore[no-any-return]

    def leave(self, last: Job | None = None) -> None:
        """Have the thread end when all that it was told is done, and this. Any thread; returns at once."""
        if last is not None:
            self._jobs.put(last)
        self._jobs.put(None)

    def join(self) -> None:
        """Wait for the thread to end."""
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # Of a last one nobody waits for; the thread is to end all the same.
                log.exception("event=device_broke")
            del job  # What it was told is not to wait here for the next one.
