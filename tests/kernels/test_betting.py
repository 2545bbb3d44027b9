"""Are bets on scores what their naive twins say, never better than even, and soon enough?"""

from __future__ import annotations

import itertools
import math
import timeit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.betting import (
    STAKES,
    Bet,
    Losses,
    hedged_interval,
    log_e_losses,
    mean_interval,
    wager,
)
from tests.kernels import naive_evalue as naive

VALUES = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
places = st.lists(st.integers(0, 4), min_size=1, max_size=7)
weights = st.floats(0.05, 0.95)
losses = st.lists(st.floats(0, 1), min_size=1, max_size=7)


def histograms(drawn, canary, weight):
    drawn, canary = np.array(drawn), np.array(canary, np.bool_)
    counts = (np.bincount(drawn[side], minlength=5) for side in (canary, ~canary))
    return Losses(*counts, weight)


def assignments(n, weight):
    """Yield all ways in which n requests may be drawn, with their probabilities."""
    for canary in itertools.product([False, True], repeat=n):
        yield np.array(canary), weight ** sum(canary) * (1 - weight) ** (n - sum(canary))


class TestHistogramsOfLosses:
    @given(drawn=places, centre=st.floats(0.05, 0.95), weight=weights, data=st.data())
    def test_evidence_is_the_mean_of_bets_that_multiply_at_each_loss(self, drawn, centre, weight, data):
        canary = [data.draw(st.booleans()) for _ in drawn]
        expected = math.log(naive.losses_e(drawn, canary, weight, VALUES, centre, STAKES))
        found = log_e_losses([histograms(drawn, canary, weight)], VALUES, centre=centre)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @given(drawn=places, centre=st.floats(0.05, 0.95), weight=weights)
    def test_whatever_the_losses_it_is_even_on_average_if_arms_are_drawn(self, drawn, centre, weight):
        mean = sum(
            chance * math.exp(log_e_losses([histograms(drawn, canary, weight)], VALUES, centre=centre))
            for canary, chance in assignments(len(drawn), weight)
        )
        assert mean == pytest.approx(1, rel=1e-9)

    @given(first=places, second=places, weight=weights, data=st.data())
    def test_histograms_of_one_weight_may_be_added_in_any_order(self, first, second, weight, data):
        one, other = (
            histograms(drawn, [data.draw(st.booleans()) for _ in drawn], weight) for drawn in (first, second)
        )
        merged = Losses(one.canary + other.canary, one.baseline + other.baseline, weight)
        apart = log_e_losses([other, one], VALUES, centre=0.4)
        assert log_e_losses([merged], VALUES, centre=0.4) == pytest.approx(apart, rel=1e-9, abs=1e-9)

    @given(drawn=places, weight=weights, data=st.data())
    def test_a_great_loss_of_the_canary_speaks_against_it_and_one_of_the_baseline_for_it(
        self, drawn, weight, data
    ):
        now = histograms(drawn, [data.draw(st.booleans()) for _ in drawn], weight)
        worst, none = np.array([0, 0, 0, 0, 1]), np.zeros(5, np.int64)
        before = log_e_losses([now], VALUES, centre=0.4)
        assert log_e_losses([now, Losses(worst, none, weight)], VALUES, centre=0.4) > before
        assert log_e_losses([now, Losses(none, worst, weight)], VALUES, centre=0.4) < before


class TestBetsThatLearn:
    @given(losses=losses, weight=weights, data=st.data())
    def test_the_way_of_the_evidence_is_its_naive_twins(self, losses, weight, data):
        canary = np.array([data.draw(st.booleans()) for _ in losses])
        _, log_e = wager(Bet(), np.array(losses), canary, weight)
        assert log_e == pytest.approx(naive.wager(losses, canary, weight), rel=1e-7, abs=1e-7)

    @given(losses=losses, weight=weights)
    def test_whatever_the_losses_it_is_even_on_average_if_arms_are_drawn(self, losses, weight):
        mean = sum(
            chance * math.exp(wager(Bet(), np.array(losses), canary, weight)[0].log_e)
            for canary, chance in assignments(len(losses), weight)
        )
        assert mean == pytest.approx(1, rel=1e-9)

    @given(cut=st.integers(0, 200), weight=weights)
    def test_blocks_go_on_where_the_last_one_ended(self, cut, weight):
        rng = np.random.default_rng(4)
        losses, canary = rng.random(200), rng.random(200) < weight
        whole, log_e = wager(Bet(), losses, canary, weight)
        half, first = wager(Bet(), losses[:cut], canary[:cut], weight)
        both, second = wager(half, losses[cut:], canary[cut:], weight)
        assert np.concatenate([first, second]) == pytest.approx(log_e, rel=1e-9, abs=1e-9)
        assert (both.log_e, both.count) == (pytest.approx(whole.log_e, abs=1e-9), whole.count)


