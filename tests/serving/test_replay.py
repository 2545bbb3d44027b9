"""Does a replay say truly what versions make of what was asked, and does whatever happens to it stay its own?"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from router.change import Refused
from serving import config
from serving.clock import parse_utc
from serving.control.telling import Line
from serving.drift import offline
from serving.drift.rows import open_rows
from serving.replay import shown
from serving.replay.advice import advise
from serving.replay.asking import Replaying
from serving.replay.capture import BATCHES_MAX
from serving.replay.captures import SWEEP_S, Captures
from serving.replay.parcel import AT, SINCE_NS, Group, Parcel
from serving.replay.process import Died, Unreplayable, replayed
from serving.replay.replays import Replays
from serving.replay.work import Work
from tests import models
from tests.drifting import held_out, rotated
from tests.running import Running
from tests.talking import Client, document, eventually, request

ENDLESS = 1e18


class Replica(Running):
    """A gateway that keeps what it is asked and replays it."""

    def __init__(self, repository: Path, state: Path, **replay: Any) -> None:
        super().__init__(repository, state, {"replay": {"memory_bytes_max": 1 << 30, **replay}})
        self.profiles: dict[tuple[str, str], Any] = {}
        self.captures: Captures
        self.replays: Replays

    def __enter__(self) -> Self:
        super().__enter__()
        self.do(self._wire())
        return self

    async def _wire(self) -> None:
        self.captures = Captures(self.config.replay)
        self.replays = Replays(self.captures, self.config, "r0", lambda: self.profiles)
        servables = self.gateway.shelf.loaded.servables
        self.captures.follow(servables)
        for model, versions in servables.items():
            for version, servable in versions.items():
                servable.lane.taps = [*servable.lane.taps, *self.captures.taps(model, version)]

    def ask(self, model: str, version: int, rows: np.ndarray, name: str = "x", begin: str = "q") -> list[str]:
        """Have rows answered one by one over HTTP, and return their ids."""
        ids = [f"{begin}-{at}" for at in range(len(rows))]
        with Client(self) as client:
            for at, (id_, row) in enumerate(zip(ids, rows, strict=True), 1):
                if at % (BATCHES_MAX // 2 - 5) == 0:
                    time.sleep(SWEEP_S)  # What comes faster is taken in part.
                body = document(row[None], name=name, id=id_)
                answer = client.ask(request(f"POST /v2/models/{model}/versions/{version}/infer", body=body))
                assert answer.status == 200, answer
        return ids

    def replay(self, model: str, versions: list[str], rows: int = 10_000, s_max: float = 60.0) -> Any:
        """Return the report, as it is told."""
        report = self.do(self.replays.replay(model, versions, rows, s_max))
        return json.loads(json.dumps(report, allow_nan=False))


def children() -> list[psutil.Process]:
    found = []
    for each in psutil.Process().children(recursive=True):
        try:
            if "serving.replay.child" in each.cmdline():
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def demo(demo_folder, tmp_path_factory) -> Iterator[Path]:
    """Return a demo of which version 9 is loaded as well."""
    folder = tmp_path_factory.mktemp("replay") / "demo"
    shutil.copytree(demo_folder, folder)
    path = folder / "models" / "digits" / "config.pbtxt"
    path.write_text(path.read_text().replace("versions: [ 7, 8 ]", "versions: [ 7, 8, 9 ]"))
    return folder


@pytest.fixture(scope="module")
def digits(demo, tmp_path_factory) -> Iterator[Replica]:
    """Answer all held-out images by version 8, and every tenth by 9; say what they are."""
    with Replica(demo / "models", tmp_path_factory.mktemp("state")) as replica:
        images = held_out(demo)
        ids = replica.ask("digits", 8, images, "image", "8")
        replica.ask("digits", 9, images[::10], "image", "9")
        with np.load(demo / "rows" / "digits.npz") as rows:
            truths = rows["label"][rows["held_out"]]
        told = [[id_, -1, int(truth), 0] for id_, truth in zip(ids, truths, strict=True)]
        replica.do(replica.replays.hear(None, {"say": "labels", "model": "digits", "labels": told}))  # type: ignore[arg-type]
        yield replica


@pytest.fixture(scope="module")
def report(digits, demo) -> Any:
    for version in ("7", "8"):
        digits.profiles["digits", version] = profile_of(digits, demo, version)
    return digits.replay("digits", ["7", "8", "9"])


def profile_of(replica: Replica, demo: Path, version: str) -> Any:
    with offline.opened(replica.config, "digits", version) as opened:
        table = open_rows(demo / "rows" / "digits.npz", opened.inputs)
        return offline.profile(opened, table, replica.config, "2026-11-24T14:05:00Z")


def pair_of(report: Any, one: str, other: str) -> Any:
    (found,) = (each for each in report["pairs"] if (each["one"], each["other"]) == (one, other))
    return found


def test_all_that_was_asked_is_replayed_and_it_is_said_who_had_answered(digits, report, demo):
    rows = len(held_out(demo))
    tenth = len(range(0, rows, 10))
    assert (report["rows"], report["whole_runs"], report["cut"]) == (rows + tenth, 0, False)
    assert report["answered_by"] == {"8": rows, "9": tenth}
    assert parse_utc(report["since"]) <= parse_utc(report["until"]) <= parse_utc(report["at"])
    for each in report["versions"]:
        assert (each["rows"], each["errors"], each["odd"], each["fault"]) == (rows + tenth, 0, 0, "")
        assert each["latency"]["rows_a_run"] == 32
        assert 0 < each["latency"]["p50_s"] <= each["latency"]["p99_s"] < 1
        assert 0.5 < each["confidence"]["p10"] < each["confidence"]["mean"] < 1 or each["version"] == "7"


def test_version_9_is_seen_to_take_sevens_for_ones_and_to_be_wrong_there(report):
    pair = pair_of(report, "8", "9")
    assert 0.02 < pair["disagreement"] < 0.1
    assert (pair["flips"][0]["one"], pair["flips"][0]["other"]) == ("seven", "one")
    assert pair["flips"][0]["rows"] > pair["decided"] * pair["disagreement"] / 2
    assert pair["labelled"]["one"] > 5 * pair["labelled"]["other"]
    outputs = {each["output"]: each for each in pair["outputs"]}
    assert outputs["label"]["unequal"] == pytest.approx(pair["disagreement"], abs=0.01)
    assert 0 < outputs["probabilities"]["mean_difference"] < outputs["probabilities"]["max_difference"] <= 1


def test_how_often_a_version_is_right_is_what_its_own_answers_say(digits, report, demo):
    with np.load(demo / "rows" / "digits.npz") as rows:
        truths = rows["label"][rows["held_out"]]
    for each in report["versions"]:
        with offline.opened(digits.config, "digits", each["version"]) as opened:
            (label, _) = opened.session.run({"image": held_out(demo)}, offline.Stop())
        assert each["labelled"] == {"known": len(truths), "right": int((label == truths).sum())}


def test_a_version_without_a_profile_has_no_drift_and_others_are_compared_with_their_own(report):
    drift = {each["version"]: each["drift"] for each in report["versions"]}
    assert drift["9"] is None
    assert drift["7"]["profile"] != drift["8"]["profile"]
    for version in ("7", "8"):
        assert (drift[version]["drifted"], drift[version]["thin"]) == (False, False)
        tensors = {each["tensor"]: each for each in drift[version]["tensors"]}
        assert set(tensors) == {"image", "label", "probabilities"}
        assert [len(each["worst"]) for each in tensors.values()] == [5, 1, 5]


def test_the_advice_on_the_demo_is_to_leave_9_and_that_8_is_healthy(report):
    good, bad = advise(report, "9", "8"), advise(report, "8", "9")
    assert (good.healthy, bad.healthy) == (True, False)
    assert any("is right on" in each for each in bad.reasons)


def test_people_read_it_at_a_glance(report):
    lines = shown.report(report)
    assert lines[0].startswith("digits: ")
    assert any("seven -> one" in each for each in lines)
    assert max(map(len, lines)) < 160


def test_turned_images_are_drift_from_the_profile_and_only_labels_could_say_what_that_means(
    digits, demo, report
):
    turned = rotated(held_out(demo), np.random.default_rng(1))
    digits.ask("digits", 8, turned, "image", "turned")
    later = digits.replay("digits", ["9", "8"], rows=len(turned))
    assert later["rows"] == len(turned)
    (nine, eight) = later["versions"]
    image = next(each for each in eight["drift"]["tensors"] if each["tensor"] == "image")
    assert eight["drift"]["drifted"] and image["features_drifted"] > 5
    assert image["worst"][0]["drifted"] and image["worst"][0]["psi_corrected"] > 0.1
    assert (nine["labelled"], eight["labelled"]) == (None, None)
    advice = advise(later, "9", "8")
    assert advice.healthy is None
    assert "only labels can say" in advice.reasons[-1]


def test_a_version_that_is_not_there_is_refused_with_those_that_are(digits):
    with pytest.raises(Unreplayable, match="version 12 of digits is not loaded; loaded: 7, 8, 9"):
        digits.replay("digits", ["7", "12"])
    with pytest.raises(Unreplayable, match="no version of 'nobody' is loaded"):
        digits.replay("nobody", ["7"])
    with pytest.raises(Unreplayable, match="wine was asked nothing yet"):
        digits.replay("wine", ["1"])
    with pytest.raises(Unreplayable, match="different versions"):
        digits.replay("digits", ["7", "7"])


def test_replays_wait_for_each_other_and_requests_for_none(digits):
    async def both() -> list[Any]:
        work = [digits.replays.replay("digits", [version], 200, 60) for version in ("7", "8")]
        tasks = [asyncio.ensure_future(each) for each in work]
        most = 0
        while not all(each.done() for each in tasks):
            most = max(most, len(await asyncio.to_thread(children)))
            await asyncio.sleep(0.01)
        return [most, *[each.result()["versions"][0]["version"] for each in tasks]]

    assert digits.do(both()) == [1, "7", "8"]


def eater() -> onnx.ModelProto:
    """Return x [N, 4] in, x out, by way of as many numbers as max(x) says."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "one"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["none"], keepdims=0),
        helper.make_node("Add", ["x", "none"], ["y"]),
    ]
    dims = ["N", 4]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("x", "y")]
    return models._model(nodes, values[:1], values[1:], {"one": np.array([1], np.int64)})


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Iterator[Replica]:
    """Version 1 answers; 2 hangs, and 3 eats memory, if the input says so."""
    folder = tmp_path_factory.mktemp("hostile")
    policy = "version_policy { all { } }"
    models.place(folder / "models", "m", 1, models.constant(1), policy)
    for version, proto in ((2, models.spinning()), (3, eater())):
        (folder / "models" / "m" / str(version)).mkdir()
        onnx.save(proto, folder / "models" / "m" / str(version) / "model.onnx")
    with Replica(folder / "models", folder / "state", run_s_max=0.5, memory_bytes_max=1 << 28) as replica:
        assert set(replica.captures.specs("m")) == {"1", "2", "3"}
        yield replica


