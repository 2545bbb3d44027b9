"""Is the next batch copied to a real GPU while one runs, and is nothing mixed up by that?"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.config import parse
from serving.gpu.bound import BoundAccelerator
from serving.gpu.cuda import accelerate
from serving.gpu.providers import open_on_gpu, wanted
from serving.model import Artifact, ModelConfig
from serving.signature import complete, signature
from tests.bound import batch
from tests.gpus import NEEDS_GPU

pytestmark = [pytest.mark.gpu, NEEDS_GPU]

WIDTH, LAYERS, ROWS_MAX = 4096, 24, 2048
"""Some 1.6 TFLOP a batch, in full FP32: ten milliseconds and more, where copies of its rows take one or a few."""
SETTINGS = parse({"gpu": {"tf32": False}})


def long() -> onnx.ModelProto:
    """Return x [N, WIDTH] in, and x again out after `LAYERS` products with the identity."""
    names = ["x", *[f"h{number}" for number in range(1, LAYERS)], "y"]
    nodes = [helper.make_node("MatMul", [names[at], "I"], [names[at + 1]]) for at in range(LAYERS)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in ("x", "y"))
    weights = [numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "I")]
    graph = helper.make_graph(nodes, "long", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "captured"])
def accelerator(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    import onnxruntime as ort

    path = tmp_path_factory.mktemp("overlap") / "model.onnx"
    onnx.save(long(), path)
    config = ModelConfig("long", rows_max=ROWS_MAX, graphs=request.param)
    session = open_on_gpu(str(path), ort.SessionOptions(), wanted(config, SETTINGS))
    artifact = Artifact("long", 1, "0" * 64, Path(path), path.stat().st_size)
    made = accelerate(session, complete(artifact, config, *signature(session)), SETTINGS)
    assert isinstance(made, BoundAccelerator) and made._graphs is request.param
    yield made
    made.close()


def rows(number: int) -> Any:
    """Return small whole numbers, which any product keeps."""
    return np.random.default_rng(number).integers(-8, 8, (ROWS_MAX, WIDTH)).astype(np.float32)


def test_a_batch_is_on_the_device_before_the_one_that_runs_is_done(accelerator):
    """An order of two ends and no time: that of the copies, and that of a run which began before them."""
    side = accelerator._side
    running, next_ = accelerator.slot(), accelerator.slot()
    batch(accelerator, running, x=rows(0))  # What a first run has to do is done.
    done = threading.Event()

    def wait() -> None:
        side.wait(running.done)
        done.set()

    for _ in range(5):
        done.clear()
        running.inputs["x"][:], next_.inputs["x"][:] = rows(1), rows(2)
        accelerator.stage(running, ROWS_MAX)
        side.wait(running.staged)
        for _ in range(4):  # The same batch again and again: a long time for one copy.
            accelerator.launch(running, ROWS_MAX)
        waiting = threading.Thread(target=wait)
        waiting.start()
        accelerator.stage(next_, ROWS_MAX)
        side.wait(next_.staged)
        early = not done.is_set()
        accelerator.launch(next_, ROWS_MAX)
        assert np.array_equal(accelerator.wait(running, ROWS_MAX)[0], rows(1))
        assert np.array_equal(accelerator.wait(next_, ROWS_MAX)[0], rows(2))
        waiting.join(60)
        if early:
            return
    pytest.fail("the next batch was never there before the one that ran was done")


def test_batches_that_follow_each_other_through_three_slots_are_not_mixed_up(accelerator):
    slots = [accelerator.slot() for _ in range(3)]
    rng = np.random.default_rng(9)
    sizes = rng.integers(1, ROWS_MAX, 30).tolist()
    given: list[Any] = [None] * 3
    for number, size in enumerate(sizes):
        slot = slots[number % 3]
        if given[number % 3] is not None:
            before = given[number % 3]
            assert np.array_equal(accelerator.wait(slot, len(before))[0], before)
        x = given[number % 3] = rows(number)[:size]
        slot.inputs["x"][:size] = x
        accelerator.stage(slot, size)
        accelerator.launch(slot, size)
    for number in range(3):
        x = given[number]
        assert np.array_equal(accelerator.wait(slots[number], len(x))[0], x)
