"""Which plan is written in a rollout's document, and if none, what is wrong at which place?

Defaults are filled in here, once: what is journalled says everything, whatever later releases default to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError

from router.names import InvalidName
from router.plan import (
    AbortPolicy,
    Analysis,
    InvalidPlan,
    Pause,
    Plan,
    Promote,
    SetMirror,
    SetWeight,
    Step,
)
from router.table import WHOLE_BP, NoRoute
from serving.rollout import units
from serving.rollout.defaults import USUAL, metric_of
from serving.rollout.metric import SHADOWED, InvalidMetric, Kind, Metric, needs_baseline
from serving.rollout.terms import AnalysisTerm, MetricTerm, RolloutTerm, StepTerm, hint
from serving.rollout.text import InvalidText, read_toml, read_yaml

MISTAKES_MAX = 20
"""How many are told at once."""
Resolve = Callable[[str, str], str]


class InvalidDocument(ValueError):
    """A document that is no rollout's. `mistakes` has a line for each, with its place."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        more = len(mistakes) - MISTAKES_MAX
        told = f"and {more} more mistake{'s' * (more > 1)}"
        self.mistakes = (*mistakes[:MISTAKES_MAX], *([told] if more > 0 else []))
        super().__init__("; ".join(self.mistakes))


def values_of(text: str, *, toml: bool = False) -> Any:
    """Return the plain values of a text; `InvalidDocument` if it has none."""
    try:
        return read_toml(text) if toml else read_yaml(text)
    except InvalidText as error:
        raise InvalidDocument([str(error)]) from None


def offline(_model: str, alias: str) -> str:
    """Refuse an alias, where there is nobody who knows what it means."""
    raise NoRoute(f"what {alias!r} means is known to a gateway alone; name the version by its number")


def plan_of(values: Any, resolve: Resolve = offline) -> Plan:
    """Return the plan that a document holds, which was read already.

    Parameters
    ----------
    resolve : callable
        Returns the version that an alias of a model means; `NoRoute` if none.

    Raises
    ------
    InvalidDocument
        If it holds none; all that is wrong is said at once.
    """
    if not isinstance(values, dict):
        raise InvalidDocument([f"expected the fields of a rollout, got {units.said(values)}"])
    try:
        term = RolloutTerm.model_validate(values)
    except ValidationError as error:
        raise InvalidDocument([_explain(each) for each in error.errors()]) from None
    return _Reading(term, resolve).plan()


def _explain(error: Any) -> str:
    where = path(error["loc"])
    match error["type"]:
        case "extra_forbidden":
            return f"{where}: unknown field; {hint(error['loc'])}"
        case "missing":
            return f"{where}: is missing"
        case "model_type" | "dict_type":
            return f"{where}: expected fields, got {units.said(error['input'])}"
        case "value_error":
            return f"{where}: {error['msg'].removeprefix('Value error, ')}"
        case _:
            message = error["msg"].replace("Input should be", "expected")
            return f"{where}: {message[:1].lower()}{message[1:]}, got {units.said(error['input'])}"


def path(location: Iterable[str | int]) -> str:
    """Write a place as people do: ``spec.metrics[2].name``."""
    words = ""
    for part in location:
        words += f"[{part}]" if isinstance(part, int) else f".{str(part)[:80]}"
    return words.removeprefix(".")


