"""The arithmetic of `make bench NAME=switch`, its models, and what its clients make of answers."""

from __future__ import annotations

import json
import struct
import threading
import tomllib
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from loadtests.bench import client, command, models, traffic, turnout
from loadtests.bench.client import Sample
from loadtests.bench.errors import BenchError
from loadtests.bench.readings import Reading
from loadtests.bench.traffic import Encoding, Traffic
from loadtests.register import Kill, Outcome, Request, Switch
from loadtests.switching import asking, checks, cost, faults, shadowing, versions
from loadtests.switching.admin import Admin, Change
from loadtests.switching.asking import Answer
from loadtests.switching.broken import Broken
from loadtests.switching.trial import Run
from serving import config

MS = 1_000_000


def session(model) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


# Models


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_of_the_register_answers_its_own_number(version):
    (y,) = session(versions.constant(version)).run(None, {"x": np.full((3, 1), 7, np.float32)})
    assert y.tolist() == [[version]] * 3


@pytest.mark.parametrize("model", ["S", "M"])
def test_what_shadows_has_the_shape_of_what_it_shadows_and_behaves_until_it_is_triggered(model):
    usual, triggering = models.samples(model, 1)[0], versions.triggering(model, 1)[0]
    for shadow in (versions.slow(model), versions.hanging(model, 1000), versions.failing(model)):
        (y,) = session(shadow).run(None, {"x": usual})
        assert y.shape == (1, versions.OUTPUTS[model])
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match="out of data bounds"):
        session(versions.failing(model)).run(None, {"x": triggering})


def test_a_version_that_hangs_takes_as_long_as_it_turns():
    turns = versions.turns_for("S", 0.2, probe=50_000)
    assert 10_000 < turns < 5_000_000


def test_the_two_versions_of_the_pair_are_two_files_that_answer_alike(tmp_path):
    versions.lay_out_pair(tmp_path)
    files = [models.path(tmp_path, "S", version) for version in (1, 2)]
    assert files[0].read_bytes() != files[1].read_bytes()
    x = models.samples("S", 1)[0]
    one, two = (ort.InferenceSession(file).run(None, {"x": x})[0] for file in files)
    assert (one == two).all()


# What a client makes of an answer


def answer(version: float, claimed: str = "1", route: str = "1;7;static", *, binary: bool = False) -> Answer:
    output = {"name": "y", "datatype": "FP32", "shape": [1, 1]}
    document = {"model_name": "register", "model_version": claimed, "outputs": [output]}
    if not binary:
        output["data"] = [version]
        return Answer(200, route, 0, body=bytearray(json.dumps(document).encode()))
    head = json.dumps(document).encode()
    return Answer(200, route, len(head), body=bytearray(head + struct.pack("<f", version)))


@pytest.mark.parametrize("binary", [False, True])
def test_an_answer_is_read_for_what_it_claims_how_it_was_routed_and_what_it_is(binary):
    assert asking.read(answer(2.0, "1", "3;7;static", binary=binary)) == (Outcome.OK, 1, 3, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        Answer(503),
        Answer(200, body=bytearray(b"no JSON")),
        Answer(200, body=bytearray(b'{"model_version": "1", "outputs": []}')),
        Answer(200, "1;1;static", 5, body=bytearray(b"12345678")),
    ],
)
def test_what_is_no_answer_has_failed(wrong):
    assert asking.read(wrong)[0] is Outcome.FAILED


@pytest.mark.parametrize("route", ["", "x;1;static", "999;1;static"])
def test_an_answer_without_a_version_in_its_header_was_routed_to_none(route):
    assert asking.read(answer(1.0, route=route)) == (Outcome.OK, 1, 0, 1)


@pytest.mark.parametrize("value", [0.0, 1.5, -1.0, 1e9, float("nan")])
def test_an_answer_that_is_no_versions_is_of_none(value):
    assert asking.read(answer(value, binary=True))[3] == 0


def test_requests_say_whether_their_connection_is_kept():
    for encoding in Encoding:
        kept, closed = (asking.request(encoding, keep_alive=each) for each in (True, False))
        assert b"Connection: close" in closed and b"Connection" not in kept
        head, _, body = closed.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head


# Changing traffic


def test_an_answer_that_does_not_come_may_have_happened_and_a_refusal_did_not():
    with Broken() as gateway:
        admin = Admin(gateway.url, "t")
        change = admin.switch("register", 1, 2)
        assert change.switch.certain and change.receipt["revision"] == 1
        assert change.client_ms >= 0
    lost = admin.switch("register", 2, 1)
    assert (lost.switch.acknowledged_ns, lost.switch.certain, lost.receipt) == (None, False, {})


# Faults


def test_the_control_is_killed_at_moments_spread_over_a_change_and_beyond(monkeypatch):
    slept = []
    monkeypatch.setattr(faults.time, "sleep", slept.append)

    class Nobody:
        kills: list[Kill] = []  # noqa: RUF012

        def control(self) -> int:
            return 1

        def kill_control(self, pid: int) -> None:
            del pid

    plan = faults.control_killed(Nobody(), 100, change_ms=4.0)
    for number in range(100):
        plan.before(number)
    plan.end()
    assert len(slept) == 25
    assert min(slept) < 0.0002 and 0.005 < max(slept) < 4.0 / 1e3 * 4 / 3
    assert sum(each > 0.004 for each in slept) == 6


def test_an_act_of_a_plan_does_not_hold_the_switch_up():
    done, go = [], threading.Event()

    def act() -> None:
        go.wait(10)
        done.append(1)

    plan = faults.Planned(faults.Victims(None, None), {3: lambda: act})
    plan.before(2)
    plan.before(3)
    assert not done
    go.set()
    plan.end()
    assert done == [1]


# Rows


