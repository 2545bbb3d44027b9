"""How many of L's 602 kB tensors a second, where they stay in the memory that client and server share?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.utils.shared_memory as memory
from tritonclient.grpc import service_pb2 as v2
from tritonclient.utils import InferenceServerException

from loadtests.bench import models, traffic, wrk
from loadtests.bench.errors import BenchError
from loadtests.bench.readings import Reading, Target, limit, rounds, summary
from loadtests.bench.rows import Goal, Row, or_reason, ratio
from loadtests.bench.server import Server
from loadtests.bench.traffic import DISTINCT, Body, Encoding, Traffic
from loadtests.bench.turnout import Bench, Setup
from loadtests.grpcbench.asked import infer, right
from loadtests.grpcbench.calling import Crowd, calls

CONNECTIONS = 8
GOAL = Goal(0.60)
LIMIT, FLOOR = "in-process limit", "HTTP floor"
COPY_LIMIT = "in-process limit, inputs copied"
"""With each input copied out of the same memory first, the fastest way: who may not trust it has to do so."""
NAME = f"shared memory/L-{CONNECTIONS}: to {LIMIT}"
EXTENSION = "system_shared_memory"
KIND = Traffic("L", Encoding.JSON, distinct=True)
X_BYTES = 4 * int(np.prod(models.SHAPES["L"]))
Y_BYTES, Y_STRIDE, Y_BASE = 40, 64, 4096
"""The first answer's offset is as many digits and bytes long as the last one's, and so is what tells it."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region of shared memory, which tritonclient made."""

    name: str
    key: str
    size: int
    handle: Any


@contextlib.contextmanager
def regions() -> Iterator[tuple[Region, Region]]:
    """Make a region with all samples of L, and one for as many answers."""
    samples = models.samples("L", DISTINCT["L"])
    with contextlib.ExitStack() as made:
        x = made.enter_context(_region("x", X_BYTES * len(samples)))
        y = made.enter_context(_region("y", Y_BASE + Y_STRIDE * len(samples)))
        memory.set_shared_memory_region(x.handle, samples)
        yield x, y


@contextlib.contextmanager
def _region(name: str, size: int) -> Iterator[Region]:
    key = f"/turnout-bench-{os.getpid()}-{name}"
    handle = memory.create_shared_memory_region(name, key, size)
    try:
        yield Region(name, key, size, handle)
    finally:
        memory.destroy_shared_memory_region(handle)


def bodies() -> list[Body]:
    """Let tritonclient make the bodies: where each sample is, and where its answer shall be."""
    return [_body(number) for number in range(DISTINCT["L"])]


def _body(number: int) -> Body:
    x, y = triton.InferInput("x", list(models.SHAPES["L"]), "FP32"), triton.InferRequestedOutput("y")
    x.set_shared_memory("x", X_BYTES, number * X_BYTES)
    y.set_shared_memory("y", Y_BYTES, Y_BASE + number * Y_STRIDE)
    made = triton.InferenceServerClient.generate_request_body([x], outputs=[y], request_id=f"{number:016x}")
    return Body(made[0], made[1] or 0)


def messages() -> list[Any]:
    """Return the same for gRPC."""
    return [_message(number) for number in range(DISTINCT["L"])]


def _message(number: int) -> Any:
    made = v2.ModelInferRequest(model_name="L", id=f"{number:016x}")
    x = made.inputs.add(name="x", datatype="FP32", shape=models.SHAPES["L"])
    _place(x.parameters, "x", X_BYTES, number * X_BYTES)
    _place(made.outputs.add(name="y").parameters, "y", Y_BYTES, Y_BASE + number * Y_STRIDE)
    return made


def _place(parameters: Any, region: str, size: int, offset: int) -> None:
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        parameters["shared_memory_offset"].int64_param = offset


def shared(bench: Bench) -> Iterator[Row]:
    """Measure L through shared memory beside its limit, and the HTTP floor with as small a body."""
    if bench.wants(NAME):
        yield from or_reason(_shared(bench), NAME, "ratio", GOAL)


