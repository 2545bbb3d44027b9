"""How is something slow done beside the event loop, without taking its core or holding up its end?"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

NICE = 10
"""How much less work aside counts to the scheduler than the event loop."""


async def aside(work: Callable[..., T], *args: object, nice: bool = True) -> T:
    """Return what `work` returns, called in a thread of its own that yields to the event loop if `nice`.

    Not an executor's thread: those are waited for when the process ends, and loading may take minutes.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def do() -> None:
        if nice:
            _count_little()
        result: Any = None
        failure: Exception | None = None
        try:
            result = work(*args)
        except Exception as error:  # noqa: BLE001 - it rises where `aside` is awaited.
            failure = error
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=do, name="turnout-aside", daemon=True).start()
    result: T = await done
    return result


def _count_little() -> None:
    """Let this thread yield where there are too few cores for all."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
