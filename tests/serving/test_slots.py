"""Do slots lie side by side, and is none used again while anybody holds it?"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import slots
from serving.slots import CHUNK_BYTES, CHUNKS_MAX, SLOT_BYTES_MIN, Slots, side_by_side

MIN = SLOT_BYTES_MIN
SIZES = st.integers(MIN, CHUNK_BYTES // 2)


def filled(room: memoryview, value: int) -> memoryview:
    room[:] = bytes([value]) * len(room)
    return room


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(SIZES, st.integers(0, 20), st.booleans()), max_size=40))
def test_a_slot_is_nobodys_else_as_long_as_it_or_an_array_of_it_is_held(steps) -> None:
    made, held = Slots(), {}
    for number, (size_bytes, gone, as_array) in enumerate(steps):
        held.pop(gone, None)
        room = made.take(size_bytes)
        if room is not None:
            filled(room, number)
            held[number] = np.ndarray((size_bytes,), np.uint8, room) if as_array else room
        del room
        assert all(np.array_equal(np.asarray(each), np.full(len(each), key)) for key, each in held.items())


def test_what_was_let_go_of_is_used_again() -> None:
    made = Slots()
    first = made.take(MIN)
    assert first is not None
    where = slots.address(first.obj)
    second = made.take(MIN)
    del first
    third = made.take(MIN)
    assert second is not None and third is not None
    assert slots.address(third.obj) == where + 2 * MIN
    del second, third
    again = made.take(MIN)
    assert again is not None and slots.address(again.obj) == where


def test_there_are_so_many_slots_and_no_more() -> None:
    made, size_bytes = Slots(), CHUNK_BYTES // 2
    held = [made.take(size_bytes) for _ in range(2 * CHUNKS_MAX + 1)]
    assert [each is None for each in held] == [False] * 2 * CHUNKS_MAX + [True]
    held[3] = held[2] = None
    assert made.take(size_bytes) is not None


def test_what_is_small_or_as_large_as_a_chunk_gets_no_slot() -> None:
    made = Slots()
    assert [made.take(size) for size in (0, 1, MIN - 1, CHUNK_BYTES // 2 + 1)] == [None] * 4


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(MIN, 2 * MIN), min_size=1, max_size=8), st.data())
def test_slots_are_joined_as_their_bytes_are_or_not_at_all(sizes, data) -> None:
    made = Slots()
    rooms = [filled(made.take(size) or memoryview(b""), number) for number, size in enumerate(sizes)]
    joined = side_by_side(rooms)
    assert joined is not None and joined == b"".join(rooms)
    places = st.integers(0, len(rooms) - 1)
    chosen = [rooms[at] for at in data.draw(st.lists(places, min_size=1, max_size=8))]
    view = side_by_side(chosen)
    assert view is None or view == b"".join(chosen)
    parts = [each[1:] for each in rooms]
    assert side_by_side(parts) is None
    assert side_by_side([rooms[0], bytes(rooms[0])]) is None


def test_a_joined_view_alone_keeps_its_slots() -> None:
    made = Slots()
    rooms = [filled(made.take(MIN) or memoryview(b""), value) for value in (1, 2)]
    joined = side_by_side(rooms)
    assert joined is not None
    rooms.clear()
    filled(made.take(MIN) or memoryview(b""), 3)
    assert joined == b"\1" * MIN + b"\2" * MIN


def test_bodies_that_came_another_way_are_not_taken_for_slots() -> None:
    whole = np.arange(4 * MIN, dtype=np.uint8)
    assert side_by_side([memoryview(bytes(MIN))] * 2) is None
    assert side_by_side([whole.data, whole.data]) is None
    assert side_by_side([whole[:MIN].data, whole[MIN : 3 * MIN].data]) == whole[: 3 * MIN].data
    assert side_by_side([np.array(["a"], object)]) is None
