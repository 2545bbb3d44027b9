"""Is every caller counted once, at the weight of its first event?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernels.callers import Callers, first_events
from kernels.evalue import Events

PLACES = 40
sides = st.sets(st.integers(0, PLACES - 1))
seen = st.lists(st.tuples(sides, sides, st.sampled_from([0.05, 0.25, 0.5])), max_size=5)


def bits(places):
    return sum(1 << place for place in places).to_bytes(PLACES // 8, "little")


def callers(epochs):
    return [Callers(bits(canary), bits(baseline), weight) for canary, baseline, weight in epochs]


@given(epochs=seen)
def test_a_caller_counts_where_its_first_event_was(epochs):
    known, expected = set(), []
    for canary, baseline, weight in epochs:
        ours, theirs = canary - baseline - known, baseline - canary - known
        expected.append(Events(len(ours), len(theirs), weight))
        known |= canary | baseline
    assert list(first_events(callers(epochs))) == expected


@given(epochs=seen)
def test_all_together_no_caller_counts_twice(epochs):
    found = first_events(callers(epochs))
    distinct = set().union(*(canary | baseline for canary, baseline, _ in epochs))
    assert sum(each.canary + each.baseline for each in found) <= len(distinct)


@given(epochs=seen)
def test_what_comes_again_at_a_later_weight_changes_nothing(epochs):
    again = [(canary, baseline, 0.5) for canary, baseline, _ in epochs]
    assert first_events(callers([*epochs, *again]))[: len(epochs)] == first_events(callers(epochs))
    later = first_events(callers([*epochs, *again]))[len(epochs) :]
    assert all(each == Events(0, 0, 0.5) for each in later)


def test_a_caller_that_moved_in_the_middle_of_a_weight_speaks_for_neither_side():
    assert first_events([Callers(bits({1, 2}), bits({2, 3}), 0.1)]) == (Events(1, 1, 0.1),)


def test_bitmaps_of_different_lengths_are_of_the_same_places():
    assert first_events([Callers(b"\x01", b"", 0.1), Callers(b"\x03\x01", b"", 0.2)]) == (
        Events(1, 0, 0.1),
        Events(2, 0, 0.2),
    )
