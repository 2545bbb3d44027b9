"""Does anything grow or slow down when versions come and go hundreds of times?"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving import config, plan
from serving.errors import TurnoutError
from serving.gateway import Gateway
from serving.loader import resident_bytes
from serving.wire import DATATYPES, Call, InferRequest, Results, TensorIn
from tests import hostile
from tests.models import constant, heavy, mlp, place
from tests.running import READY_S_MAX

T = TypeVar("T")

MIB = 1 << 20
PLAY_S_MAX = 100.0
CYCLES = 400
SETTLED = 100
"""Cycles after which memory has found its size: pools, caches and lazy imports are filled."""
REQUESTS = 20
"""Asked of the model in each cycle."""
KEPT_STREAMS = 2
"""Of the model that stays, one input and one output."""

KEPT_BYTES_MAX = 64 << 10
"""Of inputs that are kept for replays: few, so that there are no more of them at the end than early on."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Waiter:
    """A reply that somebody waits for."""

    def __init__(self) -> None:
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def answer(self, _request: InferRequest, results: Results, start: int, stop: int) -> None:
        self.done.set_result(float(results.part(0, start, stop).ravel()[0]))

    def fail(self, _request: InferRequest, error: TurnoutError) -> None:
        self.done.set_exception(error)


ROW = Call((TensorIn("x", DATATYPES["FP32"], (1, 16)),))


async def ask(gateway: Gateway, model: str) -> float:
    """Infer once."""
    waiter = Waiter()
    payload = np.zeros((1, 16), np.float32).tobytes()
    gateway.infer(model, "", InferRequest(ROW, [payload], waiter, b"", time.monotonic_ns()))
    return await waiter.done


async def cost_us(gateway: Gateway, model: str) -> float:
    """Return the processor time of one of `REQUESTS` requests, in microseconds. The loop's thread alone."""
    began_ns = time.thread_time_ns()
    for _ in range(REQUESTS):
        await ask(gateway, model)
    return (time.thread_time_ns() - began_ns) / REQUESTS / 1000


Scene = Callable[[Gateway], Coroutine[Any, Any, T]]


def play(scene: Scene[T], folder: Path, collect: bool = True) -> T:
    """Run `scene` with a gateway on the repository ``folder/models`` and return what it returns."""
    document = {
        "repository": {"path": str(folder / "models"), "state": str(folder / "state")},
        "engine": {"inline_us_max": 20_000},
        "replay": {"bytes_max": KEPT_BYTES_MAX},
    }

    async def run() -> T:
        gateway = Gateway(config.parse(document))
        await gateway.start()
        try:
            return await scene(gateway)
        finally:
            await gateway.close()

    plan.RETRY_S = -1.0  # What failed is tried again at once.
    if not collect:
        gc.disable()
    return asyncio.run(run())


def alone(scene: Scene[T], folder: Path, *, collect: bool = True) -> T:
    """Play a scene in a process of its own, whose memory nobody else has torn holes into."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(play, scene, folder, collect).result(PLAY_S_MAX)


class Hundreds(NamedTuple):
    """What hundreds of cycles measured: of requests to two models, and after `SETTLED` and all cycles."""

    costs_us: list[tuple[float, float]]
    bytes_: list[int]
    objects: list[int]
    threads: list[int]


async def counted(gateway: Gateway) -> None:
    """Wait until what the unloaded versions were asked is counted, and only the one kept is watched."""
    until_s = time.monotonic() + READY_S_MAX
    while len(gateway.watch.flows) > KEPT_STREAMS:
        assert time.monotonic() < until_s, gateway.watch
        await asyncio.sleep(0.05)


async def load_and_unload(gateway: Gateway) -> Hundreds:
    measured = Hundreds([], [], [], [])
    for cycle in range(CYCLES):
        measured.costs_us.append((await cost_us(gateway, "m"), await cost_us(gateway, "kept")))
        await gateway.shelf.unload("m")
        if cycle in (SETTLED, CYCLES - 1):
            await counted(gateway)
            gc.collect()
            measured.bytes_.append(resident_bytes())
            measured.objects.append(len(gc.get_objects()))
            measured.threads.append(threading.active_count())
        await gateway.shelf.refresh()
    return measured


def test_hundreds_of_loads_and_unloads_leave_memory_threads_and_request_cost_flat(tmp_path):
    place(tmp_path / "models", "m", 1, mlp())
    place(tmp_path / "models", "kept", 1, mlp(1))
    measured = alone(load_and_unload, tmp_path)
    for before, after, most in (
        (*measured.bytes_, 12 * MIB),  # 18 kB a cycle; a model that stayed would take ten times as much.
        (*measured.objects, 250),
        (*measured.threads, 1),  # The thread of the last unload may not have ended yet.
    ):
        assert after - before <= most
    for costs_us in zip(*measured.costs_us, strict=True):
        before_us, after_us = (
            statistics.median(costs_us[10 : SETTLED + 10]),
            statistics.median(costs_us[-SETTLED:]),
        )
        assert after_us < 2 * before_us  # What grows with the cycles would take six times as long.


async def load_and_unload_much(gateway: Gateway) -> list[tuple[int, int]]:
    sizes_bytes = []
    for _ in range(8):
        loaded = resident_bytes()
        await gateway.shelf.unload("m")
        sizes_bytes.append((loaded, resident_bytes()))
        await gateway.shelf.refresh()
    return sizes_bytes


def test_an_unloaded_version_gives_its_memory_back_at_once(tmp_path):
    """Without waiting for Python's garbage collection, which may come minutes later."""
    place(tmp_path / "models", "m", 1, heavy(40), "max_batch_size: 0")
    place(tmp_path / "models", "kept", 1, mlp())
    sizes_bytes = alone(load_and_unload_much, tmp_path, collect=False)
    assert statistics.median(loaded - unloaded for loaded, unloaded in sizes_bytes) > 30 * MIB
    for of_all in zip(*sizes_bytes, strict=True):
        assert of_all[-1] - of_all[1] < 8 * MIB


