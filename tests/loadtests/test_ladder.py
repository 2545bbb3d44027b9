"""The benchmark's own arithmetic: a figure that is wrong is worse than none."""

from __future__ import annotations

import asyncio
import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests import ladder
from loadtests.bench import client, command, floor, limit, machine, models, traffic, turnout, wrk
from loadtests.bench.client import Sample, percentile
from loadtests.bench.errors import BenchError
from loadtests.bench.latency import Watched
from loadtests.bench.machine import Cores
from loadtests.bench.points import points
from loadtests.bench.readings import Reading, rounds, summary
from loadtests.bench.rows import Better, Goal, Row, or_reason, ratio, table, write
from loadtests.bench.throughput import beside_plain, judge
from loadtests.bench.traffic import Encoding, Traffic
from serving import config

positive = st.floats(1e-3, 1e6)
ONE = frozenset({0})
RESULT = "RESULT 21000 2000000 66.0 144.0 2025.0 0"


# Rows


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_a_goal_is_met_on_its_good_side_and_on_the_bound_itself(bound, value):
    assert Goal(bound).met_by(bound)
    assert Goal(bound, Better.LOWER).met_by(bound)
    if value != bound:
        assert Goal(bound).met_by(value) is not Goal(bound, Better.LOWER).met_by(value)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=9), positive)
def test_a_ratio_does_not_change_when_a_whole_round_was_slower(pairs, slowness):
    over, under = zip(*pairs, strict=True)
    slow_over, slow_under = (over[0] * slowness, *over[1:]), (under[0] * slowness, *under[1:])
    fast, slow = ratio("r", over, under, "u", None), ratio("r", slow_over, slow_under, "u", None)
    assert slow.value == pytest.approx(fast.value)


def test_a_ratio_to_nothing_is_not_measured_instead_of_infinite():
    row = ratio("r", [1.0], [0.0], "floor", Goal(0.5))
    assert row.value is None
    assert row.missed


def test_a_goal_that_was_not_measured_is_missed():
    assert Row("a", None, "s", Goal(1)).verdict == "MISS"
    assert Row("a", None, "s").verdict == "not measured"
    assert Row("a", 1.0, "s").verdict == ""
    assert Row("a", 1.0, "s", Goal(1)).verdict == "ok"


def test_json_rows_have_name_value_and_unit_and_the_goal_as_a_number(tmp_path):
    rows = [
        Row("a: to b", 0.61, "ratio", Goal(0.55), "b", runs=(0.6, 0.61, 0.7)),
        Row("c", None, "s", Goal(3, Better.LOWER), note="why"),
    ]
    write(rows, tmp_path / "new" / "ladder.json")
    assert json.loads((tmp_path / "new" / "ladder.json").read_text()) == [
        {
            "name": "a: to b", "value": 0.61, "unit": "ratio", "goal": 0.55, "better": "higher",
            "against": "b", "runs": [0.6, 0.61, 0.7],
        },
        {"name": "c", "value": None, "unit": "s", "goal": 3, "better": "lower", "note": "why"},
    ]  # fmt: skip


def test_the_table_has_a_line_for_each_row_and_says_which_missed():
    lines = table(
        [
            Row("fast", 109_412.4, "requests/s", p50_us=66.2, p99_us=143.9),
            Row("fast: to floor", 0.5, "ratio", Goal(0.55)),
            Row("small", 200.0, "MiB", Goal(250, Better.LOWER), note="after load"),
        ]
    ).splitlines()
    assert lines[0].split()[:3] == ["name", "value", "unit"]
    assert lines[1].split() == ["fast", "109,412", "requests/s", "66/144"]
    assert lines[2].split() == ["fast:", "to", "floor", "0.5", "ratio", ">=", "0.55", "MISS"]
    assert lines[3].split()[-4:] == ["250", "ok", "after", "load"]


def test_what_cannot_be_measured_says_why_and_keeps_what_was():
    def rows():
        yield Row("first", 1.0, "s")
        raise BenchError("no server")

    first, second = or_reason(rows(), "second", "s", Goal(1))
    assert first.value == 1.0
    assert (second.name, second.value, second.note, second.missed) == ("second", None, "no server", True)


