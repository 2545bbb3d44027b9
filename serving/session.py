"""One version on ONNX Runtime: feeds in, outputs out, with a way to stop it from another thread."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from serving.errors import Expired, Failed, Invalid
from serving.model import Device
from serving.wire import TensorSpec

if TYPE_CHECKING:
    from serving.gpu.providers import Wanted

BF16 = np.dtype(ml_dtypes.bfloat16)
BF16_ONNX = 16  # onnx.TensorProto.BFLOAT16, without importing onnx into the server.
GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
Feeds = Mapping[str, NDArray[Any]]


class Stop:
    """The means to end a run from another thread. One run at a time; made anew after it was used."""

    __slots__ = ("options", "used")

    def __init__(self) -> None:
        self.options = ort.RunOptions()
        self.options.log_severity_level = 4  # Whoever called gets the error; the log need not repeat it.
        # On a GPU nothing of this run is captured: it would be run again with the addresses of its arrays.
        self.options.add_run_config_entry("gpu_graph_id", "-1")
        self.used = False

    def now(self) -> None:
        """End the run at the next node of the graph. Idempotent; any thread may call it."""
        self.used = True
        self.options.terminate = True


def open_onnx(
    path: str, device: Device, threads: int, graph_level: int | None = None, wanted: Wanted | None = None
) -> ort.InferenceSession:
    """Create a session from a file. Given a path and not bytes: bytes stop all threads for its duration.

    `wanted` says how, if `device` is GPU.

    Raises
    ------
    NoDevice
        If `device` is GPU and any of it would run on the CPU, with which ONNX Runtime itself would go on.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle workers that spin would take the cores from the event loop (hazards of ONNX Runtime #17011).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Weights outside the arena: they are one size for ever, and go back whole when a version is unloaded.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if graph_level is not None:
        options.graph_optimization_level = GRAPH_LEVELS[graph_level]
    if device is Device.GPU:
        from serving.gpu.providers import Wanted, open_on_gpu

        return open_on_gpu(path, options, wanted or Wanted())
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.disable_fallback()
    return session


class Session:
    """A loaded version.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    inputs, outputs : tuple of TensorSpec
        Its signature, in the graph's order.
    """

    __slots__ = ("_names", "_run", "_session")

    def __init__(
        self, session: ort.InferenceSession, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        self._session = session
        self._names = [output.name for output in outputs]
        # What `session.run` calls after checking the feeds' names, which `bind` did: 2.6 µs instead of 3.5.
        self._run = session._sess.run
        # ONNX Runtime takes and gives NumPy arrays for every datatype but BF16.
        if any(spec.datatype.name == "BF16" for spec in (*inputs, *outputs)):
            self._run = partial(_run_bf16, session)
        if session.get_providers()[0] != "CPUExecutionProvider":
            from serving.gpu.providers import apart

            self._run = apart(session, self._run)

    def run(self, feeds: Feeds, stop: Stop) -> list[NDArray[Any]]:
        """Run the model once. Any thread, several at a time, each with a `stop` of its own.

        Raises
        ------
        Expired
            If `stop` ended the run.
        Invalid, Failed
            If the model raised an error, about its values or otherwise.
        """
        try:
            return self._run(self._names, feeds, stop.options)  # type: ignore[no-any-return]
        except Exception as error:  # ONNX Runtime raises a class per status code, with one base: this.
            if stop.used:
                raise Expired("the model did not finish before the request's deadline") from None
            # An index out of range, shapes that do not go together: the values are the client's.
            if isinstance(error, InvalidArgument):
                raise Invalid(f"the model refuses these values: {reason(error)}") from error
            raise Failed(f"the model failed: {reason(error)}") from error


def _run_bf16(session: Any, names: list[str], feeds: Feeds, options: ort.RunOptions) -> list[NDArray[Any]]:
    values = {
        name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BF16_ONNX)
        if array.dtype == BF16
        else ort.OrtValue.ortvalue_from_numpy(array)
        for name, array in feeds.items()
    }
    return [_array(value) for value in session.run_with_ort_values(names, values, options)]


def _array(value: ort.OrtValue) -> NDArray[Any]:
    """Copy an OrtValue out; for BF16 through its pointer, since ONNX Runtime has no NumPy form of it."""
    if value.element_type() != BF16_ONNX:
        array: NDArray[Any] = value.numpy()
        return array
    shape = tuple(value.shape())
    out = np.empty(shape, BF16)
    if out.size:
        ctypes.memmove(out.ctypes.data, value.data_ptr(), out.nbytes)
    return out


REASON_CHARACTERS_MAX = 300
_NOISE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |\S*/\S+\.(?:cc|cpp|h)\S*")


def reason(error: Exception, path: Path | None = None) -> str:
    """Return ONNX Runtime's message without its code, its source files and the folder of `path`."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if path is not None:
        text = text.replace(str(path), path.name).replace(f"{path.parent}/", "")
    return " ".join(_NOISE.sub("", text).split())[:REASON_CHARACTERS_MAX]
