"""How a lane behaves: what shares a run, who hears what, and that one slow run harms nobody else."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import monotonic_ns, sleep
from typing import Any

import numpy as np
import pytest

from serving.errors import Expired, Failed, Invalid, Overloaded, TurnoutError
from serving.lane import JOINED_SLOW_FACTOR, SLOW_FACTOR, SLOW_RUNS_MAX, Lane
from serving.layout import bind
from serving.ledger import Ledger, Reason
from serving.model import Artifact, Batching, ModelConfig, ModelSpec
from serving.session import Feeds, Stop
from serving.tick import Tick
from serving.track import PERIOD_S, STUCK_S, Watchdog
from serving.waiting import Waiting
from serving.wire import DATATYPES, Call, InferRequest, Results, TensorIn, TensorSpec

FP32 = DATATYPES["FP32"]
MS = 1_000_000


class Doubling:
    """A session that doubles x, notes the batches it was given, and can be held up or made to fail."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.nap_s = 0.0
        self.broken: TurnoutError | None = None
        self.refused: float | None = None
        self.rows_out: int | None = None

    def run(self, feeds: Feeds, stop: Stop) -> list[Any]:
        self.batches.append(feeds["x"].shape[0])
        self.threads.add(threading.get_ident())
        while not self.gate.wait(0.005):
            if stop.used:
                raise Expired("stopped")
        if self.nap_s:
            threading.Event().wait(self.nap_s)
        if self.broken is not None:
            raise self.broken
        if self.refused in feeds["x"]:
            raise Invalid("the model refuses these values")
        return [(feeds["x"] * 2)[: self.rows_out]]


class Heard:
    """A reply that keeps what it was told."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None
        self.error: TurnoutError | None = None
        self.times = 0
        self.done = asyncio.Event()

    def answer(self, _request: InferRequest, results: Results, start: int, stop: int) -> None:
        self.value = results.part(0, start, stop)
        self.times += 1
        self.done.set()

    def fail(self, _request: InferRequest, error: TurnoutError) -> None:
        self.error = error
        self.times += 1
        self.done.set()


class Track:
    """A lane with its session and ledger, and a way to send requests down it."""

    def __init__(
        self, inline: bool, batching: Batching | None = None, rows_max: int = 8, queue: int = 100
    ) -> None:
        self.session, self.ledger = Doubling(), Ledger()
        self.spec = ModelSpec(
            Artifact("m", 1, "d", Path("m"), 1), ModelConfig("m", rows_max=rows_max),
            (TensorSpec("x", FP32, (-1, 2)),), (TensorSpec("y", FP32, (-1, 2)),), rows_max,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        waiting = Waiting(batching, rows_max, queue)
        self.lane = Lane(loop, Tick(loop), self.spec, self.session, self.ledger, waiting, MS if inline else 0)
        self.calls: dict[int, Call] = {}

    def send(self, value: float, rows: int = 1, lives_ns: int = 60_000 * MS) -> tuple[InferRequest, Heard]:
        call = self.calls.setdefault(rows, Call((TensorIn("x", FP32, (rows, 2)),)))
        heard, now_ns = Heard(), monotonic_ns()
        payload = np.full((rows, 2), value, np.float32).tobytes()
        request = InferRequest(call, [payload], heard, b"", now_ns, now_ns + lives_ns)
        request.layout = bind(self.spec, call)
        self.lane.submit(request)
        return request, heard


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@on_loop
async def test_requests_of_one_tick_share_a_run_and_each_gets_its_own_rows() -> None:
    track = Track(inline=True)
    heard = [track.send(value, rows)[1] for value, rows in ((1, 1), (2, 3), (3, 2))]
    for each in heard:
        await each.done.wait()
    assert track.session.batches == [6]
    assert [each.value.tolist() for each in heard if each.value is not None] == [
        [[2, 2]], [[4, 4]] * 3, [[6, 6]] * 2,
    ]  # fmt: skip
    assert track.ledger.snapshot().requests == 3
    assert track.ledger.snapshot().rows == 6


@on_loop
async def test_a_tick_with_more_rows_than_a_batch_may_have_takes_several_runs() -> None:
    track = Track(inline=True, rows_max=4)
    heard = [track.send(value)[1] for value in range(10)]
    for each in heard:
        await each.done.wait()
    assert track.session.batches == [4, 4, 2]
    assert [float(each.value[0, 0]) for each in heard if each.value is not None] == [
        2.0 * v for v in range(10)
    ]


@on_loop
async def test_what_arrives_during_a_threads_run_shares_the_next() -> None:
    track = Track(inline=False)
    track.session.gate.clear()
    heard = [track.send(1)[1]]
    while not track.session.batches:
        await asyncio.sleep(0.001)
    heard += [track.send(value)[1] for value in (2, 3, 4)]
    await asyncio.sleep(0.01)
    track.session.gate.set()
    for each in heard:
        await each.done.wait()
    assert track.session.batches == [1, 3]
    assert threading.get_ident() not in track.session.threads
    await track.lane.close()


@on_loop
async def test_a_failing_model_tells_everybody_in_the_batch_and_goes_on() -> None:
    track = Track(inline=True)
    track.session.broken = Failed("the model failed: no")
    heard = [track.send(1)[1] for _ in range(3)]
    for each in heard:
        await each.done.wait()
    assert {str(each.error) for each in heard} == {"the model failed: no"}
    assert track.ledger.snapshot().failures[Reason.BACKEND] == 3
    track.session.broken = None
    _, fine = track.send(4)
    await fine.done.wait()
    assert fine.error is None


@pytest.mark.parametrize("inline", [True, False])
def test_a_failed_run_s_inputs_are_let_go_without_the_collector_s_help(inline: bool) -> None:
    """What ONNX Runtime had raised was kept as the error's context, and with it the frames of the run."""

    def run(_feeds: Feeds, _stop: Stop) -> list[Any]:
        try:
            raise ValueError("as ONNX Runtime does")
        except ValueError as error:
            raise Failed("the model failed") from error

    async def fail() -> weakref.ref[Any]:
        track = Track(inline)
        track.session.run = run  # type: ignore[method-assign]
        request, heard = track.send(1)
        payload = np.ones((1, 2), np.float32)
        request.payloads = [payload]
        await heard.done.wait()
        await track.lane.close()
        return weakref.ref(payload)

    gc.disable()
    try:
        payload = asyncio.run(fail())
        until_ns = monotonic_ns() + 5_000 * MS
        while payload() is not None and monotonic_ns() < until_ns:
            sleep(0.001)  # A thread lets go of its batch a moment after it has told the loop.
        assert payload() is None
    finally:
        gc.enable()


