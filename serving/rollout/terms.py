"""What may be written in a rollout's document? One model of fields for each place in it, in Argo's words."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from router.names import check_named, reference, shown
from router.plan import METRICS_MAX, NAME_MAX, STEPS_MAX
from serving.rollout.metric import Kind
from serving.rollout.units import probability, rate, said, seconds, share_bp


def _kind(value: Any) -> Kind:
    try:
        return Kind(value)
    except ValueError:
        near = get_close_matches(str(value)[:80], map(str, Kind), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(Kind)}"
        raise ValueError(f"no metric {said(value)}; {hint}") from None


def _version(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise ValueError(f"expected a version such as 8, or an alias such as '@new', got {said(value)}")  # noqa: TRY004 - pydantic's.
    return check_named(text)


def _model(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected the name of a model, got {said(value)}")  # noqa: TRY004 - as above.
    model, named = reference(value)
    if named:
        raise ValueError(f"{shown(value)} names a version; `candidate` says which one")
    return model


def _bare(value: Any) -> Any:
    """Let `- promote` be `- promote: {}`."""
    return {value: {}} if value in ("promote", "pause", "analysis") else value


def _nothing(value: Any) -> Any:
    """Let `pause:` be `pause: {}`."""
    return {} if value is None else value


def _rate_or_none(value: Any) -> float | None:
    return None if value in ("none", None) else rate(value)


Seconds = Annotated[float, BeforeValidator(seconds)]
ShareBp = Annotated[int, BeforeValidator(share_bp)]
Probability = Annotated[float, BeforeValidator(probability), Field(gt=0, lt=1)]
Count = Annotated[int, Field(strict=True)]
Number = int | float | str


class Place(BaseModel):
    """A place in the document that has fields."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )


class MetadataTerm(Place):
    """What it is called."""

    name: str = Field(min_length=1, max_length=NAME_MAX)


class NothingTerm(Place):
    """A step that says all by its name."""


class PauseTerm(Place):
    """How long; without it, until a person promotes or resumes."""

    duration: Seconds | None = None


class AnalysisTerm(Place):
    """Until there is evidence for the candidate, at the longest within a time."""

    within: Seconds = 3600.0
    metrics: list[str] = Field([], max_length=METRICS_MAX)


class MirrorRouteTerm(Place):
    """As Argo has it."""

    percentage: ShareBp


class StepTerm(Place):
    """One of these."""

    set_weight: ShareBp | None = None
    set_mirror: ShareBp | None = None
    set_mirror_route: MirrorRouteTerm | None = None
    pause: Annotated[PauseTerm | None, BeforeValidator(_nothing)] = None
    analysis: Annotated[AnalysisTerm | None, BeforeValidator(_nothing)] = None
    promote: Annotated[NothingTerm | None, BeforeValidator(_nothing)] = None

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        value = _bare(value)
        if isinstance(value, dict) and len(value) != 1:
            known = [field.alias for field in cls.model_fields.values()]
            raise ValueError(f"a step is one of {', '.join(map(str, known))}; here are {len(value)}")
        return value


class RangeTerm(Place):
    """Flagger's: percentages of rates, milliseconds of durations."""

    min: Number | None = None
    max: Number | None = None


class MetricTerm(Place):
    """By what the candidate is judged."""

    name: str | None = None
    metric: Annotated[Kind, BeforeValidator(_kind)] | None = None
    of: str = Field("", alias="class")
    tolerance: float | None = None
    rule_out: float | None = None
    acceptable: Annotated[float | None, BeforeValidator(_rate_or_none)] = None
    critical: bool | None = None
    dry_run: bool = False
    weight: float = 1.0
    quantiles: list[float] | None = None
    quantile: float | None = None
    threshold_range: RangeTerm | None = None
    interval: Seconds | None = None
    initial_delay: Seconds | None = None
    count: Count | None = None
    failure_limit: Count | None = None
    inconclusive_limit: Count | None = None
    consecutive_error_limit: Count | None = None


class CanaryTerm(Place):
    """Its steps, in order."""

    steps: list[StepTerm] = Field(min_length=1, max_length=STEPS_MAX)


class StrategyTerm(Place):
    """There is one strategy."""

    canary: CanaryTerm


class SpecTerm(Place):
    """What it does."""

    model: Annotated[str, BeforeValidator(_model)]
    candidate: Annotated[str, BeforeValidator(_version)]
    strategy: StrategyTerm
    abort_policy: Literal["rollback", "freeze"] = "rollback"
    alpha: Probability = 0.01
    beta: Probability = 0.05
    metrics: list[MetricTerm] | None = Field(None, max_length=METRICS_MAX)
    baseline: bool | None = None
    watch: Seconds = 3600.0
    cool_down: Seconds = 3600.0


class RolloutTerm(Place):
    """A rollout."""

    api_version: Literal["turnout/v1"]
    kind: Literal["Rollout"]
    metadata: MetadataTerm
    spec: SpecTerm


SAID_ELSEWHERE = {
    "stable": "a rollout begins where one version has all of the traffic, and that is the stable one",
    "candidates": "a rollout has one `candidate`, and its weights are steps",
    "mirror": "it is a step: setMirror",
    "stickiness": "a rollout keeps that of the route that it finds: turnout stick MODEL --key KEY",
    "templates": "`metrics` names those of spec.metrics",
    "rollbackWindow": "spec.watch says how long the candidate is looked after when it is promoted",
    "maxTrafficWeight": "weights are percentages",
    "direction": "all that is counted is bad, so more of it is worse",
    "successCondition": "thresholdRange says between which values it is good",
}  # fmt: skip
"""Words of others, and how that is said here."""


def fields_of(term: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of a place, as they are written, and what each holds."""
    return {field.alias or name: field.annotation for name, field in term.model_fields.items()}


def inner(annotation: Any) -> type[BaseModel] | None:
    """Return the model of fields that something holds, be it optional or a list; None if it has none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := inner(each))), None)


def places(term: type[BaseModel] = RolloutTerm, path: str = "") -> Iterator[tuple[str, str]]:
    """Return the path and the name of every field that there is."""
    for name, annotation in fields_of(term).items():
        yield f"{path}{name}", name
        below = inner(annotation)
        if below is not None:
            many = "[]" if get_args(annotation) and "list[" in str(annotation) else ""
            yield from places(below, f"{path}{name}{many}.")


def hint(location: tuple[str | int, ...]) -> str:
    """Say what could have been meant by a field that there is not."""
    term: type[BaseModel] | None = RolloutTerm
    *parents, name = location
    for part in parents:
        if term is not None and isinstance(part, str):
            term = inner(fields_of(term).get(part))
    here = fields_of(term or RolloutTerm)
    if name in SAID_ELSEWHERE:
        return SAID_ELSEWHERE[str(name)]
    elsewhere = [path for path, known in places() if known == name]
    if elsewhere:
        return f"it goes to {elsewhere[0]}"
    near = get_close_matches(str(name)[:80], here, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(here) or 'nothing'}"
