"""Does a candidate survive being checked, loaded and run once? Asked only in a process made for it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from serving.errors import Failed, Invalid
from serving.external import check_external
from serving.model import Device
from serving.regular import Refusal, check_regular
from serving.repository import ONNX_NAME
from serving.session import Session, Stop, open_onnx
from serving.signature import signature
from serving.wire import TensorSpec

SIZES = (1, 2, 8, 16, 64, 256, 512)
"""What open dimensions are tried with, if the model raises an error at the ones before."""
FILLS = (0, 1)
ELEMENTS_MAX = 1 << 22
"""Of an input, where its open dimensions were chosen here and so might be too large for the model."""
REASON_CHARACTERS_MAX = 400
NO_MEMORY = re.compile(r"bad.alloc|allocate memory|out of memory|array is too big", re.IGNORECASE)
SOURCE_LINE = re.compile(r"/\S+/onnxruntime/\S+:\d+ .*?\) (?=[^)]*$)|/\S+/onnxruntime/\S+:\d+ ", re.DOTALL)
STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
FAILED = re.compile(r"Load model from \S+ failed: ?")


def attempt(path: Path, bytes_max: int, at: Callable[[str], None]) -> str | None:
    """Try the ONNX file at `path`; return a note if it could not be run without a real request.

    `at` is told what comes next, so that whoever waits can say where it hung.

    Raises
    ------
    Refusal
        If the file may not be served, and why.
    """
    try:
        at("checking the file")
        _check(path, bytes_max)
        at("loading it")
        session = open_onnx(str(path), Device.CPU, 1)
        inputs, outputs = signature(session)
        at("its first run")
        return _first_run(session, inputs, outputs)
    except MemoryError:
        raise Refusal("it needs more memory than admission.memory_bytes_max") from None
    except (Refusal, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - ONNX and ONNX Runtime raise a class per status, with no base but this.
        raise Refusal(plain(error, path)) from None


def _check(path: Path, bytes_max: int) -> None:
    size = check_regular(path, ONNX_NAME).st_size
    if size == 0:
        raise Refusal(f"{ONNX_NAME} is empty")
    if size > bytes_max:
        raise Refusal(f"{ONNX_NAME} has {size} bytes; admission.file_bytes_max is {bytes_max}")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError:
        raise Refusal(f"{ONNX_NAME} is not an ONNX file, or only a part of one") from None
    check_external(model, path.parent)
    _check_ranks(model)
    del model  # Its weights must not count as the runtime's.
    onnx.checker.check_model(path)


def _check_ranks(model: Any) -> None:
    """Refuse inputs without a shape: ONNX Runtime shows them like scalars, but takes any."""
    for each in model.graph.input:
        if each.type.HasField("tensor_type") and not each.type.tensor_type.HasField("shape"):
            raise Refusal(f"input {each.name!r} has no shape in the ONNX file; declare at least its rank")


def _first_run(session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    runner = Session(session, inputs, outputs)
    required = [spec for spec in inputs if not spec.optional]
    first: str | None = None
    for feeds in _feeds(session.get_inputs(), required):
        try:
            runner.run(feeds, Stop())
        except (Invalid, Failed) as error:
            cause = error.__cause__ or error
            if NO_MEMORY.search(str(cause)) or isinstance(cause, MemoryError):
                raise MemoryError from None
            first = first or plain(cause)
        else:
            return None
    fixed = all(size >= 0 for spec in required for size in spec.shape)
    if fixed and all(spec.datatype.dtype.kind in "fV" for spec in required):
        raise Refusal(f"its first run failed: {first}")
    # Sizes need not suit the model, nor integers that are indices or shapes to it: then an error that it
    # raises in good order proves nothing.
    return f"not run: it takes none of the inputs tried ({first})"


def _feeds(nodes: Sequence[Any], required: Sequence[TensorSpec]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield small inputs to try, each different from those before."""
    seen = set()
    batch = {node.shape[0] for node in nodes if node.shape and isinstance(node.shape[0], str)}
    for fill, open_size, everywhere in itertools.product(FILLS, SIZES, (False, True)):
        shapes = tuple(_shape(node.shape, batch, open_size, everywhere) for node in nodes)
        chosen_large = open_size > 1 and any(math.prod(shape) > ELEMENTS_MAX for shape in shapes)
        if (fill, shapes) in seen or chosen_large:
            continue
        seen.add((fill, shapes))
        yield {spec.name: _filled(spec, shape, fill) for spec, shape in zip(required, shapes, strict=True)}


def _shape(dims: Sequence[Any], batch: set[str], open_size: int, everywhere: bool) -> tuple[int, ...]:
    """Return a shape with one row, and `open_size` in the last dimension or `everywhere` it is open.

    The last one alone suits signals, where one in the middle often counts rows; all suits images.
    A symbol that is some input's first dimension means rows wherever it stands.
    """

    def size(axis: int, known: Any) -> int:
        if isinstance(known, int) and known >= 0:
            return known
        rows = axis == 0 or known in batch or not (everywhere or axis == len(dims) - 1)
        return 1 if rows else open_size

    return tuple(size(axis, known) for axis, known in enumerate(dims))


def _filled(spec: TensorSpec, shape: tuple[int, ...], fill: int) -> NDArray[Any]:
    if spec.datatype.name == "BYTES":
        return np.full(shape, "1" if fill else "", np.object_)
    return np.full(shape, fill, spec.datatype.dtype) if fill else np.zeros(shape, spec.datatype.dtype)


def plain(error: BaseException, path: Path | None = None) -> str:
    """Return an error's message without what concerns nobody: status prefixes, source lines, paths."""
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        return "it needs more memory than admission.memory_bytes_max"
    for pattern in (STATUS, FAILED, SOURCE_LINE):
        text = pattern.sub("", text)
    if path is not None:
        text = text.replace(str(path), ONNX_NAME).replace(str(path.parent), "")
    return " ".join(text.split())[:REASON_CHARACTERS_MAX]
