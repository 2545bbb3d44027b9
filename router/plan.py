"""What is a rollout to do? Steps in Argo's words, what it is judged by, what becomes of a bad candidate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from router.names import check_version
from router.table import WHOLE_BP, percent

STEPS_MAX = 100
METRICS_MAX = 32
S_MAX = 366 * 86400.0
"""The longest pause, analysis or watch, in seconds."""
NAME_MAX = 128


class InvalidPlan(ValueError):
    """A rollout that cannot be carried out as it is written. The message is for the caller."""


class AbortPolicy(StrEnum):
    """What becomes of the traffic when the candidate is found to be worse."""

    ROLLBACK = "rollback"
    """The route from before the rollout is in force again."""
    FREEZE = "freeze"
    """Everything stays as it is, and a person decides."""


@dataclass(frozen=True, slots=True)
class SetWeight:
    """Give the candidate so much of the traffic, and end its shadow."""

    weight_bp: int

    def __post_init__(self) -> None:
        if not 0 <= self.weight_bp <= WHOLE_BP:
            raise InvalidPlan(f"setWeight of {self.weight_bp} bp; 0% to 100% it is")

    def __str__(self) -> str:
        return f"setWeight {percent(self.weight_bp)}"


@dataclass(frozen=True, slots=True)
class SetMirror:
    """Give the candidate a copy of so many requests, whose answers nobody gets; 0 ends it."""

    share_bp: int

    def __post_init__(self) -> None:
        if not 0 <= self.share_bp <= WHOLE_BP:
            raise InvalidPlan(f"setMirror of {self.share_bp} bp; 0% to 100% it is")

    def __str__(self) -> str:
        return f"setMirror {percent(self.share_bp)}"


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; without a duration, until a person says `promote` or `resume`."""

    s: float | None = None

    def __post_init__(self) -> None:
        if self.s is not None:
            _check_s("pause", self.s)

    def __str__(self) -> str:
        return "pause" if self.s is None else f"pause {self.s:g}s"


@dataclass(frozen=True, slots=True)
class Analysis:
    """Go on when there is evidence that the candidate is good, by these metrics or by all."""

    s_max: float
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_s("analysis", self.s_max)

    def __str__(self) -> str:
        return f"analysis within {self.s_max:g}s" + (f" by {', '.join(self.metrics)}" if self.metrics else "")


@dataclass(frozen=True, slots=True)
class Promote:
    """Give the candidate all of the traffic."""

    def __str__(self) -> str:
        return "promote"


Step = SetWeight | SetMirror | Pause | Analysis | Promote


@dataclass(frozen=True, slots=True)
class Plan:
    """A rollout as it was written.

    Attributes
    ----------
    alpha : float
        Probability that the candidate is found worse although it is not, in the whole rollout.
    beta : float
        Probability that an analysis finds it good although it is worse than is tolerated.
    metrics : tuple of mapping
        What it is judged by, as plain values that `serving.rollout` reads; each has a `name`.
    baseline : bool
        Whether a part of the stable version's traffic is answered apart, for the latency to compare with.
    watch_s : float
        How long after its promotion the candidate is still rolled back if it turns bad; 0 for not at all.
    cool_down_s : float
        How long after a rollback no rollout of the same candidate begins.
    """

    name: str
    model: str
    candidate: str
    steps: tuple[Step, ...]
    abort: AbortPolicy = AbortPolicy.ROLLBACK
    alpha: float = 0.01
    beta: float = 0.05
    metrics: tuple[Mapping[str, Any], ...] = field(default=())
    baseline: bool = False
    watch_s: float = 0.0
    cool_down_s: float = 0.0

    def __post_init__(self) -> None:
        check_version(self.candidate)
        if not (self.name.strip() and len(self.name) <= NAME_MAX and self.name.isprintable()):
            raise InvalidPlan(f"the name of a rollout has 1 to {NAME_MAX} printable characters")
        if not 1 <= len(self.steps) <= STEPS_MAX:
            raise InvalidPlan(f"a rollout has 1 to {STEPS_MAX} steps, got {len(self.steps)}")
        if not isinstance(self.steps[-1], Promote) or any(
            isinstance(each, Promote) for each in self.steps[:-1]
        ):
            raise InvalidPlan("the last step of a rollout is `promote`, and no other one is")
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidPlan(f"{name} is a probability between 0 and 1, got {getattr(self, name):g}")
        for name in ("watch_s", "cool_down_s"):
            if getattr(self, name):
                _check_s(name, getattr(self, name))
        self._check_metrics()

    def _check_metrics(self) -> None:
        names = [each["name"] for each in self.metrics]
        if len(names) > METRICS_MAX or len(set(names)) != len(names):
            raise InvalidPlan(f"a rollout has at most {METRICS_MAX} metrics, each with a name of its own")
        for step in self.steps:
            unknown = sorted(set(step.metrics) - set(names)) if isinstance(step, Analysis) else []
            if unknown:
                raise InvalidPlan(
                    f"an analysis is to go by {unknown[0]!r}; metrics are {', '.join(names) or 'none'}"
                )

    def baseline_bp(self, weight_bp: int) -> int:
        """Return the baseline arm beside a canary of this weight; none if that has half or more."""
        return weight_bp if self.baseline and 2 * weight_bp < WHOLE_BP else 0


def _check_s(what: str, s: float) -> None:
    if not (math.isfinite(s) and 0 < s <= S_MAX):
        raise InvalidPlan(f"{what} takes more than 0 and at most {S_MAX:g} seconds, got {s:g}")


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain values."""
    return {
        "name": plan.name,
        "model": plan.model,
        "candidate": plan.candidate,
        "steps": [step_document(each) for each in plan.steps],
        "abort": str(plan.abort),
        "alpha": plan.alpha,
        "beta": plan.beta,
        "metrics": [dict(each) for each in plan.metrics],
        "baseline": plan.baseline,
        "watch_s": plan.watch_s,
        "cool_down_s": plan.cool_down_s,
    }


def parse_plan(document: Mapping[str, Any]) -> Plan:
    """Read what `plan_document` made."""
    values = dict(document)
    values["steps"] = tuple(parse_step(each) for each in values["steps"])
    values["abort"] = AbortPolicy(values["abort"])
    values["metrics"] = tuple(MappingProxyType(dict(each)) for each in values["metrics"])
    return Plan(**values)


def step_document(step: Step) -> dict[str, Any]:
    """Return a step as plain values, in Argo's words."""
    match step:
        case SetWeight(weight_bp):
            return {"setWeight": weight_bp}
        case SetMirror(share_bp):
            return {"setMirror": share_bp}
        case Pause(s):
            return {"pause": s}
        case Analysis(s_max, metrics):
            return {"analysis": {"s_max": s_max, "metrics": list(metrics)}}
        case Promote():
            return {"promote": {}}


def parse_step(document: Mapping[str, Any]) -> Step:
    """Read what `step_document` made."""
    match document:
        case {"setWeight": weight_bp}:
            return SetWeight(weight_bp)
        case {"setMirror": share_bp}:
            return SetMirror(share_bp)
        case {"pause": s}:
            return Pause(s)
        case {"analysis": {"s_max": s_max, "metrics": metrics}}:
            return Analysis(s_max, tuple(metrics))
        case {"promote": {}}:
            return Promote()
        case _:
            raise ValueError(f"a step of no known kind: {document!r}")
