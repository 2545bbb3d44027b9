"""Which models are measured, in which types, with which inputs, and how long would they run?

Where there is a GPU, only its own time counts, so the true models stand once each in `TRUE`. `SIMULATED` has
them on an H100; those with images once more on slower devices, since an H100 would take more of them than one
core can send; and all on one that takes no time, which shows what it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray

from loadtests.gpubench import bert, perceptron, resnet, times
from loadtests.gpubench.times import Times

ROWS_MAX = 64
"""Of a batch. Larger ones gain an H100 hardly anything more, and their rows wait for each other."""
WORD_MAX = 1000
"""Inputs that are words are below, so that 16 bits tell them apart."""
Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Case:
    """A model in one type, with inputs of a type and shape of a row, on a device; `y` is `width` numbers.

    `goal` says that the project's goals are about it; of the others the figures are told all the same.
    """

    name: str
    dtype: DTypeLike
    inputs: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]
    width: int
    run_ns: Times
    build: Callable[[], onnx.ModelProto] | None = None
    """Makes the true model; None where what stands in for it is all there is."""
    goal: bool = True
    switched: bool = False
    """Whether its versions are switched under load."""
    device: str = "H100"
    rows_max: int = ROWS_MAX

    @property
    def request_bytes(self) -> int:
        """How large the tensors of a request are."""
        return sum(prod(shape) * np.dtype(dtype).itemsize for dtype, shape in self.inputs.values())

    @property
    def answer_bytes(self) -> int:
        """How large the tensor of an answer is."""
        return self.width * np.dtype(self.dtype).itemsize

    def sample(self, number: int, rows: int = 1) -> dict[str, Array]:
        """Return the inputs of the `number`th request, or of a batch; always the same ones."""
        rng = np.random.default_rng(number)
        return {
            name: _values(rng, np.dtype(dtype), (rows, *shape))
            for name, (dtype, shape) in self.inputs.items()
        }

    def on(self, device: str, run_ns: Times, *, goal: bool = True) -> Case:
        """Return the same on another device."""
        name = f"{self.name}_{device.lower()}"
        return replace(self, name=name, device=device, run_ns=run_ns, goal=goal, switched=False)


def _values(rng: np.random.Generator, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
    if dtype.kind in "iu":
        top = 256 if dtype == np.uint8 else 2
        return rng.integers(0, top, shape).astype(dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype)


FP32, FP16 = np.float32, np.float16
TOKENS: Mapping[str, tuple[DTypeLike, tuple[int, ...]]] = dict.fromkeys(
    bert.INPUTS, (np.int64, (bert.BERT_BASE.sequence,))
)


def _bert(name: str, dtype: DTypeLike, run_ns: Times) -> Case:
    build = partial(bert.bert, bert.BERT_BASE, dtype)
    return Case(name, dtype, TOKENS, bert.BERT_BASE.width, run_ns, build, switched=True)


def _resnet(name: str, dtype: DTypeLike, image: DTypeLike, run_ns: Times) -> Case:
    size = resnet.RESNET_50
    row = {"x": (image, (3, size.pixels, size.pixels))}
    goal = np.dtype(image) != FP32
    build = partial(resnet.resnet, size, dtype, image)
    return Case(name, dtype, row, size.classes, run_ns, build, goal, switched=goal)


def _perceptron(name: str, dtype: DTypeLike, run_ns: Times) -> Case:
    row = {"x": (dtype, perceptron.WIDTHS[:1])}
    build = partial(perceptron.perceptron, perceptron.WIDTHS, dtype)
    return Case(name, dtype, row, perceptron.WIDTHS[-1], run_ns, build, goal=False)


BERT_FP16 = _bert("bert_fp16", FP16, times.BERT_FP16)
RESNET_UINT8 = _resnet("resnet50_fp16_uint8", FP16, np.uint8, times.RESNET_FP16)
RESNET_FP16 = _resnet("resnet50_fp16", FP16, FP16, times.RESNET_FP16)
MLP_FP16 = _perceptron("mlp_fp16", FP16, times.PERCEPTRON_FP16)
TRUE = (
    BERT_FP16,
    _bert("bert_fp32", FP32, times.BERT_FP32),
    RESNET_UINT8,
    RESNET_FP16,
    _resnet("resnet50_fp32", FP32, FP32, times.RESNET_FP32),
    MLP_FP16,
    _perceptron("mlp_fp32", FP32, times.PERCEPTRON_FP32),
)
SIMULATED = (
    *TRUE,
    RESNET_UINT8.on("V100", times.RESNET_FP16_V100),
    RESNET_FP16.on("T4", times.RESNET_FP16_T4),
)
SEVERAL = RESNET_UINT8.on("A100", times.RESNET_FP16.slower(2))
"""What several front ends are asked where the device is simulated: one core is not enough, and two are."""
IDLE = {case.name: case.on("none", times.NONE, goal=False) for case in TRUE}
"""By the name of the case whose front end they show."""
REGISTER = Case("register", FP32, {"x": (FP32, (1,))}, 1, times.BERT_FP16, goal=False)
"""What the checker of switches asks: it answers its version."""
BY_NAME = {case.name: case for case in (*SIMULATED, SEVERAL, *IDLE.values(), REGISTER)}
