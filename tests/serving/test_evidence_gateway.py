"""What real models answer, and fail to answer, is counted where it was drawn: over sockets, in real lanes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from router.pick import Wheel
from router.table import Route, RoutingTable, Share, Sticky, everything_to
from serving.evidence.counts import FAILURE, METRICS, OF_A_CLASS, REQUEST, Counts
from serving.evidence.page import WHOLE
from serving.evidence.terms import Terms
from tests.models import constant, mlp, place
from tests.running import Running
from tests.talking import Client, eventually, in_binary, in_json, rows

BOTH = frozenset({"7", "8"})
HALVES = (Share("8", 5000), Share("7", 5000))
GOOD, ODD = np.full((1, 4), 0.25, np.float32), np.full((1, 4), np.nan, np.float32)
FAILING, ENDLESS = np.full((1, 4), -1, np.float32), np.full((1, 4), 1e18, np.float32)


def moody() -> onnx.ModelProto:
    """Return x [N, 4] in, the same out as y; what is below 0 makes it fail, and large numbers make it slow.

    A round takes about a microsecond, and there are as many of them as the greatest number says.
    """
    value, node = helper.make_tensor_value_info, helper.make_node
    ends = [value(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    kept = [node("Identity", ["go"], ["go_on"]), node("Identity", ["a"], ["b"])]
    taken = [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, [])]
    body = helper.make_graph(
        kept,
        "round",
        [*taken, value("a", TensorProto.FLOAT, ["N", 4])],
        [value("go_on", TensorProto.BOOL, []), value("b", TensorProto.FLOAT, ["N", 4])],
    )
    nodes = [
        node("ReduceMin", ["x"], ["least"], keepdims=1),
        node("Less", ["least", "zero"], ["below"]),
        node("Cast", ["below"], ["more"], to=TensorProto.INT64),
        node("Reshape", ["more", "one"], ["much"]),
        node("Add", ["much", "four"], ["width"]),
        node("Concat", ["all", "width"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["same"]),
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Cast", ["most"], ["rounds"], to=TensorProto.INT64),
        node("Loop", ["rounds", "yes", "same"], ["y"], body=body),
    ]
    weights = {"zero": np.float32([[0]]), "yes": np.array(True)}
    weights |= {name: np.int64([number]) for name, number in (("one", 1), ("four", 4), ("all", -1))}
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "moody", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("evidence")
    for version in (7, 8):
        place(folder / "models", "m", version, moody(), "version_policy { all { } }")
        place(folder / "models", "other", version, constant(version), "version_policy { all { } }")
        place(folder / "models", "fast", version, mlp(version), "version_policy { all { } }")
    with Running(folder / "models", folder / "state", {"queue": {"timeout_s_max": 5}}) as made:
        yield made


@pytest.fixture(scope="module")
def threaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a gateway whose runs have threads, and whose queues are short."""
    folder = tmp_path_factory.mktemp("threaded")
    for version in (7, 8):
        place(folder / "models", "m", version, moody(), "version_policy { all { } }")
        place(folder / "models", "leaves", version, moody(), "version_policy { all { } }")
    settings: dict[str, dict[str, Any]] = {
        "queue": {"requests_max": 2, "timeout_s_max": 5},
        "engine": {"inline_us_max": 0},
    }
    with Running(folder / "models", folder / "state", settings) as made:
        agree(made, Terms("m", BOTH, (10**6, 10**9, 10**10)))
        yield made


def pending(running: Running) -> int:
    return sum(each.pending for each in running.gateway.shelf.loaded.all())


revisions = iter(range(1, 10_000))


def follow(running: Running, route: Route, model: str = "m") -> int:
    """Have a route followed; return the epoch that it begins."""
    revision = next(revisions)

    async def now() -> None:
        traffic = running.gateway.traffic
        table = RoutingTable(revision, {**traffic.table.routes, model: route})
        traffic.follow(table, 1, {**traffic.epochs, model: revision})

    running.do(now())
    return revision


def agree(running: Running, *terms: Terms) -> None:
    async def now() -> None:
        running.gateway.evidence.agree(terms)

    running.do(now())


