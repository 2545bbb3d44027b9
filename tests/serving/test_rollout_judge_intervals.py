"""Thresholds are kept or not interval by interval, and chance is no reason to go back."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.histogram import BINS, bins_ns
from router.rollout import Word
from serving.evidence.counts import Counts
from serving.ledger import Durations
from serving.rollout.facts import Extras
from serving.rollout.intervals import Outcome, outcome
from serving.rollout.metric import Kind, Metric, Threshold
from serving.rollout.recompute import recompute
from tests.judging import BEGAN_US, FAILURE, cells_of, judged, plan_of, promoted, rollout_of, written

KEEP = Threshold(low=0.99, interval_s=10, count=3, failure_limit=1, inconclusive_limit=2)
RATE = Metric("rate", Kind.SUCCESS_RATE, critical=True, threshold=KEEP)
SLOW = Metric(
    "slow", Kind.DURATION, critical=True, quantiles=(0.99,), threshold=Threshold(high=0.025, interval_s=10)
)


def looked_at(rollout, readings, every_s=10.0, extras=lambda _at: Extras()):
    """Judge at the end of each interval, with the counts of the candidate until then; return all verdicts."""
    verdicts, marks = [], {}
    for at, candidate in enumerate(readings):
        cells = cells_of((candidate, Counts(requests=9000)))
        verdict = judged(rollout, cells, replace(extras(at), marks=marks), s=at * every_s)
        assert recompute(written(verdict)).differences == ()
        marks = written(verdict)["marks"]
        verdicts.append(verdict)
    return verdicts


def words(rollout, readings, extras=lambda _at: Extras()):
    return [each.word for each in looked_at(rollout, readings, extras=extras)]


def series(counted):
    """Return sums of what is counted in each interval: requests, and how many failed."""
    sums = [Counts()]
    for requests, failed in counted:
        sums.append(sums[-1] + Counts(requests=requests, failed=failed))
    return sums


def test_a_candidate_that_keeps_its_thresholds_often_enough_is_good():
    rollout = rollout_of(plan_of(RATE))
    seen = words(rollout, series([(500, 1), (500, 2), (500, 0), (500, 0)]))
    assert seen == [Word.RUNNING] * 3 + [Word.SUCCESSFUL] * 2


def test_a_candidate_fails_when_more_intervals_are_bad_than_may_be():
    rollout = rollout_of(plan_of(RATE))
    verdicts = looked_at(rollout, series([(500, 1), (500, 60), (500, 0), (500, 60)]))
    assert [each.word for each in verdicts] == [Word.RUNNING] * 4 + [Word.FAILED]
    assert verdicts[-1].message == (
        "rate: 2 of its intervals of 10 s were beyond its thresholds, 1 may; the latest has 0.88 of 500, "
        "where 0.99 to 1 is allowed"
    )


def test_with_few_requests_it_is_inconclusive_and_not_failed():
    rollout = rollout_of(plan_of(RATE))
    seen = words(rollout, series([(20, 1)] * 4))
    assert seen == [Word.RUNNING] * 3 + [Word.INCONCLUSIVE] * 2


def test_without_any_request_there_is_no_value():
    seen = words(rollout_of(plan_of(RATE)), series([(0, 0)] * 3))
    assert seen == [Word.RUNNING] * 3 + [Word.INCONCLUSIVE]


def test_nobody_to_ask_is_an_error_when_it_lasts():
    keep = replace(KEEP, consecutive_error_limit=2)
    rollout = rollout_of(plan_of(replace(SLOW, threshold=replace(keep, low=None, high=0.025))))
    seen = words(rollout, series([(100, 0)] * 4))
    assert seen == [Word.RUNNING] * 3 + [Word.ERROR] * 2


def test_intervals_begin_anew_with_each_weight_after_a_delay_and_what_was_bad_stays():
    threshold = replace(KEEP, initial_delay_s=30)
    rollout = rollout_of(plan_of(replace(RATE, threshold=threshold)))
    verdicts = looked_at(rollout, series([(500, 100)] * 5))
    assert [each.document["marks"]["intervals"]["rate"]["number"] for each in verdicts] == [0, 0, 0, 0, 1, 2]
    bad = [each.document["found"]["metrics"][0]["tally"]["bad"] for each in verdicts]
    assert bad == [0, 0, 0, 0, 1, 2]


def test_a_duration_is_held_against_its_quantile():
    def durations(fast, slow):
        counts = np.bincount(bins_ns(np.array([5_000_000] * fast + [90_000_000] * slow)), minlength=BINS)
        return Durations(0, tuple(counts.tolist()))

    def extras(at):
        return Extras(durations=durations(1000 * at, 5 * at + 300 * max(0, at - 2)))

    verdicts = looked_at(rollout_of(plan_of(SLOW)), series([(1000, 0)] * 3), extras=extras)
    assert [each.word for each in verdicts] == [Word.RUNNING, Word.SUCCESSFUL, Word.SUCCESSFUL, Word.FAILED]


def test_thresholds_hold_after_the_promotion_too():
    rollout = promoted(rollout_of(plan_of(RATE, watch_s=3600)), BEGAN_US)

    def extras(at):
        return Extras(totals={"failure": (200 * at, 1000 * at)})

    seen = words(rollout, [Counts()] * 4, extras=extras)
    assert seen == [Word.RUNNING] * 2 + [Word.FAILED] * 2


def test_counts_that_go_back_are_an_interval_that_nobody_can_judge():
    rollout = rollout_of(plan_of(RATE))
    verdicts = looked_at(rollout, [Counts(requests=900), Counts(requests=5), Counts(requests=800)])
    tallies = [each.document["found"]["metrics"][0]["tally"] for each in verdicts]
    assert [each["missing"] for each in tallies] == [0, 1, 0]
    assert tallies[-1]["good"] == 1


@settings(max_examples=200)
@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 1000), st.floats(1e-6, 0.1))
def test_an_interval_is_bad_only_if_a_value_within_the_thresholds_hardly_gives_it(
    events, more, number, level
):
    reading = [[events, events + more]]
    if events + more and outcome(RATE, reading, number, level) is Outcome.BAD:
        assert events / (events + more) > 0.01
        assert outcome(RATE, reading, number, min(2 * level, 0.5)) is Outcome.BAD
        assert outcome(RATE, [[events, events]], number, level) is Outcome.BAD


def test_the_more_intervals_there_have_been_the_more_it_takes_to_call_one_bad():
    def came_to(number):
        return outcome(RATE, [[20, 500]], number, 0.01)

    assert [came_to(number) for number in (1, 2, 10, 1000)] == [Outcome.BAD] * 3 + [Outcome.UNSURE]


@pytest.mark.parametrize("a_interval", [20, 2000])
def test_a_candidate_on_the_edge_of_its_thresholds_is_rolled_back_with_the_promised_rate_at_most(a_interval):
    rng, rollouts, level = np.random.default_rng(6), 400, 0.05
    events = rng.binomial(a_interval, 1 - 0.99, (rollouts, 60)).tolist()
    bad = sum(
        any(
            outcome(RATE, [[each, a_interval]], at, level) is Outcome.BAD for at, each in enumerate(series, 1)
        )
        for series in events
    )
    assert bad / rollouts <= level + 3 * sqrt(level * (1 - level) / rollouts)


def test_with_thresholds_evidence_has_half_of_the_rate_of_false_rollbacks():
    def budget(metrics, watch_s=0.0):
        verdict = judged(rollout_of(plan_of(*metrics, alpha=0.01, watch_s=watch_s)), {})
        return verdict.document["found"]["budget"]

    assert budget([FAILURE]) == {"evidence": 0.01, "thresholds": 0.0, "watch": 0.0}
    assert budget([FAILURE, RATE]) == {"evidence": 0.005, "thresholds": 0.005, "watch": 0.0}
    assert budget([FAILURE, RATE], watch_s=60) == {"evidence": 0.005, "thresholds": 0.0025, "watch": 0.0025}
    assert budget([FAILURE, replace(RATE, dry_run=True)]) == {
        "evidence": 0.01,
        "thresholds": 0.0,
        "watch": 0.0,
    }
