"""What is a multilayer perceptron as a recommender ends in, with random weights?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import onnx
from numpy.typing import DTypeLike

from loadtests.gpubench.graph import Graph

WIDTHS = (1024, 4096, 4096, 1000)
PARAMETERS = 25_076_712


def perceptron(widths: Sequence[int], dtype: DTypeLike, seed: int = 0) -> onnx.ModelProto:
    """Build it: dense layers of these widths, the input's first."""
    graph, x = Graph("perceptron", dtype, seed), "x"
    for seen, width in pairwise(widths):
        if x != "x":
            x = graph.then("Relu", x)
        x = graph.then("Gemm", x, graph.weight(seen, width, gain=2**0.5), graph.filled(0, width))
    assert graph.parameters == parameters(widths), "no layer was forgotten"
    return graph.finish({"x": (dtype, (widths[0],))}, {"y": (x, widths[-1])})


def parameters(widths: Sequence[int]) -> int:
    """Return how many parameters it has, counted on paper."""
    return sum(seen * width + width for seen, width in pairwise(widths))
