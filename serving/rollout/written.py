"""How is a plan written as a document? With everything in it that was left to defaults."""

from __future__ import annotations

from typing import Any

from router.plan import Analysis, Pause, Plan, Promote, SetMirror, SetWeight, Step
from router.table import WHOLE_BP
from serving.rollout import units
from serving.rollout.defaults import THRESHOLD
from serving.rollout.metric import RATED, Kind, Metric, Threshold, metrics_of
from serving.rollout.terms import MetricTerm


def document_of(plan: Plan) -> dict[str, Any]:
    """Return the document that `serving.rollout.document.plan_of` makes this plan of."""
    return {
        "apiVersion": "turnout/v1",
        "kind": "Rollout",
        "metadata": {"name": plan.name},
        "spec": {
            "model": plan.model,
            "candidate": plan.candidate,
            "strategy": {"canary": {"steps": [_written_step(each) for each in plan.steps]}},
            "abortPolicy": str(plan.abort),
            "alpha": plan.alpha,
            "beta": plan.beta,
            "metrics": [_written_metric(each) for each in metrics_of(plan)],
            "baseline": plan.baseline,
            "watch": units.written_s(plan.watch_s),
            "coolDown": units.written_s(plan.cool_down_s),
        },
    }


def _written_step(step: Step) -> dict[str, Any]:
    match step:
        case SetWeight(bp):
            return {"setWeight": units.written_rate(bp / WHOLE_BP)}
        case SetMirror(bp):
            return {"setMirror": units.written_rate(bp / WHOLE_BP)}
        case Pause(s):
            return {"pause": {} if s is None else {"duration": units.written_s(s)}}
        case Analysis(s_max, metrics):
            named = {"metrics": list(metrics)} if metrics else {}
            return {"analysis": {"within": units.written_s(s_max), **named}}
        case Promote():
            return {"promote": {}}


def _written_metric(metric: Metric) -> dict[str, Any]:
    written: dict[str, Any] = {"name": metric.name, "metric": str(metric.kind)}
    written |= {"class": metric.of} if metric.of else {}
    written |= {
        "tolerance": metric.tolerance,
        "ruleOut": metric.rule_out,
        "critical": metric.critical,
        "dryRun": metric.dry_run,
        "weight": metric.weight,
    }
    if metric.kind in RATED:
        enough = metric.acceptable
        written["acceptable"] = "none" if enough is None else units.written_rate(enough)
    if metric.quantiles:
        written["quantiles"] = list(metric.quantiles)
    return written | (_written_threshold(metric.kind, metric.threshold) if metric.threshold else {})


def _written_threshold(kind: Kind, threshold: Threshold) -> dict[str, Any]:
    write = units.written_s if kind is Kind.DURATION else units.written_rate
    bounds = {"min": threshold.low, "max": threshold.high}
    written: dict[str, Any] = {
        "thresholdRange": {name: write(value) for name, value in bounds.items() if value is not None}
    }
    for given, name in THRESHOLD.items():
        value = getattr(threshold, name)
        alias = str(MetricTerm.model_fields[given].alias)
        written[alias] = units.written_s(value) if name.endswith("_s") else value
    return written
