"""How far is a rollout, and what does it do next? A pure function of its state, a verdict and the time.

The words are Argo's: a rollout is Progressing, Paused, Healthy or Degraded; an analysis is Running,
Successful, Failed, Inconclusive or in Error. Only Failed, which is evidence against the candidate, takes
traffic from it: too little evidence, or a judge that cannot judge, waits for a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from router.names import check_version
from router.plan import (
    AbortPolicy,
    Analysis,
    Pause,
    Plan,
    Promote,
    SetMirror,
    SetWeight,
    parse_plan,
    plan_document,
)
from router.table import WHOLE_BP, Route, Shadow, Share
from router.table_document import parse_route, route_document
from router.verb import Verb


class Phase(StrEnum):
    """How a rollout stands."""

    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    HEALTHY = "Healthy"
    """The candidate has all of the traffic."""
    DEGRADED = "Degraded"
    """It is over, and the candidate was not promoted, or no more is."""


class Reason(StrEnum):
    """Why it stands so, where the phase alone does not say it."""

    NONE = ""
    PAUSE_STEP = "PauseStep"
    """A step says that a person is to look."""
    BY_REQUEST = "PausedByRequest"
    INCONCLUSIVE = "InconclusiveAnalysis"
    """There was too little evidence, for the candidate as against it, within the time for it."""
    ERROR = "AnalysisError"
    """It could not be judged."""
    FAILED = "AnalysisFailed"
    """There is evidence that the candidate is worse; traffic is back where it was."""
    FROZEN = "Frozen"
    """The same, and traffic stays as it is until a person decides."""
    ABORTED = "RolloutAborted"
    """By a person."""
    SUPERSEDED = "Superseded"
    """Somebody changed the model's route meanwhile; that is in force."""


class Word(StrEnum):
    """What an analysis comes to."""

    RUNNING = "Running"
    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a candidate at a moment. `document` holds every number that led to it."""

    word: Word
    message: str
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout as of one revision.

    Attributes
    ----------
    first : int
        The revision that began it, or began it anew; evidence of epochs from there on counts.
    stable : str
        The version that had all of the traffic.
    before : Route
        The route that a rollback restores.
    step : int
        The index of the step that is under way, of ``len(plan.steps)`` when all are done.
    since_us, began_us : int
        When this step and the whole began, in microseconds of Unix time.
    terms : mapping
        What was measured of the stable version before it is compared, and frozen: plain values.
    verdict : mapping or None
        That of the last move, with all its counts: plain values.
    """

    plan: Plan
    first: int
    stable: str
    before: Route
    phase: Phase
    step: int
    since_us: int
    began_us: int
    reason: Reason = Reason.NONE
    message: str = ""
    terms: Mapping[str, Any] | None = None
    verdict: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_version(self.stable)

    @property
    def under_way(self) -> bool:
        """Whether steps are still to be taken."""
        return self.phase in (Phase.PROGRESSING, Phase.PAUSED)

    @property
    def frozen(self) -> bool:
        """Whether it left traffic as it was for a person to decide."""
        return self.reason is Reason.FROZEN

    def watched(self, now_us: int) -> bool:
        """Say whether the candidate is judged: under way, or promoted not long ago."""
        lately = now_us - self.since_us < self.plan.watch_s * 1e6
        return self.under_way or (self.phase is Phase.HEALTHY and lately)

    @property
    def words(self) -> str:
        """The step that is under way, for people."""
        steps = self.plan.steps
        return (
            f"step {self.step + 1} of {len(steps)}: {steps[self.step]}" if self.step < len(steps) else "done"
        )

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.plan.name} of {self.plan.model}@{self.plan.candidate}: {self.phase}{why}, {self.words}"


@dataclass(frozen=True, slots=True)
class Move:
    """What comes next: the rollout afterwards, the route that goes with it if another one does, and why."""

    rollout: Rollout
    route: Route | None
    verb: Verb
    why: str


def begin(plan: Plan, before: Route, first: int, now_us: int, terms: Mapping[str, Any] | None) -> Rollout:
    """Return a rollout of which nothing has happened yet."""
    return Rollout(plan, first, before.whole, before, Phase.PROGRESSING, 0, now_us, now_us, terms=terms)


