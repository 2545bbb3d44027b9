"""When a tick's requests run: soon, once, and under load together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.tick import LINGER_NS, LOOKS_MAX, Tick


class Turns:
    """An event loop of which the test takes the turns."""

    def __init__(self) -> None:
        self.calls: deque[Callable[[], Any]] = deque()

    def call_soon(self, call: Callable[[], Any]) -> None:
        self.calls.append(call)

    def turn(self) -> None:
        for _ in range(len(self.calls)):
            self.calls.popleft()()


class Gathering:
    """A lane that notes how many requests each of its flushes had."""

    def __init__(self, tick: Tick) -> None:
        self.tick = tick
        self.arrived: list[int] = []
        self.flushed: list[int] = []

    def submit(self) -> None:
        if not self.arrived:
            self.tick.join(self)
        self.arrived.append(1)

    def flush(self) -> None:
        self.flushed.append(len(self.arrived))
        self.arrived = []


def made() -> tuple[Turns, Gathering]:
    turns = Turns()
    return turns, Gathering(Tick(turns))  # type: ignore[arg-type]


def test_a_lone_request_runs_at_the_next_turn_and_the_loop_may_sleep_then() -> None:
    turns, lane = made()
    for _ in range(3):
        lane.submit()
        turns.turn()
        assert not turns.calls
    assert lane.flushed == [1, 1, 1]


@given(st.lists(st.integers(0, 4), max_size=40))
def test_every_request_is_flushed_once(arrivals: list[int]) -> None:
    turns, lane = made()
    for count in arrivals:
        for _ in range(count):
            lane.submit()
        turns.turn()
    for _ in range(LOOKS_MAX + 2):
        turns.turn()
    assert sum(lane.flushed) == sum(arrivals)
    assert lane.arrived == []


def test_under_load_the_sockets_are_looked_at_again_while_they_have_something() -> None:
    turns, lane = made()
    lane.submit()
    lane.submit()
    turns.turn()
    for _ in range(3):
        lane.submit()
        turns.turn()
    assert lane.flushed == [2]
    turns.turn()
    assert lane.flushed == [2, 3]


def test_looking_again_has_an_end() -> None:
    turns, lane = made()
    lane.submit()
    lane.submit()
    turns.turn()
    for _ in range(LOOKS_MAX + 1):
        lane.submit()
        turns.turn()
    assert lane.flushed == [2, LOOKS_MAX + 1]


def test_the_loop_stays_awake_for_a_moment_and_no_longer() -> None:
    now_ns = [0]
    turns = Turns()
    lane = Gathering(Tick(turns, lambda: now_ns[0]))  # type: ignore[arg-type]
    lane.submit()
    lane.submit()
    turns.turn()
    turns.turn()
    assert turns.calls
    now_ns[0] = LINGER_NS
    turns.turn()
    assert not turns.calls
