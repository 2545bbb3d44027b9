"""Work aside: its result and its error come back, and nothing of it outlives it."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from contextlib import suppress

import pytest

from serving.aside import NICE, aside


def test_what_is_done_aside_comes_back_and_does_not_run_on_the_loop():
    async def scene() -> None:
        assert await aside(lambda a, b: (a + b, threading.get_ident()), 1, 2) != (3, threading.get_ident())
        assert (await aside(divmod, 7, 2)) == (3, 1)

    asyncio.run(scene())


def test_an_error_rises_where_it_is_awaited():
    async def scene() -> None:
        with pytest.raises(ZeroDivisionError):
            await aside(lambda: 1 / 0)

    asyncio.run(scene())


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a niceness of its own there")
def test_work_aside_counts_little_unless_it_makes_threads_that_serve():
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def scene() -> None:
        own = niceness()
        assert await aside(niceness) == min(own + NICE, 19)
        assert await aside(niceness, nice=False) == own
        assert niceness() == own

    asyncio.run(scene())


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a niceness of its own there")
def test_work_aside_counts_less_also_where_the_loop_counts_little_itself():
    """Ray's workers have a niceness of 15: 10 would be more, and forbidden to all but root."""
    script = (
        "import asyncio, os, threading; from serving.aside import aside; os.nice(15)\n"
        "print(asyncio.run(aside(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["19"], done.stderr


class Session:
    """What must not stay alive: a model's session in the frame of the load that failed."""


def test_an_error_does_not_keep_what_failed_alive_until_the_next_collection():
    """The error knew its frames, they knew the future, and it knew the error: megabytes for each failed load."""
    seen: list[weakref.ref[Session]] = []

    def load() -> None:
        session = Session()
        seen.append(weakref.ref(session))
        raise ValueError

    async def scene() -> None:
        for _ in range(3):
            with pytest.raises(ValueError, match="^$"):
                await _swallow(load)
        for _ in range(200):
            if not any(each() for each in seen):
                return
            await asyncio.sleep(0.01)  # The last thread has to end.
        pytest.fail("still alive")

    gc.collect()
    gc.disable()
    try:
        asyncio.run(scene())
    finally:
        gc.enable()


@pytest.mark.parametrize("fails", [False, True])
def test_a_thread_that_is_slow_to_end_holds_nothing_of_what_it_did(monkeypatch, fails):
    """A version was loaded and unloaded before the thread got the processor again, and held 80 MB for minutes."""
    told = threading.Event()
    seen: list[weakref.ref[Session]] = []

    def load() -> Session:
        session = Session()
        seen.append(weakref.ref(session))
        if fails:
            raise ValueError
        return session

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        tell = loop.call_soon_threadsafe

        def tell_and_wait(*what: object) -> None:
            tell(*what)
            assert told.wait(30)

        monkeypatch.setattr(loop, "call_soon_threadsafe", tell_and_wait)
        with suppress(ValueError):
            await aside(load)
        await asyncio.sleep(0)
        try:
            assert [each() for each in seen] == [None]
        finally:
            told.set()

    gc.collect()
    gc.disable()
    try:
        asyncio.run(scene())
    finally:
        gc.enable()


async def _swallow(load) -> None:
    failed = False
    try:
        await aside(load)
    except ValueError:
        failed = True
    if failed:
        raise ValueError


def test_whoever_stops_waiting_is_not_told_and_the_process_need_not_wait():
    go_on, over = threading.Event(), threading.Event()

    def slow() -> None:
        go_on.wait(10)
        over.set()

    async def scene() -> None:
        waiting = asyncio.create_task(aside(slow))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert all(each.daemon for each in threading.enumerate() if each.name == "turnout-aside")

    asyncio.run(scene())
    go_on.set()  # By now the loop is closed.
    assert over.wait(10)