def counted(running: Running, epoch: int) -> dict[tuple[str, str], Counts]:
    """Return what was counted in an epoch, by version and arm."""

    async def now() -> dict[tuple[str, str], Counts]:
        running.gateway.evidence.flush()
        return {
            (of.version, of.arm): counts
            for of, counts in running.gateway.evidence.book.readings().items()
            if of.epoch == epoch
        }

    return running.do(now())


def both(running: Running, epoch: int) -> Counts:
    return sum(counted(running, epoch).values(), Counts())


@pytest.fixture(autouse=True)
def _agreed(running: Running) -> Iterator[None]:
    agree(running, Terms("m", BOTH, (10**6, 10**9, 10**10)), Terms("fast", BOTH, None, 0.7))
    yield
    assert eventually(lambda: not pending(running))
    agree(running)


def test_what_was_drawn_is_counted_by_version_and_nothing_else_is(running: Running) -> None:
    epoch = follow(running, Route(HALVES))
    routes: Counter[str] = Counter()
    with Client(running) as client:
        for _ in range(40):
            routes[client.ask(in_binary("m", GOOD)).headers["turnout-route"]] += 1
            client.ask(in_binary("m", GOOD, "X-Turnout-Version: 8"))
    counts = counted(running, epoch)
    assert {f"{version};{epoch};{arm}": each.requests for (version, arm), each in counts.items()} == routes
    assert both(running, epoch).timed == 40


def test_each_way_to_fail_is_counted_as_what_it_is(running: Running) -> None:
    epoch = follow(running, Route(HALVES))
    with Client(running) as client:
        statuses = [
            client.ask(in_json("m", values)).status for values in (GOOD, FAILING, FAILING, rows(1, 3))
        ]
        assert client.ask(in_binary("m", ODD)).status == 200
        late = client.ask(in_json("m", ENDLESS, parameters={"timeout": 50_000}))
        refused = client.ask(in_json("m", rows(1, 3)))
    assert (statuses, late.status, refused.status) == ([200, 500, 500, 400], 504, 400)
    counts = both(running, epoch)
    assert {metric: counts.events(metric) for metric in METRICS if metric not in OF_A_CLASS} == {
        "failure": 3,
        "timeout": 1,
        "refused": 2,
        "rejected": 0,
        "nan": 1,
        "low-confidence": 0,
        "wrong": 0,
        **{metric: counts.events(metric) for metric in METRICS if metric.startswith("latency")},
    }
    assert (counts.requests, counts.timed, counts.events(REQUEST)) == (7, 2, 7)


def test_what_finds_the_queue_full_or_waits_too_long_is_counted(threaded: Running) -> None:
    epoch = follow(threaded, Route((Share("8", 9999), Share("7", 1))))
    lane = threaded.gateway.find("m", "8").lane
    with (
        Client(threaded) as first,
        Client(threaded) as second,
        Client(threaded) as third,
        Client(threaded) as last,
    ):
        first.send(in_json("m", ENDLESS, parameters={"timeout": 1_500_000}))
        assert eventually(lambda: len(lane) == 1)
        second.send(in_json("m", GOOD, parameters={"timeout": 700_000}))
        assert eventually(lambda: len(lane) == 2)
        third.send(in_json("m", GOOD))
        assert eventually(lambda: len(lane) == 3)
        assert last.ask(in_json("m", GOOD)).status == 429
        assert [each.answer().status for each in (second, first, third)] == [504, 504, 200]
    counts = both(threaded, epoch)
    assert (counts.requests, counts.rejected, counts.timeout, counts.timed) == (4, 1, 2, 1)


def test_a_client_that_left_is_not_counted(threaded: Running) -> None:
    epoch = follow(threaded, Route(HALVES))
    with Client(threaded) as gone:
        gone.send(in_binary("m", np.full((1, 4), 200_000, np.float32)))
        assert eventually(lambda: pending(threaded) == 1)
    assert eventually(lambda: not pending(threaded))
    assert both(threaded, epoch) == Counts()


