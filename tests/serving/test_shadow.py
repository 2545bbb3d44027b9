"""Does a shadow say truly how a version compares, and does it keep whatever happens to it to itself?"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest

from serving import config
from serving.keeper import Death
from serving.model import Artifact, Device, ModelConfig, ModelSpec
from serving.session import Session, Stop, open_onnx
from serving.shadow.comparison import NOISE, Drop, ShadowReading
from serving.shadow.shadow import Shadow
from serving.signature import signature
from serving.track import Batch
from serving.wire import InferRequest
from tests import models

pytestmark = pytest.mark.timeout(300)

WHOLE = 10_000
READY_S_MAX = 240
"""A process of the lowest rank gets ready in a second, or far later where others want all processors."""
ENDLESS = 1e18


class Version:
    """A model on disk, and batches that it answered."""

    def __init__(self, folder: Path, proto: onnx.ModelProto, version: int = 8, rows_max: int = 64) -> None:
        path = folder / f"{version}.onnx"
        onnx.save(proto, path)
        session = open_onnx(str(path), Device.CPU, 1)
        inputs, outputs = signature(session)
        artifact = Artifact("m", version, f"{version}", path, path.stat().st_size)
        self.spec = ModelSpec(artifact, ModelConfig("m"), inputs, outputs, rows_max)
        self._session = Session(session, inputs, outputs)

    def answer(self, rows: int | None = None, requests: int = 1, **feeds: np.ndarray) -> Batch:
        """Run on the feeds, which are rows unless it says 0."""
        if rows is None:
            rows = len(next(iter(feeds.values())))
        batch = Batch([InferRequest.__new__(InferRequest)] * requests, rows, 0, time.monotonic_ns())
        batch.feeds, batch.outputs = feeds, self._session.run(feeds, Stop())
        batch.ended_ns = time.monotonic_ns()
        return batch


def on_loop(test):
    """Make a coroutine function a test."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def settings(**changes: Any) -> config.Shadow:
    return config.Shadow(**{"queue_bytes": 1 << 20, "memory_bytes_max": 1 << 30, "age_s_max": 600, **changes})


@asynccontextmanager
async def shadowing(version, share_bp=WHOLE, ready=True, **changes: Any):
    further = {name: changes.pop(name) for name in ("noise", "random") if name in changes}
    shadow = Shadow(version.spec, share_bp, settings(**changes), **further)
    await shadow.start()
    try:
        if ready:
            await until(lambda: shadow.ready)
        yield shadow
    finally:
        pid = shadow._process.pid
        await shadow.close()
        assert not pid or not psutil.pid_exists(pid)


async def until(true, wait_s=READY_S_MAX):
    over_s = time.monotonic() + wait_s
    while not true():
        assert time.monotonic() < over_s, "it never came true"
        await asyncio.sleep(0.01)


async def settled(shadow, rows, primary="7"):
    """Wait until so many rows were compared or dropped, and return how they compared."""

    def done():
        pair = shadow.reading().pairs.get(primary)
        return pair is not None and pair.rows + sum(pair.dropped.values()) >= rows

    await until(done)
    return shadow.reading().pairs[primary]


def features(rows, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)


@on_loop
async def test_a_model_agrees_with_itself_in_all_and_the_reading_says_so(tmp_path):
    version = Version(tmp_path, models.mlp())
    async with shadowing(version, noise=True) as shadow:
        for seed in range(20):
            shadow.tap(version.answer(x=features(32, seed)), "8")
        pair = await settled(shadow, 640, "8")
    assert (pair.rows, pair.dropped) == (640, {})
    document = shadow.reading().document("8")["against"]["8"]
    assert (document["noise"], document["meaning"]) == (True, NOISE)
    output = document["outputs"]["y"]
    assert (output["compared"], output["agreement"], output["flips"]) == (640, 1, [])
    assert (output["difference"]["max"], output["rank_correlation"]) == (0, pytest.approx(1))
    latency = document["latency"]
    assert latency["runs"] == 20
    assert 0 < latency["shadow"]["p50_s"] <= latency["shadow"]["p99_s"] < 1
    json.dumps(document, allow_nan=False)


