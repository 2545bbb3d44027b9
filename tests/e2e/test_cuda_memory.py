"""Do tensors come and go through memory on a GPU as Triton's clients expect, with a driver that is made up?

tests/gpu/ has the same with a real one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from serving.gpu.shared import Handles
from serving.shm.memory import Memory
from tests.e2e.talking_rpc import ENGINES
from tests.gpus import FakeDriver
from tests.models import identity, place
from tests.running import Running

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module", params=ENGINES)
def running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("cuda")
    place(folder / "models", "echo", 1, identity("FP32"))
    settings = {"grpc": {"engine": request.param}}
    with Running(folder / "models", folder / "state", settings) as running:
        yield running


@pytest.fixture
def driver(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """Return the driver of a GPU that the gateway believes in during the test."""
    driver = FakeDriver()
    config = running.config
    memory = Memory(config.shared_memory, config.limits, tmp_path, Handles(driver))
    monkeypatch.setattr(running.gateway, "memory", memory)
    yield driver
    memory.close()


@pytest.fixture(params=[tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(running: Running, module: Any) -> Iterator[Any]:
    with module.InferenceServerClient(
        running.http if module is tritonclient.http else running.grpc
    ) as client:
        yield client


def register(client: Any, driver: FakeDriver, name: str, size_bytes: int) -> bytearray:
    handle, memory = driver.make(size_bytes)
    client.register_cuda_shared_memory(name, base64.b64encode(handle), 0, size_bytes)
    return memory


def status(client: Any, name: str = "") -> dict[str, tuple[int, int]]:
    said = client.get_cuda_shared_memory_status(name)
    if isinstance(said, list):
        return {each["name"]: (each["device_id"], each["byte_size"]) for each in said}
    return {name: (each.device_id, each.byte_size) for name, each in said.regions.items()}


def ask(module: Any, client: Any, array: Any, out: tuple[Any, ...] = ()) -> Any:
    given = module.InferInput("x", list(array.shape), "FP32")
    given.set_shared_memory("in", array.nbytes, 16)
    wanted = module.InferRequestedOutput("y")
    if out:
        wanted.set_shared_memory(*out)
    return client.infer("echo", [given], outputs=[wanted])


def test_inputs_and_outputs_go_through_a_gpu_s_memory(module, client, driver):
    given, got = register(client, driver, "in", 64), register(client, driver, "out", 64)
    given[16:48] = X.tobytes()
    answer = ask(module, client, X, ("out", 40, 8))
    assert got == bytes(8) + X.tobytes() + bytes(24)
    output = answer.get_output("y")
    if module is tritonclient.http:
        assert "data" not in output
        assert output["parameters"]["shared_memory_region"] == "out"
    else:
        assert list(answer.get_response().raw_output_contents) == [b""]
    assert np.array_equal(ask(module, client, X).as_numpy("y"), X)
    client.unregister_cuda_shared_memory()
    until_s = monotonic() + 30
    while driver.held and monotonic() < until_s:  # A request may be let go of after its answer.
        sleep(0.001)
    assert driver.held == 0


def test_status_says_what_is_registered(client, driver):
    register(client, driver, "in", 64)
    register(client, driver, "out", 32)
    assert status(client) == {"in": (0, 64), "out": (0, 32)}
    assert status(client, "out") == {"out": (0, 32)}
    client.unregister_cuda_shared_memory("in")
    client.unregister_cuda_shared_memory("in")  # As in Triton, it need not be there.
    with pytest.raises(InferenceServerException, match="no region 'in' is registered"):
        client.get_cuda_shared_memory_status("in")
    client.unregister_cuda_shared_memory()
    assert status(client) == {}


def test_what_is_wrong_is_said_in_the_same_words_by_both_protocols(module, client, driver):
    handle, _ = driver.make(64)
    for raw, size_bytes, why in (
        (base64.b64encode(handle), 65, "has 64 bytes; 65 is more"),
        (base64.b64encode(b"?" * 64), 64, "cannot be opened: invalid argument"),
        (base64.b64encode(b"?" * 63), 64, "a handle of 64 bytes in base64"),
    ):
        with pytest.raises(InferenceServerException, match=why):
            client.register_cuda_shared_memory("in", raw, 0, size_bytes)
    register(client, driver, "in", 40)
    with pytest.raises(InferenceServerException, match="region 'in' has 40 bytes"):
        ask(module, client, X)
    with pytest.raises(InferenceServerException, match="does not offer system shared memory"):
        client.register_system_shared_memory("r", "/turnout-x", 8)


def test_a_gpu_that_is_lost_fails_the_request_and_not_the_server(module, client, driver):
    register(client, driver, "in", 64)
    driver.broken = "the device is lost"
    with pytest.raises(InferenceServerException, match="region 'in' cannot be read: the device is lost"):
        ask(module, client, X)
    driver.broken = ""
    assert np.array_equal(ask(module, client, X).as_numpy("y"), np.zeros_like(X))


def test_an_output_that_cannot_be_written_fails_its_own_request_alone(module, client, driver):
    for name in ("in", "out"):
        register(client, driver, name, 64)
    (driver.unwritable,) = list(driver.opened)[1:]
    with pytest.raises(InferenceServerException, match="region 'out' cannot be written: the memory is gone"):
        ask(module, client, X, ("out", 40))
    assert np.array_equal(ask(module, client, X).as_numpy("y"), np.zeros_like(X))


def test_the_extension_is_listed_just_where_it_is_offered(client, driver, monkeypatch, running):
    def listed() -> list[str]:
        about = client.get_server_metadata()
        return list(about["extensions"] if isinstance(about, dict) else about.extensions)

    assert "cuda_shared_memory" in listed() and "system_shared_memory" not in listed()
    monkeypatch.setattr(running.gateway, "memory", None)
    assert "cuda_shared_memory" not in listed()
    with pytest.raises(
        InferenceServerException, match=r"does not offer cuda shared memory \(shared_memory\.cuda"
    ):
        client.get_cuda_shared_memory_status()