@dataclass(slots=True)
class _Reading:
    """Makes a plan of fields that are each right, and notes where they do not fit together."""

    term: RolloutTerm
    resolve: Resolve
    mistakes: list[str] = field(default_factory=list)

    def plan(self) -> Plan:
        spec = self.term.spec
        metrics = self._metrics()
        steps = self._steps(metrics if not self.mistakes else None)
        candidate = self._candidate()
        if self.mistakes:
            raise InvalidDocument(self.mistakes)
        try:
            return Plan(
                self.term.metadata.name,
                spec.model,
                candidate,
                tuple(steps),
                AbortPolicy(spec.abort_policy),
                spec.alpha,
                spec.beta,
                tuple(each.document() for each in metrics),
                needs_baseline(metrics) if spec.baseline is None else spec.baseline,
                spec.watch,
                spec.cool_down,
            )
        except InvalidPlan as error:
            raise InvalidDocument([f"spec: {error}"]) from None

    def _note(self, where: str, message: object) -> None:
        self.mistakes.append(f"{where}: {message}")

    def _candidate(self) -> str:
        named = self.term.spec.candidate
        if not named.startswith("@"):
            return named
        try:
            return self.resolve(self.term.spec.model, named)
        except (NoRoute, InvalidName) as error:
            self._note("spec.candidate", error)
            return ""

    def _metrics(self) -> list[Metric]:
        terms = self.term.spec.metrics
        if terms is None:
            terms = [MetricTerm(metric=kind) for kind in USUAL]
        metrics: list[Metric] = []
        for index, term in enumerate(terms):
            where = f"spec.metrics[{index}]"
            try:
                metric = metric_of(term)
            except InvalidMetric as error:
                self._note(f"{where}.{error.field}".rstrip("."), error)
                continue
            if any(metric.name == each.name for each in metrics):
                self._note(f"{where}.name", f"{metric.name!r} is the name of two metrics; give each its own")
            metrics.append(metric)
        return metrics

    def _steps(self, metrics: list[Metric] | None) -> list[Step]:
        steps: list[Step] = []
        terms = self.term.spec.strategy.canary.steps
        for index, term in enumerate(terms):
            where = f"spec.strategy.canary.steps[{index}]"
            try:
                step = self._step(term, steps, metrics, where)
            except InvalidPlan as error:
                self._note(f"{where}{_inside(term)}", error)
                continue
            if isinstance(step, Promote) and index + 1 < len(terms):
                self._note(where, "`promote` is the last step, if it is said at all")
            steps.append(step)
        # As in Argo, where a candidate that has taken all steps is the stable version.
        return steps if steps and isinstance(steps[-1], Promote) else [*steps, Promote()]

    def _step(self, term: StepTerm, before: list[Step], metrics: list[Metric] | None, where: str) -> Step:
        if term.set_weight is not None:
            return SetWeight(term.set_weight)
        if term.set_mirror is not None:
            return SetMirror(term.set_mirror)
        if term.set_mirror_route is not None:
            return SetMirror(term.set_mirror_route.percentage)
        if term.pause is not None:
            return Pause(term.pause.duration)
        if term.analysis is not None:
            return Analysis(
                term.analysis.within, self._judging(term.analysis, before, metrics, f"{where}.analysis")
            )
        if term.promote is not None:
            return Promote()
        raise InvalidPlan("says nothing")

    def _judging(
        self, term: AnalysisTerm, before: list[Step], metrics: list[Metric] | None, where: str
    ) -> tuple[str, ...]:
        """Return what an analysis waits for: the metrics that it names, or the critical ones.

        Without `metrics`, some of which were wrong, nothing is said about it.
        """
        if metrics is None:
            return ()
        traffic = _traffic(before)
        if not term.metrics:
            awaited = [each for each in metrics if each.critical and not each.dry_run]
            names = [each.name for each in awaited if traffic.fits(each)]
            if not names:
                self._note(where, f"there is nothing to wait for while {traffic.words}; {traffic.remedy}")
            return tuple(names)
        known = {each.name: each for each in metrics}
        for index, name in enumerate(term.metrics):
            place = f"{where}.metrics[{index}]"
            metric = known.get(name)
            if metric is None:
                self._note(place, _no_metric(name, known))
            elif not traffic.fits(metric):
                self._note(place, f"{name} says nothing while {traffic.words}; {traffic.remedy}")
            elif metric.dry_run:
                self._note(place, f"nothing follows from {name}, so it would be waited for in vain")
        return tuple(dict.fromkeys(term.metrics))


def _inside(term: StepTerm) -> str:
    """Return where in a step something is that a plan does not take: only durations can be wrong by then."""
    if term.pause is not None:
        return ".pause.duration"
    return ".analysis.within" if term.analysis is not None else ""


def _no_metric(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name[:80], known, n=1)
    hinted = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return f"no metric {name[:80]!r}; {hinted}"


class _Traffic(NamedTuple):
    """What a candidate gets, which metrics then have something to count, and what to do about it."""

    words: str
    fits: Callable[[Metric], bool]
    remedy: str


_NONE = _Traffic("the candidate gets nothing", lambda _metric: False, "set a weight or a mirror before it")
_WHOLE = _Traffic(
    "nothing answers beside the candidate", lambda _metric: False, "judge it at a smaller weight"
)
_SHADOW = _Traffic(
    "the candidate only shadows",
    lambda metric: metric.kind in {*SHADOWED, Kind.DRIFT},
    f"{', '.join(sorted(SHADOWED))} do",
)
_CANARY = _Traffic(
    "the candidate answers",
    lambda metric: metric.kind not in SHADOWED,
    "name other metrics, or make one critical",
)


def _traffic(before: list[Step]) -> _Traffic:
    """Return what the candidate gets after these steps."""
    for step in reversed(before):
        match step:
            case SetMirror(share_bp):
                return _SHADOW if share_bp else _NONE
            case SetWeight(weight_bp):
                return _WHOLE if weight_bp == WHOLE_BP else _CANARY if weight_bp else _NONE
    return _NONE
