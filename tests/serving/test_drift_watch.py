"""Is every row counted exactly once, by a process that may die at any moment and never holds anybody up?"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import keeper
from serving.config import Drift as Settings
from serving.drift import features
from serving.drift.build import build
from serving.drift.profile import Profile
from serving.drift.reading import Drop, StreamReading
from serving.drift.view import Look, View
from serving.drift.watch import Watch
from serving.keeper import Death
from serving.wire import DATATYPES
from tests.counting import READY_S_MAX, Version, batch_of, check, looks_of, mlp, profile_of, until

pytestmark = pytest.mark.timeout(300)

KILLS = 6
"""At a moment drawn at random each, while batches of two streams are on their way."""


@pytest.fixture(scope="module", autouse=True)
def _patience() -> Iterator[None]:
    """Wait for a process of a low rank as long as it takes where others want all processors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.drift.watch.READY_S_MAX", READY_S_MAX)
        patch.setattr("serving.drift.watch.DRAIN_S_MAX", READY_S_MAX)
        yield


@asynccontextmanager
async def watching(*versions: Version, ready: bool = True, profile: Profile | None = None, **changes: Any):
    watch = Watch(Settings(**changes))
    watch.start()
    if profile is not None:
        watch.follow_profiles({(profile.model, profile.version): profile})
    follow(watch, *versions)
    try:
        if ready:
            await watch.ready()
            assert watch._process.ready
        yield watch
    finally:
        pid = watch._process.pid
        await watch.close()
        assert not pid or not psutil.pid_exists(pid)


def follow(watch: Watch, *versions: Version) -> None:
    watch.follow({"m": {str(each.spec.artifact.version): each for each in versions}})


def taps(watch: Watch, version: Version):
    return watch.taps("m", str(version.spec.artifact.version))


def readings(watch: Watch, tensor: str, version: str = "1", role: str = "live") -> list[StreamReading]:
    """Return those of a tensor, the latest last."""
    key = ("m", version, role, tensor)
    return [reading for of, reading in watch.readings().values() if of == key]


async def counted(watch: Watch, rows: int, tensor: str = "x") -> StreamReading:
    """Wait until so many rows were counted or dropped."""

    def extent() -> int:
        return sum(each.rows + sum(each.dropped.values()) for each in readings(watch, tensor))

    await until(lambda: extent() >= rows)
    assert extent() == rows
    return readings(watch, tensor)[-1]


def run(scene) -> None:
    asyncio.run(scene)


CUTS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1 << 30)), max_size=25)


@given(st.lists(CUTS, min_size=4, max_size=4))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_counted_is_what_a_naive_count_says_however_the_stream_is_cut(streams):
    """Four streams at once, since each process takes a second to start: every other one has a profile."""

    async def scene() -> None:
        versions = [mlp(number=number) for number in (1, 2, 3, 4)]
        profiles = [profile_of(each, *looks_of(each)) if at % 2 else None for at, each in enumerate(versions)]
        async with watching() as watch:
            watch.follow_profiles({(each.model, each.version): each for each in profiles if each})
            follow(watch, *versions)
            for cuts in zip_longest(*streams):
                for version, cut in zip(versions, cuts, strict=True):
                    if cut is not None:
                        version.answer(taps(watch, version), **batch_of(*cut))
                        if cut[1] % 3 == 0:
                            await asyncio.sleep(0.01)
        for version, profile in zip(versions, profiles, strict=True):
            for tensor in ("x", "y"):
                (reading,) = readings(watch, tensor, str(version.spec.artifact.version))
                check(reading, version.fed[tensor], profile)
                assert reading.dropped == {}
                assert reading.profile == (profile.hash if profile else "")

    run(scene())


DATATYPES_COUNTED = [
    "FP32",
    "FP64",
    "FP16",
    "BF16",
    "INT8",
    "UINT8",
    "INT32",
    "INT64",
    "UINT64",
    "BOOL",
    "BYTES",
]


