"""Does a session give what the model gives, stop when it is told to, and say what failed without our paths?"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.device import gpus
from serving.errors import Expired, Invalid
from serving.model import Device
from serving.session import Session, Stop, open_onnx, reason
from serving.signature import signature
from serving.wire import DATATYPES
from tests import models


def opened(folder: Path, proto: onnx.ModelProto, threads: int = 1, graph_level: int | None = None) -> Session:
    path = folder / "model.onnx"
    onnx.save(proto, path)
    made = open_onnx(str(path), Device.CPU, threads, graph_level)
    return Session(made, *signature(made))


SAMPLES = {
    "BOOL": [True, False],
    "BYTES": ["", "ü", "a\0b"],
    "BF16": [1.0, -0.0, float("nan"), float("inf"), 3.140625],
    "FP16": [1.0, float("nan"), 65504.0],
}


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_passes_through_unchanged(tmp_path, datatype):
    dtype = DATATYPES[datatype].dtype
    x = np.array([SAMPLES.get(datatype, [0, 1, 7])], dtype)
    (y,) = opened(tmp_path, models.identity(datatype)).run({"x": x}, Stop())
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert y.tolist() == x.tolist() if datatype == "BYTES" else y.tobytes() == x.tobytes()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
@pytest.mark.parametrize("datatype", ["FP32", "BF16", "BYTES"])
def test_tensors_without_elements_pass_through(tmp_path, datatype, shape):
    (y,) = opened(tmp_path, models.identity(datatype)).run(
        {"x": np.empty(shape, DATATYPES[datatype].dtype)}, Stop()
    )
    assert y.shape == shape


def test_bf16_is_computed_with_and_not_only_passed_on(tmp_path):
    x = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    ends = [
        helper.make_tensor_value_info(n, k, ["N", 2])
        for n, k in (("x", TensorProto.BFLOAT16), ("y", TensorProto.FLOAT))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert opened(tmp_path, proto).run({"x": x}, Stop())[0].tolist() == [[1.5, -2.0]]


def test_the_outputs_come_in_the_order_of_the_signature_that_is_served(tmp_path):
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Neg", ["x"], ["negated"])]
    ends = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in ("x", "same", "negated")}
    graph = helper.make_graph(nodes, "g", [ends["x"]], [ends["same"], ends["negated"]])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    made = open_onnx(str(path), Device.CPU, 1)
    inputs, outputs = signature(made)
    turned = Session(made, inputs, outputs[::-1]).run({"x": np.ones(1, np.float32)}, Stop())
    assert [y.tolist() for y in turned] == [[-1], [1]]


def test_a_run_without_an_end_ends_when_another_thread_says_so(tmp_path):
    session, stop = opened(tmp_path, models.spinning()), Stop()
    threading.Timer(0.1, stop.now).start()
    began_s = time.perf_counter()
    with pytest.raises(Expired):
        session.run({"x": np.full((1, 4), 1e18, np.float32)}, stop)
    assert 0.05 < time.perf_counter() - began_s < 10
    assert session.run({"x": np.ones((1, 4), np.float32)}, Stop())[0].tolist() == [[1] * 4]


def test_a_stop_that_came_before_the_run_still_counts(tmp_path):
    session, stop = opened(tmp_path, models.mlp()), Stop()
    stop.now()
    stop.now()
    with pytest.raises(Expired):
        session.run({"x": np.zeros((1, 16), np.float32)}, stop)


def test_a_stop_ends_one_run_and_not_the_one_beside_it(tmp_path):
    session, stop, ended = opened(tmp_path, models.spinning()), Stop(), threading.Event()

    def endless() -> None:
        with pytest.raises(Expired):
            session.run({"x": np.full((1, 4), 1e18, np.float32)}, stop)
        ended.set()

    threading.Thread(target=endless).start()
    assert session.run({"x": np.full((1, 4), 3, np.float32)}, Stop())[0].tolist() == [[3] * 4]
    stop.now()
    assert ended.wait(10)


def fails_at_one() -> onnx.ModelProto:
    """Return a model that looks up x in a table of one row."""
    table = numpy_helper.from_array(np.zeros((1, 2), np.float32), "table")
    ends = [
        helper.make_tensor_value_info("x", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2]),
    ]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])], "g", ends[:1], ends[1:], [table]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_model_that_fails_says_why_and_can_be_asked_again(tmp_path):
    session = opened(tmp_path, fails_at_one())
    with pytest.raises(
        Invalid, match="the model refuses these values: .*indices element out of data"
    ) as caught:
        session.run({"x": np.array([5])}, Stop())
    assert "/" not in str(caught.value).replace("[-1,0]", "")
    assert session.run({"x": np.array([0])}, Stop())[0].tolist() == [[0, 0]]


def test_a_reason_has_neither_our_paths_nor_their_source_files_and_is_bounded():
    path = Path("/srv/state/objects/abc/model.onnx")
    told = (
        f"[E] Load model from {path} failed: /onnxruntime/core/graph/model.cc:12 {path.parent}/w.bin is short "
        + "x" * 999
    )
    text = reason(RuntimeError(told), path)
    assert text.startswith("[E] Load model from model.onnx failed: w.bin is short x")
    assert len(text) <= 300
    assert reason(RuntimeError()) == "RuntimeError"


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_a_gpu_session_never_becomes_a_cpu_session_in_silence(tmp_path):
    onnx.save(models.mlp(), tmp_path / "model.onnx")
    with pytest.raises(Exception, match="CUDA|cuda|libcu"):
        open_onnx(str(tmp_path / "model.onnx"), Device.GPU, 1)


@pytest.mark.parametrize("graph_level", [-1, 0, 1])
def test_each_level_of_optimisation_gives_the_same_answer(tmp_path, graph_level):
    x = np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 16)
    plain = opened(tmp_path, models.mlp()).run({"x": x}, Stop())[0]
    np.testing.assert_allclose(
        opened(tmp_path, models.mlp(), graph_level=graph_level).run({"x": x}, Stop())[0], plain, rtol=1e-5
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_threads_of_a_model_do_not_spin(tmp_path):
    """They would take the event loop's core."""
    session = opened(tmp_path, models.heavy(4), threads=2)
    session.run({"x": np.zeros((8, 16), np.float32)}, Stop())
    time.sleep(0.05)
    before = sum(os.times()[:2])
    time.sleep(0.3)
    assert sum(os.times()[:2]) - before < 0.15
