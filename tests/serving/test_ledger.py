"""Does a ledger count every batch once and exactly, whoever folds it?"""

from __future__ import annotations

import threading
from functools import reduce
from operator import add

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.histogram import BINS, count_ns
from serving import ledger as module
from serving.ledger import MORE, Cause, Durations, Ledger, Reason, Size, Snapshot

ROWS_MAX = 8


@st.composite
def batches(draw):
    """Return the arguments of a call of `Ledger.batch`, in the order of time."""
    arrived = draw(st.lists(st.integers(0, 10**9), max_size=5))
    at = 10**15 + 10**9
    moments = []
    for _ in range(4):
        at += draw(st.integers(0, 10**10))
        moments.append(at)
    return [10**15 + each for each in arrived], *moments, draw(st.integers(0, ROWS_MAX + 3))


events = st.lists(
    batches()
    | st.tuples(st.sampled_from(Reason), st.integers(0, 10**9))
    | st.tuples(st.sampled_from(Cause), st.integers(0, 10**9)),
    max_size=12,
)


def tell(ledger, event):
    match event:
        case (Reason() as reason, waited_ns):
            ledger.fail(reason, waited_ns)
        case (Cause() as cause, waited_ns):
            ledger.reject(cause, waited_ns)
        case _:
            ledger.batch(*event)


def ledger_of(told):
    ledger = Ledger(ROWS_MAX)
    for event in told:
        tell(ledger, event)
    return ledger


def histogram(values):
    counts = np.zeros(BINS, np.int64)
    count_ns(np.array(values, np.int64), counts)
    return Durations(sum(values), tuple(counts.tolist()))


def sizes_of(told):
    """Return the batch sizes as the plainest loop has them."""
    sizes = {}
    for _, taken, started, ended, answered, rows in told:
        key = rows if rows <= ROWS_MAX else MORE
        runs = sizes.get(key, (0, 0, 0, 0))
        sizes[key] = tuple(map(add, runs, (1, started - taken, ended - started, answered - ended)))
    return {Size(rows, *numbers) for rows, numbers in sizes.items()}


@given(st.lists(batches(), max_size=8))
def test_durations_are_summed_per_request_and_sizes_per_run(told):
    requests = [(arrived, *rest) for arrivals, *rest in told for arrived in arrivals]
    got = ledger_of(told).snapshot()
    assert got.requests == len(requests)
    assert got.runs == len(told)
    assert got.rows == sum(event[-1] for event in told)
    assert got.request == histogram([answered - arrived for arrived, _, _, _, answered, _ in requests])
    assert got.queue == histogram([taken - arrived for arrived, taken, *_ in requests])
    assert got.infer == histogram([ended - started for _, _, started, ended, _, _ in requests])
    assert got.input_ns == sum(started - taken for _, taken, started, *_ in requests)
    assert got.output_ns == sum(answered - ended for *_, ended, answered, _ in requests)
    assert got.last_ns == max((event[4] for event in told), default=0)
    assert set(got.sizes) == sizes_of(told)


@given(events, st.sets(st.integers(0, 12)))
def test_when_a_ledger_is_folded_makes_no_difference(told, folds):
    ledger = Ledger(ROWS_MAX)
    for at, event in enumerate(told):
        tell(ledger, event)
        if at in folds:
            ledger.fold()
    assert ledger.snapshot() == ledger_of(told).snapshot() == ledger.snapshot()


@given(events, st.integers(0, 12))
def test_the_snapshots_of_two_replicas_add_up_to_that_of_one(told, at):
    assert ledger_of(told[:at]).snapshot() + ledger_of(told[at:]).snapshot() == ledger_of(told).snapshot()


@given(events, events)
def test_adding_has_no_order_and_nothing_is_its_zero(one, other):
    one, other = ledger_of(one).snapshot(), ledger_of(other).snapshot()
    assert one + other == other + one
    assert reduce(add, [one], Snapshot()) == one


@given(events)
def test_a_snapshot_survives_json(told):
    snapshot = ledger_of(told).snapshot()
    assert Snapshot.from_json(orjson.loads(orjson.dumps(snapshot.to_json()))) == snapshot


@pytest.mark.parametrize("index", [-1, BINS])
def test_a_histogram_of_other_bins_is_refused(index):
    with pytest.raises(ValueError, match="another release"):
        Durations.from_json({"total_ns": 1, "counts": [[index, 1]]})
    with pytest.raises(ValueError, match="another release"):
        Durations(1, (0,) * (BINS + 1))


