"""Do intervals hold the truth at all times, and are they what bets against single values leave?"""

from __future__ import annotations

import math
import timeit
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.confidence import (
    NEAR_RATIOS,
    _log_e_each,
    log_e_rate,
    quantile_interval,
    rate_interval,
    ratio_interval,
)
from kernels.evalue import Events, bar, log_e

weights = st.floats(0.01, 0.99)
epochs = st.lists(st.builds(Events, st.integers(0, 200), st.integers(0, 200), weights), max_size=3)
alphas = st.sampled_from([0.001, 0.01, 0.05, 0.2])


@st.composite
def observed(draw):
    trials = draw(st.integers(0, 3000))
    return draw(st.integers(0, trials)), trials


class TestRates:
    @pytest.mark.parametrize(
        ("events", "trials", "low", "high"),
        [
            (0, 1000, 0.0, 0.0085943930),
            (10, 1000, 0.0019599389, 0.0286304585),
            (100, 10000, 0.0062724073, 0.0149574391),
            (20, 2000, 0.0033458383, 0.0222285529),
        ],
    )
    def test_the_fixtures_are_reproduced(self, events, trials, low, high):
        assert rate_interval(events, trials, alpha=0.01) == pytest.approx((low, high), abs=1e-9)

    def test_the_fixture_of_the_evidence_is_reproduced(self):
        assert math.exp(log_e_rate(8, 20, 0.1)) == pytest.approx(88.96787544171089, rel=1e-12)

    @given(trials=st.integers(0, 30), rate=st.floats(0.001, 0.999))
    def test_evidence_against_the_truth_is_even_on_average(self, trials, rate):
        mean = sum(
            math.comb(trials, k)
            * rate**k
            * (1 - rate) ** (trials - k)
            * math.exp(log_e_rate(k, trials, rate))
            for k in range(trials + 1)
        )
        assert mean == pytest.approx(1, rel=1e-9)

    @given(seen=observed(), alpha=alphas)
    def test_the_interval_is_what_evidence_leaves(self, seen, alpha):
        low, high = rate_interval(*seen, alpha=alpha)
        assert 0 <= low <= high <= 1
        for end, certain in ((low, 0.0), (high, 1.0)):
            if end != certain:
                assert log_e_rate(*seen, end) == pytest.approx(bar(alpha), abs=1e-4)
        if seen[1]:
            assert low <= seen[0] / seen[1] <= high

    @given(seen=observed(), alpha=alphas)
    def test_good_and_bad_may_change_names(self, seen, alpha):
        events, trials = seen
        low, high = rate_interval(events, trials, alpha=alpha)
        assert rate_interval(trials - events, trials, alpha=alpha) == pytest.approx(
            (1 - high, 1 - low), abs=1e-8
        )

    @given(seen=observed(), alpha=alphas, times=st.integers(2, 50))
    def test_more_of_the_same_narrows_it(self, seen, alpha, times):
        events, trials = seen
        one, many = (rate_interval(n * events, n * trials, alpha=alpha) for n in (1, times))
        assert many[1] - many[0] <= one[1] - one[0] + 1e-9

    @given(seen=observed())
    def test_who_wants_to_be_surer_gets_more(self, seen):
        wide, narrow = (rate_interval(*seen, alpha=alpha) for alpha in (0.001, 0.05))
        assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]

    @pytest.mark.parametrize("rate", [0.001, 0.05, 0.5])
    def test_the_truth_is_in_it_at_all_times_together(self, rate):
        rng = np.random.default_rng(1)
        runs, alpha, looks = 400, 0.05, np.unique(np.geomspace(1, 20_000, 80).astype(int))
        counts = np.cumsum(rng.binomial(np.diff(looks, prepend=0), rate, (runs, len(looks))), axis=1)
        missed = sum(
            any(log_e_rate(int(k), int(n), rate) >= bar(alpha) for k, n in zip(run, looks, strict=True))
            for run in counts
        )
        assert missed / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)

    def test_events_are_some_of_the_trials(self):
        with pytest.raises(ValueError, match="events are some of the trials, got 3 of 2"):
            rate_interval(3, 2, alpha=0.05)