def test_a_request_is_on_the_page_of_the_epoch_that_drew_it(threaded: Running) -> None:
    before = follow(threaded, Route(HALVES))
    with Client(threaded) as slow, Client(threaded) as quick:
        slow.send(in_json("m", np.full((1, 4), 300_000, np.float32)))
        assert eventually(lambda: pending(threaded) == 1)
        after = follow(threaded, Route((Share("8", 1000), Share("7", 9000))))
        for _ in range(5):
            quick.send(in_json("m", FAILING))
        drawn_by = [quick.answer() for _ in range(5)]
        assert slow.answer().headers["turnout-route"].split(";")[1] == str(before)
    assert [each.status for each in drawn_by] == [500] * 5
    assert (both(threaded, before).requests, both(threaded, before).failed) == (1, 0)
    assert (both(threaded, after).requests, both(threaded, after).failed) == (5, 5)


def test_a_change_of_another_model_s_route_begins_no_epoch(running: Running) -> None:
    epoch = follow(running, Route(HALVES))
    with Client(running) as client:
        client.ask(in_binary("m", GOOD))
        later = follow(running, everything_to("7"), "other")
        assert client.ask(in_binary("m", GOOD)).headers["turnout-route"].split(";")[1] == str(later)
    assert both(running, epoch).requests == 2


@pytest.mark.parametrize(
    "route", [everything_to("8"), Route(HALVES, pinned="8"), Route((Share("9", 5000), Share("7", 5000)))]
)
def test_whole_and_pinned_traffic_and_a_split_that_lacks_a_version_are_no_evidence(
    running: Running, route: Route
) -> None:
    epoch = follow(running, route)
    with Client(running) as client:
        for _ in range(20):
            client.ask(in_json("m", FAILING))
    found = counted(running, epoch)
    assert all(of == (route.whole, WHOLE) for of in found)
    assert both(running, epoch).requests == (20 if route.whole and not route.pinned else 0)


def test_a_brake_stops_the_counting(running: Running) -> None:
    epoch = follow(running, Route(HALVES))

    async def pull(pulled: dict[str, str]) -> None:
        running.gateway.traffic.brakes = pulled
        running.gateway.traffic.renew()

    with Client(running) as client:
        running.do(pull({"m": ""}))
        assert client.ask(in_binary("m", GOOD)).headers["turnout-route"] == f"7;{epoch};brake"
        running.do(pull({}))
        client.ask(in_binary("m", GOOD))
    assert both(running, epoch).requests == 1


def test_models_without_terms_are_not_counted(running: Running) -> None:
    epoch = follow(running, Route(HALVES), "other")
    with Client(running) as client:
        client.ask(in_binary("other", GOOD))
        client.ask(in_json("other", rows(1, 3)))
    assert counted(running, epoch) == {}


@pytest.mark.parametrize("keys", [("header:x-user-id",), ("parameter:user", "header:x-user-id")])
def test_a_caller_with_a_thousand_failures_counts_once(running: Running, keys: tuple[str, ...]) -> None:
    epoch = follow(running, Route(HALVES, (), Sticky(keys)))
    users = [f"user-{number}" for number in range(20)]
    with Client(running) as client:
        for user in users:
            for values in (GOOD, ODD, FAILING) if user == users[0] else (GOOD,):
                times = 1000 if values is FAILING else 2
                client.send(in_json("m", values, f"X-User-Id: {user}") * times if values is not ODD else b"")
                if values is ODD:
                    client.send(in_binary("m", values, f"X-User-Id: {user}") * times)
                routes = {client.answer().headers.get("turnout-route") for _ in range(times)}
                assert len(routes) == 1
        client.ask(in_binary("m", GOOD))
    counts = both(running, epoch)
    slots = {Wheel("m").slot(user.encode()) for user in users}
    assert (counts.failed, counts.events(FAILURE), counts.events("nan")) == (1000, 1, 1)
    assert counts.events(REQUEST) == len(slots) + 1
    assert int.from_bytes(counts.callers_of(REQUEST), "little").bit_count() == len(slots)


