"""How batches get onto a device and back: overlapped, each answer its own, and what fails alone."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic_ns
from typing import Any

import numpy as np
import pytest

from loadtests.gpubench.simulated import SimulatedAccelerator, SimulatedSlot
from serving.drift import intake
from serving.errors import Expired, Failed, Invalid, TurnoutError
from serving.gpu.owner import Owner
from serving.gpu.session import KEPT_BYTES_MAX, SLOTS, DeviceSession
from serving.gpu.times import Times
from serving.lane import Lane
from serving.layout import bind
from serving.ledger import Ledger
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.replay import capture
from serving.session import Feeds, Stop
from serving.tick import Tick
from serving.track import Batch
from serving.waiting import Waiting
from serving.wire import DATATYPES, Call, InferRequest, Results, TensorIn, TensorSpec

FP32 = DATATYPES["FP32"]
MS = 1_000_000
ROWS_MAX = 8
PATIENCE_S = 60.0


def spec_of(width: int = 2, rows_max: int = ROWS_MAX) -> ModelSpec:
    return ModelSpec(
        Artifact("m", 1, "d", Path("m"), 1), ModelConfig("m", rows_max=rows_max),
        (TensorSpec("x", FP32, (-1, width)), TensorSpec("more", FP32, (-1, 1), optional=True)),
        (TensorSpec("y", FP32, (-1, width)),), rows_max,
    )  # fmt: skip


def doubled(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    if 666.0 in inputs["x"]:
        raise Invalid("the model refuses these values")
    if 667.0 in inputs["x"]:
        raise RuntimeError("an error of nobody knows what")
    return [inputs["x"] * 2]


class Plain:
    """A session that doubles x and notes who had it run what."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.threads: set[int] = set()

    def run(self, feeds: Feeds, stop: Stop) -> list[Any]:
        self.rows.append(feeds["x"].shape[0])
        self.threads.add(threading.get_ident())
        return doubled(feeds)


class Held:
    """A device of which a test says when batches are done; it notes what happened, in order."""

    def __init__(self, spec: ModelSpec) -> None:
        run_ns = 1000
        self._device = SimulatedAccelerator(lambda _rows: run_ns, 1e12, doubled, spec)
        self.rows_max = self._device.rows_max
        self.log: list[str] = []
        self.gates: dict[float, threading.Event] = {}
        self.launchers: set[int] = set()
        self.broken: set[str] = set()
        self.closed = 0

    def slot(self) -> SimulatedSlot:
        slot = self._device.slot()
        return SimulatedSlot({"x": slot.inputs["x"]})  # Not what is optional.

    def _note(self, what: str, slot: SimulatedSlot) -> float:
        value = float(slot.inputs["x"][0, 0])
        self.log.append(f"{what} {value:g}")
        if what in self.broken:
            self.broken.discard(what)
            raise Failed(f"the device failed at {what}")
        return value

    def stage(self, slot: SimulatedSlot, rows: int) -> None:
        self._device.stage(slot, rows)
        self._note("stage", slot)

    def launch(self, slot: SimulatedSlot, rows: int) -> None:
        self.launchers.add(threading.get_ident())
        self._note("launch", slot)
        self._device.launch(slot, rows)

    def wait(self, slot: SimulatedSlot, rows: int) -> list[Any]:
        value = self._note("wait", slot)
        gate = self.gates.get(value)
        assert gate is None or gate.wait(PATIENCE_S)
        self.log.append(f"done {value:g}")
        return self._device.wait(slot, rows)

    def close(self) -> None:
        self.closed += 1


