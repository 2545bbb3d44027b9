"""Laws of rollouts: whatever is judged, and whenever, who gets traffic follows from the plan and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.change import Refused, SetRollout, SetRoute, apply, is_idle
from router.history import History
from router.intent import Intent, decide
from router.plan import (
    AbortPolicy,
    Analysis,
    InvalidPlan,
    Pause,
    Plan,
    Promote,
    SetMirror,
    SetWeight,
    parse_plan,
    plan_document,
)
from router.rollout import (
    Phase,
    Reason,
    Rollout,
    Verdict,
    Word,
    advance,
    begin,
    parse_rollout,
    restored,
    rollout_document,
)
from router.rollout_intent import (
    AbortRollout,
    Observe,
    PauseRollout,
    PromoteRollout,
    ResumeRollout,
    RetryRollout,
    StartRollout,
)
from router.table import WHOLE_BP, Route, Shadow, Share, Sticky, everything_to
from router.verb import Verb
from tests.router.routes import journalled, plans, rollouts

STABLE = "7"
HOUR_US = 3_600_000_000
befores = st.builds(
    lambda shadows, sticky: Route((Share(STABLE, WHOLE_BP),), shadows, sticky),
    st.sampled_from([(), (Shadow("8", 100),), (Shadow("9", 2000), Shadow("8", 100))]),
    st.sampled_from([None, Sticky(("id",), "exp")]),
)
verdicts = st.none() | st.builds(Verdict, st.sampled_from(Word), st.just("because"), st.just({"n": 1}))
calm = st.none() | st.builds(
    Verdict, st.sampled_from([Word.RUNNING, Word.SUCCESSFUL]), st.just("because"), st.just({"n": 1})
)
BAD = Verdict(Word.FAILED, "worse", {"e": 3})
GOOD = Verdict(Word.SUCCESSFUL, "as good", {"e": 2})


def weight(route: Route, version: str) -> int:
    return next((share.weight_bp for share in route.shares if share.version == version), 0)


def walk(rollout: Rollout, seen: list[tuple[int, Verdict | None]]) -> Iterator[tuple[Rollout, Route | None]]:
    now_us = rollout.began_us
    for passed_us, verdict in seen:
        now_us += passed_us
        move = advance(rollout, verdict, now_us)
        if move is not None:
            rollout = move.rollout
            yield rollout, move.route


@given(plans())
def test_a_plan_can_be_read_again(plan: Plan) -> None:
    assert parse_plan(json.loads(json.dumps(plan_document(plan)))) == plan


@given(rollouts)
def test_a_rollout_can_be_read_again(rollout: Rollout) -> None:
    assert parse_rollout(json.loads(json.dumps(rollout_document(rollout)))) == rollout


@given(plans(), befores, st.lists(st.tuples(st.integers(0, HOUR_US), verdicts), max_size=30))
def test_a_failed_verdict_takes_all_traffic_from_the_candidate_at_once_or_freezes_it(
    plan: Plan, before: Route, seen: list[tuple[int, Verdict | None]]
) -> None:
    rollout = begin(plan, before, 5, 1000, None)
    for after, _ in walk(rollout, seen):
        if after.watched(after.since_us):
            move = advance(after, BAD, after.since_us)
            assert move is not None
            assert move.rollout.phase is Phase.DEGRADED
            assert move.rollout.verdict == BAD.document
            if plan.abort is AbortPolicy.ROLLBACK:
                assert move.route is not None
                assert plan.candidate not in move.route.versions
                assert (move.route.whole, move.route.sticky) == (STABLE, before.sticky)
            else:
                assert move.route is None


@given(plans(), befores, st.lists(st.tuples(st.integers(0, HOUR_US), verdicts), max_size=30))
def test_what_is_over_moves_no_more(
    plan: Plan, before: Route, seen: list[tuple[int, Verdict | None]]
) -> None:
    over = False
    for after, _ in walk(begin(plan, before, 5, 1000, None), seen):
        assert not over
        over = after.phase is Phase.DEGRADED


@given(plans(), befores, st.lists(st.tuples(st.integers(0, HOUR_US), calm), max_size=40))
def test_weights_are_those_of_the_plan_in_its_order(
    plan: Plan, before: Route, seen: list[tuple[int, Verdict | None]]
) -> None:
    planned = [each for each in plan.steps if not isinstance(each, Pause | Analysis)]
    got = [route for _, route in walk(begin(plan, before, 5, 1000, None), seen) if route is not None]
    assert len(got) <= len(planned)
    for step, route in zip(planned, got, strict=False):
        copied = [each.share_bp for each in route.shadows if each.version == plan.candidate]
        match step:
            case SetWeight(weight_bp):
                assert (weight(route, plan.candidate), copied) == (weight_bp, [])
                assert route.baseline_bp == (weight_bp if plan.baseline and weight_bp < 5000 else 0)
            case SetMirror(share_bp):
                assert (weight(route, plan.candidate), copied) == (0, [share_bp] if share_bp else [])
            case Promote():
                assert route.whole == plan.candidate
        assert weight(route, STABLE) == WHOLE_BP - weight(route, plan.candidate)
        assert [each for each in before.shadows if each.version != plan.candidate] == [
            each for each in route.shadows if each.version != plan.candidate
        ]


@given(plans(), befores, st.lists(st.tuples(st.integers(0, HOUR_US), verdicts), max_size=30))
def test_an_analysis_is_left_by_success_alone(
    plan: Plan, before: Route, seen: list[tuple[int, Verdict | None]]
) -> None:
    rollout = begin(plan, before, 5, 1000, None)
    now_us = rollout.began_us
    for passed_us, verdict in seen:
        now_us += passed_us
        move = advance(rollout, verdict, now_us)
        if move is None:
            continue
        analysed = rollout.step < len(plan.steps) and isinstance(plan.steps[rollout.step], Analysis)
        if analysed and move.rollout.step > rollout.step:
            assert verdict is not None
            assert verdict.word is Word.SUCCESSFUL
        rollout = move.rollout


def started(*steps: SetWeight | SetMirror | Pause | Analysis, **rest: float) -> History:
    history = History()
    journalled(history, SetRoute(Verb.ADOPT, "digits", everything_to(STABLE)))
    plan = Plan("canary", "digits", "8", (*steps, Promote()), **rest)  # type: ignore[arg-type]
    submit(history, StartRollout(plan, 0))
    return history


def submit(history: History, intent: Intent) -> SetRollout:
    change = decide(history, intent)
    assert isinstance(change, SetRollout)
    if not is_idle(history.table, change):
        journalled(history, change)
    return change


def stands(history: History) -> tuple[Phase, Reason, int, str]:
    rollout = history.rollouts["digits"]
    return rollout.phase, rollout.reason, rollout.step, str(history.table.routes["digits"])


def test_the_story_of_a_good_candidate() -> None:
    history = started(SetMirror(WHOLE_BP), Analysis(60), SetWeight(500), Pause(10), Analysis(60), watch_s=60)
    for now_us, verdict in (
        (0, None),
        (1, GOOD),
        (2, None),
        (3, None),
        (10_000_010, None),
        (10_000_011, GOOD),
    ):
        if advance(history.rollouts["digits"], verdict, now_us) is not None:
            submit(history, Observe("digits", verdict, now_us))
    assert stands(history) == (Phase.PROGRESSING, Reason.NONE, 5, "8=5% 7=95%")
    submit(history, Observe("digits", None, 10_000_012))
    assert stands(history) == (Phase.HEALTHY, Reason.NONE, 6, "8=100%")
    assert history.last_good("digits") == STABLE
    submit(history, Observe("digits", BAD, 10_000_013))
    assert stands(history) == (Phase.DEGRADED, Reason.FAILED, 6, "7=100%")


def test_what_is_watched_no_more_is_left_alone() -> None:
    history = started(watch_s=60)
    submit(history, Observe("digits", None, 0))
    with pytest.raises(Refused, match="nothing to do"):
        submit(history, Observe("digits", BAD, 60_000_001))


def test_too_little_evidence_waits_for_a_person_and_takes_no_traffic() -> None:
    history = started(SetWeight(500), Analysis(60))
    submit(history, Observe("digits", None, 0))
    submit(history, Observe("digits", Verdict(Word.RUNNING, "12 labels", {}), 60_000_001))
    assert stands(history) == (Phase.PAUSED, Reason.INCONCLUSIVE, 1, "8=5% 7=95%")
    submit(history, Observe("digits", BAD, 60_000_002))
    assert stands(history) == (Phase.DEGRADED, Reason.FAILED, 1, "7=100%")


def test_whoever_changes_the_route_ends_the_rollout() -> None:
    history = started(SetWeight(500), Pause())
    submit(history, Observe("digits", None, 0))
    journalled(history, SetRoute(Verb.SPLIT, "digits", Route((Share("8", 100), Share("7", 9900)))))
    assert stands(history) == (Phase.DEGRADED, Reason.SUPERSEDED, 1, "8=1% 7=99%")


def test_what_changes_nothing_ends_nothing() -> None:
    history = started(SetWeight(500), Pause())
    route = history.table.routes["digits"]
    assert apply(history.table, SetRoute(Verb.SPLIT, "digits", route)).rollouts == history.rollouts


def test_people_pause_resume_promote_abort_and_retry() -> None:
    history = started(SetWeight(500), Pause(), SetWeight(2500), Analysis(60))
    submit(history, Observe("digits", None, 0))
    submit(history, Observe("digits", None, 1))
    assert stands(history) == (Phase.PAUSED, Reason.PAUSE_STEP, 1, "8=5% 7=95%")
    submit(history, ResumeRollout("digits", 2))
    submit(history, Observe("digits", None, 3))
    assert stands(history)[2:] == (3, "8=25% 7=75%")
    submit(history, PauseRollout("digits", 4))
    submit(history, PromoteRollout("digits", 5))
    assert stands(history) == (Phase.PROGRESSING, Reason.NONE, 4, "8=25% 7=75%")
    submit(history, AbortRollout("digits", 6))
    assert stands(history) == (Phase.DEGRADED, Reason.ABORTED, 4, "7=100%")
    revision = history.revision
    submit(history, AbortRollout("digits", 7))
    assert history.revision == revision
    submit(history, RetryRollout("digits", 8))
    assert stands(history)[:3] == (Phase.PROGRESSING, Reason.NONE, 0)
    assert history.rollouts["digits"].first == history.revision
    submit(history, PromoteRollout("digits", 9, full=True))
    assert stands(history) == (Phase.HEALTHY, Reason.NONE, 5, "8=100%")


def test_a_candidate_that_was_rolled_back_cools_down() -> None:
    history = started(SetWeight(500), cool_down_s=60)
    submit(history, Observe("digits", None, 0))
    submit(history, Observe("digits", BAD, 1))
    plan = history.rollouts["digits"].plan
    with pytest.raises(Refused, match=r"cools down for 5\d s more"):
        submit(history, StartRollout(plan, 2_000_000))
    submit(history, StartRollout(plan, 60_000_002))


def test_one_rollout_of_a_model_at_a_time() -> None:
    history = started(SetWeight(500))
    with pytest.raises(Refused, match="under way"):
        submit(history, StartRollout(replace(history.rollouts["digits"].plan, candidate="9"), 1))


def test_a_rollout_begins_where_one_version_has_everything() -> None:
    history = History()
    plan = Plan("canary", "digits", "8", (Promote(),))
    with pytest.raises(Refused, match="no route"):
        submit(history, StartRollout(plan, 0))
    journalled(history, SetRoute(Verb.ADOPT, "digits", Route((Share("7", 9000), Share("6", 1000)))))
    with pytest.raises(Refused, match="one version has all"):
        submit(history, StartRollout(plan, 0))


@given(befores)
def test_a_rollback_of_a_rollout_gives_the_candidate_no_copies_either(before: Route) -> None:
    rollout = begin(Plan("canary", "digits", "8", (Promote(),)), before, 1, 0, None)
    assert "8" not in restored(rollout).versions


@pytest.mark.parametrize(
    ("steps", "said"),
    [((), "1 to 100 steps"), ((SetWeight(1),), "last step"), ((Promote(), Promote()), "last step")],
)
def test_a_plan_ends_with_its_only_promotion(steps: tuple[SetWeight | Promote, ...], said: str) -> None:
    with pytest.raises(InvalidPlan, match=said):
        Plan("canary", "digits", "8", steps)


def test_an_analysis_goes_by_metrics_that_there_are() -> None:
    with pytest.raises(InvalidPlan, match="'accuracy'; metrics are wrong"):
        Plan("c", "digits", "8", (Analysis(60, ("accuracy",)), Promote()), metrics=({"name": "wrong"},))