def test_the_baseline_arm_is_the_stable_version_in_a_lane_of_its_own(running: Running) -> None:
    epoch = follow(running, Route((Share("8", 1000), Share("7", 9000)), baseline_bp=4000))
    routes: Counter[str] = Counter()
    stable = running.gateway.find("m", "7")
    with Client(running) as client:
        for _ in range(200):
            routes[client.ask(in_binary("m", GOOD)).headers["turnout-route"]] += 1
        late = [client.ask(in_json("m", ENDLESS, parameters={"timeout": 30_000})).status for _ in range(6)]
    assert late == [504] * 6
    assert set(routes) == {f"7;{epoch};split", f"7;{epoch};baseline", f"8;{epoch};split"}
    counts = counted(running, epoch)
    for (version, arm), each in counts.items():
        assert each.requests - each.timeout == routes[f"{version};{epoch};{arm}"]
    assert both(running, epoch).timeout == 6
    tallies = running.gateway.traffic.tallies()["m"]
    assert sum(drawn for drawn, _ in tallies.values()) == 206
    assert stable.apart is not None
    assert stable.apart.taps == stable.lane.taps
    assert len(stable.lane.taps) >= 1
    follow(running, Route((Share("8", 1000), Share("7", 9000))))
    assert eventually(lambda: stable.lanes == [stable.lane])


def test_a_lane_apart_has_its_deadlines_kept_and_its_queue_counted(threaded: Running) -> None:
    epoch = follow(threaded, Route((Share("8", 1), Share("7", 9999)), baseline_bp=9999))
    stable = threaded.gateway.find("m", "7")
    with Client(threaded) as first, Client(threaded) as second:
        first.send(in_json("m", ENDLESS, parameters={"timeout": 1_500_000}))
        assert eventually(lambda: pending(threaded) == 1)
        second.send(in_json("m", GOOD, parameters={"timeout": 700_000}))
        assert eventually(lambda: (stable.pending, stable.queued) == (2, 1))
        assert len(stable.lane) == 0
        follow(threaded, everything_to("8"))
        assert [second.answer().status, first.answer().status] == [504, 504]
    assert counted(threaded, epoch)["7", "baseline"].timeout == 2
    assert eventually(lambda: stable.lanes == [stable.lane])
    assert eventually(lambda: not pending(threaded))


def test_a_version_that_is_unloaded_answers_what_is_in_its_lane_apart(threaded: Running) -> None:
    follow(threaded, Route((Share("8", 1), Share("7", 9999)), baseline_bp=9999), "leaves")
    stable = threaded.gateway.find("leaves", "7")
    with Client(threaded) as first, Client(threaded) as second:
        first.send(in_json("leaves", np.full((1, 4), 200_000, np.float32)))
        assert eventually(lambda: len(stable.apart or ()) == 1)
        second.send(in_json("leaves", GOOD))
        assert eventually(lambda: (stable.pending, stable.queued) == (2, 1))
        threaded.do(threaded.gateway.shelf.unload("leaves"))
        assert [first.answer().status, second.answer().status] == [200, 200]
        assert second.ask(in_json("leaves", GOOD)).status == 503
    assert stable.pending == 0


def test_callers_who_fall_to_the_baseline_arm_stay_there(running: Running) -> None:
    sticky = Sticky(("header:x-user-id",))
    epoch = follow(running, Route((Share("8", 3000), Share("7", 7000)), (), sticky, baseline_bp=3000))
    wheel, arms = Wheel("m"), set()
    with Client(running) as client:
        for number in range(40):
            user, slot = f"u{number}", wheel.slot(f"u{number}".encode())
            expected = "8;{};sticky" if slot < 3000 else "7;{};baseline" if slot < 6000 else "7;{};sticky"
            for _ in range(2):
                answer = client.ask(in_binary("m", GOOD, f"X-User-Id: {user}"))
                assert answer.headers["turnout-route"] == expected.format(epoch)
            arms.add(expected)
    assert len(arms) == 3
    callers = counted(running, epoch)["7", "baseline"].callers_of(REQUEST)
    drawn = {wheel.slot(f"u{number}".encode()) for number in range(40)}
    assert int.from_bytes(callers, "little") == sum(1 << slot for slot in drawn if 3000 <= slot < 6000)


