"""With which providers of ONNX Runtime, and which options of theirs, is a version opened on a GPU?

ONNX Runtime goes on without a provider that does not start, and gives the CPU what a provider does not take.
Here both are errors: a version that is said to be on the GPU is there.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import onnxruntime as ort

from serving.config import Config
from serving.device import NoDevice
from serving.gpu.assigned import RECORD, nodes, strays, told
from serving.gpu.driver import Driver, DriverError, driver
from serving.gpu.settings import Gpu
from serving.model import ModelConfig
from serving.pbtxt_values import SWITCHES

log = logging.getLogger("turnout.gpu")
T = TypeVar("T")

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
ARENAS = {"as_requested": "kSameAsRequested", "power_of_two": "kNextPowerOfTwo"}
ENGINES = "tensorrt"
"""Folder below the state folder where TensorRT's engines are kept, if they are."""
ENGINES_AT = "trt_engine_cache_path"
TENSORRT_MISSING = "Please install TensorRT libraries"
LIBRARIES = (
    "They need CUDA 13 and cuDNN 9, which `pip install onnxruntime-gpu[cuda,cudnn]` brings along; "
    'engine.device = "cpu" does without'
)
"""What is mostly missing where a provider does not start."""
CAPTURE_REFUSED = "graph capture feature"
"""In the error of a session that was to capture graphs and cannot: control flow, or nodes on the CPU."""


class FellBack(NoDevice):
    """A version that was asked for on a GPU and would run elsewhere, wholly or in part."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a version is to be opened on a GPU.

    `graphs` is None where the model decides whether there are any. `tensorrt` has the model's parameters
    of it, and is None where it is not wanted; `engines` is where it may keep what it made. Its weights have
    `weights_bytes`, or a little less.
    """

    settings: Gpu = field(default_factory=Gpu)
    gpu: int = 0
    graphs: bool | None = None
    tensorrt: Mapping[str, str] | None = None
    engines: Path | None = None
    weights_bytes: int = 0


@dataclass(frozen=True, slots=True)
class OnGpu:
    """Where a session is: on which GPU, in which stream its runs are queued, and if they can be captured."""

    driver: Driver
    stream: int
    graphs: bool


_OPENED: weakref.WeakKeyDictionary[Any, OnGpu] = weakref.WeakKeyDictionary()


def on_gpu(session: Any) -> OnGpu | None:
    """Return where a session was opened; None for one on the CPU."""
    return _OPENED.get(session)


def apart(session: Any, run: Callable[..., T]) -> Callable[..., T]:
    """Return `run`, of a session, for any thread: captures by others do not make it fail, nor end by it.

    One at a time: all runs of a session share the handles of cuDNN and cuBLAS that belong to its stream.
    """
    where = on_gpu(session)
    if where is None:
        return run
    side, turn = where.driver, threading.Lock()

    def run_apart(*arguments: Any) -> T:
        side.stand_apart()
        try:
            with turn:
                return run(*arguments)
        except Exception:
            # ONNX Runtime has only words for it. If the GPU is lost, whatever is asked of the driver fails.
            with suppress(DriverError):
                side.mem_info()
            raise

    return run_apart


def wanted(config: ModelConfig, settings: Config, weights_bytes: int = 0, *, graphs: bool = True) -> Wanted:
    """Return how a version is to be opened, by its file and the server's; without `graphs` it has none."""
    server = settings.gpu
    tensorrt = config.tensorrt
    if tensorrt is None and "tensorrt" in server.providers:
        tensorrt = {}
    asked = (None if server.graphs else False) if config.graphs is None else config.graphs
    return Wanted(
        server,
        config.gpus[0] if config.gpus else 0,
        asked if graphs and tensorrt is None else False,
        tensorrt,
        settings.repository.state / ENGINES,
        weights_bytes,
    )


