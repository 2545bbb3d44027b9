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


PROMPT = -10
"""How much more a thread counts that is rarely heard of and waited for by many."""


def be_prompt() -> None:
    """Let this thread, and those that it starts, have the processor at once, where that is allowed."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PROMPT)


async def aside(work: Callable[..., T], *args: object, nice: bool = True) -> T:
    """Return what `work` returns, called in a thread of its own that yields to the event loop if `nice`.

    Not an executor's thread: those are waited for when the process ends, and loading may take minutes.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    todo = [done, work, args]
    threading.Thread(target=_do, args=(loop, todo, nice), name="turnout-aside", daemon=True).start()
    try:
        return await done
    finally:
        # An error that rises from here remembers this frame. If the frame still knew the future and so
        # the error, both would live on, with a model's session in their frames, until the next collection.
        del done, todo


def _do(loop: asyncio.AbstractEventLoop, todo: list[Any], nice: bool) -> None:
    if nice and sys.platform == "linux":
        me = (os.PRIO_PROCESS, threading.get_native_id())
        # More than the loop has, which may be 15: Ray starts its workers so. Less is not everybody's to ask.
        os.setpriority(*me, min(os.getpriority(*me) + NICE, 19))
    done, work, args = todo
    todo.clear()  # The thread itself holds it until it ends.
    try:
        told = [done, done.set_result, work(*args)]
    except Exception as error:  # noqa: BLE001 - it rises where `aside` is awaited.
        told = [done, done.set_exception, error]
    # On a busy machine this thread may not get to its end for long. From here on it knows no more of what it
    # did than a list which whoever is told empties: else it would hold a version that was unloaded meanwhile.
    del done, work, args
    try:
        loop.call_soon_threadsafe(_tell, told)
    except RuntimeError:  # The loop is closed: nobody waits any more.
        told.clear()


def _tell(told: list[Any]) -> None:
    done, tell, result = told
    told.clear()
    if not done.cancelled():
        tell(result)