def test_a_rejection_is_a_failure_and_has_a_cause():
    ledger = Ledger()
    ledger.reject(Cause.QUEUE_FULL, 5)
    ledger.fail(Reason.CANCELED, 7)
    got = ledger.snapshot()
    assert got.failures == {Reason.REJECTED: 1, Reason.CANCELED: 1, Reason.BACKEND: 0, Reason.OTHER: 0}
    assert got.rejections[Cause.QUEUE_FULL] == 1
    assert (got.fail_ns, got.requests) == (12, 0)


def test_a_reason_or_cause_outside_the_closed_set_is_not_counted():
    with pytest.raises(KeyError):
        Ledger().fail("whatever a client says")
    with pytest.raises(KeyError):
        Ledger().reject("whatever a client says")


def test_the_callers_list_stays_the_callers():
    ledger, arrived = Ledger(), [10]
    ledger.batch(arrived, 11, 12, 13, 14, 1)
    arrived.clear()
    assert ledger.snapshot().request.total_ns == 4


def test_what_is_pending_is_bounded_without_any_scrape():
    ledger = Ledger()
    for _ in range(3 * module.REQUESTS_MAX):
        ledger.batch([1, 1], 2, 3, 4, 5, 2)
        assert len(ledger._arrivals) < module.REQUESTS_MAX
    assert ledger.snapshot().requests == 6 * module.REQUESTS_MAX


def test_the_loop_does_not_wait_for_a_scrape_until_its_list_is_overdue():
    ledger = Ledger()
    with ledger._lock:  # A scrape that is folding.
        for _ in range(module.OVERDUE_MAX // 64 - 1):
            ledger.batch([1] * 64, 2, 3, 4, 5, 64)
        blocked = threading.Thread(target=ledger.batch, args=([1] * 64, 2, 3, 4, 5, 64), daemon=True)
        blocked.start()
        blocked.join(0.05)
        assert blocked.is_alive()
    blocked.join(5)
    assert not ledger._arrivals
    assert ledger.snapshot().requests == module.OVERDUE_MAX


def test_a_bad_batch_does_not_stop_the_counting_of_later_ones():
    ledger = Ledger()
    ledger.batch([1], 2, 3, 4, 5, -1)
    with pytest.raises(ValueError, match="negative"):
        ledger.fold()
    ledger.batch([1], 2, 3, 4, 5, 1)
    assert ledger.snapshot().rows >= 0
    assert not ledger._arrivals


def test_a_scrape_in_the_middle_of_a_batch_leaves_that_batch_for_later():
    ledger = Ledger()
    ledger.batch([1], 2, 3, 4, 5, 1)
    ledger._arrivals += [1000, 1000]  # The loop is interrupted here,
    assert ledger.snapshot().requests == 1
    ledger._heads += (2, 1001, 1002, 1003, 1004, 2)  # and goes on here.
    got = ledger.snapshot()
    assert (got.requests, got.request.total_ns, got.rows) == (3, 4 + 2 * 4, 3)


def test_no_batch_is_lost_or_counted_twice_while_threads_scrape():
    ledger, done, seen = Ledger(), threading.Event(), []

    def scrape():
        while not done.is_set():
            seen.append(ledger.snapshot())

    threads = [threading.Thread(target=scrape) for _ in range(2)]
    for thread in threads:
        thread.start()
    for index in range(20_000):
        ledger.batch([index] * 3, index + 1, index + 2, index + 4, index + 8, 3)
    done.set()
    for thread in threads:
        thread.join(10)
    last = ledger.snapshot()
    assert (last.requests, last.rows, last.runs) == (60_000, 60_000, 20_000)
    assert (last.request.total_ns, last.infer.total_ns) == (480_000, 120_000)
    assert sum(last.request.counts) == sum(last.queue.counts) == 60_000
    assert len(seen) > 2
    assert all(each.requests == 3 * each.runs == sum(each.infer.counts) for each in seen)


def test_a_ledger_says_in_a_log_line_where_it_stands():
    ledger = Ledger()
    ledger.batch([1, 2], 3, 4, 5, 6, 2)
    ledger.fail(Reason.BACKEND)
    assert repr(ledger) == "<Ledger: 2 answered, 1 failed, 2 to fold>"
    assert ledger.snapshot().request.quantile_s(0.5) == pytest.approx(4e-9, rel=1 / 32)
