"""Are the rows that a shadow took and gave counted, too, whichever of the processes dies?"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

import numpy as np
import onnx

from serving import config
from serving.drift.outlet import Outlet
from serving.drift.reading import Drop, StreamReading
from serving.drift.view import Look, View
from serving.drift.watch import Watch
from serving.model import Artifact, Device, ModelConfig, ModelSpec
from serving.session import Session, Stop, open_onnx
from serving.shadow.shadow import Shadow
from serving.signature import signature
from serving.track import Batch
from serving.wire import InferRequest
from tests import counting, models
from tests.counting import check, looks_of, mlp, profile_of, until


class Version:
    """A model on disk, and batches that another version answered as this one would."""

    def __init__(self, folder, version: int = 8) -> None:
        path = folder / f"{version}.onnx"
        onnx.save(models.mlp(), path)
        session = open_onnx(str(path), Device.CPU, 1)
        inputs, outputs = signature(session)
        artifact = Artifact("m", version, f"{version}", path, path.stat().st_size)
        self.spec = ModelSpec(artifact, ModelConfig("m"), inputs, outputs, 64)
        self._session = Session(session, inputs, outputs)
        self.fed: dict[str, list[np.ndarray]] = {"x": [], "y": []}

    def answer(self, rows: int, seed: int) -> Batch:
        x = np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)
        batch = Batch([InferRequest.__new__(InferRequest)], rows, 0, time.monotonic_ns())
        batch.feeds, batch.outputs = {"x": x}, self._session.run({"x": x}, Stop())
        batch.ended_ns = time.monotonic_ns()
        self.fed["x"].append(x)
        self.fed["y"].append(batch.outputs[0])
        return batch


@asynccontextmanager
async def watched():
    watch = Watch(config.Drift())
    watch.start()
    await watch.ready()
    try:
        yield watch
    finally:
        await watch.close()


def readings(watch: Watch, tensor: str) -> list[StreamReading]:
    return [each for key, each in watch.readings().values() if key == ("m", "8", "shadow", tensor)]


def settled(watch: Watch, rows: int):
    return lambda: all(
        sum(each.rows + sum(each.dropped.values()) for each in readings(watch, tensor)) == rows
        for tensor in "xy"
    )


def test_what_a_shadow_takes_and_gives_is_counted_as_its_own(tmp_path):
    async def scene() -> None:
        async with watched() as watch:
            shadow = Shadow(version.spec, 10_000, config.Shadow(), outlets=watch.outlets(version.spec))
            await shadow.start()
            for seed in range(30):
                shadow.tap(version.answer(7, seed), "7")
                if seed == 15:
                    await until(settled(watch, 7 * 16))
                    os.kill(watch._process.pid, signal.SIGKILL)
                    os.kill(shadow._process.pid, signal.SIGKILL)
            await until(settled(watch, 210))
            await shadow.close()
            watch.release(shadow.outlets)
        for tensor in "xy":
            (reading,) = readings(watch, tensor)
            assert reading.dropped == {}
            check(reading, version.fed[tensor])

    version = Version(tmp_path)
    asyncio.run(scene())


def test_a_profile_begins_a_stream_for_a_shadow_that_runs():
    async def scene() -> None:
        async with watched() as watch:
            outlets = watch.outlets(version.spec)
            outlet = {each["look"]["tensor"]: each for each in outlets.task()}["x"]
            writer = Outlet(outlet["fd"], outlet["bytes"], Look.from_json(outlet["look"]))
            rows = np.random.default_rng(3).standard_normal((50, 16)).astype(np.float32)
            writer.put({"x": rows}, {})
            watch.follow_profiles({("m", "8"): profile})
            writer.put({"x": rows[:20]}, {})
            writer.put({"x": rows[:7, :5]}, {})
            await until(lambda: sum(each.rows for each in readings(watch, "x")) == 70)
            watch.release(outlets)
        before, after = sorted(readings(watch, "x"), key=lambda each: each.profile)
        check(before, [rows])
        check(after, [rows[:20]], profile)
        assert after.dropped == {Drop.MISFIT: 7}

    version = mlp(number=8)
    profile = profile_of(version, *looks_of(version))
    asyncio.run(scene())


def test_a_shadow_is_started_anew_when_its_rows_are_to_be_looked_at_otherwise():
    version = counting.Version({"x": ("INT64", [-1, -1])}, {"y": ("FP32", [-1, 2])}, number=8)
    profile = profile_of(version, Look("x", "input", View.CODES, "INT64", (4,)))
    changes = []

    async def scene() -> None:
        watch = Watch(config.Drift(), lambda: changes.append("changed"))
        watch.start()
        outlets = watch.outlets(version.spec)
        before = watch.looks(version.spec)
        watch.follow_profiles({("m", "8"): profile})
        assert changes == ["changed"]
        assert watch.looks(version.spec) != before
        watch.release(outlets)
        await watch.close()

    asyncio.run(scene())