def providers(asked: Wanted, stream: int, *, graphs: bool) -> list[tuple[str, dict[str, str]]]:
    """Return ONNX Runtime's providers in the order in which they are asked to take nodes."""
    settings = asked.settings
    cuda = {
        "device_id": str(asked.gpu),
        "user_compute_stream": str(stream),
        "arena_extend_strategy": ARENAS[settings.arena],
        "cudnn_conv_algo_search": settings.convolution_search.upper(),
        "use_tf32": str(int(settings.tf32)),
        "enable_cuda_graph": str(int(graphs)),
    }
    if settings.memory_bytes_max:
        # ONNX Runtime counts weights, too, and a limit below them is none: it counts down past 0.
        cuda["gpu_mem_limit"] = str(settings.memory_bytes_max + asked.weights_bytes)
    if asked.tensorrt is None:
        return [(CUDA, cuda)]
    return [(TENSORRT, _tensorrt(asked, asked.tensorrt, stream)), (CUDA, cuda)]


def _tensorrt(asked: Wanted, parameters: Mapping[str, str], stream: int) -> dict[str, str]:
    options = {
        "device_id": str(asked.gpu),
        "user_compute_stream": str(stream),
        "trt_engine_cache_enable": "0",
    }
    match parameters.get("precision_mode"):
        case "FP16":
            options["trt_fp16_enable"] = "1"
        case "BF16":
            options["trt_bf16_enable"] = "1"
        case "INT8":
            options["trt_int8_enable"] = "1"
        case _:
            pass
    if size := parameters.get("max_workspace_size_bytes"):
        options["trt_max_workspace_size"] = size
    if SWITCHES[parameters.get("trt_engine_cache_enable", "0").lower()] and asked.engines is not None:
        options |= {"trt_engine_cache_enable": "1", ENGINES_AT: str(asked.engines)}
    return options


def open_on_gpu(path: str, options: ort.SessionOptions, asked: Wanted) -> ort.InferenceSession:
    """Create a session from a file, on a GPU and there alone.

    Raises
    ------
    NoDevice
        If there is no such GPU, a provider does not start, or nodes would run on the CPU that must not.
    Exception
        ONNX Runtime's, if it does not take the model.
    """
    ort.preload_dlls()
    try:
        side = driver(asked.gpu)
        options.add_session_config_entry(RECORD, "1")
        if asked.graphs is not False:
            try:
                return _opened(path, options, asked, side, graphs=True)
            except Exception as error:  # ONNX Runtime's classes have no base but this.
                if asked.graphs or CAPTURE_REFUSED not in str(error):
                    raise
                log.info("event=no_cuda_graphs path=%s reason=%r", Path(path).parent.name, str(error)[:300])
        return _opened(path, options, asked, side, graphs=False)
    except DriverError as error:
        raise NoDevice(f"GPU {asked.gpu} cannot be used: {error}") from None


def _opened(
    path: str, options: ort.SessionOptions, asked: Wanted, side: Driver, *, graphs: bool
) -> ort.InferenceSession:
    stream = side.stream()
    order = providers(asked, stream, graphs=graphs)
    for _, each in order:
        if engines := each.get(ENGINES_AT):
            Path(engines).mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        # With its own fall-back it would print what went wrong and begin anew on the CPU.
        session = ort.InferenceSession(path, options, [*order, "CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:
        side.end_stream(stream)
        if TENSORRT_MISSING in str(error):
            raise FellBack(f"ONNX Runtime's {TENSORRT} did not start: TensorRT is not installed") from None
        raise
    # When the session itself is gone, not this Python object before it.
    weakref.finalize(session._sess, side.end_stream, stream).atexit = False
    check(session, [name for name, _ in order], allow_cpu=asked.settings.allow_cpu)
    _OPENED[session] = OnGpu(side, stream, graphs)
    return session


def check(session: Any, names: list[str], *, allow_cpu: bool) -> None:
    """Make sure that these providers, in this order, run all that a session computes.

    Raises
    ------
    FellBack
        If one of them did not start; or, unless `allow_cpu`, if nodes fell to the CPU that do more than
        shapes need.
    """
    started = list(session.get_providers())
    if started[: len(names)] != names:
        missing = [name for name in names if name not in started] or names
        raise FellBack(
            f"ONNX Runtime's {' and '.join(missing)} did not start, its log says why; "
            f"asked for were {', '.join(names)}, and it would go on with {', '.join(started)}. {LIBRARIES}"
        )
    assigned = nodes(session)
    if (astray := strays(assigned)) and not allow_cpu:
        raise FellBack(f"{told(astray, len(assigned))}; gpu.allow_cpu = true lets them")
    if astray:
        log.warning("event=nodes_on_the_cpu reason=%r", told(astray, len(assigned)))
