"""How is an ONNX graph put together from random weights, in either precision?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import helper, numpy_helper

OPSET, IR = 17, 9
ROWS = "N"


class Graph:
    """A graph in the making, every dimension but the first fixed.

    Attributes
    ----------
    parameters : int
        How many numbers a training would have found: weights and biases, no running statistics.
    """

    def __init__(self, name: str, dtype: DTypeLike, seed: int = 0) -> None:
        self._name, self.dtype = name, np.dtype(dtype)
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self.parameters = 0

    def weight(self, *shape: int, fan_in: int = 0, gain: float = 1.0) -> str:
        """Add a random tensor that keeps what goes through it about as large as it was."""
        scale = np.float32(gain * (fan_in or shape[0]) ** -0.5)
        return self._learned(self._rng.standard_normal(shape, dtype=np.float32) * scale)

    def filled(self, value: float, *shape: int) -> str:
        """Add a tensor whose values are alike: a bias, or a normalisation's scale."""
        return self._learned(np.full(shape, value, np.float32))

    def _learned(self, values: NDArray[np.float32]) -> str:
        self.parameters += values.size
        return self.constant(values.astype(self.dtype))

    def constant(self, values: NDArray[Any]) -> str:
        """Add a tensor that nobody trains, as it is."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def scalar(self, value: float) -> str:
        """Add a number."""
        return self.constant(np.array(value, self.dtype))

    def then(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Apply `operator`, and return the name of its result."""
        made = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [made], **attributes))
        return made

    def cast(self, value: str, dtype: DTypeLike | None = None) -> str:
        """Turn a tensor into the graph's type, or another."""
        return self.then("Cast", value, to=_onnx(self.dtype if dtype is None else dtype))

    def finish(
        self, inputs: Mapping[str, tuple[DTypeLike, Sequence[int]]], results: Mapping[str, tuple[str, int]]
    ) -> onnx.ModelProto:
        """Return the model: inputs by type and shape of a row, outputs by what they are and how wide."""
        for name, (result, _) in results.items():
            self._nodes.append(helper.make_node("Identity", [result], [name]))
        graph = helper.make_graph(
            self._nodes,
            self._name,
            [helper.make_tensor_value_info(n, _onnx(d), [ROWS, *s]) for n, (d, s) in inputs.items()],
            [helper.make_tensor_value_info(n, _onnx(self.dtype), [ROWS, w]) for n, (_, w) in results.items()],
            self._weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def _onnx(dtype: DTypeLike) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
