"""Which files must never get past admission? Builders of each, small and harmless until they are run.

Each returns the bytes of a model.onnx; the ones with weights in other files take their location.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
HUGE = 1 << 27
"""Elements of the memory bombs: 512 MiB of float32, so that a test whose limit fails does no harm."""


def value(name: str, elem_type: int = FLOAT, shape: Sequence[int | str] | None = ("N",)) -> Any:
    """Return a graph's input or output."""
    return helper.make_tensor_value_info(name, elem_type, shape)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any] = (value("x"),),
    outputs: Sequence[Any] = (value("y"),),
    *,
    opset: int = 17,
    initializers: Sequence[Any] = (),
    **more: Any,
) -> onnx.ModelProto:
    """Return a model of one graph; `more` goes to `make_model`."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", opset), *more.pop("imports", ())]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, **more)


def dump(made: onnx.ModelProto) -> bytes:
    data: bytes = made.SerializeToString()
    return data


def identity() -> bytes:
    """Return what is not hostile at all: y = x."""
    return dump(model([helper.make_node("Identity", ["x"], ["y"])]))


def add_weights(weights: Any) -> onnx.ModelProto:
    """Return y = x + w with the initializer `weights`."""
    return model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weights])


def inlining_bomb(levels: int = 24) -> bytes:
    """Return local functions each of which calls the one below twice: 2**levels nodes once inlined."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]

    def function(level: int) -> Any:
        below = ("Identity", "") if level == 0 else (f"f{level - 1}", "local")
        nodes = [
            helper.make_node(below[0], ["a"], ["m"], domain=below[1]),
            helper.make_node(below[0], ["m"], ["b"], domain=below[1]),
        ]
        return helper.make_function("local", f"f{level}", ["a"], ["b"], nodes, imports)

    call = helper.make_node(f"f{levels - 1}", ["x"], ["y"], domain="local")
    functions = [function(level) for level in range(levels)]
    return dump(model([call], imports=imports[1:], functions=functions))


def endless_loop() -> bytes:
    """Return a Loop without a trip count whose condition stays true: it loads, and its run never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["go"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [value("i", INT64, []), value("c", BOOL, []), value("a")],
        [value("go", BOOL, []), value("b")],
    )
    go = numpy_helper.from_array(np.array(True), "go0")
    return dump(model([helper.make_node("Loop", ["", "go0", "x"], ["y"], body=body)], initializers=[go]))


def constant_of_shape_bomb() -> bytes:
    """Return a constant of 512 MiB, made at load by constant folding or else at the first run."""
    shape = numpy_helper.from_array(np.array([HUGE], np.int64), "s")
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]
    return dump(model(nodes, [value("x", shape=[1])], initializers=[shape]))


def expand_bomb() -> bytes:
    """Return an input of one element that is expanded to 512 MiB at the first run."""
    shape = numpy_helper.from_array(np.array([HUGE], np.int64), "s")
    return dump(
        model([helper.make_node("Expand", ["x", "s"], ["y"])], [value("x", shape=[1])], initializers=[shape])
    )


def range_bomb() -> bytes:
    """Return a range of 512 MiB that begins at the input, so that it is counted out at the first run."""
    ends = [numpy_helper.from_array(np.array(n, np.float32), name) for name, n in (("e", HUGE), ("d", 1))]
    return dump(
        model([helper.make_node("Range", ["x", "e", "d"], ["y"])], [value("x", shape=[])], initializers=ends)
    )


def folding_bomb(links: int = 200) -> bytes:
    """Return a chain of costly constants: optimisation works it out, before anything is run."""
    size = numpy_helper.from_array(np.array([3000, 3000], np.int64), "s")
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c0"])]
    nodes += [helper.make_node("MatMul", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(links)]
    nodes.append(helper.make_node("Add", ["x", f"c{links}"], ["y"]))
    return dump(model(nodes, [value("x", shape=[1])], [value("y", shape=["N", "M"])], initializers=[size]))


def unknown_operator() -> bytes:
    """Return a node of a domain for which only a custom operator library could have a kernel."""
    node = helper.make_node("Exfiltrate", ["x"], ["y"], domain="com.example.evil")
    return dump(model([node], imports=[helper.make_opsetid("com.example.evil", 1)]))


def future_opset() -> bytes:
    return dump(model([helper.make_node("Identity", ["x"], ["y"])], opset=999))


def no_inputs() -> bytes:
    """Return a model that takes nothing and gives a constant."""
    constant = numpy_helper.from_array(np.array([1.0], np.float32), "c")
    return dump(
        model(
            [helper.make_node("Identity", ["c"], ["y"])], [], [value("y", shape=[1])], initializers=[constant]
        )
    )


def sequence_output() -> bytes:
    made = helper.make_tensor_sequence_value_info("y", FLOAT, None)
    return dump(model([helper.make_node("SequenceConstruct", ["x"], ["y"])], outputs=[made]))


def rankless_input() -> bytes:
    return dump(model([helper.make_node("Identity", ["x"], ["y"])], [value("x", shape=None)]))


def fixed_shape_that_fails() -> bytes:
    """Return a graph that passes every check, with shapes that cannot be multiplied at the run."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=FLOAT),
        helper.make_node("Reshape", ["f", "s"], ["y"]),
    ]
    shape = numpy_helper.from_array(np.array([7], np.int64), "s")
    return dump(model(nodes, [value("x", shape=[2])], [value("y", shape=[7])], initializers=[shape]))


def external(location: str, dims: Sequence[int] = (4,), **more: str) -> Any:
    """Return a tensor whose elements lie in another file."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, told in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=told)
    return tensor


def in_initializer(tensor: Any) -> bytes:
    return dump(add_weights(tensor))


def in_sparse_initializer(tensor: Any) -> bytes:
    made = model([helper.make_node("Add", ["x", "w"], ["y"])])
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "w_indices")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [8]))
    return dump(made)


def in_constant(tensor: Any) -> bytes:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    return dump(model(nodes))


def in_subgraph(tensor: Any) -> bytes:
    condition = numpy_helper.from_array(np.array(True), "c")
    branches = {
        name: helper.make_graph(
            [helper.make_node("Identity", ["w"], [name])], name, [], [value(name)], [tensor]
        )
        for name in ("then_branch", "else_branch")
    }
    return dump(model([helper.make_node("If", ["c"], ["y"], **branches)], [], initializers=[condition]))


def in_function(tensor: Any) -> bytes:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("Add", ["a", "w"], ["b"]),
    ]
    function = helper.make_function("local", "f", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])
    call = helper.make_node("f", ["x"], ["y"], domain="local")
    return dump(model([call], imports=[helper.make_opsetid("local", 1)], functions=[function]))


PLACES = {
    "initializer": in_initializer,
    "sparse initializer": in_sparse_initializer,
    "Constant": in_constant,
    "subgraph": in_subgraph,
    "function": in_function,
}
"""Where in a file a tensor can hide, each with what puts it there."""


def lay_out(folder: Path, content: bytes, **beside: bytes) -> Path:
    """Write a version's folder and return it; `beside` are files next to the model.onnx."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    for name, data in beside.items():
        (folder / name).write_bytes(data)
    return folder