def advance(rollout: Rollout, verdict: Verdict | None, now_us: int) -> Move | None:
    """Return what is to be done now, one thing at a time; None is to wait.

    Parameters
    ----------
    verdict : Verdict, optional
        What is known of the candidate now; None if nobody has judged.
    now_us : int
        The time, in microseconds of Unix time.
    """
    if not rollout.watched(now_us):
        return None
    if verdict is not None and verdict.word is Word.FAILED:
        return _fail(rollout, verdict, now_us)
    if rollout.phase is not Phase.PROGRESSING:
        return None
    step = rollout.plan.steps[rollout.step]
    match step:
        case SetWeight() | SetMirror() | Promote():
            return take(rollout, now_us, verdict)
        case Pause(None):
            return _pause(rollout, Reason.PAUSE_STEP, "a person is to look", now_us, verdict)
        case Pause(s):
            assert s is not None
            if now_us - rollout.since_us < s * 1e6:
                return None
            return _next(rollout, f"paused for {s:g} s", now_us, verdict)
        case Analysis(s_max):
            return _judged(rollout, s_max, verdict, now_us)


def _judged(rollout: Rollout, s_max: float, verdict: Verdict | None, now_us: int) -> Move | None:
    over = now_us - rollout.since_us >= s_max * 1e6
    if verdict is None:
        return _pause(rollout, Reason.ERROR, "nobody judged", now_us, None) if over else None
    match verdict.word:
        case Word.SUCCESSFUL:
            return _next(rollout, verdict.message, now_us, verdict)
        case Word.ERROR:
            return _pause(rollout, Reason.ERROR, verdict.message, now_us, verdict)
        case Word.INCONCLUSIVE:
            return _pause(rollout, Reason.INCONCLUSIVE, verdict.message, now_us, verdict)
        case _ if over:
            return _pause(rollout, Reason.INCONCLUSIVE, verdict.message, now_us, verdict)
        case _:
            return None


def take(rollout: Rollout, now_us: int, verdict: Verdict | None = None) -> Move:
    """Take the step that is due: a weight, a mirror, or the promotion."""
    step = rollout.plan.steps[rollout.step]
    done = _moved(rollout, now_us, verdict)
    match step:
        case SetWeight(weight_bp):
            return Move(done, weighted(rollout, weight_bp), Verb.SPLIT, str(step))
        case SetMirror(share_bp):
            return Move(done, mirrored(rollout, share_bp), Verb.SHADOW, str(step))
        case _:
            return _promote(rollout, now_us, verdict)


def _promote(rollout: Rollout, now_us: int, verdict: Verdict | None) -> Move:
    done = replace(
        _moved(rollout, now_us, verdict),
        step=len(rollout.plan.steps),
        phase=Phase.HEALTHY,
        reason=Reason.NONE,
    )
    return Move(done, weighted(rollout, WHOLE_BP), Verb.PROMOTE, f"promote {rollout.plan.candidate}")


def _next(rollout: Rollout, why: str, now_us: int, verdict: Verdict | None) -> Move:
    return Move(_moved(rollout, now_us, verdict, why), None, Verb.ROLLOUT, why)


def _moved(rollout: Rollout, now_us: int, verdict: Verdict | None, message: str = "") -> Rollout:
    return replace(
        rollout,
        phase=Phase.PROGRESSING,
        reason=Reason.NONE,
        message=message,
        step=rollout.step + 1,
        since_us=now_us,
        verdict=_kept(rollout, verdict),
    )


def _pause(rollout: Rollout, reason: Reason, message: str, now_us: int, verdict: Verdict | None) -> Move:
    paused = replace(
        rollout,
        phase=Phase.PAUSED,
        reason=reason,
        message=message,
        since_us=now_us,
        verdict=_kept(rollout, verdict),
    )
    return Move(paused, None, Verb.ROLLOUT, f"{reason}: {message}")


def _fail(rollout: Rollout, verdict: Verdict, now_us: int) -> Move:
    rolled_back = rollout.plan.abort is AbortPolicy.ROLLBACK
    failed = replace(
        rollout,
        phase=Phase.DEGRADED,
        reason=Reason.FAILED if rolled_back else Reason.FROZEN,
        message=verdict.message,
        since_us=now_us,
        verdict=verdict.document,
    )
    if rolled_back:
        return Move(failed, restored(rollout), Verb.ROLLBACK, verdict.message)
    return Move(failed, None, Verb.ROLLOUT, verdict.message)


