"""Is a clock that is set back noticed, and nothing else?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from serving.wall import watched
from tests.talking import eventually


class Wall:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.off_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.off_s


def calls() -> tuple[list[int], Callable[[], None]]:
    made: list[int] = []
    return made, lambda: made.append(1)


def test_a_clock_that_is_set_back_is_noticed_each_time() -> None:
    wall, (made, act) = Wall(), calls()
    wall.off_s = 3600.0
    with watched(act, wall, 0.01):
        for count in (1, 2):
            wall.off_s -= 1800.0
            assert eventually(lambda count=count: len(made) == count)


def test_a_clock_that_is_put_forward_or_a_little_back_is_not() -> None:
    wall, (made, act) = Wall(), calls()
    with watched(act, wall, 0.01):
        for step_s in (86400.0, -1.5, -0.1):
            wall.off_s += step_s
            time.sleep(0.05)
    assert made == []


def test_what_fails_once_is_called_again_the_next_time() -> None:
    wall, tried = Wall(), threading.Semaphore(0)

    def act() -> None:
        tried.release()
        raise RuntimeError("Ray is away")

    with watched(act, wall, 0.01):
        for _ in range(2):
            wall.off_s -= 100.0
            assert tried.acquire(timeout=5)


def test_nothing_is_called_when_the_block_is_over() -> None:
    wall, (made, act) = Wall(), calls()
    with watched(act, wall, 0.01):
        pass
    time.sleep(0.05)
    wall.off_s = -100.0
    time.sleep(0.05)
    assert made == []
