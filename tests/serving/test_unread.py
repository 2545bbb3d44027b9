"""Who is cut off when too much of answers waits to be read?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.unread import Unread

BOUND = 1000


class Client:
    """A connection that notes whether it was ended."""

    def __init__(self) -> None:
        self.ended = False
        self.transport = self  # type: ignore[assignment]

    def abort(self) -> None:
        self.ended = True


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 1500)), max_size=60))
def test_what_waits_is_never_more_than_the_bound_or_a_single_answer(steps):
    unread, clients = Unread(BOUND), [Client() for _ in range(10)]
    waiting: dict[int, int] = {}
    for number, waits, size in steps:
        if clients[number].ended:
            continue
        if waits:
            unread.wait(clients[number], size)  # type: ignore[arg-type]
            waiting.pop(number, None)
            waiting[number] = size
        else:
            unread.leave(clients[number])  # type: ignore[arg-type]
            waiting.pop(number, None)
        waiting = {n: held for n, held in waiting.items() if not clients[n].ended}
        assert unread.bytes_now == sum(waiting.values())
        assert unread.bytes_now <= BOUND or len(waiting) == 1
    assert unread.cut == sum(each.ended for each in clients)


def test_who_has_waited_longest_goes_first():
    unread, (first, second, third) = Unread(BOUND), [Client() for _ in range(3)]
    unread.wait(first, 400)  # type: ignore[arg-type]
    unread.wait(second, 400)  # type: ignore[arg-type]
    unread.wait(third, 400)  # type: ignore[arg-type]
    assert (first.ended, second.ended, third.ended) == (True, False, False)


def test_who_does_not_wait_may_leave():
    unread = Unread(BOUND)
    unread.leave(Client())  # type: ignore[arg-type]
    assert unread.bytes_now == 0