@on_loop
async def test_two_models_differ_by_what_they_differ_and_flips_say_from_where_to_where(tmp_path):
    seven, eight = Version(tmp_path, models.mlp(7), 7), Version(tmp_path, models.mlp(8), 8)
    x = features(64)
    ours, theirs = (each.answer(x=x).outputs[0] for each in (seven, eight))
    async with shadowing(eight) as shadow:
        shadow.tap(seven.answer(x=x), "7")
        pair = await settled(shadow, 64)
    output = pair.outputs["y"]
    changed = ours.argmax(1) != theirs.argmax(1)
    assert 0 < changed.mean() < 1
    assert output.disagreement == pytest.approx(changed.mean())
    wanted = {
        (a, b): int(((ours.argmax(1) == a) & (theirs.argmax(1) == b)).sum()) for a in (0, 1) for b in (0, 1)
    }
    assert dict(output.flips) == wanted
    shown = output.document()
    assert shown["difference"]["max"] == pytest.approx(np.abs(ours - theirs).max())
    assert shown["difference"]["mean"] == pytest.approx(np.abs(ours - theirs).mean(), rel=1e-5)


@on_loop
async def test_another_constant_is_another_constant_away(tmp_path):
    one, two = Version(tmp_path, models.constant(1.0), 7), Version(tmp_path, models.constant(3.5), 8)
    async with shadowing(two) as shadow:
        shadow.tap(one.answer(x=np.ones((5, 4), np.float32)), "7")
        pair = await settled(shadow, 5)
    difference = pair.outputs["y"].document()["difference"]
    assert (difference["max"], difference["mean"]) == (2.5, 2.5)


def echoing(*datatypes: str) -> onnx.ModelProto:
    """Return a model that gives each of its inputs back, `x0` as `y0` and so on."""
    inputs, outputs = (
        [
            models._value(f"{name}{at}", models.ONNX_TYPES[each], ["N", "M"])
            for at, each in enumerate(datatypes)
        ]
        for name in "xy"
    )
    nodes = [onnx.helper.make_node("Identity", [f"x{at}"], [f"y{at}"]) for at in range(len(datatypes))]
    return models._model(nodes, inputs, outputs)


@pytest.mark.parametrize("datatypes", [("BYTES", "INT64", "BOOL", "FP16", "FP64", "UINT8"), ("BF16",)])
@on_loop
async def test_every_kind_of_output_is_compared(tmp_path, datatypes):
    """As many as one version can have, since each process takes a second to start."""
    version = Version(tmp_path, echoing(*datatypes))
    x = np.array([["0", "1", "1"], ["1", "0", "0"]], np.object_)
    feeds = {
        each.name: x
        if each.datatype.dtype == np.object_
        else x.astype(np.float32).astype(each.datatype.dtype)
        for each in version.spec.inputs
    }
    other = version.answer(**feeds)
    other.outputs = [np.ascontiguousarray(each[::-1]) for each in other.outputs]
    async with shadowing(version) as shadow:
        shadow.tap(version.answer(**feeds), "7")
        shadow.tap(other, "6")
        same, turned = await settled(shadow, 2), await settled(shadow, 2, "6")
    assert (same.rows, same.dropped, turned.rows, turned.dropped) == (2, {}, 2, {})
    assert [each.disagreement for each in same.outputs.values()] == [0] * len(datatypes)
    assert [each.disagreement for each in turned.outputs.values()] == [1] * len(datatypes)


@on_loop
async def test_a_shadow_that_takes_fewer_rows_at_once_gets_them_in_parts(tmp_path):
    large, small = Version(tmp_path, models.mlp(1), 7), Version(tmp_path, models.mlp(1), 8, rows_max=3)
    async with shadowing(small) as shadow:
        shadow.tap(large.answer(x=features(10)), "7")
        pair = await settled(shadow, 10)
    assert (pair.rows, pair.outputs["y"].disagreement) == (10, 0)


