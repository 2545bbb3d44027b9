"""Does the comparison of outputs count what its naive reading counts, whatever the outputs hold?"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import compare
from kernels.tally import (
    AGREED,
    CLASSED,
    CLASSES_MAX,
    CONCORDANT,
    CORRELATION,
    COUNTS,
    DISCORDANT,
    FINITE,
    LARGEST,
    LARGEST_FLOAT,
    ODD_PRIMARY,
    ODD_SHADOW,
    RANKED,
    RANKS_MAX,
    ROWS,
    SUMS,
    TOTAL,
    side,
)
from tests.kernels import naive

FLOATS = (np.float32, np.float64)
# Few values, so that ties are many, and those that arithmetic stumbles over.
awkward = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, -1.0, 3e38, -3e38, np.inf, -np.inf, np.nan])


def values(dtype):
    width = np.dtype(dtype).itemsize * 8
    return awkward | st.floats(width=width)


few = st.integers(0, 6)
wide = st.integers(1, 8)


@st.composite
def pairs(draw, rows=few, k=wide):
    dtype = draw(st.sampled_from(FLOATS))
    shape = draw(rows), draw(k)
    with np.errstate(over="ignore"):
        one = draw(arrays(dtype, shape, elements=values(dtype)))
        return one, draw(st.just(one.copy()) | arrays(dtype, shape, elements=values(dtype)))


class Tally:
    """What is counted into, and how."""

    def __init__(self, classes=4) -> None:
        self.counts = np.zeros(COUNTS, np.int64)
        self.sums = np.zeros(SUMS)
        self.flips = np.zeros((side(classes), side(classes)), np.int64)

    def scores(self, primary, shadow, by=compare.scores):
        by(primary, shadow, self.counts, self.sums, self.flips)
        return self

    def labels(self, primary, shadow, by=compare.labels):
        by(primary, shadow, self.counts, self.flips)
        return self

    def neighbours(self, primary, shadow, by=compare.neighbours):
        by(primary, shadow, self.counts)
        return self

    def __add__(self, other) -> Tally:
        total = Tally()
        total.counts = self.counts + other.counts
        total.sums = np.minimum(self.sums + other.sums, LARGEST_FLOAT)
        total.sums[LARGEST] = max(self.sums[LARGEST], other.sums[LARGEST])
        total.flips = self.flips + other.flips
        return total

    def __eq__(self, other) -> bool:
        return bool(
            (self.counts == other.counts).all()
            and (self.flips == other.flips).all()
            and np.allclose(self.sums, other.sums, rtol=1e-9, atol=1e-9)
        )

    __hash__ = None

    def __repr__(self) -> str:
        return f"{self.counts} {self.sums}\n{self.flips}"


@given(pairs())
def test_scores_are_compared_as_the_naive_reading_does(pair):
    assert Tally().scores(*pair) == Tally().scores(*pair, naive.scores)


@given(pairs(st.just(1), st.integers(60, 70) | st.integers(RANKS_MAX - 1, RANKS_MAX + 1)))
def test_long_rows_are_compared_as_the_naive_reading_does(pair):
    got, wanted = Tally(200).scores(*pair), Tally(200).scores(*pair, naive.scores)
    assert got == wanted


@given(arrays(np.int64, 5, elements=st.integers(-2, 6)), arrays(np.int64, 5, elements=st.integers(-2, 6)))
def test_labels_are_compared_as_the_naive_reading_does(one, other):
    assert Tally().labels(one, other) == Tally().labels(one, other, naive.labels)


@given(pairs(k=st.just(1)))
def test_neighbours_are_compared_as_the_naive_reading_does(pair):
    one, other = (each.reshape(-1) for each in pair)
    assert Tally().neighbours(one, other) == Tally().neighbours(one, other, naive.neighbours)


@given(pairs(), st.integers(0, 6))
def test_comparing_two_parts_and_adding_is_comparing_all(pair, at):
    one, other = pair
    parts = Tally().scores(one[:at].copy(), other[:at].copy()) + Tally().scores(
        one[at:].copy(), other[at:].copy()
    )
    assert parts == Tally().scores(one, other)


@given(pairs(k=st.integers(2, 8)))
def test_a_model_agrees_with_itself_whatever_it_says(pair):
    one, _ = pair
    tally = Tally(8).scores(one, one.copy())
    assert tally.counts[AGREED] == tally.counts[CLASSED] == len(one)
    assert tally.sums[LARGEST] == tally.sums[TOTAL] == 0
    assert tally.flips.sum() == np.trace(tally.flips) == len(one)
    assert tally.sums[CORRELATION] == pytest.approx(tally.counts[RANKED])


@given(pairs())
def test_exchanging_the_sides_turns_the_flips_over_and_changes_nothing_else(pair):
    there, back = Tally().scores(*pair), Tally().scores(*reversed(pair))
    back.flips = np.ascontiguousarray(back.flips.T)
    back.counts[[ODD_PRIMARY, ODD_SHADOW]] = back.counts[[ODD_SHADOW, ODD_PRIMARY]]
    assert there == back


@given(pairs())
def test_every_score_is_in_a_difference_or_counted_as_odd(pair):
    one, other = pair
    tally = Tally().scores(one, other)
    both_odd = (~np.isfinite(one) & ~np.isfinite(other)).sum()
    assert tally.counts[FINITE] + tally.counts[ODD_PRIMARY] + tally.counts[ODD_SHADOW] - both_odd == one.size


def test_opposite_orders_correlate_at_minus_one():
    one = np.array([[0.1, 0.2, 0.7]])
    tally = Tally().scores(one, -one)
    assert (tally.counts[RANKED], tally.sums[CORRELATION]) == (1, pytest.approx(-1))
    tally = Tally().neighbours(one[0], -one[0])
    assert (tally.counts[CONCORDANT], tally.counts[DISCORDANT]) == (0, 2)


def test_a_row_without_any_order_is_not_ranked():
    tally = Tally().scores(np.array([[1.0, 1.0], [np.nan, 1.0]]), np.array([[1.0, 2.0], [0.0, 1.0]]))
    assert tally.counts[RANKED] == 0


def test_a_single_score_has_no_class():
    tally = Tally().scores(np.array([[1.0]]), np.array([[1.0]]))
    assert (tally.counts[ROWS], tally.counts[CLASSED], tally.flips.sum()) == (1, 0, 0)


def test_classes_beyond_the_matrix_share_its_last_place():
    one, other = np.zeros((1, 100), np.float32), np.zeros((1, 100), np.float32)
    one[0, 99] = other[0, 3] = 1
    tally = Tally(100).scores(one, other)
    assert tally.flips.shape == (CLASSES_MAX + 1, CLASSES_MAX + 1)
    assert tally.flips[CLASSES_MAX, 3] == tally.flips.sum() == 1


def test_differences_end_at_the_largest_number_and_not_at_infinity():
    one = np.array([[1.7e308, 1.7e308]])
    tally = Tally().scores(one, -one)
    assert tally.sums[LARGEST] == tally.sums[TOTAL] == LARGEST_FLOAT


def test_who_only_reads_what_was_counted_needs_no_numba():
    code = "import sys, kernels.tally; assert 'numba' not in sys.modules"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=compare.__file__.rpartition("/kernels")[0]
        ).returncode
        == 0
    )
