"""A search finds the knee that there is, in the time that it has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.search import GAP, RATE_MIN, REPEATS, Search, Trial

PLENTY = lambda: 1e9  # noqa: E731  A clock.


@given(st.floats(RATE_MIN, 9e5), st.floats(RATE_MIN, 9e5))
def test_it_ends_within_the_gap_of_a_sharp_knee_wherever_it_starts(knee, start):
    found = Search(lambda rate: Trial(rate, rate <= knee), PLENTY, 1).look(start)
    assert found.rate_per_s <= knee < found.broken_per_s
    assert found.broken_per_s <= GAP * found.rate_per_s * 1.000001
    assert found.passed == REPEATS and not found.cut
    assert len(found.trials) < 60


@given(st.integers(0, 2**32), st.integers(0, 40))
def test_with_trials_that_scatter_it_is_bounded_and_what_it_names_passed_every_time(seed, seconds):
    rng = np.random.default_rng(seed)
    left = iter(range(seconds, -100, -1))
    found = Search(
        lambda rate: Trial(rate, rate * rng.lognormal(0, 0.1) <= 1000), lambda: next(left), 1
    ).look(500)
    assert len(found.trials) <= seconds
    assert found.cut or found.passed == REPEATS
    if found.rate_per_s:
        mine = [each.kept for each in found.trials if each.rate_per_s == found.rate_per_s]
        assert all(mine) and len(mine) == found.passed
        assert found.broken_per_s is None or found.broken_per_s > found.rate_per_s


def test_a_gateway_that_keeps_nothing_has_no_rate():
    found = Search(lambda rate: Trial(rate, kept=False), PLENTY, 1).look(1000)
    assert found.rate_per_s == 0 and found.sure == 0 and not found.cut


def test_what_keeps_everything_ends_at_the_highest_rate_that_can_be_asked():
    found = Search(lambda rate: Trial(rate, kept=True), PLENTY, 1, rate_max=64_000).look(1000)
    assert (found.rate_per_s, found.broken_per_s) == (64_000, None)


def test_five_of_five_is_what_the_binomial_says():
    found = Search(lambda rate: Trial(rate, rate <= 1000), PLENTY, 1).look(1000)
    assert found.sure == pytest.approx(0.05 ** (1 / 5))
