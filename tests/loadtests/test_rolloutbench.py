"""Do simulated rollouts keep what is promised: good canaries stay, and bad ones go as soon as was meant?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from kernels.passage import finding, finding_paired
from loadtests.rolloutbench import alike, callers, measures, walks, worse
from loadtests.rolloutbench.walks import Rollout, paired

A_A = {case.name: case for case in alike.CASES}
BAD = {case.name: case for case in worse.CASES}


def median(found):
    return float(np.quantile(found, 0.5, method="higher"))


class TestGoodCanaries:
    """At most alpha of them is rolled back, and three deviations of chance: 1.67 % of 2,000."""

    @pytest.mark.parametrize(
        "name",
        [
            "errors 0.1 %",
            "errors 1 %",
            "errors 1 %, weight 1, 5, 25, 50 %",
            "shadow, 2 % and 2 % of pairs",
        ],
    )
    def test_of_2000_at_most_one_in_a_hundred_is_rolled_back(self, name):
        case = A_A[name]
        assert case.runs == 2_000 and alike.most(2_000) == pytest.approx(0.0167, abs=5e-5)
        alarms = case.rolled(np.random.default_rng(1), case.runs)
        assert np.isfinite(alarms).mean() <= alike.most(case.runs)

    @pytest.mark.parametrize(
        ("name", "runs"),
        [
            ("errors 0.1 %, and shared bursts", 300),
            ("errors 1 %, mean of 5 metrics that share half of their events", 200),
            ("latency, lognormal", 60),
            ("scores, bet that learns", 100),
            ("scores, histogram", 60),
        ],
    )
    def test_of_what_takes_longer_fewer_are_simulated(self, name, runs):
        alarms = A_A[name].rolled(np.random.default_rng(2), runs)
        assert np.isfinite(alarms).mean() <= alike.most(runs)

    def test_sticky_callers_are_no_exception_if_each_counts_once(self):
        runs = 400
        once, often = (
            callers.alarmed(
                np.random.default_rng(3), counting=counting, notorious=20, events=100, runs=runs
            ).mean()
            for counting in (callers.once, callers.each_event)
        )
        assert once <= alike.most(runs)
        assert often > 0.1

    def test_a_test_that_forgets_how_often_it_looks_rolls_back_ten_times_as_many(self):
        rollout = Rollout(0.001, 0.001)
        peeks = walks.peeking(np.random.default_rng(4), rollout, runs=2_000, horizon=100_000, every=1_000)
        assert np.isfinite(peeks).mean() > 0.05


class TestBadCanaries:
    @pytest.mark.parametrize(
        ("name", "runs"),
        [
            ("errors 0.1 to 1 %, weight 10 %", 2_000),
            ("errors 1 to 2 %, weight 10 %", 300),
            ("errors 5 to 7 %, weight 50 %", 300),
            ("shadow, 3 and 1 % of pairs", 1_000),
            ("shadow, 6 and 4 % of pairs", 500),
            ("latency x2", 500),
            ("latency x3 of 3 % of requests", 150),
            ("scores 0.80 to 0.75, bet that learns, weight 10 %", 200),
            ("scores 0.80 to 0.75, histogram, weight 10 %", 200),
            ("scores 0.80 to 0.75, bet that learns, weight 50 %", 200),
            ("scores 0.80 to 0.75, histogram, weight 50 %", 200),
        ],
    )
    def test_they_go_as_soon_as_was_meant(self, name, runs):
        case = BAD[name]
        found = case.rolled(np.random.default_rng(5), runs)
        assert (found <= case.meant.requests).mean() >= case.meant.by_then(runs)

    def test_errors_that_become_ten_times_as_many_take_6500_requests_at_most(self):
        found = walks.alarms(np.random.default_rng(6), Rollout(0.001, 0.01), runs=2_000, horizon=60_000)
        assert median(found) <= 6_500

    def test_one_metric_of_five_is_found_alone(self):
        found = walks.averaged(
            np.random.default_rng(7), 0.001, 0.01, metrics=5, alike=0.0, runs=200, horizon=60_000
        )
        alone = finding(0.001, 0.01, 0.1, alpha=walks.ALPHA / 5)
        assert median(found) <= 1.15 * alone.requests(0.5)


class TestTheSimulationItself:
    def test_walks_are_as_long_as_the_exact_distribution_says(self):
        rng = np.random.default_rng(8)
        for rollout, exact in (
            (Rollout(0.001, 0.01), finding(0.001, 0.01, 0.1, alpha=0.01)),
            (paired(0.03, 0.01), finding_paired(0.03, 0.01, alpha=0.01)),
        ):
            found = walks.alarms(rng, rollout, runs=4_000, horizon=100_000)
            for share in (0.5, 0.9):
                assert np.quantile(found, share) == pytest.approx(exact.requests(share), rel=0.06)

    def test_a_rollout_that_grows_is_one_that_has_one_weight_if_it_does_not(self):
        steps = [(0.1, 3_000), (0.1, 30_000)]
        grown = walks.stepped(np.random.default_rng(9), 0.001, 0.01, steps, runs=3_000)
        whole = walks.alarms(np.random.default_rng(9), Rollout(0.001, 0.01), runs=3_000, horizon=33_000)
        assert median(grown) == pytest.approx(median(whole), rel=0.08)

    def test_latencies_are_frozen_where_a_tenth_and_a_hundredth_is_slower(self):
        rng = np.random.default_rng(10)
        took = measures.MEDIAN_MS * np.exp(measures.SIGMA * rng.standard_normal(200_000))
        for frozen, share in zip(measures.FROZEN_MS, (0.5, 0.1, 0.01), strict=True):
            assert (took > frozen).mean() == pytest.approx(share, rel=0.1)
        assert measures.FROZEN_MS[2] == pytest.approx(10)

    def test_bursts_come_as_often_as_is_said_and_change_nothing_for_either_side(self):
        found = walks.bursts(
            np.random.default_rng(11), 0.0, begins=0.0, rows=300, share=0.5, runs=3, horizon=1_000
        )
        assert np.isinf(found).all()

    def test_a_figure_tells_what_was_meant(self):
        rows = list(worse.worse(scale=0.002, seed=1))
        assert len({row.name for row in rows}) == len(rows)
        assert "meant 4,768 and 10,044" in rows[0].note and "exactly 5,131" in rows[0].note

    @pytest.mark.parametrize("case", alike.CASES, ids=lambda case: case.name)
    def test_every_case_can_be_run(self, case):
        assert len(case.rolled(np.random.default_rng(12), 2)) == 2

    def test_what_chance_may_add_shrinks_with_the_number_of_runs(self):
        meant = worse.Meant(100, 200, 1_000)
        assert meant.by_then(100) < meant.by_then(10_000) < 0.5
        assert alike.most(100) > alike.most(10_000) > 0.01
        assert math.isclose(alike.most(10**12), 0.01, rel_tol=1e-4)
