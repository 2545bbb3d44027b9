"""Is shared memory read, written and registered as plain bytes and a plain dict would be?"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.config import Limits, SharedMemory
from serving.errors import Invalid, TooLarge, TurnoutError, Unavailable, Unknown
from serving.shm.kinds import Entry
from serving.shm.memory import Memory
from serving.shm.region import FOLDER, KEY_BYTES_MAX, find, find_again, key_named
from serving.shm.register import Register
from serving.slots import SLOT_BYTES_MIN, Slots, side_by_side
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
        region.entry.check(Window("r", offset, size_bytes))
    else:
        with pytest.raises(Invalid, match="has 50 bytes"):
            region.entry.check(Window("r", offset, size_bytes))


@given(st.text(max_size=KEY_BYTES_MAX) | st.text("/.x\0 -", max_size=8).map(lambda text: PREFIX + text))
def test_a_key_names_one_file_with_the_prefix_or_none(key):
    try:
        name = key_named(key, PREFIX)
    except Invalid:
        return
    assert (FOLDER / name).parent == FOLDER and name.startswith(PREFIX[1:]) and len(name) > len(PREFIX) - 1
    assert os.path.normpath(FOLDER / name) == str(FOLDER / name)


@pytest.fixture(scope="module")
def large() -> Iterator[Path]:
    path = FOLDER / f"turnout-{uuid.uuid4().hex}"
    path.write_bytes(os.urandom(3 * SLOT_BYTES_MIN))
    yield path
    path.unlink()


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_slot_is_filled_with_what_reading_would_have_given(large, data):
    content = large.read_bytes()
    offset = data.draw(st.integers(0, SLOT_BYTES_MIN))
    region = find(entry(large, offset, len(content) - offset), PREFIX)
    at = data.draw(st.integers(0, SLOT_BYTES_MIN))
    size_bytes = data.draw(st.integers(SLOT_BYTES_MIN, len(content) - offset - at))
    room = Slots().take(size_bytes)
    assert room is not None
    window = Window("r", at, size_bytes)
    assert region.read(window, room) == region.read(window) == content[offset + at :][:size_bytes]
    assert region._mapping is not None and region._mapping.copy(at, room)


def test_a_slot_is_filled_where_the_kernel_may_not_copy_too(large, monkeypatch):
    monkeypatch.setattr("serving.shm.mapping._write", lambda *_: -1)
    region, room = find(entry(large, 0, SLOT_BYTES_MIN), PREFIX), Slots().take(SLOT_BYTES_MIN)
    assert region.read(Window("r", 0, SLOT_BYTES_MIN), room) == large.read_bytes()[:SLOT_BYTES_MIN]


@pytest.mark.parametrize("left", [0, 1, SLOT_BYTES_MIN, 2 * SLOT_BYTES_MIN - 1])
def test_memory_that_is_cut_short_under_a_mapping_is_an_error_until_it_is_there_again(path, left):
    size_bytes = 2 * SLOT_BYTES_MIN
    path.write_bytes(b"\1" * size_bytes)
    region, window = find(entry(path, 0, size_bytes), PREFIX), Window("r", 0, size_bytes)
    room = Slots().take(size_bytes)
    assert region.read(window, room) == b"\1" * size_bytes
    assert region._mapping is not None
    os.truncate(path, left)
    with pytest.raises(Invalid, match="was cut short since it was registered"):
        region.read(window, room)
    os.truncate(path, size_bytes)
    assert region.read(window, room) == (b"\1" * left).ljust(size_bytes, b"\0")
    path.write_bytes(b"\2" * size_bytes)
    assert region._mapping.copy(0, room) and room == b"\2" * size_bytes


def test_memory_that_is_cut_short_while_it_is_copied_is_an_error_and_no_signal(path):
    """Whoever touched the mapping himself, instead of letting the kernel do it, would be ended by SIGBUS."""
    size_bytes = 32 * SLOT_BYTES_MIN
    content = b"\1" * size_bytes
    path.write_bytes(content)
    region, room = find(entry(path, 0, size_bytes), PREFIX), Slots().take(size_bytes)
    window, over = Window("r", 0, size_bytes), threading.Event()

    def cut() -> None:
        with path.open("r+b", buffering=0) as file:
            while not over.is_set():
                file.truncate(0)
                os.pwrite(file.fileno(), content, 0)

    cutting = threading.Thread(target=cut)
    cutting.start()
    outcomes = []
    until_s = monotonic() + 10
    while (monotonic() < until_s and len(set(outcomes)) < 2) or len(outcomes) < 200:
        try:
            region.read(window, room)
            outcomes.append(None)
        except Invalid:
            outcomes.append(Invalid)
    over.set()
    cutting.join()
    assert set(outcomes) == {None, Invalid}
    assert region.read(window, room) == content


def test_memory_that_was_never_written_to_is_zeros_and_gets_no_memory_by_being_read(path):
    os.truncate(path, 0)
    os.truncate(path, 4 * SLOT_BYTES_MIN)
    region, room = find(entry(path, 0, 4 * SLOT_BYTES_MIN), PREFIX), Slots().take(4 * SLOT_BYTES_MIN)
    assert region.read(Window("r", 0, 4 * SLOT_BYTES_MIN), room) == bytes(4 * SLOT_BYTES_MIN)
    assert path.stat().st_blocks == 0


def test_memory_that_is_cut_short_before_it_is_mapped_is_an_error(path):
    path.write_bytes(bytes(SLOT_BYTES_MIN))
    region = find(entry(path, 0, SLOT_BYTES_MIN), PREFIX)
    os.truncate(path, 1)
    with pytest.raises(Invalid, match="was cut short since it was registered"):
        region.read(Window("r", 0, SLOT_BYTES_MIN), Slots().take(SLOT_BYTES_MIN))
    assert region._mapping is None


def test_a_region_that_was_opened_lasts_longer_than_its_name(path):
    region = find(entry(path), PREFIX)
    path.unlink()
    region.write(Window("r", 0, 2), memoryview(b"ab"))
    assert region.read(Window("r", 0, 2)) == b"ab"
    before = len(list(Path("/proc/self/fd").iterdir()))
    del region
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1


def test_a_region_that_was_mapped_is_let_go_of_like_any(large):
    def held() -> int:
        links = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        return links.count(large) + Path("/proc/self/maps").read_text().count(str(large))

    before = held()
    region = find(entry(large, 0, SLOT_BYTES_MIN), PREFIX)
    region.read(Window("r", 0, SLOT_BYTES_MIN), Slots().take(SLOT_BYTES_MIN))
    assert held() == before + 3
    del region
    assert held() == before


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


def test_what_was_registered_by_a_replica_that_died_before_it_told_is_seen_with_the_next_change(
    tmp_path, monkeypatch
):
    one, other = Register(tmp_path, 3, 100), Register(tmp_path, 3, 100)
    first, untold, second = (Entry(name, "/turnout-x", 0, 1, 1, 2) for name in "abc")
    one.add(first)
    assert other.entries() == {"a": first}
    with monkeypatch.context() as dying:
        dying.setattr(one, "_changes", bytearray(one._changes[:]))  # What it tells is heard by nobody.
        one.add(untold)
    assert other.entries() == {"a": first}
    other.add(second)
    for each in (one, other, Register(tmp_path, 3, 100)):
        assert each.entries() == {"a": first, "b": untold, "c": second}


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


def asking(size_bytes: int, region: str = "r", offset: int = 0) -> InferRequest:
    tensor = TensorIn("x", DATATYPES["UINT8"], (size_bytes,), Window(region, offset, size_bytes))
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


def test_large_inputs_lie_side_by_side_and_are_what_they_were_when_they_arrived(path, tmp_path):
    memory = Memory(SharedMemory(enabled=True), Limits(), tmp_path)
    content = os.urandom(3 * SLOT_BYTES_MIN)
    path.write_bytes(content)
    memory.register("r", {"key": f"/{path.name}", "byte_size": len(content)})
    requests = [asking(SLOT_BYTES_MIN, offset=at * SLOT_BYTES_MIN) for at in (0, 2, 1)]
    for each in requests:
        memory.lend(each)
    path.write_bytes(bytes(len(content)))
    parts = [content[at * SLOT_BYTES_MIN :][:SLOT_BYTES_MIN] for at in (0, 2, 1)]
    assert [each.payloads[0] for each in requests] == parts
    assert side_by_side([each.payloads[0] for each in requests]) == b"".join(parts)
    memory.close()


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