@on_loop
async def test_what_cannot_be_compared_is_dropped_and_said_once(tmp_path, caplog):
    wide, narrow = Version(tmp_path, models.mlp(), 7), Version(tmp_path, models.constant(1.0), 8)
    async with shadowing(narrow, ready=False) as shadow:
        for rows in (1, 2, 3):
            shadow.tap(wide.answer(x=features(rows)), "7")
        assert shadow.reading().pairs["7"].dropped == {Drop.MISFIT: 6}
    assert sum("shadow_misfit" in each.message for each in caplog.records) == 1


@on_loop
async def test_strangers_rows_are_not_given_to_a_model_that_does_not_batch(tmp_path):
    seven, eight = Version(tmp_path, models.mlp(), 7), Version(tmp_path, models.mlp(), 8, rows_max=0)
    async with shadowing(eight) as shadow:
        shadow.tap(seven.answer(x=features(4), requests=2), "7")
        shadow.tap(seven.answer(x=features(4)), "7")
        pair = await settled(shadow, 5)
    assert (pair.rows, pair.dropped) == (1, {Drop.MISFIT: 4})
    assert pair.outputs["y"].counts[0] == 4


@on_loop
async def test_the_noise_arm_takes_only_its_own_answers_and_any_other_shadow_only_those_of_others(tmp_path):
    version = Version(tmp_path, models.mlp())
    for noise in (True, False):
        async with shadowing(version, ready=False, noise=noise) as shadow:
            shadow.tap(version.answer(x=features(1)), "7")
            shadow.tap(version.answer(x=features(1)), "8")
            assert set(shadow.reading().pairs) == ({"8"} if noise else {"7"})


@on_loop
async def test_outputs_are_found_by_name_once_the_version_was_introduced(tmp_path):
    version = Version(tmp_path, models.mlp())
    other = ModelSpec(
        Artifact("m", 7, "7", version.spec.artifact.path, 1), ModelConfig("m"), version.spec.inputs,
        (version.spec.outputs[0].__class__("z", *_rest(version)), version.spec.outputs[0]), 64,
    )  # fmt: skip
    batch = version.answer(x=features(3))
    batch.outputs.insert(0, np.zeros_like(batch.outputs[0]))
    async with shadowing(version) as shadow:
        shadow.introduce(other)
        shadow.tap(batch, "7")
        pair = await settled(shadow, 3)
    assert pair.outputs["y"].disagreement == 0


def _rest(version):
    spec = version.spec.outputs[0]
    return spec.datatype, spec.shape


@on_loop
async def test_a_share_takes_the_rows_drawn_and_leaves_the_others(tmp_path):
    seven, eight = Version(tmp_path, models.mlp(7), 7), Version(tmp_path, models.mlp(8), 8)
    x = features(64)
    batch = seven.answer(x=x)
    batches = 30
    async with shadowing(eight, share_bp=2500, random=np.random.default_rng(1)) as shadow:
        for _ in range(batches):
            shadow.tap(batch, "7")
        expected = 64 * batches / 4
        pair = await settled(shadow, expected / 2)
        await asyncio.sleep(0.2)
        pair = shadow.reading().pairs["7"]
    assert pair.dropped == {}
    assert expected * 0.8 < pair.rows < expected * 1.2
    assert sum(pair.primary.counts) == 0  # No run's rows are all there, so none is like the other.
    one, two = batch.outputs[0].argmax(1), eight.answer(x=x).outputs[0].argmax(1)
    assert pair.outputs["y"].disagreement == pytest.approx((one != two).mean(), abs=0.1)


