from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.drift.windows import LATEST_PART_ROWS, LATEST_PARTS, PARTS, Decayed, Latest, Sliding, Span

SHAPE = (4, 2)
PART_S = 60.0
steps = st.lists(
    st.tuples(st.floats(0, 2 * PARTS * PART_S), st.integers(0, 50), st.integers(0, 2**32)), max_size=40
).map(sorted)


def span(n: int, seed: int) -> Span:
    draw = np.random.default_rng(seed)
    return Span(n, draw.multinomial(n, [0.25] * 4, 2).T.astype(np.int64), draw.standard_normal((2, 2)))


def same(one: Span, other: Span) -> None:
    assert one.n == other.n
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_allclose(one.sums, other.sums, rtol=1e-12, atol=1e-12)


def summed(spans: list[Span]) -> Span:
    zero = Span(0, np.zeros(SHAPE, np.int64), np.zeros((2, 2)))
    return Span(
        sum(each.n for each in spans),
        sum((each.counts for each in spans), zero.counts),
        sum((each.sums for each in spans), zero.sums),
    )


@given(steps, st.floats(0, 2 * PARTS * PART_S))
def test_a_sliding_window_holds_what_came_within_it_up_to_a_part(steps, later_s):
    window = Sliding(SHAPE, PARTS * PART_S)
    for at_s, n, seed in steps:
        window.add(at_s, span(n, seed))
    now_s = steps[-1][0] + later_s if steps else later_s
    slot = int(now_s // PART_S)
    same(
        window.total(now_s),
        summed([span(n, seed) for at, n, seed in steps if int(at // PART_S) > slot - PARTS]),
    )


@given(steps)
def test_a_decayed_window_weighs_each_row_by_its_age(steps):
    window = Decayed(SHAPE, 600.0)
    for at_s, n, seed in steps:
        window.add(at_s, span(n, seed))
    now_s = (steps[-1][0] if steps else 0.0) + 100.0
    total = window.total(now_s)
    expected = np.zeros(SHAPE)
    for at_s, n, seed in steps:
        expected += span(n, seed).counts * 0.5 ** ((now_s - at_s) / 600.0)
    np.testing.assert_allclose(total.counts, expected, rtol=1e-9, atol=1e-12)
    assert total.n == pytest.approx(expected.sum() / 2, rel=1e-9, abs=1e-12)


@given(steps, st.integers(0, 40))
def test_windows_go_on_after_a_restart_as_if_there_had_been_none(steps, cut):
    whole = Sliding(SHAPE, PARTS * PART_S), Decayed(SHAPE, 600.0), Latest(SHAPE, 0.0)
    parted = Sliding(SHAPE, PARTS * PART_S), Decayed(SHAPE, 600.0), Latest(SHAPE, 0.0)
    for number, (at_s, n, seed) in enumerate(steps):
        if number == cut:
            again = Sliding(SHAPE, PARTS * PART_S), Decayed(SHAPE, 600.0), Latest(SHAPE, 9.0)
            for old, new in zip(parted, again, strict=True):
                new.restore({name: np.array(each) for name, each in old.arrays().items()})
            parted = again
        for window in (*whole, *parted):
            window.add(at_s, span(n, seed))
    now_s = (steps[-1][0] if steps else 0.0) + 1
    for one, other in zip(whole[:2], parted[:2], strict=True):
        a, b = one.total(now_s), other.total(now_s)
        assert a.n == b.n
        np.testing.assert_array_equal(a.counts, b.counts)
        np.testing.assert_array_equal(a.sums, b.sums)
    assert whole[2].began_s == parted[2].began_s
    np.testing.assert_array_equal(whole[2].total(), parted[2].total())


def test_a_window_of_another_length_begins_anew():
    old, new = Sliding(SHAPE, 3600.0), Sliding(SHAPE, 7200.0)
    old.add(1e9, span(10, 0))
    new.restore(old.arrays())
    assert new.total(1e9).n == 0


def test_a_clock_that_is_set_back_loses_and_doubles_nothing():
    window, decayed = Sliding(SHAPE, 3600.0), Decayed(SHAPE, 600.0)
    for at_s in (10_000.0, 4_000.0, 9_000.0):
        window.add(at_s, span(10, 0))
        decayed.add(at_s, span(10, 0))
    assert window.total(4_000.0).n == 30
    assert decayed.total(4_000.0).n == 30


@given(st.lists(st.tuples(st.floats(0.5, 200), st.integers(0, 700)), min_size=1, max_size=60))
def test_the_latest_rows_are_enough_and_of_long_enough_or_are_none(steps):
    latest, now_s, fed = Latest(SHAPE, 0.0), 0.0, []
    for pause_s, n in steps:
        now_s += pause_s
        latest.add(now_s, span(n, 1))
        fed.append((now_s, n))
        total = latest.total()
        if total is None:
            continue
        rows = int(total.sum()) // 2
        since_s = latest.began_s
        assert rows >= LATEST_PARTS * LATEST_PART_ROWS
        assert now_s - since_s >= LATEST_PARTS * 60.0
        assert rows == sum(n for at_s, n in fed if at_s > since_s)