def _kept(rollout: Rollout, verdict: Verdict | None) -> Mapping[str, Any] | None:
    return verdict.document if verdict is not None else rollout.verdict


def weighted(rollout: Rollout, weight_bp: int) -> Route:
    """Return the route that gives the candidate a weight and the stable version the rest."""
    candidate, before = rollout.plan.candidate, rollout.before
    shares = [Share(candidate, weight_bp)]
    if weight_bp < WHOLE_BP:
        shares.append(Share(rollout.stable, WHOLE_BP - weight_bp))
    shadows = tuple(each for each in before.shadows if each.version != candidate)
    return Route(tuple(shares), shadows, before.sticky, baseline_bp=rollout.plan.baseline_bp(weight_bp))


def mirrored(rollout: Rollout, share_bp: int) -> Route:
    """Return the route by which the candidate only gets copies; the stable version answers."""
    route = restored(rollout)
    return (
        replace(route, shadows=(*route.shadows, Shadow(rollout.plan.candidate, share_bp)))
        if share_bp
        else route
    )


def restored(rollout: Rollout) -> Route:
    """Return the route from before, in which the candidate has no place."""
    before = rollout.before
    return replace(
        before, shadows=tuple(each for each in before.shadows if each.version != rollout.plan.candidate)
    )


def pause(rollout: Rollout, now_us: int) -> Move:
    """Take no further step until a person says so; what is bad is still found."""
    return _pause(rollout, Reason.BY_REQUEST, "by request", now_us, None)


def stall(rollout: Rollout, message: str, now_us: int) -> Move:
    """Wait for a person, because what is due cannot be done."""
    return _pause(rollout, Reason.ERROR, message, now_us, None)


def resume(rollout: Rollout, now_us: int) -> Move:
    """Go on where it was paused: a pause or an analysis that it waited in begins anew."""
    step = rollout.plan.steps[rollout.step]
    going = replace(rollout, phase=Phase.PROGRESSING, reason=Reason.NONE, message="", since_us=now_us)
    if isinstance(step, Pause) and step.s is None and rollout.reason is Reason.PAUSE_STEP:
        going = replace(going, step=rollout.step + 1)
    return Move(going, None, Verb.ROLLOUT, "resume")


def promote(rollout: Rollout, now_us: int, *, full: bool) -> Move:
    """Leave the pause or the analysis that is under way for the next step; or take the last step at once."""
    if full:
        return _promote(rollout, now_us, None)
    if isinstance(rollout.plan.steps[rollout.step], Pause | Analysis):
        return _next(rollout, "promote", now_us, None)
    return take(rollout, now_us)


def abort(rollout: Rollout, now_us: int) -> Move:
    """End it, and go back to the route from before."""
    aborted = replace(
        rollout, phase=Phase.DEGRADED, reason=Reason.ABORTED, message="by request", since_us=now_us
    )
    return Move(aborted, restored(rollout), Verb.ROLLBACK, "abort")


def superseded(rollout: Rollout) -> Rollout:
    """Return it as it stands once somebody else has changed the route of its model."""
    return replace(rollout, phase=Phase.DEGRADED, reason=Reason.SUPERSEDED, message="the route was changed")


def rollout_document(rollout: Rollout) -> dict[str, Any]:
    """Return a rollout as plain values."""
    return {
        "plan": plan_document(rollout.plan),
        "first": rollout.first,
        "stable": rollout.stable,
        "before": route_document(rollout.before),
        "phase": str(rollout.phase),
        "step": rollout.step,
        "since_us": rollout.since_us,
        "began_us": rollout.began_us,
        "reason": str(rollout.reason),
        "message": rollout.message,
        "terms": None if rollout.terms is None else dict(rollout.terms),
        "verdict": None if rollout.verdict is None else dict(rollout.verdict),
    }


def parse_rollout(document: Mapping[str, Any]) -> Rollout:
    """Read what `rollout_document` made."""
    values = dict(document)
    values["plan"] = parse_plan(values["plan"])
    values["before"] = parse_route(values["before"])
    values["phase"] = Phase(values["phase"])
    values["reason"] = Reason(values["reason"])
    return Rollout(**values)
