"""Are neighbouring blocks as far apart as chance puts them, and is more than that seen?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels.dispersion import Dispersion, _contrast
from tests.kernels import naive_detect as naive

BINS = 4
SCORES = np.array([[[-1.0, 0.0, 0.5, 2.0]], [[0.0, -1.0, -0.75, 3.0]]])
rows_of_bins = st.lists(st.integers(0, BINS - 1), min_size=1, max_size=5)


def counted(rows):
    return np.bincount(rows, minlength=BINS)[None, :]


@given(one=rows_of_bins, other=rows_of_bins)
def test_what_is_expected_is_the_mean_over_all_ways_to_deal_the_rows(one, other):
    rows = one + other
    deals = list(itertools.combinations(range(len(rows)), len(one)))
    firsts = [counted([rows[i] for i in deal]) for deal in deals]
    whole = counted(rows)
    got = [_contrast(first, whole - first, SCORES) for first in firsts]
    np.testing.assert_allclose(np.mean([apart for apart, _ in got], axis=0), got[0][1], rtol=1e-9, atol=1e-9)


@given(counts=arrays(np.int64, (5, 1, BINS), elements=st.integers(0, 20)))
def test_the_ratios_are_those_of_the_naive_twin(counts):
    ours, twin = Dispersion(SCORES), naive.Dispersion(SCORES[:, 0].tolist(), BINS)
    for block in counts:
        ours.update(block)
        if block.any():
            twin.update(block[0].tolist())
    expected = [twin.all.value, *(ratio.value for ratio in twin.along)]
    np.testing.assert_allclose(ours.ratios()[:, 0], expected, rtol=1e-9)


def after(draw, blocks_=300):
    """Return the ratios, (3, streams), after blocks of rows over bins of equal mass."""
    scores = np.broadcast_to(np.array([[-1.5, -0.5, 0.5, 1.5], [1.0, -1.0, -1.0, 1.0]])[:, None], (2, 400, 4))
    rng, dispersion = np.random.default_rng(1), Dispersion(scores)
    for _ in range(blocks_):
        rows = draw(rng)
        dispersion.update(np.stack([(rows == j).sum(axis=0) for j in range(4)], axis=1))
    return dispersion.ratios()


def test_independent_rows_count_whole():
    ratios = after(lambda rng: rng.integers(0, 4, (50, 400)))
    assert np.median(ratios) < 1.1
    assert np.quantile(ratios, 0.99) < 1.5


def test_blocks_of_one_row_are_no_reason_for_doubt():
    ratios = after(lambda rng: rng.integers(0, 4, (1, 400)))
    assert np.median(ratios) < 1.1


@pytest.mark.parametrize("times", [2, 5])
def test_of_rows_that_come_several_times_each_one_counts(times):
    ratios = after(lambda rng: np.repeat(rng.integers(0, 4, (50 // times, 400)), times, axis=0))
    np.testing.assert_allclose(np.median(ratios, axis=1), times, rtol=0.12)


def test_a_change_is_not_taken_for_a_burst_for_long():
    age = iter(range(10_000))
    ratios = after(lambda rng: rng.integers(0, 2 if next(age) >= 250 else 4, (50, 400)))
    assert np.median(ratios) < 1.5
