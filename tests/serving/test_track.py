"""Which runs the watchdog stops, and for which of them it ends the process."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.layout import Layout
from serving.track import PERIOD_S, STUCK_CODE, STUCK_S, Batch, Track, Watchdog
from serving.wire import Call, InferRequest

HOURS_NS = 10**13


def _track(expires_ns: int = 0) -> Track:
    """Return a track with a run that began when all clocks did."""
    request = InferRequest(Call(()), [], None, b"", 0, expires_ns)  # type: ignore[arg-type]
    request.layout = Layout((), (), (), (), 0, None, in_order=True, wanted=())
    track = Track()
    track.batch = Batch([request], 1, taken_ns=1, started_ns=1)
    return track


@given(st.lists(st.integers(2, HOURS_NS), min_size=1, max_size=80), st.floats(0.1, 1.0))
def test_how_long_a_run_takes_is_told_by_looks_alone_wherever_the_clock_jumps(
    times_ns: list[int], run_s_max: float
) -> None:
    track = _track()
    for looks, now_ns in enumerate(sorted(times_ns), 1):
        assert track.watch(now_ns, run_s_max) == 0.0
        assert track.stop.used == (looks * PERIOD_S > run_s_max)


def test_a_run_that_goes_on_though_it_was_stopped_is_stuck() -> None:
    track = _track()
    limit = round((0.5 + STUCK_S) / PERIOD_S)
    assert not any(track.watch(7, 0.5) for _ in range(limit))
    assert all(track.watch(3_000_000_001, 0.5) == 3.0 for _ in range(3))


def test_the_next_run_is_seen_from_its_own_beginning() -> None:
    track = _track()
    assert track.batch is not None
    for _ in range(1000):
        track.watch(1, 1.0)
        track.batch = Batch(track.batch.requests, 1, 1, 1)
    assert not track.stop.used


def test_a_run_that_nobody_waits_for_is_stopped_long_before_it_is_stuck() -> None:
    track = _track(expires_ns=10)
    assert track.watch(9, 60.0) == 0.0 and not track.stop.used
    assert track.watch(10, 60.0) == 0.0 and track.stop.used


def test_what_is_stuck_is_told_to_whoever_ends_it() -> None:
    told, there = [], threading.Event()

    class Stuck:
        def watch(self, _now_ns: int, run_s_max: float) -> str:
            return f"longer than {run_s_max}"

    def end(why: str) -> None:
        told.append(why)
        there.set()

    watchdog = Watchdog(lambda: [Stuck()], 7.0, end)
    watchdog.start()
    assert there.wait(30)
    watchdog.stop()
    assert told[0] == "longer than 7.0"


@pytest.mark.parametrize("reads", [True, False])
def test_a_process_ends_itself_with_a_code_of_its_own_though_nobody_reads_its_log(reads: bool) -> None:
    stuffed = "import os, fcntl; fcntl.fcntl(2, fcntl.F_SETPIPE_SZ, 4096); os.write(2, b'x' * 4096)\n"
    code = (
        "import logging; from serving.track import end_process\nlogging.basicConfig(format='%(message)s')\n"
    )
    command = [
        sys.executable,
        "-c",
        code + stuffed * (not reads) + "end_process('version=m@1 event=run_stuck')",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(60) == STUCK_CODE
        assert process.stderr is not None
        assert not reads or "version=m@1 event=run_stuck: this process ends itself" in process.stderr.read()
