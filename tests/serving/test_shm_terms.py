"""Are inputs that lie side by side read at once, and is each what it would be alone?"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import Limits, SharedMemory
from serving.errors import Invalid
from serving.shm.memory import Memory
from serving.shm.region import FOLDER
from serving.shm.terms import terms
from serving.slots import SLOT_BYTES_MIN
from serving.wire import DATATYPES, Call, InferRequest, TensorIn, TensorOut, Window

SIZE = 3 * SLOT_BYTES_MIN
UINT8 = DATATYPES["UINT8"]
Placed = list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def lent() -> Iterator[tuple[Memory, dict[str, bytes]]]:
    """Return the memory of a replica with two regions, and what they hold."""
    with TemporaryDirectory() as folder:
        memory = Memory(SharedMemory(enabled=True), Limits(), Path(folder))
        held = {}
        for name in ("a", "b"):
            path = FOLDER / f"turnout-{uuid.uuid4().hex}"
            held[name] = os.urandom(SIZE)
            path.write_bytes(held[name])
            memory.register(name, {"key": f"/{path.name}", "byte_size": SIZE})
            path.unlink()
        yield memory, held
        memory.close()


def call(placed: Placed) -> Call:
    tensors = [
        TensorIn(str(number), UINT8, (size,), Window(region, at, size))
        for number, (region, at, size) in enumerate(placed)
    ]
    return Call(tuple(tensors), (TensorOut("y", window=Window("b", 0, 8)),))


@st.composite
def places(draw: st.DrawFn) -> Placed:
    """Return windows, many of them right behind the one before."""
    made: Placed = []
    region, at = "a", 0
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            region, at = draw(st.sampled_from("ab")), draw(st.integers(0, SIZE - 1))
        size = draw(st.integers(1, 200) | st.integers(SLOT_BYTES_MIN - 2, SLOT_BYTES_MIN + 2))
        size = min(size, SIZE - at)
        if size < 1:
            break
        made.append((region, at, size))
        at += size
    return made


@given(places())
def test_each_input_is_what_lies_in_its_window(lent: tuple[Memory, dict[str, bytes]], placed: Placed) -> None:
    memory, held = lent
    request = InferRequest(call(placed), [b""] * len(placed), SimpleNamespace())  # type: ignore[arg-type]
    memory.lend(request)
    assert [bytes(each) for each in request.payloads] == [held[name][at:][:size] for name, at, size in placed]


@given(places())
def test_what_is_read_at_once_is_small_and_all_of_it_is_wanted(placed: Placed) -> None:
    wanted = terms(call(placed))
    assert wanted.size_bytes == sum(size for _, _, size in placed)
    assert wanted.targets == {"y": Window("b", 0, 8)}
    pieces = [piece for stretch in wanted.stretches for piece in stretch.pieces]
    assert [piece.index for piece in pieces] == list(range(len(placed)))
    for stretch in wanted.stretches:
        assert sum(piece.window.size_bytes for piece in stretch.pieces) == stretch.window.size_bytes
        assert len(stretch.pieces) == 1 or stretch.window.size_bytes < SLOT_BYTES_MIN


def test_small_inputs_side_by_side_are_read_at_once() -> None:
    (stretch,) = terms(call([("a", 100, 10), ("a", 110, 20), ("a", 130, 5)])).stretches
    assert stretch.window == Window("a", 100, 35)


def test_the_input_that_is_not_in_its_region_is_named(lent: tuple[Memory, dict[str, bytes]]) -> None:
    memory, _ = lent
    placed = [("a", SIZE - 20, 15), ("a", SIZE - 5, 9)]
    request = InferRequest(call(placed), [b""] * 2, SimpleNamespace())  # type: ignore[arg-type]
    with pytest.raises(Invalid, match=f"the request means 9 of them from {SIZE - 5} on"):
        memory.lend(request)