def test_every_datatype_is_counted_as_what_it_is():
    async def scene() -> None:
        kinds = {f"x{at}": (kind, [-1, 3]) for at, kind in enumerate(DATATYPES_COUNTED)}
        version = Version(kinds, {"y": ("INT64", [-1])})
        rng = np.random.default_rng(5)
        async with watching(version) as watch:
            for rows in (1, 7, 30, 0):
                arrays = {"y": rng.integers(-200, 200, rows)}
                for name, (kind, _) in kinds.items():
                    whole = rng.integers(0, 100, (rows, 3))
                    arrays[name] = (
                        whole.astype(str).astype(object)
                        if kind == "BYTES"
                        else whole.astype(DATATYPES[kind].dtype)
                    )
                version.answer(taps(watch, version), rows=rows, **arrays)
        for name in (*kinds, "y"):
            (reading,) = readings(watch, name)
            assert reading.dropped == {}
            check(reading, version.fed[name])

    run(scene())


def test_images_and_long_rows_are_counted_by_what_sums_them_up():
    async def scene() -> None:
        version = Version(
            {
                "first": ("FP32", [-1, 3, 40, 50]),
                "last": ("UINT8", [-1, 200, 100, 3]),
                "long": ("FP32", [-1, 700]),
                "loose": ("FP32", [-1, -1]),
            },
            {"scores": ("FP32", [-1, -1, 4]), "many": ("FP64", [-1, 100])},
        )
        rng = np.random.default_rng(6)
        async with watching(version) as watch:
            for rows in (1, 4):
                version.answer(
                    taps(watch, version),
                    first=rng.standard_normal((rows, 3, 40, 50)).astype(np.float32),
                    last=rng.integers(0, 255, (rows, 200, 100, 3)).astype(np.uint8),
                    long=rng.standard_normal((rows, 700)).astype(np.float32),
                    loose=rng.standard_normal((rows, 5 + rows)).astype(np.float32),
                    scores=rng.standard_normal((rows, 6, 4)).astype(np.float32),
                    many=rng.standard_normal((rows, 100)),
                )
        assert readings(watch, "last")[0].look.step > 1
        assert readings(watch, "loose")[0].rows == 6 + 4 * 9
        assert readings(watch, "scores")[0].rows == 5 * 6
        for name in ("long", "loose", "scores", "many"):
            check(readings(watch, name)[0], version.fed[name])
        for name in (
            "first",
            "last",
        ):  # Standard deviations differ in the last bit, so only moments are told.
            (reading,) = readings(watch, name)
            matrix = features.panels(
                reading.look, np.concatenate([features.rows(reading.look, a) for a in version.fed[name]])
            )
            tally = reading.panels["channels"]
            assert (reading.rows, tally.n) == (5, 5)
            assert tally.sums[0] == pytest.approx(matrix["channels"].sum(axis=0), rel=1e-5, abs=1e-5)

    run(scene())


def test_a_batch_that_is_none_counts_by_its_leading_dimension_or_as_one_row():
    async def scene() -> None:
        version = Version(
            {"x": ("FP32", [-1, 4]), "state": ("FP32", [2, 3])}, {"y": ("FP32", [-1, 2])}, rows_max=0
        )
        rng = np.random.default_rng(7)
        async with watching(version) as watch:
            for rows in (1, 5, 2):
                version.answer(
                    taps(watch, version),
                    rows=0,
                    x=rng.standard_normal((rows, 4)).astype(np.float32),
                    state=rng.standard_normal((2, 3)).astype(np.float32),
                    y=rng.random((rows, 2)).astype(np.float32),
                )
        assert [readings(watch, name)[0].rows for name in ("x", "state", "y")] == [8, 3, 8]
        for name in ("x", "state", "y"):
            check(readings(watch, name)[0], version.fed[name])

    run(scene())


def test_an_input_may_be_left_out_and_one_of_another_size_is_a_misfit():
    async def scene() -> None:
        version = Version({"x": ("FP32", [-1, 4]), "maybe": ("FP32", [-1, 2])}, {"y": ("FP32", [-1, 3])})
        async with watching(version) as watch:
            tap = taps(watch, version)
            version.answer(tap, x=np.ones((2, 4), np.float32), y=np.ones((2, 3), np.float32))
            version.answer(
                tap,
                x=np.ones((3, 4), np.float32),
                y=np.ones((3, 3), np.float32),
                maybe=np.ones((3, 2), np.float32),
            )
            version.answer(tap, rows=2, x=np.ones((2, 4), np.float32), y=np.ones((2, 5), np.float32))
        assert (readings(watch, "x")[0].rows, readings(watch, "maybe")[0].rows) == (7, 3)
        (reading,) = readings(watch, "y")
        assert (reading.rows, reading.dropped) == (5, {Drop.MISFIT: 2})

    run(scene())


