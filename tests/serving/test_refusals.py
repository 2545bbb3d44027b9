"""When do refused callers hear of it: at once, or later where there are many, and never not at all?"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Overloaded
from serving.refusals import AT_ONCE_MAX, HELD_NS_MAX, LOOK_NS, PER_S, Refusals

FULL = Overloaded("full")


class Clock:
    """A loop whose time passes when the test says so."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000
        self.due: list[tuple[int, Any]] = []

    def call_later(self, delay_s: float, work: Any) -> None:
        self.due.append((self.now_ns + int(delay_s * 1e9), work))

    def pass_until(self, ns: int) -> None:
        while self.due and min(self.due)[0] <= ns:
            self.due.sort(key=lambda each: each[0])
            self.now_ns, work = self.due.pop(0)
            work()
        self.now_ns = ns


def made() -> tuple[Refusals, Clock, list[tuple[int, int]]]:
    clock, told = Clock(), []

    def tell(request: Any, error: Overloaded) -> None:
        assert error is FULL
        told.append((clock.now_ns, request.number))

    return Refusals(clock, tell, lambda: clock.now_ns), clock, told  # type: ignore[arg-type]


def request(number: int, *, dropped: bool = False) -> Any:
    return SimpleNamespace(number=number, dropped=dropped)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=20), st.integers(1, 300_000_000))
def test_everyone_is_told_once_in_order_within_two_seconds_and_a_moment(crowds, gap_ns):
    refusals, clock, told = made()
    asked = {}
    for crowd in crowds:
        for _ in range(crowd):
            asked[len(asked)] = clock.now_ns
            refusals.refuse(request(len(asked) - 1), FULL)
        clock.pass_until(clock.now_ns + gap_ns)
    clock.pass_until(clock.now_ns + 2 * HELD_NS_MAX)
    assert [number for _, number in told] == list(asked)
    assert all(at_ns - asked[number] <= HELD_NS_MAX + 20_000_000 for at_ns, number in told)
    assert len(refusals) == 0 and not clock.due


@given(st.integers(1, 1000))
def test_no_more_are_told_than_the_rate_allows_while_nobody_has_waited_for_long(crowd):
    refusals, clock, told = made()
    began_ns = clock.now_ns
    for number in range(crowd):
        refusals.refuse(request(number), FULL)
    for ms in range(0, 900, 50):
        clock.pass_until(began_ns + ms * 1_000_000)
        assert len(told) <= AT_ONCE_MAX + PER_S * ms / 1000


def test_a_few_are_told_at_once():
    refusals, clock, told = made()
    for number in range(AT_ONCE_MAX):
        refusals.refuse(request(number), FULL)
    assert len(told) == AT_ONCE_MAX and not clock.due


def test_those_who_left_meanwhile_take_nobody_s_turn():
    refusals, clock, told = made()
    for number in range(AT_ONCE_MAX):
        refusals.refuse(request(number), FULL)
    for number in range(1000, 1400):
        refusals.refuse(request(number, dropped=True), FULL)
    refusals.refuse(request(7), FULL)
    clock.pass_until(clock.now_ns + 40_000_000)
    assert told[-1][1] == 7


def test_closing_tells_all_who_are_left():
    refusals, clock, told = made()
    for number in range(AT_ONCE_MAX + 50):
        refusals.refuse(request(number), FULL)
    refusals.close()
    assert len(told) == AT_ONCE_MAX + 50
    clock.pass_until(clock.now_ns + HELD_NS_MAX)
    assert len(told) == AT_ONCE_MAX + 50


def test_a_full_queue_is_looked_through_for_those_who_left_only_now_and_then():
    refusals, clock, _ = made()
    assert refusals.is_time_to_look()
    assert not refusals.is_time_to_look()
    clock.pass_until(clock.now_ns + LOOK_NS)
    assert refusals.is_time_to_look()


def test_the_real_loop_will_do():
    async def told() -> int:
        count = 0

        def tell(_request: Any, _error: Overloaded) -> None:
            nonlocal count
            count += 1

        refusals = Refusals(asyncio.get_running_loop(), tell)
        for number in range(AT_ONCE_MAX + 20):
            refusals.refuse(request(number), FULL)
        assert count == AT_ONCE_MAX
        while len(refusals):
            await asyncio.sleep(0.005)
        return count

    assert asyncio.run(told()) == AT_ONCE_MAX + 20
