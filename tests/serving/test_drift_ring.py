"""Rows wait in order and whole within a fixed number of bytes, whoever dies, and what does not fit is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.drift.ring import BROKEN, FULL, MISFIT, RowReader, RowRing

FLOAT = np.dtype(np.float32)


class Ends:
    """Both ends of a ring of rows that say which one they are."""

    def __init__(self, capacity: int, early: int, elements: int = 3) -> None:
        self.elements = elements
        self.ring = RowRing(FLOAT, elements, capacity * elements * FLOAT.itemsize)
        self.ring._early = early
        self.reader = RowReader(self.ring.fd, FLOAT, elements)
        self.head = self.said = 0
        self.next = 0
        self.accepted: list[int] = []
        self.taken: list[int] = []

    def write(self, count: int, *, raw: bool) -> None:
        rows = np.repeat(np.arange(self.next, self.next + count, dtype=FLOAT)[:, None], self.elements, axis=1)
        before = self.ring.written
        if raw:
            self.ring.put_bytes(rows.tobytes(), count)
        else:
            self.ring.put(rows)
        self.accepted += range(self.next, self.next + self.ring.written - before)
        self.next += count

    def read(self, rows_max: int) -> None:
        until = self.reader.look()
        while self.head < until:
            rows = self.reader.take(self.head, until, rows_max)
            assert len(rows)
            assert (rows == rows[:, :1]).all()
            self.taken += rows[:, 0].astype(int).tolist()
            self.head += len(rows)

    def say(self) -> None:
        self.reader.say(self.head)
        self.said = self.head

    def die(self) -> None:
        """Forget what was read since it was last said, as a successor would."""
        self.head = self.said
        del self.taken[self.head :]
        self.reader = RowReader(self.ring.fd, FLOAT, self.elements)


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("read"), st.integers(1, 5)),
    st.tuples(st.just("say")),
    st.tuples(st.just("die")),
    st.tuples(st.just("writer dies")),
)


@given(st.integers(1, 12), st.integers(1, 12), st.lists(steps, max_size=60))
def test_what_is_accepted_is_read_once_and_in_order_whoever_dies_in_between(capacity, early, script):
    ends = Ends(capacity, early)
    for step in script:
        match step:
            case ("write", count, raw):
                ends.write(count, raw=raw)
            case ("read", rows_max):
                ends.read(rows_max)
            case ("say",):
                ends.say()
            case ("die",):
                ends.die()
            case ("writer dies",):
                ends.ring = RowRing(FLOAT, 3, capacity * 12, ends.ring.fd)
                ends.ring._early = early
        assert ends.ring.written - ends.said <= capacity
        assert ends.taken == ends.accepted[: ends.head]
    for _ in range(2):
        ends.read(4)
    assert ends.taken == ends.accepted
    assert sum(ends.ring.dropped) == ends.next - len(ends.accepted)


def test_as_many_rows_fit_as_there_is_room_for_and_the_rest_is_refused():
    ends = Ends(10, 100)
    ends.write(25, raw=True)
    assert (ends.accepted, ends.ring.dropped) == (list(range(10)), (15, 0, 0))
    ends.read(100)
    ends.read(100)
    ends.write(3, raw=True)
    assert ends.ring.dropped == (18, 0, 0)
    ends.say()
    ends.write(3, raw=False)
    assert ends.ring.dropped == (18, 0, 0)


def test_rows_are_taken_only_when_they_were_there_at_the_look_before():
    ends = Ends(10, 100)
    ends.write(2, raw=True)
    ends.read(10)
    assert ends.taken == []
    ends.write(2, raw=True)
    ends.read(10)
    assert ends.taken == [0, 1]


def test_a_reader_that_keeps_up_lets_the_writer_use_little_memory():
    ends = Ends(10_000, 64)
    for _ in range(300):
        ends.write(7, raw=True)
        ends.read(1000)
        ends.read(1000)  # What it saw at the look before.
        ends.say()
    used = np.frombuffer(ends.ring._bytes, FLOAT).reshape(10_000, 3).any(axis=1).sum()
    assert used <= 64 + 7 * 3


@pytest.mark.parametrize(("word", "dropped"), [(FULL, (4, 0, 0)), (MISFIT, (0, 4, 0)), (BROKEN, (0, 0, 4))])
def test_rows_that_are_not_written_count_under_their_reason(word, dropped):
    ends = Ends(10, 100)
    ends.ring.refuse(word, 4)
    assert ends.ring.dropped == dropped


def test_a_row_that_is_larger_than_the_ring_still_has_a_place():
    ring = RowRing(np.dtype(np.float64), 1000, 4096)
    ring.put(np.ones((2, 1000)))
    assert (ring.written, ring.dropped) == (1, (1, 0, 0))
