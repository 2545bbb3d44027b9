"""Does the benchmark of gRPC ask what tritonclient asks, and divide what belongs together?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc._utils import _get_inference_request as theirs

from loadtests import grpc as bench_grpc
from loadtests.bench import models, turnout
from loadtests.bench.errors import BenchError
from loadtests.bench.machine import Cores
from loadtests.bench.readings import Reading
from loadtests.bench.turnout import Bench
from loadtests.grpcbench import asked, cases, shared, speed
from loadtests.grpcbench.calling import Crowd, calls
from serving import config
from tests.models import place
from tests.running import Running

ONE = frozenset({0})
CASES = {
    "asked: binary": 100, "right: binary": 100, "asked: JSON": 90, "right: JSON": 90,
    "asked: gRPC": 100, "right: gRPC": 99, "refused at admission": 0,
}  # fmt: skip


def _bench(folder: Path) -> Bench:
    return Bench(folder, Cores(ONE, ONE, ONE), seconds=1, repeat=1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = _bench(tmp_path_factory.mktemp("grpc-bench"))
    models.lay_out(bench.repository)
    return bench


@pytest.fixture(scope="module")
def port(bench: Bench) -> Iterator[int]:
    place(bench.folder / "served", "S", 1, models.small())
    settings = {"grpc": {"engine": speed.OWN}}
    with Running(bench.folder / "served", bench.folder / "state", settings) as running:
        yield int(running.grpc.rpartition(":")[2])


def _inference(x: triton.InferInput, y: triton.InferRequestedOutput, id_: str) -> bytes:
    asked_ = theirs("L", [x], "", id_, [y], 0, False, False, 0, None, None)
    return bytes(asked_.SerializeToString(deterministic=True))


def test_tritonclient_would_send_the_same_message():
    (sample,) = models.samples("L", 1)
    x, y = triton.InferInput("x", list(sample.shape), "FP32"), triton.InferRequestedOutput("y")
    x.set_data_from_numpy(sample)
    assert asked.message("L", sample, "7").SerializeToString(deterministic=True) == _inference(x, y, "7")


@pytest.mark.parametrize("number", [0, 5])
def test_tritonclient_would_send_the_same_message_about_shared_memory(number):
    x, y = triton.InferInput("x", list(models.SHAPES["L"]), "FP32"), triton.InferRequestedOutput("y")
    x.set_shared_memory("x", shared.X_BYTES, number * shared.X_BYTES)
    y.set_shared_memory("y", shared.Y_BYTES, shared.Y_BASE + number * shared.Y_STRIDE)
    ours = shared.messages()[number].SerializeToString(deterministic=True)
    assert ours == _inference(x, y, f"{number:016x}")


def test_every_body_about_shared_memory_has_a_place_of_its_own_for_its_answer():
    told = [json.loads(body.data) for body in shared.bodies()]
    places = {each["outputs"][0]["parameters"]["shared_memory_offset"] for each in told}
    assert len(places) == len(told)
    assert len({len(str(each)) for each in places}) == 1
    assert shared.Y_STRIDE >= shared.Y_BYTES
    assert max(len(body.data) for body in shared.bodies()) < 400


def test_a_right_answer_is_told_from_a_wrong_one(bench, port):
    asked.verify(port, "S", bench)
    with pytest.raises(BenchError, match="other numbers"):
        asked.right("S", np.array([[0.5, 0.4]], np.float32), bench)
    with pytest.raises(BenchError, match="was not answered"):
        asked.verify(port, "L", bench)


def test_calls_are_measured_and_a_failing_one_is_an_error(bench, port, monkeypatch):
    monkeypatch.setattr(asked, "DISTINCT", {"S": 20, "L": 2})
    reading = calls(bench, asked.prepare("S", bench.folder / "few"), Crowd(2, 3), port)()
    assert reading.per_s > 100
    assert reading.p99_us is not None
    assert reading.p50_us is not None
    assert reading.p50_us <= reading.p99_us
    with pytest.raises(BenchError, match="NOT_FOUND: no model 'L'"):
        calls(bench, asked.prepare("L", bench.folder / "few"), Crowd(1, 1), port)()


def test_the_first_is_set_against_the_second_round_by_round():
    readings = {"mine": [Reading(80.0), Reading(10.0)], "theirs": [Reading(10.0), Reading(1.0)]}
    *_, row = speed.judged(readings, "calls/s", "mine: to theirs", speed.ENGINE_GOAL)
    assert (row.name, row.value, row.against, row.missed) == ("mine: to theirs", 9.0, "theirs", False)


def test_shared_memory_is_set_against_the_limit_and_the_floor():
    names = (
        f"shared memory/L-{shared.CONNECTIONS}",
        "over gRPC",
        shared.FLOOR,
        shared.LIMIT,
        shared.COPY_LIMIT,
    )
    per_s = 60.0, 50.0, 120.0, 100.0, 80.0
    readings = {name: [Reading(each)] for name, each in zip(names, per_s, strict=True)}
    *_, to_limit, to_copy_limit, of_grpc, to_floor = shared.judge(readings)
    assert (to_limit.name, to_limit.value, to_limit.verdict) == (shared.NAME, 0.6, "ok")
    assert (to_copy_limit.value, to_copy_limit.goal) == (0.75, None)
    assert (of_grpc.value, to_floor.value) == (0.5, 0.5)


def test_a_case_that_was_refused_counts_as_one_that_is_not_answered():
    binary, json_, grpc = cases.rows(CASES)
    assert [each.verdict for each in (binary, json_, grpc)] == ["ok", "ok", "MISS"]
    assert json_.note is not None
    assert "10 more" in json_.note
    assert cases.rows({}).__next__().missed
    refused = next(cases.rows(CASES | {"refused at admission": 25}))
    assert refused.value == 0.8


def test_what_the_tests_counted_is_found_in_their_report(tmp_path):
    listed = "".join(f'<property name="{name}" value="{each}" />' for name, each in CASES.items())
    (tmp_path / "report.xml").write_text(
        f'<testsuites><testsuite><properties>{listed}<property name="odd" value="x" />'
        "</properties></testsuite></testsuites>"
    )
    assert cases.properties(tmp_path / "report.xml") == CASES


def test_a_server_is_configured_for_what_is_measured_of_it(tmp_path):
    setup = turnout.Setup(tmp_path, models=("L",), grpc="h2")
    read = config.parse(turnout.settings(setup, 8000, 8002, 8003, tmp_path / "state", 8001))
    assert (read.grpc.engine, read.server.grpc) == ("h2", "127.0.0.1:8001")


def test_figures_that_are_not_wanted_start_nothing(tmp_path):
    bench = Bench(tmp_path, Cores(ONE, ONE, ONE), only="nothing of this name")
    assert list(bench_grpc.measured(bench)) == []
    assert not list(tmp_path.iterdir())