def test_more_strings_than_can_be_hashed_at_once_are_dropped_and_counted():
    async def scene() -> None:
        version = Version({"x": ("BYTES", [-1, 2])}, {"y": ("FP32", [-1, 1])})
        words = np.array([["a", "b"]] * 3000, object)
        async with watching(version) as watch:
            version.answer(taps(watch, version), x=words, y=np.ones((3000, 1), np.float32))
        (reading,) = readings(watch, "x")
        assert (reading.rows, reading.dropped) == (2048, {Drop.FULL: 952})

    run(scene())


def test_a_process_that_is_killed_again_and_again_loses_and_doubles_nothing(monkeypatch):
    monkeypatch.setattr(keeper, "BACKOFF_S_MAX", 0.05)

    async def scene() -> None:
        bare, profiled = mlp(), mlp(number=2)
        profile = profile_of(profiled, *looks_of(profiled))
        rng = random.Random(8)

        def answer(watch: Watch) -> None:
            for version in (bare, profiled):
                version.answer(taps(watch, version), **batch_of(rng.randrange(1, 64), rng.randrange(1 << 30)))

        async with watching(bare, profiled, profile=profile) as watch:
            for kill in range(KILLS):
                await until(lambda: watch._process.ready)
                for _ in range(rng.randrange(1, 30)):
                    answer(watch)
                    await asyncio.sleep(rng.random() * 0.004)
                os.kill(watch._process.pid, signal.SIGKILL)
                answer(watch)
                await until(lambda kill=kill: sum(watch._process.restarts.values()) > kill)
            await until(lambda: watch._process.ready)
            assert watch.reading({}).restarts[Death.CRASHED] == KILLS
        for version, counts in ((bare, None), (profiled, profile)):
            for tensor in ("x", "y"):
                (reading,) = readings(watch, tensor, str(version.spec.artifact.version))
                assert reading.dropped == {}
                check(reading, version.fed[tensor], counts)

    run(scene())


def test_a_process_that_stands_still_delays_nobody_and_what_does_not_fit_is_counted():
    async def scene() -> None:
        version = mlp()
        async with watching(version, queue_bytes=64 << 10) as watch:
            room = (64 << 10) // 64
            os.kill(watch._process.pid, signal.SIGSTOP)
            for seed in range(200):  # None of which waits, for they would for ever.
                version.answer(taps(watch, version), **batch_of(20, seed))
            await until(lambda: readings(watch, "x")[0].dropped == {Drop.FULL: 4000 - room})
            (reading,) = readings(watch, "x")
            assert reading.rows + sum(reading.dropped.values()) <= 4000
            assert reading.dropped == {Drop.FULL: 4000 - room}
            os.kill(watch._process.pid, signal.SIGCONT)
            reading = await counted(watch, 4000)
        first = np.concatenate(version.fed["x"])[: reading.rows]
        assert reading.rows == room
        check(reading, [first])

    run(scene())


def test_a_version_that_is_taken_down_ends_its_streams_when_its_lane_is_done():
    async def scene() -> None:
        version = mlp()
        async with watching(version) as watch:
            tap = taps(watch, version)
            version.answer(tap, **batch_of(10, 1))
            version.lane.append("a request")
            follow(watch)
            assert taps(watch, version) == []
            version.answer(tap, **batch_of(5, 2))
            await asyncio.sleep(0.5)  # Twice as long as it takes to look for what is over.
            assert len(watch.flows) == 2
            version.lane.clear()
            await until(lambda: not len(watch.flows))
            version.answer(tap, **batch_of(3, 3))
            (reading,) = readings(watch, "x")
            assert reading.rows == 15
            follow(watch, version)
            version.answer(taps(watch, version), **batch_of(4, 4))
            await until(lambda: [each.rows for each in readings(watch, "x")] == [15, 4])
            assert watch.reading({}).streams["m", "1", "live", "x"].rows == 19

    run(scene())


def test_another_file_under_the_same_number_is_another_stream_and_the_same_one_is_not():
    async def scene() -> None:
        version, same, other = mlp(), mlp(), mlp(digest="e")
        async with watching(version) as watch:
            version.answer(taps(watch, version), **batch_of(2, 1))
            follow(watch, same)
            same.answer(taps(watch, same), **batch_of(3, 2))
            follow(watch, other)
            other.answer(taps(watch, other), **batch_of(4, 3))
        assert sorted(each.rows for each in readings(watch, "x")) == [4, 5]

    run(scene())