class TestMeans:
    GRID = np.linspace(0.0005, 0.9995, 1001)

    @pytest.mark.parametrize(("n", "low", "high"), [(2000, 0.23626, 0.25325), (200, 0.22128, 0.28322)])
    def test_the_fixtures_are_reproduced(self, n, low, high):
        values = np.random.default_rng(0).beta(2, 6, 2000)[:n]
        ends = hedged_interval(values, alpha=0.05)
        grid = self.GRID
        kept = grid[(grid > ends[0]) & (grid < ends[1])]
        assert (kept[0], kept[-1]) == pytest.approx((low, high), abs=5e-6)
        if n == 2000:
            assert values.mean() == pytest.approx(0.2507280, abs=5e-8)

    @given(seed=st.integers(0, 1000), n=st.integers(1, 40), alpha=st.sampled_from([0.01, 0.2]))
    def test_it_holds_the_means_that_its_naive_twin_kept(self, seed, n, alpha):
        values = np.random.default_rng(seed).beta(1, 3, n).round(1)
        grid = np.linspace(0.005, 0.995, 34)
        low, high = hedged_interval(values, alpha=alpha)
        near = (np.abs(grid - low) < 1e-5) | (np.abs(grid - high) < 1e-5)
        kept = naive.hedged(values, alpha, grid)
        assert set(grid[(grid > low) & (grid < high) & ~near]) == set(kept) - set(grid[near])

    @given(counts=st.lists(st.integers(0, 500), min_size=5, max_size=5), times=st.integers(2, 20))
    def test_an_interval_of_counts_holds_their_mean_and_narrows(self, counts, times):
        counts = np.array(counts)
        low, high = mean_interval(VALUES, counts, alpha=0.05)
        assert 0 <= low <= high <= 1
        if counts.sum():
            mean = VALUES @ counts / counts.sum()
            assert low <= mean + 1e-6 and mean - 1e-6 <= high
        narrow = mean_interval(VALUES, times * counts, alpha=0.05)
        assert narrow[1] - narrow[0] <= high - low + 1e-5

    def test_good_and_bad_may_change_names(self):
        counts = np.array([40, 30, 20, 5, 3])
        low, high = mean_interval(VALUES, counts, alpha=0.05)
        mirrored = mean_interval(1 - VALUES[::-1], counts[::-1], alpha=0.05)
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-5)

    @pytest.mark.parametrize("binned", [False, True])
    def test_the_truth_is_in_it_at_all_times_together(self, binned):
        rng = np.random.default_rng(5)
        runs, alpha, missed = 200, 0.1, 0
        middles = (np.arange(10) + 0.5) / 10
        for _ in range(runs):
            values = middles[np.minimum((10 * rng.beta(1, 4, 1_000)).astype(int), 9)]
            outside = []
            for n in (10, 30, 100, 300, 1000):
                counts = np.bincount((10 * values[:n]).astype(int), minlength=10)
                low, high = (
                    mean_interval(middles, counts, alpha=alpha)
                    if binned
                    else hedged_interval(values[:n], alpha=alpha)
                )
                outside.append(not low <= self.TRUTH <= high)
            missed += any(outside)
        assert missed / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)

    # Of middles of tenths, of a Beta(1, 4): P(bin i) = (1 - i/10)^4 - (1 - (i+1)/10)^4.
    TRUTH = sum((i + 0.5) / 10 * ((1 - i / 10) ** 4 - (1 - (i + 1) / 10) ** 4) for i in range(10))

    def test_without_values_it_is_everything(self):
        assert mean_interval(VALUES, np.zeros(5, np.int64), alpha=0.05) == (0, 1)
        assert hedged_interval(np.zeros(0), alpha=0.05) == (0, 1)


def test_each_takes_less_than_a_millisecond():
    rng = np.random.default_rng(6)
    values = (np.arange(20) + 0.5) / 20
    epoch = Losses(rng.integers(0, 10_000, 20), rng.integers(0, 10_000, 20), 0.1)
    losses, canary = rng.random(1_000), rng.random(1_000) < 0.1
    for verdict in (
        lambda: log_e_losses([epoch] * 4, values, centre=0.2),
        lambda: mean_interval(values, epoch.canary, alpha=0.01),
        lambda: wager(Bet(), losses, canary, 0.1),
    ):
        assert min(timeit.repeat(verdict, number=1, repeat=50)) < 1e-3