class Heard:
    """A reply that keeps what it was told."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None
        self.error: TurnoutError | None = None
        self.done = asyncio.Event()

    def answer(self, _request: InferRequest, results: Results, start: int, stop: int) -> None:
        assert not self.done.is_set()
        self.value = np.array(results.part(0, start, stop))
        self.done.set()

    def fail(self, _request: InferRequest, error: TurnoutError) -> None:
        assert not self.done.is_set()
        self.error = error
        self.done.set()


class Stage:
    """A lane on a device."""

    def __init__(self, width: int = 2, run_ns: int = MS) -> None:
        self.spec = spec_of(width)
        self.device, self.plain = Held(self.spec), Plain()
        self.session = DeviceSession(self.device, self.plain, Owner("test-device"))
        self.session.tune(Times({1: run_ns, ROWS_MAX: run_ns}, {}))
        self.loop = asyncio.get_running_loop()
        self.tick = Tick(self.loop)
        waiting = Waiting(None, ROWS_MAX, 1000)
        self.lane = Lane(
            self.loop, self.tick, self.spec, self.session, Ledger(), waiting, 0, SLOTS, self.session
        )
        self.heard: list[Heard] = []

    def send(
        self,
        value: float,
        rows: int = 1,
        lives_ns: int = 3600_000 * MS,
        lane: Lane | None = None,
        *,
        more: bool = False,
    ) -> Heard:
        width = self.spec.inputs[0].shape[1]
        tensors = [TensorIn("x", FP32, (rows, width)), TensorIn("more", FP32, (rows, 1))]
        call = Call(tuple(tensors[: 1 + more]))
        heard, now_ns = Heard(), monotonic_ns()
        payloads = [np.full((rows, width), value, np.float32).tobytes(), bytes(4 * rows)][: 1 + more]
        request = InferRequest(call, payloads, heard, b"", now_ns, now_ns + lives_ns)
        request.layout = bind(self.spec, call)
        (self.lane if lane is None else lane).submit(request)
        self.heard.append(heard)
        return heard

    def hold(self, value: float) -> threading.Event:
        gate = self.device.gates[value] = threading.Event()
        return gate

    async def until(self, true: Callable[[], Any]) -> None:
        until_ns = monotonic_ns() + int(PATIENCE_S * 1e9)
        while not true():
            assert monotonic_ns() < until_ns, self.device.log
            await asyncio.sleep(0.001)

    async def saw(self, *events: str) -> None:
        await self.until(lambda: set(events) <= set(self.device.log))

    async def close(self) -> None:
        for each in self.heard:
            await each.done.wait()
        await self.lane.close()
        self.session.close()


def on_loop(test: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE_S))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def values(heard: list[Heard]) -> list[float | None]:
    return [None if each.value is None else float(each.value[0, 0]) for each in heard]


@on_loop
async def test_the_next_batch_is_on_the_device_before_the_last_one_is_done() -> None:
    stage = Stage()
    gate = stage.hold(1)
    stage.send(1)
    await stage.saw("wait 1")
    stage.send(2)
    await stage.saw("launch 2")
    assert "done 1" not in stage.device.log
    gate.set()
    await stage.close()
    assert values(stage.heard) == [2, 4]


@on_loop
async def test_who_comes_while_the_device_works_shares_the_next_run() -> None:
    stage = Stage(run_ns=100_000 * MS)  # It is expected to take its time.
    gate = stage.hold(1)
    stage.send(1)
    await stage.saw("wait 1")
    for value in (2, 3, 4):
        stage.send(value)
        await asyncio.sleep(0.002)
    assert not [event for event in stage.device.log if event.endswith((" 2", " 3", " 4"))]
    assert stage.lane.waiting.count == 3
    gate.set()
    await stage.close()
    assert values(stage.heard) == [2, 4, 6, 8]
    assert [event for event in stage.device.log if event.startswith("launch")] == ["launch 1", "launch 2"]


@on_loop
async def test_a_full_batch_waits_behind_the_run_and_not_for_its_end() -> None:
    stage = Stage(run_ns=100_000 * MS)
    gates = [stage.hold(1), stage.hold(2)]
    stage.send(1)
    await stage.saw("wait 1")
    for _ in range(3 * ROWS_MAX):
        stage.send(2)
    await stage.saw("launch 2")
    await asyncio.sleep(0.01)
    assert stage.lane.waiting.count == 2 * ROWS_MAX, "one runs, one is ready, and no more"
    for gate in gates:
        gate.set()
    await stage.close()
    assert values(stage.heard) == [2, *[4] * 3 * ROWS_MAX]


@on_loop
async def test_each_request_gets_its_own_rows_back_whatever_shares_its_run() -> None:
    stage = Stage()
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 5, 200)
    for value, rows in enumerate(sizes):
        stage.send(value, int(rows))
        if rng.random() < 0.1:
            await asyncio.sleep(0.001)
    await stage.close()
    for value, (heard, rows) in enumerate(zip(stage.heard, sizes, strict=True)):
        assert heard.value is not None and heard.value.tolist() == [[2.0 * value] * 2] * rows
    assert len(stage.device.launchers) == 1
    assert not stage.plain.rows


@pytest.mark.parametrize("broken", ["stage", "launch", "wait"])
def test_a_batch_that_the_device_fails_is_run_one_by_one_and_the_next_goes_on(broken) -> None:
    @on_loop
    async def go() -> None:
        stage = Stage()
        stage.device.broken.add(broken)
        for value in (1, 2, 3):
            stage.send(value)
        for each in stage.heard:
            await each.done.wait()
        assert values(stage.heard) == [2, 4, 6]
        assert stage.plain.rows == [1, 1, 1]
        for value in range(2 * SLOTS):  # No slot is lost.
            await stage.send(10 + value).done.wait()
        assert values(stage.heard[3:]) == [20 + 2 * value for value in range(2 * SLOTS)]
        await stage.close()

    go()


@on_loop
async def test_of_a_batch_only_the_culprit_hears_that_it_failed() -> None:
    stage = Stage()
    for value in (1, 666, 3):
        stage.send(value)
    await stage.close()
    assert values(stage.heard) == [2, None, 6]
    assert isinstance(stage.heard[1].error, Invalid)
    assert stage.plain.threads == stage.device.launchers


@on_loop
async def test_an_error_that_nobody_foresaw_is_answered_and_costs_no_slot() -> None:
    stage = Stage()
    for _ in range(2 * SLOTS):
        heard = stage.send(667)
        await heard.done.wait()
        assert isinstance(heard.error, Failed)
    stage.send(1)
    await stage.close()
    assert values(stage.heard)[-1] == 2


@on_loop
async def test_a_request_that_fits_no_slot_is_run_plainly_by_the_same_thread() -> None:
    stage = Stage()
    stage.send(1)
    stage.send(2, more=True)
    await stage.close()
    assert values(stage.heard) == [2, 4]
    assert stage.plain.rows == [1]
    assert stage.plain.threads == stage.device.launchers


@on_loop
async def test_a_deadline_that_passes_while_the_device_works_for_others_is_answered() -> None:
    stage = Stage(run_ns=3600_000 * MS)
    gate = stage.hold(1)
    stage.send(1)
    await stage.saw("wait 1")
    late = stage.send(2, lives_ns=20 * MS)
    await late.done.wait()
    assert isinstance(late.error, Expired)
    gate.set()
    stage.send(3)
    await stage.close()
    assert "stage 2" not in stage.device.log
    assert values(stage.heard) == [2, None, 6]


@on_loop
async def test_a_batch_has_only_as_many_rows_as_its_first_request_can_wait_for() -> None:
    stage = Stage()
    stage.session.tune(Times({1: MS, ROWS_MAX: 3600_000 * MS}, {}))
    for value in range(4):
        stage.send(value, lives_ns=1800_000 * MS)
    for each in stage.heard:
        await each.done.wait()
    assert values(stage.heard) == [0, 2, 4, 6]
    assert stage.device._device.batches == [4]
    stage.session.tune(Times({1: MS, ROWS_MAX: 7 * 3600_000 * MS}, {}))
    for value in range(4):
        stage.send(value, lives_ns=1800_000 * MS)
    await stage.close()
    assert stage.device._device.batches == [4, 1, 1, 1, 1]


@on_loop
async def test_whoever_keeps_a_batch_still_sees_its_inputs_when_the_slot_is_used_again() -> None:
    """Drift and replay hold small batches as references, and read them later."""
    stage = Stage()
    kept: list[Batch] = []
    stage.lane.taps = [kept.append]
    for value in range(4 * SLOTS):
        await stage.send(value).done.wait()
    await stage.close()
    assert [float(batch.feeds["x"][0, 0]) for batch in kept if batch.feeds] == list(range(4 * SLOTS))


@on_loop
async def test_large_inputs_are_shown_where_they_were_gathered() -> None:
    stage = Stage(width=KEPT_BYTES_MAX)
    seen: list[tuple[float, bool]] = []

    def tap(batch: Batch) -> None:
        assert batch.feeds is not None
        seen.append((float(batch.feeds["x"][0, 0]), batch.feeds["x"].base is not None))

    stage.lane.taps = [tap]
    for value in range(3):
        await stage.send(value).done.wait()
    await stage.close()
    assert seen == [(0, True), (1, True), (2, True)]


def test_what_is_not_copied_is_more_than_anybody_holds_for_later() -> None:
    assert max(intake.HELD_BYTES_MAX, capture.HELD_BYTES_MAX) <= KEPT_BYTES_MAX


@on_loop
async def test_two_lanes_of_a_version_take_turns() -> None:
    stage = Stage()
    twin = stage.lane.twin()
    gate = stage.hold(1000)
    stage.send(1000)
    await stage.saw("wait 1000")
    for value in range(200):
        stage.send(value, lane=twin if value % 2 else stage.lane)
    gate.set()
    for each in stage.heard:
        await each.done.wait()
    assert values(stage.heard[1:]) == [2.0 * value for value in range(200)]
    launched = [int(event.split()[1]) for event in stage.device.log if event.startswith("launch")][1:]
    odd = [value % 2 for value in launched]
    assert sum(odd[: len(odd) // 2]) > len(odd) // 8  # Neither has to wait for all of the other's.
    await twin.close()
    await stage.close()


@on_loop
async def test_what_is_closed_gives_its_device_back_and_ends_its_threads() -> None:
    before = threading.active_count()
    stage = Stage()
    for value in range(20):
        stage.send(value)
    await stage.close()
    stage.session.close()
    assert stage.device.closed == 1
    await stage.until(lambda: threading.active_count() <= before)


def test_a_session_that_is_forgotten_gives_its_device_back_too() -> None:
    """A version may be loaded and then not be put up, since another one of its model could not be."""
    device, owner = Held(spec_of()), Owner("test-device")
    session = weakref.ref(DeviceSession(device, Plain(), owner))
    gc.collect()
    assert session() is None
    owner.join()
    assert device.closed == 1


def test_a_stop_that_comes_before_the_run_is_queued_ends_it() -> None:
    spec = spec_of()
    device = Held(spec)
    session = DeviceSession(device, Plain(), Owner("test-device"))
    waiting = Waiting(None, ROWS_MAX, 10)
    call = Call((TensorIn("x", FP32, (1, 2)),))
    request = InferRequest(call, [bytes(8)], Heard())  # type: ignore[arg-type]
    request.layout = bind(spec, call)
    waiting.offer(request)
    requests = session.turns(waiting).take(1)
    feeds = session.gather(request.layout, requests, 1)
    stop = Stop()
    stop.now()
    with pytest.raises(Expired):
        session.run(feeds, stop)
    assert device.log == []
    assert np.array_equal(session.run(feeds, Stop())[0], np.zeros((1, 2)))  # As the lane tries again.
    session.close()


def test_a_batch_alone_takes_at_least_its_copies_and_its_run() -> None:
    spec = spec_of()
    taken = ModelSpec(spec.artifact, spec.config, spec.inputs[:1], spec.outputs, ROWS_MAX)
    device = SimulatedAccelerator(lambda rows: rows * MS, 1e4, doubled, taken)
    session = DeviceSession(device, Plain(), Owner("test-device"))
    run_ns, copy_ns = session.timed(4, {"x": np.zeros((4, 2), np.float32)})
    assert run_ns > 0
    assert run_ns + copy_ns >= 4 * MS + 2 * device.device.copy_ns(32)
    assert set(device.batches) == {4}
    session.close()