def test_a_change_of_profile_begins_a_stream_exactly_there_and_no_row_is_lost():
    async def scene() -> None:
        version = mlp()
        first = profile_of(version, *looks_of(version))
        second = profile_of(version, *looks_of(version), rows=3000)
        parts = []
        async with watching(version) as watch:
            for at, profile in enumerate((None, first, second, None)):
                watch.follow_profiles({("m", "1"): profile} if profile else {})
                mark = len(version.fed["x"])
                for seed in range(30):
                    version.answer(taps(watch, version), **batch_of(11, 100 * at + seed))
                    if seed % 10 == at:
                        await asyncio.sleep(0.01)
                parts.append((profile, version.fed["x"][mark:]))
                if at == 1:
                    os.kill(watch._process.pid, signal.SIGKILL)
            # Whoever comes after the one that was killed takes its time on a busy machine.
            await until(lambda: sum(each.rows for each in readings(watch, "x")) >= 4 * 330)
        assert len(readings(watch, "x")) == 4
        by_hash = {reading.profile: reading for reading in readings(watch, "x")[1:-1]}
        assert set(by_hash) == {first.hash, second.hash}
        for profile, arrays in parts[1:3]:
            check(by_hash[profile.hash], arrays, profile)
        assert sorted(each.rows for each in readings(watch, "x") if not each.profile) == [330, 330]

    run(scene())


def test_rows_counted_late_are_not_told_as_those_of_the_same_profile_put_again():
    async def scene() -> None:
        version = mlp()
        profile = profile_of(version, *looks_of(version))
        async with watching(version, profile=profile) as watch:
            os.kill(watch._process.pid, signal.SIGSTOP)
            version.answer(taps(watch, version), **batch_of(20, 1))
            watch.follow_profiles({})
            watch.follow_profiles({("m", "1"): profile})
            version.answer(taps(watch, version), **batch_of(5, 2))
            os.kill(watch._process.pid, signal.SIGCONT)
            await until(lambda: [each.rows for each in readings(watch, "x")] == [20, 0, 5])
            told = [StreamReading.from_json(each[-1]) for each in watch.flows.news({})]
        assert {(each.profile, each.rows) for each in told} == {(profile.hash, 5)}

    run(scene())


def test_a_profile_may_change_how_rows_are_taken():
    async def scene() -> None:
        version = Version({"x": ("INT64", [-1, -1])}, {"y": ("FP32", [-1, 2])})
        whole = Look("x", "input", View.CODES, "INT64", (4,))
        profile = profile_of(version, whole)
        rows = np.arange(40).reshape(10, 4) % 7
        async with watching(version) as watch:
            version.answer(taps(watch, version), x=rows, y=np.ones((10, 2), np.float32))
            watch.follow_profiles({("m", "1"): profile})
            version.answer(taps(watch, version), x=rows, y=np.ones((10, 2), np.float32))
            version.answer(taps(watch, version), x=rows[:, :3], y=np.ones((10, 2), np.float32))
        before, after = sorted(readings(watch, "x"), key=lambda each: each.look != whole, reverse=True)
        assert (before.look.loose, before.rows) == (True, 40)
        assert (after.look, after.rows, after.dropped) == (whole, 10, {Drop.MISFIT: 10})
        check(after, [rows], profile)

    run(scene())


def test_readings_of_two_replicas_add_up_to_those_of_all_rows():
    async def scene() -> None:
        version, both = mlp(), []
        profile = profile_of(version, *looks_of(version))
        async with watching(version, profile=profile) as one, watching(version, profile=profile) as other:
            for seed in range(40):
                version.answer(taps((one, other)[seed % 2], version), **batch_of(9, seed))
        for tensor in ("x", "y"):
            both = [readings(watch, tensor)[0] for watch in (one, other)]
            told = [StreamReading.from_json(json.loads(json.dumps(each.to_json()))) for each in both]
            panels = {name: told[0].panels[name] + told[1].panels[name] for name in told[0].panels}
            merged = StreamReading(1, profile.hash, both[0].look, told[0].rows + told[1].rows, {}, panels)
            check(merged, version.fed[tensor], profile)
            assert told[0].stream != told[1].stream

    run(scene())


