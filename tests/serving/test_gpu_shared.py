"""Is a client's memory on a GPU read, written and let go of as a plain array would be, and no byte beyond it?"""

from __future__ import annotations

import base64
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.config import Config, Limits, SharedMemory, parse
from serving.errors import Failed, Invalid, TooLarge, Unknown, Unsupported
from serving.gpu import shared
from serving.gpu.driver import HANDLE_BYTES
from serving.gpu.shared import Handles
from serving.shm.kinds import Kind
from serving.shm.memory import Memory
from serving.slots import SLOT_BYTES_MIN, side_by_side
from serving.wire import DATATYPES, Call, InferRequest, TensorIn, TensorOut, Window
from tests.gpus import FakeDriver

SIZE = 300


def asked(handle: bytes, size_bytes: int = SIZE, device_id: int = 0) -> dict[str, Any]:
    return {
        "raw_handle": {"b64": base64.b64encode(handle).decode()},
        "device_id": device_id,
        "byte_size": size_bytes,
    }


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def memory(driver: FakeDriver, tmp_path: Path) -> Iterator[Memory]:
    memory = Memory(SharedMemory(cuda=True), Limits(), tmp_path, Handles(driver))
    yield memory
    memory.close()


def asking(size_bytes: int, region: str = "r", offset: int = 0, *, answered: bool = False) -> InferRequest:
    """Return a request with its input in a region, and its output if it is to be `answered` there."""
    window = Window(region, offset, size_bytes)
    tensor = TensorIn("x", DATATYPES["UINT8"], (size_bytes,), window)
    outputs = (TensorOut("y", window=window),) if answered else None
    reply: Any = None
    return InferRequest(Call((tensor,), outputs), [b""], reply)


