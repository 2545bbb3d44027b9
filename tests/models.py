"""ONNX models made for tests: each does one thing that a test wants to see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str]
ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}


def place(repository: Path, model: str, version: int, proto: onnx.ModelProto, config: str = "") -> Path:
    """Put a model into a repository, as Triton lays it out, and return its folder."""
    folder = repository / model
    (folder / str(version)).mkdir(parents=True)
    onnx.save(proto, folder / str(version) / "model.onnx")
    if config:
        (folder / "config.pbtxt").write_text(config)
    return folder


def _model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "made-for-a-test", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _value(name: str, kind: int, dims: Dims) -> Any:
    return helper.make_tensor_value_info(name, kind, list(dims))


def mlp(seed: int = 0, batch: int | str = "N", width: int = 32) -> onnx.ModelProto:
    """Return 16 features in as `x`, 2 probabilities out as `y`; microseconds a run."""
    rng = np.random.default_rng(seed)
    weights = {
        "W1": rng.standard_normal((16, width)).astype(np.float32),
        "b1": np.zeros(width, np.float32),
        "W2": rng.standard_normal((width, 2)).astype(np.float32),
        "b2": np.zeros(2, np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "W1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "W2", "b2"], ["l"]),
        helper.make_node("Softmax", ["l"], ["y"]),
    ]
    inputs = [_value("x", TensorProto.FLOAT, [batch, 16])]
    return _model(nodes, inputs, [_value("y", TensorProto.FLOAT, [batch, 2])], weights)


def constant(value: float, batch: int | str = "N") -> onnx.ModelProto:
    """Return x [N, 4] in, y = x * 0 + `value` out: says which version answered."""
    nodes = [helper.make_node("Mul", ["x", "zero"], ["z"]), helper.make_node("Add", ["z", "value"], ["y"])]
    weights = {"zero": np.zeros(1, np.float32), "value": np.full(1, value, np.float32)}
    inputs = [_value("x", TensorProto.FLOAT, [batch, 4])]
    return _model(nodes, inputs, [_value("y", TensorProto.FLOAT, [batch, 4])], weights)


def identity(datatype: str, dims: Dims = ("N", "M")) -> onnx.ModelProto:
    """Return `x` in, the same out as `y`."""
    kind = ONNX_TYPES[datatype]
    node = helper.make_node("Identity", ["x"], ["y"])
    return _model([node], [_value("x", kind, dims)], [_value("y", kind, dims)])


def centred() -> onnx.ModelProto:
    """Return x [N, 4] in, x minus its mean over the batch out: the rows are not independent."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    dims = ["N", 4]
    return _model(nodes, [_value("x", TensorProto.FLOAT, dims)], [_value("y", TensorProto.FLOAT, dims)])


def spinning(batch: int | str = "N") -> onnx.ModelProto:
    """Return x [N, 4] in, y = x out after as many rounds of a loop as max(x) says: slow on request.

    A round takes about a microsecond; 1e18 of them do not end.
    """
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["a"], ["b"])],
        "round",
        [_value("i", TensorProto.INT64, []), _value("go", TensorProto.BOOL, []), _value("a", TensorProto.FLOAT, ["N", 4])],
        [_value("go_on", TensorProto.BOOL, []), _value("b", TensorProto.FLOAT, ["N", 4])],
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["rounds"], to=TensorProto.INT64),
        helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body),
    ]
    dims = [batch, 4]
    return _model(
        nodes,
        [_value("x", TensorProto.FLOAT, dims)],
        [_value("y", TensorProto.FLOAT, dims)],
        {"yes": np.array(True)},
    )


def heavy(megabytes: int = 50) -> onnx.ModelProto:
    """Return x [N, 16] in and y [N, 1] out through so many megabytes of weights."""
    width = megabytes * 250_000 // 17
    rng = np.random.default_rng(1)
    weights = {
        "W1": rng.standard_normal((16, width), np.float32),
        "W2": rng.standard_normal((width, 1), np.float32),
    }
    nodes = [helper.make_node("MatMul", ["x", "W1"], ["h"]), helper.make_node("MatMul", ["h", "W2"], ["y"])]
    inputs = [_value("x", TensorProto.FLOAT, ["N", 16])]
    return _model(nodes, inputs, [_value("y", TensorProto.FLOAT, ["N", 1])], weights)