def test_the_next_rows_can_be_kept_in_files_from_which_a_profile_is_made(tmp_path):
    async def scene() -> None:
        version, told = mlp(), []
        async with watching(version) as watch:
            watch.capture("m", "1", 100, str(tmp_path), told.append)
            for seed in range(30):
                version.answer(taps(watch, version), **batch_of(5, seed))
                await asyncio.sleep(0.01)
                if seed == 10:
                    os.kill(watch._process.pid, signal.SIGKILL)
            await until(lambda: told)
        (captured,) = told
        assert captured.error == ""
        looks = [Look.from_json(each["look"]) for each in captured.files.values()]
        rows = {name: np.load(each["path"]) for name, each in captured.files.items()}
        assert {name: each.shape for name, each in rows.items()} == {"x": (100, 16), "y": (100, 3)}
        fed = np.concatenate(version.fed["x"])
        assert any(
            np.array_equal(rows["x"], fed[at : at + 100], equal_nan=True) for at in range(len(fed) - 99)
        )
        build("m", "1", "d", looks, [rows], categories_max=64, made_at="", source="")

    run(scene())


def test_rows_that_never_come_are_not_waited_for_when_the_version_goes(tmp_path):
    async def scene() -> None:
        version, told = mlp(), []
        async with watching(version) as watch:
            watch.capture("m", "1", 100, str(tmp_path), told.append)
            watch.capture("m", "2", 100, "/elsewhere", told.append)
            assert told.pop().error == "the version is not counted here"
            version.answer(taps(watch, version), **batch_of(5, 1))
            await counted(watch, 5)
            follow(watch)
            await until(lambda: told)
        assert told[0].error == "its streams ended before there were enough rows"
        assert {each.suffix for each in tmp_path.iterdir()} == {".part"}

    run(scene())


def test_only_news_are_told_and_all_of_them_to_whoever_was_told_nothing():
    async def scene() -> None:
        version = mlp()
        async with watching(version) as watch:
            told: dict[int, tuple[int, int]] = {}
            assert [each[3] for each in watch.flows.news(told)] == ["x", "y"]
            assert watch.flows.news(told) == []
            version.answer(taps(watch, version), **batch_of(5, 1))
            await counted(watch, 5)
            await counted(watch, 5, "y")
            news = watch.flows.news(told)
            assert [(*key, reading["rows"]) for *key, reading in news] == [
                ("m", "1", "live", "x", 5),
                ("m", "1", "live", "y", 5),
            ]
            follow(watch)
            await until(lambda: not len(watch.flows))
            assert watch.flows.news(told) == []
            assert len(watch.flows.news({})) == 2

    run(scene())


def test_what_is_not_wanted_costs_nothing():
    async def scene() -> None:
        version = mlp()
        async with watching(version, ready=False, enabled=False) as watch:
            await watch.ready()
            assert (taps(watch, version), watch._process.pid, watch.readings()) == ([], 0, {})

    run(scene())


def test_the_process_steps_back_uses_no_processor_when_idle_and_ends_with_the_watch():
    async def scene() -> None:
        version = mlp()
        async with watching(version) as watch:
            process = psutil.Process(watch._process.pid)
            assert process.nice() == 10
            assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"  # noqa: ASYNC240
            before = process.cpu_times()
            await asyncio.sleep(2)
            after = process.cpu_times()
            assert after.user + after.system - before.user - before.system <= 0.06
        assert not process.is_running()

    run(scene())


PARENT = """
import asyncio
from serving.config import Drift
from serving.drift.watch import Watch

async def main():
    watch = Watch(Drift())
    watch.start()
    while not watch._process.pid:
        await asyncio.sleep(0.01)
    print(watch._process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_process_ends_with_its_parent_however_that_ends(root):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=root, stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    child.wait(60)


def test_a_start_goes_on_without_a_process_that_dies_again_and_again(monkeypatch):
    async def scene() -> None:
        watch = Watch(Settings())
        monkeypatch.setattr(
            watch._process, "spawn", lambda _line: subprocess.Popen(["false"], stdout=subprocess.PIPE)
        )
        watch.start()
        await watch.ready()
        assert not watch._process.ready
        await watch.close()

    run(scene())
