"""What is a BERT encoder with its pooler, with random weights?

Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers (https://arxiv.org/abs/1810.04805). Its
operators are those that exporters write, so that ONNX Runtime finds the patterns that it fuses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import DTypeLike

from loadtests.gpubench.graph import Graph

EPSILON = 1e-12
FORBIDDEN = -10_000.0
"""What is added to the score of a token that the mask leaves out; 16 bits hold it."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large it is, and how many tokens a row has."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    inner: int = 3072
    words: int = 30_522
    positions: int = 512
    sequence: int = 128

    @property
    def encoder_parameters(self) -> int:
        """How many parameters its layers have, counted on paper."""
        attention = 4 * (self.width * self.width + self.width)
        forward = 2 * self.width * self.inner + self.inner + self.width
        return self.layers * (attention + forward + 4 * self.width)

    @property
    def parameters(self) -> int:
        """How many it has with embeddings and pooler."""
        embeddings = (self.words + self.positions + 2 + 2) * self.width
        return embeddings + self.encoder_parameters + self.width * self.width + self.width


BERT_BASE = Size()
ENCODER_PARAMETERS, PARAMETERS = 85_054_464, 109_482_240
"""As the published bert-base-uncased has them."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def bert(size: Size, dtype: DTypeLike, seed: int = 0) -> onnx.ModelProto:
    """Build it; the answer is what the pooler makes of the first token."""
    graph = Graph("bert", dtype, seed)
    words, masked, kinds = INPUTS
    x = graph.then("Gather", graph.weight(size.words, size.width, fan_in=1), words)
    x = graph.then("Add", x, graph.then("Gather", graph.weight(2, size.width, fan_in=1), kinds))
    places = graph.weight(size.positions, size.width, fan_in=1)
    here = graph.then("Gather", places, graph.constant(np.arange(size.sequence, dtype=np.int64)))
    x = _normalised(graph, graph.then("Add", x, here), size)
    penalty = _penalty(graph, masked)
    before = graph.parameters
    for _ in range(size.layers):
        x = _layer(graph, x, penalty, size)
    assert graph.parameters - before == size.encoder_parameters, "no layer was forgotten"
    first = graph.then("Gather", x, graph.constant(np.array(0, np.int64)), axis=1)
    y = graph.then("Tanh", _dense(graph, first, size.width, size.width))
    assert graph.parameters == size.parameters, "neither embeddings nor pooler"
    row = (np.int64, (size.sequence,))
    return graph.finish(dict.fromkeys(INPUTS, row), {"y": (y, size.width)})


def _penalty(graph: Graph, mask: str) -> str:
    axes = graph.constant(np.array([1, 2], np.int64))
    allowed = graph.cast(graph.then("Unsqueeze", mask, axes))
    return graph.then("Mul", graph.then("Sub", graph.scalar(1), allowed), graph.scalar(FORBIDDEN))


def _layer(graph: Graph, x: str, penalty: str, size: Size) -> str:
    attended = _dense(graph, _attention(graph, x, penalty, size), size.width, size.width)
    x = _normalised(graph, graph.then("Add", attended, x), size)
    inner = _gelu(graph, _dense(graph, x, size.width, size.inner))
    return _normalised(graph, graph.then("Add", _dense(graph, inner, size.inner, size.width), x), size)


def _attention(graph: Graph, x: str, penalty: str, size: Size) -> str:
    head = size.width // size.heads
    split = graph.constant(np.array([0, 0, size.heads, head], np.int64))
    joined = graph.constant(np.array([0, 0, size.width], np.int64))

    def part(*order: int) -> str:
        shaped = graph.then("Reshape", _dense(graph, x, size.width, size.width), split)
        return graph.then("Transpose", shaped, perm=order)

    query, key, value = part(0, 2, 1, 3), part(0, 2, 3, 1), part(0, 2, 1, 3)
    scores = graph.then("Div", graph.then("MatMul", query, key), graph.scalar(head**0.5))
    shares = graph.then("Softmax", graph.then("Add", scores, penalty), axis=-1)
    mixed = graph.then("Transpose", graph.then("MatMul", shares, value), perm=(0, 2, 1, 3))
    return graph.then("Reshape", mixed, joined)


def _dense(graph: Graph, x: str, seen: int, width: int) -> str:
    return graph.then("Add", graph.then("MatMul", x, graph.weight(seen, width)), graph.filled(0, width))


def _gelu(graph: Graph, x: str) -> str:
    bent = graph.then("Erf", graph.then("Div", x, graph.scalar(2**0.5)))
    return graph.then(
        "Mul", graph.then("Mul", x, graph.then("Add", bent, graph.scalar(1))), graph.scalar(0.5)
    )


def _normalised(graph: Graph, x: str, size: Size) -> str:
    learned = graph.filled(1, size.width), graph.filled(0, size.width)
    return graph.then("LayerNormalization", x, *learned, axis=-1, epsilon=EPSILON)
