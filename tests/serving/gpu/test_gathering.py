"""How payloads get into a slot: byte for byte, wherever they lay."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gpu import gathering
from serving.gpu.gathering import Room, stretches


@given(st.data(), st.integers(1, 40), st.integers(1, 40))
def test_payloads_lie_one_behind_the_other_wherever_they_were(data, least, let_go) -> None:
    memory = bytes(data.draw(st.binary(min_size=200, max_size=200)))
    held = memoryview(bytearray(memory))
    cuts = sorted(data.draw(st.lists(st.integers(0, 200), min_size=2, max_size=8)))
    pieces = [held[start:end] for start, end in pairwise(cuts)]
    pieces = [piece if data.draw(st.booleans()) else bytes(piece) for piece in pieces]
    pieces = data.draw(st.permutations(pieces)) if data.draw(st.booleans()) else pieces
    array = np.full(256, 7, np.uint8)
    with (
        mock.patch.object(gathering, "SLOT_BYTES_MIN", least),
        mock.patch.object(gathering, "LET_GO_BYTES_MIN", let_go),
    ):
        Room(array).write(pieces)
    whole = b"".join(pieces)
    assert array.tobytes() == whole + bytes([7]) * (256 - len(whole))


def test_what_lies_side_by_side_is_one_piece() -> None:
    held = memoryview(bytearray(range(30)))
    found = list(stretches([held[0:10], held[10:20], bytes(5), held[20:30]]))
    assert [size for _, size, _ in found] == [20, 5, 10]
    assert [alone is not None for *_, alone in found] == [False, True, True]


def test_more_than_a_slot_holds_is_refused_before_anything_is_written() -> None:
    array = np.zeros(8, np.float32)
    with pytest.raises(ValueError):
        Room(array).write([bytes(20), bytes(20)])


def test_every_datatype_is_written_as_it_is_on_the_wire() -> None:
    for dtype in (np.bool_, np.uint8, np.int64, np.float16, np.float32):
        array = np.zeros((4, 3), dtype)
        values = np.arange(6).reshape(2, 3).astype(dtype)
        Room(array).write([values[:1].tobytes(), values[1:].tobytes()])
        assert np.array_equal(array[:2], values)
        assert not array[2:].any()
