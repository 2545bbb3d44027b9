"""What does a judge go by at a moment? All of it as plain values, so that anybody can judge again.

Everything that is decided is a function of what is gathered here: `serving.rollout.weighing` takes nothing
else, and the document of a verdict holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from kernels.histogram import EDGES_NS
from kernels.tally import AGREED, CLASSED
from router.plan import Analysis, SetMirror, SetWeight
from router.rollout import Phase, Rollout
from serving.evidence.counts import FAILURE, LABELLED, WRONG, key
from serving.ledger import Durations
from serving.rollout import intervals
from serving.rollout.arms import Compared, Draw, Epoch, compare, epochs_of, requests
from serving.rollout.budget import is_watched, shared
from serving.rollout.evidence import Cells
from serving.rollout.metric import SHADOWED, Kind, Metric, metrics_of
from serving.shadow.comparison import ShadowReading

FORMAT = 1
SILENT_S_MAX = 30.0
"""How long nobody who answers for the model may have been there; longer is an error."""
QUALITIES_MAX = 16
"""Numbers of a version's quality that are shown."""

Facts = dict[str, Any]
Plain = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Extras:
    """What there is to know beside what the arms counted.

    Attributes
    ----------
    heard_us : int or None
        When a replica that answers for the model was there last; None if nobody looked.
    pairs : mapping of str to (int, int)
        Of shadows, by `Kind`: events and of how many for `DISAGREEMENT`, and worse and better for the
        others, ever. Only differences since the rollout was looked at first are used. See `pairs_of`.
    drift : mapping of str to mapping
        What is said of ``"candidate"`` and ``"stable"``: a `word` of `serving.drift.report`, and numbers.
    totals : mapping of str to (int, int)
        By event, as `serving.evidence.counts.key` spells it: how often the candidate has had it, and of how
        many, ever. Only differences since its promotion are used.
    durations : Durations or None
        The candidate's, from arrival to answer, ever.
    quality : mapping of str to mapping
        By version what is known of its labels; only shown.
    marks : mapping
        ``document["marks"]`` of the verdict before.
    """

    heard_us: int | None = None
    pairs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    drift: Mapping[str, Plain] = field(default_factory=dict)
    totals: Mapping[str, Sequence[int]] = field(default_factory=dict)
    durations: Durations | None = None
    quality: Mapping[str, Plain] = field(default_factory=dict)
    marks: Plain = field(default_factory=dict)


def pairs_of(reading: ShadowReading, stable: str) -> dict[str, tuple[int, int]]:
    """Return what a shadow says for a rollout: of the first of its outputs that has classes, and of runs."""
    pair = reading.pairs.get(stable)
    if pair is None:
        return {}
    outputs = [pair.outputs[name] for name in sorted(pair.outputs) if pair.outputs[name].counts[CLASSED]]
    runs = sum(pair.shadow.counts)
    found = {str(Kind.SHADOW_LATENCY): (pair.slower, runs - pair.slower)}
    if outputs:
        classed, agreed = outputs[0].counts[CLASSED], outputs[0].counts[AGREED]
        found[str(Kind.DISAGREEMENT)] = classed - agreed, classed
    return found


class _Arms(NamedTuple):
    """The epochs, compared with all of the stable version's answers, and with those of the arm beside."""

    whole: tuple[Epoch, ...]
    apart: tuple[Epoch, ...]

    def of(self, metric: Metric) -> tuple[Epoch, ...]:
        """Return those that a metric is about: batches of a version with more traffic are larger."""
        return self.apart if metric.kind is Kind.LATENCY else self.whole