def test_the_closing_line_names_what_was_missed():
    met, missed = Row("a", 2.0, "s", Goal(1)), Row("b", 0.5, "s", Goal(1))
    assert command.closing([met, Row("c", 1.0, "s")]) == "1 goals, none missed"
    assert command.closing([met, missed]) == "2 goals, 1 missed: b"


# wrk


def test_wrks_result_is_read_with_its_percentiles():
    load = wrk.parse(f"Running 2s test\n  8 connections\n{RESULT}\n")
    assert (load.requests, load.per_s, load.p50_us, load.p99_us, load.errors) == (21_000, 10_500, 66, 144, 0)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("unable to connect to 127.0.0.1", "unable to connect"),
        ("RESULT 0 2000000 0.0 0.0 0.0 7", "7 errors"),
    ],
)
def test_a_run_without_answers_is_an_error_and_not_a_rate_of_zero(output, says):
    with pytest.raises(BenchError, match=says):
        wrk.parse(output)


# Requests


@pytest.mark.parametrize("encoding", list(Encoding))
def test_distinct_requests_differ_in_id_and_values_but_need_only_one_head(encoding):
    made = traffic.bodies(Traffic("S", encoding, distinct=True), 50)
    ids = {json.loads(body.data[: body.header_length or None])["id"] for body in made}
    assert len(ids) == len({body.data for body in made}) == 50
    assert len({body.header_length for body in made}) == 1


def test_s_is_asked_with_the_bytes_that_tritonclient_sends():
    (body,) = traffic.bodies(Traffic("S", Encoding.BINARY, distinct=False), 1)
    header = json.loads(body.data[: body.header_length])
    assert header["inputs"][0]["parameters"] == {"binary_data_size": 64}
    assert len(body.data) == body.header_length + 64
    assert body.head("/v2/models/S/infer").endswith(f"Content-Length: {len(body.data)}\r\n\r\n".encode())


