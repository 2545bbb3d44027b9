"""Does the ring keep whole entries in order within its bytes, whatever is put and taken, and whoever dies?"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from typing import Self
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.shadow import ring
from serving.shadow.ring import BYTES_MIN, HEAD_BYTES, LENGTH_BYTES, Reader, Ring, Torn

entries = st.integers(0, 255).flatmap(
    lambda byte: st.integers(0, BYTES_MIN // 2 + 8).map(lambda size: bytes([byte]) * size)
)
steps = st.lists(st.one_of(entries, st.just("tell"), st.just("take"), st.just("die")), max_size=60)


class Ends:
    """Both ends of one ring."""

    def __init__(self, bytes_max=BYTES_MIN) -> None:
        self.writer = Ring(bytes_max)
        self.reader = Reader(self.writer.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.writer.close()

    def put(self, entry):
        room = self.writer.room(len(entry))
        if room:
            self.writer.put([entry[:5], entry[5:]], len(entry))
        return room

    def tell(self):
        self.reader.tail = self.writer.tail

    def take(self):
        entry = self.reader.take()
        if entry is None:
            return None
        got = bytes(entry)
        entry.release()
        return got

    def die(self):
        """The reader dies with the entry that it took, and another one takes its place."""
        held = self.writer.skip()
        self.reader.close()
        self.reader = Reader(self.writer.fd)
        self.tell()
        return held


@given(steps, st.sampled_from([ring.LAP_BYTES, 1000]))
def test_what_is_put_comes_out_whole_and_in_order_or_was_refused(sequence, lap_bytes):
    waiting, told = deque(), 0
    with mock.patch.object(ring, "LAP_BYTES", lap_bytes), Ends() as ends:
        for step in sequence:
            match step:
                case "tell":
                    ends.tell()
                    told = len(waiting)
                case "take":
                    got = ends.take()
                    assert got == (waiting.popleft() if told else None)
                    if got is not None:
                        told -= 1
                        ends.reader.done()
                case "die":
                    got = ends.take()
                    assert ends.die() == (got is not None)
                    if got is not None:
                        assert got == waiting.popleft()
                    told = len(waiting)
                case entry:
                    if ends.put(entry):
                        waiting.append(entry)
            assert 0 <= ends.writer.used_bytes <= ends.writer.bytes_max
        ends.tell()
        while waiting:
            assert ends.take() == waiting.popleft()
            ends.reader.done()
        assert ends.take() is None
        assert ends.writer.used_bytes == 0


@given(st.integers(0, BYTES_MIN), st.integers(0, BYTES_MIN))
def test_an_entry_of_up_to_half_of_it_fits_an_empty_ring_wherever_that_begins(before, size):
    with Ends() as ends:
        if ends.put(bytes(before)):
            ends.tell()
            ends.take()
            ends.reader.done()
        assert ends.writer.used_bytes == 0
        assert ends.put(bytes(size)) == (size <= ends.writer.entry_bytes_max)


def test_a_full_ring_takes_nothing_until_something_was_read():
    with Ends() as ends:
        size = BYTES_MIN // 4 - LENGTH_BYTES
        assert [ends.put(bytes(size)) for _ in range(5)] == [True] * 4 + [False]
        ends.tell()
        ends.take()
        assert not ends.put(b"")
        ends.reader.done()
        assert ends.put(bytes(size))


def test_a_ring_that_is_read_at_once_uses_the_memory_of_a_lap_and_not_all():
    with Ends(64 << 20) as ends:
        for _ in range(20_000):
            assert ends.put(bytes(5000))
            ends.tell()
            ends.take()
            ends.reader.done()
        assert os.fstat(ends.writer.fd).st_blocks * 512 < 2 * ring.LAP_BYTES


def test_a_ring_that_nobody_reads_takes_all_that_it_has_room_for():
    with Ends(64 << 20) as ends:
        while ends.put(bytes(1 << 20)):
            pass
        assert ends.writer.used_bytes > 62 << 20


def test_what_was_not_told_is_not_read():
    with Ends() as ends:
        ends.put(b"one")
        assert ends.take() is None
        ends.tell()
        ends.put(b"two")
        assert ends.take() == b"one"
        ends.reader.done()
        assert ends.take() is None


@pytest.mark.parametrize("place", [8, 1 << 40, 13])
def test_a_place_that_cannot_be_true_empties_the_ring_and_harms_nobody(place):
    with Ends() as ends:
        ends.put(bytes(100))
        ends.reader._words[0] = place
        ends.put(bytes(100))
        with pytest.raises(Torn):
            ends.writer.skip()
        assert ends.writer.used_bytes == 0
        assert ends.put(b"on")
        ends.die()
        assert ends.take() == b"on"


def test_no_holder_can_take_the_memory_away_from_the_other():
    writer = Ring(BYTES_MIN)
    with pytest.raises(PermissionError):
        os.ftruncate(writer.fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(writer.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert os.fstat(writer.fd).st_size == HEAD_BYTES + BYTES_MIN
    writer.close()