def needs_one_row(weights_mib: int) -> onnx.ModelProto:
    """Return a model that admission runs, and that fails once it is warmed at two rows."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], end=1),
        helper.make_node("Sub", ["size", "one"], ["last"]),
        helper.make_node("Gather", ["table", "last"], ["row"]),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "row"], ["y"]),
    ]
    width = weights_mib * MIB // 4 // 16
    weights = {
        "one": np.array([1]),
        "table": np.zeros((1, 1), np.float32),
        "w": np.random.default_rng(0).standard_normal((16, width), np.float32),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])]
        for name, size in (("x", 16), ("y", width))
    ]
    graph = helper.make_graph(nodes, "g", *ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


async def fail_to_load(gateway: Gateway) -> list[tuple[int, int]]:
    sizes = []
    for _ in range(100):
        await gateway.shelf.refresh()
        assert "Gather" in gateway.shelf.index["bad"]["1"].reason
        await ask(gateway, "kept")
        sizes.append((resident_bytes(), threading.active_count()))
    return sizes


def test_a_hundred_loads_that_fail_leave_memory_flat_and_what_serves_serving(tmp_path):
    place(tmp_path / "models", "bad", 1, needs_one_row(4), "max_batch_size: 2")
    place(tmp_path / "models", "kept", 1, mlp())
    sizes = alone(fail_to_load, tmp_path, collect=False)
    (bytes_before, threads_before), (bytes_after, threads_after) = (
        map(statistics.median, zip(*part, strict=True)) for part in (sizes[10:20], sizes[-10:])
    )
    assert bytes_after - bytes_before < 16 * MIB  # One of them alone holds 4, and twice that while it loads.
    assert threads_after <= threads_before + 1


async def be_refused(gateway: Gateway) -> list[tuple[int, int]]:
    me, counts = psutil.Process(), []
    for _ in range(6):
        await gateway.shelf.refresh()
        await ask(gateway, "kept")
        counts.append((me.num_fds(), len(me.children())))
    return counts


def test_candidates_that_are_refused_leave_no_process_and_no_open_file(tmp_path):
    hostile.lay_out(tmp_path / "models" / "bad" / "1", b"no model")
    place(tmp_path / "models", "kept", 1, mlp())
    counts = alone(be_refused, tmp_path)
    assert set(counts[1:]) == {counts[0]}
    assert counts[0][1] == 1  # The one that counts for drift.


def served(folder: Path, admission: str = "", poll_s: float = 0.0) -> subprocess.Popen[str]:
    """Start the command that a user gives, on free ports."""
    file = folder / "turnout.toml"
    file.write_text(
        '[server]\nhttp = "127.0.0.1:0"\ngrpc = "127.0.0.1:0"\nmetrics = "127.0.0.1:0"\n'
        f'[repository]\npath = "{folder / "models"}"\nstate = "{folder / "state"}"\npoll_s = {poll_s}\n'
        f"[admission]\n{admission}\n"
    )
    command = [sys.executable, "-m", "serving.cli", "serve", "--local", "--config", str(file)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[2]
    )


def test_a_candidate_that_hangs_does_not_hold_up_the_end(tmp_path):
    """The loader's thread was once waited for at exit, and with it the whole deadline of admission."""
    place(tmp_path / "models", "m", 1, constant(1))
    hostile.lay_out(tmp_path / "models" / "bad" / "1", hostile.inlining_bomb())
    process = served(tmp_path, "deadline_s = 50")
    try:
        until_s = time.monotonic() + READY_S_MAX
        child = psutil.Process(process.pid)
        while not any("admit_child" in " ".join(each.cmdline()) for each in child.children()):
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.05)
        trials = child.children()
        time.sleep(0.5)
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert time.monotonic() - began_s < 40  # Of the 50 s that the candidate may take.
        _, alive = psutil.wait_procs(trials, timeout=10)
        assert alive == []
    finally:
        process.kill()
        process.wait()
