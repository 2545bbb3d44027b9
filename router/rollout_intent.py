"""What may be asked of a rollout, by people or its pilot, and which change is that as things stand?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from router import rollout as at
from router.change import Refused, SetRollout
from router.history import History
from router.plan import Plan
from router.rollout import Move, Phase, Reason, Rollout, Verdict
from router.table import Route, known
from router.verb import Verb


@dataclass(frozen=True, slots=True)
class StartRollout:
    """Begin a rollout. `terms` are what was measured of the stable version; None if that is yet to be."""

    plan: Plan
    now_us: int
    terms: Mapping[str, Any] | None = None

    @property
    def model(self) -> str:
        """Whose rollout it is."""
        return self.plan.model


@dataclass(frozen=True, slots=True)
class PromoteRollout:
    """Leave the step that it waits in, or skip all that are left."""

    model: str
    now_us: int
    full: bool = False


@dataclass(frozen=True, slots=True)
class PauseRollout:
    """Take no further step."""

    model: str
    now_us: int


@dataclass(frozen=True, slots=True)
class ResumeRollout:
    """Go on after a pause."""

    model: str
    now_us: int


@dataclass(frozen=True, slots=True)
class AbortRollout:
    """End it and go back; does nothing where nothing is under way."""

    model: str
    now_us: int


@dataclass(frozen=True, slots=True)
class RetryRollout:
    """Begin anew what failed or was aborted, with evidence from then on."""

    model: str
    now_us: int


@dataclass(frozen=True, slots=True)
class StallRollout:
    """Wait for a person, because the step that is due cannot be taken."""

    model: str
    message: str
    now_us: int


@dataclass(frozen=True, slots=True)
class FreezeTerms:
    """Compare with these terms from now on; what was frozen before stays as it is."""

    model: str
    terms: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Observe:
    """Do what a verdict, or the time, calls for."""

    model: str
    verdict: Verdict | None
    now_us: int


RolloutIntent = (
    StartRollout
    | PromoteRollout
    | PauseRollout
    | ResumeRollout
    | AbortRollout
    | RetryRollout
    | StallRollout
    | FreezeTerms
    | Observe
)


def decide_rollout(history: History, intent: RolloutIntent) -> SetRollout:
    """Return the change that `intent` is as things stand.

    Raises
    ------
    Refused
        If it makes no sense; the message says what would.
    """
    if isinstance(intent, StartRollout):
        return _start(history, intent)
    rollout = history.rollouts.get(intent.model)
    if rollout is None:
        raise Refused(f"{intent.model!r} has no rollout; begin one: turnout rollout start FILE")
    match intent:
        case RetryRollout(now_us=now_us):
            return _retry(history, rollout, now_us)
        case FreezeTerms(terms=terms):
            frozen = {name: value for name, value in (rollout.terms or {}).items() if value is not None}
            return SetRollout(Verb.ROLLOUT, intent.model, replace(rollout, terms={**terms, **frozen}))
        case AbortRollout(now_us=now_us):
            over = not (rollout.under_way or rollout.frozen)
            move = Move(rollout, None, Verb.ROLLOUT, "") if over else at.abort(rollout, now_us)
        case Observe(verdict=verdict, now_us=now_us):
            observed = at.advance(rollout, verdict, now_us)
            if observed is None:
                raise Refused(f"there is nothing to do for {rollout}")
            move = observed
        case PromoteRollout(now_us=now_us, full=full):
            _check(rollout, under_way=rollout.under_way or (rollout.frozen and full), verb="promote")
            move = at.promote(rollout, now_us, full=full)
        case PauseRollout(now_us=now_us):
            _check(rollout, under_way=rollout.phase is Phase.PROGRESSING, verb="pause")
            move = at.pause(rollout, now_us)
        case StallRollout(message=message, now_us=now_us):
            _check(rollout, under_way=rollout.phase is Phase.PROGRESSING, verb="stall")
            move = at.stall(rollout, message, now_us)
        case ResumeRollout(now_us=now_us):
            _check(rollout, under_way=rollout.phase is Phase.PAUSED, verb="resume")
            move = at.resume(rollout, now_us)
    same = move.route == history.table.routes.get(intent.model)
    return SetRollout(move.verb, intent.model, move.rollout, None if same else move.route)


def _start(history: History, intent: StartRollout) -> SetRollout:
    plan = intent.plan
    last = history.rollouts.get(plan.model)
    if last is not None and (last.under_way or last.frozen):
        raise Refused(f"{last} is under way; first: turnout rollout abort {plan.model}")
    if last is not None and last.plan.candidate == plan.candidate and last.reason is Reason.FAILED:
        left_s = last.plan.cool_down_s - (intent.now_us - last.since_us) / 1e6
        if left_s > 0:
            raise Refused(
                f"{plan.model}@{plan.candidate} was rolled back, and cools down for {left_s:.0f} s more "
                f"({last.message}); if it is meant nevertheless: turnout rollout retry {plan.model}"
            )
    before = _whole(history, plan.model)
    if before.whole == plan.candidate:
        raise Refused(f"{plan.model}@{plan.candidate} has all of the traffic already")
    began = at.begin(plan, before, history.revision + 1, intent.now_us, intent.terms)
    return SetRollout(Verb.ROLLOUT, plan.model, began)


def _retry(history: History, rollout: Rollout, now_us: int) -> SetRollout:
    _check(rollout, under_way=rollout.phase is Phase.DEGRADED, verb="retry")
    before = _whole(history, rollout.plan.model)
    if before.whole == rollout.plan.candidate:
        raise Refused(f"{rollout.plan.model}@{rollout.plan.candidate} has all of the traffic already")
    began = at.begin(rollout.plan, before, history.revision + 1, now_us, None)
    return SetRollout(Verb.ROLLOUT, rollout.plan.model, began)


def _whole(history: History, model: str) -> Route:
    route = history.table.routes.get(model)
    if route is None:
        raise Refused(f"no route for {model!r}; {known('models', sorted(history.table.routes))}")
    if route.pinned:
        raise Refused(f"{model!r} is pinned to version {route.pinned}; first: turnout unpin {model}")
    if not route.whole:
        raise Refused(
            f"a rollout begins where one version has all of the traffic, and {model!r} has {route}; "
            f"first: turnout rollback {model}"
        )
    return route


def _check(rollout: Rollout, *, under_way: bool, verb: str) -> None:
    if not under_way:
        raise Refused(f"{rollout}: there is nothing to {verb}")