class Asking(threading.Thread):
    """Somebody who asks all the time, and notes how long answers take."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(daemon=True)
        self._replica, self.over = replica, threading.Event()
        self.took_s: list[float] = []

    def run(self) -> None:
        while not self.over.wait(0.005):
            began_s = time.monotonic()
            self._replica.ask("m", 1, np.zeros((1, 4), np.float32))
            self.took_s.append(time.monotonic() - began_s)


def test_a_version_that_hangs_is_named_and_the_others_are_replayed_while_everybody_is_answered(hostile):
    hostile.ask("m", 1, np.full((3, 4), ENDLESS, np.float32))
    asking = Asking(hostile)
    asking.start()
    report = hostile.replay("m", ["1", "2"])
    asking.over.set()
    asking.join(10)
    one, two = report["versions"]
    assert (one["fault"], one["errors"]) == ("", 0) and one["rows"] >= 3
    assert two["fault"].startswith("a run did not end after")
    assert (two["rows"], two["latency"], report["pairs"]) == (0, None, [])
    assert len(asking.took_s) > 20 and max(asking.took_s) < 1
    assert advise(report, "1", "2").healthy is False
    assert eventually(lambda: not children())


def test_a_process_of_the_lowest_rank_that_dies_is_the_fault_of_the_version_that_it_was_at(hostile):
    hostile.ask("m", 1, np.full((1, 4), ENDLESS, np.float32))
    specs = [hostile.captures.specs("m")[version] for version in ("1", "2")]
    work = Work(hostile.config, "r0", "m", specs, [], {}, [], 0)
    arrays = {"x": np.full((1, 4), ENDLESS, np.float32)}
    task = {"versions": [work._given(each) for each in specs], "psi_min": 0.1, "soft_s": 60}
    parcel = Parcel({**task, "memory_bytes_max": 1 << 30}, [Group(False, arrays, [None])])
    desk = parcel.desk
    with ThreadPoolExecutor(1) as threads:
        doing = threads.submit(replayed, parcel, 60, time.monotonic() + 60, os.eventfd(0))
        assert eventually(
            lambda: desk[AT] == 2 and desk[SINCE_NS] and time.monotonic_ns() - desk[SINCE_NS] > 1e8, 30
        )
        (child,) = children()
        assert (child.nice(), os.sched_getscheduler(child.pid)) == (19, os.SCHED_IDLE)
        child.send_signal(signal.SIGSEGV)
        with pytest.raises(Died, match="it ended the process: Segmentation fault") as died:
            doing.result(30)
    assert died.value.at == 1
    parcel.close()


def test_a_version_that_eats_memory_fails_on_those_inputs_and_on_no_others(hostile):
    hostile.ask("m", 1, np.array([[4e9] * 4, [1] * 4, [2] * 4], np.float32))
    report = hostile.replay("m", ["1", "3"], rows=3)
    one, three = report["versions"]
    assert (one["errors"], three["errors"], three["fault"]) == (0, 1, "")
    assert len(three["reasons"]) == 1
    assert pair_of(report, "1", "3")["outputs"][0]["rows"] == 2
    assert hostile.ask("m", 1, np.zeros((1, 4), np.float32))


def test_a_replay_that_takes_too_long_ends_with_a_reason(hostile):
    hostile.ask("m", 1, np.zeros((2, 4), np.float32))
    with pytest.raises(Unreplayable, match="did not finish in time"):
        hostile.replay("m", ["1"], s_max=0.05)
    assert eventually(lambda: not children())


def test_whoever_ends_the_replica_ends_the_replay(tmp_path):
    models.place(tmp_path / "models", "m", 2, models.spinning())
    with Replica(tmp_path / "models", tmp_path / "state", run_s_max=100) as replica:
        replica.ask("m", 2, np.zeros((1, 4), np.float32))
        (block,) = replica.captures.newest("m", 1)
        block.arrays["x"].flags.writeable = False
        object.__setattr__(block, "arrays", {"x": np.full((1, 4), ENDLESS, np.float32)})
        doing = asyncio.run_coroutine_threadsafe(replica.replays.replay("m", ["2"], 1, 60), replica._loop)
        assert eventually(lambda: bool(children()), 30)
        replica._loop.call_soon_threadsafe(replica.replays.close)
        with pytest.raises(Unreplayable, match="is ending"):
            doing.result(10)
        assert not children()


def test_runs_of_a_model_that_does_not_batch_are_replayed_as_they_were(tmp_path):
    models.place(tmp_path / "models", "m", 1, models.centred())
    with Replica(tmp_path / "models", tmp_path / "state") as replica:
        rows = np.arange(8, dtype=np.float32).reshape(2, 4)
        body = document(rows)
        with Client(replica) as client:
            for _ in range(40):
                assert client.ask(request("POST /v2/models/m/infer", body=body)).status == 200
        report = replica.replay("m", ["1"])
    assert (report["rows"], report["whole_runs"]) == (40, 40)
    assert report["versions"][0]["latency"]["rows_a_run"] == 1
    assert report["versions"][0]["errors"] == 0


class Talking:
    """A control's side of replays, and replicas that answer it over a socket."""

    def __init__(self, folder: Path, **replicas: Replays) -> None:
        self.roster: Any = SimpleNamespace(replicas={}, tasks=count(1))
        self.replaying = Replaying(config.Replay(deadline_s=30))
        self._folder, self._replicas = folder, replicas
        self.lines: list[Line] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.replaying.start(SimpleNamespace(roster=self.roster))  # type: ignore[arg-type]
        for name, replays in self._replicas.items():
            begun: asyncio.Future[Line] = loop.create_future()
            door = str(self._folder / name)
            server = await loop.create_unix_server(lambda to=begun: self._ours(to), door)
            _, theirs = await loop.create_unix_connection(lambda to=replays: self._theirs(to), door)
            self.lines.append(theirs)
            self.roster.replicas[name] = SimpleNamespace(name=name, line=await begun)
            server.close()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.replaying.close()
        for each in self.lines:
            each.hang_up()

    def _ours(self, begun: asyncio.Future[Line]) -> Line:
        def heard(line: Line, said: dict[str, Any]) -> None:
            for each in list(self.roster.replicas.values()):
                if each.line is line:
                    self.replaying.hear(each, said)

        def ended(line: Line) -> None:
            for name, each in list(self.roster.replicas.items()):
                if each.line is line:
                    del self.roster.replicas[name]

        return Line(heard, ended, begun.set_result)

    def _theirs(self, replays: Replays) -> Line:
        def heard(line: Line, said: dict[str, Any]) -> None:
            task = asyncio.get_running_loop().create_task(replays.hear(line, said))
            self._tasks = [*getattr(self, "_tasks", []), task]

        return Line(heard, lambda _line: None, lambda _line: None)


