"""How a test asks through tritonclient, and compares to the last bit what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from serving.wire import DATATYPES

Arrays = Mapping[str, NDArray[Any]]
NAMES = {each.dtype: each.name for each in DATATYPES.values()}


def given(arrays: Arrays, *, binary: bool = True) -> list[InferInput]:
    """Return tritonclient's form of some inputs. It takes BF16 as raw bytes only."""
    inputs = []
    for name, array in arrays.items():
        text = array.dtype.kind in "OUS"
        datatype = "BYTES" if text else NAMES[array.dtype]
        one = InferInput(name, list(array.shape), datatype)
        one.set_data_from_numpy(
            array.astype(np.object_) if text else array, binary_data=binary or datatype == "BF16"
        )
        inputs.append(one)
    return inputs


def wanted(*names: str, binary: bool = True) -> list[InferRequestedOutput]:
    """Return tritonclient's form of which outputs to answer with."""
    return [InferRequestedOutput(name, binary_data=binary) for name in names]


def ask(
    client: InferenceServerClient, model: str, arrays: Arrays, *names: str, binary: bool = True, **more: Any
) -> InferResult:
    """Infer, with the outputs called `names`, or all of them."""
    outputs = wanted(*names, binary=binary) or None
    return client.infer(model, given(arrays, binary=binary), outputs=outputs, **more)


def same(got: NDArray[Any] | None, want: NDArray[Any]) -> bool:
    """Say whether two arrays are equal in shape, type and every bit; strings in every character."""
    if got is None or got.shape != want.shape:
        return False
    if want.dtype.kind in "OUS":
        return [_text(each) for each in got.ravel()] == [_text(each) for each in want.ravel()]
    return got.dtype == want.dtype and got.tobytes() == want.tobytes()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def directly(model: Path | bytes) -> ort.InferenceSession:
    """Return ONNX Runtime's own session for a model, on one thread so that sums round alike."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