def gather(rollout: Rollout, cells: Cells, draws: Mapping[int, Draw], extras: Extras, now_us: int) -> Facts:
    """Return what is known of a rollout's candidate."""
    plan, terms = rollout.plan, rollout.terms or {}
    metrics = metrics_of(plan)
    whole, apart = (
        epochs_of(cells, draws, plan.candidate, rollout.stable, apart=each) for each in (False, True)
    )
    arms = _Arms(whole, apart)
    pairs_base, pairs = _pairs(rollout, extras)
    extras = replace(extras, pairs=pairs)
    stage = _stage(rollout, arms.whole, extras)
    marks = _marks(rollout, metrics, arms, stage, extras, now_us) | {"pairs": pairs_base}
    healthy = rollout.phase is Phase.HEALTHY
    return {
        "format": FORMAT,
        "model": plan.model,
        "rollout": plan.name,
        "candidate": plan.candidate,
        "stable": rollout.stable,
        "first": rollout.first,
        "step": rollout.step,
        "phase": str(rollout.phase),
        "at_us": now_us,
        "began_us": rollout.began_us,
        "heard_us": extras.heard_us,
        "alpha": plan.alpha,
        "beta": plan.beta,
        "watch_s": plan.watch_s,
        "late_ns": terms.get("late_ns"),
        "confidence": terms.get("confidence"),
        "asked": [] if healthy else asked(rollout, metrics),
        "epochs": [[n, len(d.candidate), len(d.stable), len(d.baseline)] for n, d in sorted(draws.items())],
        "metrics": [
            _metric(document, metric, arms, marks, extras, healthy=healthy)
            for document, metric in zip(plan.metrics, metrics, strict=True)
        ],
        "labels": _compared(compare(arms.whole, LABELLED)),
        "drift": {side: dict(each) for side, each in extras.drift.items()},
        "quality": {version: _numbers(each) for version, each in extras.quality.items()},
        "marks": marks,
    }


def asked(rollout: Rollout, metrics: Sequence[Metric]) -> list[str]:
    """Return what has to speak for the candidate at this step: what it names, or all that is critical.

    Of the latter only what can be known by then: shadows after a mirror, arms after a weight.
    """
    steps = rollout.plan.steps
    step = steps[rollout.step] if rollout.step < len(steps) else None
    if isinstance(step, Analysis) and step.metrics:
        return [each.name for each in metrics if each.name in step.metrics and not each.dry_run]
    before = steps[: rollout.step]
    mirrored = any(isinstance(each, SetMirror) and each.share_bp for each in before)
    weighted = any(isinstance(each, SetWeight) and each.weight_bp for each in before)
    found = []
    for each in metrics:
        known = mirrored if each.kind in SHADOWED else weighted or each.kind is Kind.DRIFT
        if each.critical and not each.dry_run and known:
            found.append(each.name)
    return found


def _metric(
    document: Plain, metric: Metric, arms: _Arms, marks: Plain, extras: Extras, *, healthy: bool
) -> Plain:
    told: Facts = {"metric": dict(document)}
    if metric.threshold is not None:
        return told
    if metric.kind in SHADOWED:
        return {**told, "pairs": list(extras.pairs.get(metric.kind, (0, 0)))}
    events = {}
    for name in metric.counted:
        told_of = _compared(compare(arms.of(metric), name, metric.of))
        if healthy and is_watched(metric):
            told_of["after"] = _after(name, metric, arms, marks, extras)
        events[key(name, metric.of)] = told_of
    return {**told, "events": events}


def _compared(compared: Compared) -> Facts:
    return {
        "rows": [list(row) for row in compared.rows],
        "candidate": list(compared.candidate),
        "stable": list(compared.stable),
    }


def _after(name: str, metric: Metric, arms: _Arms, marks: Plain, extras: Extras) -> Plain:
    """Return what came since the promotion, and what was of the stable version before it."""
    event = key(name, metric.of)
    now, base = extras.totals.get(event), marks["base"].get(event)
    since = [0, 0] if now is None or base is None else [a - b for a, b in zip(now, base, strict=True)]
    return {"candidate": since, "stable": list(requests(arms.whole, name, metric.of)[1])}


