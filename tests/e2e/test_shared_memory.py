"""Do tensors come and go through shared memory as Triton's clients expect, whatever else is done to it?"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, serialize_byte_tensor
from tritonclient.utils import shared_memory as shm

from serving.shm.memory import Memory
from serving.slots import SLOT_BYTES_MIN
from tests.e2e.asking import NAMES
from tests.models import identity, place, spinning
from tests.running import Running

X = np.arange(8, dtype=np.float32).reshape(2, 4)
ENABLED = {
    "shared_memory": {"enabled": True, "regions_max": 8, "bytes_max": 1 << 20},
    "engine": {"inline_us_max": 0},  # Else nobody is told anything during a run.
}
PROTOCOLS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("shm")
    place(folder / "models", "echo", 1, identity("FP32"))
    place(folder / "models", "words", 1, identity("BYTES", ["N"]))
    place(folder / "models", "flags", 1, identity("BOOL", ["N"]))
    place(folder / "models", "long", 1, spinning())
    with Running(folder / "models", folder / "state", ENABLED) as running:
        yield running


@pytest.fixture(params=PROTOCOLS)
def module(request: pytest.FixtureRequest) -> Any:
    return PROTOCOLS[request.param]


@pytest.fixture
def client(running: Running, module: Any) -> Iterator[Any]:
    at = running.http if module is tritonclient.http else running.grpc
    with module.InferenceServerClient(at) as client:
        yield client
        client.unregister_system_shared_memory()


@pytest.fixture
def memory() -> Iterator[Any]:
    """Return what makes memory of a size, which is gone after the test."""
    with ExitStack() as stack:

        def make(name: str, size_bytes: int) -> Any:
            handle = shm.create_shared_memory_region(name, key(name), size_bytes, create_only=True)
            stack.callback(shm.destroy_shared_memory_region, handle)
            return handle

        yield make


def key(name: str) -> str:
    return f"/turnout-test-{os.getpid()}-{name}"


def file(name: str) -> Path:
    return Path("/dev/shm") / key(name)[1:]


def ask(module: Any, client: Any, model: str, array: Any, out: tuple[Any, ...] = (), **shared: Any) -> Any:
    """Infer with the input in region `given`, and the output put where `out` says."""
    kind = "BYTES" if array.dtype.kind in "OS" else NAMES[array.dtype]
    given = module.InferInput("x", list(array.shape), kind)
    size_bytes = array.nbytes if kind != "BYTES" else len(serialize_byte_tensor(array).item())
    given.set_shared_memory("in", shared.get("size", size_bytes), shared.get("offset", 0))
    wanted = module.InferRequestedOutput("y")
    if out:
        wanted.set_shared_memory(*out)
    return client.infer(model, [given], outputs=[wanted])


# --- What is promised.


def test_inputs_and_outputs_go_through_memory(module, client, memory):
    given, got = memory("in", 4096), memory("out", 4096)
    client.register_system_shared_memory("in", key("in"), 4096)
    client.register_system_shared_memory("out", key("out"), 2048, offset=1024)
    shm.set_shared_memory_region(given, [X], offset=64)
    answer = ask(module, client, "echo", X, ("out", 512, 16), offset=64)
    assert np.array_equal(shm.get_contents_as_numpy(got, np.float32, [2, 4], offset=1024 + 16), X)
    output = answer.get_output("y")
    if module is tritonclient.http:
        assert "data" not in output
        assert output["parameters"] == {
            "shared_memory_region": "out", "shared_memory_offset": 16, "shared_memory_byte_size": 512,
        }  # fmt: skip
    else:
        assert output.parameters["shared_memory_region"].string_param == "out"
        assert list(answer.get_response().raw_output_contents) == [b""]
    assert np.array_equal(ask(module, client, "echo", X, offset=64).as_numpy("y"), X)


@pytest.mark.parametrize(
    ("model", "array"),
    [
        ("words", np.array([b"", "größer".encode(), b"c" * 300], np.object_)),
        ("flags", np.array([True, False])),
    ],
)
def test_strings_and_booleans_go_through_memory(module, client, memory, model, array):
    given, got = memory("in", 4096), memory("out", 4096)
    for name in ("in", "out"):
        client.register_system_shared_memory(name, key(name), 4096)
    content = serialize_byte_tensor(array) if array.dtype == np.object_ else array
    shm.set_shared_memory_region(given, [content])
    ask(module, client, model, array, ("out", 4096))
    read = shm.get_contents_as_numpy(got, array.dtype, array.shape)
    assert read.tolist() == array.tolist()


def test_status_says_what_is_registered(module, client, memory):
    memory("in", 128)
    client.register_system_shared_memory("a", key("in"), 64)
    client.register_system_shared_memory("b", key("in"), 32, offset=96)
    said = status(client)
    assert said == {"a": (key("in"), 0, 64), "b": (key("in"), 96, 32)}
    assert status(client, "b") == {"b": said["b"]}
    client.unregister_system_shared_memory("a")
    assert status(client) == {"b": said["b"]}
    client.unregister_system_shared_memory("a")  # As in Triton, it need not be there.
    client.unregister_system_shared_memory()
    assert status(client) == {}
    with pytest.raises(InferenceServerException, match="no region 'a' is registered"):
        client.get_system_shared_memory_status("a")


def status(client: Any, name: str = "") -> dict[str, tuple[str, int, int]]:
    said = client.get_system_shared_memory_status(name)
    if isinstance(said, list):
        return {each["name"]: (each["key"], each["offset"], each["byte_size"]) for each in said}
    return {name: (each.key, each.offset, each.byte_size) for name, each in said.regions.items()}


def test_the_extension_is_listed_where_it_is_offered(client):
    about = client.get_server_metadata()
    listed = about["extensions"] if isinstance(about, dict) else about.extensions
    assert "system_shared_memory" in listed and "cuda_shared_memory" not in listed
    with pytest.raises(InferenceServerException, match="does not offer cuda shared memory"):
        client.get_cuda_shared_memory_status()


def test_requests_with_and_without_memory_share_a_batch_and_a_connection(module, client, memory):
    shm.set_shared_memory_region(memory("in", 64), [X])
    client.register_system_shared_memory("in", key("in"), 64)
    plain = module.InferInput("x", [2, 4], "FP32")
    plain.set_data_from_numpy(X + 1)
    for _ in range(3):
        assert np.array_equal(ask(module, client, "echo", X).as_numpy("y"), X)
        assert np.array_equal(client.infer("echo", [plain]).as_numpy("y"), X + 1)


def test_a_stream_has_memory_too(running, memory):
    x, got = memory("in", 32), memory("out", 32)
    answers: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(running.grpc) as client:
        for name in ("in", "out"):
            client.register_system_shared_memory(name, key(name), 32)
        shm.set_shared_memory_region(x, [X])
        client.start_stream(lambda result, error: answers.put(error or result))
        given = tritonclient.grpc.InferInput("x", [2, 4], "FP32")
        given.set_shared_memory("in", 32)
        wanted = tritonclient.grpc.InferRequestedOutput("y")
        wanted.set_shared_memory("out", 32)
        client.async_stream_infer("echo", [given], outputs=[wanted])
        assert not isinstance(answers.get(timeout=10), Exception)
        client.stop_stream()
        client.unregister_system_shared_memory()
    assert np.array_equal(shm.get_contents_as_numpy(got, np.float32, [2, 4]), X)


# --- What is refused.


@pytest.mark.parametrize(
    ("name", "asked", "offset", "size_bytes", "why"),
    [
        ("r", "/dev/shm/turnout-x", 0, 8, "begins with /turnout-"),
        ("r", "/other", 0, 8, "begins with /turnout-"),
        ("r", "/turnout-", 0, 8, "begins with /turnout-"),
        ("r", "/turnout-../../etc/passwd", 0, 8, "one name"),
        ("r", "/turnout-nothing-there", 0, 8, "No such file"),
        ("r", "HERE", 0, 0, "1 byte or more"),
        ("r", "HERE", 0, 65, "has 64 bytes; 65 from 0 on is more"),
        ("r", "HERE", 2**62, 2**62, "has 64 bytes"),
        ("r", "HERE", 2**64 - 1, 64, "a whole number"),
        ("r", "HERE", 0, 2**63, "a whole number"),
        ("-r", "HERE", 0, 8, "a region's name is"),
        ("r" * 129, "HERE", 0, 8, "a region's name is"),
    ],
)
def test_a_region_is_refused_that_is_not_wholly_there(client, memory, name, asked, offset, size_bytes, why):
    memory("here", 64)
    asked = key("here") if asked == "HERE" else asked
    with pytest.raises(InferenceServerException, match=why):
        client.register_system_shared_memory(name, asked, size_bytes, offset=offset)
    assert status(client) == {}


def test_no_link_folder_or_pipe_is_ever_opened_in_its_place(client, memory, tmp_path):
    memory("here", 64)
    paths = {name: file(name) for name in ("link", "hard", "folder", "pipe")}
    (tmp_path / "secret").write_bytes(b"x" * 64)
    try:
        paths["link"].symlink_to(tmp_path / "secret")
        paths["hard"].hardlink_to(file("here"))
        paths["folder"].mkdir()
        os.mkfifo(paths["pipe"])
        for name, why in {
            "link": "symbolic link",
            "hard": "hard links",
            "folder": "folder",
            "pipe": "pipe",
        }.items():
            with pytest.raises(InferenceServerException, match=why):
                client.register_system_shared_memory("r", key(name), 8)
    finally:
        paths["folder"].rmdir()
        for name in ("link", "hard", "pipe"):
            paths[name].unlink(missing_ok=True)


def test_memory_of_another_user_is_refused(client, memory):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    memory("here", 64)
    os.chown(file("here"), 65534, -1)
    with pytest.raises(InferenceServerException, match="another user"):
        client.register_system_shared_memory("r", key("here"), 8)


def test_names_and_bytes_have_bounds(client, memory):
    memory("here", 1 << 20)
    client.register_system_shared_memory("r0", key("here"), 8)
    with pytest.raises(InferenceServerException, match="registered already"):
        client.register_system_shared_memory("r0", key("here"), 8)
    with pytest.raises(InferenceServerException, match="shared_memory.bytes_max"):
        client.register_system_shared_memory("r1", key("here"), 1 << 20)
    for number in range(1, 8):
        client.register_system_shared_memory(f"r{number}", key("here"), 8)
    with pytest.raises(InferenceServerException, match="shared_memory.regions_max"):
        client.register_system_shared_memory("r8", key("here"), 8)


@pytest.mark.parametrize(
    ("shared", "out", "why"),
    [
        ({"size": 31}, (), "takes 32 bytes, got 31"),
        ({"offset": 33}, (), "region 'in' has 64 bytes"),
        ({"offset": 2**62}, (), "region 'in' has 64 bytes"),
        ({}, ("in", 64, 1), "region 'in' has 64 bytes"),
        ({}, ("nobody", 64), "no region 'nobody' is registered"),
        ({}, ("in", 31), "output 'y' takes 32 bytes; shared_memory_byte_size has room for 31"),
    ],
)
def test_a_window_is_refused_that_is_not_within_its_region(module, client, memory, shared, out, why):
    shm.set_shared_memory_region(memory("in", 64), [X])
    client.register_system_shared_memory("in", key("in"), 64)
    with pytest.raises(InferenceServerException, match=why):
        ask(module, client, "echo", X, out, **shared)
    assert np.array_equal(ask(module, client, "echo", X).as_numpy("y"), X)


def test_strings_and_booleans_in_memory_are_checked_as_those_that_are_sent(module, client, memory):
    given = memory("in", 64)
    client.register_system_shared_memory("in", key("in"), 64)
    shm.set_shared_memory_region(given, [np.full(8, 255, np.uint8)])
    with pytest.raises(InferenceServerException, match="element 0 says 4294967295 bytes"):
        ask(module, client, "words", np.array([b"abcd"], np.object_))
    with pytest.raises(InferenceServerException, match="a byte of 0 or 1, got 255"):
        ask(module, client, "flags", np.array([True, True]))


# --- What others do to the memory meanwhile.


def test_memory_that_is_cut_short_is_an_error_and_not_the_end_of_the_server(module, client, memory):
    shm.set_shared_memory_region(memory("in", 64), [X])
    memory("out", 8192)
    client.register_system_shared_memory("in", key("in"), 64)
    client.register_system_shared_memory("out", key("out"), 8192)
    os.truncate(file("out"), 4000)
    with pytest.raises(InferenceServerException, match="'out' was cut short"):
        ask(module, client, "echo", X, ("out", 4096, 4096))
    assert file("out").stat().st_size == 4000
    os.truncate(file("in"), 31)
    with pytest.raises(InferenceServerException, match="'in' was cut short"):
        ask(module, client, "echo", X)
    os.truncate(file("in"), 64)
    assert ask(module, client, "echo", X).as_numpy("y").shape == (2, 4)


def test_memory_that_is_cut_short_again_and_again_ends_nobody(module, client, memory):
    large = np.zeros((64, 1024), np.float32)
    for name in ("in", "out"):
        memory(name, large.nbytes)
        client.register_system_shared_memory(name, key(name), large.nbytes)
    over = threading.Event()

    def cut() -> None:
        while not over.is_set():
            for name in ("in", "out"):
                os.truncate(file(name), 0)
                os.truncate(file(name), large.nbytes)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        for _ in range(100):
            with contextlib.suppress(InferenceServerException):
                ask(module, client, "echo", large, ("out", large.nbytes))
    finally:
        over.set()
        thread.join()
    assert client.is_server_live()


def test_memory_whose_name_is_gone_serves_on(module, client, memory):
    handle = memory("in", 64)
    shm.set_shared_memory_region(handle, [X])
    client.register_system_shared_memory("in", key("in"), 64)
    file("in").rename(file("moved"))
    try:
        assert np.array_equal(ask(module, client, "echo", X).as_numpy("y"), X)
    finally:
        file("moved").rename(file("in"))


def test_a_region_that_is_unregistered_during_a_run_still_gets_its_output(running, module, client, memory):
    rounds = np.full((1, 4), 100_000, np.float32)
    shm.set_shared_memory_region(memory("in", 16), [rounds])
    got = memory("out", 16)
    for name in ("in", "out"):
        client.register_system_shared_memory(name, key(name), 16)
    done: list[Any] = []

    def ask_elsewhere() -> None:
        with module.InferenceServerClient(
            running.http if module is tritonclient.http else running.grpc
        ) as own:
            done.append(ask(module, own, "long", rounds, ("out", 16)))

    thread = threading.Thread(target=ask_elsewhere)
    thread.start()
    lane = running.gateway.shelf.loaded.servables["long"]["1"].lane
    while not len(lane) and thread.is_alive():
        time.sleep(0.001)
    client.unregister_system_shared_memory()
    assert not done
    thread.join(30)
    assert done and np.array_equal(shm.get_contents_as_numpy(got, np.float32, [1, 4]), rounds)
    with pytest.raises(InferenceServerException, match="no region 'in' is registered"):
        ask(module, client, "long", rounds)


# --- Several replicas.


def test_what_one_replica_was_told_holds_for_the_others_at_once(running, module, client, memory, monkeypatch):
    """The second replica is another `Memory` on the same folder, put in the first one's place."""
    told = running.gateway.memory
    other = Memory(running.config.shared_memory, running.config.limits, told._register._path.parent)
    shm.set_shared_memory_region(memory("in", 64), [X])
    client.register_system_shared_memory("in", key("in"), 64)
    monkeypatch.setattr(running.gateway, "memory", other)
    assert np.array_equal(ask(module, client, "echo", X).as_numpy("y"), X)
    client.unregister_system_shared_memory("in")
    monkeypatch.setattr(running.gateway, "memory", told)
    with pytest.raises(InferenceServerException, match="no region 'in' is registered"):
        ask(module, client, "echo", X)
    other.close()


