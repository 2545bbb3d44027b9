"""Do the statistics say in Triton's words what the ledgers have counted?"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.ledger import Cause, Ledger, Reason
from serving.metrics import Reading, VersionReading
from serving.statistics import Totals, document

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
PARTS = ("compute_input", "compute_infer", "compute_output")


def counted(batches: list[tuple[int, int]], failures: int = 0) -> Ledger:
    """Return a ledger of batches of so many requests and rows, the steps of which take 1, 2, 3 and 4 ns."""
    ledger = Ledger(rows_max=8)
    for requests, rows in batches:
        ledger.batch([10] * requests, 11, 13, 16, 20, rows)
    for _ in range(failures):
        ledger.fail(Reason.BACKEND, 5)
    return ledger


def reading(**ledgers: Ledger) -> Reading:
    """Return the reading of versions 1 of models."""
    return Reading(
        {
            (name, "1"): VersionReading(each.snapshot(), memory_bytes={"cpu": 7})
            for name, each in ledgers.items()
        }
    )


def test_the_statistics_are_tritons_to_the_letter() -> None:
    ledger = counted([(2, 3), (1, 1), (1, 3)], failures=2)
    ledger.reject(Cause.QUEUE_FULL, 7)
    assert document(reading(m=ledger), epoch_ns=5_000_000_000) == {
        "model_stats": [
            {
                "name": "m",
                "version": "1",
                "last_inference": 5000,
                "inference_count": 7,
                "execution_count": 3,
                "inference_stats": {
                    "success": {"count": 4, "ns": 40},
                    "fail": {"count": 3, "ns": 17},
                    "queue": {"count": 4, "ns": 4},
                    "compute_input": {"count": 4, "ns": 8},
                    "compute_infer": {"count": 4, "ns": 12},
                    "compute_output": {"count": 4, "ns": 16},
                    "cache_hit": {"count": 0, "ns": 0},
                    "cache_miss": {"count": 0, "ns": 0},
                },
                "batch_stats": [
                    {
                        "batch_size": rows,
                        "compute_input": {"count": runs, "ns": 2 * runs},
                        "compute_infer": {"count": runs, "ns": 3 * runs},
                        "compute_output": {"count": runs, "ns": 4 * runs},
                    }
                    for rows, runs in ((1, 1), (3, 2))
                ],
                "memory_usage": [{"type": "CPU", "id": 0, "byte_size": 7}],
            }
        ]
    }


def test_a_version_that_never_ran_has_zeros_and_no_batches() -> None:
    (stats,) = document(reading(m=Ledger()))["model_stats"]
    assert stats["last_inference"] == stats["inference_count"] == 0
    assert stats["batch_stats"] == []


BATCHES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 20)), max_size=20)


def sums(stats: dict[str, Any]) -> list[int]:
    """Return what adds up."""
    durations = [stats["inference_stats"][name] for name in DURATIONS]
    return [stats["inference_count"], stats["execution_count"], *[each["ns"] for each in durations]]


@given(BATCHES, BATCHES, st.integers(0, 3))
def test_the_statistics_of_replicas_add_up(mine: Any, theirs: Any, failures: int) -> None:
    one, other = reading(m=counted(mine, failures)), reading(m=counted(theirs))
    (both,), (a,), (b,) = (document(each)["model_stats"] for each in (one + other, one, other))
    assert sums(both) == [x + y for x, y in zip(sums(a), sums(b), strict=True)]


@given(BATCHES)
def test_batches_of_all_sizes_are_all_runs_unless_some_are_too_large_to_be_told_apart(batches: Any) -> None:
    (stats,) = document(reading(m=counted(batches)))["model_stats"]
    listed = {each["batch_size"]: each["compute_infer"]["count"] for each in stats["batch_stats"]}
    want = [rows for _, rows in batches if rows <= 8]
    assert listed == {rows: want.count(rows) for rows in sorted(set(want))}


def test_only_what_is_loaded_is_listed_in_the_order_of_versions() -> None:
    loaded = VersionReading(memory_bytes={"cuda:1": 5})
    versions = {("m", "10"): loaded, ("m", "9"): loaded, ("a", "1"): loaded, ("m", "2"): VersionReading()}
    listed = document(Reading(versions))["model_stats"]
    assert [(each["name"], each["version"]) for each in listed] == [("a", "1"), ("m", "9"), ("m", "10")]
    assert listed[0]["memory_usage"] == [{"type": "GPU", "id": 1, "byte_size": 5}]
    assert [each["version"] for each in document(Reading(versions), "m")["model_stats"]] == ["9", "10"]
    assert [each["name"] for each in document(Reading(versions), "m", "9")["model_stats"]] == ["m"]


def test_who_asks_while_one_reading_is_under_way_gets_the_next_and_all_others_the_same() -> None:
    """One that was begun before would lack what the asker did just now."""
    go, count = threading.Event(), 0

    def read() -> Reading:
        nonlocal count
        count += 1
        go.wait(10)
        return Reading({("m", str(count)): VersionReading()})

    async def ask() -> list[Reading]:
        totals = Totals(read)
        first = asyncio.ensure_future(totals.get())
        while not count:
            await asyncio.sleep(0.001)
        later = [asyncio.ensure_future(totals.get()) for _ in range(20)]
        await asyncio.sleep(0.01)
        go.set()
        return await asyncio.gather(first, *later)

    first, *later = asyncio.run(ask())
    assert [*first.versions] == [("m", "1")]
    assert {key for each in later for key in each.versions} == {("m", "2")}
    assert count == 2


def test_a_reading_that_fails_is_the_fault_of_one_time_only() -> None:
    results = iter([OSError("no"), Reading()])

    def read() -> Reading:
        result = next(results)
        if isinstance(result, OSError):
            raise result
        return result

    async def ask() -> tuple[Any, ...]:
        totals = Totals(read)
        return await asyncio.gather(totals.get(), return_exceptions=True), await totals.get()

    (failed,), read_again = asyncio.run(ask())
    assert isinstance(failed, OSError)
    assert read_again == Reading()