def _shared(bench: Bench) -> Iterator[Row]:
    setup = Setup(bench.repository, models=("L",), grpc="h2", shared_memory=True, state="shared-state")
    with contextlib.ExitStack() as beside:
        running = beside.enter_context(bench.turnout("shared", setup))
        x, y = beside.enter_context(regions())
        beside.enter_context(_registered(running, x, y))
        _verify(running, y, bench)
        floor = beside.enter_context(bench.floor(KIND))
        readings = rounds(_targets(bench, running, floor, x), bench.repeat)
    yield from judge(readings)


@contextlib.contextmanager
def _registered(running: Server, *made: Region) -> Iterator[None]:
    with triton.InferenceServerClient(f"127.0.0.1:{running.port}") as client:
        try:
            if EXTENSION not in client.get_server_metadata()["extensions"]:
                raise BenchError("system shared memory is not offered")
            for each in made:
                client.register_system_shared_memory(each.name, each.key, each.size)
        except InferenceServerException as error:
            raise BenchError(f"a region was not registered: {error}") from None
        try:
            yield
        finally:
            with contextlib.suppress(InferenceServerException, OSError):
                client.unregister_system_shared_memory()


def _verify(running: Server, y: Region, bench: Bench) -> None:
    """Ask once over each protocol, and compare what is in memory then with what ONNX Runtime says."""
    url = f"http://127.0.0.1:{running.port}{KIND.path}"
    for ask in (partial(_post, url, bodies()[0]), partial(infer, running.grpc, messages()[0])):
        memory.set_shared_memory_region(y.handle, [np.zeros(Y_BYTES // 4, np.float32)], Y_BASE)
        ask()
        right("L", memory.get_contents_as_numpy(y.handle, np.float32, (1, Y_BYTES // 4), Y_BASE), bench)


def _post(url: str, body: Body) -> None:
    import requests

    got = requests.post(url, data=body.data, timeout=10)
    if got.status_code != 200:
        raise BenchError(f"{url} answered {got.status_code}: {got.text[:200]}")


def _targets(bench: Bench, running: Server, floor: Server, x: Region) -> dict[str, Target]:
    folder = bench.folder / "traffic"
    script, file = prepare(folder)
    return {
        f"shared memory/L-{CONNECTIONS}": _wrk(bench, script, running.port),
        f"shared memory/L-{CONNECTIONS}-grpc": calls(bench, file, Crowd(CONNECTIONS, 1), running.grpc),
        FLOOR: _wrk(bench, script, floor.port),
        LIMIT: partial(limit, bench, "L", 1, bench.seconds),
        COPY_LIMIT: partial(limit, bench, "L", 1, bench.seconds, f"/dev/shm{x.key}"),
    }


def prepare(folder: Path) -> tuple[Path, Path]:
    """Write wrk's script and the messages for gRPC into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    script, data, file = (folder / f"L-shared.{each}" for each in ("lua", "bodies", "messages"))
    data.write_bytes(traffic.pack(bodies()))
    script.write_text(traffic.script(KIND, data.resolve(), 0))
    file.write_bytes(traffic.pack([Body(each.SerializeToString(), 0) for each in messages()]))
    return script, file


def _wrk(bench: Bench, script: Path, port: int) -> Target:
    def run() -> Reading:
        got = wrk.measure(port, KIND.path, script, CONNECTIONS, bench.seconds)
        return Reading(got.per_s, got.p50_us, got.p99_us, got.busy)

    return run


def judge(readings: dict[str, list[Reading]]) -> Iterator[Row]:
    """Turn the readings into rows; the goal is about HTTP, since the floor is."""
    per_s = {name: [reading.per_s for reading in taken] for name, taken in readings.items()}
    for name, taken in readings.items():
        shown = name if name.startswith("shared") else f"{name}/L-shared"
        yield summary(shown, "requests/s", taken)
    mine, grpc, *_ = per_s
    yield ratio(NAME, per_s[mine], per_s[LIMIT], f"{LIMIT}/L-shared", GOAL)
    yield ratio(
        f"shared memory/L-{CONNECTIONS}: to {COPY_LIMIT}",
        per_s[mine],
        per_s[COPY_LIMIT],
        f"{COPY_LIMIT}/L-shared",
        None,
    )
    yield ratio(f"{grpc}: to {LIMIT}", per_s[grpc], per_s[LIMIT], f"{LIMIT}/L-shared", None)
    yield ratio(
        f"shared memory/L-{CONNECTIONS}: to {FLOOR}", per_s[mine], per_s[FLOOR], f"{FLOOR}/L-shared", None
    )
