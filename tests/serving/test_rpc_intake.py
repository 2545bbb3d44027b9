"""How messages arrive: the same in any pieces, counted, bounded, and nothing taken on trust."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import Limits
from serving.errors import Invalid, TooLarge, TurnoutError, Unavailable
from serving.rpc import intake
from serving.rpc.intake import FIRST_BYTES_MAX, SMALL_BYTES_MAX, Intake, Store

MOST = 20 << 20
LIMITS, TIGHT = Limits(body_bytes_max=MOST), Limits(body_bytes_max=1000, chunks_max=8)


def framed(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


def fed(store: Store, data: bytes, cuts: list[int], limits: Limits = LIMITS) -> list[tuple[bool, bytes]]:
    """Feed `data` in pieces and return the messages that came out."""
    one, found, at = Intake(store, limits), [], 0
    try:
        for cut in [*cuts, len(data)]:
            piece = data[at : at + cut]
            at += len(piece)
            begin = 0
            while begin < len(piece):
                begin = one.feed(b"#" + piece, begin + 1, len(piece) + 1) - 1
                if one.whole:
                    compressed = one.compressed
                    message, buffer = one.take()
                    found.append((compressed, bytes(message)))
                    assert (buffer is None) == (len(message) <= SMALL_BYTES_MAX)
                    if buffer is not None:
                        store.release(buffer, read=False)
    finally:
        one.drop()
    return found


SIZES = st.one_of(st.integers(0, 50), st.sampled_from([SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, 100_000]))


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=6), st.lists(st.integers(1, 40_000), max_size=12))
def test_messages_are_the_same_in_any_pieces_and_nothing_is_kept_of_them(sizes, cuts):
    store = Store(MOST)
    messages = [(flag, bytes([number]) * size) for number, (size, flag) in enumerate(sizes)]
    data = b"".join(framed(message, flag) for flag, message in messages)
    assert fed(store, data, cuts) == messages
    assert store.bytes_now == 0


@given(st.binary(max_size=30), st.lists(st.integers(1, 9), max_size=3))
def test_any_bytes_come_to_the_same_end_in_any_pieces(data, cuts):
    def outcome(cuts: list[int]) -> object:
        store = Store(1000)
        try:
            found = fed(store, data, cuts, TIGHT)
        except TurnoutError as error:
            found = [type(error), str(error)]
        assert store.bytes_now == 0
        return found

    assert outcome(cuts) == outcome([])


def test_a_message_too_large_is_refused_by_its_prefix():
    store = Store(MOST)
    with pytest.raises(TooLarge, match="limits.body_bytes_max"):
        fed(store, struct.pack(">BI", 0, 1001), [], TIGHT)
    assert fed(store, framed(bytes(1000)), [], TIGHT) == [(False, bytes(1000))]
    with pytest.raises(Invalid, match="first byte"):
        fed(store, b"\2\0\0\0\0", [])


def test_a_message_in_too_many_pieces_is_refused_however_short_they_are():
    store = Store(MOST)
    message = framed(b"123")
    assert fed(store, message * 3, [1] * 24, TIGHT) == [(False, b"123")] * 3
    with pytest.raises(TooLarge, match="limits.chunks_max"):
        fed(store, framed(b"1234"), [1] * 9, TIGHT)
    assert store.bytes_now == 0


def test_what_is_held_for_a_message_follows_what_has_arrived_of_it():
    store = Store(64 << 20)
    one = Intake(store, Limits(body_bytes_max=64 << 20))
    one.feed(struct.pack(">BI", 0, 40 << 20), 0, 5)
    assert store.bytes_now == FIRST_BYTES_MAX == one.wants_bytes
    sent, chunk = 0, bytes(100_000)
    while not one.whole:
        part = chunk[: (40 << 20) - sent]
        one.feed(part, 0, len(part))
        sent += len(part)
        assert store.bytes_now <= intake.GROWTH * max(sent, FIRST_BYTES_MAX)
        assert one.whole or one.wants_bytes > 0
    one.drop()
    assert store.bytes_now == 0


def test_large_messages_leave_room_for_small_ones_and_the_other_way_round(monkeypatch):
    monkeypatch.setattr(intake, "SMALL_BYTES_TOTAL_MAX", 1000)
    store = Store(100_000)
    large = store.hold(90_000)
    with pytest.raises(Unavailable):
        store.hold(20_000)
    small = store.hold(900)
    with pytest.raises(Unavailable):
        store.hold(101)
    assert store.bytes_now == 90_900
    store.release(small, read=False)
    store.release(large, read=False)
    assert store.bytes_now == 0


def test_a_buffer_that_is_still_read_counts_until_it_is_not():
    store = Store(MOST)
    buffer = store.hold(100_000)
    reader = np.frombuffer(buffer, np.uint8)
    store.release(buffer, read=True)
    del buffer
    assert store.bytes_now == 100_000
    del reader
    assert store.bytes_now == 0
