"""Which models are served: S is all front end, L is all transport, M is all model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SHAPES: dict[str, tuple[int, ...]] = {
    "S": (1, 16),
    "L": (1, 3, 224, 224),
    "M": (1, 3, 32, 32),
    "M_batched": (1, 3, 32, 32),
}
"""The input of one request. It is called ``x``, the output ``y``, in all of them."""

M_CONFIG = 'name: "M"\nbackend: "onnxruntime"\nmax_batch_size: 0\n'
M_BATCHED_CONFIG = """\
name: "M_batched"
backend: "onnxruntime"
max_batch_size: 32
dynamic_batching {
  preferred_batch_size: [ 16, 32 ]
  max_queue_delay_microseconds: 2000
}
"""
# From 4 rows on a batch is as good as any other, within 5 %; 16 and 32 leave the front end the least to do.


class Graph:
    """An ONNX graph from ``x`` to ``y`` in the making. Weights are random, scaled to keep values small."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._last = "x"

    def weight(self, *shape: int) -> str:
        """Add a random tensor and return its name."""
        values = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(np.prod(shape[1:]) ** -0.5)
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def then(self, operator: str, *weights: str, **attributes: Any) -> Graph:
        """Apply `operator` to what there is so far."""
        made = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, [self._last, *weights], [made], **attributes))
        self._last = made
        return self

    def finish(self, name: str, inputs: tuple[int, ...], outputs: int) -> onnx.ModelProto:
        """Return the model, with a free number of rows."""
        self._nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *inputs])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs])],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        return model


def small() -> onnx.ModelProto:
    """S: a multilayer perceptron of 16, 32 and 2, a few microseconds a run."""
    graph = Graph(0)
    graph.then("Gemm", graph.weight(16, 32), graph.weight(32)).then("Relu")
    graph.then("Gemm", graph.weight(32, 2), graph.weight(2)).then("Softmax")
    return graph.finish("S", (16,), 2)


def large() -> onnx.ModelProto:
    """L: one cheap convolution over 1x3x224x224 float32, so that 602 kB of request is most of the work."""
    graph = Graph(1)
    graph.then("Conv", graph.weight(4, 3, 16, 16), graph.weight(4), kernel_shape=[16, 16], strides=[16, 16])
    graph.then("Relu").then("GlobalAveragePool").then("Flatten")
    graph.then("Gemm", graph.weight(4, 10), graph.weight(10))
    return graph.finish("L", (3, 224, 224), 10)


def middling() -> onnx.ModelProto:
    """M: eight convolutions, then dense layers.

    2.8 ms a run at one row on one core of a Xeon with AVX-512, 353 rows/s; 388, 405, 413, 393 and
    407 rows/s at 2, 4, 8, 16 and 32 rows. Batches are worth a sixth.
    """
    graph, channels = Graph(2), 56
    for seen in (3, *[channels] * 7):
        graph.then("Conv", graph.weight(channels, seen, 3, 3), graph.weight(channels), pads=[1, 1, 1, 1])
        graph.then("Relu")
    graph.then("AveragePool", kernel_shape=[4, 4], strides=[4, 4]).then("Flatten")
    graph.then("MatMul", graph.weight(channels * 64, 1024)).then("Relu")
    graph.then("MatMul", graph.weight(1024, 10))
    return graph.finish("M", (3, 32, 32), 10)


def heavy(seed: int, width: int = 5120) -> onnx.ModelProto:
    """Build what is loaded beside served models: 100 MiB of dense weights, different for each `seed`."""
    graph = Graph(seed)
    graph.then("MatMul", graph.weight(64, width)).then("Relu")
    graph.then("MatMul", graph.weight(width, width)).then("Relu").then("MatMul", graph.weight(width, 8))
    return graph.finish("Heavy", (64,), 8)


def samples(model: str, count: int) -> list[NDArray[np.float32]]:
    """Return the inputs of `count` requests, the same ones each time."""
    rng = np.random.default_rng(7)
    return [rng.standard_normal(SHAPES[model], dtype=np.float32) for _ in range(count)]


def path(repository: Path, model: str, version: int = 1) -> Path:
    """Return where Triton's layout has a version's ONNX file."""
    return repository / model / str(version) / "model.onnx"


def save(model: onnx.ModelProto, target: Path) -> None:
    """Write a model where it belongs, unless it is there already."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        onnx.save(model, partial)
        partial.rename(target)


def lay_out(repository: Path) -> None:
    """Write the repository of S, L, M and M with batches."""
    save(small(), path(repository, "S"))
    save(large(), path(repository, "L"))
    for name, config in (("M", M_CONFIG), ("M_batched", M_BATCHED_CONFIG)):
        save(middling(), path(repository, name))
        (repository / name / "config.pbtxt").write_text(config)