def test_the_control_asks_the_replica_that_keeps_most(hostile, tmp_path):
    few = Captures(config.Replay())
    hostile.ask("m", 1, np.zeros((5, 4), np.float32))

    async def scene() -> None:
        few.follow(hostile.gateway.shelf.loaded.servables)
        other = Replays(few, hostile.config, "r1", dict)
        async with Talking(tmp_path, r1=other, r0=hostile.replays) as talking:
            report = await talking.replaying.replay("m", ["1", "3"], 5)
            assert (report["replica"], report["rows"]) == ("r0", 5)
            with pytest.raises(Refused, match="version 9 of m is loaded nowhere.*loaded: 1, 2, 3"):
                await talking.replaying.replay("m", ["1", "9"])
            with pytest.raises(Refused, match="of nobody is loaded nowhere"):
                await talking.replaying.replay("nobody", ["1"])
            elsewhere = await asyncio.to_thread(lambda: asyncio.run(talking.replaying.replay("m", ["1"], 4)))
            assert elsewhere["rows"] == 4  # The admin application may have a loop of its own.
            advice = await talking.replaying.advice("m", "3", "1", rows=5)
            assert (advice["healthy"], advice["target"]) == (None, "1")
            assert advice["report"]["rows"] == 5 and "only 5 inputs" in advice["reasons"][0]
            json.dumps(advice, allow_nan=False)

    hostile.do(scene())


def test_advice_never_raises_and_says_why_there_is_none(hostile, tmp_path):
    async def scene() -> None:
        async with Talking(tmp_path) as talking:
            advice = await talking.replaying.advice("m", "1", "2")
            assert advice["healthy"] is None and "no replica is there" in advice["reasons"][0]
        silent: Any = SimpleNamespace(hear=lambda _line, _said: asyncio.sleep(0))
        async with Talking(tmp_path, r0=silent) as talking:
            began_s = time.monotonic()
            advice = await talking.replaying.advice("m", "1", "2", s_max=1)
            assert advice["healthy"] is None and time.monotonic() - began_s < 30
        async with Talking(tmp_path / "..", gone=hostile.replays) as talking:
            asking = asyncio.ensure_future(talking.replaying.replay("m", ["1"]))
            await asyncio.sleep(0.2)
            talking.lines[0].hang_up()
            with pytest.raises(Refused, match="is gone or does not answer"):
                await asking
        unstarted = Replaying(config.Replay())
        assert (await unstarted.advice("m", "1", "2"))["healthy"] is None

    hostile.do(scene())