def test_arms_of_equal_weight_have_batches_of_equal_size(running: Running) -> None:
    """Though the stable version's own are larger; else the canary would look slower or faster than it is."""
    sizes: dict[str, list[int]] = {}

    def note(batch: Any) -> None:
        for page in {request.page for request in batch.requests}:
            sizes.setdefault(f"{page.of.version} {page.of.arm}", []).append(batch.rows)

    epoch = follow(running, Route((Share("8", 1000), Share("7", 9000)), baseline_bp=1000), "fast")

    async def watch() -> None:
        for version in ("7", "8"):
            for lane in running.gateway.find("fast", version).lanes:
                lane.taps.append(note)

    running.do(watch())
    values = np.zeros((1, 16), np.float32)
    clients = [Client(running) for _ in range(32)]
    for _ in range(250):
        for client in clients:
            client.send(in_binary("fast", values))
        for client in clients:
            assert client.answer().status == 200
    for client in clients:
        client.socket.close()
    mean = {arm: float(np.mean(each)) for arm, each in sizes.items()}
    assert set(mean) == {"8 split", "7 baseline", "7 split"}
    assert abs(mean["8 split"] - mean["7 baseline"]) < 0.5, mean
    assert mean["7 split"] > 2 * mean["7 baseline"], mean
    counts = counted(running, epoch)
    assert sum(each.requests for each in counts.values()) == 8000
    assert {arm: each.requests for arm, each in counts.items()} == {
        tuple(arm.split()): sum(each) for arm, each in sizes.items()
    }
    snapshot = running.gateway.find("fast", "7").ledger.snapshot()
    assert snapshot.rows == sum(sizes["7 split"]) + sum(sizes["7 baseline"])


def test_confidence_is_measured_first_and_compared_once_it_is_frozen(running: Running) -> None:
    agree(running, Terms("fast", BOTH))
    follow(running, everything_to("7"), "fast")
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((1, 16)).astype(np.float32) for _ in range(300)]
    with Client(running) as client:
        tops = [float(np.frombuffer(client.ask(in_binary("fast", x)).raw, np.float32).max()) for x in inputs]
        measure = running.do(measured(running, "fast", "7"))
        assert sum(measure.confidences) == 300
        assert measure.confidences == np.histogram(tops, 100, (0, 1))[0].tolist()
        frozen = float(np.quantile(tops, 0.3))
        agree(running, Terms("fast", BOTH, None, frozen))
        epoch = follow(running, Route(HALVES), "fast")
        low = 0
        for x in inputs:
            low += float(np.frombuffer(client.ask(in_binary("fast", x)).raw, np.float32).max()) < frozen
    counts = both(running, epoch)
    assert (counts.scored, counts.unsure) == (300, low)


async def measured(running: Running, model: str, version: str) -> Any:
    return running.gateway.evidence.measure(model, version)


def test_latencies_are_measured_of_late_or_of_all_where_these_were_few(running: Running) -> None:
    follow(running, everything_to("7"))
    ledger = running.gateway.find("m", "7").ledger
    with Client(running) as client:
        client.ask(in_binary("m", GOOD))
        assert sum(running.do(measured(running, "m", "7")).durations.counts) == ledger.snapshot().requests
        before = ledger.snapshot().requests
        agree(running)
        assert eventually(lambda: not running.gateway.evidence._leaving)
        agree(running, Terms("m", BOTH))
        client.send(in_binary("m", GOOD) * 1100)
        for _ in range(1100):
            client.answer()
    durations = running.do(measured(running, "m", "7")).durations
    assert sum(durations.counts) == ledger.snapshot().requests - before == 1100
    assert 0 < durations.quantile_s(0.5) < 1
    with pytest.raises(LookupError, match="not loaded here"):
        running.do(measured(running, "m", "99"))


def test_a_version_that_is_loaded_anew_is_counted_on(running: Running, tmp_path: Path) -> None:
    epoch = follow(running, Route(HALVES))

    async def again() -> None:
        gateway = running.gateway
        gateway.traffic.carry(dict(gateway.traffic.servables))

    with Client(running) as client:
        for _ in range(5):
            client.ask(in_binary("m", GOOD))
            running.do(again())
    assert both(running, epoch).requests == 5


def test_terms_that_end_in_the_middle_lose_nothing_that_was_answered(running: Running) -> None:
    epoch = follow(running, Route(HALVES))
    with Client(running) as client:
        for _ in range(5):
            client.ask(in_binary("m", GOOD))
    agree(running)
    time.sleep(0.01)
    assert both(running, epoch).requests == 5
