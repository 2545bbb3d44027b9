"""A verdict follows from counts alone, and is no more certain than they are."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.plan import Analysis
from router.rollout import Word
from serving.evidence.counts import Counts
from serving.rollout.facts import Extras
from serving.rollout.judge import TERMS_S_MAX, e_of
from serving.rollout.metric import Kind, Metric, Threshold
from serving.rollout.recompute import InvalidVerdict, recompute
from tests.judging import (
    BEGAN_US,
    DISAGREEMENT,
    FAILURE,
    FIRST,
    LATENCY,
    POSITIVE,
    WRONG,
    cells_of,
    found,
    judged,
    plan_of,
    promoted,
    rollout_of,
    written,
)

RATE = Metric("rate", Kind.SUCCESS_RATE, critical=True, threshold=Threshold(low=0.99, interval_s=10))
PAIRED = Metric("paired", Kind.PAIRED_WRONG)
DRIFT = Metric("drift", Kind.DRIFT)
ALL = (FAILURE, WRONG, POSITIVE, LATENCY, DISAGREEMENT, RATE, PAIRED, DRIFT)


@st.composite
def counts(draw, most=3000):
    requests = draw(st.integers(0, most))

    def some(of):
        return draw(st.integers(0, of))

    labelled = some(requests)
    wrong = some(labelled)
    timed = some(requests)
    late = sorted((some(timed), some(timed), some(timed)), reverse=True)
    positive = some(wrong)
    return Counts(
        requests=requests,
        failed=some(requests),
        timed=timed,
        late=tuple(late),
        labelled=labelled,
        wrong=wrong,
        fp={"one": positive} if positive else {},
    )


arms = st.tuples(counts(), counts(), counts())
weights = st.lists(st.integers(1, 4999), min_size=1, max_size=3, unique=True)


@st.composite
def situations(draw):
    """Return a rollout that is under way or promoted, evidence, and what else is known."""
    weights_bp = draw(weights)
    chosen = draw(st.lists(st.sampled_from(ALL), min_size=1, max_size=len(ALL), unique=True))
    plan = plan_of(
        *(replace(each, dry_run=draw(st.booleans())) for each in chosen),
        weights_bp=sorted(weights_bp),
        mirror_bp=draw(st.sampled_from([0, 5000])),
        watch_s=draw(st.sampled_from([0, 3600])),
        baseline=draw(st.booleans()),
    )
    rollout = rollout_of(plan, draw(st.sampled_from([None, {"late_ns": [1, 2, 3], "confidence": 0.5}])))
    cells = cells_of(*(draw(arms) for _ in weights_bp))
    low, high = sorted((draw(st.integers(0, 500)), draw(st.integers(0, 500))))
    extras = Extras(
        heard_us=draw(st.sampled_from([None, BEGAN_US, BEGAN_US + 60_000_000])),
        pairs={"disagreement": (low, high), "paired-wrong": (high, low)},
        drift={"candidate": {"word": draw(st.sampled_from(["drift", "no drift", "no rows"]))}},
        totals={"failure": (low, high), "wrong": (low, high)},
    )
    if draw(st.booleans()):
        extras = replace(extras, marks=judged(rollout, cells, extras, s=20).document["marks"])
    if draw(st.booleans()):
        rollout = promoted(rollout, BEGAN_US + 30_000_000)
    return rollout, cells, extras


@settings(deadline=None, max_examples=60)
@given(situations())
def test_a_verdict_can_be_judged_again_from_its_document_alone(situation):
    verdict = judged(*situation)
    again = recompute(written(verdict))
    assert again.differences == ()
    assert (again.word, again.message) == (verdict.word, verdict.message)
    assert again.log10_e == e_of(verdict.document)


@settings(deadline=None, max_examples=60)
@given(situations(), counts())
def test_what_is_judged_for_practice_changes_neither_word_nor_message(situation, others):
    rollout, cells, extras = situation
    practice = [
        replace(each, name=f"dry-{each.name}", dry_run=True).document()
        for each in (*ALL, replace(RATE, threshold=Threshold(low=1.0, interval_s=1)))
    ]
    practice[-1]["name"] = "dry-strict"
    plan = rollout.plan
    more = replace(rollout, plan=replace(plan, metrics=(*plan.metrics, *practice)))
    one, other = judged(rollout, cells, extras), judged(more, cells, extras)
    assert (one.word, one.message) == (other.word, other.message)
    assert one.document["found"]["e_log10"] == other.document["found"]["e_log10"]


@settings(deadline=None, max_examples=60)
@given(arms, st.integers(1, 4999), st.integers(1, 100))
def test_more_bad_events_of_the_candidate_are_never_less_evidence_against_it(counted, weight_bp, more):
    candidate, *beside = counted
    metrics = (FAILURE, WRONG, POSITIVE, LATENCY)
    rollout = rollout_of(plan_of(*metrics, weights_bp=[weight_bp], baseline=True))
    worse = replace(
        candidate,
        failed=candidate.failed + more,
        wrong=candidate.wrong + more,
        late=tuple(each + more for each in candidate.late),
        fp={"one": candidate.fp.get("one", 0) + more},
    )
    before = e_of(judged(rollout, cells_of((candidate, *beside))).document)
    after = e_of(judged(rollout, cells_of((worse, *beside))).document)
    assert all(after[name] >= before[name] for name in before)


def tail(at_least: int, of: int, share: float) -> float:
    """Return how probable so many or more of `of` events are, if each has this probability."""
    return math.fsum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(at_least, of + 1))


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 9999))
def test_with_twenty_requests_it_fails_only_by_what_chance_hardly_does(mine, theirs, weight_bp):
    rollout = rollout_of(plan_of(FAILURE, weights_bp=[weight_bp]))
    cells = cells_of((Counts(requests=20, failed=mine), Counts(requests=20, failed=theirs)))
    if judged(rollout, cells).word is Word.FAILED:
        assert tail(mine, mine + theirs, weight_bp / 10_000) <= rollout.plan.alpha


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_labels_that_are_missing_at_the_candidate_never_speak_for_it(labelled, missing):
    rollout = rollout_of(plan_of(WRONG))
    stable = Counts(requests=9000, labelled=9000, wrong=450)

    def within(labels):
        candidate = Counts(requests=2000, labelled=labels, wrong=0)
        return found(judged(rollout, cells_of((candidate, stable))), "wrong")["within_log10"]

    assert within(labelled) <= within(labelled + missing)
    assert within(0) == 0


def test_a_candidate_whose_labels_lack_is_not_promoted():
    rollout = rollout_of(plan_of(WRONG))
    stable = Counts(requests=9000, labelled=4500, wrong=225)
    whole = judged(rollout, cells_of((Counts(requests=1000, labelled=500, wrong=25), stable)))
    assert whole.word is Word.SUCCESSFUL
    lacking = judged(rollout, cells_of((Counts(requests=1000, labelled=300, wrong=3), stable)))
    assert lacking.word is Word.RUNNING
    assert "300 of 1,000 of version 9's answers and for 4,500 of 9,000 of 7's" in lacking.message


def test_labels_that_come_more_often_for_the_candidate_are_no_evidence_against_it():
    rollout = rollout_of(plan_of(WRONG))
    stable = Counts(requests=9000, labelled=3000, wrong=300)
    verdict = judged(rollout, cells_of((Counts(requests=1000, labelled=1000, wrong=100), stable)))
    assert verdict.word is Word.RUNNING
    assert "labels came for" in verdict.message
    assert found(verdict, "wrong")["e_log10"] < 0


def test_requests_that_never_reached_the_candidate_do_not_speak_for_it():
    rollout = rollout_of(plan_of(FAILURE))
    verdict = judged(rollout, cells_of((Counts(), Counts(requests=100_000, failed=1000))))
    assert verdict.word is Word.RUNNING
    assert found(verdict, "failure")["within_log10"] == 0


def test_a_failure_says_by_what_in_counts():
    rollout = rollout_of(plan_of(POSITIVE, weights_bp=[500]))
    candidate = Counts(requests=1300, labelled=1204, wrong=40, fp={"one": 38})
    stable = Counts(requests=22_000, labelled=20_113, wrong=90, fp={"one": 4})
    verdict = judged(rollout, cells_of((candidate, stable)))
    assert verdict.word is Word.FAILED
    words, _, bound = verdict.message.rpartition(" >= ")
    assert words.startswith(
        "false positives of `one`: 38 of 1,204 labelled at version 9, 4 of 20,113 at 7; e = "
    )
    assert bound == "100"
    drift = {"candidate": {"word": "drift"}, "stable": {"word": "drift"}}
    both = judged(rollout, cells_of((candidate, stable)), Extras(drift=drift)).message
    assert both.endswith(" >= 100; version 9 and version 7 drift from what is on profile")


def test_several_metrics_share_one_rate_of_false_rollbacks():
    def failed(others):
        quiet = [replace(WRONG, name=f"wrong-{n}") for n in range(others)]
        rollout = rollout_of(plan_of(FAILURE, *quiet))
        return judged(rollout, cells_of((Counts(requests=100, failed=8), Counts(requests=900, failed=12))))

    alone = failed(0)
    assert alone.word is Word.FAILED
    assert 10 ** alone.document["found"]["e_log10"] == pytest.approx(136.62558496774594)
    beside = failed(2)
    assert beside.word is Word.RUNNING
    assert 10 ** beside.document["found"]["e_log10"] == pytest.approx((136.62558496774594 + 2) / 3)


def test_a_metric_that_weighs_more_needs_less_of_the_others():
    heavy = replace(FAILURE, weight=8.0)
    rollout = rollout_of(plan_of(heavy, WRONG))
    verdict = judged(rollout, cells_of((Counts(requests=100, failed=8), Counts(requests=900, failed=12))))
    assert 10 ** verdict.document["found"]["e_log10"] == pytest.approx((8 * 136.62558496774594 + 1) / 9)


def test_evidence_of_all_weights_counts_together():
    rollout = rollout_of(plan_of(FAILURE, weights_bp=[1000, 2000]))
    epochs = [(Counts(requests=50, failed=5), Counts(requests=450, failed=6))] * 2
    one = judged(rollout, cells_of(epochs[0]))
    two = judged(rollout, cells_of(*epochs))
    assert one.word is Word.RUNNING
    assert two.word is Word.FAILED
    assert two.document["epochs"] == [[FIRST, 1000, 9000, 0], [FIRST + 1, 2000, 8000, 0]]


def test_latency_is_compared_with_the_arm_of_equal_weight():
    rollout = rollout_of(plan_of(LATENCY, weights_bp=[1000], baseline=True))
    candidate = Counts(requests=500, timed=500, late=(250, 50, 5))
    large_batches = Counts(requests=4000, timed=4000, late=(400, 40, 4))
    verdict = judged(rollout, cells_of((candidate, large_batches, candidate)))
    assert verdict.word is not Word.FAILED
    rows = verdict.document["metrics"][0]["events"]["latency-p50"]["rows"]
    assert rows == [[FIRST, 0.5, 250, 250, 500, 500]]


def test_what_is_tolerated_is_no_evidence_against_a_candidate():
    def word(tolerance):
        rollout = rollout_of(plan_of(replace(FAILURE, tolerance=tolerance, rule_out=4.0)))
        half_more = Counts(requests=10_000, failed=1500), Counts(requests=90_000, failed=9000)
        return judged(rollout, cells_of(half_more)).word

    assert word(1.0) is Word.FAILED
    assert word(1.5) is word(2.0) is Word.SUCCESSFUL


def test_a_latency_speaks_for_a_candidate_only_at_every_quantile():
    rollout = rollout_of(plan_of(LATENCY, weights_bp=[1000], baseline=True))

    def word(requests):
        one = Counts(requests=requests, timed=requests, late=(requests // 2, requests // 10, requests // 100))
        return judged(rollout, cells_of((one, one, one))).word

    assert word(1000) is Word.RUNNING
    assert word(10_000) is Word.SUCCESSFUL


def test_a_metric_speaks_for_a_candidate_whose_rate_is_acceptable():
    without = rollout_of(plan_of(FAILURE))
    cells = cells_of((Counts(requests=1000), Counts(requests=9000)))
    assert judged(without, cells).word is Word.RUNNING
    acceptable = rollout_of(plan_of(replace(FAILURE, acceptable=0.01)))
    verdict = judged(acceptable, cells)
    assert verdict.word is Word.SUCCESSFUL
    assert verdict.message == (
        "version 9 is good enough: failures: 0 of 1,000 at version 9, 0 of 9,000 at 7, so less than 1%"
    )


def test_an_analysis_goes_by_what_it_names():
    rollout = rollout_of(plan_of(replace(FAILURE, acceptable=0.01), WRONG))
    cells = cells_of((Counts(requests=1000), Counts(requests=9000)))
    assert judged(rollout, cells).word is Word.RUNNING
    weight, _, promote = rollout.plan.steps
    named = replace(rollout.plan, steps=(weight, Analysis(600, ("failure",)), promote))
    assert judged(replace(rollout, plan=named), cells).word is Word.SUCCESSFUL


def test_without_anything_critical_nothing_is_promoted():
    rollout = rollout_of(plan_of(replace(FAILURE, critical=False, acceptable=0.01)))
    verdict = judged(rollout, cells_of((Counts(requests=10_000), Counts(requests=90_000))))
    assert verdict.word is Word.RUNNING


def test_of_shadows_pairs_are_judged_before_there_is_any_weight():
    plan = plan_of(DISAGREEMENT, replace(PAIRED, critical=True), FAILURE, weights_bp=[], mirror_bp=10_000)
    rollout = rollout_of(plan)

    def word(disagreement, paired):
        marks = judged(rollout, {}).document["marks"]
        extras = Extras(pairs={"disagreement": disagreement, "paired-wrong": paired}, marks=marks)
        return judged(rollout, {}, extras).word

    assert word((0, 0), (0, 0)) is Word.RUNNING
    assert word((3, 1000), (100, 100)) is Word.SUCCESSFUL
    assert word((3, 1000), (100, 30)) is Word.FAILED
    assert word((90, 1000), (10, 10)) is Word.FAILED


def test_pairs_from_before_a_rollout_are_no_part_of_it():
    rollout = rollout_of(plan_of(DISAGREEMENT, weights_bp=[], mirror_bp=10_000))

    def seen(pairs, marks):
        return judged(rollout, {}, Extras(pairs={"disagreement": pairs}, marks=marks)).document

    first = seen((90, 1000), {})
    assert first["metrics"][0]["pairs"] == [0, 0]
    second = seen((91, 1500), first["marks"])
    assert second["metrics"][0]["pairs"] == [1, 500]
    assert seen((2, 300), second["marks"])["metrics"][0]["pairs"] == [2, 300]
    assert seen((91, 1500), {**first["marks"], "first": FIRST - 1})["metrics"][0]["pairs"] == [0, 0]


def test_nobody_being_there_to_count_is_an_error():
    rollout = rollout_of(plan_of(FAILURE))
    cells = cells_of((Counts(requests=100), Counts(requests=900)))
    assert judged(rollout, cells, Extras(heard_us=BEGAN_US), s=20).word is Word.RUNNING
    verdict = judged(rollout, cells, Extras(heard_us=BEGAN_US), s=60)
    assert verdict.word is Word.ERROR
    assert verdict.message == "no replica has been there for 60 s to tell what it counts"


def test_what_cannot_be_measured_is_an_error_in_the_end():
    rollout = rollout_of(plan_of(LATENCY), terms=None)
    assert judged(rollout, {}, s=TERMS_S_MAX).word is Word.RUNNING
    assert judged(rollout, {}, s=TERMS_S_MAX + 1).word is Word.ERROR
    assert judged(rollout_of(plan_of(LATENCY)), {}, s=TERMS_S_MAX + 1).word is Word.RUNNING


def test_drift_fails_a_candidate_only_if_that_is_said_and_the_stable_version_has_none():
    drift = {"candidate": {"word": "drift", "evidence": 9.5}, "stable": {"word": "no drift"}}
    cells = cells_of((Counts(requests=100), Counts(requests=900)))

    def verdict(metrics, stable="no drift"):
        extras = Extras(drift={**drift, "stable": {"word": stable}})
        return judged(rollout_of(plan_of(*metrics)), cells, extras)

    assert verdict([FAILURE]).word is Word.RUNNING
    assert verdict([FAILURE]).document["drift"] == drift
    assert verdict([FAILURE, DRIFT]).word is Word.FAILED
    assert verdict([FAILURE, DRIFT], stable="drift").word is Word.RUNNING
    assert verdict([FAILURE, replace(DRIFT, dry_run=True)]).word is Word.RUNNING


def test_after_its_promotion_a_candidate_is_held_against_what_the_stable_version_was():
    rollout = rollout_of(plan_of(FAILURE, watch_s=3600))
    cells = cells_of((Counts(requests=5000, failed=5), Counts(requests=45_000, failed=45)))
    healthy = promoted(rollout, BEGAN_US + 60_000_000)
    first = judged(healthy, cells, Extras(totals={"failure": (5, 5000)}))
    assert first.word is Word.RUNNING
    marks = first.document["marks"]
    same = judged(healthy, cells, Extras(totals={"failure": (12, 12_000)}, marks=marks), s=120)
    assert same.word is Word.RUNNING
    worse = judged(healthy, cells, Extras(totals={"failure": (105, 12_000)}, marks=marks), s=120)
    assert worse.word is Word.FAILED
    assert worse.message.startswith(
        "failures since the promotion: 100 of 7,000 at version 9, where 7 had 45 of 45,000 before; e = "
    )


def test_counts_that_go_back_after_the_promotion_begin_anew():
    rollout = promoted(rollout_of(plan_of(FAILURE, watch_s=3600)), BEGAN_US)
    cells = cells_of((Counts(requests=100), Counts(requests=45_000, failed=45)))
    marks = judged(rollout, cells, Extras(totals={"failure": (500, 5000)})).document["marks"]
    verdict = judged(rollout, cells, Extras(totals={"failure": (90, 300)}, marks=marks))
    assert verdict.document["metrics"][0]["events"]["failure"]["after"]["candidate"] == [0, 0]


def test_labels_that_come_after_the_promotion_still_count_for_those_they_are_of():
    rollout = promoted(rollout_of(plan_of(WRONG, watch_s=3600)), BEGAN_US)
    candidate = Counts(requests=1000, labelled=800, wrong=120)
    stable = Counts(requests=9000, labelled=7200, wrong=360)
    assert judged(rollout, cells_of((candidate, stable))).word is Word.FAILED


def test_a_document_that_was_changed_is_found_out():
    rollout = rollout_of(plan_of(FAILURE))
    document = written(
        judged(rollout, cells_of((Counts(requests=100, failed=8), Counts(requests=900, failed=12))))
    )
    document["metrics"][0]["events"]["failure"]["rows"][0][2] = 2
    again = recompute(document)
    assert again.word is Word.RUNNING
    assert any(each.startswith("word: the document says 'Failed'") for each in again.differences)


@pytest.mark.parametrize("document", [{}, {"format": 2}, {"format": 1}, {"format": 1, "metrics": [{}]}])
def test_what_is_no_verdict_is_refused(document):
    with pytest.raises(InvalidVerdict):
        recompute(document)


def test_a_verdict_takes_milliseconds_and_some_kilobytes():
    metrics = [replace(FAILURE, name=f"failure-{n}") for n in range(4)]
    metrics += [replace(WRONG, name=f"wrong-{n}") for n in range(3)]
    metrics += [replace(POSITIVE, name=f"positive-{n}") for n in range(2)]
    weights_bp = [100 + 100 * n for n in range(20)]
    rollout = rollout_of(plan_of(*metrics, LATENCY, weights_bp=weights_bp, baseline=True))
    one = Counts(
        *(10_000, 10, 1), timed=10_000, late=(5000, 1000, 100), labelled=5000, wrong=250, fp={"one": 90}
    )
    cells = cells_of(*[(one, one + one, one)] * 20)
    assert len(json.dumps(judged(rollout, cells).document)) < 24_000
    spent_s = []
    for _ in range(10):
        begin_s = time.process_time()
        judged(rollout, cells)
        spent_s.append(time.process_time() - begin_s)
    assert min(spent_s) < 0.010, "4 ms on the machine that this was written on"