def _pairs(rollout: Rollout, extras: Extras) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return what there was of pairs when the rollout was looked at first, and what came since."""
    before = extras.marks if extras.marks.get("first") == rollout.first else None
    base, since = {} if before is None else dict(before["pairs"]), {}
    for kind, now in extras.pairs.items():
        then = list(now) if before is None else list(before["pairs"].get(kind, (0, 0)))
        if any(a < b for a, b in zip(now, then, strict=True)):
            then = [0, 0]  # Counted anew since.
        base[kind], since[kind] = then, [a - b for a, b in zip(now, then, strict=True)]
    return base, since


def _stage(rollout: Rollout, epochs: Sequence[Epoch], extras: Extras) -> str:
    """Return what intervals are of: another weight, or another phase, begins them anew."""
    if rollout.phase is Phase.HEALTHY:
        return f"healthy since {rollout.since_us}"
    if epochs:
        return f"epoch {epochs[-1].number}"
    return "mirror" if extras.pairs else ""


def _marks(
    rollout: Rollout, metrics: Sequence[Metric], arms: _Arms, stage: str, extras: Extras, now_us: int
) -> Facts:
    """Return what is to be remembered until the next look."""
    before = extras.marks if extras.marks.get("first") == rollout.first else {}
    states = before.get("intervals", {})
    silent = extras.heard_us is not None and now_us - extras.heard_us > SILENT_S_MAX * 1e6
    budget = shared(rollout.plan.alpha, metrics, rollout.plan.watch_s)
    found = {}
    for each in metrics:
        if each.threshold is None or not stage:
            continue
        state = states.get(each.name)
        if state is None or state["stage"] != stage:
            state = intervals.begun(stage, now_us, each.threshold, state)
        reading = None if silent else _reading(each, rollout, arms, extras)
        level = budget.level(metrics, each)
        found[each.name] = dict(intervals.looked(state, each, reading, now_us, level))
    return {
        "first": rollout.first,
        "intervals": found,
        "base": _base(before, stage, extras) if rollout.phase is Phase.HEALTHY else {},
        "stage": stage,
    }


def _base(before: Plain, stage: str, extras: Extras) -> dict[str, list[int]]:
    """Return what the candidate had had when it was promoted; anew where its counts have gone back."""
    known = before.get("base", {}) if before.get("stage") == stage else {}
    base = dict(known)
    for event, now in extras.totals.items():
        # A class that had no event yet had no count of its own.
        then = known.get(event, (0, known[WRONG][1]) if WRONG in known else now)
        if any(a < b for a, b in zip(now, then, strict=True)):
            then = now
        base[event] = list(then)
    return base


def _reading(metric: Metric, rollout: Rollout, arms: _Arms, extras: Extras) -> intervals.Reading | None:
    """Return what a metric's thresholds are about, as it stands now; None if nobody can tell."""
    if metric.kind is Kind.DURATION:
        return None if extras.durations is None else _longer(metric, extras.durations)
    if metric.kind is Kind.DISAGREEMENT:
        pairs = extras.pairs.get(metric.kind)
        return None if pairs is None else [pairs]
    name = metric.counted[0] if metric.counted else FAILURE
    if rollout.phase is Phase.HEALTHY:
        total = extras.totals.get(key(name, metric.of))
        return None if total is None else [total]
    return [requests(arms.whole, name, metric.of)[0]]


def _longer(metric: Metric, durations: Durations) -> intervals.Reading:
    """Count what took longer than either threshold."""
    assert metric.threshold is not None
    counts = np.array(durations.counts, np.int64)
    trials = int(counts.sum())
    readings = []
    for bound_s in (metric.threshold.high, metric.threshold.low):
        at = np.searchsorted(EDGES_NS, (bound_s or 0.0) * 1e9, side="right")
        readings.append([int(counts[at:].sum()), trials])
    return readings


def _numbers(quality: Plain) -> dict[str, float]:
    numbers = {name: each for name, each in quality.items() if isinstance(each, int | float)}
    return dict(list(numbers.items())[:QUALITIES_MAX])
