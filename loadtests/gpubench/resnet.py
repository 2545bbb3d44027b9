"""What is ResNet-50 v1.5, with random weights?

He et al., Deep Residual Learning for Image Recognition (https://arxiv.org/abs/1512.03385). Version 1.5 has
the stride of a block in its 3x3 convolution and not in its first 1x1, as torchvision and NVIDIA have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import DTypeLike

from loadtests.gpubench.graph import Graph

EXPANSION = 4
EPSILON = 1e-5
RESIDUAL_SCALE = 0.2
"""Of a block's last normalisation: without training, what the blocks add up to would outgrow 16 bits."""
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of ImageNet's channels, for inputs of bytes."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large it is: blocks a stage, channels of the first stage, pixels a side, classes."""

    blocks: Sequence[int] = (3, 4, 6, 3)
    channels: int = 64
    pixels: int = 224
    classes: int = 1000

    @property
    def parameters(self) -> int:
        """How many parameters it has, counted on paper."""
        count, seen = 3 * self.channels * 49 + 2 * self.channels, self.channels
        for stage, blocks in enumerate(self.blocks):
            width = self.channels << stage
            wide = width * EXPANSION
            for block in range(blocks):
                count += seen * width + width * width * 9 + width * wide + 4 * width + 2 * wide
                count += 0 if block else seen * wide + 2 * wide
                seen = wide
        return count + seen * self.classes + self.classes


RESNET_50 = Size()
PARAMETERS = 25_557_032
"""As torchvision counts them; running means and variances come on top."""


def resnet(size: Size, dtype: DTypeLike, image: DTypeLike, seed: int = 0) -> onnx.ModelProto:
    """Build it for images of `image`: bytes are normalised on the device, anything else is taken as it is."""
    graph = Graph("resnet", dtype, seed)
    x = "x" if np.dtype(image) == graph.dtype else graph.cast("x")
    if np.dtype(image) == np.uint8:
        mean, scale = (np.array(each).reshape(1, 3, 1, 1) for each in (MEAN, DEVIATION))
        x = graph.then("Sub", x, graph.constant(mean.astype(graph.dtype)))
        x = graph.then("Div", x, graph.constant(scale.astype(graph.dtype)))
    x = _convolved(graph, x, 3, size.channels, 7, stride=2)
    x = graph.then("MaxPool", graph.then("Relu", x), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    seen = size.channels
    for stage, blocks in enumerate(size.blocks):
        for block in range(blocks):
            width, stride = size.channels << stage, 2 if stage and not block else 1
            x = _block(graph, x, seen, width, stride, widens=not block)
            seen = width * EXPANSION
    x = graph.then("Flatten", graph.then("GlobalAveragePool", x))
    y = graph.then("Gemm", x, graph.weight(seen, size.classes), graph.filled(0, size.classes))
    assert graph.parameters == size.parameters, "no layer was forgotten"
    return graph.finish({"x": (image, (3, size.pixels, size.pixels))}, {"y": (y, size.classes)})


def _block(graph: Graph, x: str, seen: int, width: int, stride: int, *, widens: bool) -> str:
    wide = width * EXPANSION
    y = graph.then("Relu", _convolved(graph, x, seen, width, 1))
    y = graph.then("Relu", _convolved(graph, y, width, width, 3, stride=stride))
    y = _convolved(graph, y, width, wide, 1, scale=RESIDUAL_SCALE)
    if widens:
        x = _convolved(graph, x, seen, wide, 1, stride=stride)
    return graph.then("Relu", graph.then("Add", y, x))


def _convolved(
    graph: Graph, x: str, seen: int, channels: int, side: int, *, stride: int = 1, scale: float = 1.0
) -> str:
    """Convolve without a bias, and normalise as an inference does: by what the training remembered."""
    weights = graph.weight(channels, seen, side, side, fan_in=seen * side * side, gain=2**0.5)
    pads = {"pads": [side // 2] * 4, "strides": [stride] * 2, "kernel_shape": [side] * 2}
    made = graph.then("Conv", x, weights, **pads)
    learned = graph.filled(scale, channels), graph.filled(0, channels)
    kept = [graph.constant(np.full(channels, value, graph.dtype)) for value in (0, 1)]
    return graph.then("BatchNormalization", made, *learned, *kept, epsilon=EPSILON)
