"""Laws of the queue: nobody is lost, nobody is served twice, and runs keep their bounds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import Overloaded
from serving.model import Batching, QueuePolicy
from serving.waiting import NEVER_NS, Waiting
from serving.wire import Call, InferRequest

MS = 1_000_000


def request(
    rows: int = 1, key: Any = "k", at_ns: int = 0, priority: int = 0, timeout_us: int = 0, expires_ns: int = 0
) -> InferRequest:
    made = InferRequest(
        Call((), priority=priority, timeout_us=timeout_us),
        [],
        None,
        b"",
        at_ns,
        expires_ns,  # type: ignore[arg-type]
    )
    made.layout = SimpleNamespace(rows=rows, key=key)
    return made


def drained(waiting: Waiting, now_ns: int = 1 << 50) -> list[list[InferRequest]]:
    runs = []
    while run := waiting.take(now_ns):
        runs.append(run)
    return runs


requests = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(["a", "b", None]), st.integers(0, 3)), max_size=40
)
policies = st.builds(
    Batching,
    preferred_rows=st.sets(st.integers(1, 8), max_size=3).map(lambda s: tuple(sorted(s))),
    delay_us=st.sampled_from([0, 100]),
    preserve_order=st.booleans(),
    priority_levels=st.sampled_from([0, 3]),
    priority_default=st.just(2),
)


@settings(max_examples=200)
@given(requests, policies, st.integers(1, 8))
def test_every_request_runs_once_and_runs_keep_to_one_key_and_the_rows(
    made: list[tuple[int, Any, int]], policy: Batching, rows_max: int
) -> None:
    waiting = Waiting(policy, rows_max, 1000)
    offered = [request(min(rows, rows_max), key, priority=priority) for rows, key, priority in made]
    for each in offered:
        waiting.offer(each)
    runs = drained(waiting)
    ran = [each for run in runs for each in run]
    assert sorted(map(id, ran)) == sorted(map(id, offered)) and waiting.count == 0
    for run in runs:
        assert len({each.layout.key for each in run}) == 1
        assert len(run) == 1 or run[0].layout.key is not None
        assert len(run) == 1 or sum(each.layout.rows for each in run) <= rows_max


@given(requests, st.integers(2, 8))
def test_requests_of_one_kind_run_in_the_order_of_their_arrival(
    made: list[tuple[int, Any, int]], rows_max: int
) -> None:
    waiting = Waiting(None, rows_max, 1000)
    offered = [request(min(rows, rows_max), key) for rows, key, _ in made]
    for each in offered:
        waiting.offer(each)
    ran = [each for run in drained(waiting) for each in run]
    for key in ("a", "b", None):
        assert [r for r in ran if r.layout.key == key] == [r for r in offered if r.layout.key == key]


@given(requests, policies, policies)
def test_changing_the_policy_loses_nobody(
    made: list[tuple[int, Any, int]], before: Batching, after: Batching
) -> None:
    waiting = Waiting(before, 8, 1000)
    offered = [request(rows, key, priority=priority) for rows, key, priority in made]
    for each in offered:
        waiting.offer(each)
    waiting.configure(after, 4, 1000)
    ran = [each for run in drained(waiting) for each in run]
    assert sorted(map(id, ran)) == sorted(map(id, offered))


def test_a_delay_waits_for_company_and_no_longer() -> None:
    waiting = Waiting(Batching(delay_us=1000, preferred_rows=(4,)), 8, 100)
    waiting.offer(request(at_ns=0))
    assert waiting.take(MS // 2) == []
    assert waiting.wake_ns(MS // 2) == MS
    assert len(waiting.take(MS)) == 1


def test_a_preferred_size_does_not_wait() -> None:
    waiting = Waiting(Batching(delay_us=1000, preferred_rows=(4,)), 8, 100)
    for _ in range(5):
        waiting.offer(request(at_ns=0))
    assert len(waiting.take(0)) == 4
    assert waiting.take(0) == []


def test_without_a_delay_the_largest_preferred_size_goes_first_and_the_rest_follows() -> None:
    waiting = Waiting(Batching(preferred_rows=(4, 8)), 16, 100)
    for _ in range(13):
        waiting.offer(request())
    assert [len(run) for run in drained(waiting)] == [8, 4, 1]


def test_rows_count_and_not_requests() -> None:
    waiting = Waiting(None, 8, 100)
    for rows in (3, 3, 3):
        waiting.offer(request(rows))
    assert [len(run) for run in drained(waiting)] == [2, 1]


def test_a_higher_priority_overtakes() -> None:
    waiting = Waiting(Batching(priority_levels=2, priority_default=2), 1, 100)
    low, high = request(), request(priority=1)
    waiting.offer(low)
    waiting.offer(high)
    assert drained(waiting) == [[high], [low]]


def test_a_full_queue_refuses_and_keeps_what_it_has() -> None:
    waiting = Waiting(None, 1, 2)
    waiting.offer(request())
    waiting.offer(request())
    with pytest.raises(Overloaded, match="2 requests wait"):
        waiting.offer(request())
    assert waiting.count == 2


def test_each_priority_has_a_bound_of_its_own() -> None:
    policy = Batching(
        priority_levels=2, priority_default=2, priority_policies={1: QueuePolicy(requests_max=1)}
    )
    waiting = Waiting(policy, 1, 100)
    waiting.offer(request(priority=1))
    with pytest.raises(Overloaded):
        waiting.offer(request(priority=1))
    waiting.offer(request(priority=2))


def test_a_deadline_that_passes_in_the_queue_is_noticed_when_it_said_it_would() -> None:
    waiting = Waiting(None, 1, 100)
    late, early = request(expires_ns=5 * MS), request(expires_ns=3 * MS)
    waiting.offer(late)
    waiting.offer(early)
    waiting.expire(0)
    assert waiting.wake_ns(0) == 3 * MS
    assert waiting.expire(3 * MS) == [early]
    assert waiting.expire(4 * MS) == [] and waiting.wake_ns(4 * MS) == 5 * MS
    assert waiting.expire(5 * MS) == [late] and waiting.wake_ns(5 * MS) == NEVER_NS


def test_a_timeout_with_delay_puts_a_request_behind_the_others() -> None:
    policy = Batching(default_policy=QueuePolicy(timeout_us=1000, delay=True))
    waiting = Waiting(policy, 1, 100)
    old, young = request(at_ns=0), request(at_ns=2 * MS)
    waiting.offer(old)
    waiting.offer(young)
    assert waiting.expire(2 * MS) == []
    assert drained(waiting) == [[young], [old]]


def test_a_request_may_shorten_the_queues_timeout_only_where_that_is_allowed() -> None:
    for allowed, gone in ((True, 1), (False, 0)):
        policy = Batching(default_policy=QueuePolicy(timeout_us=9000, allow_override=allowed))
        waiting = Waiting(policy, 1, 100)
        waiting.offer(request(timeout_us=1000))
        assert len(waiting.expire(2 * MS)) == gone


def test_a_dropped_request_is_not_run() -> None:
    waiting = Waiting(None, 4, 100)
    gone, here = request(), request()
    waiting.offer(gone)
    waiting.offer(here)
    gone.dropped = True
    assert drained(waiting) == [[here]] and waiting.count == 0


def test_a_request_dropped_behind_others_does_not_stay_for_ever() -> None:
    waiting = Waiting(None, 1, 100)
    first, gone = request(), request(expires_ns=MS)
    waiting.offer(first)
    waiting.offer(gone)
    gone.dropped = True
    assert waiting.expire(2 * MS) == [gone] and waiting.count == 1


@given(st.integers(1, 6), st.integers(1, 40), st.sampled_from(["k", None]), st.integers(1, 32))
def test_a_run_that_is_full_is_the_same_whoever_comes(
    rows: int, count: int, key: str | None, rows_max: int
) -> None:
    waiting, others = Waiting(None, rows_max, 1000), Waiting(None, rows_max, 1000)
    made = [request(rows, key) for _ in range(count)]
    for each in made:
        waiting.offer(each)
        others.offer(each)
    full = waiting.fills(rows_max)
    others.offer(request(rows, key))
    later = others.take(0)
    if full:
        assert list(map(id, waiting.take(0))) == list(map(id, later))
    elif rows * (count + 1) <= rows_max:
        assert len(later) == count + 1


def test_with_priorities_no_run_is_full_before_it_is_taken() -> None:
    waiting = Waiting(Batching(priority_levels=2, priority_default=2), 4, 1000)
    for _ in range(8):
        waiting.offer(request())
    assert not waiting.fills(4)
