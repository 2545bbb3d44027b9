"""Does a version on a real GPU answer as on the CPU, captured or not, and is it never anywhere else?"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.http
from onnx import TensorProto, helper

from tests.gpus import NEEDS_GPU
from tests.models import heavy, identity, mlp, place
from tests.running import Running

pytestmark = [pytest.mark.gpu, NEEDS_GPU]

ROWS_MAX = 11
"""No power of two: the largest batches are a size of their own."""
CAPTURED = f"max_batch_size: {ROWS_MAX} optimization {{ cuda {{ graphs: true }} }}"
PLAIN = f"max_batch_size: {ROWS_MAX} optimization {{ cuda {{ graphs: false }} }}"
ALIKE = {"rtol": 2e-2, "atol": 2e-2}
"""TF32 has 10 bits of mantissa."""


def determinant() -> onnx.ModelProto:
    """Return x [N, 2, 2] in, the determinants [N] out, for which ONNX Runtime has nothing on a GPU."""
    node = helper.make_node("Det", ["x"], ["y"], name="the determinant")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph([node], "determinant", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def ask(running: Running, model: str, x: np.ndarray[Any, Any]) -> Any:
    with tritonclient.http.InferenceServerClient(running.http) as client:
        given = tritonclient.http.InferInput("x", list(x.shape), {"f": "FP32", "e": "FP16"}[x.dtype.char])
        given.set_data_from_numpy(x)
        return client.infer(model, [given]).as_numpy("y")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("versions") / "models"
    for name, config in (("captured", CAPTURED), ("plain", PLAIN)):
        place(folder, name, 1, mlp(width=256), f'name: "{name}" {config}')
    place(folder, "own", 1, mlp(width=256))  # Completed: batches and graphs are found out.
    place(folder, "half", 1, identity("FP16", ("N", 5)))
    place(
        folder, "open", 1, identity("FP32", ("N", "M"))
    )  # Rows differ in size: no buffers can be there before.
    return folder


@pytest.fixture(scope="module")
def on_cpu(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"engine": {"device": "cpu"}}
    with Running(repository, tmp_path_factory.mktemp("cpu"), settings) as running:
        yield running


@pytest.fixture(scope="module")
def on_gpu(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"engine": {"device": "gpu", "inline_us_max": 0}}  # They are short enough for the event loop.
    with Running(repository, tmp_path_factory.mktemp("gpu"), settings) as running:
        yield running


@pytest.mark.parametrize("model", ["captured", "plain", "own"])
def test_every_number_of_rows_is_answered_as_on_the_cpu(on_cpu, on_gpu, model):
    rng = np.random.default_rng(5)
    for rows in range(1, ROWS_MAX + 1):
        x = rng.standard_normal((rows, 16)).astype(np.float32)
        np.testing.assert_allclose(ask(on_gpu, model, x), ask(on_cpu, model, x), **ALIKE)


def test_versions_are_on_the_gpu_with_buffers_of_their_own_where_their_rows_are_alike(on_gpu):
    devices = {name: each["1"].device for name, each in on_gpu.gateway.shelf.loaded.servables.items()}
    assert {name for name, device in devices.items() if device is None} == {"open"}
    assert all("cuda:0" in each["1"].memory for each in on_gpu.gateway.shelf.loaded.servables.values())


def test_many_callers_at_once_get_each_their_own_answer(on_gpu, on_cpu):
    rng = np.random.default_rng(6)
    asked = [rng.standard_normal((1 + number % 3, 16)).astype(np.float32) for number in range(120)]
    expected = [ask(on_cpu, "plain", x) for x in asked]
    with ThreadPoolExecutor(12) as pool:
        for model in ("captured", "plain"):
            got = pool.map(lambda x, model=model: ask(on_gpu, model, x), asked)
            for said, right in zip(got, expected, strict=True):
                np.testing.assert_allclose(said, right, **ALIKE)


def test_every_bit_comes_back_that_nothing_computes_with(on_gpu):
    x = np.random.default_rng(7).standard_normal((4, 5)).astype(np.float16)
    assert np.array_equal(ask(on_gpu, "half", x), x)
    for width in (1, 3, 1000):
        y = np.random.default_rng(8).standard_normal((2, width)).astype(np.float32)
        assert np.array_equal(ask(on_gpu, "open", y), y)


def test_a_version_that_would_run_on_the_cpu_is_refused_and_its_node_named(tmp_path):
    place(tmp_path / "models", "det", 1, determinant())
    place(tmp_path / "models", "plain", 1, mlp())
    with Running(tmp_path / "models", tmp_path / "state", {"engine": {"device": "gpu"}}) as running:
        state, reason = running.index()["det", "1"]
        assert state == "UNAVAILABLE"
        assert "would run on the CPU: Det ('the determinant')" in reason and "gpu.allow_cpu" in reason
        assert running.index()["plain", "1"][0] == "READY"


def test_a_version_may_run_on_the_cpu_where_that_is_allowed(tmp_path):
    place(tmp_path / "models", "det", 1, determinant())
    settings = {"engine": {"device": "gpu", "inline_us_max": 0}, "gpu": {"allow_cpu": True}}
    with Running(tmp_path / "models", tmp_path / "state", settings) as running:
        for factor in (1, 2):  # Its input is the CPU's: bound to a buffer it would stay what it was at first.
            x = factor * np.array([[[1, 2], [3, 4]]], np.float32)
            np.testing.assert_allclose(ask(running, "det", x), [-2 * factor**2])


def test_a_provider_that_does_not_start_is_an_error_that_names_it(tmp_path):
    tensorrt = pytest.importorskip("onnxruntime").get_available_providers()
    place(tmp_path / "models", "m", 1, mlp(), 'name: "m" max_batch_size: 4')
    settings = {"engine": {"device": "gpu"}, "gpu": {"providers": ["tensorrt", "cuda"]}}
    with Running(tmp_path / "models", tmp_path / "state", settings) as running:
        state, reason = running.index()["m", "1"]
        if state == "READY":
            assert "TensorrtExecutionProvider" in tensorrt
            np.testing.assert_allclose(ask(running, "m", np.zeros((1, 16), np.float32)).shape, (1, 2))
        else:
            assert "TensorrtExecutionProvider" in reason and "did not start" in reason


def test_a_version_that_would_not_fit_is_refused_before_it_starts(tmp_path):
    place(tmp_path / "models", "large", 1, heavy(50))
    settings = {"engine": {"device": "gpu"}, "gpu": {"spare_bytes": 1 << 40}}  # More than any GPU has.
    with Running(tmp_path / "models", tmp_path / "state", settings) as running:
        state, reason = running.index()["large", "1"]
        assert state == "UNAVAILABLE" and "GPU 0: it needs about" in reason and "gpu.spare_bytes" in reason