@given(
    st.lists(st.floats(-1024, 1024, width=32), min_size=1, max_size=8),
    st.sampled_from(Encoding),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_an_answer_is_read_back_as_what_it_was_made_of(values, encoding, distinct):
    y = np.array([values], np.float32)
    body = traffic.answer(Traffic("S", encoding, distinct), y)
    np.testing.assert_allclose(traffic.read(body.data, body.header_length), y, rtol=1e-6, atol=1e-6)


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_packed_bodies_can_be_told_apart_by_their_lengths(datas):
    packed = traffic.pack([traffic.Body(data, 0) for data in datas])
    unpacked, at = [], 0
    while at < len(packed):
        length = int(packed[at : at + 8])
        unpacked.append(packed[at + 8 : at + 8 + length])
        at += 8 + length
    assert unpacked == datas


def test_identical_requests_run_no_lua_while_they_are_sent():
    kind = Traffic("S", Encoding.BINARY, distinct=False)
    assert "function request" not in traffic.script(kind, Path("x"), 1)
    assert "function request" in traffic.script(replace(kind, distinct=True), Path("x"), 1)


# Measuring


def test_every_round_measures_everything_once_and_turns_the_order():
    order = []

    def target(name):
        return lambda: order.append(name) or Reading(1.0)

    readings = rounds({"a": target("a"), "b": target("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(taken) for name, taken in readings.items()} == {"a": 3, "b": 3}


def test_a_row_says_so_when_the_load_could_not_have_asked_for_more():
    assert summary("a", "requests/s", [Reading(1.0, busy=1.0)] * 3).note == "the load's core is full"
    assert summary("a", "requests/s", [Reading(1.0, busy=0.5)] * 3).note is None


def test_a_point_is_judged_against_the_floor_of_its_own_rounds():
    point = next(points())
    readings = {
        "local": [Reading(60.0), Reading(30.0), Reading(66.0)],
        "HTTP floor": [Reading(100.0), Reading(50.0), Reading(110.0)],
        "in-process limit": [Reading(200.0)] * 3,
    }
    rows = {row.name: row for row in judge(point, "local", readings, 1)}
    to_floor = rows["local/S-binary-8-distinct: to HTTP floor"]
    assert to_floor.value == pytest.approx(0.6)
    assert (to_floor.goal, to_floor.against) == (Goal(0.55), "HTTP floor/S-binary-8-distinct")
    assert rows["local/S-binary-8-distinct: to in-process limit"].goal is None
    replica = judge(point, "replica", {**readings, "replica": readings["local"]}, 1)
    assert {row.goal for row in replica if row.name.endswith("to HTTP floor")} == {Goal(0.45)}


def test_the_replica_is_set_against_plain_ray_serve_or_says_that_it_was_not_measured():
    point, base = next(points()), Row("plain/S", 100.0, "requests/s")
    assert beside_plain(point, Row("replica/S", 70_000.0, "requests/s"), base).value == 700
    assert beside_plain(point, None, base).missed


def test_the_goals_are_those_of_the_issue():
    on_floor = {str(p): p.to_floor.bound for p in points() if p.to_floor}
    on_limit = {str(p): p.to_limit.bound for p in points() if p.to_limit}
    assert on_floor == {
        "S-binary-8-distinct": 0.55, "S-binary-64-distinct": 0.65, "S-JSON-8-distinct": 0.35,
        "L-binary-1-distinct": 0.55, "L-binary-8-distinct": 0.50,
    }  # fmt: skip
    assert on_limit == {"M-binary-8-distinct": 0.95, "M_batched-binary-64-distinct": 0.97}


def test_a_limit_can_copy_its_batches_one_after_the_other(tmp_path):
    (tmp_path / "rows").write_bytes(np.arange(5, dtype=np.float32).tobytes())
    batch, seen = np.zeros(2, np.float32), []
    run = limit.copying(lambda: seen.append(batch.tolist()), batch, str(tmp_path / "rows"))
    for _ in range(3):
        run()
    assert seen == [[0, 1], [2, 3], [0, 1]]


def test_the_limit_counts_rows_and_not_runs():
    clock = iter(range(100))
    assert limit.rate(lambda: None, rows=8, seconds=4, now_s=lambda: float(next(clock))) == 8 * 3 / 4


# Latency


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200), st.floats(1, 100))
def test_at_least_that_percentage_is_not_above_the_percentile_and_it_is_one_of_the_values(values, percent):
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= math.ceil(len(values) * percent / 100 - 1e-9)
    assert sum(value < found for value in values) < len(values) * percent / 100


def test_there_is_no_percentile_of_nothing():
    with pytest.raises(BenchError):
        percentile([], 99)


def test_loading_compares_each_load_with_the_quiet_before_it():
    """One bad second of the machine, before or during, moves one ratio of several."""
    took_s = {1.0: 0.002, 1.5: 0.002, 2.0: 0.006, 3.9: 9.0, 4.0: 0.001, 5.0: 0.002, 7.0: 8.0, 8.0: 0.001}
    watched = Watched(
        [Sample(due, took) for due, took in took_s.items()],
        quiet=[(1.0, 2.0), (4.0, 5.0), (7.0, 8.0)],
        loads=[(2.0, 3.0), (5.0, 6.0), (8.0, 9.0)],
    )
    before, during, row = watched.rows("S", "ratio", Goal(1.2, Better.LOWER))
    assert (before.value, during.value) == (pytest.approx(2.0), pytest.approx(2.0))
    assert row.runs == (pytest.approx(3.0), pytest.approx(2.0), pytest.approx(1 / 8000))
    assert row.value == pytest.approx(2.0)
    assert row.missed


REQUEST = b"POST /v2/models/S/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}"


async def with_floor(answer, use):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: floor.Floor(answer), "127.0.0.1", 0)
    try:
        return await use(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def steadily(port, per_s, seconds):
    stop = asyncio.Event()
    asking = asyncio.create_task(client.steady(port, [REQUEST], per_s, stop))
    await asyncio.sleep(seconds)
    stop.set()
    return await asking


def test_a_steady_rate_is_kept_whatever_the_answers_do():
    samples = asyncio.run(with_floor(floor.response(b"ok", 0), lambda port: steadily(port, 200, 0.5)))
    assert 60 <= len(samples) <= 101
    gaps = np.diff(sorted(sample.due_s for sample in samples))
    np.testing.assert_allclose(gaps, 1 / 200, atol=1e-6)


def test_a_crowd_asks_again_only_when_it_was_answered():
    samples = asyncio.run(
        with_floor(floor.response(b"ok", 0), lambda port: client.crowd(port, REQUEST, 4, 0.2))
    )
    assert len(samples) > 4
    assert sum(sample.took_s for sample in samples) <= 4 * (0.2 + client.DRAIN_S_MAX)


def test_an_error_answer_ends_a_measurement_instead_of_counting_as_fast():
    refusal = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
    with pytest.raises(BenchError, match="failed"):
        asyncio.run(with_floor(refusal, lambda port: steadily(port, 100, 0.2)))


def test_a_request_that_is_never_answered_counts_with_its_age(monkeypatch):
    monkeypatch.setattr(client, "DRAIN_S_MAX", 0.1)
    samples = asyncio.run(with_floor(b"", lambda port: steadily(port, 100, 0.3)))
    assert max(sample.took_s for sample in samples) >= 0.3


# Servers and models


def test_turnouts_configuration_accepts_what_the_benchmark_writes(tmp_path):
    setup = turnout.Setup(tmp_path / 'odd "name"', models=("S", "L"), poll_s=0.5, metrics=False)
    text = turnout.toml(turnout.settings(setup, 8000, 8002, 8003, tmp_path / "state"))
    read = config.parse(tomllib.loads(text))
    assert read.repository.path == (tmp_path / 'odd "name"').resolve()
    assert (read.repository.models, read.repository.poll_s) == (("S", "L"), 0.5)
    assert (read.server.http, read.metrics.enabled) == ("127.0.0.1:8000", False)


def test_the_command_is_the_one_a_user_gives():
    local, on_ray = (turnout.command(Path("c.toml"), local=local)[1:] for local in (True, False))
    assert local == ["-m", "serving.cli", "serve", "--local", "--config", "c.toml"]
    assert on_ray == ["-m", "serving.cli", "serve", "--config", "c.toml"]


def test_a_pattern_chooses_figures_by_any_part_of_their_name():
    bench = turnout.Bench(Path("b"), Cores(ONE, ONE, ONE), only="local/S-*-8")
    assert bench.wants("local/S-binary-8-distinct")
    assert not bench.wants("replica/S-binary-8-distinct")
    assert replace(bench, only="").wants("anything")


@given(st.frozensets(st.integers(0, 127), min_size=1))
def test_server_and_load_have_a_core_each_unless_there_is_only_one(usable):
    cores = machine.divide(usable)
    assert cores.server <= usable
    assert cores.load <= usable
    assert cores.shared is (len(usable) == 1)
    assert ("one core" in str(cores)) is cores.shared


def test_the_models_of_the_ladder_run_at_any_number_of_rows(tmp_path):
    models.lay_out(tmp_path)
    for name, shape in models.SHAPES.items():
        session = ort.InferenceSession(models.path(tmp_path, name), providers=["CPUExecutionProvider"])
        for rows in (1, 2):
            (y,) = session.run(["y"], {"x": np.ones((rows, *shape[1:]), np.float32)})
            assert y.shape[0] == rows
            assert np.isfinite(y).all()


def test_each_heavy_version_has_other_bytes():
    one, other = (models.heavy(seed, width=8).SerializeToString() for seed in (2, 3))
    assert len(one) == len(other)
    assert one != other


@pytest.mark.parametrize("wrong", ["0", "-1", "1.5", "many", "601"])
def test_a_duration_that_wrk_cannot_take_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        ladder.arguments(["--seconds", wrong])
    assert "expected a whole number from 1 to 600" in capsys.readouterr().err
