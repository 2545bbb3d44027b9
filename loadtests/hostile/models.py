"""Which models are asked: echoes, so that each answer can be held against its own request?"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from loadtests.bench import models

ECHO, DENSE, HEAVY, WIDE = "echo", "dense", "heavy", "wide"
WIDTH = 16
"""Numbers of one row, which all of these take and answer."""
WIDE_NUMBERS = 1 << 20
"""What `wide` answers beside: 4 MiB for a request of some hundred bytes."""
JOINED = ECHO, DENSE
"""Of these, requests that arrive together share a run."""
CONFIG = 'name: "{name}"\nmax_batch_size: 0\n'


def echo() -> onnx.ModelProto:
    """Build what answers its rows as they are, in a few microseconds: on the event loop."""
    return _model("echo", [helper.make_node("Identity", ["x"], ["y"])])


def dense() -> onnx.ModelProto:
    """Build what answers its rows as they are after some work on the event loop, more than asking costs."""
    return _worked("dense", layers=2, units=512)


def heavy() -> onnx.ModelProto:
    """Build what answers its row as it is after most of a millisecond of work: in a thread."""
    return _worked("heavy", layers=8, units=1024)


def _worked(name: str, layers: int, units: int) -> onnx.ModelProto:
    nodes, weights, last = [], [], "x"
    sizes = [WIDTH, *[units] * layers, WIDTH]
    for at, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights.append(_weight(f"w{at}", rows, columns))
        nodes += [
            helper.make_node("MatMul", [last, f"w{at}"], [f"m{at}"]),
            helper.make_node("Tanh", [f"m{at}"], [f"t{at}"]),
        ]
        last = f"t{at}"
    weights.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    nodes += [
        helper.make_node("Mul", [last, "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    return _model(name, nodes, weights)


def wide() -> onnx.ModelProto:
    """Build what answers its row, and a mebi of numbers beside it."""
    weights = [
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (("from", [0, 0]), ("to", [1, 1]), ("shape", [1, WIDE_NUMBERS]))
    ]
    nodes = [
        helper.make_node("Slice", ["x", "from", "to"], ["first"]),
        helper.make_node("Expand", ["first", "shape"], ["z"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    return _model("wide", nodes, weights, [("z", WIDE_NUMBERS)])


def _weight(name: str, rows: int, columns: int) -> onnx.TensorProto:
    values: NDArray[np.float32] = np.random.default_rng(rows).standard_normal((rows, columns), np.float32)
    return numpy_helper.from_array(values * np.float32(rows**-0.5), name)


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto] | None = None,
    more: list[tuple[str, int]] | None = None,
) -> onnx.ModelProto:
    def value(of: str, numbers: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(of, TensorProto.FLOAT, ["N", numbers])

    outputs = [value(*each) for each in [("y", WIDTH), *(more or [])]]
    graph = helper.make_graph(nodes, name, [value("x", WIDTH)], outputs, weights or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


BUILDERS = {ECHO: echo, DENSE: dense, HEAVY: heavy, WIDE: wide}
ALL = tuple(BUILDERS)


def lay_out(repository: Path, names: Collection[str] = ALL) -> None:
    """Write them to a repository; `heavy` and `wide` run each request by itself."""
    for name in names:
        models.save(BUILDERS[name](), models.path(repository, name))
        if name not in JOINED:
            (repository / name / "config.pbtxt").write_text(CONFIG.format(name=name))
