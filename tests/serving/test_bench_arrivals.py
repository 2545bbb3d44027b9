"""Requests are due when the process of their arrival says so."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.arrivals import bounded, closed, constant, poisson

rates = st.floats(0.5, 1e6)


@given(rates, st.integers(0, 3000))
def test_a_constant_rate_has_no_error_that_adds_up(rate, k):
    due = next(islice(constant(rate), k, None))
    assert abs(due - Fraction(k) * 10**9 / Fraction(rate)) <= 2


@given(rates, st.integers(0, 2**32))
def test_poisson_arrivals_ascend_and_are_the_same_for_a_seed(rate, seed):
    first, again = (list(islice(poisson(rate, np.random.default_rng(seed)), 1500)) for _ in range(2))
    assert first == again == sorted(first)


@pytest.mark.parametrize("rate", [100.0, 20_000.0])
def test_poisson_gaps_have_the_mean_and_the_variance_of_the_exponential(rate):
    gaps = np.diff([0, *islice(poisson(rate, np.random.default_rng(1)), 100_000)]) * rate / 1e9
    assert gaps.mean() == pytest.approx(1, abs=0.015)
    assert gaps.var() == pytest.approx(1, abs=0.04)


def test_counts_of_poisson_arrivals_vary_as_much_as_their_mean():
    due = np.array(list(islice(poisson(1000.0, np.random.default_rng(2)), 400_000)))
    counts = np.bincount(due // 10**8)[:-1]
    assert counts.mean() == pytest.approx(100, rel=0.01)
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.12)


@given(st.floats(1, 10_000), st.floats(0.001, 1), st.integers(1, 2000))
def test_they_are_bounded_in_time_and_number(rate, seconds, most):
    due = list(bounded(constant(rate), seconds, most))
    assert len(due) <= most
    assert all(at < seconds * 1e9 for at in due)
    assert len(due) == most or (len(due) + 1) / rate >= seconds


def test_closed_arrivals_are_the_moments_of_asking_until_the_end():
    moments = iter([3, 5, 9, 10, 11])
    assert list(closed(lambda: next(moments), 10)) == [3, 5, 9]
