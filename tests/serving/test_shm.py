"""Is shared memory read, written and registered as plain bytes and a plain dict would be?"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.config import Limits, SharedMemory
from serving.errors import Invalid, TooLarge, TurnoutError, Unavailable, Unknown
from serving.shm.memory import Memory
from serving.shm.region import FOLDER, KEY_BYTES_MAX, Entry, find, find_again, key_named
from serving.shm.register import Register
from serving.wire import DATATYPES, Call, InferRequest, TensorIn, Window

SIZE = 300
PREFIX = "/turnout-"


@pytest.fixture
def path() -> Iterator[Path]:
    """Return a file of shared memory, which is gone after the test."""
    path = FOLDER / f"turnout-{uuid.uuid4().hex}"
    path.write_bytes(bytes(SIZE))
    yield path
    path.unlink(missing_ok=True)


def entry(path: Path, offset: int = 0, size_bytes: int = SIZE, name: str = "r") -> Entry:
    return Entry(name, f"/{path.name}", offset, size_bytes)


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    path = FOLDER / f"turnout-{uuid.uuid4().hex}"
    path.write_bytes(bytes(SIZE))
    yield path
    path.unlink()


@given(st.data())
def test_a_region_is_its_part_of_the_memory_and_no_byte_more(shared, data):
    offset = data.draw(st.integers(0, SIZE - 1))
    size_bytes = data.draw(st.integers(1, SIZE - offset))
    region = find(entry(shared, offset, size_bytes), PREFIX)
    at = data.draw(st.integers(0, size_bytes))
    part = data.draw(st.binary(max_size=size_bytes - at))
    twin = bytearray(shared.read_bytes())
    region.write(Window("r", at, len(part)), memoryview(part))
    twin[offset + at : offset + at + len(part)] = part
    assert shared.read_bytes() == twin
    assert region.read(Window("r", 0, size_bytes)) == twin[offset : offset + size_bytes]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_window_is_within_its_region_or_refused(shared, offset, size_bytes):
    region = find(entry(shared, 100, 50), PREFIX)
    if offset + size_bytes <= 50:
        region.check(Window("r", offset, size_bytes))
    else:
        with pytest.raises(Invalid, match="has 50 bytes"):
            region.check(Window("r", offset, size_bytes))


@given(st.text(max_size=KEY_BYTES_MAX) | st.text("/.x\0 -", max_size=8).map(lambda text: PREFIX + text))
def test_a_key_names_one_file_with_the_prefix_or_none(key):
    try:
        name = key_named(key, PREFIX)
    except Invalid:
        return
    assert (FOLDER / name).parent == FOLDER and name.startswith(PREFIX[1:]) and len(name) > len(PREFIX) - 1
    assert os.path.normpath(FOLDER / name) == str(FOLDER / name)


def test_a_region_that_was_opened_lasts_longer_than_its_name(path):
    region = find(entry(path), PREFIX)
    path.unlink()
    region.write(Window("r", 0, 2), memoryview(b"ab"))
    assert region.read(Window("r", 0, 2)) == b"ab"
    before = len(list(Path("/proc/self/fd").iterdir()))
    del region
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1


def test_memory_that_took_the_name_of_another_is_not_taken_for_it(path):
    registered = find(entry(path), PREFIX).entry
    assert find_again(registered, PREFIX).entry == registered
    kept = os.open(path, os.O_RDONLY)
    path.unlink()
    path.write_bytes(bytes(SIZE))
    with pytest.raises(Invalid, match="not what was registered; register it anew"):
        find_again(registered, PREFIX)
    os.close(kept)


NAMES = st.sampled_from("abcd")


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 2), NAMES | st.just(""), st.integers(1, 40)), max_size=20
    )
)
def test_all_replicas_know_what_any_of_them_was_told(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("register")
    replicas = [Register(folder, 3, 100) for _ in range(3)]
    twin: dict[str, Entry] = {}
    for adds, told, name, size_bytes in steps:
        if adds and name:
            new = Entry(name, "/turnout-x", 0, size_bytes, 1, 2)
            try:
                replicas[told].add(new)
            except (Invalid, TooLarge):
                assert (
                    name in twin
                    or len(twin) == 3
                    or sum(e.size_bytes for e in twin.values()) + size_bytes > 100
                )
            else:
                assert name not in twin
                twin[name] = new
        else:
            replicas[told].remove(name)
            twin = {key: each for key, each in twin.items() if name and key != name}
        assert all(each.entries() == twin for each in replicas)
    for each in replicas:
        each.close()


# --- What a replica makes of it.


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    limits = Limits(body_bytes_max=64, bodies_bytes_max=100)
    memory = Memory(SharedMemory(enabled=True), limits, tmp_path)
    yield memory
    memory.close()


class Told:
    """A `Reply` that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def answer(self, request: InferRequest, results: object, start: int, stop: int) -> None:
        self.said.append((results, start, stop))

    def fail(self, request: InferRequest, error: TurnoutError) -> None:
        self.said.append(error)


def asking(size_bytes: int, region: str = "r") -> InferRequest:
    tensor = TensorIn("x", DATATYPES["UINT8"], (size_bytes,), Window(region, 0, size_bytes))
    return InferRequest(Call((tensor,)), [b""], Told())


def test_what_requests_under_way_hold_is_bounded_and_given_back(memory, path):
    memory.register("r", {"key": f"/{path.name}", "byte_size": SIZE})
    with pytest.raises(TooLarge, match="limits.body_bytes_max is 64"):
        memory.lend(asking(65))
    first, second = asking(64), asking(36)
    memory.lend(first)
    memory.lend(second)
    assert first.payloads == [bytes(64)]
    with pytest.raises(Unavailable):
        memory.lend(asking(1))
    del first
    memory.lend(asking(64))


def test_a_request_that_was_refused_holds_nothing(memory, path):
    memory.register("r", {"key": f"/{path.name}", "byte_size": 32})
    for _ in range(5):
        with pytest.raises(Invalid, match="region 'r' has 32 bytes"):
            memory.lend(asking(64))
        with pytest.raises(Invalid, match="no region 'q' is registered"):
            memory.lend(asking(64, "q"))
    memory.lend(asking(32))


def test_regions_of_others_are_opened_before_their_names_are_gone(memory, path, tmp_path):
    other = Memory(SharedMemory(enabled=True), Limits(), tmp_path)
    memory.register("r", {"key": f"/{path.name}", "byte_size": SIZE})
    other.open_all()
    path.unlink()
    other.lend(asking(8))
    late = Memory(SharedMemory(enabled=True), Limits(), tmp_path)
    late.open_all()
    with pytest.raises(Invalid, match="No such file"):
        late.lend(asking(8))
    memory.unregister("")
    assert other.status("") == []
    with pytest.raises(Unknown):
        late.status("r")
    other.close()
    late.close()


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({}, "byte_size"),
        ({"key": "/turnout-x"}, "byte_size"),
        ({"byte_size": 8}, "key"),
        ({"key": 7, "byte_size": 8}, "key"),
        ({"key": "/turnout-x", "byte_size": "8"}, "byte_size"),
        ({"key": "/turnout-x", "byte_size": 8, "offset": -1}, "offset"),
    ],
)
def test_a_registration_says_what_it_lacks(memory, asked, where):
    with pytest.raises(Invalid, match=rf"at `\$\.{where}`"):
        memory.register("r", asked)