@on_loop
async def test_a_run_that_does_not_end_is_ended_counted_and_the_rest_is_compared(tmp_path):
    version = Version(tmp_path, models.spinning())
    hanging = version.answer(x=np.zeros((2, 4), np.float32))
    hanging.feeds = {"x": np.full((2, 4), ENDLESS, np.float32)}
    async with shadowing(version, run_s_max=0.3) as shadow:
        for batch in (version.answer(x=np.zeros((3, 4), np.float32)), hanging):
            shadow.tap(batch, "7")
        shadow.tap(version.answer(x=np.ones((5, 4), np.float32)), "7")
        pair = await settled(shadow, 10)
        assert (pair.rows, pair.dropped) == (8, {Drop.HUNG: 2})
        assert shadow.reading().restarts == {Death.HUNG: 1, Death.CRASHED: 0}
        assert shadow.ready


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
@on_loop
async def test_of_a_process_that_is_killed_nothing_is_lost_but_what_it_was_at(tmp_path, number):
    version = Version(tmp_path, models.spinning())
    slow = version.answer(x=np.zeros((2, 4), np.float32))
    slow.feeds = {"x": np.full((2, 4), ENDLESS, np.float32)}
    quick = version.answer(x=np.zeros((1, 4), np.float32))
    async with shadowing(version) as shadow:
        for _ in range(50):
            shadow.tap(quick, "7")
        assert (await settled(shadow, 50)).rows == 50
        shadow.tap(slow, "7")
        for _ in range(50):
            shadow.tap(quick, "7")
        await asyncio.sleep(0.1)
        await until(lambda: (turn := shadow._process.turn()) is not None and turn.since_ns > 0)
        os.kill(shadow._process.pid, number)
        pair = await settled(shadow, 102)
        assert (pair.rows, pair.dropped) == (100, {Drop.CRASHED: 2})
        assert shadow.reading().restarts[Death.CRASHED] == 1


@on_loop
async def test_who_dies_too_often_is_given_up_with_a_reason(tmp_path):
    version = Version(tmp_path, models.mlp())
    version.spec.artifact.path.write_bytes(b"no model")
    async with shadowing(version, ready=False, restarts_max=1) as shadow:
        shadow.tap(version.answer(x=features(2)), "7")
        await until(lambda: shadow.reading().given_up)
        shadow.tap(version.answer(x=features(3)), "7")
        reading = shadow.reading()
    assert "died 2 times" in reading.given_up
    assert "Protobuf" in reading.given_up
    assert reading.restarts[Death.CRASHED] == 1
    assert reading.pairs["7"].dropped == {Drop.GIVEN_UP: 3}
    assert reading.running == 0


