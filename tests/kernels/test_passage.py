"""Is the number of requests that a rollout is said to need the one that it needs?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import passage
from kernels.evalue import Events, bar, log_e, log_e_paired, log_e_paired_within, log_e_within
from kernels.passage import clearing, clearing_paired, finding, finding_paired, least_ratio
from tests.kernels import naive_evalue as naive

EVENTS = 40
SLOW = finding(0.001, 0.003, 0.1, alpha=0.01)


def same(found, expected):
    assert found.arrived[: len(expected)] == pytest.approx(expected[: len(found.arrived)], abs=1e-9)


class TestArrivals:
    @settings(max_examples=15)
    @given(
        weight=st.floats(0.02, 0.6),
        ratio=st.floats(3, 30),
        tolerance=st.sampled_from([1.0, 1.5]),
        alpha=st.sampled_from([0.01, 0.1]),
    )
    def test_a_bad_canary_is_found_as_the_evidence_itself_finds_it(self, weight, ratio, tolerance, alpha):
        found = finding(0.001, 0.001 * ratio, weight, alpha=alpha, tolerance=tolerance)
        share = weight * ratio / (weight * ratio + 1 - weight)

        def enough(canary, baseline):
            return log_e([Events(canary, baseline, weight)], tolerance=tolerance) >= bar(alpha)

        same(found, naive.arrivals(enough, share, EVENTS))
        assert found.rate == pytest.approx(0.001 * (weight * ratio + 1 - weight))

    @settings(max_examples=15)
    @given(weight=st.floats(0.05, 0.6), ratio=st.floats(3, 30))
    def test_a_good_canary_is_cleared_as_the_evidence_itself_clears_it(self, weight, ratio):
        found = clearing(0.001, weight, ratio=ratio, alpha=0.05)

        def enough(baseline, canary):
            return log_e_within([Events(canary, baseline, weight)], ratio=ratio) >= bar(0.05)

        same(found, naive.arrivals(enough, 1 - weight, EVENTS))

    def test_pairs_are_found_and_cleared_as_their_evidence_says(self):
        found = finding_paired(0.03, 0.01, alpha=0.05)
        same(found, naive.arrivals(lambda a, b: log_e_paired(a, b) >= bar(0.05), 0.75, EVENTS))
        cleared = clearing_paired(0.02, share=0.75, alpha=0.05)

        def enough(better, worse):
            return log_e_paired_within(worse, better, share=0.75) >= bar(0.05)

        same(cleared, naive.arrivals(enough, 0.5, EVENTS))

    def test_a_baseline_arm_is_a_baseline_of_the_same_weight(self):
        arm = finding(0.001, 0.01, 0.1, rest=0.1, alpha=0.01)
        even = finding(0.001, 0.01, 0.5, alpha=0.01)
        assert arm.arrived == pytest.approx(even.arrived)
        assert arm.rate == pytest.approx(even.rate / 5)


class TestRequests:
    @pytest.mark.parametrize("share", [0.5, 0.9])
    def test_they_are_the_least_that_are_enough(self, share):
        found = finding(0.001, 0.01, 0.1, alpha=0.01)
        requests = found.requests(share)
        assert found.within(requests) >= share > found.within(requests - 1)

    @given(a=st.integers(0, 10**6), b=st.integers(0, 10**6))
    def test_more_are_never_less(self, a, b):
        low, high = sorted((a, b))
        assert 0 <= SLOW.within(low) <= SLOW.within(high) + 1e-9
        assert SLOW.within(high) <= 1 + 1e-9

    @pytest.mark.parametrize(
        ("base", "bad", "weight", "horizon"),
        [(0.001, 0.01, 0.1, 40_000), (0.05, 0.1, 0.3, 10_000), (0.3, 0.9, 0.05, 2_000)],
    )
    def test_they_are_those_of_a_simulation_of_every_request_within_a_tenth(self, base, bad, weight, horizon):
        rng = np.random.default_rng(7)
        found = []
        for _ in range(400):
            canary = rng.random(horizon) < weight
            wrong = np.flatnonzero(rng.random(horizon) < np.where(canary, bad, base))
            ours = np.cumsum(canary[wrong])
            at = (
                int(place) + 1
                for place, a, n in zip(wrong, ours, range(1, len(wrong) + 1), strict=True)
                if log_e([Events(int(a), n - int(a), weight)]) >= bar(0.01)
            )
            found.append(next(at, math.inf))
        said = finding(base, bad, weight, alpha=0.01)
        assert np.quantile(found, 0.5) == pytest.approx(said.requests(0.5), rel=0.1)
        assert np.quantile(found, 0.9, method="higher") == pytest.approx(said.requests(0.9), rel=0.1)

    def test_requests_for_promotion_are_those_of_a_simulation_within_a_tenth(self):
        rng = np.random.default_rng(8)
        events, runs = 1_500, 600
        said = clearing(0.001, 0.1, ratio=3, alpha=0.01)
        canary = np.cumsum(rng.random((runs, events)) < 0.1, axis=1)
        up, down = (log_e_within([one], ratio=3) for one in (Events(0, 1, 0.1), Events(1, 0, 0.1)))
        evidence = up * (np.arange(1, events + 1) - canary) + down * canary
        at = np.cumsum(rng.geometric(0.001, (runs, events)), axis=1)
        found = at[np.arange(runs), (evidence >= bar(0.01)).argmax(axis=1)]
        assert np.median(found) == pytest.approx(said.requests(0.5), rel=0.1)
        assert np.quantile(found, 0.9) == pytest.approx(said.requests(0.9), rel=0.1)

    def test_the_goals_of_the_design_are_kept(self):
        assert finding(0.001, 0.01, 0.1, alpha=0.01).requests(0.5) <= 6_500
        doubled = finding(0.001, 0.002, 0.1, alpha=0.01)
        assert doubled.requests(0.5) > 130_000
        assert doubled.within(100_000) == pytest.approx(0.31, abs=3 * math.sqrt(0.31 * 0.69 / 1000))


class TestWhatCannotBe:
    def test_a_ratio_nearer_than_every_bet_is_never_found(self):
        least = least_ratio(0.1)
        assert 1 < least < 1.25
        assert finding(0.01, 0.01 * (least - 0.001), 0.1, alpha=0.01).requests(0.5) is None
        assert finding(0.01, 0.01 * (least + 0.02), 0.1, alpha=0.01).growth > 0

    @given(weight=st.floats(0.01, 0.9), tolerance=st.floats(1, 3))
    def test_the_least_ratio_lies_between_what_is_tolerated_and_the_nearest_bet(self, weight, tolerance):
        assert tolerance < least_ratio(weight, tolerance=tolerance) < 1.25 * tolerance

    def test_what_needs_more_events_than_are_looked_ahead_is_said_not_to_be_in_sight(self):
        slow = finding(0.01, 0.0113, 0.1, alpha=0.01)
        assert slow.growth > 0 and len(slow.arrived) == passage.EVENTS_MAX + 1
        assert slow.requests(0.9) is None

    def test_a_canary_that_is_as_good_is_not_found(self):
        assert finding(0.01, 0.01, 0.1, alpha=0.01).requests(0.5) is None

    def test_where_nothing_goes_wrong_nothing_is_found_or_cleared(self):
        for nothing in (finding(0.0, 0.0, 0.1, alpha=0.01), clearing(0.0, 0.1, ratio=3, alpha=0.01)):
            assert nothing.requests(0.5) is None
            assert nothing.within(10**9) == 0

    def test_a_canary_of_which_everything_goes_wrong_is_found_at_once(self):
        assert finding(0.0, 1.0, 0.5, alpha=0.01).requests(0.5) < 30
        assert finding(1.0, 1.0, 0.5, alpha=0.01).requests(0.5) is None

    def test_a_rare_event_is_counted_exactly_far_out(self):
        rare, often = (finding(base, 10 * base, 0.1, alpha=0.01).requests(0.5) for base in (1e-7, 1e-3))
        assert rare == pytest.approx(1e4 * often, rel=0.01)