@given(st.data())
def test_a_region_is_its_memory_and_no_byte_more(data):
    driver = FakeDriver()
    handle, content = driver.make(SIZE)
    size_bytes = data.draw(st.integers(1, SIZE))
    source = Handles(driver)
    region = source.find(source.asked("r", asked(handle, size_bytes)))
    at = data.draw(st.integers(0, size_bytes))
    part = data.draw(st.binary(max_size=size_bytes - at))
    region.write(Window("r", at, len(part)), memoryview(part))
    twin = bytearray(SIZE)
    twin[at : at + len(part)] = part
    assert content == twin
    assert region.read(Window("r", 0, size_bytes)) == twin[:size_bytes]


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["register", "unregister", "ask", "answer"]),
            st.sampled_from(["a", "b", ""]),
            st.integers(0, 1),
        ),
        max_size=30,
    )
)
def test_memory_is_open_just_as_long_as_it_is_registered_or_an_answer_is_to_go_there(tmp_path_factory, steps):
    """Two replicas, on one register: each has opened once what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("register")
    drivers = [FakeDriver(), FakeDriver()]
    handle, *_ = [driver.make(SIZE)[0] for driver in drivers]  # It is the same for both.
    replicas = [Memory(SharedMemory(cuda=True), Limits(), folder, Handles(each)) for each in drivers]
    registered: dict[str, int] = {}
    under_way: list[tuple[int, int, InferRequest]] = []
    for number, (verb, name, told) in enumerate(steps):
        match verb:
            case "register" if name and name not in registered:
                replicas[told].register(name, asked(handle), Kind.CUDA)
                registered[name] = number
            case "unregister":
                replicas[told].unregister(name, Kind.CUDA)
                registered = {key: each for key, each in registered.items() if name and key != name}
            case "ask" if name in registered:
                request = asking(8, name, answered=True)
                replicas[told].lend(request)
                under_way.append((told, registered[name], request))
                del request
            case "answer" if under_way:
                under_way.pop(0)
        for index, (replica, driver) in enumerate(zip(replicas, drivers, strict=True)):
            replica.open_all()
            wanted = {each for at, each, _ in under_way if at == index}
            assert driver.held == len(wanted.union(registered.values()))
    under_way.clear()
    for each in replicas:
        each.close()
    assert [each.held for each in drivers] == [0, 0]


def test_an_input_is_copied_once_when_the_request_arrives(memory, driver):
    handle, content = driver.make(SLOT_BYTES_MIN)
    content[:] = b"\1" * SLOT_BYTES_MIN
    memory.register("r", asked(handle, SLOT_BYTES_MIN), Kind.CUDA)
    small, *large = asking(8), asking(SLOT_BYTES_MIN), asking(SLOT_BYTES_MIN)
    for request in (small, *large):
        memory.lend(request)
    content[:] = bytes(SLOT_BYTES_MIN)
    assert small.payloads == [b"\1" * 8]
    assert side_by_side([each.payloads[0] for each in large]) == b"\1" * SLOT_BYTES_MIN * 2


def test_an_output_s_memory_stays_open_until_it_was_answered_wherever_it_is_let_go_of(memory, driver):
    handle, content = driver.make(SIZE)
    memory.register("r", asked(handle), Kind.CUDA)
    held: list[Any] = [memory._region("r")]
    memory.unregister("r", Kind.CUDA)
    assert driver.held == 1
    held[0].write(Window("r", 4, 2), memoryview(b"ab"))
    assert content[:8] == b"\0\0\0\0ab\0\0"
    thread = threading.Thread(target=held.clear, name="the last to hold it")
    thread.start()
    thread.join()
    gc.collect()
    assert driver.held == 0 and driver.closed_by == {"the last to hold it"}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"byte_size": 0}, r"1 byte or more - at `\$\.byte_size`"),
        ({"byte_size": SIZE + 1}, f"has {SIZE} bytes; {SIZE + 1} is more"),
        ({"byte_size": -1}, r"at `\$\.byte_size`"),
        ({"device_id": -1}, r"at `\$\.device_id`"),
        ({"device_id": None}, r"at `\$\.device_id`"),
        ({"raw_handle": None}, r"at `\$\.raw_handle`"),
        ({"raw_handle": {}}, r"at `\$\.raw_handle\.b64`"),
        ({"raw_handle": {"b64": "AAAA"}}, "a handle of 64 bytes"),
        ({"raw_handle": {"b64": "A" * 86 + "=="[:1]}}, "a handle of 64 bytes"),
        ({"raw_handle": {"b64": "ä" * 88}}, "a handle of 64 bytes"),
        (
            {"raw_handle": {"b64": base64.b64encode(b"x" * HANDLE_BYTES).decode()}},
            "cannot be opened: invalid",
        ),
    ],
)
def test_a_region_is_refused_that_is_not_wholly_there(memory, driver, said, why):
    handle, _ = driver.make(SIZE)
    with pytest.raises(Invalid, match=why):
        memory.register("r", {**asked(handle), **said}, Kind.CUDA)
    assert memory.status("", Kind.CUDA) == [] and driver.held == 0


def test_a_window_beyond_the_region_is_refused_though_the_memory_goes_on(memory, driver):
    handle, _ = driver.make(SIZE)
    memory.register("r", asked(handle, 32), Kind.CUDA)
    with pytest.raises(Invalid, match="region 'r' has 32 bytes"):
        memory.lend(asking(8, offset=25))
    memory.lend(asking(8, offset=24))


def test_a_driver_that_fails_fails_the_request_and_says_what_it_said(memory, driver, caplog):
    handle, _ = driver.make(SIZE)
    memory.register("r", asked(handle), Kind.CUDA)
    driver.broken = "the device is lost"
    with pytest.raises(Failed, match="region 'r' cannot be read: the device is lost"):
        memory.lend(asking(8))
    with pytest.raises(Failed, match="region 'r' cannot be written: the device is lost"):
        memory._region("r").write(Window("r", 0, 1), memoryview(b"a"))
    memory.unregister("", Kind.CUDA)  # What cannot be closed is logged.
    assert "event=region_not_closed region=r" in caplog.text


def test_the_two_kinds_share_names_and_bounds_and_nothing_else(driver, tmp_path):
    bounds = SharedMemory(enabled=True, cuda=True, regions_max=2, bytes_max=SIZE + 8)
    memory = Memory(bounds, Limits(), tmp_path, Handles(driver))
    path = Path("/dev/shm") / f"turnout-{tmp_path.name}-kinds"
    path.write_bytes(bytes(8))
    try:
        memory.register("a", {"key": f"/{path.name}", "byte_size": 8})
        handle, _ = driver.make(SIZE + 1)
        with pytest.raises(Invalid, match="'a' is registered already"):
            memory.register("a", asked(handle), Kind.CUDA)
        with pytest.raises(TooLarge, match=r"shared_memory\.bytes_max"):
            memory.register("b", asked(handle, SIZE + 1), Kind.CUDA)
        memory.register("b", asked(handle, SIZE, 3), Kind.CUDA)
        with pytest.raises(TooLarge, match=r"shared_memory\.regions_max"):
            memory.register("c", asked(handle, 1), Kind.CUDA)
        assert memory.status("", Kind.CUDA) == [{"name": "b", "device_id": 3, "byte_size": SIZE}]
        with pytest.raises(Unknown):
            memory.status("a", Kind.CUDA)
        memory.unregister("a", Kind.CUDA)
        memory.unregister("", Kind.CUDA)
        assert [each["name"] for each in memory.status("")] == ["a"]
    finally:
        path.unlink()
        memory.close()


def test_a_kind_that_is_not_offered_says_what_would_have_it(memory, tmp_path):
    with pytest.raises(Unsupported, match=r"system shared memory \(shared_memory\.enabled\)"):
        memory.register("r", {"key": "/turnout-x", "byte_size": 8})
    plain = Memory(SharedMemory(enabled=True), Limits(), tmp_path)
    assert memory.kinds == (Kind.CUDA,) and plain.kinds == (Kind.SYSTEM,)
    with pytest.raises(Unsupported, match=r"cuda shared memory \(shared_memory\.cuda, and a GPU"):
        plain.status("", Kind.CUDA)
    plain.close()


def test_it_is_off_by_default_and_off_with_a_word_where_there_is_no_gpu(monkeypatch, caplog):
    assert shared.handles(Config()) is None and not caplog.text
    monkeypatch.setattr(shared, "gpus", lambda: 0)
    assert shared.handles(parse({"shared_memory": {"cuda": True}})) is None
    assert "event=cuda_shared_memory_off" in caplog.text