@on_loop
async def test_outputs_without_a_row_for_each_request_are_an_error_and_never_mixed_up() -> None:
    track = Track(inline=True)
    track.session.rows_out = 1
    heard = [track.send(value, rows=2)[1] for value in (1, 2)]
    for each in heard:
        await each.done.wait()
        assert "set max_batch_size: 0" in str(each.error)


@on_loop
async def test_a_batch_that_fails_is_run_one_by_one_and_only_the_culprit_hears_of_it() -> None:
    for inline in (True, False):
        track = Track(inline)
        track.session.refused = 666.0
        heard = [track.send(value)[1] for value in (1, 666, 3)]
        for each in heard:
            await each.done.wait()
        assert [type(each.error) for each in heard] == [type(None), Invalid, type(None)]
        assert [float(each.value[0, 0]) for each in heard if each.value is not None] == [2, 6]
        assert track.session.batches == [3, 1, 1, 1]
        await track.lane.close()


@on_loop
async def test_a_delay_that_is_over_does_not_keep_the_loop_busy_while_the_thread_runs() -> None:
    track = Track(inline=False, batching=Batching(preferred_rows=(8,), delay_us=1000))
    track.session.gate.clear()
    heard = [track.send(0)[1]]
    while not track.session.batches:
        await asyncio.sleep(0.001)
    heard.append(track.send(1)[1])
    await asyncio.sleep(0.01)
    assert track.lane._wake_ns - monotonic_ns() > 1000 * MS
    track.session.gate.set()
    for each in heard:
        await each.done.wait()
    await track.lane.close()


@on_loop
async def test_a_deadline_that_passes_in_the_queue_is_answered_promptly() -> None:
    track = Track(inline=False)
    track.session.gate.clear()
    track.send(1)
    while not track.session.batches:
        await asyncio.sleep(0.001)
    began_ns = monotonic_ns()
    _, late = track.send(2, lives_ns=50 * MS)
    await late.done.wait()
    assert isinstance(late.error, Expired)
    assert 50 * MS <= monotonic_ns() - began_ns < 1000 * MS
    track.session.gate.set()
    await track.lane.close()
    assert track.session.batches == [1]


@on_loop
async def test_a_run_past_its_deadline_is_stopped_and_the_next_one_runs() -> None:
    track = Track(inline=False)
    watchdog = Watchdog(lambda: [track.lane])
    watchdog.start()
    track.session.gate.clear()
    _, endless = track.send(1, lives_ns=50 * MS)
    await asyncio.sleep(0.2)
    track.lane.expire_running(monotonic_ns())
    await endless.done.wait()
    assert isinstance(endless.error, Expired)
    assert endless.times == 1
    track.session.gate.set()
    _, fine = track.send(2)
    await fine.done.wait()
    assert fine.error is None
    watchdog.stop()
    await track.lane.close()


