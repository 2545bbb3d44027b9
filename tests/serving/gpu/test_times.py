"""How long runs are expected to take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.gpu.times import FACTOR_MAX, Times, points

measured = st.integers(1, 300).flatmap(
    lambda rows_max: st.fixed_dictionaries({rows: st.integers(1, 10**9) for rows in points(rows_max)})
)


@given(st.integers(1, 4096))
def test_the_largest_batch_is_tried_first_and_each_size_once(rows_max) -> None:
    chosen = points(rows_max)
    assert chosen[0] == rows_max
    assert len(set(chosen)) == len(chosen)
    assert chosen[-1:] == [1] or 1 in chosen
    assert all(1 <= rows <= rows_max for rows in chosen)


@given(measured)
def test_more_rows_are_never_expected_to_take_less(table) -> None:
    times = Times(table, {})
    expected = [times.run_ns(rows) for rows in range(1, times.rows_max + 2)]
    assert expected == sorted(expected)
    assert all(times.run_ns(rows) >= took for rows, took in table.items())


@given(measured, st.integers(0, 10**9))
def test_the_most_rows_within_a_limit_are_found(table, limit) -> None:
    times = Times(table, {})
    fitting = [rows for rows in range(1, times.rows_max + 1) if times.run_ns(rows) <= limit]
    assert times.rows_within(limit) == max(fitting, default=0)


def test_a_device_that_pads_to_powers_of_two_is_expected_to() -> None:
    times = Times({rows: 1000 * (1 << (rows - 1).bit_length()) for rows in points(64)}, {})
    assert {times.run_ns(rows) for rows in (5, 6, 7, 8)} == {8000}
    assert {times.run_ns(rows) for rows in (9, 16)} == {16000}
    assert {times.run_ns(rows) for rows in (33, 63, 64)} == {64000}


@given(measured, st.lists(st.tuples(st.integers(1, 300), st.integers(0, 10**12)), max_size=20))
def test_nothing_that_is_seen_moves_an_expectation_beyond_its_bounds(table, seen) -> None:
    times, before = Times(table, {}), Times(table, {})
    for rows, took in seen:
        times.note(rows, took)
        times.bound(rows, took)
    for rows in (1, times.rows_max):
        assert (
            before.run_ns(rows) / FACTOR_MAX - 1 <= times.run_ns(rows) <= before.run_ns(rows) * FACTOR_MAX + 1
        )
