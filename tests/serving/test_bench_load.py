"""Load is open: what a server does late is late in the figures, and nothing is lost from them."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from serving.bench.arrivals import Arrivals
from serving.bench.heads import HEADS_MAX, Heads
from serving.bench.load import Load, Plan
from serving.bench.outcomes import ENDED, OUTCOMES_MAX, UNREADABLE, Outcome, Outcomes
from serving.bench.questions import Manner, pool, rows_of
from serving.bench.report import document
from serving.wire import DATATYPES, TensorSpec
from tests.answering import Answering, good

SPECS = [TensorSpec("x", DATATYPES["FP32"], (-1, 4))]


def plan(server: Answering, rate: float, seconds: float, **more: Any) -> Plan:
    manner = Manner("/v2/models/m/infer", "test")
    questions = pool(manner, rows_of(SPECS, 1, None, 0), 64)
    return Plan(
        server.at, "m", questions, rate, **{"arrivals": Arrivals.CONSTANT, "seconds": seconds, **more}
    )


def loaded(server: Answering, rate: float, seconds: float, **more: Any) -> Load:
    load = Load(plan(server, rate, seconds, **more))
    load.run()
    return load


class TestCoordinatedOmission:
    """A pause of half a second in one and a half: a third of what is due has to wait, evenly long."""

    def test_open_load_tells_the_pause_as_theory_says(self):
        with Answering(pauses=(0.5, 0.5)) as server:
            load = loaded(server, 400, 1.5, connections_max=64)
        whole = load.tally.whole()
        assert whole.count == 600 and whole.errors == 0
        # A share of (1 - t / 0.5) / 3 waits longer than t, and a busy machine adds to it.
        for share, least_ms in ((0.99, 485 - 60), (0.9, 350 - 80), (0.8, 200 - 80)):
            assert whole.latency.quantile_ms(share) > least_ms

    def test_open_load_tells_what_passed_between_due_and_answered(self):
        with Answering(pauses=(0.1, 0.2)) as server:
            load = loaded(server, 400, 0.5, connections_max=64)
        whole = load.tally.whole()
        waited_ns = np.mean(np.array(server.answered_ns) - load.begin_ns) - 0.25e9
        assert waited_ns > 0.03e9  # A pause of 0.2 s alone is (0.2 / 2) * (0.2 / 0.5).
        assert whole.latency.mean_ns >= waited_ns - 5e6  # Two intervals between arrivals.
        assert whole.latency.max_ns <= load.spent_ns

    def test_closed_load_hides_it(self):
        with Answering(took_s=0.001, pauses=(0.5, 0.5)) as server:
            whole = loaded(
                server, 0, 1.5, arrivals=Arrivals.CLOSED, connections=1, connections_max=1
            ).tally.whole()
        assert whole.latency.max_ns > 0.45e9
        # An open load of so many would have 13 in a hundred of them there.
        assert whole.count > 100 and whole.latency.over(300_000_000) <= 3

    def test_service_time_leaves_out_the_wait_for_a_connection(self):
        with Answering(pauses=(0.3, 0.4)) as server:
            load = loaded(server, 300, 1.0, connections=2, connections_max=2)
        whole = load.tally.whole()
        assert load.queued > 50
        # Of 300 requests a second those of 0.1 s wait longer, of which each connection has one.
        assert whole.latency.over(300_000_000) > 20
        assert 1 <= whole.service.over(300_000_000) <= 4


def test_a_server_at_a_fifth_of_the_rate_is_found_out_and_every_request_is_accounted_for():
    with Answering(took_s=0.01) as server:
        load = loaded(server, 500, 0.8, timeout_s=0.4, connections_max=32)
    whole = load.tally.whole()
    assert whole.count == 400 == load.tally.outcomes.total()
    assert 20 <= load.tally.outcomes["200"] <= 130
    assert load.tally.outcomes["timeout"] == whole.errors == 400 - load.tally.outcomes["200"]
    assert whole.latency.quantile_ms(0.9) >= 399


def test_a_rate_is_kept_and_each_request_has_its_own_id():
    with Answering() as server:
        load = loaded(server, 500, 1.0, arrivals=Arrivals.POISSON, seed=3)
        asked = list(server.asked)
    assert load.tally.whole().errors == 0
    assert load.tally.whole().count == len(asked) == pytest.approx(500, abs=120)
    assert len({each[each.index(b'"id":"') :][:22] for each in asked}) == len(asked)


def test_warming_up_does_not_count():
    with Answering() as server:
        load = loaded(server, 200, 0.5, warm_s=0.5)
        assert (load.tally.whole().count, len(server.asked)) == (100, 200)


def test_no_more_is_asked_than_was_said():
    with Answering() as server:
        assert loaded(server, 1000, 5.0, requests_max=50).tally.whole().count == 50


FAULTS = {
    "lost": lambda _id: None,
    "503": lambda id_: [good(id_, status=b"503 Service Unavailable")],
    "mixed": lambda _id: [good(b"f" * 16)],
    "unreadable": lambda _id: [b"SSH-2.0-nobody\r\n\r\n"],
}


@pytest.mark.parametrize("what", FAULTS)
def test_each_kind_of_failure_is_counted_as_what_it_is(what):
    def reply(number, id_):
        return [good(id_)] if number % 4 else FAULTS[what](id_)

    with Answering(reply) as server:
        load = loaded(server, 400, 0.5)
    assert load.tally.outcomes == {"200": 150, what: 50}
    assert load.tally.whole().errors == 50


@pytest.mark.parametrize("size", [1, 7, 40, 100])
def test_an_answer_in_pieces_is_the_answer(size):
    def reply(_number, id_):
        whole = good(id_)
        return [whole[at : at + size] for at in range(0, len(whole), size)]

    with Answering(reply) as server:
        load = loaded(server, 50, 0.3, connections=4)
    assert load.tally.outcomes == {"200": 15}
    assert document(load._plan, load)["versions"] == {"7": 15}


def test_a_large_answer_and_a_large_request_are_whole():
    body = b'{"id":"%b"}' + b" " * 3_000_000

    def reply(_number, id_):
        content = body.replace(b"%b", id_)
        return [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content) + content]

    specs = [TensorSpec("x", DATATYPES["FP32"], (-1, 500_000))]
    with Answering(reply) as server:
        questions = pool(Manner("/v2/models/m/infer", "test"), rows_of(specs, 1, None, 0), 2)
        load = Load(Plan(server.at, "m", questions, 10, Arrivals.CONSTANT, 0.5, connections=2))
        load.run()
        assert {len(each) for each in server.asked} == {len(questions[0].content)}
    assert load.tally.outcomes == {"200": 5}


def test_a_connection_that_the_server_closes_is_replaced_and_nothing_is_lost():
    with Answering(lambda _n, id_: [good(id_, more=b"connection: close\r\n")]) as server:
        assert loaded(server, 200, 0.5).tally.outcomes == {"200": 100}


def test_nobody_there_is_an_error_of_every_request_after_its_time():
    with Answering() as server:
        told = plan(server, 100, 0.3, timeout_s=0.2)
    load = Load(told)
    load.run()
    assert load.tally.outcomes == {"timeout": 30}
    assert load.asked == 0


def test_changes_and_phases_are_told_while_it_runs():
    loads: list[Load] = []

    def reply(number, id_):
        if number == 40:
            # Confirmed, it is said, long before the server answers by it.
            loads[0].tally.changed(time.perf_counter_ns(), "m", 4, "promote")
            loads[0].tally.phase(time.perf_counter_ns(), "after")
        return [good(id_, route=b"7;3;split" if number < 140 else b"8;4;split")]

    with Answering(reply) as server:
        loads.append(load := Load(plan(server, 200, 1.0)))
        load.run()
    said = document(load._plan, load)
    assert 5 <= said["stale"] <= 100 and said["versions"] == {"7": 140, "8": 60}
    assert [each["name"] for each in said["phases"]] == ["", "after"]
    assert {(each["version"], each["phase"]) for each in said["totals"]} == {
        ("7", ""),
        ("7", "after"),
        ("8", "after"),
    }
    (change,) = said["changes"]
    assert change["revision"] == 4 and change["at_s"] > 0.15


def test_it_can_be_ended_from_outside():
    with Answering() as server:
        load = Load(plan(server, 100, 60.0))
        threading.Timer(0.3, load.stop).start()
        load.run()
    assert load.cut and 10 < load.tally.whole().count < 3000


def test_it_is_told_how_each_second_goes():
    seconds = []
    with Answering() as server:
        load = Load(plan(server, 200, 1.2), lambda number, recent: seconds.append((number, recent)))
        load.run()
    assert seconds and [number for number, _ in seconds] == list(range(1, len(seconds) + 1))
    assert 0 < sum(recent.count for _, recent in seconds) <= 240
    assert all(recent.versions == {"7": recent.count} for _, recent in seconds if recent.count)


def test_connections_are_dealt_out_to_all_addresses():
    with Answering() as one, Answering() as other:
        load = loaded(one, 200, 0.5, connections=4, connections_max=4, others=[other.at])
    assert load.tally.whole().count == 100 and load.tally.whole().errors == 0
    assert len(one.answered_ns) > 20 and len(other.answered_ns) > 20


class TestHeads:
    def test_versions_and_revisions_are_in_the_route(self):
        outcomes = Outcomes()
        heads = Heads(outcomes)
        head = heads.read(b"HTTP/1.1 200 OK\r\nTurnout-Route: 12;345;sticky\r\nContent-Length: 7")
        assert outcomes.met[head.code] == Outcome("200", "12", 345) and head.body_bytes == 7 and not head.last

    @pytest.mark.parametrize(
        "head", [b"", b"HTTP/1.1 200 OK", b"HTTP/2 200\r\ncontent-length: 1", b"\xff" * 50]
    )
    def test_what_is_none_is_unreadable(self, head):
        assert Heads(Outcomes()).read(head).code == UNREADABLE

    def test_they_are_bounded_however_many_there_are(self):
        outcomes = Outcomes()
        heads = Heads(outcomes)
        for number in range(OUTCOMES_MAX + 100):
            head = heads.read(b"HTTP/1.1 200 OK\r\nturnout-route: 1;%d;x\r\ncontent-length: 1" % number)
        assert len(heads.known) <= HEADS_MAX
        assert len(outcomes.met) <= OUTCOMES_MAX + len(ENDED)
        assert outcomes.met[head.code] == Outcome("200")


def test_the_pool_has_values_of_its_own_for_each_request():
    questions = pool(Manner("/", "test"), rows_of(SPECS, 2, None, 5), 100)
    assert len({bytes(each.content) for each in questions}) == 100
    raw = np.frombuffer(questions[0].content[-32:], np.float32)
    assert np.isfinite(raw).all() and len(set(raw.tolist())) == 8
