"""Versions on a device that is none: the processor with buffers of its own, or a CUDA driver made for tests."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest

from serving import loader
from serving.gpu import driver as drivers
from serving.gpu import placing
from serving.gpu.bound import BoundAccelerator, BoundSlot
from serving.gpu.driver import Driver
from serving.model import Artifact, Device, ModelConfig, ModelSpec
from serving.session import open_onnx
from serving.signature import complete, signature
from tests.cuda import FakeCuda


def opened(folder: Path, proto: onnx.ModelProto, rows_max: int) -> tuple[Any, ModelSpec]:
    """Return a session on the processor, and the version that it is."""
    path = folder / "model.onnx"
    onnx.save(proto, path)
    session = open_onnx(str(path), Device.CPU, 1)
    artifact = Artifact("made", 1, "0" * 64, path, path.stat().st_size)
    return session, complete(artifact, ModelConfig("made", rows_max=rows_max), *signature(session))


def batch(accelerator: BoundAccelerator, slot: BoundSlot, **inputs: Any) -> list[Any]:
    """Take a batch all the way."""
    rows = len(next(iter(inputs.values())))
    for name, array in inputs.items():
        slot.inputs[name][:rows] = array
    accelerator.stage(slot, rows)
    accelerator.launch(slot, rows)
    return accelerator.wait(slot, rows)


def pretend_gpu(patch: pytest.MonkeyPatch, library: FakeCuda) -> Driver:
    """Let this process see a GPU, whose driver is made for tests and whose kernels are the processor's."""
    driver = Driver(0, library)
    driver.kind = "cpu"
    patch.setattr(drivers, "_OPENED", {0: driver})
    for module in (loader, placing):
        patch.setattr(module, "gpus", lambda: 1)
    patch.setattr(ort, "preload_dlls", lambda: None)
    patch.setattr(ort, "InferenceSession", partial(_made, ort.InferenceSession, library))
    return driver


def _made(real: Any, library: FakeCuda, path: str, options: Any, providers: Any, **more: Any) -> Any:
    session = real(path, options, providers=["CPUExecutionProvider"], **more)
    if providers[0] == "CPUExecutionProvider":
        return session
    [(name, asked), _] = providers
    made = Queued(session, library, int(asked["user_compute_stream"]))
    made.get_providers = lambda: [name, "CPUExecutionProvider"]
    made.get_provider_graph_assignment_info = list
    made.graphs = asked["enable_cuda_graph"] == "1"
    return made


class Queued:
    """A session whose runs wait their turn in a stream, as ONNX Runtime's CUDA provider has them do.

    Attributes
    ----------
    runs : list
        Of those that were queued: the id of the graph that it is, and whether the session waits for its end.
    """

    def __init__(self, session: Any, library: FakeCuda, stream: int) -> None:
        self._session, self._library, self._stream = session, library, stream
        self.runs: list[tuple[int, bool]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        waits = options.get_run_config_entry("disable_synchronize_execution_providers") != "1"
        self.runs.append((int(options.get_run_config_entry("gpu_graph_id")), waits))
        self._library.queue(self._stream, lambda: self._session.run_with_iobinding(binding, options))


def on_fake_cuda(
    session: Any, spec: ModelSpec, library: FakeCuda, *, graphs: bool = False
) -> tuple[BoundAccelerator, Queued]:
    """Put a version on a driver made for tests; runs are computed by the processor, in its memory."""
    driver = Driver(0, library)
    driver.kind = "cpu"
    stream = driver.stream()
    queued = Queued(session, library, stream)
    return BoundAccelerator(queued, spec, driver, stream, graphs=graphs), queued
