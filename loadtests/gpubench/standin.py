"""What is served where there is no GPU: a model's signature, and an answer that shows whose it is.

An answer's first number is the version, its second the first element of the request's own row, so that an
answer of another request or of another version is seen. The graph computes it for the admission and the
loader, which run it on the CPU, and `answers` for the simulated device.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray

from loadtests.gpubench.cases import Case
from loadtests.gpubench.graph import Graph


def stand_in(case: Case, version: int) -> onnx.ModelProto:
    """Build the graph for a case."""
    graph = Graph(f"{case.name}, version {version}", case.dtype)
    name = next(iter(case.inputs))
    start, stop, axis = (graph.constant(np.array([value], np.int64)) for value in (0, 1, 1))
    first = graph.cast(graph.then("Slice", graph.then("Flatten", name), start, stop, axis))
    place, own = (np.zeros((1, case.width), case.dtype) for _ in range(2))
    own[0, 0] = version
    place[0, 1:2] = 1
    y = graph.then("Add", graph.then("Mul", first, graph.constant(place)), graph.constant(own))
    return graph.finish(case.inputs, {"y": (y, case.width)})


def answers(
    name: str, dtype: DTypeLike, width: int, version: int, inputs: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Return what the graph gives."""
    x = inputs[name]
    y = np.zeros((len(x), width), dtype)
    y[:, 0] = version
    y[:, 1:2] = x.reshape(len(x), -1)[:, :1]
    return [y]


def answering(case: Case, version: int) -> Any:
    """Return what computes the answers of a case's version."""
    return partial(answers, next(iter(case.inputs)), case.dtype, case.width, version)


def expected(case: Case, version: int, sample: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the answer to a request."""
    (y,) = answering(case, version)(sample)
    return np.asarray(y)