@on_loop
async def test_memory_without_end_is_refused_to_the_process_and_fails_its_runs_alone(tmp_path):
    nodes = [
        onnx.helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        onnx.helper.make_node("Cast", ["most"], ["count"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("Reshape", ["count", "one"], ["shape"]),
        onnx.helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        onnx.helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        onnx.helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    dims = ["N", 4]
    bomb = models._model(
        nodes,
        [models._value("x", onnx.TensorProto.FLOAT, dims)],
        [models._value("y", onnx.TensorProto.FLOAT, dims)],
        {"one": np.array([1])},
    )
    version = Version(tmp_path, bomb)
    large = version.answer(x=np.ones((1, 4), np.float32))
    large.feeds = {"x": np.full((1, 4), 4e9, np.float32)}
    async with shadowing(version, memory_bytes_max=512 << 20) as shadow:
        shadow.tap(large, "7")
        shadow.tap(version.answer(x=np.ones((1, 4), np.float32)), "7")
        pair = await settled(shadow, 2)
        assert pair.rows == 1
        assert sum(pair.dropped.values()) == 1
        assert set(pair.dropped) <= {Drop.FAILED, Drop.CRASHED}


@on_loop
async def test_a_full_ring_drops_and_keeps_nobody_waiting(tmp_path):
    version = Version(tmp_path, models.spinning())
    slow = version.answer(x=np.zeros((64, 4), np.float32))
    slow.feeds = {"x": np.full((64, 4), ENDLESS, np.float32)}
    async with shadowing(version, queue_bytes=64 << 10) as shadow:
        for _ in range(10_000):  # None of which waits, for they would for ever.
            shadow.tap(slow, "7")
        dropped = shadow.reading().pairs["7"].dropped[Drop.FULL]
        assert 10_000 * 64 - (64 << 10) / 16 < dropped < 10_000 * 64
        await asyncio.sleep(0.05)
        shadow.tap(slow, "7")


@on_loop
async def test_a_batch_too_large_for_the_ring_is_dropped_as_that(tmp_path):
    version = Version(tmp_path, models.mlp(), rows_max=4096)
    async with shadowing(version, ready=False, queue_bytes=64 << 10) as shadow:
        shadow.tap(version.answer(x=features(600)), "7")
        assert shadow.reading().pairs["7"].dropped == {Drop.TOO_LARGE: 600}


@on_loop
async def test_what_waited_too_long_is_dropped_as_stale(tmp_path):
    version = Version(tmp_path, models.mlp())
    async with shadowing(version, age_s_max=1) as shadow:
        old = version.answer(x=features(3))
        old.ended_ns -= 2 * 10**9
        shadow.tap(old, "7")
        shadow.tap(version.answer(x=features(4)), "7")
        pair = await settled(shadow, 7)
    assert (pair.rows, pair.dropped) == (4, {Drop.STALE: 3})


@on_loop
async def test_large_tensors_arrive_as_they_were(tmp_path):
    version = Version(tmp_path, models.identity("FP32"), rows_max=64)
    x = np.random.default_rng(0).standard_normal((16, 9000)).astype(np.float32)
    async with shadowing(version, queue_bytes=8 << 20) as shadow:
        for _ in range(20):
            shadow.tap(version.answer(x=x), "7")
            await asyncio.sleep(0.02)
        pair = await settled(shadow, 320)
    assert pair.outputs["y"].sums[:2] == (0, 0)


@on_loop
async def test_the_buffers_may_be_used_anew_as_soon_as_the_tap_returns(tmp_path):
    version = Version(tmp_path, models.mlp())
    batch = version.answer(x=features(64))
    async with shadowing(version, ready=False) as shadow:
        shadow.tap(batch, "7")
        batch.feeds["x"].fill(np.nan)
        batch.outputs[0].fill(np.nan)
        pair = await settled(shadow, 64)
    assert (pair.outputs["y"].disagreement, pair.outputs["y"].sums[0]) == (0, 0)


@on_loop
async def test_the_process_has_the_lowest_rank_and_is_the_first_to_go(tmp_path):
    async with shadowing(Version(tmp_path, models.mlp())) as shadow:
        pid = shadow._process.pid
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
        assert psutil.Process(pid).nice() == 19
        assert worst(pid)


def worst(pid):
    return Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"


@on_loop
async def test_closing_leaves_no_process_and_what_was_compared_can_still_be_read(tmp_path):
    version = Version(tmp_path, models.mlp())
    async with shadowing(version) as shadow:
        shadow.tap(version.answer(x=features(8)), "7")
        await settled(shadow, 8)
        process = psutil.Process(shadow._process.pid)
    assert not process.is_running()
    assert shadow.reading().pairs["7"].rows == 8
    shadow.tap(version.answer(x=features(8)), "7")


PARENT = """
import asyncio, sys
from pathlib import Path
from tests import models
from tests.serving.test_shadow import Version, shadowing

async def main():
    async with shadowing(Version(Path(sys.argv[1]), models.mlp())) as shadow:
        print(shadow._process.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_process_ends_with_its_parent_however_that_ends(tmp_path, root):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    assert child.wait(60) in (None, -signal.SIGKILL)


@on_loop
async def test_a_reading_is_the_same_after_a_journey_as_json_and_adds_up(tmp_path):
    version = Version(tmp_path, models.mlp())
    async with shadowing(version) as shadow:
        shadow.tap(version.answer(x=features(8)), "7")
        await settled(shadow, 8)
        reading = shadow.reading()
    again = ShadowReading.from_json(json.loads(json.dumps(reading.to_json(), allow_nan=False)))
    assert again == reading
    assert (reading + again).pairs["7"].rows == 16
    assert (reading + again).running == 2
    assert reading + ShadowReading() == reading
    assert reading.counters().running == 0