# --- Under load.


def test_large_inputs_of_many_clients_share_runs_and_none_sees_another_s(memory, tmp_path):
    place(tmp_path / "models", "echo", 1, identity("FP32"))
    enabled = {"shared_memory": {"enabled": True}}
    size, clients, times = SLOT_BYTES_MIN, 6, 30
    with Running(tmp_path / "models", tmp_path / "state", enabled) as running:
        handles = [memory(name, clients * size) for name in ("in", "out")]
        with tritonclient.http.InferenceServerClient(running.http) as first:
            for name in ("in", "out"):
                first.register_system_shared_memory(name, key(name), clients * size)
        wrong: list[str] = []

        def ask_often(number: int) -> None:
            module = (tritonclient.http, tritonclient.grpc)[number % 2]
            at = {"offset": number * size}
            with module.InferenceServerClient((running.http, running.grpc)[number % 2]) as client:
                for turn in range(times):
                    x = np.full((1, size // 4), turn * clients + number, np.float32)
                    shm.set_shared_memory_region(handles[0], [x], **at)
                    ask(module, client, "echo", x, ("out", size, number * size), **at)
                    if not np.array_equal(
                        shm.get_contents_as_numpy(handles[1], np.float32, x.shape, **at), x
                    ):
                        wrong.append(f"client {number}, turn {turn}")

        threads = [threading.Thread(target=ask_often, args=(number,)) for number in range(clients)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert not wrong
        with tritonclient.http.InferenceServerClient(running.http) as client:
            (counted,) = client.get_inference_statistics("echo")["model_stats"]
        assert counted["inference_count"] == clients * times
