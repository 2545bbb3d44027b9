"""The histogram of durations is the sorted list of them, but for three digits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import hdr
from serving.bench.hdr import DURATION_NS_MAX, RELATIVE_ERROR_MAX, Histogram, bins_of, edges_of

durations = st.one_of(
    st.integers(0, DURATION_NS_MAX),
    st.integers(0, 5000),
    st.integers(0, 44).map(lambda octave: 1 << octave),
    st.integers(1, 45).map(lambda octave: (1 << octave) - 1),
)
several = st.lists(durations, min_size=1, max_size=60)


def of(values: list[int]) -> Histogram:
    made = Histogram()
    made.record_many(values)
    return made


def test_the_load_tests_count_with_the_same_one():
    assert hdr.Histogram is Histogram


@given(durations)
def test_each_duration_is_within_the_edges_of_its_bin(value):
    bins = bins_of(np.array([value]))
    ((least,), (greatest,)) = edges_of(bins)
    assert least <= value <= greatest
    assert (greatest - least) <= 2 * RELATIVE_ERROR_MAX * max(least, 1)


@given(durations)
def test_bins_follow_each_other_without_a_gap(value):
    bins = bins_of(np.array([value]))
    _, (greatest,) = edges_of(bins)
    ((least,), _) = edges_of(bins + 1)
    assert least == greatest + 1


@given(several, st.floats(0, 1))
def test_a_quantile_is_that_of_the_sorted_list_within_the_promised_error(values, q):
    rank = min(max(math.ceil(q * len(values) - 1e-9), 1), len(values))
    exact = sorted(values)[rank - 1]
    assert of(values).quantile_ns(q) == pytest.approx(exact, rel=RELATIVE_ERROR_MAX, abs=0)


@given(several)
def test_count_sum_and_extremes_are_exact(values):
    made = of(values)
    assert (made.count, made.sum_ns) == (len(values), sum(values))
    assert (made.min_ns, made.max_ns) == (min(values), max(values))
    assert made.quantile_ns(1) <= max(values) and made.quantile_ns(0) >= min(values)
    assert made.mean_ns == pytest.approx(sum(values) / len(values))


@given(several, several)
def test_merging_is_as_if_one_had_counted_all(left, right):
    assert of(left).merge(of(right)) == of(left + right)
    assert of(left).merge(of(right)) == of(right).merge(of(left))


@given(several)
def test_merging_nothing_changes_nothing(values):
    assert of(values).merge(Histogram()) == of(values) == Histogram().merge(of(values))


@given(several)
def test_one_at_a_time_is_as_many_at_once(values):
    made = Histogram()
    for value in values:
        made.record(value)
    assert made == of(values)


@given(several)
def test_it_is_read_as_it_was_written(values):
    assert Histogram.read(json.loads(json.dumps(of(values).document()))) == of(values)


@given(several, durations)
def test_what_is_over_a_bound_is_counted_within_a_bin(values, bound):
    over = of(values).over(bound)
    assert sum(v > bound * (1 + 2 * RELATIVE_ERROR_MAX) + 1 for v in values) <= over
    assert over <= sum(v > bound for v in values)


def test_nothing_has_no_quantile():
    assert math.isnan(Histogram().quantile_ns(0.5)) and math.isnan(Histogram().mean_ns)


@pytest.mark.parametrize(("given_ns", "counted_ns"), [(-5, 0), (1 << 60, DURATION_NS_MAX)])
def test_what_is_out_of_range_counts_at_its_end(given_ns, counted_ns):
    made = of([given_ns])
    assert made.count == 1 and made.max_ns == counted_ns


@pytest.mark.parametrize("change", [{"unit": "us"}, {"digits": 2}, {"count": 9}])
def test_another_histogram_is_not_read(change):
    with pytest.raises(ValueError, match="histogram"):
        Histogram.read({**of([5, 6]).document(), **change})