@on_loop
async def test_a_run_on_the_loop_that_does_not_end_is_stopped_from_outside() -> None:
    track = Track(inline=True)
    watchdog = Watchdog(lambda: [track.lane])
    watchdog.start()
    track.session.gate.clear()
    _, endless = track.send(1, lives_ns=50 * MS)
    await endless.done.wait()
    assert isinstance(endless.error, Expired)
    watchdog.stop()


class Long(Doubling):
    """A session that takes for ever on the event loop, and no time elsewhere."""

    def run(self, feeds: Feeds, stop: Stop) -> list[Any]:
        here = threading.current_thread() is threading.main_thread()
        self.gate.clear() if here else self.gate.set()
        return super().run(feeds, stop)


@on_loop
async def test_a_run_that_holds_the_loop_is_stopped_and_begins_anew_in_a_thread_before_its_deadline() -> None:
    track = Track(inline=True)
    track.lane._session = track.session = Long()
    watchdog = Watchdog(lambda: [track.lane])
    watchdog.start()
    heard = [track.send(value, rows)[1] for value, rows in ((1, 1), (2, 2), (3, 8))]
    for each in heard:
        await each.done.wait()
    watchdog.stop()
    assert [each.value[0, 0] for each in heard if each.value is not None] == [2, 4, 6]
    assert {each.times for each in heard} == {1}
    assert len(track.session.threads) == 2 and not track.lane.inline
    assert track.session.batches == [3, 3, 8], "once on the loop, and no other run of that tick"
    assert track.ledger.snapshot().requests == 3
    await track.lane.close()


@on_loop
async def test_a_thread_s_run_that_goes_on_beyond_every_deadline_is_stuck() -> None:
    track = Track(inline=False)
    track.session.gate.clear()
    track.session.run = lambda feeds, _: [feeds["x"]] * track.session.gate.wait(30)  # type: ignore[method-assign]
    heard = track.send(1)[1]
    await asyncio.sleep(0)
    while not track.lane._tracks[0].batch.started_ns:  # type: ignore[union-attr]
        await asyncio.sleep(0.001)
    said = [
        track.lane.watch(monotonic_ns(), run_s_max=1.0) for _ in range(round((1 + STUCK_S) / PERIOD_S) + 1)
    ]
    assert said[-1].startswith("version=m@1 event=run_stuck run_s=") and not any(said[:-1])
    track.session.gate.set()
    await heard.done.wait()
    await track.lane.close()


@on_loop
async def test_a_stop_that_comes_too_late_does_not_hit_the_run_that_follows() -> None:
    track = Track(inline=True)
    track.lane._inline_track.stop.used = True
    track.session.gate.clear()
    threading.Timer(0.05, track.session.gate.set).start()
    _, heard = track.send(3)
    await heard.done.wait()
    assert heard.error is None


@on_loop
async def test_work_of_a_client_that_left_is_not_done() -> None:
    track = Track(inline=False)
    track.session.gate.clear()
    track.send(1)
    while not track.session.batches:
        await asyncio.sleep(0.001)
    gone, _ = track.send(2)
    _, here = track.send(3)
    await asyncio.sleep(0.01)
    gone.dropped = True
    track.session.gate.set()
    await here.done.wait()
    assert track.session.batches == [1, 1]
    await track.lane.close()


@on_loop
async def test_a_full_queue_refuses_at_once_and_serves_those_it_has() -> None:
    track = Track(inline=False, rows_max=1, queue=2)
    track.session.gate.clear()
    running = track.send(0)[1]
    while not track.session.batches:
        await asyncio.sleep(0.001)
    heard = [track.send(value)[1] for value in range(5)]
    await asyncio.sleep(0.01)
    refused = [each for each in heard if isinstance(each.error, Overloaded)]
    assert len(refused) == 3
    track.session.gate.set()
    await running.done.wait()
    for each in heard:
        await each.done.wait()
    assert sum(each.error is None for each in heard) == 2
    await track.lane.close()


@on_loop
async def test_a_full_queue_of_clients_that_left_has_room() -> None:
    track = Track(inline=False, rows_max=1, queue=2)
    track.session.gate.clear()
    track.send(0)
    while not track.session.batches:
        await asyncio.sleep(0.001)
    here, gone = track.send(1)[1], track.send(2)[0]
    await asyncio.sleep(0.01)
    gone.dropped = True
    late = track.send(3)[1]
    await asyncio.sleep(0.01)
    assert late.error is None
    track.session.gate.set()
    await here.done.wait()
    await late.done.wait()
    assert late.error is None
    assert track.ledger.snapshot().failures[Reason.CANCELED] == 1
    await track.lane.close()