def receipts(*ms: float) -> list[Change]:
    """Changes of a register that alternates, one each 100 ms; the first before anybody asked."""
    made = []
    for number, each in enumerate(ms):
        at = number * 100 * MS
        before, after = ((2, 1), (1, 2))[number % 2]
        made.append(
            Change(
                Switch(at, at + int(each * MS), before, after),
                {"ms": each, "steps_ms": {"journal": each / 2}, "killed": []},
            )
        )
    return made


def served(until_ms: int, changes: list[Change], every_ms: int = 1) -> list[Request]:
    requests = []
    for start in range(1, until_ms, every_ms):
        done = [c for c in changes if (c.switch.acknowledged_ns or 0) < start * MS]
        version = done[-1].switch.after if done else 1
        requests.append(Request(start * MS, start * MS + MS // 2, Outcome.OK, version, version, version, 0))
    return requests


def test_a_run_gives_the_percentiles_of_its_receipts_but_for_the_first():
    changes = receipts(90.0, *[float(each) for each in range(1, 11)])
    rows = {row.name: row for row in checks.speed(Run(served(1200, changes), changes, []))}
    assert rows[f"{checks.ROLLBACK}: p50"].value == 5.0
    assert rows[f"{checks.ROLLBACK}: p99"].value == 10.0
    assert not rows[f"{checks.ROLLBACK}: p50"].missed
    assert rows[f"{checks.ROLLBACK}: journal"].value == 2.5
    assert rows["longest gap between answers at a switch: p99"].value == pytest.approx(1.0)
    assert rows["longest gap between answers without a switch: p99"].value == pytest.approx(1.0)


def test_a_verdict_is_a_row_and_one_that_proves_nothing_is_missed():
    changes = receipts(1.0, 1.0, 1.0)
    good = checks.judged("c", Run(served(400, changes), changes, []))
    assert (good.value, good.verdict) == (0.0, "ok")
    stale = served(400, changes)
    stale[250] = stale[250]._replace(true=2, claimed=2, routed=2)
    assert checks.judged("c", Run(stale, changes, [])).missed
    assert checks.judged("c", Run(served(400, changes), changes, [], ["not ready"])).missed
    idle = checks.judged("c", Run([Request(0, 300 * MS, Outcome.OK, 1, 1, 1, 0)], changes, []))
    assert idle.value is None and idle.missed


def test_the_cost_of_routing_is_a_ratio_of_rounds_to_each_that_it_is_set_against():
    readings = {
        cost.DEALT: [Reading(95.0), Reading(190.0)],
        cost.CANARY: [Reading(90.0), Reading(180.0)],
        cost.HALVES: [Reading(80.0), Reading(160.0)],
        cost.PLAIN: [Reading(100.0), Reading(200.0)],
        cost.BASELINE: [Reading(100.0), Reading(100.0)],
    }
    rows = {row.name: row for row in cost.judged(cost.Point(8, 1000), readings)}
    dealt = rows["S-8, 1,000 callers: dealt by caller to one version"]
    assert (dealt.value, dealt.verdict) == (pytest.approx(0.95), "ok")
    assert rows["S-8, 1,000 callers: dealt by caller to baseline"].runs == pytest.approx((0.95, 1.9))
    assert rows["S-8, 1,000 callers: two halves to one version"].goal is None
    assert rows["S-8, 1,000 callers: one version to baseline"].goal == cost.GOAL


def test_the_cost_of_a_shadow_is_the_median_of_pairs_of_spans():
    samples = [
        Sample(float(second) + 0.5, took) for second, took in enumerate([1.0, 1.2, 2.0, 2.2, 1.0, 1.0])
    ]
    spans = [(float(second), second + 1.0) for second in range(6)]
    watched = shadowing.Watched(samples, spans[::2], spans[1::2], [{"rows": 7.0}] * 3)
    *_, last = shadowing.rows(watched, "S", "saturated", "name", 100.0)
    assert last.runs == pytest.approx((1.2, 1.1, 1.0))
    assert last.value == pytest.approx(1.1)
    assert "rows 7" in last.note
    idle = replace(watched, told=[{"rows": 7.0}, {"rows": 0.0}, {"rows": 7.0}])
    with pytest.raises(BenchError, match="never ran"):
        list(shadowing.rows(idle, "S", "saturated", "name", 100.0))


# Configuration and command line


def test_each_request_can_name_a_caller_of_its_own():
    kind = Traffic("S", Encoding.BINARY, distinct=True, callers=1000)
    script = traffic.script(kind, "bodies", 0)
    assert script.index('wrk.headers["x-user-id"]') < script.index("wrk.format()")
    assert "x-user-id" not in traffic.script(Traffic("S", Encoding.BINARY, distinct=True), "bodies", 0)
    assert kind.slug != Traffic("S", Encoding.BINARY, distinct=True).slug


def test_four_replicas_are_asked_for_and_an_older_checkout_is_not_told_of_the_admin(tmp_path):
    setup = turnout.Setup(tmp_path, local=False, replicas=4)
    read = config.parse(tomllib.loads(turnout.toml(turnout.settings(setup, 1, 2, 3, tmp_path))))
    assert (read.ray.replicas, read.server.admin) == (4, "127.0.0.1:3")
    old = turnout.Setup(tmp_path, checkout=tmp_path)
    assert "admin" not in turnout.settings(old, 1, 2, 3, tmp_path)["server"]
    assert turnout.within(tmp_path) == ["env", "-C", str(tmp_path)]


def test_quick_is_one_second_once():
    options = command.read(command.options("switch", "What?"), ["--quick"])
    assert (options.seconds, options.repeat) == (1, 1)


def test_percentiles_are_of_what_was_measured():
    assert client.percentile([3.0, 1.0, 2.0], 50) == 2.0