class TestRatios:
    @given(epochs=epochs, tolerance=st.floats(0.01, 100))
    def test_evidence_for_many_ratios_is_that_for_each(self, epochs, tolerance):
        one = log_e(epochs, tolerance=tolerance, ratios=NEAR_RATIOS)
        assert _log_e_each(epochs, np.array([tolerance]))[0] == pytest.approx(one, rel=1e-9, abs=1e-9)

    @given(epochs=epochs, alpha=alphas)
    def test_the_interval_is_what_evidence_leaves(self, epochs, alpha):
        low, high = ratio_interval(epochs, alpha=alpha)
        assert 0 <= low <= high
        if low:
            at, above = (
                log_e(epochs, tolerance=low * by, ratios=NEAR_RATIOS) - bar(alpha / 2) for by in (1, 1.0001)
            )
            assert at >= -1e-6 and above <= 1e-6

    @given(epochs=epochs, alpha=alphas)
    def test_canary_and_baseline_may_change_places(self, epochs, alpha):
        low, high = ratio_interval(epochs, alpha=alpha)
        mirrored = [Events(each.baseline, each.canary, 1 - each.weight) for each in epochs]
        other = ratio_interval(mirrored, alpha=alpha)
        assert other == pytest.approx((1 / high, 1 / low if low else math.inf), rel=1e-4)

    def test_it_narrows_around_what_was_seen(self):
        widths = []
        for many in (1, 10, 100, 1000):
            low, high = ratio_interval([Events(2 * many, 9 * many, 0.1)], alpha=0.05)
            assert low <= 2 <= high
            widths.append(high - low)
        assert widths == sorted(widths, reverse=True)
        assert high - low < 0.4

    def test_without_events_it_is_everything(self):
        assert ratio_interval([], alpha=0.05) == (0, math.inf)

    @pytest.mark.parametrize("ratio", [1.0, 3.0])
    def test_the_truth_is_in_it_at_all_times_together(self, ratio):
        rng = np.random.default_rng(2)
        runs, events, alpha, missed = 300, 400, 0.1, 0
        share = 0.1 * ratio / (0.1 * ratio + 0.9)
        for _ in range(runs):
            ours = np.cumsum(rng.random(events) < share)
            for n in range(10, events + 1, 10):
                k = int(ours[n - 1])
                worse = log_e([Events(k, n - k, 0.1)], tolerance=ratio, ratios=NEAR_RATIOS)
                better = log_e([Events(n - k, k, 0.9)], tolerance=1 / ratio, ratios=NEAR_RATIOS)
                if max(worse, better) >= bar(alpha / 2):
                    missed += 1
                    break
        assert missed / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


class TestQuantiles:
    EDGES = np.exp(0.025 * np.arange(-20, 200))

    def counted(self, values, edges=EDGES):
        return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)

    def test_the_fixture_is_reproduced(self):
        # Median 5, p99 10; as evenly as 10,000 lognormal values can lie.
        normal = NormalDist()
        sigma = math.log(2) / normal.inv_cdf(0.99)
        values = [5 * math.exp(sigma * normal.inv_cdf((i + 0.5) / 10_000)) for i in range(10_000)]
        low, high = quantile_interval(self.EDGES, self.counted(values), 0.99, alpha=0.01)
        assert (low, high) == pytest.approx((9.4877, 10.7510), abs=5e-5)

    @given(
        counts=st.lists(st.integers(0, 300), min_size=2, max_size=8),
        q=st.floats(0.01, 0.99),
        alpha=alphas,
    )
    def test_it_ends_at_the_nearest_edges_that_certainly_lie_on_either_side(self, counts, q, alpha):
        edges = np.arange(len(counts) - 1.0)
        trials = sum(counts)
        below = [sum(counts[: i + 1]) for i in range(len(edges))]
        sure = [trials > 0 and log_e_rate(count, trials, q) >= bar(alpha) for count in below]
        left = [
            edge for edge, n, certain in zip(edges, below, sure, strict=True) if certain and n < q * trials
        ]
        right = [
            edge for edge, n, certain in zip(edges, below, sure, strict=True) if certain and n > q * trials
        ]
        expected = (max(left, default=-math.inf), min(right, default=math.inf))
        assert quantile_interval(edges, np.array(counts), q, alpha=alpha) == expected

    def test_it_narrows_to_the_bin_that_the_quantile_is_in(self):
        edges = np.linspace(0, 1, 101)
        values = (np.arange(1_000_000) + 0.5) / 1_000_000
        assert quantile_interval(edges, self.counted(values, edges), 0.755, alpha=0.05) == (0.75, 0.76)

    @pytest.mark.parametrize("q", [0.5, 0.99])
    @pytest.mark.parametrize("rounded", [False, True])
    def test_the_truth_is_in_it_at_all_times_together(self, q, rounded):
        rng = np.random.default_rng(3)
        runs, alpha = 200, 0.1
        truth = -math.log(1 - q)
        truth = math.ceil(truth) if rounded else truth
        edges, missed = np.linspace(0, 8, 81), 0
        for _ in range(runs):
            values = rng.exponential(size=4_000)
            values = np.ceil(values) if rounded else values
            for n in (20, 60, 200, 600, 1500, 4000):
                low, high = quantile_interval(edges, self.counted(values[:n], edges), q, alpha=alpha)
                if not low <= truth <= high:
                    missed += 1
                    break
        assert missed / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)

    def test_without_values_nothing_is_certain(self):
        assert quantile_interval(self.EDGES, np.zeros(221, np.int64), 0.5, alpha=0.05) == (
            -math.inf,
            math.inf,
        )


def test_each_takes_less_than_a_millisecond():
    growing = [Events(80, 120, weight) for weight in (0.01, 0.05, 0.25, 0.5)]
    counts = np.arange(221) * 1000
    for interval in (
        lambda: rate_interval(1_234, 10_000_000, alpha=0.01),
        lambda: ratio_interval(growing, alpha=0.01),
        lambda: quantile_interval(TestQuantiles.EDGES, counts, 0.99, alpha=0.01),
    ):
        assert min(timeit.repeat(interval, number=1, repeat=50)) < 1e-3