@on_loop
async def test_a_version_that_turns_out_slow_gets_a_thread() -> None:
    track = Track(inline=True)
    track.session.nap_s = 0.005
    for _ in range(SLOW_RUNS_MAX):
        await track.send(1)[1].done.wait()
    assert not track.lane.inline
    await track.send(1)[1].done.wait()
    assert len(track.session.threads) == 2
    await track.lane.close()


@on_loop
async def test_what_was_joined_may_take_as_long_as_a_full_batch() -> None:
    """One row within 1 ms is let be joined up to 8 ms; once that was far too long, and got a thread."""
    track = Track(inline=True)
    track.session.nap_s = 2 * SLOW_FACTOR / 1000
    assert SLOW_FACTOR < 8 < JOINED_SLOW_FACTOR
    for _ in range(SLOW_RUNS_MAX):
        heard = [track.send(value)[1] for value in range(3)]
        for each in heard:
            await each.done.wait()
    assert track.session.batches == [3] * SLOW_RUNS_MAX
    assert track.lane.inline
    track.session.nap_s = 2 * JOINED_SLOW_FACTOR / 1000
    for _ in range(SLOW_RUNS_MAX):
        heard = [track.send(value)[1] for value in range(3)]
        for each in heard:
            await each.done.wait()
    assert not track.lane.inline
    await track.lane.close()


@on_loop
async def test_a_delay_gathers_rows_over_ticks() -> None:
    track = Track(inline=False, batching=Batching(preferred_rows=(4,), delay_us=500_000))
    heard = []
    for value in range(4):
        heard.append(track.send(value)[1])
        await asyncio.sleep(0.002)
    for each in heard:
        await each.done.wait()
    assert track.session.batches == [4]
    await track.lane.close()


@on_loop
async def test_a_closing_lane_answers_what_it_has_and_refuses_what_comes() -> None:
    track = Track(inline=False, rows_max=1)
    heard = [track.send(value)[1] for value in range(5)]
    await track.lane.close()
    assert all(each.value is not None for each in heard)
    _, late = track.send(9)
    await late.done.wait()
    assert "being unloaded" in str(late.error)


@pytest.mark.parametrize("inline", [True, False])
def test_everybody_hears_exactly_once(inline: bool) -> None:
    async def scene() -> None:
        track = Track(inline, rows_max=3)
        heard = []
        for burst in range(30):
            heard += [track.send(burst + value, 1 + value % 2)[1] for value in range(burst % 5)]
            await asyncio.sleep(0)
        for each in heard:
            await each.done.wait()
        await track.lane.close()
        assert {each.times for each in heard} == {1}
        assert track.ledger.snapshot().requests == len(heard)

    asyncio.run(scene())


@on_loop
async def test_taps_are_shown_each_batch_with_what_went_in_and_came_out() -> None:
    for inline in (True, False):
        track = Track(inline=inline)
        seen: list[Any] = []
        track.lane.taps.append(
            lambda batch, seen=seen: seen.append(
                (batch.rows, batch.feeds["x"].copy(), batch.outputs[0].copy())
            )
        )
        heard = [track.send(value, rows)[1] for value, rows in ((1, 1), (2, 3))]
        for each in heard:
            await each.done.wait()
        await asyncio.sleep(0)
        ((rows, x, y),) = seen
        assert rows == 4
        assert (x * 2 == y).all()
        assert x[:, 0].tolist() == [1, 2, 2, 2]
        await track.lane.close()


@on_loop
async def test_taps_see_of_a_batch_that_was_run_one_by_one_what_was_answered() -> None:
    track = Track(inline=True)
    track.session.refused = 666.0
    seen: list[float] = []
    track.lane.taps.append(lambda batch: seen.append(float(batch.feeds["x"][0, 0])))
    heard = [track.send(value)[1] for value in (1, 666, 3)]
    for each in heard:
        await each.done.wait()
    assert seen == [1, 3]


@on_loop
async def test_a_tap_that_breaks_is_logged_once_and_harms_neither_requests_nor_other_taps() -> None:
    track = Track(inline=True)
    seen: list[int] = []
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("turnout.lane").addHandler(handler)
    track.lane.taps += [lambda _: 1 // 0, lambda batch: seen.append(batch.rows)]
    for value in range(3):
        _, heard = track.send(value)
        await heard.done.wait()
        assert heard.error is None
    await asyncio.sleep(0)
    logging.getLogger("turnout.lane").removeHandler(handler)
    assert seen == [1, 1, 1]
    assert [line for line in logged if "tap_broke" in line] == ["version=m@1 event=tap_broke"]
